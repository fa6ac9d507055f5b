//! Tests that need compilers of other languages: a workload of each template of `lifeboat new` is built by the commands
//! that it prints, fails over, is checked, and is changed in a session of `lifeboat dev`.
//!
//! Programs of others are downloaded as well, and end as `docs/compatibility.md` says.
//!
//! They are a separate suite, since `cargo test --release --workspace` must work without network. They need `npm`,
//! `python3` with `venv`, `make` and a C compiler, and download the compilers for WebAssembly from npm and PyPI (about
//! 600 MB). They are never skipped: without these, they fail and report what is missing. `toolchain.rs` has the test of
//! the template for Rust.
//!
//! ```sh
//! cargo test --release -p lifeboat --features language-toolchains --test languages
//! ```

mod reloads;
#[allow(dead_code, reason = "the other suites use all of it")]
mod util;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;

use reloads::assert_reloads_with_its_state;
use util::{lifeboat, root, shell};

/// Builds a new workload of this language, and runs its transactions in small VMs and in one of size large. Returns its
/// folder.
fn builds_and_fails_over(language: &str) -> TempDir {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let new = lifeboat(["new", language, "tally"]).within(parent.path()).output();
    let (build, run) = new.exits(0).trim_end().rsplit_once('\n').expect("there are several commands");
    shell(&format!("set -e\n{build}\n")).within(parent.path()).output().exits(0);

    let folder = parent.path().join("tally");
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
    parent
}

/// Builds a new workload of this language, and checks that nothing is found in it. One of its transactions is refused.
/// Returns its folder.
fn builds_and_has_no_bugs(language: &str) -> TempDir {
    let parent = builds_and_fails_over(language);
    let folder = parent.path().join("tally");
    let transactions = std::fs::read_to_string(folder.join("transactions.jsonl")).expect("the transactions");
    std::fs::write(folder.join("checked.jsonl"), transactions + "\"five\"\n").expect("a temporary file");
    let check = lifeboat(["check", "--query", "\"total\"", "--transactions", "checked.jsonl", "tally.wasm"]);
    let output = check.within(&folder).output();
    assert!(output.exits(0).contains(": 0 findings, "), "{}", output.exits(0));
    parent
}

/// Builds a new workload of this language, checks that nothing is found in it, and changes it while it runs: in the
/// source, `from` becomes `to`, which adds 100 more.
fn builds_and_has_no_bugs_and_reloads(language: &str, source: &str, from: &str, to: &str) {
    let parent = builds_and_has_no_bugs(language);
    let folder = parent.path().join("tally");
    // `make` or `npm run build`, as the files in the folder show.
    assert_reloads_with_its_state(lifeboat(["dev"]).within(&folder), &folder, source, (from, to));
}

#[test]
fn workload_in_javascript_builds_and_fails_over_and_has_no_bugs_and_reloads() {
    builds_and_has_no_bugs_and_reloads("js", "src/counter.js", "this.total += add;", "this.total += add + 100;");
}

#[test]
fn workload_in_python_builds_and_fails_over_and_has_no_bugs_and_reloads() {
    builds_and_has_no_bugs_and_reloads("python", "counter.py", "self.total += add\n", "self.total += add + 100\n");
}

#[test]
fn workload_in_assemblyscript_builds_and_fails_over_and_has_no_bugs_and_reloads() {
    let source = "assembly/counter.ts";
    builds_and_has_no_bugs_and_reloads("assemblyscript", source, "total + number;", "total + number + 100;");
}

#[test]
fn workload_in_c_builds_and_fails_over_and_has_no_bugs_and_reloads() {
    builds_and_has_no_bugs_and_reloads("c", "counter.c", "total = sum;", "total = sum + 100;");
}

#[test]
fn workload_in_go_builds_and_fails_over_and_has_no_bugs_and_reloads() {
    builds_and_has_no_bugs_and_reloads("go", "counter.go", "c.Total = sum\n", "c.Total = sum + 100\n");
}

#[test]
fn workload_in_zig_builds_and_fails_over_and_has_no_bugs_and_reloads() {
    builds_and_has_no_bugs_and_reloads("zig", "counter.zig", "add(i64, total, add)", "add(i64, total + 100, add)");
}

/// The cells of a line of a table, without the `\` before a `|` in a cell.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim_matches('|').replace("\\|", "\0");
    line.split('|').map(|cell| cell.trim().replace('\0', "|")).collect()
}

/// What stands between the first two backquotes.
fn quoted(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("no backquotes in {cell}"))
}

/// Downloads a package, such as "npm `left-pad@1.3.0`", and returns its folder within `parent`.
fn download(package: &str, parent: &std::path::Path) -> PathBuf {
    let (registry, spec) = package.split_once(' ').expect("a registry and a package");
    let spec = spec.trim_matches('`');
    let folder = parent.join(spec.replace('/', "-"));
    std::fs::create_dir(&folder).expect("it is new");
    let (fetch, within) = match registry {
        "npm" => (format!("tar xzf \"$(npm pack --silent {spec})\""), folder.join("package")),
        "PyPI" => {
            let fetch = format!("python3 -m pip download --quiet --no-deps {spec} && python3 -m zipfile -e *.whl .");
            (fetch, folder.clone())
        }
        other => panic!("{other} is no registry"),
    };
    shell(&format!("set -e\n{fetch}\n")).within(&folder).output().exits(0);
    within
}

#[test]
fn programs_of_others_end_as_the_page_says() {
    let page = std::fs::read_to_string(root().join("docs/compatibility.md")).expect("the page");
    let (runs, refused) = page.split_once("## Programs that are refused").expect("two tables");
    let (_, script) = page.split_once("```php\n").expect("a file");
    let (script, _) = script.split_once("```").expect("its end");
    let parent = tempfile::tempdir().expect("a temporary folder");
    let mut folders = BTreeMap::new();
    for (table, code, least) in [(runs, 0, 7), (refused, 3, 8)] {
        let lines: Vec<_> =
            table.lines().filter(|line| line.starts_with("| npm ") || line.starts_with("| PyPI ")).collect();
        assert!(lines.len() >= least, "{lines:?}");
        for line in lines {
            let cells = cells(line);
            let [package, _, command, outcome] = &cells[..] else { panic!("four cells: {line}") };
            let folder = folders.entry(package.clone()).or_insert_with(|| {
                let folder = download(package, parent.path());
                std::fs::write(folder.join("hello.php"), script).expect("it is written");
                folder
            });
            let output = shell(quoted(command)).within(&*folder).output();
            let printed = output.exits(code);
            let printed = if code == 0 { printed } else { &output.stderr };
            assert!(printed.contains(quoted(outcome)), "{command}: {printed}");
        }
    }
}
