//! The start of a durable service, and its recovery from the contents of a data directory.

use super::calls::Book;
use super::snapshots::Snapshots;
use super::trial::Trial;
use super::{LaunchError, Service, ServiceContext, ServiceSpec, check_size};
use crate::answers::{Answers, Caller, ForgottenTimes, IdKey, KeptId};
use crate::data::snapshot_writer::{RetainedSnapshot, SNAPSHOTS_RETAINED, SnapshotWriter};
use crate::data::stored_snapshot::{self, Stored};
use crate::data::{DataDirectory, DataError, FoundService, FoundSnapshot, Interrupted, kept, last_transaction};
use crate::history::{FoundHistory, History};
use crate::journal::durable::{DurableLog, FoundLog};
use crate::journal::{Commit, JournalError, Record, TailEntry, TransactionRecord, record};
use crate::network::Retry;
use crate::snapshot_file::{self, FIRST_RECORD, ResumePoint, SnapshotFileError, SnapshotHeader};
use crate::vm::Vm;
use bytes::Bytes;
use futures::future::BoxFuture;
use lifeboat_api::event::{Event, Fallback};
use lifeboat_api::id::{Sequence, VmId, WorkloadHash, id_time};
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::text::chain;
use lifeboat_api::transaction::{Answer, Cause};
use lifeboat_disk::Packs;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::storage::Storage;
use lifeboat_vm::engine::joined;
use lifeboat_vm::rehydrate::{RehydrateError, Rehydrated, ReplayContext, rehydrate, replay_fuel};
use lifeboat_vm::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;

/// A service cannot be brought back. None of its data was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RecoverError {
    /// The remaining data does not suffice.
    #[error("{0}")]
    Standing(String),
    /// The chunks of every snapshot are damaged, and there is nothing else to begin with.
    #[error(
        "all its snapshots are damaged, and no replay can begin without one: {}; put back intact copies \
         of the files, or restore a portable snapshot of the service under another name (lifeboat data restore)",
        chain(.error)
    )]
    AllDamaged {
        /// The damage of one of them.
        error: DataError,
    },
    /// No machine has room for the service, or its size does not hold the workload.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The service was on a size that its settings do not have.
    #[error("its VM was of size '{size}', which its settings do not name")]
    Size {
        /// The name of the size.
        size: String,
    },
    /// None of the snapshots can be restored.
    #[error("none of its snapshots can be restored: {error}")]
    Rehydrate {
        /// The error of the oldest snapshot.
        error: RehydrateError,
    },
    /// A replay differs from the record.
    #[error(
        "{error}; to continue with the state of the replay, run lifeboat data accept-divergence --data DIR {service} --at \
         {sequence}"
    )]
    Diverged {
        /// The name of the service.
        service: Name,
        /// The first transaction that differs.
        sequence: Sequence,
        /// The difference.
        error: RehydrateError,
    },
    /// The data directory fails.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// The most retries of a rehydration that failed for a transient reason, as on a busy host, before an older snapshot is
/// tried.
const ATTEMPTS_MAX: usize = 3;

/// A task that writes a service's snapshots. It returns the reason if the last one was not written.
pub(crate) type SnapshotWriterTask = BoxFuture<'static, Option<String>>;

impl Service {
    /// Starts a durable service at the beginning of its history. The start is durable once the commit resolves.
    ///
    /// # Errors
    /// As [`Service::launch`].
    pub(crate) async fn launch_durable(
        spec: ServiceSpec,
        workload: WorkloadHash,
        context: ServiceContext,
        directory: Arc<DataDirectory>,
    ) -> Result<(Self, Commit, SnapshotWriterTask), LaunchError> {
        let log = DurableLog::new(spec.name.clone(), directory.committer().clone(), FoundLog::default());
        let has_disk = spec.disk.is_some();
        let mut service = Self::launch(spec, context, Box::new(log)).await?;
        let first = if has_disk {
            let (header, snapshot) = (service.first_header(workload), Arc::clone(service.snapshots.last()));
            service.snapshots = Snapshots::new(Arc::clone(&snapshot), header.record, 0, 0);
            let of_thread = Arc::clone(&directory);
            let write = move || write_first(&**of_thread.storage(), header, &snapshot);
            joined(tokio::task::spawn_blocking(write)).await.map_err(DataError::from)?
        } else {
            let (record, first_answer) = (RecordNumber(0), RecordNumber(1));
            RetainedSnapshot { file: None, record, first_answer, packs: Packs::new() }
        };
        let task = service.open(directory, VecDeque::from([first]));
        if let Some(reason) = service.conditions.stopped() {
            let error = JournalError::Ended { reason: reason.to_owned() };
            return Err(LaunchError::Begin { name: service.name, error });
        }
        let begun = service.last_commit.clone();
        Ok((service, begun, task))
    }

    /// Brings a service back from `found`: from its newest snapshot that can be restored and the transactions after it.
    /// Damaged snapshots are renamed, so that new ones can have their names, once another state has taken their place.
    ///
    /// # Errors
    /// Returns a [`RecoverError`], and changes none of the service's data.
    pub(crate) async fn bring_up(
        spec: ServiceSpec,
        context: ServiceContext,
        directory: Arc<DataDirectory>,
        mut found: FoundService,
    ) -> Result<(Self, SnapshotWriterTask), RecoverError> {
        let start = Instant::now();
        if let Err(reason) = &found.standing {
            return Err(RecoverError::Standing(reason.clone()));
        }
        check_size(&spec).map_err(LaunchError::Size)?;
        let permit = context.fleet.maintenance_store().await;
        let replay_context = ReplayContext {
            program: &spec.program,
            secret: &spec.secret,
            accepted_divergences: &spec.accepted_divergences,
            maintenance: context.maintenance,
        };
        let damaged = std::mem::take(&mut found.damaged_snapshots).into_iter().collect();
        let mut passed_over = PassedOver { damaged, ..PassedOver::default() };
        let base = loop {
            let known = passed_over.damaged.len();
            let failed = match base(&directory, &found, replay_context, &mut passed_over).await {
                Ok(base) => break Ok(base),
                Err(failed) => failed,
            };
            // Without snapshots with a damaged disk, the journal may still lead from its beginning to the same state. Each
            // round leaves out at least one more file.
            if passed_over.damaged.len() == known {
                break Err(failed);
            }
            match directory.find_without(&spec.name, passed_over.damaged.keys().cloned().collect()).await? {
                Some(again) if again.standing.is_ok() => found = again,
                _ => break Err(failed),
            }
        };
        let base = match base {
            Ok(base) => base,
            Err(failed) => {
                passed_over.report(&context, &spec.name, Fallback::Nothing);
                return Err(match failed {
                    RecoverError::Data(DataError::Snapshot(error)) if error.is_damage() => {
                        RecoverError::AllDamaged { error: error.into() }
                    }
                    failed => failed,
                });
            }
        };
        let instead = base.found.as_fallback();
        let Base { found: base, snapshot, forgotten, tail, rehydrated } = base;
        let Rehydrated { instance, replayed_transactions, fuel_used, .. } = rehydrated;
        drop(permit);
        let resume_point = found.resume_point(&base, found.records_after(&base));
        let size = spec.sizes.iter().chain([&spec.size]).find(|size| size.name == resume_point.size).cloned();
        let size: Arc<Size> = size.ok_or(RecoverError::Size { size: resume_point.size })?;
        let lease = context.fleet.place(&size).map_err(LaunchError::NoRoom)?;
        let id = VmId { service: spec.name.clone(), number: resume_point.vm_number };
        let mut vm = Vm::new(id, size, lease, instance);
        vm.charge(resume_point.fuel_used);
        vm.meter.charge_network(resume_point.network_used.calls, resume_point.network_used.bytes);
        for file in passed_over.damaged.keys() {
            set_aside(&**directory.storage(), file)?;
        }
        passed_over.report(&context, &spec.name, instead);
        let of_snapshot = (snapshot.sequence(), snapshot.timestamp());
        let (last_sequence, last_timestamp) =
            last_transaction(&found.records).map_or(of_snapshot, |last| last.max(of_snapshot));
        // The guest has seen the time of its last query as well.
        let of_queries = tail.iter().filter_map(|entry| match entry {
            TailEntry::Queries(record) => record.queries.last().map(|query| query.timestamp),
            TailEntry::Transaction(_) => None,
        });
        let last_timestamp = of_queries.max().map_or(last_timestamp, |time| time.max(last_timestamp));
        let kept = found
            .usable()
            .filter(|usable| usable.record() <= base.record())
            .map(|usable| RetainedSnapshot {
                file: usable.file.clone(),
                record: usable.record(),
                first_answer: usable.first_answer(),
                packs: usable.packs.clone(),
            })
            .take(SNAPSHOTS_RETAINED)
            .collect::<Vec<_>>();
        let tail_fuel = replay_fuel(&tail);
        let numbered = |(number, record): &(RecordNumber, Record)| Some((*number, record.tail_entry()?));
        let numbered_tail = found.records_after(&base).iter().filter_map(numbered).collect();
        let now = context.clock.now();
        let mut answers = Answers::new(spec.deduplication_window, forgotten, now);
        // If the clock was ahead, the true time of these answers is unknown. They count as given now.
        let of_the_past = |kept: &KeptId| KeptId { timestamp: kept.timestamp.min(now), ..kept.clone() };
        let replaced: BTreeSet<RecordNumber> =
            found.answered.iter().filter_map(|(kept, _)| answers.insert(of_the_past(kept), now)).collect();
        let mut answered: Vec<_> = found.answered.iter().map(|(_, answer)| *answer).collect();
        answered.retain(|answer| !replaced.contains(&answer.number));
        answered.sort_by_key(|answer| answer.number);
        let tail_bytes: u64 = found.records_after(&base).iter().map(|(_, record)| record::bytes_in_frame(record)).sum();
        let found_log = FoundLog { last: found.last, answered, journal_bytes: found.journal_bytes };
        let log = DurableLog::new(spec.name.clone(), directory.committer().clone(), found_log);
        let found_history = FoundHistory {
            last: found.last,
            tail: numbered_tail,
            snapshot_bytes: found.journal_bytes.saturating_sub(tail_bytes),
        };
        let history = History::continued(Box::new(log), answers, found_history);
        let mut service = Self::new(spec, context, history, vm);
        service.last_sequence = last_sequence;
        service.clock.pass(last_timestamp);
        if snapshot.is_birth() {
            // No snapshot has proven its state yet.
            let kept = tail.iter().filter(|entry| matches!(entry, TailEntry::Transaction(_))).count();
            service.trial = Trial::waiting(kept as u64);
        }
        service.snapshots = Snapshots::new(snapshot, base.record(), fuel_used.saturating_sub(tail_fuel), tail_fuel);
        service.counters.replayed(replayed_transactions, fuel_used);
        found.doubts.iter().for_each(|record| service.doubts.note(record));
        let task = service.open(directory, kept.into_iter().rev().collect());
        if let Some(interrupted) = found.interrupted.take()
            && let Err(error) = service.close_interrupted(interrupted).await
        {
            let reason = format!("the calls of an interrupted transaction could not be journalled: {error}");
            drop(service.stop(reason));
        }
        // The calls of an interrupted transaction may be in an answer that is old by now.
        let now = service.moment();
        service.history.trim_all(now);
        drop(service.take_forgotten_doubts());
        service.emit(Event::Restored {
            vm: service.vm.id.clone(),
            sequence: service.last_sequence,
            snapshot_sequence: service.snapshots.last().sequence(),
            replayed_transactions,
            took: start.elapsed(),
        });
        service.look_at_clock();
        Ok((service, task))
    }

    /// Journals the end of a transaction that had begun to make calls when its host stopped. The next attempt of its id
    /// finds what is known of them. Nothing is called.
    async fn close_interrupted(&mut self, interrupted: Interrupted) -> Result<(), JournalError> {
        let Interrupted { sequence, intent, made, charged, .. } = interrupted;
        let Some(intent) = intent else { return Ok(()) };
        let key = intent.is_id_kept.then(|| IdKey::new(&intent.user, intent.incarnation, &intent.id));
        let earlier = match &key {
            Some(key) => self.history.answered(key).await?.and_then(|record| record.network.clone()),
            None => None,
        };
        let mut book = earlier.map_or_else(Book::default, |network| Book::of_earlier(&network, Retry::Never));
        let new_doubts: BTreeSet<u32> =
            made.values().filter(|call| call.doubt().is_some()).map(|call| call.index).collect();
        // What the guest was told of other calls is decided anew by the next attempt.
        book.add(made, charged);
        let record = TransactionRecord {
            sequence,
            id: intent.id.clone(),
            is_id_kept: intent.is_id_kept,
            user: intent.user.clone(),
            incarnation: intent.incarnation,
            timestamp: intent.timestamp,
            epoch: self.epoch,
            body: Bytes::new(),
            body_hash: intent.body_hash,
            answer: Answer::Failed(Cause::Interrupted),
            fuel_used: 0,
            query_fuel_used: 0,
            network: Some(Arc::new(book.of_failed())),
        };
        self.vm.meter.charge_network(charged.calls, charged.bytes);
        let record = Arc::new(record);
        let (commit, answer_bytes) = self.history.append(&Record::Transaction(Arc::clone(&record)))?;
        self.last_commit = commit;
        if record.is_id_kept {
            self.doubts.note(&record);
        }
        self.last_sequence = self.last_sequence.max(sequence);
        self.clock.pass(intent.timestamp);
        let now = self.moment();
        if let Some(key) = key {
            let kept = KeptId {
                key,
                caller: Caller { user: intent.user.clone(), incarnation: intent.incarnation },
                sequence,
                number: self.history.last_record(),
                timestamp: now.steady,
                id_time: id_time(&intent.id),
                bytes: answer_bytes,
            };
            self.history.index(kept, now.wall);
        }
        self.report_doubts(&record, |index| new_doubts.contains(&index));
        Ok(())
    }

    /// Returns the header of the snapshot from which a service begins that has a disk before its first record.
    fn first_header(&self, workload: WorkloadHash) -> SnapshotHeader {
        SnapshotHeader {
            service: self.name.clone(),
            workload_hash: *workload.as_bytes(),
            state_version: self.snapshots.last().state_version(),
            sequence: self.snapshots.last().sequence(),
            timestamp: self.snapshots.last().timestamp(),
            record: FIRST_RECORD,
            resume_point: ResumePoint::first(self.vm.size.name.clone(), self.epoch, None),
            sections: Vec::new(),
        }
    }

    /// Begins the service's epoch, and starts its snapshot writer with the retained snapshots `kept`, oldest first.
    fn open(&mut self, directory: Arc<DataDirectory>, kept: VecDeque<RetainedSnapshot>) -> SnapshotWriterTask {
        self.journal_event(Record::Opened { timestamp: self.service_time(), epoch: self.epoch });
        let events = self.events.sink();
        let (snapshot_writer, task) =
            SnapshotWriter::new(directory, self.name.clone(), kept, self.snapshots.last().sequence(), events);
        self.snapshot_writer = Some(snapshot_writer);
        Box::pin(task)
    }
}

/// Writes the snapshot from which a service begins.
fn write_first(
    storage: &dyn Storage,
    header: SnapshotHeader,
    snapshot: &Snapshot,
) -> Result<RetainedSnapshot, SnapshotFileError> {
    let (record, first_answer) = (header.record, header.resume_point.first_answer);
    let file = Some(snapshot_file::file_name(&header.service, record));
    let Stored { packs, .. } = stored_snapshot::write(storage, header, snapshot, Vec::new(), &Packs::new())?;
    Ok(RetainedSnapshot { file, record, first_answer, packs })
}

/// Renames a damaged snapshot, so that a new one can have its name.
fn set_aside(storage: &dyn Storage, file: &str) -> Result<(), DataError> {
    let renamed = storage.rename(file, &format!("{file}.damaged")).and_then(|()| storage.sync_directory());
    renamed.map_err(DataError::storage(format!("rename '{file}'")))
}

/// The basis of a recovered service.
struct Base {
    found: FoundSnapshot,
    snapshot: Arc<Snapshot>,
    forgotten: ForgottenTimes,
    /// The kept transactions and the queries after the snapshot.
    tail: Vec<TailEntry>,
    rehydrated: Rehydrated,
}

/// The snapshots from which a service could not be brought back.
#[derive(Default)]
struct PassedOver {
    /// The files of damaged ones, and the damage of each.
    damaged: BTreeMap<String, String>,
    /// The last transactions of those that could not be restored, and the reasons.
    unusable: BTreeMap<Sequence, String>,
}

impl PassedOver {
    /// Reports each of them, with what the service is brought back from.
    fn report(self, context: &ServiceContext, service: &Name, instead: Fallback) {
        let Self { damaged, unusable } = self;
        for (sequence, reason) in unusable {
            (context.events)(&Event::SnapshotUnusable { service: service.clone(), sequence, reason, instead });
        }
        for (file, reason) in damaged {
            (context.events)(&Event::SnapshotDamaged { service: service.clone(), file, reason, instead });
        }
    }
}

/// Rehydrates from the newest snapshot that can be restored. Adds those that it passes over.
async fn base(
    directory: &Arc<DataDirectory>,
    found: &FoundService,
    replay_context: ReplayContext<'_>,
    passed_over: &mut PassedOver,
) -> Result<Base, RecoverError> {
    let (mut unusable, mut damaged) = (None, None);
    for candidate in found.usable() {
        // A disk may take seconds to read.
        let (of_thread, snapshot) = (Arc::clone(directory), candidate.clone());
        let loading = tokio::task::spawn_blocking(move || snapshot.load_all(&**of_thread.storage()));
        let (snapshot, forgotten) = match joined(loading).await {
            Ok(loaded) => loaded,
            // The chunks of its disk are read only here.
            Err(DataError::Snapshot(error)) if error.is_damage() => {
                if let Some(file) = &candidate.file {
                    passed_over.damaged.insert(file.clone(), error.to_string());
                }
                damaged = Some(DataError::Snapshot(error));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let snapshot = Arc::new(snapshot);
        let tail = kept(found.records_after(candidate));
        let mut rehydrated = rehydrate(replay_context, &snapshot, &tail).await;
        for _ in 0..ATTEMPTS_MAX {
            if !matches!(&rehydrated, Err(error) if error.is_transient()) {
                break;
            }
            rehydrated = rehydrate(replay_context, &snapshot, &tail).await;
        }
        match rehydrated {
            Ok(rehydrated) => return Ok(Base { found: candidate.clone(), snapshot, forgotten, tail, rehydrated }),
            Err(error @ RehydrateError::Diverged { sequence, .. }) => {
                return Err(RecoverError::Diverged { service: found.name.clone(), sequence, error });
            }
            Err(error) => {
                passed_over.unusable.insert(snapshot.sequence(), error.to_string());
                unusable = Some(error);
            }
        }
    }
    Err(match (unusable, damaged) {
        (Some(error), _) => RecoverError::Rehydrate { error },
        (None, Some(error)) => error.into(),
        (None, None) => RecoverError::Standing("it has no snapshot to begin with".into()),
    })
}
