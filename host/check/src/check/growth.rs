//! What grows under equal transactions: memory, files, fuel, replies.

use super::Check;
use crate::input::Transaction;
use crate::kind::Kind;
use crate::lab::{How, Setting};
use crate::report::Finding;
use crate::trace::Trace;
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_api::transaction::{Outcome, REPLY_BYTES_MAX};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;

/// The number of equal transactions in a row.
const REPEATED: usize = 1_000;

/// The most fuel that equal transactions in a row may burn together.
const REPEATED_FUEL_MAX: u64 = 2_000_000_000;

/// The number of repetitions of which the cheapest is the cost of a transaction: others may collect garbage.
const COSTS: usize = 5;

/// The factor by which the fuel of a transaction may grow during a run, and the fuel below which it does not matter.
const FUEL_FACTOR_MAX: u64 = 10;

/// The fuel of a transaction below which its growth does not matter.
const FUEL_OF_INTEREST: u64 = 100_000;

/// The length from which on an answer that grows with the number of transactions is found.
const ANSWER_BYTES_OF_INTEREST: usize = 64 << 10;

/// The growth of memory from which on a fresh VM must have less of it, unless that is state.
const GROWTH_OF_INTEREST_BYTES: u64 = 2 << 20;

/// What was measured during equal transactions.
#[derive(Debug, Clone, Copy)]
struct Measured {
    memory_bytes: u64,
    inodes: usize,
}

impl Check<'_> {
    /// Repeats the first transaction that was answered, in the last state of a run.
    pub(super) async fn check_growth(
        &mut self,
        plain: &Trace,
        queried: Option<&Trace>,
        place: usize,
        last: &Arc<Snapshot>,
    ) -> Result<(), MoveError> {
        self.check_answers(queried);
        let Some((first, fuel_used)) =
            plain.all().find(|(_, ran)| ran.seen.outcome == Outcome::Ok).map(|(place, ran)| (place, ran.fuel_used))
        else {
            return Ok(());
        };
        let lab = self.lab();
        let sample = self.session.input.transactions[first - 1].clone();
        let mut instance = lab.restored(last).await?;
        let count = REPEATED.min(usize::try_from(REPEATED_FUEL_MAX / fuel_used.max(1)).unwrap_or(REPEATED));
        let mut measured = Vec::new();
        let mut cost = u64::MAX;
        for index in 0..count {
            self.progress("repetition", index, count);
            let transaction = Transaction { id: format!("again-{index}"), ..sample.clone() };
            // The fuel is not limited to a tank, because it is what is measured.
            let how = How { fuel: Some(u64::MAX >> 1), ..How::default() };
            let attempt = lab.attempt(&mut instance, Setting::default(), place + 1 + index, &transaction, how).await;
            instance.take_log();
            if attempt.answer.outcome() != Outcome::Ok {
                // The state takes no more of these.
                return Ok(());
            }
            cost = cost.min(attempt.fuel_used);
            if index + 1 == COSTS.min(count) {
                self.check_cost(first, fuel_used, cost, place, last);
            }
            measured.push(Measured { memory_bytes: instance.memory_bytes(), inodes: instance.disk().inodes() });
        }
        if lab.is_program {
            // Each run has fresh memory, and all files are state.
            return Ok(());
        }
        let Ok((snapshot, _)) = lab.export(&mut instance, Setting::default(), place + count).await else {
            return Ok(());
        };
        // The state may note the last transaction, but it must not grow with their number.
        let has_grown = snapshot.state_bytes() > last.state_bytes() + last.state_bytes() / 10 + 1_024;
        if !has_grown && measured.len() == REPEATED {
            self.check_measured(first, &measured);
        }
        let before_bytes = measured.last().map_or(0, |measured| measured.memory_bytes);
        drop(instance);
        self.check_compaction(before_bytes, &snapshot).await
    }

    fn check_measured(&mut self, first: usize, measured: &[Measured]) {
        let at = |fraction: usize| measured[(measured.len() - 1) * fraction / 4];
        let (start, middle, end) = (at(1), at(2), at(4));
        if start.memory_bytes < middle.memory_bytes && middle.memory_bytes < end.memory_bytes {
            let text = format!(
                "{REPEATED} equal transactions grow the memory to {:#}, by {:#} in the last half, and not the state",
                Bytes(end.memory_bytes),
                Bytes(end.memory_bytes - middle.memory_bytes)
            );
            self.add(Kind::MemoryLeak, first, text);
        }
        let entries = end.inodes.saturating_sub(middle.inodes);
        if entries * 10 >= measured.len() / 2 * 9 {
            let text =
                format!("{REPEATED} equal transactions leave {} more files, and the state does not grow", entries * 2);
            self.add(Kind::DiskLitter, first, text);
        }
    }

    /// Checks that a restored guest has less memory than before, if what it had is not state.
    async fn check_compaction(&mut self, before_bytes: u64, snapshot: &Arc<Snapshot>) -> Result<(), MoveError> {
        let lab = self.lab();
        let start_bytes = lab.start().await?.memory_bytes();
        let Ok(restored) = lab.restored(snapshot).await else { return Ok(()) };
        let grown_bytes = before_bytes.saturating_sub(start_bytes);
        let restored_bytes = restored.memory_bytes().saturating_sub(start_bytes);
        let is_of_interest = grown_bytes >= GROWTH_OF_INTEREST_BYTES && snapshot.state_bytes() < grown_bytes / 4;
        if is_of_interest && restored_bytes >= grown_bytes / 20 * 17 {
            let text = format!(
                "with {:#} of state, the memory is {:#} before a move and {:#} after it",
                Bytes(snapshot.state_bytes()),
                Bytes(before_bytes),
                Bytes(restored.memory_bytes())
            );
            self.report.add(Finding::new(Kind::CompactionFreesNothing, text));
        }
        Ok(())
    }

    fn check_cost(&mut self, first: usize, before: u64, now: u64, place: usize, last: &Snapshot) {
        if now < FUEL_OF_INTEREST || now / FUEL_FACTOR_MAX < before {
            return;
        }
        let tank = self.lab().size.fuel;
        let transactions = place as u64;
        let text = format!(
            "it burns {} fuel first, and {} after {transactions} transactions ({:#} of state); a tank of {} ends at \
             about {} transactions",
            grouped(before),
            grouped(now),
            Bytes(last.state_bytes()),
            grouped(tank),
            grouped(
                u64::try_from(u128::from(transactions) * u128::from(tank) / u128::from(now.max(1))).unwrap_or(u64::MAX)
            )
        );
        self.add(Kind::CostGrows, first, text);
    }

    /// Looks for answers to queries that grow with the number of transactions.
    fn check_answers(&mut self, queried: Option<&Trace>) {
        let Some(queried) = queried else { return };
        let count = self.count();
        for (index, last) in queried.answers(count).iter().enumerate() {
            let Some(half) = queried.answers(count / 2).get(index) else { continue };
            // It has grown by as much in the second half as in the first.
            let is_growing = last.bytes >= ANSWER_BYTES_OF_INTEREST && last.bytes >= half.bytes / 10 * 18;
            if is_growing {
                let max = count as u64 * REPLY_BYTES_MAX as u64 / last.bytes as u64;
                let text = format!(
                    "the answer to query {} grows to {:#}, and exceeds {} after about {} transactions",
                    index + 1,
                    Bytes(last.bytes as u64),
                    Bytes(REPLY_BYTES_MAX as u64),
                    grouped(max)
                );
                // The guest may bound what it answers before that.
                self.report.add(Finding { is_warning: true, ..Finding::new(Kind::ReplyTooLong, text) });
            }
        }
    }
}
