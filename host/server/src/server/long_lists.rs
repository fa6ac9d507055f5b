//! Lists that may take more than the largest answer: the turns to make them, and their memory until they are read.
//!
//! They are made one at a time. Lists for admins have a turn of their own. A turn does not last until the client has
//! read the list, so a slow client delays nobody. A list that is longer than the largest answer is counted in full
//! until its client has read it, in a separate budget.

use lifeboat_api::name::Name;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The maximum number of bytes of all long lists that wait for their clients. One user may have half of what its group
/// may take.
///
/// A reader without an unread list gets a list of any length while no other is unread. For an admin, only the lists of
/// admins count.
pub const LONG_LISTS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The part of these bytes that is reserved for admins.
pub const LONG_LISTS_RESERVED_BYTES: usize = LONG_LISTS_BYTES_MAX / 2;

/// The maximum number of bytes of the lists of all other readers.
const OF_OTHERS_MAX: usize = LONG_LISTS_BYTES_MAX - LONG_LISTS_RESERVED_BYTES;

/// The reader of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    /// The user, or `None` if no token is needed. All readers without a user count as one.
    pub(super) user: Option<Name>,
    pub(super) is_admin: bool,
}

/// The bytes that are taken of the budget.
#[derive(Debug, Default)]
struct Unread {
    of_admins: usize,
    of_others: usize,
    of_readers: HashMap<Reader, usize>,
}

impl Unread {
    fn take(&mut self, reader: &Reader, bytes: usize) -> bool {
        // Admins keep their part, however long a list another reader has alone. What admins take of it leaves the other
        // readers their part.
        let (max, is_alone, taken) = match reader.is_admin {
            true => (LONG_LISTS_BYTES_MAX, self.of_admins == 0, self.of_admins + self.of_others.min(OF_OTHERS_MAX)),
            false => (
                OF_OTHERS_MAX,
                self.of_admins + self.of_others == 0,
                self.of_others + self.of_admins.saturating_sub(LONG_LISTS_RESERVED_BYTES),
            ),
        };
        let of_reader = self.of_readers.get(reader).copied().unwrap_or(0);
        let fits = |taken: usize, max: usize| taken.checked_add(bytes).is_some_and(|taken| taken <= max);
        let is_taken = (is_alone || fits(taken, max)) && (of_reader == 0 || fits(of_reader, max / 2));
        if is_taken {
            *self.part(reader) += bytes;
            self.of_readers.insert(reader.clone(), of_reader + bytes);
        }
        is_taken
    }

    fn release(&mut self, reader: &Reader, bytes: usize) {
        *self.part(reader) -= bytes;
        if let Some(of_reader) = self.of_readers.get_mut(reader) {
            *of_reader -= bytes;
            if *of_reader == 0 {
                self.of_readers.remove(reader);
            }
        }
    }

    fn part(&mut self, reader: &Reader) -> &mut usize {
        if reader.is_admin { &mut self.of_admins } else { &mut self.of_others }
    }
}

/// The long lists of a server. Clones share the same lists.
#[derive(Debug, Clone)]
pub(super) struct LongLists {
    turn_of_admins: Arc<Semaphore>,
    turn_of_others: Arc<Semaphore>,
    unread: Arc<Mutex<Unread>>,
}

impl Default for LongLists {
    fn default() -> Self {
        let turn = || Arc::new(Semaphore::new(1));
        Self { turn_of_admins: turn(), turn_of_others: turn(), unread: Arc::default() }
    }
}

impl LongLists {
    /// Waits for the turn to make a list. The turn ends when the permit is dropped.
    pub(super) async fn turn(&self, reader: &Reader) -> OwnedSemaphorePermit {
        let turn = if reader.is_admin { &self.turn_of_admins } else { &self.turn_of_others };
        Arc::clone(turn).acquire_owned().await.expect("it is never closed")
    }

    /// Counts a list of `bytes` until the permit is dropped, or returns `None` if there is no room.
    pub(super) fn take(&self, reader: &Reader, bytes: usize) -> Option<LongPermit> {
        let is_taken = self.unread().take(reader, bytes);
        is_taken.then(|| LongPermit { lists: self.clone(), reader: reader.clone(), bytes })
    }

    /// Returns the number of bytes that are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        let unread = self.unread();
        unread.of_admins + unread.of_others
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a long list, until it is dropped.
#[derive(Debug)]
pub(super) struct LongPermit {
    lists: LongLists,
    reader: Reader,
    bytes: usize,
}

impl Drop for LongPermit {
    fn drop(&mut self) {
        self.lists.unread().release(&self.reader, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn reader(user: &str, is_admin: bool) -> Reader {
        Reader { user: Some(Name::new(user).expect("a name")), is_admin }
    }

    #[test]
    fn an_admin_has_room_for_a_long_list_whatever_others_leave_unread() {
        let lists = LongLists::default();
        let mut unread = Vec::new();
        for number in 0..40 {
            let reader = reader(&format!("user-{number}"), false);
            while let Some(permit) = lists.take(&reader, 5 * MIB) {
                unread.push(permit);
            }
        }
        assert_eq!(lists.taken(), 30 * MIB);
        let (ada, bob) = (reader("ada", true), reader("bob", true));
        while let Some(permit) = lists.take(&ada, 5 * MIB) {
            unread.push(permit);
        }
        assert_eq!(lists.taken(), 60 * MIB, "of one admin no more than half");
        unread.truncate(unread.len() - 4);
        assert!(lists.take(&bob, 24 * MIB).is_some());
        assert!(lists.take(&bob, 25 * MIB).is_none(), "beyond the budget");
        unread.clear();
        assert_eq!((lists.taken(), lists.unread().of_readers.len()), (0, 0));
    }

    #[test]
    fn a_list_of_any_length_is_sent_while_no_other_is_unread() {
        let lists = LongLists::default();
        let (ada, bob, nobody) = (reader("ada", true), reader("bob", true), Reader { user: None, is_admin: false });
        let scrape = lists.take(&nobody, 2 * LONG_LISTS_BYTES_MAX).expect("it is alone");
        assert!(lists.take(&nobody, 1).is_none());
        let long = lists.take(&ada, 2 * LONG_LISTS_BYTES_MAX).expect("it is the only one of an admin");
        assert!(lists.take(&bob, 1).is_none());
        drop(long);
        let long = lists.take(&bob, LONG_LISTS_RESERVED_BYTES).expect("admins have their part");
        drop(scrape);
        let others =
            lists.take(&nobody, OF_OTHERS_MAX / 2).expect("what an admin has not read leaves the others theirs");
        let more = lists.take(&ada, OF_OTHERS_MAX / 2).expect("there is room");
        assert!(lists.take(&Reader { user: None, is_admin: false }, OF_OTHERS_MAX / 2).is_none(), "it is all taken");
        drop((long, others, more));
        assert_eq!(lists.taken(), 0);
    }
}
