//! This program as a separate process, so that its resource use can be distinguished from its client's.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::time::Duration;

/// The argument before the name of the process's role.
pub(crate) const ARGUMENT: &str = "--child";

/// A process that ends when it is dropped, or when this one ends.
pub(crate) struct Child {
    process: Process,
    /// The input of the process. Dropping it closes the input, and that ends the process.
    input: Option<ChildStdin>,
    /// The line that the process printed when it was ready.
    pub(crate) said: String,
}

impl Child {
    /// Starts a process, and waits until it is ready.
    pub(crate) fn start(name: &str) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args([ARGUMENT, name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("this program can be started");
        let input = process.stdin.take();
        let mut said = String::new();
        let output = process.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut said).expect("it prints text");
        assert!(said.ends_with('\n'), "`{name}` ended before it was ready");
        Self { process, input, said }
    }

    /// Returns the CPU time of all its threads so far, as the kernel counts it. Threads that have ended are not
    /// included; none end during a measurement.
    pub(crate) fn cpu_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("it runs");
        let on_cpu_ns = |thread: std::io::Result<std::fs::DirEntry>| {
            let counts = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            counts.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.filter_map(on_cpu_ns).sum())
    }

    /// Returns its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a Linux that counts");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kib * 1024
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

/// Waits in a child until its parent drops it.
pub(crate) fn wait_for_parent() {
    let mut rest = Vec::new();
    let _ = std::io::stdin().lock().read_to_end(&mut rest);
}
