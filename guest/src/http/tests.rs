use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::*;

/// Answers every request with 200 and its URL, and lists the URLs.
#[derive(Clone, Default)]
struct Echo(Rc<RefCell<Vec<String>>>);

impl Transport for Echo {
    fn send(&self, request: &Request) -> Result<Response, Error> {
        self.0.borrow_mut().push(request.url().to_owned());
        Ok(Response::new(200, request.url()))
    }
}

impl Echo {
    fn urls(&self) -> Vec<String> {
        self.0.take()
    }
}

fn start(url: &str) -> Pending {
    Request::new("GET", url).start()
}

#[test]
fn transport_gets_the_whole_request() {
    let answer = |request: &Request| {
        assert_eq!((request.method(), request.url()), ("PATCH", "http://a/b"));
        assert_eq!(request.headers(), [("x".to_owned(), b"1".to_vec()), ("x".to_owned(), b"\xff\t".to_vec())]);
        assert_eq!(request.content(), b"body");
        assert_eq!(request.timeout, Some(Duration::from_millis(5)));
        Ok(Response {
            headers: vec![("Content-Type".to_owned(), b"text/plain".to_vec()), ("x".to_owned(), b"\xff".to_vec())],
            ..Response::new(404, b"caf\xc3\xa9 \xff".as_slice())
        })
    };
    let request = Request::new("PATCH", "http://a/b").header("x", "1").header("x", b"\xff\t".as_slice());
    let request = request.body("body").timeout(Duration::from_millis(5));
    let response = testing::with(answer, || request.send()).expect("a response");
    assert_eq!((response.status, response.is_success()), (404, false));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!((response.header("x"), response.header("y")), (None, None));
    assert_eq!(response.text(), "café \u{fffd}");
}

#[test]
fn get_and_post_send_their_method() {
    let answer = |request: &Request| Ok(Response::new(200, [request.method().as_bytes(), request.content()].concat()));
    testing::with(answer, || {
        assert_eq!(get("http://a").expect("a response").body, b"GET");
        assert_eq!(post("http://a", vec![b'!']).expect("a response").body, b"POST!");
    });
}

#[test]
fn success_is_a_status_of_2xx() {
    let successes: Vec<u16> = (0..1000).filter(|status| Response::new(*status, "").is_success()).collect();
    assert_eq!(successes, (200..300).collect::<Vec<_>>());
}

#[test]
fn native_build_without_a_transport_says_so() {
    let error = get("http://a").expect_err("there is no network");
    let expected =
        "request failed: a native build has no network: answer the request with `lifeboat_guest::http::testing::with`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn responses_of_all_have_the_order_of_the_requests() {
    let echo = Echo::default();
    let responses = testing::with(echo.clone(), || {
        let pending = ["http://b", "nowhere", "http://a"].map(start);
        assert_eq!(echo.urls(), [""; 0]);
        all(pending.into())
    });
    assert_eq!(echo.urls(), ["http://b", "http://a"]);
    let texts: Vec<_> = responses.iter().map(|response| response.as_ref().map(Response::text)).collect();
    assert_eq!((texts[0].as_deref(), texts[2].as_deref()), (Ok("http://b"), Ok("http://a")));
    assert!(matches!(texts[1], Err(Error::InvalidUrl(_))));
    assert_eq!(all(Vec::new()), []);
}

#[test]
fn first_wait_sends_all_started_requests_in_order() {
    let echo = Echo::default();
    testing::with(echo.clone(), || {
        let (first, dropped, last) = (start("http://1"), start("http://2"), start("http://3"));
        drop(dropped);
        assert_eq!(last.wait().expect("a response").text(), "http://3");
        assert_eq!(echo.urls(), ["http://1", "http://3"]);
        let later = start("http://4");
        assert_eq!(first.wait().expect("a response").text(), "http://1");
        assert_eq!(echo.urls(), ["http://4"]);
        drop(later);
        get("http://5").expect("a response");
        assert_eq!(echo.urls(), ["http://5"]);
    });
}

#[test]
fn transport_is_restored_after_a_panic() {
    let echo = Echo::default();
    testing::with(echo.clone(), || {
        let outer = start("http://outer");
        let panicking = |_: &Request| panic!("no answer");
        let run = || testing::with(panicking, || get("http://inner"));
        catch_unwind(AssertUnwindSafe(run)).expect_err("the transport panics");
        // The panic was at this request, which is sent again.
        assert_eq!(outer.wait().expect("a response").text(), "http://outer");
        testing::with(|_: &Request| Err(Error::Denied), || assert_eq!(get("http://a"), Err(Error::Denied)));
        assert!(get("http://b").is_ok());
    });
    assert!(matches!(get("http://c"), Err(Error::Other(_))));
}

#[test]
fn transport_may_send_requests_itself() {
    let proxy = |request: &Request| {
        let through = Echo::default();
        testing::with(through, || get(format!("http://proxy/?{}", request.method())))
    };
    let response = testing::with(proxy, || post("http://a", "b")).expect("a response");
    assert_eq!(response.text(), "http://proxy/?POST");
}

#[test]
fn requests_that_cannot_be_sent_are_refused() {
    let method = |method: &str| format!("{method:?} is no method: write one in capitals, such as POST");
    let request = Request::new;
    let get = || request("GET", "http://a");
    for (request, reason) in [
        (request("", "http://a"), method("")),
        (request("post", "http://a"), method("post")),
        (request("GET /\r\n", "http://a"), method("GET /\r\n")),
        (get().header("", "v"), r#""" is no name of a header: use letters, digits and `-`"#.to_owned()),
        (get().header("a b", "v"), r#""a b" is no name of a header: use letters, digits and `-`"#.to_owned()),
        (get().header("a:", "v"), r#""a:" is no name of a header: use letters, digits and `-`"#.to_owned()),
        (get().header("é", "v"), r#""é" is no name of a header: use letters, digits and `-`"#.to_owned()),
        (get().header("Host", "b"), r#""Host" is a header that only the host may set: remove it"#.to_owned()),
        (
            get().header("a", "b").header("x", "v\r\ny: w"),
            r#""x" is a header whose value has a control character: remove it"#.to_owned(),
        ),
    ] {
        assert_eq!(request.check(), Err(Error::InvalidRequest(reason.clone())));
        let sent = testing::with(|_: &Request| panic!("it is not sent"), || request.send());
        assert_eq!(sent, Err(Error::InvalidRequest(reason)));
    }
    let url = request("GET", "http://a#b").start();
    assert_eq!(format!("{:?} {:?}", get().start(), url).matches("InvalidUrl").count(), 1);
    assert_eq!(get().header("X-Trace_1", "a {b} \t é").check(), Ok(()));
}

#[test]
fn errors_say_what_happened() {
    for (error, text) in [
        (Error::Denied, "request denied: the service may not call this address"),
        (Error::Timeout, "request timed out: the server may have processed it"),
        (Error::InDoubt("call 0".to_owned()), "in doubt: call 0"),
        (Error::Connection("it broke".to_owned()), "connection failed: it broke"),
        (Error::InvalidUrl("it has no host".to_owned()), "invalid URL: it has no host"),
        (Error::InvalidRequest("\"host\"".to_owned()), "invalid request: \"host\""),
        (Error::Other("no memory".to_owned()), "request failed: no memory"),
    ] {
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(Error::from_text("in doubt: call 0".to_owned()), Error::InDoubt("call 0".to_owned()));
    assert_eq!(Error::from_text("in doubt".to_owned()), Error::Other("in doubt".to_owned()));
    assert_eq!(Error::from_text("not in doubt: x".to_owned()), Error::Other("not in doubt: x".to_owned()));
}
