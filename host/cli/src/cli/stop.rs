//! The signals that ask a command to end: SIGINT, as Ctrl-C sends it, SIGTERM, and SIGHUP, as a terminal that is closed
//! sends it.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// From when it is made on, these signals do not end the process: what waits for them does.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// None if the process was started with `nohup`, or if it was heard: a shell sends another one when its terminal is
    /// closed, and that is not somebody who asks twice.
    hangup: Option<Signal>,
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { hangup: hangups()?, ..Self::of_server()? })
    }

    /// Without SIGHUP, which does not end a server.
    pub(crate) fn of_server() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// Waits for the next. Dropping the future loses none.
    pub(crate) async fn asked(&mut self) {
        let Self { terminate, interrupt, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hung_up => self.hangup = None,
        }
    }
}

/// SIGHUP from now on; none if whoever started the process wants it ignored, as `nohup` does.
pub(crate) fn hangups() -> io::Result<Option<Signal>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if is_hangup_ignored(&status) { Ok(None) } else { signal(SignalKind::hangup()).map(Some) }
}

/// Whether the process ignores SIGHUP, as Linux describes it: a mask in which signal 1 is the lowest bit.
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
