//! The snapshot that a service goes back to: when the next one is due, the contents of its file, and the replacement of
//! the previous one.
//!
//! [`Snapshots`] is pure. The methods of [`Service`] below use the journal and the snapshot writer.

use super::{Service, TAIL_BYTES_MAX, TAIL_FUEL_MAX};
use crate::answers::ForgottenTimes;
use crate::data::snapshot_writer::SnapshotJob;
use crate::journal::{Commit, Record};
use crate::snapshot_file::{ResumePoint, SnapshotHeader};
use lifeboat_api::meter::Resource;
use lifeboat_journal::frame::RecordNumber;
use lifeboat_vm::rehydrate::{ExportNeeds, INSTANTIATE_OVERHEAD_FUEL};
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;

/// The last snapshot of a service that a restore has proven, the cost of a replay from it, and the needs of exports.
/// Costs are in fuel.
pub(super) struct Snapshots {
    last: Arc<Snapshot>,
    /// The last record that is part of the snapshot.
    record: RecordNumber,
    /// The cost of the snapshot's export and restore.
    fuel: u64,
    /// The cost of replaying the transactions and queries since the snapshot.
    tail_fuel: u64,
    /// The cost of replaying all transactions and queries since the start of the service. It only grows.
    kept_fuel: u64,
    /// The cost of the tail's replays by rollbacks so far.
    replayed_fuel: u64,
    export_needs: ExportNeeds,
}

impl Snapshots {
    /// Returns the state of a service that goes back to `last`. `record` is the last record that is part of that
    /// snapshot.
    pub(super) fn new(last: Arc<Snapshot>, record: RecordNumber, fuel: u64, tail_fuel: u64) -> Self {
        let export_needs = ExportNeeds::default();
        Self { last, record, fuel, tail_fuel, kept_fuel: 0, replayed_fuel: 0, export_needs }
    }

    /// Returns the state of a service at the beginning of its history, before which is `birth`.
    pub(super) fn begin(birth: Arc<Snapshot>) -> Self {
        Self::new(birth, RecordNumber(0), 0, 0)
    }

    /// Returns the last proven snapshot.
    pub(super) fn last(&self) -> &Arc<Snapshot> {
        &self.last
    }

    /// Returns the last record that is part of the snapshot.
    pub(super) fn record(&self) -> RecordNumber {
        self.record
    }

    /// Returns the cost of the snapshot's export and restore.
    pub(super) fn fuel(&self) -> u64 {
        self.fuel
    }

    /// Returns the cost of replaying everything that was kept since the start of the service.
    pub(super) fn kept_fuel(&self) -> u64 {
        self.kept_fuel
    }

    /// Returns whether anything was kept since the snapshot.
    pub(super) fn has_tail(&self) -> bool {
        self.tail_fuel > 0
    }

    /// Returns whether a snapshot is due, because a replay of the tail would cost too much. The tail takes `tail_bytes`
    /// of the journal. A byte of the `written_bytes` of the last snapshot costs one fuel.
    pub(super) fn is_tail_long(&self, tail_bytes: u64, written_bytes: u64) -> bool {
        self.tail_fuel > TAIL_FUEL_MAX.max(self.fuel.saturating_add(written_bytes)) || tail_bytes > TAIL_BYTES_MAX
    }

    /// Returns whether rollbacks have replayed as much of the tail as a snapshot costs, of which `written_bytes` are
    /// written.
    pub(super) fn is_replayed_often(&self, written_bytes: u64) -> bool {
        self.replayed_fuel > self.fuel.saturating_add(written_bytes).max(INSTANTIATE_OVERHEAD_FUEL)
    }

    /// Records that a transaction or queries were kept whose replay costs `replay_fuel`.
    pub(super) fn note_kept(&mut self, replay_fuel: u64) {
        self.tail_fuel = self.tail_fuel.saturating_add(replay_fuel);
        self.kept_fuel = self.kept_fuel.saturating_add(replay_fuel);
    }

    /// Records that a rollback has replayed the tail for `fuel`.
    pub(super) fn note_replayed(&mut self, fuel: u64) {
        self.replayed_fuel = self.replayed_fuel.saturating_add(fuel);
    }

    /// Returns the resources that the next export needs.
    pub(super) fn export_needs(&self) -> ExportNeeds {
        self.export_needs
    }

    /// Records that an export failed and `lacked` this resource, if that is known. The next export gets more of it.
    /// Returns whether a retry can get more memory than this export had.
    pub(super) fn note_lacked(&mut self, lacked: Option<Resource>, has_slot_more: bool) -> bool {
        let was_large = self.export_needs.is_large;
        self.export_needs.is_large |= lacked == Some(Resource::Memory);
        self.export_needs.is_long |= lacked == Some(Resource::Cpu);
        self.export_needs.is_large && !was_large && has_slot_more
    }

    /// Replaces the last snapshot by the proven `snapshot`, which cost `fuel`, and returns the previous one. The
    /// remaining tail is what was kept since `begun`.
    fn replace(&mut self, snapshot: Arc<Snapshot>, fuel: u64, begun: &Begun) -> Arc<Snapshot> {
        self.record = begun.record;
        self.fuel = fuel;
        self.tail_fuel = self.tail_fuel.saturating_sub(begun.tail_fuel);
        self.replayed_fuel = 0;
        std::mem::replace(&mut self.last, snapshot)
    }
}

/// A snapshot that was begun: its last record, and the data that its file needs.
pub(super) struct Begun {
    record: RecordNumber,
    commit: Commit,
    resume_point: ResumePoint,
    forgotten: ForgottenTimes,
    /// The cost of the tail that this snapshot replaces.
    tail_fuel: u64,
}

impl Service {
    /// Journals that a snapshot of the current state begins. Returns the data that its file needs.
    pub(super) fn begin_snapshot(&mut self) -> Begun {
        self.journal_event(Record::Snapshot { sequence: self.last_sequence });
        let (record, commit) = (self.history.last_record(), self.last_commit.clone());
        self.repeat_calls();
        let forgotten = self.history.answers().forgotten_times();
        Begun {
            record,
            commit,
            tail_fuel: self.snapshots.tail_fuel,
            resume_point: ResumePoint {
                vm_number: self.vm.id.number,
                size: self.vm.size.name.clone(),
                // The next transaction's record carries the fuel of queries since the last transaction.
                fuel_used: self.vm.written_fuel(),
                network_used: self.vm.meter.network.used(),
                epoch: self.epoch,
                first_answer: self.history.first_answer(),
                forgotten_id_time: forgotten.past.newest(),
            },
            forgotten,
        }
    }

    /// Adopts `snapshot`, which a restore has proven, so that the service goes back to it. The export and the restore
    /// cost `fuel`.
    ///
    /// Drops the records that only a replay up to the new snapshot needed, and the previous snapshot. Both are dropped
    /// on a blocking thread, because some megabytes of either take milliseconds.
    pub(super) fn adopt_snapshot(&mut self, snapshot: Arc<Snapshot>, fuel: u64, begun: Begun) {
        self.counters.snapshot();
        let forgotten = self.history.forget_tail(begun.record);
        let before = self.snapshots.replace(snapshot, fuel, &begun);
        if !forgotten.is_empty() || before.state_bytes() > 0 || !before.disk().is_untouched() {
            tokio::task::spawn_blocking(move || drop((forgotten, before)));
        }
        self.keep_snapshot(begun);
        self.trial.note_proven();
        self.moved();
    }

    /// Queues a proven snapshot for writing, if the service is durable.
    fn keep_snapshot(&self, begun: Begun) {
        let Some(snapshot_writer) = &self.snapshot_writer else { return };
        let Begun { record, commit, resume_point, forgotten, .. } = begun;
        let snapshot = Arc::clone(self.snapshots.last());
        let header = SnapshotHeader {
            service: self.name.clone(),
            workload_hash: *self.terms.program.workload().hash.as_bytes(),
            state_version: snapshot.state_version(),
            sequence: snapshot.sequence(),
            timestamp: snapshot.timestamp(),
            record,
            resume_point,
            sections: Vec::new(),
        };
        snapshot_writer.keep(SnapshotJob { snapshot, header, forgotten, commit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::id::Epoch;

    fn begun(snapshots: &Snapshots, record: u64) -> Begun {
        Begun {
            record: RecordNumber(record),
            commit: Commit::done(),
            tail_fuel: snapshots.tail_fuel,
            resume_point: ResumePoint {
                vm_number: 1,
                size: "small".into(),
                fuel_used: 0,
                network_used: Default::default(),
                epoch: Epoch::default(),
                first_answer: RecordNumber(1),
                forgotten_id_time: None,
            },
            forgotten: ForgottenTimes::default(),
        }
    }

    #[test]
    fn a_snapshot_is_due_once_the_tail_costs_more_than_the_last_one() {
        let mut snapshots = Snapshots::new(Arc::new(Snapshot::empty()), RecordNumber(0), 2 * TAIL_FUEL_MAX, 0);
        snapshots.note_kept(2 * TAIL_FUEL_MAX);
        assert!(!snapshots.is_tail_long(TAIL_BYTES_MAX, 0));
        assert!(snapshots.is_tail_long(TAIL_BYTES_MAX + 1, 0));
        snapshots.note_kept(1);
        assert!(snapshots.is_tail_long(0, 0));
        assert!(!snapshots.is_tail_long(0, 1), "a snapshot that writes more is taken more rarely");
    }

    #[test]
    fn what_was_kept_since_a_snapshot_was_begun_is_the_tail_after_it() {
        let mut snapshots = Snapshots::begin(Arc::new(Snapshot::empty()));
        snapshots.note_kept(700);
        let begun = begun(&snapshots, 7);
        snapshots.note_kept(30);
        snapshots.note_replayed(u64::MAX);
        assert!(snapshots.is_replayed_often(0));
        snapshots.replace(Arc::new(Snapshot::empty()), 5, &begun);
        assert_eq!((snapshots.tail_fuel, snapshots.kept_fuel), (30, 730));
        assert_eq!((snapshots.record(), snapshots.fuel()), (RecordNumber(7), 5));
        assert!(snapshots.has_tail() && !snapshots.is_replayed_often(0));
    }

    #[test]
    fn an_export_that_lacked_memory_is_repeated_once_with_more() {
        let mut snapshots = Snapshots::begin(Arc::new(Snapshot::empty()));
        assert!(!snapshots.note_lacked(None, true));
        assert!(!snapshots.note_lacked(Some(Resource::Cpu), true), "it gets more fuel the next time");
        assert_eq!(snapshots.export_needs(), ExportNeeds { is_large: false, is_long: true });
        assert!(snapshots.note_lacked(Some(Resource::Memory), true));
        assert!(!snapshots.note_lacked(Some(Resource::Memory), true), "it had all that there is");
        assert!(!Snapshots::begin(Arc::new(Snapshot::empty())).note_lacked(Some(Resource::Memory), false));
    }
}
