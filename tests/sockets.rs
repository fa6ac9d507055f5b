//! TCP of a program that `lifeboat run` runs once: what `--allow-net` opens, what it counts, and where it ends.

use crate::util::{Lifeboat, Output, guest, lifeboat, prebuilt};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

const PROGRAM: &str = "tcp.wat";

/// What the program prints for `access-denied`.
const ACCESS_DENIED: &str = "Eb";

/// What it prints for `new-socket-limit`.
const NEW_SOCKET_LIMIT: &str = "Ek";

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Serves one connection on a thread.
fn serve<T: Send + 'static>(
    listener: TcpListener,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || serve(listener.accept().expect("a connection").0))
}

/// Answers what it receives, in capitals.
fn shout(mut stream: TcpStream) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("received");
    stream.write_all(text.to_uppercase().as_bytes()).expect("sent");
}

/// Returns the input with which the program connects to an address.
fn to(what: char, address: SocketAddr, text: &str) -> Vec<u8> {
    let SocketAddr::V4(address) = address else { panic!("{address} is not one of IPv4") };
    [&[what as u8], &address.ip().octets()[..], &address.port().to_le_bytes(), text.as_bytes()].concat()
}

/// Returns the input with which the program connects to a name.
fn to_name(name: &str, port: u16, text: &str) -> Vec<u8> {
    let len = u8::try_from(name.len()).expect("short");
    [b"n", &port.to_le_bytes()[..], &[len], name.as_bytes(), text.as_bytes()].concat()
}

fn run(options: &[&str]) -> Lifeboat {
    lifeboat(["run"]).args(options).arg(guest(PROGRAM))
}

/// Runs the program with a network of one address.
fn allowed(address: &str, options: &[&str], input: Vec<u8>) -> Output {
    run(&[&["--allow-net", address], options].concat()).input(input).output()
}

/// Checks that the program has printed this error, and that the host has named what was denied, if it is anything.
#[track_caller]
fn denied(output: &Output, error: &str, named: &str) {
    assert_eq!(output.exits(1), error);
    match named {
        "" => assert_eq!(output.stderr, ""),
        named => assert!(output.stderr.contains(named), "{}", output.stderr),
    }
}

/// Returns the use of the network, which `--usage --json` prints.
fn network(output: &Output) -> Value {
    let line = output.stderr.lines().last().expect("the usage");
    serde_json::from_str::<Value>(line).expect("JSON")["usage"]["network"].clone()
}

#[test]
fn a_program_exchanges_bytes_with_an_allowed_address() {
    let (listener, address) = listener();
    let peer = serve(listener, shout);
    let output = allowed(&address.to_string(), &["--usage", "--json"], to('c', address, "hello"));
    assert_eq!(output.exits(0), "HELLO");
    peer.join().expect("it served");
    let usage = json!({
        "calls": {"used": 1, "limit": 1_000_000},
        "bytes": {"used": 10, "limit": 64_000_u64 << 20},
    });
    assert_eq!(network(&output), usage);
}

#[test]
fn a_program_exchanges_more_than_any_buffer_holds() {
    let text = "a".repeat(100_000);
    let (listener, address) = listener();
    let peer = serve(listener, shout);
    let output = allowed(&address.to_string(), &["--usage"], to('c', address, &text));
    assert_eq!(output.exits(0), text.to_uppercase());
    peer.join().expect("it served");
    assert!(output.stderr.contains("  network "), "{}", output.stderr);
}

#[test]
fn a_program_connects_to_an_allowed_name() {
    let (listener, address) = listener();
    let peer = serve(listener, shout);
    let port = address.port();
    let output = allowed(&format!("LocalHost:{port}"), &[], to_name("localhost.", port, "hello"));
    assert_eq!((output.exits(0), &*output.stderr), ("HELLO", ""));
    peer.join().expect("it served");
}

#[test]
fn an_address_that_is_not_allowed_is_denied() {
    let (listener, address) = listener();
    listener.set_nonblocking(true).expect("set");
    let port = address.port();
    // Another port, another address, and a name whose address the host has not resolved.
    for other in [format!("127.0.0.1:{}", port ^ 1), format!("127.0.0.2:{port}"), format!("localhost:{port}")] {
        let output = allowed(&other, &["--usage", "--json"], to('c', address, "hello"));
        assert_eq!(output.exits(1), ACCESS_DENIED, "{other}");
        assert_eq!(network(&output)["calls"]["used"], 0);
    }
    assert_eq!(listener.accept().expect_err("nobody connected").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_name_that_is_not_allowed_is_denied() {
    let (listener, address) = listener();
    listener.set_nonblocking(true).expect("set");
    let port = address.port();
    denied(
        &allowed(&format!("127.0.0.1:{port}"), &[], to_name("localhost", port, "hello")),
        ACCESS_DENIED,
        "asked for localhost, which",
    );
    denied(
        &allowed(&format!("localhost:{port}"), &[], to_name("example.org", port, "hello")),
        ACCESS_DENIED,
        "asked for example.org, which",
    );
    // The name is allowed with another port alone.
    denied(
        &allowed(&format!("localhost:{}", port ^ 1), &[], to_name("localhost", port, "hello")),
        ACCESS_DENIED,
        &format!(":{port}, which"),
    );
    assert_eq!(listener.accept().expect_err("nobody connected").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_program_without_an_allowed_address_has_no_sockets() {
    let (_listener, address) = listener();
    for input in [to('c', address, "hello"), to_name("localhost", address.port(), "hello"), b"u".to_vec()] {
        denied(&run(&[]).input(input).output(), ACCESS_DENIED, "--allow-net HOST:PORT lets it connect there");
    }
}

#[test]
fn a_program_with_an_allowed_address_has_neither_listeners_nor_udp() {
    denied(&allowed("127.0.0.1:9", &[], b"l".to_vec()), &format!("{ACCESS_DENIED}{ACCESS_DENIED}"), "");
    denied(&allowed("127.0.0.1:9", &[], b"u".to_vec()), ACCESS_DENIED, "");
}

#[test]
fn a_program_has_a_bounded_number_of_sockets() {
    let output = allowed("127.0.0.1:9", &[], b"s".to_vec());
    assert_eq!((output.exits(0), &*output.stderr), (&*format!("128{NEW_SOCKET_LIMIT}"), ""));
}

#[test]
fn a_refused_connection_is_an_error_that_the_program_sees() {
    let (listener, address) = listener();
    drop(listener);
    // The code of `connection-refused` is 14.
    denied(&allowed(&address.to_string(), &[], to('c', address, "hello")), "Eo", "");
}

#[test]
fn a_run_ends_with_its_allowance_of_network() {
    let (listener, address) = listener();
    let peer = serve(listener, |mut stream| {
        let mut received = Vec::new();
        // The run ends with a reset, or with an end.
        drop(stream.read_to_end(&mut received));
        received.len()
    });
    let options = ["--network-bytes", "64KiB", "--usage", "--json"];
    let output = allowed(&address.to_string(), &options, to('w', address, ""));
    assert_eq!(output.exits(134), "");
    let words = "network: it used up its allowance of 64 KiB; give it more with --network-bytes";
    assert!(output.stderr.contains(&format!("{PROGRAM}: {words}\n")), "{}", output.stderr);
    assert_eq!(network(&output)["bytes"], json!({"used": 65_536, "limit": 65_536}));
    assert!(peer.join().expect("it served") <= 65_536);

    // What a peer sends counts as well.
    let (listener, address) = self::listener();
    let peer = serve(listener, |mut stream| {
        // The reader goes away before the end.
        drop(stream.write_all(&[b'x'; 1 << 20]));
    });
    let output = allowed(&address.to_string(), &options, to('c', address, "hello"));
    assert_eq!(output.exits(134).len(), 65_536 - "hello".len());
    peer.join().expect("it served");
}

#[test]
fn a_run_ends_with_its_allowance_of_connections() {
    // The kernel accepts the first of two connections, and the host does not begin the second one.
    let (_listener, address) = listener();
    let output = allowed(&address.to_string(), &["--network-calls", "1"], to('2', address, ""));
    assert_eq!(output.exits(134), "");
    assert!(
        output.stderr.contains("network: it used up its allowance of 1 call; give it more with --network-calls"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_look_up_of_a_name_counts_as_a_call() {
    // The look-up is the call of the allowance, and the host does not begin the connection.
    let (listener, address) = listener();
    listener.set_nonblocking(true).expect("set");
    let port = address.port();
    let options = ["--network-calls", "1", "--usage", "--json"];
    let output = allowed(&format!("localhost:{port}"), &options, to_name("localhost", port, "hello"));
    assert_eq!(output.exits(134), "");
    assert_eq!(network(&output)["calls"], json!({"used": 1, "limit": 1}));
    assert_eq!(listener.accept().expect_err("nobody connected").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_program_sees_that_its_peer_closes() {
    let (listener, address) = listener();
    let peer = serve(listener, |mut stream| {
        stream.write_all(b"bye").expect("sent");
        stream.shutdown(Shutdown::Write).expect("ended");
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    });
    let output = allowed(&address.to_string(), &[], to('c', address, "hello"));
    assert_eq!((output.exits(0), &*output.stderr), ("bye", ""));
    peer.join().expect("it served");
}

#[test]
fn a_time_limit_ends_a_wait_for_a_peer() {
    // One peer never answers, and the other one never reads: the kernel accepts the connection, and nobody else does.
    for what in ['c', 'w'] {
        let (_listener, address) = listener();
        let output = allowed(&address.to_string(), &["--timeout", "300ms"], to(what, address, "hello"));
        assert_eq!(output.exits(134), "", "{what}");
        let words = "deadline: not finished within 300 ms; give it more with --timeout";
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
}

#[test]
fn a_poll_waits_for_a_peer_and_for_a_clock() {
    let (_silent, address) = listener();
    assert_eq!(allowed(&address.to_string(), &[], to('t', address, "")).exits(0), "1", "the timer is due");

    // The peer sends before it is asked, and the timer is far away.
    let (listener, address) = listener();
    let peer = serve(listener, |mut stream| {
        stream.write_all(b"at once").expect("sent");
        stream
    });
    assert_eq!(allowed(&address.to_string(), &[], to('T', address, "")).exits(0), "0", "the peer has sent");
    drop(peer.join().expect("it served"));
}

#[test]
fn what_a_program_has_sent_arrives_after_its_end() {
    let (listener, address) = listener();
    let (ended, has_ended) = std::sync::mpsc::channel();
    let peer = serve(listener, move |mut stream| {
        has_ended.recv().expect("the program has written its number");
        std::io::copy(&mut stream, &mut std::io::sink()).expect("received")
    });
    let mut running = run(&["--allow-net", &address.to_string()]).start();
    running.send_bytes(&to('f', address, ""));
    running.close_input();
    let sent: u64 = String::from_utf8(running.line().expect("a number")).expect("text").trim().parse().expect("digits");
    ended.send(()).expect("it waits");
    assert_eq!(peer.join().expect("it served"), sent);
    assert!(sent > 0);
    running.finish().exits(0);
}

#[test]
fn a_run_with_sockets_ends_with_the_reader_of_its_output() {
    let (listener, address) = listener();
    let peer = serve(listener, |mut stream| {
        // It sends until nobody receives.
        while stream.write_all(&[b'\n'; 4096]).is_ok() {}
    });
    let mut running = run(&["--allow-net", &address.to_string()]).start();
    running.send_bytes(&to('c', address, ""));
    running.close_input();
    running.line().expect("what the peer sends");
    running.hang_up();
    running.finish().exits(141);
    peer.join().expect("it served");
}

#[test]
fn addresses_for_tcp_are_refused_where_nothing_could_use_them() {
    let net = ["--allow-net", "127.0.0.1:9"];
    let refused = |output: Output, words: &[&str]| {
        output.exits_with_one_line(2, words);
    };
    refused(run(&["--allow-net", "127.0.0.1:9", "--deterministic"]).output(), &["--deterministic", "leave out one"]);
    let service = "is for a program that runs once, and this is a service; write http://127.0.0.1:9 or";
    let leave_out = "leave out --transactions, --data";
    refused(run(&[&net[..], &["--transactions", "lines"]].concat()).output(), &[service, leave_out]);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").display().to_string();
    refused(run(&[&net[..], &["--data", &data]].concat()).output(), &[service, leave_out]);
    refused(lifeboat(["run"]).args(net).arg(prebuilt("counter")).output(), &[service]);
    let both = ["HOST:PORT for a program that runs once", "for a service"];
    refused(lifeboat(["run", "--allow-net", "db"]).arg(guest(PROGRAM)).output(), &["'db'", both[0], both[1]]);
    refused(run(&["--allow-net", "api.example.org", "--transactions", "lines"]).output(), &both);
    refused(run(&["--allow-net", "*.example.org", "--transactions", "lines"]).output(), &both);
    refused(lifeboat(["run", "--allow-net", "db:x"]).arg(guest(PROGRAM)).output(), &["its port is 'x'"]);
    refused(run(&["--network-calls", "5"]).output(), &["--network-calls is for a service", "--allow-net HOST:PORT"]);
    let deploy = lifeboat(["deploy", "p"]).args(net).arg(guest(PROGRAM)).output();
    refused(deploy, &["cannot use '127.0.0.1:9'", "it has no scheme"]);
}

#[test]
fn a_program_that_imports_no_sockets_is_told_so() {
    let output = lifeboat(["run", "--allow-net", "127.0.0.1:9"]).arg(guest("program.wat")).input("ehello").output();
    assert_eq!(output.exits(0), "hello");
    assert!(output.stderr.contains("--allow-net has no effect"), "{}", output.stderr);
}

#[test]
fn inspect_shows_what_an_allowed_address_opens() {
    let output = lifeboat(["inspect", "--json"]).arg(guest(PROGRAM)).output();
    let report: Value = serde_json::from_str(output.exits(0)).expect("JSON");
    let granted = ["network", "instance-network", "tcp", "tcp-create-socket", "ip-name-lookup"];
    let granted = granted.map(|name| format!("wasi:sockets/{name}@0.2.3"));
    assert_eq!(report["allowed_by_allow_net"], json!(granted));
    let denied = report["denied"].as_array().expect("a list");
    assert!(denied.contains(&json!("wasi:sockets/udp@0.2.3")) && denied.contains(&json!(granted[2])), "{report}");
    let output = lifeboat(["inspect"]).arg(guest(PROGRAM)).output();
    assert!(output.exits(0).contains("wasi:sockets/tcp@0.2.3 *\n"), "{}", output.exits(0));
    assert!(output.exits(0).contains(" * not denied to a run with --allow-net\n"), "{}", output.exits(0));
    // A workload of the world gets none of them.
    let output = lifeboat(["inspect", "--json"]).arg(guest("denied.wat")).output();
    let report: Value = serde_json::from_str(output.exits(0)).expect("JSON");
    assert_eq!(report["allowed_by_allow_net"], json!([]));
}
