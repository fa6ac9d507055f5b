//! Calls in doubt: made or not, by transactions whose ids may run again.
//!
//! They are in the retained answers of those transactions, so they last as long as these. An operator settles one; the
//! next attempt of the transaction finds what was decided.

use super::Service;
use crate::answers::IdKey;
use crate::journal::{JournalError, NetworkRecord, Record, RelocatedAnswer, TransactionRecord};
use lifeboat_api::call::{CallRecord, CallResponse};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// The most transactions of a service with calls in doubt. Beyond that the service makes no calls.
pub const DOUBTS_MAX: usize = 1_000;

/// A call in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The user who sent the transaction.
    pub user: Name,
    /// The id of the transaction.
    pub id: String,
    /// The sequence number of the attempt.
    pub sequence: Sequence,
    /// The time of the attempt.
    pub timestamp: Timestamp,
    /// The place of the call among those of the transaction, from 0.
    pub index: u32,
    /// The method of its request.
    pub method: String,
    /// The address of its request.
    pub target: String,
}

/// What an operator knows about a call in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It was not made. The next attempt makes it.
    NotSent,
    /// It was made, and this is its response.
    Answered(CallResponse),
}

/// The reason why a call cannot be settled. Nothing has changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettleError {
    /// No call is in doubt there.
    #[error("call {index} of transaction '{id}' is not in doubt; lifeboat doubts lists those that are")]
    NotInDoubt {
        /// The id of the transaction.
        id: String,
        /// The index of the call.
        index: u32,
    },
    /// Transactions of several users have the id.
    #[error("transactions of several users have the id '{id}'; name one with --user")]
    SeveralUsers {
        /// The id.
        id: String,
    },
    /// The journal refuses the record.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The transactions with calls in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<IdKey, Arc<TransactionRecord>>);

impl Doubts {
    /// Notes the answer to an id, which replaces an earlier one.
    pub(super) fn note(&mut self, record: &TransactionRecord) {
        let key = IdKey::new(&record.user, record.incarnation, &record.id);
        match of(record) {
            Some(in_doubt) => drop(self.0.insert(key, Arc::new(in_doubt))),
            None => drop(self.0.remove(&key)),
        }
    }
}

/// Returns a transaction with its calls in doubt alone, if it has any.
pub(crate) fn of(record: &TransactionRecord) -> Option<TransactionRecord> {
    let network = record.network.as_ref().filter(|_| record.may_run_again() && record.is_id_kept)?;
    let calls: Arc<[CallRecord]> = network.calls.iter().filter(|call| call.result.is_none()).cloned().collect();
    if calls.is_empty() {
        return None;
    }
    let network = Some(Arc::new(NetworkRecord { calls, ..**network }));
    Some(TransactionRecord { network, body: bytes::Bytes::new(), ..record.clone() })
}

impl Service {
    /// Returns whether no more calls may be made, because too many transactions have calls in doubt.
    pub(super) fn has_many_doubts(&mut self) -> bool {
        if self.doubts.0.len() >= DOUBTS_MAX {
            let answers = self.history.answers();
            self.doubts.0.retain(|key, _| answers.find(key).is_some());
        }
        self.doubts.0.len() >= DOUBTS_MAX
    }

    /// Returns the calls in doubt.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let answers = self.history.answers();
        let records = self.doubts.0.iter().filter(|(key, _)| answers.find(key).is_some()).map(|(_, record)| record);
        let of_record = |record: &Arc<TransactionRecord>| {
            let calls = record.network.iter().flat_map(|network| network.calls.iter());
            let doubt = |call: &CallRecord| Doubt {
                user: record.user.clone(),
                id: record.id.to_string(),
                sequence: record.sequence,
                timestamp: record.timestamp,
                index: call.index,
                method: call.method.clone(),
                target: call.target.clone(),
            };
            calls.map(doubt).collect::<Vec<_>>()
        };
        let mut doubts: Vec<Doubt> = records.flat_map(of_record).collect();
        doubts.sort_by_key(|doubt| (doubt.sequence, doubt.index));
        doubts
    }

    /// Settles a call in doubt. The decision is durable once the last commit is.
    ///
    /// # Errors
    /// [`SettleError`].
    pub(super) async fn settle_doubt(
        &mut self,
        user: Option<&Name>,
        id: &str,
        index: u32,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let is_meant =
            |doubt: &&Doubt| doubt.id == id && doubt.index == index && user.is_none_or(|user| doubt.user == *user);
        let doubts = self.doubts();
        let mut meant = doubts.iter().filter(is_meant);
        let not_in_doubt = || SettleError::NotInDoubt { id: id.to_owned(), index };
        let sequence = meant.next().ok_or_else(not_in_doubt)?.sequence;
        if meant.next().is_some() {
            return Err(SettleError::SeveralUsers { id: id.to_owned() });
        }
        let found = self.doubts.0.iter().find(|(_, record)| record.sequence == sequence);
        let key = found.map(|(key, _)| *key).ok_or_else(not_in_doubt)?;
        let (from, record) = self.history.answered_at(&key).await?.ok_or_else(not_in_doubt)?;
        let network = record.network.clone().unwrap_or_default();
        let settled = |call: &CallRecord| match (&settlement, call.index == index) {
            (Settlement::NotSent, true) => None,
            (Settlement::Answered(response), true) => {
                // Any time of the guest will do. The next attempt begins after it.
                let (seen, result) = (record.timestamp, Some(Ok(Arc::new(response.clone()))));
                Some(CallRecord { seen, result, ..call.clone() })
            }
            (_, false) => Some(call.clone()),
        };
        let calls = network.calls.iter().filter_map(settled).collect();
        let network = Some(Arc::new(NetworkRecord { calls, ..*network }));
        let record = Arc::new(TransactionRecord { network, body: bytes::Bytes::new(), ..(*record).clone() });
        let answer = RelocatedAnswer { bytes: record.answer_bytes(), transaction: Arc::clone(&record) };
        self.last_commit = self.history.replace_answer(&key, from, Record::Relocated(answer))?;
        self.doubts.note(&record);
        Ok(())
    }
}
