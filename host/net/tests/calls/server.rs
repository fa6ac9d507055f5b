//! Scripted servers, with and without TLS, and names for them.

use futures::future::BoxFuture;
use lifeboat_api::call::{CallError, CallRequest, CallResponse, Scheme};
use lifeboat_net::{AllowList, Allowed, Called, Client, Grant, Limits, Resolver, Roots};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A time that no call here reaches unless it is broken.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A limit that a stalled call reaches.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

pub(crate) const CA: &[u8] = include_bytes!("../tls/ca.pem");
pub(crate) const SERVER: &[u8] = include_bytes!("../tls/server.pem");
const KEY: &[u8] = include_bytes!("../tls/server.key");

/// A server on a free port of loopback. It ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts a server that runs a script for each connection.
    pub(crate) async fn start<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(script(stream));
            }
        });
        Self { address, accepted, task }
    }

    /// Starts a server that reads a request, writes `response`, and closes the connection.
    pub(crate) async fn answering(response: impl AsRef<[u8]>) -> Self {
        let response = Arc::new(response.as_ref().to_vec());
        Self::start(move |mut stream| {
            let response = Arc::clone(&response);
            async move {
                read_request(&mut stream).await;
                // The client may have seen enough of it.
                let _ = stream.write_all(&response).await;
                let _ = stream.shutdown().await;
                drain(&mut stream).await;
            }
        })
        .await
    }

    /// Starts a server that answers with the request that it has read.
    pub(crate) async fn echo() -> Self {
        Self::start(|mut stream| async move {
            let request = read_request(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
            stream.write_all(&[head.as_bytes(), &request].concat()).await.expect("the client reads");
            drain(&mut stream).await;
        })
        .await
    }

    /// Starts a server with that certificate, which answers over TLS with status 200 and the body `over TLS`.
    pub(crate) async fn over_tls(certificate: &'static [u8]) -> Self {
        Self::start(move |stream| async move {
            let Ok(mut stream) = acceptor(certificate).accept(stream).await else { return };
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nover TLS").await.expect("the client reads");
            let _ = stream.shutdown().await;
        })
        .await
    }

    /// Returns the number of connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns a grant to call this server by its address.
    pub(crate) fn grant(&self) -> Grant {
        grant(&[&format!("http://{}", self.address)])
    }

    /// Sends a request to this server, by its address.
    pub(crate) async fn get(&self) -> Called {
        self.send(&self.request()).await
    }

    /// Sends a request to this server.
    pub(crate) async fn send(&self, request: &CallRequest) -> Called {
        client(&Names::default()).call(&self.grant(), request, "key-1", Limits::within(LONG)).await
    }

    /// Sends a request to this server within limits.
    pub(crate) async fn get_within(&self, limits: Limits) -> Called {
        client(&Names::default()).call(&self.grant(), &self.request(), "key-1", limits).await
    }

    /// Returns a request to this server.
    pub(crate) fn request(&self) -> CallRequest {
        request(Scheme::Http, &self.address.to_string())
    }
}

/// Returns a configuration of TLS with that certificate.
pub(crate) fn acceptor(certificate: &[u8]) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("PEM");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has them");
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config).into()
}

/// Reads a request, and its body as `content-length` says.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if request.len() >= end + 4 + length.map_or(0, |text| text.parse::<usize>().expect("a number")) {
                return request;
            }
        }
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return request;
        }
    }
}

/// Reads until the client closes the connection.
pub(crate) async fn drain(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// Writes until the client closes the connection.
pub(crate) async fn flood(stream: &mut (impl AsyncWrite + Unpin), part: &[u8]) -> usize {
    let mut written = 0;
    while stream.write_all(part).await.is_ok() {
        written += part.len();
    }
    written
}

/// A resolver with fixed answers. An answer is repeated only if there is no other one after it.
#[derive(Default, Clone)]
pub(crate) struct Names {
    answers: Arc<Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>>,
    asked: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) fn with(self, name: &str, answers: &[&[&str]]) -> Self {
        let parse = |text: &&str| text.parse().expect("an address");
        let answers = answers.iter().map(|answer| answer.iter().map(parse).collect()).collect();
        self.answers.lock().expect("not poisoned").insert(name.to_owned(), answers);
        self
    }

    /// Returns how often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Resolver for Names {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut all = self.answers.lock().expect("not poisoned");
        let answer = match all.get_mut(host) {
            Some(answers) if answers.len() > 1 => Ok(answers.pop_front().expect("more than one")),
            Some(answers) => Ok(answers.front().cloned().unwrap_or_default()),
            None => Err(io::Error::other("no such name")),
        };
        Box::pin(async { answer })
    }
}

/// Returns a client that trusts the authority of the tests.
pub(crate) fn client(names: &Names) -> Client {
    Client::new(Arc::new(names.clone()), Roots::from_pem(CA).expect("PEM"))
}

/// Returns a grant of these addresses. `private ` before one lets it resolve to loopback.
pub(crate) fn grant(targets: &[&str]) -> Grant {
    let allowed = |text: &&str| {
        let (private, text) = text.strip_prefix("private ").map_or((false, *text), |rest| (true, rest));
        Allowed { target: text.parse().expect("a target"), private }
    };
    let allow = AllowList::new(targets.iter().map(allowed).collect()).expect("a few");
    Grant { allow, ..Grant::default() }
}

/// Returns a request without headers and body.
pub(crate) fn request(scheme: Scheme, authority: &str) -> CallRequest {
    CallRequest {
        method: "GET".into(),
        scheme,
        authority: authority.into(),
        path_with_query: "/".into(),
        headers: Vec::new(),
        body: Vec::new().into(),
    }
}

/// Returns the response of a call that has one.
pub(crate) fn response(called: Called) -> CallResponse {
    called.result.expect("a response")
}

/// Returns the error of a call that has none.
pub(crate) fn error(called: Called) -> CallError {
    called.result.expect_err("no response")
}
