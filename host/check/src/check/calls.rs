//! Calls to the network: calls that fail, and transactions that are attempted again.

use super::{CALLS_REPEATED_MAX, Check, costliest};
use crate::kind::Kind;
use crate::lab::{How, Seen, Setting, is_same_export};
use crate::network::Script;
use crate::trace::{Ran, Trace, listing};
use lifeboat_api::call::CallRecord;
use lifeboat_api::transaction::Outcome;
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;

/// The number of points at which the fuel of a transaction ends.
const CUTS: u64 = 50;

impl Check<'_> {
    /// Attempts transactions again: with other servers, later, and after the fuel ended.
    pub(super) async fn check_calls(&mut self, plain: &Trace, moved: &Trace) -> Result<(), MoveError> {
        let with_calls: Vec<usize> = plain
            .all()
            .filter(|(_, ran)| !ran.calls.is_empty())
            .map(|(place, _)| place)
            .take(CALLS_REPEATED_MAX)
            .collect();
        for (index, place) in with_calls.iter().enumerate() {
            self.progress("calls", index, with_calls.len());
            let (Some(ran), Some(before)) = (plain.ran(*place), moved.kept.get(&(place - 1))) else { continue };
            self.fail_calls(*place, ran, before).await?;
            self.attempt_later(*place, ran, before).await?;
        }
        let cut = with_calls.first().copied().or_else(|| costliest(plain));
        if let Some(place) = cut
            && let (Some(ran), Some(before)) = (plain.ran(place), moved.kept.get(&(place - 1)))
            && moved.difference.is_none()
        {
            self.cut(place, ran, before).await?;
        }
        Ok(())
    }

    /// Executes a transaction with servers that fail.
    async fn fail_calls(&mut self, place: usize, ran: &Ran, before: &Arc<Snapshot>) -> Result<(), MoveError> {
        if ran.seen.outcome != Outcome::Ok {
            return Ok(());
        }
        for script in Script::FAILURES {
            let (seen, state) = self.after(place, before, script).await?;
            if !seen.is(&ran.seen) {
                continue;
            }
            let (_, usual) = self.after(place, before, Script::Answer).await?;
            if self.is_same_state(usual.as_deref(), state.as_deref()) {
                let text = format!("the reply is {} with {} as well", ran.seen.shown, script.described());
                self.add(Kind::IgnoresCalls, place, text);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Executes a transaction with servers that answer as `script` says. Returns the answer and the state afterwards, if
    /// there is one.
    async fn after(
        &self,
        place: usize,
        before: &Arc<Snapshot>,
        script: Script,
    ) -> Result<(Seen, Option<Arc<Snapshot>>), MoveError> {
        let lab = self.lab();
        let transaction = &self.session.input.transactions[place - 1];
        let mut instance = lab.restored(before).await?;
        let how = How { script, ..How::default() };
        let attempt = lab.attempt(&mut instance, Setting::default(), place, transaction, how).await;
        let mut state = None;
        if attempt.answer.is_kept() {
            // A guest that cannot export is found by its moves.
            state = lab.export(&mut instance, Setting::default(), place).await.ok().map(|(snapshot, _)| snapshot);
        }
        Ok((Seen::of(&attempt.answer), state))
    }

    /// Returns whether both states are the same, as far as they are known.
    fn is_same_state(&self, one: Option<&Snapshot>, other: Option<&Snapshot>) -> bool {
        let (Some(one), Some(other)) = (one, other) else { return true };
        // What the snapshot of a program has beside its disk is the level of its memory.
        let is_same_memory = self.lab().is_program || is_same_export(one, other);
        is_same_memory && listing(one.disk()) == listing(other.disk())
    }

    /// Executes a transaction as the second attempt of its id: later, after a restart of the host.
    async fn attempt_later(&mut self, place: usize, ran: &Ran, before: &Arc<Snapshot>) -> Result<(), MoveError> {
        let transaction = &self.session.input.transactions[place - 1];
        let setting = Setting { is_later: true, ..Setting::default() };
        let lab = self.lab();
        let mut instance = lab.restored(before).await?;
        let attempt = lab.execute(&mut instance, setting, place, transaction).await;
        let requests = |calls: &[CallRecord]| calls.iter().map(|call| call.hash).collect::<Vec<_>>();
        if requests(&attempt.calls) != requests(&ran.calls) {
            let text = "a second attempt of the same id, at another time, makes another request".to_owned();
            self.add(Kind::RequestDiffers, place, text);
        }
        Ok(())
    }

    /// Lets the fuel of a transaction end at many points, and executes it again after each.
    async fn cut(&mut self, place: usize, ran: &Ran, before: &Arc<Snapshot>) -> Result<(), MoveError> {
        let transaction = &self.session.input.transactions[place - 1];
        let cuts = CUTS.min(ran.fuel_used.saturating_sub(1));
        for cut in 1..=cuts {
            self.progress("cuts", usize::try_from(cut).unwrap_or(0), usize::try_from(cuts).unwrap_or(0));
            let lab = self.lab();
            let mut instance = lab.restored(before).await?;
            let fuel = ran.fuel_used / (cuts + 1) * cut;
            let how = How { fuel: Some(fuel.max(1)), ..How::default() };
            let attempt = lab.attempt(&mut instance, Setting::default(), place, transaction, how).await;
            let mut instance = lab.restored(before).await?;
            let how = How { known: with_outcomes(attempt.calls, &ran.calls), ..How::default() };
            let again = lab.attempt(&mut instance, Setting::default(), place, transaction, how).await;
            let seen = Seen::of(&again.answer);
            if !seen.is(&ran.seen) {
                let kind = if ran.calls.is_empty() { Kind::StateLost } else { Kind::RequestDiffers };
                let text = format!(
                    "after an attempt that ended at {fuel} fuel, the reply is {}, and {} without",
                    seen.shown, ran.seen.shown
                );
                self.add(kind, place, text);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Gives calls that an attempt did not see answered the outcomes of an attempt that did: the service waits for them.
fn with_outcomes(mut calls: Vec<CallRecord>, answered: &[CallRecord]) -> Arc<[CallRecord]> {
    for call in calls.iter_mut().filter(|call| call.result.is_none()) {
        if let Some(outcome) = answered.iter().find(|answered| answered.index == call.index) {
            (call.seen, call.result) = (outcome.seen, outcome.result.clone());
        }
    }
    calls.into()
}
