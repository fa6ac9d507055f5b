use super::*;
use lifeboat_api::call::Scheme;
use std::time::Duration;

fn request(path: &str, id: &str) -> CallRequest {
    CallRequest {
        method: "POST".into(),
        scheme: Scheme::Http,
        authority: "webhook.test".into(),
        path_with_query: path.into(),
        headers: Vec::new(),
        body: Bytes::from(format!(r#"{{"id":"{id}","user":"ada","parcel":"text"}}"#)),
    }
}

async fn call(webhook: &Webhook, request: &CallRequest, key: &str) -> CallResult {
    let maker = webhook.network().maker.expect("it calls");
    assert_eq!(maker.check(request), Ok(()));
    let called = maker.call(request.clone(), key.into(), Limits::within(Duration::from_secs(60))).await;
    called.result.map(Arc::new)
}

fn status_and_body(result: &CallResult) -> Option<(u16, &[u8])> {
    result.as_ref().ok().map(|response| (response.status, &*response.body))
}

#[tokio::test]
async fn answers_follow_the_path_and_are_repeated_for_their_key() {
    let webhook = Webhook::start().await.expect("a port");
    let cases = [
        ("/in", Some((200, &b"got 4 bytes"[..]))),
        ("/closed?now", Some((503, b"closed"))),
        ("/cut", None),
        ("", Some((200, b"got 4 bytes"))),
    ];
    for (index, (path, expected)) in cases.into_iter().enumerate() {
        let (request, key) = (request(path, &format!("id-{index}")), format!("key-{index}"));
        let answer = call(&webhook, &request, &key).await;
        assert_eq!(status_and_body(&answer), expected, "{path}");
        let terminated = matches!(answer, Err(CallError::ConnectionTerminated { .. }));
        assert_eq!(terminated, expected.is_none(), "{answer:?}");
        // A request for something else under the same key gets the same answer.
        let other = CallRequest { path_with_query: "/other".into(), ..request.clone() };
        assert_eq!(status_and_body(&call(&webhook, &other, &key).await), expected, "{path}");
        assert_eq!(status_and_body(&webhook.ask_again(&other)), expected, "{path}");
    }
    assert_eq!(webhook.counts().into_values().collect::<Vec<_>>(), [2; 4]);
}

#[tokio::test]
async fn only_requests_of_the_service_are_counted() {
    let webhook = Webhook::start().await.expect("a port");
    assert!(webhook.ask_again(&request("/in", "a")).is_ok());
    assert!(webhook.counts().is_empty());
    assert!(call(&webhook, &request("/in", "a"), "key").await.is_ok());
    assert!(webhook.ask_again(&request("/in", "a")).is_ok());
    let parcel = Parcel { user: "ada".into(), id: "a".into(), index: None, text: "text".into() };
    assert_eq!(webhook.counts(), [(parcel, 1)].into());
}

#[tokio::test]
async fn other_addresses_are_denied() {
    let webhook = Webhook::start().await.expect("a port");
    let authority = webhook.maker.authority.clone();
    for authority in [authority.as_str(), "example.org", "webhook.test:81"] {
        let request = CallRequest { authority: authority.into(), ..request("/in", "a") };
        let is_denied = |result| matches!(result, Err(CallError::Denied { .. }));
        assert!(is_denied(webhook.network().maker.expect("it calls").check(&request)), "{authority}");
        assert!(is_denied(webhook.ask_again(&request).map(drop)), "{authority}");
    }
}
