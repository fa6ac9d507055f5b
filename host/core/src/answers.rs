//! The answer index: which transaction answered which id. It recognises a repeated id.
//!
//! Each user has a window of their own, and is charged for its space. While all windows together exceed the budget
//! of the service, the user with the largest charge loses their oldest answer. So no user can take another user's fair
//! share. Two kinds of ids differ in what may be forgotten early:
//!
//! - An id with a time of its own, a UUID of version 7, may be forgotten at any age. Its time is retained for its user,
//!   and an id that is no newer is denied. So it never runs twice.
//! - Any other id is retained for [`ID_FLOOR`] at least. An id whose time is in the future is retained until that time,
//!   so that a forgotten time is always in the past. While the budget cannot be met, new transactions of the users who
//!   exceed their share are denied before they run.
//!
//! Ages are measured by a clock that is never set back or forward. Times in ids are compared with the host's clock, and
//! either may be wrong. If a time is far ahead of the host's clock, the clock that made the id was ahead, or the host's
//! clock is behind now. So when the host's clock is set back, forgotten times count up to [`ID_CLOCK_SKEW_MAX`] ahead
//! of it, and lock out no user for longer. The newest time that counted is still retained, and counts again once the
//! clock has reached it. Until then a forgotten id between the two times may run again. A retained id whose time is
//! further ahead than that is treated as an id without a time.

mod charges;

use charges::Charges;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_journal::frame::RecordNumber;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How far ahead of the host's clock the time in an id may be. An id whose time is further ahead is treated as one
/// without a time.
pub const ID_CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// The shortest time for which the answer to an id without a time is retained, however much its user sends. It is
/// longer than a client waits before it repeats a request.
pub const ID_FLOOR: Duration = Duration::from_secs(60);

/// The smallest step of the host's clock that is detected by comparison with the monotonic clock. A smaller
/// difference may come from reading the two clocks one after the other.
const CLOCK_STEP_MIN: Duration = Duration::from_secs(1);

/// How far back repeated ids are recognised. Exactly-once execution holds within this window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeduplicationWindow {
    /// The number of ids that are retained.
    pub ids: usize,
    /// How long an id is retained.
    pub age: Duration,
    /// The bytes that are retained for the ids: answers in memory, or the service's records in a durable journal.
    pub bytes: u64,
}

impl Default for DeduplicationWindow {
    /// Returns a window of a million ids, a day, and 256 MiB of answers in memory.
    fn default() -> Self {
        Self { ids: 1_000_000, age: Duration::from_secs(24 * 60 * 60), bytes: 256 * 1024 * 1024 }
    }
}

impl DeduplicationWindow {
    /// Returns the default window of durable services: a million ids, a day, and 1 GiB of the journal.
    #[must_use]
    pub fn durable() -> Self {
        Self { bytes: 1024 * 1024 * 1024, ..Self::default() }
    }

    /// Returns the charge for an answer of `bytes`. It accounts for both the bytes and the place among the ids: either
    /// budget is exhausted when the charges reach `self.bytes`.
    fn charge(&self, bytes: u64) -> u64 {
        bytes.max(self.bytes / (self.ids as u64).max(1)).max(1)
    }
}

/// A moment, read from two clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The host's clock, with which times in ids are compared. It may be set back and forward.
    pub(crate) wall: Timestamp,
    /// What the host's clock would show if it had not been set since the service was started. Ages are measured by it.
    pub(crate) steady: Timestamp,
}

impl Moment {
    /// Returns the sum of the clock's steps since the start, in nanoseconds. It is positive if the clock was set
    /// forward.
    fn put_forward(&self) -> i128 {
        i128::from(self.wall.0) - i128::from(self.steady.0)
    }
}

/// A user, and which of the successive users of that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Caller {
    pub(crate) user: Name,
    pub(crate) incarnation: u64,
}

/// The first 128 bits of the BLAKE3 hash of a user's name, their incarnation, and one of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdKey([u8; 16]);

impl IdKey {
    /// Returns the key of the id `id` of `user`, who is the `incarnation`-th of that name.
    #[must_use]
    pub fn new(user: &Name, incarnation: u64, id: &str) -> Self {
        // A name contains no zero byte, so the name and the incarnation cannot be confused.
        let mut hasher = blake3::Hasher::new();
        hasher.update(user.as_bytes()).update(&[0]).update(&incarnation.to_le_bytes()).update(id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(key)
    }
}

/// An answer to retain.
#[derive(Debug, Clone)]
pub(crate) struct KeptId {
    pub(crate) key: IdKey,
    pub(crate) caller: Caller,
    /// The transaction that was answered.
    pub(crate) sequence: Sequence,
    /// The record that holds the answer.
    pub(crate) number: RecordNumber,
    /// When the transaction was answered: by the steady clock, or in the past if that was before the start.
    pub(crate) timestamp: Timestamp,
    /// The time in the id itself.
    pub(crate) id_time: Option<Timestamp>,
    /// The bytes that the answer takes.
    pub(crate) bytes: u64,
}

/// The newest forgotten times in ids, as a snapshot file stores them. Older files have only the first field, or the
/// first two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForgottenTimes {
    /// The times that count.
    pub(crate) past: NewestTimes,
    /// The times that were ahead of the host's clock when they were forgotten. They count once the host's clock has
    /// reached them.
    pub(crate) ahead: NewestTimes,
    /// The times that counted before the host's clock was set back, one entry for each of its last steps, the nearest
    /// first. They count again once the clock has reached them.
    pub(crate) put_back: Vec<NewestTimes>,
}

/// The newest times in a set of ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewestTimes {
    /// The newest time for all users. It was older than [`DeduplicationWindow::age`] when it was noted, or it comes
    /// from a file that does not distinguish users.
    pub(crate) of_all: Option<Timestamp>,
    /// The newest time for each user and incarnation.
    pub(crate) of_users: Vec<(Name, u64, Timestamp)>,
}

impl ForgottenTimes {
    /// Returns times that hold for all users.
    pub(crate) fn for_all(of_all: Option<Timestamp>) -> Self {
        Self { past: NewestTimes { of_all, of_users: Vec::new() }, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        [&self.past, &self.ahead].into_iter().chain(&self.put_back).all(|times| times.newest().is_none())
    }

    /// Encodes the times for a snapshot file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("names and numbers have a form in postcard")
    }

    /// Decodes the times from a snapshot file. Returns none if this host does not know the format.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let of_two = |(past, ahead)| Self { past, ahead, ..Self::default() };
        let of_past = |past| Self { past, ..Self::default() };
        let longest = postcard::from_bytes(bytes).or_else(|_| postcard::from_bytes(bytes).map(of_two));
        longest.or_else(|_| postcard::from_bytes(bytes).map(of_past)).ok()
    }
}

impl NewestTimes {
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        self.of_users.iter().map(|(_, _, time)| *time).max().max(self.of_all)
    }
}

/// The newest forgotten times in ids. An id that is not found and no newer may be one of the forgotten ones.
#[derive(Debug, Clone, Copy, Default)]
struct Forgotten {
    /// The newest time that counts.
    past: Option<Timestamp>,
    /// The newest time that was further ahead of the host's clock. It counts once the clock has reached it.
    ahead: Option<Timestamp>,
    /// The newest time that counted before the clock was set back, for each of its last steps, the nearest first. They
    /// count again once the clock has reached them. Each has a place of its own, separate from `ahead`: a time that is
    /// far ahead must not hide those that the clock will reach soon.
    put_back: [Option<Timestamp>; PUT_BACK_KEPT],
}

/// The number of cut-off times that are retained for each user when the clock is set back. If there are more, the two
/// farthest are merged.
pub(crate) const PUT_BACK_KEPT: usize = 4;

impl Forgotten {
    fn newest(&self) -> Option<Timestamp> {
        self.put_back.into_iter().fold(self.past.max(self.ahead), Option::max)
    }

    /// Returns the newest time that counts by the host's clock.
    fn at(&self, wall: Timestamp) -> Option<Timestamp> {
        let reached = |time: Option<Timestamp>| time.filter(|time| *time <= wall);
        self.put_back.into_iter().map(reached).fold(self.past.max(reached(self.ahead)), Option::max)
    }

    fn note(&mut self, time: Timestamp, wall: Timestamp) {
        self.reach(wall);
        let newest = if time <= wall.plus(ID_CLOCK_SKEW_MAX) { &mut self.past } else { &mut self.ahead };
        *newest = (*newest).max(Some(time));
    }

    /// Records that the host's clock has been at `time`.
    fn reach(&mut self, time: Timestamp) {
        self.past = self.at(time);
        self.ahead = self.ahead.filter(|ahead| Some(*ahead) > self.past);
        let later = self.put_back.into_iter().flatten().filter(|later| Some(*later) > self.past);
        self.put_back = nearest(later.collect());
    }

    /// Limits the times that count to at most [`ID_CLOCK_SKEW_MAX`] ahead of the host's clock.
    fn bound(&mut self, wall: Timestamp) {
        let latest = Some(wall.plus(ID_CLOCK_SKEW_MAX));
        if self.past > latest {
            self.put_back = nearest(self.put_back.into_iter().chain([self.past]).flatten().collect());
            self.past = latest;
        }
    }
}

/// Returns as many of these times as there are places, the nearest first. If there are more, the farthest stands for
/// the rest.
fn nearest(mut times: Vec<Timestamp>) -> [Option<Timestamp>; PUT_BACK_KEPT] {
    times.sort_unstable();
    times.dedup();
    while times.len() > PUT_BACK_KEPT {
        // The times that the removed one cut off count with the farthest.
        times.remove(times.len() - 2);
    }
    std::array::from_fn(|place| times.get(place).copied())
}

/// The map from (user, id) to the record that holds the answer.
#[derive(Debug)]
pub(crate) struct Answers {
    deduplication_window: DeduplicationWindow,
    numbers: HashMap<IdKey, RecordNumber>,
    slots: HashMap<Caller, usize>,
    windows: Vec<Window>,
    /// The charges of the users, by slot.
    charges: Charges,
    /// The slot of the latest answer, which is usually the slot of the next one.
    latest: usize,
    /// The slot whose answers are the next to be checked for their age.
    next_aged: usize,
    /// The forgotten times for users without a window.
    forgotten_of_all: Forgotten,
    /// The value of [`Moment::put_forward`] that was last accounted for.
    put_forward: i128,
}

/// The retained state of a user.
#[derive(Debug)]
struct Window {
    caller: Caller,
    /// Answers that may be forgotten at any age because their ids contain their time, oldest first.
    timed: VecDeque<Retained>,
    /// The other answers, oldest first.
    plain: VecDeque<Retained>,
    forgotten: Forgotten,
}

#[derive(Debug)]
struct Retained {
    key: IdKey,
    timestamp: Timestamp,
    /// The time in the id, or zero if the id has none.
    id_time: Timestamp,
    charge: u64,
}

impl Retained {
    /// Returns how long until the answer may be forgotten to make room.
    fn wait(&self, now: Moment) -> Duration {
        let until = |time: Timestamp, now: Timestamp| Duration::from_nanos(time.0.saturating_sub(now.0));
        // Only a time in the past is noted as forgotten. Waiting for a time that is far ahead could take for ever.
        if self.id_time.0 > 0 && self.id_time <= now.wall.plus(ID_CLOCK_SKEW_MAX) {
            return until(self.id_time, now.wall);
        }
        until(self.timestamp.plus(ID_FLOOR), now.steady)
    }

    fn is_releasable(&self, now: Moment) -> bool {
        self.wait(now).is_zero()
    }
}

impl Window {
    fn is_empty(&self) -> bool {
        self.timed.is_empty() && self.plain.is_empty()
    }

    /// Removes the oldest answer that may be forgotten to make room.
    fn take_releasable(&mut self, now: Moment) -> Option<Retained> {
        let plain = self.plain.front().filter(|plain| plain.is_releasable(now)).map(|plain| plain.timestamp);
        let timed = self.timed.front().filter(|timed| timed.is_releasable(now)).map(|timed| timed.timestamp);
        match (timed, plain) {
            (Some(timed), Some(plain)) if plain < timed => self.plain.pop_front(),
            (Some(_), _) => self.timed.pop_front(),
            (None, Some(_)) => self.plain.pop_front(),
            (None, None) => None,
        }
    }

    /// Removes an answer that is older than the window's age.
    fn take_aged(&mut self, age: Duration, now: Moment) -> Option<Retained> {
        let queues = [&mut self.timed, &mut self.plain];
        let is_aged = |retained: &Retained| now.steady > retained.timestamp.plus(age) && retained.is_releasable(now);
        queues.into_iter().find(|queue| queue.front().is_some_and(is_aged))?.pop_front()
    }

    /// Removes the answer of this key, which is usually a late one.
    fn take(&mut self, key: &IdKey) -> Option<Retained> {
        [&mut self.timed, &mut self.plain].into_iter().find_map(|queue| {
            let index = queue.iter().rposition(|retained| retained.key == *key)?;
            queue.remove(index)
        })
    }
}

impl Answers {
    /// Creates the index of a service that has forgotten ids up to these times. `wall` is the host's clock as it is
    /// now.
    pub(crate) fn new(deduplication_window: DeduplicationWindow, forgotten: ForgottenTimes, wall: Timestamp) -> Self {
        let mut answers = Self {
            deduplication_window,
            numbers: HashMap::new(),
            slots: HashMap::new(),
            windows: Vec::new(),
            charges: Charges::default(),
            latest: 0,
            next_aged: 0,
            forgotten_of_all: Forgotten {
                past: forgotten.past.of_all,
                ahead: forgotten.ahead.of_all,
                put_back: nearest(forgotten.put_back.iter().filter_map(|times| times.of_all).collect()),
            },
            put_forward: 0,
        };
        for (user, incarnation, time) in forgotten.past.of_users {
            answers.forgotten_of(Caller { user, incarnation }).past = Some(time);
        }
        for (user, incarnation, time) in forgotten.ahead.of_users {
            answers.forgotten_of(Caller { user, incarnation }).ahead = Some(time);
        }
        for (user, incarnation, time) in forgotten.put_back.into_iter().flat_map(|times| times.of_users) {
            let of = answers.forgotten_of(Caller { user, incarnation });
            of.put_back = nearest(of.put_back.into_iter().flatten().chain([time]).collect());
        }
        // The clock may have been set to any time since then.
        answers.follow_clock(wall.plus(ID_CLOCK_SKEW_MAX), wall);
        answers
    }

    fn forgotten_of(&mut self, caller: Caller) -> &mut Forgotten {
        let slot = self.slot_or_new(&caller);
        &mut self.windows[slot].forgotten
    }

    /// Accounts for steps of the host's clock since it was last read, which was at `before`. Forgotten times count up
    /// to [`ID_CLOCK_SKEW_MAX`] ahead of the new time. Times that are further ahead lock out no user.
    pub(crate) fn look_at_clock(&mut self, before: Timestamp, now: Moment) {
        let (step_min, by) = (CLOCK_STEP_MIN.as_nanos().cast_signed(), now.put_forward() - self.put_forward);
        if now.wall >= before && by.abs() < step_min {
            return;
        }
        self.put_forward += by;
        let reached = if by < step_min { now.wall } else { now.wall.plus(ID_CLOCK_SKEW_MAX) };
        self.follow_clock(before.max(reached), now.wall);
    }

    fn follow_clock(&mut self, reached: Timestamp, wall: Timestamp) {
        let of_users = self.windows.iter_mut().map(|window| &mut window.forgotten);
        for forgotten in of_users.chain([&mut self.forgotten_of_all]) {
            forgotten.reach(reached);
            forgotten.bound(wall);
        }
    }

    /// Returns how many retained ids are treated as ids without a time because their times are too far ahead of the
    /// host's clock.
    pub(crate) fn far_ahead(&self, wall: Timestamp) -> usize {
        let latest = wall.plus(ID_CLOCK_SKEW_MAX);
        let retained = self.windows.iter().flat_map(|window| window.timed.iter().chain(&window.plain));
        retained.filter(|retained| retained.id_time > latest).count()
    }

    /// How many bytes of the journal may be held for the sake of answers.
    pub(crate) fn span_bytes_max(&self) -> u64 {
        self.deduplication_window.bytes
    }

    pub(crate) fn find(&self, key: &IdKey) -> Option<RecordNumber> {
        self.numbers.get(key).copied()
    }

    /// Returns the newest forgotten time in an id of this user that counts. An id that is not found and no newer may be
    /// one of the forgotten ones.
    pub(crate) fn forgotten(&self, caller: &Caller, wall: Timestamp) -> Option<Timestamp> {
        let window = self.slot(caller).map(|slot| &self.windows[slot]);
        window.and_then(|window| window.forgotten.at(wall)).max(self.forgotten_of_all.at(wall))
    }

    /// Returns the newest forgotten time in an id of this user, regardless of the host's clock.
    pub(crate) fn ever_forgotten(&self, caller: &Caller) -> Option<Timestamp> {
        self.forgotten(caller, Timestamp(u64::MAX))
    }

    /// Returns the newest forgotten times in ids, of all users.
    pub(crate) fn forgotten_times(&self) -> ForgottenTimes {
        let newest_times = |time: &dyn Fn(&Forgotten) -> Option<Timestamp>| {
            let of_user = |window: &Window| {
                Some((window.caller.user.clone(), window.caller.incarnation, time(&window.forgotten)?))
            };
            let of_users = self.windows.iter().filter_map(of_user).collect();
            NewestTimes { of_all: time(&self.forgotten_of_all), of_users }
        };
        ForgottenTimes {
            past: newest_times(&|of| of.past),
            ahead: newest_times(&|of| of.ahead),
            put_back: (0..PUT_BACK_KEPT)
                .map(|place| newest_times(&|of| of.put_back[place]))
                .filter(|times| times.newest().is_some())
                .collect(),
        }
    }

    /// Returns whether there is room for a new answer to any user.
    pub(crate) fn has_room(&self) -> bool {
        self.charges.total() <= self.deduplication_window.bytes
    }

    /// Makes room for a new answer to a user. Adds the records of the answers forgotten for that to `forgotten`.
    ///
    /// # Errors
    /// There is no room. The error is the time until the user's oldest answer may be forgotten.
    pub(crate) fn make_room(
        &mut self,
        caller: &Caller,
        now: Moment,
        forgotten: &mut Vec<RecordNumber>,
    ) -> Result<(), Duration> {
        while !self.has_room() {
            if let Some(number) = self.forget_of_largest(now) {
                forgotten.push(number);
                continue;
            }
            let Some(slot) = self.slot(caller) else { break };
            if self.charges.of(slot) <= self.share() {
                break;
            }
            match self.windows[slot].take_releasable(now) {
                Some(retained) => forgotten.extend(self.forget(slot, &retained, now)),
                None => {
                    let window = &self.windows[slot];
                    let oldest = window.timed.front().into_iter().chain(window.plain.front());
                    return Err(oldest.map(|oldest| oldest.wait(now)).min().unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    /// Returns the charge that each user may reach regardless of the other users.
    fn share(&self) -> u64 {
        self.deduplication_window.bytes / self.charges.charged().max(1)
    }

    /// Retains an answer that was given at `wall`. Replaces an earlier, retryable answer of the same id, and returns
    /// its record.
    pub(crate) fn insert(&mut self, kept: KeptId, wall: Timestamp) -> Option<RecordNumber> {
        let KeptId { key, caller, number, timestamp, id_time, bytes, .. } = kept;
        let slot = self.slot_or_new(&caller);
        self.latest = slot;
        let replaced = self.numbers.insert(key, number);
        if replaced.is_some()
            && let Some(older) = self.windows[slot].take(&key)
        {
            self.charges.subtract(slot, older.charge);
        }
        let charge = self.deduplication_window.charge(bytes);
        let retained = Retained { key, timestamp, id_time: id_time.unwrap_or_default(), charge };
        let window = &mut self.windows[slot];
        let is_timed = (1..=wall.0).contains(&retained.id_time.0);
        if is_timed { &mut window.timed } else { &mut window.plain }.push_back(retained);
        self.charges.add(slot, charge);
        replaced
    }

    /// Records that the answer in record `from` is now in record `to`. Returns false if the key's answer is not in
    /// `from`.
    pub(crate) fn relocate(&mut self, key: &IdKey, from: RecordNumber, to: RecordNumber) -> bool {
        let Some(number) = self.numbers.get_mut(key).filter(|number| **number == from) else { return false };
        *number = to;
        true
    }

    /// Forgets an answer that lies beyond the deduplication window and returns its record. The caller repeats this
    /// until it returns none. Each call checks the age of one user's answers, and the next call checks the next user's.
    pub(crate) fn trim(&mut self, now: Moment) -> Option<RecordNumber> {
        if self.next_aged >= self.windows.len() {
            self.next_aged = 0;
        }
        let slot = self.next_aged;
        if let Some(window) = self.windows.get_mut(slot) {
            if let Some(aged) = window.take_aged(self.deduplication_window.age, now) {
                return self.forget(slot, &aged, now);
            }
            self.next_aged += 1;
            self.discard_if_old(slot, now.wall);
        }
        if self.has_room() { None } else { self.forget_of_largest(now) }
    }

    /// Returns the number of users with a window.
    pub(crate) fn users(&self) -> usize {
        self.windows.len()
    }

    fn forget_of_largest(&mut self, now: Moment) -> Option<RecordNumber> {
        let slot = self.charges.largest()?;
        let retained = self.windows[slot].take_releasable(now)?;
        self.forget(slot, &retained, now)
    }

    /// Forgets an answer that was removed from its window.
    fn forget(&mut self, slot: usize, retained: &Retained, now: Moment) -> Option<RecordNumber> {
        if retained.id_time.0 > 0 {
            self.windows[slot].forgotten.note(retained.id_time, now.wall);
        }
        self.charges.subtract(slot, retained.charge);
        self.numbers.remove(&retained.key)
    }

    /// Returns the slot of a user with a window.
    fn slot(&self, caller: &Caller) -> Option<usize> {
        let is_latest = self.windows.get(self.latest).is_some_and(|window| window.caller == *caller);
        if is_latest { Some(self.latest) } else { self.slots.get(caller).copied() }
    }

    fn slot_or_new(&mut self, caller: &Caller) -> usize {
        if let Some(slot) = self.slot(caller) {
            return slot;
        }
        let slot = self.windows.len();
        self.slots.insert(caller.clone(), slot);
        self.windows.push(Window {
            caller: caller.clone(),
            timed: VecDeque::new(),
            plain: VecDeque::new(),
            forgotten: Forgotten::default(),
        });
        self.charges.push();
        slot
    }

    /// Discards a window without answers once its forgotten times are old enough to hold for all users: every user
    /// would consider an id of that time old.
    fn discard_if_old(&mut self, slot: usize, wall: Timestamp) {
        let window = &self.windows[slot];
        let is_old = |time: Timestamp| time.plus(self.deduplication_window.age).plus(ID_CLOCK_SKEW_MAX) < wall;
        let newest = window.forgotten.newest();
        if !window.is_empty() || !newest.is_none_or(is_old) {
            return;
        }
        let discarded = self.windows.swap_remove(slot);
        self.charges.swap_remove(slot);
        self.slots.remove(&discarded.caller);
        if let Some(newest) = newest {
            self.forgotten_of_all.note(newest, wall);
        }
        if let Some(moved) = self.windows.get(slot) {
            self.slots.insert(moved.caller.clone(), slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashSet};

    const SECOND: u64 = 1_000_000_000;
    const NOW: Timestamp = Timestamp(1_700_000_000 * SECOND);

    fn caller(user: &str) -> Caller {
        Caller { user: Name::new(user).expect("a name"), incarnation: 0 }
    }

    fn key(caller: &Caller, id: &str) -> IdKey {
        IdKey::new(&caller.user, caller.incarnation, id)
    }

    fn kept(caller: &Caller, id: &str, number: u64, at: Timestamp, id_time: Option<Timestamp>, bytes: u64) -> KeptId {
        let caller = caller.clone();
        let (key, number) = (key(&caller, id), RecordNumber(number));
        KeptId { key, caller, sequence: Sequence(number.0), number, timestamp: at, id_time, bytes }
    }

    /// Returns a moment of a host whose clock is never set.
    fn at(time: Timestamp) -> Moment {
        Moment { wall: time, steady: time }
    }

    fn insert(answers: &mut Answers, kept: KeptId) {
        let wall = kept.timestamp;
        answers.insert(kept, wall);
    }

    fn trim_all(answers: &mut Answers, now: Timestamp) -> Vec<u64> {
        std::iter::from_fn(|| answers.trim(at(now))).map(|number| number.0).collect()
    }

    fn small(ids: usize) -> Answers {
        Answers::new(
            DeduplicationWindow { ids, bytes: 1_000, ..DeduplicationWindow::default() },
            ForgottenTimes::default(),
            NOW,
        )
    }

    #[test]
    fn two_incarnations_of_a_user_share_no_id() {
        let (first, second) = (caller("ada"), Caller { incarnation: 1, ..caller("ada") });
        assert_ne!(key(&first, "1"), key(&second, "1"));
    }

    #[test]
    fn what_one_user_sends_makes_nobody_else_forget() {
        let (ada, bob) = (caller("ada"), caller("bob"));
        for id_time in [None, Some(NOW)] {
            let mut answers = small(1_000);
            for number in 0..10 {
                insert(&mut answers, kept(&ada, &number.to_string(), number, NOW, None, 20));
            }
            let now = NOW.plus(ID_FLOOR);
            for number in 10..500 {
                let _ = answers.make_room(&bob, at(now), &mut Vec::new());
                insert(&mut answers, kept(&bob, &number.to_string(), number, NOW, id_time, 30));
                trim_all(&mut answers, now);
                assert!(answers.charges.total() <= 1_000, "{}", answers.charges.total());
            }
            for number in 0..10 {
                let found = answers.find(&key(&ada, &number.to_string()));
                assert_eq!(found, Some(RecordNumber(number)), "{number}");
            }
            assert_eq!(answers.ever_forgotten(&ada), None);
            assert_eq!(answers.forgotten(&bob, now), id_time);
        }
    }

    #[test]
    fn an_id_without_a_time_is_retained_for_the_floor_and_the_next_one_denied() {
        let (ada, bob) = (caller("ada"), caller("bob"));
        let mut answers = small(10);
        for number in 0..11 {
            assert_eq!(answers.make_room(&ada, at(NOW), &mut Vec::new()), Ok(()));
            insert(&mut answers, kept(&ada, &number.to_string(), number, NOW, None, 1));
            assert!(trim_all(&mut answers, NOW).is_empty());
        }
        let later = NOW.plus(Duration::from_secs(20));
        assert_eq!(answers.make_room(&ada, at(later), &mut Vec::new()), Err(ID_FLOOR - Duration::from_secs(20)));
        // The other users have their share, and it does not end with their first answer.
        for number in 11..16 {
            assert_eq!(answers.make_room(&bob, at(later), &mut Vec::new()), Ok(()), "{number}");
            insert(&mut answers, kept(&bob, &number.to_string(), number, later, None, 1));
        }
        let mut forgotten = Vec::new();
        assert_eq!(answers.make_room(&ada, at(NOW.plus(ID_FLOOR)), &mut forgotten), Ok(()));
        assert_eq!(forgotten, (0..6).map(RecordNumber).collect::<Vec<_>>());
    }

    #[test]
    fn after_a_clock_was_put_back_no_id_is_forgotten_whose_time_is_still_to_come() {
        let ada = caller("ada");
        let mut answers = small(10);
        for number in 0..11 {
            insert(&mut answers, kept(&ada, &number.to_string(), number, NOW, Some(NOW), 1));
        }
        let back = Duration::from_secs(30);
        let before = Moment { wall: Timestamp(NOW.0 - 30_000_000_000), steady: NOW };
        answers.look_at_clock(NOW, before);
        assert_eq!(answers.trim(before), None);
        assert_eq!(answers.make_room(&ada, before, &mut Vec::new()), Err(back));
        assert!((0..11).all(|number| answers.find(&key(&ada, &number.to_string())).is_some()));
        // Once that time has come, they are forgotten, and their time is noted.
        assert!(!trim_all(&mut answers, NOW).is_empty());
        assert_eq!(answers.forgotten(&ada, NOW), Some(NOW));
    }

    #[test]
    fn ids_with_a_time_are_never_held_up_by_those_without() {
        let ada = caller("ada");
        let mut answers = small(10);
        for number in 0..100 {
            let now = NOW.plus(Duration::from_millis(number));
            assert_eq!(answers.make_room(&ada, at(now), &mut Vec::new()), Ok(()), "{number}");
            let id_time = (number != 0 && number != 50).then_some(now);
            insert(&mut answers, kept(&ada, &number.to_string(), number, now, id_time, 1));
            trim_all(&mut answers, now);
        }
        for plain in ["0", "50"] {
            assert!(answers.find(&key(&ada, plain)).is_some(), "{plain}");
        }
        assert_eq!(answers.ever_forgotten(&ada), Some(NOW.plus(Duration::from_millis(91))));
    }

    #[test]
    fn an_id_of_the_future_locks_out_nobody_and_is_denied_once_it_is_forgotten() {
        let (ada, bob) = (caller("ada"), caller("bob"));
        for ahead in [Duration::from_secs(240), Duration::from_secs(55 * 60)] {
            let mut answers = small(10);
            let time = NOW.plus(ahead);
            insert(&mut answers, kept(&ada, "ahead", 1, NOW, Some(time), 1));
            let mut number = 1;
            // Runs until the time in the ids has passed.
            for second in 0..ahead.as_secs() + 120 {
                let now = NOW.plus(Duration::from_secs(second));
                for user in [&ada, &bob] {
                    number += 1;
                    assert!(
                        answers.forgotten(user, now).is_none_or(|forgotten| forgotten <= now),
                        "{ahead:?} {second}"
                    );
                    assert_eq!(answers.make_room(user, at(now), &mut Vec::new()), Ok(()));
                    insert(&mut answers, kept(user, &number.to_string(), number, now, Some(now), 1));
                    trim_all(&mut answers, now);
                }
                let is_known = answers.find(&key(&ada, "ahead")).is_some();
                let is_denied = answers.forgotten(&ada, now).is_some_and(|forgotten| time <= forgotten);
                let is_like_any_other = ahead > ID_CLOCK_SKEW_MAX && second >= ID_FLOOR.as_secs();
                let is_to_come = now < time;
                assert!(is_known || is_denied || is_like_any_other && is_to_come, "{ahead:?} {second}");
            }
            assert_eq!(answers.find(&key(&ada, "ahead")), None);
        }
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_locks_out_nobody_and_forgets_nothing_at_once() {
        let (ada, bob, eve) = (caller("ada"), caller("bob"), caller("eve"));
        let ahead = NOW.plus(Duration::from_secs(86_400 * 365));
        let mut answers = small(10);
        for number in 0..11 {
            insert(&mut answers, kept(&ada, &number.to_string(), number, ahead, Some(ahead), 1));
        }
        assert_eq!(trim_all(&mut answers, ahead), [0]);
        assert_eq!(answers.forgotten(&ada, ahead), Some(ahead));
        for number in 11..15 {
            insert(&mut answers, kept(&bob, &number.to_string(), number, ahead, None, 1));
        }
        assert_eq!(trim_all(&mut answers, ahead), [1, 2, 3, 4]);
        // The steady clock shows no step.
        let mut now = Moment { wall: NOW, steady: ahead };
        answers.look_at_clock(ahead, now);
        assert_eq!((answers.far_ahead(NOW), answers.ever_forgotten(&bob)), (6, None));
        let latest = NOW.plus(ID_CLOCK_SKEW_MAX);
        let later = NOW.plus(Duration::from_secs(3_600));
        let restarted = Answers::new(answers.deduplication_window, answers.forgotten_times(), later);
        for answers in [&answers, &restarted] {
            assert_eq!(answers.forgotten(&ada, later), Some(latest));
        }
        answers.insert(kept(&eve, "15", 15, ahead, None, 1), NOW);
        assert_eq!((answers.trim(now), answers.make_room(&ada, now, &mut Vec::new())), (None, Err(ID_FLOOR)));
        now = Moment { wall: NOW.plus(ID_FLOOR), steady: ahead.plus(ID_FLOOR) };
        assert_eq!(answers.trim(now), Some(RecordNumber(5)));
        assert_eq!(answers.forgotten(&ada, now.wall), Some(latest));
    }

    #[test]
    fn what_was_forgotten_counts_again_after_a_clock_that_was_behind() {
        let ada = caller("ada");
        let behind = Timestamp(NOW.0 - 3_600 * SECOND);
        for is_restarted in [false, true] {
            let mut answers = small(10);
            for number in 0..11 {
                insert(&mut answers, kept(&ada, &number.to_string(), number, NOW, Some(NOW), 1));
            }
            assert_eq!(trim_all(&mut answers, NOW), [0]);
            if is_restarted {
                answers = Answers::new(answers.deduplication_window, answers.forgotten_times(), behind);
            } else {
                answers.look_at_clock(NOW, Moment { wall: behind, steady: NOW });
            }
            // Ids from the hour that the clock repeats are accepted.
            assert_eq!(answers.forgotten(&ada, behind), Some(behind.plus(ID_CLOCK_SKEW_MAX)));
            // The times of clients with correct clocks are far ahead. They count once the host's clock is correct.
            let new = NOW.plus(Duration::from_secs(10));
            let mut steady = if is_restarted { behind } else { NOW };
            for number in 11..30 {
                answers.insert(kept(&ada, &number.to_string(), number, steady, Some(new), 1), behind);
            }
            steady = steady.plus(ID_FLOOR);
            let now = Moment { wall: behind.plus(ID_FLOOR), steady };
            while answers.trim(now).is_some() {}
            assert!(answers.find(&key(&ada, "11")).is_none() || !is_restarted);
            let restarted = Answers::new(answers.deduplication_window, answers.forgotten_times(), new);
            for answers in [answers, restarted] {
                assert_eq!(answers.forgotten(&ada, new), answers.ever_forgotten(&ada));
                assert!(answers.forgotten(&ada, new) >= Some(NOW), "{is_restarted}");
            }
        }
    }

    #[test]
    fn one_id_of_a_clock_that_was_a_year_ahead_hides_nothing_that_the_clock_reaches_again() {
        let ada = caller("ada");
        let year_ahead = NOW.plus(Duration::from_secs(86_400 * 365));
        let behind = Timestamp(NOW.0 - 600 * SECOND);
        for is_restarted in [false, true] {
            let mut answers = small(10);
            insert(&mut answers, kept(&ada, "year", 0, Timestamp(NOW.0 - 60 * SECOND), Some(year_ahead), 1));
            for number in 1..12 {
                insert(&mut answers, kept(&ada, &number.to_string(), number, NOW, Some(NOW), 1));
            }
            assert_eq!(trim_all(&mut answers, NOW), [0, 1]);
            assert_eq!(answers.forgotten(&ada, NOW), Some(NOW));
            if is_restarted {
                answers = Answers::new(answers.deduplication_window, answers.forgotten_times(), behind);
            } else {
                answers.look_at_clock(NOW, Moment { wall: behind, steady: NOW });
            }
            assert_eq!(answers.forgotten(&ada, behind), Some(behind.plus(ID_CLOCK_SKEW_MAX)));
            assert_eq!(answers.forgotten(&ada, NOW), Some(NOW), "the clock has caught up");
            assert_eq!(answers.ever_forgotten(&ada), Some(year_ahead));
        }
    }

    #[test]
    fn each_of_the_last_times_that_a_clock_was_put_back_is_made_up_for_by_itself() {
        let ada = caller("ada");
        let day = Duration::from_secs(86_400);
        for is_restarted in [false, true] {
            let mut answers = small(10);
            let mut now = at(NOW.plus(365 * day));
            let mut number = 0;
            // The first id is a year ahead, and those of the next days are ten minutes ahead each.
            let mut send = |answers: &mut Answers, now: Moment| {
                for _ in 0..11 {
                    number += 1;
                    answers.insert(kept(&ada, &number.to_string(), number, now.steady, Some(now.wall), 1), now.wall);
                    while answers.trim(now).is_some() {}
                }
            };
            let put_back = |answers: &mut Answers, now: &mut Moment, wall: Timestamp| {
                if is_restarted {
                    *answers = Answers::new(answers.deduplication_window, answers.forgotten_times(), wall);
                    *now = at(wall);
                } else {
                    let before = std::mem::replace(&mut now.wall, wall).max(wall);
                    answers.look_at_clock(before, *now);
                }
            };
            send(&mut answers, now);
            put_back(&mut answers, &mut now, NOW);
            for days in 1..4_u32 {
                let time = NOW.plus(days * day);
                now = Moment { wall: time, steady: now.steady.plus(day) };
                send(&mut answers, now);
                assert_eq!(answers.forgotten(&ada, time), Some(time));
                let behind = Timestamp(time.0 - 600 * SECOND);
                put_back(&mut answers, &mut now, behind);
                assert_eq!(answers.forgotten(&ada, behind), Some(behind.plus(ID_CLOCK_SKEW_MAX)));
                assert_eq!(answers.forgotten(&ada, time), Some(time), "day {days}, {is_restarted}");
            }
        }
    }

    #[test]
    fn of_more_times_than_there_are_places_the_farthest_stands_for_the_rest() {
        let times = |times: &[u64]| times.iter().map(|time| Timestamp(*time)).collect::<Vec<_>>();
        assert_eq!(nearest(times(&[7, 3, 7])), [Some(Timestamp(3)), Some(Timestamp(7)), None, None]);
        assert_eq!(nearest(times(&[9, 2, 4, 6, 3])), [2, 3, 4, 9].map(|time| Some(Timestamp(time))));
    }

    #[test]
    fn what_a_file_retains_is_read_as_it_was_and_as_older_hosts_wrote_it() {
        let of_user = |time| (caller("ada").user, 1, Timestamp(time));
        let times = ForgottenTimes {
            past: NewestTimes { of_all: Some(Timestamp(1)), of_users: vec![of_user(2)] },
            ahead: NewestTimes { of_all: None, of_users: vec![of_user(3)] },
            put_back: vec![NewestTimes { of_all: Some(Timestamp(4)), of_users: vec![of_user(5)] }],
        };
        assert_eq!(ForgottenTimes::from_bytes(&times.to_bytes()).as_ref(), Some(&times));
        let of_two = ForgottenTimes { put_back: Vec::new(), ..times.clone() };
        let of_past = ForgottenTimes { ahead: NewestTimes::default(), ..of_two.clone() };
        let older = postcard::to_stdvec(&(&times.past, &times.ahead)).expect("it has a form");
        assert_eq!(ForgottenTimes::from_bytes(&older), Some(of_two));
        let oldest = postcard::to_stdvec(&times.past).expect("it has a form");
        assert_eq!(ForgottenTimes::from_bytes(&oldest), Some(of_past));
        // Older hosts read what this one writes.
        assert_eq!(postcard::from_bytes(&times.to_bytes()), Ok(times.past));
        assert_eq!(ForgottenTimes::from_bytes(&[]), None);
    }

    #[test]
    fn a_clock_that_is_put_forward_makes_no_answer_older() {
        let ada = caller("ada");
        let mut answers = small(10);
        for number in 0..11 {
            insert(&mut answers, kept(&ada, &number.to_string(), number, NOW, None, 1));
        }
        let now = Moment { wall: NOW.plus(2 * answers.deduplication_window.age), steady: NOW };
        assert_eq!((answers.trim(now), answers.make_room(&ada, now, &mut Vec::new())), (None, Err(ID_FLOOR)));
    }

    #[test]
    fn a_user_who_is_long_gone_is_discarded_and_their_ids_denied() {
        let (ada, bob) = (caller("ada"), caller("bob"));
        let mut answers = small(10);
        insert(&mut answers, kept(&ada, "1", 1, NOW, Some(NOW), 1));
        insert(&mut answers, kept(&bob, "2", 2, NOW, None, 1));
        let day = answers.deduplication_window.age;
        let later = NOW.plus(day).plus(Duration::from_secs(1));
        insert(&mut answers, kept(&caller("eve"), "3", 3, later, None, 1));
        for _ in 0..3 {
            trim_all(&mut answers, later);
        }
        assert_eq!((answers.users(), answers.ever_forgotten(&ada), answers.ever_forgotten(&bob)), (2, Some(NOW), None));
        assert_eq!(answers.forgotten_times().past.of_users, [(ada.user.clone(), 0, NOW)]);
        let later = later.plus(ID_CLOCK_SKEW_MAX);
        for _ in 0..3 {
            trim_all(&mut answers, later);
        }
        assert_eq!(answers.users(), 1);
        assert_eq!([&ada, &bob].map(|user| answers.forgotten(user, later)), [Some(NOW); 2]);
        // This also holds after a clock that was behind for a while.
        let behind = Moment { wall: Timestamp(NOW.0 - 3_600 * SECOND), steady: later };
        answers.look_at_clock(later, behind);
        assert_eq!(answers.forgotten(&bob, behind.wall), Some(behind.wall.plus(ID_CLOCK_SKEW_MAX)));
        let restarted = Answers::new(answers.deduplication_window, answers.forgotten_times(), behind.wall);
        for answers in [&answers, &restarted] {
            assert_eq!(answers.forgotten(&bob, later), Some(NOW));
        }
        assert_eq!(answers.find(&key(&caller("eve"), "3")), Some(RecordNumber(3)));
    }

    /// What the model knows of an answered id.
    #[derive(Debug, Clone)]
    struct Known {
        kept: KeptId,
        charge: u64,
        is_retained: bool,
        was_forgotten: bool,
        /// The index may know only for all users together that the id was forgotten.
        is_of_all: bool,
        /// Whether the user's clock was too far ahead when they made the id.
        is_ahead: bool,
        /// Whether the id was forgotten, and its time counted then or later.
        has_counted: bool,
        /// Whether that is so or cannot be excluded: the clock reached its time, but a later time of another user may
        /// stand for all users.
        may_have_counted: bool,
        /// Whether the id may run again, because its time was too far ahead of the clock when it was forgotten, or was
        /// so once since. This ends once the clock has reached all forgotten times of its user (and those that counted,
        /// if this one did), or is near them after a step or a start.
        is_free: bool,
        /// The time in its record.
        guest_time: Timestamp,
    }

    /// All ids that were ever sent, searched linearly.
    #[derive(Debug)]
    struct Model {
        deduplication_window: DeduplicationWindow,
        known: BTreeMap<(Caller, String), Known>,
        now: Moment,
        /// The time by a clock that is always correct.
        truth: Timestamp,
        /// When the host's clock was last set or the service was started, by the correct clock.
        stepped: Timestamp,
        guest_time: Timestamp,
        last: u64,
        was_put_back: bool,
    }

    impl Model {
        fn charge_of(&self, caller: Option<&Caller>) -> u64 {
            let retained = self.known.values().filter(|known| known.is_retained);
            retained.filter(|known| caller.is_none_or(|caller| known.kept.caller == *caller)).map(|k| k.charge).sum()
        }

        fn share(&self) -> u64 {
            let retained = self.known.values().filter(|known| known.is_retained);
            let users: HashSet<_> = retained.map(|known| &known.kept.caller).collect();
            self.deduplication_window.bytes / (users.len() as u64).max(1)
        }

        /// Checks that an answer may be forgotten now, and forgets it.
        fn forget(&mut self, number: RecordNumber) {
            let (all, share, now) = (self.charge_of(None), self.share(), self.now);
            let found = self.known.iter().find(|(_, known)| known.is_retained && known.kept.number == number);
            let ((caller, id), known) = found.expect("it is retained");
            let KeptId { timestamp, id_time, .. } = known.kept;
            if now.steady <= timestamp.plus(self.deduplication_window.age) {
                assert!(
                    all > self.deduplication_window.bytes,
                    "{id} of {caller:?} was forgotten although there was room"
                );
                assert!(self.charge_of(Some(caller)) > share, "{id} was taken from the share of {caller:?}");
                let is_of_the_past = id_time.is_some_and(|time| time <= now.wall);
                let is_far_ahead = id_time.is_none_or(|time| time > now.wall.plus(ID_CLOCK_SKEW_MAX));
                let is_old = is_far_ahead && timestamp.plus(ID_FLOOR) <= now.steady;
                assert!(is_of_the_past || is_old, "{id} was forgotten early");
            }
            let key = (caller.clone(), id.clone());
            let known = self.known.get_mut(&key).expect("it is known");
            (known.is_retained, known.was_forgotten) = (false, true);
            known.is_free = id_time.is_none_or(|time| time > now.wall.plus(ID_CLOCK_SKEW_MAX));
            known.has_counted |= !known.is_free;
            known.may_have_counted |= !known.is_free;
            self.settle(Duration::ZERO);
        }

        /// Lets ids count if all forgotten times of their users are in the past, or no further ahead than `near`.
        fn settle(&mut self, near: Duration) {
            let latest = self.now.wall.plus(near);
            let holders: HashSet<_> =
                self.known.values().filter(|known| known.is_retained).map(|known| known.kept.caller.clone()).collect();
            for known in self.known.values_mut() {
                // The forgotten times of a user without answers may be known only for all users together.
                known.is_of_all |= known.was_forgotten && !holders.contains(&known.kept.caller);
                known.may_have_counted |= known.was_forgotten && known.kept.id_time <= Some(latest);
            }
            let is_ahead = |known: &&Known| known.was_forgotten && known.kept.id_time > Some(latest);
            let ahead = self.known.values().filter(is_ahead);
            let ahead: Vec<_> =
                ahead.map(|known| (known.kept.caller.clone(), known.is_of_all, known.may_have_counted)).collect();
            for known in self.known.values_mut() {
                // A time that never counted does not prevent one that did from counting again.
                let hides = |(caller, is_of_all, may_have_counted): &(Caller, bool, bool)| {
                    (*is_of_all || *caller == known.kept.caller) && (*may_have_counted || !known.has_counted)
                };
                if known.was_forgotten && !ahead.iter().any(hides) {
                    known.is_free = known.kept.id_time.is_none();
                    known.has_counted = true;
                }
            }
        }

        fn send(&mut self, answers: &mut Answers, caller: &Caller, id: &str, id_time: Option<Timestamp>, bytes: u64) {
            let key = key(caller, id);
            let place = (caller.clone(), id.to_owned());
            if answers.find(&key).is_some() {
                return;
            }
            if id_time.zip(answers.forgotten(caller, self.now.wall)).is_some_and(|(time, forgotten)| time <= forgotten)
            {
                return;
            }
            assert!(self.known.get(&place).is_none_or(|known| known.is_free), "{id} would run twice");
            let is_repeated = self.known.contains_key(&place);
            assert!(
                !is_repeated || id_time.is_none() || self.is_wrong(caller),
                "{id} would run twice by clocks that are right"
            );
            let mut forgotten = Vec::new();
            let room = answers.make_room(caller, self.now, &mut forgotten);
            forgotten.into_iter().for_each(|number| self.forget(number));
            if let Err(wait) = room {
                assert!(
                    self.charge_of(None) > self.deduplication_window.bytes
                        && self.charge_of(Some(caller)) > self.share()
                );
                assert!(wait > Duration::ZERO && wait <= ID_CLOCK_SKEW_MAX);
                let is_held = |known: &Known| known.is_retained && known.kept.caller == *caller;
                let is_timed = |known: &Known| known.kept.id_time.is_some_and(|time| time <= known.guest_time);
                let holds_timed = self.known.values().any(|known| is_held(known) && is_timed(known));
                assert!(!holds_timed || self.was_put_back, "{id}");
                return;
            }
            self.insert(answers, caller, id, id_time, bytes);
        }

        fn insert(&mut self, answers: &mut Answers, caller: &Caller, id: &str, time: Option<Timestamp>, bytes: u64) {
            self.last += 1;
            let kept = kept(caller, id, self.last, self.now.steady, time, bytes);
            let replaced = answers.insert(kept.clone(), self.now.wall);
            self.guest_time = self.guest_time.max(self.now.wall);
            let place = (caller.clone(), id.to_owned());
            let known = Known {
                charge: self.deduplication_window.charge(bytes),
                kept,
                is_retained: true,
                was_forgotten: self.known.get(&place).is_some_and(|known| known.was_forgotten),
                has_counted: self.known.get(&place).is_some_and(|known| known.has_counted),
                may_have_counted: self.known.get(&place).is_some_and(|known| known.may_have_counted),
                is_free: true,
                is_of_all: self.known.get(&place).is_some_and(|known| known.is_of_all),
                is_ahead: time.is_some_and(|time| time.plus(2 * CLOCK_STEP_MIN) > self.truth.plus(ID_CLOCK_SKEW_MAX)),
                guest_time: self.guest_time,
            };
            let older = self.known.insert(place, known);
            assert_eq!(replaced, older.filter(|older| older.is_retained).map(|older| older.kept.number));
            while let Some(number) = answers.trim(self.now) {
                self.forget(number);
            }
        }

        /// Returns whether the host's clock is behind, or the user's clock was too far ahead when they made an id.
        fn is_wrong(&self, caller: &Caller) -> bool {
            let is_ahead = |known: &Known| known.is_ahead && known.kept.caller == *caller;
            self.now.wall < self.truth || self.known.values().any(is_ahead)
        }

        /// Sets the host's clock forward by `ms` milliseconds, or back if that is negative.
        fn step(&mut self, answers: &mut Answers, ms: i64) {
            let before = self.now.wall;
            self.now.wall = Timestamp(self.now.wall.0.saturating_add_signed(ms * 1_000_000));
            answers.look_at_clock(before, self.now);
            self.was_put_back |= ms < 0;
            self.stepped = self.truth;
            let latest = self.now.wall.plus(ID_CLOCK_SKEW_MAX);
            for known in self.known.values_mut() {
                known.is_free |= known.kept.id_time.is_some_and(|time| time > latest);
            }
            self.settle(if ms >= 1_000 { ID_CLOCK_SKEW_MAX } else { Duration::ZERO });
        }

        /// Rebuilds the index as a start does, from all records of the journal since the first retained answer.
        fn restart(&mut self, answers: &mut Answers) {
            *answers = Answers::new(self.deduplication_window, answers.forgotten_times(), self.now.wall);
            self.now.steady = self.now.wall;
            self.stepped = self.truth;
            self.settle(ID_CLOCK_SKEW_MAX);
            let retained = self.known.values().filter(|known| known.is_retained);
            let Some(first) = retained.map(|known| known.kept.number).min() else { return };
            let mut there: Vec<_> = self.known.values_mut().filter(|known| known.kept.number >= first).collect();
            there.sort_by_key(|known| known.kept.sequence);
            for known in there {
                known.is_retained = true;
                known.kept.timestamp = known.guest_time.min(self.now.wall);
                assert_eq!(answers.insert(known.kept.clone(), self.now.wall), None);
            }
            for _ in 0..=answers.users() {
                while let Some(number) = answers.trim(self.now) {
                    self.forget(number);
                }
            }
        }

        fn check(&self, answers: &Answers) {
            for ((caller, id), known) in &self.known {
                let found = answers.find(&key(caller, id));
                assert_eq!(found, known.is_retained.then_some(known.kept.number), "{id} of {caller:?}");
                let forgotten = answers.forgotten(caller, self.now.wall);
                if !known.is_retained && !known.is_free {
                    assert!(known.kept.id_time <= forgotten, "{id} would run twice");
                }
                let is_of_a_step = self.truth <= self.stepped.plus(ID_CLOCK_SKEW_MAX);
                let latest = self.now.wall.plus(if is_of_a_step { ID_CLOCK_SKEW_MAX } else { Duration::ZERO });
                assert!(forgotten.is_none_or(|time| time <= latest), "it locks out {caller:?}");
            }
            assert_eq!(answers.charges.total(), self.charge_of(None));
        }
    }

    #[derive(Debug, Clone)]
    enum Action {
        /// A new transaction: the user, the number of the id, the time in the id if there is one, and the bytes of the
        /// answer. The time is relative to the host's clock if the flag is set, else to the correct clock, in
        /// milliseconds.
        Send(u8, u16, Option<(bool, i64)>, u64),
        /// A repetition of a user's latest id, whose answer was retryable.
        Retry(u8, u64),
        Wait(u64),
        /// A step of the host's clock, forward or back, in milliseconds.
        Step(i64),
        /// A correction of the host's clock.
        SetRight,
        Restart,
    }

    fn actions() -> impl Strategy<Value = Action> {
        let ahead = prop_oneof![
            3 => Just(None),
            8 => (any::<bool>(), -5_000..=0_i64).prop_map(Some),
            2 => (any::<bool>(), 0..400_000_i64).prop_map(Some),
            1 => (any::<bool>(), 0..4_000_000_i64).prop_map(Some),
        ];
        prop_oneof![
            20 => (0..4_u8, 0..60_u16, ahead, 1..400_u64).prop_map(|(user, id, ahead, bytes)| {
                // One user sends far more than the others.
                Action::Send(user.saturating_sub(1), id, ahead, bytes)
            }),
            1 => (0..3_u8, 1..400_u64).prop_map(|(user, bytes)| Action::Retry(user, bytes)),
            6 => prop_oneof![Just(1), 1..20_000_u64, 1..200_000_u64, Just(90_000_000)].prop_map(Action::Wait),
            1 => prop_oneof![-400_000..400_000_i64, Just(-3_600_000), Just(-90_000_000), Just(90_000_000)].prop_map(Action::Step),
            1 => Just(Action::SetRight),
            1 => Just(Action::Restart),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_forgotten_that_must_not_be_and_nothing_runs_twice(
            actions in prop::collection::vec(actions(), 1..200),
            ids in 1..30_usize,
            bytes in 500..3_000_u64,
        ) {
            let deduplication_window = DeduplicationWindow { ids, bytes, ..DeduplicationWindow::default() };
            let mut answers = Answers::new(deduplication_window, ForgottenTimes::default(), NOW);
            let mut model = Model {
                deduplication_window,
                known: BTreeMap::new(),
                now: at(NOW),
                truth: NOW,
                stepped: NOW,
                guest_time: NOW,
                last: 0,
                was_put_back: false,
            };
            let callers = ["ada", "bob", "eve"].map(caller);
            for action in actions {
                match action {
                    Action::Send(user, id, ahead, bytes) => {
                        let caller = &callers[usize::from(user)];
                        // The same id always has the same time.
                        let known = model.known.keys().find(|(other, text)| {
                            other == caller && text.split(' ').next() == Some(id.to_string().as_str())
                        });
                        let (text, time) = match known.map(|known| (known.1.clone(), model.known[known].kept.id_time)) {
                            Some(known) => known,
                            None => {
                                let time = ahead.map(|(is_by_host, ms)| {
                                    let now = if is_by_host { model.now.wall } else { model.truth };
                                    Timestamp(now.0.saturating_add_signed(ms * 1_000_000))
                                });
                                (format!("{id} {time:?}"), time)
                            }
                        };
                        model.send(&mut answers, caller, &text, time, bytes);
                    }
                    Action::Retry(user, bytes) => {
                        let caller = &callers[usize::from(user)];
                        let of_user = model.known.values().filter(|known| known.is_retained && known.kept.caller == *caller);
                        let latest = of_user.max_by_key(|known| known.kept.number).map(|known| known.kept.number);
                        let known = model.known.iter().find(|(_, known)| Some(known.kept.number) == latest);
                        if let Some(((_, id), known)) = known {
                            let (id, time) = (id.clone(), known.kept.id_time);
                            model.insert(&mut answers, caller, &id, time, bytes);
                        }
                    }
                    Action::Wait(ms) => {
                        let Moment { wall, steady } = model.now;
                        let time = Duration::from_millis(ms);
                        model.now = Moment { wall: wall.plus(time), steady: steady.plus(time) };
                        model.truth = model.truth.plus(time);
                    }
                    Action::Step(ms) => model.step(&mut answers, ms),
                    Action::SetRight => {
                        let ms = (i128::from(model.truth.0) - i128::from(model.now.wall.0)) / 1_000_000;
                        model.step(&mut answers, i64::try_from(ms).expect("some days"));
                    }
                    Action::Restart => model.restart(&mut answers),
                }
                model.settle(Duration::ZERO);
                model.check(&answers);
            }
        }
    }
}
