//! The signals that ask a command to end: SIGINT, which Ctrl-C sends, SIGTERM, and SIGHUP, which a closing terminal
//! sends.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A listener for these signals. From its creation on, they do not end the process.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// None if the process was started with `nohup`, or after the first SIGHUP. A shell sends a second one when its
    /// terminal closes, which is not a second request of the user.
    hangup: Option<Signal>,
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { hangup: hangups()?, ..Self::of_server()? })
    }

    /// Listens without SIGHUP, which does not end a server.
    pub(crate) fn of_server() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// Waits for the next signal. Dropping the future loses none.
    pub(crate) async fn asked(&mut self) {
        self.number().await;
    }

    /// Waits for the next signal, and returns its number. Dropping the future loses none.
    pub(crate) async fn number(&mut self) -> i32 {
        let Self { terminate, interrupt, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = hung_up => {
                self.hangup = None;
                SignalKind::hangup().as_raw_value()
            }
        }
    }
}

/// Listens for SIGHUP. Returns None if the parent process wants it ignored, as `nohup` does.
pub(crate) fn hangups() -> io::Result<Option<Signal>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if is_hangup_ignored(&status) { Ok(None) } else { signal(SignalKind::hangup()).map(Some) }
}

/// Returns whether the process ignores SIGHUP, from Linux's text about it: a mask whose lowest bit is signal 1.
fn is_hangup_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_starts_a_command_with_nohup_is_recognised() {
        assert!(is_hangup_ignored("Name:\tlifeboat\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!is_hangup_ignored("Name:\tlifeboat\nSigIgn:\t0000000000001000\nSigCgt:\t1\n"));
        assert!(!is_hangup_ignored("SigIgn:\tz\n"));
        assert!(!is_hangup_ignored(""));
    }
}
