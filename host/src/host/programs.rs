//! The programs that a host's services run: each workload is loaded and compiled once, however many services ask for it
//! at the same time, and its program is released with the last of them.

use crate::engine::Program;
use crate::id::WorkloadHash;
use crate::scratch::ProgramError;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A failure is that of all who waited for it.
type Made = Result<Arc<Program>, Arc<ProgramError>>;
type Making = BoxFuture<'static, Made>;

/// Programs by the hashes of their workloads. Clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Programs(Arc<Mutex<HashMap<WorkloadHash, Slot>>>);

enum Slot {
    /// Somebody waits for it; none has it once they have all gone away.
    Making(WeakShared<Making>),
    Made(Weak<Program>),
}

impl Slot {
    fn is_alive(&self) -> bool {
        match self {
            Self::Making(making) => making.upgrade().is_some(),
            Self::Made(program) => program.strong_count() > 0,
        }
    }
}

impl Programs {
    /// The program of this hash: the one that is in use, or being made, or else what `make` makes.
    pub(super) async fn get<E: Into<ProgramError>>(
        &self,
        hash: WorkloadHash,
        make: impl Future<Output = Result<Arc<Program>, E>> + Send + 'static,
    ) -> Made {
        let making = match self.find(hash, make) {
            Ok(program) => return Ok(program),
            Err(making) => making,
        };
        making.await
    }

    fn find<E: Into<ProgramError>>(
        &self,
        hash: WorkloadHash,
        make: impl Future<Output = Result<Arc<Program>, E>> + Send + 'static,
    ) -> Result<Arc<Program>, Shared<Making>> {
        let mut slots = self.slots();
        slots.retain(|_, slot| slot.is_alive());
        let known = match slots.get(&hash) {
            Some(Slot::Made(program)) => program.upgrade().map(Ok),
            Some(Slot::Making(making)) => making.upgrade().map(Err),
            None => None,
        };
        if let Some(known) = known {
            return known;
        }
        let programs = self.clone();
        let making = async move {
            let made = make.await.map_err(|error| Arc::new(error.into()));
            let mut slots = programs.slots();
            match &made {
                Ok(program) => slots.insert(hash, Slot::Made(Arc::downgrade(program))),
                // The next one tries again.
                Err(_) => slots.remove(&hash),
            };
            drop(slots);
            made
        };
        let making = making.boxed().shared();
        slots.extend(making.downgrade().map(|weak| (hash, Slot::Making(weak))));
        Err(making)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<WorkloadHash, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineError, PoolLimits};
    use crate::workload::{LoadLimits, load};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    const COUNT: &[u8] = include_bytes!("../../../tests/guests/count.wat");

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_and_it_is_released_with_the_last() {
        let engine =
            Arc::new(Engine::new(PoolLimits { stores: 1, memories: 1, memory_bytes: 1 << 20 }).expect("an engine"));
        let workload = load("count.wat", COUNT, &LoadLimits::default()).expect("valid");
        let (programs, made) = (Programs::default(), Arc::new(AtomicUsize::new(0)));
        let get = || {
            let (engine, workload, made) = (Arc::clone(&engine), workload.clone(), Arc::clone(&made));
            programs.get(workload.hash, async move {
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

    #[tokio::test]
    async fn a_failure_is_shared_and_tried_again_and_who_goes_away_takes_nothing_along() {
        let (programs, hash) = (Programs::default(), WorkloadHash::of(b"x"));
        let (go, made) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let get = || {
            let (go, made) = (Arc::clone(&go), Arc::clone(&made));
            programs.get(hash, async move {
                made.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Err(EngineError::Compile { name: "x".into(), reason: "no".into() })
            })
        };
        let mut leaves = Box::pin(get());
        assert!(leaves.as_mut().now_or_never().is_none());
        let mut stays = Box::pin(get());
        assert!(stays.as_mut().now_or_never().is_none());
        drop(leaves);
        go.notify_one();
        assert!(stays.await.is_err());
        assert_eq!((made.load(Ordering::Relaxed), programs.slots().len()), (1, 0));
        // One that all have left is made anew.
        drop(get().now_or_never());
        go.notify_one();
        assert!(get().await.is_err());
        assert_eq!(made.load(Ordering::Relaxed), 3);
    }
}
