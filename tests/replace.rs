//! The replacement of a service's workload: the new one continues with the state, or the old one goes on.

use crate::durable::start_with;
use crate::rig::{MIB, Rig, guest_bytes, name, ok, size};
use lifeboat_api::event::Event;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::size::Size;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::Denial;
use lifeboat_host::service::{ReplaceError, TRIAL_TRANSACTIONS};
use lifeboat_journal::storage::SimulatedStorage;
use std::sync::Arc;

/// Returns `count.wat` with a step of 10 instead of 1.
fn counts_tens() -> Vec<u8> {
    let text = String::from_utf8(guest_bytes("count.wat")).expect("text");
    let tens =
        text.replace("(i64.add (global.get $count) (i64.const 1))", "(i64.add (global.get $count) (i64.const 10))");
    assert_ne!(text, tens);
    tens.into_bytes()
}

fn is_replacement(event: &Event) -> bool {
    matches!(event, Event::Replaced { .. })
}

fn small() -> [Arc<Size>; 1] {
    [size("small", 1_000_000, 16 * MIB)]
}

/// Returns a rig with a service `ant` that has counted to 2.
async fn counted_to_two() -> Rig {
    let rig = Rig::new();
    rig.start("ant", "count.wat", &small()).await;
    assert_eq!(ok(&rig.send_as("ant", "first", "x").await), "1");
    assert_eq!(ok(&rig.send("ant", "x").await), "2");
    rig
}

#[tokio::test]
async fn new_workload_continues_with_the_state_in_the_next_vm() {
    let rig = counted_to_two().await;
    let replaced = rig.replace("ant", &counts_tens()).await.expect("replaced");
    assert_eq!((replaced.from.to_string(), replaced.status.vm.to_string()), ("ant/1".into(), "ant/2".into()));
    assert_eq!((replaced.state_bytes, replaced.status.meter.cpu.used), (8, 0));
    assert_eq!(ok(&rig.send("ant", "x").await), "12");
    assert_eq!(rig.failovers(), [], "it is no failover");
}

#[tokio::test]
async fn replacement_is_an_event() {
    let rig = counted_to_two().await;
    let replaced = rig.replace("ant", &counts_tens()).await.expect("replaced");
    let events: Vec<Event> = rig.events().into_iter().filter(is_replacement).collect();
    let [Event::Replaced { from, to, workload, state_bytes, pause }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((from, to), (&replaced.from, &replaced.status.vm));
    assert_eq!((*workload, *state_bytes, *pause), (WorkloadHash::of(&counts_tens()), 8, replaced.pause));
}

#[tokio::test]
async fn new_workload_is_tried_after_its_own_first_transactions() {
    let (rig, mut reasons) = Rig::tried();
    rig.start("ant", "count.wat", &small()).await;
    for expected in 1..TRIAL_TRANSACTIONS {
        assert_eq!(ok(&rig.send("ant", "x").await), expected.to_string());
    }
    // It restores nothing, and counts from 0 on.
    rig.replace("ant", &guest_bytes("forgetful.wat")).await.expect("replaced");
    for expected in 1..=TRIAL_TRANSACTIONS {
        assert_eq!(ok(&rig.send("ant", "x").await), expected.to_string());
    }
    let reason = reasons.recv().await.expect("it is reported");
    let words = "the replay diverged at sequence 12, transaction 'host-12': it was ok '5' and is ok '1'";
    assert!(reason.contains(words), "{reason}");
    assert_eq!(ok(&rig.send("ant", "x").await), (TRIAL_TRANSACTIONS + 1).to_string());
}

#[tokio::test]
async fn answer_before_a_replacement_answers_a_repetition_after_it() {
    let rig = counted_to_two().await;
    rig.replace("ant", &counts_tens()).await.expect("replaced");
    assert_eq!(ok(&rig.send_as("ant", "first", "x").await), "1");
    assert_eq!(ok(&rig.query("ant", "").await), "2");
}

#[tokio::test]
async fn failover_and_rollback_after_a_replacement_repeat_only_what_the_new_workload_did() {
    let rig = Rig::new();
    rig.start("ant", "count.wat", &small()).await;
    assert_eq!(ok(&rig.send("ant", "x").await), "1");
    // It traps on `boom`, which rolls it back.
    rig.replace("ant", &guest_bytes("panic-execute.wat")).await.expect("replaced");
    assert_eq!(ok(&rig.send("ant", "x").await), "2");
    assert!(!rig.send("ant", "boom").await.expect("an answer").answer.is_kept());
    assert_eq!(ok(&rig.send("ant", "x").await), "3");
    assert_eq!(rig.fail_over("ant").await.vm.number, 3);
    assert_eq!(ok(&rig.send("ant", "x").await), "4");
}

#[tokio::test]
async fn workload_that_refuses_the_state_leaves_the_old_one() {
    let rig = counted_to_two().await;
    for (guest, words) in [("refuse-restore.wat", "restore returned an error"), ("panic-restore.wat", "restore failed")]
    {
        let error = rig.replace("ant", &guest_bytes(guest)).await.expect_err("refused");
        assert!(matches!(error, ReplaceError::Restore { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(ok(&rig.send("ant", "x").await), "3");
    assert_eq!(rig.status("ant").await.vm.number, 1);
    assert!(!rig.events().iter().any(is_replacement), "{:?}", rig.events());
}

#[tokio::test]
async fn workload_that_cannot_export_its_state_goes_on() {
    let rig = Rig::new();
    rig.start("ant", "refuse-snapshot.wat", &small()).await;
    assert_eq!(ok(&rig.send("ant", "x").await), "1");
    let error = rig.replace("ant", &counts_tens()).await.expect_err("there is no state");
    assert!(matches!(error, ReplaceError::Export { .. }), "{error}");
    assert_eq!(ok(&rig.send("ant", "x").await), "2");
}

#[tokio::test]
async fn program_does_not_continue_with_the_state_of_a_workload() {
    let rig = counted_to_two().await;
    let error = rig.replace("ant", &guest_bytes("program.wat")).await.expect_err("another kind");
    let words = "service 'ant' runs a workload of the world, and the new workload is a program; create another service";
    assert_eq!(error.to_string(), words);
    assert_eq!(ok(&rig.send("ant", "x").await), "3");
}

#[tokio::test]
async fn workload_too_large_for_the_size_leaves_the_old_one() {
    let rig = counted_to_two().await;
    let text = String::from_utf8(counts_tens())
        .expect("text")
        .replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 300)");
    let error = rig.replace("ant", text.as_bytes()).await.expect_err("too large");
    assert!(matches!(error, ReplaceError::Size(_)), "{error}");
    assert_eq!(ok(&rig.send("ant", "x").await), "3");
}

#[tokio::test]
async fn workload_that_grows_beyond_the_size_as_it_restores_leaves_the_old_one() {
    let rig = counted_to_two().await;
    let text = String::from_utf8(counts_tens()).expect("text");
    let restored = "(global.set $count (i64.load (i32.const 32)))";
    assert!(text.contains(restored));
    let text = text.replace(restored, &format!("{restored} (drop (memory.grow (i32.const 300)))"));
    let error = rig.replace("ant", text.as_bytes()).await.expect_err("too large");
    assert!(matches!(error, ReplaceError::Memory { .. }), "{error}");
    assert_eq!(ok(&rig.send("ant", "x").await), "3");
}

#[tokio::test]
async fn workload_of_a_durable_service_is_not_replaced() {
    let rig = start_with(&SimulatedStorage::new(1), FailoverMode::Direct, 0, |_| {}).await.expect("it starts");
    let error = rig.replace("ant", &counts_tens()).await.expect_err("it is durable");
    assert!(matches!(error, ReplaceError::Durable { .. }), "{error}");
    rig.host.end_service(&name("ant")).await.expect("left alone");
    assert_eq!(ok(&rig.send("ant", "x").await), "1");
}

#[tokio::test]
async fn ended_service_frees_its_name() {
    let rig = counted_to_two().await;
    rig.host.end_service(&name("ant")).await.expect("ended");
    let error = rig.replace("ant", &counts_tens()).await.expect_err("it is gone");
    assert!(matches!(error, ReplaceError::Denied(Denial::NoService { .. })), "{error}");
    rig.start("ant", "count.wat", &small()).await;
    assert_eq!(ok(&rig.send("ant", "x").await), "1");
}
