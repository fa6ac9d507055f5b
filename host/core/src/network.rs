//! The network of a service: who makes its calls, and what is done about those in doubt.

use futures::future::BoxFuture;
use lifeboat_api::call::{CallError, CallRequest};
pub use lifeboat_net::{Called, Limits};
use lifeboat_net::{Client, Grant};
use std::sync::Arc;

/// The share of what is left of a transaction's deadline that a call may take, in percent. The guest can then still say
/// that there was no response.
pub const CALL_DEADLINE_PERCENT: u32 = 80;

/// The most calls that a service makes at once. More wait until one of them ends.
pub const CALLS_PER_SERVICE_MAX: usize = 16;

/// The most bytes of the calls of a failed transaction that are kept for the next attempt of its id. Calls whose
/// outcomes do not fit are in doubt for that attempt.
pub const CALLS_KEPT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Makes the calls of a service. It decides what the service may call.
pub trait CallMaker: std::fmt::Debug + Send + Sync {
    /// Checks whether the service may make a call.
    ///
    /// # Errors
    /// The error that the guest gets.
    fn check(&self, request: &CallRequest) -> Result<(), CallError>;

    /// Makes a call. `key` is its idempotency key, unless the request has one. Once the future is dropped, the connection
    /// is closed.
    fn call(&self, request: CallRequest, key: String, limits: Limits) -> BoxFuture<'static, Called>;
}

/// Makes calls over TCP, to the addresses of a grant.
#[derive(Debug, Clone)]
pub struct GrantedCalls {
    client: Client,
    grant: Arc<Grant>,
}

impl GrantedCalls {
    /// Creates the maker of the calls that `grant` permits.
    #[must_use]
    pub fn new(client: Client, grant: Grant) -> Self {
        Self { client, grant: Arc::new(grant) }
    }
}

impl CallMaker for GrantedCalls {
    fn check(&self, request: &CallRequest) -> Result<(), CallError> {
        self.grant.check(request).map(drop)
    }

    fn call(&self, request: CallRequest, key: String, limits: Limits) -> BoxFuture<'static, Called> {
        let (client, grant) = (self.client.clone(), Arc::clone(&self.grant));
        Box::pin(async move { client.call(&grant, &request, &key, limits).await })
    }
}

/// What a service does about a call in doubt, when its transaction is attempted again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// It does not make the call. The guest learns that it is in doubt.
    #[default]
    Never,
    /// It makes the call again, under the same idempotency key.
    Idempotent,
}

/// The network that a service may use.
#[derive(Debug, Clone)]
pub struct ServiceNetwork {
    /// Makes its calls.
    pub maker: Arc<dyn CallMaker>,
    /// What it does about calls in doubt.
    pub retry: Retry,
}
