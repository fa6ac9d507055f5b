use super::*;
use crate::scenario::BuiltIn;

/// Adds numbers and answers with the sum; the query `sum` returns it.
#[derive(Default)]
struct Adder(i64);

impl Adder {
    fn answer(&self) -> Attempt {
        Attempt { answer: Answer::Ok(self.0.to_string().into()), fuel_used: 1, calls: Vec::new() }
    }
}

impl Replica for Adder {
    async fn renew(&mut self) -> Result<(), String> {
        self.0 = 0;
        Ok(())
    }

    async fn execute(&mut self, call: Call<'_>) -> Attempt {
        let text = std::str::from_utf8(call.body).expect("the tests send text");
        self.0 += text.parse::<i64>().expect("the tests send numbers");
        self.answer()
    }

    async fn query(&mut self, _: Call<'_>) -> Attempt {
        self.answer()
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn record(sequence: u64, body: &str, answer: i64) -> ClientRecord {
    ClientRecord {
        user: name("ada"),
        id: format!("id-{sequence}"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        sequence: Sequence(sequence),
        timestamp: Timestamp(sequence),
        answer: Answer::Ok(answer.to_string().into()),
    }
}

async fn check(records: Vec<ClientRecord>, total: i64) -> Reconciled {
    let query = record(99, "sum", total);
    reconcile(&name("tally"), records, &[query], Vec::new(), &mut Adder::default(), None).await
}

fn printed(reconciled: &Reconciled) -> Vec<String> {
    reconciled.findings.iter().map(|finding| format!("{:?}: {finding}", finding.kind)).collect()
}

#[tokio::test]
async fn records_that_agree_are_reconciled_in_any_order_with_repetitions() {
    let records = vec![record(2, "4", 5), record(1, "1", 1), record(4, "2", 7), record(2, "4", 5)];
    let reconciled = check(records, 7).await;
    assert_eq!(printed(&reconciled), [""; 0]);
    assert_eq!((reconciled.records, reconciled.queries), (3, 1));
}

#[tokio::test]
async fn a_dropped_transaction_is_named() {
    let reconciled = check(vec![record(1, "1", 1), record(2, "4", 5), record(3, "2", 3), record(4, "1", 4)], 4).await;
    let expected =
        "Lost: tally transaction 'id-2' at sequence 2 was acknowledged, and the service continued without it";
    assert_eq!(printed(&reconciled), [expected]);
    // Only the query shows the fault.
    let reconciled = check(vec![record(1, "1", 1), record(2, "4", 5)], 1).await;
    assert_eq!(printed(&reconciled), [expected]);
}

#[tokio::test]
async fn a_doubled_transaction_is_named_whatever_its_answer_shows() {
    let expected = "Duplicated: tally transaction 'id-2' at sequence 2 was acknowledged once, and took effect twice";
    for answer in [5, 9] {
        let records = vec![record(1, "1", 1), record(2, "4", answer), record(4, "2", 11), record(5, "1", 12)];
        assert_eq!(printed(&check(records, 12).await), [expected]);
    }
}

#[tokio::test]
async fn an_altered_answer_is_a_divergence() {
    let reconciled = check(vec![record(1, "1", 1), record(2, "4", 6), record(3, "2", 7)], 7).await;
    let expected = concat!(
        "Diverged: tally transaction 'id-2' at sequence 2 was answered ok '6', and the roomy VM answers ok '5'; ",
        "no single lost or duplicated transaction was found to explain it",
    );
    assert_eq!(printed(&reconciled), [expected]);
}

#[tokio::test]
async fn an_id_that_occurs_twice_is_a_duplicate() {
    let mut again = record(3, "4", 9);
    again.id = "id-2".into();
    let reconciled = check(vec![record(1, "1", 1), record(2, "4", 5), again], 9).await;
    assert!(printed(&reconciled)[0].starts_with("Duplicated: tally transaction 'id-2' at sequence 3 was executed at"));
}

#[tokio::test]
async fn a_sequence_that_occurs_twice_is_a_duplicate() {
    let mut other = record(2, "2", 7);
    other.id = "other".into();
    let reconciled = check(vec![record(1, "1", 1), record(2, "4", 5), other], 7).await;
    assert_eq!(
        printed(&reconciled),
        ["Duplicated: tally transaction 'other' at sequence 2 has the sequence of 'id-2'"]
    );
}

#[tokio::test]
async fn the_search_for_an_explanation_is_bounded() {
    /// Answers like an [`Adder`], at a cost in fuel.
    struct Dear(Adder, u64);
    impl Replica for Dear {
        async fn renew(&mut self) -> Result<(), String> {
            self.0.renew().await
        }
        async fn execute(&mut self, call: Call<'_>) -> Attempt {
            self.1 += 1;
            Attempt { fuel_used: SEARCH_FUEL_MAX / 10, ..self.0.execute(call).await }
        }
        async fn query(&mut self, call: Call<'_>) -> Attempt {
            self.0.query(call).await
        }
    }
    let records: Vec<_> =
        (1..=100).map(|sequence| record(sequence, "1", i64::try_from(sequence).unwrap_or(0))).collect();
    let mut dear = Dear(Adder::default(), 0);
    let reconciled = reconcile(&name("tally"), records, &[record(101, "sum", 50)], Vec::new(), &mut dear, None).await;
    assert_eq!(reconciled.findings[0].kind, FindingKind::Diverged);
    assert!(dear.1 < 115, "{} calls", dear.1);
}

#[tokio::test]
async fn a_model_that_disagrees_is_a_divergence() {
    struct Agreeable;
    impl Replica for Agreeable {
        async fn renew(&mut self) -> Result<(), String> {
            Ok(())
        }
        async fn execute(&mut self, _: Call<'_>) -> Attempt {
            Attempt { answer: Answer::Ok("7".into()), fuel_used: 1, calls: Vec::new() }
        }
        async fn query(&mut self, call: Call<'_>) -> Attempt {
            self.execute(call).await
        }
    }
    let model = Some(Model::new(BuiltIn::Counter));
    let reconciled =
        reconcile(&name("tally"), vec![record(1, r#"{"add":5}"#, 7)], &[], Vec::new(), &mut Agreeable, model).await;
    assert_eq!(
        printed(&reconciled),
        ["Diverged: tally transaction 'id-1' at sequence 1 was answered ok '7', but the model expects ok '5'"]
    );
    assert_eq!(reconciled.model, Some(false));
}
