//! The network of services: the cost of a recorded call and of its replay, calls at once, and services that wait.
//!
//! The servers are on loopback, on threads of their own in this process. The guest is `call.wat`.

use crate::disk::{BLOCK_BYTES, RawLog, scratch};
use crate::guests::{CALLER, caller};
use crate::http::{ANY_PORT, runtime};
use crate::neighbour::{TRANSACTIONS, p99};
use crate::pairs::{Pairs, Turns};
use crate::report::Row;
use crate::served::{Restored, Served, anonymous, network_to};
use axum::Router;
use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{CONNECTION, HOST};
use axum::serve::ListenerExt;
use futures::future::{Either, select};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use lifeboat_api::http::IDEMPOTENCY_KEY_HEADER;
use lifeboat_api::name::Name;
use lifeboat_journal::commit::{self, Change, Committer, Entry, Writer};
use lifeboat_journal::frame::{DirectoryId, RecordNumber};
use lifeboat_journal::segments::{Log, Options, Origin};
use lifeboat_journal::storage::DiskStorage;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, Semaphore, watch};

/// The number of turns with a disk. Up to half may prove to be disturbed.
const TURNS: usize = 31;

/// The number of transactions with a call in one turn, one after another.
const CALLS: u32 = 50;

/// The answer of a server.
const ANSWER: &str = "thanks";

/// The values of the control's request, as long as those of a service: the id of the transaction, and the key of the
/// call.
const ID: &str = "host-1000";
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The bytes of each record of the control. It takes one block of the journal, as the records of a call do.
const RECORD_BYTES: usize = 512;

/// How long a slow server takes for its answer.
const SLOW: Duration = Duration::from_millis(50);

/// What `call.wat` does: no call, one call, or 16 calls at once, as many as a service may make.
const NONE: &str = "0";
const ONE: &str = "1";
const SIXTEEN: &str = "@";

/// The mark of `call.wat` for a loop of 100,000 rounds at the end.
const WORK: &str = "~";

/// The number of replayed transactions: as many as cause no snapshot, of a guest that works and of one that does not.
const WORKING_TAIL: u32 = 300;
const IDLE_TAIL: u32 = 2_000;

/// The number of services that wait.
const WAITING: usize = 50;

/// The slots of each machine, enough for all of them, and the most bytes of memory of a VM.
const SLOTS: u32 = 64;
const MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// Measures transactions that each make one call, one after another. A program without a guest makes the same request
/// over hyper, and appends a record before and after.
pub(crate) fn call() -> Vec<Row> {
    struct Turn {
        service: Duration,
        appended: Duration,
        called: Duration,
        written: Duration,
    }
    let server = Server::start(|| std::future::ready(()));
    let io = runtime();
    let _within = io.enter();
    let scratch = scratch();
    let served = durable(&scratch.path().join("data"), &server);
    let body = server.body(ONE);
    let journal = Arc::new(Mutex::new(Journal::create(&scratch.path().join("control"))));
    let mut raw = RawLog::create(&scratch.path().join("raw"));
    let mut probed = RawLog::create(&scratch.path().join("probed"));
    let turns = Turns::measure(
        TURNS,
        || probed.probe(),
        || Turn {
            service: transact(&served, &body, CALLS),
            appended: {
                let (journal, address) = (Arc::clone(&journal), server.address);
                on(&io, async move {
                    let mut journal = journal.lock().await;
                    for _ in 0..CALLS {
                        journal.append().await;
                        request(address).await;
                        journal.append().await;
                    }
                })
            },
            called: {
                let address = server.address;
                on(&io, async move {
                    for _ in 0..CALLS {
                        request(address).await;
                    }
                })
            },
            written: raw.write(2 * u64::from(CALLS), BLOCK_BYTES),
        },
    );
    let row = |b, of: fn(&Turn) -> Duration, target| {
        let pairs = turns.pairs(CALLS, |turn| (turn.service, of(turn)));
        Row { name: "transaction with a call to loopback", a: "durable, 1 in flight", b, pairs, target }
    };
    vec![
        row("hyper, two appends to a journal", |turn| turn.appended, Some(1.3)),
        row("hyper, two of: write, fdatasync", |turn| turn.called + turn.written, None),
        row("hyper alone", |turn| turn.called, None),
    ]
}

/// Measures a transaction that makes 16 calls at once to a slow server, compared with one that makes one call.
pub(crate) fn at_once() -> Vec<Row> {
    let server = Server::start(|| tokio::time::sleep(SLOW));
    let io = runtime();
    let _within = io.enter();
    let scratch = scratch();
    let served = durable(&scratch.path().join("data"), &server);
    let (sixteen, one) = (server.body(SIXTEEN), server.body(ONE));
    let pairs = Pairs::measure(TURNS, 1, || transact(&served, &sixteen, 1), || transact(&served, &one, 1));
    let (a, b) = ("16 calls at once", "one call");
    vec![Row { name: "transaction, a server takes 50 ms", a, b, pairs, target: Some(1.3) }]
}

/// Measures the restart of a host whose service has a tail of transactions with a call each. The control has the same
/// service and guest, and transactions that make no call.
pub(crate) fn replay() -> Vec<Row> {
    let server = Server::start(|| std::future::ready(()));
    let io = runtime();
    let _within = io.enter();
    let measure = |name, work, tail, target| {
        let scratch = scratch();
        let [with, without] = [ONE, NONE].map(|calls| {
            let data = scratch.path().join(calls);
            transact(&durable(&data, &server), &server.body(&format!("{calls}{work}")), tail);
            data
        });
        let mut probed = RawLog::create(&scratch.path().join("probed"));
        let turns = Turns::measure(TURNS, || probed.probe(), || [restore(&with, tail), restore(&without, tail)]);
        let row = |b, of: fn(&Restored) -> Duration, target| {
            let pairs = turns.pairs(tail, |[with, without]| (of(with), of(without)));
            Row { name, a: "with a call each", b, pairs, target }
        };
        vec![
            row("without calls", |restored| restored.took, target),
            row("without calls, reading counts", |restored| restored.opened, None),
        ]
    };
    let mut rows = measure("replay, guest works and calls", WORK, WORKING_TAIL, Some(1.5));
    rows.extend(measure("replay, guest only calls", "", IDLE_TAIL, None));
    rows
}

/// Measures the 99th percentile of a neighbour's latencies while other services wait for a server.
pub(crate) fn neighbour() -> Vec<Row> {
    let gate = Arc::new(Gate { waiting: watch::Sender::default(), permits: Semaphore::new(0) });
    let server = Server::start({
        let gate = Arc::clone(&gate);
        move || Arc::clone(&gate).pass()
    });
    let io = runtime();
    let _within = io.enter();
    let served = Served::with_slots(SLOTS, MEMORY_BYTES);
    served.start("neighbour", &served.compile("count.wat"));
    let program = served.compile_bytes(CALLER, &caller());
    let waiting: Vec<String> = (0..WAITING).map(|service| format!("waits-{service}")).collect();
    waiting.iter().for_each(|service| served.start_calling(service, &program, server.address));

    let body = server.body(ONE);
    let requests = || (0..TRANSACTIONS).map(|_| anonymous(b"1".as_slice()));
    let beside = || {
        let others = (waiting.as_slice(), body.as_str());
        p99(served.latencies_while("neighbour", requests(), others, gate.is_full(), || gate.open()))
    };
    let alone = || p99(served.latencies_beside("neighbour", requests(), &[]));
    let pairs = Pairs::measure(TURNS, 1, beside, alone);
    let (a, b) = ("50 wait for the network", "alone");
    vec![Row { name: "p99 of a neighbour, one at a time", a, b, pairs, target: Some(1.2) }]
}

/// A server that runs until it is dropped.
struct Server {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    /// Starts a server that answers every request once a future of `ready` is over.
    fn start<F>(ready: impl Fn() -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
        let listener = runtime.block_on(TcpListener::bind(ANY_PORT)).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket"));
        let router = Router::new().fallback(move |_: Bytes| {
            let ready = ready();
            async move {
                ready.await;
                ANSWER
            }
        });
        runtime.spawn(async { axum::serve(listener, router).await });
        Self { address, _runtime: runtime }
    }

    /// Returns the body with which `call.wat` does `what`, with calls to this server.
    fn body(&self, what: &str) -> String {
        format!("{what}{}", self.address)
    }
}

/// Where requests wait until [`WAITING`] of them are there and the gate is opened.
struct Gate {
    waiting: watch::Sender<usize>,
    permits: Semaphore,
}

impl Gate {
    async fn pass(self: Arc<Self>) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.permits.acquire().await.expect("it is never closed").forget();
    }

    /// Waits until all are there.
    async fn is_full(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting == WAITING).await.expect("the sender is here");
    }

    fn open(&self) {
        self.waiting.send_replace(0);
        self.permits.add_permits(WAITING);
    }
}

/// A journal without a host.
struct Journal {
    committer: Committer,
    _writer: Writer,
    service: Name,
    last: u64,
}

impl Journal {
    fn create(path: &Path) -> Self {
        let storage = Arc::new(DiskStorage::create(path).expect("a directory"));
        let (log, _) =
            Log::open(storage, Options::new(DirectoryId([7; 16])), Origin::Create, &mut |_| {}).expect("a log");
        let (writer, committer) = commit::start(log, commit::QUEUE_BYTES_MAX).expect("a thread");
        Self { committer, _writer: writer, service: Name::new("control").expect("a name"), last: 0 }
    }

    /// Appends a record, and waits until it is durable.
    async fn append(&mut self) {
        self.last += 1;
        let (number, record) = (RecordNumber(self.last), vec![b'r'; RECORD_BYTES]);
        let change =
            if self.last == 1 { Change::Begin { number, record } } else { Change::Continue { number, record } };
        let entry = Entry { service: self.service.clone(), change };
        let ticket = self.committer.submit(entry, None).expect("the journal takes it");
        ticket.committed().await.expect("the disk works");
    }
}

/// Starts `call.wat` as a durable service that may call `server`.
fn durable(data: &Path, server: &Server) -> Served {
    let served = Served::durable(data);
    served.start_durable_with("calls", CALLER, caller(), network_to(server.address));
    served
}

/// Sends `count` transactions, one after another, and returns the elapsed time.
fn transact(served: &Served, body: &str, count: u32) -> Duration {
    let requests: Vec<_> = (0..count).map(|_| anonymous(body.to_owned())).collect();
    let answered = served.transact("calls", requests, 1);
    assert_eq!(answered.failed, 0, "each call is answered");
    answered.elapsed
}

/// Recovers a service whose tail has `tail` transactions.
fn restore(data: &Path, tail: u32) -> Restored {
    let restored = Served::durable(data).restored();
    assert_eq!(restored.replayed_transactions, u64::from(tail), "the tail is replayed as it was");
    restored
}

/// Runs `work` in a task of `runtime`, as the host runs its calls, and returns the elapsed time.
fn on(runtime: &Runtime, work: impl Future<Output = ()> + Send + 'static) -> Duration {
    let task = runtime.spawn(async {
        let start = Instant::now();
        work.await;
        start.elapsed()
    });
    runtime.block_on(task).expect("it does not panic")
}

/// Makes the request that `call.wat` makes, on a connection of its own, as the host does.
async fn request(address: SocketAddr) {
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    let request = Request::post("/")
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .header(IDEMPOTENCY_KEY_HEADER, KEY)
        .body(Full::new(Bytes::from_static(ID.as_bytes())))
        .expect("a request");
    let response = async {
        let response = sender.send_request(request).await.expect("it answers");
        response.into_body().collect().await.expect("the answer is whole").to_bytes()
    };
    let body = match select(pin!(response), pin!(connection)).await {
        Either::Left((body, _)) => body,
        Either::Right((_, response)) => response.await,
    };
    assert_eq!(body, ANSWER);
}
