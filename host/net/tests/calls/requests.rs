//! What is sent.

use crate::server::{LONG, Names, Server, client, error, request, response};
use lifeboat_api::call::{CALL_BODY_BYTES_MAX, CALL_FIELDS_BYTES_MAX, CallError, CallRequest, Field, Scheme};
use lifeboat_net::{Limits, METHOD_BYTES_MAX, PATH_BYTES_MAX, REQUEST_FIELDS_MAX, Secrets};

fn field(name: &str, value: &str) -> Field {
    Field { name: name.into(), value: value.to_owned().into() }
}

async fn sent(server: &Server, request: &CallRequest) -> String {
    let called = server.send(request).await;
    let bytes_out = called.bytes_out;
    let body = response(called).body;
    assert_eq!(bytes_out, body.len() as u64);
    String::from_utf8(body.to_vec()).expect("text")
}

#[tokio::test]
async fn a_request_has_the_clients_headers_and_the_guests() {
    let server = Server::echo().await;
    let get =
        CallRequest { path_with_query: "/a?b=c".into(), headers: vec![field("accept", "*/*")], ..server.request() };
    let host = server.address;
    let expected = format!(
        "GET /a?b=c HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\naccept: */*\r\nidempotency-key: key-1\r\n\r\n"
    );
    assert_eq!(sent(&server, &get).await, expected);

    let headers = vec![field("x", "1"), field("idempotency-key", "own"), field("x", "2"), field("content-length", "4")];
    let post = CallRequest { method: "POST".into(), headers, body: "body".into(), ..server.request() };
    let text = sent(&server, &post).await;
    assert!(text.starts_with("POST / HTTP/1.1\r\n") && text.ends_with("\r\n\r\nbody"), "{text}");
    assert!(text.contains("x: 1\r\nx: 2\r\n") && text.contains("content-length: 4\r\n"), "{text}");
    assert!(text.contains("idempotency-key: own\r\n") && !text.contains("key-1"), "{text}");
}

#[tokio::test]
async fn a_method_that_usually_has_a_body_is_sent_with_its_length() {
    let server = Server::echo().await;
    for (method, has_length) in [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false)] {
        let text = sent(&server, &CallRequest { method: method.into(), ..server.request() }).await;
        assert_eq!(text.contains("content-length: 0\r\n"), has_length, "{text}");
        assert!(!text.contains("transfer-encoding"), "{text}");
    }
}

#[tokio::test]
async fn paths_are_sent_as_they_are() {
    let server = Server::echo().await;
    for (path, line) in [
        ("", "GET / HTTP/1.1\r\n"),
        ("?a", "GET /?a HTTP/1.1\r\n"),
        ("/a/../b//c", "GET /a/../b//c HTTP/1.1\r\n"),
        ("//evil.example/x", "GET //evil.example/x HTTP/1.1\r\n"),
        ("/%2e%2e?a=/&b=?", "GET /%2e%2e?a=/&b=? HTTP/1.1\r\n"),
    ] {
        let text = sent(&server, &CallRequest { path_with_query: path.into(), ..server.request() }).await;
        assert!(text.starts_with(line), "{text}");
        assert!(text.contains(&format!("\r\nhost: {}\r\n", server.address)), "{text}");
    }
}

#[tokio::test]
async fn the_largest_request_is_sent() {
    let server = Server::echo().await;
    let mut post = CallRequest { method: "POST".into(), ..server.request() };
    // The server repeats it, so that the headers are a part of the response's body.
    post.headers = vec![field("x", &"x".repeat(CALL_FIELDS_BYTES_MAX - 1))];
    post.body = vec![b'b'; CALL_BODY_BYTES_MAX - CALL_FIELDS_BYTES_MAX - 1_000].into();
    assert!(sent(&server, &post).await.len() > post.body.len() + CALL_FIELDS_BYTES_MAX);

    let server = Server::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let post = CallRequest { body: vec![b'b'; CALL_BODY_BYTES_MAX].into(), ..server.request() };
    let called = server.send(&post).await;
    assert!(called.bytes_out > CALL_BODY_BYTES_MAX as u64 && called.result.is_ok(), "{called:?}");
}

#[tokio::test]
async fn requests_that_cannot_be_sent_are_refused_before_a_connection_is_made() {
    let server = Server::echo().await;
    let get = server.request();
    let with_header = |name: &str, value: &str| CallRequest { headers: vec![field(name, value)], ..server.request() };
    let with_path = |path: &str| CallRequest { path_with_query: path.into(), ..server.request() };
    let with_method = |method: &str| CallRequest { method: method.into(), ..server.request() };
    let many = vec![field("x", ""); REQUEST_FIELDS_MAX + 1];
    let mut cases = vec![
        (with_header("content-length", "4"), "content-length is '4'"),
        (with_header("content-length", "+0"), "content-length is '+0'"),
        (with_header("content-length", "0, 0"), "content-length is"),
        (with_header("a b", "x"), "is not the name of a header"),
        (with_header("", "x"), "is not the name of a header"),
        (with_header("x", "a\r\nhost: evil.example"), "control character"),
        (with_header("x", "a\0b"), "control character"),
        (with_header("x", "{{secret:KEY}}"), "the header 'x': the service has no secret 'KEY'"),
        (with_header("x", "{{secret:KEY"), "is not closed"),
        (with_header("x", &"x".repeat(CALL_FIELDS_BYTES_MAX)), "the headers have 131073 bytes, over 128 KiB"),
        (CallRequest { headers: many, ..get.clone() }, "has 1001 headers, over 1000"),
        (CallRequest { body: vec![0; CALL_BODY_BYTES_MAX + 1].into(), ..get.clone() }, "over 4 MiB"),
        (with_path("a"), "does not begin with '/'"),
        (with_path("*"), "does not begin with '/'"),
        (with_path("http://evil.example/"), "does not begin with '/'"),
        (with_path("/a#b"), "has a '#'"),
        (with_path("/a b"), "has a '#'"),
        (with_path("/a HTTP/1.1\r\nx: y"), "has a '#'"),
        (with_path("/ä"), "has a '#'"),
        (with_path(&format!("/{}", "a".repeat(PATH_BYTES_MAX))), "over 32 KiB"),
        (with_method("CONNECT"), "the method CONNECT is not allowed"),
        (with_method("trace"), "the method trace is not allowed"),
        (with_method(""), "is not a method"),
        (with_method("G T"), "is not a method"),
        (with_method("GET / HTTP/1.1\r\n"), "is not a method"),
        (with_method(&"A".repeat(METHOD_BYTES_MAX + 1)), "is 65 bytes long"),
        (request(Scheme::Http, &format!("user@{}", server.address)), "user information"),
    ];
    let forbidden = "connection host http2-settings keep-alive proxy-authenticate proxy-authorization proxy-connection \
                     transfer-encoding upgrade";
    cases.extend(forbidden.split(' ').map(|name| (with_header(name, "x"), "belongs to the host")));
    for (request, words) in cases {
        let called = server.send(&request).await;
        assert_eq!((called.bytes_out, called.bytes_in), (0, 0));
        match error(called) {
            CallError::InvalidRequest { reason } => {
                assert!(reason.contains(words) && !reason.contains(['\r', '\n']) && reason.len() < 250, "{reason}");
            }
            other => panic!("{words}: {other}"),
        }
        assert!(matches!(server.grant().check(&request), Err(CallError::InvalidRequest { .. })), "{words}");
    }
    assert_eq!(server.accepted(), 0);
    assert_eq!(server.grant().check(&get).expect("valid").to_string(), format!("http://{}", server.address));
}

#[tokio::test]
async fn secrets_are_sent_and_the_guests_request_keeps_the_placeholder() {
    let server = Server::echo().await;
    let mut grant = server.grant();
    grant.secrets.insert("KEY", b"v4lue").expect("valid");
    let headers = vec![field("authorization", "Bearer {{secret:KEY}}")];
    let get = CallRequest { headers, path_with_query: "/{{secret:KEY}}".replace(['{', '}'], "_"), ..server.request() };
    let called = client(&Names::default()).call(&grant, &get, "key-1", Limits::within(LONG)).await;
    let text = String::from_utf8(response(called).body.to_vec()).expect("text");
    assert!(text.contains("authorization: Bearer v4lue\r\n"), "{text}");
    assert_eq!(get.headers[0].value, "Bearer {{secret:KEY}}");
    assert!(!format!("{grant:?}").contains("v4lue"));

    // A secret counts with its own length.
    let mut long = Secrets::default();
    long.insert("LONG", &[b'x'; 8_000]).expect("valid");
    grant.secrets = long;
    let headers = vec![field("a", &"{{secret:LONG}}".repeat(17))];
    let refused = grant.check(&CallRequest { headers, ..server.request() });
    assert!(
        matches!(&refused, Err(CallError::InvalidRequest { reason }) if reason.contains("136001 bytes")),
        "{refused:?}"
    );
}
