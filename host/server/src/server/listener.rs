//! Connections: how they are accepted, bounded, encrypted and drained.

use super::connections::{Connection, Connections, Place};
use super::read_rate::{DRAINED_SILENCE_MAX, ReadRate};
use crate::config::ServerLimits;
use crate::tls::Unencrypted;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use lifeboat_host::budget::Budgets;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// The smallest buffer into which the HTTP library reads a head, in bytes.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// The share of all connections that one address may have: one in this many.
pub const ADDRESS_SHARE: usize = 2;

/// The number of file descriptors that connections leave for journal segments, snapshots, workloads, and files that are
/// only read.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// The pause after an accept that failed for lack of a resource, such as file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The maximum number of bytes of answers that the kernel buffers for a connection beside those in flight.
///
/// By default, Linux buffers as much as may be in flight, up to 4 MiB after a fast start. It reports the socket as
/// writable only once a third of that is free. A client that becomes slow then needs minutes to read that much, and
/// seems not to read at all during this time.
pub const UNSENT_BYTES_MAX: u32 = 32 * 1024;

/// The maximum number of bytes that the encryption of a connection buffers for its client. No budget counts these
/// bytes.
const TLS_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// The longest time that a TLS handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// The reason why a server cannot listen on an address.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// The address is in use, or it is not an address of this machine.
    #[error("cannot listen on {address}: {}", bind_reason(source))]
    Bind {
        /// The address to listen on.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The address can be reached from other machines, and tokens would cross the network in plain text.
    #[error(transparent)]
    Unencrypted(#[from] Unencrypted),
}

/// A listener on an address.
pub struct Listener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    drained_silence_max: Duration,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("listener", &self.listener).field("has_tls", &self.tls.is_some()).finish()
    }
}

/// Returns why nothing can listen on the address, and the remedy.
fn bind_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; name a free address of this machine".into(),
        io::ErrorKind::AddrNotAvailable => "it is not an address of this machine; name one that is".into(),
        io::ErrorKind::PermissionDenied => {
            "this user may not listen on ports below 1024; name a higher port, or give the program \
             CAP_NET_BIND_SERVICE"
                .into()
        }
        _ => format!("{error}; name a free address of this machine"),
    }
}

impl Listener {
    /// Listens on `address`. Port 0 selects any free port. An address off loopback requires `tls` or `is_insecure`.
    ///
    /// # Errors
    /// [`ListenerError`] if the address cannot be bound, or if TLS is missing.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        is_insecure: bool,
    ) -> Result<Self, ListenerError> {
        if tls.is_none() && !is_insecure && !address.ip().to_canonical().is_loopback() {
            return Err(Unencrypted { address }.into());
        }
        let listener = TcpListener::bind(address).await.map_err(|source| ListenerError::Bind { address, source })?;
        notice_reading_soon(&listener);
        Ok(Self { listener, tls: tls.map(TlsAcceptor::from), drained_silence_max: DRAINED_SILENCE_MAX })
    }

    /// Checks whether this machine and this user may bind `address`. The check does not listen.
    ///
    /// An address that is in use passes the check, since its user may be the server whose configuration is checked.
    ///
    /// # Errors
    /// [`ListenerError::Bind`], as [`Listener::bind`] returns it.
    pub fn check(address: SocketAddr) -> Result<(), ListenerError> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)
        });
        match bound {
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => Err(ListenerError::Bind { address, source }),
            _ => Ok(()),
        }
    }

    /// Returns the listener with a different limit for the silence of clients after the last answer. The default is
    /// [`DRAINED_SILENCE_MAX`].
    #[must_use]
    pub fn with_drained_silence(self, drained_silence_max: Duration) -> Self {
        Self { drained_silence_max, ..self }
    }

    /// Returns the address with the actual port.
    ///
    /// # Errors
    /// The operating system does not report the address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns whether connections are encrypted.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn serve(
        self,
        router: Router,
        limits: &ServerLimits,
        budgets: Budgets,
        draining: impl Future<Output = ()>,
        deadline: Duration,
    ) {
        let mut http = http1::Builder::new();
        let head_bytes_max = usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX).max(HEAD_BYTES_MIN);
        http.timer(TokioTimer::new()).header_read_timeout(limits.header_deadline).max_buf_size(head_bytes_max);
        // No budget would count a copy of an answer.
        http.writev(true);
        let graceful = GracefulShutdown::new();
        let max = connections_max(limits) as usize;
        let places = Connections::new(max, max.div_ceil(ADDRESS_SHARE), budgets);
        let mut draining = std::pin::pin!(draining);
        loop {
            let accepted = tokio::select! {
                () = &mut draining => break,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    // The connection is already gone, or the machine lacks a resource.
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // An address with too many connections gets no more, so that it cannot exclude all others. An IPv6 client
            // has a whole network of addresses.
            let Some(place) = places.take(address) else { continue };
            // Answers are small, and a client waits for each of them.
            let _ = stream.set_nodelay(true);
            let stream = ReadRate::new(stream, limits.body_deadline, self.drained_silence_max);
            let (router, http, tls, watcher) = (router.clone(), http.clone(), self.tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                let connection = Arc::clone(&place.connection);
                let service = service_fn(move |request| answer(router.clone(), Arc::clone(&connection), request));
                // A broken connection only affects its client. Whether the request was executed does not depend on it.
                match tls {
                    None => {
                        let serving = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
                        until_closed(&place, serving).await;
                    }
                    Some(tls) => {
                        let accepting = tls.accept_with(stream, |session| {
                            session.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
                        });
                        // A handshake that never ends must not retain a place that another connection has received.
                        let accepted = tokio::select! {
                            accepted = tokio::time::timeout(HANDSHAKE_TIME_MAX, accepting) => accepted,
                            () = place.connection.closed() => return,
                        };
                        if let Ok(Ok(stream)) = accepted {
                            let serving = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
                            until_closed(&place, serving).await;
                        }
                    }
                }
                drop(place);
            });
        }
        drop(self.listener);
        // Requests that are unanswered by then get no answer. Their transactions are in the journal or not, and a
        // client can find out by their ids.
        let _ = tokio::time::timeout(deadline, graceful.shutdown()).await;
    }
}

/// Limits what the kernel buffers to [`UNSENT_BYTES_MAX`] on each connection that this listener accepts.
fn notice_reading_soon(listener: &TcpListener) {
    // A system without this option serves all the same, but it notices later that a slow client reads.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

/// Returns the maximum number of connections: the configured one, or fewer if the process has too few file descriptors.
#[must_use]
pub fn connections_max(limits: &ServerLimits) -> u32 {
    let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    // The open descriptors are those of the journal, the catalog and the libraries.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    let left = descriptors.saturating_sub(open).saturating_sub(DESCRIPTORS_RESERVED);
    limits.connections_max.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
}

async fn accept(listener: &TcpListener, places: &Connections) -> io::Result<(TcpStream, SocketAddr)> {
    places.room().await;
    listener.accept().await
}

/// Serves a connection until it ends or until another connection receives its place.
async fn until_closed<T>(place: &Place, serving: impl Future<Output = T>) {
    tokio::select! {
        _ = serving => {}
        () = place.connection.closed() => {}
    }
}

/// Answers a request, with the connection among its extensions.
async fn answer(
    mut router: Router,
    connection: Arc<Connection>,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    let _busy = connection.busy();
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(connection);
    // A router is always ready.
    tower::Service::call(&mut router, request).await
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_takes_little_ahead_on_connections_that_are_accepted() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), None, false).await.expect("a free port");
        let _client = TcpStream::connect(listener.address().expect("bound")).await.expect("the kernel accepts");
        let (stream, _) = listener.listener.accept().await.expect("it connects");
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().expect("known"), UNSENT_BYTES_MAX);
    }
}
