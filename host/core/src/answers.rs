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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
mod tests;
