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
fn an_id_without_a_time_is_retained_for_the_floor() {
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
fn a_forgotten_id_of_the_future_locks_out_nobody() {
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
                assert!(answers.forgotten(user, now).is_none_or(|forgotten| forgotten <= now), "{ahead:?} {second}");
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
fn a_clock_that_was_a_year_ahead_locks_out_nobody() {
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
fn forgotten_times_of_every_release_are_read() {
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
fn the_ids_of_a_discarded_user_are_denied() {
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
            assert!(all > self.deduplication_window.bytes, "{id} of {caller:?} was forgotten although there was room");
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
        if id_time.zip(answers.forgotten(caller, self.now.wall)).is_some_and(|(time, forgotten)| time <= forgotten) {
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
                self.charge_of(None) > self.deduplication_window.bytes && self.charge_of(Some(caller)) > self.share()
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
