//! A second VM in the background. It takes snapshots or takes over while the first VM serves.
//!
//! ```text
//!   begin:   restore the last snapshot, replay the tail up to now     (in the background)
//!            unless it is for the tank: export there, and go on in a third VM, restored from that
//!   rounds:  replay what was kept meanwhile, until little is left     (in the background)
//!   promote: replay the rest, switch                                  (in the foreground: this is the pause)
//! ```
//!
//! A shadow never waits for the serving VM and never calls it. That VM may trap, roll back, or run out of fuel
//! meanwhile. If the rounds do not get shorter by themselves, [`Restraint`] slows the serving VM a little, so that they
//! do. Any other move of the service drops the shadow first. A shadow is only a rehydration: a failed shadow costs
//! nothing but its work, and a shadow with different replies is never promoted.

use super::handle::Order;
use super::snapshots::Begun;
use super::{ReplayTerms, Service, TAIL_FUEL_MAX};
use crate::journal::{JOURNAL_BYTES_MAX, TailEntry};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::FailoverCause;
use lifeboat_api::id::Sequence;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::Kind;
use lifeboat_disk::Disk;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_vm::engine::joined;
use lifeboat_vm::rehydrate::{INSTANTIATE_OVERHEAD_FUEL, RehydrateError, Rehydrated, rehydrate, replay_fuel, restore};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::store::{Allowance, FUEL_YIELD_INTERVAL};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinHandle;

/// The size of the last snapshot above which `auto` uses a shadow, in bytes. Below it a direct failover takes
/// milliseconds.
pub const SHADOW_STATE_BYTES_MIN: u64 = 1024 * 1024;

/// The most that may be left to replay when a shadow is promoted, in fuel: about a quarter of a millisecond.
pub const PROMOTE_FUEL_MAX: u64 = 250_000;

/// The most transactions and queries that may be left to replay when a shadow is promoted, whatever they cost. Their
/// replay in the foreground takes no longer than their execution did.
const PROMOTE_TRANSACTIONS_MAX: usize = 2;

/// The least allowance of the serving VM in a round beside its share of the round's replay, in fuel. Rounds shrink to a
/// few times this allowance, which must be less than [`PROMOTE_FUEL_MAX`].
const SLACK_FUEL_MIN: u64 = PROMOTE_FUEL_MAX / 8;

/// The divisor of a long round's replay that gives its allowance. A larger allowance makes waits longer and rarer.
/// Threads that wake one another all the time would leave the cores idle in between.
const SLACK_SHARE: u64 = 32;

/// The largest replay of a short round, in fuel: some milliseconds, as a rule.
const SHORT_FUEL_MAX: u64 = 40 * PROMOTE_FUEL_MAX;

/// The most transactions and queries of a short round, which may each be long.
const SHORT_TRANSACTIONS_MAX: usize = 16;

/// The most that the serving VM may keep of a round's replay, in percent.
const SHARE_PERCENT_MAX: u64 = 75;

/// By how much less it may keep after [`PATIENT_ROUNDS`], in percent of the replay.
const SHARE_PERCENT_STEP: u64 = 25;

/// The number of short or barely shrinking rounds after which the serving VM is slowed more. Its clients hardly notice
/// that in short rounds, and the other rounds would not end without it.
const PATIENT_ROUNDS: u32 = 4;

/// The most that the serving VM may keep at once after it had to wait, in fuel: some milliseconds.
const WAIT_FUEL_MAX: u64 = 20 * PROMOTE_FUEL_MAX;

/// The number of steps in which the serving VM uses up the bound of the first round, at least. More steps make waits
/// shorter and more frequent.
const FIRST_STEPS: u64 = 1_024;

/// The allowance of the first round in multiples of the cost of a snapshot: two restores and an export, doubled.
const RESTORES_MAX: u64 = 4;

/// The entries of the tail that a shadow replays between two updates of its progress.
const REPLAYED_AT_ONCE: usize = 16;

/// The purpose of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    Snapshot,
    FailOver(FailoverCause),
}

/// A shadow and its current round.
pub(super) struct Shadow {
    pub(super) aim: Aim,
    round: JoinHandle<Result<Caught, RehydrateError>>,
    /// The result of the round, once it is over.
    over: Option<Result<Caught, RehydrateError>>,
    /// The number of finished rounds.
    rounds: u32,
    restraint: Restraint,
    /// The snapshot that the shadow exports, if it exports one.
    begun: Option<Begun>,
    /// The progress of the round.
    progress: Arc<Progress>,
    /// The fuel that the serving VM may keep in the round at any rate.
    free_fuel: u64,
    /// The fuel that the serving VM had kept when the round began.
    kept_fuel_before: u64,
    /// The pace of the first round, and the bytes that the history held when it began. None in later rounds.
    first: Option<(FirstRound, u64)>,
    /// The orders that wait for the shadow to end.
    pub(super) waiting: Vec<Order>,
}

/// The progress of a round.
#[derive(Debug, Default)]
struct Progress {
    /// The fuel of the work that is done: of replays, and in the first round of restores and the export as well.
    fuel: AtomicU64,
    /// The fuel that the service waits for, or 0.
    wanted: AtomicU64,
    reached: Notify,
}

impl Progress {
    fn add(&self, fuel: u64) {
        let fuel = self.fuel.fetch_add(fuel, Ordering::SeqCst) + fuel;
        let wanted = self.wanted.load(Ordering::SeqCst);
        if wanted > 0 && fuel >= wanted {
            self.reached.notify_one();
        }
    }

    fn fuel(&self) -> u64 {
        self.fuel.load(Ordering::SeqCst)
    }

    /// Awaits a call into a guest, and adds its work while it goes on: a guest yields after each
    /// [`FUEL_YIELD_INTERVAL`]. A long memory operation burns more before it yields. Its rest is added at the end, when
    /// `fuel_used` returns the fuel of the whole call.
    async fn track<T, E>(
        &self,
        call: impl Future<Output = Result<T, E>>,
        fuel_used: impl FnOnce(&T) -> u64,
    ) -> Result<T, E> {
        let mut call = std::pin::pin!(call);
        let mut counted_fuel = 0;
        let called = std::future::poll_fn(|cx| {
            counted_fuel += FUEL_YIELD_INTERVAL;
            self.add(FUEL_YIELD_INTERVAL);
            call.as_mut().poll(cx)
        });
        let done = called.await?;
        self.add(fuel_used(&done).saturating_sub(counted_fuel));
        Ok(done)
    }

    /// Waits until work of `wanted` fuel is done.
    async fn reaches(&self, wanted: u64) {
        // Here and in `add`, the store comes before the load, so the later side sees the write of the other.
        self.wanted.store(wanted, Ordering::SeqCst);
        while self.fuel() < wanted {
            self.reached.notified().await;
        }
        self.wanted.store(0, Ordering::SeqCst);
    }
}

/// A VM that has replayed its part of the journal.
struct Caught {
    rehydrated: Rehydrated,
    /// The last record that the VM has seen.
    through: RecordNumber,
    exported: Option<Exported>,
    permit: OwnedSemaphorePermit,
}

/// The snapshot that a shadow exported.
struct Exported {
    snapshot: Arc<Snapshot>,
    /// The cost of the export and the restore, in fuel.
    fuel: u64,
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.round.abort();
    }
}

impl Shadow {
    /// Returns whether the round is over, so that [`Service::advance_shadow`] does not wait.
    pub(super) fn is_ready(&self) -> bool {
        self.over.is_some() || self.round.is_finished()
    }

    /// Returns the cause of the failover in progress, if the shadow is for a failover.
    pub(super) fn failover_cause(&self) -> Option<FailoverCause> {
        if let Aim::FailOver(cause) = self.aim { Some(cause) } else { None }
    }

    /// Waits until the round is over. Dropping the future changes nothing.
    pub(super) async fn round_over(&mut self) {
        if self.over.is_none() {
            self.over = Some(joined(&mut self.round).await);
        }
    }

    /// Returns the work that the round must have done before the serving VM continues, in fuel. Returns `None` if that
    /// VM need not wait. `held_bytes` is what the history holds now.
    fn awaited_fuel(&self, kept_fuel: u64, held_bytes: u64) -> Option<u64> {
        if self.over.is_some() {
            return None;
        }
        let (kept_fuel, done_fuel) = (kept_fuel.saturating_sub(self.kept_fuel_before), self.progress.fuel());
        let first =
            self.first.and_then(|(first, before)| first.awaited_fuel(held_bytes.saturating_sub(before), done_fuel));
        first.max(self.restraint.awaited_fuel(kept_fuel, done_fuel, self.free_fuel))
    }
}

/// The slowdown of the serving VM, which depends on the earlier rounds and on the journal's room.
///
/// That VM may keep three quarters of the round's replay meanwhile, so that each round is shorter than the previous
/// one. After every [`PATIENT_ROUNDS`] short or barely shrinking rounds it may keep a quarter less. It may keep less,
/// too, if the journal would be full before the last round: a service without room keeps nothing until the shadow is
/// promoted.
#[derive(Debug)]
struct Restraint {
    /// The replay of the current round, in fuel.
    round_fuel: u64,
    /// The number of rounds that were short, or not a fifth shorter than the previous one.
    unhelpful_rounds: u32,
    /// The share of the current round's replay for which the journal has room, in percent.
    room_percent: u64,
    /// The room that all rounds after the first leave, in bytes. None in the first round.
    reserve_bytes: Option<u64>,
}

/// What a round of a shadow replays of the journal, and what is left there, in bytes.
#[derive(Debug, Clone, Copy)]
struct JournalRoom {
    /// The bytes of the part of the journal that the round replays.
    round_bytes: u64,
    /// The bytes that the journal can still hold.
    left_bytes: u64,
}

impl JournalRoom {
    /// Returns the share of a round's replay that the serving VM may keep, in percent, so that this round and all later
    /// ones leave `reserve_bytes`.
    fn share_percent(self, reserve_bytes: u64) -> u64 {
        // With a share s, what they keep together is s / (1 - s) of what the round replays.
        let room_bytes = self.left_bytes.saturating_sub(reserve_bytes);
        let percent = room_bytes.saturating_mul(100).checked_div(room_bytes.saturating_add(self.round_bytes));
        percent.unwrap_or(SHARE_PERCENT_MAX).min(SHARE_PERCENT_MAX)
    }
}

impl Default for Restraint {
    fn default() -> Self {
        // The pace of the first round knows the room.
        Self { round_fuel: 0, unhelpful_rounds: 0, room_percent: SHARE_PERCENT_MAX, reserve_bytes: None }
    }
}

/// The pace of the serving VM in the first round.
///
/// The shadow restores, replays and exports, and the journal must have room for what is kept meanwhile. How long that
/// takes is not known beforehand. So what may be kept grows with the work that is done, ever more slowly, and never
/// reaches its bound: the serving VM becomes slower and does not stop.
#[derive(Debug, Clone, Copy)]
struct FirstRound {
    /// The bound of what the serving VM keeps, in bytes of the journal.
    kept_bytes_max: u64,
    /// The estimate of the shadow's work, in fuel.
    work_fuel: u64,
}

impl FirstRound {
    fn new(room: JournalRoom, work_fuel: u64) -> Self {
        Self { kept_bytes_max: room.left_bytes / 8 * 5, work_fuel: work_fuel.max(1) }
    }

    /// Returns the work that must be done before a VM continues that has kept `kept_bytes`, in fuel. Returns `None` if
    /// it need not wait.
    fn awaited_fuel(self, kept_bytes: u64, done_fuel: u64) -> Option<u64> {
        if kept_bytes <= self.allowed_bytes(done_fuel) {
            return None;
        }
        // The wait leaves some allowance, so that the VM can continue for a while afterwards.
        let wanted = kept_bytes.saturating_add(self.kept_bytes_max / FIRST_STEPS);
        let (max, work) = (u128::from(self.kept_bytes_max), u128::from(self.work_fuel));
        // The inverse of `allowed_bytes`.
        let paced = u128::from(wanted).saturating_sub(max / 4);
        let left = (max / 4 * 3).saturating_sub(paced);
        let done = (work * paced).checked_div(left).unwrap_or(u128::MAX);
        Some(u64::try_from(done).unwrap_or(u64::MAX).max(done_fuel + 1))
    }

    /// Returns what may be kept after this much work: a quarter of the bound at first, five eighths of it when the
    /// estimate is reached, and three quarters at twice the estimate.
    fn allowed_bytes(self, done_fuel: u64) -> u64 {
        let (max, done, work) = (u128::from(self.kept_bytes_max), u128::from(done_fuel), u128::from(self.work_fuel));
        u64::try_from(max / 4 + max / 4 * 3 * done / (done + work)).unwrap_or(u64::MAX)
    }
}

impl Restraint {
    /// Begins a round that replays this much. Returns the fuel that the serving VM may keep in the round at any rate.
    fn begin_round(&mut self, fuel: u64, transactions: usize, room: JournalRoom) -> u64 {
        // Kept as it is, so that the rounds together leave it.
        let reserve_bytes = *self.reserve_bytes.get_or_insert(room.left_bytes / 4);
        self.room_percent = room.share_percent(reserve_bytes);
        let is_short = fuel <= SHORT_FUEL_MAX || transactions <= SHORT_TRANSACTIONS_MAX;
        let is_stuck = self.round_fuel > 0 && fuel > self.round_fuel / 5 * 4;
        self.unhelpful_rounds += u32::from(is_short || is_stuck);
        self.round_fuel = fuel;
        (fuel / SLACK_SHARE).clamp(SLACK_FUEL_MIN, WAIT_FUEL_MAX)
    }

    /// Returns the work that must be done before a VM continues that has kept `kept_fuel`, in fuel. Returns `None` if
    /// it need not wait.
    fn awaited_fuel(&self, kept_fuel: u64, done_fuel: u64, free_fuel: u64) -> Option<u64> {
        let less = SHARE_PERCENT_STEP.saturating_mul(u64::from(self.unhelpful_rounds / PATIENT_ROUNDS));
        let percent = self.room_percent.saturating_sub(less);
        if kept_fuel <= done_fuel / 100 * percent + free_fuel {
            return None;
        }
        // The wait leaves some allowance, so that the VM can continue for a while afterwards.
        let room = (free_fuel / 2).min(WAIT_FUEL_MAX);
        Some((kept_fuel - (free_fuel - room)).saturating_mul(100).checked_div(percent).unwrap_or(u64::MAX))
    }
}

/// The first round: brings up a VM. With `exports`, exports the state after `at` there, and continues in a VM that is
/// restored from that export. The disk of the serving VM at that time must be the same: otherwise the guest is not
/// deterministic, although its replies are.
async fn bring_up(
    terms: Arc<ReplayTerms>,
    permit: impl Future<Output = OwnedSemaphorePermit>,
    snapshot: Arc<Snapshot>,
    (tail, through): (Vec<TailEntry>, RecordNumber),
    at: (Sequence, Timestamp),
    exports: Option<(Allowance, Disk)>,
    progress: Arc<Progress>,
) -> Result<Caught, RehydrateError> {
    let permit = permit.await;
    let restore_fuel = |rehydrated: &Rehydrated| rehydrated.fuel_used;
    let mut rehydrated = progress.track(restore(terms.context(), &snapshot), restore_fuel).await?;
    match replay_in_parts(&terms, &mut rehydrated, &tail, &progress).await {
        // A transaction with an accepted divergence must be left out, so the replay begins again.
        Err(RehydrateError::Lost { .. }) => {
            rehydrated = progress.track(rehydrate(terms.context(), &snapshot, &tail), restore_fuel).await?;
        }
        replayed => replayed?,
    }
    let mut exported = None;
    if let Some((allowance, serving)) = exports {
        let (sequence, timestamp) = at;
        let replayed = rehydrated.instance.disk().clone();
        let is_same = tokio::task::spawn_blocking(move || serving.digest() == replayed.digest());
        if !joined(is_same).await {
            return Err(RehydrateError::DiskDiverged { sequence });
        }
        let export = rehydrated.instance.snapshot(sequence, timestamp, allowance);
        let (snapshot, export_fuel) = progress.track(export, |(_, fuel)| *fuel).await?;
        let snapshot = Arc::new(snapshot);
        let (replayed_transactions, fuel_used) = (rehydrated.replayed_transactions, rehydrated.fuel_used);
        let replayed_queries = rehydrated.replayed_queries;
        // The VM has grown by the export, and its place in the pool is needed.
        drop(rehydrated);
        let mut restored = progress.track(restore(terms.context(), &snapshot), restore_fuel).await?;
        let fuel = export_fuel + restored.fuel_used + INSTANTIATE_OVERHEAD_FUEL;
        exported = Some(Exported { snapshot, fuel });
        restored.fuel_used += fuel_used + export_fuel;
        (restored.replayed_transactions, restored.replayed_queries) = (replayed_transactions, replayed_queries);
        rehydrated = restored;
    }
    Ok(Caught { rehydrated, through, exported, permit })
}

/// A later round: replays what was kept since the previous one.
async fn catch_up(
    terms: Arc<ReplayTerms>,
    mut caught: Caught,
    (tail, through): (Vec<TailEntry>, RecordNumber),
    progress: Arc<Progress>,
) -> Result<Caught, RehydrateError> {
    replay_in_parts(&terms, &mut caught.rehydrated, &tail, &progress).await?;
    caught.through = through;
    Ok(caught)
}

async fn replay_in_parts(
    terms: &ReplayTerms,
    rehydrated: &mut Rehydrated,
    tail: &[TailEntry],
    progress: &Progress,
) -> Result<(), RehydrateError> {
    let mut rest = tail;
    while !rest.is_empty() {
        let (part, more) = rest.split_at(together(rest));
        rest = more;
        rehydrated.replay(terms.context(), part).await?;
        progress.add(replay_fuel(part));
        // Short calls end before any of them would yield.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Returns how many of the first entries of `tail` are replayed before their work is added to the progress: the service
/// may wait for it.
fn together(tail: &[TailEntry]) -> usize {
    let mut fuel = 0;
    let is_long = |entry: &TailEntry| {
        fuel += replay_fuel(std::slice::from_ref(entry));
        fuel > WAIT_FUEL_MAX
    };
    let few = &tail[..tail.len().min(REPLAYED_AT_ONCE)];
    few.iter().position(is_long).map_or(few.len(), |index| index + 1)
}

/// Returns how many calls a replay of `tail` repeats.
fn calls(tail: &[TailEntry]) -> usize {
    tail.iter().map(TailEntry::calls).sum()
}

impl Service {
    /// Returns whether a shadow moves the service, if possible.
    pub(super) fn prefers_shadow(&self) -> bool {
        match self.failover {
            FailoverMode::Direct => false,
            FailoverMode::Shadow => true,
            FailoverMode::Auto => self.snapshots.last().state_bytes() > SHADOW_STATE_BYTES_MIN,
        }
    }

    /// Begins a shadow. An existing one that was for a snapshot serves a failover instead, if that is asked for.
    pub(super) fn begin_shadow(&mut self, aim: Aim, waiting: Vec<Order>) {
        if let Some(shadow) = &mut self.shadow {
            // A shadow that exports its state can serve a failover as well.
            if matches!(aim, Aim::FailOver(_)) && shadow.aim == Aim::Snapshot {
                shadow.aim = aim;
            }
            shadow.waiting.extend(waiting);
            return;
        }
        if self.conditions.is_stopped() {
            return self.answer_waiting(waiting);
        }
        // Queries that are not journalled yet come after the shadow's tail, as they do in the serving VM.
        let tail = (self.history.tail(self.snapshots.record()), self.history.last_record());
        let room = self.journal_room(&tail.0);
        // The restores and the export are slower beside the serving VM than they were alone.
        let free_fuel = self.snapshots.fuel().saturating_mul(RESTORES_MAX).saturating_add(TAIL_FUEL_MAX);
        // A state that cannot be exported is moved by replay alone. That does not help a failover for memory.
        let is_movable = self.may_export();
        let exports = match aim {
            // A fresh tank or a larger disk needs no compaction.
            Aim::FailOver(FailoverCause::Cpu | FailoverCause::Network | FailoverCause::Disk) => false,
            Aim::FailOver(FailoverCause::Forced) => is_movable,
            Aim::FailOver(FailoverCause::Memory) | Aim::Snapshot => true,
        };
        // A snapshot costs an export and a restore.
        let restores = if exports { 2 } else { 1 };
        let work_fuel = replay_fuel(&tail.0).saturating_add(self.snapshots.fuel().saturating_mul(restores));
        let first = FirstRound::new(room, work_fuel);
        let begun = exports.then(|| self.begin_snapshot());
        let exports = exports.then(|| (self.export_allowance(), self.vm.instance.disk().clone()));
        let fleet = Arc::clone(&self.context.fleet);
        let permit = async move { fleet.maintenance_store().await };
        let at = (self.last_sequence, self.clock.last());
        let progress = Arc::new(Progress::default());
        let snapshot = Arc::clone(self.snapshots.last());
        let of_round = Arc::clone(&progress);
        let round = tokio::spawn(bring_up(Arc::clone(&self.terms), permit, snapshot, tail, at, exports, of_round));
        self.shadow = Some(Shadow {
            aim,
            round,
            over: None,
            rounds: 0,
            restraint: Restraint::default(),
            begun,
            progress,
            free_fuel,
            kept_fuel_before: self.snapshots.kept_fuel(),
            first: Some((first, self.history.held_bytes())),
            waiting,
        });
    }

    /// Drops the shadow, if there is one, because the service is moved in another way. Returns the orders that waited
    /// for it.
    #[must_use]
    pub(super) fn drop_shadow(&mut self) -> Vec<Order> {
        self.shadow.take().map(|mut shadow| std::mem::take(&mut shadow.waiting)).unwrap_or_default()
    }

    pub(super) fn answer_waiting(&self, waiting: Vec<Order>) {
        for order in waiting {
            self.answer_order(order);
        }
    }

    /// Answers the orders that a shadow has served. An order for a snapshot that joined it may have come after
    /// transactions that its snapshot lacks: another shadow serves these.
    fn serve_waiting(&mut self, waiting: Vec<Order>) {
        let proven = self.snapshots.last().sequence();
        let (unserved, served) = waiting.into_iter().partition(|order| order.awaits_snapshot_after(proven));
        self.answer_waiting(served);
        if !unserved.is_empty() {
            self.begin_shadow(Aim::Snapshot, unserved);
        }
    }

    /// Pauses the serving VM before a request of `kind` while it is too far ahead of its shadow.
    pub(super) async fn keep_pace(&mut self, kind: Kind) {
        loop {
            let (kept_fuel, held_bytes) = (self.snapshots.kept_fuel(), self.history.held_bytes());
            let Some(shadow) = self.shadow.as_mut() else { return };
            // A query needs no room in the journal: without it, it is answered and not recorded.
            let held_bytes = if kind == Kind::Query { 0 } else { held_bytes };
            let Some(awaited_fuel) = shadow.awaited_fuel(kept_fuel, held_bytes) else { return };
            let progress = Arc::clone(&shadow.progress);
            tokio::select! {
                () = progress.reaches(awaited_fuel) => {}
                () = shadow.round_over() => {}
            }
        }
    }

    /// Waits for the end of the round, and then begins the next round or ends the shadow.
    pub(super) async fn advance_shadow(&mut self) {
        let Some(mut shadow) = self.shadow.take() else { return };
        shadow.round_over().await;
        let mut caught = match shadow.over.take() {
            Some(Ok(caught)) => caught,
            Some(Err(error)) => {
                let waiting = std::mem::take(&mut shadow.waiting);
                return self.shadow_lost(shadow.aim, &error, waiting);
            }
            None => return,
        };
        shadow.rounds += 1;
        let through = self.history.last_record();
        let tail = self.history.tail(caught.through);
        let is_near = calls(&tail) <= PROMOTE_TRANSACTIONS_MAX || replay_fuel(&tail) <= PROMOTE_FUEL_MAX;
        match shadow.aim {
            // The snapshot was restored, and the replay of what was kept meanwhile gave equal replies. So it is proven.
            Aim::Snapshot if tail.is_empty() || shadow.rounds > 1 => {
                let Rehydrated { replayed_transactions, fuel_used, .. } = caught.rehydrated;
                self.counters.replayed(replayed_transactions, fuel_used);
                self.take_over_snapshot(&mut caught, shadow.begun.take());
                drop_elsewhere(caught);
                self.serve_waiting(std::mem::take(&mut shadow.waiting));
            }
            Aim::FailOver(cause) if is_near => {
                let start = Instant::now();
                if let Err(error) = caught.rehydrated.replay(self.terms.context(), &tail).await {
                    let waiting = std::mem::take(&mut shadow.waiting);
                    return self.shadow_lost(shadow.aim, &error, waiting);
                }
                self.promote_shadow(cause, caught, shadow.begun.take(), start);
                self.serve_waiting(std::mem::take(&mut shadow.waiting));
            }
            Aim::Snapshot | Aim::FailOver(_) => {
                let progress = Arc::new(Progress::default());
                let room = self.journal_room(&tail);
                shadow.free_fuel = shadow.restraint.begin_round(replay_fuel(&tail), calls(&tail), room);
                let tail = (tail, through);
                shadow.round = tokio::spawn(catch_up(Arc::clone(&self.terms), caught, tail, Arc::clone(&progress)));
                shadow.progress = progress;
                shadow.first = None;
                shadow.kept_fuel_before = self.snapshots.kept_fuel();
                self.shadow = Some(shadow);
            }
        }
    }

    /// Completes a failover in progress, while requests wait.
    pub(super) async fn finish_shadow(&mut self) {
        while self.shadow.as_ref().is_some_and(|shadow| shadow.failover_cause().is_some()) {
            self.advance_shadow().await;
        }
    }

    /// Makes the shadow in progress the serving VM, in the state that the journal defines. Nothing is kept meanwhile,
    /// so one more round is the last. Completes the shadow's failover, if it has one. Returns false if there is no
    /// shadow, or it failed.
    pub(super) async fn adopt_shadow(&mut self) -> bool {
        let Some(mut shadow) = self.shadow.take() else { return false };
        let start = Instant::now();
        shadow.round_over().await;
        let waiting = std::mem::take(&mut shadow.waiting);
        let adopted = match shadow.over.take() {
            Some(Ok(mut caught)) => {
                let tail = self.history.tail(caught.through);
                match caught.rehydrated.replay(self.terms.context(), &tail).await {
                    Ok(()) => {
                        self.take_over_snapshot(&mut caught, shadow.begun.take());
                        let replayed_transactions = self.take_over(caught);
                        if let Some(cause) = shadow.failover_cause() {
                            self.go_on_in_fresh_vm(cause, replayed_transactions, start);
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Some(Err(error)) => Err(error),
            None => {
                self.answer_waiting(waiting);
                return false;
            }
        };
        match adopted {
            Ok(()) => {
                self.serve_waiting(waiting);
                true
            }
            // The rollback that follows must not wait for another shadow.
            Err(error) => {
                // An export that lacked memory gets more the next time, and that need not wait for requests.
                if !self.lacked_memory(&error) {
                    self.record_shadow_lost(shadow.aim, &error);
                }
                self.answer_waiting(waiting);
                false
            }
        }
    }

    /// Adopts the proven snapshot that a shadow exported, so that the service goes back to it.
    fn take_over_snapshot(&mut self, caught: &mut Caught, begun: Option<Begun>) {
        let (Some(Exported { snapshot, fuel }), Some(begun)) = (caught.exported.take(), begun) else { return };
        self.adopt_snapshot(snapshot, fuel, begun);
    }

    /// Makes the shadow's store the serving one. Returns how many transactions the shadow has replayed.
    fn take_over(&mut self, caught: Caught) -> u64 {
        let Caught { rehydrated: Rehydrated { instance, replayed_transactions, fuel_used, .. }, permit, .. } = caught;
        self.counters.replayed(replayed_transactions, fuel_used);
        self.adopt(instance, permit);
        replayed_transactions
    }

    fn promote_shadow(&mut self, cause: FailoverCause, mut caught: Caught, begun: Option<Begun>, start: Instant) {
        self.take_over_snapshot(&mut caught, begun);
        let replayed_transactions = self.take_over(caught);
        self.go_on_in_fresh_vm(cause, replayed_transactions, start);
    }

    /// Ends the orders of a shadow that failed. The serving VM is unaffected. If the export lacked memory, another
    /// shadow with all the memory of a slot serves the orders.
    fn shadow_lost(&mut self, aim: Aim, error: &RehydrateError, waiting: Vec<Order>) {
        if self.lacked_memory(error) {
            return self.begin_shadow(aim, waiting);
        }
        self.record_shadow_lost(aim, error);
        self.answer_waiting(waiting);
    }

    /// Notes what an export lacked. Returns whether another one at once, with more memory, is worthwhile.
    fn lacked_memory(&mut self, error: &RehydrateError) -> bool {
        matches!(error, RehydrateError::Move(error) if self.note_export(error))
    }

    /// Records and reports that a shadow failed.
    fn record_shadow_lost(&mut self, aim: Aim, error: &RehydrateError) {
        let reason = format!("its shadow failed: {error}");
        match aim {
            Aim::Snapshot => self.become_unmovable(reason),
            Aim::FailOver(cause) => {
                let due = self.conditions.shadow_failed(&self.vm.id, cause, reason, self.counters.requests());
                self.report(due);
            }
        }
    }

    /// Returns the room of the journal for the rounds of a shadow, of which the next one replays `tail`.
    fn journal_room(&self, tail: &[TailEntry]) -> JournalRoom {
        JournalRoom {
            round_bytes: self.history.held_bytes_of(tail),
            left_bytes: JOURNAL_BYTES_MAX.saturating_sub(self.history.held_bytes()),
        }
    }
}

/// Drops a VM on a blocking thread, so that nothing waits for it.
fn drop_elsewhere(caught: Caught) {
    tokio::task::spawn_blocking(move || drop(caught));
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_waiter_is_woken_when_its_round_is_far_enough() {
        let progress = Progress::default();
        progress.add(10);
        assert!(progress.reaches(10).now_or_never().is_some(), "it is there already");
        let mut reaches = Box::pin(progress.reaches(30));
        assert!(reaches.as_mut().now_or_never().is_none());
        let (waker, woken) = counting_waker();
        let mut context = std::task::Context::from_waker(&waker);
        assert!(reaches.as_mut().poll(&mut context).is_pending());
        progress.add(10);
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        progress.add(10);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(reaches.as_mut().poll(&mut context).is_ready());
        progress.add(10);
        assert_eq!(woken.load(Ordering::Relaxed), 1, "nobody waits any more");
    }

    fn counting_waker() -> (std::task::Waker, Arc<AtomicU64>) {
        struct Counts(Arc<AtomicU64>);
        impl std::task::Wake for Counts {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = Arc::new(AtomicU64::new(0));
        (std::task::Waker::from(Arc::new(Counts(Arc::clone(&woken)))), woken)
    }

    /// Returns the number of rounds until a shadow is promoted, the fuel that they replay altogether, and the longest
    /// wait of the serving VM in the first round. The shadow works as fast as the serving VM executes calls of these
    /// costs, one after another. Fuel also stands for time, and for bytes: the journal has room for `left` beside the
    /// tail of the first round. In that round the shadow also restores and exports, which takes `restores`.
    /// Its work is estimated as `estimate` percent of what it takes.
    fn rounds(first_fuel: u64, restores: u64, calls: &[u64], left: u64, estimate: u64) -> (u32, u64, u64) {
        let mut calls = calls.iter().cycle();
        let (mut restraint, mut rounds, mut replayed_fuel) = (Restraint::default(), 0, 0);
        let (mut tail_fuel, mut tail, mut longest) = (first_fuel, usize::MAX, 0);
        while tail > PROMOTE_TRANSACTIONS_MAX && tail_fuel > PROMOTE_FUEL_MAX && rounds < 1_000 {
            rounds += 1;
            replayed_fuel += tail_fuel;
            let held = replayed_fuel - first_fuel;
            let room = JournalRoom { round_bytes: tail_fuel, left_bytes: left.saturating_sub(held) };
            let estimate_fuel = (tail_fuel + restores) / 100 * estimate;
            let first = (rounds == 1).then(|| FirstRound::new(room, estimate_fuel));
            let (free_fuel, work_fuel) = match first {
                Some(_) => (restores.saturating_mul(RESTORES_MAX).saturating_add(TAIL_FUEL_MAX), tail_fuel + restores),
                None => (restraint.begin_round(tail_fuel, tail, room), tail_fuel),
            };
            let (mut now, mut kept_fuel, mut kept) = (0, 0, 0);
            while now < work_fuel {
                let paced = first.and_then(|first| first.awaited_fuel(kept_fuel, now));
                if let Some(awaited) = paced.max(restraint.awaited_fuel(kept_fuel, now, free_fuel)) {
                    if first.is_some() {
                        longest = longest.max(awaited.min(work_fuel).saturating_sub(now));
                    }
                    now = awaited.max(now);
                    continue;
                }
                let call = *calls.next().expect("there is no end of them");
                (now, kept_fuel, kept) = (now + call, kept_fuel + call, kept + 1);
            }
            (tail_fuel, tail) = (kept_fuel, kept);
        }
        (rounds, replayed_fuel, longest)
    }

    #[test]
    fn a_shadow_catches_up_whatever_the_calls_cost() {
        let first_fuel = 2_000_000_000;
        let mut one_long = vec![20_000; 1_000];
        one_long[500] = 100_000_000;
        let mut some_long = vec![20_000; 200];
        some_long[17] = 20_000_000;
        for calls in [&[25_000][..], &[1_000], &[1_000_000], &[40_000_000], &one_long, &some_long] {
            let (rounds, replayed_fuel, _) = rounds(first_fuel, 0, calls, u64::MAX / 8, 50);
            assert!(
                rounds <= 60 && replayed_fuel <= 8 * first_fuel,
                "{rounds} rounds, {replayed_fuel}: {:?}",
                &calls[..1]
            );
        }
    }

    #[test]
    fn a_shadow_is_promoted_before_the_journal_is_full() {
        let first_fuel = 2_000_000_000;
        for restores in [0, first_fuel, 4 * first_fuel] {
            for left in
                [first_fuel / 20, first_fuel / 4, first_fuel * 2 / 3, first_fuel, 2 * first_fuel, 4 * first_fuel]
            {
                for estimate in [0, 1, 10, 50, 100, 1_000] {
                    let (_, replayed_fuel, _) = rounds(first_fuel, restores, &[25_000], left, estimate);
                    let kept_fuel = replayed_fuel - first_fuel;
                    assert!(kept_fuel <= left, "{kept_fuel} of {left} beside restores of {restores}, {estimate} %");
                }
            }
        }
    }

    #[test]
    fn a_service_becomes_slower_in_the_first_round_and_does_not_stop() {
        let first_fuel = 2_000_000_000;
        for restores in [0, first_fuel, 4 * first_fuel] {
            for left in [first_fuel / 4, first_fuel * 2 / 3, first_fuel, 4 * first_fuel] {
                for estimate in [10, 50, 100, 1_000] {
                    let (_, _, longest) = rounds(first_fuel, restores, &[25_000], left, estimate);
                    // A wait at one quarter, which allows WAIT_FUEL_MAX and a call afterwards; or some of the work.
                    let short = (4 * WAIT_FUEL_MAX + 100_000).max((first_fuel + restores) / 50);
                    let what = format!("restores of {restores}, with room for {left}, {estimate} %");
                    assert!(longest <= short, "{longest} of {short} beside {what}");
                }
            }
        }
    }
}
