use super::*;
use crate::data::DataError;
use lifeboat_vm::engine::{Engine, PoolLimits};
use lifeboat_vm::workload::{LoadLimits, load};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use tokio::sync::Notify;

const COUNT: &[u8] = include_bytes!("../../../../../tests/guests/count.wat");

#[tokio::test]
async fn simultaneous_callers_share_one_program_until_the_last_releases_it() {
    let engine =
        Arc::new(Engine::new(PoolLimits { stores: 1, memories: 2, memory_bytes: 1 << 20 }).expect("an engine"));
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
        let (own, attempts) = if is_shared { (failure, 0) } else { (refused("own").expect_err("none").to_string(), 1) };
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
