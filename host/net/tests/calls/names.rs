//! The allow-list and the addresses of names: ways around them, and proxies.

use crate::server::{LONG, Names, Server, client, error, grant, request, response};
use lifeboat_api::call::{CallError, Scheme};
use lifeboat_net::Limits;
use std::process::Command;

/// The variable that makes [`proxies_are_not_used`] the process under test.
const PROXY_TEST_PORT: &str = "LIFEBOAT_NET_PROXY_TEST_PORT";

async fn call(names: &Names, targets: &[&str], scheme: Scheme, authority: &str) -> lifeboat_net::Called {
    client(names).call(&grant(targets), &request(scheme, authority), "", Limits::within(LONG)).await
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_neither_resolved_nor_called() {
    let server = Server::echo().await;
    let port = server.address.port();
    let names = Names::default().with("api.example.org", &[&["127.0.0.1"]]);
    let allowed = format!("private http://*.example.org:{port}");
    let cases = [
        ("example.org", "http://example.org"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("localhost", "http://localhost"),
        ("api.example.org.evil.example", "http://api.example.org.evil.example"),
        ("EVIL.example.", "http://evil.example"),
    ];
    for (host, target) in cases {
        let called = call(&names, &[&allowed], Scheme::Http, &format!("{host}:{port}")).await;
        assert_eq!(error(called), CallError::Denied { target: format!("{target}:{port}") });
    }
    let called = call(&names, &[&allowed], Scheme::Http, "api.example.org").await;
    assert_eq!(error(called), CallError::Denied { target: "http://api.example.org".into() });
    let called = call(&names, &[], Scheme::Https, "api.example.org").await;
    let denied = error(called);
    assert!(denied.to_string().ends_with("allow it with --allow-net https://api.example.org"), "{denied}");
    let odd = ["0177.0.0.1", "2130706433", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "user@api.example.org", "a.org:80"];
    for host in odd {
        let called = call(&names, &[&allowed], Scheme::Http, &format!("{host}:{port}")).await;
        assert!(matches!(error(called), CallError::InvalidRequest { .. }), "{host}");
    }
    assert_eq!((names.asked(), server.accepted()), (0, 0));
}

#[tokio::test]
async fn all_spellings_of_an_allowed_name_are_called_by_its_canonical_form() {
    let server = Server::echo().await;
    let port = server.address.port();
    let names = Names::default().with("xn--bcher-kva.example", &[&["127.0.0.1"]]);
    for host in ["bücher.example", "BÜCHER.example.", "xn--BCHER-kva.EXAMPLE", "bücher\u{3002}example"] {
        let target = format!("private http://bücher.example:{port}");
        let body = response(call(&names, &[&target], Scheme::Http, &format!("{host}:{port}")).await).body;
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains(&format!("\r\nhost: xn--bcher-kva.example:{port}\r\n")), "{text}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_an_address_that_is_not_public_is_denied() {
    let server = Server::echo().await;
    let port = server.address.port();
    let addresses = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:1.1.1.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "fe80::1",
    ];
    for address in addresses {
        // Whatever the other addresses are, and in whatever order.
        for answer in [&[address][..], &["1.1.1.1", address], &[address, "1.1.1.1"]] {
            let names = Names::default().with("api.example.org", &[answer]);
            let target = format!("http://api.example.org:{port}");
            let called = call(&names, &[&target], Scheme::Http, &format!("api.example.org:{port}")).await;
            assert_eq!(called.bytes_out, 0);
            let (host, address) = ("api.example.org".into(), address.into());
            assert_eq!(error(called), CallError::AddressDenied { host, address });
        }
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked() {
    let (checked, other) = (Server::echo().await, Server::echo().await);
    let port = checked.address.port();
    // Both servers are on the same port: the other one on another address of loopback.
    drop(other);
    let names = Names::default().with("api.example.org", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let target = format!("private http://api.example.org:{port}");
    let called = call(&names, &[&target], Scheme::Http, &format!("api.example.org:{port}")).await;
    assert_eq!(response(called).status, 200);
    assert_eq!((names.asked(), checked.accepted()), (1, 1));
    // A resolver that gives a public address first, and loopback when it is asked again.
    let names = Names::default().with("api.example.org", &[&["192.0.2.1"], &["127.0.0.1"]]);
    let target = format!("http://api.example.org:{port}");
    let called = call(&names, &[&target], Scheme::Http, &format!("api.example.org:{port}")).await;
    assert!(matches!(error(called), CallError::AddressDenied { address, .. } if address == "192.0.2.1"));
    assert_eq!((names.asked(), checked.accepted()), (1, 1));
}

#[tokio::test]
async fn an_address_that_refuses_leaves_the_call_to_the_next_one() {
    let server = Server::echo().await;
    let port = server.address.port();
    let names = Names::default().with("api.example.org", &[&["127.0.0.3", "127.0.0.1"]]);
    let target = format!("private http://api.example.org:{port}");
    let called = call(&names, &[&target], Scheme::Http, &format!("api.example.org:{port}")).await;
    assert_eq!(response(called).status, 200);
    let names = Names::default().with("api.example.org", &[&["127.0.0.3", "127.0.0.4"]]);
    let called = call(&names, &[&target], Scheme::Http, &format!("api.example.org:{port}")).await;
    assert_eq!(error(called), CallError::ConnectionRefused { address: format!("127.0.0.4:{port}") });
}

#[tokio::test]
async fn a_name_without_addresses_is_an_error_of_resolution() {
    let names = Names::default().with("empty.example.org", &[&[]]);
    for (host, words) in [("empty.example.org", "no address"), ("unknown.example.org", "no such name")] {
        let error = error(call(&names, &["https://*.example.org"], Scheme::Https, host).await);
        let expected = CallError::Dns { host: host.into(), reason: String::new() };
        assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected));
        assert!(error.to_string().contains(words) && error.to_string().contains(host), "{error}");
    }
    assert_eq!(names.asked(), 2);
}

#[tokio::test]
async fn literal_addresses_are_not_resolved() {
    let server = Server::echo().await;
    let names = Names::default();
    let authority = server.address.to_string();
    let called = call(&names, &[&format!("http://{authority}")], Scheme::Http, &authority).await;
    assert_eq!((response(called).status, names.asked()), (200, 0));
}

/// The variables of a process cannot be changed in a test, so the test runs itself once more as another process.
#[tokio::test]
async fn proxies_are_not_used() {
    if let Ok(port) = std::env::var(PROXY_TEST_PORT) {
        let authority = format!("127.0.0.1:{port}");
        let called = call(&Names::default(), &[&format!("http://{authority}")], Scheme::Http, &authority).await;
        assert_eq!(response(called).status, 200);
        return;
    }
    let (server, proxy) = (Server::echo().await, Server::echo().await);
    let mut child = Command::new(std::env::current_exe().expect("this test"));
    child.args(["--exact", "names::proxies_are_not_used"]).env(PROXY_TEST_PORT, server.address.port().to_string());
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child.env(variable, format!("http://{}", proxy.address));
        child.env(variable.to_lowercase(), format!("http://{}", proxy.address));
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || child.output()).await.expect("no panic").expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!((server.accepted(), proxy.accepted()), (1, 0));
}
