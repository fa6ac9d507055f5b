//! Connections: accepted, bounded, encrypted if they are to be, and drained.

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

/// The least that the HTTP library reads a head into, in bytes.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// One address may have one in so many of all connections.
pub const ADDRESS_SHARE: usize = 2;

/// File descriptors that connections leave for segments of the journal, snapshots, workloads, and what is opened to look.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// How long to wait after an accept that failed for want of something, such as file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Bytes of answers that the kernel takes of a connection beside those that it has sent.
///
/// By itself Linux takes as much as it may have in flight, up to 4 MiB after a fast start, and lets the server write again
/// once a third of that is free. A client that is slow from then on takes minutes to read so much, in which it seems not to
/// read at all.
pub const UNSENT_BYTES_MAX: u32 = 32 * 1024;

/// What the encryption of a connection holds of what its client has not read. These bytes are counted in no budget.
const TLS_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// How long a client may take to agree on the encryption.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Nobody can be listened to as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// The address is in use, or not the machine's.
    #[error("cannot listen on {address}: {}", bind_reason(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Tokens would go over the network for all to read.
    #[error(transparent)]
    Unencrypted(#[from] Unencrypted),
}

/// An address that is listened on.
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

/// Why nobody can listen there, and what to do.
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
    /// Listens on `address`; port 0 is any that is free. Off loopback it wants `tls`, or `is_insecure`.
    ///
    /// # Errors
    /// [`ListenerError`].
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

    /// Checks whether the machine and this user may have `address`. Nothing is listened to, and whether another program
    /// listens there, such as the server whose configuration is checked, does not count.
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

    /// The same address, whose clients may be silent for so long after the last answer, in the place of
    /// [`DRAINED_SILENCE_MAX`].
    #[must_use]
    pub fn with_drained_silence(self, drained_silence_max: Duration) -> Self {
        Self { drained_silence_max, ..self }
    }

    /// The address, with the port that it got.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Whether connections are encrypted.
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
        // A copy of an answer would not be counted.
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
                    // The connection was gone already, or the machine is short of something.
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // One that has too many already is hung up on, so that it cannot keep all others out. Of IPv6, a client has a
            // whole network of them.
            let Some(place) = places.take(address) else { continue };
            // Answers are small, and each is waited for.
            let _ = stream.set_nodelay(true);
            let stream = ReadRate::new(stream, limits.body_deadline, self.drained_silence_max);
            let (router, http, tls, watcher) = (router.clone(), http.clone(), self.tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                let connection = Arc::clone(&place.connection);
                let service = service_fn(move |request| answer(router.clone(), Arc::clone(&connection), request));
                // A connection that breaks is the client's loss; what it asked for has happened or not all the same.
                match tls {
                    None => {
                        let serving = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
                        until_closed(&place, serving).await;
                    }
                    Some(tls) => {
                        let accepting = tls.accept_with(stream, |session| {
                            session.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
                        });
                        // A place that is given to another connection is not kept by a handshake that never ends.
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
        // What is not answered by then is not told; the transactions among it are in the journal or not, and their ids
        // tell which.
        let _ = tokio::time::timeout(deadline, graceful.shutdown()).await;
    }
}

/// Has the kernel take no more than [`UNSENT_BYTES_MAX`] ahead on each connection that is accepted from here.
fn notice_reading_soon(listener: &TcpListener) {
    // A system without it serves all the same: it notices later that a slow client reads.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

/// How many connections there may be: as many as are configured, and no more than the descriptors of the process leave.
#[must_use]
pub fn connections_max(limits: &ServerLimits) -> u32 {
    let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    // What is open is the journal, the catalog, and what the libraries have.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    let left = descriptors.saturating_sub(open).saturating_sub(DESCRIPTORS_RESERVED);
    limits.connections_max.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
}

async fn accept(listener: &TcpListener, places: &Connections) -> io::Result<(TcpStream, SocketAddr)> {
    places.room().await;
    listener.accept().await
}

/// Serves a connection to its end, or until its place is another's.
async fn until_closed<T>(place: &Place, serving: impl Future<Output = T>) {
    tokio::select! {
        _ = serving => {}
        () = place.connection.closed() => {}
    }
}

/// Answers a request, which has its connection among its extensions.
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
