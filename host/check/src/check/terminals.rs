//! Programs that want a terminal.

use super::Check;
use crate::kind::Kind;
use crate::lab::{Seen, Setting};
use crate::trace::Trace;
use lifeboat_api::transaction::Outcome;
use lifeboat_vm::instance::MoveError;

/// The most transactions that are attempted with terminals.
const TERMINALS_TRIED_MAX: usize = 5;

impl Check<'_> {
    /// Attempts transactions with terminals that may have wanted one.
    ///
    /// To ask for a terminal is no bug: the standard library of C asks before its first output, and that of Go at its
    /// start. What a terminal changes shows who wanted one.
    pub(super) async fn check_terminals(&mut self, plain: &Trace, moved: &Trace) -> Result<(), MoveError> {
        let places: Vec<usize> = without_input(plain).collect();
        for (index, place) in places.iter().copied().enumerate() {
            self.progress("terminals", index, places.len());
            let (Some(ran), Some(before)) = (plain.ran(place), moved.kept.get(&(place - 1))) else { continue };
            let lab = self.lab();
            let mut instance = lab.restored(before).await?;
            instance.pretend_terminals();
            let transaction = &self.session.input.transactions[place - 1];
            let attempt = lab.execute(&mut instance, Setting::default(), place, transaction).await;
            let seen = Seen::of(&attempt.answer);
            let otherwise = match instance.observed().stdin_reads {
                0 if seen.outcome == ran.seen.outcome => continue,
                0 => format!("the outcome is {}", seen.shown),
                _ => "it reads".to_owned(),
            };
            let shown = &ran.seen.shown;
            let text = format!(
                "the program asks for a terminal, and without one it reads nothing, and the outcome is {shown}; with \
                 one, {otherwise}"
            );
            self.add(Kind::WantsTerminal, place, text);
            return Ok(());
        }
        Ok(())
    }
}

/// Returns the places of the first transactions that are not `ok`, and asked for a terminal and read no input.
pub(super) fn without_input(plain: &Trace) -> impl Iterator<Item = usize> {
    let have_asked = plain.all().filter(|(_, ran)| {
        let observed = ran.observed;
        ran.seen.outcome != Outcome::Ok && observed.terminal_questions > 0 && observed.stdin_reads == 0
    });
    have_asked.map(|(place, _)| place).take(TERMINALS_TRIED_MAX)
}
