//! What operators do to services, and see of them. Who asks was authorised before.

use super::Host;
use super::durable::{check_stall, on_disk};
use super::name_locks::NameGuard;
use super::registry::{Rest, STOPPED_BY_OPERATOR};
use crate::auth::Identity;
use crate::catalog::{Room, ServiceEntry};
use crate::data::{DataDirectory, DataError};
use crate::service::{LaunchError, Status};
use lifeboat_api::access::Grant;
use lifeboat_api::event::Event;
use lifeboat_api::id::Epoch;
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_api::transaction::Denial;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, PoisonError};

impl Host {
    /// Checks that `identity` may do `grant` to `service`.
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

    /// The data directory, of a host that has one.
    #[must_use]
    pub fn data(&self) -> Option<&Arc<DataDirectory>> {
        self.data.as_ref()
    }

    /// The durable services, running or not. It reads the catalog, from a cache as a rule.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn entries(&self) -> Result<BTreeMap<Name, ServiceEntry>, DataError> {
        self.entries_where(|_| true)
    }

    /// Those of them whose names are wanted.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn entries_where(&self, is_wanted: impl Fn(&Name) -> bool) -> Result<BTreeMap<Name, ServiceEntry>, DataError> {
        let Some(directory) = &self.data else { return Ok(BTreeMap::new()) };
        Ok(directory.catalog().services_where(is_wanted)?)
    }

    /// How many these are.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn count_entries(&self, is_wanted: impl Fn(&Name) -> bool) -> Result<usize, DataError> {
        let Some(directory) = &self.data else { return Ok(0) };
        Ok(directory.catalog().count_services(is_wanted)?)
    }

    /// The durable service of this name, running or not.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn entry(&self, name: &Name) -> Result<Option<ServiceEntry>, DataError> {
        let entry = self.data.as_ref().map(|directory| directory.catalog().service(name)).transpose()?;
        Ok(entry.flatten())
    }

    /// How a service is, after all that was sent before; none if it does not run.
    pub async fn status_of(&self, name: &Name) -> Option<Status> {
        let handle = self.look().get(name).map(|running| running.handle.clone());
        handle?.status().await.ok()
    }

    /// Ends a durable service after what was sent to it, with a snapshot, and gives up its VM and slot. It stays so, also
    /// when the host starts again, until [`Host::start_service`]. One that does not run is not changed, unless the host
    /// would bring it back by itself.
    ///
    /// This, as all that begins or ends a service, is to be awaited to its end: dropped half-way it would leave the service
    /// to two owners.
    ///
    /// # Errors
    /// [`DataError`]: it runs on. [`DataError::OutcomeUnknown`]: it is stopped, and the next start may bring it back.
    pub async fn stop_service(&self, name: &Name) -> Result<(), DataError> {
        let _turn = self.turn(name).await?;
        let directory = self.directory_of(name).await?;
        // Nobody may know whether the disk has it that one was stopped.
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
            reason += &format!(", and replays what is not part of a snapshot: it could not be snapshotted: {why}");
        }
        (self.context.events)(&Event::Stopped { service: name.clone(), reason });
        unknown.map_or(Ok(()), Err)
    }

    /// Brings back a durable service that was stopped, lost its state while it ran, or could not be brought back before: an
    /// operator may have mended what it lacked. One that runs is not changed. `epoch` is drawn for it.
    ///
    /// # Errors
    /// [`LaunchError::Quarantined`], and why: [`Host::bring_back`] makes more attempts if the process was lost that was to
    /// load or compile its workload; [`LaunchError::Data`]: it does not run.
    pub async fn start_service(&self, name: &Name, epoch: Epoch) -> Result<(), LaunchError> {
        let _turn = self.turn(name).await?;
        let (directory, entry) = self.entry_of(name).await?;
        if self.has_service(name) {
            let lost = self.status_of(name).await.and_then(|status| status.stopped);
            let Some(lost) = lost else { return Ok(()) };
            check_stall(&directory)?;
            // Its task is there and denies everything, since its state was lost: it is brought back like one that has none.
            // Until it is, nobody stopped it.
            let running = self.registry().stop(name, Some(Rest::quarantined(lost)));
            if let Some(running) = running {
                self.end(name, running).await;
            }
        }
        // Its first record would wait for room, and with it whoever ordered the start.
        check_stall(&directory)?;
        // While the journal is not held still yet: it may take minutes.
        let program = self.unless_stopping(self.stored_program(&directory, &entry.workload)).await?;
        check_stall(&directory)?;
        // One starts at a time: what it needs of the journal must stay where it was found.
        let _still = directory.hold_still().await;
        let found = directory.find(name).await?.ok_or_else(|| none(name))?;
        let service = name.clone();
        on_disk(&directory, move |directory| directory.set_stopped(&service, false)).await?;
        if !self.recover_one(found, ready(program), epoch, None).await {
            let reason = self.quarantined(name).unwrap_or_default();
            return Err(LaunchError::Quarantined { name: name.clone(), reason });
        }
        (self.context.events)(&Event::Started { service: name.clone() });
        Ok(())
    }

    /// Waits until nobody else begins or ends the service of this name.
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

    /// Takes a service out of which nobody knows whether the disk has it: what it acknowledged from now on could be lost.
    pub(super) async fn quarantine(&self, name: &Name, why: &DataError) {
        let reason = chain(why);
        self.discard(name, Some(Rest::quarantined(reason.clone()))).await;
        (self.context.events)(&Event::Quarantined { service: name.clone(), reason });
    }

    /// Ends a service without a snapshot, which is as `then` says from now on.
    pub(super) async fn discard(&self, name: &Name, then: Option<Rest>) {
        let running = self.registry().stop(name, then);
        if let Some(running) = running {
            // A task that has ended already is what is wanted.
            let _ = running.handle.discard().await;
            running.end_snapshot_writer().await;
            self.registry().ended(name);
        }
    }
}

fn none(name: &Name) -> DataError {
    DataError::NoService { service: name.clone() }
}
