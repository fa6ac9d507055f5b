//! Name locks: one operation at a time begins or ends the service of a name, and none does once all services are being
//! ended.
//!
//! An operation on one name may wait for a guest, for as long as the guest's deadlines and queue allow. So operations
//! on other names do not wait for it. Only starts of services wait for each other, because each start needs the journal
//! to keep its records where it found them.

use crate::locks::LockTable;
use lifeboat_api::name::Name;
use std::sync::Arc;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// A lock for each name, and one that all of them share.
#[derive(Debug, Default)]
pub(super) struct NameLocks {
    of_names: LockTable,
    all: Arc<RwLock<()>>,
}

/// The lock of one name, released when this is dropped.
#[derive(Debug)]
pub(super) struct NameGuard {
    _of_name: OwnedMutexGuard<()>,
    _of_all: OwnedRwLockReadGuard<()>,
}

impl NameLocks {
    /// Waits until no other operation holds this name.
    pub(super) async fn take(&self, name: &Name) -> NameGuard {
        let lock = self.of_names.of(name);
        let of_name = lock.lock_owned().await;
        // The shared lock comes second: an operation that still waits for its name must not delay `take_all`.
        NameGuard { _of_name: of_name, _of_all: Arc::clone(&self.all).read_owned().await }
    }

    /// Waits until no operation holds any name.
    pub(super) async fn take_all(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.all).write_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::pin::pin;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn operations_wait_only_for_the_names_that_they_share() {
        let locks = NameLocks::default();
        let (bank, vault) = (name("bank"), name("vault"));
        let first = locks.take(&bank).now_or_never().expect("it is free");
        let mut second = pin!(locks.take(&bank));
        assert!(second.as_mut().now_or_never().is_none());
        drop(locks.take(&vault).now_or_never().expect("another name is free"));
        let mut all = pin!(locks.take_all());
        assert!(all.as_mut().now_or_never().is_none());
        drop(first);
        let all = all.now_or_never().expect("who waits for a name is not waited for");
        assert!(second.as_mut().now_or_never().is_none());
        drop(all);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn names_are_forgotten_however_their_turns_end() {
        let locks = NameLocks::default();
        for number in 0..100 {
            let guard = locks.take(&name(&number.to_string())).now_or_never().expect("it is free");
            // A caller that stops waiting leaves no entry either.
            assert!(locks.take(&name(&number.to_string())).now_or_never().is_none());
            drop(guard);
        }
        assert_eq!(locks.of_names.locked(), 1);
    }
}
