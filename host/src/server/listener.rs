//! Connections: accepted, bounded, encrypted if they are to be, and drained.

use super::connections::{Connection, Connections, Place};
use super::read_rate::ReadRate;
use crate::budget::Budgets;
use crate::config::ServerLimits;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The least that the HTTP library reads a head into, in bytes.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// One address may have one in so many of all connections.
pub const ADDRESS_SHARE: usize = 2;

/// File descriptors that connections leave for segments of the journal, snapshots, workloads, and what is opened to look.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// How long to wait after an accept that failed for want of something, such as file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

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
    #[error(
        "{address} can be reached from other machines, and there is no TLS: give the server a certificate and a key \
         ([server.tls]), listen on 127.0.0.1, or add --insecure if something in front of it encrypts"
    )]
    Insecure {
        /// The address.
        address: SocketAddr,
    },
    /// A certificate or key cannot be used.
    #[error("{what} '{file}' cannot be used: {reason}")]
    Tls {
        /// Which of the two.
        what: TlsFile,
        /// The file.
        file: String,
        /// Why not.
        reason: String,
    },
}

/// A file that TLS needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate, and those that vouch for it.
    Certificate,
    /// Its private key.
    Key,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "the certificate",
            Self::Key => "the key",
        })
    }
}

/// An address that is listened on.
pub struct Listener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("listener", &self.listener).field("has_tls", &self.tls.is_some()).finish()
    }
}

/// Reads a certificate chain and its key, both PEM.
///
/// # Errors
/// [`ListenerError::Tls`].
pub fn tls(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, ListenerError> {
    let failed = |what, file: &Path, reason: String| ListenerError::Tls {
        what,
        file: file.display().to_string().escape_debug().to_string(),
        reason,
    };
    let of_chain = |reason: String| failed(TlsFile::Certificate, certificate, reason);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| of_chain(pem_reason(&error, "certificate")))?;
    if chain.is_empty() {
        return Err(of_chain(pem_reason(&pem::Error::NoItemsFound, "certificate")));
    }
    let of_key = |reason: String| failed(TlsFile::Key, key, reason);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of_key(pem_reason(&error, "private key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| of_key(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => of_key(format!(
                "it does not belong to the certificate '{}'; name the key that the certificate was made with",
                certificate.display().to_string().escape_debug()
            )),
            rustls::Error::InvalidCertificate(_) => {
                of_chain(format!("{error}; name a file of X.509 certificates as PEM"))
            }
            error => of_key(format!("{error}; name a file with one private key as PEM")),
        })?;
    Ok(Arc::new(config))
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

/// Why a file has nothing of that kind, and what to do.
fn pem_reason(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => format!("it cannot be read: {error}; name a file with a {what} as PEM"),
        pem::Error::NoItemsFound => format!("there is no {what} in it; name a file with one as PEM"),
        error => format!("it is damaged ({error}); name a file with a {what} as PEM"),
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
            return Err(ListenerError::Insecure { address });
        }
        let listener = TcpListener::bind(address).await.map_err(|source| ListenerError::Bind { address, source })?;
        Ok(Self { listener, tls: tls.map(TlsAcceptor::from) })
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
            let stream = ReadRate::new(stream, limits.body_deadline);
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
