//! The turns of users to deploy, and what a deployment waits for. A workload takes memory and time before it is known
//! to be valid.
//!
//! A user has one deployment at a time, so that no user delays all others. A deployment that waits too long is asked to
//! retry. The [`Engine`](lifeboat_vm::engine::Engine) loads and compiles workloads in turns of its own.

use super::problem::Problem;
use lifeboat_api::name::Name;
use lifeboat_host::locks::LockTable;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// The longest time that a deployment waits for the previous deployment of the same user.
pub const DEPLOY_WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest time that the answer to a deployment waits for the trial of the new service's state, and for the trials
/// of other services before it. The trial goes on after that, and reports what it finds by an event.
pub const TRIAL_WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Deploys {
    of_users: LockTable,
    wait: Duration,
    trial_wait: Duration,
}

impl Default for Deploys {
    fn default() -> Self {
        Self { of_users: LockTable::default(), wait: DEPLOY_WAIT_MAX, trial_wait: TRIAL_WAIT_MAX }
    }
}

impl Deploys {
    /// Waits for the turn of a user, which ends when the guard is dropped.
    pub(super) async fn turn(&self, user: &Name) -> Result<OwnedMutexGuard<()>, Problem> {
        let lock = self.of_users.of(user);
        let turn = tokio::time::timeout(self.wait, lock.lock_owned()).await;
        turn.map_err(|_| {
            let seconds = self.wait.as_secs();
            let text = format!(
                "another deployment of user '{user}' has been under way for over {seconds} s; try again when it has \
                 ended"
            );
            Problem::later("deploying", text)
        })
    }

    /// Returns the warning in the answer to a deployment: what `trial` finds in time.
    pub(super) async fn warning(&self, trial: impl Future<Output = Option<String>>) -> Option<String> {
        let found = tokio::time::timeout(self.trial_wait, trial).await.ok().flatten()?;
        Some(format!("a trial of its state failed: {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::pin::pin;

    #[tokio::test]
    async fn a_user_waits_for_their_own_deployment_alone() {
        let deploys = Deploys::default();
        let (ann, ben) = (Name::new("ann").expect("a name"), Name::new("ben").expect("a name"));
        let first = deploys.turn(&ann).await.expect("free");
        let mut second = pin!(deploys.turn(&ann));
        assert!(second.as_mut().now_or_never().is_none());
        drop(deploys.turn(&ben).now_or_never().expect("at once").expect("another user's"));
        drop(first);
        drop(second.await.expect("its turn"));
        drop(deploys.turn(&ann).await);
        assert_eq!(deploys.of_users.locked(), 1, "who is done is forgotten");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_deployment_for_ever() {
        let ann = Name::new("ann").expect("a name");
        let hasty = Deploys { wait: Duration::ZERO, ..Deploys::default() };
        let _first = hasty.turn(&ann).await.expect("free");
        assert!(hasty.turn(&ann).await.expect_err("too long").is_unavailable());
    }

    #[tokio::test]
    async fn no_deployment_waits_for_a_long_trial() {
        let deploys = Deploys { trial_wait: Duration::ZERO, ..Deploys::default() };
        assert_eq!(deploys.warning(std::future::pending()).await, None);
    }

    #[tokio::test]
    async fn what_a_trial_finds_in_time_is_a_warning() {
        let deploys = Deploys::default();
        let warning = deploys.warning(std::future::ready(Some("no thanks".into()))).await;
        assert_eq!(warning.as_deref(), Some("a trial of its state failed: no thanks"));
        assert_eq!(deploys.warning(std::future::ready(None)).await, None);
    }
}
