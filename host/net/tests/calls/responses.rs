//! What arrives, whole or not.

use crate::server::{Server, drain, error, flood, read_request, response};
use lifeboat_api::call::{CALL_BODY_BYTES_MAX, CALL_FIELDS_BYTES_MAX, CallError, CallRequest, Field};
use lifeboat_net::{HEADS_BYTES_MAX, INTERIM_RESPONSES_MAX, RECEIVED_BYTES_MAX, RESPONSE_FIELDS_MAX};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

fn fields(of: &[Field]) -> Vec<(&str, &[u8])> {
    of.iter().map(|field| (field.name.as_str(), &field.value[..])).collect()
}

#[tokio::test]
async fn a_response_arrives_as_it_was_sent() {
    let text = "HTTP/1.1 203 Whatever\r\nX-One: 1\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-encoding: gzip\r\n\
                content-length: 4\r\n\r\nbody";
    let called = Server::answering(text).await.get().await;
    assert_eq!(called.bytes_in, text.len() as u64);
    let response = response(called);
    assert_eq!((response.status, &response.body[..]), (203, &b"body"[..]));
    let expected: [(&str, &[u8]); 5] = [
        ("x-one", b"1"),
        ("set-cookie", b"a"),
        ("set-cookie", b"b"),
        ("content-encoding", b"gzip"),
        ("content-length", b"4"),
    ];
    assert_eq!(fields(&response.headers), expected);
    assert!(response.trailers.is_empty());
}

#[tokio::test]
async fn chunks_and_trailers_are_read() {
    let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: a\r\n\r\n\
                2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\na: 1\r\nb: 2\r\n\r\n";
    let response = response(Server::answering(text).await.get().await);
    assert_eq!(response.body, "body");
    assert_eq!(fields(&response.trailers), [("a", &b"1"[..]), ("b", &b"2"[..])]);
}

#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    for version in ["1.0", "1.1"] {
        let text = format!("HTTP/{version} 200 OK\r\n\r\nuntil the end");
        assert_eq!(response(Server::answering(text).await.get().await).body, "until the end");
    }
}

#[tokio::test]
async fn statuses_without_a_body_have_none() {
    for status in [204, 304] {
        let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 99999999\r\n\r\n");
        let response = response(Server::answering(text).await.get().await);
        assert_eq!((response.status, response.body.len()), (status, 0));
    }
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n").await;
    let head = CallRequest { method: "HEAD".into(), ..server.request() };
    assert_eq!(response(server.send(&head).await).body.len(), 0);
}

#[tokio::test]
async fn redirects_are_returned() {
    let other = Server::echo().await;
    for status in [301, 302, 303, 307, 308] {
        let text = format!("HTTP/1.1 {status} x\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", other.address);
        let server = Server::answering(text).await;
        assert_eq!(response(server.get().await).status, status);
        assert_eq!((server.accepted(), other.accepted()), (1, 0));
    }
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let text = interim.repeat(INTERIM_RESPONSES_MAX as usize / 2) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let response = response(Server::answering(text).await.get().await);
    assert_eq!((response.status, fields(&response.headers)), (200, vec![("content-length", &b"2"[..])]));
}

#[tokio::test]
async fn interim_responses_are_bounded() {
    let one = "HTTP/1.1 100 Continue\r\n\r\n";
    let text = one.repeat(INTERIM_RESPONSES_MAX as usize + 1) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let few_large = format!("HTTP/1.1 103 x\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    for text in [text, one.repeat(100_000)] {
        let error = error(Server::answering(text).await.get().await);
        assert!(matches!(&error, CallError::Protocol { reason } if reason.contains("over 64 interim")), "{error}");
    }
    let called = Server::answering(few_large.repeat(60)).await.get().await;
    assert!(called.bytes_in < 2 * HEADS_BYTES_MAX, "{}", called.bytes_in);
    assert!(matches!(error(called), CallError::ResponseHeaders { .. }));
}

#[tokio::test]
async fn endless_interim_responses_end() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        flood(&mut stream, b"HTTP/1.1 102 Processing\r\n\r\n").await;
    })
    .await;
    assert!(matches!(error(server.get().await), CallError::Protocol { .. }));
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let cases = [
        (switching, "status 101"),
        ("garbage\r\n\r\n", ""),
        ("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", ""),
        ("HTTP/0.9 200 OK\r\n\r\n", ""),
        ("HTTP/2.0 200 OK\r\n\r\n", ""),
        ("HTTP/1.1 20 OK\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\na b: c\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\na", ""),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na b: c\r\n\r\n", ""),
    ];
    for (text, words) in cases {
        let error = error(Server::answering(text).await.get().await);
        assert!(matches!(&error, CallError::Protocol { reason } if reason.contains(words)), "{text}: {error:?}");
    }
}

#[tokio::test]
async fn bytes_before_the_request_are_no_response() {
    let server = Server::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        drain(&mut stream).await;
    })
    .await;
    // Whether they are seen before the request is written is a race.
    match server.get().await.result {
        Ok(response) => assert_eq!(response.status, 200),
        Err(error) => assert!(matches!(error, CallError::Protocol { .. }), "{error:?}"),
    }
}

#[tokio::test]
async fn a_response_that_is_cut_is_incomplete() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
    for length in 1..whole.len() {
        let error = error(Server::answering(&whole[..length]).await.get().await);
        assert!(matches!(error, CallError::ResponseIncomplete { .. }), "{length}: {error:?}");
    }
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "4\r\nbody\r\n0\r\na: b\r\n\r\n";
    for length in 0..body.len() {
        let error = error(Server::answering(format!("{head}{}", &body[..length])).await.get().await);
        assert!(matches!(error, CallError::ResponseIncomplete { .. }), "{length}: {error:?}");
    }
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let error = error(Server::answering(interim).await.get().await);
    assert!(matches!(error, CallError::ResponseIncomplete { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_ends_without_a_response_is_terminated() {
    let called = Server::answering("").await.get().await;
    assert!(called.bytes_out > 0 && called.bytes_in == 0);
    let error = error(called);
    assert!(matches!(error, CallError::ConnectionTerminated { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_is_reset_is_terminated() {
    for sent in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01"] {
        let server = Server::start(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(sent.as_bytes()).await.expect("the client reads");
            stream.set_zero_linger().expect("a socket");
        })
        .await;
        let error = error(server.get().await);
        assert!(matches!(error, CallError::ConnectionTerminated { .. }), "{sent}: {error:?}");
    }
}

#[tokio::test]
async fn nothing_listens_on_a_port_that_is_closed() {
    // Bound, so that nobody else gets the port, but not listening.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
    let address = socket.local_addr().expect("bound").to_string();
    let mut server = Server::echo().await;
    server.address = address.parse().expect("an address");
    assert_eq!(error(server.get().await), CallError::ConnectionRefused { address });
}

#[tokio::test]
async fn a_response_may_arrive_byte_by_byte() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.set_nodelay(true).expect("a socket");
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\na: b\r\n\r\n\
                     4\r\nbody\r\n0\r\nc: d\r\n\r\n";
        for byte in text {
            stream.write_all(&[*byte]).await.expect("the client reads");
            tokio::task::yield_now().await;
        }
        drain(&mut stream).await;
    })
    .await;
    let response = response(server.get().await);
    assert_eq!((&response.body[..], fields(&response.trailers)), (&b"body"[..], vec![("c", &b"d"[..])]));
}

#[tokio::test]
async fn a_server_may_answer_before_it_has_read_the_request() {
    let server = Server::start(|mut stream| async move {
        stream.read_u8().await.expect("the client writes");
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!").await.expect("the client reads");
        // Never reads the rest: the client must not wait until its body is sent.
        std::future::pending::<()>().await;
    })
    .await;
    // More than the buffers of the sockets take.
    let request = CallRequest { method: "POST".into(), body: vec![0; CALL_BODY_BYTES_MAX].into(), ..server.request() };
    let response = response(server.send(&request).await);
    assert_eq!((response.status, &response.body[..]), (413, &b"no!"[..]));
}

#[tokio::test]
async fn the_largest_body_is_read() {
    let body = vec![b'x'; CALL_BODY_BYTES_MAX];
    let sized = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    for (head, end) in [(sized, ""), (chunked, "\r\n0\r\n\r\n"), ("HTTP/1.0 200 OK\r\n\r\n".into(), "")] {
        let server = Server::answering([head.as_bytes(), &body, end.as_bytes()].concat()).await;
        assert_eq!(response(server.get().await).body, body);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_stops_at_the_bound() {
    let limit_bytes = CALL_BODY_BYTES_MAX as u64;
    let announced = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 4194305\r\n\r\n").await.get().await;
    assert!(announced.bytes_in < 100);
    assert_eq!(error(announced), CallError::ResponseBody { limit_bytes });
    // A gigabyte, and more: they never end.
    let heads = ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n40000000\r\n"];
    for head in heads {
        let written = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&written);
        let server = Server::start(move |mut stream| {
            let counter = Arc::clone(&counter);
            async move {
                read_request(&mut stream).await;
                stream.write_all(head.as_bytes()).await.expect("the client reads");
                counter.store(flood(&mut stream, &[b'x'; 64 * 1024]).await, Ordering::Relaxed);
            }
        })
        .await;
        let called = server.get().await;
        assert!(called.bytes_in < limit_bytes + 512 * 1024, "{}", called.bytes_in);
        assert_eq!(error(called), CallError::ResponseBody { limit_bytes });
    }
}

#[tokio::test]
async fn a_body_in_tiny_chunks_stops_at_the_bound_of_the_wire() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("the client reads");
        let chunk = format!("{:0>200}\r\nx\r\n", 1);
        flood(&mut stream, chunk.repeat(1024).as_bytes()).await;
    })
    .await;
    let called = server.get().await;
    assert!(called.bytes_in < RECEIVED_BYTES_MAX + 512 * 1024, "{}", called.bytes_in);
    let error = error(called);
    assert!(matches!(&error, CallError::Limit { reason } if reason.contains("16 MiB on the wire")), "{error:?}");
}

#[tokio::test]
async fn headers_are_bounded() {
    let limit_bytes = CALL_FIELDS_BYTES_MAX as u64;
    let of_length = |length: usize| format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(length - 1));
    let called = Server::answering(of_length(CALL_FIELDS_BYTES_MAX)).await.get().await;
    assert_eq!(response(called).headers[0].value.len(), CALL_FIELDS_BYTES_MAX - 1);
    let many = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(response(Server::answering(many(RESPONSE_FIELDS_MAX)).await.get().await).headers.len(), 1_000);
    for text in [of_length(CALL_FIELDS_BYTES_MAX + 1), of_length(1 << 20), many(RESPONSE_FIELDS_MAX + 1)] {
        let error = error(Server::answering(text).await.get().await);
        assert_eq!(error, CallError::ResponseHeaders { limit_bytes });
    }
    for part in [&b"a: b\r\n"[..], b"x", b" "] {
        let server = Server::start(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\na: ").await.expect("the client reads");
            flood(&mut stream, &part.repeat(1024)).await;
        })
        .await;
        let called = server.get().await;
        assert!(called.bytes_in < 2 * limit_bytes, "{}", called.bytes_in);
        assert_eq!(error(called), CallError::ResponseHeaders { limit_bytes });
    }
}

#[tokio::test]
async fn trailers_are_bounded() {
    let limit_bytes = CALL_FIELDS_BYTES_MAX as u64;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    for length in [CALL_FIELDS_BYTES_MAX, 1 << 20] {
        let text = format!("{head}x: {}\r\n\r\n", "x".repeat(length));
        let error = error(Server::answering(text).await.get().await);
        assert_eq!(error, CallError::ResponseHeaders { limit_bytes });
    }
    let text = format!("{head}{}\r\n", "a: b\r\n".repeat(RESPONSE_FIELDS_MAX + 1));
    assert_eq!(error(Server::answering(text).await.get().await), CallError::ResponseHeaders { limit_bytes });
    // hyper bounds what it skips between the chunks itself.
    let text =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(1 << 20));
    assert!(matches!(error(Server::answering(text).await.get().await), CallError::Protocol { .. }));
}
