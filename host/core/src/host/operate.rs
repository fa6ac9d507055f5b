//! The operations of operators on services, and their views of services. Callers authorise the operators first.

use super::Host;
use super::durable::{check_stall, on_disk};
use super::name_locks::NameGuard;
use super::registry::{Rest, STOPPED_BY_OPERATOR};
use crate::auth::Identity;
use crate::catalog::{Room, ServiceEntry};
use crate::data::{DataDirectory, DataError};
use crate::service::{Doubt, LaunchError, ReplaceError, Replaced, SettleError, Settlement, Status};
use lifeboat_api::access::Grant;
use lifeboat_api::event::Event;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_api::transaction::Denial;
use lifeboat_disk::Disk;
use lifeboat_vm::engine::Program;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, PoisonError};

impl Host {
    /// Checks that `identity` has `grant` on `service`.
    ///
    /// # Errors
    /// As [`Authority::authorise`](crate::auth::Authority::authorise).
    pub fn authorise(&self, identity: &Identity, service: &str, grant: Grant) -> Result<(), Denial> {
        let now = self.context.clock.read();
        self.authority.read().unwrap_or_else(PoisonError::into_inner).authorise(identity, service, grant, now)
    }

    /// Checks that `identity` is an admin.
    ///
    /// # Errors
    /// As [`Authority::authorise_admin`](crate::auth::Authority::authorise_admin).
    pub fn authorise_admin(&self, identity: &Identity) -> Result<(), Denial> {
        let now = self.context.clock.read();
        self.authority.read().unwrap_or_else(PoisonError::into_inner).authorise_admin(identity, now)
    }

    /// Returns the data directory, if the host has one.
    #[must_use]
    pub fn data(&self) -> Option<&Arc<DataDirectory>> {
        self.data.as_ref()
    }

    /// Returns the durable services, running or not. Reads the catalog, usually from a cache.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn entries(&self) -> Result<BTreeMap<Name, ServiceEntry>, DataError> {
        self.entries_where(|_| true)
    }

    /// Returns the durable services whose names `is_wanted` accepts.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn entries_where(&self, is_wanted: impl Fn(&Name) -> bool) -> Result<BTreeMap<Name, ServiceEntry>, DataError> {
        let Some(directory) = &self.data else { return Ok(BTreeMap::new()) };
        Ok(directory.catalog().services_where(is_wanted)?)
    }

    /// Counts the durable services whose names `is_wanted` accepts.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn count_entries(&self, is_wanted: impl Fn(&Name) -> bool) -> Result<usize, DataError> {
        let Some(directory) = &self.data else { return Ok(0) };
        Ok(directory.catalog().count_services(is_wanted)?)
    }

    /// Returns the durable service of this name, running or not.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn entry(&self, name: &Name) -> Result<Option<ServiceEntry>, DataError> {
        let entry = self.data.as_ref().map(|directory| directory.catalog().service(name)).transpose()?;
        Ok(entry.flatten())
    }

    /// Returns the status of a service after all earlier requests to it, or none if the service does not run.
    pub async fn status_of(&self, name: &Name) -> Option<Status> {
        let handle = self.look().get(name).map(|running| running.handle.clone());
        handle?.status().await.ok()
    }

    /// Tries the state of a new service after all earlier requests to it: an export and a restore in other instances,
    /// for which the service does not wait. Returns what is wrong with the state, also reported by [`Event::Fragile`].
    ///
    /// Returns none if nothing was found, also because the host is too busy, and if there is nothing to try: the
    /// service does not run, is a program, or has a snapshot that proves its state. Waits for the trials of other
    /// services. Dropping the future does not end the trial.
    pub async fn try_state(&self, name: &Name) -> Option<String> {
        let handle = self.look().get(name).map(|running| running.handle.clone());
        handle?.try_state().await
    }

    /// Returns a copy of the virtual disk of a service, after all earlier requests to it, and the last transaction that
    /// the copy shows. A copy keeps what the service changes later in memory, so callers drop it soon.
    ///
    /// # Errors
    /// A denial without the grant to observe, if the service does not run, or if what the copy shows cannot become
    /// durable for now.
    pub async fn disk_of(&self, by: &Identity, service: &str) -> Result<(Disk, Sequence), Denial> {
        self.enter(by, service, Grant::Observe)?.disk().await
    }

    /// Returns the calls in doubt of a service, in the order of their transactions.
    ///
    /// # Errors
    /// A denial without the grant to observe, or if the service does not run.
    pub async fn doubts(&self, by: &Identity, service: &str) -> Result<Vec<Doubt>, Denial> {
        self.enter(by, service, Grant::Observe)?.doubts().await
    }

    /// Settles a call in doubt: the call `index` of the transaction `id`, of `user` if several have that id. The next
    /// attempt of the transaction finds what was decided.
    ///
    /// # Errors
    /// A denial without the grant to operate, or if the service does not run. [`SettleError`]: nothing is decided.
    pub async fn settle_doubt(
        &self,
        by: &Identity,
        service: &str,
        user: Option<Name>,
        id: String,
        index: u32,
        settlement: Settlement,
    ) -> Result<Result<(), SettleError>, Denial> {
        self.enter(by, service, Grant::Operate)?.settle(by.user.clone(), user, id, index, settlement).await
    }

    /// Replaces the workload of a service by `program`, which this host has compiled, after all earlier requests to it.
    /// The service continues with its state and its answers in its next VM, which has the size of the last one and a
    /// full tank. A program keeps its arguments and variables.
    ///
    /// # Errors
    /// [`ReplaceError`]: the service continues with the workload that it had, unless it is stopped. Among the reasons are
    /// a missing grant to operate, and a durable service.
    pub async fn replace_workload(
        &self,
        by: &Identity,
        service: &str,
        program: Arc<Program>,
    ) -> Result<Replaced, ReplaceError> {
        self.enter(by, service, Grant::Operate)?.replace(program).await
    }

    /// Ends a service whose history is in memory, after all earlier requests to it. Its state and its answers are gone,
    /// and its name is free. A durable service and one that does not run are left unchanged.
    ///
    /// # Errors
    /// [`DataError::Stopping`].
    pub async fn end_service(&self, name: &Name) -> Result<(), DataError> {
        let _turn = self.turn(name).await?;
        let is_in_memory = self.look().get(name).is_some_and(|running| running.snapshot_writer.is_none());
        if is_in_memory {
            self.discard(name, None).await;
        }
        Ok(())
    }

    /// Ends a durable service with a snapshot, after all earlier requests to it, and releases its VM and slot. The
    /// service stays stopped until [`Host::start_service`], also after a restart of the host. A service that does not
    /// run is left unchanged, unless the host would bring it back by itself.
    ///
    /// Callers must await the future of this, and of every operation that begins or ends a service, to its end. A
    /// future that is dropped halfway would leave the service with two owners.
    ///
    /// # Errors
    /// [`DataError`]: the service continues to run. [`DataError::OutcomeUnknown`]: the service is stopped, and the next
    /// start may bring it back.
    pub async fn stop_service(&self, name: &Name) -> Result<(), DataError> {
        let _turn = self.turn(name).await?;
        let directory = self.directory_of(name).await?;
        // It may be unknown whether an earlier stop is on the disk.
        let may_be_stopped = match self.look().resting(name) {
            Some((_, Rest::Stopped)) => true,
            Some((_, rest)) => rest.awaited().is_some(),
            None => false,
        };
        if !self.has_service(name) && !may_be_stopped {
            return Ok(());
        }
        let service = name.clone();
        let unknown = match on_disk(&directory, move |directory| directory.set_stopped(&service, true)).await {
            Err(error @ DataError::OutcomeUnknown { .. }) => Some(error),
            noted => noted.map(|()| None)?,
        };
        let running = self.registry().stop(name, Some(Rest::Stopped));
        let Some(running) = running else { return unknown.map_or(Ok(()), Err) };
        let mut reason = STOPPED_BY_OPERATOR.to_owned();
        if let Some(why) = self.end(name, running).await {
            reason += &format!(", and replays its history since the last snapshot: it could not be snapshotted: {why}");
        }
        (self.context.events)(&Event::Stopped { service: name.clone(), reason });
        unknown.map_or(Ok(()), Err)
    }

    /// Brings back a durable service that was stopped, lost its state while it ran, or could not be brought back
    /// before. An operator may have repaired the cause. A running service is left unchanged. `epoch` is drawn for this
    /// start.
    ///
    /// # Errors
    /// [`LaunchError::Quarantined`], with the reason: [`Host::bring_back`] makes further attempts if the process that
    /// loads or compiles the workload was lost. [`LaunchError::Data`]: the service does not run.
    pub async fn start_service(&self, name: &Name, epoch: Epoch) -> Result<(), LaunchError> {
        let _turn = self.turn(name).await?;
        let (directory, entry) = self.entry_of(name).await?;
        if self.has_service(name) {
            let lost = self.status_of(name).await.and_then(|status| status.stopped);
            let Some(lost) = lost else { return Ok(()) };
            check_stall(&directory)?;
            // The task still exists and denies everything, because its state was lost. So the service is brought back
            // like one without a task. Until then it counts as quarantined, not as stopped.
            let running = self.registry().stop(name, Some(Rest::quarantined(lost)));
            if let Some(running) = running {
                self.end(name, running).await;
            }
        }
        // Otherwise the first record would wait for room, and the caller with it.
        check_stall(&directory)?;
        // This may take minutes, so the journal is not held still yet.
        let program = self.unless_stopping(self.stored_program(&directory, &entry.workload)).await?;
        check_stall(&directory)?;
        // One service starts at a time: its records in the journal must stay where they were found.
        let _still = directory.hold_still().await;
        let found = directory.find(name).await?.ok_or_else(|| none(name))?;
        let service = name.clone();
        on_disk(&directory, move |directory| directory.set_stopped(&service, false)).await?;
        if !self.recover_one(found, ready(program), epoch).await {
            let reason = self.quarantined(name).unwrap_or_default();
            return Err(LaunchError::Quarantined { name: name.clone(), reason });
        }
        (self.context.events)(&Event::Started { service: name.clone() });
        Ok(())
    }

    /// Waits until no other operation begins or ends the service of this name.
    ///
    /// # Errors
    /// [`DataError::Stopping`].
    pub(super) async fn turn(&self, name: &Name) -> Result<NameGuard, DataError> {
        let turn = self.name_locks.take(name).await;
        if self.is_stopping() { Err(DataError::Stopping) } else { Ok(turn) }
    }

    pub(super) async fn directory_of(&self, name: &Name) -> Result<Arc<DataDirectory>, DataError> {
        self.entry_of(name).await.map(|(directory, _)| directory)
    }

    async fn entry_of(&self, name: &Name) -> Result<(Arc<DataDirectory>, ServiceEntry), DataError> {
        let directory = self.data.clone().ok_or_else(|| none(name))?;
        let service = name.clone();
        let entry = on_disk(&directory, move |directory| directory.entry_for_order(&service, Room::Reserve)).await?;
        directory.check_orphan(name)?;
        entry.map(|entry| (directory, entry)).ok_or_else(|| none(name))
    }

    /// Takes out a service whose presence on the disk is unknown. Otherwise its later acknowledgements could be lost.
    pub(super) async fn quarantine(&self, name: &Name, why: &DataError) {
        let reason = chain(why);
        self.discard(name, Some(Rest::quarantined(reason.clone()))).await;
        (self.context.events)(&Event::Quarantined { service: name.clone(), reason });
    }

    /// Ends a service without a snapshot, and gives it the state `then`.
    pub(super) async fn discard(&self, name: &Name, then: Option<Rest>) {
        let running = self.registry().stop(name, then);
        if let Some(running) = running {
            // An error means that the task has ended already, as intended.
            let _ = running.handle.discard().await;
            running.end_snapshot_writer().await;
            self.registry().ended(name);
        }
    }
}

fn none(name: &Name) -> DataError {
    DataError::NoService { service: name.clone() }
}
