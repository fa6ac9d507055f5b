//! The deduplication of ids: which users' ids are recognised, and for how long, whatever other users send.

use crate::durable::{new_service, settings, start_at, start_with, uuid7};
use crate::rig::{MIB, Rig, name, ok, size};
use crate::site::{Answered, Site};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Clock, Timestamp};
use lifeboat_api::event::Event;
use lifeboat_api::id::Epoch;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::{Denial, Kind, Reply, Request, RequestError};
use lifeboat_host::answers::{DeduplicationWindow, ID_CLOCK_SKEW_MAX, ID_FLOOR};
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::journal::{Record, record};
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::recovery::{Found, inspect};
use lifeboat_journal::storage::SimulatedStorage;
use std::time::Duration;

/// Lets another user transact with a service.
fn let_in(rig: &Rig, user: &str, service: &str) -> Token {
    let user = name(user);
    let mut authority = rig.host.authority();
    authority.add_user(&user);
    authority.grant(&user, &name(service), Grant::Transact);
    authority.issue(&user, Timestamp(u64::MAX), [user.len().try_into().expect("short"); 32]).expect("just added")
}

async fn send(rig: &Rig, token: &Token, service: &str, id: Option<String>, body: &str) -> Result<Reply, RequestError> {
    let request = Request { id, body: body.to_owned().into(), kind: Kind::Transaction };
    rig.host.request(token.reveal(), service, request).await
}

fn ms(rig: &Rig) -> u64 {
    rig.clock.now().0 / 1_000_000
}

#[tokio::test]
async fn a_user_is_answered_as_before_whatever_another_sends_also_after_a_restart() {
    // Each transaction that is sent alone takes a block. Together, the blocks take three times this limit.
    const BYTES_MAX: u64 = 3 * MIB;
    let few = |settings: &mut ServiceSettings| settings.deduplication_window.bytes = 64 * 1024;
    for (seed, with_ids) in [(1, true), (2, false)] {
        let mut storage = SimulatedStorage::new(seed);
        let mut rig = start_with(&storage, FailoverMode::Direct, 1, few).await.expect("starts");
        let mut of_ada = Vec::new();
        for number in 0..20 {
            let id = if number % 2 == 0 { format!("plain-{number}") } else { uuid7(ms(&rig), number) };
            let answered = rig.send_as("ant", &id, "1").await.expect("kept");
            of_ada.push((id, answered));
            rig.clock.advance(Duration::from_millis(1));
        }
        let (mut sent, mut bytes_max, mut of_bob) = (0, 0, Vec::new());
        for restart in 0..4_u8 {
            let bob = let_in(&rig, "bob", "ant");
            for number in 0..500 {
                sent += 1;
                let id = if number % 3 == 0 { format!("bob-{sent}") } else { uuid7(ms(&rig), 1_000 + sent) };
                let id = with_ids.then_some(id);
                match send(&rig, &bob, "ant", id.clone(), "refuse").await {
                    Ok(answered) => of_bob.extend(id.map(|id| (id, answered.sequence))),
                    Err(RequestError::Denied(Denial::TooManyIds { user, .. })) => assert_eq!(&*user, "bob"),
                    Err(other) => panic!("{other}"),
                }
                rig.clock.advance(Duration::from_millis(200));
                if number % 50 == 49 {
                    rig.snapshot("ant").await;
                    // The snapshot's file is written, and room is reclaimed, beside the service.
                    let directory = rig.host.data().expect("it is durable");
                    directory.snapshots_written(&name("ant")).await.expect("they are written");
                    bytes_max = bytes_max.max(storage.used_bytes());
                }
            }
            let now = rig.clock.now();
            for turn in 0..2 {
                for (id, seen) in &of_ada {
                    let again = rig.send_as("ant", id, "1").await.expect("answered before");
                    assert!(
                        again.is_repeated && again.sequence == seen.sequence && again.answer == seen.answer,
                        "{id}"
                    );
                }
                if turn == 0 {
                    storage = storage.crash();
                    drop(rig);
                    let again = start_at(&storage, FailoverMode::Direct, restart + 2, Some(now), few).await;
                    rig = again.expect("starts again");
                }
            }
            // Bob's ids are answered again, or denied as too old.
            let bob = let_in(&rig, "bob", "ant");
            for (id, sequence) in of_bob.iter().filter(|(id, _)| !id.starts_with("bob")).rev().step_by(7) {
                match send(&rig, &bob, "ant", Some(id.clone()), "refuse").await {
                    Ok(again) => assert!(again.is_repeated && again.sequence == *sequence, "{id} ran twice"),
                    Err(denied) => assert!(matches!(denied, RequestError::Denied(Denial::TooOld { .. })), "{denied}"),
                }
            }
        }
        let relocated = relocated(&storage);
        assert!(relocated >= of_ada.len(), "{relocated} are in the journal");
        assert!(bytes_max < BYTES_MAX, "the journal takes {bytes_max} bytes after {sent} transactions");
    }
}

/// Returns how many answers of service `ant` were relocated in a directory.
fn relocated(storage: &SimulatedStorage) -> usize {
    let mut relocated = 0;
    let read = inspect(storage, DirectoryId([1; 16]), None, &mut |found| {
        if let Found::Record { service, bytes, .. } = found {
            let decoded = record::decode(service, Epoch::default(), bytes);
            relocated += usize::from(matches!(decoded, Ok(Record::Relocated(_))));
        }
    });
    read.expect("readable");
    relocated
}

#[tokio::test]
async fn answers_survive_a_cut_wherever_they_are_relocated() {
    let few = |settings: &mut ServiceSettings| settings.deduplication_window.bytes = 16 * 1024;
    // The number of operations until the first answer is relocated, and until all are.
    let (mut first, mut last) = (None, 0);
    let mut cut = None;
    loop {
        let storage = SimulatedStorage::new(7);
        let rig = start_with(&storage, FailoverMode::Direct, 1, few).await.expect("starts");
        let mut of_ada = Vec::new();
        for number in 0..5 {
            let id = format!("plain-{number}");
            of_ada.push((id.clone(), rig.send_as("ant", &id, "1").await.expect("kept").sequence));
        }
        let bob = let_in(&rig, "bob", "ant");
        if let Some(cut) = cut {
            storage.power_off(cut);
        }
        let before = storage.operations();
        for number in 0..100 {
            let answered = send(&rig, &bob, "ant", None, "refuse").await;
            if answered.is_err() {
                assert!(cut.is_some(), "{number}: {answered:?}");
                break;
            }
            if cut.is_none() && relocated(&storage) > 0 {
                first.get_or_insert(storage.operations() - before);
                last = storage.operations() - before;
                if relocated(&storage) >= 5 {
                    break;
                }
            }
        }
        let storage = storage.crash();
        drop(rig);
        let rig = start_with(&storage, FailoverMode::Direct, 2, few).await.expect("starts again");
        for (id, sequence) in &of_ada {
            let again = rig.send_as("ant", id, "1").await.expect("answered before");
            assert!(again.is_repeated && again.sequence == *sequence, "{id} ran twice after a cut at {cut:?}");
        }
        let first = first.expect("answers are relocated");
        // The cuts begin just before the first relocation.
        let next = cut.map_or(first.saturating_sub(4).max(1), |cut| cut + 1);
        if next > last + 2 {
            break;
        }
        cut = Some(next);
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_locks_out_nobody() {
    for minutes in [4, 55] {
        let rig = Rig::new();
        rig.try_start("tally", "count.wat", &[size("s", 50_000_000, 8 * MIB)], |spec| {
            spec.deduplication_window = DeduplicationWindow { ids: 10, ..DeduplicationWindow::default() };
        })
        .await
        .expect("starts");
        let bob = let_in(&rig, "bob", "tally");
        let ahead = uuid7(ms(&rig) + minutes * 60_000, 1);
        assert_eq!(ok(&rig.send_as("tally", &ahead, "x").await), "1");
        for round in 0..40 {
            rig.clock.advance(Duration::from_secs(10));
            let (ada, other) = (uuid7(ms(&rig), 2 * round), uuid7(ms(&rig), 2 * round + 1));
            assert!(!rig.send_as("tally", &ada, "x").await.expect("a fresh id").is_repeated, "{minutes} {round}");
            assert!(!send(&rig, &bob, "tally", Some(other), "x").await.expect("a fresh id").is_repeated);
        }
        // By now it is beyond the window: it is denied, or executed like any other id.
        let again = rig.send_as("tally", &ahead, "x").await;
        let is_denied = matches!(again, Err(RequestError::Denied(Denial::TooOld { .. })));
        assert_eq!(is_denied, minutes == 4, "{again:?}");
    }
}

#[tokio::test]
async fn a_clock_that_was_ahead_is_reported_with_the_number_of_ids_ahead() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let few = |settings: &mut ServiceSettings| settings.deduplication_window.ids = 10;
    let mut storage = SimulatedStorage::new(4);
    let mut rig = start_with(&storage, FailoverMode::Direct, 1, few).await.expect("starts");
    let right = rig.clock.now();
    rig.clock.set(right.plus(HOUR));
    let behind = |rig: &Rig| {
        let behind = |event: &Event| match event {
            Event::ClockBehind { ids_ahead, .. } => Some(*ids_ahead),
            _ => None,
        };
        rig.events().iter().filter_map(behind).collect::<Vec<_>>()
    };
    let mut of_ada = Vec::new();
    for number in 0..30 {
        of_ada.push(uuid7(ms(&rig), number));
        rig.send_as("ant", &of_ada[of_ada.len() - 1], "1").await.expect("kept");
        rig.clock.advance(Duration::from_millis(1));
    }
    assert!(matches!(rig.send_as("ant", &of_ada[0], "1").await, Err(RequestError::Denied(Denial::TooOld { .. }))));
    rig.snapshot("ant").await;
    // While the service runs, and across a restart.
    for restart in 0..2 {
        rig.clock.set(right.plus(Duration::from_secs(restart * 600)));
        let again = rig.send_as("ant", &of_ada[29], "1").await.expect("retained");
        assert!(again.is_repeated, "{restart}");
        let wait = match rig.send_as("ant", &uuid7(ms(&rig), 100 + restart), "1").await {
            Ok(_) => Duration::ZERO,
            Err(RequestError::Denied(Denial::TooManyIds { retry_after, .. })) => retry_after,
            // The newest time beyond the window is an hour ahead.
            Err(RequestError::Denied(Denial::TooOld { forgotten, .. })) => {
                Duration::from_nanos(forgotten.0 - rig.clock.now().0)
            }
            Err(other) => panic!("{other}"),
        };
        assert!(wait <= ID_CLOCK_SKEW_MAX, "{restart}: {wait:?}");
        rig.clock.advance(wait + Duration::from_millis(1));
        rig.send_as("ant", &uuid7(ms(&rig), 200 + restart), "1").await.expect("nobody is locked out any longer");
        let reported = behind(&rig);
        assert_eq!(reported.len(), 1, "{restart}");
        assert!(reported[0] > 0, "{restart}");
        storage = storage.crash();
        drop(rig);
        rig = start_with(&storage, FailoverMode::Direct, 2, few).await.expect("starts again");
    }
}

#[tokio::test]
async fn no_retry_runs_twice_however_much_junk_other_users_send() {
    let few = |settings: &mut ServiceSettings| settings.deduplication_window.bytes = 256 * 1024;
    let mut storage = SimulatedStorage::new(5);
    let mut rig = start_with(&storage, FailoverMode::Direct, 1, few).await.expect("starts");
    let mut of_ada = Vec::new();
    for number in 0..10 {
        for id in [format!("plain-{number}"), uuid7(ms(&rig), number), uuid7(ms(&rig) + 55 * 60_000, number)] {
            of_ada.push((id.clone(), rig.send_as("ant", &id, "1").await.expect("kept").sequence));
        }
    }
    for restart in 2..5 {
        let bob = let_in(&rig, "bob", "ant");
        // More than the deduplication window has room for, all refused, within seconds.
        for number in 0..40 {
            let junk = format!("refuse{}", " ".repeat(32 * 1024));
            match send(&rig, &bob, "ant", Some(format!("junk-{restart}-{number}")), &junk).await {
                Ok(_) | Err(RequestError::Denied(Denial::TooManyIds { .. })) => {}
                Err(other) => panic!("{other}"),
            }
            rig.clock.advance(Duration::from_millis(100));
        }
        let now = rig.clock.now();
        for turn in 0..2 {
            for (id, sequence) in &of_ada {
                let again = rig.send_as("ant", id, "1").await.expect("answered before");
                assert!(again.is_repeated && again.sequence == *sequence, "{id} ran twice");
            }
            if turn == 0 {
                storage = storage.crash();
                drop(rig);
                let again = start_at(&storage, FailoverMode::Direct, restart, Some(now), few).await;
                rig = again.expect("starts again");
            }
        }
    }
}

#[tokio::test]
async fn the_next_user_of_a_name_inherits_no_answer() {
    let storage = SimulatedStorage::new(3);
    let rig = start_with(&storage, FailoverMode::Direct, 1, |_| {}).await.expect("starts");
    let first = let_in(&rig, "bob", "ant");
    let answered = send(&rig, &first, "ant", Some("pay".into()), "1").await.expect("kept");
    assert!(send(&rig, &first, "ant", Some("pay".into()), "1").await.expect("kept").is_repeated);
    assert!(rig.host.authority().remove_user("bob"));
    let second = let_in(&rig, "bob", "ant");
    let theirs = send(&rig, &second, "ant", Some("pay".into()), "1").await.expect("another one's");
    assert!(!theirs.is_repeated && theirs.sequence > answered.sequence);
    let identity = rig.host.authenticate(second.reveal()).expect("valid");
    let found = rig.host.find_transaction(&identity, "ant", "pay").await.expect("found").expect("theirs");
    assert_eq!(found.sequence, theirs.sequence);
    assert!(rig.host.find_transaction(&identity, "ant", "other").await.expect("looked for").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_cannot_be_retained_is_denied_over_http_until_there_is_room() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::start(folder.path(), "").await;
    let mut settings = settings(FailoverMode::Direct);
    settings.deduplication_window.ids = 10;
    let new = new_service("tally", "count.wat", settings);
    site.server.host().create_durable_service(new).await.expect("created");
    let admin = site.log_in("admin").await;
    let ada = site.user(&admin, "ada", "tally", &[Grant::Transact]).await;
    let bob = site.user(&admin, "bob", "tally", &[Grant::Transact]).await;
    for number in 0..11 {
        assert_eq!(site.transact(&ada, "tally", &number.to_string(), "x").await.status, 200, "{number}");
    }
    let denied = site.transact(&ada, "tally", "11", "x").await;
    assert_eq!((denied.status, denied.code().as_str()), (429, "too_many_ids"), "{denied:?}");
    assert_eq!((denied.header("lifeboat-outcome"), denied.header("retry-after")), ("denied", "60"));
    // An answered id is answered again. A transaction without an id needs no room, and other users have their own.
    assert_eq!(site.transact(&ada, "tally", "0", "x").await.header("lifeboat-repeated"), "true");
    assert_eq!(site.post("/v1/services/tally/transactions", &ada, "x").await.text(), "12");
    assert_eq!(site.transact(&bob, "tally", "11", "x").await.text(), "13");
    site.clock.advance(ID_FLOOR);
    let allowed = site.transact(&ada, "tally", "11", "x").await;
    assert_eq!((allowed.status, allowed.text()), (200, "14"), "it did not run when it was denied");
    site.stop().await;
}

/// Returns the texts of the events of `service` that a user may see.
async fn event_texts(site: &Site, token: &str, service: &str) -> Vec<String> {
    let answered = site.get(&format!("/v1/events?follow=false&service={service}"), token).await;
    answered.events().iter().map(|event| event["text"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_of_a_removed_name_inherits_nothing_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let id = "pay";
    let is_first = |answered: &Answered| answered.status == 200 && answered.header("lifeboat-repeated") != "true";
    let find = format!("/v1/services/guest/transactions/{id}");
    {
        let site = Site::start(folder.path(), "").await;
        let admin = site.log_in("admin").await;
        site.deploy(&admin, "guest", "wasi.wat", "").await;
        let bob = site.user(&admin, "bob", "guest", &[Grant::Transact]).await;
        assert!(is_first(&site.transact(&bob, "guest", id, "log").await));
        assert_eq!(site.delete("/v1/users/bob", &admin).await.status, 204);
        assert_eq!(site.transact(&bob, "guest", id, "log").await.status, 401);
        let bob = site.user(&admin, "bob", "guest", &[Grant::Transact]).await;
        assert_eq!(site.get(&find, &bob).await.status, 404);
        site.stop().await;
    }
    {
        let site = Site::start(folder.path(), "").await;
        let (admin, bob) = (site.log_in("admin").await, site.log_in("bob").await);
        assert_eq!(site.get(&find, &bob).await.status, 404);
        // Another body under the same id would be denied if the id were not another user's.
        assert!(is_first(&site.transact(&bob, "guest", id, "time").await));
        assert!(is_first(&site.transact(&bob, "guest", "hello", "log").await));
        assert_eq!(site.delete("/v1/services/guest", &admin).await.status, 204);
        site.deploy(&admin, "guest", "wasi.wat", "").await;
        assert_eq!(site.get(&find, &bob).await.status, 403, "grants are not inherited");
        for grant in [Grant::Transact, Grant::Observe] {
            let path = format!("/v1/users/bob/grants/guest/{}", grant.word());
            assert_eq!(site.put(&path, &admin, "").await.status, 204);
        }
        assert_eq!(site.get(&find, &bob).await.status, 404);
        let of_bob = event_texts(&site, &bob, "guest").await;
        assert!(of_bob.iter().all(|text| !text.contains("hello") && !text.contains("Removed")), "{of_bob:?}");
        let of_admin = event_texts(&site, &admin, "guest").await;
        assert!(of_admin.iter().any(|text| text.contains("hello")), "{of_admin:?}");
        site.stop().await;
    }
    let site = Site::start(folder.path(), "").await;
    let bob = site.log_in("bob").await;
    assert_eq!(site.get(&find, &bob).await.status, 404);
    let answered = site.transact(&bob, "guest", id, "log").await;
    assert!(is_first(&answered) && answered.header("lifeboat-sequence") == "1", "{answered:?}");
    assert!(event_texts(&site, &bob, "guest").await.iter().any(|text| text.contains("hello")));
    site.stop().await;
}
