//! Tests that need compilers of other languages: a workload of each template of `lifeboat new` is built by the commands
//! that it prints, and fails over.
//!
//! They are a separate suite, since `cargo test --release --workspace` must work without network. They need `npm`,
//! `python3` with `venv`, `make` and a C compiler, and download the compilers for WebAssembly from npm and PyPI (about
//! 600 MB). They are never skipped: without these, they fail and report what is missing. `toolchain.rs` has the test of
//! the template for Rust.
//!
//! ```sh
//! cargo test --release -p lifeboat --features language-toolchains --test languages
//! ```

#[allow(dead_code, reason = "the other suites use all of it")]
mod util;

use util::{lifeboat, shell};

/// Builds a new workload of this language, and runs its transactions in small VMs and in one of size large.
fn builds_and_fails_over(language: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let new = lifeboat(["new", language, "tally"]).within(folder.path()).output();
    let (build, run) = new.exits(0).trim_end().rsplit_once('\n').expect("there are several commands");
    shell(&format!("set -e\n{build}\n")).within(folder.path()).output().exits(0);

    let folder = folder.path().join("tally");
    let moved = shell(run).within(&folder).output();
    assert!(moved.exits(0).ends_with("\n1830\n"), "{}", moved.exits(0));
    assert!(moved.stderr.contains("Trigger process failover: triggered: tally/1 "), "{}", moved.stderr);
    let run = lifeboat(["run", "--size", "large", "--transactions", "transactions.jsonl", "tally.wasm"]);
    assert_eq!(run.within(&folder).output().exits(0), moved.exits(0));

    // A body of another kind is refused, and changes nothing.
    let run = lifeboat(["run", "tally.wasm"]).input("5\n\"five\"\n{\"add\":5}\n-2\n");
    let output = run.within(&folder).output();
    let replies: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((replies.len(), replies[0], replies[3]), (4, "5", "3"), "{replies:?}");
    assert!(replies[1..3].iter().all(|reply| reply.contains("\"refused\"")), "{replies:?}");
}

#[test]
fn workload_in_javascript_builds_and_fails_over() {
    builds_and_fails_over("js");
}

#[test]
fn workload_in_python_builds_and_fails_over() {
    builds_and_fails_over("python");
}

#[test]
fn workload_in_assemblyscript_builds_and_fails_over() {
    builds_and_fails_over("assemblyscript");
}

#[test]
fn workload_in_c_builds_and_fails_over() {
    builds_and_fails_over("c");
}

#[test]
fn workload_in_go_builds_and_fails_over() {
    builds_and_fails_over("go");
}

#[test]
fn workload_in_zig_builds_and_fails_over() {
    builds_and_fails_over("zig");
}
