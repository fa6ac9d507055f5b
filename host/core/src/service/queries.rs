//! The journalling of queries.
//!
//! A query must not change the state of a service, but it may change the instance that answers it: it advances a
//! generator, grows memory, or reorders a map. So a later transaction may get a different answer than without the
//! query, and a replay must repeat the query.
//!
//! Answered queries are therefore held, and journalled just before the next transaction. Many queries are journalled by
//! themselves. Held queries are also journalled before an export of a state that has seen them. A crash loses the
//! queries that no record follows, and with them all their effects.
//!
//! An instance that is brought back from the journal has not seen the held queries, so they are forgotten then. A full
//! journal takes no queries. They are answered all the same. Before the next transaction or export, the instance is
//! brought back from the journal.

use super::{Service, Stopped, TAIL_FUEL_MAX, Work};
use crate::journal::{QueriesRecord, QueryRecord, Record};
use lifeboat_api::transaction::Reply;
use lifeboat_vm::rehydrate::REPLAY_OVERHEAD_FUEL;
use std::sync::Arc;

/// The number of held queries at which they are journalled by themselves.
pub const QUERIES_HELD_MAX: usize = 256;

/// The size of held queries at which they are journalled by themselves, in bytes.
pub const QUERIES_HELD_BYTES_MAX: u64 = 256 * 1024;

/// The replay cost of held queries at which they are journalled by themselves, in fuel. It bounds the replay of a
/// recovery.
pub const QUERIES_HELD_FUEL_MAX: u64 = TAIL_FUEL_MAX / 4;

/// The queries that the instance has seen since the last record.
#[derive(Debug, Default)]
pub(super) struct PendingQueries {
    queries: Vec<QueryRecord>,
    bytes: u64,
    replay_fuel: u64,
    is_lost: bool,
}

impl PendingQueries {
    /// Returns the approximate size of their record, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether the instance has seen queries that will not be journalled.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Forgets all queries, because the instance was replaced by one that has seen only the contents of the journal.
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
    /// Holds an answered query.
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

    /// Journals the held queries if the journal has room for them. Without room they are lost.
    pub(super) fn flush_queries(&mut self) {
        if self.queries.queries.is_empty() {
            return;
        }
        if self.history.check_room(self.queries.bytes).is_err() {
            return self.queries.lose();
        }
        // A failed journal has ended, and the service has ended with it.
        let _ = self.append_queries();
    }

    /// Journals the held queries. Stops the service if the journal does not take them.
    pub(super) fn append_queries(&mut self) -> Result<(), Stopped> {
        if self.queries.queries.is_empty() {
            return Ok(());
        }
        let queries = std::mem::take(&mut self.queries.queries);
        let replay_fuel = self.queries.replay_fuel;
        self.queries.forget();
        let record = QueriesRecord { sequence: self.last_sequence, epoch: self.epoch, queries };
        match self.history.append(&Record::Queries(Arc::new(record))) {
            // No answer waits for this record, because a query shows the state before it.
            Ok(_) => {
                self.snapshots.note_kept(replay_fuel);
                Ok(())
            }
            Err(error) => Err(self.stop(format!("queries could not be journalled: {error}"))),
        }
    }
}
