//! The output and the exit codes of `lifeboat check`. What it finds is tested in `host/check/tests`.

use crate::util::{guest, lifeboat, prebuilt, root, transactions};
use std::path::Path;

#[test]
fn the_command_prints_a_table_and_json_with_their_exit_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let changed = |from: &str, to: &str| {
        let text = std::fs::read_to_string(guest("tally.wat")).expect("a guest");
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let transactions = write("transactions", "a\nb\nrefused\nc\n");
    let good = write("good.wat", &changed("", ""));
    let nothing = "(param $timestamp i64) nop)";
    let warned = write("warned.wat", &changed(nothing, "(param $timestamp i64) (drop (memory.grow (i32.const 1))))"));
    let wrong =
        write("wrong.wat", &changed("(result i32) (call $read_count) (i32.const 0)", "(result i32) (i32.const 0)"));
    let check = |guest: &Path, more: &[&str]| {
        let arguments = ["check", "--query", "q", "--transactions"];
        lifeboat(arguments).arg(&transactions).args(more).arg(guest).output()
    };
    // A long line continues below, after two spaces.
    let unfolded = |text: &str| text.replace("\n  ", " ");
    let summary = ": 0 findings, 0 warnings in 4 transactions (3 ok, 1 refused, 0 failed) with 5 moves and 1 query";
    let text = unfolded(check(&good, &[]).exits(0));
    assert!(text.contains(summary), "{text}");
    let run = check(&good, &["--json"]);
    assert!(run.exits(0).contains("\"no_ok\": false") && run.stderr.is_empty(), "{}", run.stderr);
    assert!(check(&warned, &[]).exits(0).contains("warning, memory-leak:"));
    let text = unfolded(check(&warned, &["--strict"]).exits(1));
    assert!(text.contains(": 0 findings, 1 warning in 4 transactions"), "{text}");
    let run = check(&wrong, &[]);
    let text = run.exits(1);
    assert!(text.starts_with("transaction   finding") && text.contains("\nline 2        beside-state:"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let run = check(&wrong, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(run.exits(1)).expect("JSON");
    assert_eq!((&json["ok"], &json["findings"][0]["kind"]), (&false.into(), &"beside-state".into()));
    assert_eq!((&json["findings"][0]["line"], &json["outcomes"]["refused"]), (&2.into(), &1.into()));
    let document = std::fs::read_to_string(root().join("docs/check.md")).expect("the page");
    for value in [&json, &json["findings"][0]] {
        for field in value.as_object().expect("an object").keys() {
            assert!(document.contains(&format!("`{field}`")), "docs/check.md lacks {field}");
        }
    }
    // A kind that is allowed is shown, and is no finding.
    let allow = ["--allow", "memory-leak", "--allow", "beside-state"];
    let text = unfolded(check(&wrong, &allow).exits(0));
    assert!(text.starts_with("allowed: beside-state: line 2: ") && text.contains(": 0 findings, 0 warnings"), "{text}");
    check(&wrong, &allow[..2]).exits(1);
    let run = check(&wrong, &["--json", "--strict", "--allow", "beside-state"]);
    let json: serde_json::Value = serde_json::from_str(run.exits(0)).expect("JSON");
    assert_eq!((&json["findings"], &json["allowed"][0]["line"]), (&serde_json::json!([]), &2.into()));
    let words = ["--allow: there is no kind 'memory': use one of field-missing, ", ", call-before-refusal"];
    check(&wrong, &["--allow", "memory"]).exits_with_one_line(2, &words);
    // Files that are not as they should be.
    let empty = write("empty", "");
    let run = lifeboat(["check", "--transactions"]).arg(&empty).arg(&good).output();
    run.exits_with_one_line(2, &["empty: it has no transactions; write one on each line"]);
    let run = lifeboat(["check", "--envelope", "--transactions"]).arg(&transactions).arg(&good).output();
    run.exits_with_one_line(2, &["line 1 is not an envelope"]);
    let unstartable = write("start.wat", &changed(";; extra", "(func $boom unreachable) (start $boom)"));
    let profile = lifeboat(["profile", "--transactions"]).arg(&transactions).arg(&unstartable).output();
    for run in [check(&unstartable, &[]), profile] {
        let line = run.exits_with_one_line(3, &["start.wat: failed to instantiate: trap: ", "; in boom"]);
        assert!(!line.contains("inspect"), "a trap is nothing that the workload needs: {line}");
    }
    check(&good, &["--size", "tiny"]).exits_with_one_line(2, &["there is no size 'tiny': use one of small, medium"]);
}

#[test]
fn a_file_for_another_workload_is_noted_and_has_the_exit_code_of_a_finding() {
    let check = |more: &[&str]| {
        let run = lifeboat(["check"]).args(more).arg("--transactions").arg(transactions("ledger"));
        let output = run.arg(prebuilt("notes")).output();
        output.exits(1);
        assert!(output.stderr.starts_with("lifeboat: no transaction was ok: is "), "{}", output.stderr);
        assert!(output.stderr.ends_with("ledger.transactions.jsonl for this workload?\n"), "{}", output.stderr);
        output
    };
    // A long line continues below, after two spaces.
    assert!(check(&[]).exits(1).replace("\n  ", " ").contains("(0 ok, 150 refused, 0 failed)"));
    check(&["--strict"]);
    let json: serde_json::Value = serde_json::from_str(check(&["--json"]).exits(1)).expect("JSON");
    assert_eq!((&json["ok"], &json["no_ok"], &json["outcomes"]["ok"]), (&false.into(), &true.into(), &0.into()));
}

#[test]
fn the_first_failure_is_named_if_no_transaction_was_ok() {
    let folder = tempfile::tempdir().expect("a folder");
    let tally = std::fs::read_to_string(guest("tally.wat")).expect("a guest");
    let nothing = "(func $before_execute (param $length i32) (param $sequence i64) (param $timestamp i64) nop)";
    assert!(tally.contains(nothing), "{tally}");
    let transactions = folder.path().join("transactions");
    std::fs::write(&transactions, "refused\nnever\n").expect("a file");
    let check = |does: &str, more: &[&str]| {
        let workload = folder.path().join("failing.wat");
        let execute = format!(
            "(func $before_execute (param $length i32) (param i64 i64) (if (i32.eq (local.get $length) (i32.const 5)) \
             (then {does})))"
        );
        std::fs::write(&workload, tally.replace(nothing, &execute)).expect("a file");
        lifeboat(["check", "--transactions"]).arg(&transactions).args(more).arg(&workload).output()
    };
    let run = check("(loop $again (br $again))", &[]);
    run.exits(1);
    let expected = " for this workload? Line 2 failed: cpu: it needs more than a full tank of 50,000,000 fuel; ";
    assert!(
        run.stderr.contains(expected) && run.stderr.ends_with("; or check it with --size medium\n"),
        "{}",
        run.stderr
    );
    let run = check("unreachable", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(run.exits(1)).expect("JSON");
    let failure = &json["first_failure"];
    assert_eq!((&failure["line"], &failure["id"]), (&2.into(), &"line-2".into()));
    assert!(failure["cause"].as_str().is_some_and(|cause| cause.contains("in before_execute")), "{failure}");
    assert!(failure.get("larger_size").is_none() && run.stderr.contains("Line 2 failed: trap: "), "{}", run.stderr);
    let document = std::fs::read_to_string(root().join("docs/check.md")).expect("the page");
    for field in ["first_failure", "cause", "larger_size"] {
        assert!(document.contains(&format!("`{field}`")), "docs/check.md lacks {field}");
    }
}

#[test]
fn the_state_of_a_deployed_release_is_restored_from_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, old) = (folder.path().join("data"), folder.path().join("old.snapshot"));
    let text = std::fs::read_to_string(guest("tally.wat")).expect("a guest");
    let newer = text
        .replace("(func $version (result i32) (i32.const 1))", "(func $version (result i32) (i32.const 2))")
        .replace("(i32.eq (local.get $version) (i32.const 1)))", "(i32.eq (local.get $version) (i32.const 2)))");
    let (good, new) = (folder.path().join("good.wat"), folder.path().join("new.wat"));
    let transactions = folder.path().join("transactions");
    for (path, text) in [(&good, text.as_str()), (&new, newer.as_str()), (&transactions, "a\nb\n")] {
        std::fs::write(path, text).expect("a file");
    }
    let run = lifeboat(["run", "--service", "tally", "--data"]).arg(&data).arg(&good).input("a\nb\n").output();
    assert_eq!(run.exits(0), "1\n2\n");
    lifeboat(["data", "snapshot", "tally", "--data"]).arg(&data).arg("--out").arg(&old).output().exits(0);
    let check = |guest: &Path| {
        let run = lifeboat(["check", "--query", "q", "--from"]).arg(&old).arg("--transactions").arg(&transactions);
        run.arg(guest).output()
    };
    assert!(check(&good).exits(0).contains("0 findings"));
    assert!(check(&new).exits(1).contains("older-snapshot:"));
}
