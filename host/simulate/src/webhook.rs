//! The webhook of a simulation: a server on loopback that gets the parcels of one service.
//!
//! A service reaches it as [`WEBHOOK`], whatever its port is, so that neither requests nor replies differ between two
//! runs. It answers a request as it answered the first one with the same `Idempotency-Key`:
//!
//! | path | answer |
//! |---|---|
//! | [`CLOSED_PATH`] | 503 |
//! | [`CUT_PATH`] | none: it closes the connection |
//! | any other | 200, with the length of the parcel |
//!
//! It counts the requests for each parcel. The reconciliation compares these counts with the answers to the clients.

use bytes::Bytes;
use futures::future::BoxFuture;
use lifeboat_api::call::{
    CALL_BODY_BYTES_MAX, CALL_FIELDS_BYTES_MAX, CallError, CallRequest, CallResponse, CallResult, IDEMPOTENCY_KEY,
};
use lifeboat_host::network::{CallMaker, Called, GrantedCalls, Limits, Retry, ServiceNetwork};
use lifeboat_net::{AllowList, Allowed, Client, Grant, Roots, SystemResolver, Target};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The address of the webhook.
pub(crate) const WEBHOOK: &str = "http://webhook.test";

/// The path at which the webhook answers 503.
pub(crate) const CLOSED_PATH: &str = "/closed";

/// The path at which the webhook reads the request and closes the connection.
pub(crate) const CUT_PATH: &str = "/cut";

/// The most bytes of a request before its body. The host adds a few headers to those of the guest.
const HEAD_BYTES_MAX: usize = CALL_FIELDS_BYTES_MAX + 64 * 1024;

/// A parcel as the webhook gets it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Parcel {
    /// The user and the id of its transaction.
    pub(crate) user: String,
    pub(crate) id: String,
    /// Its place among those of its transaction, if that posts several at once.
    #[serde(default)]
    pub(crate) index: Option<usize>,
    /// Its text.
    #[serde(rename = "parcel")]
    pub(crate) text: String,
}

/// The webhook of one service. It runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Webhook {
    book: Arc<Mutex<Book>>,
    maker: Arc<Redirected>,
    server: JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Webhook {
    /// Starts the server on a free port, on a runtime with I/O.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = listener.local_addr()?.to_string();
        let book: Arc<Mutex<Book>> = Arc::default();
        let server = tokio::spawn(serve(listener, Arc::clone(&book)));
        Ok(Self { book, maker: Arc::new(Redirected::new(authority)), server })
    }

    /// Returns the network of the service.
    pub(crate) fn network(&self) -> ServiceNetwork {
        ServiceNetwork { maker: Some(Arc::clone(&self.maker) as _), retry: Retry::Never }
    }

    /// Returns how many requests there were for each parcel.
    pub(crate) fn counts(&self) -> BTreeMap<Parcel, u64> {
        locked(&self.book).posted.iter().map(|(parcel, posted)| (parcel.clone(), posted.requests)).collect()
    }

    /// Answers a request for a parcel once more, under the key of its first request, and does not count it.
    pub(crate) fn ask_again(&self, request: &CallRequest) -> CallResult {
        self.maker.check(request)?;
        let (path, parcel) = (&request.path_with_query, serde_json::from_slice(&request.body).ok());
        let answer = locked(&self.book).again(path, parcel.as_ref());
        match answer {
            Answer::Status(status, body) => {
                let (headers, trailers) = (Vec::new(), Vec::new());
                Ok(Arc::new(CallResponse { status, headers, body: Bytes::from(body), trailers }))
            }
            Answer::HangUp => Err(CallError::ConnectionTerminated { reason: "the webhook closed it".into() }),
        }
    }
}

/// Makes the calls of a service to [`WEBHOOK`] at the address of the server.
#[derive(Debug)]
struct Redirected {
    /// What the service may call.
    grant: Grant,
    /// The host and the port of the server.
    authority: String,
    calls: GrantedCalls,
}

impl Redirected {
    fn new(authority: String) -> Self {
        let calls = GrantedCalls::new(
            Client::new(Arc::new(SystemResolver::default()), Roots::system()),
            grant(&format!("http://{authority}")),
        );
        Self { grant: grant(WEBHOOK), authority, calls }
    }
}

/// Returns the permission to call one address.
fn grant(address: &str) -> Grant {
    let target: Target = address.parse().expect("a literal address, or one of the system's");
    Grant { allow: AllowList::new(vec![Allowed::from(target)]).expect("one entry"), ..Grant::default() }
}

impl CallMaker for Redirected {
    fn check(&self, request: &CallRequest) -> Result<(), CallError> {
        self.grant.check(request).map(drop)
    }

    fn call(&self, mut request: CallRequest, key: String, limits: Limits) -> BoxFuture<'static, Called> {
        request.authority.clone_from(&self.authority);
        self.calls.call(request, key, limits)
    }
}

/// What the server has seen.
#[derive(Debug, Default)]
struct Book {
    /// The answers, by idempotency key.
    answers: HashMap<String, Answer>,
    posted: BTreeMap<Parcel, Posted>,
}

/// The requests for one parcel.
#[derive(Debug)]
struct Posted {
    /// The idempotency key of the first one.
    key: String,
    requests: u64,
}

/// What the server does about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Status(u16, String),
    HangUp,
}

impl Answer {
    fn new(path: &str, parcel: Option<&Parcel>) -> Self {
        match (path.split('?').next().unwrap_or_default(), parcel) {
            (_, None) => Self::Status(400, "not a parcel".into()),
            (CLOSED_PATH, _) => Self::Status(503, "closed".into()),
            (CUT_PATH, _) => Self::HangUp,
            (_, Some(parcel)) => Self::Status(200, format!("got {} bytes", parcel.text.len())),
        }
    }
}

impl Book {
    /// Counts a request and answers it.
    fn answer(&mut self, key: String, path: &str, parcel: Option<Parcel>) -> Answer {
        let answer = self.answers.entry(key.clone()).or_insert_with(|| Answer::new(path, parcel.as_ref())).clone();
        if let Some(parcel) = parcel {
            self.posted.entry(parcel).or_insert(Posted { key, requests: 0 }).requests += 1;
        }
        answer
    }

    /// Returns the answer to the first request for a parcel. Without one, the server would answer in the same way.
    fn again(&self, path: &str, parcel: Option<&Parcel>) -> Answer {
        let posted = parcel.and_then(|parcel| self.posted.get(parcel));
        let answer = posted.and_then(|posted| self.answers.get(&posted.key));
        answer.cloned().unwrap_or_else(|| Answer::new(path, parcel))
    }
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, book: Arc<Mutex<Book>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let book = Arc::clone(&book);
                    connections.spawn(async move { serve_one(stream, &book).await });
                }
                // The process has too many open files. Those of a call are closed soon.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the one request of a connection. Without an answer, the client reports an error.
async fn serve_one(mut stream: TcpStream, book: &Mutex<Book>) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let body = bytes.split_off(head + 4);
    let head = std::str::from_utf8(&bytes[..head]).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?;
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let length = header("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = whole(&mut stream, body, length).await?;
    let key = header(IDEMPOTENCY_KEY)?.to_owned();
    let answer = locked(book).answer(key, path, serde_json::from_slice(&body).ok());
    if let Answer::Status(status, text) = answer {
        let length = text.len();
        let response =
            format!("HTTP/1.1 {status} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
        stream.write_all(response.as_bytes()).await.ok()?;
    }
    Some(())
}

/// Reads the rest of a body.
async fn whole(stream: &mut TcpStream, mut body: Vec<u8>, length: usize) -> Option<Vec<u8>> {
    if length > CALL_BODY_BYTES_MAX {
        return None;
    }
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    body.truncate(length);
    Some(body)
}

#[cfg(test)]
mod tests;
