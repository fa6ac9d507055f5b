//! The server's cost of a transaction over HTTP, compared with a request to a server that echoes the body.
//!
//! Both servers are separate processes with a runtime like that of `lifeboat serve`. Only their CPU time counts, not
//! the client's.

#[path = "../shared/http.rs"]
mod connection;

use crate::child::{Child, wait_for_parent};
use crate::pairs::Pairs;
use crate::report::{Row, print};
use crate::served::start_in_memory;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use axum::serve::ListenerExt;
use connection::Connection;
use lifeboat_api::clock::{SystemClock, Timestamp};
use lifeboat_api::name::Name;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::monitor::Admission;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::DiskStorage;
use lifeboat_server::config::{Config, Overrides};
use lifeboat_server::{Ground, Listener, compose};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The number of connections, each with one request in flight.
const CONNECTIONS: u32 = 64;

/// The number of requests over each connection in one turn.
const REQUESTS: u32 = 150;

const PAIRS: usize = 51;

const BODY: &[u8] = b"1";

/// The name of the child that serves a service.
pub(crate) const SERVICE: &str = "http-service";

/// The name of the child that echoes each body.
pub(crate) const ECHO: &str = "http-echo";

/// Measures transactions whose ids the server creates, and those whose ids the client sends.
pub(crate) fn http() -> Vec<Row> {
    let (service, echo) = (Client::of(SERVICE), Client::of(ECHO));
    let measure = |name, has_ids, target| {
        let pairs = Pairs::measure(PAIRS, CONNECTIONS * REQUESTS, || service.turn(has_ids), || echo.turn(has_ids));
        Row { name, a: "server CPU, 64 connections", b: "axum echo, the same requests", pairs, target }
    };
    vec![
        measure("HTTP, an authenticated transaction", false, Some(2.5)),
        measure("HTTP, with ids from the client", true, None),
    ]
}

/// A client with its own server.
struct Client {
    child: Child,
    address: SocketAddr,
    head: String,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn of(server: &str) -> Self {
        let child = Child::start(server);
        let (address, token) = child.said.trim().split_once(' ').expect("an address and a token");
        let address = address.parse().expect("an address");
        let head = format!(
            "POST /v1/services/bench/transactions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n"
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { child, address, head, runtime }
    }

    /// Sends all requests, waits for the answers, and returns the server's CPU time.
    fn turn(&self, has_ids: bool) -> Duration {
        self.runtime.block_on(async {
            let connections = (0..CONNECTIONS).map(|_| Connection::open(self.address));
            let connections = futures::future::try_join_all(connections).await.expect("it listens");
            let before = self.child.cpu_time();
            let requests = connections.into_iter().enumerate().map(|(client, connection)| async move {
                let mut connection = connection;
                let turn = before.as_nanos();
                for request in 0..REQUESTS {
                    // The server's CPU time so far makes the ids of each turn unique.
                    let (status, body) = match has_ids {
                        false => connection.exchange(format_args!("{}", self.head), BODY).await,
                        true => {
                            let key = format_args!("{}Idempotency-Key: \"{turn}-{client}-{request}\"\r\n", self.head);
                            connection.exchange(key, BODY).await
                        }
                    }
                    .expect("it answers");
                    assert_eq!(status, 200, "{}", String::from_utf8_lossy(body));
                }
            });
            futures::future::join_all(requests).await;
            self.child.cpu_time() - before
        })
    }
}

/// Serves the trivial guest, in memory, until the parent drops this process.
pub(crate) fn serve_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let overrides = Overrides::default();
    let config = Config::parse("lifeboat.toml", "", folder.path(), &overrides).expect("a configuration");
    let storage = Arc::new(DiskStorage::create(folder.path()).expect("a directory"));
    let locked = Locked::open(storage, Some(DirectoryId([1; 16]))).expect("the directory is ours");
    let (directory, _) = locked.open_journal(&DataOptions::default()).expect("it is empty");
    let ground = Ground {
        directory,
        credentials: BTreeMap::new(),
        code_cache: None,
        clock: Arc::new(SystemClock),
        last_sink: Arc::new(|_| {}),
        admission: Admission::default(),
        watch: |_, _| None,
    };
    let server = compose(config, ground).expect("a server");
    let runtime = runtime();
    runtime.block_on(start_in_memory(server.host(), "bench", "count.wat"));
    let token = {
        let ada = Name::new("ada").expect("a name");
        let mut authority = server.host().authority();
        authority.add_user(&ada);
        authority.grant(&ada, &Name::new("bench").expect("a name"), lifeboat_api::access::Grant::Transact);
        authority.issue(&ada, Timestamp(u64::MAX), [1; 32]).expect("ada is known")
    };
    let _ = server.metrics().service(&Name::new("bench").expect("a name"));
    server.begin();
    runtime.spawn(async move {
        let listener = Listener::bind(ANY_PORT, None, false).await.expect("a port");
        print(&format!("{} {}", listener.address().expect("an address"), token.reveal()));
        server.serve(listener, std::future::pending(), Duration::ZERO).await;
    });
    wait_for_parent();
    runtime.shutdown_background();
}

/// Answers each request with its body, until the parent drops this process.
pub(crate) fn serve_echo() {
    let runtime = runtime();
    runtime.spawn(async {
        let listener = tokio::net::TcpListener::bind(ANY_PORT).await.expect("a port");
        print(&format!("{} token", listener.local_addr().expect("an address")));
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket"));
        let router = Router::new().route("/v1/services/{name}/transactions", post(async |body: Bytes| body));
        axum::serve(listener, router).await.expect("it does not end");
    });
    wait_for_parent();
    runtime.shutdown_background();
}

pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Builds a runtime like that of `lifeboat serve`.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
}
