//! How host functions and the limiter end a call of a guest.

use lifeboat_api::transaction::Cause;
use thiserror::Error;

/// Ends a call from within a host function or the limiter.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Stop(pub(crate) Cause);

impl Stop {
    /// A guest's misuse of a host function, as a trap.
    pub(crate) fn trap(message: String) -> wasmtime::Error {
        wasmtime::Error::new(Self(Cause::Trap { message }))
    }
}
