//! The cost of a shadow for concurrent transactions: the pause when it is promoted, and the rate while it works.

use crate::ledger::Client;
use crate::pairs::{Turns, median};
use crate::report::Row;
use crate::served::{Served, UnderLoad};
use lifeboat_api::sla::FailoverMode;
use std::time::{Duration, Instant};

/// The number of failovers of each ledger.
const FAILOVERS: usize = 30;

/// The number of requests that the client keeps in flight.
const IN_FLIGHT: usize = 64;

/// The number of requests in flight while the accounts are opened.
const IN_FLIGHT_AT_FIRST: usize = 256;

/// The time for which the client runs without a shadow before each failover.
const BEFORE: Duration = Duration::from_secs(1);

/// The window in which answers are counted.
const WINDOW: Duration = Duration::from_millis(100);

/// The target for the longest pause.
const PAUSE_BUDGET: Duration = Duration::from_millis(2);

/// The memory of a slot for the larger ledger, which uses about a quarter of it.
const MEMORY_BYTES: u64 = 1024 * 1024 * 1024;

const NAME_BYTES: usize = 24;

/// The size of an account in a snapshot: its name, the length of the name, and a balance of two bytes.
const ACCOUNT_BYTES: u64 = NAME_BYTES as u64 + 1 + 2;

/// Measures two ledgers that differ only in size. Each is forced to fail over again and again, alternately, while a
/// client transacts.
pub(crate) fn shadow() -> Vec<Row> {
    let mut large = Bank::open(1_500_000);
    let mut small = Bank::open(40_000);
    large.fail_over();
    small.fail_over();
    let turns = Turns::of((0..FAILOVERS).map(|_| large.fail_over().zip(small.fail_over())));

    let row = |name, a, b, of: fn(&Moved, &Moved) -> (Duration, Duration), target| {
        let pairs = turns.pairs(1, |(large, small)| of(large, small));
        Row { name, a, b, pairs, target }
    };
    vec![
        row(
            "shadow failover, pause",
            "40 MB, 64 in flight",
            "the promise",
            |large, _| (large.pause, PAUSE_BUDGET),
            Some(1.0),
        ),
        row(
            "shadow failover, pause",
            "40 MB, 64 in flight",
            "1 MB, 64 in flight",
            |large, small| (large.pause, small.pause),
            Some(2.0),
        ),
        // The target is at least half of the usual rate.
        row(
            "an answer beside a shadow, 40 MB",
            "slowest 100 ms of the shadow",
            "median 100 ms before it",
            |large, _| (large.slowest, large.usual),
            Some(2.0),
        ),
        row(
            "shadow failover, longest silence",
            "40 MB, 64 in flight",
            "1 MB, 64 in flight",
            |large, small| (large.silence, small.silence),
            None,
        ),
        row(
            "shadow failover, from first to last",
            "40 MB, 64 in flight",
            "1 MB, 64 in flight",
            |large, small| (large.took, small.took),
            None,
        ),
    ]
}

/// A ledger on its own host, and its client.
struct Bank {
    served: Served,
    client: Client,
    accounts: u32,
}

impl Bank {
    /// Opens every account.
    fn open(accounts: u32) -> Self {
        let served = Served::with_slots(1, MEMORY_BYTES);
        served.start_as("bank", &served.compile("ledger.wasm"), MEMORY_BYTES, FailoverMode::Shadow);
        let client = Client::new(accounts, NAME_BYTES);
        served.transact("bank", client.deposits(), IN_FLIGHT_AT_FIRST);
        Self { served, client, accounts }
    }

    /// Fails over, as long after a snapshot as the client runs without a shadow. Returns `None` if that failed: a host
    /// that runs out of room for its journal abandons a shadow.
    fn fail_over(&mut self) -> Option<Moved> {
        self.served.snapshot("bank");
        let load = self.served.fail_over_under_load("bank", self.client.transfers(), IN_FLIGHT, BEFORE);
        let failover = load.failover.as_ref()?;
        let bytes = u64::from(self.accounts) * ACCOUNT_BYTES;
        assert!(failover.snapshot_bytes.abs_diff(bytes) < 100, "{} bytes of state", failover.snapshot_bytes);
        assert!(failover.replayed_transactions > 0, "it is by a shadow");
        Some(Moved {
            pause: failover.pause,
            usual: load.usual(),
            slowest: load.slowest(),
            silence: load.silence(),
            took: load.over - load.forced,
        })
    }
}

/// A failover as the client saw it.
struct Moved {
    pause: Duration,
    /// The time per answer in the usual window before the failover.
    usual: Duration,
    /// The time per answer in the window with the fewest answers, while the shadow existed.
    slowest: Duration,
    /// The longest time without an answer, while the shadow existed.
    silence: Duration,
    took: Duration,
}

impl UnderLoad {
    fn slowest(&self) -> Duration {
        WINDOW.div_f64(self.windows(self.forced, self.over).fold(f64::INFINITY, f64::min).max(1.0))
    }

    fn usual(&self) -> Duration {
        WINDOW.div_f64(median(self.windows(self.forced - BEFORE, self.forced)))
    }

    /// Returns the number of answers in each complete window.
    fn windows(&self, from: Instant, to: Instant) -> impl Iterator<Item = f64> {
        let count = (to - from).as_nanos() / WINDOW.as_nanos();
        let first = move |window: u32| self.answers.partition_point(|answer| *answer < from + WINDOW * window);
        let count = u32::try_from(count).expect("it does not take years");
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        (0..count).map(move |window| (first(window + 1) - first(window)) as f64)
    }

    /// Returns the longest time without an answer, from the order to the end.
    fn silence(&self) -> Duration {
        let meanwhile = self.answers.iter().filter(|answer| (self.forced..=self.over).contains(*answer));
        let times = [self.forced].into_iter().chain(meanwhile.copied()).chain([self.over]);
        let gaps = times.clone().zip(times.skip(1)).map(|(answer, next)| next - answer);
        gaps.max().unwrap_or_default()
    }
}
