use super::*;
use lifeboat_api::meter::Percent;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse("l.toml", text, Path::new("/srv"), &Overrides::default())
}

fn error(text: &str) -> String {
    parse(text).expect_err("it is wrong").to_string()
}

/// Returns the template with every key in force.
fn everything() -> String {
    let is_shown = |line: &str| {
        line.starts_with('[')
            || line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'))
    };
    let uncomment = |line: &'static str| line.strip_prefix('#').filter(|rest| is_shown(rest)).unwrap_or(line);
    TEMPLATE.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

/// Collects the keys of a table and of the tables in it.
fn keys(prefix: &str, value: &toml::Value, keys_found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = format!("{prefix}.{key}");
                keys(&key, value, keys_found);
                keys_found.insert(key);
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| keys(prefix, value, keys_found)),
        _ => {}
    }
}

#[test]
fn the_template_sets_nothing_but_the_defaults() -> Result<(), ConfigErrors> {
    let config = parse(TEMPLATE)?;
    assert_eq!(config, parse("")?);
    assert_eq!(config.data, Path::new("/srv/data"));
    assert_eq!(config.server, ServerConfig::default());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:7098");
    assert_eq!(config.thresholds, Thresholds::default());
    assert_eq!(config.sizes, Size::built_in());
    assert_eq!(config.machines, Machine::pair(64, 4 << 30));
    assert!(config.services.is_empty());
    Ok(())
}

#[test]
fn the_defaults_that_the_template_shows_are_the_defaults() -> Result<(), ConfigErrors> {
    let shown = parse(&everything())?;
    let tls = shown.server.tls.clone();
    assert_eq!(tls.as_ref().map(|tls| tls.key.as_path()), Some(Path::new("/srv/server.key")));
    assert_eq!(shown.services.len(), 1);
    let defaults = parse("")?;
    let server = ServerConfig { tls, ..defaults.server };
    assert_eq!(shown, Config { server, services: shown.services.clone(), ..defaults });
    // The service in the template also has only defaults, except for its files.
    let spare = "service = [{ name = \"bank\", workload = \"ledger.wasm\" }]";
    let ServiceConfig { roots, secrets, .. } = shown.services[0].clone();
    assert_eq!(roots.as_deref(), Some(Path::new("/srv/authorities.pem")));
    assert_eq!(secrets["TOKEN"], SecretSource::File("/srv/token.txt".into()));
    let spare = parse(spare)?.services.into_iter().map(|service| ServiceConfig {
        roots: roots.clone(),
        secrets: secrets.clone(),
        ..service
    });
    assert_eq!(spare.collect::<Vec<_>>(), shown.services);
    Ok(())
}

fn known_keys() -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let mut known = BTreeSet::new();
    keys("", &toml::Value::try_from(parse(&everything())?)?, &mut known);
    Ok(known)
}

#[test]
fn the_template_shows_every_key() -> Result<(), Box<dyn std::error::Error>> {
    let mut shown = BTreeSet::new();
    keys("", &toml::from_str(&everything())?, &mut shown);
    assert_eq!(shown, known_keys()?);
    Ok(())
}

#[test]
fn the_documentation_names_every_key() -> Result<(), Box<dyn std::error::Error>> {
    let documentation = include_str!("../../../../docs/configuration.md");
    for key in known_keys()? {
        let last = key.rsplit('.').next().unwrap_or_default();
        assert!(documentation.contains(&format!("`{last}`")) || documentation.contains(&format!("{last}]")), "{key}");
    }
    Ok(())
}

#[test]
fn a_printed_configuration_is_read_back_as_the_same() -> Result<(), Box<dyn std::error::Error>> {
    let text = everything().replace("127.0.0.1", "[::1]").replace("cpu = 98", "cpu = 97.5").replace("24", "25");
    let config = parse(&text)?;
    assert_eq!(config.thresholds.cpu, "97.5".parse::<Percent>()?);
    assert_eq!(parse(&toml::to_string(&config)?)?, config);
    let text = "[[service]]\nname = \"bank\"\nworkload = \"x\"\n\
                allow_net = [\"https://a.example\", { target = \"http://db\", private = true }]\n\
                arguments = [\"-q\", \"two words\"]\nenvironment = { LANG = \"C\", EMPTY = \"\" }\n\
                retry = \"idempotent\"\nsecret.a.file = \"a\"\nsecret.b.env = \"B\"\n";
    let config = parse(text)?;
    assert_eq!(parse(&toml::to_string(&config)?)?, config);
    let only_private = parse(&text.replace("\"https://a.example\", ", ""))?;
    assert_eq!(parse(&toml::to_string(&only_private)?)?, only_private);
    Ok(())
}

#[test]
fn errors_are_reported_with_their_place_on_one_line() {
    for (text, expected) in [
        (
            "colour = 1",
            "l.toml:1:1: there is no key 'colour' here; the keys are data, machine, server, service, size, thresholds, \
             tokens",
        ),
        (
            "[server]\nlisten = \"[::1]:1\"\n  port = 1",
            "l.toml:3:3: there is no key 'port' here; the keys are limits, listen, metrics, shutdown_deadline_ms, tls",
        ),
        ("[server]\nlisten = 7098", "l.toml:2:10: listen is 7098; it must be a text in quotes"),
        (
            "[server]\nlisten = \"localhost\"",
            "l.toml:2:10: 'localhost' is not an address to listen on: write an IP address",
        ),
        ("[server]\nmetrics = \"all\"", "l.toml:2:11: metrics is the text 'all'; it must be \"admin\" or \"open\""),
        (
            "[server]\nlisten = \"0.0.0.0:1\"\nmetrics = \"open\"",
            "l.toml:3:11: metrics are open, and other machines can reach 0.0.0.0:1; write \"admin\"",
        ),
        ("[server.tls]\nkey = \"k\"", "l.toml:1:1: the key 'certificate' is missing; write it"),
        ("data = \"\"", "l.toml:1:8: data is empty; write a path, or leave the key out"),
        ("[server.limits]\nconnections_max = 0", "l.toml:2:19: connections_max is 0; it must be 1 to 65536"),
        ("[server.limits]\nconnections_max = -1", "l.toml:2:19: connections_max is -1; it must be 1 to 65536"),
        ("[server.limits]\nbody_bytes_max = \"2MiB\"", "l.toml:2:18: body_bytes_max is 2 MiB; it must be 1 B to 1 MiB"),
        (
            "[server.limits]\nheader_bytes_max = \"2 apples\"",
            "l.toml:2:20: header_bytes_max: '2 apples' is not a size in bytes",
        ),
        ("[tokens]\nlifetime_hours = 0", "l.toml:2:18: lifetime_hours is 0; it must be 1 to 8784"),
        ("[thresholds]\ncpu = 10", "l.toml:2:7: cpu: a threshold of 10% is too low: it must lie between 20% and 100%"),
        (
            "thresholds = { memory = 101 }",
            "l.toml:1:25: memory: a threshold of 101% is too high: it must lie between 20% and 100%",
        ),
        ("[[machine]]\nname = \"m1\"\nslots = 0\nmemory = \"4GiB\"", "l.toml:3:9: slots is 0; it must be 1 to 4096"),
        (
            "[[machine]]\nname = \"m1\"\nslots = 1\nmemory = \"64MiB\"",
            "l.toml:1:1: no machine has room for size 'large': it has 256 MiB of memory, the largest machine has 64 MiB; give",
        ),
        ("[[machine]]\nname = \"m 1\"\nslots = 1\nmemory = 1", "l.toml:2:8: 'm 1' is not a name: use 1 to 64 letters"),
        (
            "size = [\n{ name = \"s\", fuel = 10000, memory = 65536, deadline_ms = 1 },\n{ name = \"s\", fuel = 10000, memory = 65536, deadline_ms = 1 }]",
            "l.toml:3:1: two sizes are called 's'; rename one",
        ),
        (
            "size = [{ name = \"s\", fuel = 9999, memory = 65536, deadline_ms = 1 }]",
            "l.toml:1:30: fuel: a tank of 9,999 fuel is too small for any transaction; it must hold at least",
        ),
        (
            "size = [{ name = \"s\", fuel = 10000, memory = 1, deadline_ms = 1 }]",
            "l.toml:1:46: memory is 1 B; it must be 64 KiB to ",
        ),
        (
            "size = [{ name = \"s\", fuel = 10000, memory = 65536, network_calls = 0, deadline_ms = 1 }]",
            "l.toml:1:69: network_calls is 0; it must be 1 to ",
        ),
        (
            "size = [{ name = \"s\", fuel = 10000, memory = 65536, network_bytes = 1, deadline_ms = 1 }]",
            "l.toml:1:69: network_bytes is 1 B; it must be 64 KiB to ",
        ),
        (
            "size = [{ name = \"s\", fuel = 10000, memory = 65536, deadline_ms = 0 }]",
            "l.toml:1:67: deadline_ms is 0; it must be 1 to 86400000",
        ),
        (
            "service = [{ name = \"bank\", workload = \"x\", size = \"tiny\" }]",
            "l.toml:1:52: there is no size 'tiny'; the sizes are small, medium, large, huge",
        ),
        ("service = [{ name = \"é\", workload = \"x\" }]", "l.toml:1:21: 'é' is not a name: use 1 to 64 letters"),
        (
            "# é\nservice = [{ name = \"a\", workload = \"é\" },{ name = \"a\", workload = \"x\" }]",
            "l.toml:2:52: two services are called 'a'; rename one",
        ),
        ("service = [{ name = \"a\" }]", "l.toml:1:12: the key 'workload' is missing; write it"),
        ("service = [{ name = \"a\", workload = \"\" }]", "l.toml:1:37: workload is empty; write a path"),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nallow_net = \"https://a.example\"",
            "l.toml:4:13: allow_net is the text 'https://a.example'; it must be an array",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nallow_net = [1]",
            "l.toml:4:14: an entry of allow_net is neither a text nor a table; write \"https://api.example.org\", or {",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nallow_net = [\"https://a.example\", \"db\"]",
            "l.toml:4:35: cannot use 'db' as an address to call: it has no scheme; write https:// or http:// before",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nallow_net = [{ private = true }]",
            "l.toml:4:14: the key 'target' is missing; write it",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nallow_net = [{ target = \"http://db\", private = 1 }]",
            "l.toml:4:48: private is 1; it must be true or false",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nallow_net = [{ target = \"http://db\", public = true }]",
            "l.toml:4:38: there is no key 'public' here; the keys are private, target",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\narguments = \"-q\"",
            "l.toml:4:13: arguments is the text '-q'; it must be an array",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nenvironment = { LANG = 1 }",
            "l.toml:4:24: 'LANG' is 1; it must be a text in quotes",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nenvironment = { \"A=B\" = \"c\" }",
            "l.toml:4:15: 'A=B' names no variable of the environment; write a name without '='",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nretry = \"always\"",
            "l.toml:4:9: retry is the text 'always'; it must be \"ask\" or \"never\" or \"idempotent\"",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nroots = \"\"",
            "l.toml:4:9: roots is empty; write a path, or leave",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nsecret = \"s3cret\"",
            "l.toml:4:10: secret is no table; write a table for each secret: secret.NAME = { file = \"FILE\" }",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nsecret.T = \"s3cret\"",
            "l.toml:4:12: the secret 'T' is no table; write { file = \"FILE\" } or { env = \"VARIABLE\" }",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nsecret.\"a b\".file = \"x\"",
            "l.toml:4:8: cannot name a secret 'a b': write up to 64 letters, digits, '_', '-' and '.'",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nsecret.T = {}",
            "l.toml:4:12: the secret 'T' has neither file nor variable; write either file or env",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nsecret.T = { file = \"x\", env = \"X\" }",
            "l.toml:4:12: the secret 'T' has both a file and a variable; write either file or env",
        ),
        (
            "[[service]]\nname = \"a\"\nworkload = \"x\"\nsecret.T = { env = \"A=B\" }",
            "l.toml:4:20: env is 'A=B', which names no variable of the environment; write a name without '='",
        ),
    ] {
        let message = error(text);
        assert!(message.starts_with(expected), "{text}\n{message}\n{expected}");
        assert!(!message.contains('\n'), "{message}");
    }
    let of_service = |keys: &str| error(&format!("[[service]]\nname = \"a\"\nworkload = \"x\"\n{keys}"));
    let targets = vec!["\"https://a.example\""; 65].join(", ");
    let message = of_service(&format!("allow_net = [{targets}]"));
    assert!(message.starts_with("l.toml:4:13: the allow-list has 65 entries; write at most 64"), "{message}");
    let secrets: String = (10..75).map(|number| format!("secret.s{number}.file = \"x\"\n")).collect();
    let message = of_service(&secrets);
    assert!(message.starts_with("l.toml:68:8: cannot add the secret 's74': a service has at most 64"), "{message}");
    assert!(error("[server").starts_with("l.toml:1:8: this is not TOML: "), "{}", error("[server"));
    let twice = "[[machine]]\nname = \"m\"\nslots = 1\nmemory = \"4GiB\"\n".repeat(2);
    assert_eq!(error(&twice), "l.toml:5:1: two machines are called 'm'; rename one");
    let many = "[[machine]]\nname = \"m\"\nslots = 4000\nmemory = \"4GiB\"\n[[machine]]\nname = \"n\"\nslots = 97\nmemory = \"4GiB\"\n";
    assert!(error(many).contains("have 4097 slots, the limit is 4096"), "{}", error(many));
    let few = "[[machine]]\nname = \"m\"\nslots = 1\nmemory = \"4GiB\"\n[[service]]\nname = \"a\"\nworkload = \"x\"\n\
               [[service]]\nname = \"b\"\nworkload = \"x\"\n";
    assert!(error(few).starts_with("l.toml:9:8: there are more services than the 1 slots"), "{}", error(few));
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_in_the_order_of_its_places() {
    let text = "colour = 1\n\
                [server]\nlisten = 7098\nmetrics = \"all\"\n\
                [server.limits]\nconnections_max = 0\nbody_bytes_max = true\n\
                [thresholds]\ncpu = \"high\"\n\
                [[machine]]\nname = \"m 1\"\nslots = 0\nmemory = \"64MiB\"\n\
                [[size]]\nname = \"s\"\nfuel = 1.5\nmemory = \"8GiB\"\n\
                [[service]]\nname = \"a\"\nsize = \"none\"\n";
    let expected = [
        "l.toml:1:1: there is no key 'colour' here; the keys are data, machine, server, service, size, thresholds, \
         tokens",
        "l.toml:3:10: listen is 7098; it must be a text in quotes",
        "l.toml:4:11: metrics is the text 'all'; it must be \"admin\" or \"open\"",
        "l.toml:6:19: connections_max is 0; it must be 1 to 65536",
        "l.toml:7:18: body_bytes_max is true; it must be a number of bytes from 1 B to 1 MiB, or a text such as \"64MiB\"",
        "l.toml:9:7: cpu is the text 'high'; it must be a percentage, such as 98 or 97.5",
        "l.toml:11:8: 'm 1' is not a name: use 1 to 64 letters, digits, '-', '_' or '.', a letter or digit first",
        "l.toml:12:9: slots is 0; it must be 1 to 4096",
        "l.toml:14:1: the key 'deadline_ms' is missing; write it",
        "l.toml:16:8: fuel is 1.5; it must be a whole number from 0 to 18446744073709551615",
        "l.toml:17:10: memory is 8 GiB; it must be 64 KiB to 4032 MiB",
        "l.toml:18:1: the key 'workload' is missing; write it",
    ];
    let found = error(text);
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
    // Errors that follow from an invalid machine or size are not reported: "no machine has room", "there is no size".
    let many = "[server]\n".to_owned() + &(0..200).map(|key| format!("k{key} = 1\n")).collect::<String>();
    let lines = error(&many);
    assert_eq!(lines.lines().count(), lifeboat_document::ERRORS_MAX + 1);
    assert!(lines.ends_with("there are 100 more errors; correct those above first"), "{lines}");
}

#[test]
fn every_key_with_every_wrong_value_is_explained_in_words_of_operators() {
    let text = everything();
    let lines: Vec<&str> = text.lines().collect();
    let wrong_values =
        ["true", "-1", "0", "1.5", "\"?\"", "\"\"", "[]", "[1]", "{}", "1979-05-27", "99999999999999999999", "inf"];
    let rust = ["invalid ", "expected", "unknown ", "missing field", "Some(", "Error", "::", "u64", "u32"];
    let mut refused = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else { continue };
        for wrong in wrong_values {
            let changed = format!("{key} = {wrong}");
            let mut changed_lines = lines.clone();
            changed_lines[index] = &changed;
            let Err(ConfigErrors(errors)) = parse(&changed_lines.join("\n")) else { continue };
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            // Errors that follow from it may be reported elsewhere, but never alone.
            let place = format!("l.toml:{}:", index + 1);
            let is_placed =
                texts.iter().any(|text| text.starts_with(&place)) || texts.iter().all(|text| text.contains("size"));
            assert!(is_placed, "{changed}: {texts:?}");
            for text in &texts {
                assert!(!rust.iter().any(|words| text.contains(words)), "{changed}: {text}");
            }
            refused += 1;
        }
    }
    assert!(refused > 150, "{refused}");
}

#[test]
fn a_fleet_has_room_for_the_services_that_are_there_or_says_which_has_none() -> Result<(), ConfigErrors> {
    let config = |slots, memory| {
        parse(&format!(
            "machine = [{{ name = \"m\", slots = {slots}, memory = \"{memory}\" }}]\n\
             size = [{{ name = \"s\", fuel = 10000, memory = \"1MiB\", deadline_ms = 1 }}]"
        ))
    };
    let settings = config(2, "2MiB")?.settings(None, None, FailoverMode::Auto).expect("a size");
    let entry = ServiceEntry {
        secret: [0; 32],
        workload: lifeboat_api::id::WorkloadHash::of(b""),
        settings,
        first_snapshot: None,
        accepted_divergences: Default::default(),
    };
    let services = ["a", "b"].map(|name| (Name::new(name).expect("a name"), entry.clone())).into();
    assert_eq!(config(2, "2MiB")?.check_fleet(&services), Vec::<String>::new());
    let expected = "service 'b', one of 2, would not start: no machine has a free slot with 1 MiB of memory and \
                    64 MiB of disk: m has 0 of 1 slots, 1 MiB of 2 MiB of memory and 32 MiB of 96 MiB of disk free; give the \
                    machines more slots, memory or disk";
    assert_eq!(config(1, "2MiB")?.check_fleet(&services), [expected]);
    assert_eq!(config(2, "1MiB")?.check_fleet(&services).len(), 1);
    let small = parse("size = [{ name = \"s\", fuel = 10000, memory = \"64KiB\", deadline_ms = 1 }]")?;
    let wrong = small.check_fleet(&services);
    let expected = "service 'a' would not start: its size 's' has 1 MiB of memory, the largest size here has 64 KiB; write a \
                    [[size]] with 1 MiB";
    assert_eq!((wrong.len(), wrong[0].as_str()), (2, expected));
    Ok(())
}

#[test]
fn the_network_of_a_size_is_as_stated_or_that_of_the_next_larger_built_in_size() -> Result<(), ConfigErrors> {
    let config = parse(
        "[thresholds]\nnetwork = 50\n\
         [[size]]\nname = \"s\"\nfuel = 10000\nmemory = \"17MiB\"\ndeadline_ms = 1\n\
         [[size]]\nname = \"m\"\nfuel = 10000\nmemory = \"18MiB\"\ndeadline_ms = 1\nnetwork_calls = 7\n\
         [[size]]\nname = \"l\"\nfuel = 10000\nmemory = \"19MiB\"\ndeadline_ms = 1\nnetwork_bytes = \"1MiB\"\n",
    )?;
    let networks = config.sizes.iter().map(|size| (size.network_calls, size.network_bytes));
    assert_eq!(networks.collect::<Vec<_>>(), [(10_000, 640 << 20), (7, 640 << 20), (10_000, 1 << 20)]);
    assert_eq!(config.thresholds, Thresholds { network: Percent::whole(50), ..Thresholds::default() });
    Ok(())
}

fn environment(listen: &'static str, data: &'static str) -> Result<Overrides, ConfigError> {
    Overrides::from_environment(move |name| match name {
        LISTEN_VARIABLE => Some(listen.into()),
        DATA_VARIABLE => Some(data.into()),
        _ => None,
    })
}

#[test]
fn an_empty_variable_is_an_unset_one() -> Result<(), ConfigErrors> {
    assert_eq!(environment("", "")?, Overrides::default());
    assert_eq!(Overrides::from_environment(|_| None)?, Overrides::default());
    Ok(())
}

#[test]
fn a_wrong_variable_is_named() {
    let wrong = environment("here", "").expect_err("no address").to_string();
    assert!(wrong.starts_with("LIFEBOAT_LISTEN: 'here' is not an address to listen on"), "{wrong}");
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() -> Result<(), ConfigErrors> {
    let set = environment("127.0.0.1:1", "/elsewhere")?;
    let flags = Overrides { listen: Some(SocketAddr::from(([127, 0, 0, 1], 2))), data: None };
    let overrides = flags.over(set);
    let config =
        Config::parse("l.toml", "data = \"here\"\n[server]\nlisten = \"127.0.0.1:3\"", Path::new(""), &overrides)?;
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.data, Path::new("/elsewhere"));
    Ok(())
}

#[test]
fn an_overridden_value_must_be_valid_all_the_same() {
    let overrides = Overrides { listen: Some(SocketAddr::from(([127, 0, 0, 1], 2))), data: None };
    assert!(Config::parse("l.toml", "[server]\nlisten = \"x\"", Path::new(""), &overrides).is_err());
}

#[test]
fn a_server_without_tls_is_exposed_off_loopback_alone() -> Result<(), ConfigErrors> {
    for (listen, is_exposed) in [
        ("127.0.0.1:1", false),
        ("127.1.2.3:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("192.168.0.1:1", true),
    ] {
        let text = format!("[server]\nlisten = \"{listen}\"\n");
        assert_eq!(parse(&text)?.server.is_exposed(), is_exposed, "{listen}");
        let tls = format!("{text}tls = {{ certificate = \"c\", key = \"k\" }}");
        assert!(!parse(&tls)?.server.is_exposed(), "{listen}");
    }
    Ok(())
}

#[test]
fn services_get_what_the_configuration_says() -> Result<(), Box<dyn std::error::Error>> {
    let config = parse(
        "[thresholds]\ncpu = 90\n[server.limits]\nbody_bytes_max = \"64KiB\"\n\
         [[service]]\nname = \"a\"\nworkload = \"a.wasm\"\nsize = \"large\"\nfailover = \"shadow\"\nthresholds = { memory = 80 }\n",
    )?;
    let service = &config.services[0];
    assert_eq!(service.workload, Path::new("/srv/a.wasm"));
    assert_eq!(
        service.thresholds,
        Thresholds { cpu: Percent::whole(90), memory: Percent::whole(80), ..Thresholds::default() }
    );
    let settings = config.settings(Some(&service.size), Some(service.thresholds), service.failover)?;
    assert_eq!(settings.size, "large");
    assert_eq!(settings.sizes.iter().map(|size| size.name.as_str()).collect::<Vec<_>>(), ["large", "huge"]);
    assert_eq!(settings.network, NetworkSettings::default());
    let plain = config.settings(None, None, FailoverMode::Auto)?;
    assert_eq!((plain.size.as_str(), plain.thresholds, plain.sizes.len()), ("small", config.thresholds, 4));
    assert!(config.settings(Some("tiny"), None, FailoverMode::Auto).is_err());
    let host = config.host();
    assert_eq!((host.largest_memory_bytes, host.body_bytes_max, host.machines.len()), (1 << 30, 65_536, 2));
    Ok(())
}

#[test]
fn a_service_calls_what_the_configuration_allows() -> Result<(), ConfigErrors> {
    let config = parse(
        "[[service]]\nname = \"a\"\nworkload = \"x\"\nretry = \"idempotent\"\n\
         allow_net = [\"HTTPS://API.example.org:443\", { target = \"http://db:5432\", private = true }]\n\
         [[service]]\nname = \"b\"\nworkload = \"x\"\nallow_net = [{ target = \"http://127.0.0.1:1\" }]\n\
         [[service]]\nname = \"c\"\nworkload = \"x\"\n",
    )?;
    let networks = config.networks();
    let shown = |service: &str| {
        let NetworkSettings { allow, retry } = &networks[service];
        let entries = allow.entries().iter().map(|allowed| (allowed.target.to_string(), allowed.private));
        (entries.collect::<Vec<_>>(), *retry)
    };
    let of_a = vec![("https://api.example.org".into(), false), ("http://db:5432".into(), true)];
    assert_eq!(shown("a"), (of_a, Retry::Idempotent));
    assert_eq!(shown("b"), (vec![("http://127.0.0.1:1".into(), false)], Retry::Ask));
    assert_eq!(shown("c"), (Vec::new(), Retry::Ask));
    Ok(())
}

#[test]
fn files_that_are_no_configurations_are_refused_by_name() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join(CONFIG_FILE);
    let read = || Config::read(&file, &Overrides::default());
    let missing = read().expect_err("it is missing").to_string();
    assert!(missing.ends_with("lifeboat.toml: there is no such file; lifeboat init writes one"), "{missing}");
    std::fs::write(&file, [0xff])?;
    assert!(matches!(read(), Err(ConfigErrors(errors)) if matches!(errors[..], [ConfigError::NotText { .. }])));
    std::fs::write(&file, "#".repeat(1024 * 1024 + 1))?;
    assert!(matches!(read(), Err(ConfigErrors(errors)) if matches!(errors[..], [ConfigError::TooLong { .. }])));
    std::fs::write(&file, "data = \"there\"")?;
    assert_eq!(read()?.data, directory.path().join("there"));
    Ok(())
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]a-z_=\"'{}#., \n0-9é-]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_to_a_whole_file_panics(at in any::<prop::sample::Index>(), length in 0..40_usize, put in "[\\[\\]{}=\"\n0-9é-]{0,8}") {
        let mut characters: Vec<char> = everything().chars().collect();
        let start = at.index(characters.len());
        let end = (start + length).min(characters.len());
        characters.splice(start..end, put.chars());
        if let Err(ConfigErrors(errors)) = parse(&characters.into_iter().collect::<String>()) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
