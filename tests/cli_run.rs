//! `lifeboat run`: lines in, replies out, events on standard error, and failovers that no reply shows.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::util::{Lifeboat, Output, WORKLOADS, guest, lifeboat, prebuilt, shell, transactions};

/// Creates a `lifeboat run` with options and a prebuilt workload.
fn run(options: &[&str], workload: &str) -> Lifeboat {
    run_file(options, &prebuilt(workload))
}

fn run_file(options: &[&str], workload: &Path) -> Lifeboat {
    lifeboat(["run"]).args(options).arg(workload)
}

/// Runs `lifeboat run --transactions` to its end.
fn run_transactions(options: &[&str], file: &Path, workload: &str) -> Output {
    lifeboat(["run"]).args(options).arg("--transactions").arg(file).arg(prebuilt(workload)).output()
}

// Replies and exit codes.

#[test]
fn each_line_is_answered_by_a_line() {
    let output = run(&[], "counter").input("{\"add\":1}\n").output();
    assert_eq!(output.exits(0), "1\n");
}

#[test]
fn last_line_needs_no_end() {
    assert_eq!(run(&[], "counter").input("{\"add\":1}\n{\"add\":2}").output().exits(0), "1\n3\n");
}

#[test]
fn empty_input_is_no_failure() {
    assert_eq!(run(&[], "counter").output().exits(0), "");
}

#[test]
fn refused_transaction_is_printed_as_json_with_exit_code_1() {
    let output = run(&[], "counter").input("{\"add\":1}\n{\"take\":1}\n{\"add\":1}\n").output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((lines[0], lines[2]), ("1", "2"));
    let refused: Value = serde_json::from_str(lines[1]).expect("JSON");
    assert_eq!((&refused["id"], &refused["outcome"]), (&json!("host-2"), &json!("refused")));
    assert!(
        refused["cause"]
            .as_str()
            .expect("a text")
            .contains("there is no field `take`, only `add`: send a body such as {\"add\":1}"),
        "{refused}"
    );
}

#[test]
fn long_body_is_refused_for_no_more_fuel_than_its_mistake() {
    // Without a reason and an example in the reply, 10,023 units were charged.
    let refused_for = |length| {
        let output = run(&["--json", "--size", "huge"], "ledger").input("[".repeat(length) + "\n").output();
        let line = output.exits(1);
        assert!(line.contains("a list is given, an object or a text is needed"), "{line}");
        let events = output.events();
        events.last().and_then(|event| event["usage"]["counts"]["fuel_charged"].as_u64()).expect("there is a usage")
    };
    let fuel = refused_for(1_000_000);
    assert!(fuel <= 3 * 10_023, "{fuel} fuel");
    assert!(fuel <= refused_for(1_000) + 1_000, "{fuel} fuel");
}

#[test]
fn trap_fails_its_transaction_without_a_change_of_state() {
    let most = format!("{{\"add\":{}}}\n", i64::MAX);
    let output = run(&[], "counter").input(format!("{most}{most}{{\"add\":-1}}\n")).output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((lines[0], lines[2]), ("9223372036854775807", "9223372036854775806"));
    let failed: Value = serde_json::from_str(lines[1]).expect("JSON");
    assert_eq!(failed["outcome"], "failed");
    let cause = failed["cause"].as_str().expect("a text");
    let begins = cause.starts_with("trap: wasm `unreachable` instruction executed; it said: thread '<unnamed>' ");
    assert!(begins && cause.contains("panicked at ") && cause.contains("the total stays within 64 bits"), "{cause}");
    let logged = output.stderr.lines().find(|line| line.contains("failed in counter/1: ")).expect("it is logged");
    assert!(logged.contains("transaction '") && logged.contains("panicked at "), "{logged}");
    assert!(output.stderr.contains("ok 2  refused 0  failed 1  denied 0"), "{}", output.stderr);
}

#[test]
fn a_trap_has_the_source_position_that_the_compiler_left_in_the_module() {
    // A line table of DWARF 4: all addresses from 1 on are line 7 of `src/lib.rs`.
    const TABLE: &str = concat!(
        r"9\00\00\00\04\00\22\00\00\00\01\01\01\fb\0e\0d\00\01\01\01\01\00\00\00\01\00\00\01\00",
        r"src/lib.rs\00\00\00\00\00\00\05\02\01\00\00\00\03\06\01\02\ff\ff\03\00\01\01",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(guest("panic-execute.wat")).expect("a guest");
    let file = folder.path().join("panics.wat");
    let execute = r#"(export "lifeboat:vm/workload@0.1.0#execute")"#;
    let named = text.replace(&format!("(func {execute}"), &format!("(func $execute {execute}"));
    let module = named.trim_end().strip_suffix(')').expect("it is a module");
    std::fs::write(&file, format!("{module} (@custom \".debug_line\" \"{TABLE}\"))")).expect("a file");
    let output = run_file(&[], &file).input("boom\n").output();
    let failed: Value = serde_json::from_str(output.exits(1)).expect("JSON");
    let cause = failed["cause"].as_str().expect("a text");
    assert!(cause.ends_with("; in execute (src/lib.rs:7)"), "{cause}");
}

#[test]
fn a_denied_call_fails_its_transaction_and_names_itself() {
    let output = run_file(&[], &guest("denied.wat")).input("a\nnet\nboom\na\n").output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("1", "1", "2"));
    let failed: Value = serde_json::from_str(lines[2]).expect("JSON");
    let cause = "trap: denied: wasi:nowhere/things#peek: the service is not granted it";
    assert_eq!(failed["outcome"], "failed");
    assert!(failed["cause"].as_str().expect("a text").starts_with(cause), "{failed}");
}

#[test]
fn body_is_handed_over_byte_for_byte() {
    let echo = echo();
    for body in [&b" {\"a\" :1}\t"[..], "caf\u{e9} \u{1f6df}".as_bytes(), b"", b"\"quoted\\\"", b"refuse "] {
        let output = run_file(&[], &echo).input([body, b"\n"].concat()).output();
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(output.stdout, [body, b"\n"].concat());
    }
}

#[test]
fn reply_that_is_no_printable_line_is_json() {
    let output = run_file(&[], &echo()).input(b"dos\r\n\x1b[2J\n\xff\x00\n").output();
    output.exits(0);
    let expected = [
        json!({"id": "host-1", "outcome": "ok", "text": "dos\r"}),
        json!({"id": "host-2", "outcome": "ok", "text": "\u{1b}[2J"}),
        json!({"id": "host-3", "outcome": "ok", "base64": "/wA="}),
    ];
    assert_eq!(output.json_lines(), expected);
}

#[test]
fn only_bodies_longer_than_1_mib_are_denied() {
    const MIB: usize = 1 << 20;
    let input = format!("{}\n{}\n{}\nlast\n", "a".repeat(MIB), "b".repeat(MIB + 1), "c".repeat(3 * MIB));
    let output = run_file(&["--memory", "64MiB"], &echo()).input(input).output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((lines.len(), lines[0].len(), lines[3]), (4, MIB, "last"));
    for line in [lines[1], lines[2]] {
        let denied: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&denied["id"], &denied["outcome"]), (&Value::Null, &json!("denied")));
        assert!(denied["cause"].as_str().expect("a text").contains("the limit is 1 MiB"), "{denied}");
    }
    assert!(output.stderr.contains("ok 2  refused 0  failed 0  denied 2"), "{}", output.stderr);
}

#[test]
fn every_sample_transaction_is_ok_or_refused() {
    for workload in WORKLOADS {
        let output = run_transactions(&["--json"], &transactions(workload), workload);
        output.exits(1);
        let replies = output.json_lines();
        let lines = std::fs::read_to_string(transactions(workload)).expect("a file of transactions").lines().count();
        assert_eq!(replies.len(), lines, "{workload}");
        let with = |outcome: &str| replies.iter().filter(|reply| reply["outcome"] == outcome).count();
        assert_eq!(with("ok") + with("refused"), lines, "{workload}");
        if workload == "courier" {
            // No parcel is delivered without a network.
            assert_eq!(with("refused"), lines);
            continue;
        }
        assert!(with("ok") > lines / 2 && with("refused") > 0, "{workload}");
    }
}

#[test]
fn reply_comes_before_the_next_line_is_sent() {
    let mut running = run(&[], "counter").start();
    for (line, reply) in [("{\"add\":5}", &b"5\n"[..]), ("{\"add\":-7}", b"-2\n"), ("{\"add\":0}", b"-2\n")] {
        running.send(line);
        assert_eq!(running.line().as_deref(), Some(reply));
    }
    assert_eq!(running.finish().exits(0), "");
}

#[test]
fn a_reader_that_goes_away_ends_a_run_in_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("transactions.jsonl");
    std::fs::write(&file, "{\"add\":1}\n".repeat(50_000)).expect("a temporary file");
    let mut running = lifeboat(["run", "--transactions"]).args([&file, &prebuilt("counter")]).start();
    assert_eq!(running.line().as_deref(), Some(&b"1\n"[..]));
    running.hang_up();
    let output = running.finish();
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(!output.stderr.to_lowercase().contains("pipe"), "{}", output.stderr);
    let ended = "the reader of the replies is gone: the service and its state ended with this run";
    assert!(output.stderr.contains(ended), "{}", output.stderr);
}

/// Returns the line with which a run asks its user to continue.
fn line_to_continue(stderr: &str) -> usize {
    let (_, rest) = stderr.split_once("continue with line ").unwrap_or_else(|| panic!("{stderr}"));
    let number: String = rest.chars().take_while(|char| *char != ' ').filter(char::is_ascii_digit).collect();
    number.parse().unwrap_or_else(|_| panic!("{stderr}"))
}

#[test]
fn a_run_without_a_reader_continues_as_asked_and_executes_each_line_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("transactions.jsonl"));
    const LINES: usize = 20_000;
    let lines: Vec<String> = (1..=LINES).map(|id| format!(r#"{{"id":"{id}","json":{{"add":1}}}}"#)).collect();
    std::fs::write(&file, lines.join("\n")).expect("a temporary file");
    let durable = || lifeboat(["run", "--envelope", "--service", "sum", "--data"]).arg(&data);
    let mut running = durable().arg("--transactions").args([&file, &prebuilt("counter")]).start();
    assert_eq!(running.line().as_deref(), Some(&b"1\n"[..]));
    running.hang_up();
    let output = running.finish();
    assert_eq!(output.code, 1, "{}", output.stderr);
    let rest = lines[line_to_continue(&output.stderr) - 1..].join("\n");
    let output = durable().input(rest).output();
    assert_eq!(output.exits(0).lines().last(), Some(&*LINES.to_string()));
}

#[test]
fn a_durable_run_into_a_full_disk_names_the_line_to_continue_with() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = "lifeboat run --service sum --data \"$DATA\" workloads/prebuilt/counter.wasm >/dev/full";
    let script = format!(r#"DATA='{}'; seq 3 | sed 's/.*/{{"add":1}}/' | {run}"#, folder.path().join("data").display());
    let output = shell(&script).output();
    assert_eq!(output.code, 4, "{}", output.stderr);
    // The first reply may fail before the other lines are read.
    let printed =
        ["cannot write the replies: all lines up to ", " may be done: continue with line 1, with the same ids"];
    assert!(printed.iter().all(|text| output.stderr.contains(text)), "{}", output.stderr);
    assert!(!output.stderr.contains("command again"), "it would apply the lines twice: {}", output.stderr);
}

#[test]
fn a_run_that_nohup_started_survives_the_end_of_its_terminal() {
    let mut running = crate::util::shell("trap '' HUP; exec lifeboat run workloads/prebuilt/counter.wasm").start();
    running.send("{\"add\":1}");
    assert_eq!(running.line().as_deref(), Some(&b"1\n"[..]));
    running.signal("HUP");
    running.send("{\"add\":1}");
    assert_eq!(running.line().as_deref(), Some(&b"2\n"[..]));
    assert_eq!(running.finish().exits(0), "");
}

#[test]
fn a_signal_ends_the_input_at_a_reported_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (signal, lines) in [("INT", 1), ("TERM", 2), ("HUP", 3)] {
        let data = folder.path().join(signal);
        let mut running = lifeboat(["run", "--data"]).arg(data).arg(prebuilt("counter")).listening_to_hangups().start();
        for line in 1..=lines {
            running.send("{\"add\":1}");
            assert_eq!(running.line(), Some(format!("{line}\n").into_bytes()));
        }
        running.signal(signal);
        // It ends although its input continues.
        assert_eq!(running.line(), None);
        let output = running.finish();
        assert_eq!(output.exits(1), "");
        let s = if lines == 1 { "" } else { "s" };
        let printed = format!(
            "lifeboat: interrupted with {lines} line{s} sent and answered; the rest of the input was not sent: it \
             begins with line {}\n",
            lines + 1
        );
        assert!(output.stderr.ends_with(&printed), "{}", output.stderr);
        // The stop was clean. Its snapshot is not counted.
        assert!(
            output
                .stderr
                .contains("\n  snapshots 0 (and one at the stop if anything is new)  rollbacks 0  replayed 0\n"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn an_empty_variable_for_the_data_directory_is_one_that_is_not_set() {
    let output = run(&[], "counter").env("LIFEBOAT_DATA", "").input("{\"add\":1}\n").output();
    assert_eq!(output.exits(0), "1\n");
    let journal = lifeboat(["data", "journal", "counter"]).env("LIFEBOAT_DATA", "").output();
    assert_eq!(journal.exits(2), "");
    assert!(journal.stderr.contains("--data <DIR>"), "{}", journal.stderr);
    let services = lifeboat(["services"]).env("LIFEBOAT_DATA", "").env("LIFEBOAT_PROFILE", "/nowhere").output();
    services.exits_with_one_line(5, &["you are not logged in", "--data DIR"]);
}

// Envelopes and JSON.

/// Returns the replies to envelopes of `counter` under `--json`. All must be answered in order.
fn envelopes(code: i32, lines: &[Value]) -> Vec<Value> {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let output = run(&["--envelope", "--json"], "counter").input(input).output();
    output.exits(code);
    let replies = output.json_lines();
    assert_eq!(replies.len(), lines.len());
    replies
}

#[test]
fn reply_has_the_id_of_its_envelope() {
    let replies =
        envelopes(0, &[json!({"id": "first", "json": {"add": 5}}), json!({"id": "q", "query": true, "json": "total"})]);
    assert_eq!((&replies[0]["id"], &replies[1]["id"]), (&json!("first"), &json!("q")));
}

#[test]
fn query_in_an_envelope_changes_nothing() {
    let replies = envelopes(
        0,
        &[
            json!({"json": {"add": 5}}),
            json!({"id": "q", "query": true, "json": "total"}),
            json!({"query": true, "text": "\"total\""}),
            json!({"base64": "eyJhZGQiOjF9"}),
            json!({"query": false, "text": "{\"add\":0}"}),
        ],
    );
    let answers: Vec<&Value> = replies.iter().map(|reply| &reply["json"]).collect();
    assert_eq!(answers, [5, 5, 5, 6, 6]);
    assert!(replies.iter().all(|reply| reply["outcome"] == "ok"), "{replies:?}");
}

#[test]
fn duplicate_is_answered_without_a_second_execution() {
    let first = json!({"id": "a", "json": {"add": 5}});
    let replies = envelopes(0, &[first.clone(), json!({"json": {"add": 1}}), first.clone(), first]);
    let answers: Vec<&Value> = replies.iter().map(|reply| &reply["json"]).collect();
    assert_eq!(answers, [5, 6, 5, 5]);
    assert_eq!(replies[0], replies[2]);
}

#[test]
fn other_body_under_a_used_id_is_denied() {
    let send = |add: i64| json!({"id": "a", "json": {"add": add}});
    let replies = envelopes(1, &[send(5), send(6), json!({"json": {"add": 0}})]);
    assert_eq!((&replies[1]["id"], &replies[1]["outcome"]), (&json!("a"), &json!("denied")));
    assert!(replies[1]["cause"].as_str().expect("a text").contains("id 'a' was used for another body"), "{replies:?}");
    assert_eq!(replies[2]["json"], 5);
}

#[test]
fn refusal_or_failure_is_answered_again_under_its_id() {
    let refused = json!({"id": "r", "json": {"take": 1}});
    let most = |id: &str| json!({"id": id, "json": {"add": i64::MAX}});
    let replies = envelopes(1, &[refused.clone(), refused, most("a"), most("b"), most("b")]);
    assert_eq!((&replies[0], &replies[0]["outcome"]), (&replies[1], &json!("refused")));
    assert_eq!((&replies[3], &replies[3]["outcome"]), (&replies[4], &json!("failed")));
}

#[test]
fn guest_sees_the_user_of_the_envelope_or_of_the_option() {
    let input = "{\"text\":\"\"}\n{\"user\":\"bob\",\"text\":\"\"}\n{\"user\":\"carol.2\",\"text\":\"\"}\n";
    let whoami = guest_with("whoami", "(local.get $user) (local.get $user_length)");
    let output = run_file(&["--envelope"], &whoami).input(input).output();
    assert_eq!(output.exits(0), "operator\nbob\ncarol.2\n");
    let output = run_file(&["--envelope", "--user", "ada"], &whoami).input(input).output();
    assert_eq!(output.exits(0), "ada\nbob\ncarol.2\n");
    assert_eq!(run_file(&["--user", "ada"], &whoami).input("\n").output().exits(0), "ada\n");
}

#[test]
fn ids_of_one_user_are_not_those_of_another() {
    let send = |user: &str, add: i64| json!({"id": "a", "user": user, "json": {"add": add}});
    let replies = envelopes(0, &[send("ada", 5), send("bob", 6), send("ada", 5)]);
    let answers: Vec<&Value> = replies.iter().map(|reply| &reply["json"]).collect();
    assert_eq!(answers, [5, 11, 5]);
}

#[test]
fn line_that_is_no_envelope_is_denied_by_its_number() {
    let wrong = [
        "",
        "{\"add\":1}",
        "{}",
        "{\"json\":1,\"text\":\"1\"}",
        "{\"id\":7,\"text\":\"\"}",
        "{\"base64\":\"*\"}",
        "{\"user\":\"a b\",\"text\":\"\"}",
        "{\"json\":{\"add\":1}} more",
        "\u{feff}{\"text\":\"\"}",
    ];
    let input: String = wrong.iter().map(|line| format!("{line}\n{{\"json\":{{\"add\":1}}}}\n")).collect();
    let output = run(&["--envelope", "--json"], "counter").input(input).output();
    output.exits(1);
    for (index, pair) in output.json_lines().chunks(2).enumerate() {
        let cause = pair[0]["cause"].as_str().expect("a text");
        assert_eq!(pair[0]["outcome"], "denied", "{}", wrong[index]);
        assert!(cause.starts_with(&format!("line {} is not an envelope: ", 2 * index + 1)), "{cause}");
        assert_eq!(pair[1]["json"], index + 1);
    }
}

#[test]
fn id_that_is_too_long_is_denied() {
    let send = |letters: usize| json!({"id": "x".repeat(letters), "json": {"add": 1}});
    let replies = envelopes(1, &[send(128), send(129)]);
    assert_eq!((&replies[0]["outcome"], &replies[1]["outcome"]), (&json!("ok"), &json!("denied")));
}

#[test]
fn json_replies_are_one_object_a_line() {
    let output = run_file(&["--json"], &echo()).input("{\"a\": 1.0}\nplain\nrefuse\n\n".as_bytes()).output();
    let first = output.exits(1).lines().next().expect("a reply");
    assert!(first.starts_with("{\"id\":\"host-1\",\"outcome\":\"ok\",\"json\":{\"a\": 1.0},\"fuel_used\":"), "{first}");
    let expected = [
        json!({"id": "host-1", "outcome": "ok", "json": {"a": 1.0}}),
        json!({"id": "host-2", "outcome": "ok", "text": "plain"}),
        json!({"id": "host-3", "outcome": "refused", "cause": "refused on request"}),
        json!({"id": "host-4", "outcome": "ok", "text": ""}),
    ];
    let mut replies = output.json_lines();
    for reply in &mut replies {
        let fuel = reply.as_object_mut().expect("an object").remove("fuel_used");
        assert!(fuel.and_then(|fuel| fuel.as_u64()).is_some_and(|fuel| fuel > 0), "{reply}");
    }
    assert_eq!(replies, expected);
}

#[test]
fn with_json_standard_error_has_one_object_a_line() {
    let output = run_transactions(&["--json", "--fuel", "100000"], &transactions("ledger"), "ledger");
    output.exits(1);
    let events = output.events();
    let (usage, events) = events.split_last().expect("there is a usage");
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((named("sla_failure"), named("failover")), (events.len() / 2, events.len() / 2));
    let usage = &usage["usage"];
    assert_eq!(usage["failovers"], events.len() / 2);
    assert_eq!(usage["vm"], format!("ledger/{}", events.len() / 2 + 1));
    assert_eq!(usage["ok"].as_u64().zip(usage["refused"].as_u64()).map(|(ok, refused)| ok + refused), Some(150));
    assert_eq!(usage["meter"]["cpu"]["limit"], 100_000);
}

// Input that is refused before anything runs.

#[test]
fn options_may_stand_after_the_workload() {
    let output = run(&[], "counter").args(["--size", "medium", "--json"]).input("{\"add\":1}\n").output();
    assert!(
        output.exits(0).starts_with("{\"id\":\"host-1\",\"outcome\":\"ok\",\"json\":1,\"fuel_used\":"),
        "{output:?}"
    );
    assert_eq!(output.events()[0]["usage"]["size"], "medium");
}

#[test]
fn argument_beyond_the_workload_is_refused_with_an_explanation() {
    for arguments in [&["more.wasm"][..], &["--", "more.wasm"], &["more.wasm", "--json"]] {
        let output = run(&[], "counter").args(arguments).output();
        let words = ["'more.wasm' is an extra argument", "a workload takes none", "--transactions FILE"];
        output.exits_with_one_line(2, &words);
    }
}

#[test]
fn an_empty_workload_is_named() {
    lifeboat(["run", ""]).output().exits_with_one_line(2, &["WORKLOAD is empty; write: lifeboat run [WORKLOAD]"]);
}

#[test]
fn wrong_option_exits_with_2_naming_the_fault() {
    let cases: [(&[&str], &str); 14] = [
        (&["--size", "tiny"], "there is no size 'tiny': use one of small, medium, large, huge"),
        (&["--memory", "lots"], "--memory: 'lots' is not a size between 64 KiB and 4032 MiB; write"),
        (&["--memory", "1.5MiB"], "write a whole number such as 67108864 or 64MiB"),
        (&["--memory", "99999999999G"], "--memory: '99999999999G' is not a size between"),
        (&["--fuel", "9999"], "--fuel: '9999' is not a whole number between 10,000 and"),
        (&["--fuel=-1"], "--fuel: '-1' is not a whole number between 10,000 and"),
        (&["--fuel", "much"], "--fuel: 'much' is not a whole number between 10,000 and"),
        (&["--threshold=-1"], "--threshold"),
        (&["--threshold", "101"], "--threshold"),
        (&["--threshold", "19.9"], "--threshold"),
        (&["--threshold", "NaN"], "--threshold"),
        (&["--user", "a b"], "--user"),
        (&["--fule", "1"], "--fuel"),
        (&["--transactions", "nowhere.jsonl"], "nowhere.jsonl: cannot be read: "),
    ];
    for (options, words) in cases {
        let output = run(options, "counter").input("{\"add\":1}\n").output();
        assert_eq!(output.exits(2), "", "{options:?}");
        assert!(output.stderr.contains(words), "{options:?}: {}", output.stderr);
    }
    let broken = run(&["--transactions", "no\nsuch"], "counter").output();
    broken.exits_with_one_line(2, &["no\\nsuch: cannot be read: "]);
    let output = lifeboat(["run"]).output();
    output.exits_with_one_line(2, &["name a workload; or, with --data, an existing --service"]);
}

#[test]
fn workload_that_cannot_be_loaded_exits_with_3() {
    let missing = lifeboat(["run", "nowhere.wasm"]).output();
    missing.exits_with_one_line(3, &["nowhere.wasm: cannot be read: ", "name a .wasm or .wat file"]);
    let folder = lifeboat(["run"]).arg(guest("")).output();
    folder.exits_with_one_line(3, &["tests/guests", "cannot be read: "]);
    let other = lifeboat(["run"]).arg(guest("README.md")).output();
    other.exits_with_one_line(3, &["README.md", "not WebAssembly", "pass a `.wasm` or `.wat` file"]);
}

#[test]
fn memory_below_the_initial_one_is_refused_with_the_memory_that_suffices() {
    let output = run(&["--memory", "1MiB"], "counter").input("{\"add\":1}\n").output();
    let words = ["counter.wasm", "starts with 1114112 bytes", "`custom` has 1048576 bytes", "give it at least"];
    let line = output.exits_with_one_line(3, &words);
    let (_, rest) = line.split_once("give it at least ").expect("the remedy");
    let (needed, _) = rest.split_once(" bytes").expect("in bytes");
    assert_eq!(run(&["--memory", needed], "counter").input("{\"add\":1}\n").output().exits(0), "1\n");
}

#[test]
fn workload_that_does_not_start_exits_with_3() {
    let output = run_file(&[], &guest("spin-start.wat")).input("x\n").output();
    assert_eq!(output.exits(3), "");
    assert!(output.stderr.contains("spin-start"), "{}", output.stderr);
}

// Failovers.

#[test]
fn cpu_failovers_are_invisible_in_replies() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("transactions.jsonl");
    std::fs::write(&file, ledger_transactions(3_000)).expect("a temporary file");
    for (file, fuel, failovers_min) in [(file, "400000", 50), (transactions("ledger"), "40000", 24)] {
        let roomy = run_transactions(&["--size", "huge"], &file, "ledger");
        let tight = run_transactions(&["--fuel", fuel], &file, "ledger");
        assert_eq!(roomy.exits(1), tight.exits(1));
        assert!(!roomy.stderr.contains("failover:"), "{}", roomy.stderr);

        let moves = Moves::of(&tight, "ledger");
        assert!(moves.failovers >= failovers_min, "{moves:?}");
        assert_eq!((moves.cpu_failures, moves.memory_failures), (moves.failovers, 0));
    }
}

#[test]
fn memory_failovers_are_invisible_in_replies() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("transactions.jsonl");
    std::fs::write(&file, note_transactions()).expect("a temporary file");
    let run = |option: &str, value: &str, more: &[&str]| {
        run_transactions(&[&["--fuel", "100000000000", option, value], more].concat(), &file, "notes")
    };
    let roomy = run("--size", "huge", &[]);
    let tight = run("--memory", "2MiB", &[]);
    assert_eq!(roomy.exits(1), tight.exits(1));
    assert!(!roomy.stderr.contains("failover:"), "{}", roomy.stderr);

    let moves = Moves::of(&tight, "notes");
    assert_eq!((moves.cpu_failures, moves.memory_failures), (0, moves.failovers));

    // The text does not contain the sizes, but the JSON does.
    let printed = run("--memory", "2MiB", &["--json"]);
    let events = printed.events();
    let failovers: Vec<&Value> = events.iter().filter(|event| event["event"] == "failover").collect();
    assert_eq!(failovers.len(), moves.failovers);
    assert!(failovers.iter().all(|failover| failover["cause"] == "memory"), "{failovers:?}");
    let compactions = failovers.iter().filter(|failover| failover["size"] == "custom").count();
    assert!(compactions > 0 && compactions < failovers.len(), "{failovers:?}");
    assert_eq!(failovers.last().map(|failover| &failover["size"]), Some(&json!("small")));
}

#[test]
fn threshold_decides_when_a_failover_comes() {
    let at = |percent: &str| {
        let options = ["--fuel", "100000", "--threshold", percent];
        let output = run_transactions(&options, &transactions("ledger"), "ledger");
        output.exits(1);
        assert!(output.stderr.contains(&format!("fuel, threshold {percent}%)")), "{}", output.stderr);
        output.stderr.lines().filter(|line| line.starts_with("Trigger process failover: ")).count()
    };
    assert!(at("50") > at("98"));
}

#[test]
fn transaction_that_no_tank_suffices_for_fails_alone() {
    let input = "{\"primes\":{\"below\":100}}\n{\"primes\":{\"below\":1000000}}\n{\"primes\":{\"below\":100}}\n";
    let output = run(&["--fuel", "1000000"], "crunch").input(input).output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((lines[0], lines[2]), ("{\"primes\":25}", "{\"primes\":25}"));
    let failed: Value = serde_json::from_str(lines[1]).expect("JSON");
    assert_eq!(failed["outcome"], "failed");
    assert!(failed["cause"].as_str().expect("a text").contains("a full tank of 1,000,000 fuel"), "{failed}");
}

/// The SLA failures and failovers on standard error. Each line is parsed completely, to detect any deviation from the
/// documented form.
#[derive(Debug, Default)]
struct Moves {
    cpu_failures: usize,
    memory_failures: usize,
    failovers: usize,
}

impl Moves {
    /// Checks that each move of `service` follows an SLA failure, increments the VM's number, and changes the machine.
    #[track_caller]
    fn of(output: &Output, service: &str) -> Self {
        let mut moves = Self::default();
        let (mut vm, mut machine, mut has_failed) = (1, "m1".to_owned(), false);
        let mut lines = output.stderr.lines();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            if let Some(text) = line.strip_prefix("SLA failure: ") {
                let (failed, resource) = sla_failure(text).unwrap_or_else(|| panic!("not as documented: {line}"));
                assert_eq!(failed, format!("{service}/{vm}"));
                match resource {
                    "cpu" => moves.cpu_failures += 1,
                    "memory" => moves.memory_failures += 1,
                    other => panic!("no resource: {other}"),
                }
                has_failed = true;
            } else if let Some(text) = line.strip_prefix("Trigger process failover: triggered: ") {
                let [from, from_machine, to, to_machine] =
                    failover(text).unwrap_or_else(|| panic!("not as documented: {line}"));
                assert!(has_failed, "no SLA failure before: {line}");
                assert_eq!((from, from_machine), (&*format!("{service}/{vm}"), &*machine));
                assert_eq!(to, format!("{service}/{}", vm + 1));
                assert_ne!(to_machine, machine);
                (vm, machine, has_failed) = (vm + 1, to_machine.to_owned(), false);
                moves.failovers += 1;
            } else {
                panic!("neither a failure nor a failover: {line}");
            }
        }
        let table = lines.next().expect("a table follows the events");
        assert!(table.starts_with(&format!("{service}/{vm} on {machine}, size ")), "{table}");
        assert!(table.contains(&format!(" and {} failover", moves.failovers)), "{table}");
        moves
    }
}

/// Returns the VM and the resource of `ledger/1 cpu 98.7% (394,794 of 400,000 fuel, threshold 98%)`.
fn sla_failure(text: &str) -> Option<(&str, &str)> {
    let (vm, rest) = text.split_once(' ')?;
    let (resource, rest) = rest.split_once(' ')?;
    let (percent, rest) = rest.split_once("% (")?;
    let (used, rest) = rest.split_once(" of ")?;
    let (limit, rest) = rest.split_once(' ')?;
    let unit = rest.strip_suffix(", threshold 98%)")?;
    assert_eq!(unit, if resource == "cpu" { "fuel" } else { "bytes" });
    let (used, limit) = (grouped(used)?, grouped(limit)?);
    // In tenths, as the text has it. All numbers here are far below 2^53.
    let tenths = decimal(percent)? * 10.0;
    let exactly = used as f64 / limit as f64 * 1000.0;
    assert!((980.0..=1000.0).contains(&tenths) && (tenths - exactly).abs() <= 0.51, "{text}");
    Some((vm, resource))
}

/// Returns the VMs and machines of `ledger/1 on m1 -> ledger/2 on m2 (state 22.8 kB, replayed 0, pause 0.9 ms)`.
fn failover(text: &str) -> Option<[&str; 4]> {
    let (from, rest) = text.split_once(" on ")?;
    let (from_machine, rest) = rest.split_once(" -> ")?;
    let (to, rest) = rest.split_once(" on ")?;
    let (to_machine, rest) = rest.split_once(" (state ")?;
    let (state, rest) = rest.split_once(", replayed ")?;
    let (replayed, rest) = rest.split_once(", pause ")?;
    let pause = rest.strip_suffix(" ms)")?;
    let (number, unit) = state.split_once(' ')?;
    assert!(["B", "kB", "MB", "KiB", "MiB"].contains(&unit), "{text}");
    decimal(number)?;
    decimal(pause)?;
    grouped(replayed)?;
    Some([from, from_machine, to, to_machine])
}

/// Parses a number with commas between groups of three digits.
fn grouped(text: &str) -> Option<u64> {
    let mut groups = text.split(',');
    let first = groups.next()?;
    let is_grouped = (1..=3).contains(&first.len()) && groups.all(|group| group.len() == 3);
    if is_grouped { text.replace(',', "").parse().ok() } else { None }
}

/// Parses a number with at most one digit after the point.
fn decimal(text: &str) -> Option<f64> {
    let (whole, tenth) = text.split_once('.').unwrap_or((text, "0"));
    let are_digits = whole.bytes().chain(tenth.bytes()).all(|byte| byte.is_ascii_digit());
    if are_digits && tenth.len() == 1 { text.parse().ok() } else { None }
}

// Help.

#[test]
fn help_gives_the_unit_of_each_quantity() {
    let help = lifeboat(["run", "--help"]).output();
    // The line breaks of the help text do not matter.
    let text = help.exits(0).split_whitespace().collect::<Vec<_>>().join(" ");
    for words in
        ["--fuel <N>", "[bytes; 64MiB, 10M, ...]", "[default: small]", "[percent, 20 to 100; default: 98]", "16 MiB"]
    {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
}

#[test]
fn help_lists_commands_with_exit_codes() {
    let all = lifeboat(["--help"]).output();
    for words in ["run", "simulate", "inspect", "Exit codes:", "  3  the loader refused the workload"] {
        assert!(all.exits(0).contains(words), "`{words}` is not in: {}", all.exits(0));
    }
}

#[test]
fn version_is_that_of_the_package() {
    assert_eq!(lifeboat(["--version"]).output().exits(0), concat!("lifeboat ", env!("CARGO_PKG_VERSION"), "\n"));
}

// Guests and transactions that are generated here.

/// Returns a variant of count.wat that answers everything but `refuse` with the body.
fn echo() -> Guest {
    guest_with("echo", "(local.get $body) (local.get $length)")
}

/// A guest in a file of its own, deleted at the end of the test.
struct Guest {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl std::ops::Deref for Guest {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.file
    }
}

/// Returns a variant of count.wat that answers everything but `refuse` with the bytes at this address and of this
/// length.
fn guest_with(name: &str, bytes: &str) -> Guest {
    let text = std::fs::read_to_string(guest("count.wat")).expect("a guest");
    let old = "    (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)";
    let new = "    (param i32 i32) (param $user i32) (param $user_length i32) (param i64 i64)
    (param $body i32) (param $length i32) (result i32)";
    let text = text.replacen(old, new, 1);
    let (execute, rest) = text.split_once("    (call $answer_count))").expect("the end of execute");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(name).with_extension("wat");
    std::fs::write(&file, format!("{execute}    (call $answer (i32.const 0) {bytes}))\n{rest}")).expect("a file");
    Guest { _folder: folder, file }
}

/// Returns a generator of the same numbers in every run, each below the requested bound (splitmix64).
fn numbers() -> impl FnMut(u64) -> u64 {
    let mut state = 7_u64;
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// Returns deposits, withdrawals and transfers among 300 accounts, some of which are refused.
fn ledger_transactions(count: usize) -> String {
    let mut number = numbers();
    let mut lines = String::new();
    for _ in 0..count {
        let (a, b, amount) = (number(300), number(300), 1 + number(999));
        let line = match number(10) {
            0..5 => json!({"deposit": {"account": format!("a{a}"), "amount": amount}}),
            5..7 => json!({"withdraw": {"account": format!("a{a}"), "amount": amount}}),
            _ => json!({"transfer": {"from": format!("a{a}"), "to": format!("a{b}"), "amount": amount}}),
        };
        writeln!(lines, "{line}").expect("a string takes everything");
    }
    lines
}

/// Returns notes that leave holes too small for the following ones, so that a compaction helps; then more notes than 2
/// MiB can hold.
fn note_transactions() -> String {
    let put = |name: String, bytes: usize| json!({"put": {"name": name, "text": "x".repeat(bytes)}});
    let small = (0..60).map(|index| put(format!("small-{index}"), 12_000));
    let most = (0..60).filter(|index| index % 4 != 0);
    let deleted = most.map(|index| json!({"delete": {"name": format!("small-{index}")}}));
    let large = (0..8).map(|index| put(format!("large-{index}"), 40_000));
    let mut number = numbers();
    let churn = (0..800).map(|_| match (number(4), format!("note-{}", number(200))) {
        (0, name) => json!({"delete": {"name": name}}),
        (_, name) => put(name, 1 + number(30_000) as usize),
    });
    let mut lines = String::new();
    for line in small.chain(deleted).chain(large).chain(churn) {
        writeln!(lines, "{line}").expect("a string takes everything");
    }
    lines
}

#[cfg(target_os = "linux")]
#[test]
fn a_host_that_cannot_write_the_replies_exits_with_4() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let transactions = crate::util::transactions("counter");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["run", "--transactions"])
        .arg(transactions)
        .arg(prebuilt("counter"))
        .env("XDG_CACHE_HOME", crate::util::CACHE)
        .stdout(full)
        .output()
        .expect("the built binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    let printed =
        "lifeboat: cannot write the replies: the service and its state ended with this run: make room for the replies";
    assert!(stderr.contains(printed) && stderr.contains("no space left on the device"), "{stderr}");
}

/// Runs a workload under a limit of its address space, in KiB.
fn run_under_limit(kib: u64) -> Output {
    shell(&format!("ulimit -v {kib} && lifeboat run workloads/prebuilt/counter.wasm")).input("{\"add\":1}\n").output()
}

#[test]
fn a_run_reserves_no_more_than_its_workload_needs() {
    // Two machines with a slot each, and the service's share of the maintenance pool, of 4 GiB each.
    run_under_limit(32 << 20).exits(0);
}

#[test]
fn a_limit_of_address_space_that_is_too_low_is_named() {
    let low = run_under_limit(16 << 20);
    low.exits_with_one_line(
        4,
        &["24 GiB of address space", "under a limit of 16 GiB", "to 26 GiB (ulimit -v 27262976)"],
    );
    assert!(!low.stderr.contains("mmap"), "{}", low.stderr);
}
