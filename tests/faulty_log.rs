//! Services above a log that fails.

use crate::rig::{MIB, Rig, ok, size};
use futures::future::{BoxFuture, FutureExt};
use lifeboat_api::transaction::{Denial, RequestError};
use lifeboat_host::journal::{
    Appended, JournalError, Log, MemoryLog, Pinned, Record, RelocatedAnswer, TransactionRecord,
};
use lifeboat_journal::frame::RecordNumber;
use std::sync::{Arc, Mutex};

/// What the log does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Something else has appended records.
    Fenced,
    /// No answer can be read.
    Unreadable,
    /// There is no room.
    Stalled,
}

/// A log in memory that fails on request.
struct FaultyLog {
    inner: MemoryLog,
    fault: Arc<Mutex<Fault>>,
}

impl FaultyLog {
    fn has(&self, fault: Fault) -> bool {
        *self.fault.lock().expect("no test panics in here") == fault
    }
}

impl Log for FaultyLog {
    fn append(&mut self, expected: RecordNumber, record: &Record) -> Result<Appended, JournalError> {
        if self.has(Fault::Fenced) {
            return Err(JournalError::Fenced { expected, last: expected });
        }
        self.inner.append(expected, record)
    }

    fn read(&mut self, number: RecordNumber) -> BoxFuture<'_, Result<Option<Arc<TransactionRecord>>, JournalError>> {
        if self.has(Fault::Unreadable) {
            let error = JournalError::Unreadable { number, reason: "the disk is broken".into() };
            return std::future::ready(Err(error)).boxed();
        }
        self.inner.read(number)
    }

    fn release(&mut self, number: RecordNumber) {
        self.inner.release(number);
    }

    fn try_reserve(&mut self, bytes: u64) -> bool {
        !self.has(Fault::Stalled) && self.inner.try_reserve(bytes)
    }

    fn reserve(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        if self.has(Fault::Stalled) {
            return std::future::ready(Err(JournalError::Stalled { reason: "the disk is full".into() })).boxed();
        }
        self.inner.reserve(bytes)
    }

    fn reserve_outcome(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        self.inner.reserve_outcome(bytes)
    }

    fn is_stalled(&self) -> bool {
        self.has(Fault::Stalled)
    }

    fn written_bytes(&mut self) -> Option<u64> {
        self.inner.written_bytes()
    }

    fn pinned(&self) -> Option<Pinned> {
        self.inner.pinned()
    }

    fn due(&mut self, span_bytes: u64) -> BoxFuture<'_, Vec<(RecordNumber, RelocatedAnswer)>> {
        self.inner.due(span_bytes)
    }
}

/// Starts a service that counts its transactions, above a log that fails as the returned value says.
async fn start(rig: &Rig) -> Arc<Mutex<Fault>> {
    let fault = Arc::new(Mutex::new(Fault::None));
    let log = FaultyLog { inner: MemoryLog::default(), fault: Arc::clone(&fault) };
    rig.start_with_log("ant", "count.wat", &[size("s", 1_000_000, MIB)], Box::new(log)).await;
    fault
}

fn set(fault: &Mutex<Fault>, to: Fault) {
    *fault.lock().expect("no test panics in here") = to;
}

#[tokio::test]
async fn a_service_stops_when_something_else_has_appended_to_its_log() {
    let rig = Rig::new();
    let fault = start(&rig).await;
    assert_eq!(ok(&rig.send_as("ant", "a", "x").await), "1");
    set(&fault, Fault::Fenced);
    let denied = rig.send_as("ant", "b", "x").await.expect_err("it cannot be journalled");
    assert!(matches!(denied, RequestError::Denied(Denial::Stopped { .. })), "{denied}");
    set(&fault, Fault::None);
    let denied = rig.send_as("ant", "c", "x").await.expect_err("the guest is ahead of the log");
    assert!(matches!(denied, RequestError::Denied(Denial::Stopped { .. })), "{denied}");
    let stopped = rig.status("ant").await.stopped.expect("the reason");
    assert!(stopped.contains("something else has appended to it"), "{stopped}");
}

#[tokio::test]
async fn an_id_whose_answer_cannot_be_read_is_denied_and_not_executed_again() {
    let rig = Rig::new();
    let fault = start(&rig).await;
    assert_eq!(ok(&rig.send_as("ant", "a", "x").await), "1");
    set(&fault, Fault::Unreadable);
    let denied = rig.send_as("ant", "a", "x").await.expect_err("its answer cannot be read");
    assert!(denied.to_string().contains("the disk is broken"), "{denied}");
    set(&fault, Fault::None);
    assert_eq!(ok(&rig.send_as("ant", "a", "x").await), "1");
    assert_eq!(ok(&rig.send_as("ant", "b", "x").await), "2");
}

#[tokio::test]
async fn a_transaction_without_room_in_the_log_is_denied_before_it_runs() {
    let rig = Rig::new();
    let fault = start(&rig).await;
    set(&fault, Fault::Stalled);
    let denied = rig.send_as("ant", "a", "x").await.expect_err("there is no room");
    assert!(matches!(denied, RequestError::Denied(Denial::Stalled { .. })), "{denied}");
    set(&fault, Fault::None);
    assert_eq!(ok(&rig.send_as("ant", "a", "x").await), "1");
}
