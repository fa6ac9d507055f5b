//! What operators do to services, and see of them. Who asks was authorised before.

use super::{Host, Idle};
use crate::auth::{Grant, Identity};
use crate::catalog::ServiceEntry;
use crate::data::{DataDirectory, DataError};
use crate::engine::joined;
use crate::event::Event;
use crate::name::Name;
use crate::service::{LaunchError, Status};
use crate::transaction::{Denial, Epoch};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};

impl Host {
    /// Checks that `identity` may do `grant` to `service`.
    ///
    /// # Errors
    /// [`Denial::NotGranted`].
    pub fn authorise(&self, identity: &Identity, service: &str, grant: Grant) -> Result<(), Denial> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner).authorise(identity, service, grant)
    }

    /// Checks that `identity` is an admin.
    ///
    /// # Errors
    /// [`Denial::NotAdmin`].
    pub fn authorise_admin(&self, identity: &Identity) -> Result<(), Denial> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner).authorise_admin(identity)
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
        Ok(self.data.as_ref().map(|directory| directory.catalog().services()).transpose()?.unwrap_or_default())
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
        let handle = self.services.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        handle?.status().await.ok()
    }

    /// Ends a durable service after what was sent to it, with a snapshot, and gives up its VM and slot. It stays so, also
    /// when the host starts again, until [`Host::start_service`]. One that does not run is not changed.
    ///
    /// This, as all that begins or ends a service, is to be awaited to its end: dropped half-way it would leave the service
    /// to two owners.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn stop_service(&self, name: &Name) -> Result<(), DataError> {
        let directory = self.directory_of(name)?;
        let _creating = self.creating.lock().await;
        if !self.has_service(name) {
            return Ok(());
        }
        let (of_catalog, service) = (Arc::clone(&directory), name.clone());
        joined(tokio::task::spawn_blocking(move || of_catalog.catalog().set_stopped(&service, true))).await?;
        // Before, or a request in between would find no service.
        self.idle().insert(name.clone(), Idle::Stopped);
        let handle = self.services.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(handle) = handle else { return Ok(()) };
        // A task that has ended already is what is wanted.
        let _ = handle.stop().await;
        self.end_keeper(name).await;
        let reason = Idle::Stopped.reason().to_owned();
        (self.surroundings.events)(&Event::Stopped { service: name.clone(), reason });
        Ok(())
    }

    /// Brings back a durable service that was stopped, or could not be brought back before: an operator may have mended
    /// what it lacked. One that runs is not changed. `epoch` is drawn for it.
    ///
    /// # Errors
    /// [`LaunchError::Quarantined`], and why; [`LaunchError::Data`].
    pub async fn start_service(&self, name: &Name, epoch: Epoch) -> Result<(), LaunchError> {
        let directory = self.directory_of(name)?;
        let _creating = self.creating.lock().await;
        if self.has_service(name) {
            return Ok(());
        }
        let (of_catalog, service) = (Arc::clone(&directory), name.clone());
        joined(tokio::task::spawn_blocking(move || of_catalog.catalog().set_stopped(&service, false)))
            .await
            .map_err(DataError::from)?;
        let _still = directory.hold_still().await;
        let found = directory.find(name).await?.ok_or_else(|| none(name))?;
        self.recover_one(found, epoch, None).await;
        match self.quarantined(name) {
            Some(reason) if !self.has_service(name) => Err(LaunchError::Quarantined { name: name.clone(), reason }),
            _ => {
                self.idle().remove(name);
                Ok(())
            }
        }
    }

    pub(super) fn directory_of(&self, name: &Name) -> Result<Arc<DataDirectory>, DataError> {
        let directory = self.data.clone().ok_or_else(|| none(name))?;
        if directory.catalog().service(name)?.is_none() {
            return Err(none(name));
        }
        Ok(directory)
    }

    /// Waits until what keeps a service's snapshots has ended, after the service's task has.
    pub(super) async fn end_keeper(&self, name: &Name) {
        let keeper = self.keepers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(keeper) = keeper {
            // A panic of it was printed.
            let _ = keeper.await;
        }
    }

    pub(super) fn idle(&self) -> RwLockWriteGuard<'_, HashMap<Name, Idle>> {
        self.idle.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn none(name: &Name) -> DataError {
    DataError::NoService { service: name.clone() }
}
