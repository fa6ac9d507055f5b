//! The processes in which a server loads and compiles, when they or the server are killed.

use crate::rig::guest_bytes;
use crate::serving::{PASSWORD, Serving, set_up};
use crate::util::PATIENCE;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wasmparser::{Parser, Payload};

/// The interval at which a test polls for a change, long enough to leave the processor to others. Nothing reports these
/// changes: the system has no event for another process that starts or becomes a zombie. The server has none for a
/// service that answers again.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The number of steps of a function that takes about a second to compile on one thread, so that a test can interrupt
/// it.
const STEPS: usize = 150_000;

/// A server over a folder, and a client with its admin's token.
struct Site {
    serving: Serving,
    client: Client,
    token: String,
}

impl Site {
    /// Starts a server over a new folder.
    async fn new(folder: &Path) -> Self {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        set_up(folder);
        let serving = Serving::start(folder);
        serving.line("serving ");
        let client = Client::builder().no_proxy().build().expect("a client");
        let log_in = json!({ "user": "admin", "password": PASSWORD }).to_string();
        let reply = client.post(format!("http://{}/v1/login", serving.address)).body(log_in).send().await;
        let reply = reply.expect("answered").bytes().await.expect("whole");
        let reply: Value = serde_json::from_slice(&reply).expect("JSON");
        let token = reply["token"].as_str().expect("a token").to_owned();
        Self { serving, client, token }
    }

    /// Starts a server whose only service, `large`, was not recovered at the start, since the compiler was killed.
    async fn with_a_lost_compiler(folder: &Path) -> Self {
        let site = Self::new(folder).await;
        assert_eq!(site.ask(Method::PUT, "/v1/services/large", long_module()).await.0, StatusCode::CREATED);
        let site = site.again(folder);
        signal(&site.compiler().await, "KILL");
        site.serving.line("serving 0 of 1 services: 1 quarantined");
        site
    }

    /// Starts the next server over the same folder. It compiles everything again.
    fn again(self, folder: &Path) -> Self {
        let Self { serving, client, token } = self;
        assert_eq!(serving.terminate(), Some(0));
        forget_code(folder);
        Self { serving: Serving::start(folder), client, token }
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let answer = self.request(method, path, body).send().await.expect("answered");
        let (status, body) = (answer.status(), answer.bytes().await.expect("whole"));
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.serving.address);
        self.client.request(method, url).bearer_auth(&self.token).body(body)
    }

    async fn service(&self) -> Value {
        self.ask(Method::GET, "/v1/services/large", Vec::new()).await.1
    }

    /// Returns the id of the process that compiles for the server.
    async fn compiler(&self) -> String {
        found(|| child_of(self.serving.id(), "__compile")).await
    }

    /// Waits until `large` is brought back, and runs.
    async fn runs(&self) {
        self.serving.line("Restored: large/");
        // It lets requests in just after that line. The order waits for that, and leaves a running service unchanged.
        let (status, service) = self.ask(Method::POST, "/v1/services/large/start", Vec::new()).await;
        assert_eq!((status, &service["state"]), (StatusCode::OK, &"running".into()), "{service}");
    }
}

/// Removes the compiled code of a server's data directory, if there is any.
fn forget_code(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder.join("data/code"));
}

/// Returns `count.wat` with one more function, which is long. It is built from bytes, since its text would be ten times
/// as long.
fn long_module() -> Vec<u8> {
    let text = String::from_utf8(guest_bytes("count.wat")).expect("text");
    let short = "(func (param i32) (result i32) (local.get 0))";
    let text = format!("{} {short})", text.trim_end().strip_suffix(')').expect("a module"));
    let module = wat::parse_str(text).expect("a module");
    // Where the section of all code begins and ends, and where its last function ends.
    let (mut before, mut last, mut section) = (0, 0, 0..0);
    for payload in Parser::new(0).parse_all(&module) {
        match payload.expect("valid") {
            Payload::CodeSectionStart { range, .. } => (last, section) = (range.start + 1, range),
            Payload::CodeSectionEntry(body) if body.range().end < section.end => last = body.range().end,
            payload if section.is_empty() => before = payload.as_section().map_or(before, |(_, range)| range.end),
            _ => {}
        }
    }
    const NO_LOCALS: u8 = 0;
    const LOCAL_GET_0: [u8; 2] = [0x20, 0];
    const STEP: [u8; 6] = [0x20, 0, 0x77, 0x20, 0, 0x6c]; // i32.rotl and i32.mul with the parameter
    const END: u8 = 0x0b;
    let body = [&[NO_LOCALS][..], &LOCAL_GET_0, &STEP.repeat(STEPS), &[END]].concat();
    let code = [&module[section.start..last], &leb128(body.len()), &body].concat();
    const CODE_SECTION: u8 = 10;
    [&module[..before], &[CODE_SECTION], &leb128(code.len()), &code, &module[section.end..]].concat()
}

/// Encodes a number in five bytes, which hold any number.
fn leb128(number: usize) -> [u8; 5] {
    std::array::from_fn(|index| (number >> (7 * index) & 0x7f) as u8 | if index < 4 { 0x80 } else { 0 })
}

/// Returns the command line of a process, or an empty text if it has ended.
fn command_line(process: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default()
}

/// Returns the child process of `parent` that runs `command`.
fn child_of(parent: u32, command: &str) -> Option<String> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.map_while(Result::ok);
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children = children.collect::<String>();
    children.split_whitespace().find(|child| command_line(child).contains(command)).map(str::to_owned)
}

fn signal(process: &str, name: &str) {
    assert!(Command::new("kill").args(["-s", name, process]).status().expect("there is a kill").success());
}

/// Polls `look` until it finds something. Of the processes of others the kernel reports no events to a test.
async fn found<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "it does not happen");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn gone(child: &str) {
    found(|| (!command_line(child).contains("__compile")).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_ends_with_its_server_however_that_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::new(folder.path()).await;
    tokio::spawn(site.request(Method::PUT, "/v1/services/large", long_module()).send());
    let child = site.compiler().await;
    // It has more than one thread once it has read all of its input.
    found(|| (std::fs::read_dir(format!("/proc/{child}/task")).expect("it is compiled").count() > 1).then_some(()))
        .await;
    // A stopped server reads no answer, and the pipe has no room for it. Another process can still read it when the
    // server is gone, so the child would wait forever.
    site.serving.signal("STOP");
    let mut answer = File::open(format!("/proc/{child}/fd/1")).expect("it is compiled still");
    let answers = tokio::task::spawn_blocking(move || answer.read_exact(&mut [0]).map(|()| answer));
    let answer = tokio::time::timeout(PATIENCE, answers).await.expect("it answers").expect("no panic");
    let badness = std::fs::read_to_string(format!("/proc/{child}/oom_score_adj")).expect("it waits");
    assert_eq!(badness.trim(), "1000", "it is ended for memory before the server is");
    site.serving.kill();
    gone(&child).await;
    drop(answer.expect("an answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_without_a_length_waits_for_no_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["__compile", env!("CARGO_PKG_VERSION"), "60", "x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the built binary starts");
    let status = found(|| child.try_wait().expect("a child can be looked at")).await;
    assert_eq!(status.code(), Some(1));
    let mut said = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut said).expect("text");
    assert_eq!(said, "'x' is not a whole number below 2^64; lifeboat calls this command by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_brings_back_a_service_whose_compiler_is_killed_during_a_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::with_a_lost_compiler(folder.path()).await;
    assert_eq!(site.ask(Method::GET, "/readyz", Vec::new()).await.0, StatusCode::OK);
    let service = site.service().await;
    assert_eq!(service["state"], "quarantined", "{service}");
    let reason = service["reason"].as_str().expect("a reason");
    assert!(reason.contains("its process was killed (signal: 9"), "{reason}");
    assert!(reason.contains("; the host makes up to 6 attempts by itself; "), "{reason}");
    site.runs().await;
    let (status, answer) = site.ask(Method::POST, "/v1/services/large/transactions", b"add".to_vec()).await;
    assert_eq!((status, answer), (StatusCode::OK, json!(1)));
    assert_eq!(site.serving.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_to_start_a_removed_service_spares_its_successor() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::with_a_lost_compiler(folder.path()).await;
    let before = site.service().await["workload"].clone();
    let child = site.compiler().await;
    signal(&child, "STOP");
    assert_eq!(site.ask(Method::DELETE, "/v1/services/large", Vec::new()).await.0, StatusCode::NO_CONTENT);
    let (status, deployed) = site.ask(Method::PUT, "/v1/services/large", guest_bytes("count.wat")).await;
    assert_eq!(status, StatusCode::CREATED, "{deployed}");
    // The attempt ends, and finds another service under the name.
    signal(&child, "CONT");
    gone(&child).await;
    let service = site.service().await;
    assert_eq!(service["state"], "running", "{service}");
    assert_ne!(service["workload"], before);
    assert_eq!(site.serving.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_an_operator_stops_is_not_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::with_a_lost_compiler(folder.path()).await;
    let child = site.compiler().await;
    signal(&child, "STOP");
    let (status, service) = site.ask(Method::POST, "/v1/services/large/stop", Vec::new()).await;
    assert_eq!((status, &service["state"]), (StatusCode::OK, &json!("stopped")), "{service}");
    signal(&child, "CONT");
    gone(&child).await;
    assert_eq!(site.service().await["state"], "stopped");
    let site = site.again(folder.path());
    site.serving.line("serving 0 of 1 services: 1 stopped");
    assert_eq!(site.serving.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_compiler_is_killed_at_an_operators_start_is_brought_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::with_a_lost_compiler(folder.path()).await;
    // Every order waits for the same compilation.
    let started = tokio::spawn(site.request(Method::POST, "/v1/services/large/start", Vec::new()).send());
    signal(&site.compiler().await, "KILL");
    let started = started.await.expect("no panic").expect("answered");
    assert_eq!(started.status(), StatusCode::CONFLICT);
    site.runs().await;
    assert_eq!(site.serving.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_compiler() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::with_a_lost_compiler(folder.path()).await;
    signal(&site.compiler().await, "STOP");
    // The journal is sealed.
    let mut site = site.again(folder.path());
    site.serving.line("serving 1 of 1 services");
    for (method, path, body) in [
        (Method::POST, "/v1/services/large/start", Vec::new()),
        (Method::PUT, "/v1/services/larger", [&long_module()[..], &[0, 2, 1, b'x']].concat()),
    ] {
        assert_eq!(site.ask(Method::POST, "/v1/services/large/stop", Vec::new()).await.0, StatusCode::OK);
        forget_code(folder.path());
        let ordered = tokio::spawn(site.request(method, path, body).send());
        signal(&site.compiler().await, "STOP");
        ordered.abort();
        site = site.again(folder.path());
        site.serving.line("serving ");
    }
    assert_eq!(site.serving.terminate(), Some(0));
}
