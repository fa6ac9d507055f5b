//! Writes the snapshots of a service to its data directory, in a task beside the service.
//!
//! A submitted snapshot was already proven by a restore. It is written once all records that are part of it are
//! durable. Otherwise a crash could leave a state whose transactions are lost. Then this snapshot and the one before it
//! are retained. Older ones are removed, with the packs that no retained snapshot refers to, and the journal records
//! that only they needed are reclaimed. While one snapshot is written the next waits, and a newer one replaces it.

use super::{DataDirectory, Needed, stored_snapshot};
use crate::answers::ForgottenTimes;
use crate::journal::{Commit, JournalError};
use crate::snapshot_file::{self, SECTION_FORGOTTEN, Section, SnapshotFileError, SnapshotHeader};
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_api::text::chain;
use lifeboat_disk::Packs;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_journal::storage::Storage;
use lifeboat_vm::engine::joined;
use lifeboat_vm::snapshot::Snapshot;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The number of retained snapshots of a service. If the newest is damaged, the one before it is there.
pub(crate) const SNAPSHOTS_RETAINED: usize = 2;

/// A snapshot that is to be written to the disk.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotJob {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The header, whose sections are filled in by the writer.
    pub(crate) header: SnapshotHeader,
    /// The ids that were forgotten when the snapshot was taken.
    pub(crate) forgotten: ForgottenTimes,
    /// The commit of the last record that is part of the snapshot.
    pub(crate) commit: Commit,
}

/// A retained snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetainedSnapshot {
    /// The file, or none for the empty snapshot.
    pub(crate) file: Option<String>,
    pub(crate) record: RecordNumber,
    /// The first record whose answer was retained when the snapshot was taken.
    pub(crate) first_answer: RecordNumber,
    /// The packs with the chunks of its disk.
    pub(crate) packs: Packs,
}

/// How far the snapshots of a service are written, for callers that ordered one.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The number of submitted snapshots.
    handed_in: AtomicU64,
    /// The number of submitted snapshots that are done, including those replaced by newer ones; and why the last one
    /// was not written, if it failed.
    done: watch::Sender<(u64, Option<String>)>,
    /// The last transaction of the newest snapshot on the disk.
    sequence: AtomicU64,
    /// The bytes that were written for the newest snapshot.
    bytes: AtomicU64,
}

impl Written {
    /// Waits until all snapshots submitted so far are done.
    ///
    /// # Errors
    /// The reason why the last one is not on the disk.
    pub(crate) async fn all(&self) -> Result<(), String> {
        let handed_in = self.handed_in.load(Ordering::Acquire);
        let mut done = self.done.subscribe();
        // This cannot fail: `self` has the sender.
        let Ok(done) = done.wait_for(|(done, _)| *done >= handed_in).await else { return Ok(()) };
        done.1.clone().map_or(Ok(()), Err)
    }

    fn done(&self, through: u64, failed: Option<String>) {
        self.done.send_replace((through, failed));
    }
}

/// The handle to the task that writes a service's snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    queue: watch::Sender<Option<(u64, SnapshotJob)>>,
    written: Arc<Written>,
}

impl SnapshotWriter {
    /// Creates a snapshot writer for `service` and its task. `kept` are the existing snapshots, oldest first, and
    /// `sequence` is the last transaction of the newest. The task ends after the snapshot writer, and returns why the
    /// last snapshot was not written, if it failed.
    pub(crate) fn new(
        directory: Arc<DataDirectory>,
        service: Name,
        kept: VecDeque<RetainedSnapshot>,
        sequence: Sequence,
        events: EventSink,
    ) -> (Self, impl Future<Output = Option<String>> + Send) {
        let (queue, receiver) = watch::channel(None);
        let written = Arc::new(Written { sequence: AtomicU64::new(sequence.0), ..Written::default() });
        directory.set_written(&service, Arc::clone(&written));
        let retention = Retention { directory, service, kept, events, written: Arc::clone(&written) };
        (Self { queue, written }, retention.run(receiver))
    }

    /// Returns the last transaction of the newest snapshot on the disk.
    pub(crate) fn sequence(&self) -> Sequence {
        Sequence(self.written.sequence.load(Ordering::Acquire))
    }

    /// Returns the bytes that were written for the newest snapshot, or 0 before the first one.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written.bytes.load(Ordering::Relaxed)
    }

    /// Submits `job`.
    pub(crate) fn keep(&self, job: SnapshotJob) {
        let number = self.written.handed_in.fetch_add(1, Ordering::AcqRel) + 1;
        self.queue.send_replace(Some((number, job)));
    }
}

struct Retention {
    directory: Arc<DataDirectory>,
    service: Name,
    kept: VecDeque<RetainedSnapshot>,
    events: EventSink,
    written: Arc<Written>,
}

impl Retention {
    async fn run(mut self, queue: watch::Receiver<Option<(u64, SnapshotJob)>>) -> Option<String> {
        let failed = self.keep_all(queue).await;
        let reason = failed.clone().unwrap_or_else(|| "the service has ended".into());
        self.written.done(u64::MAX, Some(reason));
        failed
    }

    async fn keep_all(&mut self, mut queue: watch::Receiver<Option<(u64, SnapshotJob)>>) -> Option<String> {
        let mut failed = None;
        // Why old snapshots could not be removed. A reason is reported once until it changes.
        let mut unremoved = None;
        self.need();
        while queue.changed().await.is_ok() {
            let Some((number, job)) = queue.borrow_and_update().clone() else { continue };
            if let Err(error) = job.commit.clone().durable_or_held().await {
                let is_held = matches!(error, JournalError::Stalled { .. });
                failed = Some(error.to_string());
                // A failed journal accepts no more records, and reports that itself.
                if !is_held {
                    return failed;
                }
                // A caller that ordered the snapshot, or ends the service, does not wait for room.
                self.written.done(number, failed.clone());
                tokio::select! {
                    biased;
                    durable = job.commit.clone().durable() => {
                        if let Err(error) = durable {
                            return Some(error.to_string());
                        }
                    }
                    changed = queue.changed() => {
                        if changed.is_err() {
                            return failed;
                        }
                        // A newer snapshot replaces this one.
                        queue.mark_changed();
                        continue;
                    }
                }
            }
            if self.kept.back().is_some_and(|newest| newest.record >= job.header.record) {
                self.written.done(number, None);
                continue;
            }
            match self.write(job).await {
                Ok(()) => {
                    failed = None;
                    self.written.done(number, None);
                    self.need();
                    let left = self.prune().await.err().map(|error| chain(&error));
                    if let Some(reason) = left.clone().filter(|_| left != unremoved) {
                        (self.events)(&Event::OldSnapshotsNotRemoved { service: self.service.clone(), reason });
                    }
                    unremoved = left;
                    self.directory.reclaim(&self.events).await;
                }
                Err(error) => {
                    let reason = chain(&error);
                    failed = Some(reason.clone());
                    self.written.done(number, failed.clone());
                    (self.events)(&Event::SnapshotNotKept { service: self.service.clone(), reason });
                }
            }
        }
        failed
    }

    /// Reports to the directory which part of the journal the retained snapshots need.
    fn need(&self) {
        let replay = self.kept.iter().map(|kept| kept.record.next()).min();
        let answers = self.kept.iter().map(|kept| kept.first_answer).min();
        if let Some((replay, answers)) = replay.zip(answers) {
            self.directory.set_needed(&self.service, Needed { replay, answers });
        }
    }

    async fn write(&mut self, job: SnapshotJob) -> Result<(), SnapshotFileError> {
        let SnapshotJob { snapshot, header, forgotten, .. } = job;
        let name = snapshot_file::file_name(&self.service, header.record);
        let mut others = Vec::new();
        if !forgotten.is_empty() {
            let chunk = forgotten.to_bytes();
            let chunk_bytes = vec![u32::try_from(chunk.len()).expect("some users take some kilobytes")];
            others.push((Section { kind: SECTION_FORGOTTEN, is_optional: true, chunk_bytes }, chunk));
        }
        let (sequence, record, first_answer) = (header.sequence, header.record, header.resume_point.first_answer);
        let storage = Arc::clone(self.directory.storage());
        let (of_thread, packs) = (name.clone(), self.packs());
        let written = tokio::task::spawn_blocking(move || {
            let action = "check the directory of";
            let lost = |source| SnapshotFileError::Storage { name: of_thread.clone(), action, source };
            storage.check_lock().map_err(lost)?;
            stored_snapshot::write(&*storage, header, &snapshot, others, &packs)
        });
        let stored = joined(written).await?;
        self.written.sequence.store(sequence.0, Ordering::Release);
        self.written.bytes.store(stored.bytes, Ordering::Relaxed);
        self.kept.push_back(RetainedSnapshot { file: Some(name), record, first_answer, packs: stored.packs });
        while self.kept.len() > SNAPSHOTS_RETAINED {
            self.kept.pop_front();
        }
        Ok(())
    }

    /// Returns the packs that retained snapshots refer to.
    fn packs(&self) -> Packs {
        self.kept.iter().flat_map(|kept| &kept.packs).map(|(number, bytes)| (*number, *bytes)).collect()
    }

    /// Removes the snapshots before the oldest retained one, and then the packs that no retained one refers to. Those
    /// that cannot be removed take room, and harm nothing.
    async fn prune(&self) -> Result<(), SnapshotFileError> {
        let storage = Arc::clone(self.directory.storage());
        let retained: Vec<RecordNumber> = self.kept.iter().map(|kept| kept.record).collect();
        let (service, packs) = (self.service.clone(), self.packs());
        joined(tokio::task::spawn_blocking(move || prune(&*storage, &service, &retained, &packs))).await
    }
}

/// Removes the snapshots of `service` before the oldest of the `retained` records, in whatever state their files are,
/// and those between retained ones, whose packs may be gone. Then removes all of its packs except `packs`.
///
/// # Errors
/// The first that failed: the others are removed nevertheless. If a snapshot cannot be removed, all packs stay: it may
/// refer to them.
fn prune(
    storage: &dyn Storage,
    service: &Name,
    retained: &[RecordNumber],
    packs: &Packs,
) -> Result<(), SnapshotFileError> {
    let [oldest, newest] = [retained.first(), retained.last()].map(|record| record.copied().unwrap_or_default());
    let is_old = |name: &str, record: RecordNumber| {
        record < oldest || record < newest && name.ends_with(".snapshot") && !retained.contains(&record)
    };
    let failed = |name: &str, action| {
        let name = name.to_owned();
        move |source| SnapshotFileError::Storage { name, action, source }
    };
    let oldest_name = snapshot_file::file_name(service, oldest);
    let (mut is_changed, mut result, mut old_packs) = (false, Ok(()), Vec::new());
    for name in storage.list().map_err(failed(&oldest_name, "list the snapshots before"))? {
        match parse(&name) {
            Some(file) if file.service == &**service && !file.is_pack && is_old(&name, file.record) => {
                let removed = storage.remove(&name);
                is_changed |= removed.is_ok();
                result = result.and(removed.map_err(failed(&name, "remove")));
            }
            Some(file) if file.service == &**service && file.is_pack && !packs.contains_key(&file.record.0) => {
                old_packs.push(name);
            }
            _ => {}
        }
    }
    if is_changed {
        result = result.and(storage.sync_directory().map_err(failed(&oldest_name, "sync the directory of")));
    }
    // A crash may bring back a snapshot whose removal is not durable, and it needs its packs.
    if result.is_err() || old_packs.is_empty() {
        return result;
    }
    for name in old_packs {
        let failed = |source| SnapshotFileError::Pack { name: name.clone(), action: "remove", source };
        result = result.and(storage.remove(&name).map_err(failed));
    }
    result.and(storage.sync_directory().map_err(failed(&oldest_name, "sync the directory of")))
}

/// Returns whether `file` is a snapshot or a pack of `service`, whatever state it is in.
pub(super) fn is_of(file: &str, service: &Name) -> bool {
    parse(file).is_some_and(|file| file.service == &**service)
}

/// Returns the service in the name of a snapshot or a pack, whatever state the file is in.
pub(super) fn service_of(file: &str) -> Option<Name> {
    parse(file).and_then(|file| Name::new(file.service).ok())
}

/// Returns whether `file` is a pack, whatever state it is in.
pub(super) fn is_pack(file: &str) -> bool {
    parse(file).is_some_and(|file| file.is_pack)
}

/// The name of a snapshot or a pack.
struct FileName<'a> {
    service: &'a str,
    record: RecordNumber,
    is_pack: bool,
}

fn parse(file: &str) -> Option<FileName<'_>> {
    let kinds = [".snapshot", ".snapshot.damaged", ".snapshot.tmp", ".pack", ".pack.tmp"];
    let (kind, name) = kinds.iter().find_map(|kind| Some((kind, file.strip_suffix(kind)?)))?;
    let (service, number) = name.rsplit_once('.')?;
    let is_ours = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    let record = RecordNumber(number.parse().ok().filter(|_| is_ours)?);
    Some(FileName { service, record, is_pack: kind.starts_with(".pack") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_journal::storage::{Operation, SimulatedStorage};

    #[test]
    fn a_snapshot_that_cannot_be_removed_retains_no_other() {
        let storage = SimulatedStorage::new(1);
        let bank = Name::new("bank").expect("a name");
        let name = |record| snapshot_file::file_name(&bank, RecordNumber(record));
        for record in 1..=5 {
            storage.create(&name(record)).expect("a new one");
        }
        let _faults = [2, 3].map(|record| storage.fail_in(&name(record), Operation::Remove, 1));
        let pack = |number| snapshot_file::disk::pack_name(&bank, number);
        for number in 1..=5 {
            storage.create(&pack(number)).expect("a new one");
        }
        let packs = Packs::from([(2, 0), (5, 0)]);
        let error = prune(&storage, &bank, &[RecordNumber(5)], &packs).expect_err("two of four");
        assert!(error.to_string().contains(&name(2)), "{error}");
        let storage = storage.crash();
        let (left_packs, left): (Vec<_>, Vec<_>) =
            storage.list().expect("lists").into_iter().partition(|it| is_pack(it));
        assert_eq!(left, [name(2), name(3), name(5)], "the removal of the others is synced");
        assert_eq!(left_packs.len(), 5, "a snapshot that is still there may need them");
        prune(&storage, &bank, &[RecordNumber(5)], &packs).expect("no fault is left");
        assert_eq!(storage.crash().list().expect("lists"), [pack(2), pack(5), name(5)]);
    }
}
