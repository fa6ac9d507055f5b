//! A second VM in the background: it takes snapshots, and takes over, while the first one serves.
//!
//! ```text
//!   begin:   restore the last snapshot, replay the tail up to now     (in the background)
//!            for a snapshot or for memory: export there, and go on in a third VM, restored from that
//!   rounds:  replay what was kept meanwhile, until little is left     (in the background)
//!   promote: replay the rest, switch                                  (in the foreground: this is the pause)
//! ```
//!
//! The VM that serves is never waited for and never asked: it may trap, roll back, and run dry meanwhile. If the rounds do
//! not get shorter by themselves, it is held back a little ([`Restraint`]), so that they do. Whoever moves the
//! service in another way drops the shadow first. A shadow is no more than a rehydrate: one that is lost costs nothing
//! but its work, and one whose replies differ is never promoted.

use super::handle::Order;
use super::snapshots::Begun;
use super::{ReplayTerms, Service, TAIL_FUEL_MAX};
use crate::journal::TailEntry;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::FailoverCause;
use lifeboat_api::id::Sequence;
use lifeboat_api::sla::FailoverMode;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_vm::engine::joined;
use lifeboat_vm::rehydrate::{
    ExportNeeds, INSTANTIATE_OVERHEAD_FUEL, RehydrateError, Rehydrated, rehydrate, replay_fuel, restore,
};
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinHandle;

/// `auto` uses a shadow when the last snapshot had more bytes than this: below, a direct failover takes milliseconds.
pub const SHADOW_STATE_BYTES_MIN: u64 = 1024 * 1024;

/// What may be left to replay when a shadow is promoted, as fuel: about a quarter of a millisecond.
pub const PROMOTE_FUEL_MAX: u64 = 250_000;

/// Transactions and queries of which a replay in the foreground takes no longer than they did, whatever that was.
const PROMOTE_TRANSACTIONS_MAX: usize = 2;

/// What the VM that serves may keep in a round beside its share of what the round replays, as fuel, at the least. Rounds
/// shrink to a few times this, which must be less than [`PROMOTE_FUEL_MAX`].
const SLACK_FUEL_MIN: u64 = PROMOTE_FUEL_MAX / 8;

/// The same for a round that replays more than so many times that: a share of it. Who waits does so for longer and less
/// often, since threads that wake one another all the time leave the cores idle in between.
const SLACK_SHARE: u64 = 32;

/// A round that replays no more than this, as fuel or in transactions, is short: some milliseconds, as a rule.
const SHORT_FUEL_MAX: u64 = 40 * PROMOTE_FUEL_MAX;

/// The same in transactions, which may be long.
const SHORT_TRANSACTIONS_MAX: usize = 16;

/// After so many rounds that are short, or not much shorter than the one before, the VM that serves is held back more: its
/// clients hardly notice that of the former, and without it the latter would not end.
const PATIENT_ROUNDS: u32 = 4;

/// What the VM that serves may keep at once after it had to wait, as fuel: some milliseconds.
const WAIT_FUEL_MAX: u64 = 20 * PROMOTE_FUEL_MAX;

/// What the first round may take, as restores and exports of the state: two restores and an export, with as much again.
const RESTORES_MAX: u64 = 4;

/// Entries of the tail that a shadow replays between two notes of how far it is.
const REPLAYED_AT_ONCE: usize = 16;

/// What a shadow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    Snapshot,
    FailOver(FailoverCause),
}

/// A shadow, and the round that it is in.
pub(super) struct Shadow {
    pub(super) aim: Aim,
    round: JoinHandle<Result<Caught, RehydrateError>>,
    /// What came of the round, once it is over.
    over: Option<Result<Caught, RehydrateError>>,
    /// Rounds that are over.
    rounds: u32,
    restraint: Restraint,
    /// Of the snapshot that it exports, if it does.
    begun: Option<Begun>,
    /// How far the round is.
    progress: Arc<Progress>,
    /// What the VM that serves may keep in the round at any rate, as fuel.
    free_fuel: u64,
    /// What the VM that serves had kept when the round began, as fuel.
    kept_fuel_before: u64,
    /// Who waits for it to end.
    pub(super) waiting: Vec<Order>,
}

/// How far a round is.
#[derive(Debug, Default)]
struct Progress {
    /// What it has replayed.
    fuel: AtomicU64,
    /// How much of that is waited for; 0 if nothing is.
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

    /// Waits until so much is replayed.
    async fn reaches(&self, wanted: u64) {
        // The order of the two on both sides: whoever comes second sees what the other did.
        self.wanted.store(wanted, Ordering::SeqCst);
        while self.fuel() < wanted {
            self.reached.notified().await;
        }
        self.wanted.store(0, Ordering::SeqCst);
    }
}

/// A VM that has caught up with what it was given.
struct Caught {
    rehydrated: Rehydrated,
    /// The last record that it has seen.
    through: RecordNumber,
    exported: Option<Exported>,
    permit: OwnedSemaphorePermit,
}

/// The snapshot that a shadow exported.
struct Exported {
    snapshot: Arc<Snapshot>,
    /// What the export and the restore cost, as fuel.
    fuel: u64,
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.round.abort();
    }
}

impl Shadow {
    /// Whether the round is over, so that [`Service::advance_shadow`] does not wait.
    pub(super) fn is_ready(&self) -> bool {
        self.over.is_some() || self.round.is_finished()
    }

    /// What a failover that is under way is for.
    pub(super) fn failover_cause(&self) -> Option<FailoverCause> {
        if let Aim::FailOver(cause) = self.aim { Some(cause) } else { None }
    }

    /// Waits until the round is over. Dropping the future changes nothing.
    pub(super) async fn round_over(&mut self) {
        if self.over.is_none() {
            self.over = Some(joined(&mut self.round).await);
        }
    }

    /// What the round must have replayed before the VM that serves goes on, as fuel; none if it need not wait.
    fn awaited_fuel(&self, kept_fuel: u64) -> Option<u64> {
        let kept_fuel = kept_fuel.saturating_sub(self.kept_fuel_before);
        let is_going = self.over.is_none();
        is_going.then(|| self.restraint.awaited_fuel(kept_fuel, self.progress.fuel(), self.free_fuel)).flatten()
    }
}

/// How much the VM that serves is held back, by how the rounds went. It may keep three quarters of what a round replays
/// meanwhile, so that each round is shorter than the one before, and a quarter less after every [`PATIENT_ROUNDS`] that
/// say so.
#[derive(Debug, Default)]
struct Restraint {
    /// What the last round replays, as fuel.
    round_fuel: u64,
    /// Rounds that were short, or not a fifth shorter than the one before.
    telling_rounds: u32,
}

impl Restraint {
    /// Another round begins, which replays so much. Returns what the VM that serves may keep in it at any rate, as fuel.
    fn begin_round(&mut self, fuel: u64, transactions: usize) -> u64 {
        let is_short = fuel <= SHORT_FUEL_MAX || transactions <= SHORT_TRANSACTIONS_MAX;
        let is_stuck = self.round_fuel > 0 && fuel > self.round_fuel / 5 * 4;
        self.telling_rounds += u32::from(is_short || is_stuck);
        self.round_fuel = fuel;
        (fuel / SLACK_SHARE).clamp(SLACK_FUEL_MIN, WAIT_FUEL_MAX)
    }

    /// What must be replayed, as fuel, before a VM goes on that has kept `kept_fuel`; none if it need not wait.
    fn awaited_fuel(&self, kept_fuel: u64, replayed_fuel: u64, free_fuel: u64) -> Option<u64> {
        let quarters = 3_u64.saturating_sub(u64::from(self.telling_rounds / PATIENT_ROUNDS));
        if kept_fuel <= replayed_fuel / 4 * quarters + free_fuel {
            return None;
        }
        // So that it can go on for a while then.
        let room = (free_fuel / 2).min(WAIT_FUEL_MAX);
        Some((kept_fuel - (free_fuel - room)).saturating_mul(4).checked_div(quarters).unwrap_or(u64::MAX))
    }
}

/// The first round: brings up a VM. With `exports` it exports the state there, which is that after `at`, and goes on in a VM
/// restored from that.
async fn bring_up(
    terms: Arc<ReplayTerms>,
    permit: impl Future<Output = OwnedSemaphorePermit>,
    snapshot: Arc<Snapshot>,
    (tail, through): (Vec<TailEntry>, RecordNumber),
    at: (Sequence, Timestamp),
    exports: Option<ExportNeeds>,
    progress: Arc<Progress>,
) -> Result<Caught, RehydrateError> {
    let permit = permit.await;
    let mut rehydrated = restore(terms.context(), &snapshot).await?;
    match replay_in_parts(&terms, &mut rehydrated, &tail, &progress).await {
        // A transaction whose divergence was accepted is to be left out: from the start.
        Err(RehydrateError::Lost { .. }) => rehydrated = rehydrate(terms.context(), &snapshot, &tail).await?,
        replayed => replayed?,
    }
    let mut exported = None;
    if let Some(needs) = exports {
        let (sequence, timestamp) = at;
        let (snapshot, export_fuel) =
            rehydrated.instance.snapshot(sequence, timestamp, terms.maintenance.export_allowance(needs)).await?;
        let snapshot = Arc::new(snapshot);
        let (replayed_transactions, fuel_used) = (rehydrated.replayed_transactions, rehydrated.fuel_used);
        let replayed_queries = rehydrated.replayed_queries;
        // It has grown by the export, and its place in the pool is needed.
        drop(rehydrated);
        let mut restored = restore(terms.context(), &snapshot).await?;
        let fuel = export_fuel + restored.fuel_used + INSTANTIATE_OVERHEAD_FUEL;
        exported = Some(Exported { snapshot, fuel });
        restored.fuel_used += fuel_used + export_fuel;
        (restored.replayed_transactions, restored.replayed_queries) = (replayed_transactions, replayed_queries);
        rehydrated = restored;
    }
    Ok(Caught { rehydrated, through, exported, permit })
}

/// A later round: replays what was kept since.
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
    for part in tail.chunks(REPLAYED_AT_ONCE) {
        rehydrated.replay(terms.context(), part).await?;
        progress.add(replay_fuel(part));
        // Short calls end before any of them would give way.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// How many calls a replay of `tail` repeats.
fn calls(tail: &[TailEntry]) -> usize {
    tail.iter().map(TailEntry::calls).sum()
}

impl Service {
    /// Whether the service is moved by a shadow, if it can be.
    pub(super) fn prefers_shadow(&self) -> bool {
        match self.failover {
            FailoverMode::Direct => false,
            FailoverMode::Shadow => true,
            FailoverMode::Auto => self.snapshots.last().state_bytes() > SHADOW_STATE_BYTES_MIN,
        }
    }

    /// Begins a shadow, or has the one that is there serve another aim as well.
    pub(super) fn begin_shadow(&mut self, aim: Aim, waiting: Option<Order>) {
        if let Some(shadow) = &mut self.shadow {
            // One that exports its state serves a failover as well as any.
            if matches!(aim, Aim::FailOver(_)) && shadow.aim == Aim::Snapshot {
                shadow.aim = aim;
            }
            shadow.waiting.extend(waiting);
            return;
        }
        // Queries that are not journalled yet come after what the shadow begins with, there as in the VM that serves.
        let through = self.journal.last_record();
        let tail = match self.journal.tail(self.snapshots.record()) {
            Ok(tail) => (tail, through),
            Err(error) => {
                self.shadow_lost(aim, &error.into());
                return self.tell_waiting(waiting.into_iter().collect());
            }
        };
        // What cannot be exported is moved by replay alone, but for memory, which that does not help.
        let is_movable = self.may_export();
        let exports = match aim {
            Aim::FailOver(FailoverCause::Cpu) => false,
            Aim::FailOver(FailoverCause::Forced) => is_movable,
            Aim::FailOver(FailoverCause::Memory) | Aim::Snapshot => true,
        };
        let begun = exports.then(|| self.begin_snapshot());
        let exports = exports.then(|| self.snapshots.export_needs());
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
            // For the restores and the export, which are no replay, and slower beside the VM that serves than they were
            // by themselves.
            free_fuel: self.snapshots.fuel().saturating_mul(RESTORES_MAX).saturating_add(TAIL_FUEL_MAX),
            kept_fuel_before: self.snapshots.kept_fuel(),
            waiting: waiting.into_iter().collect(),
        });
    }

    /// Gives up the shadow, if there is one: the service is moved in another way.
    pub(super) fn drop_shadow(&mut self) {
        if let Some(mut shadow) = self.shadow.take() {
            self.tell_waiting(std::mem::take(&mut shadow.waiting));
        }
    }

    fn tell_waiting(&self, waiting: Vec<Order>) {
        for order in waiting {
            self.answer_order(order);
        }
    }

    /// Holds the VM that serves back while it runs away from its shadow.
    pub(super) async fn keep_pace(&mut self) {
        loop {
            let kept_fuel = self.snapshots.kept_fuel();
            let Some(shadow) = self.shadow.as_mut() else { return };
            let Some(awaited_fuel) = shadow.awaited_fuel(kept_fuel) else { return };
            let progress = Arc::clone(&shadow.progress);
            tokio::select! {
                () = progress.reaches(awaited_fuel) => {}
                () = shadow.round_over() => {}
            }
        }
    }

    /// Sees to a round that is over, or waits until it is: the next round, or the end.
    pub(super) async fn advance_shadow(&mut self) {
        let Some(mut shadow) = self.shadow.take() else { return };
        shadow.round_over().await;
        let mut caught = match shadow.over.take() {
            Some(Ok(caught)) => caught,
            Some(Err(error)) => {
                let waiting = std::mem::take(&mut shadow.waiting);
                self.shadow_lost(shadow.aim, &error);
                return self.tell_waiting(waiting);
            }
            None => return,
        };
        shadow.rounds += 1;
        let through = self.journal.last_record();
        let tail = match self.journal.tail(caught.through) {
            Ok(tail) => tail,
            Err(error) => {
                self.shadow_lost(shadow.aim, &error.into());
                return self.tell_waiting(std::mem::take(&mut shadow.waiting));
            }
        };
        let is_near = calls(&tail) <= PROMOTE_TRANSACTIONS_MAX || replay_fuel(&tail) <= PROMOTE_FUEL_MAX;
        match shadow.aim {
            // Restored, and what was kept meanwhile replayed with equal replies: it is proven.
            Aim::Snapshot if tail.is_empty() || shadow.rounds > 1 => {
                let Rehydrated { replayed_transactions, fuel_used, .. } = caught.rehydrated;
                self.counters.replayed(replayed_transactions, fuel_used);
                self.take_over_snapshot(&mut caught, shadow.begun.take());
                drop_elsewhere(caught);
                self.tell_waiting(std::mem::take(&mut shadow.waiting));
            }
            Aim::FailOver(cause) if is_near => {
                let start = Instant::now();
                if let Err(error) = caught.rehydrated.replay(self.terms.context(), &tail).await {
                    self.shadow_lost(shadow.aim, &error);
                } else {
                    self.promote_shadow(cause, caught, shadow.begun.take(), start);
                }
                self.tell_waiting(std::mem::take(&mut shadow.waiting));
            }
            Aim::Snapshot | Aim::FailOver(_) => {
                let progress = Arc::new(Progress::default());
                shadow.free_fuel = shadow.restraint.begin_round(replay_fuel(&tail), calls(&tail));
                let tail = (tail, through);
                shadow.round = tokio::spawn(catch_up(Arc::clone(&self.terms), caught, tail, Arc::clone(&progress)));
                shadow.progress = progress;
                shadow.kept_fuel_before = self.snapshots.kept_fuel();
                self.shadow = Some(shadow);
            }
        }
    }

    /// Sees a failover that is under way to its end, while requests wait.
    pub(super) async fn finish_shadow(&mut self) {
        while self.shadow.as_ref().is_some_and(|shadow| shadow.failover_cause().is_some()) {
            self.advance_shadow().await;
        }
    }

    /// Brings the service back into the state that the journal tells by the shadow that is under way: nothing is kept
    /// meanwhile, so that one more round is the last. If it was there to fail over, it does. False if there is none, or
    /// it was lost.
    pub(super) async fn adopt_shadow(&mut self) -> bool {
        let Some(mut shadow) = self.shadow.take() else { return false };
        let start = Instant::now();
        shadow.round_over().await;
        let waiting = std::mem::take(&mut shadow.waiting);
        let adopted = match shadow.over.take() {
            Some(Ok(mut caught)) => match self.journal.tail(caught.through) {
                Ok(tail) => match caught.rehydrated.replay(self.terms.context(), &tail).await {
                    Ok(()) => {
                        self.take_over_snapshot(&mut caught, shadow.begun.take());
                        let replayed_transactions = self.take_over(caught);
                        if let Some(cause) = shadow.failover_cause() {
                            self.go_on_in_fresh_vm(cause, replayed_transactions, start);
                        }
                        true
                    }
                    Err(error) => {
                        self.shadow_lost(shadow.aim, &error);
                        false
                    }
                },
                Err(_) => false,
            },
            Some(Err(error)) => {
                self.shadow_lost(shadow.aim, &error);
                false
            }
            None => false,
        };
        self.tell_waiting(waiting);
        adopted
    }

    /// Makes the snapshot that a shadow exported, and that is proven now, the one that the service goes back to.
    fn take_over_snapshot(&mut self, caught: &mut Caught, begun: Option<Begun>) {
        let (Some(Exported { snapshot, fuel }), Some(begun)) = (caught.exported.take(), begun) else { return };
        self.adopt_snapshot(snapshot, fuel, begun);
    }

    /// Makes the shadow's store the one that serves.
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

    /// A shadow came to nothing. The VM that serves is as good as it was.
    fn shadow_lost(&mut self, aim: Aim, error: &RehydrateError) {
        let reason = format!("its shadow was given up: {error}");
        if let RehydrateError::Move(error) = error {
            self.note_export(error);
        }
        match aim {
            Aim::Snapshot => self.become_unmovable(reason),
            Aim::FailOver(cause) => {
                let due = self.conditions.shadow_failed(&self.vm.id, cause, reason, self.counters.requests());
                self.report(due);
            }
        }
    }
}

/// Drops a VM where nobody waits for it.
fn drop_elsewhere(caught: Caught) {
    tokio::task::spawn_blocking(move || drop(caught));
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_waits_for_a_round_is_woken_once_it_is_far_enough_and_not_before() {
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

    /// Rounds, and what they replay altogether, until a shadow is promoted that replays just as fast as the VM that serves
    /// executes calls of these costs, one after the other: all of it is counted in fuel, and time as well.
    fn rounds(first_fuel: u64, calls: &[u64]) -> (u32, u64) {
        let mut calls = calls.iter().cycle();
        let (mut restraint, mut rounds, mut replayed_fuel) = (Restraint::default(), 0, 0);
        let (mut tail_fuel, mut tail) = (first_fuel, usize::MAX);
        while tail > PROMOTE_TRANSACTIONS_MAX && tail_fuel > PROMOTE_FUEL_MAX && rounds < 1_000 {
            rounds += 1;
            replayed_fuel += tail_fuel;
            let free_fuel = restraint.begin_round(tail_fuel, tail);
            let (mut now, mut kept_fuel, mut kept) = (0, 0, 0);
            while now < tail_fuel {
                if let Some(awaited) = restraint.awaited_fuel(kept_fuel, now, free_fuel) {
                    now = awaited.max(now);
                    continue;
                }
                let call = *calls.next().expect("there is no end of them");
                (now, kept_fuel, kept) = (now + call, kept_fuel + call, kept + 1);
            }
            (tail_fuel, tail) = (kept_fuel, kept);
        }
        (rounds, replayed_fuel)
    }

    #[test]
    fn a_shadow_catches_up_whatever_the_calls_cost() {
        let first_fuel = 2_000_000_000;
        let mut one_long = vec![20_000; 1_000];
        one_long[500] = 100_000_000;
        let mut some_long = vec![20_000; 200];
        some_long[17] = 20_000_000;
        for calls in [&[25_000][..], &[1_000], &[1_000_000], &[40_000_000], &one_long, &some_long] {
            let (rounds, replayed_fuel) = rounds(first_fuel, calls);
            assert!(
                rounds <= 60 && replayed_fuel <= 8 * first_fuel,
                "{rounds} rounds, {replayed_fuel}: {:?}",
                &calls[..1]
            );
        }
    }
}
