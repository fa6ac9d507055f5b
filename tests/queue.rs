//! Users who share a service. The requests of one user do not delay the others, or exclude them.

use crate::rig::{MIB, Rig, guest_bytes, name, ok, size};
use futures::FutureExt;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::Event;
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Answer, Cause, Denial, Kind, Request, RequestError};
use lifeboat_host::auth::Identity;
use lifeboat_host::service::{DEADLINE_MISSES_MAX, DEADLINE_REFUSAL, QUEUE_MAX};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// The text with which `execute` and `query` of `work.wat` begin.
const HEAP: &str = "(global.set $heap (i32.const 1024))";

/// Adds a user who may send transactions to `service`.
fn user(rig: &Rig, user: &str, service: &str) -> Identity {
    let user = name(user);
    let mut authority = rig.host.authority();
    authority.add_user(&user);
    authority.grant(&user, &name(service), Grant::Transact);
    let mut random = [9; 32];
    random[..user.len()].copy_from_slice(user.as_bytes());
    let token = authority.issue(&user, Timestamp(u64::MAX), random).expect("known");
    drop(authority);
    rig.host.authenticate(token.reveal()).expect("issued just now")
}

fn request(body: &str) -> Request {
    request_as(None, body)
}

fn request_as(id: Option<&str>, body: &str) -> Request {
    Request { id: id.map(str::to_owned), body: body.to_owned().into(), kind: Kind::Transaction }
}

#[tokio::test]
async fn a_user_waits_for_one_turn_of_another_alone() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", u64::MAX / 2, 8 * MIB)]).await;
    let (greedy, modest) = (user(&rig, "greedy", "work"), user(&rig, "modest", "work"));
    let begin = |user: &Identity, body: &str| rig.host.begin_as(user, "work", request(body)).expect("room");
    let mut flood: Vec<_> = (0..300).map(|_| begin(&greedy, "3000000")).collect();
    let served = begin(&modest, "1").await.expect("answered").sequence.0;
    // The requests that were served while the flood was sent, and one turn.
    assert!(served < 30, "{served}");
    let first = begin(&modest, "1").await.expect("answered").sequence.0;
    assert!(first <= served + 4, "{served} {first}");
    let done = flood.iter_mut().filter_map(|pending| pending.now_or_never()).count();
    assert!(done < 40, "{done}");
    for pending in flood.drain(done..) {
        pending.await.expect("answered");
    }
    assert_eq!(ok(&rig.query("work", "x").await), "302");
}

#[tokio::test]
async fn requests_of_a_user_stay_in_order_while_others_come_in_between() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", u64::MAX / 2, 8 * MIB)]).await;
    let users = ["ann", "ben", "cid"].map(|one| user(&rig, one, "work"));
    let mut pending: [Vec<_>; 3] = Default::default();
    for index in 0..300 {
        let body = ["1", "100000", "700000"][index * 7 % 3];
        pending[index % 3].push(rig.host.begin_as(&users[index % 3], "work", request(body)).expect("room"));
    }
    // Requests that were sent before are done when the status of the service arrives.
    assert_eq!(rig.status("work").await.sequence.0, 300);
    for pending in pending {
        let mut last = 0;
        for pending in pending {
            let sequence = pending.await.expect("answered").sequence.0;
            assert!(sequence > last);
            last = sequence;
        }
    }
}

#[tokio::test]
async fn a_user_who_fills_the_queue_leaves_room_for_others() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", u64::MAX / 2, 8 * MIB)]).await;
    let greedy = user(&rig, "greedy", "work");
    let begin = |user: &Identity, body: &str| rig.host.begin_as(user, "work", request(body));
    let mut flood = vec![begin(&greedy, "300000000").expect("room")];
    let full = loop {
        match begin(&greedy, "1") {
            Ok(pending) => flood.push(pending),
            Err(denial) => break denial,
        }
    };
    assert!(matches!(full, Denial::QueueFull { limit: QUEUE_MAX, .. }), "{full:?}");
    assert!((QUEUE_MAX..=QUEUE_MAX + 64).contains(&flood.len()), "{}", flood.len());
    for other in ["ann", "ben", "cid"] {
        let other = user(&rig, other, "work");
        assert!(rig.host.has_queue_room("work", &other.user));
        for _ in 0..20 {
            drop(begin(&other, "1").expect("room"));
        }
    }
}

#[tokio::test]
async fn dropped_requests_are_not_executed() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", u64::MAX / 2, 8 * MIB)]).await;
    let (greedy, modest) = (user(&rig, "greedy", "work"), user(&rig, "modest", "work"));
    let operator = user(&rig, "boss", "work");
    let begin = |user: &Identity, id: &str| rig.host.begin_as(user, "work", request_as(Some(id), "1")).expect("room");
    let first = rig.host.begin_as(&greedy, "work", request("300000000")).expect("room");
    while rig.host.queue_length("work") != Some(0) {
        tokio::task::yield_now().await;
    }
    let flood: Vec<_> = (0..10).map(|id| begin(&greedy, &id.to_string())).collect();
    let other = begin(&modest, "3");
    let denied = rig.host.drop_queued(&operator, "work", &greedy.user, None);
    assert!(matches!(denied, Err(Denial::NotGranted { .. })), "{denied:?}");
    rig.host.authority().grant("boss", &name("work"), Grant::Operate);
    let drop_queued = |id: Option<&str>| rig.host.drop_queued(&operator, "work", &greedy.user, id).expect("granted");
    assert_eq!((drop_queued(Some("3")), drop_queued(Some("3")), drop_queued(None), drop_queued(None)), (1, 0, 9, 0));
    for pending in flood {
        let dropped = pending.await;
        assert!(matches!(dropped, Err(RequestError::Denied(Denial::Dropped { .. }))), "{dropped:?}");
    }
    assert_eq!((first.await.expect("executed").sequence.0, other.await.expect("executed").sequence.0), (1, 2));
    assert_eq!(ok(&rig.query("work", "x").await), "2");
    // They can be sent again.
    assert_eq!(begin(&greedy, "3").await.expect("executed").sequence.0, 3);
}

#[tokio::test]
async fn a_drop_includes_the_rest_of_a_turn_that_is_under_way() {
    // Each line that the guest logs suspends the service, in the middle of a request, until the test continues it.
    let (sender, held) = mpsc::channel();
    let held = Mutex::new(held);
    let rig = Rig::watched(move |event| {
        if matches!(event, Event::Log { .. }) {
            // The sender is dropped once the test has failed.
            let _ = held.lock().expect("no test panics in here").recv();
        }
    });
    // It must be dropped before the rig, which waits for its services.
    let go_on = sender;
    rig.start("guest", "wasi.wat", &[size("s", u64::MAX / 2, 8 * MIB)]).await;
    let (greedy, modest) = (user(&rig, "greedy", "guest"), user(&rig, "modest", "guest"));
    let operator = user(&rig, "boss", "guest");
    rig.host.authority().grant("boss", &name("guest"), Grant::Operate);
    let begin = |user: &Identity, body: &str| rig.host.begin_as(user, "guest", request(body)).expect("room");
    let all_is_taken = async || {
        while rig.host.queue_length("guest") != Some(0) {
            tokio::task::yield_now().await;
        }
    };
    let first = begin(&modest, "log");
    all_is_taken().await;
    let begun = begin(&greedy, "log");
    let flood: Vec<_> = (0..10).map(|_| begin(&greedy, "1")).collect();
    go_on.send(()).expect("it waits");
    // All of them are one turn now. Its first request is suspended.
    all_is_taken().await;
    let count = rig.host.drop_queued(&operator, "guest", &greedy.user, None).expect("an operator");
    go_on.send(()).expect("it waits");
    assert_eq!(count, 10);
    for dropped in futures::future::join_all(flood).await {
        assert!(matches!(dropped, Err(RequestError::Denied(Denial::Dropped { .. }))), "{dropped:?}");
    }
    let executed = (first.await.expect("executed").sequence.0, begun.await.expect("executed").sequence.0);
    assert_eq!(executed, (1, 2));
    assert_eq!(rig.status("guest").await.sequence.0, 2, "nothing else was executed");
}

#[tokio::test]
async fn only_the_id_that_missed_its_deadline_twice_is_refused_for_a_while() {
    let rig = Rig::new();
    let short = Size { deadline: Duration::from_millis(20), ..(*size("s", u64::MAX / 2, 8 * MIB)).clone() };
    rig.start("work", "work.wat", &[Arc::new(short)]).await;
    for _ in 0..DEADLINE_MISSES_MAX {
        let missed = rig.send_as("work", "endless", "4000000000").await.expect("failed");
        assert!(matches!(missed.answer, Answer::Failed(Cause::Deadline { .. })), "{missed:?}");
    }
    let denied = rig.send_as("work", "endless", "4000000000").await;
    let Err(RequestError::Denied(Denial::MissedDeadlines { misses: DEADLINE_MISSES_MAX, retry_after, .. })) = denied
    else {
        panic!("{denied:?}")
    };
    assert!(retry_after <= DEADLINE_REFUSAL && !retry_after.is_zero());
    assert_eq!(ok(&rig.send_as("work", "short", "1").await), "1");
    let other = user(&rig, "other", "work");
    let reply = rig.host.request_as(&other, "work", request_as(Some("endless"), "1")).await;
    assert_eq!(ok(&reply), "2");
}

#[tokio::test]
async fn a_body_that_missed_its_deadline_twice_is_refused_for_a_while_whatever_its_id() {
    let rig = Rig::new();
    let short = Size { deadline: Duration::from_millis(20), ..(*size("s", u64::MAX / 2, 8 * MIB)).clone() };
    rig.start("work", "work.wat", &[Arc::new(short)]).await;
    let (stubborn, other) = (user(&rig, "stubborn", "work"), user(&rig, "other", "work"));
    let send = |user, id, body: &'static str| rig.host.request_as(user, "work", request_as(id, body));
    for id in [None, Some("a")] {
        let missed = send(&stubborn, id, "4000000000").await.expect("failed");
        assert!(matches!(missed.answer, Answer::Failed(Cause::Deadline { .. })), "{missed:?}");
    }
    for id in [None, Some("a"), Some("b")] {
        let denied = send(&stubborn, id, "4000000000").await;
        let Err(RequestError::Denied(Denial::MissedDeadlines { id: None, misses: DEADLINE_MISSES_MAX, retry_after })) =
            denied
        else {
            panic!("{denied:?}")
        };
        assert!(retry_after <= DEADLINE_REFUSAL && !retry_after.is_zero());
    }
    // Another body of this user, and this body of another user, are executed.
    assert_eq!(ok(&send(&stubborn, Some("a"), "1").await), "1");
    let missed = send(&other, None, "4000000000").await.expect("failed");
    assert!(matches!(missed.answer, Answer::Failed(Cause::Deadline { .. })), "{missed:?}");
}

#[tokio::test]
async fn a_query_that_missed_its_deadline_twice_is_refused_for_a_while() {
    let rig = Rig::new();
    let short = Size { deadline: Duration::from_millis(20), ..(*size("s", u64::MAX / 2, 8 * MIB)).clone() };
    // A query runs as long as a transaction.
    let text = String::from_utf8(guest_bytes("work.wat")).expect("text");
    let (before, query) = text.split_once("#query\"").expect("it has one");
    let query = query.replacen(HEAP, &format!("(call $work (local.get $body) (local.get $length)) {HEAP}"), 1);
    rig.start_bytes("work", format!("{before}#query\"{query}").as_bytes(), &[Arc::new(short)]).await;
    for _ in 0..DEADLINE_MISSES_MAX {
        let missed = rig.query("work", "4000000000").await.expect("failed");
        assert!(matches!(missed.answer, Answer::Failed(Cause::Deadline { .. })), "{missed:?}");
    }
    let denied = rig.query("work", "4000000000").await;
    assert!(matches!(denied, Err(RequestError::Denied(Denial::MissedDeadlines { id: None, .. }))), "{denied:?}");
    // The same body as a transaction is counted separately.
    let missed = rig.send("work", "4000000000").await.expect("failed");
    assert!(matches!(missed.answer, Answer::Failed(Cause::Deadline { .. })), "{missed:?}");
}
