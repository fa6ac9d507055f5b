//! A host with a data directory: how its services are brought back, created, and ended so that the next start is quick.

use super::{Host, Idle};
use crate::catalog::{ServiceEntry, ServiceSettings};
use crate::data::{self, Contents, DataDirectory, DataError, FoundService, findings};
use crate::engine::{Program, joined};
use crate::event::Event;
use crate::name::Name;
use crate::service::{KeeperTask, LaunchError, QUEUE_MAX, Sabotage, Service, ServiceSpec};
use crate::transaction::Epoch;
use crate::workload::{LoadLimits, Workload, WorkloadHash, load};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// A durable service that is to be created.
#[derive(Clone)]
pub struct NewService<'a> {
    /// Its name.
    pub name: Name,
    /// What it runs.
    pub workload: Workload,
    /// The bytes that the workload was loaded from.
    pub workload_bytes: &'a [u8],
    /// Its sizes, thresholds, horizon.
    pub settings: ServiceSettings,
    /// Keys the random numbers that its guest sees. Drawn for this service alone.
    pub secret: [u8; 32],
    /// Its first epoch, drawn as well.
    pub epoch: Epoch,
    /// Breaks the promise on purpose.
    #[doc(hidden)]
    pub sabotage: Option<Sabotage>,
}

impl Host {
    /// The same host with a data directory, for its durable services.
    #[must_use]
    pub fn with_data(mut self, directory: Arc<DataDirectory>) -> Self {
        self.data = Some(directory);
        self
    }

    /// Brings back every service of the data directory, in parallel, and tells by events what became of each. One that
    /// cannot be brought back is quarantined: requests to it are denied with the reason, and it stops no other.
    ///
    /// `epoch` draws an epoch for each, `sabotage` is for all.
    #[doc(hidden)]
    pub async fn recover_with(&self, contents: Contents, mut epoch: impl FnMut() -> Epoch, sabotage: Option<Sabotage>) {
        for event in findings(&contents) {
            (self.surroundings.events)(&event);
        }
        let stopped = self.data.as_ref().and_then(|directory| directory.catalog().stopped().ok()).unwrap_or_default();
        let (resting, found): (Vec<_>, Vec<_>) =
            contents.services.into_iter().partition(|found| stopped.contains(&found.name));
        self.idle().extend(resting.into_iter().map(|found| (found.name, Idle::Stopped)));
        futures::future::join_all(found.into_iter().map(|found| self.recover_one(found, epoch(), sabotage))).await;
        if let Some(directory) = &self.data {
            directory.set_recovered();
        }
    }

    /// Brings back every service of the data directory, in parallel, and tells by events what became of each. One that
    /// cannot be brought back is quarantined: requests to it are denied with the reason, and it stops no other.
    ///
    /// `epoch` draws an epoch for each.
    pub async fn recover(&self, contents: Contents, epoch: impl FnMut() -> Epoch) {
        self.recover_with(contents, epoch, None).await;
    }

    pub(super) async fn recover_one(&self, found: FoundService, epoch: Epoch, sabotage: Option<Sabotage>) {
        let Some(directory) = &self.data else { return };
        let name = found.name.clone();
        let was_told = found.standing.is_err();
        let recovered = async {
            found.standing.clone()?;
            let program = self.stored_program(directory, &found.entry.workload).await?;
            let spec = ServiceSpec { epoch, sabotage, ..spec(&name, program, &found.entry) };
            self.check(&spec).map_err(|error| error.to_string())?;
            let recovering = Service::bring_up(spec, self.surroundings.clone(), Arc::clone(directory), found);
            let (service, keeper) = self.on_guests(recovering).await.map_err(|error| data::chain(&error))?;
            self.keep(&name, keeper);
            self.start(service, QUEUE_MAX).map_err(|error| error.to_string())
        };
        let recovered: Result<(), String> = recovered.await;
        if let Err(reason) = recovered {
            if !was_told {
                (self.surroundings.events)(&Event::Quarantined { service: name.clone(), reason: reason.clone() });
            }
            self.idle().insert(name, Idle::Quarantined(reason));
        }
    }

    async fn stored_program(&self, directory: &DataDirectory, hash: &WorkloadHash) -> Result<Arc<Program>, String> {
        let bytes = data::read_workload(&**directory.storage(), hash).map_err(|error| data::chain(&error))?;
        let workload = load(&hash.to_string(), &bytes, &LoadLimits::default()).map_err(|error| error.to_string())?;
        self.compile(workload).await.map_err(|error| error.to_string())
    }

    /// Why a service of the data directory was not started, if it was not.
    #[must_use]
    pub fn quarantined(&self, service: &Name) -> Option<String> {
        match self.idle.read().unwrap_or_else(PoisonError::into_inner).get(service) {
            Some(Idle::Quarantined(reason)) => Some(reason.clone()),
            Some(Idle::Stopped) | None => None,
        }
    }

    /// Whether a service runs.
    #[must_use]
    pub fn has_service(&self, service: &Name) -> bool {
        self.services.read().unwrap_or_else(PoisonError::into_inner).contains_key(service)
    }

    /// Creates a durable service, and its first VM. When this returns, it survives a crash.
    ///
    /// # Errors
    /// [`LaunchError`]. There is no such service then, but for an error of the storage, after which only the next start
    /// tells.
    ///
    /// # Panics
    /// If the host has no data directory.
    pub async fn create_durable_service(&self, new: NewService<'_>) -> Result<(), LaunchError> {
        let directory = self.data.as_ref().expect("the host has a data directory");
        // One at a time, or two of a name would begin one after the other.
        let _creating = self.creating.lock().await;
        self.admission.check()?;
        let NewService { name, workload, workload_bytes, settings, secret, epoch, sabotage } = new;
        if let Some(reason) = self.quarantined(&name) {
            return Err(LaunchError::Quarantined { name, reason });
        }
        if directory.catalog().service(&name).map_err(DataError::from)?.is_some() {
            return Err(LaunchError::Exists { name });
        }
        let hash = workload.hash;
        let program = self.compile(workload).await?;
        let entry = ServiceEntry {
            secret,
            workload: hash,
            settings,
            accepted_divergences: BTreeSet::new(),
            first_snapshot: None,
        };
        let spec = ServiceSpec { epoch, sabotage, ..spec(&name, program, &entry) };
        self.check(&spec)?;
        directory.keep_workload(&hash, workload_bytes)?;
        directory.clear_snapshots(&name)?;
        let launching = Service::launch_durable(spec, self.surroundings.clone(), Arc::clone(directory));
        let (service, begun, keeper) = self.on_guests(launching).await?;
        begun.durable().await.map_err(|error| LaunchError::Begin { name: name.clone(), error })?;
        directory.add_service(&name, &entry)?;
        self.keep(&name, keeper);
        self.start(service, QUEUE_MAX)
    }

    /// Runs what keeps a service's snapshots.
    fn keep(&self, name: &Name, keeper: KeeperTask) {
        let task = self.engine.spawn(keeper);
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), task);
    }

    /// Removes a durable service for good, after what was sent to it: its history, its snapshots, and its workload if no
    /// other service runs that. One that is quarantined is removed as well.
    ///
    /// # Errors
    /// [`DataError::NoService`]; otherwise the storage fails, and what is left of the service then is of no use to
    /// anybody: it is removed with the next start, or when another of its name is created.
    pub async fn remove_service(&self, name: &Name) -> Result<(), DataError> {
        let _creating = self.creating.lock().await;
        let directory = self.directory_of(name)?;
        let handle = self.services.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(handle) = handle {
            // A task that has ended already is what is wanted.
            let _ = handle.discard().await;
        }
        self.end_keeper(name).await;
        let service = name.clone();
        let removed = tokio::task::spawn_blocking(move || directory.remove_service(&service).map(|()| directory));
        let directory = joined(removed).await?;
        self.idle().remove(name);
        (self.surroundings.events)(&Event::Removed { service: name.clone() });
        directory.reclaim(&self.surroundings.events).await;
        Ok(())
    }

    /// Ends every service after what was sent to it, snapshots it, and seals the journal. Returns once all of that is
    /// on disk. Requests that come meanwhile are denied.
    ///
    /// # Errors
    /// The journal or the storage failed, now or earlier.
    pub async fn stop(&self) -> Result<(), DataError> {
        self.is_stopping.store(true, Ordering::Release);
        let services: Vec<_> = {
            let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
            services.drain().map(|(_, handle)| handle).collect()
        };
        futures::future::join_all(services.iter().map(|handle| handle.stop())).await;
        let keepers = std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        futures::future::join_all(keepers.into_values()).await;
        let Some(directory) = self.data.clone() else { return Ok(()) };
        // It waits for the disk.
        joined(tokio::task::spawn_blocking(move || directory.close())).await
    }
}

/// A service as the catalog says that it is.
pub(crate) fn spec(name: &Name, program: Arc<Program>, entry: &ServiceEntry) -> ServiceSpec {
    let ServiceSettings { size, sizes, thresholds, horizon, failover } = &entry.settings;
    let sizes: Vec<_> = sizes.iter().cloned().map(Arc::new).collect();
    let first = sizes.iter().find(|candidate| candidate.name == *size).or(sizes.first());
    ServiceSpec {
        name: name.clone(),
        program,
        size: first.cloned().unwrap_or_else(|| Arc::new(crate::size::Size::built_in().remove(0))),
        sizes,
        thresholds: *thresholds,
        secret: entry.secret,
        epoch: Epoch::default(),
        accepted_divergences: entry.accepted_divergences.clone(),
        failover: *failover,
        horizon: *horizon,
        queue_max: QUEUE_MAX,
        sabotage: None,
    }
}
