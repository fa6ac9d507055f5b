//! Calls in doubt: made or not, by transactions whose ids may run again.
//!
//! They are in the retained answers of those transactions, so they last as long as these. An operator settles one; the
//! next attempt of the transaction finds what was decided.

use super::Service;
use crate::answers::IdKey;
use crate::journal::{JournalError, NetworkRecord, Record, RelocatedAnswer, TransactionRecord};
use lifeboat_api::call::{CallRecord, CallResponse, DoubtReason, Retry};
use lifeboat_api::clock::{Timestamp, Utc};
use lifeboat_api::event::{Event, NamedCall};
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Denial;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// The most transactions of a service with calls in doubt. Beyond that the service makes no calls.
pub const DOUBTS_MAX: usize = 1_000;

/// The most transactions of a user with calls in doubt. Beyond that the service makes no calls for the user, so that one
/// user alone does not keep the others from making calls.
pub const DOUBTS_PER_USER_MAX: usize = 100;

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
    /// Why its outcome is unknown.
    pub reason: DoubtReason,
}

impl Doubt {
    /// Returns a call of the transaction with this user and id, if it is in doubt.
    pub(crate) fn of(
        (user, id): (&Name, &str),
        sequence: Sequence,
        timestamp: Timestamp,
        call: &CallRecord,
    ) -> Option<Self> {
        Some(Self {
            user: user.clone(),
            id: id.to_owned(),
            sequence,
            timestamp,
            index: call.index,
            method: call.method.clone(),
            target: call.target.clone(),
            reason: call.doubt()?,
        })
    }

    pub(super) fn named(&self) -> NamedCall {
        NamedCall {
            user: self.user.clone(),
            transaction: self.id.clone(),
            index: self.index,
            method: self.method.clone(),
            target: self.target.clone(),
        }
    }
}

impl From<Doubt> for lifeboat_api::http::Doubt {
    fn from(doubt: Doubt) -> Self {
        Self {
            user: doubt.user.to_string(),
            id: doubt.id,
            sequence: doubt.sequence.0,
            time: Utc(doubt.timestamp).to_string(),
            index: doubt.index,
            method: doubt.method,
            target: doubt.target,
            reason: doubt.reason,
        }
    }
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
    /// The call was made.
    #[error(
        "call {index} of transaction '{id}' was made, and its response was too large to be kept; settle it with --answered"
    )]
    WasMade {
        /// The id of the transaction.
        id: String,
        /// The index of the call.
        index: u32,
    },
    /// The service accepts nothing now.
    #[error(transparent)]
    Denied(Denial),
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
    /// Returns the number of calls in doubt.
    pub(super) fn count(&self) -> usize {
        self.0.values().map(|record| record.network.as_ref().map_or(0, |network| network.calls.len())).sum()
    }

    /// Notes the answer to an id, which replaces an earlier one.
    pub(super) fn note(&mut self, record: &TransactionRecord) {
        let key = IdKey::new(&record.user, record.incarnation, &record.id);
        match of(record) {
            Some(in_doubt) => drop(self.0.insert(key, Arc::new(in_doubt))),
            None => drop(self.0.remove(&key)),
        }
    }
}

/// Returns the calls in doubt of a transaction.
pub(crate) fn calls_of(record: &TransactionRecord) -> Vec<Doubt> {
    let calls = record.network.iter().flat_map(|network| network.calls.iter());
    let of = (&record.user, &*record.id);
    calls.filter_map(|call| Doubt::of(of, record.sequence, record.timestamp, call)).collect()
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
    /// Returns whether no more calls may be made for a user, because too many transactions have calls in doubt.
    pub(super) fn has_many_doubts(&self, user: &Name) -> bool {
        let all = self.doubts.0.len();
        let of_user = || self.doubts.0.values().filter(|record| record.user == *user).count();
        all >= DOUBTS_MAX || all >= DOUBTS_PER_USER_MAX && of_user() >= DOUBTS_PER_USER_MAX
    }

    /// Removes the calls in doubt whose answers were forgotten, and returns them.
    pub(super) fn take_forgotten_doubts(&mut self) -> Vec<Doubt> {
        let answers = self.history.answers();
        let forgotten = self.doubts.0.extract_if(.., |key, _| answers.find(key).is_none());
        forgotten.flat_map(|(_, record)| calls_of(&record)).collect()
    }

    /// Forgets the calls in doubt whose answers were forgotten, and reports them.
    pub(super) fn forget_doubts(&mut self) {
        for call in self.take_forgotten_doubts() {
            self.emit(Event::CallForgotten { service: self.name.clone(), call: call.named() });
        }
    }

    /// Reports the calls that `record`, the last one, leaves in doubt, and that no earlier record did.
    pub(super) fn report_new_doubts(&self, record: &TransactionRecord) {
        if let Some(in_doubt) = of(record) {
            self.report_doubts(&in_doubt, |index| self.book.has_made_or_knows(index));
        }
    }

    /// Reports the calls that `record`, the last one, leaves in doubt, also if its id cannot be sent again. `is_new`
    /// tells which were not in doubt before.
    pub(super) fn report_doubts(&self, record: &TransactionRecord, is_new: impl Fn(u32) -> bool) {
        let retry = record.is_id_kept.then_some(self.network.retry);
        let doubts = calls_of(record);
        doubts.iter().filter(|doubt| is_new(doubt.index)).for_each(|doubt| self.report_doubt(doubt, retry));
    }

    fn report_doubt(&self, doubt: &Doubt, retry: Option<Retry>) {
        let (service, call) = (self.name.clone(), doubt.named());
        self.emit_once_durable(Event::CallInDoubt { service, call, reason: doubt.reason, retry });
    }

    /// Returns the calls in doubt.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let answers = self.history.answers();
        let records = self.doubts.0.iter().filter(|(key, _)| answers.find(key).is_some()).map(|(_, record)| record);
        let mut doubts: Vec<Doubt> = records.flat_map(|record| calls_of(record)).collect();
        doubts.sort_by_key(|doubt| (doubt.sequence, doubt.index));
        doubts
    }

    /// Settles a call in doubt, as operator `by` decided. The decision is durable once the last commit is.
    ///
    /// # Errors
    /// [`SettleError`].
    pub(super) async fn settle_doubt(
        &mut self,
        by: Name,
        user: Option<&Name>,
        id: &str,
        index: u32,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let is_meant =
            |doubt: &&Doubt| doubt.id == id && doubt.index == index && user.is_none_or(|user| doubt.user == *user);
        if let Some(reason) = self.conditions.stopped() {
            let (service, reason) = (self.name.clone(), reason.to_owned());
            return Err(SettleError::Denied(Denial::Stopped { service, reason }));
        }
        // The record of the decision would wait for room, and come after its operator was told otherwise.
        if self.history.is_stalled()
            && let Err(error @ JournalError::Stalled { .. }) = self.history.reserve(0).await
        {
            return Err(SettleError::Journal(error));
        }
        let doubts = self.doubts();
        let meant: Vec<&Doubt> = doubts.iter().filter(is_meant).collect();
        let not_in_doubt = || SettleError::NotInDoubt { id: id.to_owned(), index };
        // A user who was removed may have had the name and the id before.
        let doubt = *meant.last().ok_or_else(not_in_doubt)?;
        let (sequence, call) = (doubt.sequence, doubt.named());
        if meant.iter().any(|other| other.user != doubt.user) {
            return Err(SettleError::SeveralUsers { id: id.to_owned() });
        }
        if doubt.reason == DoubtReason::TooLarge && settlement == Settlement::NotSent {
            return Err(SettleError::WasMade { id: id.to_owned(), index });
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
        let status = match &settlement {
            Settlement::NotSent => None,
            Settlement::Answered(response) => Some(response.status),
        };
        self.emit_once_durable(Event::CallSettled { service: self.name.clone(), call, by, status });
        Ok(())
    }
}
