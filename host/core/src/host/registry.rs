//! The states of a host's services: one table, and the only transitions between the states.
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
//! Starting, Running and Stopping have one owner each: the caller of `begin`, the service's task, and the caller of
//! `stop`. `begin` is refused in all three states, so there is never a second owner. `rest` and `stop` are for the
//! holder of the name's lock (`name_locks.rs`), and also end what was begun. This module only records states. The
//! caller that changes a state does the work that belongs to it, before or afterwards.

use super::attempts::QuarantineId;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Denial;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The reason in denials of a service that an operator stopped.
pub(super) const STOPPED_BY_OPERATOR: &str = "an operator stopped it; it serves again once it is started";

/// The state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot<R> {
    /// The service is being created or brought back. The value is its state before.
    Starting(Option<Rest>),
    Running(R),
    /// The service's task is being ended. The value is the state after that.
    Stopping(Option<Rest>),
    /// The service does not run.
    Resting(Rest),
}

/// Why a service does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    /// The service could not be brought back, for this reason.
    Quarantined {
        reason: String,
        /// The id of the quarantine, if the host makes further attempts to end it.
        awaited: Option<QuarantineId>,
    },
    /// The catalog does not have the service, for this reason.
    Orphan(String),
    /// An operator stopped the service.
    Stopped,
}

impl Rest {
    /// Returns a quarantine that lasts until an operator ends it.
    pub(super) fn quarantined(reason: String) -> Self {
        Self::Quarantined { reason, awaited: None }
    }

    /// Returns the id of a quarantine with further attempts.
    pub(super) fn awaited(&self) -> Option<QuarantineId> {
        match self {
            Self::Quarantined { awaited, .. } => *awaited,
            Self::Orphan(_) | Self::Stopped => None,
        }
    }

    /// Returns the denial that users of the service get.
    pub(super) fn denial(&self, service: &Name) -> Denial {
        let service = service.clone();
        match self {
            Self::Quarantined { reason, .. } => Denial::Quarantined { service, reason: reason.clone() },
            Self::Orphan(reason) => Denial::Orphan { service, reason: reason.clone() },
            Self::Stopped => Denial::Stopped { service, reason: STOPPED_BY_OPERATOR.into() },
        }
    }
}

/// The service has another owner: it runs, or is being started or stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owned;

/// The services of a host. `R` is a running service.
#[derive(Debug)]
pub(super) struct Registry<R>(HashMap<Name, Slot<R>>);

impl<R> Default for Registry<R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<R> Registry<R> {
    /// Begins to create a service or to bring one back. The caller owns it until [`Registry::run`], [`Registry::rest`]
    /// or [`Registry::give_up`].
    ///
    /// # Errors
    /// [`Owned`]: nothing has changed.
    pub(super) fn begin(&mut self, name: &Name) -> Result<(), Owned> {
        let before = match self.0.get(name) {
            None => None,
            Some(Slot::Resting(rest)) => Some(rest.clone()),
            Some(Slot::Starting(_) | Slot::Running(_) | Slot::Stopping(_)) => return Err(Owned),
        };
        self.0.insert(name.clone(), Slot::Starting(before));
        Ok(())
    }

    /// Records that a begun service runs.
    pub(super) fn run(&mut self, name: &Name, running: R) {
        let before = self.0.insert(name.clone(), Slot::Running(running));
        debug_assert!(matches!(before, Some(Slot::Starting(_))), "only what was begun runs: {name}");
    }

    /// Restores the state before [`Registry::begin`], because the service could not be started.
    pub(super) fn give_up(&mut self, name: &Name) {
        if let Some(Slot::Starting(before)) = self.0.get_mut(name) {
            let before = before.take();
            self.settle(name, before);
        }
    }

    /// Records why a service does not run from now on. Does not end a running service: [`Registry::stop`] does.
    pub(super) fn rest(&mut self, name: &Name, rest: Rest) {
        match self.0.get_mut(name) {
            Some(Slot::Running(_)) => {}
            Some(Slot::Stopping(then)) => *then = Some(rest),
            Some(Slot::Starting(_) | Slot::Resting(_)) | None => self.settle(name, Some(rest)),
        }
    }

    /// Takes a service out of operation, with the state `then` afterwards. Returns the running service, if there is
    /// one: the caller ends it and then calls [`Registry::ended`]. If none is returned, the service has the state
    /// `then` already.
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

    /// Takes all running services out of operation. They have no entry afterwards.
    pub(super) fn stop_all(&mut self) -> Vec<(Name, R)> {
        let names: Vec<_> = self.running().map(|(name, _)| name.clone()).collect();
        names.into_iter().filter_map(|name| self.stop(&name, None).map(|running| (name, running))).collect()
    }

    /// Records that the task of a stopped service has ended.
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

    /// Returns the running service of a name.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<&R>
    where
        Name: Borrow<Q>,
    {
        match self.0.get(name) {
            Some(Slot::Running(running)) => Some(running),
            _ => None,
        }
    }

    /// Returns all running services.
    pub(super) fn running(&self) -> impl Iterator<Item = (&Name, &R)> {
        self.0.iter().filter_map(|(name, slot)| match slot {
            Slot::Running(running) => Some((name, running)),
            _ => None,
        })
    }

    /// Returns why a service does not run, or none if it runs or does not exist.
    pub(super) fn resting<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<(&Name, &Rest)>
    where
        Name: Borrow<Q>,
    {
        self.0.get_key_value(name).and_then(|(name, slot)| Some((name, slot.rest()?)))
    }

    /// Returns the services that do not run, each with the reason.
    pub(super) fn all_resting(&self) -> impl Iterator<Item = (&Name, &Rest)> {
        self.0.iter().filter_map(|(name, slot)| Some((name, slot.rest()?)))
    }
}

impl<R> Slot<R> {
    /// Returns the reason that users get in denials: the earlier one during a start, the later one during a stop.
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

    /// A step of one owner of a service, independent of other owners.
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

    /// The plain facts about one service: its owner, what runs, and the reason that users get if nothing runs.
    #[derive(Debug, Default)]
    struct Facts {
        is_begun: bool,
        runs: Option<u32>,
        is_ending: bool,
        printed: Option<Rest>,
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
                    // Only the owner of a begun service takes these steps.
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
                            fact.printed = Some(rest);
                            fact.is_begun = false;
                        }
                    }
                    Step::Stop(then) => {
                        let stopped = registry.stop(name, then.clone());
                        prop_assert_eq!(stopped, fact.runs, "what runs is handed to one who ends it");
                        fact.is_ending |= fact.runs.take().is_some();
                        (fact.is_begun, fact.printed) = (false, then);
                    }
                    Step::Ended => {
                        registry.ended(name);
                        fact.is_ending = false;
                    }
                }
                for (name, fact) in names.iter().zip(&facts) {
                    prop_assert_eq!(registry.get(name), fact.runs.as_ref());
                    let printed = registry.resting(name).map(|(_, rest)| rest);
                    prop_assert_eq!(printed, fact.printed.as_ref().filter(|_| fact.runs.is_none()));
                }
                prop_assert_eq!(registry.running().count(), facts.iter().filter(|fact| fact.runs.is_some()).count());
            }
        }
    }

    #[test]
    fn a_starting_service_is_shown_as_it_was_before() {
        let [bank, _] = names();
        let mut registry = Registry::<u32>::default();
        registry.rest(&bank, Rest::Stopped);
        registry.begin(&bank).expect("nobody owns it");
        assert_eq!(registry.resting("bank"), Some((&bank, &Rest::Stopped)));
        registry.give_up(&bank);
        assert_eq!(registry.resting("bank"), Some((&bank, &Rest::Stopped)));
    }

    #[test]
    fn stopping_all_reserves_each_name_until_its_service_has_ended() {
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
