//! Where the answer to a request goes, and the memory that it takes until its client has it.

use crate::budget::{Account, ESCAPES_BYTES_MAX, Permit, UNCOUNTED_BYTES_MAX};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Answer, Denial, Reply, RequestError};
use std::sync::Arc;
use tokio::sync::oneshot;

/// An answer, with its memory.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub reply: Reply,
    /// None if it takes none of any budget.
    pub permit: Option<Permit>,
}

impl Answered {
    /// An answer that takes of this permit what it needs.
    pub fn shrunk(reply: Reply, permit: Permit) -> Self {
        let mut permit = Some(permit);
        shrink(&mut permit, &reply.answer);
        Self { reply, permit }
    }
}

fn shrink(permit: &mut Option<Permit>, answer: &Answer) {
    let content_bytes = answer.content_bytes();
    let bytes = match answer {
        // It is sent as JSON, where a character may take six bytes in the place of one.
        Answer::Refused(_) => content_bytes + (5 * content_bytes).min(ESCAPES_BYTES_MAX),
        Answer::Ok(_) | Answer::Failed(_) => content_bytes,
    };
    if bytes <= UNCOUNTED_BYTES_MAX {
        *permit = None;
    } else if let Some(permit) = permit {
        permit.shrink(bytes);
    }
}

/// Where a request's answer goes, once it may be told.
pub(super) struct ReplySender {
    answer: oneshot::Sender<Result<Answered, RequestError>>,
    /// None if the request is held to no budget.
    account: Option<Arc<Account>>,
    permit: Option<Permit>,
}

impl ReplySender {
    pub(super) fn new(account: Option<Arc<Account>>) -> (Self, oneshot::Receiver<Result<Answered, RequestError>>) {
        let (answer, answered) = oneshot::channel();
        (Self { answer, account, permit: None }, answered)
    }

    /// Reserves memory for the largest answer there can be. None if there is not so much: the request is denied, and must
    /// not be executed.
    pub(super) fn reserve(mut self, service: &Name) -> Option<Self> {
        let Some(account) = &self.account else { return Some(self) };
        self.permit = account.reserve();
        if self.permit.is_none() {
            self.send(Err(Denial::NoMemory { service: service.clone() }.into()));
            return None;
        }
        Some(self)
    }

    /// Keeps of the memory what this answer takes.
    pub(super) fn shrink_to(&mut self, answer: &Answer) {
        shrink(&mut self.permit, answer);
    }

    /// Tells the answer. A client that is gone has lost interest.
    pub(super) fn send(self, answer: Result<Reply, RequestError>) {
        let Self { answer: sender, permit, .. } = self;
        let _ = sender.send(answer.map(|reply| Answered { reply, permit }));
    }
}
