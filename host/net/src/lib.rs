//! The network of a service: calls over HTTP to the addresses that its operator allows, and to no others. A program that
//! is run once takes the form of its addresses from here ([`Endpoint`]), and how their names are resolved.
//!
//! ```text
//!   origin.rs    scheme, host and port of a request, in one canonical form
//!   allow.rs     the allow-list of a service
//!   endpoint.rs  host and port of a server for TCP
//!   secret.rs    secrets, put into headers at sending
//!   request.rs   the request on the wire, from a grant and the guest's request
//!   resolve.rs   names to addresses
//!   address.rs   public addresses
//!   roots.rs     the certificate authorities that a call trusts
//!   client.rs    a call, phase by phase
//!   exchange.rs  request and response over one connection
//!   traffic.rs   the bytes of a connection, counted and bounded
//! ```
//!
//! Every call has a connection of its own. Nothing is retried, no redirect is followed, and no proxy is used: no code
//! here reads `HTTP_PROXY` or its like. A name is resolved once for each call. All of its addresses are checked, and
//! the connection goes to one of them.
//!
//! The crate knows neither guests nor journals. Its caller decides whether a call is made, and records its result.
//!
//! # Responses that repeat a secret
//!
//! A guest never sees the value of a secret in its own request. If a server repeats the header in its response, then
//! the guest sees the value, and the journal holds it. Allow only servers that do not.

mod address;
mod allow;
mod client;
mod endpoint;
mod exchange;
mod origin;
mod request;
mod resolve;
mod roots;
mod secret;
mod traffic;

pub use address::is_public;
pub use allow::{ALLOWED_TARGETS_MAX, AllowList, Allowed, Target, TooManyTargets};
pub use client::{ADDRESSES_MAX, CALLS_PER_HOST_MAX, CONNECT_MAX, Called, Client, Limits};
pub use endpoint::Endpoint;
pub use exchange::{HEAD_BYTES_MAX, RESPONSE_FIELDS_MAX};
pub use origin::{AUTHORITY_BYTES_MAX, Host, Origin, TargetError};
pub use request::{Grant, METHOD_BYTES_MAX, PATH_BYTES_MAX, REQUEST_FIELDS_MAX};
pub use resolve::{RESOLVE_MAX, RESOLVERS_MAX, Resolver, SystemResolver};
pub use roots::{ROOTS_BYTES_MAX, Roots, RootsError};
pub use secret::{SECRET_BYTES_MAX, SECRET_NAME_BYTES_MAX, SECRETS_MAX, SecretError, Secrets};
pub use traffic::{HEADS_BYTES_MAX, INTERIM_RESPONSES_MAX, RECEIVED_BYTES_MAX};
