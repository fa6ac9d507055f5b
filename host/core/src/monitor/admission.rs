//! The admission of new work: one flag that the monitor sets, and that is checked before anything new begins.

use lifeboat_api::event::HostPressure;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// Admits new services and scratch work, unless the host is under pressure. Failovers and recovery do not check it: the
/// host continues the work that it has admitted.
///
/// Clones share one state. An admission without a monitor admits everything.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<State>);

#[derive(Debug, Default)]
struct State {
    pressure: watch::Sender<Vec<HostPressure>>,
    starts: AtomicUsize,
}

/// A start of the host in progress, until this is dropped.
#[derive(Debug)]
pub struct Starting(Arc<State>);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.starts.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The host is under pressure, and admits no new work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the host is under pressure: {pressures} in the mean over {window_s} s; try again when it is relieved, or give the \
     host more {resources}",
    pressures = listed(.0.iter()), window_s = super::WINDOW.as_secs(),
    resources = listed(.0.iter().map(|pressure| pressure.resource))
)]
pub struct UnderPressure(
    /// The pressure on each affected resource.
    pub Vec<HostPressure>,
);

/// Returns a list such as `cpu`, `cpu and memory`, or `cpu, memory and disk`.
fn listed(items: impl Iterator<Item = impl ToString>) -> String {
    let mut items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.pop() {
        Some(last) if !items.is_empty() => format!("{} and {last}", items.join(", ")),
        last => last.unwrap_or_default(),
    }
}

impl Admission {
    /// Checks whether new work may begin.
    ///
    /// # Errors
    /// [`UnderPressure`].
    pub fn check(&self) -> Result<(), UnderPressure> {
        let pressures = self.0.pressure.borrow();
        if pressures.is_empty() { Ok(()) } else { Err(UnderPressure(pressures.clone())) }
    }

    /// Sets the resources that are under pressure. Nothing is admitted while there are any.
    pub fn set(&self, pressures: Vec<HostPressure>) {
        self.0.pressure.send_replace(pressures);
    }

    /// Waits until new work may begin.
    pub async fn relieved(&self) {
        // This fails only without a sender, and `self` is the sender.
        let _ = self.0.pressure.subscribe().wait_for(Vec::is_empty).await;
    }

    /// Begins a start of the host. During a start the CPU time for compiling and replaying the host's services does not
    /// count as pressure. Otherwise the host would refuse its own services.
    #[must_use]
    pub fn begin_start(&self) -> Starting {
        self.0.starts.fetch_add(1, Ordering::AcqRel);
        Starting(Arc::clone(&self.0))
    }

    /// Returns whether the host is starting.
    pub(super) fn is_starting(&self) -> bool {
        self.0.starts.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use lifeboat_api::meter::{HostResource, Percent, Usage};

    fn pressure(resource: HostResource, used: u64, limit: u64) -> HostPressure {
        HostPressure { resource, usage: Usage { used, limit }, threshold_percent: Percent::whole(98) }
    }

    #[test]
    fn under_pressure_nothing_new_is_admitted() {
        let admission = Admission::default();
        assert_eq!(admission.check(), Ok(()));
        let asked_elsewhere = admission.clone();
        let memory = pressure(HostResource::Memory, 15_840_000_000, 16_000_000_000);
        // The usage was at the threshold before.
        let disk = pressure(HostResource::Disk, 95_100_000_000, 100_000_000_000);
        admission.set(vec![memory, disk.clone()]);
        let refused = asked_elsewhere.check().expect_err("under pressure");
        assert_eq!(
            refused.to_string(),
            "the host is under pressure: memory 99.0% (15.8 GB of 16.0 GB, threshold 98%, relieved below 93%) and disk \
             95.1% (95.1 GB of 100.0 GB, threshold 98%, relieved below 93%) in the mean over 60 s; try again when it is \
             relieved, or give the host more memory and disk"
        );
        admission.set(vec![disk]);
        let refused = asked_elsewhere.check().expect_err("under pressure");
        assert_eq!(
            refused.to_string(),
            "the host is under pressure: disk 95.1% (95.1 GB of 100.0 GB, threshold 98%, relieved below 93%) in the mean \
             over 60 s; try again when it is relieved, or give the host more disk"
        );
        admission.set(Vec::new());
        assert_eq!(asked_elsewhere.check(), Ok(()));
    }

    #[test]
    fn new_work_waits_until_the_pressure_is_relieved() {
        let admission = Admission::default();
        admission.set(vec![pressure(HostResource::Disk, 95_100_000_000, 100_000_000_000)]);
        let elsewhere = admission.clone();
        let mut waits = std::pin::pin!(elsewhere.relieved());
        assert!(waits.as_mut().now_or_never().is_none());
        admission.set(Vec::new());
        assert!(waits.now_or_never().is_some());
    }
}
