//! The cost of durability and of recovery: a ledger of a thousand accounts in a data directory on disk.
//!
//! The controls are the disk alone and the same ledger in memory. Each is measured alternately with the strategy that
//! it is compared with.

use crate::disk::{BLOCK_BYTES, RawLog, scratch};
use crate::ledger::Client;
use crate::pairs::{Pairs, Turns};
use crate::report::Row;
use crate::served::{Restored, Served};
use lifeboat_api::transaction::Request;
use lifeboat_host::service::TAIL_FUEL_MAX;
use lifeboat_vm::rehydrate::REPLAY_OVERHEAD_FUEL;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The number of turns. Up to half may prove to be disturbed.
const TURNS: usize = 31;

const ACCOUNTS: u32 = 1_000;

const NAME_BYTES: usize = 14;

/// The number of requests that the client keeps in flight.
const IN_FLIGHT: usize = 256;

/// The number of transfers in a turn with many in flight.
const TRANSFERS: u32 = 10_000;

/// The number of transfers in a turn with one at a time.
const TRANSFERS_IN_SEQUENCE: u32 = 200;

/// The number of transfers that are sent at once while a tail grows.
const TAIL_STEP: u32 = 64;

/// The time limit for replaying the longest tail, for which [`TAIL_FUEL_MAX`] stands.
const RECOVERY_BUDGET: Duration = Duration::from_millis(250);

/// Measures many transfers in flight, which share frames. They are compared with as many frames of as many bytes, and
/// with the same transfers in memory. The slower of these two is the minimum for both together.
pub(crate) fn throughput() -> Vec<Row> {
    struct Turn {
        durable: Duration,
        raw: Duration,
        in_memory: Duration,
    }
    let scratch = scratch();
    let durable = durable_bank(&data(&scratch));
    let in_memory = bank_in_memory();
    let mut client = Client::new(ACCOUNTS, NAME_BYTES);
    let mut raw = RawLog::create(&scratch.path().join("raw"));
    let mut probed = RawLog::create(&scratch.path().join("probed"));
    let turns = Turns::measure(
        TURNS,
        || probed.probe(),
        || {
            let requests: Vec<Request> = client.transfers().take(TRANSFERS as usize).collect();
            let before = durable.journal_totals();
            let elapsed = transfer(&durable, requests.clone(), IN_FLIGHT);
            let after = durable.journal_totals();
            let frames = after.frames - before.frames;
            let frame_bytes = (after.frame_bytes - before.frame_bytes) / frames;
            Turn {
                durable: elapsed,
                raw: raw.write(frames, usize::try_from(frame_bytes).expect("it fits into memory")),
                in_memory: transfer(&in_memory, requests, IN_FLIGHT),
            }
        },
    );
    let row = |name, b, of: fn(&Turn) -> Duration, target| {
        let pairs = turns.pairs(TRANSFERS, |turn| (turn.durable, of(turn)));
        Row { name, a: "durable, 256 in flight", b, pairs, target }
    };
    vec![
        // The target is at least 0.7 of the slower rate.
        row("durable, transfers", "the slower of the next two", |turn| turn.raw.max(turn.in_memory), Some(1.0 / 0.7)),
        row("durable, transfers", "its frames: write, fdatasync", |turn| turn.raw, None),
        row("durable, transfers", "in memory, 256 in flight", |turn| turn.in_memory, None),
    ]
}

/// Measures a client that waits for each answer, compared with the block that must be on disk before it.
pub(crate) fn latency() -> Vec<Row> {
    let scratch = scratch();
    let durable = durable_bank(&data(&scratch));
    let mut client = Client::new(ACCOUNTS, NAME_BYTES);
    let mut raw = RawLog::create(&scratch.path().join("raw"));
    let mut probed = RawLog::create(&scratch.path().join("probed"));
    let turns = Turns::measure(
        TURNS,
        || probed.probe(),
        || {
            let requests = client.transfers().take(TRANSFERS_IN_SEQUENCE as usize).collect();
            (transfer(&durable, requests, 1), raw.write(TRANSFERS_IN_SEQUENCE.into(), BLOCK_BYTES))
        },
    );
    let pairs = turns.pairs(TRANSFERS_IN_SEQUENCE, |turn| *turn);
    let (a, b) = ("durable, 1 in flight", "4096 bytes: write, fdatasync");
    vec![Row { name: "durable, latency of a transfer", a, b, pairs, target: Some(1.5) }]
}

/// Measures the restart of a host with a service whose tail is almost long enough for a snapshot. The same ledger in
/// memory runs all the time.
pub(crate) fn recovery() -> Vec<Row> {
    struct Turn {
        restored: Restored,
        live: Duration,
    }
    let scratch = scratch();
    let replayed = leave_full_tail(&data(&scratch));
    let in_memory = bank_in_memory();
    let mut client = Client::new(ACCOUNTS, NAME_BYTES);
    let mut probed = RawLog::create(&scratch.path().join("probed"));
    let turns = Turns::measure(
        TURNS,
        || probed.probe(),
        || {
            let restored = Served::durable(&data(&scratch)).restored();
            assert_eq!(restored.replayed_transactions, u64::from(replayed), "the tail is replayed as it was");
            let live = transfer(&in_memory, client.transfers().take(TRANSFERS as usize).collect(), IN_FLIGHT);
            Turn { restored, live }
        },
    );
    let rate = turns.pairs(1, |Turn { restored, live }| (restored.took / replayed, *live / TRANSFERS));
    let took = turns.pairs(1, |turn| (turn.restored.took, RECOVERY_BUDGET));
    let opened = turns.pairs(1, |turn| (turn.restored.opened, RECOVERY_BUDGET));
    let row = |name, a, b, pairs: Pairs, target| Row { name, a, b, pairs, target };
    vec![
        // The target is at least 0.8 of the live rate.
        row("replay of a transfer", "recovery / replayed", "in memory, 256 in flight", rate, Some(1.0 / 0.8)),
        row("recovery with a full tail", "as the event tells", "the promise", took, Some(1.5)),
        row("recovery with a full tail", "with the journal, and compiling", "the promise", opened, None),
    ]
}

/// Returns the path of the data directory, which is removed with `scratch`.
fn data(scratch: &TempDir) -> PathBuf {
    scratch.path().join("data")
}

fn transfer(served: &Served, requests: Vec<Request>, in_flight: usize) -> Duration {
    let answered = served.transact("bank", requests, in_flight);
    assert_eq!(answered.failed, 0, "the ledger never traps");
    answered.elapsed
}

fn durable_bank(data: &Path) -> Served {
    let served = Served::durable(data);
    served.start_durable("bank", "ledger.wasm");
    served.transact("bank", Client::new(ACCOUNTS, NAME_BYTES).deposits(), IN_FLIGHT);
    served
}

fn bank_in_memory() -> Served {
    let served = Served::new();
    served.start("bank", &served.compile("ledger.wasm"));
    served.transact("bank", Client::new(ACCOUNTS, NAME_BYTES).deposits(), IN_FLIGHT);
    served
}

/// Leaves a service as a crash would: with a snapshot, and so many transfers after it that a few more would cause the
/// next one. Returns the number of transfers.
fn leave_full_tail(data: &Path) -> u32 {
    let served = durable_bank(data);
    served.snapshot("bank");
    let mut client = Client::new(ACCOUNTS, NAME_BYTES);
    let (mut transfers, mut tail_fuel, mut step_fuel) = (0, 0, 0);
    while tail_fuel + 2 * step_fuel < TAIL_FUEL_MAX {
        let answered = served.transact("bank", client.transfers().take(TAIL_STEP as usize), IN_FLIGHT);
        step_fuel = answered.fuel_used + u64::from(TAIL_STEP) * REPLAY_OVERHEAD_FUEL;
        tail_fuel += step_fuel;
        transfers += TAIL_STEP;
    }
    transfers
}
