//! A server in this process, on a free port, with a data directory and a virtual clock; and a plain HTTP client.

use crate::rig::guest_bytes;
use futures::FutureExt;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Clock, SystemClock, Timestamp, VirtualClock};
use lifeboat_api::id::Epoch;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Kind, Request};
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::monitor::Admission;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::{DiskStorage, Storage};
use lifeboat_server::config::{Config, Overrides};
use lifeboat_server::{DRAINED_SILENCE_MAX, EventLog, Ground, Listener, Server, compose};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The password of the admin and of every other user.
pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) server: Server,
    pub(crate) events: Arc<EventLog>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    pub(crate) client: reqwest::Client,
}

impl Site {
    /// Starts a server over the directory at `path`, which is initialised if it is empty. `config` is the text of its
    /// configuration.
    pub(crate) async fn start(path: &Path, config: &str) -> Self {
        let storage = DiskStorage::create(&path.join("data")).expect("a directory");
        Self::start_on(Arc::new(storage), path, config).await
    }

    /// Does the same over any storage.
    pub(crate) async fn start_on(storage: Arc<dyn Storage>, path: &Path, config: &str) -> Self {
        let site = Self::starting(storage, path, config).await;
        site.server.begin();
        site
    }

    /// Does the same with a limit for the silence of clients after the last answer.
    pub(crate) async fn start_draining(path: &Path, config: &str, silence_max: Duration) -> Self {
        let storage = DiskStorage::create(&path.join("data")).expect("a directory");
        let site = Self::starting_with(Arc::new(storage), path, config, silence_max).await;
        site.server.begin();
        site
    }

    /// Does the same, but the server remains in its starting phase, although all services have been recovered.
    pub(crate) async fn starting(storage: Arc<dyn Storage>, path: &Path, config: &str) -> Self {
        Self::starting_with(storage, path, config, DRAINED_SILENCE_MAX).await
    }

    async fn starting_with(storage: Arc<dyn Storage>, path: &Path, config: &str, silence_max: Duration) -> Self {
        // Client and server share one process here, and some tests open thousands of connections.
        rlimit::increase_nofile_limit(16_384).expect("the limit can be asked for");
        let config = Config::parse("lifeboat.toml", config, path, &Overrides::default()).expect("a configuration");
        let clock = Arc::new(VirtualClock::new(Timestamp(1_700_000_000_000_000_000)));
        let locked = Locked::open(storage, Some(DirectoryId([1; 16]))).expect("free");
        let (directory, contents) = locked.open_journal(&DataOptions::default()).expect("whole");
        let ground = Ground {
            directory,
            credentials: BTreeMap::new(),
            code_cache: None,
            clock: Arc::clone(&clock) as _,
            last_sink: Arc::new(|_| {}),
            admission: Admission::default(),
            watch: |_, _| None,
        };
        let server = compose(config, ground).expect("a server");
        if server.accounts().list().is_empty() {
            server.accounts().add_user(&name("admin"), PASSWORD, true, clock.now(), &[1; 16]).expect("added");
        }
        let events = Arc::clone(server.events());
        server.host().recover(contents, || Epoch([1; 16])).await;
        let tls = config_tls(server.config());
        let has_tls = tls.is_some();
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), tls, false).await.expect("a port");
        let listener = listener.with_drained_silence(silence_max);
        let address = listener.address().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let of_task = server.clone();
        let serving = tokio::spawn(async move {
            of_task.serve(listener, async { drop(stopped.await) }, Duration::from_secs(60)).await;
        });
        // Another test may have installed it first.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder().no_proxy();
        if has_tls {
            let certificate = std::fs::read(tls_file("server.pem")).expect("readable");
            client = client.tls_certs_only([reqwest::Certificate::from_pem(&certificate).expect("PEM")]);
        }
        let client = client.build().expect("a client");
        Self {
            address,
            scheme: if has_tls { "https" } else { "http" },
            clock,
            server,
            events,
            stop: Some(stop),
            serving,
            client,
        }
    }

    /// Stops the server as SIGTERM does.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        // Idle connections are closed when their client is dropped.
        drop(std::mem::take(&mut self.client));
        self.serving.await.expect("it does not panic");
        self.server.host().stop().await.expect("sealed");
    }

    /// Puts a transaction into a service's queue without waiting for its answer.
    pub(crate) fn send(&self, token: &str, service: &str, id: &str, body: &str) {
        let by = self.server.host().authenticate(token).expect("the token is good");
        let request = Request { id: Some(id.to_owned()), body: body.to_owned().into(), kind: Kind::Transaction };
        let answered = self.server.host().request_as(&by, service, request).now_or_never();
        assert!(answered.is_none(), "{answered:?}");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(token)
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answered {
        Answered::of(self.request(Method::GET, path, token).send().await.expect("answered")).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: impl Into<reqwest::Body>) -> Answered {
        Answered::of(self.request(Method::POST, path, token).body(body).send().await.expect("answered")).await
    }

    pub(crate) async fn put(&self, path: &str, token: &str, body: impl Into<reqwest::Body>) -> Answered {
        Answered::of(self.request(Method::PUT, path, token).body(body).send().await.expect("answered")).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Answered {
        Answered::of(self.request(Method::DELETE, path, token).send().await.expect("answered")).await
    }

    /// Logs in and returns the token.
    pub(crate) async fn log_in(&self, user: &str) -> String {
        let body = serde_json::json!({"user": user, "password": PASSWORD}).to_string();
        let answered = self.post("/v1/login", "", body).await;
        assert_eq!(answered.status, 200, "{answered:?}");
        answered.json()["token"].as_str().expect("a token").to_owned()
    }

    /// Adds a user with grants on a service, and returns their token.
    pub(crate) async fn user(&self, admin: &str, user: &str, service: &str, grants: &[Grant]) -> String {
        let body = serde_json::json!({"user": user, "password": PASSWORD}).to_string();
        assert_eq!(self.post("/v1/users", admin, body).await.status, 201);
        for grant in grants {
            let path = format!("/v1/users/{user}/grants/{service}/{}", grant.word());
            assert_eq!(self.put(&path, admin, "").await.status, 204);
        }
        self.log_in(user).await
    }

    /// Deploys a guest of `tests/guests` or a prebuilt workload.
    pub(crate) async fn deploy(&self, admin: &str, service: &str, guest: &str, query: &str) {
        let answered = self.put(&format!("/v1/services/{service}?{query}"), admin, guest_bytes(guest)).await;
        assert_eq!(answered.status, 201, "{answered:?}");
    }

    /// Sends a transaction with an id.
    pub(crate) async fn transact(&self, token: &str, service: &str, id: &str, body: &str) -> Answered {
        let path = format!("/v1/services/{service}/transactions");
        let request = self.request(Method::POST, &path, token).header("Idempotency-Key", format!("\"{id}\""));
        Answered::of(request.body(body.to_owned()).send().await.expect("answered")).await
    }
}

#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("whole").to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("plain"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the events of a stream that does not follow.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        let data = self.text().lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).expect("an event is JSON")).collect()
    }

    /// Returns the code of a problem, or an empty text.
    pub(crate) fn code_or_empty(&self) -> String {
        if self.header("content-type") == "application/problem+json" { self.code() } else { String::new() }
    }

    /// Returns the code of a problem.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        self.json()["code"].as_str().expect("a code").to_owned()
    }
}

/// Returns the path of a file of `tests/tls`.
pub(crate) fn tls_file(name: &str) -> std::path::PathBuf {
    crate::util::root().join("tests/tls").join(name)
}

/// Returns the table of a configuration that names a certificate and its key.
pub(crate) fn tls_table(certificate: &Path, key: &Path) -> String {
    format!("[server.tls]\ncertificate = '{}'\nkey = '{}'\n", certificate.display(), key.display())
}

fn config_tls(config: &Config) -> Option<Arc<tokio_rustls::rustls::ServerConfig>> {
    let files = config.server.tls.as_ref()?;
    let loaded = lifeboat_server::tls::load(&files.certificate, &files.key, SystemClock.now());
    Some(loaded.expect("a certificate and its key").config)
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
