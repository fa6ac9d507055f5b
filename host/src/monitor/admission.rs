//! Whether the host takes on more: one flag that the monitor sets, and whoever begins something new asks.

use crate::event::HostPressure;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// Admits new services and scratch work, unless the host is under pressure. Failovers and recovery do not ask: what the
/// host has taken on, it goes on with.
///
/// Clones share one state. One that no monitor tells anything admits everything.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<State>);

#[derive(Debug, Default)]
struct State {
    pressure: watch::Sender<Option<HostPressure>>,
    starts: AtomicUsize,
}

/// A start of the host that is under way, until it is dropped.
#[derive(Debug)]
pub struct Starting(Arc<State>);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.starts.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The host is under pressure, and takes on nothing new.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the host is under pressure: {pressure} in the mean over {window_s} s; try again when it is relieved, or give the \
     host more {resource}",
    pressure = .0, window_s = super::WINDOW.as_secs(), resource = .0.resource
)]
pub struct UnderPressure(
    /// The first resource that is.
    pub HostPressure,
);

impl Admission {
    /// Whether something new may begin.
    ///
    /// # Errors
    /// [`UnderPressure`].
    pub fn check(&self) -> Result<(), UnderPressure> {
        match &*self.0.pressure.borrow() {
            Some(pressure) => Err(UnderPressure(pressure.clone())),
            None => Ok(()),
        }
    }

    /// Admits nothing while there is a pressure.
    pub fn set(&self, pressure: Option<HostPressure>) {
        self.0.pressure.send_replace(pressure);
    }

    /// Waits until something new may begin.
    pub async fn relieved(&self) {
        // It fails only without a sender, which is this.
        let _ = self.0.pressure.subscribe().wait_for(Option::is_none).await;
    }

    /// Begins a start of the host: the CPU time that it takes to compile and replay what the host has is not counted as
    /// pressure, or the host would refuse its own services for it.
    #[must_use]
    pub fn begin_start(&self) -> Starting {
        self.0.starts.fetch_add(1, Ordering::AcqRel);
        Starting(Arc::clone(&self.0))
    }

    /// Whether the host is starting.
    pub(super) fn is_starting(&self) -> bool {
        self.0.starts.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Percent, Usage};
    use crate::monitor::HostResource;
    use futures::FutureExt;

    #[test]
    fn under_pressure_nothing_new_is_admitted_and_the_reason_is_told() {
        let admission = Admission::default();
        assert_eq!(admission.check(), Ok(()));
        let asked_elsewhere = admission.clone();
        admission.set(Some(HostPressure {
            resource: HostResource::Disk,
            // It was at the threshold before.
            usage: Usage { used: 95_100_000_000, limit: 100_000_000_000 },
            threshold_percent: Percent::whole(98),
        }));
        let refused = asked_elsewhere.check().expect_err("under pressure");
        assert_eq!(
            refused.to_string(),
            "the host is under pressure: disk 95.1% (95.1 GB of 100.0 GB, threshold 98%, relieved below 93%) in the mean \
             over 60 s; try again when it is relieved, or give the host more disk"
        );
        let mut waits = std::pin::pin!(asked_elsewhere.relieved());
        assert!(waits.as_mut().now_or_never().is_none());
        admission.set(None);
        assert!(waits.now_or_never().is_some());
        assert_eq!(asked_elsewhere.check(), Ok(()));
    }
}
