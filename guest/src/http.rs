//! Requests over HTTP, with the feature `http` of this crate.
//!
//! ```toml
//! lifeboat-guest = { path = "guest", features = ["http"] }
//! ```
//!
//! ```no_run
//! use lifeboat_guest::http;
//!
//! let response = http::get("https://api.example.org/rate")?;
//! if response.is_success() {
//!     let rate = response.text();
//! }
//! # Ok::<(), http::Error>(())
//! ```
//!
//! # Where requests are possible
//! Only [`Workload::execute`](crate::Workload::execute) has network, and only to the addresses that the configuration
//! of the service allows. Every other request is [`Error::Denied`], also one of a query, a start function, a snapshot
//! or a restore.
//!
//! # Each request is sent once
//! A transaction may run more than once: after a rollback, in a failover, after a crash. The host records each request
//! before it is sent, and its response. Another attempt that makes the same requests gets the same responses, and
//! nothing is sent again. Hence:
//!
//! - **Make the same requests in every attempt.** They may depend on the state, the transaction and the
//!   [`Context`](crate::Context). Put [`Context::id`](crate::Context::id) in a request whose receiver must recognise
//!   it, not the time and not a random number.
//! - **An outcome may stay unknown.** After a crash between request and response, another attempt gets
//!   [`Error::InDoubt`]. Refuse the transaction in that case, so that its operator can decide.
//! - **A refused or failed transaction does not undo a request.** The host undoes the changes of a failed transaction
//!   in memory and on disk, but the receiver keeps what it got. Send last, after all checks of your own.
//! - The host adds the header `Idempotency-Key`, unless the request has one. It is the same in every attempt.
//!
//! # Limits of the host
//! Redirections are not followed, and a response is whole before the workload sees it. A body has at most 4 MiB, and
//! the headers have 128 KiB. A transaction has at most 64 requests and 16 MiB in both directions, and a service has 16
//! requests at once.
//!
//! # Several at once
//! [`Request::start`] returns a [`Pending`]. All started requests are sent at the first wait, and run at once:
//!
//! ```no_run
//! # use lifeboat_guest::http::{self, Request};
//! let rates = ["EUR", "USD"].map(|name| Request::new("GET", format!("https://api.example.org/rates/{name}")));
//! for response in http::all(rates.map(Request::start).into()) {
//!     println!("{}", response?.text());
//! }
//! # Ok::<(), http::Error>(())
//! ```
//!
//! # Tests
//! A native build has no network. A test answers the requests itself, see [`testing::with`].

mod error;
mod message;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod url;
#[cfg(target_arch = "wasm32")]
mod wasi;

pub use error::Error;
pub use message::{Request, Response};
#[cfg(not(target_arch = "wasm32"))]
pub use native::Transport;

#[cfg(not(target_arch = "wasm32"))]
use native as sender;
#[cfg(target_arch = "wasm32")]
use wasi as sender;

/// Gets a URL and waits for the whole response.
///
/// # Errors
/// There is no response. One with any status, such as 404, is `Ok`.
pub fn get(url: impl Into<String>) -> Result<Response, Error> {
    Request::new("GET", url).send()
}

/// Posts a body to a URL and waits for the whole response. To set a `Content-Type`, use a [`Request`].
///
/// # Errors
/// There is no response. One with any status, such as 500, is `Ok`.
pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Result<Response, Error> {
    Request::new("POST", url).body(body).send()
}

/// A started request.
#[must_use = "a started request is sent only if a wait follows"]
pub struct Pending(Result<sender::Started, Error>);

impl Pending {
    /// Waits for the whole response. The first wait sends all started requests.
    ///
    /// # Errors
    /// There is no response. One with any status, such as 500, is `Ok`.
    pub fn wait(self) -> Result<Response, Error> {
        self.0?.wait()
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pending").field(&self.0.as_ref().map(|_| "started")).finish()
    }
}

/// Waits for all of these requests, and returns the responses in the order of the requests.
pub fn all(pending: Vec<Pending>) -> Vec<Result<Response, Error>> {
    pending.into_iter().map(Pending::wait).collect()
}

/// Answers for the requests of native tests.
#[cfg(not(target_arch = "wasm32"))]
pub mod testing {
    use super::Transport;

    /// Calls `test` while `transport` answers the requests of this thread, and returns its result.
    ///
    /// ```
    /// use lifeboat_guest::http::{self, Error, Request, Response, testing};
    ///
    /// let answer = |request: &Request| match request.url() {
    ///     "http://shop.example/price" => Ok(Response::new(200, "17")),
    ///     _ => Err(Error::Denied),
    /// };
    /// testing::with(answer, || {
    ///     assert_eq!(http::get("http://shop.example/price")?.text(), "17");
    ///     assert_eq!(http::get("http://example.org/"), Err(Error::Denied));
    ///     Ok::<(), Error>(())
    /// })?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn with<R>(transport: impl Transport + 'static, test: impl FnOnce() -> R) -> R {
        super::native::with(transport, test)
    }
}

#[cfg(test)]
mod tests;
