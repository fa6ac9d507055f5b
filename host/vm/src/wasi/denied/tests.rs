//! Components that call an interface which the host denies, with every kind of result.

use crate::engine::{Engine, PoolLimits, Program};
use crate::instance::{Attempt, Call, Instance, MoveError};
use crate::network::Network;
use crate::store::{Allowance, FUEL_PER_HOST_CALL, Inputs};
use crate::workload::{LoadLimits, load};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use std::sync::Arc;

const DENIED: &str = include_str!("../../../../../tests/guests/denied.wat");

const COUNT: &str = include_str!("../../../../../tests/guests/count.wat");

const ALLOWANCE: Allowance =
    Allowance { fuel: 1_000_000, memory_bytes: 1 << 20, disk_bytes: 0, inputs: Inputs::Replay };

async fn compiled(text: &str) -> Arc<Program> {
    let workload = load("guest.wat", text.as_bytes(), &LoadLimits::default()).unwrap();
    let engine = Arc::new(Engine::new(PoolLimits { stores: 1, memories: 1, memory_bytes: 1 << 20 }).unwrap());
    engine.compile(workload).await.unwrap()
}

async fn execute(instance: &mut Instance, body: &[u8]) -> Attempt {
    let (sequence, timestamp, epoch) = (Sequence(1), Timestamp(1), Epoch::default());
    let call = Call { id: "1", user: "ann", sequence, timestamp, epoch, body };
    instance.execute(call, ALLOWANCE, Network::None).await
}

/// Executes a transaction in a fresh instance of `text`.
async fn executed(text: &str, body: &[u8]) -> Attempt {
    let program = compiled(text).await;
    let mut instance = Instance::create(&program, [7; 32], ALLOWANCE, Disk::new(0)).await.unwrap();
    execute(&mut instance, body).await
}

/// Returns `DENIED` with another type of `peek`, which is lowered with `options` to the core type `core`.
fn peeking(result: &str, core: &str, call: &str) -> String {
    let text = DENIED.replace("(export \"peek\" (func (result u32)))", result);
    let text = text.replace(
        "(canon lower (func $nowhere \"peek\"))",
        "(canon lower (func $nowhere \"peek\") (memory $memory) (realloc $realloc))",
    );
    let text = text.replace("(func $peek (result i32))", &format!("(func $peek {core})"));
    text.replace("(then (drop (call $peek))))", &format!("(then {call}))"))
}

/// Returns `DENIED` whose `peek` returns `result<u32, ERROR>`, and whose `boom` answers 16 bytes of it.
fn failing(types: &str, error: &str) -> String {
    let result = format!("{types} (export \"peek\" (func (result (result u32 (error {error})))))");
    let call = "(call $peek (i32.const 40)) (return (call $answer (i32.const 0) (i32.const 40) (i32.const 16)))";
    peeking(&result, "(param i32)", call)
}

const TRAP: &str = "trap: denied: wasi:nowhere/things#peek: the service is not granted it";

#[track_caller]
fn trapped(attempt: &Attempt) {
    match &attempt.answer {
        Answer::Failed(cause) => assert_eq!(cause.to_string(), TRAP),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn answered(attempt: &Attempt) -> &[u8] {
    match &attempt.answer {
        Answer::Ok(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_that_calls_nothing_denied_runs() {
    let program = compiled(DENIED).await;
    let mut instance = Instance::create(&program, [7; 32], ALLOWANCE, Disk::new(0)).await.unwrap();
    for count in ["1", "2"] {
        assert_eq!(answered(&execute(&mut instance, b"any").await), count.as_bytes());
    }
}

#[tokio::test]
async fn a_lookup_of_a_name_answers_access_denied() {
    assert_eq!(answered(&executed(DENIED, b"net").await), b"1");
}

#[tokio::test]
async fn a_function_of_preview_1_for_sockets_answers_its_own_error() {
    let import = "(import \"wasi_snapshot_preview1\" \"sock_accept\"
        (func $accept (param i32 i32 i32) (result i32)))";
    // The errors `notsock` for standard output, and `badf` for a descriptor that is not open.
    for (descriptor, errno) in [(1, 57_u32), (99, 8)] {
        let answer = format!(
            "(i32.store (i32.const 40) (call $accept (i32.const {descriptor}) (i32.const 0) (i32.const 48)))
             (call $answer (i32.const 0) (i32.const 40) (i32.const 4)))"
        );
        let text = COUNT.replacen("(module\n", &format!("(module\n  {import}\n"), 1);
        let text = text.replacen("    (call $answer_count))", &answer, 1);
        assert_eq!(answered(&executed(&text, b"any").await), errno.to_le_bytes());
    }
}

#[tokio::test]
async fn a_function_without_an_error_traps_with_its_name() {
    trapped(&executed(DENIED, b"boom").await);
}

#[tokio::test]
async fn a_function_without_a_result_traps_with_its_name() {
    trapped(&executed(&peeking("(export \"peek\" (func))", "", "(call $peek)"), b"boom").await);
}

#[tokio::test]
async fn an_error_that_cannot_express_a_denial_is_a_trap() {
    let types = "(type $e (enum \"full\" \"slow\")) (export \"error\" (type $error (eq $e)))";
    trapped(&executed(&failing(types, "$error"), b"boom").await);
    trapped(&executed(&failing("", "u32"), b"boom").await);
}

#[tokio::test]
async fn an_error_that_is_a_variant_has_its_case_without_a_value() {
    let types = "(type $e (variant (case \"access-denied\" u32) (case \"other\") (case \"not-supported\")))
                 (export \"error\" (type $error (eq $e)))";
    let attempt = executed(&failing(types, "$error"), b"boom").await;
    let bytes = answered(&attempt);
    assert_eq!((bytes[0], bytes[4]), (1, 2));
}

#[tokio::test]
async fn an_error_that_is_text_has_the_message() {
    let attempt = executed(&failing("", "string"), b"boom").await;
    let bytes = answered(&attempt);
    let message = TRAP.strip_prefix("trap: ").expect("it is the cause of a trap");
    assert_eq!((bytes[0], bytes[8]), (1, message.len() as u8));
}

#[tokio::test]
async fn a_resource_that_the_guest_is_granted_cannot_come_from_a_denied_interface() {
    let result = "(alias outer 1 $pollable (type $outer)) (export \"pollable\" (type $pollable (eq $outer)))
                  (export \"peek\" (func (result (own $pollable))))";
    trapped(&executed(&peeking(result, "(result i32)", "(drop (call $peek))"), b"boom").await);
}

#[tokio::test]
async fn a_resource_that_the_guest_is_granted_cannot_be_passed_to_a_denied_interface() {
    let result = "(alias outer 1 $pollable (type $outer)) (export \"pollable\" (type $pollable (eq $outer)))
                  (export \"peek\" (func (param \"some\" (list (own $pollable))) (result (result (error string)))))";
    let call = "(i32.store (i32.const 40) (call $subscribe (i64.const 1)))
                (call $peek (i32.const 40) (i32.const 1) (i32.const 48))";
    let text = peeking(result, "(param i32 i32 i32)", call);
    let clock = "(import \"wasi:clocks/monotonic-clock@0.2.0\" (instance $clock
        (alias outer 1 $pollable (type $outer)) (export \"pollable\" (type $pollable (eq $outer)))
        (export \"subscribe-duration\" (func (param \"when\" u64) (result (own $pollable))))))
        (core func $subscribe (canon lower (func $clock \"subscribe-duration\")))";
    let text = text.replace("  ;; Memory and allocator", &format!("  {clock}\n  ;; Memory and allocator"));
    let text = text.replace(
        "    (import \"heap\" \"memory\"",
        "    (import \"host\" \"subscribe\" (func $subscribe (param i64) (result i32)))\n    (import \"heap\" \"memory\"",
    );
    let text = text.replace(
        "(export \"peek\" (func $peek))",
        "(export \"peek\" (func $peek)) (export \"subscribe\" (func $subscribe))",
    );
    trapped(&executed(&text, b"boom").await);
}

#[tokio::test]
async fn handles_of_denied_resources_are_bounded() {
    let many = "(then (loop $again (drop (call $instance_network)) (br $again)))";
    let text = DENIED.replace("(then (drop (call $peek))))", &format!("{many})"));
    let attempt = executed(&text, b"boom").await;
    assert!(matches!(attempt.answer, Answer::Failed(_)), "{:?}", attempt.answer);
}

#[tokio::test]
async fn a_denied_call_costs_as_much_as_any_other() {
    let count = executed(DENIED, b"any").await.fuel_used;
    let net = executed(DENIED, b"net").await.fuel_used;
    assert!(net > 2 * FUEL_PER_HOST_CALL && count < FUEL_PER_HOST_CALL * 5, "{net} and {count}");
}

#[tokio::test]
async fn each_value_among_the_arguments_of_a_denied_call_costs_fuel() {
    let result = "(export \"peek\" (func (param \"some\" (list u8)) (result (result (error string)))))";
    let call = |values: u32| {
        let call =
            format!("(call $peek (i32.const 0) (i32.const {values}) (i32.const 48)) (return (call $answer_count))");
        peeking(result, "(param i32 i32 i32)", &call)
    };
    let fuel = async |values| {
        let attempt = executed(&call(values), b"boom").await;
        answered(&attempt);
        attempt.fuel_used
    };
    assert_eq!(fuel(1_000).await - fuel(0).await, 1_000 * super::FUEL_PER_VALUE);
}

#[tokio::test]
async fn a_denied_call_at_the_start_is_an_error_of_the_instance() {
    let text = DENIED.replace(
        "    (func (export \"execute\")\n",
        "    (func $start (drop (call $peek))) (start $start)\n    (func (export \"execute\")\n",
    );
    let program = compiled(&text).await;
    match Instance::create(&program, [7; 32], ALLOWANCE, Disk::new(0)).await {
        Err(MoveError::Instantiate(cause)) => assert_eq!(cause.to_string(), TRAP),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_asynchronous_built_in_traps() {
    let text = DENIED.replace("(canon lower (func $nowhere \"peek\"))", "(canon waitable-set.new)");
    assert_eq!(answered(&executed(&text, b"net").await), b"1");
    let attempt = executed(&text, b"boom").await;
    assert!(
        matches!(&attempt.answer, Answer::Failed(cause) if cause.to_string().contains("unreachable")),
        "{:?}",
        attempt.answer
    );
}

#[tokio::test]
async fn an_interface_in_two_versions_is_denied_in_both() {
    let second = "(import \"wasi:nowhere/things@0.2.0\" (instance (export \"peek\" (func (result u32)))))";
    let text =
        DENIED.replace("  (import \"wasi:nowhere/things\"", &format!("  {second}\n  (import \"wasi:nowhere/things\""));
    trapped(&executed(&text, b"boom").await);
}
