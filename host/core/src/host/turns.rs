//! Turns: whatever begins or ends a service is done by one at a time for each name, and by nobody once all services are
//! being ended.
//!
//! What is done under one name may wait for a guest, for as long as its deadlines and its queue allow. So it keeps nobody
//! with another name from theirs; only those who start a service wait for one another, as each needs the journal to keep
//! its records where it found them.

use crate::locks::NameLocks;
use lifeboat_api::name::Name;
use std::sync::Arc;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// A lock for each name, and one that all of them share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    of_names: NameLocks,
    all: Arc<RwLock<()>>,
}

/// The turn of one name. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _of_name: OwnedMutexGuard<()>,
    _of_all: OwnedRwLockReadGuard<()>,
}

impl Turns {
    /// Waits until nobody else has a turn of this name.
    pub(super) async fn take(&self, name: &Name) -> Turn {
        let lock = self.of_names.of(name);
        let of_name = lock.lock_owned().await;
        // Afterwards, so that one which waits for its name is not waited for by who takes all.
        Turn { _of_name: of_name, _of_all: Arc::clone(&self.all).read_owned().await }
    }

    /// Waits until nobody has a turn of any name.
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
    fn a_name_waits_for_itself_alone_and_all_wait_for_every_name() {
        let turns = Turns::default();
        let (bank, vault) = (name("bank"), name("vault"));
        let first = turns.take(&bank).now_or_never().expect("it is free");
        let mut second = pin!(turns.take(&bank));
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.take(&vault).now_or_never().expect("another name is free"));
        let mut all = pin!(turns.take_all());
        assert!(all.as_mut().now_or_never().is_none());
        drop(first);
        let all = all.now_or_never().expect("who waits for a name is not waited for");
        assert!(second.as_mut().now_or_never().is_none());
        drop(all);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn names_are_forgotten_however_their_turns_end() {
        let turns = Turns::default();
        for number in 0..100 {
            let turn = turns.take(&name(&number.to_string())).now_or_never().expect("it is free");
            // One who gives up waiting leaves nothing, either.
            assert!(turns.take(&name(&number.to_string())).now_or_never().is_none());
            drop(turn);
        }
        assert_eq!(turns.of_names.locked(), 1);
    }
}
