//! How host functions and the limiter end a guest's call.

use lifeboat_api::transaction::Cause;
use thiserror::Error;

/// Ends a call from within a host function or the limiter.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Stop(pub(crate) Cause);

impl Stop {
    /// Returns a trap for a guest's misuse of a host function.
    pub(crate) fn trap(message: String) -> wasmtime::Error {
        wasmtime::Error::new(Self(Cause::Trap { message }))
    }
}

/// Ends a program that is run once, because the reader of its output is gone.
#[derive(Debug, Error)]
#[error("the reader of its output is gone")]
pub(crate) struct ClosedPipe;
