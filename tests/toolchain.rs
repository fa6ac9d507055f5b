//! Tests that need a Rust toolchain for `wasm32-wasip1`: guests are built from source and compared with the committed
//! ones.
//!
//! They are a separate suite, since `cargo test --release --workspace` must work without the toolchain. They are never
//! skipped: without a toolchain, they fail and report what to install.
//!
//! ```sh
//! cargo test --release -p lifeboat --features wasm-toolchain --test toolchain
//! ```

mod reloads;
#[allow(dead_code, reason = "the other suite uses all of it")]
mod util;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use reloads::assert_reloads_with_its_state;
use util::{WORKLOADS, lifeboat, prebuilt, readme_blocks, root, shell, transactions};

/// Held while guests are built: the first build may install a standard library for all of them.
static BUILD: Mutex<()> = Mutex::new(());

/// Runs `workloads/build.sh`, and returns what it reports. It only downloads dependencies of the workspace's lock file.
#[track_caller]
fn build(arguments: &[&str], into: &Path) -> String {
    run_script("workloads/build.sh", arguments, into)
}

/// Runs a script that builds guests, and returns what it reports.
#[track_caller]
fn run_script(script: &str, arguments: &[&str], into: &Path) -> String {
    let _one_at_a_time = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(root().join(script))
        .args(arguments)
        .arg("--into")
        .arg(into)
        // cargo sets this for tests, to the libraries of a compiler that may not be the one that builds guests.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .expect("the script starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed, this suite needs what it asks for:\n{stderr}");
    stderr.into_owned()
}

#[test]
fn rebuilt_workloads_answer_as_the_prebuilt_ones_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    build(&[], folder.path());
    for name in WORKLOADS {
        let replies = |workload: &Path| {
            let run = lifeboat(["run", "--transactions"]).arg(transactions(name)).arg(workload).output();
            run.exits(1).to_owned()
        };
        let rebuilt = folder.path().join(name).with_extension("wasm");
        assert_eq!(replies(&prebuilt(name)), replies(&rebuilt), "{name}");
    }
    let sources = |folder: &Path| std::fs::read_to_string(folder.join("SOURCES")).expect("SOURCES");
    assert_eq!(sources(folder.path()), sources(&root().join("workloads/prebuilt")));
}

#[test]
fn rebuilt_programs_answer_as_the_prebuilt_ones_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    run_script("workloads/build-programs.sh", &[], folder.path());
    let rebuilt = |name: &str| folder.path().join(name).with_extension("wasm");
    let rows = |program: &Path| {
        let lines = root().join("workloads/sql.transactions.txt");
        lifeboat(["run", "--transactions"]).arg(lines).arg(program).output().exits(1).to_owned()
    };
    assert_eq!(rows(&prebuilt("sql")), rows(&rebuilt("sql")));
    let counts = |program: &Path| lifeboat(["run"]).arg(program).input("one two\n").output().exits(0).to_owned();
    assert_eq!(counts(&prebuilt("wordcount")), counts(&rebuilt("wordcount")));
    let listed = |folder: &Path| std::fs::read_to_string(folder.join("PROGRAMS")).expect("PROGRAMS");
    assert_eq!(listed(folder.path()), listed(&root().join("workloads/prebuilt")));
}

#[test]
fn guest_example_of_the_readme_builds_a_counter() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let example = readme_blocks("rust").into_iter().next().expect("README.md has a guest example");
    let manifest = readme_blocks("toml").into_iter().find(|block| block.contains("[lib]")).expect("its Cargo.toml");
    assert!(manifest.contains("path = \"guest\""), "{manifest}");
    let guest = format!("path = {:?}", root().join("guest"));
    let package = "[package]\nname = \"example\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n";
    let manifest = package.to_owned() + &manifest.replace("path = \"guest\"", &guest);
    let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).expect("a temporary file");
    std::fs::create_dir(folder.path().join("src")).expect("a temporary folder");
    write("Cargo.toml", &manifest);
    write("src/lib.rs", &example);
    // The versions of the workspace, so that nothing is resolved again.
    write("Cargo.lock", &std::fs::read_to_string(root().join("Cargo.lock")).expect("the lock file"));

    let crate_manifest = folder.path().join("Cargo.toml");
    let report = build(&["--crate", crate_manifest.to_str().expect("a path in UTF-8")], folder.path());
    assert!(!report.contains("warning"), "{report}");
    let run = lifeboat(["run"]).arg(folder.path().join("example.wasm")).input("1\n41\n").output();
    assert_eq!(run.exits(0), "1\n42\n");
    let overflowing = format!("1\n{}\n1\n", i64::MAX);
    let run = lifeboat(["run"]).arg(folder.path().join("example.wasm")).input(overflowing.as_str()).output();
    assert!(run.exits(1).starts_with("1\n") && run.exits(1).ends_with("\n2\n"), "{}", run.exits(1));
}

#[test]
fn template_for_rust_passes_its_tests_and_fails_over_and_has_no_bugs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let new = lifeboat(["new", "rust", "my-tally"]).within(folder.path()).output();
    let run = new.exits(0).lines().last().expect("there are commands").to_owned();
    let folder = folder.path().join("my-tally");
    // The versions of the workspace, so that nothing is resolved again.
    let lock = std::fs::read(root().join("Cargo.lock")).expect("the lock file");
    std::fs::write(folder.join("Cargo.lock"), lock).expect("a temporary file");
    let target = root().join("target-guest/other");
    let target = target.to_str().expect("a path in UTF-8");
    shell("cargo test").env("CARGO_TARGET_DIR", target).within(&folder).output().exits(0);
    let manifest = folder.join("Cargo.toml");
    let report = build(&["--crate", manifest.to_str().expect("a path in UTF-8")], &folder);
    assert!(!report.contains("warning"), "{report}");

    let moved = shell(&run.replace("target/wasm32-wasip1/release/", "")).within(&folder).output();
    assert!(moved.exits(0).ends_with("\n1830\n"), "{}", moved.exits(0));
    assert!(moved.stderr.contains("Trigger process failover: triggered: my_tally/1 "), "{}", moved.stderr);
    let check = lifeboat(["check", "--query", "\"total\"", "--transactions", "transactions.jsonl", "my_tally.wasm"]);
    let output = check.within(&folder).output();
    assert!(output.exits(0).contains(": 0 findings, "), "{}", output.exits(0));
}

#[test]
fn template_for_rust_is_reloaded_with_its_state() {
    let parent = tempfile::tempdir().expect("a temporary folder");
    lifeboat(["new", "rust", "my-tally"]).within(parent.path()).output().exits(0);
    let folder = parent.path().join("my-tally");
    // The versions of the workspace, so that nothing is resolved again.
    let lock = std::fs::read(root().join("Cargo.lock")).expect("the lock file");
    std::fs::write(folder.join("Cargo.lock"), lock).expect("a temporary file");
    // `lifeboat dev` runs cargo by itself, which finds the compiler for guests in the environment.
    let environment = "
        exports=$(workloads/toolchain.sh) || exit
        eval \"$exports\"
        unset LD_LIBRARY_PATH
        export CARGO_TARGET_DIR=\"$PWD/target-guest/dev\"
        cd \"$GUEST\" || exit
    ";
    let within = |command: &str| shell(&format!("{environment}{command}\n")).env("GUEST", &folder);
    let _one_at_a_time = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    // It writes the lock file. With its dependencies, it may take longer than the session of a test.
    within("cargo build --release --target wasm32-wasip1").output().exits(0);
    let dev = within("exec lifeboat dev");
    assert_reloads_with_its_state(dev, &folder, "src/lib.rs", ("checked_add(add)", "checked_add(add + 100)"));
}
