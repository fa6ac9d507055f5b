use std::cell::RefCell;
use std::rc::Rc;

use lifeboat_guest::http::{Transport, testing};
use lifeboat_guest::{StateReader, dispatch, snapshot};
use serde_json::{Value, json};

use super::*;

/// Webhooks that get parcels. `/404` and the like answer with that status, `/denied`, `/doubt` and `/timeout` do not
/// answer, and others answer 201 and `got: ` with the parcel.
#[derive(Clone, Default)]
struct Webhooks(Rc<RefCell<Vec<(String, Value)>>>);

impl Transport for Webhooks {
    fn send(&self, request: &Request) -> Result<Response, Error> {
        assert_eq!(request.method(), "POST");
        assert_eq!(request.headers(), [("content-type".to_owned(), b"application/json".to_vec())]);
        let body: Value = serde_json::from_slice(request.content()).expect("JSON");
        let text = body["parcel"].as_str().expect("a text").to_owned();
        self.0.borrow_mut().push((request.url().to_owned(), body));
        let (_, path) = request.url().rsplit_once('/').expect("a path");
        match path {
            "denied" => Err(Error::Denied),
            "doubt" => Err(Error::InDoubt("call 0 may have been sent".to_owned())),
            "timeout" => Err(Error::Timeout),
            _ => Ok(Response::new(path.parse().unwrap_or(201), format!("got: {text}"))),
        }
    }
}

#[derive(Default)]
struct Site {
    courier: Courier,
    webhooks: Webhooks,
}

impl Site {
    fn run_as(&mut self, user: &str, id: &str, transaction: &str) -> String {
        let context = Context { id: id.to_owned(), user: user.to_owned(), ..Context::default() };
        let run = || dispatch::execute(&mut self.courier, &context, transaction.as_bytes());
        text(testing::with(self.webhooks.clone(), run))
    }

    fn run(&mut self, id: &str, transaction: &Value) -> String {
        self.run_as("ada", id, &transaction.to_string())
    }

    fn ask_as(&self, user: &str, query: &str) -> String {
        let context = Context { user: user.to_owned(), ..Context::default() };
        let ask = || dispatch::query(&self.courier, &context, query.as_bytes());
        text(testing::with(|_: &Request| panic!("a query posts nothing"), ask))
    }

    fn ask(&self, query: &str) -> String {
        self.ask_as("ada", query)
    }

    /// Returns the requests since the last time.
    fn posted(&self) -> Vec<(String, Value)> {
        self.webhooks.0.take()
    }

    /// Replaces the courier by its exported state.
    fn move_state(&mut self) {
        let mut state = Vec::new();
        snapshot::save(&self.courier, &mut state).expect("it has an encoding");
        let moved = snapshot::restore(Courier::STATE_VERSION, StateReader::from(state)).expect("it is whole");
        assert_eq!(self.courier, moved);
        self.courier = moved;
    }
}

fn text(outcome: Result<Vec<u8>, String>) -> String {
    match outcome {
        Ok(bytes) => String::from_utf8(bytes).expect("JSON is UTF-8"),
        Err(reason) => format!("refused: {reason}"),
    }
}

fn parcel(to: &str, text: &str) -> Value {
    json!({ "to": format!("http://hooks.example/{to}"), "parcel": text })
}

fn post(to: &str, text: &str) -> Value {
    json!({ "post": parcel(to, text) })
}

#[test]
fn parcel_is_posted_and_its_receipt_is_kept() {
    let mut site = Site::default();
    let receipt = r#"{"to":"http://hooks.example/in","status":201,"echo":"got: tea"}"#;
    assert_eq!(site.run("t-1", &post("in", "tea")), format!(r#"{{"receipt":{receipt}}}"#));
    let body = json!({ "id": "t-1", "user": "ada", "parcel": "tea" });
    assert_eq!(site.posted(), [("http://hooks.example/in".to_owned(), body)]);
    assert_eq!(site.ask(r#"{"receipts":"t-1"}"#), format!(r#"{{"receipts":[{receipt}]}}"#));
    assert_eq!(site.ask(r#""count""#), r#"{"receipts":1,"delivered":1}"#);
}

#[test]
fn several_parcels_are_posted_at_once() {
    let mut site = Site::default();
    let parcels: Vec<Value> = (0..PARCELS_MAX).map(|index| parcel(&format!("{}", 200 + index), "tea")).collect();
    let reply = site.run("t", &json!({ "post_all": parcels }));
    let receipts: Value = serde_json::from_str(&reply).expect("JSON");
    for (index, (to, body)) in site.posted().into_iter().enumerate() {
        assert_eq!(to, format!("http://hooks.example/{}", 200 + index));
        assert_eq!(body, json!({ "id": "t", "user": "ada", "index": index, "parcel": "tea" }));
        assert_eq!(receipts["receipts"][index], json!({ "to": to, "status": 200 + index, "echo": "got: tea" }));
    }
    assert_eq!(site.ask(r#"{"receipts":"t"}"#), reply);
    assert_eq!(site.ask(r#""count""#), r#"{"receipts":16,"delivered":16}"#);
}

#[test]
fn receipts_belong_to_their_user() {
    let mut site = Site::default();
    site.run_as("ada", "t", &post("200", "of ada").to_string());
    site.run_as("bob", "t", &post("200", "of bob").to_string());
    let receipts = |text: &str| {
        format!(r#"{{"receipts":[{{"to":"http://hooks.example/200","status":200,"echo":"got: of {text}"}}]}}"#)
    };
    assert_eq!(site.ask_as("ada", r#"{"receipts":"t"}"#), receipts("ada"));
    assert_eq!(site.ask_as("bob", r#"{"receipts":"t"}"#), receipts("bob"));
    let unknown = r#"refused: there are no receipts of a transaction "t" of yours"#;
    assert_eq!(site.ask_as("eve", r#"{"receipts":"t"}"#), unknown);
    assert_eq!(site.ask_as("eve", r#""count""#), r#"{"receipts":2,"delivered":2}"#);
}

#[test]
fn invalid_transactions_are_refused_before_anything_is_posted() {
    let mut site = Site::default();
    let at = |to: &str| json!({ "post": { "to": to, "parcel": "tea" } });
    let all = |parcels: Vec<Value>| json!({ "post_all": parcels });
    for (transaction, reason) in [
        (post("in", ""), "parcel is 0 bytes, 1 to 65536 are allowed"),
        (post("in", &"t".repeat(65_537)), "parcel is 65537 bytes, 1 to 65536 are allowed"),
        (at(&format!("http://a/{}", "p".repeat(2040))), "address is 2049 bytes, the limit is 2048 bytes"),
        (at("hooks.example"), "invalid URL: it does not begin with `http://` or `https://`"),
        (at("http://ada:pw@a/"), "invalid URL: user and password are not allowed: send them in a header"),
        (all(Vec::new()), "there are 0 parcels, 1 to 16 are allowed"),
        (all(vec![parcel("in", "tea"); 17]), "there are 17 parcels, 1 to 16 are allowed"),
        (all(vec![parcel("in", "tea"), parcel("in", "")]), "parcel is 0 bytes, 1 to 65536 are allowed"),
        (all(vec![parcel("in", "tea"), parcel("a b", "t")]), "invalid URL: the path or query has ' ': write it as %20"),
    ] {
        assert_eq!(site.run("t", &transaction), format!("refused: {reason}"));
        assert_eq!((site.posted(), &site.courier), (Vec::new(), &Courier::default()));
    }
    for body in [r#"{"post":{"to":"http://a"}}"#, r#"{"post":{"to":"http://a","parcel":"t","x":1}}"#, r#""count""#] {
        let reply = site.run_as("ada", "t", body);
        assert!(reply.starts_with("refused: cannot decode the transaction"), "{body}: {reply}");
    }
    assert_eq!(site.posted(), []);
}

#[test]
fn undelivered_parcels_are_refused_without_a_receipt() {
    let mut site = Site::default();
    for (to, reason) in [
        ("denied", "request denied: the service may not call this address"),
        ("doubt", "in doubt: call 0 may have been sent"),
        ("timeout", "request timed out: the server may have processed it"),
        ("301", r#"the webhook answered 301: "got: tea""#),
        ("500", r#"the webhook answered 500: "got: tea""#),
    ] {
        assert_eq!(site.run("t", &post(to, "tea")), format!("refused: parcel not delivered: {reason}"));
        assert_eq!((site.posted().len(), &site.courier), (1, &Courier::default()));
    }
    let parcels = ["200", "denied", "204", "404"].map(|to| parcel(to, "tea"));
    let reason = "2 of 4 parcels delivered; parcel 1: request denied: the service may not call this address; parcel 3: \
                  the webhook answered 404: \"got: tea\"";
    assert_eq!(site.run("t", &json!({ "post_all": parcels })), format!("refused: {reason}"));
    assert_eq!((site.posted().len(), &site.courier), (4, &Courier::default()));
}

#[test]
fn another_attempt_makes_the_same_requests() {
    let transaction = json!({ "post_all": [parcel("200", "tea"), parcel("404", "milk")] }).to_string();
    let attempts = [1, 2].map(|attempt| {
        let mut site = Site::default();
        let context = Context { id: "t".to_owned(), user: "ada".to_owned(), sequence: attempt, timestamp: attempt };
        let run = || dispatch::execute(&mut site.courier, &context, transaction.as_bytes());
        let outcome = testing::with(site.webhooks.clone(), run);
        (outcome, site.posted())
    });
    assert_eq!(attempts[0], attempts[1]);
}

#[test]
fn echo_is_the_beginning_of_the_response() {
    let echo_of = |body: &[u8]| echo(&Response::new(200, body));
    assert_eq!(&*echo_of(b""), "");
    assert_eq!(&*echo_of("é".repeat(128).as_bytes()), "é".repeat(128));
    assert_eq!(&*echo_of("é".repeat(500).as_bytes()), "é".repeat(128));
    assert_eq!(&*echo_of(format!("e{}", "救".repeat(500)).as_bytes()), format!("e{}", "救".repeat(85)));
    assert_eq!(&*echo_of(b"a\xffb"), "a\u{fffd}b");
    assert_eq!(&*echo_of(&[0xff; 1000]), "\u{fffd}".repeat(85));
}

#[test]
fn oldest_receipts_make_room_for_new_ones() {
    let mut site = Site::default();
    site.run("first", &post("200", "tea"));
    let parcels = vec![parcel("200", "tea"); PARCELS_MAX];
    for number in 0..62 {
        site.run(&format!("t-{number}"), &json!({ "post_all": parcels }));
    }
    assert_eq!(site.ask(r#""count""#), r#"{"receipts":993,"delivered":993}"#);
    for number in 0..7 {
        site.run(&format!("s-{number}"), &post("200", "tea"));
    }
    assert_eq!(site.ask(r#""count""#), r#"{"receipts":1000,"delivered":1000}"#);
    assert!(!site.ask(r#"{"receipts":"first"}"#).starts_with("refused"));
    site.run("last", &json!({ "post_all": [parcel("200", "tea"), parcel("200", "milk")] }));
    // The oldest transaction had one receipt, and the one after it had 16.
    assert_eq!(site.ask(r#""count""#), r#"{"receipts":985,"delivered":1002}"#);
    for id in ["first", "t-0"] {
        assert!(site.ask(&format!(r#"{{"receipts":"{id}"}}"#)).starts_with("refused"), "{id}");
    }
    for id in ["t-1", "s-0", "last"] {
        assert!(!site.ask(&format!(r#"{{"receipts":"{id}"}}"#)).starts_with("refused"), "{id}");
    }
}

#[test]
fn longest_receipts_take_as_much_as_documented() {
    let mut site = Site::default();
    let to = format!("{}200", "p/".repeat(1012));
    let to = &to[..to.len().min(TO_MAX_BYTES - 21)];
    let parcels = vec![parcel(to, &"t".repeat(500)); PARCELS_MAX];
    for number in 0..70 {
        site.run(&number.to_string(), &json!({ "post_all": parcels }));
    }
    let mut state = Vec::new();
    snapshot::save(&site.courier, &mut state).expect("it has an encoding");
    assert!((2_000_000..3_000_000).contains(&state.len()), "{}", state.len());
    site.move_state();
}

#[test]
fn sample_survives_a_move_after_every_line() {
    let mut site = Site::default();
    let (mut refused, mut posted) = (0, 0);
    for (number, line) in include_str!("../../courier.transactions.jsonl").lines().enumerate() {
        refused += u64::from(site.run_as("ada", &number.to_string(), line).starts_with("refused"));
        posted += site.posted().len() as u64;
        site.move_state();
    }
    assert!(refused > 5 && site.courier.delivered > 60, "{refused}, {}", site.courier.delivered);
    assert!(posted >= site.courier.delivered);
}
