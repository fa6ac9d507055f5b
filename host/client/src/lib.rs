//! The client of the HTTP API, for Rust programs. The command line uses it too.
//!
//! ```text
//!   lib.rs           requests and their replies
//!   error.rs         errors and their remedies
//!   answer.rs        the answers to transactions
//!   batch.rs         many transactions, over as many connections as necessary
//!   batch/window.rs  the unanswered lines of a batch
//!   batch/silence.rs the time limit of a server that owes answers
//!   ids.rs           ids of lines that have none
//!   events.rs        events, over as many connections as necessary
//!   sse.rs           the format of event streams
//!   profile.rs       the server, the user and the token
//! ```
//!
//! A token is only sent to the server that the client was created for: the client follows no redirects and uses no
//! proxy. Futures may be dropped at any point. A look-up by id then shows whether a transaction that was sent was
//! executed.

mod answer;
mod batch;
mod error;
mod events;
mod ids;
mod profile;
mod sse;

pub use answer::{Answer, Found};
pub use batch::{BATCH_SILENCE_MAX, Batch, BatchAnswer, Progress, WINDOW_BYTES_MAX, WINDOW_LINES_MAX};
pub use error::{Backoff, ClientError, RETRY_AFTER_MAX};
pub use events::{Event, EventFilter, SILENCE_MAX};
pub use ids::{ID_BLOCK_AGE_MAX, ID_BLOCK_LINES_MAX, IdBlock, LineIds, uuid_v7};
pub use profile::{PROFILE_BYTES_MAX, Profile, ProfileError};
pub use sse::{EVENT_BYTES_MAX, Frame, Parser, TooLong};

use bytes::{Bytes, BytesMut};
use lifeboat_api::http::{
    AllUsage, Deployment, DiskListing, Doubt, Doubts, DropReply, DropRequest, FILE_BYTES_HEADER,
    IDEMPOTENCY_KEY_HEADER, LogInReply, LogInRequest, NewPassword, NewUser, SEQUENCE_HEADER, Service, Services,
    SettleRequest, Usage, User, Users, WhoAmI,
};
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_api::text::of_system;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, Request, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;

/// The longest time that a connection may take to be established, including TLS.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// The longest time that a request may take if it executes nothing.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);

/// The longest time that a transaction, a query, or an operation that waits for one may take.
///
/// It is several times the longest deadline of the built-in sizes, since other requests may precede it in the queue.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);

/// The longest time that a deployment may take, including upload and compilation.
pub const DEPLOY_TIME_MAX: Duration = Duration::from_secs(600);

/// The default backoff while a server is starting or nothing listens yet: about two minutes for any request.
pub const STARTING_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5), failures_max: 30 };

/// The maximum length of a reply, in bytes.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The address of a server, and the certificates that identify it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The URL, such as `https://lifeboat.example.org`. A path in it becomes a prefix.
    pub url: String,
    /// A PEM file of certificate authorities to trust in addition to those of the system.
    pub ca: Option<PathBuf>,
}

impl Server {
    /// Returns whether two URLs name the same server, whatever their spelling. An invalid URL names none.
    #[must_use]
    pub fn is_same(one: &str, other: &str) -> bool {
        let canonical = |url: &str| base(url).map(|url| url.as_str().trim_end_matches('/').to_owned());
        matches!((canonical(one), canonical(other)), (Ok(one), Ok(other)) if one == other)
    }
}

/// A client of one server, for one user or without a user. Clones share their connections.
///
/// Every request waits for a server that is starting ([`STARTING_BACKOFF`]), and for one where nothing listens yet
/// ([`Client::with_patience`]). Any other failure ends a request. [`Client::transact_until_known`],
/// [`Client::ask_until_answered`], [`Client::batch`] and [`Client::events`] continue after other failures.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<HeaderValue>,
    patience: Backoff,
    waiting: Arc<Waiting>,
}

/// A part of a file on the virtual disk of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The last transaction that the part shows.
    pub sequence: u64,
    /// The length of the file, in bytes.
    pub file_bytes: u64,
    /// The version of the file. Parts with the same version belong together.
    pub version: String,
    /// The bytes, none at the end of the file.
    pub bytes: Bytes,
}

/// The maximum number of runs of a transaction that fails for a cause on the host's side. Each run costs as much as the
/// first.
pub const RETRYABLE_RUNS_MAX: u32 = 3;

/// A notice of a client while it has no result.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// The client waits for the server, for this reason. It is sent once until the server is back.
    Waiting(&'a ClientError),
    /// The server that the client waited for is back.
    Back,
    /// A transaction failed for a cause on the host's side, such as its deadline, and is sent once more.
    RunsAgain(&'a Answer),
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.base.as_str())
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    sent: Sent,
}

/// The properties of a request that matter if no answer arrives.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// Whether the request may have changed something.
    may_be_done: bool,
    /// The longest time that the request may take, or `None` if only silences are limited.
    time_max: Option<Duration>,
}

impl Sent {
    /// A stream that only reads.
    const READING_STREAM: Self = Self { may_be_done: false, time_max: None };
    /// A stream that changes something.
    const WRITING_STREAM: Self = Self { may_be_done: true, time_max: None };

    fn of(request: &Request) -> Self {
        let is_query = request.method() == Method::POST && request.url().path().ends_with("/query");
        let only_reads = request.method() == Method::GET || is_query;
        Self { may_be_done: !only_reads, time_max: request.timeout().copied() }
    }
}

impl Client {
    /// Creates a client. It does not connect yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] if the URL, the certificates or the token cannot be used.
    pub fn new(server: &Server, token: Option<&str>) -> Result<Self, ClientError> {
        let base = base(&server.url)?;
        // If the program has installed a provider before, that one stays.
        let _ = ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIME_MAX);
        let builder = match (base.scheme(), &server.ca) {
            // For plain HTTP, the system's certificates are not even read.
            ("http", _) => builder.tls_certs_only([]),
            (_, None) => builder,
            (_, Some(file)) => builder.tls_certs_merge(certificates(file)?),
        };
        let http = builder
            .build()
            .map_err(|error| ClientError::Setup(format!("cannot set up TLS: {}", error::root_cause(&error))))?;
        let token = token.map(bearer).transpose()?;
        Ok(Self { http, base, token, patience: STARTING_BACKOFF, waiting: Waiting::new(|_| {}) })
    }

    /// Sets the receiver of notices that the client waits for a server, and that the server is back. A [`Batch`]
    /// reports its retries itself.
    #[must_use]
    pub fn with_notice(self, notice: impl Fn(Notice<'_>) + Send + Sync + 'static) -> Self {
        Self { waiting: Waiting::new(notice), ..self }
    }

    /// Sets the number of attempts to reach a server where nothing listens. Methods with a [`Backoff`] parameter use
    /// that instead.
    #[must_use]
    pub fn with_patience(self, patience: Backoff) -> Self {
        Self { patience, ..self }
    }

    /// Returns the URL of the server, in the canonical spelling.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Returns whether others may read what is sent, including passwords: it is not encrypted and may leave this
    /// machine.
    #[must_use]
    pub fn is_in_the_clear(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_loopback =
            host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
        self.base.scheme() == "http" && !is_loopback
    }

    /// Requests a token. This client does not use it; create another client with it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn log_in(&self, user: &str, password: &str) -> Result<LogInReply, ClientError> {
        let request = LogInRequest { user: user.into(), password: password.into() };
        self.json(self.request(Method::POST, &["login"])?.json(&request)).await
    }

    /// Makes the token void.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn log_out(&self) -> Result<(), ClientError> {
        self.done(self.request(Method::POST, &["logout"])?).await
    }

    /// Returns the user of the token.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn who_am_i(&self) -> Result<WhoAmI, ClientError> {
        self.json(self.request(Method::GET, &["whoami"])?).await
    }

    /// Returns all users, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn users(&self) -> Result<Vec<User>, ClientError> {
        let Users { users } = self.json(self.request(Method::GET, &["users"])?).await?;
        Ok(users)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_user(&self, user: &str, password: &str, is_admin: bool) -> Result<User, ClientError> {
        let new = NewUser { user: user.into(), password: password.into(), is_admin };
        self.json(self.request(Method::POST, &["users"])?.json(&new)).await
    }

    /// Changes the password of a user, which makes all tokens of the user void. A user's own password requires the
    /// `old` one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_password(&self, user: &str, password: &str, old: Option<&str>) -> Result<(), ClientError> {
        let new = NewPassword { password: password.into(), old: old.map(str::to_owned) };
        self.done(self.request(Method::PUT, &["users", user, "password"])?.json(&new)).await
    }

    /// Grants a user `transact`, `observe` or `operate` on a service.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn grant(&self, user: &str, service: &str, grant: &str) -> Result<(), ClientError> {
        self.done(self.request(Method::PUT, &["users", user, "grants", service, grant])?).await
    }

    /// Revokes a grant.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke(&self, user: &str, service: &str, grant: &str) -> Result<(), ClientError> {
        self.done(self.request(Method::DELETE, &["users", user, "grants", service, grant])?).await
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_user(&self, user: &str) -> Result<(), ClientError> {
        self.done(self.request(Method::DELETE, &["users", user])?).await
    }

    /// Returns the services on which the user has a grant, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        let Services { services } = self.json(self.request(Method::GET, &["services"])?).await?;
        Ok(services)
    }

    /// Returns a service.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn service(&self, service: &str) -> Result<Service, ClientError> {
        self.json(self.request(Method::GET, &["services", service])?).await
    }

    /// Deploys a workload, given as its bytes, as a new service.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn deploy(
        &self,
        service: &str,
        workload: Bytes,
        deployment: &Deployment,
    ) -> Result<Service, ClientError> {
        self.create(service, "application/wasm", workload, deployment, &[]).await
    }

    /// Deploys a new service that begins with files. The tar archive has the workload as `workload`, and the files below
    /// `disk/`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn deploy_archive(
        &self,
        service: &str,
        archive: Bytes,
        deployment: &Deployment,
    ) -> Result<Service, ClientError> {
        self.create(service, "application/x-tar", archive, deployment, &[("archive", "tar")]).await
    }

    async fn create(
        &self,
        service: &str,
        content_type: &str,
        body: Bytes,
        deployment: &Deployment,
        more: &[(&str, &str)],
    ) -> Result<Service, ClientError> {
        let request = self.request(Method::PUT, &["services", service])?.query(deployment).query(more);
        let request = request.header(CONTENT_TYPE, content_type).timeout(DEPLOY_TIME_MAX);
        self.json(request.body(body)).await
    }

    /// Removes a service and its history permanently.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, service: &str) -> Result<(), ClientError> {
        self.done(self.request(Method::DELETE, &["services", service])?).await
    }

    /// Takes a snapshot of a service and releases its VM.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stop(&self, service: &str) -> Result<Service, ClientError> {
        self.operate(service, "stop").await
    }

    /// Starts a service that was stopped or quarantined.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(&self, service: &str) -> Result<Service, ClientError> {
        self.operate(service, "start").await
    }

    /// Moves a service to a fresh VM.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fail_over(&self, service: &str) -> Result<Service, ClientError> {
        self.operate(service, "failover").await
    }

    /// Takes a snapshot of a service.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot(&self, service: &str) -> Result<Service, ClientError> {
        self.operate(service, "snapshot").await
    }

    /// Removes the queued requests of a user from the queue of a service, or only those with this id. Returns their
    /// number. They are denied and were not executed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn drop_queued(&self, service: &str, user: &str, id: Option<&str>) -> Result<usize, ClientError> {
        let what = DropRequest { user: user.to_owned(), id: id.map(str::to_owned) };
        let reply: DropReply =
            self.json(self.request(Method::POST, &["services", service, "drop"])?.json(&what)).await?;
        Ok(reply.dropped)
    }

    /// Lists the calls in doubt of a service, in the order of their transactions.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn doubts(&self, service: &str) -> Result<Vec<Doubt>, ClientError> {
        let doubts: Doubts = self.json(self.request(Method::GET, &["services", service, "doubts"])?).await?;
        Ok(doubts.doubts)
    }

    /// Settles a call in doubt. Returns those that are still in doubt.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn settle(&self, service: &str, what: &SettleRequest) -> Result<Vec<Doubt>, ClientError> {
        let request = self.request(Method::POST, &["services", service, "doubts"])?.json(what);
        let doubts: Doubts = self.json(request).await?;
        Ok(doubts.doubts)
    }

    /// Lists a directory on the virtual disk of a service, or shows one file: the entries whose names come after
    /// `after`. A long directory has a [`DiskListing::next`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_disk(&self, service: &str, path: &str, after: Option<&str>) -> Result<DiskListing, ClientError> {
        let request = self.request(Method::GET, &["services", service, "disk"])?.query(&[("path", path)]);
        self.json(match after {
            Some(after) => request.query(&[("after", after)]),
            None => request,
        })
        .await
    }

    /// Reads a part of a file on the virtual disk of a service, from `offset` on: up to 1 MiB, and nothing at the end of
    /// the file. With the `version` of an earlier part, the part is of the same contents.
    ///
    /// # Errors
    /// [`ClientError`]. [`ClientError::Problem`] with the code `file_changed` if the file has another version by now.
    pub async fn read_disk(
        &self,
        service: &str,
        path: &str,
        offset: u64,
        version: Option<&str>,
    ) -> Result<FilePart, ClientError> {
        let request = self.request(Method::GET, &["services", service, "disk", "file"])?;
        let request = request.query(&[("path", path)]).query(&[("offset", offset)]);
        let reply = self
            .reply(match version {
                Some(version) => request.header(IF_MATCH, version),
                None => request,
            })
            .await?;
        if !reply.status.is_success() {
            return Err(self.problem(&reply));
        }
        self.check_content(reply.status, &reply.headers, "application/octet-stream")?;
        let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name: &str| text(name)?.parse().ok();
        match (number(SEQUENCE_HEADER), number(FILE_BYTES_HEADER), text(ETAG.as_str())) {
            (Some(sequence), Some(file_bytes), Some(version)) => {
                Ok(FilePart { sequence, file_bytes, version: version.to_owned(), bytes: reply.body })
            }
            _ => Err(self.bad_reply("it lacks a header of the part of a file".into())),
        }
    }

    async fn operate(&self, service: &str, verb: &str) -> Result<Service, ClientError> {
        self.json(self.request(Method::POST, &["services", service, verb])?.timeout(ANSWER_TIME_MAX)).await
    }

    /// Sends a transaction once. Without an id, its outcome cannot be determined if the answer is lost.
    ///
    /// # Errors
    /// [`ClientError`]. After [`ClientError::Interrupted`], the transaction may have been executed: use
    /// [`Client::look_up`].
    pub async fn transact(&self, service: &str, id: Option<&str>, body: Bytes) -> Result<Answer, ClientError> {
        let mut request = self.request(Method::POST, &["services", service, "transactions"])?.timeout(ANSWER_TIME_MAX);
        if let Some(id) = id {
            request = request.header(IDEMPOTENCY_KEY_HEADER, answer::key(id)?);
        }
        let reply = self.reply(request.body(body)).await?;
        answer::read(&reply.headers, reply.body.clone()).map_or_else(|| Err(self.problem(&reply)), Ok)
    }

    /// Sends a transaction until its answer is known.
    ///
    /// It retries after a broken connection, when the server asks to retry later, and when nothing listens. The id
    /// ensures that the transaction is executed once, however often it is sent. If the first attempt cannot reach the
    /// server for another reason, there is no retry. A server that is starting is awaited no longer than by any other
    /// request.
    ///
    /// # Errors
    /// The last [`ClientError`], once `backoff` allows no more attempts or a retry would end the same way. After
    /// [`ClientError::Interrupted`] and [`ClientError::BadReply`], the transaction may have been executed: use
    /// [`Client::look_up`].
    pub async fn transact_until_known(
        &self,
        service: &str,
        id: &str,
        body: Bytes,
        backoff: &Backoff,
    ) -> Result<Answer, ClientError> {
        // The result of a later attempt does not undo what an earlier one may have done.
        let (mut may_be_done, mut runs) = (false, 0);
        let once = self.clone().with_patience(Backoff { failures_max: 1, ..*backoff });
        for failures in 1.. {
            let sent = once.transact(service, Some(id), body.clone()).await;
            let sent = sent.map_err(|error| error.after_attempts(failures));
            let least = match &sent {
                Ok(answer) => {
                    runs += 1;
                    answer.retry_after.filter(|_| runs < RETRYABLE_RUNS_MAX)
                }
                Err(ClientError::Unreachable { .. }) if failures == 1 => None,
                Err(error) if error.is_starting() => None,
                Err(error) if error.is_retryable() => Some(error.retry_after().unwrap_or_default()),
                Err(_) => None,
            };
            may_be_done |= match &sent {
                Err(ClientError::Interrupted { .. } | ClientError::BadReply { .. }) => true,
                Err(ClientError::Problem { code, .. }) => matches!(&**code, "outcome_unknown" | "internal"),
                _ => false,
            };
            let wait = least.and_then(|least| backoff.delay(failures).map(|delay| delay.max(least)));
            let Some(wait) = wait else {
                return match sent {
                    // A gateway has error codes of its own, and may have forwarded the request to a Lifeboat server.
                    Err(error)
                        if may_be_done
                            && !error.is_in_doubt()
                            && !matches!(error, ClientError::Interrupted { .. } | ClientError::BadReply { .. }) =>
                    {
                        Err(ClientError::Interrupted { url: self.url().into(), reason: error.to_string(), may_be_done })
                    }
                    sent => sent,
                };
            };
            match &sent {
                Err(error) => self.waiting.begins(error),
                Ok(answer) => (self.waiting.notice)(Notice::RunsAgain(answer)),
            }
            tokio::time::sleep(wait).await;
        }
        unreachable!("there are no more attempts than numbers")
    }

    /// Sends a query to a service. A query changes nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn query(&self, service: &str, body: Bytes) -> Result<Answer, ClientError> {
        let request = self.request(Method::POST, &["services", service, "query"])?.timeout(ANSWER_TIME_MAX);
        let reply = self.reply(request.body(body)).await?;
        answer::read(&reply.headers, reply.body.clone()).map_or_else(|| Err(self.problem(&reply)), Ok)
    }

    /// Looks up the answer to one of the user's own transactions.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn look_up(&self, service: &str, id: &str) -> Result<Found, ClientError> {
        let reply = self.reply(self.request(Method::GET, &["services", service, "transactions", id])?).await?;
        if let Some(answer) = answer::read(&reply.headers, reply.body.clone()) {
            return Ok(Found::Answered(answer));
        }
        if reply.status == StatusCode::ACCEPTED {
            self.check_content(reply.status, &reply.headers, JSON)?;
            return Ok(Found::Pending);
        }
        match self.problem(&reply) {
            ClientError::Problem { code, .. } if code == "unknown" => Ok(Found::Unknown),
            error => Err(error),
        }
    }

    /// Returns what a service used and did since the server started.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn usage(&self, service: &str) -> Result<Usage, ClientError> {
        self.json(self.request(Method::GET, &["services", service, "usage"])?).await
    }

    /// Returns the same for every service that the user may observe, and for the host if the user is an admin.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn all_usage(&self) -> Result<AllUsage, ClientError> {
        self.json(self.request(Method::GET, &["usage"])?).await
    }

    /// Calls `ask`, which must change nothing, until it returns an answer.
    ///
    /// It retries when the connection breaks or the server asks to retry later, up to `backoff` failures in a row. Each
    /// call of `ask` itself waits for a server that is starting or where nothing listens ([`Client::with_patience`]).
    ///
    /// # Errors
    /// The last [`ClientError`], once there are no more attempts or a retry would end the same way.
    pub async fn ask_until_answered<T>(
        &self,
        ask: impl AsyncFn() -> Result<T, ClientError>,
        backoff: &Backoff,
    ) -> Result<T, ClientError> {
        for failures in 1.. {
            let asked = ask().await;
            let delay = match &asked {
                Err(ClientError::Refused { .. }) | Ok(_) => return asked,
                Err(error) if error.is_starting() => return asked,
                Err(error) if error.is_retryable() => {
                    backoff.delay(failures).map(|delay| (error, delay.max(error.retry_after().unwrap_or_default())))
                }
                Err(_) => None,
            };
            let Some((error, delay)) = delay else { return asked };
            self.waiting.begins(error);
            tokio::time::sleep(delay).await;
        }
        unreachable!("there are no more attempts than numbers")
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, ClientError> {
        Ok(self.untimed_request(method, path)?.timeout(REQUEST_TIME_MAX))
    }

    fn untimed_request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, ClientError> {
        // No encoding lets a URL path contain these parts: the remaining path would name something else.
        if let Some(part) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(ClientError::Setup(format!("'{part}' cannot be part of the path of a URL; use another name")));
        }
        let mut url = self.base.clone();
        // The URL has a host, and therefore path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        })
    }

    /// Sends a request and reads the whole reply. A server that is starting or unreachable has done nothing, so the
    /// request is repeated.
    async fn reply(&self, request: RequestBuilder) -> Result<Reply, ClientError> {
        let mut request = request.build().map_err(|error| ClientError::Setup(error::root_cause(&error)))?;
        let of_request = Sent::of(&request);
        // Each cause has a backoff of its own, since one may follow the other.
        let (mut refusals, mut startings) = (0, 0);
        loop {
            let again = request.try_clone();
            let sent = match self.http.execute(request).await {
                Ok(response) => Ok(self.read(response, of_request).await?),
                Err(error) => Err(self.broken(&error, of_request).after_attempts(refusals + 1)),
            };
            let starting = match &sent {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {
                    Some(self.problem(reply)).filter(ClientError::is_starting)
                }
                _ => None,
            };
            let (error, delay) = match (&sent, &starting) {
                (_, Some(error)) => {
                    startings += 1;
                    (error, STARTING_BACKOFF.delay(startings))
                }
                (Err(error @ ClientError::Refused { .. }), None) => {
                    refusals += 1;
                    (error, self.patience.delay(refusals))
                }
                (Ok(reply), None) => {
                    // A server that is stopping or too busy asks to retry later.
                    if error::retry_after(&reply.headers).is_none() {
                        self.waiting.is_over();
                    }
                    return sent;
                }
                (Err(_), None) => return sent,
            };
            let (Some(again), Some(delay)) = (again, delay) else { return sent };
            self.waiting.begins(error);
            tokio::time::sleep(delay.max(error.retry_after().unwrap_or_default())).await;
            request = again;
        }
    }

    async fn read(&self, mut response: Response, sent: Sent) -> Result<Reply, ClientError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error, sent))? {
            if body.len() + chunk.len() > REPLY_BYTES_MAX {
                return Err(self.bad_reply(format!("it is longer than {REPLY_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        Ok(Reply { status, headers, body: body.freeze(), sent })
    }

    /// Sends a request whose reply is a stream of this media type. A problem is read and returned.
    async fn open(&self, request: RequestBuilder, content_type: &str, sent: Sent) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.broken(&error, sent))?;
        if response.status().is_success() {
            self.check_content(response.status(), response.headers(), content_type)?;
            return Ok(response);
        }
        let reply = self.read(response, sent).await?;
        Err(self.problem(&reply))
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = self.success(request, JSON).await?;
        serde_json::from_slice(&body).map_err(|error| self.bad_reply(error::json_reason(&error)))
    }

    /// Sends a request whose success has no content.
    ///
    /// Any HTTP server may give such an answer. Therefore the client first asks for the user of the token, which only a
    /// Lifeboat server knows.
    async fn done(&self, request: RequestBuilder) -> Result<(), ClientError> {
        self.who_am_i().await?;
        self.success(request, "").await.map(drop)
    }

    /// Sends a request whose success has content of this media type, or no content if it is empty.
    async fn success(&self, request: RequestBuilder, content_type: &str) -> Result<Bytes, ClientError> {
        let reply = self.reply(request).await?;
        if !reply.status.is_success() {
            return Err(self.problem(&reply));
        }
        self.check_content(reply.status, &reply.headers, content_type)?;
        Ok(reply.body)
    }

    fn check_content(&self, status: StatusCode, headers: &HeaderMap, content_type: &str) -> Result<(), ClientError> {
        error::check_content(status, headers, content_type).map_err(|reason| self.bad_reply(reason))
    }

    fn broken(&self, error: &reqwest::Error, sent: Sent) -> ClientError {
        let (url, reason) = (self.url().to_owned(), error::reason(error, sent.time_max));
        if error.is_connect() && error::is_refused(error) {
            ClientError::Refused { url, attempts: 1 }
        } else if error.is_connect() {
            ClientError::Unreachable { url, reason }
        } else {
            let hint = if url.starts_with("http:") && reason == error::NO_HTTP {
                "; try https:// if the server has a certificate"
            } else {
                ""
            };
            ClientError::Interrupted { url, reason: reason + hint, may_be_done: sent.may_be_done }
        }
    }

    fn bad_reply(&self, reason: String) -> ClientError {
        ClientError::BadReply { url: self.url().to_owned(), reason }
    }

    fn problem(&self, reply: &Reply) -> ClientError {
        error::problem(self.url(), reply.status, &reply.headers, &reply.body, reply.sent.may_be_done)
    }
}

/// The media type of most replies.
const JSON: &str = "application/json";

/// Reports once that the client waits for the server, and once that it is back, for all requests together.
struct Waiting {
    notice: Box<dyn Fn(Notice<'_>) + Send + Sync>,
    is_reported: AtomicBool,
}

impl Waiting {
    fn new(notice: impl Fn(Notice<'_>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { notice: Box::new(notice), is_reported: AtomicBool::new(false) })
    }

    fn begins(&self, error: &ClientError) {
        if !self.is_reported.swap(true, Ordering::Relaxed) {
            (self.notice)(Notice::Waiting(error));
        }
    }

    fn is_over(&self) {
        if self.is_reported.swap(false, Ordering::Relaxed) {
            (self.notice)(Notice::Back);
        }
    }
}

/// Returns the header with the token.
fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let value = HeaderValue::try_from(format!("Bearer {token}")).ok();
    let value = value.filter(|_| token.bytes().all(|byte| byte.is_ascii_graphic()));
    let mut value = value.ok_or_else(|| {
        ClientError::Setup(
            "the token has characters that are not valid in a token; log in again: lifeboat login".into(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The maximum length of a file of certificates to trust, in bytes.
pub const CA_BYTES_MAX: u64 = 1024 * 1024;

/// Parses the URL of a server.
fn base(url: &str) -> Result<Url, ClientError> {
    let wrong = |reason: &str| {
        let shown = url.escape_debug();
        ClientError::Setup(format!(
            "server '{shown}': {reason}; write it as http://127.0.0.1:7098 or https://lifeboat.example.org"
        ))
    };
    // Whatever is wrong with the URL, the text before an @ is not shown.
    if url.contains('@') {
        return Err(ClientError::Setup(
            "the URL of the server contains a user or a password; leave them out, and log in with lifeboat login"
                .into(),
        ));
    }
    if !url.contains(':') || url.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong("it does not begin with http:// or https://"));
    }
    let parsed = Url::parse(url).map_err(|error| wrong(url_reason(&error.to_string())))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("it is neither http nor https"));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("it has a query or a fragment after the path"));
    }
    Ok(parsed)
}

/// Returns why a text is no URL, derived from the library's message.
fn url_reason(of_library: &str) -> &'static str {
    match of_library {
        "empty host" => "it names no host",
        "invalid port number" => "its port is not a number from 0 to 65535",
        "invalid IPv4 address" => "its host looks like an IPv4 address, but is not valid",
        "invalid IPv6 address" => "its host looks like an IPv6 address, but is not valid",
        "invalid international domain name" | "invalid domain character" => {
            "its host has characters that are not valid in a name"
        }
        _ => "it is not a URL",
    }
}

fn certificates(file: &std::path::Path) -> Result<Vec<Certificate>, ClientError> {
    let wrong = |reason: String| {
        let shown = file.display().to_string();
        ClientError::Setup(format!(
            "certificates '{}' cannot be used: {reason}; name a file of certificates (PEM) with --ca",
            shown.escape_debug()
        ))
    };
    let mut pem = Vec::new();
    let read = File::open(file).and_then(|file| file.take(CA_BYTES_MAX + 1).read_to_end(&mut pem));
    read.map_err(|error| wrong(of_system(&error)))?;
    if pem.len() as u64 > CA_BYTES_MAX {
        return Err(wrong(format!("it is longer than {}", ByteCount(CA_BYTES_MAX))));
    }
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error::root_cause(&error)))?;
    if certificates.is_empty() {
        return Err(wrong("it contains no certificate".into()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, ClientError> {
        Client::new(&Server { url: url.into(), ca: None }, Some("lifeboat_secret"))
    }

    #[test]
    fn a_url_that_names_no_server_is_refused_with_its_fault() {
        for (wrong, word) in [
            ("127.0.0.1:7098", "does not begin with http://"),
            ("lifeboat.example.org", "does not begin with http://"),
            ("localhost:7098", "neither http nor https"),
            ("ftp://a", "neither http nor https"),
            ("http://", "names no host"),
            ("http://:80", "names no host"),
            ("http://a:99999", "port is not a number"),
            ("http://a b", "characters that are not valid in a name"),
            ("http://[::1", "looks like an IPv6 address, but is not valid"),
            ("http://a/?b", "after the path"),
            ("http://ada:secret@a/", "log in with"),
        ] {
            let error = client(wrong).expect_err(wrong).to_string();
            assert!(error.contains(word) && !error.contains("secret@"), "{error}");
        }
    }

    fn url_of(server: &str, path: &[&str]) -> String {
        let request = client(server).expect("a client").request(Method::GET, path);
        request.expect("a path").build().expect("a request").url().to_string()
    }

    #[test]
    fn paths_begin_with_the_prefix_of_the_server() {
        assert_eq!(url_of("http://a:1", &["whoami"]), "http://a:1/v1/whoami");
        assert_eq!(
            url_of("http://a:1/x/", &["services", "b", "transactions:batch"]),
            "http://a:1/x/v1/services/b/transactions:batch"
        );
    }

    #[test]
    fn names_in_paths_are_percent_encoded() {
        assert_eq!(url_of("http://a", &["transactions", "a/b?c#d%"]), "http://a/v1/transactions/a%2Fb%3Fc%23d%25");
        assert_eq!(url_of("http://a", &["transactions", "..."]), "http://a/v1/transactions/...");
    }

    #[test]
    fn a_name_that_would_make_another_path_is_refused() {
        for name in ["", ".", ".."] {
            let request = client("http://a").expect("a client").request(Method::GET, &["services", name, "usage"]);
            assert!(request.expect_err(name).to_string().contains("part of the path of a URL"));
        }
    }

    #[test]
    fn plain_http_is_in_the_clear_unless_its_host_is_loopback() {
        let is_in_the_clear = |url| client(url).expect(url).is_in_the_clear();
        for url in [
            "http://localhost.evil.example",
            "HTTP://lifeboat.example.org",
            "http://127.evil.example",
            "http://[::2]:80",
            "http://10.0.0.1/127.0.0.1",
            "http://0.0.0.0:7098",
        ] {
            assert!(is_in_the_clear(url), "{url}");
        }
        for url in [
            "https://lifeboat.example.org",
            "HTTPS://10.0.0.1",
            "http://LOCALHOST:7098",
            "HTTP://127.0.0.1",
            "http://127.1",
            "http://[::1]:7098/x",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(!is_in_the_clear(url), "{url}");
        }
    }

    #[test]
    fn a_server_is_the_same_however_its_url_is_written() {
        assert!(Server::is_same("HTTP://LocalHost:80/", "http://localhost"));
        assert!(Server::is_same("https://a/x/", "https://a:443/x"));
        for other in ["https://a", "http://a:81", "http://a/x", "http://b", "http://ada@a", "a"] {
            assert!(!Server::is_same("http://a", other), "{other}");
        }
    }

    #[test]
    fn a_token_is_visible_ascii_or_refused_before_it_is_sent() {
        for token in ["\u{fc}", "a b", "a\nb"] {
            let error = Client::new(&Server { url: "http://a".into(), ca: None }, Some(token)).expect_err(token);
            assert!(error.to_string().starts_with("the token has characters that are not valid in a token"), "{error}");
        }
    }

    #[test]
    fn a_client_does_not_show_its_token() {
        let client = client("http://a").expect("a client");
        assert!(!format!("{client:?}").contains("secret"));
        let request = client.request(Method::GET, &["whoami"]).expect("a path").build().expect("a request");
        assert!(!format!("{request:?}").contains("secret"));
    }
}
