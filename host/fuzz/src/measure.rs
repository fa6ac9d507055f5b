//! Measures one run of a decoder: panics, memory and time.

use crate::{Outcome, Target};
use peak_alloc::PeakAlloc;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The longest time that a decoder may take for an input of [`crate::INPUT_BYTES_MAX`] or less. It is far more than any
/// decoder takes, even on a busy machine.
pub const WORK_MAX: Duration = Duration::from_millis(500);

/// The most runs of an input that takes longer or more memory, since another process may have used the processor, and
/// another test of this process may have allocated.
const TRIES: usize = 3;

/// The longest line of a message, in bytes.
const MESSAGE_LINE_BYTES_MAX: usize = 2_048;

/// Serialises the runs, since the allocator counts for the whole process.
static RUNNING: Mutex<()> = Mutex::new(());

/// The message and place of the last panic.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

thread_local! {
    static IS_MEASURED: Cell<bool> = const { Cell::new(false) };
}

/// Waits until no other run is in progress, and prevents others from starting.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The measurements of a decoder that kept every promise.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    pub(crate) peak_bytes: usize,
    pub(crate) time: Duration,
}

/// Runs the decoder of `target`. The caller must hold the guard of [`alone`].
///
/// # Errors
/// A sentence that names the broken promise.
pub(crate) fn measure(target: &Target, input: &[u8]) -> Result<Measured, String> {
    watch_panics();
    let bound = target.memory.bound(input.len());
    let mut measured = once(target, input)?;
    for _ in 1..TRIES {
        if measured.time <= WORK_MAX && measured.peak_bytes <= bound {
            break;
        }
        measured = once(target, input)?;
    }
    let Measured { outcome, peak_bytes, time } = &measured;
    if *time > WORK_MAX {
        return Err(format!("it takes {} ms, the limit is {}", time.as_millis(), WORK_MAX.as_millis()));
    }
    if *peak_bytes > bound {
        return Err(format!("it allocates {peak_bytes} bytes for an input of {}, the limit is {bound}", input.len()));
    }
    if let Outcome::Refused(message) = outcome {
        check_message(message)?;
    }
    Ok(measured)
}

fn once(target: &Target, input: &[u8]) -> Result<Measured, String> {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let begin = Instant::now();
    IS_MEASURED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.decode)(input)));
    IS_MEASURED.set(false);
    let time = begin.elapsed();
    let peak_bytes = ALLOCATOR.peak_usage().saturating_sub(before);
    let panic = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match outcome {
        Err(_) => Err(format!("it panics: {panic}")),
        // The loader converts panics of its libraries to refusals. Panics of its own code are faults.
        Ok(_) if panic.contains("host/") => Err(format!("it hides a panic of its own: {panic}")),
        Ok(outcome) => Ok(Measured { outcome, peak_bytes, time }),
    }
}

/// Checks that a message suits terminals and lines of logs.
fn check_message(message: &str) -> Result<(), String> {
    for line in message.lines() {
        if line.len() > MESSAGE_LINE_BYTES_MAX {
            return Err(format!("its message has a line of {} bytes: {}", line.len(), start(line)));
        }
        if let Some(control) = line.chars().find(|char| lifeboat_api::text::is_deceptive(*char)) {
            return Err(format!("its message has the character {control:?}: {}", start(line)));
        }
    }
    Ok(())
}

fn start(text: &str) -> String {
    lifeboat_api::text::shortened(text, 200)
}

/// Records panics of decoders instead of printing them, including those of the loader's own thread.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The loader installs its hook once, in front of the existing one. So it must do that before this hook is
        // installed.
        let _ = lifeboat_vm::workload::load("none", b"", &lifeboat_vm::workload::LoadLimits::default());
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_loader = std::thread::current().name() == Some("lifeboat-loader");
            if is_loader || IS_MEASURED.try_with(Cell::get).unwrap_or(false) {
                *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
            } else {
                others(panic);
            }
        }));
    });
}
