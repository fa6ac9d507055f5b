//! What others see of a service while it waits for the network, and cannot answer itself.

use super::spec::{Status, Waiting};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The last status of a service that waits, and what it waits for.
#[derive(Debug, Default)]
pub(crate) struct WaitBoard(Mutex<Option<Wait>>);

#[derive(Debug)]
struct Wait {
    status: Status,
    target: String,
    since: Instant,
}

impl WaitBoard {
    /// Notes that the service waits for `target` from now on. `status` is the one before its current transaction.
    pub(super) fn begin(&self, status: &Status, target: &str) {
        let wait = Wait { status: status.clone(), target: target.to_owned(), since: Instant::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(wait);
    }

    /// Notes that the service does not wait any more.
    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the status of a service that waits. None if it does not.
    pub(crate) fn status(&self) -> Option<Status> {
        let wait = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Wait { status, target, since } = wait.as_ref()?;
        let waiting = Some(Waiting { target: target.clone(), waited: since.elapsed() });
        Some(Status { waiting, ..status.clone() })
    }
}
