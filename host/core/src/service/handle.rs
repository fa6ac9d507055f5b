//! The way into a service: its bounded queue.

use super::queue::{Entrance, Queued, Refused};
use super::reply::{Answered, ReplySender};
use super::{Caller, Status};
use crate::budget::Account;
use crate::journal::JournalError;
use lifeboat_api::id::VmId;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Denial, OutcomeUnknown, Reply, Request, RequestError};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Messages in a service's queue that only look: so those who look do not keep out those who transact.
pub(super) const LOOKS_MAX: usize = 16;

/// How a service is after an order, and the VM in which the order found it.
pub(crate) type Ordered = (Status, VmId);

/// An order that was taken in hand, by whoever waits for its end.
pub(super) struct Order {
    pub(super) from: VmId,
    pub(super) done: oneshot::Sender<Result<Ordered, RequestError>>,
}

impl Order {
    /// It is over; `durable` says whether its records are on the disk. One who is gone has lost interest.
    pub(super) fn tell(self, status: Status, durable: Result<(), JournalError>) {
        let told = match durable {
            // After a crash, nothing that was told must have happened in another way.
            Err(error) if status.vm != self.from => {
                let service = status.vm.service;
                Err(OutcomeUnknown { service, id: None, reason: error.to_string() }.into())
            }
            _ => Ok((status, self.from)),
        };
        let _ = self.done.send(told);
    }
}

/// Failovers and snapshots that may stand in a service's queue; further orders wait outside.
pub(super) const ORDERS_MAX: usize = 16;

/// What stands in a service's queue beside requests.
pub(super) enum Message {
    /// Asks for the kept answer to a transaction.
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
    Stop {
        /// Told why no snapshot of the last state could be taken, if so.
        done: oneshot::Sender<Option<String>>,
    },
    /// Ends the task as well, and leaves the state to be forgotten.
    Discard {
        done: oneshot::Sender<Status>,
    },
}

/// The way into a service. Cheap to clone; the service ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct ServiceHandle {
    pub(super) name: Name,
    pub(super) queue: Arc<Entrance>,
    /// Requests of one user that may wait.
    pub(super) queue_max: usize,
    /// Places in the queue for those who look: a place is held until the message is handled, whoever asked may be gone.
    pub(super) looks: Arc<Semaphore>,
    /// The same for orders.
    pub(super) orders: Arc<Semaphore>,
}

/// A request that stands in a service's queue, until its answer may be told. Dropping it does not take the request back.
#[derive(Debug)]
pub struct Pending {
    service: Name,
    answered: oneshot::Receiver<Result<Answered, RequestError>>,
}

impl Pending {
    /// Whose queue it stands in.
    #[must_use]
    pub fn service(&self) -> &Name {
        &self.service
    }
}

impl Pending {
    /// The answer, with the memory that it takes of the budgets which the request was held to.
    pub fn poll_answered(&mut self, context: &mut Context<'_>) -> Poll<Result<Answered, RequestError>> {
        let answered = Pin::new(&mut self.answered).poll(context);
        answered.map(|answered| answered.unwrap_or_else(|_| Err(gone(&self.service).into())))
    }
}

impl Future for Pending {
    type Output = Result<Reply, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_answered(context).map(|answered| answered.map(|answered| answered.reply))
    }
}

/// What is answered for a service whose task has ended.
fn gone(service: &Name) -> Denial {
    Denial::Stopped { service: service.clone(), reason: "its task has ended".into() }
}

impl ServiceHandle {
    /// Has a request of `caller` executed, once its largest possible answer fits `account`. What is returned waits until its
    /// answer may be told.
    ///
    /// # Errors
    /// It does not stand in the queue.
    pub(crate) fn request(
        &self,
        caller: Caller,
        request: Request,
        account: Option<Arc<Account>>,
    ) -> Result<Pending, Denial> {
        let (reply, answered) = ReplySender::new(account);
        let Caller { user, incarnation } = caller;
        self.queue.0.push(&user, Queued { incarnation, request, reply }).map_err(|refused| match refused {
            Refused::Full => Denial::QueueFull { service: self.name.clone(), limit: self.queue_max },
            Refused::Over => self.gone(),
        })?;
        Ok(Pending { service: self.name.clone(), answered })
    }

    /// The kept answer to `caller`'s transaction `id`, once all that was sent before is done and durable. None if there is
    /// none: it was never sent, denied, or is beyond the deduplication window.
    pub(crate) async fn find(&self, caller: Caller, id: String) -> Result<Option<Reply>, RequestError> {
        let (found, answered) = oneshot::channel();
        let place = self.look().await;
        let Caller { user, incarnation } = caller;
        self.order(Message::Find { user, incarnation, id, found, _place: place })?;
        answered.await.map_err(|_| self.gone())?
    }

    /// Whether `user` has room to spare in the queue, so that a request which is sent now is not denied for want of it.
    pub(crate) fn has_room(&self, user: &Name) -> bool {
        self.queue.0.has_room(user)
    }

    /// Drops the requests of `user` that wait in the queue, or those with an id. Returns how many: they are denied, and were
    /// not executed.
    pub(crate) fn drop_queued(&self, user: &Name, id: Option<&str>) -> usize {
        let removed = self.queue.0.remove(user, id);
        let count = removed.len();
        for queued in removed {
            queued.reply.send(Err(Denial::Dropped { service: self.name.clone() }.into()));
        }
        // An order that waited for them may be next.
        self.queue.0.wake();
        count
    }

    /// How many requests and orders wait in the queue.
    pub(crate) fn queue_length(&self) -> usize {
        self.queue.0.len()
    }

    /// Waits until all that was sent before is done, failovers and snapshots that followed from it included.
    pub(crate) async fn status(&self) -> Result<Status, Denial> {
        let place = self.look().await;
        self.ask(|done| Message::Status { done, _place: place }).await
    }

    /// Fails over now, as operator `by` wishes.
    pub(crate) async fn fail_over(&self, by: Name) -> Result<Ordered, RequestError> {
        let place = self.order_place().await;
        self.ask(|done| Message::FailOver { by, done, _place: place }).await?
    }

    /// Takes a snapshot now.
    pub(crate) async fn snapshot(&self) -> Result<Status, RequestError> {
        let place = self.order_place().await;
        self.ask(|done| Message::Snapshot { done, _place: place }).await?.map(|(status, _)| status)
    }

    /// Ends the service's task, after all that was sent before. Says why no snapshot of its last state could be taken, if
    /// so.
    pub(crate) async fn stop(&self) -> Result<Option<String>, Denial> {
        self.ask(|done| Message::Stop { done }).await
    }

    /// Ends the service's task, after all that was sent before, for a service that is to be removed.
    pub(crate) async fn discard(&self) -> Result<Status, Denial> {
        self.ask(|done| Message::Discard { done }).await
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Denial> {
        let (done, answered) = oneshot::channel();
        self.order(message(done))?;
        answered.await.map_err(|_| self.gone())
    }

    fn order(&self, message: Message) -> Result<(), Denial> {
        if self.queue.0.order(message) { Ok(()) } else { Err(self.gone()) }
    }

    async fn look(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.looks).acquire_owned().await.expect("the semaphore is never closed")
    }

    async fn order_place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.orders).acquire_owned().await.expect("the semaphore is never closed")
    }

    fn gone(&self) -> Denial {
        gone(&self.name)
    }
}
