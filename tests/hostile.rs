//! Guests that misbehave. The host survives and names the cause, another service continues, and no acknowledged
//! transaction is lost.

use crate::rig::{MIB, Rig, cause, guest_bytes, ok, size};
use lifeboat_api::event::Event;
use lifeboat_api::meter::Resource;
use lifeboat_api::size::Size;
use lifeboat_api::sla::FailoverMode;
use lifeboat_host::service::{LaunchError, ServiceSpec};
use lifeboat_vm::workload::{LoadLimits, load};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn roomy() -> Vec<Arc<Size>> {
    vec![size("s", 20_000_000, 8 * MIB), size("m", 20_000_000, 16 * MIB)]
}

/// Counts to three, sends `boom`, and counts on, beside another service that counts meanwhile. Returns the cause.
async fn boom(rig: &Rig, guest: &str) -> String {
    rig.start("hostile", guest, &roomy()).await;
    rig.start("neighbour", "count.wat", &roomy()).await;
    for expected in ["1", "2", "3"] {
        assert_eq!(ok(&rig.send("hostile", "x").await), expected);
        assert_eq!(ok(&rig.send("neighbour", "x").await), expected);
    }
    let (boom, neighbour) = tokio::join!(rig.send_as("hostile", "b", "boom"), rig.send("neighbour", "x"));
    assert_eq!(ok(&neighbour), "4");
    let cause = cause(&boom);
    assert_eq!(ok(&rig.send("hostile", "x").await), "4", "after {cause}");
    assert_eq!(ok(&rig.query("hostile", "x").await), "4");
    // The same id gets the same answer, and the guest is not called again.
    let repeated = rig.send_as("hostile", "b", "boom").await.expect("kept");
    assert!(repeated.is_repeated && repeated.answer == boom.expect("failed").answer);
    let status = rig.status("hostile").await;
    assert_eq!(status.stopped, None);
    assert_eq!(status.vm.number, 1, "a failed transaction refills no tank and enlarges no VM");
    cause
}

#[tokio::test]
async fn an_endless_loop_ends_with_the_tank() {
    let rig = Rig::new();
    let cause = boom(&rig, "spin.wat").await;
    assert_eq!(
        cause,
        "cpu: it needs more than a full tank of 20,000,000 fuel; send less at once, or deploy the workload as a new service with \
         more fuel"
    );
    let failures: Vec<Event> = rig.events().into_iter().filter(|event| matches!(event, Event::SlaFailure(_))).collect();
    let [Event::SlaFailure(failure)] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((failure.resource, failure.usage.used), (Resource::Cpu, 20_000_000));
    assert!(matches!(rig.events().last(), Some(Event::NotCured { resource: Resource::Cpu, .. })));
}

#[tokio::test]
async fn a_transaction_that_ended_at_its_deadline_may_run_again() {
    let rig = Rig::new();
    let hasty = Arc::new(Size {
        name: "hasty".into(),
        fuel: u64::MAX / 4,
        memory_bytes: 8 * MIB,
        disk_bytes: MIB,
        network_calls: 1_000,
        network_bytes: MIB,
        deadline: Duration::from_millis(50),
    });
    rig.start("hostile", "spin.wat", &[hasty]).await;
    assert_eq!(ok(&rig.send("hostile", "x").await), "1");
    let first = rig.send_as("hostile", "b", "boom").await;
    assert!(cause(&first).starts_with("deadline: not finished within 50 ms"), "{first:?}");
    let again = rig.send_as("hostile", "b", "boom").await;
    assert!(!again.as_ref().expect("failed").is_repeated, "a cause made by the host may run again");
    assert!(cause(&again).starts_with("deadline: "));
    assert_eq!(ok(&rig.send("hostile", "x").await), "2");
}

#[tokio::test]
async fn endless_recursion_ends_with_the_stack() {
    assert!(boom(&Rig::new(), "recurse.wat").await.contains("call stack exhausted"));
}

#[tokio::test]
async fn a_memory_bomb_fails_after_every_size() {
    let rig = Rig::new();
    let cause = boom(&rig, "memory-bomb.wat").await;
    assert!(cause.starts_with("memory: ") && cause.contains("the limit of 16 MiB"), "{cause}");
    assert!(rig.events().iter().any(|event| matches!(event, Event::NotCured { resource: Resource::Memory, .. })));
}

#[tokio::test]
async fn a_table_bomb_ends_at_the_limit() {
    assert!(boom(&Rig::new(), "table-bomb.wat").await.contains("exceed the limit of 100000"));
}

#[tokio::test]
async fn a_handle_bomb_ends_at_the_limit() {
    let rig = Rig::new();
    let cause = boom(&rig, "handle-bomb.wat").await;
    assert!(cause.starts_with("trap: "), "{cause}");
}

#[tokio::test]
async fn a_panic_is_rolled_back() {
    assert!(boom(&Rig::new(), "panic-execute.wat").await.contains("unreachable"));
}

#[tokio::test]
async fn a_reply_over_the_limit_is_refused_by_the_host() {
    let rig = Rig::new();
    let sizes = [size("s", 2_000_000_000, 100 * MIB)];
    rig.start("hostile", "big-reply.wat", &sizes).await;
    assert_eq!(ok(&rig.send("hostile", "x").await), "1");
    let boom = rig.send("hostile", "boom").await;
    assert_eq!(cause(&boom), "reply: over 4 MiB in one call; return less in one call");
    assert_eq!(ok(&rig.send("hostile", "x").await), "2");
}

/// Returns `write-outside.wat`, whose `boom` passes this many bytes to the host.
fn big_arguments(bytes: u64) -> Vec<u8> {
    let text = String::from_utf8(guest_bytes("write-outside.wat")).expect("text");
    let call = "(then (call $write (i32.const 32) (i32.const 8)))";
    assert!(text.contains(call));
    let big = format!("(then (drop (memory.grow (i32.const 80))) (call $write (i32.const 0) (i32.const {bytes})))");
    text.replace(call, &big).into_bytes()
}

#[tokio::test]
async fn arguments_over_the_limit_are_refused_by_the_host() {
    let rig = Rig::new();
    let sizes = [size("s", 2_000_000_000, 100 * MIB)];
    rig.start_bytes("hostile", &big_arguments(5 * MIB), &sizes).await;
    assert_eq!(ok(&rig.send("hostile", "x").await), "1");
    let boom = rig.send("hostile", "boom").await;
    assert_eq!(cause(&boom), "arguments: over 4 MiB in one call to the host; pass less in one call");
    assert_eq!(ok(&rig.send("hostile", "x").await), "2");
    // Shorter arguments arrive at the function.
    rig.start_bytes("shorter", &big_arguments(MIB), &sizes).await;
    let boom = rig.send("shorter", "boom").await;
    assert_eq!(cause(&boom), "trap: the guest called state.write outside of snapshot");
}

#[tokio::test]
async fn a_reply_pointer_out_of_bounds_is_a_trap() {
    assert!(boom(&Rig::new(), "bad-reply-pointer.wat").await.starts_with("trap: "));
}

#[tokio::test]
async fn the_state_stream_is_closed_outside_of_snapshot() {
    let cause = boom(&Rig::new(), "write-outside.wat").await;
    assert_eq!(cause, "trap: the guest called state.write outside of snapshot");
}

#[tokio::test]
async fn a_query_that_traps_is_rolled_back() {
    let rig = Rig::new();
    rig.start("hostile", "panic-query.wat", &roomy()).await;
    assert_eq!(ok(&rig.send("hostile", "x").await), "1");
    assert!(cause(&rig.query("hostile", "boom").await).contains("unreachable"));
    assert_eq!(ok(&rig.query("hostile", "x").await), "1");
    assert_eq!(ok(&rig.send("hostile", "x").await), "2");
    assert_eq!(rig.status("hostile").await.sequence.0, 2, "queries take no place in the history");
}

/// Checks that a guest whose state cannot be exported or restored still serves, fails over on its tank by replay, and
/// has `why` as its reason.
async fn unmovable(guest: &str, why: &str) {
    let rig = Rig::with(|config| config.maintenance_fuel = 50_000_000);
    rig.start("hostile", guest, &[size("s", 40_000, 8 * MIB)]).await;
    let mut expected = 0;
    while rig.failovers().len() < 3 {
        expected += 1;
        assert_eq!(ok(&rig.send("hostile", "x").await), expected.to_string());
        assert!(expected < 100_000, "no failover came");
        rig.status("hostile").await;
    }
    let status = rig.status("hostile").await;
    let reason = status.unmovable.unwrap_or_default();
    assert!(reason.contains(why), "{reason}");
    assert_eq!((status.vm.number, status.stopped), (4, None));
    assert!(rig.failovers().iter().all(|failover| failover.replayed_transactions > 0));
    assert!(rig.events().iter().any(|event| matches!(event, Event::Unmovable { .. })));
    assert_eq!(ok(&rig.query("hostile", "x").await), expected.to_string());
}

#[tokio::test]
async fn a_guest_whose_snapshot_traps_is_unmovable() {
    unmovable("panic-snapshot.wat", "the guest's snapshot failed: trap: wasm `unreachable`").await;
}

#[tokio::test]
async fn a_guest_whose_snapshot_answers_err_is_unmovable() {
    unmovable("refuse-snapshot.wat", "the guest's snapshot returned an error: ").await;
}

#[tokio::test]
async fn a_guest_whose_snapshot_never_ends_is_unmovable() {
    unmovable("stuck-snapshot.wat", "the guest's snapshot failed: cpu: it did not end within").await;
}

#[tokio::test]
async fn a_guest_whose_snapshot_writes_for_ever_is_unmovable() {
    unmovable("endless-snapshot.wat", "the guest's snapshot failed: ").await;
}

#[tokio::test]
async fn an_export_by_a_shadow_has_the_limits_of_one_in_the_serving_vm() {
    let rig = Rig::new();
    let mut reasons = Vec::new();
    for (service, failover) in [("direct", FailoverMode::Direct), ("shadow", FailoverMode::Shadow)] {
        let change = |spec: &mut ServiceSpec| spec.failover = failover;
        let sizes = [size("s", 100_000_000, 8 * MIB)];
        rig.try_start(service, "endless-snapshot.wat", &sizes, change).await.expect("starts");
        assert_eq!(ok(&rig.send(service, "x").await), "1");
        let reason = rig.snapshot(service).await.unmovable.expect("it cannot be exported");
        reasons.push(reason.trim_start_matches("its shadow failed: ").to_owned());
    }
    // The first export had 72 MiB, and another one at once all the memory of a slot.
    assert_eq!(reasons[0], reasons[1]);
}

#[tokio::test]
async fn a_guest_that_writes_a_chunk_over_the_limit_is_unmovable() {
    unmovable("big-chunk.wat", "wrote a state chunk of 2097152 bytes, the limit is 1048576").await;
}

#[tokio::test]
async fn a_guest_whose_restore_traps_is_unmovable() {
    unmovable("panic-restore.wat", "the guest's restore failed: trap: wasm `unreachable`").await;
}

#[tokio::test]
async fn a_guest_whose_restore_answers_err_is_unmovable() {
    unmovable("refuse-restore.wat", "the guest's restore returned an error: no thanks").await;
}

#[tokio::test]
async fn a_restore_that_loses_state_without_an_error_is_believed() {
    let rig = Rig::new();
    rig.start("hostile", "forgetful.wat", &roomy()).await;
    for _ in 0..3 {
        rig.send("hostile", "x").await.expect("counts");
    }
    // The guest's author decides what the exported state is: the host cannot detect a bug in `restore` here.
    rig.snapshot("hostile").await;
    assert_eq!(ok(&rig.send("hostile", "x").await), "1");
}

#[tokio::test]
async fn a_start_function_that_spins_is_refused() {
    let rig = Rig::with(|config| config.maintenance_fuel = 10_000_000);
    let refused = rig.try_start("hostile", "spin-start.wat", &roomy(), |_| {}).await;
    assert!(matches!(&refused, Err(LaunchError::Instantiate { .. })), "{refused:?}");
    rig.start("neighbour", "count.wat", &roomy()).await;
    assert_eq!(ok(&rig.send("neighbour", "x").await), "1");
}

#[tokio::test]
async fn spinners_on_every_thread_do_not_stop_a_neighbour() {
    let rig = Rig::new();
    rig.start("neighbour", "count.wat", &roomy()).await;
    let spinners = 4;
    for index in 0..spinners {
        rig.start(&format!("spinner-{index}"), "spin.wat", &[size("l", 400_000_000, 8 * MIB)]).await;
    }
    let names: Vec<String> = (0..spinners).map(|index| format!("spinner-{index}")).collect();
    let spinning = futures::future::join_all(names.iter().map(|name| rig.send(name, "boom")));
    let counting = async {
        for expected in 1..=50 {
            assert_eq!(ok(&rig.send("neighbour", "x").await), expected.to_string());
        }
    };
    let (spun, ()) = tokio::join!(spinning, counting);
    assert!(spun.iter().all(|result| cause(result).starts_with("cpu: ")));
}

/// Loads, compiles, starts and uses a damaged guest, as far as the loader accepts it. Returns whether it did.
async fn survives(bytes: &[u8]) -> bool {
    let Ok(workload) = load("mutant", bytes, &LoadLimits::default()) else { return false };
    let rig = Rig::with(|config| {
        config.maintenance_fuel = 10_000_000;
        config.maintenance_deadline = Duration::from_secs(5);
    });
    if rig.host.compile(workload).await.is_err() {
        return false;
    }
    rig.start("neighbour", "count.wat", &roomy()).await;
    if rig.launch("mutant", "mutant", bytes, &roomy(), |_| {}).await.is_ok() {
        for body in ["x", "refuse", "boom"] {
            let _ = rig.send("mutant", body).await;
            let _ = rig.query("mutant", body).await;
            rig.fail_over("mutant").await;
        }
        rig.status("mutant").await;
    }
    assert_eq!(ok(&rig.send("neighbour", "x").await), "1");
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// The loader's own tests mutate its input; here the host runs mutants that the loader accepts.
    #[test]
    fn damaged_guests_never_panic_the_host(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut bytes = wat::parse_bytes(&guest_bytes("panic-execute.wat")).expect("valid text").into_owned();
        // Only bytes after the header are damaged, so that most mutants are still modules.
        for (index, byte) in flips {
            let length = bytes.len() - 8;
            bytes[8 + index.index(length)] = byte;
        }
        runtime.block_on(survives(&bytes));
    }
}

#[tokio::test]
async fn the_undamaged_guest_runs_as_the_damaged_ones_might() {
    assert!(survives(&guest_bytes("panic-execute.wat")).await);
}
