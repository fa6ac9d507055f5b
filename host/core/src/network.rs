//! The network of a service: its settings, who makes its calls, and what is done about those in doubt.

use futures::future::BoxFuture;
pub use lifeboat_api::call::Retry;
use lifeboat_api::call::{CallError, CallRequest};
pub use lifeboat_net::{AllowList, Allowed, Client, Roots, Secrets, Target};
pub use lifeboat_net::{Called, Limits};
use lifeboat_net::{Grant, Resolver, SystemResolver};
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

/// The settings of a service's network. The catalog stores them. The default allows no call.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct NetworkSettings {
    /// The addresses that the service may call.
    pub allow: AllowList,
    /// What the service does about calls in doubt.
    pub retry: Retry,
}

/// What the calls of a service need and no file of a data directory contains.
#[derive(Debug, Clone, Default)]
pub struct ServiceCredentials {
    /// The secrets that the service may send.
    pub secrets: Secrets,
    /// The certificate authorities that its calls trust instead of the client's.
    pub roots: Option<Roots>,
}

/// Returns a client that asks the operating system for addresses and certificate authorities.
#[must_use]
pub fn system_client() -> Client {
    let resolver: Arc<dyn Resolver> = Arc::new(SystemResolver::default());
    Client::new(resolver, Roots::system())
}

/// The network of a service. The default makes no call.
#[derive(Debug, Clone, Default)]
pub struct ServiceNetwork {
    /// Makes its calls. None if the service may call nobody.
    pub maker: Option<Arc<dyn CallMaker>>,
    /// What it does about calls in doubt.
    pub retry: Retry,
}

impl ServiceNetwork {
    /// Returns the network of a service with these settings.
    #[must_use]
    pub fn new(client: &Client, settings: &NetworkSettings, credentials: ServiceCredentials) -> Self {
        let NetworkSettings { allow, retry } = settings.clone();
        if allow.is_empty() {
            return Self { maker: None, retry };
        }
        let ServiceCredentials { secrets, roots } = credentials;
        let maker = GrantedCalls::new(client.clone(), Grant { allow, secrets, roots });
        Self { maker: Some(Arc::new(maker)), retry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_an_allow_list_makes_no_calls() {
        let (client, target) = (system_client(), "https://api.example.org".parse::<Target>().expect("a target"));
        let retry = Retry::Idempotent;
        let none = NetworkSettings { retry, ..NetworkSettings::default() };
        let network = ServiceNetwork::new(&client, &none, ServiceCredentials::default());
        assert!(network.maker.is_none() && network.retry == retry, "{network:?}");
        let allow = AllowList::new(vec![target.into()]).expect("one");
        let network = ServiceNetwork::new(&client, &NetworkSettings { allow, retry }, ServiceCredentials::default());
        assert!(network.maker.is_some() && network.retry == retry, "{network:?}");
    }
}
