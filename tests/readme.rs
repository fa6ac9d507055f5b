//! What README.md promises. Its guest example is built in `toolchain.rs`.

use crate::util::{lifeboat, readme_blocks};

/// The commands of the first block, which are all that a newcomer has to type.
fn commands() -> Vec<String> {
    let block = readme_blocks("sh").into_iter().next().expect("README.md has a block of shell commands");
    block.lines().map(str::to_owned).collect()
}

#[test]
fn two_commands_are_all_the_set_up() {
    assert_eq!(commands(), ["cargo run --release -- simulate", "cargo test --release --workspace"]);
}

#[test]
fn simulate_command_runs_and_loses_nothing() {
    let commands = commands();
    // Not through cargo, which would wait for the build that runs this test.
    let arguments = commands[0].strip_prefix("cargo run --release -- ").expect("the first command runs lifeboat");
    let output = lifeboat(arguments.split(' ')).output();
    let report = output.exits(0);
    assert!(report.contains("lost 0") && report.contains("duplicated 0"), "{report}");
}

#[test]
fn guest_example_is_there() {
    let example = readme_blocks("rust").into_iter().next().expect("README.md has a block of Rust");
    assert!(example.contains("#[workload]") && example.lines().count() <= 15, "{example}");
}
