//! How each service of a host is: one table, and the only ways from one state to the next.
//!
//! ```text
//!               begin               run
//!    (none) ------------> Starting -----> Running
//!      ^                  ^  |  |             |
//!      |            begin |  |  | rest        | stop
//!      |                  |  |  v             v
//!      |     Stopped, Quarantined, Orphan <- Stopping
//!      |                     |         ended  |
//!      +---------------------+----------------+
//!        give_up (from Starting: back to where it was); ended, if it is to be gone
//! ```
//!
//! Starting, Running and Stopping have one owner each: who began it, the service's task, and who ends that. `begin` is
//! refused in all three, so nobody becomes a second one. `rest` and `stop` are for who has the lock of the name (`name_locks.rs`):
//! they end what was begun as well. Nothing here waits or does anything: who changes a state does what belongs to it, before
//! or afterwards.

use super::attempts::QuarantineId;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Denial;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Why a service does not run that an operator stopped.
pub(super) const STOPPED_BY_OPERATOR: &str = "an operator stopped it; it serves again once it is started";

/// How a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot<R> {
    /// It is being created or brought back. It holds how it was before.
    Starting(Option<Rest>),
    /// It runs.
    Running(R),
    /// Its task is being ended. It holds how it will be.
    Stopping(Option<Rest>),
    /// It does not run.
    Resting(Rest),
}

/// Why a service does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    /// It could not be brought back, since this.
    Quarantined {
        reason: String,
        /// More attempts are made to bring it back.
        awaited: Option<QuarantineId>,
    },
    /// The catalog does not have it, since this.
    Orphan(String),
    /// An operator stopped it.
    Stopped,
}

impl Rest {
    /// Quarantined until an operator does something about it.
    pub(super) fn quarantined(reason: String) -> Self {
        Self::Quarantined { reason, awaited: None }
    }

    /// The quarantine in which more attempts are made, if it is one.
    pub(super) fn awaited(&self) -> Option<QuarantineId> {
        match self {
            Self::Quarantined { awaited, .. } => *awaited,
            Self::Orphan(_) | Self::Stopped => None,
        }
    }

    /// What its users are told.
    pub(super) fn denial(&self, service: &Name) -> Denial {
        let service = service.clone();
        match self {
            Self::Quarantined { reason, .. } => Denial::Quarantined { service, reason: reason.clone() },
            Self::Orphan(reason) => Denial::Orphan { service, reason: reason.clone() },
            Self::Stopped => Denial::Stopped { service, reason: STOPPED_BY_OPERATOR.into() },
        }
    }
}

/// Somebody else owns the service: it runs, or is being started or stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owned;

/// The services of a host. `R` is what a service is that runs.
#[derive(Debug)]
pub(super) struct Registry<R>(HashMap<Name, Slot<R>>);

impl<R> Default for Registry<R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<R> Registry<R> {
    /// A service is to be created or brought back by who calls this: until [`Registry::run`], [`Registry::rest`] or
    /// [`Registry::give_up`].
    ///
    /// # Errors
    /// [`Owned`], and nothing has changed.
    pub(super) fn begin(&mut self, name: &Name) -> Result<(), Owned> {
        let before = match self.0.get(name) {
            None => None,
            Some(Slot::Resting(rest)) => Some(rest.clone()),
            Some(Slot::Starting(_) | Slot::Running(_) | Slot::Stopping(_)) => return Err(Owned),
        };
        self.0.insert(name.clone(), Slot::Starting(before));
        Ok(())
    }

    /// What was begun runs.
    pub(super) fn run(&mut self, name: &Name, running: R) {
        let before = self.0.insert(name.clone(), Slot::Running(running));
        debug_assert!(matches!(before, Some(Slot::Starting(_))), "only what was begun runs: {name}");
    }

    /// What was begun did not come about: it is as it was before.
    pub(super) fn give_up(&mut self, name: &Name) {
        if let Some(Slot::Starting(before)) = self.0.get_mut(name) {
            let before = before.take();
            self.settle(name, before);
        }
    }

    /// A service that does not run rests, for this reason from now on. It ends nothing that runs: that is
    /// [`Registry::stop`]'s.
    pub(super) fn rest(&mut self, name: &Name, rest: Rest) {
        match self.0.get_mut(name) {
            Some(Slot::Running(_)) => {}
            Some(Slot::Stopping(then)) => *then = Some(rest),
            Some(Slot::Starting(_) | Slot::Resting(_)) | None => self.settle(name, Some(rest)),
        }
    }

    /// A service is to run no more, and to be as `then` says. What ran is the caller's to end, who says so with
    /// [`Registry::ended`]. Nothing ran if there is none: then it is so already.
    pub(super) fn stop(&mut self, name: &Name, then: Option<Rest>) -> Option<R> {
        match self.0.get_mut(name) {
            Some(slot @ Slot::Running(_)) => match std::mem::replace(slot, Slot::Stopping(then)) {
                Slot::Running(running) => Some(running),
                _ => None,
            },
            Some(Slot::Stopping(planned)) => {
                *planned = then;
                None
            }
            Some(Slot::Starting(_) | Slot::Resting(_)) | None => {
                self.settle(name, then);
                None
            }
        }
    }

    /// The same for all that run, which are to be gone then.
    pub(super) fn stop_all(&mut self) -> Vec<(Name, R)> {
        let names: Vec<_> = self.running().map(|(name, _)| name.clone()).collect();
        names.into_iter().filter_map(|name| self.stop(&name, None).map(|running| (name, running))).collect()
    }

    /// The task of a service that was stopped has ended.
    pub(super) fn ended(&mut self, name: &Name) {
        if let Some(Slot::Stopping(then)) = self.0.get_mut(name) {
            let then = then.take();
            self.settle(name, then);
        }
    }

    fn settle(&mut self, name: &Name, rest: Option<Rest>) {
        match rest {
            Some(rest) => self.0.insert(name.clone(), Slot::Resting(rest)),
            None => self.0.remove(name),
        };
    }

    /// What runs under a name.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<&R>
    where
        Name: Borrow<Q>,
    {
        match self.0.get(name) {
            Some(Slot::Running(running)) => Some(running),
            _ => None,
        }
    }

    /// All that run.
    pub(super) fn running(&self) -> impl Iterator<Item = (&Name, &R)> {
        self.0.iter().filter_map(|(name, slot)| match slot {
            Slot::Running(running) => Some((name, running)),
            _ => None,
        })
    }

    /// Why a service does not run. None if it does, or if there is none.
    pub(super) fn resting<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<(&Name, &Rest)>
    where
        Name: Borrow<Q>,
    {
        self.0.get_key_value(name).and_then(|(name, slot)| Some((name, slot.rest()?)))
    }

    /// Why each of those does not run that do not.
    pub(super) fn all_resting(&self) -> impl Iterator<Item = (&Name, &Rest)> {
        self.0.iter().filter_map(|(name, slot)| Some((name, slot.rest()?)))
    }
}

impl<R> Slot<R> {
    /// Why it does not run, as its users are told: while it starts, as before; while it stops, as afterwards.
    fn rest(&self) -> Option<&Rest> {
        match self {
            Self::Running(_) => None,
            Self::Starting(rest) | Self::Stopping(rest) => rest.as_ref(),
            Self::Resting(rest) => Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What one owner of a service sees and does, without regard to others.
    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        Run,
        GiveUp,
        Rest(Rest),
        Stop(Option<Rest>),
        Ended,
    }

    fn rest() -> impl Strategy<Value = Rest> {
        prop_oneof![
            Just(Rest::Stopped),
            Just(Rest::Orphan("of an older catalog".into())),
            Just(Rest::quarantined("it diverged".into())),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Begin),
            3 => Just(Step::Run),
            1 => Just(Step::GiveUp),
            1 => rest().prop_map(Step::Rest),
            2 => proptest::option::of(rest()).prop_map(Step::Stop),
            2 => Just(Step::Ended),
        ]
    }

    /// Plain facts of one service: who owns it, what runs, and what its users are told if nothing does.
    #[derive(Debug, Default)]
    struct Facts {
        is_begun: bool,
        runs: Option<u32>,
        is_ending: bool,
        told: Option<Rest>,
    }

    fn names() -> [Name; 2] {
        ["bank", "vault"].map(|text| Name::new(text).expect("a name"))
    }

    proptest! {
        #[test]
        fn the_table_is_as_its_steps_say(steps in prop::collection::vec((0..2_usize, step()), 0..60)) {
            let names = names();
            let mut registry = Registry::default();
            let mut facts = [Facts::default(), Facts::default()];
            let mut last = 0;
            for (index, step) in steps {
                let (name, fact) = (&names[index], &mut facts[index]);
                match step {
                    Step::Begin => {
                        let is_free = !fact.is_begun && fact.runs.is_none() && !fact.is_ending;
                        prop_assert_eq!(registry.begin(name).is_ok(), is_free, "one owner at a time");
                        fact.is_begun |= is_free;
                    }
                    // Only the owner of what was begun does these.
                    Step::Run if fact.is_begun => {
                        last += 1;
                        registry.run(name, last);
                        *fact = Facts { runs: Some(last), ..Facts::default() };
                    }
                    Step::Run => {}
                    Step::GiveUp => {
                        registry.give_up(name);
                        fact.is_begun = false;
                    }
                    Step::Rest(rest) => {
                        registry.rest(name, rest.clone());
                        if fact.runs.is_none() {
                            fact.told = Some(rest);
                            fact.is_begun = false;
                        }
                    }
                    Step::Stop(then) => {
                        let stopped = registry.stop(name, then.clone());
                        prop_assert_eq!(stopped, fact.runs, "what runs is handed to one who ends it");
                        fact.is_ending |= fact.runs.take().is_some();
                        (fact.is_begun, fact.told) = (false, then);
                    }
                    Step::Ended => {
                        registry.ended(name);
                        fact.is_ending = false;
                    }
                }
                for (name, fact) in names.iter().zip(&facts) {
                    prop_assert_eq!(registry.get(name), fact.runs.as_ref());
                    let told = registry.resting(name).map(|(_, rest)| rest);
                    prop_assert_eq!(told, fact.told.as_ref().filter(|_| fact.runs.is_none()));
                }
                prop_assert_eq!(registry.running().count(), facts.iter().filter(|fact| fact.runs.is_some()).count());
            }
        }
    }

    #[test]
    fn who_is_told_of_a_service_that_starts_is_told_what_it_was() {
        let [bank, _] = names();
        let mut registry = Registry::<u32>::default();
        registry.rest(&bank, Rest::Stopped);
        registry.begin(&bank).expect("nobody owns it");
        assert_eq!(registry.resting("bank"), Some((&bank, &Rest::Stopped)));
        registry.give_up(&bank);
        assert_eq!(registry.resting("bank"), Some((&bank, &Rest::Stopped)));
    }

    #[test]
    fn all_that_run_are_stopped_at_once_and_are_gone() {
        let [bank, vault] = names();
        let mut registry = Registry::default();
        registry.begin(&bank).expect("nobody owns it");
        registry.run(&bank, 1);
        registry.rest(&vault, Rest::Stopped);
        assert_eq!(registry.stop_all(), [(bank.clone(), 1)]);
        assert_eq!((registry.begin(&bank), registry.resting("bank")), (Err(Owned), None));
        registry.ended(&bank);
        assert_eq!(registry.begin(&bank), Ok(()));
        assert_eq!(registry.all_resting().count(), 1);
    }
}
