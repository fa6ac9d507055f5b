use super::*;

const SMALLEST: &str = r#"
    machine = [{ name = "m1", slots = 1, memory = "64MiB" }]
    service = [{ name = "tally", workload = "counter" }]
    user = [{ name = "ada", services = ["tally"] }]
    traffic = [{ service = "tally", count = 1, generator = "counter" }]
"#;

fn error(text: &str) -> String {
    Scenario::parse("s.toml", text, Path::new("")).expect_err("it is wrong").to_string()
}

#[test]
fn the_smallest_scenario_gets_the_documented_defaults() -> Result<(), ScenarioError> {
    let scenario = Scenario::parse("s.toml", SMALLEST, Path::new(""))?;
    assert_eq!(scenario.sizes.len(), Size::built_in().len());
    assert_eq!(scenario.services[0].size.name, "small");
    assert_eq!(scenario.services[0].thresholds, Thresholds::default());
    assert_eq!(scenario.traffic[0].users, [0]);
    Ok(())
}

#[test]
fn the_network_of_a_size_is_as_stated_or_that_of_the_next_larger_built_in_size() -> Result<(), ScenarioError> {
    let sizes = "size = [{ name = \"s\", fuel = 1, memory = \"17MiB\", deadline_ms = 1 }, { name = \"m\", fuel = 1, \
                 memory = \"18MiB\", deadline_ms = 1, network_calls = 3, network_bytes = \"64KiB\" }]\n";
    let service = SMALLEST.replace("workload = \"counter\"", "workload = \"counter\", thresholds = { network = 50 }");
    let text = format!("{sizes}{service}");
    let scenario = Scenario::parse("s.toml", &text, Path::new(""))?;
    let networks = scenario.sizes.iter().map(|size| (size.network_calls, size.network_bytes));
    assert_eq!(networks.collect::<Vec<_>>(), [(10_000, 640 << 20), (3, 64 << 10)]);
    let thresholds = scenario.services[0].thresholds;
    assert_eq!(f64::from(thresholds.network), 50.0);
    let few = error(&text.replace("network_calls = 3", "network_calls = 0"));
    assert!(few.contains("network_calls is 0; it must be 1 to "), "{few}");
    Ok(())
}

#[test]
fn a_courier_needs_sizes_that_a_transaction_fits() {
    let size = |name: &str, memory: u64, network: &str| {
        format!(r#"{{ name = "{name}", fuel = 1, memory = "{memory}MiB", deadline_ms = 1, {network} }}"#)
    };
    let few = size("few", 2, "network_calls = 15");
    let (bag, low) = (size("bag", 4, "network_calls = 16"), size("low", 8, "network_bytes = \"16383KiB\""));
    let service = SMALLEST.replace("workload = \"counter\"", "workload = \"courier\", size = \"bag\"");
    let service = service.replace("generator = \"counter\"", "generator = \"courier\"");
    let parse = |sizes: &[&String]| {
        let sizes = sizes.iter().map(|size| size.as_str()).collect::<Vec<_>>().join(", ");
        Scenario::parse("s.toml", &format!("size = [{sizes}]{service}"), Path::new(""))
    };
    assert!(parse(&[&few, &bag]).is_ok(), "a service does not move to a smaller size");
    let message = parse(&[&bag, &low]).expect_err("it is wrong").to_string();
    let expected = "s.toml: line 3: 'tally' runs courier and may have the size 'low', which needs at least 16 \
                    network_calls and 16 MiB of network_bytes";
    assert_eq!(message, expected);
    assert!(Scenario::parse("s.toml", &service.replace("\"bag\"", "\"small\""), Path::new("")).is_ok());
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = "[[machine]]\nname = \"m1\"\nslots = 1\nmemory = 1\ncolour = \"red\"\n";
    let message = error(text);
    assert!(
        message.contains("s.toml: line 5: there is no key 'colour' here; the keys are disk, memory, name, slots"),
        "{message}"
    );
    let text = SMALLEST.replace("generator = \"counter\"", "generator = { counter = { up_too = 1 } }");
    let message = error(&text);
    assert!(message.starts_with("s.toml: line 5: there is no key 'up_too' here; the keys are up_to"), "{message}");
}

#[test]
fn names_that_lead_nowhere_are_refused_with_their_line() {
    for (from, to, expected) in [
        (
            "service = \"tally\"",
            "service = \"talli\"",
            "s.toml: line 5: there is no service 'talli'; the services are tally",
        ),
        ("[\"tally\"]", "[\"bank\"]", "s.toml: line 4: there is no service 'bank'; the services are tally"),
        ("count = 1", "count = 1, users = [\"bob\"]", "s.toml: line 5: there is no user 'bob'"),
        (
            "workload = \"counter\"",
            "workload = \"counter\", size = \"tiny\"",
            "s.toml: line 3: there is no size 'tiny'; the sizes are small, medium, large, huge",
        ),
        ("\"ada\"", "\"operator\"", "s.toml: line 4: 'operator' is the name of the simulation itself; rename the user"),
    ] {
        assert_eq!(error(&SMALLEST.replace(from, to)), expected);
    }
}

/// The parser takes numbers as they stand.
#[test]
fn a_wrong_number_is_shown_as_a_short_escaped_quotation() {
    let message = error("[[size]]\nfuel = 3_0\u{10}");
    assert!(message.contains("s.toml: line 2: fuel is 30\\u{10}; it must be 0 to"), "{message}");
    let message = error(&format!("[[size]]\nfuel = {}", "1".repeat(1_000)));
    assert!(message.contains("fuel is 1111") && message.contains("1...; it must be 0 to"), "{message}");
    assert!(message.lines().all(|line| line.len() < 200), "{message}");
}

#[test]
fn a_size_is_called_by_a_name() {
    let message = error(&format!("{SMALLEST}\nsize = [{{ name = \"a b\", fuel = 1, memory = 1, deadline_ms = 1 }}]"));
    assert!(message.contains("'a b' is not a name"), "{message}");
}

#[test]
fn traffic_comes_from_exactly_one_source_that_fits() {
    for (to, expected) in [
        (
            "generator = \"ledger\"",
            "s.toml: line 5: 'tally' runs counter, which does not understand traffic for ledger",
        ),
        ("generator = { counter = { up_to = 0 } }", "s.toml: line 5: up_to is 0; it must be 1 to 4294967295"),
        ("bodies = []", "s.toml: line 5: bodies are empty; name at least one"),
        (
            "choices = [{ body = \"x\", weight = 0 }]",
            "s.toml: line 5: choices have no weight; give one of them at least 1",
        ),
        (
            "bodies = [\"a\"], generator = \"counter\"",
            "s.toml: line 5: traffic needs exactly one of generator, bodies and choices",
        ),
    ] {
        assert_eq!(error(&SMALLEST.replace("generator = \"counter\"", to)), expected);
    }
    let message = error(&SMALLEST.replace("generator = \"counter\"", "generator = \"poems\""));
    assert!(
        message.contains("line 5: generator is the text 'poems'; it must be \"counter\" or \"ledger\""),
        "{message}"
    );
}

#[test]
fn counts_are_bounded() {
    let message = error(&SMALLEST.replace("count = 1", "count = 1_000_001"));
    assert_eq!(message, "s.toml: it has 1000001 transactions, the limit is 1000000");
    let message = error(&SMALLEST.replace("slots = 1", "slots = 257"));
    assert_eq!(message, "s.toml: line 2: slots is 257; it must be 0 to 256");
    let message = error(&SMALLEST.replace("slots = 1", "slots = 0"));
    assert_eq!(message, "s.toml: its machines have 0 slots in total, they must have 1 to 256");
    let message = error(&SMALLEST.replace("[{ name = \"ada\", services = [\"tally\"] }]", "[]"));
    assert_eq!(message, "s.toml: it has 0 users, it must have 1 to 1000");
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let text = SMALLEST.replace("slots = 1", "slots = -1").replace("count = 1", "count = 1.5, users = [\"bob\", 3]");
    let expected = [
        "s.toml: line 2: slots is -1; it must be 0 to 256",
        "s.toml: line 5: count is 1.5; it must be a whole number from 0 to 18446744073709551615",
        "s.toml: line 5: there is no user 'bob'",
        "s.toml: line 5: an entry of users is 3; it must be a text in quotes",
    ];
    assert_eq!(error(&text).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_embedded_scenario_is_valid() {
    let scenario = Scenario::built_in();
    assert_eq!((scenario.machines.len(), scenario.services.len(), scenario.users.len()), (3, 6, 3));
    assert!((4_000..=8_000).contains(&scenario.transactions()));
}

#[test]
fn files_that_cannot_be_scenarios_are_refused_by_name() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s.toml");
    assert!(matches!(Scenario::read(&path), Err(ScenarioError::Unreadable { .. })));
    std::fs::write(&path, [0xff])?;
    assert!(matches!(Scenario::read(&path), Err(ScenarioError::NotText { .. })));
    std::fs::write(&path, vec![b'#'; 1024 * 1024 + 1])?;
    assert!(matches!(Scenario::read(&path), Err(ScenarioError::TooLong { .. })));
    std::fs::write(&path, SMALLEST.replace("workload = \"counter\"", "workload = \"none.wasm\""))?;
    assert!(Scenario::read(&path).is_err_and(|error| error.to_string().contains("none.wasm")));
    Ok(())
}
