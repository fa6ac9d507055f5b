use lifeboat_guest::{dispatch, testing};

use super::*;

fn run(ledger: &mut Ledger, transaction: &str) -> String {
    text(dispatch::execute(ledger, &Context::default(), transaction.as_bytes()))
}

fn ask(ledger: &Ledger, query: &str) -> String {
    text(dispatch::query(ledger, &Context::default(), query.as_bytes()))
}

fn text(outcome: Result<Vec<u8>, String>) -> String {
    match outcome {
        Ok(bytes) => String::from_utf8(bytes).expect("JSON is UTF-8"),
        Err(reason) => format!("refused: {reason}"),
    }
}

/// Returns a ledger in which Ann has 100 and Bob has 50.
fn two_accounts() -> Ledger {
    let mut ledger = Ledger::default();
    assert_eq!(run(&mut ledger, r#"{"deposit":{"account":"ann","amount":100}}"#), r#"{"balance":100}"#);
    assert_eq!(run(&mut ledger, r#"{"deposit":{"account":"bob","amount":50}}"#), r#"{"balance":50}"#);
    ledger
}

#[test]
fn movements_of_money_change_the_balances_involved() {
    let mut ledger = two_accounts();
    assert_eq!(run(&mut ledger, r#"{"transfer":{"from":"ann","to":"bob","amount":30}}"#), r#"{"from":70,"to":80}"#);
    assert_eq!(run(&mut ledger, r#"{"withdraw":{"account":"bob","amount":80}}"#), r#"{"balance":0}"#);
    assert_eq!(ask(&ledger, r#"{"balance":"ann"}"#), r#"{"balance":70}"#);
    assert_eq!(ask(&ledger, r#""total""#), r#"{"total":70,"balances":70}"#);
    assert_eq!(ask(&ledger, r#""accounts""#), r#"{"accounts":2}"#);
}

#[test]
fn refused_transactions_change_nothing() {
    let mut ledger = two_accounts();
    let long = format!(r#"{{"deposit":{{"account":"{}","amount":1}}}}"#, "x".repeat(65));
    for (transaction, reason) in [
        (r#"{"deposit":{"account":"ann","amount":0}}"#, "amount is 0, at least 1 is needed"),
        (r#"{"withdraw":{"account":"eve","amount":1}}"#, r#"unknown account "eve""#),
        (
            r#"{"withdraw":{"account":"ann","amount":101}}"#,
            r#"insufficient funds: account "ann" has 100, 101 is needed"#,
        ),
        (
            r#"{"transfer":{"from":"ann","to":"bob","amount":101}}"#,
            r#"insufficient funds: account "ann" has 100, 101 is needed"#,
        ),
        (r#"{"transfer":{"from":"ann","to":"eve","amount":1}}"#, r#"unknown account "eve""#),
        (r#"{"transfer":{"from":"eve","to":"ann","amount":1}}"#, r#"unknown account "eve""#),
        (r#"{"transfer":{"from":"ann","to":"ann","amount":1}}"#, r#"account "ann" cannot transfer to itself"#),
        (
            r#"{"deposit":{"account":"new","amount":18446744073709551615}}"#,
            "total is 150, a deposit of 18446744073709551615 would take it over 18446744073709551615",
        ),
        (r#"{"deposit":{"account":"","amount":1}}"#, "account name is 0 bytes, 1 to 64 are allowed"),
        (&long, "account name is 65 bytes, 1 to 64 are allowed"),
    ] {
        assert_eq!(run(&mut ledger, transaction), format!("refused: {reason}"), "{transaction}");
        assert_eq!(ledger, two_accounts(), "{transaction}");
    }
    assert_eq!(ask(&ledger, r#"{"balance":"eve"}"#), r#"refused: unknown account "eve""#);
}

#[test]
fn sample_conserves_the_total() {
    let mut ledger = Ledger::default();
    let mut refused = 0;
    for line in include_str!("../../ledger.transactions.jsonl").lines() {
        refused += u32::from(run(&mut ledger, line).starts_with("refused"));
        assert_eq!(ledger.total, ledger.balances.values().map(Cell::get).sum::<u64>(), "after {line}");
    }
    assert!(refused > 5 && !ledger.balances.is_empty());
}

#[test]
fn sample_survives_a_move_after_every_line() {
    let mut ledger = Ledger::default();
    for line in include_str!("../../ledger.transactions.jsonl").lines() {
        run(&mut ledger, line);
        let moved = testing::moved(&ledger);
        assert_eq!(moved, ledger);
        ledger = moved;
    }
    assert!(!ledger.balances.is_empty());
}
