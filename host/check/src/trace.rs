//! A run of the transactions: with or without moves, queries and exports in between, compared with another run.
//!
//! A *boundary* is the time before the first transaction or after one of them; its place is the number of transactions
//! before it. After a failed transaction the guest is brought back as the host does: from the last snapshot, and by a
//! replay.

use crate::input::Input;
use crate::kind::Kind;
use crate::lab::{Lab, Seen, Setting, histogram, is_same_export};
use lifeboat_api::call::CallRecord;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Answer, Cause, Outcome};
use lifeboat_disk::{Call as DiskCall, Disk, Ino, Mark, OpenHow, Type};
use lifeboat_vm::instance::{Instance, MoveError, Observed};
use lifeboat_vm::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most boundaries of a run at which a guest is moved. In a longer run they are spread evenly.
pub const MOVES_MAX: usize = 2_000;

/// The most bytes of state that one run of a check exports. Larger states are moved at fewer boundaries.
pub const EXPORTED_BYTES_MAX: u64 = 4 << 30;

/// The most queries that are asked at each boundary.
pub const QUERIES_MAX: usize = 16;

/// The most boundaries at which a restored guest is exported again, besides those at refused transactions.
const REEXPORTS_MAX: usize = 32;

/// The methods of requests that ask for nothing but a response, so that a refusal has nothing to take back.
const SAFE_METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];

/// Where a run moves its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moves {
    Never,
    /// At each boundary.
    Each,
    /// The guest exports its state at each boundary, and goes on.
    OnlyExports,
    /// At each boundary, the guest exports its state, restores it in the same instance, and goes on.
    InPlace,
    /// The same at one boundary.
    InPlaceAt(usize),
}

/// How often a run asks each query at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probing {
    Never,
    Once,
    Twice,
}

/// What a run does.
pub(crate) struct Plan<'a> {
    pub(crate) stage: &'static str,
    pub(crate) setting: Setting,
    pub(crate) moves: Moves,
    pub(crate) probing: Probing,
    /// The boundary at which it begins, and the state there. None for a fresh guest.
    pub(crate) from: Option<(usize, Arc<Snapshot>)>,
    /// The boundary at which it ends.
    pub(crate) through: usize,
    /// A run with which it is compared. It ends at the first difference.
    pub(crate) against: Option<&'a Trace>,
    /// The boundaries whose snapshots are needed later.
    pub(crate) keep: BTreeSet<usize>,
    /// Whether exports are examined, and not only used.
    pub(crate) is_thorough: bool,
}

/// A transaction of a run.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) seen: Seen,
    pub(crate) cause: Option<Cause>,
    pub(crate) fuel_used: u64,
    pub(crate) calls: Arc<[CallRecord]>,
    pub(crate) observed: Observed,
}

impl Ran {
    /// Returns whether it made calls, and each of them got a response that reports success.
    pub(crate) fn has_only_answered_calls(&self) -> bool {
        let is_answered = |call: &CallRecord| {
            let response = call.result.as_ref().and_then(|result| result.as_ref().ok());
            response.is_some_and(|response| (200..300).contains(&response.status))
        };
        !self.calls.is_empty() && self.calls.iter().all(is_answered)
    }

    /// Returns whether it made a call that a server may act upon.
    pub(crate) fn has_unsafe_calls(&self) -> bool {
        self.calls.iter().any(|call| !SAFE_METHODS.contains(&call.method.as_str()))
    }
}

/// A difference between two runs.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// The place of the transaction, or of the boundary of the query.
    pub(crate) place: usize,
    /// The query. None for a transaction.
    pub(crate) query: Option<usize>,
    pub(crate) expected: Seen,
    pub(crate) found: Seen,
}

/// A bug that a run showed by itself.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    /// The place of the transaction or of the boundary.
    pub(crate) place: usize,
    pub(crate) text: String,
}

/// An export of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exported {
    pub(crate) state_bytes: u64,
    pub(crate) fuel: u64,
    /// The memory before it, and how much it grew.
    pub(crate) memory_bytes: u64,
    pub(crate) growth_bytes: u64,
}

/// What a run did.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// The boundary at which it began.
    from: usize,
    /// Its transactions.
    ran: Vec<Ran>,
    /// The answers at each boundary.
    answers: BTreeMap<usize, Vec<Seen>>,
    /// What the queries did beside their answers.
    pub(crate) queries_observed: Observed,
    /// The snapshots that were to be kept.
    pub(crate) kept: BTreeMap<usize, Arc<Snapshot>>,
    /// The last snapshot that was restored, and its boundary.
    pub(crate) last: Option<(usize, Arc<Snapshot>)>,
    pub(crate) exports: Vec<Exported>,
    /// The number of moves.
    pub(crate) moves: usize,
    pub(crate) difference: Option<Difference>,
    pub(crate) shown: Vec<Shown>,
    /// Whether it ended before its last boundary, because the guest could not be moved.
    pub(crate) is_cut_short: bool,
}

impl Trace {
    /// Returns the transaction of a place.
    pub(crate) fn ran(&self, place: usize) -> Option<&Ran> {
        self.ran.get(place.checked_sub(self.from + 1)?)
    }

    /// Returns the transactions with their places.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &Ran)> {
        (self.from + 1..).zip(&self.ran)
    }

    /// Returns the answers to the queries at a boundary.
    pub(crate) fn answers(&self, place: usize) -> &[Seen] {
        self.answers.get(&place).map_or(&[], |answers| answers)
    }

    fn show(&mut self, kind: Kind, place: usize, text: String) {
        self.shown.push(Shown { kind, place, text });
    }
}

/// Reports the progress of a check: the stage, and how much of how much is done.
pub(crate) type OnProgress<'a> = &'a dyn Fn(&'static str, usize, usize);

/// A workload with its input.
pub(crate) struct Session<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) input: &'a Input,
    pub(crate) progress: OnProgress<'a>,
}

/// The guest of a run, and how to bring it back.
struct Guest {
    instance: Instance,
    base: Option<Arc<Snapshot>>,
    /// The transactions after `base` that were kept, with their calls.
    tail: Vec<(usize, Arc<[CallRecord]>)>,
    /// The state that a guest restored from `base` exports, if it was asked, and the boundary.
    again: Option<(usize, Arc<Snapshot>)>,
}

impl Session<'_> {
    /// Returns the queries that are asked at each boundary.
    pub(crate) fn queries(&self) -> &[(Name, bytes::Bytes)] {
        &self.input.queries[..self.input.queries.len().min(QUERIES_MAX)]
    }

    /// Runs the transactions.
    ///
    /// # Errors
    /// The guest cannot be started, or not be brought back after a failed transaction.
    pub(crate) async fn trace(&self, plan: &Plan<'_>) -> Result<Trace, MoveError> {
        let from = plan.from.as_ref().map_or(0, |(place, _)| *place);
        let base = plan.from.as_ref().map(|(_, snapshot)| Arc::clone(snapshot));
        let mut trace = Trace { from, ..Trace::default() };
        let instance = self.lab.brought_back(base.as_ref(), []).await?;
        let mut guest = Guest { instance, base, tail: Vec::new(), again: None };
        for place in from..=plan.through {
            (self.progress)(plan.stage, place - from, plan.through - from);
            if place > from && !self.run_transaction(plan, &mut trace, &mut guest, place).await? {
                return Ok(trace);
            }
            if !self.move_guest(plan, &mut trace, &mut guest, place).await? {
                trace.is_cut_short = true;
                return Ok(trace);
            }
            if plan.probing != Probing::Never && !self.probe(plan, &mut trace, &mut guest, place).await? {
                return Ok(trace);
            }
        }
        Ok(trace)
    }

    /// Executes one transaction. Returns whether the run goes on.
    async fn run_transaction(
        &self,
        plan: &Plan<'_>,
        trace: &mut Trace,
        guest: &mut Guest,
        place: usize,
    ) -> Result<bool, MoveError> {
        let transaction = &self.input.transactions[place - 1];
        let attempt = self.lab.execute(&mut guest.instance, plan.setting, place, transaction).await;
        let observed = guest.instance.observed();
        guest.instance.take_log();
        let seen = Seen::of(&attempt.answer);
        let cause = if let Answer::Failed(cause) = attempt.answer { Some(cause) } else { None };
        let calls: Arc<[CallRecord]> = attempt.calls.into();
        let is_failed = cause.is_some();
        let expected = plan.against.and_then(|against| against.ran(place)).map(|ran| ran.seen.clone());
        trace.ran.push(Ran {
            seen: seen.clone(),
            cause,
            fuel_used: attempt.fuel_used,
            calls: Arc::clone(&calls),
            observed,
        });
        if let Some(expected) = expected.filter(|expected| !expected.is(&seen)) {
            trace.difference = Some(Difference { place, query: None, expected, found: seen });
            return Ok(false);
        }
        if is_failed {
            self.bring_back(plan.setting, guest).await?;
        } else {
            guest.tail.push((place, calls));
        }
        Ok(true)
    }

    /// Brings a guest back to its state after the last transaction that was kept.
    async fn bring_back(&self, setting: Setting, guest: &mut Guest) -> Result<(), MoveError> {
        let call = |place: usize| setting.call(place, &self.input.transactions[place - 1]);
        let tail = guest.tail.iter().map(|(place, calls)| (call(*place), calls));
        guest.instance = self.lab.brought_back(guest.base.as_ref(), tail).await?;
        Ok(())
    }

    /// Moves the guest at a boundary, if the plan has that. Returns whether the run goes on.
    async fn move_guest(
        &self,
        plan: &Plan<'_>,
        trace: &mut Trace,
        guest: &mut Guest,
        place: usize,
    ) -> Result<bool, MoveError> {
        let is_due = match plan.moves {
            Moves::Never => false,
            Moves::InPlaceAt(boundary) => place == boundary,
            Moves::Each | Moves::OnlyExports | Moves::InPlace => {
                plan.keep.contains(&place) || is_in_budget(plan, trace, place)
            }
        };
        if !is_due {
            return Ok(true);
        }
        let memory_bytes = guest.instance.memory_bytes();
        let exported = self.lab.export(&mut guest.instance, plan.setting, place).await;
        let has_written = guest.instance.observed().refused_writes > 0;
        if has_written {
            let text = "snapshot tried to change a file".to_owned();
            trace.show(Kind::WritesInSnapshot, place, text);
        }
        let (snapshot, fuel) = match exported {
            Ok(exported) => exported,
            Err(error) => {
                if !has_written {
                    let is_refusal = matches!(error, MoveError::Refused { .. });
                    let kind = if is_refusal { Kind::SnapshotRefuses } else { Kind::SnapshotTraps };
                    trace.show(kind, place, error.detailed());
                }
                return Ok(false);
            }
        };
        let growth_bytes = guest.instance.memory_bytes().saturating_sub(memory_bytes);
        let state_bytes = snapshot.state_bytes();
        trace.exports.push(Exported { state_bytes, fuel, memory_bytes, growth_bytes });
        match plan.moves {
            Moves::OnlyExports => return Ok(true),
            Moves::InPlace | Moves::InPlaceAt(_) => {
                return Ok(self.lab.restore_in_place(&mut guest.instance, &snapshot).await.is_ok());
            }
            Moves::Never | Moves::Each => {}
        }
        let fresh = match self.lab.restored(&snapshot).await {
            Ok(fresh) => fresh,
            Err(error) => {
                trace.show(Kind::RestoreRefuses, place, error.detailed());
                return Ok(false);
            }
        };
        if plan.is_thorough {
            self.examine(plan, trace, guest, &snapshot, place).await?;
        }
        trace.last = Some((place, Arc::clone(&snapshot)));
        if plan.keep.contains(&place) {
            trace.kept.insert(place, Arc::clone(&snapshot));
        }
        trace.moves += 1;
        guest.instance = fresh;
        guest.base = Some(snapshot);
        guest.tail.clear();
        Ok(true)
    }

    /// Looks at an export.
    async fn examine(
        &self,
        plan: &Plan<'_>,
        trace: &mut Trace,
        guest: &mut Guest,
        snapshot: &Arc<Snapshot>,
        place: usize,
    ) -> Result<(), MoveError> {
        let version = snapshot.state_version();
        if let Some(before) = guest.base.as_ref().map(|base| base.state_version()).filter(|before| *before != version) {
            trace.show(Kind::VersionChanges, place, format!("state-version was {before} before, and is {version} now"));
        }
        let is_refused = trace.ran.last().is_some_and(|ran| ran.seen.outcome == Outcome::Refused);
        let before = guest.again.take().filter(|(boundary, _)| boundary + 1 == place);
        if let (Some((_, before)), true) = (before, is_refused) {
            // What the snapshot of a program has beside its disk is the level of its memory, which no run reads.
            let is_same_state = self.lab.is_program || histogram(&before) == histogram(snapshot);
            if !is_same_state || listing(before.disk()) != listing(snapshot.disk()) {
                let what = if is_same_state { "the disk" } else { "the exported state" };
                let text = format!("the transaction was refused, and {what} differs from that before it");
                trace.show(Kind::RefusalChangesState, place, text);
            }
        }
        // What a restored guest exports is compared with what it will export after a refused transaction.
        let is_refused_next = plan
            .against
            .and_then(|against| against.ran(place + 1))
            .is_some_and(|ran| ran.seen.outcome == Outcome::Refused);
        let stride = (plan.through / REEXPORTS_MAX).max(1);
        if !is_refused_next && !place.is_multiple_of(stride) {
            return Ok(());
        }
        let mut other = self.lab.restored(snapshot).await?;
        // A guest that cannot export once more is found at the next boundary.
        // The next place has other random numbers, and those of the export after a refused transaction.
        let Ok((again, _)) = self.lab.export(&mut other, plan.setting, place + 1).await else { return Ok(()) };
        let is_permuted = !is_same_export(&again, snapshot) && histogram(&again) == histogram(snapshot);
        if is_permuted {
            let text = "the export of the restored guest has the same bytes in another order".to_owned();
            trace.show(Kind::ExportOrder, place, text);
        }
        guest.again = Some((place, again));
        Ok(())
    }

    /// Asks the queries at a boundary. Returns whether the run goes on.
    async fn probe(
        &self,
        plan: &Plan<'_>,
        trace: &mut Trace,
        guest: &mut Guest,
        place: usize,
    ) -> Result<bool, MoveError> {
        let mut answers = Vec::new();
        for (index, (user, body)) in self.queries().iter().enumerate() {
            let rounds = if plan.probing == Probing::Twice { 2 } else { 1 };
            for round in 0..rounds {
                let attempt = self.lab.query(&mut guest.instance, plan.setting, place, (user, body)).await;
                let observed = guest.instance.observed();
                guest.instance.take_log();
                let all = &mut trace.queries_observed;
                all.denied_requests += observed.denied_requests;
                all.stale_uses += observed.stale_uses;
                all.dropped_log_bytes = all.dropped_log_bytes.max(observed.dropped_log_bytes);
                let found = Seen::of(&attempt.answer);
                if matches!(&attempt.answer, Answer::Failed(Cause::ReplyBytes { .. })) {
                    let text = format!("the answer to query {} is too long", index + 1);
                    trace.show(Kind::ReplyTooLong, place, text);
                }
                if guest.instance.is_dead() {
                    self.bring_back(plan.setting, guest).await?;
                }
                let expected = match (round, plan.against) {
                    (0, Some(against)) => against.answers(place).get(index),
                    (0, None) => None,
                    _ => answers.last(),
                };
                if let Some(expected) = expected.filter(|expected| !expected.is(&found)) {
                    let expected = expected.clone();
                    trace.difference = Some(Difference { place, query: Some(index), expected, found });
                    return Ok(false);
                }
                if round == 0 {
                    answers.push(found);
                }
            }
        }
        trace.answers.insert(place, answers);
        Ok(true)
    }
}

/// Returns whether a run may move its guest at a boundary.
fn is_in_budget(plan: &Plan<'_>, trace: &Trace, place: usize) -> bool {
    let boundaries = plan.through + 1;
    let stride = boundaries.div_ceil(MOVES_MAX);
    let exported_bytes: u64 = trace.exports.iter().map(|export| export.state_bytes).sum();
    let share = EXPORTED_BYTES_MAX / boundaries as u64 * (place as u64 + 1);
    let is_last = place == plan.through;
    is_last || (place.is_multiple_of(stride) && exported_bytes <= share)
}

/// Returns what is on a disk: each path with its type, and a hash of a file's contents or a link's target. Times and
/// inode numbers do not count.
pub(crate) fn listing(disk: &Disk) -> BTreeMap<String, (Type, [u8; 32])> {
    let mut disk = disk.clone();
    disk.enter(DiskCall { now_ns: 0, mark: Mark::default(), limit_bytes: 0, is_read_only: true });
    let mut found = BTreeMap::new();
    let mut directories = vec![(Ino::ROOT, String::new())];
    while let Some((directory, path)) = directories.pop() {
        let Ok(entries) = disk.list(directory) else { continue };
        for (name, kind) in entries {
            let path = format!("{path}/{name}");
            let mut hash = [0; 32];
            match kind {
                Type::Link => {
                    let target = disk.read_link_at(directory, &name).unwrap_or_default();
                    hash = *blake3::hash(target.as_bytes()).as_bytes();
                }
                _ => {
                    if let Ok((ino, kind)) = disk.open_at(directory, &name, OpenHow::default()) {
                        if kind == Type::Directory {
                            directories.push((ino, path.clone()));
                        } else {
                            hash = disk.file_digest(ino).unwrap_or_default();
                        }
                        disk.close(ino);
                    }
                }
            }
            found.insert(path, (kind, hash));
        }
    }
    found
}
