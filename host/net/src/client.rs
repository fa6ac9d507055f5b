//! A call, phase by phase: room, resolution, connection, TLS, request, response.
//!
//! ```text
//!   phase                                        bound                            error
//!   the request is checked                                                        Denied, InvalidRequest
//!   the call waits for room                      connect                          Limit
//!   the name is resolved, its addresses checked  RESOLVE_MAX                      DnsTimeout, Dns, AddressDenied
//!   the connection is made, over TLS             connect, less the wait for room  Connection*, Tls*
//!   the request is sent, the headers arrive      first_byte                       ResponseTimeout, ...
//!   the body arrives                             between_bytes                    ResponseTimeout, ...
//! ```
//!
//! `whole` bounds all phases together. If it ends within a phase, the error is that of the phase.

use crate::address::is_public;
use crate::exchange::{self, Patience};
use crate::origin::{Host, Origin};
use crate::request::{Grant, Prepared};
use crate::resolve::{RESOLVE_MAX, Resolver};
use crate::roots::Roots;
use crate::traffic::Traffic;
use lifeboat_api::call::{CallError, CallRequest, CallResponse, Scheme};
use lifeboat_api::text::of_system;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// The most calls of one client at once. A host has one client.
pub const CALLS_PER_HOST_MAX: usize = 256;

/// The longest time until a connection is made, TLS and the wait for room included.
pub const CONNECT_MAX: Duration = Duration::from_secs(2);

/// The most addresses of one name that a call tries to connect to, in the resolver's order.
pub const ADDRESSES_MAX: usize = 16;

/// A time limit of a client without another one. It is not the longest `Duration`, which no clock could add.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The time limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The time until the connection is made, TLS and the wait for room included, but not the resolution of the name.
    /// [`CONNECT_MAX`] at most.
    pub connect: Duration,
    /// The time from then until the headers of the response are whole. The request is sent in it.
    pub first_byte: Duration,
    /// The time between two parts of the response's body.
    pub between_bytes: Duration,
    /// The time of the whole call.
    pub whole: Duration,
}

impl Limits {
    /// Returns the limits of a call that may take that time.
    #[must_use]
    pub fn within(whole: Duration) -> Self {
        Self { connect: CONNECT_MAX, first_byte: whole, between_bytes: whole, whole }
    }
}

/// A call that was made, or was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// The response, or the reason why there is none.
    pub result: Result<CallResponse, CallError>,
    /// The bytes that were sent: the request as HTTP, without what TLS adds. If it is 0, the server has seen no part of
    /// the request.
    pub bytes_out: u64,
    /// The bytes that were received: the response as HTTP, with its chunks' framing, without what TLS adds.
    pub bytes_in: u64,
    /// The time of the call.
    pub duration: Duration,
}

/// The HTTP client of a host. Clones share the bound of calls at once.
#[derive(Clone)]
pub struct Client {
    resolver: Arc<dyn Resolver>,
    roots: Roots,
    room: Arc<Semaphore>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("roots", &self.roots).field("room", &self.room).finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client that trusts `roots`, unless a grant names others.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolver>, roots: Roots) -> Self {
        Self { resolver, roots, room: Arc::new(Semaphore::new(CALLS_PER_HOST_MAX)) }
    }

    /// Makes a call, once: sends the request on a connection of its own, and returns the whole response as it arrived.
    ///
    /// `key` is the value of `Idempotency-Key`, unless the guest's request has one. Redirects are returned. 1xx
    /// responses are skipped. Nothing is decompressed. It runs on a runtime with I/O and time.
    ///
    /// If the future is dropped, then the connection is closed. The server may have processed the request.
    pub async fn call(&self, grant: &Grant, request: &CallRequest, key: &str, limits: Limits) -> Called {
        let start = Instant::now();
        let traffic = Arc::new(Traffic::default());
        let result = self.respond(grant, request, key, limits, &traffic).await;
        Called { result, bytes_out: traffic.sent(), bytes_in: traffic.received(), duration: start.elapsed() }
    }

    async fn respond(
        &self,
        grant: &Grant,
        request: &CallRequest,
        key: &str,
        limits: Limits,
        traffic: &Arc<Traffic>,
    ) -> Result<CallResponse, CallError> {
        let whole = Until::after(limits.whole);
        let prepared = Prepared::new(grant, request, key)?;
        let origin = &prepared.origin;

        let mut connect = Until::after(limits.connect.min(CONNECT_MAX)).or_earlier(whole);
        let room = timeout_at(connect.at, self.room.acquire()).await;
        let _room = room.map_err(|_| no_room(connect))?.expect("it is never closed");

        let resolution = Instant::now();
        let addresses = self.addresses(&prepared, whole).await?;
        connect = connect.later_by(resolution.elapsed()).or_earlier(whole);

        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                Some(timeout_at(connect.at, self.tls(grant, origin)).await.map_err(|_| no_roots(connect))??)
            }
        };
        let (stream, address) = connect_to_one(&addresses, connect).await?;
        // A request is written at once. A failure only delays it.
        let _ = stream.set_nodelay(true);
        let patience = |first_byte| {
            let head = Until::after(first_byte).or_earlier(whole);
            Patience { head, between: limits.between_bytes, whole }
        };
        match tls {
            None if connect.is_over() => Err(connect.connection_timeout(address)),
            None => exchange::exchange(stream, prepared.request, traffic, patience(limits.first_byte)).await,
            Some((connector, name)) => {
                let stream = handshake(&connector, name, stream, address, connect).await?;
                if connect.is_over() {
                    return Err(connect.connection_timeout(address));
                }
                exchange::exchange(stream, prepared.request, traffic, patience(limits.first_byte)).await
            }
        }
    }

    /// Returns addresses that the request may be sent to.
    async fn addresses(&self, prepared: &Prepared, whole: Until) -> Result<Vec<SocketAddr>, CallError> {
        let origin = &prepared.origin;
        let addresses: Vec<IpAddr> = match &origin.host {
            Host::Literal(address) => vec![*address],
            Host::Name(name) => {
                let until = Until::after(RESOLVE_MAX).or_earlier(whole);
                let resolved = timeout_at(until.at, self.resolver.resolve(name)).await;
                let resolved =
                    resolved.map_err(|_| CallError::DnsTimeout { host: name.clone(), limit_ms: until.limit_ms() })?;
                let failed = |reason: String| CallError::Dns { host: name.clone(), reason };
                match resolved {
                    Ok(addresses) if addresses.is_empty() => return Err(failed("it has no address".to_owned())),
                    Ok(addresses) => addresses,
                    Err(error) => return Err(failed(of_system(&error))),
                }
            }
        };
        // Each of them, not the first that will do: whoever mixes them means to be connected to the other ones.
        if let Some(address) = addresses.iter().find(|address| !prepared.is_private && !is_public(**address)) {
            let (host, address) = (origin.host.to_string(), address.to_string());
            return Err(CallError::AddressDenied { host, address });
        }
        Ok(addresses.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, origin.port)).collect())
    }

    async fn tls(&self, grant: &Grant, origin: &Origin) -> Result<(TlsConnector, ServerName<'static>), CallError> {
        let config = grant.roots.as_ref().unwrap_or(&self.roots).config().await?;
        let name = match &origin.host {
            Host::Literal(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| CallError::InvalidRequest {
                reason: format!("'{name}' cannot be the name of a server: {error}"),
            })?,
        };
        Ok((config.into(), name))
    }
}

fn no_room(until: Until) -> CallError {
    let reason = format!(
        "the host makes {CALLS_PER_HOST_MAX} calls at once, and none ended within {} ms; try again later",
        until.limit_ms()
    );
    CallError::Limit { reason }
}

fn no_roots(until: Until) -> CallError {
    let reason = format!(
        "the system's certificate authorities were not read within {} ms; look at the disk that they are on",
        until.limit_ms()
    );
    CallError::Internal { reason }
}

/// Connects to the first address that accepts. Each address has an equal part of the remaining time, so that one that
/// does not answer leaves some to the others.
async fn connect_to_one(addresses: &[SocketAddr], until: Until) -> Result<(TcpStream, SocketAddr), CallError> {
    let mut failure = CallError::Internal { reason: "a name without addresses was accepted".to_owned() };
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let part = until.at.saturating_duration_since(now) / (addresses.len() - index) as u32;
        failure = match timeout_at(now + part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(error)) => not_connected(&error, *address),
            Err(_) => until.connection_timeout(*address),
        };
    }
    Err(failure)
}

fn not_connected(error: &io::Error, address: SocketAddr) -> CallError {
    const NO_FILES_OF_PROCESS: i32 = 24;
    const NO_FILES_OF_SYSTEM: i32 = 23;
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused, _) => CallError::ConnectionRefused { address: address.to_string() },
        (_, Some(NO_FILES_OF_PROCESS | NO_FILES_OF_SYSTEM)) => CallError::Internal {
            reason: format!("cannot connect to {address}: {}; raise the limit of open files", of_system(error)),
        },
        _ => CallError::ConnectionTerminated { reason: format!("cannot connect to {address}: {}", of_system(error)) },
    }
}

async fn handshake(
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: TcpStream,
    address: SocketAddr,
    until: Until,
) -> Result<TlsStream<TcpStream>, CallError> {
    let made = timeout_at(until.at, connector.connect(name, stream)).await;
    made.map_err(|_| until.connection_timeout(address))?.map_err(|error| match exchange::tls_error(&error) {
        Some(error) => exchange::of_tls(error),
        None => CallError::ConnectionTerminated {
            reason: format!("within the TLS handshake with {address}: {}", of_system(&error)),
        },
    })
}

/// The end of a time limit, and its length for a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    pub(crate) at: Instant,
    limit: Duration,
}

impl Until {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit.min(FOREVER), limit }
    }

    pub(crate) fn or_earlier(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    fn later_by(self, time: Duration) -> Self {
        Self { at: self.at + time, limit: self.limit }
    }

    /// Returns whether the time has passed. A timer notices it later than the next look.
    fn is_over(self) -> bool {
        Instant::now() >= self.at
    }

    fn limit_ms(self) -> u64 {
        u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX)
    }

    fn connection_timeout(self, address: SocketAddr) -> CallError {
        CallError::ConnectionTimeout { address: address.to_string(), limit_ms: self.limit_ms() }
    }

    pub(crate) fn response_timeout(self) -> CallError {
        CallError::ResponseTimeout { limit_ms: self.limit_ms() }
    }
}
