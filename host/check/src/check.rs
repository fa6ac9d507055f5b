//! The check: runs of the transactions that must agree, and calls that a host would make one day.
//!
//! ```text
//!   plain ---------- the transactions, in one instance
//!   with queries --- the same, and each query twice at each boundary          must have the replies of plain
//!   with exports --- the same, and an export at each boundary                 must have the replies of plain
//!   moved ---------- a snapshot and a restore at each boundary                must have replies and answers of both
//!   moved once ----- from some boundaries to the end, without another move    must have the replies of plain
//!   with gaps ------ other sequence numbers                                   must have the outcomes of plain
//! ```
//!
//! The first difference between two runs is examined: it is repeated as it was, with a clock that stands still, and
//! with constant random numbers. What makes the difference disappear is its cause. If nothing does, the plain run is
//! repeated with other random numbers: they may give the other answer, too. If they do not, state is lost, and a restore
//! in the instance that has exported tells where it was.

mod calls;
mod growth;
mod inputs;
mod restores;
mod terminals;

use crate::input::Input;
use crate::kind::Kind;
use crate::lab::{Lab, Setting, is_exit};
use crate::report::{Failure, Finding, Report};
use crate::trace::{Difference, Moves, OnProgress, Plan, Probing, QUERIES_MAX, Session, Trace};
use lifeboat_api::size::{Bytes, Size, grouped};
use lifeboat_api::transaction::{Cause, Outcome};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::snapshot::Snapshot;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The readings of a clock that stands still from which on a guest counts as waiting for it.
const CLOCK_READS_MAX: u64 = 1_000;

/// The fuel between two readings of a clock from which on a guest does something else meanwhile.
const FUEL_PER_CLOCK_READ_MAX: u64 = 2_000;

/// The reads at the end of its input from which on a program that is not `ok` counts as waiting for more. A library may
/// read there a few times; a program that waits does so until its fuel ends.
const READS_AT_END_MAX: u64 = 100;

/// The share of its deadline, in percent, up to which a transaction may sleep.
const SLEEP_PERCENT_MAX: u128 = 50;

/// The share of a size's memory, in percent, that a fresh VM may use without another failover soon: 15 points below the
/// default threshold.
const MEMORY_PERCENT_MAX: u64 = 83;

/// The boundaries at which a guest is moved for once, as fractions of the run in quarters.
const MOVED_ONCE_AT: [usize; 3] = [1, 2, 3];

/// The most transactions with calls that are attempted again.
const CALLS_REPEATED_MAX: usize = 5;

/// The other keys of random numbers with which a run is repeated.
const OTHER_KEYS: u8 = 8;

/// What one of two runs that differ has at each boundary, and the other one has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Queries,
    Exports,
    Moves,
    /// A move at one boundary.
    MoveAt(usize),
}

/// What other random numbers do to the answer of a plain run that another run answers otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Chance {
    /// Some of them give another answer.
    is_changed: bool,
    /// Some of them give the answer of the other run.
    is_found: bool,
}

/// Checks a workload.
///
/// # Errors
/// The guest cannot be started.
pub(crate) async fn check(
    lab: &Lab,
    input: &Input,
    older: Option<&Arc<Snapshot>>,
    progress: OnProgress<'_>,
) -> Result<Report, MoveError> {
    let session = Session { lab, input, progress };
    let mut check = Check {
        session: &session,
        report: Report {
            workload: lab.program.workload().name.clone(),
            transactions: input.transactions.len(),
            queries: session.queries().len(),
            ..Report::default()
        },
    };
    check.run(older).await?;
    check.report.leave_out_consequences();
    check.report.allow(&input.allowed);
    Ok(check.report)
}

struct Check<'a> {
    session: &'a Session<'a>,
    report: Report,
}

impl<'a> Check<'a> {
    fn lab(&self) -> &'a Lab {
        self.session.lab
    }

    fn count(&self) -> usize {
        self.session.input.transactions.len()
    }

    fn progress(&self, stage: &'static str, done: usize, of: usize) {
        (self.session.progress)(stage, done, of);
    }

    /// Adds a finding about the transaction of a place, or about the boundary after it.
    fn add(&mut self, kind: Kind, place: usize, text: String) {
        let mut finding = Finding::new(kind, text);
        if let Some(transaction) = place.checked_sub(1).and_then(|index| self.session.input.transactions.get(index)) {
            finding.line = Some(transaction.line);
            finding.id = Some(transaction.id.clone());
        }
        self.report.add(finding);
    }

    fn add_shown(&mut self, trace: &Trace) {
        for shown in &trace.shown {
            self.add(shown.kind, shown.place, shown.text.clone());
        }
    }

    async fn run(&mut self, older: Option<&Arc<Snapshot>>) -> Result<(), MoveError> {
        if self.session.input.queries.len() > QUERIES_MAX {
            let count = self.session.input.queries.len();
            self.report
                .unchecked
                .push(format!("{} of {count} queries: the first {QUERIES_MAX} are asked", count - QUERIES_MAX));
        }
        self.check_starts().await?;
        let plain = self.run_plain().await?;
        let queried = self.run_with_queries(&plain).await?;
        self.run_with_exports(&plain).await?;
        let moved = self.run_moved(&plain, queried.as_ref()).await?;
        self.run_moved_once(&plain, &moved).await?;
        self.run_with_gaps(&plain).await?;
        self.check_terminals(&plain, &moved).await?;
        self.check_calls(&plain, &moved).await?;
        let Some((place, last)) = moved.last.clone() else {
            self.report.unchecked.push("restores, inputs and growth: the guest could not be moved".into());
            return Ok(());
        };
        self.check_restores(&last, &moved, older).await?;
        self.check_inputs(&plain, place, &last).await?;
        self.check_growth(&plain, queried.as_ref(), place, &last).await
    }

    fn plan(&self, stage: &'static str) -> Plan<'static> {
        Plan {
            stage,
            setting: Setting::default(),
            moves: Moves::Never,
            probing: Probing::Never,
            from: None,
            through: self.count(),
            against: None,
            keep: BTreeSet::new(),
            is_thorough: false,
        }
    }

    /// Runs the transactions in one instance, and looks at what each of them does.
    async fn run_plain(&mut self) -> Result<Trace, MoveError> {
        let plain = self.session.trace(&self.plan("plain run")).await?;
        self.add_shown(&plain);
        self.report.first_failure = self.first_failure(&plain);
        for (place, ran) in plain.all() {
            let outcomes = &mut self.report.outcomes;
            match ran.seen.outcome {
                Outcome::Ok => outcomes.ok += 1,
                Outcome::Refused => outcomes.refused += 1,
                _ => outcomes.failed += 1,
            }
            let observed = ran.observed;
            let is_waiting = ran.seen.outcome != Outcome::Ok && observed.reads_at_end > READS_AT_END_MAX;
            match &ran.cause {
                _ if is_waiting => {
                    let (reads, shown) = (grouped(observed.reads_at_end), &ran.seen.shown);
                    let text =
                        format!("the program read {reads} times at the end of its input; the outcome is {shown}");
                    self.add(Kind::ReadsAfterEnd, place, text);
                }
                Some(cause) if is_exit(cause) => self.add(Kind::Exits, place, cause.detailed()),
                Some(cause @ Cause::ReplyBytes { .. }) => self.add(Kind::ReplyTooLong, place, cause.to_string()),
                _ => {}
            }
            // The runtime of a language may read the clock often, but not all the time.
            let is_busy = ran.fuel_used / observed.clock_reads.max(1) >= FUEL_PER_CLOCK_READ_MAX;
            if observed.clock_reads > CLOCK_READS_MAX && !is_busy {
                let text = format!("the guest read the clock {} times while it stood still", observed.clock_reads);
                self.add(Kind::WaitsForClock, place, text);
            }
            let deadline = self.lab().size.deadline;
            if observed.slept.as_nanos() * 100 > deadline.as_nanos() * SLEEP_PERCENT_MAX {
                let (slept, limit) = (observed.slept.as_millis(), deadline.as_millis());
                self.add(Kind::Sleeps, place, format!("the guest slept {slept} ms, and its deadline is {limit} ms"));
            }
            if observed.stale_uses > 0 {
                let text = "the guest used a descriptor or a stream of an earlier call".to_owned();
                self.add(Kind::StaleDescriptor, place, text);
            }
            self.note_log(place, observed.dropped_log_bytes);
        }
        self.check_refusals(&plain);
        Ok(plain)
    }

    fn first_failure(&self, plain: &Trace) -> Option<Failure> {
        let (place, cause) = plain.all().find_map(|(place, ran)| Some((place, ran.cause.as_ref()?)))?;
        let transaction = &self.session.input.transactions[place - 1];
        let size = &self.lab().size;
        // A transaction has the memory and disk of the largest size anyway.
        let has_more = |larger: &Size| match cause {
            Cause::Fuel { .. } => larger.fuel > size.fuel,
            Cause::Deadline { .. } => larger.deadline > size.deadline,
            _ => false,
        };
        Some(Failure {
            line: transaction.line,
            id: transaction.id.clone(),
            cause: cause.detailed(),
            larger_size: Size::built_in().into_iter().find(has_more).map(|size| size.name),
        })
    }

    /// Looks for transactions that are refused although their calls were answered.
    fn check_refusals(&mut self, plain: &Trace) {
        let with_answers =
            |outcome| plain.all().filter(move |(_, ran)| ran.seen.outcome == outcome && ran.has_only_answered_calls());
        let refused = with_answers(Outcome::Refused).find(|(_, ran)| ran.has_unsafe_calls());
        let Some((place, ran)) = refused else { return };
        if with_answers(Outcome::Ok).next().is_some() {
            let text = format!("refused although each of its calls ({}) was answered with status 200", ran.calls.len());
            self.add(Kind::CallBeforeRefusal, place, text);
        } else {
            // A guest may well refuse because of what is in a response.
            let reason =
                "calls before refusals: every transaction with calls is refused with the responses of the check";
            self.report.unchecked.push(reason.into());
        }
    }

    fn note_log(&mut self, place: usize, dropped_bytes: u64) {
        if dropped_bytes > 0 {
            let text = format!("{dropped_bytes} bytes of log lines of one call are dropped");
            self.add(Kind::LogLost, place, text);
        }
    }

    /// Starts the guest twice, the second time with the disk of the first.
    async fn check_starts(&mut self) -> Result<(), MoveError> {
        let first = self.lab().start().await?;
        let (memory_bytes, limit_bytes) = (first.memory_bytes(), self.lab().size.memory_bytes);
        let listed = crate::trace::listing(first.disk());
        let again = self.lab().start_with(first.disk().clone()).await?;
        if crate::trace::listing(again.disk()) != listed {
            let text = "a second start on the same disk writes other files or contents".to_owned();
            self.report.add(Finding::new(Kind::WritesAtStart, text));
        }
        if memory_bytes > limit_bytes / 100 * MEMORY_PERCENT_MAX {
            let text = format!(
                "the start takes {} of memory, and a VM of size {} may use {MEMORY_PERCENT_MAX} % of {}",
                Bytes(memory_bytes),
                self.lab().size.name,
                Bytes(limit_bytes)
            );
            self.report.add(Finding::new(Kind::SizeTooSmall, text));
        }
        Ok(())
    }

    /// Asks each query twice at each boundary. Returns the run if queries change nothing.
    async fn run_with_queries(&mut self, plain: &Trace) -> Result<Option<Trace>, MoveError> {
        if self.session.queries().is_empty() {
            return Ok(None);
        }
        let plan = Plan { probing: Probing::Twice, against: Some(plain), ..self.plan("queries") };
        // Answers have nothing to be compared with but each other.
        let queried = self.session.trace(&plan).await?;
        self.add_shown(&queried);
        let observed = queried.queries_observed;
        if observed.denied_requests > 0 {
            self.report.add(Finding::new(Kind::CallInQuery, "a query made a request to the network".into()));
        }
        if observed.stale_uses > 0 {
            let text = "a query used a descriptor or a stream of an earlier call".to_owned();
            self.report.add(Finding::new(Kind::StaleDescriptor, text));
        }
        self.note_log(0, observed.dropped_log_bytes);
        let Some(difference) = &queried.difference else { return Ok(Some(queried)) };
        let kind = self.chance_or_time(difference, Between::Queries).await?.unwrap_or(Kind::QueryChangesState);
        let text = match difference.query {
            Some(query) => {
                let (first, second) = (&difference.expected.shown, &difference.found.shown);
                format!("query {} answers {first}, and asked again {second}", query + 1)
            }
            None => {
                let (without, with) = (&difference.expected.shown, &difference.found.shown);
                format!("the reply is {with} after queries, and {without} without")
            }
        };
        self.add(kind, difference.place, text);
        Ok(None)
    }

    /// Exports the state at each boundary, and goes on in the same instance.
    async fn run_with_exports(&mut self, plain: &Trace) -> Result<(), MoveError> {
        let plan = Plan { moves: Moves::OnlyExports, against: Some(plain), ..self.plan("exports") };
        let exported = self.session.trace(&plan).await?;
        self.add_shown(&exported);
        if let Some(difference @ Difference { place, expected, found, .. }) = &exported.difference {
            let kind = self.chance_or_time(difference, Between::Exports).await?.unwrap_or(Kind::SnapshotChangesState);
            let text = format!("the reply is {} after an export, and {} without", found.shown, expected.shown);
            self.add(kind, *place, text);
        }
        Ok(())
    }

    /// Moves the guest at each boundary.
    async fn run_moved(&mut self, plain: &Trace, queried: Option<&Trace>) -> Result<Trace, MoveError> {
        let probing = if queried.is_some() { Probing::Once } else { Probing::Never };
        let keep = self.kept_boundaries(plain);
        let plan = Plan {
            moves: Moves::Each,
            probing,
            against: Some(queried.unwrap_or(plain)),
            keep: keep.clone(),
            is_thorough: true,
            ..self.plan("moves")
        };
        let moved = self.session.trace(&plan).await?;
        self.report.moves = moved.moves;
        self.add_shown(&moved);
        let Some(difference) = &moved.difference else { return Ok(moved) };
        let mut difference = difference.clone();
        if difference.query.is_some() {
            // A reply that differs says more than an answer that does.
            let plan = Plan { moves: Moves::Each, against: Some(plain), ..self.plan("moves") };
            let without_queries = self.session.trace(&plan).await?;
            difference = without_queries.difference.unwrap_or(difference);
        }
        let kind = self.cause(&difference, None).await?;
        let (with, without) = (&difference.found.shown, &difference.expected.shown);
        let text = match difference.query {
            Some(query) => format!("query {} answers {with} after a move, and {without} without", query + 1),
            None => format!("the reply is {with} after a move, and {without} without"),
        };
        self.add(kind, difference.place, text + evidence(kind));
        Ok(moved)
    }

    /// Returns the boundaries whose snapshots are needed later.
    fn kept_boundaries(&self, plain: &Trace) -> BTreeSet<usize> {
        let mut keep: BTreeSet<usize> = MOVED_ONCE_AT.iter().map(|quarter| self.count() * quarter / 4).collect();
        let with_calls = plain.all().filter(|(_, ran)| !ran.calls.is_empty()).take(CALLS_REPEATED_MAX);
        keep.extend(with_calls.map(|(place, _)| place - 1));
        keep.extend(costliest(plain).map(|place| place - 1));
        keep.extend(terminals::without_input(plain).map(|place| place - 1));
        keep
    }

    /// Finds the cause of a difference that moves make. `from` is the boundary of the only move.
    async fn cause(&self, difference: &Difference, from: Option<usize>) -> Result<Kind, MoveError> {
        let between = from.map_or(Between::Moves, Between::MoveAt);
        if let Some(kind) = self.chance_or_time(difference, between).await? {
            return Ok(kind);
        }
        let has_files = self.has_files(difference.place).await?;
        match (difference.query, has_files) {
            (_, true) => Ok(Kind::DiskDisagrees),
            (Some(_), false) => Ok(Kind::QueryBeyondState),
            (None, false) => self.kind_of_loss(difference, from).await,
        }
    }

    /// Returns the kind of a difference whose cause is an order, a time or a random number.
    async fn chance_or_time(&self, difference: &Difference, between: Between) -> Result<Option<Kind>, MoveError> {
        if difference.found.is_reordered(&difference.expected) {
            return Ok(Some(Kind::HashOrder));
        }
        // These runs begin with a restore, which moves random numbers to other calls. A difference that is not there
        // without any other change says nothing about the clock.
        let is_reproduced = self.differs(difference, Setting::default(), between).await?;
        if is_reproduced {
            let still =
                [(true, false, Kind::TimeKept), (false, true, Kind::RandomKept), (true, true, Kind::RandomKept)];
            for (is_time_still, is_random_still, kind) in still {
                let setting = Setting { is_time_still, is_random_still, ..Setting::default() };
                if !self.differs(difference, setting, between).await? {
                    return Ok(Some(kind));
                }
            }
        }
        // The order of a hashed collection depends on its history, too, so that it may differ with constant random
        // numbers. Then the other answer is one that other random numbers give without a move.
        let chance = self.chance(difference).await?;
        let is_random = if is_reproduced { chance.is_found } else { chance.is_changed };
        Ok(is_random.then_some(Kind::RandomKept))
    }

    /// Repeats the plain run with other random numbers.
    async fn chance(&self, difference: &Difference) -> Result<Chance, MoveError> {
        let probing = if difference.query.is_some() { Probing::Once } else { Probing::Never };
        let mut chance = Chance::default();
        for key in 1..=OTHER_KEYS {
            let lab = self.lab().with_key(key);
            let session = Session { lab: &lab, input: self.session.input, progress: self.session.progress };
            let plan = Plan { probing, through: difference.place, ..self.plan("causes") };
            let trace = session.trace(&plan).await?;
            let seen = match difference.query {
                Some(query) => trace.answers(difference.place).get(query),
                None => trace.ran(difference.place).map(|ran| &ran.seen),
            };
            if let Some(seen) = seen {
                chance.is_changed |= !seen.is(&difference.expected);
                chance.is_found |= seen.is(&difference.found);
            }
        }
        Ok(chance)
    }

    /// Tells where lost state was, by a restore in the instance that has exported it: such a restore replaces the
    /// state, and leaves alone what is beside it. A guest may refuse it, or answer in a third way, because the contract
    /// promises it a fresh instance. Then nothing is known.
    async fn kind_of_loss(&self, difference: &Difference, from: Option<usize>) -> Result<Kind, MoveError> {
        let through = difference.place;
        let without = self.session.trace(&Plan { through, ..self.plan("causes") }).await?;
        let moves = from.map_or(Moves::InPlace, Moves::InPlaceAt);
        let plan = Plan { moves, through, against: Some(&without), ..self.plan("causes") };
        let in_place = self.session.trace(&plan).await?;
        // After a failure the guest is brought back in an instance without the only restore.
        let is_undone = from.is_some_and(|boundary| {
            in_place.all().any(|(place, ran)| place > boundary && ran.seen.outcome == Outcome::Failed)
        });
        Ok(match &in_place.difference {
            _ if in_place.is_cut_short || is_undone => Kind::StateLost,
            None => Kind::BesideState,
            Some(again) if again.place == through && again.found.is(&difference.found) => Kind::FieldMissing,
            Some(_) => Kind::StateLost,
        })
    }

    /// Returns whether a difference is there in another setting as well.
    async fn differs(&self, difference: &Difference, setting: Setting, between: Between) -> Result<bool, MoveError> {
        let is_moved = matches!(between, Between::Moves | Between::MoveAt(_));
        let probing = if is_moved && difference.query.is_some() { Probing::Once } else { Probing::Never };
        let through = difference.place;
        let lab = self.lab();
        // Both begin with a restore, so that neither draws its first random numbers elsewhere.
        let mut fresh = lab.start().await?;
        // A guest without an export or a restore there is found by the moves.
        let Ok((beginning, _)) = lab.export(&mut fresh, setting, 0).await else { return Ok(true) };
        if lab.restored(&beginning).await.is_err() {
            return Ok(true);
        }
        let usual = Plan { setting, probing, through, from: Some((0, beginning)), ..self.plan("causes") };
        let without = self.session.trace(&usual).await?;
        let disturbed = match between {
            Between::Queries => Plan { probing: Probing::Twice, against: Some(&without), ..usual },
            Between::Exports => Plan { moves: Moves::OnlyExports, against: Some(&without), ..usual },
            Between::Moves => Plan { moves: Moves::Each, against: Some(&without), ..usual },
            Between::MoveAt(boundary) => {
                let keep = BTreeSet::from([boundary]);
                let until = Plan { moves: Moves::Each, keep, through: boundary, ..self.plan("causes") };
                let until = Plan { setting, from: usual.from.clone(), ..until };
                let Some(snapshot) = self.session.trace(&until).await?.kept.remove(&boundary) else { return Ok(true) };
                Plan { from: Some((boundary, snapshot)), against: Some(&without), ..usual }
            }
        };
        Ok(self.session.trace(&disturbed).await?.difference.is_some())
    }

    /// Returns whether there are files on the disk before the transaction of this place.
    async fn has_files(&self, place: usize) -> Result<bool, MoveError> {
        let mut instance = self.lab().start().await?;
        let mut has_files = instance.disk().inodes() > 1;
        for (index, transaction) in self.session.input.transactions.iter().enumerate().take(place) {
            if instance.is_dead() {
                break;
            }
            self.lab().execute(&mut instance, Setting::default(), index + 1, transaction).await;
            instance.take_log();
            has_files |= instance.disk().inodes() > 1;
        }
        Ok(has_files)
    }

    /// Moves the guest at one boundary, and runs it to the end.
    async fn run_moved_once(&mut self, plain: &Trace, moved: &Trace) -> Result<(), MoveError> {
        if moved.difference.is_some() || moved.is_cut_short {
            return Ok(());
        }
        for quarter in MOVED_ONCE_AT {
            let boundary = self.count() * quarter / 4;
            let Some(snapshot) = moved.kept.get(&boundary) else { continue };
            let from = Some((boundary, Arc::clone(snapshot)));
            let plan = Plan { from, against: Some(plain), ..self.plan("late moves") };
            let late = self.session.trace(&plan).await?;
            if let Some(difference) = &late.difference {
                let kind = self.cause(difference, Some(boundary)).await?;
                let text = format!(
                    "the reply is {} after a move {} transactions before, and {} without",
                    difference.found.shown,
                    difference.place - boundary,
                    difference.expected.shown
                );
                self.add(kind, difference.place, text + evidence(kind));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Leaves out every other sequence number, as failed transactions do.
    async fn run_with_gaps(&mut self, plain: &Trace) -> Result<(), MoveError> {
        let setting = Setting { has_gaps: true, ..Setting::default() };
        let gaps = self.session.trace(&Plan { setting, ..self.plan("gaps") }).await?;
        for (place, ran) in gaps.all() {
            let Some(usual) = plain.ran(place) else { continue };
            // A reply may well show its sequence number, but whether there is one must not depend on it.
            if usual.seen.outcome == Outcome::Ok && ran.seen.outcome != Outcome::Ok {
                let (with, without) = (&ran.seen.shown, &usual.seen.shown);
                let text = format!("the reply is {with} with gaps between sequence numbers, and {without} without");
                self.add(Kind::GaplessSequences, place, text);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Returns what shows where lost state was, as the end of a finding.
fn evidence(kind: Kind) -> &'static str {
    match kind {
        Kind::FieldMissing => "; a restore in the instance that has exported gives the first reply, too",
        Kind::BesideState => "; a restore in the instance that has exported leaves the second reply",
        _ => "",
    }
}

/// Returns the place of the kept transaction that burnt the most fuel.
fn costliest(plain: &Trace) -> Option<usize> {
    let kept = plain.all().filter(|(_, ran)| ran.seen.outcome != Outcome::Failed);
    kept.max_by_key(|(_, ran)| ran.fuel_used).map(|(place, _)| place)
}
