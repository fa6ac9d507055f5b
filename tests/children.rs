//! The processes in which a server loads and compiles, when it or they are killed.

use crate::rig::guest_bytes;
use crate::serving::{PASSWORD, Serving, set_up};
use crate::util::PATIENCE;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a compiler has once it has read all of its input, and much less than it will have.
const AT_WORK_KIB: u64 = 128 * 1024;

/// What a child takes at the most to see that its parent is gone: much less than it has to work.
const GONE_MAX: Duration = Duration::from_secs(3);

/// A server over a new folder, and a client who is its admin.
async fn start(folder: &Path) -> (Serving, Client, String) {
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
    (serving, client, token)
}

/// `count.wat` with so many functions more, of so many steps each.
fn count_with(functions: usize, steps: usize) -> String {
    let steps = "(i32.rotl (local.get 0)) (i32.mul (local.get 0))".repeat(steps);
    let functions = format!("(func (param i32) (result i32) (local.get 0) {steps})").repeat(functions);
    let text = String::from_utf8(guest_bytes("count.wat")).expect("text");
    text.replacen("  (global $heap", &format!("{functions}\n  (global $heap"), 1)
}

/// The command line of a process; none of one that has ended.
fn command_line(process: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default()
}

/// The child of `parent` that does what `command` says.
fn child_of(parent: u32, command: &str) -> Option<String> {
    let parent = format!("PPid:\t{parent}\n");
    let processes = std::fs::read_dir("/proc").expect("it is mounted").map_while(Result::ok);
    processes.map(|process| process.file_name().to_string_lossy().into_owned()).find(|process| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.contains(&parent) && command_line(process).contains(command)
    })
}

/// What `look` finds within `patience`.
async fn found<T>(patience: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let seen = look();
        if seen.is_some() || start.elapsed() > patience {
            return seen;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_ends_with_its_server_however_that_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (serving, client, token) = start(folder.path()).await;
    let deploy = client.put(format!("http://{}/v1/services/slow", serving.address));
    // As bytes: there is too much text. It takes more than twice as long to compile as the child has to end.
    let module = wat::parse_str(count_with(48, 50_000)).expect("a module");
    tokio::spawn(deploy.bearer_auth(token).body(module).send());
    let child = found(PATIENCE, || child_of(serving.id(), "__compile")).await.expect("it is compiled");
    let is_at_work = || {
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).expect("it runs");
        let (_, resident) = status.split_once("VmRSS:")?;
        let kibibytes: u64 = resident.split_whitespace().next()?.parse().ok()?;
        (kibibytes > AT_WORK_KIB).then_some(())
    };
    assert!(found(PATIENCE, is_at_work).await.is_some(), "it never has much memory");
    let badness = std::fs::read_to_string(format!("/proc/{child}/oom_score_adj")).expect("it runs");
    assert_eq!(badness.trim(), "1000", "it is ended for memory before the server is");
    serving.kill();
    let is_gone = || (!command_line(&child).contains("__compile")).then_some(());
    assert!(found(GONE_MAX, is_gone).await.is_some(), "process {child} works for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_compiler_is_killed_at_a_start_is_brought_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (serving, client, token) = start(folder.path()).await;
    // Long enough to be caught at it.
    let text = count_with(40, 1_000);
    let deploy = client.put(format!("http://{}/v1/services/large", serving.address)).bearer_auth(&token).body(text);
    let deployed = deploy.send().await.expect("answered");
    assert_eq!(deployed.status(), StatusCode::CREATED, "{}", deployed.text().await.expect("whole"));
    assert_eq!(serving.terminate(), Some(0));

    let serving = Serving::start(folder.path());
    let child = found(PATIENCE, || child_of(serving.id(), "__compile")).await.expect("it is compiled");
    assert!(Command::new("kill").args(["-s", "KILL", &child]).status().expect("there is a kill").success());
    serving.line("serving ");
    assert!(!serving.has_said("quarantined"));
    let look = client.get(format!("http://{}/v1/services/large", serving.address)).bearer_auth(&token);
    let service = look.send().await.expect("answered").text().await.expect("whole");
    let service: Value = serde_json::from_str(&service).expect("JSON");
    assert_eq!(service["standing"], "running", "{service}");
}
