//! A lock for each name: what is done under one name waits for whoever does something under the same, and for no other.

use lifeboat_api::name::Name;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The locks of names that somebody holds or waits for. The others are discarded with the next look-up.
#[derive(Debug, Default)]
pub struct LockTable(Mutex<HashMap<Name, Weak<tokio::sync::Mutex<()>>>>);

impl LockTable {
    /// The lock of `name`, to be locked by the caller.
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

    /// How many names are locked or waited for.
    #[must_use]
    pub fn locked(&self) -> usize {
        self.0.lock().expect("no test panics in here").len()
    }
}
