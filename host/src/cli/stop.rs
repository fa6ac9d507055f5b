//! The signals that ask a command to end: SIGINT, as Ctrl-C sends it, and SIGTERM.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// From when it is made on, these signals do not end the process: what waits for them does.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next. Dropping the future loses none.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
