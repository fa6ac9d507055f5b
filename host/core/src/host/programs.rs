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
mod tests;
