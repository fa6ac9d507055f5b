use lifeboat_guest::{dispatch, testing};

use super::*;

fn run(notes: &mut Notes, transaction: &str) -> String {
    text(dispatch::execute(notes, &Context::default(), transaction.as_bytes()))
}

fn ask(notes: &Notes, query: &str) -> String {
    text(dispatch::query(notes, &Context::default(), query.as_bytes()))
}

fn text(outcome: Result<Vec<u8>, String>) -> String {
    match outcome {
        Ok(bytes) => String::from_utf8(bytes).expect("JSON is UTF-8"),
        Err(reason) => format!("refused: {reason}"),
    }
}

#[test]
fn counts_follow_every_change_to_the_notes() {
    let mut notes = Notes::default();
    assert_eq!(run(&mut notes, r#"{"put":{"name":"a","text":"one"}}"#), r#"{"notes":1,"bytes":3}"#);
    assert_eq!(run(&mut notes, r#"{"append":{"name":"a","text":" two"}}"#), r#"{"notes":1,"bytes":7}"#);
    assert_eq!(run(&mut notes, r#"{"put":{"name":"b","text":"é"}}"#), r#"{"notes":2,"bytes":9}"#);
    assert_eq!(ask(&notes, r#"{"get":"a"}"#), r#"{"text":"one two"}"#);
    assert_eq!(run(&mut notes, r#"{"put":{"name":"a","text":""}}"#), r#"{"notes":2,"bytes":2}"#);
    assert_eq!(run(&mut notes, r#"{"delete":{"name":"b"}}"#), r#"{"notes":1,"bytes":0}"#);
    assert_eq!(ask(&notes, r#""summary""#), r#"{"notes":1,"bytes":0}"#);
}

#[test]
fn refused_transactions_change_nothing() {
    let mut notes = Notes::default();
    run(&mut notes, r#"{"put":{"name":"a","text":"one"}}"#);
    let before = testing::moved(&notes);
    let long = "x".repeat(TEXT_MAX_BYTES - 2);
    for (transaction, reason) in [
        (r#"{"append":{"name":"b","text":"one"}}"#.to_owned(), r#"unknown note "b""#.to_owned()),
        (r#"{"delete":{"name":"b"}}"#.to_owned(), r#"unknown note "b""#.to_owned()),
        (r#"{"put":{"name":"","text":"one"}}"#.to_owned(), "name is 0 bytes, 1 to 256 are allowed".to_owned()),
        (
            format!(r#"{{"put":{{"name":"{}","text":"one"}}}}"#, "n".repeat(257)),
            "name is 257 bytes, 1 to 256 are allowed".to_owned(),
        ),
        (
            format!(r#"{{"append":{{"name":"a","text":"{long}"}}}}"#),
            r#"note "a" would be 1048577 bytes, the limit is 1048576 bytes"#.to_owned(),
        ),
    ] {
        assert_eq!(run(&mut notes, &transaction), format!("refused: {reason}"));
        assert_eq!(notes, before);
    }
    assert_eq!(ask(&notes, r#"{"get":"b"}"#), r#"refused: unknown note "b""#);
}

#[test]
fn longest_note_survives_a_move() {
    let mut notes = Notes::default();
    let text = "é".repeat(TEXT_MAX_BYTES / 2);
    notes.put("long".to_owned(), text.clone()).expect("it is as long as allowed");
    notes.put("short".to_owned(), "s".to_owned()).expect("it is short");
    assert_eq!(testing::moved(&notes), notes);
    assert_eq!(testing::moved(&notes).notes["long"], text);
}

#[test]
fn sample_survives_a_move_after_every_line() {
    let mut notes = Notes::default();
    let mut refused = 0;
    for line in include_str!("../../notes.transactions.jsonl").lines() {
        refused += u32::from(run(&mut notes, line).starts_with("refused"));
        assert_eq!(notes.bytes, notes.notes.values().map(|text| text.len() as u64).sum::<u64>(), "after {line}");
        assert_eq!(testing::moved(&notes), notes);
        notes = testing::moved(&notes);
    }
    assert!(refused > 3 && !notes.notes.is_empty());
}
