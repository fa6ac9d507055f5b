//! The messages of the client commands about something that answers but is no Lifeboat server.

use crate::util::{Output, lifeboat, prebuilt};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// Starts something that answers every request with these bytes and closes the connection. Returns its URL.
fn answering(bytes: impl Into<Vec<u8>>) -> String {
    let bytes = bytes.into();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    // The thread ends with the process.
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let bytes = bytes.clone();
            std::thread::spawn(move || answer(connection, &bytes));
        }
    });
    url
}

fn answer(mut connection: TcpStream, bytes: &[u8]) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let Ok(read @ 1..) = connection.read(&mut buffer) else { return };
        request.extend_from_slice(&buffer[..read]);
    }
    let _ = connection.write_all(bytes);
    let _ = connection.shutdown(Shutdown::Write);
    // If a connection is closed before everything was read, the other end loses what it has not read yet.
    while let Ok(1..) = connection.read(&mut buffer) {}
}

/// Runs a command against a URL, with a token.
fn at(url: &str, arguments: &[&str]) -> Output {
    let command = lifeboat(arguments).env("LIFEBOAT_SERVER", url).env("LIFEBOAT_TOKEN", "lifeboat_0");
    command.env("LIFEBOAT_DATA", "").input("longenough\n").output()
}

/// Text that no message may contain: phrases of libraries, and a message within another.
const FOREIGN: [&str; 12] = [
    "message completed",
    "message length",
    "chunk size",
    "timed out",
    "message head",
    "missing field",
    "trailing comma",
    "EOF while",
    "expected value",
    "lookup address",
    "reset by peer",
    "without a problem",
];

/// Checks that the run ends with this code, prints nothing, has `words` in its last line, and contains no foreign text.
fn expect(output: &Output, code: i32, words: &[&str]) -> Result<(), String> {
    let last = output.stderr.lines().last().unwrap_or_default();
    let urls = last.matches("http://127.0.0.1").count();
    let is_right = output.code == code
        && output.stdout.is_empty()
        && words.iter().all(|words| last.contains(words))
        && urls == 1
        && !FOREIGN.iter().any(|foreign| output.stderr.contains(foreign));
    if is_right {
        Ok(())
    } else {
        Err(format!("{} {:?} {}", output.code, String::from_utf8_lossy(&output.stdout), output.stderr))
    }
}

#[test]
fn no_command_succeeds_by_a_success_of_another_kind_of_server() {
    let workload = prebuilt("counter").display().to_string();
    let commands: &[&[&str]] = &[
        &["logout"],
        &["events"],
        &["logs", "c"],
        &["whoami"],
        &["services"],
        &["usage"],
        &["user", "list"],
        &["stop", "c"],
        &["remove", "c", "--yes"],
        &["deploy", "c", &workload],
        &["query", "c", "1"],
        &["tx", "c", "1"],
        &["tx", "c", "--look-up", "--id", "a"],
        &["login", "--user", "a", "--password-stdin"],
    ];
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: ";
    let answers = [
        format!("{head}text/html\r\nContent-Length: 13\r\n\r\n<html></html>"),
        format!("{head}application/json\r\nContent-Length: 8\r\n\r\n{{\"a\": 1}}"),
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".into(),
        format!("{head}text/event-stream\r\n\r\ndata: {{\"a\": 1}}\n\n"),
    ];
    let mut wrong = Vec::new();
    for answer in answers {
        let url = answering(answer.clone());
        for arguments in commands {
            let said =
                expect(&at(&url, arguments), 4, &["is not a Lifeboat server, or has another version: ", "; check"]);
            wrong.extend(said.err().map(|error| format!("{arguments:?} at {answer:?}: {error}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_broken_connection_is_reported_in_words_of_users() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let closed = "the connection was closed before the whole answer arrived";
    let no_http = "does not speak HTTP; try https://";
    let cases = [
        (String::new(), closed),
        (format!("{head}Content-Length: 900\r\n\r\n{{\"a\": 1"), closed),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), no_http),
        ("SSH-2.0-OpenSSH_9.6\r\n".into(), no_http),
        (format!("{head}X: {}\r\n\r\n", "a".repeat(1_000_000)), "more headers than"),
        ("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".into(), "a proxy in front of it answered with status 503"),
    ];
    let mut wrong = Vec::new();
    for (answer, words) in cases {
        let url = answering(answer.clone());
        for (arguments, after) in [
            (&["whoami"][..], "; nothing was changed: run the command again, or name another server"),
            (&["query", "c", "1", "--attempts", "2"], "; nothing was changed: run the command again"),
            (&["stop", "c"], "; the request may have been done: check whether it was before you send it again"),
        ] {
            let said = expect(&at(&url, arguments), 5, &[words, after]);
            wrong.extend(said.err().map(|error| format!("{arguments:?} at {:.80?}: {error}", answer)));
        }
        // The message names the way to find out.
        let said = at(&url, &["tx", "c", "1", "--attempts", "1"]);
        wrong.extend((!said.stderr.contains("--look-up: ")).then_some(said.stderr));
    }
    let nowhere = at("http://nosuch.invalid", &["whoami"]);
    if !nowhere.stderr.contains("its host name ") || !nowhere.stderr.contains("; check that the server runs there") {
        wrong.push(nowhere.stderr);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn json_of_another_shape_is_reported_by_what_it_lacks() {
    let answer = |json: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
        answering(format!("{head}{}\r\n\r\n{json}", json.len()))
    };
    for (json, words) in [
        ("{\"a\": 1}", "its answer has no 'user'"),
        ("{\"a\": 1,}", "its answer is not JSON, although its header says so"),
        ("", "its answer ends in the middle of the JSON"),
    ] {
        expect(&at(&answer(json), &["whoami"]), 4, &[words]).expect(json);
    }
}
