//! The snapshot that a service goes back to: when the next one is due, what its file will say, and how it takes the place of
//! the one before.

use super::{Service, TAIL_BYTES_MAX, TAIL_FUEL_MAX};
use crate::answers::ForgottenTimes;
use crate::data::snapshot_writer::SnapshotJob;
use crate::journal::{Commit, Record};
use crate::snapshot_file::{ResumePoint, SnapshotHeader};
use lifeboat_journal::frame::RecordNumber;
use lifeboat_vm::snapshot::Snapshot;
use std::sync::Arc;

/// A snapshot that was begun: the last record that is part of it, and what goes with it.
pub(super) struct Begun {
    pub(super) record: RecordNumber,
    commit: Commit,
    resume_point: ResumePoint,
    forgotten: ForgottenTimes,
    /// What the tail cost that it makes superfluous.
    pub(super) tail_fuel: u64,
}

impl Service {
    /// Journals that a snapshot of the state as it is now begins. Returns what its file will say.
    pub(super) fn begin_snapshot(&mut self) -> Begun {
        self.journal_event(Record::Snapshot { sequence: self.last_sequence });
        let forgotten = self.answers.forgotten_times();
        Begun {
            record: self.journal.last_record(),
            commit: self.last_commit.clone(),
            tail_fuel: self.tail_fuel,
            resume_point: ResumePoint {
                vm_number: self.vm.id.number,
                size: self.vm.size.name.clone(),
                // What queries were charged since the last transaction comes with the next.
                fuel_used: self.vm.meter.cpu.used.saturating_sub(self.query_fuel_used),
                epoch: self.epoch,
                first_answer: self.journal.first_answer(),
                forgotten_id_time: forgotten.past.newest(),
            },
            forgotten,
        }
    }

    /// Has a proven snapshot written, if the service is durable.
    pub(super) fn keep_snapshot(&self, begun: Begun) {
        let Some(snapshot_writer) = &self.snapshot_writer else { return };
        let Begun { record, commit, resume_point, forgotten, .. } = begun;
        let header = SnapshotHeader {
            service: self.name.clone(),
            workload_hash: *self.program.workload().hash.as_bytes(),
            state_version: self.snapshot.state_version(),
            sequence: self.snapshot.sequence(),
            timestamp: self.snapshot.timestamp(),
            record,
            resume_point,
            sections: Vec::new(),
        };
        snapshot_writer.keep(SnapshotJob { snapshot: Arc::clone(&self.snapshot), header, forgotten, commit });
    }

    pub(super) fn is_tail_long(&self) -> bool {
        self.tail_fuel > TAIL_FUEL_MAX.max(self.snapshot_fuel) || self.journal.tail_bytes() > TAIL_BYTES_MAX
    }

    /// Makes `snapshot`, of which `record` is the last that is part of it, the one that the service goes back to, and gives
    /// up what only replays up to it needed. That and the snapshot before are dropped where nobody waits: some megabytes of
    /// either take milliseconds.
    pub(super) fn set_snapshot(&mut self, snapshot: Arc<Snapshot>, record: RecordNumber) {
        let forgotten = self.journal.forget_tail(record);
        self.snapshot_record = record;
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        if !forgotten.is_empty() || before.state_bytes() > 0 {
            tokio::task::spawn_blocking(move || drop((forgotten, before)));
        }
    }
}
