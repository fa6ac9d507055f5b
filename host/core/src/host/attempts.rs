//! More attempts to bring back a service whose workload was not loaded and compiled for what may pass: its process could not
//! be had, or was killed.
//!
//! The service is quarantined meanwhile, like any other that cannot be brought back, and nobody waits for it: it is an
//! operator's to start, stop or remove. So an attempt has the turn of its service only once it has the program, and ends
//! nothing but the quarantine that it was begun for.

use super::Host;
use super::durable::check_stall;
use super::programs::Made;
use super::registry::Rest;
use crate::data::{DataDirectory, DataError};
use crate::service::Sabotage;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lifeboat_api::event::Event;
use lifeboat_api::id::{Epoch, WorkloadHash};
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Attempts to load and compile a workload of the data directory whose process is lost, with the first one: it was taken
/// when it was deployed, and what is missing now may be there soon.
pub const PROCESS_ATTEMPTS_MAX: u32 = 6;

/// The pause after the first of them. Each is twice as long as the one before.
pub const PROCESS_PAUSE: Duration = Duration::from_secs(1);

/// What users are told of a service beside its last failure, as long as more attempts are made.
pub(super) fn tried_again() -> String {
    format!("the host makes up to {PROCESS_ATTEMPTS_MAX} attempts by itself")
}

/// A service for which more attempts are to be made.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) name: Name,
    pub(super) workload: WorkloadHash,
    pub(super) epoch: Epoch,
    pub(super) sabotage: Option<Sabotage>,
    /// The quarantine with which they end.
    pub(super) quarantine: QuarantineId,
}

/// Tells a quarantine in which more attempts are made from every other one, also of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QuarantineId(u64);

/// The services that are awaited, until [`Host::bring_back`] takes them.
#[derive(Debug, Default)]
pub(super) struct AwaitedServices {
    added: Mutex<Vec<Awaited>>,
    is_longer: Notify,
    quarantines: AtomicU64,
}

impl AwaitedServices {
    /// An id that no quarantine had before.
    pub(super) fn id(&self) -> QuarantineId {
        QuarantineId(self.quarantines.fetch_add(1, Ordering::Relaxed))
    }

    /// Has more attempts be made for a service that is in its quarantine.
    pub(super) fn add(&self, awaited: Awaited) {
        self.added().push(awaited);
        self.is_longer.notify_one();
    }

    fn take(&self) -> Vec<Awaited> {
        std::mem::take(&mut *self.added())
    }

    fn added(&self) -> MutexGuard<'_, Vec<Awaited>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pauses before each attempt but the first.
fn pauses() -> impl Iterator<Item = Duration> {
    (1..PROCESS_ATTEMPTS_MAX).map(|attempts| PROCESS_PAUSE * (1 << (attempts - 1)))
}

impl Host {
    /// Brings back the services that are quarantined since the process was lost that was to load or compile their workload:
    /// up to [`PROCESS_ATTEMPTS_MAX`] attempts each, with the one that was made. It does so until the host is stopped, and
    /// is to be awaited to its end, as [`Host::stop_service`] is.
    pub async fn bring_back(&self) {
        let mut under_way = FuturesUnordered::new();
        while !self.is_stopping() {
            under_way.extend(self.awaited.take().into_iter().map(|awaited| self.try_again(awaited)));
            tokio::select! {
                () = self.awaited.is_longer.notified() => {}
                Some(()) = under_way.next() => {}
                () = self.stopping() => {}
            }
        }
        // Each of them sees it, and ends with what it is at.
        while under_way.next().await.is_some() {}
    }

    /// The same for those that are quarantined by now. Returns once each of them runs, or no more attempts are made.
    pub async fn bring_back_found(&self) {
        let attempts = self.awaited.take().into_iter().map(|awaited| self.try_again(awaited));
        futures::future::join_all(attempts).await;
    }

    async fn try_again(&self, awaited: Awaited) {
        let Some(directory) = &self.data else { return };
        let mut pauses = pauses().peekable();
        while let Some(pause) = pauses.next() {
            let is_last = pauses.peek().is_none();
            if self.unless_stopping(tokio::time::sleep(pause)).await.is_err() || !self.is_awaited(&awaited) {
                return;
            }
            let Ok(made) = self.unless_stopping(self.stored_program(directory, &awaited.workload)).await else {
                return;
            };
            if !is_last && made.as_ref().is_err_and(|error| error.may_pass_of_stored()) {
                continue;
            }
            // Not before: an operator need not wait for what takes minutes, or never succeeds.
            let Ok(_turn) = self.turn(&awaited.name).await else { return };
            if !self.is_awaited(&awaited) {
                return;
            }
            let is_refused = made.is_err();
            match self.find_again(directory, &awaited, made).await {
                Ok(()) => return,
                Err(reason) if is_last || is_refused => {
                    let service = awaited.name;
                    (self.context.events)(&Event::Quarantined { service: service.clone(), reason: reason.clone() });
                    self.registry().rest(&service, Rest::quarantined(reason));
                    return;
                }
                // The journal has no room for it now.
                Err(_) => {}
            }
        }
    }

    /// Brings back a service whose program was made, as an operator's start does: it runs afterwards, or is quarantined for
    /// another reason.
    ///
    /// # Errors
    /// Why neither was tried.
    async fn find_again(&self, directory: &Arc<DataDirectory>, awaited: &Awaited, made: Made) -> Result<(), String> {
        let Awaited { name, epoch, sabotage, .. } = awaited;
        let program = made.map_err(|error| chain(&*error))?;
        check_stall(directory).map_err(|error| chain(&error))?;
        let _still = directory.hold_still().await;
        let found = directory.find(name).await.map_err(|error| chain(&error))?;
        let found = found.ok_or_else(|| chain(&DataError::NoService { service: name.clone() }))?;
        self.recover_one(found, ready(Ok(program)), *epoch, *sabotage).await;
        Ok(())
    }

    /// Whether a service is still in the quarantine in which more attempts are made for it.
    fn is_awaited(&self, awaited: &Awaited) -> bool {
        let services = self.look();
        services.resting(&awaited.name).and_then(|(_, rest)| rest.awaited()) == Some(awaited.quarantine)
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.is_stopping.borrow()
    }

    async fn stopping(&self) {
        // It is closed with the host, which is here.
        let _ = self.is_stopping.subscribe().wait_for(|is_stopping| *is_stopping).await;
    }

    /// Waits for what may take minutes, unless the host is being stopped: then it is dropped.
    ///
    /// # Errors
    /// [`DataError::Stopping`].
    pub(super) async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Result<T, DataError> {
        tokio::select! {
            biased;
            () = self.stopping() => Err(DataError::Stopping),
            done = work => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Machine;
    use crate::host::HostConfig;
    use lifeboat_api::clock::{Timestamp, VirtualClock};

    #[test]
    fn so_many_attempts_are_made_within_half_a_minute() {
        assert_eq!(pauses().count() + 1, PROCESS_ATTEMPTS_MAX as usize);
        assert_eq!(pauses().sum::<Duration>(), Duration::from_secs(31));
    }

    #[test]
    fn attempts_end_with_the_quarantine_that_they_were_begun_for() {
        let clock = Arc::new(VirtualClock::new(Timestamp(1)));
        let config = HostConfig::new(Machine::pair(1, 1 << 20), 1 << 20);
        let host = Host::new(config, clock, Arc::new(|_: &Event| {})).expect("a host");
        let name = Name::new("bank").expect("a name");
        let (quarantine, another) = (host.awaited.id(), host.awaited.id());
        let workload = WorkloadHash::of(b"x");
        let awaited = Awaited { name: name.clone(), workload, epoch: Epoch::default(), sabotage: None, quarantine };
        let of = |quarantine| Rest::Quarantined { reason: "its process was killed".into(), awaited: quarantine };
        assert!(!host.is_awaited(&awaited), "it runs, or was removed");
        for (rest, is_awaited) in
            [(of(Some(quarantine)), true), (of(Some(another)), false), (of(None), false), (Rest::Stopped, false)]
        {
            host.registry().rest(&name, rest.clone());
            assert_eq!(host.is_awaited(&awaited), is_awaited, "{rest:?}");
        }
    }
}
