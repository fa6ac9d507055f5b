//! The thread on which the libraries read untrusted bytes, with a bounded stack.
//!
//! The parser, the validator and the converter check invariants with `unwrap` and `assert!`, and a crafted file may
//! violate one. They are pure functions of the bytes, and a panic drops what they were building, so nothing
//! inconsistent remains (hence `AssertUnwindSafe`). They also recurse. They therefore run on a thread with a known
//! stack, whoever calls, and a panic there becomes a refusal.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::thread;

use super::error::{LoadError, one_line};
use lifeboat_api::text::of_system;

/// The stack of the thread that loads a workload: 16 MiB of address space, of which the thread uses only what it needs.
pub const LOADER_STACK_BYTES: usize = 16 << 20;

thread_local! {
    /// Set while a panic is an expected result, so that the panic hook does not print it.
    static IS_LOADING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a separate thread, and waits for it.
pub(super) fn run<T: Send>(file: &str, work: impl FnOnce() -> Result<T, LoadError> + Send) -> Result<T, LoadError> {
    silence_panics();
    let bounded = || {
        IS_LOADING.set(true);
        catch_unwind(AssertUnwindSafe(work))
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("lifeboat-loader".into()).stack_size(LOADER_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, bounded);
        let thread = thread.map_err(|error| LoadError::Thread { file: one_line(file), cause: of_system(&error) })?;
        let panic = match thread.join() {
            Ok(Ok(loaded)) => return loaded,
            Ok(Err(panic)) | Err(panic) => panic,
        };
        Err(LoadError::Library { file: one_line(file), cause: one_line(message(&*panic)) })
    })
}

/// Returns a panic's message.
pub(super) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Makes the panic hook of the process ignore the loader's threads: their panics become messages of a [`LoadError`].
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_LOADING.try_with(Cell::get).unwrap_or(false) {
                others(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refusal_with_its_message() {
        let refused: Result<(), LoadError> = run("a\nb.wasm", || panic!("index {} out of\nbounds", 7));
        let error = refused.expect_err("it panicked");
        let line = error.to_string();
        assert!(matches!(error, LoadError::Library { cause, .. } if cause == "index 7 out of bounds"), "{line}");
        assert!(line.starts_with("`a b.wasm`: ") && !line.contains("index") && !line.contains('\n'), "{line}");
        assert_eq!(run("a.wasm", || Ok(7)), Ok(7));
    }

    #[test]
    fn the_stack_is_that_of_the_loader_whoever_calls() {
        fn descend(levels: usize) -> usize {
            let frame = [levels; 32];
            if levels == 0 { 0 } else { descend(levels - 1) + std::hint::black_box(frame)[7] - levels + 1 }
        }
        let small = thread::Builder::new().stack_size(256 << 10);
        let caller = small.spawn(|| run("a.wasm", || Ok(descend(10_000)))).expect("a thread");
        assert_eq!(caller.join().expect("its own stack would have overflowed"), Ok(10_000));
    }
}
