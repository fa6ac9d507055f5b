//! Servers that stop in each phase. The time limits are short and real: the sockets are real too.

use crate::server::{
    LONG, Names, SERVER, SHORT, Server, acceptor, client, drain, error, flood, grant, read_request, request, response,
};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all, pending};
use lifeboat_api::call::{CallError, Scheme};
use lifeboat_net::{CALLS_PER_HOST_MAX, Client, Limits, Resolver, Roots};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

const LIMIT_MS: u64 = SHORT.as_millis() as u64;

/// A resolver that never answers.
struct Silent;

impl Resolver for Silent {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(pending())
    }
}

/// Starts a server that reads a request, writes `start`, and then nothing.
async fn stalling_after(start: &'static str) -> Server {
    Server::start(move |mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(start.as_bytes()).await.expect("the client reads");
        drain(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn a_name_that_is_not_resolved_times_out() {
    let client = Client::new(Arc::new(Silent), Roots::system());
    let request = request(Scheme::Https, "api.example.org");
    let called = client.call(&grant(&["https://*.example.org"]), &request, "", Limits::within(SHORT)).await;
    assert_eq!(error(called), CallError::DnsTimeout { host: "api.example.org".into(), limit_ms: LIMIT_MS });
}

/// Returns a socket whose queue of connections is full, so that the system answers no further one.
async fn full(address: &str) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(address.parse().expect("an address")).expect("the port is free");
    let listener = socket.listen(0).expect("listening");
    let address = listener.local_addr().expect("bound");
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = timeout(SHORT, TcpStream::connect(address)).await {
        queued.push(stream);
    }
    (listener, queued)
}

#[tokio::test]
async fn a_server_that_accepts_no_connection_times_out() {
    let (listener, _queued) = full("127.0.0.1:0").await;
    let address = listener.local_addr().expect("bound").to_string();
    let grant = grant(&[&format!("http://{address}")]);
    let limits = Limits { connect: SHORT, ..Limits::within(LONG) };
    let called = client(&Names::default()).call(&grant, &request(Scheme::Http, &address), "", limits).await;
    assert_eq!(called.bytes_out, 0);
    assert_eq!(error(called), CallError::ConnectionTimeout { address: address.clone(), limit_ms: LIMIT_MS });
    // The whole call may end first.
    let called =
        client(&Names::default()).call(&grant, &request(Scheme::Http, &address), "", Limits::within(SHORT)).await;
    assert_eq!(error(called), CallError::ConnectionTimeout { address, limit_ms: LIMIT_MS });
}

#[tokio::test]
async fn a_server_that_stops_in_the_tls_handshake_times_out() {
    let silent = Server::start(|mut stream| async move { drain(&mut stream).await }).await;
    let beginning = Server::start(|mut stream| async move {
        // The header of a record, and nothing in it.
        stream.write_all(&[22, 3, 3, 0, 100]).await.expect("the client reads");
        drain(&mut stream).await;
    })
    .await;
    for server in [silent, beginning] {
        let port = server.address.port();
        let names = Names::default().with("api.example.org", &[&["127.0.0.1"]]);
        let grant = grant(&[&format!("private https://api.example.org:{port}")]);
        let limits = Limits { connect: SHORT, ..Limits::within(LONG) };
        let request = request(Scheme::Https, &format!("api.example.org:{port}"));
        let called = client(&names).call(&grant, &request, "", limits).await;
        let address = server.address.to_string();
        assert_eq!(error(called), CallError::ConnectionTimeout { address, limit_ms: LIMIT_MS });
    }
}

#[tokio::test]
async fn headers_that_are_not_whole_in_time_time_out() {
    for start in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\na: b\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let server = stalling_after(start).await;
        for limits in [Limits { first_byte: SHORT, ..Limits::within(LONG) }, Limits::within(SHORT)] {
            let called = server.get_within(limits).await;
            assert_eq!(called.bytes_in, start.len() as u64);
            assert_eq!(error(called), CallError::ResponseTimeout { limit_ms: LIMIT_MS }, "{start}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_whole_in_time_times_out() {
    let heads = ["content-length: 5\r\n\r\n12", "transfer-encoding: chunked\r\n\r\n5\r\n12", "\r\n12"];
    for rest in heads {
        let server = stalling_after(format!("HTTP/1.1 200 OK\r\n{rest}").leak()).await;
        for limits in [Limits { between_bytes: SHORT, ..Limits::within(LONG) }, Limits::within(SHORT)] {
            assert_eq!(error(server.get_within(limits).await), CallError::ResponseTimeout { limit_ms: LIMIT_MS });
        }
    }
}

#[tokio::test]
async fn a_body_that_trickles_ends_with_the_whole_call() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n").await.expect("the client reads");
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while stream.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    })
    .await;
    let limits = Limits { between_bytes: LONG, first_byte: LONG, ..Limits::within(2 * SHORT) };
    let called = server.get_within(limits).await;
    assert!(called.duration >= 2 * SHORT && called.duration < LONG, "{:?}", called.duration);
    assert_eq!(error(called), CallError::ResponseTimeout { limit_ms: 2 * LIMIT_MS });
}

#[tokio::test]
async fn a_server_that_reads_nothing_times_out() {
    let server = Server::start(|stream| async move {
        let _stream = stream;
        pending::<()>().await;
    })
    .await;
    let mut request = server.request();
    request.body = vec![0; 4 << 20].into();
    let limits = Limits { first_byte: SHORT, ..Limits::within(LONG) };
    let called = client(&Names::default()).call(&server.grant(), &request, "", limits).await;
    assert!(called.bytes_out > 0);
    assert_eq!(error(called), CallError::ResponseTimeout { limit_ms: LIMIT_MS });
}

#[tokio::test]
async fn a_call_without_time_is_not_made() {
    let server = Server::echo().await;
    let called = server.get_within(Limits::within(Duration::ZERO)).await;
    assert_eq!(called.bytes_out, 0);
    assert!(matches!(error(called), CallError::ConnectionTimeout { limit_ms: 0, .. }));
    let longest = Limits { connect: Duration::MAX, ..Limits::within(Duration::MAX) };
    assert_eq!(response(server.get_within(longest).await).status, 200);
}

#[tokio::test]
async fn a_call_that_is_dropped_closes_its_connection() {
    for (is_tls, start) in [(false, ""), (false, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1"), (true, "")] {
        let (read, was_read) = oneshot::channel();
        let (closed, was_closed) = oneshot::channel();
        let channels = Arc::new(std::sync::Mutex::new(Some((read, closed))));
        let server = Server::start(move |mut stream| {
            let (read, closed) = channels.lock().expect("not poisoned").take().expect("one connection");
            async move {
                if is_tls {
                    let mut stream = acceptor(SERVER).accept(stream).await.expect("a handshake");
                    read_request(&mut stream).await;
                    read.send(()).expect("the test waits");
                    drain(&mut stream).await;
                } else {
                    read_request(&mut stream).await;
                    stream.write_all(start.as_bytes()).await.expect("the client reads");
                    read.send(()).expect("the test waits");
                    drain(&mut stream).await;
                }
                closed.send(()).expect("the test waits");
            }
        })
        .await;
        let port = server.address.port();
        let names = Names::default().with("api.example.org", &[&["127.0.0.1"]]);
        let scheme = if is_tls { Scheme::Https } else { Scheme::Http };
        let grant = grant(&[&format!("private {scheme}://api.example.org:{port}")]);
        let request = request(scheme, &format!("api.example.org:{port}"));
        let client = client(&names);
        let call = client.call(&grant, &request, "", Limits::within(LONG));
        tokio::select! {
            called = call => panic!("{called:?}"),
            read = was_read => read.expect("the server reads"),
        }
        was_closed.await.expect("the server sees the end");
    }
}

#[tokio::test]
async fn calls_at_once_are_bounded() {
    let client = Client::new(Arc::new(Silent), Roots::system());
    let (of_name, named) = (grant(&["http://api.example.org"]), request(Scheme::Http, "api.example.org"));
    let mut calls: Vec<_> = Vec::new();
    for _ in 0..CALLS_PER_HOST_MAX {
        let mut call = Box::pin(client.call(&of_name, &named, "", Limits::within(LONG)));
        assert!((&mut call).now_or_never().is_none());
        calls.push(call);
    }
    let server = Server::echo().await;
    let (grant, request, clone) = (server.grant(), server.request(), client.clone());
    let call = || clone.call(&grant, &request, "", Limits { connect: SHORT, ..Limits::within(LONG) });
    let called = call().await;
    assert_eq!((called.bytes_out, server.accepted()), (0, 0));
    let error = error(called);
    let words = "256 calls at once, and none ended within 50 ms";
    assert!(matches!(&error, CallError::Limit { reason } if reason.contains(words)), "{error:?}");
    // One that is dropped makes room for another.
    calls.pop();
    let called = clone.call(&grant, &request, "", Limits::within(LONG)).await;
    assert_eq!(response(called).status, 200);
}

#[tokio::test]
async fn many_calls_are_made_at_once() {
    let server = Server::echo().await;
    let statuses = join_all((0..64).map(|_| server.get())).await.into_iter().map(|called| response(called).status);
    assert!(statuses.eq([200; 64]));
    assert_eq!(server.accepted(), 64);
}

#[tokio::test]
async fn an_address_that_does_not_answer_leaves_time_to_the_next_one() {
    // 127.0.0.2 accepts no connection on the port of a server on 127.0.0.1.
    let server = Server::echo().await;
    let port = server.address.port();
    let _full = full(&format!("127.0.0.2:{port}")).await;
    let names = Names::default().with("api.example.org", &[&["127.0.0.2", "127.0.0.3", "127.0.0.1"]]);
    let grant = grant(&[&format!("private http://api.example.org:{port}")]);
    let limits = Limits { connect: 12 * SHORT, ..Limits::within(LONG) };
    let request = request(Scheme::Http, &format!("api.example.org:{port}"));
    let called = client(&names).call(&grant, &request, "", limits).await;
    assert!(called.duration >= 4 * SHORT, "{:?}", called.duration);
    assert_eq!(response(called).status, 200);
}

#[tokio::test]
async fn a_server_that_writes_and_never_reads_is_bounded() {
    let server = Server::start(|mut stream| async move {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("the client writes");
        flood(&mut stream, &[b'\r'; 1024]).await;
    })
    .await;
    let called = server.get_within(Limits::within(LONG)).await;
    assert!(called.bytes_in < 1 << 20 && called.duration < LONG, "{called:?}");
    assert!(called.result.is_err());
}
