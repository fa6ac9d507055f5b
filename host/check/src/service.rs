//! A service that a test drives by hand: its clock, its failovers, its restarts.

use crate::Guest;
use crate::input::{Transaction, default_user};
use crate::lab::{How, START};
use crate::network::Script;
use bytes::Bytes;
use lifeboat_api::call::CallRecord;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Answer;
use lifeboat_vm::instance::{Call, Instance, MoveError};
use lifeboat_vm::snapshot::Snapshot;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A service of a guest, in an instance as the host has it.
///
/// Time stands still until [`advance`](Self::advance). After a transaction that fails, the guest is brought back as the
/// host does: from the last snapshot, by a replay.
pub struct Service<'a> {
    guest: &'a Guest,
    instance: Instance,
    /// The last snapshot, and the transactions after it that were kept.
    base: Option<Arc<Snapshot>>,
    tail: Vec<Kept>,
    sequence: u64,
    now: Timestamp,
    /// The number of starts of the host.
    starts: u8,
    script: Script,
}

/// A transaction that was kept.
struct Kept {
    transaction: Transaction,
    sequence: Sequence,
    timestamp: Timestamp,
    epoch: Epoch,
    calls: Arc<[CallRecord]>,
}

impl Kept {
    fn call(&self) -> Call<'_> {
        Call {
            id: &self.transaction.id,
            user: &self.transaction.user,
            sequence: self.sequence,
            timestamp: self.timestamp,
            epoch: self.epoch,
            body: &self.transaction.body,
        }
    }
}

impl fmt::Debug for Service<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("sequence", &self.sequence).field("now", &self.now).finish_non_exhaustive()
    }
}

impl<'a> Service<'a> {
    pub(crate) fn start(guest: &'a Guest) -> Result<Self, MoveError> {
        let instance = guest.runtime.block_on(guest.lab.start())?;
        let script = Script::default();
        Ok(Self { guest, instance, base: None, tail: Vec::new(), sequence: 0, now: START, starts: 1, script })
    }

    /// Executes a transaction of the default user, under an id of its own.
    ///
    /// # Errors
    /// The guest cannot be brought back after a failure.
    pub fn execute(&mut self, body: impl AsRef<[u8]>) -> Result<Answer, MoveError> {
        let id = format!("transaction-{}", self.sequence + 1);
        self.execute_as(default_user(), &id, body)
    }

    /// Executes a transaction. Ids are not compared: the host recognises repetitions before the guest.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn execute_as(&mut self, user: Name, id: &str, body: impl AsRef<[u8]>) -> Result<Answer, MoveError> {
        self.run(user, id, body.as_ref(), None)
    }

    /// Executes a transaction whose fuel ends after `fuel`. If it needs more, it fails, and nothing of it is kept.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn execute_with_fuel(&mut self, body: impl AsRef<[u8]>, fuel: u64) -> Result<Answer, MoveError> {
        let id = format!("transaction-{}", self.sequence + 1);
        self.run(default_user(), &id, body.as_ref(), Some(fuel))
    }

    fn run(&mut self, user: Name, id: &str, body: &[u8], fuel: Option<u64>) -> Result<Answer, MoveError> {
        self.sequence += 1;
        let transaction = Transaction { line: 0, id: id.to_owned(), user, body: Bytes::copy_from_slice(body) };
        let (sequence, timestamp, epoch) = (Sequence(self.sequence), self.now, self.epoch());
        let mut kept = Kept { transaction, sequence, timestamp, epoch, calls: Arc::default() };
        let how = How { fuel, script: self.script, ..How::default() };
        let guest = self.guest;
        let attempt = guest.runtime.block_on(guest.lab.run(&mut self.instance, kept.call(), how));
        self.instance.take_log();
        if attempt.answer.is_kept() {
            kept.calls = attempt.calls.into();
            self.tail.push(kept);
        } else {
            self.bring_back()?;
        }
        Ok(attempt.answer)
    }

    /// Asks a query of the default user.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn query(&mut self, body: impl AsRef<[u8]>) -> Result<Answer, MoveError> {
        let user = default_user();
        let (sequence, timestamp, epoch) = (Sequence(self.sequence), self.now, self.epoch());
        let call = Call { id: "query", user: &user, sequence, timestamp, epoch, body: body.as_ref() };
        let guest = self.guest;
        let attempt = guest.runtime.block_on(self.instance.query(call, guest.lab.allowance()));
        self.instance.take_log();
        if !attempt.answer.is_kept() {
            self.bring_back()?;
        }
        Ok(attempt.answer)
    }

    /// Moves the clock.
    pub fn advance(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
    }

    /// Lets servers answer in another way from now on.
    pub fn set_script(&mut self, script: Script) {
        self.script = script;
    }

    /// Moves the guest into a fresh instance, as a failover does: by a snapshot and a restore.
    ///
    /// # Errors
    /// `snapshot` or `restore` fails. The guest is as before then, unless it cannot be brought back.
    pub fn fail_over(&mut self) -> Result<(), MoveError> {
        let snapshot = self.snapshot()?;
        let guest = self.guest;
        match guest.runtime.block_on(guest.lab.restored(&snapshot)) {
            Ok(restored) => {
                self.instance = restored;
                self.base = Some(snapshot);
                self.tail.clear();
                Ok(())
            }
            Err(error) => {
                // What the export changed in its instance must not stay.
                self.bring_back()?;
                Err(error)
            }
        }
    }

    /// Stops the host and starts it again: the guest is restored from its last snapshot, and the transactions after it
    /// are replayed. Later transactions draw other random numbers.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn restart(&mut self) -> Result<(), MoveError> {
        self.starts = self.starts.wrapping_add(1);
        self.bring_back()
    }

    /// Returns the state that the guest exports, in one piece.
    ///
    /// # Errors
    /// `snapshot` fails.
    pub fn state(&mut self) -> Result<Vec<u8>, MoveError> {
        let snapshot = self.snapshot()?;
        // What an export changes in its instance must not stay.
        self.bring_back()?;
        Ok(snapshot.chunks().flatten().copied().collect())
    }

    /// Returns the size of the guest's memories, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.instance.memory_bytes()
    }

    pub(crate) fn snapshot(&mut self) -> Result<Arc<Snapshot>, MoveError> {
        let guest = self.guest;
        let (sequence, timestamp) = (Sequence(self.sequence), self.now);
        let allowance = guest.lab.maintenance();
        let exported = guest.runtime.block_on(self.instance.snapshot(sequence, timestamp, allowance));
        match exported {
            Ok((snapshot, _)) => Ok(Arc::new(snapshot)),
            Err(error) => {
                self.bring_back()?;
                Err(error)
            }
        }
    }

    fn epoch(&self) -> Epoch {
        Epoch([self.starts; 16])
    }

    fn bring_back(&mut self) -> Result<(), MoveError> {
        let guest = self.guest;
        let tail = self.tail.iter().map(|kept| (kept.call(), &kept.calls));
        self.instance = guest.runtime.block_on(guest.lab.brought_back(self.base.as_ref(), tail))?;
        Ok(())
    }
}
