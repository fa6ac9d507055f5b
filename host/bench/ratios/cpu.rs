//! The CPU time of this thread, independent of other threads on the machine.

use std::time::Duration;

/// Returns the CPU time of this thread so far, as the kernel counts it.
pub(crate) fn time_of_this_thread() -> Duration {
    // Yielding brings the kernel's count up to date; otherwise it is as old as the last tick of its timer.
    std::thread::yield_now();
    let counts = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux that counts");
    let on_cpu_ns = counts.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(on_cpu_ns.expect("the first number is the time on a CPU"))
}
