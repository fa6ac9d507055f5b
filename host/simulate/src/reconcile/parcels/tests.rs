use super::*;
use lifeboat_api::clock::Timestamp;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn record(sequence: u64, answer: Answer) -> ClientRecord {
    let body = r#"{"post_all":[{"to":"http://webhook.test","parcel":"a"},{"to":"http://webhook.test","parcel":"b"}]}"#;
    ClientRecord {
        user: name("ada"),
        id: format!("id-{sequence}"),
        body: Bytes::from_static(body.as_bytes()),
        sequence: Sequence(sequence),
        timestamp: Timestamp(sequence),
        answer,
    }
}

fn parcel(sequence: u64, index: usize, text: &str) -> Parcel {
    Parcel { user: "ada".into(), id: format!("id-{sequence}"), index: Some(index), text: text.into() }
}

/// Returns the findings of these requests, if the first transaction was delivered, the second refused and the third
/// failed.
fn findings(requests: &[(Parcel, u64)]) -> Vec<String> {
    let acknowledged = [record(1, Answer::Ok(Bytes::new())), record(2, Answer::Refused("closed".into()))];
    let ClientRecord { user, id, body, .. } = record(3, Answer::Ok(Bytes::new()));
    let failed = Unacknowledged { user, id, body };
    let found = compare(&name("post"), &acknowledged, &[failed], &requests.iter().cloned().collect());
    found.iter().map(|finding| format!("{:?}: {finding}", finding.kind)).collect()
}

#[test]
fn delivered_parcels_are_posted_once_and_others_at_most_once() {
    let both = [(parcel(1, 0, "a"), 1), (parcel(1, 1, "b"), 1)];
    assert_eq!(findings(&both), [""; 0]);
    let more = [&both[..], &[(parcel(2, 1, "b"), 1), (parcel(3, 0, "a"), 1)]].concat();
    assert_eq!(findings(&more), [""; 0]);
    let lost = findings(&both[..1]);
    let expected =
        "Lost: post transaction 'id-1' at sequence 1 was acknowledged, and the webhook did not get its parcel 1";
    assert_eq!(lost, [expected]);
    for sequence in [2, 3] {
        let doubled = findings(&[&both[..], &[(parcel(sequence, 0, "a"), 2)]].concat());
        assert!(doubled.len() == 1 && doubled[0].ends_with("posted its parcel 0 2 times"), "{doubled:?}");
        assert!(doubled[0].starts_with("Duplicated: post "), "{doubled:?}");
    }
    let doubled = findings(&[(parcel(1, 0, "a"), 2), (parcel(1, 1, "b"), 3)]);
    assert_eq!(doubled, ["Duplicated: post transaction 'id-1' at sequence 1 posted its parcel 0 2 times"]);
}

#[test]
fn a_parcel_that_nobody_sent_is_named() {
    let both = [(parcel(1, 0, "a"), 1), (parcel(1, 1, "b"), 1)];
    let unknown = findings(&[&both[..], &[(parcel(9, 0, "a"), 1)]].concat());
    assert_eq!(unknown, ["Duplicated: post posted a parcel of transaction 'id-9' of ada, that no client sent"]);
    let altered = findings(&[&both[..], &[(parcel(2, 0, "c"), 1)]].concat());
    let expected = "Diverged: post transaction 'id-2' at sequence 2 posted a parcel 0 that it did not have";
    assert_eq!(altered, [expected]);
}
