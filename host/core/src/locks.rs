//! A lock for each name: operations on the same name wait for each other, and operations on different names do not.

use lifeboat_api::name::Name;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The locks of names that are held or waited for. The other locks are discarded at the next lookup.
#[derive(Debug, Default)]
pub struct LockTable(Mutex<HashMap<Name, Weak<tokio::sync::Mutex<()>>>>);

impl LockTable {
    /// Returns the lock of `name`, which the caller then locks.
    pub fn of(&self, name: &Name) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(name.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Returns how many names are locked or waited for.
    #[must_use]
    pub fn locked(&self) -> usize {
        self.0.lock().expect("no test panics in here").len()
    }
}
