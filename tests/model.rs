//! Random histories against a simple model: same replies, same state, nothing lost or doubled, and meters conserved.

use crate::rig::{MIB, Rig, name, ok, size};
use lifeboat_api::event::{Event, FailoverCause};
use lifeboat_api::meter::Percent;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Denial, Outcome, Reply, RequestError};
use proptest::prelude::*;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// A counted transaction that burns fuel: loop iterations in the `work` guest.
    Work(u32),
    /// A counted transaction that takes a Wasm page, which a restore releases.
    Grow,
    Trap,
    /// A transaction that the guest refuses.
    Refuse,
    /// A transaction with more work than any tank holds.
    Exhaust,
    Query,
    /// A repetition of the id of an earlier step, given by its index.
    Repeat(usize),
    /// A failover ordered by an operator.
    FailOver,
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u32..30_000).prop_map(Step::Work),
        4 => Just(Step::Grow),
        1 => Just(Step::Trap),
        1 => Just(Step::Refuse),
        1 => Just(Step::Exhaust),
        2 => Just(Step::Query),
        2 => (0usize..1000).prop_map(Step::Repeat),
        1 => Just(Step::FailOver),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..120)
}

/// The expected service: a count, and the answer of each id.
#[derive(Default)]
struct Model {
    count: u64,
    answers: Vec<(String, String, Reply)>,
    fuel_charged: u64,
    requests: usize,
}

async fn play(
    steps: Vec<Step>,
    tank: u64,
    memory_bytes: u64,
    threshold: u16,
    failover: FailoverMode,
) -> Result<(), TestCaseError> {
    let rig = Rig::new();
    let thresholds = Thresholds::all(Percent::whole(threshold));
    let sizes = [size("s", tank, memory_bytes), size("m", tank, 4 * MIB)];
    let started = rig.try_start("work", "work.wat", &sizes, |spec| {
        (spec.thresholds, spec.failover) = (thresholds, failover);
    });
    started.await.expect("starts");
    let mut model = Model::default();
    for (index, step) in steps.into_iter().enumerate() {
        model.requests += 1;
        match step {
            Step::Work(_) | Step::Grow | Step::Trap | Step::Refuse | Step::Exhaust => {
                let body = match step {
                    Step::Work(iterations) => iterations.to_string(),
                    Step::Grow => "grow".to_owned(),
                    Step::Trap => "boom".to_owned(),
                    Step::Refuse => "refuse".to_owned(),
                    _ => "4000000000".to_owned(),
                };
                let id = format!("t{index}");
                let reply = rig.send_as("work", &id, &body).await.expect("reaches the guest");
                match step {
                    Step::Work(_) | Step::Grow => {
                        model.count += 1;
                        prop_assert_eq!(&reply.answer, &Answer::Ok(model.count.to_string().into()));
                    }
                    Step::Refuse => prop_assert_eq!(reply.answer.outcome(), Outcome::Refused),
                    _ => prop_assert_eq!(reply.answer.outcome(), Outcome::Failed),
                }
                if reply.answer.is_kept() {
                    model.fuel_charged += reply.fuel_used;
                }
                prop_assert!(!reply.is_repeated);
                model.answers.push((id, body, reply));
            }
            Step::Query => {
                let reply = rig.query("work", "x").await;
                prop_assert_eq!(ok(&reply), model.count.to_string());
                model.fuel_charged += reply.expect("answered").fuel_used;
            }
            Step::Repeat(which) if !model.answers.is_empty() => {
                let (id, body, first) = &model.answers[which % model.answers.len()];
                let again = rig.send_as("work", id, body).await.expect("answered before");
                prop_assert!(again.is_repeated);
                prop_assert_eq!((again.sequence, &again.answer), (first.sequence, &first.answer));
                let other = rig.send_as("work", id, "another body").await;
                let is_denied = matches!(other, Err(RequestError::Denied(Denial::IdReused { .. })));
                prop_assert!(is_denied);
            }
            Step::Repeat(_) => {}
            Step::FailOver => drop(rig.fail_over("work").await),
            Step::Snapshot => drop(rig.snapshot("work").await),
        }
    }
    // A shadow may still be promoted: read both until they agree on the VM.
    let (status, failovers) = loop {
        let (status, failovers) = (rig.status("work").await, rig.failovers());
        if status.vm.number == failovers.len() as u64 + 1 {
            break (status, failovers);
        }
    };
    let count = rig.query("work", "x").await;
    prop_assert_eq!(ok(&count), model.count.to_string());
    prop_assert_eq!(status.sequence.0, model.answers.len() as u64);
    prop_assert_eq!((status.stopped, status.degraded, status.unmovable), (None, None, None));
    let before: u64 = failovers.iter().map(|failover| failover.fuel_used).sum();
    prop_assert_eq!(before + status.meter.cpu.used, model.fuel_charged);
    for (index, failover) in failovers.iter().enumerate() {
        prop_assert_eq!(failover.to.number, index as u64 + 2);
    }
    // Only requests that take effect start a failover: between two failovers there is always one.
    let crossings = rig.events().iter().filter(|event| matches!(event, Event::SlaFailure(_))).count();
    let by_meter = failovers.iter().filter(|failover| failover.cause != FailoverCause::Forced).count();
    prop_assert!(by_meter <= crossings && crossings <= model.requests);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_service_is_its_model_whatever_happens(
        steps in steps(),
        tank in prop_oneof![Just(400_000u64), Just(2_000_000), Just(100_000_000)],
        memory_bytes in prop_oneof![Just(MIB / 2), Just(MIB), Just(4 * MIB)],
        threshold in 50u16..=100,
        failover in prop_oneof![Just(FailoverMode::Direct), Just(FailoverMode::Shadow)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(play(steps, tank, memory_bytes, threshold, failover))?;
    }
}

#[tokio::test]
async fn services_do_not_share_state_users_or_ids() {
    let rig = Rig::new();
    for service in ["a", "b"] {
        rig.start(service, "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    }
    assert_eq!(ok(&rig.send_as("a", "same", "x").await), "1");
    assert_eq!(ok(&rig.send_as("a", "other", "x").await), "2");
    assert_eq!(ok(&rig.send_as("b", "same", "x").await), "1");
    assert_eq!(rig.status("a").await.vm.service, name("a"));
}
