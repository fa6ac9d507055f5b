//! The handle of a service, and its bounded queue.

use super::queue::{Entrance, Queued, Refused};
use super::reply::{Answered, ReplySender};
use super::trial::Asked;
use super::waits::WaitBoard;
use super::{Caller, Doubt, ReplaceError, Replaced, SettleError, Settlement, Status};
use crate::budget::Account;
use crate::journal::{Commit, JournalError};
use lifeboat_api::id::{Sequence, VmId};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Denial, Kind, OutcomeUnknown, Reply, Request, RequestError};
use lifeboat_disk::Disk;
use lifeboat_vm::engine::Program;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The most messages in a service's queue that only read. The bound keeps readers from crowding out transactions.
pub(super) const LOOKS_MAX: usize = 16;

/// A service after an order.
#[derive(Debug)]
pub struct Ordered {
    /// Its status.
    pub status: Status,
    /// The VM in which the order found it.
    pub from: VmId,
    /// Whether the last proven snapshot has every transaction that was executed before the order. True for an order
    /// that is not for a snapshot.
    pub is_snapshotted: bool,
}

/// An order in progress, and the channel to its caller.
pub(super) struct Order {
    pub(super) from: VmId,
    /// The last transaction before the order, if the order is for a snapshot.
    pub(super) snapshot_of: Option<Sequence>,
    pub(super) done: oneshot::Sender<Result<Ordered, RequestError>>,
}

impl Order {
    /// Returns whether the order is for a snapshot of more than the last proven one, which is that of `proven`.
    pub(super) fn awaits_snapshot_after(&self, proven: Sequence) -> bool {
        self.snapshot_of.is_some_and(|sequence| sequence > proven)
    }

    /// Reports the end of the order, after which the last proven snapshot is that of `proven`. `durable` is whether its
    /// records are on the disk. Ignores a caller that is gone.
    pub(super) fn answer(self, status: Status, proven: Sequence, durable: Result<(), JournalError>) {
        let outcome = match durable {
            // After a crash, the history must not contradict anything that was reported.
            Err(error) if status.vm != self.from => {
                let service = status.vm.service;
                Err(OutcomeUnknown { service, id: None, reason: error.to_string() }.into())
            }
            _ => {
                let is_snapshotted = !self.awaits_snapshot_after(proven);
                Ok(Ordered { status, from: self.from, is_snapshotted })
            }
        };
        let _ = self.done.send(outcome);
    }
}

/// The most failovers and snapshots in a service's queue. Further orders wait outside.
pub(super) const ORDERS_MAX: usize = 16;

/// A message in a service's queue, other than a request.
pub(super) enum Message {
    /// Finds the retained answer to a transaction.
    Find {
        user: Name,
        incarnation: u64,
        id: String,
        found: oneshot::Sender<Result<Option<Reply>, RequestError>>,
        _place: OwnedSemaphorePermit,
    },
    FailOver {
        by: Name,
        done: oneshot::Sender<Result<Ordered, RequestError>>,
        _place: OwnedSemaphorePermit,
    },
    Snapshot {
        done: oneshot::Sender<Result<Ordered, RequestError>>,
        _place: OwnedSemaphorePermit,
    },
    Status {
        done: oneshot::Sender<Status>,
        _place: OwnedSemaphorePermit,
    },
    /// Copies the virtual disk.
    Disk {
        done: oneshot::Sender<Result<(Disk, Sequence, Commit), Denial>>,
        _place: OwnedSemaphorePermit,
    },
    /// Lists the calls in doubt.
    Doubts {
        done: oneshot::Sender<Vec<Doubt>>,
        _place: OwnedSemaphorePermit,
    },
    /// Settles a call in doubt.
    Settle {
        by: Name,
        user: Option<Name>,
        id: String,
        index: u32,
        settlement: Settlement,
        done: oneshot::Sender<Result<(), SettleError>>,
        _place: OwnedSemaphorePermit,
    },
    /// Tries the state.
    Try {
        done: Asked,
        _place: OwnedSemaphorePermit,
    },
    /// Continues with another workload.
    Replace {
        program: Arc<Program>,
        done: oneshot::Sender<Result<Replaced, ReplaceError>>,
        _place: OwnedSemaphorePermit,
    },
    Stop {
        /// Gets the reason if no snapshot of the last state could be taken.
        done: oneshot::Sender<Option<String>>,
    },
    /// Ends the task like `Stop`, but without a snapshot, because the state will be forgotten.
    Discard {
        done: oneshot::Sender<Status>,
    },
}

/// A handle of a service. It is cheap to clone. The service ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct ServiceHandle {
    pub(super) name: Name,
    pub(super) queue: Arc<Entrance>,
    /// The most waiting requests of one user.
    pub(super) queue_max: usize,
    /// What the service waits for.
    pub(super) waits: Arc<WaitBoard>,
    /// The places in the queue for messages that only read. A place is held until the message is handled, even if the
    /// caller is gone.
    pub(super) looks: Arc<Semaphore>,
    /// The places in the queue for orders, held likewise.
    pub(super) orders: Arc<Semaphore>,
}

/// A request in a service's queue, until its answer may be sent. Dropping it does not withdraw the request.
#[derive(Debug)]
pub struct Pending {
    service: Name,
    /// The client's id, and whether it is a transaction, for the case that the task ends without an answer.
    id: Option<String>,
    kind: Kind,
    answered: oneshot::Receiver<Result<Answered, RequestError>>,
}

impl Pending {
    /// Returns the name of the service in whose queue the request waits.
    #[must_use]
    pub fn service(&self) -> &Name {
        &self.service
    }

    /// Returns the answer, with the memory that it takes of the budgets that the request was charged to.
    pub fn poll_answered(&mut self, context: &mut Context<'_>) -> Poll<Result<Answered, RequestError>> {
        let answered = Pin::new(&mut self.answered).poll(context);
        answered.map(|answered| answered.unwrap_or_else(|_| Err(self.unanswered())))
    }

    /// Returns the error for a request that the task took and never answered: a transaction may be in the journal.
    fn unanswered(&self) -> RequestError {
        match self.kind {
            Kind::Query => gone(&self.service).into(),
            Kind::Transaction => OutcomeUnknown {
                service: self.service.clone(),
                id: self.id.clone(),
                reason: "its task has ended".into(),
            }
            .into(),
        }
    }
}

impl Future for Pending {
    type Output = Result<Reply, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_answered(context).map(|answered| answered.map(|answered| answered.reply))
    }
}

/// Returns the denial for a service whose task has ended.
pub(super) fn gone(service: &Name) -> Denial {
    Denial::Stopped { service: service.clone(), reason: "its task has ended".into() }
}

impl ServiceHandle {
    /// Queues a request of `caller`. On its turn it is executed only if its largest possible answer fits `account`. The
    /// returned future waits until the answer may be sent.
    ///
    /// # Errors
    /// Returns a denial if the user's share of the queue, in requests or bytes, is full, or the task has ended. The
    /// request is not queued then.
    pub(crate) fn request(
        &self,
        caller: Caller,
        request: Request,
        account: Option<Arc<Account>>,
    ) -> Result<Pending, Denial> {
        let (reply, answered) = ReplySender::new(account);
        let Caller { user, incarnation } = caller;
        let (id, kind) = (request.id.clone(), request.kind);
        self.queue.0.push(&user, Queued { incarnation, request, reply }).map_err(|refused| match refused {
            Refused::Full => Denial::QueueFull { service: self.name.clone(), limit: self.queue_max },
            Refused::Over => self.gone(),
        })?;
        Ok(Pending { service: self.name.clone(), id, kind, answered })
    }

    /// Finds the retained answer to `caller`'s transaction `id`, once everything that was sent before is done and
    /// durable. Returns `None` if there is no answer: the transaction was never sent, was denied, or is beyond the
    /// deduplication window.
    pub(crate) async fn find(&self, caller: Caller, id: String) -> Result<Option<Reply>, RequestError> {
        let (found, answered) = oneshot::channel();
        let place = self.look().await;
        let Caller { user, incarnation } = caller;
        self.order(Message::Find { user, incarnation, id, found, _place: place })?;
        answered.await.map_err(|_| self.gone())?
    }

    /// Returns whether `user` has room to spare in the queue, so that a request sent now is not denied for lack of
    /// room.
    pub(crate) fn has_room(&self, user: &Name) -> bool {
        self.queue.0.has_room(user)
    }

    /// Drops the waiting requests of `user`, or only those with the given id. Returns how many were dropped. They are
    /// denied, and were not executed.
    pub(crate) fn drop_queued(&self, user: &Name, id: Option<&str>) -> usize {
        let removed = self.queue.0.remove(user, id);
        let count = removed.len();
        for queued in removed {
            queued.reply.send(Err(Denial::Dropped { service: self.name.clone() }.into()));
        }
        // An order that waited for the dropped requests may be next.
        self.queue.0.wake();
        count
    }

    /// Returns how many requests and orders wait in the queue.
    pub(crate) fn queue_length(&self) -> usize {
        self.queue.0.len()
    }

    /// Returns the status once everything that was sent before is done, including the failovers and snapshots that it
    /// caused, unless a shadow is still at them. The status of a service that waits for the network is the one before its
    /// current transaction, with what it waits for.
    pub(crate) async fn status(&self) -> Result<Status, Denial> {
        if let Some(status) = self.waits.status() {
            return Ok(status);
        }
        let place = self.look().await;
        self.ask(|done| Message::Status { done, _place: place }).await
    }

    /// Returns a copy of the virtual disk once everything that was sent before is done and durable, and the last
    /// transaction that it shows.
    pub(crate) async fn disk(&self) -> Result<(Disk, Sequence), Denial> {
        let place = self.look().await;
        let (disk, sequence, commit) = self.ask(|done| Message::Disk { done, _place: place }).await??;
        match commit.durable_or_held().await {
            Ok(()) => Ok((disk, sequence)),
            Err(error) => {
                let reason = format!("what its disk shows is not durable yet: {error}");
                Err(Denial::Stalled { service: self.name.clone(), reason })
            }
        }
    }

    /// Returns the calls in doubt, once everything that was sent before is done.
    pub(crate) async fn doubts(&self) -> Result<Vec<Doubt>, Denial> {
        let place = self.look().await;
        self.ask(|done| Message::Doubts { done, _place: place }).await
    }

    /// Settles a call in doubt as operator `by` decided, once everything that was sent before is done. Returns once the
    /// decision is durable.
    pub(crate) async fn settle(
        &self,
        by: Name,
        user: Option<Name>,
        id: String,
        index: u32,
        settlement: Settlement,
    ) -> Result<Result<(), SettleError>, Denial> {
        let place = self.order_place().await;
        self.ask(|done| Message::Settle { by, user, id, index, settlement, done, _place: place }).await
    }

    /// Fails over now, on the order of operator `by`.
    pub(crate) async fn fail_over(&self, by: Name) -> Result<Ordered, RequestError> {
        let place = self.order_place().await;
        self.ask_order(|done| Message::FailOver { by, done, _place: place }).await
    }

    /// Takes a snapshot now.
    pub(crate) async fn snapshot(&self) -> Result<Ordered, RequestError> {
        let place = self.order_place().await;
        self.ask_order(|done| Message::Snapshot { done, _place: place }).await
    }

    /// Ends the service's task, after everything that was sent before. Returns the reason if no snapshot of the last
    /// state could be taken.
    pub(crate) async fn stop(&self) -> Result<Option<String>, Denial> {
        self.ask(|done| Message::Stop { done }).await
    }

    /// Ends the service's task, after everything that was sent before, for a service that will be removed.
    pub(crate) async fn discard(&self) -> Result<Status, Denial> {
        self.ask(|done| Message::Discard { done }).await
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Denial> {
        let (done, answered) = oneshot::channel();
        self.order(message(done))?;
        answered.await.map_err(|_| self.gone())
    }

    /// Gives an order that may have an effect although the task ends without an answer.
    async fn ask_order(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<Ordered, RequestError>>) -> Message,
    ) -> Result<Ordered, RequestError> {
        let (done, answered) = oneshot::channel();
        self.order(message(done))?;
        answered.await.unwrap_or_else(|_| {
            let reason = "its task has ended".into();
            Err(OutcomeUnknown { service: self.name.clone(), id: None, reason }.into())
        })
    }

    pub(super) fn order(&self, message: Message) -> Result<(), Denial> {
        if self.queue.0.order(message) { Ok(()) } else { Err(self.gone()) }
    }

    async fn look(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.looks).acquire_owned().await.expect("the semaphore is never closed")
    }

    pub(super) async fn order_place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.orders).acquire_owned().await.expect("the semaphore is never closed")
    }

    fn gone(&self) -> Denial {
        gone(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Turn, queue};
    use super::*;
    use futures::FutureExt;

    fn handle() -> (ServiceHandle, super::super::queue::Exit) {
        let name = Name::new("bank").expect("a name");
        let (entrance, exit) = queue(name.clone(), 8, 1024);
        let places = || Arc::new(Semaphore::new(1));
        let handle = ServiceHandle {
            name,
            queue: Arc::new(entrance),
            queue_max: 8,
            waits: Arc::default(),
            looks: places(),
            orders: places(),
        };
        (handle, exit)
    }

    fn send(handle: &ServiceHandle, kind: Kind) -> Pending {
        let caller = Caller { user: Name::new("ada").expect("a name"), incarnation: 0 };
        let request = Request { id: Some("1".into()), body: bytes::Bytes::new(), kind };
        handle.request(caller, request, None).expect("room")
    }

    fn ended(pending: Pending) -> RequestError {
        pending.now_or_never().expect("the task has ended").expect_err("it has no answer")
    }

    #[tokio::test]
    async fn the_end_of_the_task_denies_an_order_that_it_had_not_begun() {
        let (handle, exit) = handle();
        let mut stopping = Box::pin(handle.stop());
        let mut snapshot = Box::pin(handle.snapshot());
        assert!(stopping.as_mut().now_or_never().is_none() && snapshot.as_mut().now_or_never().is_none());
        let mut turn = Turn::default();
        exit.take(&mut turn).await.expect("two wait");
        assert!(matches!(turn.order, Some(Message::Stop { .. })));
        drop((turn, exit));
        let denied = snapshot.now_or_never().expect("the task has ended").expect_err("it has no answer");
        assert!(matches!(denied, RequestError::Denied(Denial::Stopped { .. })), "{denied}");
    }

    #[tokio::test]
    async fn a_transaction_that_the_ended_task_had_taken_has_an_unknown_outcome() {
        for kind in [Kind::Transaction, Kind::Query] {
            let (handle, exit) = handle();
            let (taken, waits) = (send(&handle, kind), send(&handle, kind));
            let mut turn = Turn::default();
            exit.take(&mut turn).await.expect("two wait");
            drop(exit.next_of_turn().expect("the first"));
            drop(exit);
            assert!(matches!(ended(waits), RequestError::Denied(Denial::Stopped { .. })));
            match (kind, ended(taken)) {
                (Kind::Transaction, RequestError::OutcomeUnknown(unknown)) => {
                    assert_eq!(unknown.id.as_deref(), Some("1"))
                }
                (Kind::Query, RequestError::Denied(Denial::Stopped { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
