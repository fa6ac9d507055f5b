//! One workload, and single calls into instances of it: the settings of each call, and what was seen of it.

use crate::input::Transaction;
use crate::network::{Script, Scripted};
use lifeboat_api::call::CallRecord;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::Levels;
use lifeboat_api::name::Name;
use lifeboat_api::size::{DISK_BYTES_MAX, Size};
use lifeboat_api::text::shortened;
use lifeboat_api::transaction::{Answer, Cause, Outcome};
use lifeboat_disk::Disk;
use lifeboat_vm::engine::{Engine, Program};
use lifeboat_vm::instance::{Attempt, Call, Instance, MoveError};
use lifeboat_vm::network::Network;
use lifeboat_vm::rehydrate::{MAINTENANCE_DEADLINE, MAINTENANCE_FUEL};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::store::{Allowance, Inputs};
use std::sync::Arc;
use std::time::Duration;

/// The key of the random numbers of every check, except for runs with other ones.
const SECRET: [u8; 32] = [0x4c; 32];

/// The epoch of every check.
const EPOCH: Epoch = Epoch([0x1b; 16]);

/// The time before the first transaction: 2026-01-01.
pub(crate) const START: Timestamp = Timestamp(1_767_225_600_000_000_000);

/// The time between two transactions.
const STEP: Duration = Duration::from_secs(1);

/// The time between a transaction and the queries after it.
const QUERY_STEP: Duration = Duration::from_millis(500);

/// The interface whose import makes a guest one with a network.
const HTTP: &str = "wasi:http/outgoing-handler@";

/// The most characters of an answer in a finding.
const SHOWN_CHARS: usize = 60;

/// The most characters of a cause of failure in the place of an answer.
const CAUSE_CHARS: usize = 300;

/// What a guest sees besides the bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Setting {
    /// Whether every call has the same time.
    pub(crate) is_time_still: bool,
    /// Whether every transaction draws the same random numbers. Then all have the same sequence number, too.
    pub(crate) is_random_still: bool,
    /// Whether there is a gap between two sequence numbers.
    pub(crate) has_gaps: bool,
    /// Whether another attempt of the same transaction is made later, after a restart of the host.
    pub(crate) is_later: bool,
}

impl Setting {
    /// Returns the sequence number of the transaction of this place, from 1.
    pub(crate) fn sequence(self, place: usize) -> Sequence {
        let place = place as u64;
        match self {
            Self { is_random_still: true, .. } => Sequence(0),
            Self { has_gaps: true, .. } => Sequence(place * 2),
            Self { is_later: true, .. } => Sequence(place + 1_001),
            Self { .. } => Sequence(place),
        }
    }

    pub(crate) fn timestamp(self, place: usize) -> Timestamp {
        if self.is_time_still {
            return START;
        }
        let later = if self.is_later { Duration::from_secs(3_601) } else { Duration::ZERO };
        START.plus(STEP.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX))).plus(later)
    }

    /// Returns the call of the transaction of this place.
    pub(crate) fn call(self, place: usize, transaction: &Transaction) -> Call<'_> {
        Call {
            id: &transaction.id,
            user: &transaction.user,
            sequence: self.sequence(place),
            timestamp: self.timestamp(place),
            epoch: self.epoch(),
            body: &transaction.body,
        }
    }

    fn epoch(self) -> Epoch {
        match self {
            // That of an instantiation and a restore.
            Self { is_random_still: true, .. } => Epoch::default(),
            Self { is_later: true, .. } => Epoch([0x2c; 16]),
            Self { .. } => EPOCH,
        }
    }
}

/// What is compared of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    /// A hash of the outcome and the bytes, but not of a cause of failure.
    hash: [u8; 16],
    /// A hash of the words of the answer that is the same in any order of them, and their number.
    words: (u64, usize),
    pub(crate) bytes: usize,
    /// The answer, shortened.
    pub(crate) shown: String,
}

impl Seen {
    pub(crate) fn of(answer: &Answer) -> Self {
        let (bytes, shown): (&[u8], String) = match answer {
            Answer::Ok(bytes) => (bytes, shortened(&String::from_utf8_lossy(bytes), SHOWN_CHARS)),
            Answer::Refused(text) => (text.as_bytes(), format!("refused '{}'", shortened(text, SHOWN_CHARS))),
            Answer::Failed(cause) => (b"", format!("failed: {}", shortened(&cause.detailed(), CAUSE_CHARS))),
        };
        let outcome = answer.outcome();
        Self { outcome, hash: answer.hash().0, words: words(bytes), bytes: bytes.len(), shown }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.outcome == other.outcome && self.hash == other.hash
    }

    /// Returns whether it has the words of another answer in another order.
    pub(crate) fn is_reordered(&self, other: &Self) -> bool {
        !self.is(other) && self.outcome == other.outcome && self.bytes == other.bytes && self.words == other.words && {
            let (_, count) = self.words;
            count > 1
        }
    }
}

/// Returns a hash of the words that is the same in any order, and their number.
fn words(bytes: &[u8]) -> (u64, usize) {
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"_.-+".contains(byte);
    let (mut sum, mut count) = (0_u64, 0);
    for word in bytes.split(|byte| !is_of_word(byte)).filter(|word| !word.is_empty()) {
        let mut half = [0; 8];
        half.copy_from_slice(&blake3::hash(word).as_bytes()[..8]);
        sum = sum.wrapping_add(u64::from_le_bytes(half));
        count += 1;
    }
    (sum, count)
}

/// Returns how often each byte occurs in the exported state.
pub(crate) fn histogram(snapshot: &Snapshot) -> [u64; 256] {
    let mut counts = [0; 256];
    for byte in snapshot.chunks().flatten() {
        counts[usize::from(*byte)] += 1;
    }
    counts
}

/// Returns whether two snapshots have the same exported bytes, however they are chunked.
pub(crate) fn is_same_export(one: &Snapshot, other: &Snapshot) -> bool {
    one.state_bytes() == other.state_bytes() && one.chunks().flatten().eq(other.chunks().flatten())
}

/// A workload under check.
pub(crate) struct Lab {
    pub(crate) program: Arc<Program>,
    pub(crate) engine: Arc<Engine>,
    /// The first size of the service.
    pub(crate) size: Size,
    /// The most that any size has.
    largest: Levels,
    pub(crate) has_network: bool,
    /// Whether it is a program: each call is a run in a fresh instance, and the state is the disk.
    pub(crate) is_program: bool,
    /// The key of the random numbers.
    secret: [u8; 32],
}

impl Lab {
    pub(crate) fn new(engine: Arc<Engine>, program: Arc<Program>, size: Size) -> Self {
        let largest = Size::built_in().iter().fold(size.levels(), |most, size| Levels {
            memory_bytes: most.memory_bytes.max(size.memory_bytes).min(engine.largest_bytes()),
            disk_bytes: most.disk_bytes.max(size.disk_bytes),
        });
        let has_network = program.workload().imports.iter().any(|import| import.starts_with(HTTP));
        let is_program = program.workload().is_program();
        Self { program, engine, size, largest, has_network, is_program, secret: SECRET }
    }

    /// Returns a lab of the same workload whose guests draw other random numbers.
    pub(crate) fn with_key(&self, key: u8) -> Self {
        let (program, engine) = (Arc::clone(&self.program), Arc::clone(&self.engine));
        Self { secret: [key; 32], ..Self::new(engine, program, self.size.clone()) }
    }

    /// Returns the limits of an instantiation, a restore and an export, which are those of the host.
    pub(crate) fn maintenance(&self) -> Allowance {
        Allowance {
            fuel: MAINTENANCE_FUEL,
            memory_bytes: self.engine.slot_bytes(),
            disk_bytes: DISK_BYTES_MAX,
            inputs: Inputs::Live { deadline: MAINTENANCE_DEADLINE },
        }
    }

    /// Returns the limits of a transaction: a full tank of the first size, and the memory and disk of the largest one,
    /// because a service moves to a larger size when these are full.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance {
            fuel: self.size.fuel,
            memory_bytes: self.largest.memory_bytes,
            disk_bytes: self.largest.disk_bytes,
            inputs: Inputs::Live { deadline: self.size.deadline },
        }
    }

    /// Returns a fresh instance with `disk`.
    pub(crate) async fn start_with(&self, disk: Disk) -> Result<Instance, MoveError> {
        let mut instance = Instance::create(&self.program, self.secret, self.maintenance(), disk).await?;
        instance.take_log();
        Ok(instance)
    }

    /// Returns an instance in the state before the first transaction.
    pub(crate) async fn start(&self) -> Result<Instance, MoveError> {
        self.start_with(Disk::new(0)).await
    }

    /// Returns a fresh instance in the state of a snapshot, or in that before the first transaction, after the
    /// transactions that were kept since, with their calls.
    pub(crate) async fn brought_back<'a>(
        &self,
        base: Option<&Arc<Snapshot>>,
        tail: impl IntoIterator<Item = (Call<'a>, &'a Arc<[CallRecord]>)>,
    ) -> Result<Instance, MoveError> {
        let mut instance = match base {
            Some(snapshot) => self.restored(snapshot).await?,
            None => self.start().await?,
        };
        for (call, calls) in tail {
            self.repeat(&mut instance, call, calls).await;
        }
        instance.take_log();
        Ok(instance)
    }

    /// Returns a fresh instance in the state of a snapshot.
    pub(crate) async fn restored(&self, snapshot: &Arc<Snapshot>) -> Result<Instance, MoveError> {
        Ok(self.restored_for(snapshot).await?.0)
    }

    /// Returns a fresh instance in the state of a snapshot, and the fuel of the restore.
    pub(crate) async fn restored_for(&self, snapshot: &Arc<Snapshot>) -> Result<(Instance, u64), MoveError> {
        let mut instance = self.start_with(snapshot.disk().clone()).await?;
        let fuel = instance.restore(snapshot, self.maintenance()).await?;
        instance.take_log();
        Ok((instance, fuel))
    }

    /// Restores a snapshot in the instance that has written it. The contract promises a guest a fresh instance, so it
    /// may refuse.
    pub(crate) async fn restore_in_place(
        &self,
        instance: &mut Instance,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(), MoveError> {
        instance.restore(snapshot, self.maintenance()).await?;
        instance.take_log();
        Ok(())
    }

    /// Exports the state after the transaction of this place.
    pub(crate) async fn export(
        &self,
        instance: &mut Instance,
        setting: Setting,
        place: usize,
    ) -> Result<(Arc<Snapshot>, u64), MoveError> {
        let (sequence, timestamp) = (setting.sequence(place), setting.timestamp(place));
        let (snapshot, fuel) = instance.snapshot(sequence, timestamp, self.maintenance()).await?;
        Ok((Arc::new(snapshot), fuel))
    }

    /// Executes the transaction of this place.
    pub(crate) async fn execute(
        &self,
        instance: &mut Instance,
        setting: Setting,
        place: usize,
        transaction: &Transaction,
    ) -> Attempt {
        self.attempt(instance, setting, place, transaction, How::default()).await
    }

    /// Executes the transaction of this place in a certain way.
    pub(crate) async fn attempt(
        &self,
        instance: &mut Instance,
        setting: Setting,
        place: usize,
        transaction: &Transaction,
        how: How,
    ) -> Attempt {
        self.run(instance, setting.call(place, transaction), how).await
    }

    /// Executes a call in a certain way.
    pub(crate) async fn run(&self, instance: &mut Instance, call: Call<'_>, how: How) -> Attempt {
        let mut allowance = self.allowance();
        if let Some(fuel) = how.fuel {
            allowance.fuel = fuel;
        }
        if !self.has_network {
            return instance.execute(call, allowance, Network::None).await;
        }
        let (network, scripted) = Scripted::new(how.script, how.known);
        scripted.serve(instance.execute(call, allowance, network)).await
    }

    /// Repeats a transaction that was kept, with its calls.
    pub(crate) async fn repeat(&self, instance: &mut Instance, call: Call<'_>, calls: &Arc<[CallRecord]>) -> Attempt {
        let network = if self.has_network { Network::Recorded(Arc::clone(calls)) } else { Network::None };
        let allowance = Allowance { fuel: MAINTENANCE_FUEL, inputs: Inputs::Replay, ..self.allowance() };
        instance.execute(call, allowance, network).await
    }

    /// Asks a query after the transaction of this place.
    pub(crate) async fn query(
        &self,
        instance: &mut Instance,
        setting: Setting,
        place: usize,
        (user, body): (&Name, &[u8]),
    ) -> Attempt {
        let timestamp = setting.timestamp(place);
        let timestamp = if setting.is_time_still { timestamp } else { timestamp.plus(QUERY_STEP) };
        let sequence = setting.sequence(place);
        let call = Call { id: "query", user, sequence, timestamp, epoch: setting.epoch(), body };
        instance.query(call, self.allowance()).await
    }
}

/// How an attempt differs from the usual one.
#[derive(Debug, Clone, Default)]
pub(crate) struct How {
    /// The fuel, if it is not a full tank.
    pub(crate) fuel: Option<u64>,
    pub(crate) script: Script,
    /// The calls of an earlier attempt.
    pub(crate) known: Arc<[CallRecord]>,
}

/// Returns whether a transaction was ended by its guest, and not by a limit.
pub(crate) fn is_trap(answer: &Answer) -> bool {
    matches!(answer, Answer::Failed(Cause::Trap { .. } | Cause::Exit { .. } | Cause::Explained { .. }))
}

/// Returns whether a guest has called `exit`.
pub(crate) fn is_exit(cause: &Cause) -> bool {
    match cause {
        Cause::Exit { .. } => true,
        Cause::Explained { summary, .. } => summary.starts_with("exit: "),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn seen(text: &'static str) -> Seen {
        Seen::of(&Answer::Ok(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn a_reordered_answer_has_the_same_words_and_no_others() {
        assert!(seen(r#"["ab","c"]"#).is_reordered(&seen(r#"["c","ab"]"#)));
        assert!(!seen(r#"["ab","c"]"#).is_reordered(&seen(r#"["ab","c"]"#)), "the same is not reordered");
        assert!(!seen("12").is_reordered(&seen("21")), "a number is one word");
        assert!(!seen(r#"{"a":12}"#).is_reordered(&seen(r#"{"a":21}"#)));
    }
}
