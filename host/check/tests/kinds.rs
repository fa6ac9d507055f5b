//! What a check finds: exactly one kind in each wrong guest, and nothing in the good ones.
//!
//! The wrong guests are `tests/guests/tally.wat` with a few functions replaced, `assembled/call.wat` for calls to the
//! network, and a program for bugs of programs. Each has the bug of its name and no other.

use lifeboat_api::transaction::{Answer, Cause};
use lifeboat_check::{Guest, Input, Kind, MOVES_MAX, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The sample workloads, with queries that show their state.
const WORKLOADS: [(&str, &[&str]); 6] = [
    ("archive", &["\"stats\"", r#"{"get":"invoice_1042"}"#, r#"{"find":""}"#]),
    ("counter", &["\"total\""]),
    ("courier", &["\"count\"", r#"{"receipts":"line-1"}"#]),
    ("crunch", &["\"summary\""]),
    ("ledger", &["\"total\"", "\"accounts\"", r#"{"balance":"alice"}"#]),
    ("notes", &["\"summary\"", r#"{"get":"note-22"}"#]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns a guest of `tests/guests`.
fn guest_text(file: &str) -> String {
    std::fs::read_to_string(root().join("tests/guests").join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Turns a core module that imports `wasi:http` into a component.
fn component_with_http(module: &str) -> Vec<u8> {
    const WORLD: &str = "package test:http;
        world http {
          include lifeboat:vm/vm@0.1.0;
          import wasi:http/types@0.2.12;
          import wasi:http/outgoing-handler@0.2.12;
        }";
    let mut resolve = Resolve::default();
    for file in ["wit/vm.wit", "vm/wasi/deps/io.wit", "vm/wasi/deps/clocks.wit", "vm/wasi/deps/http.wit"] {
        let text = std::fs::read_to_string(root().join("host").join(file)).expect("it can be read");
        resolve.push_str(file, &text).unwrap_or_else(|error| panic!("{file}: {error:?}"));
    }
    let package = resolve.push_str("world.wit", WORLD).unwrap_or_else(|error| panic!("{error:?}"));
    let world = resolve.select_world(&[package], Some("http")).expect("it is there");
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}\n{module}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("a world");
    let mut encoder = ComponentEncoder::default().module(&module).unwrap_or_else(|error| panic!("{error:?}"));
    encoder.encode().unwrap_or_else(|error| panic!("{error:?}"))
}

/// A wrong guest: what it adds to the good one, and the functions that it replaces.
struct Wrong {
    kind: Kind,
    extra: &'static str,
    functions: &'static [&'static str],
}

/// Imports of WASI preview 1.
const RANDOM: &str = r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
const CLOCK: &str =
    r#"(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))"#;

/// Returns the guest with its changes.
fn changed(extra: &str, functions: &[&str]) -> String {
    let good = guest_text("tally.wat");
    let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
    for function in functions {
        let name = function.split_whitespace().nth(1).expect("a name");
        let begins =
            |line: &String| line.split_whitespace().nth(1).is_some_and(|word| word.trim_end_matches(')') == name);
        let line = lines.iter().position(begins).unwrap_or_else(|| panic!("the guest has no function {name}"));
        assert!(lines[line].starts_with("  (func ") && lines[line].ends_with(')'), "{name} takes one line");
        lines[line] = (*function).to_owned();
    }
    lines.join("\n").replace(";; extra", extra)
}

/// Returns twenty transactions, three of them refused, and a query.
fn input() -> Input {
    let body = |index: usize| if index % 7 == 6 { format!("refused-{index}") } else { format!("add-{index}") };
    Input::of_bodies((0..20).map(body)).with_queries(["count"])
}

#[track_caller]
fn checked(name: &str, guest: &[u8], input: &Input) -> Report {
    let guest = Guest::from_bytes(name, guest).unwrap_or_else(|error| panic!("{name}: {error}"));
    guest.check(input).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn finds(wrong: &[Wrong]) {
    for Wrong { kind, extra, functions } in wrong {
        let report = checked(kind.name(), changed(extra, functions).as_bytes(), &input());
        assert_eq!(report.kinds(), [*kind], "{kind} with {functions:?}:\n{report}");
    }
}

#[test]
fn nothing_is_found_in_a_good_guest() {
    let report = checked("tally.wat", guest_text("tally.wat").as_bytes(), &input());
    assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{report}");
    assert_eq!((report.outcomes.ok, report.outcomes.refused, report.outcomes.failed), (18, 2, 0));
    assert_eq!((report.transactions, report.queries, report.moves), (20, 1, 21));
}

#[test]
fn nothing_is_found_if_a_good_guest_moves_at_some_boundaries_only() {
    let count = 2 * MOVES_MAX + 500;
    let body = |index: usize| if index % 7 == 6 { format!("refused-{index}") } else { format!("add-{index}") };
    let input = Input::of_bodies((0..count).map(body)).with_queries(["count"]);
    let report = checked("tally.wat", guest_text("tally.wat").as_bytes(), &input);
    assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{report}");
    assert!((MOVES_MAX / 2..MOVES_MAX + 20).contains(&report.moves), "{report:?}");
}

#[test]
fn nothing_is_found_in_the_sample_workloads() {
    for (name, queries) in WORKLOADS {
        let folder = root().join("workloads");
        let text = std::fs::read(folder.join(format!("{name}.transactions.jsonl"))).expect("a file of transactions");
        let input = Input::read(&text, false, &lifeboat_check::default_user()).expect("lines").with_queries(queries);
        let guest = Guest::load(folder.join(format!("prebuilt/{name}.wasm"))).expect("it is loaded");
        let report = guest.check(&input).expect("it starts");
        assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{name}:\n{report}");
        assert!(report.moves > 50 && report.outcomes.ok > 40, "{name}: {report:?}");
    }
}

#[test]
fn nothing_is_found_in_the_sample_programs() {
    let sql = std::fs::read(root().join("workloads/sql.transactions.txt")).expect("a file of transactions");
    let sql = Input::read(&sql, false, &lifeboat_check::default_user()).expect("lines");
    for (name, input) in [
        ("sql", sql.with_queries(["SELECT count(*) FROM transfers;"])),
        ("wordcount", Input::of_bodies(["a b\nc\n", "", "d"]).with_queries(["e f"])),
    ] {
        let guest = Guest::load(root().join(format!("workloads/prebuilt/{name}.wasm"))).expect("it is loaded");
        let report = guest.check(&input).expect("it starts");
        assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{name}:\n{report}");
        assert!(report.outcomes.ok > 2 && report.moves > 3, "{name}: {report:?}");
    }
}

/// Returns a program that replies with its body, and refuses one that begins with `r`. It does `first` at its start,
/// and `then` when it has read the body. Its memory has `pages`.
fn program(pages: u32, first: &str, then: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") {pages})
  ;; 0 an iovec, 8 the bytes moved, 16 what a descriptor is, 48 a text, from 4096 the body
  (data (i32.const 48) "no terminal")
  (func $read (param $have i32) (result i32)
    (i32.store (i32.const 0) (i32.add (i32.const 4096) (local.get $have)))
    (i32.store (i32.const 4) (i32.sub (i32.const 65536) (local.get $have)))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $is_terminal (param $fd i32) (result i32)
    (drop (call $fd_fdstat_get (local.get $fd) (i32.const 16)))
    (i32.eq (i32.load8_u (i32.const 16)) (i32.const 2)))
  (func $begins_with (param $byte i32) (result i32)
    (i32.eq (i32.load8_u (i32.const 4096)) (local.get $byte)))
  (func (export "_start")
    (local $length i32)
    (local $more i32)
    {first}
    (loop $next
      (local.set $more (call $read (local.get $length)))
      (local.set $length (i32.add (local.get $length) (local.get $more)))
      (br_if $next (local.get $more)))
    {then}
    (if (call $begins_with (i32.const 114)) (then (call $exit (i32.const 1))))
    (call $write (i32.const 1) (i32.const 4096) (local.get $length))))"#
    )
}

#[test]
fn nothing_is_found_in_a_program_with_much_memory_that_refuses_its_first_transaction() {
    let input = Input::of_bodies(["refused", "one", "two", "refused"]).with_queries(["query"]);
    let report = checked("program", program(64, "", "").as_bytes(), &input);
    assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{report}");
}

#[test]
fn nothing_is_found_in_a_program_that_asks_for_a_terminal_and_does_without() {
    const ASKS: &str = "(drop (call $is_terminal (i32.const 0)))";
    let input = Input::of_bodies(["one", "refused", "two"]).with_queries(["query"]);
    let report = checked("asks", program(2, ASKS, "").as_bytes(), &input);
    assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{report}");
    let refuses = format!("{ASKS} (call $exit (i32.const 1))");
    let report = checked("refuses", program(2, &refuses, "").as_bytes(), &input);
    assert!(report.findings.is_empty() && report.has_no_ok(), "{report}");
}

#[test]
fn a_program_that_wants_a_terminal_is_found() {
    let first = "(if (i32.eqz (call $is_terminal (i32.const 0)))
          (then (call $write (i32.const 2) (i32.const 48) (i32.const 11)) (call $exit (i32.const 1))))";
    let report = checked("wants-terminal", program(2, first, "").as_bytes(), &Input::of_bodies(["one", "two"]));
    assert_eq!(report.kinds(), [Kind::WantsTerminal], "{report}");
    assert!(report.findings[0].finding.ends_with("with one, it reads"), "{report}");
}

#[test]
fn a_program_that_reads_on_after_the_end_of_its_input_is_found() {
    let input = Input::of_bodies(["one", "wait", "two"]);
    // The second one writes a prompt before each read, until its reply is too long.
    for prompt in ["", "(call $write (i32.const 1) (i32.const 4096) (i32.const 8192))"] {
        let then = format!(
            "(if (call $begins_with (i32.const 119))
              (then (loop $again {prompt} (drop (call $read (i32.const 0))) (br $again))))"
        );
        let report = checked("reads-after-end", program(2, "", &then).as_bytes(), &input);
        assert_eq!(report.kinds(), [Kind::ReadsAfterEnd], "{prompt}:\n{report}");
        assert_eq!(report.findings[0].line, Some(2), "{report}");
    }
}

#[test]
fn nothing_is_found_in_a_program_that_reads_twice_more_at_the_end_of_its_input() {
    let again = "(drop (call $read (i32.const 0)))".repeat(2);
    let report = checked("good", program(2, "", &again).as_bytes(), &Input::of_bodies(["one", "refused"]));
    assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{report}");
}

#[test]
fn state_that_a_move_loses_is_found() {
    finds(&[
        // A field that is not exported: a restore makes a new state without it.
        Wrong {
            kind: Kind::FieldMissing,
            extra: "(global $lost (mut i64) (i64.const 0))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (global.set $lost (i64.add (global.get $lost) \
                      (i64.const 3))))",
                "(func $number (param i64) (result i64) (i64.add (global.get $count) (global.get $lost)))",
                "(func $load (result i32) (call $read_count) (global.set $lost (i64.const 0)) (i32.const 0))",
            ],
        },
        // A static beside the state.
        Wrong {
            kind: Kind::BesideState,
            extra: "",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (i64.store (i32.const 256) (i64.add (i64.load \
                      (i32.const 256)) (i64.const 1))))",
                "(func $number (param i64) (result i64) (i64.load (i32.const 256)))",
            ],
        },
        // The same in a guest that refuses a second restore, so that nobody can tell what it lost.
        Wrong {
            kind: Kind::StateLost,
            extra: "(global $is_restored (mut i32) (i32.const 0))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (i64.store (i32.const 256) (i64.add (i64.load \
                      (i32.const 256)) (i64.const 1))))",
                "(func $number (param i64) (result i64) (i64.load (i32.const 256)))",
                "(func $load (result i32) (if (global.get $is_restored) (then (return (i32.const 1)))) (global.set \
                      $is_restored (i32.const 1)) (call $read_count) (i32.const 0))",
            ],
        },
        // The same in a guest that adds what it restores to what it has.
        Wrong {
            kind: Kind::StateLost,
            extra: "(global $own (mut i64) (i64.const 0))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (global.set $own (i64.add (global.get $own) \
                      (i64.const 1))))",
                "(func $number (param i64) (result i64) (i64.add (global.get $count) (global.get $own)))",
                "(func $load (result i32) (local $had i64) (local.set $had (global.get $count)) (call $read_count) \
                      (global.set $count (i64.add (global.get $count) (local.get $had))) (i32.const 0))",
            ],
        },
        // A cache that `restore` does not rebuild: the reply is twice the count.
        Wrong {
            kind: Kind::BesideState,
            extra: "(global $twice (mut i64) (i64.const 0))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (global.set $twice (i64.add (global.get $twice) \
                      (i64.const 2))))",
                "(func $number (param i64) (result i64) (global.get $twice))",
            ],
        },
        // A field that a move shows only two transactions later.
        Wrong {
            kind: Kind::FieldMissing,
            extra: "(global $since (mut i64) (i64.const 10))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (global.set $since (i64.add (global.get $since) \
                      (i64.const 1))))",
                "(func $load (result i32) (call $read_count) (global.set $since (i64.const 0)) (i32.const 0))",
                "(func $number (param i64) (result i64) (i64.add (global.get $count) (i64.extend_i32_u \
                      (i64.eq (global.get $since) (i64.const 3)))))",
            ],
        },
        // A query that answers by what is not state.
        Wrong {
            kind: Kind::QueryBeyondState,
            extra: "(global $since (mut i64) (i64.const 0))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (global.set $since (i64.add (global.get $since) \
                      (i64.const 1))))",
                "(func $answer_of_query (result i32) (call $answer_number (global.get $since)))",
            ],
        },
    ]);
}

#[test]
fn order_time_and_random_numbers_that_a_move_changes_are_found() {
    const ORDERED: &str = r#"
        (data (i32.const 256) "{alpha, beta}")
        (data (i32.const 288) "{beta, alpha}")
        (global $seed (mut i32) (i32.const -1))"#;
    let draw = "(if (i32.lt_s (global.get $seed) (i32.const 0))
          (then
            (drop (call $random (i32.const 512) (i32.const 1)))
            (global.set $seed (i32.load8_u (i32.const 512)))))";
    let in_order = format!(
        "(func $reply (param i64) (result i32) {draw}
          (call $answer (i32.const 0) (i32.add (i32.const 256) (i32.mul (i32.const 32) (i32.and \
                (global.get $seed) (i32.const 1)))) (i32.const 13)))"
    );
    let report = checked("hash-order", changed(&format!("{RANDOM}{ORDERED}"), &[&in_order]).as_bytes(), &input());
    assert_eq!(report.kinds(), [Kind::HashOrder], "{report}");

    // The export has the count as two halves, each with its number, in either order.
    let halves = format!(
        "(func $save (result i32) {draw}
          (i64.store32 (i32.const 273) (global.get $count))
          (i32.store8 (i32.const 272) (i32.const 0))
          (i32.store8 (i32.const 276) (i32.const 1))
          (i64.store32 (i32.const 277) (i64.shr_u (global.get $count) (i64.const 32)))
          (if (i32.and (global.get $seed) (i32.const 1))
            (then (call $write (i32.const 276) (i32.const 4)) (call $write (i32.const 272) (i32.const 4)))
            (else (call $write (i32.const 272) (i32.const 4)) (call $write (i32.const 276) (i32.const 4))))
          (i32.const 0))"
    );
    let joined = "(func $load (result i32)
          (call $read_count)
          (global.set $count (i64.extend_i32_u (i32.and (i32.const 0xffff)
            (if (result i32) (i32.load8_u (i32.const 32))
              (then (i32.load (i32.const 37)))
              (else (i32.load (i32.const 33)))))))
          (i32.const 0))";
    let extra = format!("{RANDOM}(global $seed (mut i32) (i32.const -1))");
    let report = checked("export-order", changed(&extra, &[&halves, joined]).as_bytes(), &input());
    assert_eq!(report.kinds(), [Kind::ExportOrder], "{report}");

    let drawn = format!("(func $number (param i64) (result i64) {draw} (i64.extend_i32_u (global.get $seed)))");
    let report = checked("random-kept", changed(&extra, &[&drawn]).as_bytes(), &input());
    assert_eq!(report.kinds(), [Kind::RandomKept], "{report}");

    // The first random number is drawn by a restore, or by an export or a query that comes first, as the seed of a hashed
    // state is. The runs that look for a cause begin with a restore, so that they do not show the difference.
    let loads = format!("(func $load (result i32) (call $read_count) {draw} (i32.const 0))");
    let saves = format!("(func $save (result i32) {draw} (call $write_count) (i32.const 0))");
    let queries = format!("(func $before_query {draw})");
    let with_loads: [&str; 2] = [&drawn, &loads];
    for more in [None, Some(&*saves), Some(&*queries)] {
        let functions: Vec<&str> = with_loads.into_iter().chain(more).collect();
        let report = checked("random-kept", changed(&extra, &functions).as_bytes(), &input());
        assert_eq!(report.kinds(), [Kind::RandomKept], "{more:?}:\n{report}");
    }

    // A query whose answer is one of two, by a random number and by whether the state was restored, as the order of a
    // hashed collection depends on its history: with constant random numbers it differs as well.
    let by_history = format!(
        "(func $answer_of_query (result i32) {draw} (call $answer_number (i64.extend_i32_u (i32.and (i32.const 1)
              (i32.xor (global.get $seed) (global.get $is_restored))))))"
    );
    let extra = format!("{extra}(global $is_restored (mut i32) (i32.const 0))");
    let restored = "(func $load (result i32) (call $read_count) (global.set $is_restored (i64.ne \
          (global.get $count) (i64.const 0))) (i32.const 0))";
    let report = checked("by-history", changed(&extra, &[&by_history, restored]).as_bytes(), &input());
    assert_eq!(report.kinds(), [Kind::RandomKept], "{report}");

    finds(&[Wrong {
        kind: Kind::TimeKept,
        extra: "(global $first (mut i64) (i64.const 0))",
        functions: &[
            "(func $before_execute (param i32 i64) (param $now i64) (if (i64.eqz (global.get $first)) (then \
                  (global.set $first (local.get $now)))))",
            "(func $number (param $now i64) (result i64) (i64.sub (local.get $now) (global.get $first)))",
        ],
    }]);
}

#[test]
fn wrong_snapshots_and_restores_are_found() {
    let wrong = |kind, functions| Wrong { kind, extra: "", functions };
    finds(&[
        wrong(
            Kind::SnapshotChangesState,
            &["(func $save (result i32) (call $write_count) (global.set $count (i64.const 0)) (i32.const 0))"],
        ),
        wrong(
            Kind::SnapshotTraps,
            &["(func $save (result i32) (if (i64.gt_u (global.get $count) (i64.const 5)) \
                      (then unreachable)) (call $write_count) (i32.const 0))"],
        ),
        wrong(
            Kind::SnapshotRefuses,
            &["(func $save (result i32) (call $write_count) (i64.gt_u (global.get $count) (i64.const 5)))"],
        ),
        wrong(
            Kind::RestoreRefuses,
            &["(func $load (result i32) (call $read_count) (i64.gt_u (global.get $count) (i64.const 5)))"],
        ),
        wrong(Kind::AnyVersion, &["(func $is_known (param i32) (result i32) (i32.const 1))"]),
        wrong(
            Kind::VersionChanges,
            &[
                "(func $version (result i32) (i32.add (i32.const 1) (i32.wrap_i64 (i64.div_u \
                      (global.get $count) (i64.const 8)))))",
                "(func $is_known (param $version i32) (result i32) (i32.le_u (local.get $version) (i32.const 3)))",
            ],
        ),
        wrong(
            Kind::ChunkBorders,
            &["(func $load (result i32) (call $read (i32.const 8) (i32.const 16)) (global.set $count \
                      (i64.load (i32.load (i32.const 16)))) (i32.ne (i32.load (i32.const 20)) (i32.const 8)))"],
        ),
        wrong(
            Kind::ExportNotStreamed,
            &[
                "(func $save (result i32) (local $at i32) (local.set $at (i32.shl (memory.grow \
                      (i32.const 8)) (i32.const 16))) (call $write_count) (call $write (local.get $at) \
                      (i32.const 524280)) (i32.const 0))",
                "(func $load (result i32) (call $read_count) (loop $rest (global.set $heap \
                      (i32.const 65536)) (call $read (i32.const 4096) (i32.const 16)) (br_if $rest (i32.load \
                      (i32.const 20)))) (i32.const 0))",
            ],
        ),
        // The state has a byte for each transaction, and the fuel of an export is the cube of that.
        wrong(
            Kind::ExportTooCostly,
            &[
                "(func $save (result i32) (local $left i64) (local.set $left (i64.mul (i64.const 600) \
                      (i64.mul (global.get $count) (i64.mul (global.get $count) (global.get $count))))) \
                      (loop $burn (local.set $left (i64.sub (local.get $left) (i64.const 1))) (br_if $burn \
                      (i64.gt_s (local.get $left) (i64.const 0)))) (call $write_count) (call $write \
                      (i32.const 1024) (i32.wrap_i64 (global.get $count))) (i32.const 0))",
                "(func $load (result i32) (call $read_count) (loop $rest (call $read (i32.const 4096) \
                      (i32.const 16)) (br_if $rest (i32.load (i32.const 20)))) (i32.const 0))",
            ],
        ),
    ]);
}

#[test]
fn an_older_snapshot_that_is_not_taken_is_found() {
    let good = Guest::from_bytes("tally.wat", guest_text("tally.wat").as_bytes()).expect("it is loaded");
    let older = good.snapshot_after(&input()).expect("it is exported");
    let functions = [
        "(func $version (result i32) (i32.const 2))",
        "(func $is_known (param $version i32) (result i32) (i32.eq (local.get $version) (i32.const 2)))",
    ];
    let newer = Guest::from_bytes("newer", changed("", &functions).as_bytes()).expect("it is loaded");
    let report = newer.check_with(&input(), Some(&older), &|_, _, _| {}).expect("it starts");
    assert_eq!(report.kinds(), [Kind::OlderSnapshot], "{report}");
    let report = good.check_with(&input(), Some(&older), &|_, _, _| {}).expect("it starts");
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn wrong_queries_refusals_and_replies_are_found() {
    const COUNT: &str = "(global.set $count (i64.add (global.get $count) (i64.const 1)))";
    for (kind, function) in [
        (Kind::QueryChangesState, format!("(func $before_query {COUNT})")),
        (Kind::RefusalChangesState, format!("(func $before_refusal {COUNT})")),
        (
            Kind::TrapsOnInput,
            "(func $before_execute (param $length i32) (param i64 i64) (if (i32.eqz (local.get $length)) \
                  (then unreachable)))"
                .into(),
        ),
        // Eight KiB for each transaction.
        (
            Kind::ReplyTooLong,
            "(func $answer_of_query (result i32) (call $answer (i32.const 0) (i32.const 720896) (i32.shl \
                  (i32.wrap_i64 (global.get $count)) (i32.const 13))))"
                .into(),
        ),
    ] {
        let report = checked(kind.name(), changed("", &[&function]).as_bytes(), &input());
        assert_eq!(report.kinds(), [kind], "{report}");
    }
}

#[test]
fn a_trap_is_found_with_what_the_guest_said_and_its_functions() {
    const BOOM: &str = r#"
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (data (i32.const 512) "out of order")
        (func $boom
          (i32.store (i32.const 256) (i32.const 512))
          (i32.store (i32.const 260) (i32.const 12))
          (drop (call $fd_write (i32.const 2) (i32.const 256) (i32.const 1) (i32.const 264)))
          unreachable)"#;
    for (kind, function) in [
        (
            Kind::TrapsOnInput,
            "(func $before_execute (param $length i32) (param i64 i64) (if (i32.eqz (local.get $length)) \
                  (then (call $boom))))",
        ),
        (
            Kind::SnapshotTraps,
            "(func $save (result i32) (if (i64.gt_u (global.get $count) (i64.const 5)) (then (call $boom))) \
                  (call $write_count) (i32.const 0))",
        ),
        (
            Kind::RestoreRefuses,
            "(func $load (result i32) (call $read_count) (if (i64.gt_u (global.get $count) (i64.const 5)) \
                  (then (call $boom))) (i32.const 0))",
        ),
    ] {
        let report = checked(kind.name(), changed(BOOM, &[function]).as_bytes(), &input());
        assert_eq!(report.kinds(), [kind], "{report}");
        let finding = &report.findings[0].finding;
        assert!(finding.contains("; it said: out of order; in boom"), "{finding}");
    }
}

#[test]
fn guests_that_wait_or_sleep_or_exit_or_log_too_much_are_found() {
    finds(&[
        Wrong {
            kind: Kind::WaitsForClock,
            extra: CLOCK,
            functions: &["(func $before_execute (param i32 i64 i64) (local $looks i32) (loop $again (drop \
                      (call $clock (i32.const 0) (i64.const 1) (i32.const 256))) (local.set $looks (i32.add \
                      (local.get $looks) (i32.const 1))) (br_if $again (i32.lt_u (local.get $looks) \
                      (i32.const 2000)))))"],
        },
        // A subscription to the monotonic clock, for 4 s.
        Wrong {
            kind: Kind::Sleeps,
            extra: r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32)
                  (result i32)))"#,
            functions: &["(func $before_execute (param i32 i64 i64) (i32.store (i32.const 336) (i32.const 1)) \
                      (i64.store (i32.const 344) (i64.const 4000000000)) (drop (call $poll (i32.const 320) \
                      (i32.const 384) (i32.const 1) (i32.const 256))))"],
        },
        Wrong {
            kind: Kind::Exits,
            extra: r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#,
            functions: &["(func $before_execute (param i32 i64 i64) (if (i64.eq (global.get $count) (i64.const 9)) \
                      (then (call $exit (i32.const 3)))))"],
        },
        // 20 KiB of zeros, which are characters.
        Wrong {
            kind: Kind::LogLost,
            extra: r#"(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32)
                  (result i32)))"#,
            functions: &["(func $before_execute (param i32 i64 i64) (i32.store (i32.const 256) (i32.const 1024)) \
                      (i32.store (i32.const 260) (i32.const 20480)) (drop (call $fd_write (i32.const 1) \
                      (i32.const 256) (i32.const 1) (i32.const 264))))"],
        },
        Wrong {
            kind: Kind::GaplessSequences,
            extra: "(global $last (mut i64) (i64.const 0))",
            // The number of the first transaction after a start or a restore is taken as it is.
            functions: &["(func $before_execute (param i32) (param $sequence i64) (param i64) (if (i32.and (i64.ne \
                      (global.get $last) (i64.const 0)) (i64.gt_u (local.get $sequence) (i64.add \
                      (global.get $last) (i64.const 2)))) (then unreachable)) (global.set $last \
                      (local.get $sequence)))"],
        },
    ]);
}

#[test]
fn growth_of_memory_and_cost_is_found() {
    finds(&[
        // Memory that the state does not need, before a move and after it.
        Wrong {
            kind: Kind::CompactionFreesNothing,
            extra: "(func $fill (if (i32.lt_u (memory.size) (i32.const 84)) (then (drop (memory.grow \
                  (i32.const 64))))))",
            functions: &[
                "(func $before_execute (param i32 i64 i64) (call $fill))",
                "(func $load (result i32) (call $read_count) (call $fill) (i32.const 0))",
            ],
        },
        Wrong {
            kind: Kind::MemoryLeak,
            extra: "(global $leaks (mut i32) (i32.const 0))",
            functions: &["(func $before_execute (param i32 i64 i64) (global.set $leaks (i32.add (global.get $leaks) \
                      (i32.const 1))) (if (i32.eqz (i32.rem_u (global.get $leaks) (i32.const 50))) (then \
                      (drop (memory.grow (i32.const 1))))))"],
        },
        Wrong {
            kind: Kind::CostGrows,
            extra: "",
            functions: &["(func $before_execute (param i32 i64 i64) (local $left i64) (local.set $left (i64.mul \
                      (i64.const 5000) (global.get $count))) (loop $burn (local.set $left (i64.sub \
                      (local.get $left) (i64.const 1))) (br_if $burn (i64.gt_s (local.get $left) \
                      (i64.const 0)))))"],
        },
    ]);
    let guest = changed("", &[]).replace("(memory (export \"memory\") 20)", "(memory (export \"memory\") 224)");
    let report = checked("size-too-small", guest.as_bytes(), &input());
    assert_eq!(report.kinds(), [Kind::SizeTooSmall], "{report}");
}

/// Imports for files, and functions that open `log`: for appending, with what `flags` add to that.
const FILES: &str = r#"
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (data (i32.const 256) "log")
  (global $fd (mut i32) (i32.const -1))
  (func $open (param $name i32) (param $length i32) (param $fdflags i32)
    (drop (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (local.get $length) (i32.const 1)
          (i64.const 64)
      (i64.const 0) (local.get $fdflags) (i32.const 272)))
    (global.set $fd (i32.load (i32.const 272))))
  (func $write_byte
    (i32.store (i32.const 280) (i32.const 256))
    (i32.store (i32.const 284) (i32.const 1))
    (drop (call $fd_write (global.get $fd) (i32.const 280) (i32.const 1) (i32.const 288))))
  (func $close (drop (call $fd_close (global.get $fd))))
"#;

#[test]
fn wrong_uses_of_the_disk_are_found() {
    let started = format!(
        r#"{FILES} (func (export "_initialize") (call $open (i32.const 256) (i32.const 3) (i32.const 1))
              (call $write_byte) (call $close))"#
    );
    let known = format!("{FILES} (global $bytes (mut i64) (i64.const 0))");
    let cases: [(Kind, &str, &[&str]); 5] = [
        (
            Kind::DiskLitter,
            FILES,
            &["(func $before_execute (param i32 i64 i64) (drop (call $answer_number (global.get $count))) \
                      (call $open (i32.load (i32.const 20)) (i32.load (i32.const 24)) (i32.const 0)) \
                      (call $close))"],
        ),
        (
            Kind::StaleDescriptor,
            FILES,
            &["(func $before_execute (param i32 i64 i64) (if (i32.lt_s (global.get $fd) (i32.const 0)) \
                      (then (call $open (i32.const 256) (i32.const 3) (i32.const 1)))) (call $write_byte))"],
        ),
        (
            Kind::WritesInSnapshot,
            FILES,
            &["(func $save (result i32) (call $open (i32.const 256) (i32.const 3) (i32.const 0)) \
                      (call $write_count) (i32.const 0))"],
        ),
        (Kind::WritesAtStart, &started, &[]),
        (
            Kind::DiskDisagrees,
            &known,
            &[
                "(func $before_execute (param i32 i64 i64) (call $open (i32.const 256) (i32.const 3) \
                      (i32.const 1)) (call $write_byte) (call $close) (global.set $bytes (i64.add \
                      (global.get $bytes) (i64.const 1))))",
                "(func $number (param i64) (result i64) (global.get $bytes))",
            ],
        ),
    ];
    for (kind, extra, functions) in cases {
        let report = checked(kind.name(), changed(extra, functions).as_bytes(), &input());
        assert_eq!(report.kinds(), [kind], "{kind}:\n{report}");
    }
    // A reply that tells whether a write to a stale descriptor failed differs after a move, too.
    let told = format!("{FILES} (global $failed (mut i64) (i64.const 0))");
    let functions = [
        "(func $before_execute (param i32 i64 i64) (if (i32.lt_s (global.get $fd) (i32.const 0)) (then (call $open \
              (i32.const 256) (i32.const 3) (i32.const 1)))) (i32.store (i32.const 280) (i32.const 256)) (i32.store \
              (i32.const 284) (i32.const 1)) (global.set $failed (i64.extend_i32_u (call $fd_write (global.get $fd) \
              (i32.const 280) (i32.const 1) (i32.const 288)))))",
        "(func $number (param i64) (result i64) (global.get $failed))",
    ];
    let report = checked("told", changed(&told, &functions).as_bytes(), &input());
    assert_eq!(report.kinds(), [Kind::StaleDescriptor], "{report}");
    // A guest that writes as it may: it appends to a file in each transaction, and reads nothing from memory.
    let good = "(func $before_execute (param i32 i64 i64) (call $open (i32.const 256) (i32.const 3) \
          (i32.const 1)) (call $write_byte) (call $close))";
    let report = checked("good", changed(FILES, &[good]).as_bytes(), &input());
    assert!(report.findings.is_empty(), "{report}");
}

/// Returns `call.wat` with a check of its bodies and of its version, and with changes.
fn calling(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut guest = guest_text("assembled/call.wat");
    let refuse = "(return (call $answer-as (i32.const 1) (i32.const 128) (i32.const 4)))";
    let checks = format!(
        "(if (i32.or (i32.gt_u (local.get $length) (i32.const 64))
              (i32.or (i32.lt_u (local.get $length) (i32.const 2))
                (i32.gt_u (i32.sub (i32.load8_u (local.get $body)) (i32.const 48)) (i32.const 3)))) (then {refuse}))
        (local.set $calls (i32.sub (i32.load8_u (local.get $body)) (i32.const 48)))"
    );
    let version = format!(
        "(param $version i32) (result i32) (local $have i32)
        (if (i32.ne (local.get $version) (i32.const 1)) (then {refuse}))"
    );
    let usual = [
        ("(local.set $calls (i32.sub (i32.load8_u (local.get $body)) (i32.const 48)))", checks.as_str()),
        ("(param $version i32) (result i32)\n    (local $have i32)", version.as_str()),
        ("(memory (export \"memory\") 2)", "(memory (export \"memory\") 20)"),
        ("(i32.const 131072)) (then unreachable)", "(i32.const 1310720)) (then unreachable)"),
    ];
    for (from, to) in usual.iter().chain(changes) {
        assert_eq!(guest.matches(from).count(), 1, "{from}");
        guest = guest.replace(from, to);
    }
    component_with_http(&guest)
}

#[test]
fn wrong_uses_of_the_network_are_found() {
    const REPLY: &str = "(call $answer-number (i64.extend_i32_u (local.get $status))))";
    let bodies = Input::of_bodies(["1Aone", "2Atwo", "1Athree", "0Afour", "1Afive"]).with_queries(["count"]);
    let good = checked("call.wat", &calling(&[]), &bodies);
    assert!(good.findings.is_empty() && good.unchecked.is_empty(), "{good}");

    let ignores = [
        (
            "(if (i32.load8_u (i32.const 528)) (then (return (call $refuse))))\n        (local.set $status \
                  (call $status (i32.load (i32.const 536))))\n        (call $drop-response (i32.load \
                  (i32.const 536)))",
            "(if (i32.eqz (i32.load8_u (i32.const 528))) (then (call $drop-response (i32.load (i32.const 536)))))",
        ),
        (REPLY, "(call $answer-number (global.get $count)))"),
    ];
    let report = checked("ignores-calls", &calling(&ignores), &bodies);
    assert_eq!(report.kinds(), [Kind::IgnoresCalls], "{report}");

    // The reply says nothing of a call that failed, and the state does.
    let notes = [
        (
            ignores[0].0,
            "(if (i32.load8_u (i32.const 528))
              (then (global.set $count (i64.add (global.get $count) (i64.const 1000))))
              (else
                (if (i32.ne (call $status (i32.load (i32.const 536))) (i32.const 200))
                  (then (global.set $count (i64.add (global.get $count) (i64.const 1000)))))
                (call $drop-response (i32.load (i32.const 536)))))",
        ),
        (REPLY, "(call $answer-number (i64.const 7)))"),
    ];
    let report = checked("notes-calls", &calling(&notes), &bodies);
    assert!(report.findings.is_empty(), "{report}");

    let in_query = [(
        "(global.set $heap (i32.const 1024))\n    (call $answer-number (global.get $count)))",
        "(drop (call $post (i32.const 128) (i32.const 4) (i32.const 128) (i32.const 4)))
        (global.set $heap (i32.const 1024))
        (call $answer-number (global.get $count)))",
    )];
    let report = checked("call-in-query", &calling(&in_query), &bodies);
    assert_eq!(report.kinds(), [Kind::CallInQuery], "{report}");

    // With a `#` the request depends on the sequence number.
    let by_sequence = Input::of_bodies(["1#Aone", "1#Atwo", "1#Athree"]).with_queries(["count"]);
    let report = checked("request-differs", &calling(&[]), &by_sequence);
    assert_eq!(report.kinds(), [Kind::RequestDiffers], "{report}");

    let late = [(
        "(if (i32.eq (local.get $mark) (i32.const 33)) (then unreachable))",
        "(if (i32.eq (i32.load8_u (i32.sub (i32.add (local.get $body) (local.get $length)) (i32.const 1))) \
              (i32.const 114))
          (then (return (call $answer-as (i32.const 1) (i32.const 128) (i32.const 4)))))",
    )];
    let refused = Input::of_bodies(["1Aone", "1Afour", "1Atwo"]).with_queries(["count"]);
    let report = checked("call-before-refusal", &calling(&late), &refused);
    assert_eq!(report.kinds(), [Kind::CallBeforeRefusal], "{report}");
    // The same with a method that changes nothing at the server.
    let post = "(call $set-method (local.get $request) (i32.const 2)";
    let get = "(call $set-method (local.get $request) (i32.const 0)";
    let report = checked("get-before-refusal", &calling(&[late[0], (post, get)]), &refused);
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn a_kind_that_is_allowed_is_no_finding() {
    let beside = "(func $number (param i64) (result i64) (i64.store (i32.const 256) (i64.add (i64.load (i32.const 256)) \
          (i64.const 1))) (i64.load (i32.const 256)))";
    let guest = changed("", &[beside]);
    let report = checked("allowed", guest.as_bytes(), &input().allowing([Kind::BesideState]));
    assert!(report.findings.is_empty() && report.is_sound(), "{report}");
    assert_eq!(report.allowed.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::BesideState]);
    let report = checked("allowed", guest.as_bytes(), &input().allowing([Kind::StateLost]));
    assert_eq!((report.kinds(), report.allowed.len()), (vec![Kind::BesideState], 0), "{report}");
}

#[test]
fn every_kind_is_the_bug_of_a_guest_here() {
    let source = include_str!("kinds.rs");
    for kind in Kind::all() {
        assert!(source.contains(&format!("Kind::{kind:?}")), "no test here has a guest with {kind:?}");
    }
}

#[test]
fn a_service_in_a_test_fails_over_restarts_and_loses_no_fuel_cut() {
    let guest = Guest::from_bytes("tally.wat", guest_text("tally.wat").as_bytes()).expect("it is loaded");
    let mut service = guest.start().expect("it starts");
    let answered = |answer: Answer| match answer {
        Answer::Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(answered(service.execute("a").expect("it goes on")), "1");
    service.fail_over().expect("it can be moved");
    assert_eq!(answered(service.execute("a").expect("it goes on")), "2");
    let cut = service.execute_with_fuel("a", 10).expect("it goes on");
    assert!(matches!(cut, Answer::Failed(Cause::Fuel { limit_fuel: 10 })), "{cut:?}");
    service.restart().expect("it starts again");
    assert_eq!(answered(service.query("").expect("it goes on")), "2");
    assert_eq!(service.state().expect("it is exported"), 2_u64.to_le_bytes());
    assert_eq!(answered(service.execute("a").expect("it goes on")), "3");

    let clock = "(func $number (param $now i64) (result i64) (i64.div_u (local.get $now) (i64.const 1000000000)))";
    let guest = Guest::from_bytes("clock", changed("", &[clock]).as_bytes()).expect("it is loaded");
    let mut service = guest.start().expect("it starts");
    let first: u64 = answered(service.execute("a").expect("it goes on")).parse().expect("seconds");
    service.advance(Duration::from_secs(3_600));
    assert_eq!(answered(service.execute("a").expect("it goes on")), (first + 3_600).to_string());
}

#[test]
fn a_service_whose_move_fails_goes_on_as_before() {
    let guest = guest_text("refuse-restore.wat");
    let guest = Guest::from_bytes("refuse-restore.wat", guest.as_bytes()).expect("it is loaded");
    let mut service = guest.start().expect("it starts");
    for _ in 0..2 {
        service.execute("a").expect("it goes on");
    }
    let error = service.fail_over().expect_err("restore refuses").to_string();
    assert!(error.contains("no thanks"), "{error}");
    assert_eq!(service.execute("a").expect("it goes on"), Answer::Ok("3".into()), "the guest has its state");
    service.restart().expect("it starts again, without the snapshot");
    assert_eq!(service.query("").expect("it goes on"), Answer::Ok("3".into()));
}
