//! Certificates.

use crate::server::{CA, LONG, Names, SERVER, Server, acceptor, client, error, grant, read_request, request, response};
use lifeboat_api::call::{CallError, CallRequest, Scheme};
use lifeboat_net::{Called, Client, Limits, Roots};
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

const EXPIRED: &[u8] = include_bytes!("../tls/expired.pem");
const SELF_SIGNED: &[u8] = include_bytes!("../tls/self-signed.pem");

/// Calls a server on loopback by a name, over TLS.
async fn call(server: &Server, name: &str, roots: Option<&[u8]>) -> Called {
    let port = server.address.port();
    let ascii = name.replace("bücher", "xn--bcher-kva").to_lowercase();
    let names = Names::default().with(&ascii, &[&["127.0.0.1"]]);
    let mut grant = grant(&[&format!("private https://{name}:{port}")]);
    grant.roots = roots.map(|text| Roots::from_pem(text).expect("PEM"));
    let request = request(Scheme::Https, &format!("{name}:{port}"));
    client(&names).call(&grant, &request, "", Limits::within(LONG)).await
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_is_accepted_for_its_names() {
    let server = Server::over_tls(SERVER).await;
    for name in ["api.example.org", "API.example.org", "a.wild.example.org", "bücher.example"] {
        assert_eq!(response(call(&server, name, None).await).body, "over TLS", "{name}");
    }
    let address = server.address.to_string();
    let request = request(Scheme::Https, &address);
    let grant = grant(&[&format!("https://{address}")]);
    let called = client(&Names::default()).call(&grant, &request, "", Limits::within(LONG)).await;
    assert_eq!(response(called).body, "over TLS");
}

#[tokio::test]
async fn certificates_that_are_not_valid_are_refused_before_anything_is_sent() {
    let cases = [
        (SERVER, "other.example.org", None, "not valid for name"),
        (SERVER, "wild.example.org", None, "not valid for name"),
        (SERVER, "a.b.wild.example.org", None, "not valid for name"),
        (EXPIRED, "api.example.org", None, "expired"),
        (SELF_SIGNED, "api.example.org", None, "UnknownIssuer"),
        (SERVER, "api.example.org", Some(SELF_SIGNED), "UnknownIssuer"),
    ];
    for (certificate, name, roots, words) in cases {
        let server = Server::over_tls(certificate).await;
        let called = call(&server, name, roots).await;
        assert_eq!((called.bytes_out, called.bytes_in), (0, 0));
        let error = error(called);
        assert!(matches!(&error, CallError::TlsCertificate { reason } if reason.contains(words)), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_grants_authorities_replace_the_clients() {
    let server = Server::over_tls(SELF_SIGNED).await;
    assert_eq!(response(call(&server, "api.example.org", Some(SELF_SIGNED)).await).status, 200);
    // The system knows none of the authorities of the tests.
    let names = Names::default().with("api.example.org", &[&["127.0.0.1"]]);
    let port = server.address.port();
    let mut grant = grant(&[&format!("private https://api.example.org:{port}")]);
    let request = request(Scheme::Https, &format!("api.example.org:{port}"));
    let client = Client::new(Arc::new(names), Roots::system());
    let called = client.call(&grant, &request, "", Limits::within(LONG)).await;
    match error(called) {
        CallError::TlsCertificate { .. } => {}
        CallError::Internal { reason } => assert!(reason.contains("`roots = FILE`"), "{reason}"),
        other => panic!("{other}"),
    }
    grant.roots = Some(Roots::from_pem(&[CA, SELF_SIGNED].concat()).expect("PEM"));
    assert_eq!(response(client.call(&grant, &request, "", Limits::within(LONG)).await).status, 200);
}

#[tokio::test]
async fn the_name_is_sent_as_sni_and_host_and_the_protocol_is_http_1() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let of_server = Arc::clone(&seen);
    let server = Server::start(move |stream| {
        let seen = Arc::clone(&of_server);
        async move {
            let mut stream = acceptor(SERVER).accept(stream).await.expect("a handshake");
            let request = String::from_utf8(read_request(&mut stream).await).expect("text");
            let (_, tls) = stream.get_ref();
            let protocol = tls.alpn_protocol().map(<[u8]>::to_vec);
            let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
            seen.lock().expect("not poisoned").push((tls.server_name().map(str::to_owned), host, protocol));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("the client reads");
        }
    })
    .await;
    assert_eq!(response(call(&server, "BÜCHER.example".to_lowercase().as_str(), None).await).status, 200);
    let seen = seen.lock().expect("not poisoned");
    let host = format!("xn--bcher-kva.example:{}", server.address.port());
    assert_eq!(seen[..], [(Some("xn--bcher-kva.example".to_owned()), host, Some(b"http/1.1".to_vec()))]);
}

#[tokio::test]
async fn a_server_without_tls_is_a_protocol_error() {
    let plain = Server::start(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("the client reads");
        crate::server::drain(&mut stream).await;
    })
    .await;
    let error_of = |called| -> CallError { error(called) };
    let error = error_of(call(&plain, "api.example.org", None).await);
    assert!(matches!(error, CallError::TlsProtocol { .. }), "{error:?}");
    let closing = Server::start(|stream| async move { drop(stream) }).await;
    let error = error_of(call(&closing, "api.example.org", None).await);
    assert!(matches!(error, CallError::ConnectionTerminated { .. }), "{error:?}");
}

#[tokio::test]
async fn an_end_without_notice_is_a_cut_response() {
    // What an attacker on the path could do to a body that ends with its connection.
    let server = Server::start(|stream| async move {
        let mut stream = acceptor(SERVER).accept(stream).await.expect("a handshake");
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of").await.expect("the client reads");
        stream.flush().await.expect("the client reads");
        let (mut tcp, _) = stream.into_inner();
        tcp.shutdown().await.expect("open");
        crate::server::drain(&mut tcp).await;
    })
    .await;
    let error = error(call(&server, "api.example.org", None).await);
    assert!(matches!(error, CallError::ResponseIncomplete { .. }), "{error:?}");
}

#[tokio::test]
async fn requests_over_tls_are_not_sent_to_an_entry_for_http() {
    let server = Server::over_tls(SERVER).await;
    let tls = CallRequest { scheme: Scheme::Https, ..server.request() };
    let target = format!("https://{}", server.address);
    assert_eq!(error(server.send(&tls).await), CallError::Denied { target });
    assert_eq!(server.accepted(), 0);
}
