//! Repeated attempts to bring back a service after a transient failure to load or compile its workload: the child
//! process could not be started, or was killed.
//!
//! Meanwhile the service is quarantined like any other that cannot be brought back. Operators can still start, stop or
//! remove it without a wait. So an attempt takes the service's name lock only after it has the program, and it ends no
//! quarantine but the one that it was begun for.

use super::Host;
use super::durable::check_stall;
use super::programs::Made;
use super::registry::Rest;
use crate::data::{DataDirectory, DataError};
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

/// The most attempts, including the first, to load and compile a stored workload after its process is lost. The
/// workload was accepted when it was deployed, so a missing resource may be available again soon.
pub const PROCESS_ATTEMPTS_MAX: u32 = 6;

/// The pause after the first attempt. Each later pause is twice as long as the one before.
pub const PROCESS_PAUSE: Duration = Duration::from_secs(1);

/// Returns the text that users get beside the last failure while more attempts follow.
pub(super) fn tried_again() -> String {
    format!("the host makes up to {PROCESS_ATTEMPTS_MAX} attempts by itself")
}

/// A service that the host will try again to bring back.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) name: Name,
    pub(super) workload: WorkloadHash,
    pub(super) epoch: Epoch,
    /// The quarantine that the attempts end.
    pub(super) quarantine: QuarantineId,
}

/// Distinguishes a quarantine with further attempts from every other quarantine, also of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QuarantineId(u64);

/// The services that wait for [`Host::bring_back`] to take them.
#[derive(Debug, Default)]
pub(super) struct AwaitedServices {
    added: Mutex<Vec<Awaited>>,
    is_longer: Notify,
    quarantines: AtomicU64,
}

impl AwaitedServices {
    /// Returns an id that no earlier quarantine had.
    pub(super) fn id(&self) -> QuarantineId {
        QuarantineId(self.quarantines.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a quarantined service for further attempts.
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

/// Returns the pauses before the second and each later attempt.
fn pauses() -> impl Iterator<Item = Duration> {
    (1..PROCESS_ATTEMPTS_MAX).map(|attempts| PROCESS_PAUSE * (1 << (attempts - 1)))
}

impl Host {
    /// Brings back the services that are quarantined because the process that loads or compiles their workload was
    /// lost. Makes up to [`PROCESS_ATTEMPTS_MAX`] attempts for each, including the one before. Runs until the host is
    /// stopped. Callers must await the future to its end, as for [`Host::stop_service`].
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
        // Each attempt sees that the host stops, and ends after its current step.
        while under_way.next().await.is_some() {}
    }

    /// Brings back the services that are quarantined in this way now. Returns once each of them runs, or has no
    /// attempts left.
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
            // The lock is not taken earlier: an operator need not wait for an attempt that takes minutes or never
            // succeeds.
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
                // The journal has no room for the service now.
                Err(_) => {}
            }
        }
    }

    /// Brings back a service whose program was made, as an operator's start does. Afterwards the service runs, or is
    /// quarantined for another reason.
    ///
    /// # Errors
    /// Why recovery was not tried.
    async fn find_again(&self, directory: &Arc<DataDirectory>, awaited: &Awaited, made: Made) -> Result<(), String> {
        let Awaited { name, epoch, .. } = awaited;
        let program = made.map_err(|error| chain(&*error))?;
        check_stall(directory).map_err(|error| chain(&error))?;
        let _still = directory.hold_still().await;
        let found = directory.find(name).await.map_err(|error| chain(&error))?;
        let found = found.ok_or_else(|| chain(&DataError::NoService { service: name.clone() }))?;
        self.recover_one(found, ready(Ok(program)), *epoch).await;
        Ok(())
    }

    /// Returns whether a service is still in the quarantine of these attempts.
    fn is_awaited(&self, awaited: &Awaited) -> bool {
        let services = self.look();
        services.resting(&awaited.name).and_then(|(_, rest)| rest.awaited()) == Some(awaited.quarantine)
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.is_stopping.borrow()
    }

    async fn stopping(&self) {
        // The channel closes with the host, which still exists here.
        let _ = self.is_stopping.subscribe().wait_for(|is_stopping| *is_stopping).await;
    }

    /// Waits for work that may take minutes. Drops the work if the host is being stopped.
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

    #[tokio::test]
    async fn attempts_end_with_the_quarantine_that_they_were_begun_for() {
        let clock = Arc::new(VirtualClock::new(Timestamp(1)));
        let config = HostConfig::new(Machine::pair(1, 1 << 20), 1 << 20);
        let host = Host::new(config, clock, Arc::new(|_: &Event| {})).expect("a host");
        let name = Name::new("bank").expect("a name");
        let (quarantine, another) = (host.awaited.id(), host.awaited.id());
        let workload = WorkloadHash::of(b"x");
        let awaited = Awaited { name: name.clone(), workload, epoch: Epoch::default(), quarantine };
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
