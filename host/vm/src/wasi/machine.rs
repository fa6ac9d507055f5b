//! The clocks and random numbers of the machine, for a program that is run once: it is not replayed.

use std::time::Duration;
use tokio::time::Instant;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;

/// The clocks and random numbers that a program gets instead of those of a transaction.
pub trait Machine: Send {
    /// Returns the time, in nanoseconds since 1970.
    fn wall_ns(&mut self) -> u64;

    /// Returns the time of a clock that never goes back, in nanoseconds since any moment before the program began.
    fn monotonic_ns(&mut self) -> u64;

    /// Fills `bytes` with random numbers.
    ///
    /// # Errors
    /// The operating system has none.
    fn fill_random(&mut self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// A timer of the machine.
pub(super) struct Due(Option<Instant>);

impl Due {
    /// Creates a timer that is ready after `wait`. One that no clock can express is never ready.
    pub(super) fn after(wait: Duration) -> Self {
        Self(Instant::now().checked_add(wait))
    }
}

#[async_trait]
impl Pollable for Due {
    async fn ready(&mut self) {
        match self.0 {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}
