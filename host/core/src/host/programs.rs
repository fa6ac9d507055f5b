//! The programs of a host's services. Each workload is loaded and compiled once, even if several services request it at
//! the same time. Its program is released with the last of them.
//!
//! All callers share a program, and a refusal as well. A transient failure counts only for its own attempt: a caller
//! that joined another caller's attempt waits for a second one.

use crate::scratch::ProgramError;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use lifeboat_api::id::WorkloadHash;
use lifeboat_vm::engine::{DEPLOY_COMPILE_DEADLINE, EngineError, Program};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// A failure is shared by all callers that waited for it.
pub(super) type Made = Result<Arc<Program>, Arc<ProgramError>>;
type Making = BoxFuture<'static, Made>;

/// The purpose of a program, which decides how long making it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A deployment, which waits for less time than the others.
    Deploy,
    /// A start of a service, or a command.
    Start,
}

/// The programs by the hashes of their workloads. Clones share one table.
#[derive(Clone)]
pub(super) struct Programs {
    slots: Arc<Mutex<HashMap<WorkloadHash, Slot>>>,
    /// How long a deployment waits for an attempt that was begun for a start, which may take minutes.
    wait: Duration,
}

impl Default for Programs {
    fn default() -> Self {
        Self { slots: Arc::default(), wait: DEPLOY_COMPILE_DEADLINE }
    }
}

enum Slot {
    /// An attempt that callers wait for. It is gone once all of them have gone.
    Making {
        making: WeakShared<Making>,
        purpose: Purpose,
        attempt: Arc<()>,
    },
    Made(Weak<Program>),
}

impl Slot {
    fn is_alive(&self) -> bool {
        match self {
            Self::Making { making, .. } => making.upgrade().is_some(),
            Self::Made(program) => program.strong_count() > 0,
        }
    }
}

/// A program, or the attempt to make it.
enum Found {
    Made(Arc<Program>),
    Begun(Shared<Making>),
    Joined(Shared<Making>, Purpose),
}

impl Programs {
    /// Returns the program of this hash: one in use, one being made, or the result of `make`. Waits for two attempts at
    /// most, and makes the second one if the first was another caller's.
    pub(super) async fn get<E: Into<ProgramError>>(
        &self,
        hash: WorkloadHash,
        purpose: Purpose,
        make: impl Future<Output = Result<Arc<Program>, E>> + Send + 'static,
    ) -> Made {
        let mut make = Some(make);
        let (joined, its) = match self.find(hash, purpose, &mut make, |_| true) {
            Found::Made(program) => return Ok(program),
            Found::Begun(making) => return making.await,
            Found::Joined(making, its) => (making, its),
        };
        let made = if (purpose, its) == (Purpose::Deploy, Purpose::Start) {
            tokio::time::timeout(self.wait, joined).await.ok()
        } else {
            Some(joined.await)
        };
        match made {
            Some(made) if made.as_ref().err().is_none_or(|error| is_of_all(error, purpose, its)) => return made,
            _ => {}
        }
        // An attempt that another caller has begun since for the same purpose is as good as an own one.
        match self.find(hash, purpose, &mut make, |its| its == purpose) {
            Found::Made(program) => Ok(program),
            Found::Begun(making) | Found::Joined(making, _) => making.await,
        }
    }

    /// Begins an attempt with `make`, unless there is a program already or an attempt for a purpose that `may_join`
    /// accepts.
    fn find<E: Into<ProgramError>>(
        &self,
        hash: WorkloadHash,
        purpose: Purpose,
        make: &mut Option<impl Future<Output = Result<Arc<Program>, E>> + Send + 'static>,
        may_join: impl FnOnce(Purpose) -> bool,
    ) -> Found {
        let mut slots = self.slots();
        slots.retain(|_, slot| slot.is_alive());
        let known = match slots.get(&hash) {
            Some(Slot::Made(program)) => program.upgrade().map(Found::Made),
            Some(Slot::Making { making, purpose, .. }) if may_join(*purpose) => {
                making.upgrade().map(|making| Found::Joined(making, *purpose))
            }
            Some(Slot::Making { .. }) | None => None,
        };
        if let Some(known) = known {
            return known;
        }
        let make = make.take().expect("it is begun once");
        let (programs, attempt) = (self.clone(), Arc::new(()));
        let own = Arc::clone(&attempt);
        let making = async move {
            let made = make.await.map_err(|error| Arc::new(error.into()));
            let mut slots = programs.slots();
            match (&made, slots.get(&hash)) {
                (Ok(program), _) => drop(slots.insert(hash, Slot::Made(Arc::downgrade(program)))),
                // The next caller tries again.
                (Err(_), Some(Slot::Making { attempt, .. })) if Arc::ptr_eq(attempt, &own) => drop(slots.remove(&hash)),
                // Another attempt has replaced this one.
                (Err(_), _) => {}
            }
            drop(slots);
            made
        };
        let making = making.boxed().shared();
        slots.extend(making.downgrade().map(|weak| (hash, Slot::Making { making: weak, purpose, attempt })));
        Found::Begun(making)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<WorkloadHash, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the failure of an attempt for the purpose `its` also holds for a caller with `purpose`.
fn is_of_all(error: &ProgramError, purpose: Purpose, its: Purpose) -> bool {
    let has_less_time = (purpose, its) == (Purpose::Start, Purpose::Deploy);
    let may_pass = error.may_pass_of_stored()
        // A deployment need not read its workload from the disk.
        || matches!(error, ProgramError::Engine(EngineError::CompilerBusy { .. }) | ProgramError::Data(_));
    !has_less_time && !may_pass
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataError;
    use lifeboat_vm::engine::{Engine, PoolLimits};
    use lifeboat_vm::workload::{LoadLimits, load};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;
    use tokio::sync::Notify;

    const COUNT: &[u8] = include_bytes!("../../../../tests/guests/count.wat");

    #[tokio::test]
    async fn simultaneous_callers_share_one_program_until_the_last_releases_it() {
        let engine =
            Arc::new(Engine::new(PoolLimits { stores: 1, memories: 1, memory_bytes: 1 << 20 }).expect("an engine"));
        let workload = load("count.wat", COUNT, &LoadLimits::default()).expect("valid");
        let (programs, made) = (Programs::default(), Arc::new(AtomicUsize::new(0)));
        let get = || {
            let (engine, workload, made) = (Arc::clone(&engine), workload.clone(), Arc::clone(&made));
            programs.get(workload.hash, Purpose::Start, async move {
                made.fetch_add(1, Ordering::Relaxed);
                engine.compile(workload).await
            })
        };
        let first = futures::future::join_all((0..20).map(|_| get())).await;
        assert!(first.iter().all(Result::is_ok));
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let again = get().await.expect("in use");
        drop(first);
        assert_eq!((made.load(Ordering::Relaxed), programs.slots().len()), (1, 1));
        drop(again);
        assert!(!programs.slots()[&workload.hash].is_alive(), "nobody uses it");
        get().await.expect("made again");
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    /// Attempts that fail once they are notified, and their number.
    #[derive(Default)]
    struct Failing {
        programs: Programs,
        go: Arc<Notify>,
        made: Arc<AtomicUsize>,
    }

    impl Failing {
        fn get(&self) -> impl Future<Output = Made> {
            let (go, made) = (Arc::clone(&self.go), Arc::clone(&self.made));
            self.programs.get(WorkloadHash::of(b"x"), Purpose::Start, async move {
                made.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Err(EngineError::Compile { name: "x".into(), reason: "no".into() })
            })
        }
    }

    #[tokio::test]
    async fn a_caller_that_leaves_does_not_end_the_attempt_of_the_others() {
        let failing = Failing::default();
        let mut leaves = Box::pin(failing.get());
        assert!(leaves.as_mut().now_or_never().is_none());
        let mut stays = Box::pin(failing.get());
        assert!(stays.as_mut().now_or_never().is_none());
        drop(leaves);
        failing.go.notify_one();
        assert!(stays.await.is_err());
        assert_eq!((failing.made.load(Ordering::Relaxed), failing.programs.slots().len()), (1, 0));
    }

    #[tokio::test]
    async fn an_attempt_that_all_callers_have_left_is_made_anew() {
        let failing = Failing::default();
        drop(failing.get().now_or_never());
        failing.go.notify_one();
        assert!(failing.get().await.is_err());
        assert_eq!(failing.made.load(Ordering::Relaxed), 2);
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    /// Returns a failure that `reason` distinguishes from others.
    fn refused(reason: &str) -> Result<Arc<Program>, ProgramError> {
        Err(EngineError::Compile { name: text("x"), reason: text(reason) }.into())
    }

    fn lost() -> ProgramError {
        EngineError::Process { name: text("x"), reason: text("killed") }.into()
    }

    #[tokio::test]
    async fn callers_share_a_failed_attempt_only_if_another_would_fail_too() {
        use Purpose::{Deploy, Start};
        let (deadline, wait) = (Duration::from_secs(60), Duration::from_secs(60));
        let late = || EngineError::CompileDeadline { name: text("x"), deadline }.into();
        let busy = || EngineError::CompilerBusy { name: text("x"), wait }.into();
        let unread = || DataError::WorkloadMissing { file: text("x") }.into();
        let no = || refused("first").expect_err("none");
        for (first, error, second, is_shared) in [
            (Start, lost(), Start, false),
            (Deploy, lost(), Deploy, false),
            (Start, lost(), Deploy, false),
            (Deploy, busy(), Deploy, false),
            (Deploy, busy(), Start, false),
            (Start, unread(), Deploy, false),
            // A start has more time.
            (Deploy, late(), Start, false),
            (Deploy, late(), Deploy, true),
            (Start, late(), Deploy, true),
            (Start, no(), Start, true),
            (Start, no(), Deploy, true),
        ] {
            let (programs, hash) = (Programs::default(), WorkloadHash::of(b"x"));
            let (go, made) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
            let (is_asked, failure) = (Arc::clone(&go), error.to_string());
            let mut first = Box::pin(programs.get(hash, first, async move {
                is_asked.notified().await;
                Err(error)
            }));
            assert!(first.as_mut().now_or_never().is_none());
            let join = || {
                let made = Arc::clone(&made);
                programs.get(hash, second, async move {
                    made.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    refused("own")
                })
            };
            let mut joined = Box::pin(futures::future::join(join(), join()));
            assert!(joined.as_mut().now_or_never().is_none());
            go.notify_one();
            let reason = |made: Made| made.expect_err("none is made").to_string();
            assert_eq!(reason(first.await), failure);
            let (one, other) = joined.await;
            let (own, attempts) =
                if is_shared { (failure, 0) } else { (refused("own").expect_err("none").to_string(), 1) };
            // Both wait for the same second attempt.
            assert_eq!((reason(one), reason(other)), (own.clone(), own));
            assert_eq!((made.load(Ordering::Relaxed), programs.slots().len()), (attempts, 0));
        }
    }

    #[tokio::test]
    async fn a_deployment_waits_no_longer_for_the_attempt_of_a_start_than_for_its_turn() {
        let programs = Programs { wait: Duration::ZERO, ..Programs::default() };
        let (hash, go) = (WorkloadHash::of(b"x"), Arc::new(Notify::new()));
        let is_asked = Arc::clone(&go);
        let mut start = Box::pin(programs.get(hash, Purpose::Start, async move {
            is_asked.notified().await;
            Err::<Arc<Program>, _>(lost())
        }));
        assert!(start.as_mut().now_or_never().is_none());
        let of_deploy = Arc::new(Notify::new());
        let is_asked = Arc::clone(&of_deploy);
        let mut deploy = Box::pin(programs.get(hash, Purpose::Deploy, async move {
            is_asked.notified().await;
            refused("own")
        }));
        let has_begun = std::future::poll_fn(|cx| {
            assert!(deploy.as_mut().poll(cx).is_pending());
            let slots = programs.slots();
            let is_own = matches!(slots.get(&hash), Some(Slot::Making { purpose: Purpose::Deploy, .. }));
            if is_own { Poll::Ready(()) } else { Poll::Pending }
        });
        has_begun.await;
        go.notify_one();
        assert!(start.await.is_err());
        // The new attempt replaced the other one, and does not end with it.
        assert_eq!(programs.slots().len(), 1);
        of_deploy.notify_one();
        assert!(deploy.await.expect_err("none is made").to_string().contains("own"));
        assert_eq!(programs.slots().len(), 0);
    }
}
