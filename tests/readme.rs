//! What README.md and the pages of docs/ promise. README.md's guest example is built in
//! `toolchain.rs`, and docs/tutorial.md is followed in `tutorial.rs`.

use crate::util::{blocks, lifeboat, readme_blocks, root, shell};
use tempfile::TempDir;

/// The text of a file, by its path from the folder of the workspace.
#[track_caller]
fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The commands of one of a document's blocks.
#[track_caller]
fn commands(document: &str, block: usize) -> Vec<String> {
    let blocks = blocks(document, "sh");
    let block = blocks.get(block).unwrap_or_else(|| panic!("{document} has {} blocks of commands", blocks.len()));
    block.lines().map(str::to_owned).collect()
}

/// A folder in which commands can leave files, with the sample workloads in it.
fn folder_with_workloads() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(root().join("workloads"), folder.path().join("workloads")).expect("a link");
    folder
}

#[test]
fn two_commands_are_all_the_set_up() {
    assert_eq!(commands("README.md", 0), ["cargo run --release -- simulate", "cargo test --release --workspace"]);
}

#[test]
fn simulate_command_loses_nothing() {
    let commands = commands("README.md", 0);
    // Not through cargo, which would wait for the build that runs this test.
    let arguments = commands[0].strip_prefix("cargo run --release -- ").expect("the first command runs lifeboat");
    let output = lifeboat(arguments.split(' ')).output();
    let report = output.exits(0);
    assert!(report.contains("lost 0, duplicated 0"), "{report}");
}

#[test]
fn quick_start_prints_what_stands_below_it() {
    let commands = commands("README.md", 1);
    let (install, others) = commands.split_first().expect("a command");
    assert_eq!(install, "cargo install --locked --path host/cli");
    let folder = folder_with_workloads();
    let output = shell(&format!("set -e\n{}", others.join("\n"))).within(folder.path()).output();

    let shown = readme_blocks("text").into_iter().next().expect("README.md has a block of output");
    let (events, replies): (Vec<_>, Vec<_>) =
        shown.lines().partition(|line| line.starts_with("SLA failure: ") || line.starts_with("Trigger "));
    assert!(events.len() >= 2 && replies.len() >= 2, "{shown}");
    let mut printed = output.exits(0).lines();
    for reply in replies {
        assert!(printed.any(|line| line == reply), "no `{reply}`, or not in this order:\n{}", output.exits(0));
    }
    let mut logged = output.stderr.lines().map(before_the_pause);
    for event in events {
        let is_logged = logged.any(|line| line == before_the_pause(event));
        assert!(is_logged, "no `{event}`, or not in this order:\n{}", output.stderr);
    }
}

/// The part of an event's line that is the same in every run.
fn before_the_pause(line: &str) -> &str {
    line.split_once(", pause ").map_or(line, |(before, _)| before)
}

#[test]
fn run_and_inspect_commands_do_what_it_says() {
    let commands = commands("README.md", 2);
    let [echo, ledger, inspect] = &commands[..] else { panic!("other commands: {commands:?}") };
    assert_eq!(shell(echo).output().exits(0), "1\n");

    let tight = shell(ledger).output();
    let roomy = shell(&ledger.replace("--fuel 200000", "--size huge")).output();
    assert_eq!(tight.exits(1), roomy.exits(1));
    assert!(tight.stderr.contains("Trigger process failover: triggered: "), "{}", tight.stderr);
    assert!(!roomy.stderr.contains("failover:"), "{}", roomy.stderr);

    assert!(shell(inspect).output().exits(0).contains("notes.wasm"));
}

#[test]
fn repetition_is_answered_again() {
    let script = commands("docs/transactions.md", 0).join("\n");
    assert_eq!(shell(&script).output().exits(0), "5\n5\n5\n");
}

#[test]
fn service_is_kept_proven_and_copied() {
    let folder = folder_with_workloads();
    let mut outputs = Vec::new();
    for command in commands("docs/data-directory.md", 0) {
        let output = shell(&command).within(folder.path()).output();
        outputs.push((output.exits(0).to_owned(), command));
    }
    let [create, go_on, services, journal, verify, query, ..] = &outputs[..] else { panic!("others: {outputs:?}") };
    assert_eq!((&*create.0, &*go_on.0, &*query.0), ("40\n", "42\n", "40\n"));
    assert!(services.0.contains("sound") && journal.0.contains("{\"add\":2} -> ok 42"), "{outputs:?}");
    assert!(verify.0.contains("bank: proven from transaction 0 to 2"), "{}", verify.0);
}

#[test]
fn whole_counter_is_under_15_lines() {
    let example = readme_blocks("rust").into_iter().next().expect("README.md has a block of Rust");
    let lines = example.lines().filter(|line| !line.is_empty()).count();
    assert!(example.contains("#[workload]") && lines < 15, "{lines} lines: {example}");
}

#[test]
fn whole_counter_is_the_one_of_the_guest_crate() {
    let example = readme_blocks("rust").into_iter().next().expect("README.md has a block of Rust");
    let tested = text("guest/tests/pass/counter.rs");
    let (workload, _) = tested.split_once("\nfn main").expect("the workload comes first");
    assert_eq!(example.trim_end(), workload.trim_end(), "guest/tests/pass/counter.rs runs another one");
    let documented: String = text("guest/src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.trim_start_matches(' ')))
        .collect();
    let unindented = |text: &str| text.lines().map(|line| format!("{}\n", line.trim_start())).collect::<String>();
    let manifest = readme_blocks("toml").into_iter().find(|block| block.contains("[lib]")).expect("its Cargo.toml");
    for block in [&example, &manifest] {
        assert!(documented.contains(&unindented(block)), "guest/src/lib.rs shows another one than\n{block}");
    }
    assert!(example.contains("checked_add") && manifest.contains("overflow-checks = true"));
}
