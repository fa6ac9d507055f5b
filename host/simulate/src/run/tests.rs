use super::*;
use crate::report::ServiceReport;
use crate::scenario::{Bodies, Generator, TrafficPlan, WorkloadSource};
use lifeboat_api::event::FailoverCause;
use serde_json::Value;
use std::path::Path;

/// Returns the embedded scenario with a fraction of its traffic.
fn short() -> Scenario {
    let mut scenario = Scenario::built_in();
    for traffic in &mut scenario.traffic {
        traffic.count = traffic.count.div_ceil(8);
    }
    scenario
}

async fn play(scenario: &Scenario, options: Options) -> Report {
    run(scenario, options, &mut ()).await.expect("the scenario can be played")
}

fn service<'a>(report: &'a Report, name: &str) -> &'a ServiceReport {
    report.services.iter().find(|service| &*service.name == name).expect("the service is in the report")
}

fn without_timings(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("timings");
            object.values_mut().for_each(without_timings);
        }
        Value::Array(array) => array.iter_mut().for_each(without_timings),
        _ => {}
    }
}

#[tokio::test]
async fn failovers_of_every_cause_lose_nothing_in_the_embedded_scenario() {
    let report = play(&Scenario::built_in(), Options::default()).await;
    assert!(report.is_reconciled(), "{report}");
    assert!(FailoverCause::ALL.into_iter().all(|cause| report.failovers.of(cause) > 0), "{report}");
    assert!(report.services.iter().all(|service| service.failovers.all() > 0), "{report}");
    let count = |cause| report.services.iter().filter(|service| service.failovers.of(cause) > 0).count();
    assert!(count(FailoverCause::Cpu) > 3 && count(FailoverCause::Memory) > 1, "{report}");
    let Outcomes { ok, refused, failed, denied } = report.outcomes;
    assert!(ok > 0 && refused > 0 && failed > 0 && denied > 0, "{report}");
    assert_eq!(ok + refused + failed + denied, report.requests);
    assert!(report.services.iter().all(|service| service.repeated > 0), "{report}");
    assert!(report.services.iter().all(|service| service.reconciliation.model_agrees == Some(true)), "{report}");
}

#[tokio::test]
async fn the_seed_alone_decides_the_report() {
    let scenario = short();
    let mut reports = Vec::new();
    for seed in [7, 7, 8] {
        let report = play(&scenario, Options { seed, ..Options::default() }).await;
        assert!(report.is_reconciled(), "{report}");
        let mut value = serde_json::to_value(&report).expect("a report is JSON");
        without_timings(&mut value);
        reports.push(value.to_string());
    }
    assert_eq!(reports[0], reports[1]);
    assert_ne!(reports[1], reports[2]);
}

#[tokio::test]
async fn a_lost_or_doubled_transaction_is_named() {
    let scenario = short();
    for (fault, kind) in [(Fault::DropOne, FindingKind::Lost), (Fault::DoubleOne, FindingKind::Duplicated)] {
        let report = play(&scenario, Options { fault: Some(fault), ..Options::default() }).await;
        let [finding] = &report.findings[..] else { panic!("{report}") };
        assert_eq!(finding.kind, kind);
        assert_eq!(&*finding.service, "tally");
        assert!(finding.transaction.is_some() && finding.sequence >= Some(Sequence(100)), "{finding:?}");
        assert_eq!(
            (report.lost, report.duplicated, report.diverged),
            match kind {
                FindingKind::Lost => (1, 0, 0),
                _ => (0, 1, 0),
            }
        );
    }
}

/// The search also finds a fault that shows late: only in the answer to another transaction or to a query.
#[tokio::test]
async fn a_broken_promise_of_the_ledger_is_found() {
    let mut scenario = short();
    let bank = scenario.services.iter().position(|plan| &*plan.name == "bank").expect("there is a bank");
    scenario.traffic.retain(|traffic| traffic.service == bank);
    for traffic in &mut scenario.traffic {
        traffic.service = 0;
        let Bodies::Generated(Generator::Ledger(ledger)) = &mut traffic.bodies else { panic!("{traffic:?}") };
        // Every acknowledged change affects one of a few balances, and all of these are queried.
        (ledger.accounts, ledger.withdraw, ledger.transfer) = (20, 0, 0);
    }
    scenario.services = vec![scenario.services.swap_remove(bank)];
    scenario.services[0].queries = (1..=20).map(|account| format!(r#"{{"balance":"account-{account:06}"}}"#)).collect();
    for user in &mut scenario.users {
        user.services = vec![scenario.services[0].name.clone()];
    }
    for (fault, lost_and_duplicated) in [(Fault::DropOne, (1, 0)), (Fault::DoubleOne, (0, 1))] {
        let report = play(&scenario, Options { fault: Some(fault), ..Options::default() }).await;
        assert_eq!((report.lost, report.duplicated), lost_and_duplicated, "{report}");
        assert_eq!(report.diverged, 0, "{report}");
    }
}

#[tokio::test]
async fn the_neighbour_of_a_spinner_loses_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios/spin.toml");
    let scenario = Scenario::read(&path).expect("the scenario is valid");
    let report = play(&scenario, Options::default()).await;
    assert!(report.is_reconciled(), "{report}");
    let spinner = service(&report, "spinner");
    assert!(spinner.outcomes.failed > 0 && spinner.outcomes.ok > 0);
    assert_eq!(spinner.failures.len(), 1);
    assert!(spinner.failures[0].cause.starts_with("cpu:"), "{:?}", spinner.failures);
    let neighbour = service(&report, "neighbour");
    assert_eq!(neighbour.outcomes.failed + neighbour.outcomes.denied, 0);
    assert_eq!((neighbour.reconciliation.records, neighbour.reconciliation.queries), (1_000, 1));
}

/// Runs one service of `workload` with `bodies`, alone and with ample room, and its queries.
async fn alone(workload: BuiltIn, bodies: Bodies, queries: &[&str]) -> Report {
    play(&scenario_of(workload, bodies, queries), Options::default()).await
}

/// Returns a scenario of one service of `workload`, alone and with ample room.
fn scenario_of(workload: BuiltIn, bodies: Bodies, queries: &[&str]) -> Scenario {
    let mut scenario = short();
    let size = Arc::new(lifeboat_api::size::Size::built_in().remove(3));
    scenario.machines.truncate(1);
    (scenario.machines[0].memory_bytes, scenario.machines[0].disk_bytes) = (size.memory_bytes, size.disk_bytes);
    scenario.sizes = vec![Arc::clone(&size)];
    scenario.services.truncate(1);
    let service = &mut scenario.services[0];
    service.workload = WorkloadSource::BuiltIn(workload);
    service.size = size;
    service.queries = queries.iter().map(ToString::to_string).collect();
    service.fail_over_every = None;
    let count = match &bodies {
        Bodies::Cycled(bodies) => bodies.len() as u64,
        _ => 400,
    };
    scenario.traffic = vec![TrafficPlan { service: 0, users: vec![0], count, repeat: None, bodies }];
    scenario
}

#[tokio::test]
async fn models_agree_with_the_guests_on_random_traffic() {
    for (workload, queries) in [
        (BuiltIn::Counter, ["\"total\"", "\"other\""]),
        (BuiltIn::Ledger, ["\"total\"", r#"{"balance":"nobody"}"#]),
        (BuiltIn::Notes, ["\"summary\"", r#"{"get":"note-000001"}"#]),
        (BuiltIn::Crunch, ["\"summary\"", "7"]),
        (BuiltIn::Archive, ["\"stats\"", r#"{"find":"d"}"#]),
        (BuiltIn::Courier, ["\"count\"", r#"{"receipts":"none"}"#]),
    ] {
        let report = alone(workload, Bodies::Generated(Generator::of(workload)), &queries).await;
        assert!(report.is_reconciled(), "{report}");
        assert_eq!(report.outcomes.ok + report.outcomes.refused, 400, "{report}");
        assert_eq!(report.services[0].reconciliation.model_agrees, Some(true));
    }
}

#[tokio::test]
async fn models_agree_with_the_guests_on_what_is_refused() {
    let long = "x".repeat(300);
    let cases: [(BuiltIn, &[&str]); 5] = [
        (BuiltIn::Counter, &[r#"{"add":1.5}"#, r#"{"add":1,"sub":1}"#, "", "[7]", r#"{"add":-3}"#]),
        (
            BuiltIn::Ledger,
            &[
                r#"{"deposit":{"account":"a","amount":0}}"#,
                r#"{"deposit":{"account":"","amount":1}}"#,
                r#"{"deposit":{"account":"a","amount":18446744073709551615}}"#,
                r#"{"deposit":{"account":"b","amount":1}}"#,
                r#"{"transfer":{"from":"a","to":"a","amount":1}}"#,
                r#"{"transfer":{"from":"a","to":"c","amount":1}}"#,
                r#"{"transfer":{"from":"c","to":"a","amount":1}}"#,
                r#"{"withdraw":{"account":"a","amount":5}}"#,
                r#"{"withdraw":{"account":"b\n","amount":5}}"#,
                r#"{"transfer":{"from":"a","to":"a"}}"#,
            ],
        ),
        (
            BuiltIn::Notes,
            &[
                r#"{"put":{"name":"","text":"t"}}"#,
                r#"{"put":{"name":"é","text":"ü"}}"#,
                r#"{"append":{"name":"é","text":"ü"}}"#,
                r#"{"append":{"name":"e","text":"u"}}"#,
                r#"{"delete":{"name":"é"}}"#,
                r#"{"delete":{"name":"é"}}"#,
            ],
        ),
        (
            BuiltIn::Crunch,
            &[
                r#"{"primes":{"below":0}}"#,
                r#"{"primes":{"below":3}}"#,
                r#"{"primes":{"below":10000001}}"#,
                r#"{"sha256":{"bytes":0}}"#,
                r#"{"sha256":{"bytes":67108865}}"#,
                r#"{"json":{"records":0}}"#,
                r#"{"json":{"records":20001}}"#,
            ],
        ),
        (
            BuiltIn::Courier,
            &[
                r#"{"post":{"to":"http://webhook.test","parcel":"ü"}}"#,
                r#"{"post":{"to":"http://WEBHOOK.test.:80/%C3%BC?a=b","parcel":"x"}}"#,
                r#"{"post":{"to":"http://webhook.test/closed","parcel":"x"}}"#,
                r#"{"post":{"to":"http://webhook.test/closed?again","parcel":"x"}}"#,
                r#"{"post":{"to":"http://webhook.test/cut","parcel":"x"}}"#,
                r#"{"post":{"to":"http://webhook.test/in","parcel":""}}"#,
                r#"{"post":{"to":"http://webhook.test/in#top","parcel":"x"}}"#,
                r#"{"post":{"to":"http://webhook.test/%C","parcel":"x"}}"#,
                r#"{"post":{"to":"http://webhook.test:81/in","parcel":"x"}}"#,
                r#"{"post":{"to":"https://webhook.test/in","parcel":"x"}}"#,
                r#"{"post":{"to":"http://127.0.0.1/in","parcel":"x"}}"#,
                r#"{"post":{"to":"webhook.test/in","parcel":"x"}}"#,
                r#"{"post_all":[]}"#,
                r#"{"post_all":[{"to":"http://webhook.test/in","parcel":"x"}]}"#,
                r#"{"post_all":[{"to":"http://webhook.test/closed","parcel":"x"}]}"#,
                r#"{"post_all":[{"to":"http://webhook.test/cut","parcel":"x"},
                    {"to":"http://webhook.test/","parcel":"y"},{"to":"http://webhook.test/closed","parcel":"z"}]}"#,
                r#"{"post_all":[{"to":"http://webhook.test/in","parcel":"x"},
                    {"to":"http://example.org","parcel":"y"}]}"#,
                r#"{"send":{"to":"http://webhook.test/in","parcel":"x"}}"#,
            ],
        ),
    ];
    for (workload, bodies) in cases {
        let mut bodies: Vec<String> = bodies.iter().map(ToString::to_string).collect();
        bodies.push(format!(r#"{{"put":{{"name":"{long}","text":"t"}}}}"#));
        bodies.push(format!(r#"{{"deposit":{{"account":"{long}","amount":1}}}}"#));
        let report = alone(workload, Bodies::Cycled(bodies), &[]).await;
        assert!(report.is_reconciled(), "{report}");
        assert!(report.outcomes.refused > 2, "{report}");
        assert_eq!(report.services[0].reconciliation.model_agrees, Some(true), "{report}");
    }
}

#[tokio::test]
async fn a_lost_or_doubled_parcel_is_named() {
    for (fault, kind, words) in [
        (Fault::DropOne, FindingKind::Lost, "was acknowledged, and the webhook did not get its parcel"),
        (Fault::DoubleOne, FindingKind::Duplicated, "that no client sent"),
    ] {
        let scenario =
            scenario_of(BuiltIn::Courier, Bodies::Generated(Generator::of(BuiltIn::Courier)), &["\"count\""]);
        let report = play(&scenario, Options { fault: Some(fault), ..Options::default() }).await;
        let [finding] = &report.findings[..] else { panic!("{report}") };
        assert_eq!(finding.kind, kind);
        assert!(finding.transaction.is_some() && finding.to_string().contains(words), "{finding}");
        assert!(!report.is_reconciled());
    }
}

#[tokio::test]
async fn observers_see_what_the_report_counts() {
    #[derive(Default)]
    struct Counter {
        total: u64,
        done: u64,
        failovers: u64,
        reconciled: Vec<String>,
    }
    impl Observer for Counter {
        fn started(&mut self, services: &[ServiceView], total: u64) {
            assert_eq!(services.len(), 6);
            self.total = total;
        }
        fn event(&mut self, event: &Event) {
            self.failovers += u64::from(matches!(event, Event::Failover(_)));
        }
        fn answered(&mut self, _: &[ServiceView], _: usize, done: u64) {
            self.done = done;
        }
        fn reconciling(&mut self, service: &Name) {
            self.reconciled.push(service.to_string());
        }
    }
    let scenario = short();
    let mut counter = Counter::default();
    let report = run(&scenario, Options::default(), &mut counter).await.expect("the scenario can be played");
    assert_eq!(counter.failovers, report.failovers.all());
    assert_eq!(counter.total, scenario.transactions());
    assert_eq!(counter.done, report.requests);
    assert_eq!(counter.reconciled, ["tally", "bank", "journal", "lab", "vault", "post"]);
}

/// Neither a token nor a secret, both 64 hexadecimal digits, may occur in the output.
#[tokio::test]
async fn no_report_or_event_shows_a_token_or_a_secret() {
    struct Listener(String);
    impl Observer for Listener {
        fn event(&mut self, event: &Event) {
            self.0 += &event.to_string();
            self.0 += &serde_json::to_string(event).expect("an event is JSON");
        }
    }
    let mut listener = Listener(String::new());
    let report = run(&short(), Options::default(), &mut listener).await.expect("the scenario can be played");
    let printed = listener.0 + &report.to_string() + &serde_json::to_string(&report).expect("a report is JSON");
    assert!(!printed.contains("lifeboat_"));
    let mut tokens = random(SEED_DEFAULT, Stream::Tokens);
    let mut secrets = random(SEED_DEFAULT, Stream::Secrets);
    for _ in 0..4 {
        for bits in [bits(&mut tokens), bits(&mut secrets)] {
            let hex: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!printed.contains(&hex[..16]));
        }
    }
}
