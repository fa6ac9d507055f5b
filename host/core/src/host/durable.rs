//! A host with a data directory: it recovers and creates durable services, and ends them so that the next start is
//! quick.

use super::attempts::{Awaited, tried_again};
use super::programs::{Made, Purpose};
use super::registry::Rest;
use super::{Host, Running};
use crate::catalog::{Room, ServiceEntry, ServiceSettings};
use crate::data::{self, Contents, DataDirectory, DataError, FoundService, findings};
use crate::scratch::{ProgramError, stored_workload};
use crate::service::{LaunchError, QUEUE_MAX, Service, ServiceSpec, Status};
use crate::snapshot_file::FIRST_RECORD;
use bytes::Bytes;
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::id::{Epoch, WorkloadHash};
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_api::transaction::Denial;
use lifeboat_disk::Disk;
use lifeboat_journal::commit::{CommitError, Stall};
use lifeboat_vm::engine::{Program, joined};
use lifeboat_vm::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;

/// A durable service that is to be created.
#[derive(Clone)]
pub struct NewService {
    /// The name of the service.
    pub name: Name,
    /// The workload that the service runs.
    pub workload: Workload,
    /// The bytes that the workload was loaded from.
    pub workload_bytes: Bytes,
    /// The sizes, the thresholds, the deduplication window and the network.
    pub settings: ServiceSettings,
    /// The key of the random numbers that the guest sees. It is drawn for this service alone.
    pub secret: [u8; 32],
    /// The first epoch of the service, drawn at random as well.
    pub epoch: Epoch,
    /// The virtual disk with which its first VM begins, if it is not empty. It must fit the size.
    pub disk: Option<Disk>,
}

impl Host {
    /// Returns this host with a data directory for its durable services.
    #[must_use]
    pub fn with_data(mut self, directory: Arc<DataDirectory>) -> Self {
        self.data = Some(directory);
        self
    }

    /// Brings back every service of the data directory, in parallel, and reports the result of each by events. A
    /// service that cannot be brought back is quarantined: requests to it are denied with the reason, and other
    /// services are not affected. [`Host::bring_back`] makes further attempts where they may help.
    ///
    /// `epoch` draws an epoch for each service.
    pub async fn recover(&self, contents: Contents, mut epoch: impl FnMut() -> Epoch) {
        for event in findings(&contents) {
            (self.context.events)(&event);
        }
        if let Some(directory) = &self.data {
            tokio::spawn(report_stalls(directory.committer().stalls(), Arc::clone(&self.context.events)));
        }
        let stopped = self.data.as_ref().and_then(|directory| directory.catalog().stopped().ok()).unwrap_or_default();
        let (resting, found): (Vec<_>, Vec<_>) =
            contents.services.into_iter().partition(|found| stopped.contains(&found.name));
        for found in resting {
            self.registry().rest(&found.name, Rest::Stopped);
        }
        for orphan in &contents.orphans {
            self.registry().rest(&orphan.name, Rest::Orphan(orphan.reason()));
        }
        let recovering = found.into_iter().map(|found| {
            let (epoch, workload) = (epoch(), found.entry.workload);
            async move {
                let Some(directory) = &self.data else { return };
                self.recover_one(found, self.stored_program(directory, &workload), epoch).await;
            }
        });
        futures::future::join_all(recovering).await;
        if let Some(directory) = &self.data {
            directory.set_recovered();
        }
    }

    /// Brings back one service with the program that `program` makes. Returns whether the service runs. Otherwise it is
    /// quarantined.
    pub(super) async fn recover_one(
        &self,
        found: FoundService,
        program: impl Future<Output = Made>,
        epoch: Epoch,
    ) -> bool {
        let Some(directory) = &self.data else { return false };
        let (name, workload) = (found.name.clone(), found.entry.workload);
        let Ok(place) = self.begin(&name) else { return self.has_service(&name) };
        let was_told = found.standing.is_err();
        let mut awaited = None;
        let recovered = async {
            found.standing.clone()?;
            let program = program.await.map_err(|error| {
                awaited = error.may_pass_of_stored().then(|| self.awaited.id());
                let then = if awaited.is_some() { format!("; {}", tried_again()) } else { String::new() };
                chain(&*error) + &then
            })?;
            let spec = self.spec(name.clone(), program, &found.entry, epoch);
            self.check_sizes(&spec).map_err(|error| error.to_string())?;
            let recovering = Service::bring_up(spec, self.context.clone(), Arc::clone(directory), found);
            self.on_guests(recovering).await.map_err(|error| chain(&error))
        };
        let recovered: Result<_, String> = recovered.await;
        let reason = match recovered {
            Ok((service, snapshot_writer)) => {
                place.run(service, QUEUE_MAX, Some(snapshot_writer));
                return true;
            }
            Err(reason) => reason,
        };
        if !was_told {
            (self.context.events)(&Event::Quarantined { service: name.clone(), reason: reason.clone() });
        }
        place.rest(Rest::Quarantined { reason, awaited });
        if let Some(quarantine) = awaited {
            self.awaited.add(Awaited { name, workload, epoch, quarantine });
        }
        false
    }

    /// Loads and compiles a workload of the data directory, in one attempt.
    pub(super) async fn stored_program(&self, directory: &Arc<DataDirectory>, hash: &WorkloadHash) -> Made {
        let (hash, directory, engine) = (*hash, Arc::clone(directory), Arc::clone(&self.engine));
        let attempt = async move {
            let length = on_disk(&directory, move |directory| data::workload_bytes(&**directory.storage(), &hash));
            let length = length.await?;
            let load = move || stored_workload(&**directory.storage(), &hash);
            engine.load_and_compile(length, load).await
        };
        self.programs.get::<ProgramError>(hash, Purpose::Start, attempt).await
    }

    /// Returns the specification of a service from its catalog entry.
    fn spec(&self, name: Name, program: Arc<Program>, entry: &ServiceEntry, epoch: Epoch) -> ServiceSpec {
        let accepted_divergences = entry.accepted_divergences.clone();
        let network = self.network_of(&name, &entry.settings.network);
        let spec = ServiceSpec::new(name, program, &entry.settings, entry.secret, epoch);
        ServiceSpec { accepted_divergences, network, ..spec }
    }

    /// Returns why a service of the data directory was not started, if it was not.
    #[must_use]
    pub fn quarantined(&self, service: &Name) -> Option<String> {
        match self.look().resting(service)?.1 {
            Rest::Quarantined { reason, .. } | Rest::Orphan(reason) => Some(reason.clone()),
            Rest::Stopped => None,
        }
    }

    /// Returns why the host leaves a service alone that is missing from the catalog.
    #[must_use]
    pub fn orphan(&self, service: &Name) -> Option<Denial> {
        let services = self.look();
        let (_, rest) = services.resting(service)?;
        matches!(rest, Rest::Orphan(_)).then(|| rest.denial(service))
    }

    /// Returns the services that do not run. The value is true for a quarantined service, and false for one that an
    /// operator stopped. Services that are missing from the catalog count as quarantined.
    #[must_use]
    pub fn idle_services(&self) -> BTreeMap<Name, bool> {
        self.look().all_resting().map(|(name, rest)| (name.clone(), !matches!(rest, Rest::Stopped))).collect()
    }

    /// Returns the incarnation of a user's name in the data directory, or 0 for a user that is not stored there.
    ///
    /// # Errors
    /// [`DataError::Catalog`].
    pub fn stored_incarnation(&self, user: &Name) -> Result<u64, DataError> {
        let Some(directory) = &self.data else { return Ok(0) };
        Ok(directory.catalog().incarnations()?.get(user).copied().unwrap_or_default())
    }

    /// Returns whether a service runs.
    #[must_use]
    pub fn has_service(&self, service: &Name) -> bool {
        self.look().get(service).is_some()
    }

    /// Creates a durable service, and its first VM. When this returns, the service survives a crash. Callers must await
    /// the future to its end, as for [`Host::stop_service`].
    ///
    /// # Errors
    /// [`LaunchError`]: the service does not exist. After [`DataError::OutcomeUnknown`] it is quarantined instead.
    ///
    /// # Panics
    /// If the host has no data directory.
    pub async fn create_durable_service(&self, new: NewService) -> Result<(), LaunchError> {
        let directory = self.data.as_ref().expect("the host has a data directory");
        let NewService { name, workload, workload_bytes, settings, secret, epoch, disk } = new;
        let _turn = self.turn(&name).await?;
        self.admission.check()?;
        // Otherwise the first record would wait for room, and the caller with it.
        check_stall(directory)?;
        directory.check_orphan(&name)?;
        if let Some(reason) = self.quarantined(&name) {
            return Err(LaunchError::Quarantined { name, reason });
        }
        let service = name.clone();
        if on_disk(directory, move |directory| directory.entry_for_order(&service, Room::Ordinary)).await?.is_some() {
            return Err(LaunchError::Exists { name });
        }
        let hash = workload.hash;
        let program = self.unless_stopping(self.compile_deployed(workload)).await??;
        let entry = ServiceEntry {
            secret,
            workload: hash,
            settings,
            accepted_divergences: BTreeSet::new(),
            first_snapshot: disk.is_some().then_some(FIRST_RECORD),
        };
        let spec = ServiceSpec { disk, ..self.spec(name.clone(), program, &entry, epoch) };
        let place = self.begin(&name)?;
        self.check_sizes(&spec)?;
        let (service, has_disk) = (name.clone(), spec.disk.is_some());
        let kept = on_disk(directory, move |directory| {
            if has_disk {
                directory.catalog().note_creation(&service, directory.committer().end())?;
            }
            let kept = directory.keep_workload(&hash, &workload_bytes)?;
            directory.clear_snapshots(&service).map(|()| kept)
        });
        // This protects the workload's file until the catalog refers to it.
        let _kept = kept.await?;
        let launching = Service::launch_durable(spec, hash, self.context.clone(), Arc::clone(directory));
        let launched = self.on_guests(launching).await;
        // Its journal has not begun, but it may have a pack.
        if launched.is_err() && has_disk {
            remove_snapshots(directory, &name).await;
        }
        let (service, begun, snapshot_writer) = launched?;
        if let Err(error) = begun.durable_or_held().await {
            undo_creation(directory, &name).await;
            return Err(LaunchError::Begin { name, error });
        }
        let added = name.clone();
        let added = on_disk(directory, move |directory| directory.add_service(&added, &entry)).await;
        if let Err(error @ DataError::OutcomeUnknown { .. }) = added {
            let reason = chain(&error);
            place.rest(Rest::quarantined(reason.clone()));
            (self.context.events)(&Event::Quarantined { service: name, reason });
            return Err(error.into());
        }
        if let Err(error) = added {
            undo_creation(directory, &name).await;
            return Err(error.into());
        }
        let Status { vm, machine, size, .. } = service.status();
        place.run(service, QUEUE_MAX, Some(snapshot_writer));
        (self.context.events)(&Event::Created { vm, machine, size, workload: hash });
        Ok(())
    }

    /// Removes a durable service for good, after all earlier requests to it: its history, its snapshots, and its
    /// workload if no other service runs that. A quarantined service is removed as well. Callers must await the future
    /// to its end, as for [`Host::stop_service`].
    ///
    /// The change of the catalog comes first, and removes all grants on the service. Before the change is durable,
    /// nothing has happened. After it, nothing undoes the removal.
    ///
    /// # Errors
    /// [`DataError::NoService`]. [`DataError::Catalog`]: the service continues to run. [`DataError::OutcomeUnknown`]:
    /// the service is quarantined, and may be removed again.
    pub async fn remove_service(&self, name: &Name) -> Result<(), DataError> {
        let _turn = self.turn(name).await?;
        let directory = match self.directory_of(name).await {
            // The catalog may contain an earlier removal whose outcome was unknown.
            Err(DataError::NoService { .. } | DataError::Orphan { .. }) if self.look().resting(name).is_some() => {
                self.data.clone()
            }
            found => Some(found?),
        };
        let directory = directory.expect("only durable services are idle");
        let (service, authority) = (name.clone(), Arc::clone(&self.authority));
        let removed = on_disk(&directory, move |directory| {
            let users = directory.catalog().hold_users();
            let removed = directory.remove_entry(&service, &users);
            if matches!(removed, Ok(_) | Err(DataError::OutcomeUnknown { .. })) {
                authority.write().unwrap_or_else(PoisonError::into_inner).forget_service(&service);
            }
            removed
        });
        let entry = match removed.await {
            Err(error @ DataError::OutcomeUnknown { .. }) => {
                self.quarantine(name, &error).await;
                return Err(error);
            }
            removed => removed?,
        };
        self.discard(name, None).await;
        let service = name.clone();
        // The service is removed. Nobody needs the files that cannot be deleted now, and the next start deletes them.
        let _ = on_disk(&directory, move |directory| directory.remove_rest(&service, entry.as_ref())).await;
        (self.context.events)(&Event::Removed { service: name.clone() });
        let events = &self.context.events;
        if directory.committer().denies() {
            // The reclaim may wait for room itself. A caller that makes room need not wait with it.
            directory.reclaim_beside(events);
        } else {
            directory.reclaim(events).await;
        }
        Ok(())
    }

    /// Ends every service after all earlier requests to it, takes a snapshot of each, and seals the journal. Returns
    /// once all of that is on disk. Meanwhile requests and new services are denied. This waits for services that are
    /// being created, stopped or removed.
    ///
    /// # Errors
    /// The journal or the storage failed, now or earlier.
    pub async fn stop(&self) -> Result<Ended, DataError> {
        self.is_stopping.send_replace(true);
        let (first, _all) = futures::future::join(self.end_services(), self.name_locks.take_all()).await;
        // The services that another operation still held while the first ones ended.
        let rest = self.end_services().await;
        let ended = Ended {
            services: first.services + rest.services,
            not_snapshotted: first.not_snapshotted.into_iter().chain(rest.not_snapshotted).collect(),
        };
        if let Some(directory) = &self.data {
            // A reclaim that the last snapshots requested still uses the directory.
            directory.end_reclaims().await;
            on_disk(directory, DataDirectory::close).await?;
        }
        Ok(ended)
    }

    async fn end_services(&self) -> Ended {
        let services = self.registry().stop_all();
        let count = services.len();
        let ends = services.into_iter().map(|(name, running)| async move {
            let reason = self.end(&name, running).await;
            reason.map(|reason| (name, reason))
        });
        let not_snapshotted = futures::future::join_all(ends).await.into_iter().flatten().collect();
        Ended { services: count, not_snapshotted }
    }

    /// Ends a service that was taken out of the registry, after all earlier requests to it. Returns why a part of its
    /// history is not in a snapshot, if so.
    pub(super) async fn end(&self, name: &Name, running: Running) -> Option<String> {
        let stopped = running.handle.stop().await.unwrap_or_else(|denial| Some(denial.to_string()));
        let unwritten = running.end_snapshot_writer().await;
        self.registry().ended(name);
        stopped.or(unwritten)
    }
}

/// Reports when the journal cannot begin its next segment, and when it can again, until the journal is closed.
async fn report_stalls(mut stalls: watch::Receiver<Option<Stall>>, events: EventSink) {
    let mut is_stalled = false;
    loop {
        let stall = stalls.borrow_and_update().clone();
        let was_stalled = std::mem::replace(&mut is_stalled, stall.is_some());
        match stall {
            Some(stall) if !was_stalled => events(&Event::JournalStalled { reason: stall.reason.to_string() }),
            None if was_stalled => events(&Event::JournalResumed),
            _ => {}
        }
        if stalls.changed().await.is_err() {
            return;
        }
    }
}

/// The result of ending all services of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// The number of services that ran.
    pub services: usize,
    /// The services whose last transactions are not in a snapshot, each with the reason. Nothing is lost: the next
    /// start replays these transactions.
    pub not_snapshotted: BTreeMap<Name, String>,
}

/// Returns an error if an operation would wait for room in the journal.
///
/// # Errors
/// [`CommitError::Stalled`].
pub(super) fn check_stall(directory: &DataDirectory) -> Result<(), DataError> {
    match directory.committer().stall().filter(|stall| stall.denies) {
        Some(stall) => Err(CommitError::Stalled(stall.reason).into()),
        None => Ok(()),
    }
}

/// Runs `work`, which blocks on the disk, on a thread for blocking work. It runs to its end even if the returned future
/// is dropped.
pub(super) async fn on_disk<T: Send + 'static>(
    directory: &Arc<DataDirectory>,
    work: impl FnOnce(&DataDirectory) -> T + Send + 'static,
) -> T {
    let directory = Arc::clone(directory);
    joined(tokio::task::spawn_blocking(move || work(&directory))).await
}

/// Removes what a service has that could not be created. The next start removes what cannot be removed now, and so does
/// the creation of another service of the name.
async fn undo_creation(directory: &Arc<DataDirectory>, name: &Name) {
    directory.end_journal(name);
    remove_snapshots(directory, name).await;
}

async fn remove_snapshots(directory: &Arc<DataDirectory>, name: &Name) {
    let service = name.clone();
    let _ = on_disk(directory, move |directory| directory.clear_snapshots(&service)).await;
}
