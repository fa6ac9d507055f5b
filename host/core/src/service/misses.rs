//! Temporary refusal of ids and bodies that missed their deadline.
//!
//! The host sets the deadline, so the same transaction may succeed later, and clients repeat it. A transaction that
//! misses the deadline each time keeps the service busy for its whole length each time. So its id is refused after
//! [`DEADLINE_MISSES_MAX`] misses, and twice as long after each further miss.
//!
//! Its body is refused as well, for the same user and the same kind of request, because it may come without an id, or
//! with another id each time. A body is refused for [`BODY_REFUSAL_MAX`] at most, because different requests may have
//! the same body. An id or body that is answered in time is forgotten. The caller passes in the times, of a clock that
//! never goes back.

use super::{Caller, IdKey};
use lifeboat_api::transaction::Kind;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How often an id or a body may miss its deadline before it is refused for a while.
pub const DEADLINE_MISSES_MAX: u32 = 2;

/// The length of the first refusal. Each further miss doubles it.
pub const DEADLINE_REFUSAL: Duration = Duration::from_secs(30);

/// The longest refusal of an id.
pub const DEADLINE_REFUSAL_MAX: Duration = Duration::from_secs(3600);

/// The longest refusal of a body. Different requests may have the same body, and an hour would be too long for them.
/// The refusal is still long enough that users who each repeat one body keep a service busy for a small part of the
/// time.
pub const BODY_REFUSAL_MAX: Duration = Duration::from_secs(480);

/// The time after its last miss at which an id or a body is forgotten: an hour after the longest refusal.
pub const MISSED_KNOWN_FOR: Duration = Duration::from_secs(2 * 3600);

/// The most ids and bodies of a service whose misses are remembered. The one with the oldest last miss is forgotten
/// first.
pub const MISSED_KNOWN_MAX: usize = 4096;

/// An id or a body that missed its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum MissKey {
    /// A user's id.
    Id(IdKey),
    /// The first 128 bits of a hash of the body, the user who sent it, and the kind of request.
    Body([u8; 16]),
}

impl MissKey {
    /// Returns the key of a body that `caller` sent.
    pub(super) fn of_body(caller: &Caller, kind: Kind, body: &[u8]) -> Self {
        let kind = match kind {
            Kind::Transaction => 0,
            Kind::Query => 1,
        };
        // A name contains no zero byte, so the name and the incarnation cannot run together.
        let mut hasher = blake3::Hasher::new();
        hasher.update(caller.user.as_bytes()).update(&[0]).update(&caller.incarnation.to_le_bytes());
        hasher.update(&[kind]).update(body);
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self::Body(key)
    }
}

#[derive(Debug, Clone, Copy)]
struct Missed {
    count: u32,
    last: Duration,
    refused_until: Duration,
}

/// The ids and bodies that missed their deadline.
#[derive(Debug, Default)]
pub(super) struct DeadlineMisses {
    known: HashMap<MissKey, Missed>,
    /// The keys in the order of their last miss.
    order: VecDeque<MissKey>,
}

impl DeadlineMisses {
    /// Records that an id or a body missed its deadline.
    pub(super) fn miss(&mut self, key: MissKey, now: Duration) {
        self.forget_old(now);
        self.order.retain(|other| *other != key);
        self.order.push_back(key);
        while self.order.len() > MISSED_KNOWN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        let missed = self.known.entry(key).or_insert(Missed { count: 0, last: now, refused_until: Duration::ZERO });
        (missed.count, missed.last) = (missed.count.saturating_add(1), now);
        if let Some(further) = missed.count.checked_sub(DEADLINE_MISSES_MAX) {
            let longest = match key {
                MissKey::Id(_) => DEADLINE_REFUSAL_MAX,
                MissKey::Body(_) => BODY_REFUSAL_MAX,
            };
            missed.refused_until = now + DEADLINE_REFUSAL.saturating_mul(2_u32.saturating_pow(further)).min(longest);
        }
    }

    /// Returns whether no recent miss is known.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Records that an id or a body was answered in time.
    pub(super) fn answer(&mut self, key: &MissKey) {
        if self.known.remove(key).is_some() {
            self.order.retain(|other| other != key);
        }
    }

    /// Returns how often the key missed its deadline and how long it is still refused, if it is refused now.
    pub(super) fn refused(&self, key: &MissKey, now: Duration) -> Option<(u32, Duration)> {
        let missed = self.known.get(key)?;
        let left = missed.refused_until.checked_sub(now).filter(|left| !left.is_zero())?;
        Some((missed.count, left))
    }

    /// Forgets keys whose last miss was [`MISSED_KNOWN_FOR`] ago or earlier.
    pub(super) fn forget_old(&mut self, now: Duration) {
        while let Some(oldest) = self.order.front()
            && self.known.get(oldest).is_none_or(|missed| missed.last + MISSED_KNOWN_FOR <= now)
        {
            self.known.remove(oldest);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::name::Name;

    fn key(id: usize) -> MissKey {
        MissKey::Id(IdKey::new(&Name::new("ada").expect("a name"), 0, &id.to_string()))
    }

    #[test]
    fn a_body_is_known_by_its_user_and_kind() {
        let caller = |user: &str, incarnation| Caller { user: Name::new(user).expect("a name"), incarnation };
        let keys = [
            MissKey::of_body(&caller("ada", 0), Kind::Transaction, b"x"),
            MissKey::of_body(&caller("ada", 0), Kind::Query, b"x"),
            MissKey::of_body(&caller("ada", 1), Kind::Transaction, b"x"),
            MissKey::of_body(&caller("bob", 0), Kind::Transaction, b"x"),
            MissKey::of_body(&caller("ada", 0), Kind::Transaction, b"y"),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn a_miss_is_forgotten_unless_another_follows() {
        let mut misses = DeadlineMisses::default();
        let hour = Duration::from_secs(3600);
        misses.miss(key(1), Duration::ZERO);
        misses.miss(key(2), hour);
        misses.miss(key(1), hour);
        misses.forget_old(MISSED_KNOWN_FOR);
        assert!(misses.refused(&key(1), hour).is_some(), "its last miss counts");
        misses.miss(key(3), 2 * hour);
        misses.forget_old(hour + MISSED_KNOWN_FOR);
        assert_eq!(misses.order, [key(3)]);
        misses.forget_old(2 * hour + MISSED_KNOWN_FOR);
        assert!(misses.is_empty() && misses.order.is_empty());
    }

    #[test]
    fn a_body_is_refused_for_minutes_at_most_however_often_it_missed() {
        let body = MissKey::Body([1; 16]);
        let (mut misses, mut now) = (DeadlineMisses::default(), Duration::ZERO);
        misses.miss(body, now);
        for (count, seconds) in [30, 60, 120, 240, 480, 480, 480].into_iter().enumerate() {
            misses.miss(body, now);
            let refused = Duration::from_secs(seconds);
            assert_eq!(misses.refused(&body, now), Some((count as u32 + DEADLINE_MISSES_MAX, refused)));
            now += refused;
        }
    }

    #[test]
    fn the_refusal_doubles_with_each_miss_after_the_second() {
        let mut misses = DeadlineMisses::default();
        let mut now = Duration::from_secs(5);
        misses.miss(key(1), now);
        assert_eq!(misses.refused(&key(1), now), None);
        for (count, factor) in [(2, 1), (3, 2), (4, 4)] {
            misses.miss(key(1), now);
            assert_eq!(misses.refused(&key(1), now), Some((count, DEADLINE_REFUSAL * factor)));
            assert_eq!(misses.refused(&key(2), now), None);
            now += DEADLINE_REFUSAL * factor;
            assert_eq!(misses.refused(&key(1), now), None);
        }
        for _ in 0..100 {
            misses.miss(key(1), now);
        }
        assert_eq!(misses.refused(&key(1), now).map(|(_, left)| left), Some(DEADLINE_REFUSAL_MAX));
        misses.answer(&key(1));
        assert_eq!(misses.refused(&key(1), now), None);
        misses.miss(key(1), now);
        assert_eq!(misses.refused(&key(1), now), None);
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let mut misses = DeadlineMisses::default();
        for id in 0..2 * MISSED_KNOWN_MAX {
            misses.miss(key(id), Duration::ZERO);
            misses.miss(key(id), Duration::ZERO);
        }
        assert_eq!((misses.known.len(), misses.order.len()), (MISSED_KNOWN_MAX, MISSED_KNOWN_MAX));
        assert_eq!(misses.refused(&key(0), Duration::ZERO), None);
        assert!(misses.refused(&key(2 * MISSED_KNOWN_MAX - 1), Duration::ZERO).is_some());
    }
}
