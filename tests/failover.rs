//! Threshold crossings, compaction, larger sizes, degraded services, rollbacks and snapshots: the reactions of a
//! service to its meters.

use crate::rig::{MIB, Rig, cause, guest_bytes, name, ok, size};
use futures::FutureExt;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::{Event, FailoverCause};
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::meter::{Percent, Resource};
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::{Answer, Denial, Reply, ReplyHash, RequestError};
use lifeboat_host::answers::{DeduplicationWindow, ID_FLOOR};
use lifeboat_host::fleet::Machine;
use lifeboat_host::journal::{QueriesRecord, QueryRecord, TailEntry, TransactionRecord};
use lifeboat_host::service::{LaunchError, ServiceSpec, Status, TRIAL_TRANSACTIONS};
use lifeboat_vm::rehydrate::{Maintenance, REPLAY_FUEL_SLACK, RehydrateError, Rehydrated, ReplayContext, rehydrate};
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::workload::{LoadLimits, load};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Returns the fuel that all VMs of the service were charged, including the present one.
fn fuel_of_all_vms(rig: &Rig, status: &Status) -> u64 {
    let before: u64 = rig.failovers().iter().map(|failover| failover.fuel_used).sum();
    before + status.meter.cpu.used
}

#[tokio::test]
async fn a_thousand_failovers_keep_every_acknowledged_reply() {
    let rig = Rig::new();
    rig.start("tally", "count.wat", &[size("s", 5_000, 8 * MIB)]).await;
    let mut sent = 0;
    let mut fuel_used = 0;
    while rig.failovers().len() < 1_000 {
        sent += 1;
        let reply = rig.send("tally", "x").await;
        fuel_used += reply.as_ref().expect("kept").fuel_used;
        assert_eq!(ok(&reply), sent.to_string());
        if sent % 3 == 0 {
            let query = rig.query("tally", "x").await;
            fuel_used += query.as_ref().expect("answered").fuel_used;
            assert_eq!(ok(&query), sent.to_string());
        }
        assert!(sent < 1_000_000, "{} failovers", rig.failovers().len());
    }
    let failovers = rig.failovers();
    let numbers: BTreeSet<u64> = failovers.iter().map(|failover| failover.to.number).collect();
    assert_eq!(numbers.len(), failovers.len(), "a number is never used again");
    for (index, failover) in failovers.iter().enumerate() {
        assert_eq!((failover.from.number, failover.to.number), (index as u64 + 1, index as u64 + 2));
        assert_eq!(failover.cause, FailoverCause::Cpu);
    }
    let status = rig.status("tally").await;
    assert_eq!(fuel_of_all_vms(&rig, &status), fuel_used, "meters are conserved");
    assert_eq!(status.counts.fuel_charged, fuel_used);
    let sla_failures = rig.events().iter().filter(|event| matches!(event, Event::SlaFailure(_))).count();
    assert_eq!(sla_failures, failovers.len());
}

#[tokio::test]
async fn a_transaction_that_exhausts_the_rest_of_a_tank_runs_again_on_a_full_one() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", 1_000_000, 8 * MIB)]).await;
    let first = rig.send("work", "100000").await;
    let fuel = first.as_ref().expect("kept").fuel_used;
    assert_eq!(ok(&first), "1");
    assert!((300_000..900_000).contains(&fuel), "this test wants more than a third of a tank a transaction: {fuel}");
    let mut kept_fuel = fuel;
    for expected in 2..=10 {
        let reply = rig.send("work", "100000").await;
        assert_eq!(ok(&reply), expected.to_string());
        kept_fuel += reply.expect("kept").fuel_used;
    }
    let status = rig.status("work").await;
    assert!(status.vm.number > 3, "{status:?}");
    assert_eq!(fuel_of_all_vms(&rig, &status), kept_fuel, "what was rolled back is not charged to a tank");
    assert!(status.counts.fuel_rolled_back > 0);
}

#[tokio::test]
async fn a_transaction_that_needs_more_than_a_full_tank_refills_none() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", 1_000_000, 8 * MIB)]).await;
    assert_eq!(ok(&rig.send("work", "1000").await), "1");
    let before = rig.status("work").await;
    for _ in 0..5 {
        let failed = rig.send("work", "10000000").await;
        assert!(cause(&failed).starts_with("cpu: it needs more than a full tank of 1,000,000 fuel"), "{failed:?}");
    }
    let after = rig.status("work").await;
    assert_eq!((after.vm.number, after.meter.cpu), (1, before.meter.cpu));
    assert!(rig.failovers().is_empty());
    assert_eq!(ok(&rig.send("work", "1000").await), "2");
}

#[tokio::test]
async fn panics_cost_neither_a_tank_nor_repeated_replays_of_a_tail() {
    let rig = Rig::new();
    rig.start("tally", "panic-execute.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let mut kept = 0;
    let mut charged = 0;
    for index in 0..100_000 {
        if index % 100 == 99 {
            assert!(cause(&rig.send("tally", "boom").await).contains("unreachable"));
        } else {
            kept += 1;
            let reply = rig.send("tally", "x").await.expect("kept");
            charged += reply.fuel_used;
        }
    }
    assert_eq!(ok(&rig.query("tally", "x").await), kept.to_string());
    let status = rig.status("tally").await;
    assert_eq!(status.counts.rollbacks, 1_000);
    assert!(
        status.counts.replayed_transactions <= 2 * kept,
        "{} of {kept} were replayed",
        status.counts.replayed_transactions
    );
    assert!(status.counts.fuel_charged >= charged && status.counts.fuel_charged < charged + 10_000);
    assert_eq!(fuel_of_all_vms(&rig, &status), status.counts.fuel_charged);
}

#[tokio::test]
async fn a_counter_that_panics_by_overflow_has_its_former_total() {
    let rig = Rig::new();
    rig.start("counter", "counter.wasm", &[size("s", 50_000_000, 8 * MIB)]).await;
    assert_eq!(ok(&rig.send("counter", r#"{"add":5}"#).await), "5");
    assert!(cause(&rig.send("counter", r#"{"add":9223372036854775807}"#).await).starts_with("trap: "));
    assert_eq!(ok(&rig.send("counter", r#"{"add":2}"#).await), "7");
    assert!(rig.failovers().is_empty());
}

#[tokio::test]
async fn memory_that_a_restore_reclaims_fails_over_on_the_same_size() {
    let rig = Rig::new();
    rig.start("grow", "grow.wat", &[size("s", 50_000_000, MIB), size("m", 50_000_000, 4 * MIB)]).await;
    let mut sent = 0;
    while rig.failovers().len() < 5 {
        sent += 1;
        assert_eq!(ok(&rig.send("grow", "grow").await), sent.to_string());
        assert!(sent < 500, "{:?}", rig.events());
        rig.status("grow").await;
    }
    for failover in rig.failovers() {
        assert_eq!((failover.cause, failover.size.as_str()), (FailoverCause::Memory, "s"));
    }
    let status = rig.status("grow").await;
    assert!(status.meter.memory.used <= Percent::whole(83).of(MIB), "{:?}", status.meter);
    assert_eq!(status.degraded, None);
}

fn put(name: usize, bytes: usize) -> String {
    format!(r#"{{"put":{{"name":"n{name}","text":"{}"}}}}"#, "x".repeat(bytes))
}

#[tokio::test]
async fn memory_that_is_truly_used_moves_to_the_next_larger_size() {
    let rig = Rig::new();
    let sizes = [size("s", 500_000_000, 4 * MIB), size("m", 500_000_000, 16 * MIB), size("l", 500_000_000, 64 * MIB)];
    rig.start("notes", "notes.wasm", &sizes).await;
    for index in 0..60 {
        assert!(ok(&rig.send("notes", put(index, 100_000)).await).contains(&format!("\"notes\":{}", index + 1)));
    }
    let status = rig.status("notes").await;
    assert_eq!(status.size, "m");
    assert!(rig.failovers().iter().any(|failover| failover.cause == FailoverCause::Memory && failover.size == "m"));
    for index in [0, 31, 59] {
        let text = rig.query("notes", format!(r#"{{"get":"n{index}"}}"#)).await;
        assert!(ok(&text).contains(&"x".repeat(100_000)), "note {index}");
    }
}

#[tokio::test]
async fn a_note_of_a_mebibyte_survives_a_failover() {
    let rig = Rig::with(|config| config.body_bytes_max = 2 * MIB as usize);
    rig.start("notes", "notes.wasm", &[size("s", 500_000_000, 16 * MIB)]).await;
    ok(&rig.send("notes", put(1, MIB as usize)).await);
    assert_eq!(rig.fail_over("notes").await.vm.number, 2);
    assert!(ok(&rig.query("notes", r#"{"get":"n1"}"#).await).contains(&"x".repeat(MIB as usize)));
    assert!(rig.failovers()[0].snapshot_bytes > MIB);
}

#[tokio::test]
async fn without_a_larger_size_a_degraded_service_serves_up_to_its_limit() {
    let rig = Rig::new();
    rig.start("notes", "notes.wasm", &[size("s", 500_000_000, 4 * MIB)]).await;
    let mut kept = 0;
    let failed = loop {
        let reply = rig.send("notes", put(kept, 100_000)).await;
        if !matches!(&reply, Ok(reply) if reply.answer.is_kept()) {
            break reply;
        }
        kept += 1;
        assert!(kept < 100, "the limit never came");
    };
    assert!(cause(&failed).starts_with("memory: "), "{failed:?}");
    let status = rig.status("notes").await;
    assert!(status.degraded.is_some() && status.stopped.is_none(), "{status:?}");
    assert!(rig.events().iter().any(|event| matches!(event, Event::Degraded { .. })));
    assert!(ok(&rig.query("notes", r#""summary""#).await).contains(&format!("\"notes\":{kept}")));
    // The service recovers as soon as its state is smaller, and reports it.
    for index in 0..kept - 2 {
        ok(&rig.send("notes", format!(r#"{{"delete":{{"name":"n{index}"}}}}"#)).await);
    }
    assert_eq!(rig.snapshot("notes").await.degraded, None);
    assert!(rig.events().iter().any(|event| matches!(event, Event::Recovered { .. })));
}

#[tokio::test]
async fn a_full_tank_is_had_even_while_memory_is_degraded() {
    let rig = Rig::new();
    rig.start("notes", "notes.wasm", &[size("s", 40_000_000, 4 * MIB)]).await;
    let mut kept = 0;
    while matches!(&rig.send("notes", put(kept, 100_000)).await, Ok(reply) if reply.answer.is_kept()) {
        kept += 1;
    }
    assert!(rig.status("notes").await.degraded.is_some());
    let before = rig.failovers().len();
    for _ in 0..50_000 {
        ok(&rig.query("notes", r#""summary""#).await);
        if rig.failovers().len() > before {
            break;
        }
    }
    let failovers = rig.failovers();
    assert!(failovers[before..].iter().any(|failover| failover.cause == FailoverCause::Cpu), "{failovers:?}");
}

#[tokio::test]
async fn without_a_free_slot_a_replacement_takes_the_place_of_the_old_vm() {
    let machine =
        |machine: &str, slots| Machine { name: name(machine), slots, memory_bytes: 8 * MIB, disk_bytes: 512 * MIB };
    let rig = Rig::with(|config| config.machines = vec![machine("only", 1)]);
    let sizes = [size("s", 50_000, 8 * MIB)];
    rig.start("tally", "count.wat", &sizes).await;
    let second = rig.try_start("second", "count.wat", &sizes, |_| {}).await;
    let Err(LaunchError::NoRoom(no_room)) = second else { panic!("{second:?}") };
    assert!(no_room.to_string().contains("only has 0 of 1 slots"), "{no_room}");
    assert_eq!(ok(&rig.send("tally", "x").await), "1");
    let status = rig.fail_over("tally").await;
    assert_eq!((status.vm.number, &*status.machine), (2, "only"));
    assert_eq!(ok(&rig.send("tally", "x").await), "2");
}

#[tokio::test]
async fn a_larger_size_that_no_machine_has_room_for_is_not_taken() {
    let machine = |text: &str| Machine { name: name(text), slots: 4, memory_bytes: 8 * MIB, disk_bytes: 512 * MIB };
    let rig = Rig::with(|config| config.machines = vec![machine("m1"), machine("m2")]);
    let sizes = [size("s", 500_000_000, 4 * MIB), size("l", 500_000_000, 16 * MIB)];
    rig.start("notes", "notes.wasm", &sizes).await;
    let mut kept = 0;
    let failed = loop {
        let reply = rig.send("notes", put(kept, 100_000)).await;
        if !reply.as_ref().expect("it is answered").answer.is_kept() {
            break cause(&reply);
        }
        kept += 1;
    };
    let missing = " would exceed the limit of 4 MiB, and no machine has room for size 'l', whose limit is 16 MiB;";
    assert!(failed.starts_with("memory: ") && failed.contains(missing), "{failed}");
    let status = rig.status("notes").await;
    assert_eq!(status.size, "s");
    let degraded = status.degraded.expect("it is full");
    assert!(degraded.contains("no machine has room for size 'l' (16 MiB of memory, "), "{degraded}");
}

#[tokio::test]
async fn a_failover_takes_turns_between_machines() {
    let rig = Rig::new();
    rig.start("tally", "count.wat", &[size("s", 50_000, 8 * MIB)]).await;
    let mut machines = Vec::new();
    for _ in 0..4 {
        machines.push(rig.fail_over("tally").await.machine.to_string());
    }
    assert_eq!(machines, ["m2", "m1", "m2", "m1"]);
    assert!(rig.failovers().iter().all(|failover| failover.forced_by.as_deref() == Some("ada")));
    assert!(rig.failovers()[0].to_string().ends_with(" forced by ada"));
}

#[tokio::test]
async fn a_tail_that_once_failed_over_for_memory_is_replayed_from_an_older_snapshot() {
    let rig = Rig::new();
    let sizes = [size("s", 500_000_000, MIB), size("m", 500_000_000, 4 * MIB)];
    rig.start("grow", "grow.wat", &sizes).await;
    let mut tail = Vec::new();
    for _ in 0..40 {
        let Reply { id, sequence, timestamp, answer, fuel_used, .. } = rig.send("grow", "grow").await.expect("kept");
        tail.push(TailEntry::Transaction(Arc::new(TransactionRecord {
            sequence,
            id: id.into(),
            is_id_kept: false,
            user: name("ada"),
            incarnation: 0,
            timestamp,
            epoch: Epoch::default(),
            body: "grow".into(),
            body_hash: ReplyHash::of_body(b"grow"),
            answer,
            fuel_used,
            query_fuel_used: 0,
            network: None,
        })));
    }
    assert!(rig.failovers().iter().filter(|failover| failover.cause == FailoverCause::Memory).count() > 1);
    // Without the compactions, the tail takes more memory than the size ever allowed: only the slot has room for a
    // replay.
    let maintenance = Maintenance { fuel: 1_000_000_000, deadline: Duration::from_secs(60), memory_bytes: 64 * MIB };
    let workload = load("grow.wat", &guest_bytes("grow.wat"), &LoadLimits::default()).expect("valid");
    let program = rig.host.compile(workload).await.expect("compiled before");
    let none = BTreeSet::new();
    let replay_context =
        ReplayContext { program: &program, secret: &[7; 32], accepted_divergences: &none, maintenance };
    let rehydrated = rehydrate(replay_context, &Arc::new(Snapshot::empty()), &tail).await.expect("the same replies");
    assert_eq!(rehydrated.replayed_transactions, 40);
    assert!(rehydrated.instance.memory_bytes() > 2 * MIB, "{}", rehydrated.instance.memory_bytes());
}

#[tokio::test]
async fn thresholds_are_the_services_own() {
    let rig = Rig::new();
    rig.try_start("tally", "count.wat", &[size("s", 100_000, 8 * MIB)], |spec| {
        spec.thresholds.cpu = Percent::whole(50);
    })
    .await
    .expect("starts");
    while rig.failovers().is_empty() {
        ok(&rig.send("tally", "x").await);
        rig.status("tally").await;
    }
    let failure = rig.events().into_iter().find_map(|event| match event {
        Event::SlaFailure(failure) => Some(failure),
        _ => None,
    });
    let failure = failure.expect("a failover has a cause");
    assert_eq!(failure.resource, Resource::Cpu);
    assert!((50_000..60_000).contains(&failure.usage.used), "{failure:?}");
}

/// Returns a transaction as the journal has it: answered with ok, for 1,000 fuel.
fn recorded(sequence: u64, body: &str, answer: &str) -> TailEntry {
    TailEntry::Transaction(Arc::new(TransactionRecord {
        sequence: Sequence(sequence),
        id: format!("t{sequence}").into(),
        is_id_kept: true,
        user: name("ada"),
        incarnation: 0,
        timestamp: Timestamp(sequence),
        epoch: Epoch::default(),
        body: body.to_owned().into(),
        body_hash: ReplyHash::of_body(body.as_bytes()),
        answer: Answer::Ok(answer.to_owned().into()),
        fuel_used: 1_000,
        query_fuel_used: 0,
        network: None,
    }))
}

/// Replays ten transactions that each burn about a million fuel, and were recorded with 1,000.
async fn replayed_with_spare_fuel(fuel: u64) -> Result<Rehydrated, RehydrateError> {
    const TIMES: &str = "400000";
    let rig = Rig::new();
    let workload = load("work.wat", &guest_bytes("work.wat"), &LoadLimits::default()).expect("valid");
    let program = rig.host.compile(workload).await.expect("it compiles");
    let maintenance = Maintenance { fuel, deadline: Duration::from_secs(60), memory_bytes: 8 * MIB };
    let tail: Vec<TailEntry> = (1..=10).map(|sequence| recorded(sequence, TIMES, &sequence.to_string())).collect();
    let none = BTreeSet::new();
    let replay_context =
        ReplayContext { program: &program, secret: &[7; 32], accepted_divergences: &none, maintenance };
    rehydrate(replay_context, &Arc::new(Snapshot::empty()), &tail).await
}

/// A string that was restored without room to grow is copied at its next change, however short its original took.
#[tokio::test]
async fn a_replay_may_burn_more_fuel_than_its_original() {
    let rehydrated = replayed_with_spare_fuel(1_000_000_000).await.expect("the same replies");
    assert_eq!(rehydrated.replayed_transactions, 10);
    let spent_fuel = rehydrated.fuel_used;
    assert!(spent_fuel > 10 * (REPLAY_FUEL_SLACK + 2_000), "{spent_fuel} would not need spare fuel");
}

#[tokio::test]
async fn the_spare_fuel_of_a_replay_has_an_end() {
    let diverged = replayed_with_spare_fuel(5 * REPLAY_FUEL_SLACK).await;
    let Err(RehydrateError::Diverged { sequence, .. }) = diverged else { panic!("{diverged:?}") };
    assert!((2..10).contains(&sequence.0), "diverged at {sequence}");
}

#[tokio::test]
async fn a_replay_that_diverges_names_the_first_transaction_that_does() {
    let rig = Rig::new();
    let workload = load("count.wat", &guest_bytes("count.wat"), &LoadLimits::default()).expect("valid");
    let program = rig.host.compile(workload).await.expect("it compiles");
    let maintenance = Maintenance { fuel: 1_000_000, deadline: Duration::from_secs(60), memory_bytes: 8 * MIB };
    let query = |id: &str, answer: &str| QueryRecord {
        id: id.into(),
        user: name("ada"),
        timestamp: Timestamp(2),
        body: "x".into(),
        reply_hash: Answer::Ok(answer.to_owned().into()).hash(),
        fuel_used: 1_000,
    };
    let queries = vec![query("q1", "2"), query("q2", "2"), query("q3", "9"), query("q4", "9")];
    let queries =
        TailEntry::Queries(Arc::new(QueriesRecord { sequence: Sequence(2), epoch: Epoch::default(), queries }));
    let tail = [recorded(1, "x", "1"), recorded(2, "x", "2"), queries, recorded(3, "x", "4")];
    let replay_context =
        |accepted_divergences| ReplayContext { program: &program, secret: &[7; 32], accepted_divergences, maintenance };
    let (empty, none) = (Arc::new(Snapshot::empty()), BTreeSet::new());
    let diverged = rehydrate(replay_context(&none), &empty, &tail).await;
    let Err(error @ RehydrateError::Diverged { sequence: Sequence(3), .. }) = diverged else { panic!("{diverged:?}") };
    let text = error.to_string();
    assert!(text.contains("transaction 't3': it was ok '4' and is ok '3'"), "{text}");
    // Queries with different answers are no divergence, but belong in the report of one.
    assert!(text.contains("; queries that ran before it: 'q1', 'q2', 'q3' and 1 more"), "{text}");
    assert!(text.ends_with("differently since the snapshot: 2, the first of them 'q3' after sequence 2"), "{text}");
    // Once an operator has accepted the divergence, the service continues with the state that the replay gives.
    let third = BTreeSet::from([Sequence(3)]);
    let accepted = rehydrate(replay_context(&third), &empty, &tail).await.expect("accepted");
    assert_eq!((accepted.replayed_transactions, accepted.replayed_queries), (3, 4));
}

#[tokio::test]
async fn a_service_whose_replay_diverges_stops_with_its_answers_retained() {
    let rig = Rig::new();
    start_forgetful(&rig).await;
    assert_eq!(ok(&rig.send_as("tally", "a", "x").await), "1");
    // A shadow exports the snapshot, and its restore is proven. The VM that serves continues unchanged.
    assert_eq!(rig.snapshot("tally").await.snapshot_sequence, Sequence(1));
    assert_eq!(ok(&rig.send_as("tally", "b", "x").await), "2");
    assert!(cause(&rig.send_as("tally", "c", "boom").await).contains("unreachable"));
    let denied = rig.send_as("tally", "d", "x").await;
    let Err(RequestError::Denied(Denial::Stopped { reason, .. })) = &denied else { panic!("{denied:?}") };
    assert!(
        reason.contains("the replay diverged at sequence 2, transaction 'b': it was ok '2' and is ok '1'"),
        "{reason}"
    );
    assert!(rig.events().iter().any(|event| matches!(event, Event::Stopped { .. })));
    assert_eq!(ok(&rig.send_as("tally", "b", "x").await), "2");
    assert!(rig.status("tally").await.stopped.is_some());
}

/// The order joins the shadow of an earlier one, whose snapshot lacks the transaction between them.
#[tokio::test]
async fn an_order_for_a_snapshot_ends_with_one_that_has_all_transactions_before_it() {
    let rig = Rig::new();
    let sizes = [size("s", 20_000_000, 8 * MIB)];
    let shadow = |spec: &mut ServiceSpec| spec.failover = FailoverMode::Shadow;
    rig.try_start("tally", "count.wat", &sizes, shadow).await.expect("starts");
    for expected in 1..=20_u64 {
        let (first, sent, second) =
            futures::future::join3(rig.snapshot("tally"), rig.send("tally", "x"), rig.snapshot("tally")).await;
        assert_eq!(ok(&sent), expected.to_string());
        assert!(first.snapshot_sequence.0 >= expected - 1, "{first:?}");
        assert_eq!(second.snapshot_sequence.0, expected, "{second:?}");
    }
}

#[tokio::test]
async fn a_new_service_whose_state_would_not_survive_is_reported_and_goes_on() {
    let (rig, mut reasons) = Rig::tried();
    let sizes = [size("s", 50_000_000, 8 * MIB)];
    for (guest, words) in [
        ("forgetful.wat", "the replay diverged at sequence 5, transaction 'host-5': it was ok '5' and is ok '1'"),
        ("refuse-restore.wat", "the guest's restore returned an error: no thanks"),
        ("panic-snapshot.wat", "the guest's snapshot failed: "),
    ] {
        let service = guest.trim_end_matches(".wat");
        rig.start(service, guest, &sizes).await;
        for expected in 1..=TRIAL_TRANSACTIONS {
            assert_eq!(ok(&rig.send(service, "x").await), expected.to_string());
        }
        let reason = reasons.recv().await.expect("it is reported");
        assert!(reason.contains(words), "{guest}: {reason}");
        assert_eq!(ok(&rig.send(service, "x").await), (TRIAL_TRANSACTIONS + 1).to_string());
    }
    let is_other = |event: &Event| !matches!(event, Event::Fragile { .. } | Event::Created { .. });
    assert!(!rig.events().iter().any(is_other), "{:?}", rig.events());
}

fn is_fragile(event: &Event) -> bool {
    matches!(event, Event::Fragile { .. })
}

#[tokio::test]
async fn a_trial_on_order_finds_what_the_birth_shows_and_is_the_last_one_then() {
    let rig = Rig::new();
    let sizes = [size("s", 50_000_000, 8 * MIB)];
    for (guest, words) in [
        ("refuse-snapshot.wat", "the guest's snapshot returned an error: no thanks"),
        ("panic-snapshot.wat", "the guest's snapshot failed: "),
        ("refuse-restore.wat", "the guest's restore returned an error: no thanks"),
        ("panic-restore.wat", "the guest's restore failed: "),
    ] {
        let service = guest.trim_end_matches(".wat");
        rig.start(service, guest, &sizes).await;
        let reason = rig.host.try_state(&name(service)).await.expect("it is found");
        assert!(reason.contains(words), "{guest}: {reason}");
        for expected in 1..=TRIAL_TRANSACTIONS {
            assert_eq!(ok(&rig.send(service, "x").await), expected.to_string());
        }
        assert_eq!(rig.host.try_state(&name(service)).await, None, "{guest}");
        let of_service = |event| match event {
            Event::Fragile { vm, reason } if vm.service == name(service) => Some(reason),
            _ => None,
        };
        let reported: Vec<String> = rig.events().into_iter().filter_map(of_service).collect();
        assert_eq!(reported, [reason], "{guest}");
    }
}

#[tokio::test]
async fn a_trial_on_order_finds_nothing_in_a_sound_guest_in_a_program_and_after_a_snapshot() {
    let rig = Rig::new();
    let sizes = [size("s", 50_000_000, 8 * MIB)];
    for guest in ["count.wat", "program.wat"] {
        let service = guest.trim_end_matches(".wat");
        rig.start(service, guest, &sizes).await;
        assert_eq!(rig.host.try_state(&name(service)).await, None, "{guest}");
    }
    assert_eq!(rig.host.try_state(&name("nobody")).await, None);
    // The snapshot of one transaction, and the two after it, would show that the count is lost.
    start_forgetful(&rig).await;
    assert_eq!(ok(&rig.send("tally", "x").await), "1");
    rig.snapshot("tally").await;
    assert_eq!(ok(&rig.send("tally", "x").await), "2");
    assert_eq!(ok(&rig.send("tally", "x").await), "3");
    assert_eq!(rig.host.try_state(&name("tally")).await, None, "a snapshot counts as proof");
    assert!(!rig.events().iter().any(is_fragile), "{:?}", rig.events());
}

#[tokio::test]
async fn a_trial_on_order_that_finds_nothing_leaves_the_one_after_the_first_transactions() {
    let (rig, mut reasons) = Rig::tried();
    rig.start("tally", "forgetful.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    assert_eq!(rig.host.try_state(&name("tally")).await, None, "the birth has no count to lose");
    for expected in 1..=TRIAL_TRANSACTIONS {
        assert_eq!(ok(&rig.send("tally", "x").await), expected.to_string());
    }
    let reason = reasons.recv().await.expect("it is reported");
    assert!(reason.contains("the replay diverged at sequence 5, transaction 'host-5'"), "{reason}");
}

/// One service is tried at a time, and the trial of `stuck` lasts.
#[tokio::test]
async fn a_trial_that_becomes_due_during_one_on_order_follows_it() {
    let (rig, mut reasons) = Rig::tried();
    let (sizes, stuck, tally) = ([size("s", 50_000_000, 8 * MIB)], name("stuck"), name("tally"));
    rig.start("stuck", "stuck-snapshot.wat", &sizes).await;
    rig.start("tally", "forgetful.wat", &sizes).await;
    let (mut first, mut second) = (Box::pin(rig.host.try_state(&stuck)), Box::pin(rig.host.try_state(&tally)));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    for expected in 1..=TRIAL_TRANSACTIONS {
        assert_eq!(ok(&rig.send("tally", "x").await), expected.to_string());
    }
    rig.host.end_service(&stuck).await.expect("it ends");
    assert_eq!((first.await, second.await), (None, None));
    let reason = reasons.recv().await.expect("it is reported");
    assert!(reason.contains("the replay diverged at sequence 5, transaction 'host-5'"), "{reason}");
}

#[tokio::test]
async fn a_trial_goes_on_without_whoever_ordered_it() {
    let (rig, mut reasons) = Rig::tried();
    rig.start("tally", "refuse-restore.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    assert!(rig.host.try_state(&name("tally")).now_or_never().is_none());
    let reason = reasons.recv().await.expect("it is reported");
    assert!(reason.contains("the guest's restore returned an error: no thanks"), "{reason}");
}

/// The trial would loop for a minute, and no other trial would begin.
#[tokio::test]
async fn the_end_of_a_service_ends_its_trial() {
    let rig = Rig::new();
    let sizes = [size("s", 50_000_000, 8 * MIB)];
    rig.start("stuck", "stuck-snapshot.wat", &sizes).await;
    let stuck = name("stuck");
    let (found, ended) = futures::future::join(rig.host.try_state(&stuck), rig.host.end_service(&stuck)).await;
    ended.expect("it ends");
    assert_eq!(found, None);
    rig.start("next", "refuse-restore.wat", &sizes).await;
    assert!(rig.host.try_state(&name("next")).await.is_some());
}

/// Starts a guest that loses its count in a restore, in shadow mode.
async fn start_forgetful(rig: &Rig) {
    let sizes = [size("s", 50_000_000, 8 * MIB)];
    let started = rig.try_start("tally", "forgetful.wat", &sizes, |spec| spec.failover = FailoverMode::Shadow);
    started.await.expect("starts");
}

#[tokio::test]
async fn a_move_whose_replay_diverges_leaves_the_old_vm_serving() {
    let rig = Rig::new();
    // The state is exported once. A move to a fresh VM restores that and replays the rest, which diverges.
    start_forgetful(&rig).await;
    assert_eq!(ok(&rig.send("tally", "x").await), "1");
    rig.snapshot("tally").await;
    assert_eq!(ok(&rig.send("tally", "x").await), "2");
    let status = rig.fail_over("tally").await;
    assert!(status.degraded.is_some_and(|reason| reason.contains("diverged at sequence 2")));
    assert_eq!((status.vm.number, status.stopped), (1, None));
    assert_eq!(ok(&rig.send("tally", "x").await), "3");
}

#[tokio::test]
async fn a_repeated_id_gets_its_first_answer() {
    let rig = Rig::new();
    rig.start("tally", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let first = rig.send_as("tally", "a", "x").await.expect("kept");
    let refused = rig.send_as("tally", "b", "refuse").await.expect("kept");
    assert!(matches!(refused.answer, Answer::Refused(_)));
    rig.fail_over("tally").await;
    for (id, body, original) in [("a", "x", &first), ("b", "refuse", &refused)] {
        let again = rig.send_as("tally", id, body).await.expect("kept");
        assert!(again.is_repeated);
        assert_eq!((again.sequence, &again.answer), (original.sequence, &original.answer));
    }
    let reused = rig.send_as("tally", "a", "y").await;
    assert!(matches!(&reused, Err(RequestError::Denied(Denial::IdReused { id, .. })) if id == "a"), "{reused:?}");
    assert_eq!(ok(&rig.query("tally", "x").await), "1");
}

#[tokio::test]
async fn concurrent_repetitions_are_executed_once() {
    let rig = Rig::new();
    rig.start("tally", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let replies = futures::future::join_all((0..50).map(|_| rig.send_as("tally", "same", "x"))).await;
    assert!(replies.iter().all(|reply| ok(reply) == "1"));
    assert_eq!(replies.iter().filter(|reply| reply.as_ref().is_ok_and(|reply| !reply.is_repeated)).count(), 1);
}

#[tokio::test]
async fn ids_beyond_the_window_are_recognised_until_the_floor() {
    let rig = Rig::new();
    rig.try_start("tally", "count.wat", &[size("s", 50_000_000, 8 * MIB)], |spec| {
        spec.deduplication_window =
            DeduplicationWindow { ids: 10, age: Duration::from_secs(600), ..DeduplicationWindow::default() };
    })
    .await
    .expect("starts");
    for index in 0..11 {
        rig.send_as("tally", &index.to_string(), "x").await.expect("kept");
    }
    let denied = rig.send_as("tally", "11", "x").await;
    assert!(
        matches!(denied, Err(RequestError::Denied(Denial::TooManyIds { retry_after, .. })) if retry_after == ID_FLOOR),
        "{denied:?}"
    );
    assert!(rig.send_as("tally", "0", "x").await.expect("kept").is_repeated);
    assert_eq!(ok(&rig.send("tally", "x").await), "12", "one without an id is not to be retained");
    rig.clock.advance(ID_FLOOR);
    assert_eq!(ok(&rig.send_as("tally", "11", "x").await), "13");
    assert!(!rig.send_as("tally", "0", "x").await.expect("runs again").is_repeated);
    assert!(rig.send_as("tally", "10", "x").await.expect("kept").is_repeated);
    rig.clock.advance(Duration::from_secs(601));
    rig.send_as("tally", "later", "x").await.expect("kept");
    assert!(!rig.send_as("tally", "10", "x").await.expect("runs again").is_repeated);
}

#[tokio::test]
async fn nobody_reaches_a_guest_without_a_grant() {
    use lifeboat_api::access::Grant;
    use lifeboat_api::transaction::{Kind, Request};
    use lifeboat_host::credential::Token;
    let rig = Rig::new();
    rig.start("tally", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let bob = name("bob");
    rig.host.authority().add_user(&bob);
    let token = rig.host.authority().issue(&bob, Timestamp(u64::MAX), [2; 32]).expect("bob is known");
    let request = || Request { id: None, body: "x".into(), kind: Kind::Transaction };
    let no_token = Token::from_random([9; 32]);
    let stranger = rig.host.request(no_token.reveal(), "tally", request()).await;
    assert!(matches!(stranger, Err(RequestError::Denied(Denial::NotAuthenticated { .. }))), "{stranger:?}");
    for service in ["tally", "no-such-service"] {
        let denied = rig.host.request(token.reveal(), service, request()).await;
        assert!(matches!(denied, Err(RequestError::Denied(Denial::NotGranted { .. }))), "{denied:?}");
    }
    assert!(rig.host.fail_over(token.reveal(), "tally").await.is_err());
    assert!(rig.host.status(token.reveal(), "tally").await.is_err());
    rig.host.authority().grant("bob", &name("tally"), Grant::Transact);
    assert_eq!(ok(&rig.host.request(token.reveal(), "tally", request()).await), "1");
}

#[tokio::test]
async fn a_body_or_id_over_its_limit_is_denied_before_it_reaches_the_queue() {
    let rig = Rig::with(|config| config.body_bytes_max = 10);
    rig.start("tally", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let large = rig.send("tally", "12345678901").await;
    assert!(
        matches!(large, Err(RequestError::Denied(Denial::BodyTooLarge { bytes: 11, limit_bytes: 10 }))),
        "{large:?}"
    );
    let long = rig.send_as("tally", &"i".repeat(129), "x").await;
    assert!(matches!(long, Err(RequestError::Denied(Denial::IdTooLong { bytes: 129 }))), "{long:?}");
    assert_eq!(ok(&rig.send("tally", "x").await), "1");
}

#[tokio::test]
async fn a_full_queue_denies_exactly_what_it_does_not_execute() {
    let rig = Rig::new();
    rig.try_start("work", "work.wat", &[size("s", 4_000_000_000, 8 * MIB)], |spec| spec.queue_max = 4)
        .await
        .expect("starts");
    let replies = futures::future::join_all((0..200).map(|_| rig.send("work", "2000000"))).await;
    let kept = replies.iter().filter(|reply| reply.is_ok()).count();
    let full = replies
        .iter()
        .filter(|reply| matches!(reply, Err(RequestError::Denied(Denial::QueueFull { limit: 4, .. }))))
        .count();
    assert!(full > 0 && kept >= 4, "{kept} kept, {full} denied");
    assert_eq!(kept + full, 200);
    assert_eq!(ok(&rig.query("work", "x").await), kept.to_string());
}

#[tokio::test]
async fn one_store_of_maintenance_is_enough_for_a_guest_whose_snapshot_traps() {
    let rig = Rig::with(|config| config.maintenance_stores = 1);
    rig.start("tally", "panic-snapshot.wat", &[size("s", 40_000, 8 * MIB)]).await;
    let mut sent = 0;
    while rig.failovers().len() < 2 {
        sent += 1;
        assert_eq!(ok(&rig.send("tally", "x").await), sent.to_string());
        rig.status("tally").await;
    }
}

#[tokio::test]
async fn failed_transactions_do_not_fill_the_journal() {
    let rig = Rig::new();
    rig.start("tally", "panic-execute.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    assert_eq!(ok(&rig.send("tally", "x").await), "1");
    let long = vec![b'x'; MIB as usize];
    for index in 0..300u64 {
        if index % 2 == 0 {
            // A mebibyte each. They take effect, and snapshots make room for them.
            assert!(rig.send("tally", &long).await.expect("kept").answer.is_kept());
        } else {
            assert!(cause(&rig.send("tally", "boom").await).contains("unreachable"));
        }
    }
    assert_eq!(ok(&rig.send("tally", "x").await), "152");
    assert!(rig.status("tally").await.counts.snapshots > 1);
}

#[tokio::test]
async fn a_service_that_cannot_be_snapshotted_denies_once_its_journal_is_full() {
    let rig = Rig::new();
    rig.start("tally", "refuse-snapshot.wat", &[size("s", 5_000_000_000, 8 * MIB)]).await;
    let long = vec![b'x'; MIB as usize];
    let mut kept = 0;
    let denied = loop {
        match rig.send("tally", &long).await {
            Ok(reply) => {
                assert!(reply.answer.is_kept());
                kept += 1;
                assert!(kept < 300);
            }
            Err(denial) => break denial,
        }
    };
    for words in ["no thanks", "lifeboat failover tally", "lifeboat remove tally"] {
        assert!(denied.to_string().contains(words), "no '{words}' in: {denied}");
    }
    assert!(kept > 200, "{kept}");
    assert_eq!(ok(&rig.query("tally", "x").await), kept.to_string());
    let status = rig.status("tally").await;
    assert_eq!(status.stopped, None);
    let journal = status.journal.expect("it is full");
    assert!(journal.is_full && journal.fill.reason.is_some_and(|reason| reason.contains("no thanks")));
    // However often transactions are denied, the condition is reported once, and the fill level was reported long
    // before.
    assert!(rig.send("tally", &long).await.is_err());
    assert_eq!(journal_events(&rig), ["Journal filling 50%", "Journal filling 80%", "Journal full 98%"]);
}

/// Returns the reports of a journal that fills up: each condition, and the used part of the journal's bound.
fn journal_events(rig: &Rig) -> Vec<String> {
    let short = |event: Event| match event {
        Event::JournalFilling(fill) => Some(format!("Journal filling {}%", fill.bytes * 100 / fill.limit_bytes)),
        Event::JournalFull(fill) => Some(format!("Journal full {}%", fill.bytes * 100 / fill.limit_bytes)),
        Event::JournalRelieved { .. } => Some("Journal relieved".into()),
        _ => None,
    };
    rig.events().into_iter().filter_map(short).collect()
}

/// Returns `count.wat` with `instructions` at the beginning of its `snapshot`.
fn exporting(instructions: &str) -> Vec<u8> {
    let text = String::from_utf8(guest_bytes("count.wat")).expect("text");
    let head = "#snapshot\") (result i32)";
    let changed = text.replace(head, &format!("{head} {instructions}"));
    assert_ne!(changed, text);
    changed.into_bytes()
}

#[tokio::test]
async fn a_journal_that_fills_up_is_reported_again_after_it_was_relieved() {
    let rig = Rig::new();
    let refuses = "(if (i64.ne (i64.rem_u (global.get $count) (i64.const 230)) (i64.const 0)) \
        (then (return (call $answer (i32.const 1) (i32.const 144) (i32.const 18)))))";
    rig.start_bytes("tally", &exporting(refuses), &[size("s", 5_000_000_000, 8 * MIB)]).await;
    let long = vec![b'x'; MIB as usize];
    for _ in 0..2 {
        for _ in 0..230 {
            assert!(rig.send("tally", &long).await.expect("there is room").answer.is_kept());
        }
        assert!(rig.status("tally").await.journal.is_some_and(|journal| !journal.is_full));
        let after = rig.snapshot("tally").await;
        assert_eq!((after.snapshot_sequence, after.journal), (after.sequence, None));
    }
    let once = ["Journal filling 50%", "Journal filling 80%", "Journal relieved"];
    assert_eq!(journal_events(&rig), [once, once].concat());
}

#[tokio::test]
async fn an_export_that_lacks_memory_has_all_that_a_slot_has() {
    let rig = Rig::new();
    // More than 8 MiB and the headroom, and more than the largest size.
    let grows = "(if (i32.eq (memory.grow (i32.const 2400)) (i32.const -1)) (then unreachable))";
    rig.start_bytes("tally", &exporting(grows), &[size("s", 5_000_000_000, 8 * MIB)]).await;
    for round in 1..=2 {
        for _ in 0..3 {
            ok(&rig.send("tally", "x").await);
        }
        let after = rig.snapshot("tally").await;
        assert_eq!((after.snapshot_sequence, after.unmovable), (after.sequence, None), "round {round}");
        // The first attempt has less memory, and the guest traps. Only then is it replayed.
        assert_eq!(after.counts.replayed_transactions, 3);
        assert!(after.meter.memory.used < MIB);
    }
    assert_eq!(ok(&rig.query("tally", "x").await), "6");
}

#[tokio::test]
async fn an_export_that_lacks_fuel_has_more_the_next_time() {
    let rig = Rig::with(|config| config.maintenance_fuel = 50_000_000);
    let burns = "(local $i i32) (loop $more (local.set $i (i32.add (local.get $i) (i32.const 1))) \
        (br_if $more (i32.lt_u (local.get $i) (i32.const 12_000_000))))";
    rig.start_bytes("tally", &exporting(burns), &[size("s", 5_000_000_000, 8 * MIB)]).await;
    ok(&rig.send("tally", "x").await);
    assert!(rig.snapshot("tally").await.unmovable.is_some_and(|reason| reason.contains("cpu: ")));
    let after = rig.snapshot("tally").await;
    assert_eq!((after.snapshot_sequence, after.unmovable), (after.sequence, None));
    assert_eq!(ok(&rig.query("tally", "x").await), "1");
}

#[tokio::test]
async fn a_service_that_cannot_be_snapshotted_tries_again_ever_more_rarely() {
    let rig = Rig::new();
    rig.start("tally", "panic-snapshot.wat", &[size("s", 5_000_000_000, 8 * MIB)]).await;
    let long = vec![b'x'; 512 * 1024];
    for expected in 1..=200 {
        assert_eq!(ok(&rig.send("tally", &long).await), expected.to_string());
    }
    // The tail exceeds 64 MiB at transaction 129, and each attempt replays it. Two attempts replay about 320
    // transactions; an attempt each time would replay about 12,000.
    let status = rig.status("tally").await;
    assert!(status.unmovable.is_some());
    let replayed = status.counts.replayed_transactions;
    assert!((128..1_000).contains(&replayed), "{replayed} were replayed");
}

#[tokio::test]
async fn a_snapshot_is_taken_when_the_tail_costs_more_than_its_budget() {
    let rig = Rig::new();
    rig.start("work", "work.wat", &[size("s", 5_000_000_000, 8 * MIB)]).await;
    for _ in 0..12 {
        ok(&rig.send("work", "3000000").await);
    }
    let status = rig.status("work").await;
    assert!(status.snapshot_sequence.0 > 0 && status.snapshot_sequence < status.sequence, "{status:?}");
    assert_eq!((status.vm.number, status.counts.rollbacks), (1, 0), "a snapshot replaces the store, not the VM");
}

#[tokio::test]
async fn an_id_that_could_forge_a_line_of_the_log_is_refused_in_one_line() {
    let rig = Rig::new();
    rig.start("spin", "spin.wat", &[size("s", 1_000_000, 8 * MIB)]).await;
    let id = "x\nTrigger process failover: triggered: spin/1 on m1 -> spin/2 on m2\u{1b}[2J";
    let refused = rig.send_as("spin", id, "boom").await.expect_err("it is none").to_string();
    assert!(refused.starts_with("the transaction id 'x") && !refused.chars().any(char::is_control), "{refused}");
    assert_eq!(rig.status("spin").await.sequence.0, 0, "it was not executed");
}

#[tokio::test]
async fn a_size_that_no_slot_holds_is_refused() {
    let rig = Rig::new();
    let sizes = [size("s", 1_000_000, 8 * MIB), size("giant", 1_000_000, 4096 * MIB)];
    let refused = rig.try_start("tally", "count.wat", &sizes, |_| {}).await;
    assert!(matches!(&refused, Err(LaunchError::SizeTooLarge { size, .. }) if size == "giant"), "{refused:?}");
}

#[tokio::test]
async fn a_guest_with_as_many_tables_as_the_loader_takes_can_be_rolled_back_beside_another() {
    let rig = Rig::with(|config| config.machines = Machine::pair(1, 64 * MIB));
    let text = String::from_utf8(guest_bytes("panic-execute.wat")).expect("text");
    // The component that the loader generates has a table of its own.
    let tables = "(table 1 funcref) ".repeat(31);
    let guest = text.replace("(global $heap", &format!("{tables}\n  (global $heap"));
    assert_ne!(guest, text);
    for service in ["one", "two"] {
        rig.start_bytes(service, guest.as_bytes(), &[size("s", 50_000_000, 8 * MIB)]).await;
    }
    for service in ["one", "two"] {
        assert_eq!(ok(&rig.send(service, "x").await), "1");
        assert!(cause(&rig.send(service, "boom").await).contains("unreachable"));
        assert_eq!(ok(&rig.send(service, "x").await), "2");
    }
}
