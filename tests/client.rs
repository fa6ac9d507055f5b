//! The client commands of the built binary against a server of it, each on a free port.

use crate::serving::{PASSWORD, Serving, set_up};
use crate::site::{tls_file, tls_table};
use crate::util::{Lifeboat, guest, lifeboat, prebuilt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// A server that was set up in a folder, and a client's profile beside it.
struct Rig {
    folder: TempDir,
    server: Option<Serving>,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        set_up(folder.path());
        let server = Serving::start(folder.path());
        Self { folder, server: Some(server) }
    }

    /// Creates a rig with the admin logged in.
    fn logged_in() -> Self {
        let rig = Self::new();
        rig.log_in("admin", PASSWORD, &rig.url()).exits(0);
        rig
    }

    /// Creates a rig with the admin logged in, and with a service.
    fn with_service(name: &str, workload: &str, options: &[&str]) -> Self {
        let rig = Self::logged_in();
        rig.client(["deploy", name]).arg(prebuilt(workload)).args(options).output().exits(0);
        rig
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.as_ref().expect("it serves").address)
    }

    /// Returns the token of the logged-in user.
    fn token(&self) -> String {
        let profile = std::fs::read_to_string(self.profile()).expect("readable");
        profile.split('"').find(|part| part.starts_with("lifeboat_")).expect("a token").to_owned()
    }

    fn profile(&self) -> PathBuf {
        self.folder.path().join("client/profile.toml")
    }

    /// Creates a client command for the logged-in user.
    fn client<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Lifeboat {
        lifeboat(arguments).env("LIFEBOAT_PROFILE", self.profile())
    }

    fn log_in(&self, user: &str, password: &str, url: &str) -> crate::util::Output {
        let login = self.client(["login", "--server", url, "--user", user, "--password-stdin"]);
        login.input(format!("{password}\n")).output()
    }

    /// Adds a user with a profile of their own. Returns the path of the profile.
    fn add_user(&self, name: &str) -> PathBuf {
        let add = self.client(["user", "add", name, "--password-stdin"]);
        add.input(format!("{PASSWORD}{name}\n")).output().exits(0);
        let profile = self.folder.path().join(name).join("profile.toml");
        let login = lifeboat(["login", "--user", name, "--password-stdin", "--server", &self.url()]);
        login.env("LIFEBOAT_PROFILE", &profile).input(format!("{PASSWORD}{name}\n")).output().exits(0);
        profile
    }
}

/// A proxy between client and server. It can be redirected to another server, and can cut connections.
struct Between {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    /// The numbers of bytes of answers after which the next connections are cut. Further connections are not cut.
    cuts: Arc<Mutex<VecDeque<usize>>>,
    /// The number of next connections that are answered like those of a starting server.
    starting: Arc<AtomicUsize>,
}

impl Between {
    fn new(server: SocketAddr) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), server)
    }

    fn on(listener: TcpListener, server: SocketAddr) -> Self {
        let address = listener.local_addr().expect("an address");
        let server = Arc::new(Mutex::new(server));
        let between = Self { address, server, cuts: Arc::default(), starting: Arc::default() };
        let (server, cuts) = (Arc::clone(&between.server), Arc::clone(&between.cuts));
        let starting = Arc::clone(&between.starting);
        // The thread ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if starting.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                    std::thread::spawn(move || say_that_it_starts(client));
                    continue;
                }
                let to = *server.lock().expect("nobody panics");
                let Ok(server) = TcpStream::connect(to) else { continue };
                let answer_bytes = cuts.lock().expect("nobody panics").pop_front().unwrap_or(usize::MAX);
                let (of_client, of_server) = (client.try_clone(), server.try_clone());
                let (of_client, of_server) = (of_client.expect("a handle"), of_server.expect("a handle"));
                std::thread::spawn(move || pass(of_client, server, usize::MAX));
                std::thread::spawn(move || pass(of_server, client, answer_bytes));
            }
        });
        between
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn cut(&self, answer_bytes: impl IntoIterator<Item = usize>) {
        self.cuts.lock().expect("nobody panics").extend(answer_bytes);
    }

    /// Forwards everything to another server.
    fn go_on(&self, server: SocketAddr) {
        *self.server.lock().expect("nobody panics") = server;
        self.cuts.lock().expect("nobody panics").clear();
    }
}

/// Answers a request like a server that is still recovering its services.
fn say_that_it_starts(mut client: TcpStream) {
    let body =
        r#"{"type":"about:blank","title":"Service Unavailable","status":503,"code":"starting","detail":"starting"}"#;
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 0\r\n";
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match client.read(&mut buffer) {
            Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let answer = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = client.write_all(answer.as_bytes());
    let _ = client.shutdown(Shutdown::Write);
    while let Ok(1..) = client.read(&mut buffer) {}
}

/// Forwards a number of bytes. The rest is read and discarded: if a connection is closed before everything was read,
/// the other end loses what it has not read yet.
fn pass(mut from: TcpStream, mut to: TcpStream, mut bytes_left: usize) {
    let mut buffer = [0; 4096];
    let mut is_open = true;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let passed = count.min(bytes_left);
        bytes_left -= passed;
        if is_open && (to.write_all(&buffer[..passed]).is_err() || passed < count) {
            is_open = false;
            let _ = to.shutdown(Shutdown::Write);
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_session_lasts_from_log_in_to_log_out() {
    let rig = Rig::new();
    rig.client(["whoami"]).output().exits_with_one_line(5, &["lifeboat login"]);
    rig.log_in("admin", "wrong", &rig.url()).exits_with_one_line(1, &["wrong_credentials"]);
    assert!(!rig.profile().exists());
    let output = rig.log_in("admin", PASSWORD, &rig.url());
    let text = output.exits(0);
    assert!(text.contains("as admin, an admin,") && !text.contains("lifeboat_"), "{text}");

    let mode = std::fs::metadata(rig.profile()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let me = rig.client(["whoami", "--json"]).output().json_lines();
    assert_eq!((&me[0]["user"], &me[0]["is_admin"]), (&json!("admin"), &json!(true)));
    std::fs::set_permissions(rig.profile(), std::fs::Permissions::from_mode(0o644)).expect("ours");
    rig.client(["whoami"]).output().exits_with_one_line(2, &["chmod 600"]);
    std::fs::set_permissions(rig.profile(), std::fs::Permissions::from_mode(0o600)).expect("ours");

    // The values in the profile, and the variables that override them.
    let token = rig.token();
    let by_variables = || {
        lifeboat(["whoami"])
            .env("LIFEBOAT_SERVER", rig.url())
            .env("LIFEBOAT_TOKEN", &token)
            .env("LIFEBOAT_PROFILE", "/nowhere")
    };
    assert!(by_variables().output().exits(0).starts_with("admin (admin)"));
    // The token of a profile is only for the server of that profile.
    rig.client(["whoami"])
        .env("LIFEBOAT_SERVER", "http://127.0.0.1:1")
        .output()
        .exits_with_one_line(5, &["you are not logged in"]);

    rig.client(["logout"]).output().exits(0);
    rig.client(["whoami"]).output().exits_with_one_line(5, &["lifeboat login"]);
    by_variables().output().exits_with_one_line(5, &["not_authenticated"]);
}

#[test]
fn a_forgotten_password_is_replaced_where_the_data_is() {
    let mut rig = Rig::new();
    let data = rig.folder.path().join("data");
    let new = |user: &str| {
        let passwd = lifeboat(["user", "passwd", user, "--password-stdin", "--data"]).arg(&data);
        passwd.input("a password that is remembered\n").output()
    };
    new("admin").exits_with_one_line(2, &["is in use"]);
    assert_eq!(rig.server.take().expect("it serves").terminate(), Some(0));
    new("nobody").exits_with_one_line(2, &["there is no user 'nobody'; the users are: admin"]);
    new("admin").exits(0);
    rig.server = Some(Serving::start(rig.folder.path()));
    rig.log_in("admin", PASSWORD, &rig.url()).exits(1);
    rig.log_in("admin", "a password that is remembered", &rig.url()).exits(0);
}

#[test]
fn files_of_a_service_are_listed_printed_and_copied() {
    let rig = Rig::with_service("vault", "archive", &[]);
    for (document, text) in [("a.txt", "the first"), ("b.txt", "the second")] {
        let put = format!(r#"{{"put":{{"name":"{document}","text":"{text}"}}}}"#);
        rig.client(["tx", "vault", &put]).output().exits(0);
    }
    let listed = rig.client(["disk", "ls", "vault", "/documents"]).output();
    let lines: Vec<&str> = listed.exits(0).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("file  9   20") && lines[0].ends_with("Z  a.txt"), "{lines:?}");
    assert!(listed.stderr.contains("2 entries; the disk of 'vault' uses "), "{}", listed.stderr);
    let json = rig.client(["disk", "ls", "vault", "documents", "--json"]).output();
    let entries: Vec<Value> = json.exits(0).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&entries[1]["name"], &entries[1]["bytes"]), (&"b.txt".into(), &10.into()));
    assert_eq!(rig.client(["disk", "cat", "vault", "/documents/a.txt"]).output().exits(0), "the first");
    let out = rig.folder.path().join("out");
    let copied = rig.client(["disk", "export", "vault", "--out"]).arg(&out).output();
    copied.exits(0);
    assert!(copied.stderr.contains("out' has 2 files with 19 B"), "{}", copied.stderr);
    let read = |path: &str| std::fs::read_to_string(out.join(path)).expect("it was copied");
    assert_eq!((read("documents/a.txt"), read("documents/b.txt")), ("the first".into(), "the second".into()));
    let modified = std::fs::metadata(out.join("documents/b.txt")).and_then(|file| file.modified()).expect("a time");
    let modified = modified.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let shown: lifeboat_api::clock::Utc = entries[1]["modified"].as_str().expect("text").parse().expect("a time");
    assert_eq!(u128::from(shown.0.0), modified);
    let missing = rig.client(["disk", "cat", "vault", "/none"]).output();
    missing.exits_with_one_line(2, &["there is no file or directory '/none'"]);
    let earlier = rig.client(["disk", "ls", "vault", "--at", "1"]).output();
    earlier.exits_with_one_line(2, &["--at is an option for a data directory", "lifeboat data disk"]);
    let stranger = rig.add_user("eve");
    let refused = rig.client(["disk", "ls", "vault"]).env("LIFEBOAT_PROFILE", stranger).output();
    refused.exits_with_one_line(1, &["observe"]);
}

#[test]
fn a_service_is_deployed_with_the_files_of_directories() {
    let rig = Rig::logged_in();
    let host = rig.folder.path().join("site");
    std::fs::create_dir_all(host.join("deep")).expect("created");
    std::fs::write(host.join("index.html"), "<p>hello").expect("written");
    std::fs::write(host.join("deep/a.txt"), "deep").expect("written");
    std::os::unix::fs::symlink("../index.html", host.join("deep/link")).expect("linked");
    // Several parts of a file.
    let large: Vec<u8> = (0..2_500_000_u32).map(|number| number.to_le_bytes()[number as usize % 3]).collect();
    let other = rig.folder.path().join("other");
    std::fs::create_dir(&other).expect("created");
    std::fs::write(other.join("large"), &large).expect("written");
    let deploy = |dirs: &[&str]| {
        let mut deploy = rig.client(["deploy", "vault"]).arg(prebuilt("archive")).within(rig.folder.path());
        for dir in dirs {
            deploy = deploy.args(["--dir", dir]);
        }
        deploy.output()
    };
    deploy(&["none"]).exits_with_one_line(2, &["--dir: 'none' cannot be on a virtual disk: No such file"]);
    deploy(&["site/index.html"]).exits_with_one_line(2, &["it is not a directory"]);
    deploy(&["../site"]).exits_with_one_line(2, &["'../site' has '..' in its path on the virtual disk"]);
    let out = host.join("out");
    std::os::unix::fs::symlink("../../etc", &out).expect("linked");
    deploy(&["site"]).exits_with_one_line(2, &["'site/out' cannot be", "it is a link out of the directory"]);
    std::fs::remove_file(&out).expect("removed");
    std::os::unix::fs::symlink("out", &out).expect("linked");
    deploy(&["site"]).exits_with_one_line(2, &["'site/out' cannot be", "or in a circle"]);
    std::fs::remove_file(&out).expect("removed");
    deploy(&["site", "other::/var/deep"]).exits(0);
    let listed = |path: &str| {
        let listed = rig.client(["disk", "ls", "vault", path]).output();
        let names = listed.exits(0).lines().map(|line| line.rsplit_once("  ").expect("columns").1.to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed("/"), ["site", "var"]);
    assert_eq!(listed("/site/deep"), ["a.txt", "link -> ../index.html"]);
    let cat = |path: &str| rig.client(["disk", "cat", "vault", path]).output().exits(0).to_owned();
    assert_eq!((cat("/site/deep/link"), cat("/site/deep/a.txt")), ("<p>hello".into(), "deep".into()));
    let copy = rig.folder.path().join("copy");
    rig.client(["disk", "export", "vault", "/site", "--out"]).arg(&copy).output().exits(0);
    assert_eq!(std::fs::read_to_string(copy.join("deep/link")).expect("a link"), "<p>hello");
    let whole = rig.folder.path().join("whole");
    rig.client(["disk", "export", "vault", "--out"]).arg(&whole).output().exits(0);
    assert!(std::fs::read(whole.join("var/deep/large")).expect("it was copied") == large);
    let modified = |file: &std::path::Path| std::fs::metadata(file).and_then(|file| file.modified()).expect("a time");
    let seconds = |file| modified(file).duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert_eq!(seconds(&copy.join("deep/a.txt")), seconds(&host.join("deep/a.txt")));
}

#[test]
fn a_transaction_that_misses_its_deadline_is_sent_three_times() {
    let mut rig = Rig::new();
    assert_eq!(rig.server.take().expect("it serves").terminate(), Some(0));
    let file = rig.folder.path().join("lifeboat.toml");
    let size = "[[size]]\nname = 'hasty'\nfuel = 1_000_000_000_000_000_000\nmemory = '16MiB'\ndeadline_ms = 50\n";
    std::fs::write(&file, size).expect("writable");
    rig.server = Some(Serving::start(rig.folder.path()));
    rig.log_in("admin", PASSWORD, &rig.url()).exits(0);
    rig.client(["deploy", "bank"]).arg(guest("work.wat")).output().exits(0);
    let output = rig.client(["tx", "bank", "100000000000000000"]).output();
    let answer: Value = serde_json::from_str(output.exits(1)).expect("JSON");
    assert_eq!(answer["outcome"], "failed");
    let printed = "lifeboat: the transaction failed, and will be sent again: ";
    assert_eq!(output.stderr.lines().filter(|line| line.starts_with(printed)).count(), 2, "{}", output.stderr);
    let usage = rig.client(["usage", "bank", "--json"]).output();
    assert!(usage.exits(0).contains("\"failed\":3"), "{}", usage.exits(0));
}

#[test]
fn an_interrupted_transaction_reports_how_to_look_up_its_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let tx = lifeboat(["tx", "count", "--id", "a b", "{}"]).env("LIFEBOAT_SERVER", url);
    let tx = tx.env("LIFEBOAT_TOKEN", "lifeboat_token").env("LIFEBOAT_PROFILE", "/nowhere").start();
    // A server that never answers.
    let _connection = listener.accept().expect("it connects");
    tx.signal("INT");
    let output = tx.finish();
    output.exits(1);
    assert!(
        output.stderr.contains("lifeboat: interrupted; to look up the outcome of the transaction, run"),
        "{output:?}"
    );
    assert!(output.stderr.contains("lifeboat tx count --id 'a b' --look-up"), "{output:?}");
}

#[test]
fn an_absent_server_has_its_own_exit_code() {
    let rig = Rig::with_service("bank", "counter", &[]);
    // The port belongs to no other program and refuses connections.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    let client = |command: &[&str]| {
        let command = lifeboat(command.iter().copied()).env("LIFEBOAT_SERVER", &url);
        command.env("LIFEBOAT_TOKEN", rig.token()).env("LIFEBOAT_PROFILE", "/nowhere")
    };
    for (command, attempts) in [
        (&["whoami"][..], 6),
        (&["events", "--follow", "--attempts", "2"], 2),
        (&["usage", "--watch", "--attempts", "2"], 2),
        (&["query", "bank", "--attempts", "2", "1"], 2),
        (&["tx", "bank", "--attempts", "3", "{\"add\":1}"], 3),
        (&["batch", "bank", "--attempts", "3", "-"], 3),
    ] {
        let output = client(command).input("{\"json\":{\"add\":1}}\n").output();
        assert_eq!(output.exits(5), "", "{command:?}");
        let [waiting, end] = output.stderr.lines().collect::<Vec<_>>()[..] else { panic!("{command:?}: {output:?}") };
        assert!(waiting.starts_with("lifeboat: waiting for the server: cannot reach http://127.0.0.1:"), "{waiting}");
        assert!(end.starts_with("lifeboat: cannot reach http://127.0.0.1:"), "{end}");
        assert!(end.contains(&format!("({attempts} attempts); start a server there: lifeboat serve")), "{end}");
    }
    client(&["tx", "bank", "--attempts", "1", "1"]).output().exits_with_one_line(5, &["(1 attempt)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_where_nobody_listens_yet_is_waited_for() {
    let rig = Rig::with_service("count", "counter", &[]);
    let server = rig.server.as_ref().expect("it serves").address;
    let token = rig.token();
    // The socket has an address, and refuses connections until it listens.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    let started = [
        &["tx", "count", "{\"add\":1}"][..],
        &["query", "count", "\"total\""],
        &["batch", "count", "-"],
        &["events"],
        &["usage"],
    ];
    let started = started.map(|command| {
        let command = lifeboat(command.iter().copied()).args(["--attempts", "1000"]).env("LIFEBOAT_SERVER", &url);
        let mut running = command.env("LIFEBOAT_TOKEN", &token).env("LIFEBOAT_PROFILE", "/nowhere").start();
        running.send("{\"json\":{\"add\":1}}");
        running
    });
    let waiting = started.map(|mut running| {
        running.tells("lifeboat: waiting for the server: cannot reach http://127.0.0.1:");
        running
    });
    let listener = socket.listen(64).expect("nobody else does").into_std().expect("a listener");
    listener.set_nonblocking(false).expect("it is ours");
    let _between = Between::on(listener, server);
    for running in waiting {
        let output = running.finish();
        assert_ne!(output.exits(0), "");
        assert!(output.stderr.contains("lifeboat: the server answers again\n"), "{}", output.stderr);
    }
    assert_eq!(rig.client(["query", "count", "\"total\""]).output().exits(0), "2\n");
}

#[test]
fn a_follower_reports_when_an_outage_of_the_server_begins_or_ends() {
    let mut rig = Rig::with_service("count", "counter", &[]);
    let between = Between::new(rig.server.as_ref().expect("it serves").address);
    rig.log_in("admin", PASSWORD, &between.url()).exits(0);
    let mut events = rig.client(["events", "--follow"]).start();
    let mut usage = rig.client(["usage", "--watch"]).start();
    for running in [&mut events, &mut usage] {
        assert!(running.line().is_some());
    }
    // It stops as an operator stops it. Connections are cut until it is back.
    assert_eq!(rig.server.take().expect("it serves").terminate(), Some(0));
    for running in [&mut events, &mut usage] {
        running.tells("lifeboat: waiting for the server: ");
    }
    rig.server = Some(Serving::start(rig.folder.path()));
    between.go_on(rig.server.as_ref().expect("it serves").address);
    for running in [&mut events, &mut usage] {
        assert!(running.tells("lifeboat: ").contains("the server answers again"));
        assert!(running.line().is_some(), "it goes on");
    }
    events.kill();
    usage.kill();
}

#[test]
fn a_transaction_is_executed_once_however_often_it_is_sent() {
    let rig = Rig::with_service("count", "counter", &[]);
    for _ in 0..2 {
        assert_eq!(rig.client(["tx", "count", "--id", "a b", "{\"add\":5}"]).output().exits(0), "5\n");
    }
    let repeated = &rig.client(["tx", "count", "--json", "--id", "a b", "{\"add\":5}"]).output().json_lines()[0];
    assert_eq!(
        (&repeated["id"], &repeated["outcome"], &repeated["json"], &repeated["is_repeated"], &repeated["sequence"]),
        (&json!("a b"), &json!("ok"), &json!(5), &json!(true), &json!(1))
    );
    rig.client(["tx", "count", "--id", "a b", "{\"add\":6}"]).output().exits_with_one_line(1, &["id_reused"]);

    assert_eq!(rig.client(["tx", "count"]).input("{\"add\":1}").output().exits(0), "6\n");
    let file = rig.folder.path().join("body");
    std::fs::write(&file, "{\"add\":1}").expect("writable");
    let from_file = format!("@{}", file.display());
    assert_eq!(rig.client(["tx", "count", &from_file]).output().exits(0), "7\n");
    assert_eq!(rig.client(["query", "count", "\"total\""]).output().exits(0), "7\n");

    assert_eq!(rig.client(["tx", "count", "--id", "a b", "--look-up"]).output().exits(0), "5\n");
    rig.client(["tx", "count", "--id", "c", "--look-up"]).output().exits_with_one_line(1, &["is unknown"]);
}

#[test]
fn a_transaction_that_is_refused_or_denied_is_printed_with_its_reason() {
    let rig = Rig::with_service("bank", "ledger", &[]);
    let overdrawn = "{\"transfer\":{\"from\":\"ada\",\"to\":\"bob\",\"amount\":1}}";
    let refused = &rig.client(["tx", "bank", overdrawn]).output();
    refused.exits(1);
    let line = &refused.json_lines()[0];
    assert_eq!(line["outcome"], "refused");
    assert!(line["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{line}");

    let ada = rig.add_user("ada");
    let by_ada = |arguments: &[&str]| lifeboat(arguments).env("LIFEBOAT_PROFILE", &ada).output();
    by_ada(&["tx", "bank", overdrawn]).exits_with_one_line(1, &["not_granted"]);
    let batch = lifeboat(["batch", "bank", "-"]).env("LIFEBOAT_PROFILE", &ada);
    let batch = batch.input(format!("{{\"json\":{overdrawn}}}\n").repeat(3)).output();
    assert!(!batch.exits_with_one_line(1, &["not_granted"]).contains("may be done"), "none of it was taken");
    by_ada(&["user", "list"]).exits_with_one_line(1, &["not_admin"]);
    rig.client(["user", "grant", "ada", "bank", "transact", "observe"]).output().exits(0);
    assert!(by_ada(&["tx", "bank", overdrawn]).exits(1).contains("refused"), "it reaches the guest");
    assert!(by_ada(&["whoami"]).exits(0).contains("bank: observe, transact"));
    assert!(rig.client(["user", "list"]).output().exits(0).contains("bank: observe, transact"));
    let early = rig.client(["user", "grant", "ada", "branch", "observe"]).output();
    assert_eq!(early.exits(0), "ada may now observe branch; there is no service 'branch' yet\n");
    rig.client(["user", "revoke", "ada", "bank", "transact"]).output().exits(0);
    by_ada(&["tx", "bank", overdrawn]).exits_with_one_line(1, &["not_granted"]);

    let passwd = lifeboat(["user", "passwd", "--password-stdin"]).env("LIFEBOAT_PROFILE", &ada);
    passwd.input(format!("{PASSWORD}ada\n{PASSWORD}new\n")).output().exits(0);
    by_ada(&["whoami"]).exits_with_one_line(5, &["not_authenticated"]);
    rig.client(["user", "remove", "ada"]).output().exits(0);
    rig.client(["user", "remove", "ada"]).output().exits_with_one_line(2, &["no_such_user"]);
}

#[test]
fn a_wrong_value_on_the_command_line_is_reported_as_such() {
    let rig = Rig::with_service("count", "counter", &[]);
    let long = "x".repeat(129);
    for id in ["", &long] {
        rig.client(["tx", "count", "--id", id, "{\"add\":1}"]).output().exits_with_one_line(2, &["transaction id"]);
    }
    rig.client(["tx", "count", "--id", &long, "--look-up"]).output().exits_with_one_line(2, &["129 bytes"]);
    let services = rig.client(["services"]).env("LIFEBOAT_SERVER", "bogus").output();
    services.exits_with_one_line(2, &["server 'bogus'", "http://"]);
}

#[test]
fn every_command_reports_a_missing_service_alike() {
    let rig = Rig::logged_in();
    for command in [
        &["usage", "nothing"][..],
        &["stop", "nothing"],
        &["start", "nothing"],
        &["failover", "nothing"],
        &["remove", "nothing"],
        &["remove", "nothing", "--yes"],
        &["query", "nothing", "\"total\""],
        &["tx", "nothing", "1"],
        &["tx", "nothing", "--id", "a", "--look-up"],
        &["events", "--service", "nothing"],
        &["logs", "nothing"],
        &["logs", "nothing", "--follow"],
    ] {
        let output = rig.client(command.iter().copied()).output();
        output.exits_with_one_line(2, &["there is no service 'nothing'; deploy it", "not_found"]);
    }
    // The batch is denied as a whole, and not line by line.
    let resume = rig.folder.path().join("resume");
    let batch = rig.client(["batch", "nothing", "-", "--resume"]).arg(&resume);
    let batch = batch.input("{\"json\":1}\n".repeat(1_000)).output();
    batch.exits_with_one_line(2, &["there is no service 'nothing'; deploy it", "not_found"]);
    assert!(!resume.exists(), "nothing was sent that its ids would be needed for");
}

#[test]
fn a_batch_keeps_its_file_when_a_line_may_have_been_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let (resume, lines) = (folder.path().join("resume"), folder.path().join("lines"));
    std::fs::write(&lines, "{\"json\":1}\n").expect("writable");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let batch = lifeboat(["batch", "count", "--attempts", "1", "--resume"]).arg(&resume).arg(&lines);
    let batch = batch.env("LIFEBOAT_SERVER", url).env("LIFEBOAT_TOKEN", "lifeboat_token");
    let batch = batch.env("LIFEBOAT_PROFILE", folder.path().join("none")).start();
    let request = |mut stream: &TcpStream, last: &[u8]| {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !request.windows(last.len()).any(|bytes| bytes == last) {
            let count = stream.read(&mut buffer).expect("it sends");
            request.extend_from_slice(&buffer[..count]);
        }
        request
    };
    let answer = |mut stream: &TcpStream, content: &str, body: &str| {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).expect("it listens");
    };
    // First the request for the token's user; then the batch, whose line was executed with an unknown outcome.
    let (who, _) = listener.accept().expect("it connects");
    request(&who, b"\r\n\r\n");
    let ada = r#"{"user":"ada","is_admin":false,"grants":{},"expires":"2026-03-01T12:00:00Z"}"#;
    answer(&who, "application/json", ada);
    let (server, _) = listener.accept().expect("it connects");
    let sent = String::from_utf8(request(&server, b"\"json\":1}\n")).expect("text");
    let (_, id) = sent.split_once("{\"id\":\"").expect("the line has an id");
    let (id, _) = id.split_once('"').expect("the id ends");
    let line = format!("{{\"id\":\"{id}\",\"outcome\":null,\"cause\":\"the journal failed\"}}\n");
    answer(&server, "application/jsonl", &line);
    let output = batch.finish();
    output.exits(4);
    assert!(output.stderr.contains("1 more may or may not be done"), "{}", output.stderr);
    assert!(output.stderr.contains("the same command sends the rest"), "{}", output.stderr);
    assert!(resume.exists(), "the same ids are needed");
}

#[test]
fn the_events_of_a_service_are_shown_after_its_removal() {
    let rig = Rig::with_service("count", "counter", &[]);
    rig.client(["remove", "count", "--yes"]).output().exits(0);
    let events = rig.client(["events", "--service", "count"]).output();
    assert!(events.exits(0).contains("Created: count/1 "), "{events:?}");
}

#[test]
fn a_quarantined_service_is_reported_with_a_remedy() {
    let mut rig = Rig::with_service("count", "counter", &[]);
    rig.client(["deploy", "bank"]).arg(prebuilt("ledger")).output().exits(0);
    rig.client(["services"]).output().exits(0);
    assert_eq!(rig.server.take().expect("it serves").terminate(), Some(0));
    let damaged = |bytes: Vec<u8>| bytes.into_iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
    let files = std::fs::read_dir(rig.folder.path().join("data")).expect("it is there");
    let files = files.map(|file| file.expect("readable").path());
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "workload")) {
        std::fs::write(&file, damaged(std::fs::read(&file).expect("readable"))).expect("writable");
    }
    rig.server = Some(Serving::start(rig.folder.path()));
    rig.log_in("admin", PASSWORD, &rig.url()).exits(0);
    let denied = rig.client(["tx", "count", "{\"add\":1}"]).output();
    let words = ["service 'count' is quarantined: ", "lifeboat start", "lifeboat data verify", "(503 quarantined)"];
    denied.exits_with_one_line(1, &words);
    let services = rig.client(["services"]).output();
    assert!(services.exits(1).contains("\ncount: quarantined: "), "{services:?}");
    assert!(services.exits(1).contains("lifeboat start"), "{services:?}");
    // It does not run, but no operator stopped it.
    let stopped = rig.client(["stop", "count"]).output();
    assert!(stopped.exits(1).contains("quarantined"), "{stopped:?}");
}

#[test]
fn a_deployment_warns_of_a_state_that_no_move_survives() {
    let rig = Rig::logged_in();
    for (service, words) in [
        ("refuse-restore", "the guest's restore returned an error: no thanks; "),
        ("panic-snapshot", "the guest's snapshot failed: "),
    ] {
        let output = rig.client(["deploy", service]).arg(guest(&format!("{service}.wat"))).output();
        assert!(output.exits(0).starts_with(&format!("{service}: running: {service}/1 on ")), "{output:?}");
        let line = output.stderr.strip_suffix('\n').expect("the line ends");
        let beginning = format!("lifeboat: warning: '{service}' runs, but a trial of its state failed: {words}");
        assert!(line.starts_with(&beginning) && !line.contains('\n'), "{line}");
        assert!(line.ends_with("; find the cause with lifeboat check before it fails over"), "{line}");
        let events = rig.client(["events", "--service", service]).output();
        assert_eq!(events.exits(0).matches("Fragile: ").count(), 1, "{events:?}");
    }
    let output = rig.client(["deploy", "again", "--json"]).arg(guest("panic-restore.wat")).output();
    output.exits(0);
    assert!(output.stderr.starts_with("lifeboat: warning: 'again' runs, but "), "{output:?}");
    let warning = "a trial of its state failed: the guest's restore failed: ";
    let answered = &output.json_lines()[0];
    assert!(answered["warning"].as_str().is_some_and(|text| text.starts_with(warning)), "{answered}");
    let services = rig.client(["services", "--json"]).output().json_lines();
    assert!(services[0]["services"][0].get("warning").is_none(), "only the deployment has it: {}", services[0]);
}

#[test]
fn a_deployment_of_a_sound_workload_warns_of_nothing() {
    let rig = Rig::logged_in();
    for (service, workload) in [("count", prebuilt("counter")), ("program", guest("program.wat"))] {
        let output = rig.client(["deploy", service, "--json"]).arg(workload).output();
        output.exits(0);
        assert_eq!(output.stderr, "");
        let answered = &output.json_lines()[0];
        assert!(answered["state"] == "running" && answered.get("warning").is_none(), "{answered}");
    }
}

#[test]
fn a_workload_that_is_none_is_refused_by_the_server() {
    let rig = Rig::logged_in();
    let file = rig.folder.path().join("none.wasm");
    std::fs::write(&file, "no Wasm").expect("writable");
    rig.client(["deploy", "none"]).arg(&file).output().exits_with_one_line(3, &["workload_refused"]);
    rig.client(["deploy", "none", "/nowhere"]).output().exits_with_one_line(3, &["cannot be read"]);
    rig.client(["deploy", "count"]).arg(prebuilt("counter")).output().exits(0);
    rig.client(["deploy", "count"]).arg(prebuilt("counter")).output().exits_with_one_line(1, &["service_exists"]);

    rig.client(["remove", "count"]).output().exits_with_one_line(2, &["--yes"]);
    assert!(rig.client(["services"]).output().exits(0).contains("count"));
    rig.client(["remove", "count", "--yes"]).output().exits(0);
    assert_eq!(rig.client(["services", "--json"]).output().json_lines(), [json!({ "services": [] })]);
}

#[test]
fn the_client_that_causes_a_failover_sees_the_event_that_followers_see() {
    let rig = Rig::with_service("bank", "ledger", &["--fuel", "200000", "--failover", "direct"]);
    let mut events = rig.client(["events", "--follow", "--json", "--service", "bank"]).start();
    let mut printed = None;
    for number in 0..1_000 {
        let deposit = json!({ "deposit": { "account": format!("a{number}"), "amount": 1 } }).to_string();
        let output = rig.client(["tx", "bank", &deposit]).output();
        output.exits(0);
        if !output.stderr.is_empty() {
            printed = Some(output.stderr);
            break;
        }
    }
    let printed = printed.expect("a tank of 200,000 is empty by then");
    assert!(printed.starts_with("Trigger process failover: triggered: bank/1 on "), "{printed}");
    let mut next = || -> Value {
        let line = events.line().expect("events go on");
        serde_json::from_slice(&line).expect("JSON")
    };
    let event = std::iter::from_fn(|| Some(next())).find(|event| event["event"] == "failover").expect("endless");
    assert_eq!(event["text"].as_str(), Some(printed.trim_end()));

    let deposits: String = (0..200)
        .map(|number| format!("{{\"json\":{{\"deposit\":{{\"account\":\"b{number}\",\"amount\":1}}}}}}\n"))
        .collect();
    let batch = rig.client(["batch", "bank", "-", "--json"]).input(deposits).output();
    batch.exits(0);
    let in_answers: Vec<String> =
        batch.json_lines().iter().filter_map(|answer| answer["failover"].as_str().map(str::to_owned)).collect();
    let on_stderr: Vec<&str> = batch.stderr.lines().filter(|line| line.starts_with("Trigger process")).collect();
    assert!(!in_answers.is_empty() && in_answers == on_stderr, "{in_answers:?} {on_stderr:?}");
    for printed in &in_answers {
        let event = std::iter::from_fn(|| Some(next())).find(|event| event["event"] == "failover").expect("endless");
        assert_eq!(event["text"].as_str(), Some(&**printed));
    }

    rig.client(["failover", "bank"]).output().exits(0);
    let event = std::iter::from_fn(|| Some(next())).find(|event| event["event"] == "failover").expect("endless");
    assert_eq!(event["cause"], "forced");
    events.kill();

    let all = rig.client(["events"]).output();
    assert!(all.exits(0).contains("Trigger process failover: triggered: bank/1 on "), "{all:?}");
    let usage = rig.client(["usage", "bank"]).output();
    assert!(usage.exits(0).contains(&format!("bank/{}", 3 + in_answers.len())), "{usage:?}");
    assert!(usage.exits(0).contains('%'), "{usage:?}");
    assert!(usage.exits(0).contains("\ncounted since 20"), "{usage:?}");
    let dropped = rig.client(["drop", "bank", "--user", "ann"]).output();
    assert_eq!(dropped.exits(0), "bank: 0 requests of 'ann' dropped\n");
    let stopped = rig.client(["stop", "bank"]).output();
    assert!(stopped.exits(0).contains("stopped"), "{stopped:?}");
    rig.client(["tx", "bank", "1"]).output().exits_with_one_line(1, &["bank"]);
    assert!(rig.client(["start", "bank"]).output().exits(0).contains("running"));
}

#[test]
fn a_transaction_whose_answers_are_lost_is_executed_once() {
    let rig = Rig::with_service("count", "counter", &[]);
    let between = Between::new(rig.server.as_ref().expect("it serves").address);
    rig.log_in("admin", PASSWORD, &between.url()).exits(0);
    between.cut([0, 0, 100]);
    let repeated = &rig.client(["tx", "count", "--json", "{\"add\":5}"]).output().json_lines()[0];
    assert_eq!((&repeated["json"], &repeated["is_repeated"]), (&json!(5), &json!(true)));
    assert_eq!(rig.client(["query", "count", "\"total\""]).output().exits(0), "5\n");

    // More cuts than attempts.
    between.cut(std::iter::repeat_n(0, 100));
    let output = rig.client(["tx", "count", "--id", "x y", "--attempts", "2", "{\"add\":1}"]).output();
    assert_eq!(output.exits(5), "");
    let [waiting, end] = output.stderr.lines().collect::<Vec<_>>()[..] else { panic!("{output:?}") };
    assert!(waiting.starts_with("lifeboat: waiting for the server: the connection to http://127.0.0.1:"), "{waiting}");
    assert!(end.contains("lifeboat tx count --id 'x y' --look-up") && end.contains("may have been done"), "{end}");
    between.go_on(rig.server.as_ref().expect("it serves").address);
    assert_eq!(rig.client(["tx", "count", "--id", "x y", "--look-up"]).output().exits(0), "6\n");
}

#[test]
fn a_stream_of_events_survives_broken_connections_or_restarts() {
    let mut rig = Rig::with_service("count", "counter", &["--failover", "direct"]);
    let between = Between::new(rig.server.as_ref().expect("it serves").address);
    rig.log_in("admin", PASSWORD, &between.url()).exits(0);
    let direct = rig.folder.path().join("direct.toml");
    let login = lifeboat(["login", "--user", "admin", "--password-stdin", "--server", &rig.url()]);
    login.env("LIFEBOAT_PROFILE", &direct).input(format!("{PASSWORD}\n")).output().exits(0);
    let fail_over = || lifeboat(["failover", "count"]).env("LIFEBOAT_PROFILE", &direct).output().exits(0).to_owned();
    // Cuts within the first event, and within the following ones.
    between.cut([300, 700]);
    let mut events = rig.client(["events", "--follow", "--json"]).start();
    let mut next = || -> Value {
        let line = events.line().expect("events go on");
        serde_json::from_slice(&line).expect("JSON")
    };
    assert_eq!(next()["event"], "created");
    for to in ["count/2", "count/3", "count/4"] {
        fail_over();
        let event = next();
        assert_eq!((&event["event"], &event["to"]), (&json!("failover"), &json!(to)));
    }
    rig.server.take().expect("it serves").kill();
    rig.server = Some(Serving::start(rig.folder.path()));
    between.go_on(rig.server.as_ref().expect("it serves").address);
    // The server does not know what happened before.
    let gap = next();
    assert!(gap["text"].as_str().is_some_and(|text| text.starts_with("Gap: the server was restarted at ")), "{gap}");
    let restored = next();
    assert_eq!((&restored["event"], &restored["time"]), (&json!("restored"), &gap["time"]), "times are in order");
    events.kill();
}

#[test]
fn a_batch_survives_a_server_that_is_killed_in_the_middle_of_it() {
    const LINES: usize = 2_000;
    let mut rig = Rig::with_service("count", "counter", &[]);
    let server = rig.server.take().expect("it serves");
    // Some of many answers get through. Others are lost although their transactions were executed.
    let between = Between::new(server.address);
    rig.log_in("admin", PASSWORD, &between.url()).exits(0);
    between.cut(std::iter::once(20_000).chain(std::iter::repeat_n(0, 100)));
    let file = rig.folder.path().join("lines");
    let lines: Vec<String> = (0..LINES)
        .map(|line| {
            if line % 2 == 0 {
                "{\"json\":{\"add\":1}}\n".into()
            } else {
                format!("{{\"id\":\"{line}\",\"json\":{{\"add\":1}}}}\n")
            }
        })
        .collect();
    std::fs::write(&file, lines.concat()).expect("writable");
    let mut batch = rig.client(["batch", "count"]).arg(&file).start();
    let mut answers = Vec::new();
    for _ in 0..50 {
        answers.extend(batch.line().expect("answers come"));
    }
    server.kill();
    rig.server = Some(Serving::start(rig.folder.path()));
    between.go_on(rig.server.as_ref().expect("it serves").address);
    let output = batch.finish();
    assert!(output.stderr.contains(" lines again in "), "{}", output.stderr);
    assert!(output.stderr.ends_with("2,000 answered: 2,000 ok\n"), "{}", output.stderr);
    answers.extend_from_slice(output.exits(0).as_bytes());
    let expected: String = (1..=LINES).map(|total| format!("{total}\n")).collect();
    assert_eq!(String::from_utf8(answers).expect("text"), expected, "lost or doubled");
    assert_eq!(rig.client(["query", "count", "\"total\""]).output().exits(0), format!("{LINES}\n"));
}

#[test]
fn a_batch_whose_client_is_killed_resumes_from_its_file() {
    let rig = Rig::with_service("count", "counter", &[]);
    let resume = rig.folder.path().join("resume");
    let batch = || rig.client(["batch", "count", "-", "--resume"]).arg(&resume);
    let mut first = batch().start();
    for _ in 0..10 {
        first.send("{\"json\":{\"add\":1}}");
    }
    assert_eq!(first.line(), Some(b"1\n".to_vec()));
    first.kill();
    let again = batch().input("{\"json\":{\"add\":1}}\n".repeat(20)).output();
    let expected: String = (1..=20).map(|total| format!("{total}\n")).collect();
    assert_eq!(again.exits(0), expected);
    assert!(!resume.exists(), "it is over");
}

#[test]
fn a_batch_answers_a_wrong_line_in_its_place() {
    let rig = Rig::with_service("count", "counter", &[]);
    let input =
        "{\"json\":{\"add\":1}}\nnonsense\n{\"query\":true,\"json\":\"total\"}\n{\"id\":\"x\",\"json\":{\"add\":1}}";
    let output = rig.client(["batch", "count", "-"]).input(input).output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((lines[0], lines[2], lines[3], lines.len()), ("1", "1", "2", 4));
    assert!(lines[1].contains("\"denied\"") && lines[1].contains("line 2 is not an envelope"), "{}", lines[1]);
    assert!(output.stderr.contains("4 answered: 3 ok, 1 denied"), "{}", output.stderr);
    assert_eq!(rig.client(["batch", "count", "-"]).output().exits(0), "");
}

#[test]
fn a_batch_whose_token_becomes_void_resumes_after_a_log_in() {
    const LINES: usize = 2_000;
    let rig = Rig::with_service("count", "counter", &[]);
    let ada = rig.add_user("ada");
    rig.client(["user", "grant", "ada", "count", "transact"]).output().exits(0);
    let resume = rig.folder.path().join("resume");
    let batch = || {
        let batch = lifeboat(["batch", "count", "-", "--resume"]).arg(&resume);
        batch.env("LIFEBOAT_PROFILE", &ada)
    };
    let mut first = batch().start();
    first.send("{\"json\":{\"add\":1}}");
    assert_eq!(first.line(), Some(b"1\n".to_vec()));
    let passwd = rig.client(["user", "passwd", "ada", "--password-stdin"]);
    passwd.input(format!("{PASSWORD}ada\n")).output().exits(0);
    // The server ends the batch at this line, and the client may read no other.
    first.send("{\"json\":{\"add\":1}}");
    let output = first.finish();
    let line = output.exits_with_one_line(5, &["1 line is answered", "after lifeboat login the same command"]);
    assert!(line.contains("not_authenticated"), "{line}");
    assert_eq!(rig.client(["query", "count", "\"total\""]).output().exits(0), "1\n", "no other is executed");

    let login = lifeboat(["login", "--user", "ada", "--password-stdin", "--server", &rig.url()]);
    login.env("LIFEBOAT_PROFILE", &ada).input(format!("{PASSWORD}ada\n")).output().exits(0);
    let again = batch().input("{\"json\":{\"add\":1}}\n".repeat(LINES)).output();
    let expected: String = (1..=LINES).map(|total| format!("{total}\n")).collect();
    assert_eq!(again.exits(0), expected);
    assert!(!resume.exists());
}

#[test]
fn answers_that_nobody_reads_are_printed_by_the_next_run() {
    let rig = Rig::with_service("count", "counter", &[]);
    let (resume, lines) = (rig.folder.path().join("resume"), rig.folder.path().join("lines"));
    std::fs::write(&lines, "{\"json\":{\"add\":1}}\n").expect("writable");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut unread = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    unread.args(["batch", "count", "--resume"]).arg(&resume).arg(&lines).env("LIFEBOAT_PROFILE", rig.profile());
    let output = unread.stdin(Stdio::null()).stdout(writer).output().expect("it starts");
    let printed = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("the reader of the answers has gone") && printed.contains("the same command"),
        "{printed}"
    );
    let again = rig.client(["batch", "count", "--resume"]).arg(&resume).arg(&lines).output();
    assert_eq!(again.exits(0), "1\n", "executed once, and printed");
    assert!(!resume.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_batch_whose_answers_cannot_be_written_gives_one_order() {
    let rig = Rig::with_service("count", "counter", &[]);
    let (resume, lines) = (rig.folder.path().join("resume"), rig.folder.path().join("lines"));
    std::fs::write(&lines, "{\"json\":{\"add\":1}}\n").expect("writable");
    let batch = |options: &[&Path], answers: std::fs::File| {
        let mut batch = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        batch.args(["batch", "count"]).arg(&lines).args(options).env("LIFEBOAT_PROFILE", rig.profile());
        let output = batch.stdin(Stdio::null()).stdout(answers).output().expect("it starts");
        let printed = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(4), "{printed}");
        printed
    };
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let room = "make room for the answers or write them to another file, then";
    let printed = batch(&[], full());
    let expected = format!(
        "lifeboat: all lines up to 1 may be done: {room} continue with line 1, with the same ids; a line without an id \
         may then be done twice, which --resume FILE prevents: cannot write the answers: no space left on the device\n"
    );
    assert_eq!(printed, expected);
    let printed = batch(&["--resume".as_ref(), &resume], full());
    let expected = format!(
        "lifeboat: all lines up to 1 may be done: {room} the same command sends the rest, and prints all answers: \
         cannot write the answers: no space left on the device\n"
    );
    assert_eq!(printed, expected);
    // Such a descriptor is an error too, which the standard library's own standard output hides.
    let printed = batch(&["--resume".as_ref(), &resume], std::fs::File::open("/dev/null").expect("readable"));
    assert!(printed.contains(room) && printed.contains("Bad file descriptor"), "{printed}");
    let again = rig.client(["batch", "count", "--resume"]).arg(&resume).arg(&lines).output();
    assert_eq!(again.exits(0), "2\n", "executed once with the file");
}

#[test]
fn two_batches_cannot_have_one_file() {
    let rig = Rig::with_service("count", "counter", &[]);
    let resume = rig.folder.path().join("resume");
    let batch = || rig.client(["batch", "count", "-", "--resume"]).arg(&resume);
    let mut first = batch().start();
    first.send("{\"json\":{\"add\":1}}");
    assert_eq!(first.line(), Some(b"1\n".to_vec()));
    let second = batch().input("{\"json\":{\"add\":1}}\n").output();
    second.exits_with_one_line(2, &["batch under way"]);
    first.send("{\"json\":{\"add\":1}}");
    assert_eq!(first.finish().exits(0), "2\n");
    assert!(!resume.exists());
}

#[test]
fn an_interrupted_batch_reports_how_to_continue() {
    let rig = Rig::with_service("count", "counter", &[]);
    let resume = rig.folder.path().join("resume");
    for (signal, options, words) in [
        ("INT", vec![], "with 2 lines answered; the rest was not sent: continue with line 3"),
        ("HUP", vec![], "with 2 lines answered; the rest was not sent: continue with line 3"),
        ("TERM", vec!["--resume".into(), resume.display().to_string()], "the same command sends the rest"),
    ] {
        let mut batch = rig.client(["batch", "count", "-"]).args(&options).listening_to_hangups().start();
        for _ in 0..2 {
            batch.send("{\"json\":{\"add\":1}}");
            assert!(batch.line().is_some());
        }
        batch.signal(signal);
        assert_eq!(batch.line(), None, "it ends although its input goes on");
        let output = batch.finish();
        output.exits(1);
        assert!(output.stderr.contains("lifeboat: interrupted ") && output.stderr.contains(words), "{}", output.stderr);
    }
    let again = |count| {
        let again = rig.client(["batch", "count", "-", "--resume"]).arg(&resume);
        again.input("{\"json\":{\"add\":1}}\n".repeat(count)).output()
    };
    // A shorter input does not complete the file of the batch. Without the file, executed lines would be executed
    // again.
    for (count, answers) in [(0, ""), (1, "5\n")] {
        let output = again(count);
        assert_eq!(output.exits(1), answers);
        assert!(output.stderr.contains("more lines were sent with it"), "{}", output.stderr);
        assert!(resume.exists());
    }
    assert_eq!(again(3).exits(0), "5\n6\n7\n", "two of them were done");
    assert!(!resume.exists());
}

#[test]
fn a_batch_sends_bare_bodies_only_with_their_option() {
    let rig = Rig::with_service("count", "counter", &[]);
    let bodies = "{\"add\":1}\n{\"add\": 2}\nhello\n";
    let batch = rig.client(["batch", "count", "-", "--bodies"]).input(bodies).output();
    let lines: Vec<&str> = batch.exits(1).lines().collect();
    assert_eq!(lines[..2], ["1", "3"]);
    assert!(lines[2].contains("\"outcome\":\"refused\""), "the guest had it: {}", lines[2]);
    let batch = rig.client(["batch", "count", "-"]).input("{\"add\":1}\n").output();
    let denied: Value = serde_json::from_str(batch.exits(1)).expect("JSON");
    let cause = denied["cause"].as_str().expect("a text");
    let printed = "line 1 is not an envelope: it has none of \"json\", \"text\" and \"base64\"; to send the line as a body, wrap \
                it: {\"json\":{\"add\":1}}, or use lifeboat batch --bodies";
    assert!(cause.starts_with(printed), "{cause}");
    // Bytes that are not text, and bodies that become longer in JSON.
    let notes = rig.folder.path().join("bodies");
    std::fs::write(&notes, [&b"\xff\x00\n"[..], &[1; 100_000], b"\n"].concat()).expect("writable");
    let batch = rig.client(["batch", "count", "--bodies"]).arg(&notes).output();
    let outcomes: Vec<Value> = batch.json_lines().iter().map(|answer| answer["outcome"].clone()).collect();
    assert_eq!(outcomes, [json!("refused"), json!("refused")]);
}

#[test]
fn a_workload_that_is_refused_is_named_by_its_file() {
    let rig = Rig::logged_in();
    let file = rig.folder.path().join("i.wat");
    std::fs::write(&file, "(module").expect("writable");
    let refused = rig.client(["deploy", "xx"]).arg(&file).output();
    let line = refused.exits_with_one_line(3, &["invalid WebAssembly text at line 1"]);
    assert!(line.starts_with(&format!("lifeboat: `{}`: ", file.display())), "{line}");
}

#[test]
fn a_batch_that_is_interrupted_twice_waits_for_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let batch = lifeboat(["batch", "count", "-"]).env("LIFEBOAT_SERVER", url).env("LIFEBOAT_TOKEN", "lifeboat_token");
    let mut batch = batch.env("LIFEBOAT_PROFILE", "/nowhere").start();
    batch.send("{\"json\":\"a line\"}");
    // A server that accepts the line and never answers.
    let (mut server, _) = listener.accept().expect("it connects");
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(6).any(|bytes| bytes == b"a line") {
        let count = server.read(&mut buffer).expect("it sends");
        request.extend_from_slice(&buffer[..count]);
    }
    // Two signals of the same kind could be merged into one.
    batch.signal("INT");
    batch.signal("TERM");
    assert_eq!(batch.line(), None, "it ends at once");
    let output = batch.finish();
    output.exits(1);
    assert!(output.stderr.contains("waiting for 1 answer; interrupt again"), "{}", output.stderr);
    assert!(output.stderr.contains("0 lines are answered, 1 more may or may not be done"), "{}", output.stderr);
    assert!(output.stderr.contains("continue with line 1, with the same ids"), "{}", output.stderr);
}

#[test]
fn a_server_that_is_starting_is_waited_for_by_every_command() {
    let rig = Rig::with_service("count", "counter", &[]);
    let between = Between::new(rig.server.as_ref().expect("it serves").address);
    let lines = rig.folder.path().join("lines");
    std::fs::write(&lines, "{\"json\":{\"add\":1}}\n").expect("writable");
    let lines = lines.display().to_string();
    between.starting.store(2, SeqCst);
    rig.log_in("admin", PASSWORD, &between.url()).exits(0);
    for command in [
        &["whoami"][..],
        &["services"],
        &["query", "count", "\"total\""],
        &["tx", "count", "--attempts", "1", "{\"add\":1}"],
        &["batch", "count", &lines],
        &["usage"],
        &["events"],
        &["logs", "count"],
        &["failover", "count"],
        &["user", "list"],
        &["logout"],
    ] {
        between.starting.store(2, SeqCst);
        let output = rig.client(command.iter().copied()).output();
        output.exits(0);
        assert_eq!(between.starting.load(SeqCst), 0, "{command:?} asked again");
    }
}

#[test]
fn a_server_is_trusted_by_a_certificate_that_the_user_names() {
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let config = folder.path().join("lifeboat.toml");
    let text = std::fs::read_to_string(&config).expect("readable");
    let (certificate, key) = (tls_file("server.pem"), tls_file("server.key"));
    let tls = tls_table(&certificate, &key);
    std::fs::write(&config, text + &tls).expect("writable");
    let server = Serving::start(folder.path());
    let url = format!("https://{}", server.address);
    let profile = folder.path().join("profile.toml");
    let client = |arguments: &[&str]| lifeboat(arguments).env("LIFEBOAT_PROFILE", &profile);
    let log_in = || client(&["login", "--server", &url, "--user", "admin", "--password-stdin"]).input(PASSWORD);
    log_in().output().exits_with_one_line(5, &["cannot reach https://", "--ca FILE"]);
    log_in().arg("--ca").arg(&key).output().exits_with_one_line(2, &["server.key", "certificate"]);
    // The error is not one of a request that may have been executed.
    let plain = format!("http://{}", server.address);
    let log_in_plain = client(&["login", "--server", &plain, "--user", "admin", "--password-stdin"]).input(PASSWORD);
    let output = log_in_plain.output();
    output.exits_with_one_line(5, &["cannot reach http://", "https://"]);
    assert!(!output.stderr.contains("may have been done"), "{}", output.stderr);
    log_in().arg("--ca").arg(&certificate).output().exits(0);
    client(&["whoami"]).output().exits(0);
    let kept = std::fs::read_to_string(&profile).expect("readable");
    assert!(kept.contains(&certificate.display().to_string()), "the profile keeps where it is");

    let http = client(&["login", "--server", "http://127.0.0.1:1", "--user", "admin", "--password-stdin"]);
    http.arg("--ca").arg(&certificate).input(PASSWORD).output().exits_with_one_line(2, &["--ca", "https://"]);

    // The variable replaces the option, and overrides the profile.
    client(&["whoami"]).env("LIFEBOAT_CA", "/nowhere.pem").output().exits_with_one_line(2, &["/nowhere.pem"]);
    std::fs::remove_file(&profile).expect("it is there");
    log_in().env("LIFEBOAT_CA", &certificate).output().exits(0);
    let token = kept.split('"').find(|part| part.starts_with("lifeboat_")).expect("a token");
    let by_variables = lifeboat(["whoami"]).env("LIFEBOAT_PROFILE", "/nowhere").env("LIFEBOAT_CA", &certificate);
    by_variables.env("LIFEBOAT_SERVER", &url).env("LIFEBOAT_TOKEN", token).output().exits(0);
}

#[test]
fn an_id_that_no_url_can_hold_names_nothing_else() {
    let rig = Rig::with_service("count", "counter", &[]);
    rig.client(["tx", "count", "--id", "..", "{\"add\":1}"]).output().exits_with_one_line(2, &["'..'", "URL"]);
    rig.client(["tx", "count", "--id", "..", "--look-up"]).output().exits_with_one_line(2, &["'..'", "URL"]);
    assert_eq!(rig.client(["tx", "count", "--id", "a/../b?", "{\"add\":1}"]).output().exits(0), "1\n");
    assert_eq!(rig.client(["tx", "count", "--id", "a/../b?", "--look-up"]).output().exits(0), "1\n");
}
