//! The destination of an answer, and the memory that the answer takes until its client has it.

use crate::budget::{Account, ESCAPES_BYTES_MAX, Permit, UNCOUNTED_BYTES_MAX};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Answer, Denial, Reply, RequestError};
use std::sync::Arc;
use tokio::sync::oneshot;

/// An answer and the memory reserved for it.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub reply: Reply,
    /// The reservation. `None` if the answer is charged to no budget.
    pub permit: Option<Permit>,
}

impl Answered {
    /// Returns an answer that retains only the memory it needs of `permit`.
    pub fn shrunk(reply: Reply, permit: Permit) -> Self {
        let mut permit = Some(permit);
        shrink(&mut permit, &reply.answer);
        Self { reply, permit }
    }
}

fn shrink(permit: &mut Option<Permit>, answer: &Answer) {
    let content_bytes = answer.content_bytes();
    let bytes = match answer {
        // The answer is sent as JSON, which may need six bytes for a character of one byte.
        Answer::Refused(_) => content_bytes + (5 * content_bytes).min(ESCAPES_BYTES_MAX),
        Answer::Ok(_) | Answer::Failed(_) => content_bytes,
    };
    if bytes <= UNCOUNTED_BYTES_MAX {
        *permit = None;
    } else if let Some(permit) = permit {
        permit.shrink(bytes);
    }
}

/// The destination of a request's answer.
pub(super) struct ReplySender {
    answer: oneshot::Sender<Result<Answered, RequestError>>,
    /// The account that the answer is charged to. `None` if the request is charged to no budget.
    account: Option<Arc<Account>>,
    permit: Option<Permit>,
}

impl ReplySender {
    pub(super) fn new(account: Option<Arc<Account>>) -> (Self, oneshot::Receiver<Result<Answered, RequestError>>) {
        let (answer, answered) = oneshot::channel();
        (Self { answer, account, permit: None }, answered)
    }

    /// Reserves memory for the largest possible answer. Without enough memory, denies the request and returns `None`.
    /// The request must not be executed then.
    pub(super) fn reserve(mut self, service: &Name) -> Option<Self> {
        let Some(account) = &self.account else { return Some(self) };
        self.permit = account.reserve();
        if self.permit.is_none() {
            self.send(Err(Denial::NoMemory { service: service.clone() }.into()));
            return None;
        }
        Some(self)
    }

    /// Releases the memory that this answer does not need.
    pub(super) fn shrink_to(&mut self, answer: &Answer) {
        shrink(&mut self.permit, answer);
    }

    /// Sends the answer. Ignores a client that is gone.
    pub(super) fn send(self, answer: Result<Reply, RequestError>) {
        let Self { answer: sender, permit, .. } = self;
        let _ = sender.send(answer.map(|reply| Answered { reply, permit }));
    }
}
