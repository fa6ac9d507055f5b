//! The memory that a server uses for clients that do not read their answers, or do not end their requests.

use crate::rig::{guest_bytes, slow_component};
use crate::serving::{PASSWORD, Serving, set_up};
use crate::site::{Site, tls_file, tls_table};
use crate::util::PATIENCE;
use futures::StreamExt;
use lifeboat_api::access::Grant;
use lifeboat_host::budget::USER_BYTES_MAX;
use lifeboat_server::READ_RATE_MIN;
use lifeboat_vm::workload::TEXT_BYTES_MAX;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The memory of a server beside the budget of the one user, in bytes. It is for the journal's queue and write buffer,
/// for connection buffers, and for what the allocator has not released yet.
const SLACK_BYTES: usize = 96 * 1024 * 1024;

/// Returns `big-reply.wat`, whose `boom` counts and answers with `reply_bytes` of this character.
fn talkative(reply_bytes: u32, character: u8) -> String {
    let text = String::from_utf8(guest_bytes("big-reply.wat")).expect("text");
    let pages = 1 + reply_bytes.div_ceil(65_536);
    let grow = "(if (i32.lt_u (memory.size) (i32.const 1025)) (then (drop (memory.grow (i32.const 1024)))))";
    let big = "(return (call $answer (i32.const 0) (i32.const 0) (i32.const 0x4000000)))";
    assert!(text.contains(grow) && text.contains(big), "the guest is not what it was");
    text.replace(
        grow,
        &format!(
            "(if (i32.le_u (memory.size) (i32.const 1)) (then (drop (memory.grow (i32.const {pages})))
               (memory.fill (i32.const 65536) (i32.const {character}) (i32.const {reply_bytes}))))"
        ),
    )
    .replace(
        big,
        &format!(
            "(global.set $count (i64.add (global.get $count) (i64.const 1)))
             (return (call $answer (i32.const 0) (i32.const 65536) (i32.const {reply_bytes})))"
        ),
    )
}

/// Returns the same, but `boom` is refused with a text of control characters, each of which takes six bytes in JSON.
fn refusing(text_bytes: u32) -> String {
    talkative(text_bytes, 1).replace(
        &format!("(call $answer (i32.const 0) (i32.const 65536) (i32.const {text_bytes}))"),
        &format!("(call $answer (i32.const 1) (i32.const 65536) (i32.const {text_bytes}))"),
    )
}

/// Opens a connection with a small receive buffer.
async fn narrow(address: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    socket.connect(address).await.expect("accepted")
}

/// Returns the resident memory of a process, in bytes.
fn resident(process: u32) -> usize {
    memory(process, "VmRSS:")
}

/// Returns a number of the kernel about a process's memory, in bytes.
fn memory(process: u32, what: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it is alive");
    let line = status.lines().find(|line| line.starts_with(what)).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_a_server_no_more_than_their_budget() {
    const CONNECTIONS: usize = 20;
    const LINES: usize = 512;
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let config = folder.path().join("lifeboat.toml");
    let text = std::fs::read_to_string(&config).expect("there is one");
    let text = text.replacen("[server.limits]", "[server.limits]\nbody_deadline_ms = 4000", 1);
    std::fs::write(&config, text).expect("written");
    let serving = Serving::start(folder.path());
    let address = serving.address;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    serving.line("serving ");
    let url = |path: &str| format!("http://{address}{path}");
    let log_in = async |user: &str, password: &str| {
        let log_in = json!({ "user": user, "password": password }).to_string();
        let reply = client.post(url("/v1/login")).body(log_in).send().await.expect("answered");
        let reply: Value = serde_json::from_slice(&reply.bytes().await.expect("whole")).expect("JSON");
        reply["token"].as_str().expect("a token").to_owned()
    };
    let admin = log_in("admin", PASSWORD).await;
    let as_admin = |method: Method, path: &str| client.request(method, url(path)).bearer_auth(&admin);
    // Each of its characters takes six bytes in JSON.
    let guest = talkative(4 * 1024 * 1024 - 4096, 1);
    for service in ["bank", "other"] {
        let deployed = as_admin(Method::PUT, &format!("/v1/services/{service}?size=medium")).body(guest.clone());
        assert_eq!(deployed.send().await.expect("answered").status(), 201);
    }
    let ada = json!({ "user": "ada", "password": PASSWORD }).to_string();
    assert_eq!(as_admin(Method::POST, "/v1/users").body(ada).send().await.expect("answered").status(), 201);
    let grant = as_admin(Method::PUT, "/v1/users/ada/grants/other/transact").send().await.expect("answered");
    assert_eq!(grant.status(), 204);
    let ada = log_in("ada", PASSWORD).await;
    let transact = async |service: &str, token: &str| {
        let path = format!("/v1/services/{service}/transactions");
        let request = client.post(url(&path)).bearer_auth(token).body("boom");
        let answered = request.send().await.expect("answered");
        (answered.status().as_u16(), answered.bytes().await.expect("whole").len())
    };
    assert_eq!(transact("bank", &admin).await.0, 200);
    let before = resident(serving.id());

    let lines = "{\"text\":\"boom\"}\n".repeat(LINES);
    let mut held = Vec::new();
    for index in 0..CONNECTIONS {
        let mut stream = narrow(address).await;
        let request = format!(
            "POST /v1/services/bank/transactions:batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n\
             Content-Length: {}\r\n\r\n{lines}",
            lines.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        held.push(stream);
        // Bodies that never end, and answers to single requests that are never read.
        let mut stream = narrow(address).await;
        let (length, body) = if index % 2 == 0 { (1_000_000, vec![b'x'; 900_000]) } else { (4, b"boom".to_vec()) };
        let head = format!(
            "POST /v1/services/bank/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n\
             Content-Length: {length}\r\n\r\n",
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        // A server without room reads no more.
        let _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(&body)).await;
        held.push(stream);
    }
    let (mut most, mut executed, mut unchanged) = (0, 0, 0);
    let deadline = Instant::now() + PATIENCE;
    while unchanged < 50 {
        assert!(Instant::now() < deadline, "after {executed} answers it is busy, or goes on");
        let usage = as_admin(Method::GET, "/v1/services/bank/usage").send().await.expect("answered");
        assert_eq!(usage.status(), 200, "an operator can look, however many answers are not read");
        let usage: Value = serde_json::from_slice(&usage.bytes().await.expect("whole")).expect("JSON");
        // A busy service does not report its VM.
        let Some(now) = usage["vm"]["sequence"].as_u64() else { continue };
        unchanged = if now == executed { unchanged + 1 } else { 0 };
        executed = now;
        most = most.max(resident(serving.id()));
    }
    let growth = most.saturating_sub(before);
    assert!(executed < (CONNECTIONS * LINES) as u64 / 2, "the clients are read for: {executed}");
    assert!(growth <= USER_BYTES_MAX + SLACK_BYTES, "it grew by {} MiB", growth >> 20);
    // Other users are served as usual.
    assert_eq!(transact("other", &ada).await, (200, 4 * 1024 * 1024 - 4096));
    // Clients that do not read are disconnected in time, and their memory is available to the next.
    let mut status = 503;
    let deadline = Instant::now() + PATIENCE;
    while status == 503 {
        assert!(Instant::now() < deadline, "they are never dropped");
        (status, _) = transact("bank", &admin).await;
    }
    assert_eq!(status, 200);
    drop(held);
}

/// Reads at `rate` bytes per second for `time`, and then the rest as fast as possible. Returns the number of bytes.
async fn read_at(rate: u64, time: Duration, mut stream: impl AsyncRead + Unpin) -> u64 {
    let (start, mut pace) = (Instant::now(), tokio::time::interval(Duration::from_millis(50)));
    let (mut piece, mut bytes) = ([0; 64 * 1024], 0);
    loop {
        let left = match start.elapsed() {
            elapsed if elapsed < time => {
                pace.tick().await;
                (rate * u64::try_from(elapsed.as_millis()).expect("short") / 1000).saturating_sub(bytes).min(1024)
            }
            _ => piece.len() as u64,
        };
        let piece = &mut piece[..usize::try_from(left).expect("small")];
        match (piece.len(), stream.read(piece).await.unwrap_or(0)) {
            (0, _) => {}
            (_, 0) => return bytes,
            (_, read) => bytes += read as u64,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_client_that_reads_too_slowly_is_dropped() {
    const ANSWER_BYTES: u32 = 4 * 1024 * 1024 - 4096;
    const DEADLINE_MS: u64 = 4_000;
    let time = Duration::from_millis(DEADLINE_MS * 5 / 2);
    for tls in [None, Some((tls_file("server.pem"), tls_file("server.key")))] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = format!("[server.limits]\nbody_deadline_ms = {DEADLINE_MS}\n");
        if let Some((certificate, key)) = &tls {
            config += &tls_table(certificate, key);
        }
        let site = Site::start(folder.path(), &config).await;
        let admin = site.log_in("admin").await;
        let guest = talkative(ANSWER_BYTES, b'x');
        assert_eq!(site.put("/v1/services/bank?size=medium", &admin, guest).await.status, 201);
        let encryption = tls.as_ref().map(|(certificate, _)| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(certificate).expect("PEM")).expect("a certificate");
            let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            TlsConnector::from(Arc::new(config))
        });
        let read_at = async |rate: u64| {
            let request = format!(
                "POST /v1/services/bank/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n\
                 Connection: close\r\nContent-Length: 4\r\n\r\nboom"
            );
            let mut stream = narrow(site.address).await;
            match &encryption {
                None => {
                    stream.write_all(request.as_bytes()).await.expect("sent");
                    read_at(rate, time, stream).await
                }
                Some(encryption) => {
                    let name = ServerName::from(site.address.ip());
                    let mut stream = encryption.connect(name, stream).await.expect("it speaks TLS");
                    stream.write_all(request.as_bytes()).await.expect("sent");
                    read_at(rate, time, stream).await
                }
            }
        };
        let (fast, slow) = futures::future::join(read_at(READ_RATE_MIN * 3 / 2), read_at(READ_RATE_MIN / 8)).await;
        let what = if tls.is_some() { "with TLS" } else { "without TLS" };
        assert!(fast > ANSWER_BYTES.into(), "{fast} bytes {what}");
        assert!(slow < u64::from(ANSWER_BYTES) / 2, "{slow} bytes {what}");
        site.stop().await;
    }
}

/// The memory of a server for each connection whose client does not read, beside the budgets, in bytes.
const CONNECTION_BYTES: usize = 32 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_nobody_reads_cost_a_server_no_more_than_their_budget() {
    const CONNECTIONS: usize = 4_000;
    // As JSON, this is six times as long. If these answers were not counted, they would take more than the budget of
    // the host.
    const REFUSAL_BYTES: u32 = 16 * 1024;
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    rlimit::increase_nofile_limit(16_384).expect("the limit can be asked for");
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let serving = Serving::start(folder.path());
    let address = serving.address;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    serving.line("serving ");
    let url = |path: &str| format!("http://{address}{path}");
    let log_in = json!({ "user": "admin", "password": PASSWORD }).to_string();
    let reply = client.post(url("/v1/login")).body(log_in).send().await.expect("answered");
    let reply: Value = serde_json::from_slice(&reply.bytes().await.expect("whole")).expect("JSON");
    let admin = reply["token"].as_str().expect("a token").to_owned();
    let deploy = client.put(url("/v1/services/bank?size=medium")).bearer_auth(&admin).body(refusing(REFUSAL_BYTES));
    assert_eq!(deploy.send().await.expect("answered").status(), 201);
    let answered = async || {
        let usage = client.get(url("/v1/services/bank/usage")).bearer_auth(&admin).send().await.expect("answered");
        let usage: Value = serde_json::from_slice(&usage.bytes().await.expect("whole")).expect("JSON");
        let count = |outcome: &str| usage["outcomes"][outcome].as_u64().unwrap_or(0);
        (count("refused"), count("refused") + count("denied"))
    };
    let request = format!(
        "POST /v1/services/bank/transactions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin}\r\n\
         Content-Length: 4\r\n\r\nboom"
    );
    let mut held = Vec::new();
    let mut connect = async |number: usize| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        // The kernel then buffers little of the server's data, since it decides by the size of segments.
        socket2::SockRef::from(&socket).set_tcp_mss(512).expect("set");
        // One address may have at most half of all connections.
        let from = std::net::Ipv4Addr::new(127, 0, 0, 1 + u8::try_from(number % 3).expect("small"));
        socket.bind((from, 0).into()).expect("free");
        let mut stream = socket.connect(address).await.expect("accepted");
        stream.write_all(request.as_bytes()).await.expect("sent");
        held.push(stream);
    };
    connect(0).await;
    let deadline = Instant::now() + PATIENCE;
    while answered().await.1 < 1 {
        assert!(Instant::now() < deadline, "nothing is answered");
    }
    let before = resident(serving.id());
    for number in 1..CONNECTIONS {
        connect(number).await;
    }
    let mut most = 0;
    // Each request is answered, or denied for lack of room.
    let deadline = Instant::now() + PATIENCE;
    while answered().await.1 < CONNECTIONS as u64 {
        most = most.max(resident(serving.id()));
        assert!(Instant::now() < deadline, "not all are answered");
    }
    let growth = most.max(resident(serving.id())).saturating_sub(before);
    let (refused, _) = answered().await;
    assert!(refused as usize * REFUSAL_BYTES as usize <= USER_BYTES_MAX, "{refused} are not counted");
    let most = USER_BYTES_MAX + SLACK_BYTES + CONNECTIONS * CONNECTION_BYTES;
    assert!(growth <= most, "it grew by {} MiB, of which {refused} refusals", growth >> 20);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_the_journal_the_descriptors_that_it_needs() {
    const FILES: u32 = 256;
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let serving = Serving::start_with_descriptors(folder.path(), FILES);
    serving.line("connections_max is ");
    serving.line("serving ");
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(serving.address).await.expect("the kernel accepts"));
    }
    let url = |path: &str| format!("http://{}{path}", serving.address);
    // The client uses another address, since one address has at most half of the places.
    let other = std::net::IpAddr::from([127, 0, 0, 2]);
    let other = reqwest::Client::builder().no_proxy().local_address(other).build().expect("a client");
    let log_in = json!({ "user": "admin", "password": PASSWORD }).to_string();
    let reply = other.post(url("/v1/login")).body(log_in).send().await.expect("answered");
    let reply: Value = serde_json::from_slice(&reply.bytes().await.expect("whole")).expect("JSON");
    let token = reply["token"].as_str().expect("a token");
    let deploy = other.put(url("/v1/services/bank?size=small")).bearer_auth(token).body(guest_bytes("count.wat"));
    assert_eq!(deploy.send().await.expect("answered").status(), 201);
    // More than a segment, so that others are begun.
    for _ in 0..20 {
        let request = other.post(url("/v1/services/bank/transactions")).bearer_auth(token).body(vec![b'x'; 1_000_000]);
        assert_eq!(request.send().await.expect("answered").status(), 200);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", serving.id())).expect("it is alive").count();
    assert!(open < FILES as usize - 16, "{open} descriptors are open");
    drop(idle);
    assert_eq!(serving.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_long_answers_executes_each_line_once_in_order() {
    const LINES: usize = 60;
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    assert_eq!(site.put("/v1/services/bank?size=medium", &admin, talkative(3 << 20, b'x')).await.status, 201);
    let ada = site.user(&admin, "ada", "bank", &[Grant::Transact]).await;
    // Short lines come first, so that many are in flight when the long ones arrive. Some lines are invalid.
    let mut lines = String::new();
    for index in 0..LINES {
        lines += match index {
            ..40 => "{\"text\":\"1\"}\n",
            _ if index % 10 == 5 => "nonsense\n",
            _ => "{\"text\":\"boom\"}\n",
        };
    }
    let request = site.request(Method::POST, "/v1/services/bank/transactions:batch", &ada).body(lines);
    let mut answers = request.send().await.expect("answered").bytes_stream();
    let (mut line, mut answered) = (Vec::new(), Vec::new());
    while let Some(piece) = answers.next().await {
        for part in piece.expect("whole").split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                let answer: Value = serde_json::from_slice(&line).expect("JSON");
                answered.push((answer["outcome"].as_str().expect("a word").to_owned(), line.len()));
                line.clear();
            }
        }
    }
    assert_eq!(answered.len(), LINES);
    for (index, (outcome, length)) in answered.iter().enumerate() {
        let is_wrong = index >= 40 && index % 10 == 5;
        assert_eq!(outcome, if is_wrong { "denied" } else { "ok" }, "line {index}");
        assert_eq!(*length > 3 << 20, index >= 40 && !is_wrong, "line {index}: {length}");
    }
    let count = site.post("/v1/services/bank/query", &ada, "").await;
    assert_eq!(count.text(), (LINES - 2).to_string(), "each was executed once");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_refusal_is_answered_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    let length = 1 << 20;
    assert_eq!(site.put("/v1/services/bank?size=medium", &admin, refusing(length)).await.status, 201);
    let single = site.post("/v1/services/bank/transactions", &admin, "boom").await;
    let batch = site.post("/v1/services/bank/transactions:batch", &admin, "{\"text\":\"boom\"}\n").await;
    let (single, batch) = (single.json(), batch.json());
    let text = "\u{1}".repeat(length as usize);
    assert_eq!((&single["detail"], &single["outcome"]), (&json!(text), &json!("refused")));
    assert_eq!((&batch["cause"], &batch["outcome"]), (&json!(text), &json!("refused")));
    // Nothing retains any of it.
    let mut stream = narrow(site.address).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    stream.read_to_end(&mut Vec::new()).await.expect("answered");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_takes_much_memory_to_load_takes_little_of_the_servers() {
    /// The file, twice, and what else the server does meanwhile. In the server's own process, the first text would take
    /// 150 MiB, and the second 300 MiB.
    const SERVERS_BYTES_MAX: usize = 64 * 1024 * 1024;
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let serving = Serving::start(folder.path());
    serving.line("serving ");
    assert!(!serving.has_said("warning: /proc"));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = |path: &str| format!("http://{}{path}", serving.address);
    let log_in = json!({ "user": "admin", "password": PASSWORD }).to_string();
    let reply = client.post(url("/v1/login")).body(log_in).send().await.expect("answered");
    let reply: Value = serde_json::from_slice(&reply.bytes().await.expect("whole")).expect("JSON");
    let token = reply["token"].as_str().expect("a token");
    let before = memory(serving.id(), "VmHWM:");
    let functions = "(func)".repeat(TEXT_BYTES_MAX as usize / 6 - 10);
    let recursion = "(block ".repeat(500_000);
    for (text, refusals) in [
        // On a slow or busy machine, it takes all the time available.
        (slow_component(), &["lacks", "not loaded within 30 s"][..]),
        (format!("(module {functions})"), &[" functions, limit is 100000: "]),
        (format!("(module (func {recursion}"), &["invalid WebAssembly text"]),
        ("(func)".repeat(4_000_000), &["the text is 24000000 bytes, limit is 4194304 bytes"]),
    ] {
        let deploy = client.put(url("/v1/services/hostile")).bearer_auth(token).body(text);
        let refused = deploy.send().await.expect("answered");
        assert_eq!(refused.status(), 422);
        let problem = refused.text().await.expect("whole");
        assert!(problem.contains("workload_refused"), "{problem}");
        assert!(refusals.iter().any(|refusal| problem.contains(refusal)), "{problem}");
        let most = memory(serving.id(), "VmHWM:") - before;
        assert!(most <= SERVERS_BYTES_MAX, "{most} bytes more");
    }
}
