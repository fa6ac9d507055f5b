//! A server on loopback that counts the calls of services.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A request that the server has read in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: String,
    pub(crate) body: String,
}

/// What the server does about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// It answers with this status.
    Answer(u16),
    /// It closes the connection without an answer.
    HangUp,
    /// It answers only after [`Webhook::release`].
    Stall,
    /// It answers with a body of so many bytes.
    Long(usize),
}

/// A server that runs until it is dropped.
pub(crate) struct Webhook {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    reaction: Arc<Mutex<Reaction>>,
    released: watch::Sender<bool>,
    /// The number of requests that were read, for those who wait for one.
    count: watch::Receiver<usize>,
    /// The number of connections that were accepted, and of those that were answered in full.
    accepted: watch::Receiver<usize>,
    answered: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Webhook {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reaction = Arc::new(Mutex::new(Reaction::Answer(200)));
        let (released, _) = watch::channel(false);
        let (counted, count) = watch::channel(0);
        let (accepts, accepted) = watch::channel(0);
        let (answers, answered) = watch::channel(0);
        let connection = {
            let (seen, reaction, released) = (Arc::clone(&seen), Arc::clone(&reaction), released.clone());
            move |stream: TcpStream| {
                let (seen, reaction, released) = (Arc::clone(&seen), Arc::clone(&reaction), released.subscribe());
                let (counted, answers) = (counted.clone(), answers.clone());
                async move {
                    let done = serve(stream, &seen, &reaction, released, &counted).await;
                    answers.send_modify(|count| *count += usize::from(done.is_some()));
                }
            }
        };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepts.send_modify(|count| *count += 1);
                tokio::spawn(connection(stream));
            }
        });
        Self { address, seen, reaction, released, count, accepted, answered, task }
    }

    /// Returns host and port.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Returns the entry of an allow-list for the server.
    pub(crate) fn target(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn react(&self, reaction: Reaction) {
        *self.reaction.lock().expect("no panic") = reaction;
    }

    /// Answers the requests that the server has not answered.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Returns how many requests had each body.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for Seen { body, .. } in self.seen() {
            *counts.entry(body).or_default() += 1;
        }
        counts
    }

    /// Waits until the server has read `count` requests.
    pub(crate) async fn has_read(&self, count: usize) {
        self.count.clone().wait_for(|read| *read >= count).await.expect("the server runs");
    }

    /// Waits until the server has accepted `count` connections.
    pub(crate) async fn has_accepted(&self, count: usize) {
        self.accepted.clone().wait_for(|accepted| *accepted >= count).await.expect("the server runs");
    }

    /// Waits until the server has sent `count` answers.
    pub(crate) async fn has_answered(&self, count: usize) {
        self.answered.clone().wait_for(|answered| *answered >= count).await.expect("the server runs");
    }

    /// Returns a function that waits on any thread until the server has read `count` requests.
    pub(crate) fn reader(&self, count: usize) -> impl FnOnce() + Send + use<> {
        let (mut read, runtime) = (self.count.clone(), tokio::runtime::Handle::current());
        move || {
            let waited = runtime.block_on(async { read.wait_for(|read| *read >= count).await.map(drop) });
            waited.expect("the server runs");
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    reaction: &Mutex<Reaction>,
    mut released: watch::Receiver<bool>,
    counted: &watch::Sender<usize>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    let key = header("idempotency-key").unwrap_or_default().to_owned();
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[head + 4..]).into_owned();
    seen.lock().expect("no panic").push(Seen { key, body });
    let reaction = *reaction.lock().expect("no panic");
    counted.send_modify(|count| *count += 1);
    let mut answer = b"thanks".to_vec();
    let status = match reaction {
        Reaction::Answer(status) => status,
        Reaction::Long(bytes) => {
            answer.resize(bytes, b' ');
            200
        }
        Reaction::HangUp => return None,
        Reaction::Stall => {
            released.wait_for(|released| *released).await.ok()?;
            200
        }
    };
    let head = format!("HTTP/1.1 {status} Done\r\nContent-Length: {}\r\n\r\n", answer.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&answer).await.ok()
}
