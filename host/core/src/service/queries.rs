//! Queries on their way into the journal.
//!
//! A query must not change the state of a service, but it may change the instance that answers it: it moves a generator,
//! grows memory, reorders a map. A transaction after it may be answered in another way than without it, and a replay must
//! know of it. So queries that were answered are held, and journalled with the next transaction, just before it; or by
//! themselves when they are many, and before a state that has seen them is exported. Queries that no record follows are
//! lost in a crash, and with them all that they changed.
//!
//! An instance that is brought back from the journal has not seen what is held: that is forgotten then. A journal that is
//! full takes no queries. They are answered all the same, and the instance is brought back from the journal before a
//! transaction or an export follows on them.

use super::{Service, Stopped, TAIL_FUEL_MAX, Work};
use crate::journal::{QueriesRecord, QueryRecord, Record};
use lifeboat_api::transaction::Reply;
use lifeboat_vm::rehydrate::REPLAY_OVERHEAD_FUEL;
use std::sync::Arc;

/// Queries that are held before they are journalled by themselves.
pub const QUERIES_HELD_MAX: usize = 256;

/// Bytes of the same.
pub const QUERIES_HELD_BYTES_MAX: u64 = 256 * 1024;

/// What a replay of the same costs, as fuel: so that what a recovery replays stays bounded.
pub const QUERIES_HELD_FUEL_MAX: u64 = TAIL_FUEL_MAX / 4;

/// What the instance has seen since the last record.
#[derive(Debug, Default)]
pub(super) struct PendingQueries {
    queries: Vec<QueryRecord>,
    bytes: u64,
    replay_fuel: u64,
    is_lost: bool,
}

impl PendingQueries {
    /// Bytes that the record of them takes, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the instance has seen queries that will not be journalled.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// The instance was replaced by one that has seen what the journal has.
    pub(super) fn forget(&mut self) {
        self.queries.clear();
        (self.bytes, self.replay_fuel, self.is_lost) = (0, 0, false);
    }

    fn lose(&mut self) {
        self.forget();
        self.is_lost = true;
    }

    fn push(&mut self, query: QueryRecord) {
        if self.is_lost {
            return;
        }
        self.bytes += query.bytes();
        self.replay_fuel = self.replay_fuel.saturating_add(query.fuel_used + REPLAY_OVERHEAD_FUEL);
        self.queries.push(query);
    }

    fn is_full(&self) -> bool {
        self.queries.len() >= QUERIES_HELD_MAX
            || self.bytes >= QUERIES_HELD_BYTES_MAX
            || self.replay_fuel >= QUERIES_HELD_FUEL_MAX
    }
}

impl Service {
    /// Holds a query that was answered.
    pub(super) fn note_query(&mut self, work: &Work, reply: &Reply) {
        self.queries.push(QueryRecord {
            id: work.id.as_str().into(),
            user: work.user.clone(),
            timestamp: work.timestamp,
            body: work.body.clone(),
            reply_hash: reply.answer.hash(),
            fuel_used: reply.fuel_used,
        });
        if self.queries.is_full() {
            self.flush_queries();
        }
    }

    /// Journals the queries that are held, if the journal has room for them: else they are lost.
    pub(super) fn flush_queries(&mut self) {
        if self.queries.queries.is_empty() {
            return;
        }
        if self.journal.check_room(self.queries.bytes).is_err() {
            return self.queries.lose();
        }
        // A journal that fails is at its end, and the service with it.
        let _ = self.append_queries();
    }

    /// Journals the queries that are held. A service whose journal does not take them is stopped.
    pub(super) fn append_queries(&mut self) -> Result<(), Stopped> {
        if self.queries.queries.is_empty() {
            return Ok(());
        }
        let queries = std::mem::take(&mut self.queries.queries);
        let replay_fuel = self.queries.replay_fuel;
        self.queries.forget();
        let record = QueriesRecord { sequence: self.last_sequence, epoch: self.epoch, queries };
        match self.journal.append(Record::Queries(Arc::new(record))) {
            // No answer waits for it: a query shows what was there before.
            Ok(_) => {
                self.snapshots.note_kept(replay_fuel);
                Ok(())
            }
            Err(error) => Err(self.stop(format!("queries could not be journalled: {error}"))),
        }
    }
}
