//! Sessions under a wall clock that is set forward and back, also between two starts.

use super::*;
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);
const YEAR: i64 = 365 * 24 * 3_600;

/// The longest that a token lives in one start.
const OF_ONE_START: Duration = LIFETIME.saturating_add(CLOCK_BEHIND_MAX);

/// Accounts on a disk, a correct clock, and a wall clock.
struct World {
    storage: SimulatedStorage,
    accounts: Option<Accounts>,
    /// The correct time since `NOW`.
    truth: Duration,
    /// When the process was started.
    started: Duration,
    /// The seconds by which the wall clock is ahead.
    ahead: i64,
    issued: Vec<Issued>,
}

#[derive(Clone, Copy)]
struct Issued {
    token: TokenHash,
    /// When the token was issued, by the correct clock.
    at: Duration,
}

impl World {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Pass(seconds) => self.pass(Duration::from_secs(seconds)),
            Step::Set(ahead) => self.ahead = ahead,
            Step::Restart => self.restart(),
            Step::LogIn => drop(self.log_in("ada")),
            Step::OfBob => drop(self.log_in("bob")),
        }
    }

    /// Creates the users `ada` and `bob`, years after 1970.
    fn new() -> Self {
        let (storage, accounts) = fresh();
        accounts.add("ada", false).expect("added");
        accounts.add("bob", false).expect("added");
        let truth = Duration::from_secs(50 * YEAR as u64);
        let (accounts, started, issued) = (None, truth, Vec::new());
        let mut world = Self { storage, accounts, truth, started, ahead: 0, issued };
        world.restart();
        world
    }

    fn read(&self) -> ClockReading {
        let seconds = NOW.0.saturating_add_signed(self.ahead * 1_000_000_000);
        ClockReading { wall: Timestamp(seconds).plus(self.truth), monotonic: self.truth - self.started }
    }

    fn pass(&mut self, time: Duration) {
        self.truth += time;
    }

    fn restart(&mut self) {
        self.accounts = None;
        self.started = self.truth;
        self.accounts = Some(open_at(&self.storage, self.read()).expect("loads"));
    }

    fn accounts(&self) -> &Accounts {
        self.accounts.as_ref().expect("started")
    }

    fn log_in(&mut self, user: &str) -> TokenHash {
        let random = *blake3::hash(&self.issued.len().to_le_bytes()).as_bytes();
        let let_in = self.accounts().log_in(user, PASSWORD, HOME, self.read(), random).expect("let in");
        self.issued.push(Issued { token: let_in.identity.token, at: self.truth });
        let_in.identity.token
    }

    fn holds(&self, token: TokenHash) -> bool {
        self.accounts().authority().authenticate_hash(&token, self.read()).is_ok()
    }

    fn stored(&self) -> BTreeMap<TokenHash, TokenEntry> {
        self.accounts().catalog().tokens().expect("readable")
    }

    fn bounds(&self) -> usize {
        self.accounts().catalog().token_bounds().expect("readable").len()
    }
}

#[test]
fn a_clock_that_is_behind_for_a_moment_leaves_sessions_unchanged() {
    for has_restarted in [false, true] {
        let mut world = World::new();
        let token = world.log_in("ada");
        let stored = world.stored();
        // A board without a battery starts like this, until it has obtained the time. Meanwhile a user logs in.
        world.ahead = -40 * YEAR;
        if has_restarted {
            world.restart();
        }
        assert!(world.holds(token), "{has_restarted}");
        let others = world.log_in("bob");
        world.pass(MINUTE);
        assert!(world.holds(token), "{has_restarted}");
        world.ahead = 0;
        assert!(world.holds(token), "{has_restarted}");
        world.pass(LIFETIME - 2 * MINUTE);
        assert!(world.holds(token), "{has_restarted}");
        assert_eq!(world.stored().get(&token), stored.get(&token));
        world.restart();
        assert!(world.holds(token), "{has_restarted}");
        assert_eq!(world.bounds(), 0, "a clock that is right again needs none");
        world.pass(MINUTE);
        assert!(!world.holds(token) && !world.holds(others), "{has_restarted}");
    }
}

#[test]
fn a_clock_that_is_ahead_for_a_moment_ends_no_session_of_the_same_start() {
    let mut world = World::new();
    let token = world.log_in("ada");
    world.ahead = YEAR;
    assert!(!world.holds(token), "by this clock it has expired");
    world.log_in("ada");
    world.log_in("bob");
    world.ahead = 0;
    assert!(world.holds(token));
    world.restart();
    assert!(world.holds(token));
}

#[test]
fn a_token_of_a_clock_that_was_ahead_lives_for_one_lifetime_also_over_restarts() {
    // The first start, and a later one.
    for is_restarted in [false, true] {
        let mut world = World::new();
        world.ahead = YEAR;
        let token = world.log_in("ada");
        world.ahead = 0;
        if is_restarted {
            world.restart();
        }
        for _ in 0..4 {
            world.pass(LIFETIME / 4 - Duration::from_secs(1));
            assert!(world.holds(token), "{is_restarted}");
            if is_restarted {
                world.restart();
            }
        }
        world.pass(Duration::from_secs(4) + CLOCK_BEHIND_MAX);
        assert!(!world.holds(token), "{is_restarted}");
        // The next log-in removes it from the disk, or otherwise a start does.
        if !is_restarted {
            world.log_in("bob");
        }
        world.restart();
        assert!(!world.holds(token), "{is_restarted}");
        assert!(!world.stored().contains_key(&token), "{is_restarted}");
        assert_eq!(world.bounds(), 0);
        world.pass(Duration::from_secs(YEAR as u64));
        assert!(!world.holds(token), "{is_restarted}");
    }
}

#[test]
fn the_next_start_shortens_a_bound_that_a_clock_ahead_has_set() {
    let mut world = World::new();
    world.ahead = 2 * YEAR;
    let token = world.log_in("ada");
    for ahead in [YEAR, 0] {
        world.ahead = ahead;
        world.restart();
        assert!(world.holds(token), "{ahead}");
    }
    world.pass(LIFETIME);
    world.restart();
    assert!(!world.holds(token));
}

#[test]
fn a_token_that_is_void_for_good_is_so_by_every_wall_clock() {
    let mut world = World::new();
    let token = world.log_in("ada");
    world.ahead = -YEAR;
    world.pass(OF_ONE_START - Duration::from_secs(1));
    assert!(world.holds(token), "nobody knows that it has expired");
    world.pass(Duration::from_secs(1));
    for ahead in [-YEAR, -3_600, 0, YEAR, -YEAR] {
        world.ahead = ahead;
        assert!(!world.holds(token), "{ahead}");
    }
}

#[test]
fn each_log_in_removes_a_bounded_number_of_void_tokens_from_the_disk() {
    let mut world = World::new();
    let others = VOID_REMOVED_MAX + 6;
    for user in 0..=others / TOKENS_PER_USER_MAX {
        world.accounts().add(&format!("user-{user}"), false).expect("added");
    }
    for number in 0..others {
        world.log_in(&format!("user-{}", number / TOKENS_PER_USER_MAX));
    }
    world.pass(OF_ONE_START);
    for left in [6 + 1, 2] {
        world.log_in("ada");
        assert_eq!(world.stored().len(), left);
    }
}

/// A step of a story. Times are in seconds.
#[derive(Debug, Clone, Copy)]
enum Step {
    Pass(u64),
    /// Sets the wall clock so far ahead of the correct time.
    Set(i64),
    Restart,
    LogIn,
    OfBob,
}

/// Generates the error of a clock: most often zero, small, or about a lifetime.
fn wrong() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => Just(0),
        1 => -120..120_i64,
        2 => -4 * 3_600..4 * 3_600_i64,
        1 => -40 * YEAR..40 * YEAR,
    ]
}

fn pass() -> impl Strategy<Value = Step> {
    prop_oneof![4 => 1..900_u64, 1 => 1..8_000_u64].prop_map(Step::Pass)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => pass(),
        2 => wrong().prop_map(Step::Set),
        1 => Just(Step::Restart),
        1 => Just(Step::LogIn),
        1 => Just(Step::OfBob),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_the_wall_clock_does_no_token_outlives_its_lifetime_in_one_start(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(&step);
            for issued in &world.issued {
                let since = world.truth - issued.at.max(world.started);
                prop_assert!(!world.holds(issued.token) || since < OF_ONE_START, "{since:?} after {step:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_wrong_for_a_while_shortens_no_session(
        steps in steps(),
        // How far the clock is behind at the starts at which it is wrong.
        behind in prop_oneof![1..7_200_i64, 1..40 * YEAR],
        wrong_starts in any::<u64>(),
    ) {
        let (mut world, mut starts, mut tokens) = (World::new(), 0, Vec::new());
        for step in steps {
            match step {
                Step::Pass(seconds) => world.pass(Duration::from_secs(seconds)),
                Step::Set(ahead) => world.ahead = ahead,
                Step::Restart => {
                    world.ahead = if wrong_starts >> starts & 1 == 1 { -behind } else { 0 };
                    starts += 1;
                    world.restart();
                }
                Step::LogIn if world.ahead == 0 => tokens.push((world.log_in("ada"), world.truth)),
                Step::LogIn | Step::OfBob => drop(world.log_in("bob")),
            }
            // The oldest tokens make room for new ones.
            let first = tokens.len().saturating_sub(TOKENS_PER_USER_MAX);
            for (token, issued) in &tokens[first..] {
                let is_young = world.truth < *issued + LIFETIME;
                if world.ahead == 0 {
                    prop_assert_eq!(world.holds(*token), is_young, "after {:?}", step);
                } else if world.ahead < 0 && is_young {
                    prop_assert!(world.holds(*token), "after {:?}", step);
                }
            }
        }
    }

    #[test]
    fn once_the_clock_is_right_a_token_of_a_wrong_one_lives_for_two_lifetimes_at_most(
        wrong in steps(),
        right in proptest::collection::vec(prop_oneof![3 => pass(), 1 => Just(Step::Restart)], 1..40),
    ) {
        let mut world = World::new();
        for step in wrong {
            world.take(&step);
        }
        world.ahead = 0;
        world.restart();
        let mut lived = vec![Duration::ZERO; world.issued.len()];
        for step in right {
            let Step::Pass(seconds) = step else {
                world.restart();
                continue;
            };
            for _ in 0..seconds / 60 {
                let held: Vec<_> = world.issued.iter().map(|issued| world.holds(issued.token)).collect();
                world.pass(MINUTE);
                for ((issued, held), lived) in world.issued.iter().zip(held).zip(&mut lived) {
                    if held && world.holds(issued.token) {
                        *lived += MINUTE;
                    }
                }
            }
        }
        for lived in lived {
            prop_assert!(lived <= 2 * LIFETIME + CLOCK_BEHIND_MAX, "{lived:?}");
        }
    }
}
