//! `lifeboat simulate`: nothing is lost, the same seed has the same history, and a violated promise is detected.

use serde_json::{Value, json};

use crate::util::{Output, guest, lifeboat, prebuilt, root};

/// Runs `lifeboat simulate --seed 7 --json` with more arguments to its end.
fn simulate(arguments: &[&str]) -> Output {
    lifeboat(["simulate", "--seed", "7", "--json"]).args(arguments).output()
}

#[track_caller]
fn report(output: &Output, code: i32) -> Value {
    serde_json::from_str(output.exits(code)).expect("a report in JSON")
}

/// Removes all values that may differ between two runs with one seed.
fn without_timings(mut report: Value) -> Value {
    fn remove(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("timings");
                map.values_mut().for_each(remove);
            }
            Value::Array(items) => items.iter_mut().for_each(remove),
            _ => {}
        }
    }
    remove(&mut report);
    report
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

// The built-in scenario.

#[test]
fn failovers_for_every_resource_lose_nothing() {
    let report = report(&simulate(&[]), 0);
    assert_eq!((&report["lost"], &report["duplicated"], &report["diverged"]), (&json!(0), &json!(0), &json!(0)));
    assert!(
        ["cpu", "memory", "disk", "network"].iter().all(|cause| number(&report["failovers"][cause]) > 0),
        "{report:#}"
    );
    assert!(number(&report["requests"]) > 1000, "{report:#}");
    let services = report["services"].as_array().expect("a list");
    assert_eq!((services.len(), &report["users"]), (6, &json!(3)));
    for service in services {
        assert!(number(&service["reconciliation"]["records"]) > 0, "{service:#}");
        assert_eq!(service["reconciliation"]["model_agrees"], true, "{service:#}");
    }
}

#[test]
fn counts_of_the_services_add_up_to_those_of_the_report() {
    let report = report(&simulate(&[]), 0);
    let services = report["services"].as_array().expect("a list");
    for (group, names) in [
        ("outcomes", &["ok", "refused", "failed", "denied"][..]),
        ("failovers", &["cpu", "network", "memory", "disk", "forced"]),
    ] {
        for name in names {
            let sum: u64 = services.iter().map(|service| number(&service[group][name])).sum();
            assert_eq!(sum, number(&report[group][name]), "{group} {name}");
        }
    }
    for service in services {
        let outcomes = service["outcomes"].as_object().expect("an object").values().map(number).sum::<u64>();
        assert_eq!(outcomes, number(&service["requests"]), "{service:#}");
        // Every failover takes the next number, and numbers start at 1.
        let failovers = service["failovers"].as_object().expect("an object").values().map(number).sum::<u64>();
        let vm = format!("{}/{}", service["name"].as_str().expect("a name"), failovers + 1);
        assert_eq!(service["vm"], vm);
    }
}

#[test]
fn tables_of_the_report_fit_eighty_columns() {
    let output = lifeboat(["simulate"]).output();
    let tables: Vec<&str> = output.exits(0).lines().filter(|line| line.contains("  ")).collect();
    assert!(tables.len() > 15, "{tables:?}");
    for line in tables {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn a_pace_changes_the_duration_alone() {
    let scenario = root().join("tests/scenarios/spin.toml");
    let scenario = scenario.to_str().expect("UTF-8");
    let fast = report(&simulate(&[scenario]), 0);
    let requests = number(&fast["requests"]);
    // A second for all requests but the first.
    let pace = (requests - 1).max(1).to_string();
    let slow = report(&simulate(&["--pace", &pace, scenario]), 0);
    assert!(number(&slow["timings"]["serve_ms"]) >= 1_000, "{slow:#}");
    assert_eq!(without_timings(slow), without_timings(fast));
    simulate(&["--pace", "0"]).exits_with_one_line(2, &["--pace: '0' is not a whole number between 1 and 1,000,000"]);
}

#[test]
fn report_depends_on_the_seed_alone() {
    let first = report(&simulate(&[]), 0);
    assert!(first["timings"].is_object());
    let again = report(&simulate(&[]), 0);
    let first = without_timings(first);
    assert_eq!(first, without_timings(again));
    assert!(number(&first["services"][0]["counts"]["fuel_charged"]) > 0, "fuel is part of what is compared");

    let other = report(&lifeboat(["simulate", "--seed", "8", "--json"]).output(), 0);
    assert_ne!(first["services"], without_timings(other)["services"]);
}

#[test]
fn deliberate_fault_is_found_with_its_transaction() {
    for (how, kind) in [("drop-one", "lost"), ("double-one", "duplicated")] {
        let report = report(&simulate(&["--sabotage", how]), 1);
        for other in ["lost", "duplicated", "diverged"] {
            assert_eq!(report[other], u64::from(other == kind), "{how}");
        }
        let finding = &report["findings"][0];
        assert_eq!(finding["kind"], kind);
        let id = finding["transaction"].as_str().expect("an id");
        let service = finding["service"].as_str().expect("a name");

        let printed = lifeboat(["simulate", "--seed", "7", "--sabotage", how]).output();
        let text = printed.exits(1);
        let is_named = text.lines().any(|line| line.contains(id) && line.contains(service));
        assert!(is_named, "`{id}` of {service} is not in: {text}");
    }
}

#[test]
fn standard_output_has_the_report_alone() {
    let output = lifeboat(["simulate", "--seed", "7"]).output();
    let text = output.exits(0);
    assert!(text.trim_end().ends_with("lost 0, duplicated 0"), "{text}");
    for words in ["SLA failure: ", "Trigger process failover: triggered: "] {
        assert!(!text.contains(words), "{text}");
        assert!(output.stderr.lines().any(|line| line.starts_with(words)), "{}", output.stderr);
    }
    assert!(output.stderr.lines().any(|line| line.contains(" cpu ") && line.contains(" memory ")), "no utilisation");
}

#[test]
fn built_in_scenario_runs_from_any_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = lifeboat(["simulate", "--json"]).within(folder.path()).output();
    assert_eq!(report(&output, 0)["lost"], 0);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "it left something behind");
}

// Scenarios of users.

#[test]
fn neighbour_of_a_spinner_loses_nothing() {
    let scenario = root().join("tests/scenarios/spin.toml");
    let report = report(&simulate(&[scenario.to_str().expect("a path in UTF-8")]), 0);
    assert_eq!((&report["lost"], &report["duplicated"]), (&json!(0), &json!(0)));
    let service = |name: &str| {
        let services = report["services"].as_array().expect("a list");
        services.iter().find(|service| service["name"] == name).expect("the scenario has it")
    };
    let spinner = service("spinner");
    let failures = spinner["failures"].as_array().expect("a list");
    assert!(number(&spinner["outcomes"]["failed"]) > 0 && !failures.is_empty(), "{spinner:#}");
    for failure in failures {
        let cause = failure["cause"].as_str().expect("a text");
        assert!(cause.contains("fuel") || cause.contains("deadline"), "{cause}");
    }
    assert!(number(&spinner["outcomes"]["ok"]) > 0, "it serves what does not spin: {spinner:#}");

    let neighbour = service("neighbour");
    assert_eq!((&neighbour["outcomes"]["failed"], &neighbour["outcomes"]["denied"]), (&json!(0), &json!(0)));
    assert_eq!(neighbour["reconciliation"]["findings"], 0);
    assert!(number(&neighbour["reconciliation"]["records"]) >= 1000, "{neighbour:#}");
}

#[test]
fn workloads_are_found_beside_the_scenario() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(guest("count.wat"), folder.path().join("count.wat")).expect("a copy");
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, scenario("count.wat")).expect("a temporary file");
    let output = lifeboat(["simulate", "--json"]).arg(&file).output();
    let report = report(&output, 0);
    assert_eq!((&report["lost"], &report["services"][0]["name"]), (&json!(0), &json!("tally")));
}

#[test]
fn wrong_scenario_exits_with_2_naming_its_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(guest("count.wat"), folder.path().join("count.wat")).expect("a copy");
    let cases = [
        ("unknown-key.toml", scenario("count.wat").replace("slots", "slits"), "slits"),
        ("no-toml.toml", "machine = [".into(), "line 1"),
        ("unknown-service.toml", scenario("count.wat").replace("service = \"tally\"", "service = \"other\""), "other"),
        ("empty.toml", String::new(), ""),
    ];
    for (name, text, words) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a temporary file");
        let output = lifeboat(["simulate"]).arg(&file).output();
        assert_eq!(output.exits(2), "", "{name}");
        assert!(output.stderr.contains(name) && output.stderr.contains(words), "{}", output.stderr);
    }
    let missing = lifeboat(["simulate", "nowhere.toml"]).output();
    missing.exits_with_one_line(2, &["nowhere.toml"]);
}

#[test]
fn scenario_with_a_workload_that_is_none_exits_with_3() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, scenario("mine.toml")).expect("a temporary file");
    let output = lifeboat(["simulate"]).arg(&file).output();
    output.exits_with_one_line(3, &["mine.toml", "not WebAssembly"]);
}

#[test]
fn wrong_options_exit_with_2() {
    let scenario = prebuilt("counter");
    for arguments in [&["--seed", "many"][..], &["--seed=-1"], &["--sabotage", "all"], &["--fuel", "1"]] {
        assert_eq!(lifeboat(["simulate"]).args(arguments).output().exits(2), "", "{arguments:?}");
    }
    // A workload is not a scenario.
    let output = lifeboat(["simulate"]).arg(scenario).output();
    output.exits(2);
    assert!(output.stderr.contains("counter.wasm"), "{}", output.stderr);
}

/// Returns a scenario with one service on one machine.
fn scenario(workload: &str) -> String {
    format!(
        r#"
        [[machine]]
        name = "m1"
        slots = 2
        memory = "64MiB"

        [[size]]
        name = "small"
        fuel = 1_000_000
        memory = "16MiB"
        deadline_ms = 60_000

        [[service]]
        name = "tally"
        workload = "{workload}"
        queries = ["count"]

        [[user]]
        name = "ada"
        services = ["tally"]

        [[traffic]]
        service = "tally"
        count = 20
        bodies = ["one", "two"]
        "#
    )
}
