use lifeboat_guest::{dispatch, testing};

use super::*;

fn run(counter: &mut Counter, transaction: &str) -> Result<String, String> {
    dispatch::execute(counter, &Context::default(), transaction.as_bytes())
        .map(|reply| String::from_utf8(reply).expect("JSON is UTF-8"))
}

#[test]
fn additions_are_summed() {
    let mut counter = Counter::default();
    assert_eq!(run(&mut counter, r#"{"add":5}"#).as_deref(), Ok("5"));
    assert_eq!(run(&mut counter, r#"{"add":-7}"#).as_deref(), Ok("-2"));
    assert_eq!(dispatch::query(&counter, &Context::default(), br#""total""#), Ok(b"-2".to_vec()));
}

#[test]
fn anything_else_is_refused_without_a_change() {
    let mut counter = Counter { total: 3 };
    for transaction in [
        "",
        "5",
        "{}",
        r#"{"add":"5"}"#,
        r#"{"add":1.5}"#,
        r#"{"add":1,"twice":true}"#,
        r#"{"add":9223372036854775808}"#,
    ] {
        assert!(run(&mut counter, transaction).is_err(), "{transaction}");
    }
    assert_eq!(counter, Counter { total: 3 });
}

#[test]
#[should_panic(expected = "within 64 bits")]
fn overflow_panics() {
    let _ = run(&mut Counter { total: i64::MAX }, r#"{"add":1}"#);
}

#[test]
fn sample_survives_a_move_after_every_line() {
    let mut counter = Counter::default();
    let (mut total, mut refused) = (0, 0);
    for line in include_str!("../../counter.transactions.jsonl").lines() {
        match run(&mut counter, line) {
            Ok(reply) => {
                let Add { add } = serde_json::from_str(line).expect("it was not refused");
                total += add;
                assert_eq!(reply, total.to_string());
            }
            Err(_) => refused += 1,
        }
        counter = testing::moved(&counter);
        assert_eq!(counter, Counter { total });
    }
    assert!(refused > 3);
}
