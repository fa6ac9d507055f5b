//! `lifeboat inspect`: what the loader accepts and shows, and what it rejects in one line.

use std::fs::File;
use std::path::PathBuf;

use lifeboat_vm::engine::SMALL_BYTES_MAX;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::util::{WORKLOADS, guest, lifeboat, prebuilt, root, shell};

/// A folder for the files of one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    }
}

/// Asserts that `bytes` are rejected in one line that names the file and contains each of `words`.
#[track_caller]
fn refused(bytes: impl AsRef<[u8]>, words: &[&str]) {
    let folder = Folder::new();
    let file = folder.file("guest.wasm", bytes);
    let output = lifeboat(["inspect"]).arg(&file).output();
    let line = output.exits_with_one_line(3, words);
    let start = format!("lifeboat: `{}`: ", file.display());
    assert!(line.starts_with(&start), "it does not name the file: {line}");
    let causes = line[start.len()..].matches(": ").count();
    assert!(causes >= 1, "no remedy follows the cause: {line}");
}

/// Returns `text` with `old` replaced by `new`. `old` must occur.
#[track_caller]
fn with(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "no `{old}` to replace");
    text.replacen(old, new, 1)
}

fn text_of(file: &str) -> String {
    std::fs::read_to_string(guest(file)).expect("a guest can be read")
}

fn count() -> String {
    text_of("count.wat")
}

fn component() -> String {
    text_of("handle-bomb.wat")
}

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("valid text")
}

#[track_caller]
fn inspected(file: impl AsRef<std::ffi::OsStr>) -> Value {
    let output = lifeboat(["inspect", "--json"]).arg(file).output();
    serde_json::from_str(output.exits(0)).expect("JSON")
}

/// Bytes at which a library panics are rejected like any others.
#[test]
fn a_panic_of_a_library_is_a_refusal_in_one_line() {
    refused(text_of("refused/alias-chain-150.wat"), &[]);
    refused(binary(&text_of("refused/alias-chain-150.wat")), &[]);
}

// Workloads that are accepted.

#[test]
fn every_guest_or_workload_of_the_repository_is_accepted() {
    let guests = std::fs::read_dir(guest("")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let guests = guests.filter(|path| path.extension().is_some_and(|extension| extension == "wat"));
    let files: Vec<PathBuf> = guests.chain(WORKLOADS.map(prebuilt)).collect();
    assert!(files.len() > 20);
    for file in files {
        let report = inspected(&file);
        assert_eq!(report["name"], file.display().to_string());
        let export = match file.file_name().and_then(|name| name.to_str()) {
            Some("program.wat") => "wasi:cli/run@0.2.12",
            Some("tcp.wat") => "wasi:cli/run@0.2.0",
            _ => "lifeboat:vm/workload@0.1.0",
        };
        let is_program = export.starts_with("wasi:");
        assert_eq!(report["exports"], json!([export]));
        assert_eq!(report["kind"], if is_program { "program" } else { "world" });
        assert!(report["fits_sizes"].as_array().expect("a list").contains(&json!("small")), "{report}");
    }
}

#[test]
fn every_form_is_shown() {
    let folder = Folder::new();
    let text = count();
    let wasi = with(
        &text,
        "(module\n",
        "(module\n(import \"wasi_snapshot_preview1\" \"random_get\" (func (param i32 i32) (result i32)))\n",
    );
    let cases = [
        (guest("count.wat"), "plain core module with canonical names, as text, no WASI"),
        (folder.file("plain.wasm", binary(&text)), "plain core module with canonical names, no WASI"),
        (folder.file("wasi.wasm", binary(&wasi)), "plain core module with canonical names, WASI preview 1 (adapted)"),
        (guest("handle-bomb.wat"), "component, as text, WASI preview 2"),
        (folder.file("component.wasm", binary(&component())), "component, WASI preview 2"),
        (prebuilt("counter"), "core module with its WIT (SDK or wit-bindgen), WASI preview 1 (adapted)"),
    ];
    for (file, form) in cases {
        let output = lifeboat(["inspect"]).arg(&file).output();
        let lines: Vec<&str> = output.exits(0).lines().collect();
        let row = |name: &str, value: &str| format!("{name:<13} {value}");
        assert!(lines.contains(&&*row("form", form)), "{file:?}: {lines:?}");
        assert!(lines.contains(&&*row("workload", &file.display().to_string())), "{lines:?}");
        assert!(lines.contains(&&*row("exports", "lifeboat:vm/workload@0.1.0")), "{lines:?}");
        assert!(lines.contains(&&*row("fits sizes", "small, medium, large, huge")), "{lines:?}");
        assert_eq!(output.stderr, "");
    }
}

#[test]
fn imports_that_are_denied_are_listed() {
    let file = guest("denied.wat");
    let denied = [
        "wasi:sockets/network@0.2.3",
        "wasi:sockets/instance-network@0.2.3",
        "wasi:sockets/ip-name-lookup@0.2.3",
        "wasi:nowhere/things",
    ];
    assert_eq!(inspected(&file)["denied"], json!(denied));
    let output = lifeboat(["inspect"]).arg(&file).output();
    let lines = output.exits(0);
    assert!(lines.contains(&format!("denied        {}\n", denied.join("\n              "))), "{lines}");
    assert_eq!(inspected(guest("count.wat"))["denied"], json!([]));
}

fn many_functions() -> String {
    "(func (param i32) (result i32) (i32.add (local.get 0) (i32.const 77)))".repeat(40_000)
}

#[test]
fn a_large_workload_runs() {
    let folder = Folder::new();
    let text = with(&count(), "  (func $is", &format!("{}\n  (func $is", many_functions()));
    let file = folder.file("large.wat", &text);
    assert!(inspected(&file)["input_bytes"].as_u64().expect("a number") > SMALL_BYTES_MAX);
    assert_eq!(lifeboat(["run"]).arg(&file).input("a\nb\n").output().exits(0), "1\n2\n");
}

#[test]
fn a_large_workload_is_refused_for_its_own_faults() {
    let folder = Folder::new();
    let missing = component().replace("(param \"when\" u64)", "(param \"when\" u32)");
    let missing =
        with(&missing, "(func $subscribe (param $nanoseconds i64)", "(func $subscribe (param $nanoseconds i32)");
    let missing = with(&missing, "(i64.const 1000000000)", "(i32.const 1000000000)");
    let missing = with(&missing, "(component\n", &format!("(component\n(core module {})\n", many_functions()));
    let output = lifeboat(["inspect"]).arg(folder.file("guest.wasm", missing)).output();
    output.exits_with_one_line(3, &["guest.wasm", "wasi:clocks/monotonic-clock@0.2.0"]);
}

#[test]
fn json_report_describes_the_workload() {
    let report = inspected(guest("count.wat"));
    let hash = report["hash"].as_str().expect("a text");
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    assert_eq!(
        (&report["form"], &report["text"], &report["wasi"]),
        (&json!("plain-module"), &json!(true), &Value::Null)
    );
    assert_eq!((&report["initial_memory_bytes"], &report["memory_max"]), (&json!(65536), &Value::Null));
    assert_eq!((&report["imports"], &report["has_start"]), (&json!(["lifeboat:vm/state@0.1.0"]), &json!(false)));
    assert_eq!(inspected(guest("spin-start.wat"))["has_start"], true);
}

#[test]
fn memory_that_was_asked_for_is_checked() {
    let check = |memory: &str| lifeboat(["inspect", "--memory", memory]).arg(prebuilt("counter")).output();
    check("64MiB").exits(0);
    let words = [
        "counter.wasm",
        "starts with 1114112 bytes",
        "has 1048576 bytes",
        "give it at least 1342304 bytes, for example 1311KiB",
    ];
    check("1MiB").exits_with_one_line(3, &words);
    assert_eq!(check("lots").exits(2), "");
}

// Workloads that are rejected.

#[test]
fn file_that_cannot_be_read_is_refused() {
    let words = ["nowhere.wasm: cannot be read: ", "name a .wasm or .wat file"];
    lifeboat(["inspect", "nowhere.wasm"]).output().exits_with_one_line(3, &words);
    assert_eq!(lifeboat(["inspect"]).output().exits(2), "");
    assert_eq!(lifeboat(["inspect"]).args([guest("count.wat"), guest("count.wat")]).output().exits(2), "");
}

#[test]
fn file_that_is_no_wasm_is_refused() {
    refused("", &["not WebAssembly", "the file is empty", "build or copy it again"]);
    refused("hello", &["not WebAssembly", "the file starts with 68 65 6c 6c", "pass a `.wasm` or `.wat` file"]);
    refused(b"\x7fELF\x02\x01", &["not WebAssembly", "native program", "build for wasm32-wasip1"]);
    refused(b"\x1f\x8b\x08", &["not WebAssembly", "compressed", "unpack it"]);
    refused(b"\0as", &["not WebAssembly", "cut off", "copy it again"]);
    let lifeboat = env!("CARGO_BIN_EXE_lifeboat");
    if cfg!(target_os = "linux") {
        refused(&std::fs::read(lifeboat).expect("the built binary")[..4096], &["native program"]);
    }
}

#[test]
fn text_that_does_not_parse_is_refused_with_its_place() {
    refused("(module\n  (funk))", &["invalid WebAssembly text at line 2, column 4", "correct the text"]);
    refused("(module (func (call $nobody)))", &["line 1, column 21", "$nobody"]);
}

#[test]
fn truncated_or_invalid_binaries_are_refused_with_their_place() {
    for text in [count(), component()] {
        let bytes = binary(&text);
        refused(&bytes[..bytes.len() / 2], &["invalid WebAssembly at byte", "build or copy the file again"]);
    }
    let workload = std::fs::read(prebuilt("ledger")).expect("a workload");
    refused(&workload[..workload.len() - 1000], &["invalid WebAssembly at byte"]);
    refused("(module (func (result i32)))", &["at byte", "type mismatch"]);
}

#[test]
fn other_worlds_are_refused_with_what_is_missing() {
    let renamed = with(&with(&count(), "#restore\"", "#restart\""), "#query\"", "#ask\"");
    for bytes in [renamed.clone().into_bytes(), binary(&renamed)] {
        let lacks = "lacks `lifeboat:vm/workload@0.1.0#query`, `lifeboat:vm/workload@0.1.0#restore`";
        refused(bytes, &[lacks, "#restart", "build it with the SDK or from wit/vm.wit"]);
    }
    refused("(module)", &["#execute", "#snapshot", "`memory`", "exports nothing"]);
    refused("(component)", &["#execute", "#snapshot", "exports nothing"]);
    let next = with(&component(), "\"lifeboat:vm/workload@0.1.0\"", "\"lifeboat:vm/workload@0.9.0\"");
    refused(next, &["lacks `lifeboat:vm/workload@0.1.0#execute`", "exports `lifeboat:vm/workload@0.9.0`"]);
}

#[test]
fn export_of_another_type_is_refused() {
    let other =
        with(&count(), "#state-version\") (result i32) (i32.const 1)", "#state-version\") (result i64) (i64.const 1)");
    refused(other, &["#state-version` is [] -> [i64]", "wants [] -> [i32]", "rebuild it from wit/vm.wit"]);
}

#[test]
fn a_wasi_command_that_does_not_export_its_memory_is_refused() {
    refused(
        "(module (memory 1) (func (export \"_start\")))",
        &["is a program (exports `_start`)", "export its memory"],
    );
}

#[test]
fn unknown_imports_are_refused_by_name() {
    let cases = [
        ("\"env\" \"notify\"", "env#notify", "without glue"),
        ("\"wasi_snapshot_preview1\" \"fd_fly\"", "wasi_snapshot_preview1#fd_fly", "drop what needs more"),
        ("\"wasi:sockets/tcp@0.2.0\" \"x\"", "wasi:sockets/tcp@0.2.0", "component-type"),
        ("\"wasi:cli/stdout@0.3.0\" \"x\"", "wasi:cli/stdout@0.3.0#x", "WASI 0.2"),
        ("\"lifeboat:vm/state@0.2.0\" \"read\"", "lifeboat:vm/state@0.2.0#read", "SDK"),
    ];
    for (import, name, remedy) in cases {
        let text = with(&count(), "(module\n", &format!("(module\n(import {import} (func))\n"));
        refused(binary(&text), &["imports", name, "which this host does not offer", remedy]);
    }
    let import = "(component\n  (import \"log\" (func))\n  (import";
    refused(with(&component(), "(component\n  (import", import), &["imports `log`"]);
}

#[test]
fn import_of_another_type_is_refused() {
    let other = with(&component(), "(param \"chunk\" (list u8))", "(param \"bytes\" (list u8))");
    refused(other, &["func(bytes: list<u8>)", "func(chunk: list<u8>)", "rebuild it from wit/vm.wit"]);
}

#[test]
fn file_over_the_limit_is_refused_without_being_read() {
    let folder = Folder::new();
    let path = folder.file("huge.wasm", b"\0asm\x01\0\0\0");
    let file = File::options().write(true).open(&path).expect("a temporary file");
    // A sparse file: far more than fits into memory, without a byte on the disk.
    file.set_len(1 << 40).expect("a sparse file");
    let output = lifeboat(["inspect"]).arg(&path).output();
    let words = ["huge.wasm", "the file is 1099511627776 bytes", "limit is 134217728 bytes", "strip debug information"];
    output.exits_with_one_line(3, &words);
}

#[test]
fn proposals_that_are_off_are_refused_by_name() {
    let memory = "(memory (export \"memory\") 1)";
    let shared = with(&count(), memory, "(memory (export \"memory\") 1 2 shared)");
    refused(shared, &["uses threads", "build it without `-pthread`"]);
    refused(with(&count(), memory, "(memory (export \"memory\") 1) (memory i64 1)"), &["64-bit memory", "wasm32"]);
    let function = |body: &str| with(&count(), "  (func $is", &format!("  {body}\n  (func $is"));
    refused(function("(tag $oops) (func (throw $oops))"), &["uses exception handling", "panic = \"abort\""]);
    refused(function("(type (struct (field i32)))"), &["uses garbage collection", "has no collector"]);
}

#[test]
fn more_than_a_vm_may_hold_is_refused() {
    let many =
        |what: &str, times: usize| with(&count(), "  (func $is", &format!("{}\n  (func $is", what.repeat(times)));
    refused(many("(memory 0)", 4), &["5 linear memories, limit is 4"]);
    refused(many("(table 0 funcref)", 33), &["33 tables, limit is 32"]);
    refused(many("(table 100001 funcref)", 1), &["100001 elements in one table, limit is 100000"]);
}

#[test]
fn a_workload_that_begins_large_is_shown_with_the_sizes_that_hold_it() {
    let folder = Folder::new();
    // 70 MiB.
    let file =
        folder.file("large.wat", with(&count(), "(memory (export \"memory\") 1)", "(memory (export \"memory\") 1120)"));
    assert_eq!(inspected(file)["fits_sizes"], json!(["large", "huge"]));
}

#[test]
fn a_size_below_the_initial_memory_does_not_fit() {
    let folder = Folder::new();
    let text = with(&count(), "(memory (export \"memory\") 1)", "(memory (export \"memory\") 300)");
    let file = folder.file("guest.wat", &text);
    assert_eq!(inspected(&file)["fits_sizes"], json!(["medium", "large", "huge"]));
    let words = ["guest.wat", "starts with 19660800 bytes", "`small` has 16777216 bytes", "give it at least"];
    lifeboat(["run"]).arg(&file).output().exits_with_one_line(3, &words);
}

#[test]
fn import_whose_type_is_not_that_of_wasi_is_refused() {
    // The component is consistent in itself, so that only linking detects the error.
    let text = component().replace("(param \"when\" u64)", "(param \"when\" u32)");
    let text = with(&text, "(func $subscribe (param $nanoseconds i64)", "(func $subscribe (param $nanoseconds i32)");
    let text = with(&text, "(i64.const 1000000000)", "(i32.const 1000000000)");
    let folder = Folder::new();
    let output = lifeboat(["inspect"]).arg(folder.file("guest.wasm", text)).output();
    output.exits_with_one_line(3, &["guest.wasm", "wasi:clocks/monotonic-clock@0.2.0"]);
}

#[test]
fn names_from_a_file_cannot_break_the_line() {
    let text = with(&count(), "(module\n", "(module\n(import \"a\\0ab\\1b[31m\" \"y\" (func))\n");
    refused(binary(&text), &["a b\\u{1b}[31m"]);
    let folder = Folder::new();
    let output = lifeboat(["inspect"]).arg(folder.file("two\nlines.wasm", "")).output();
    output.exits_with_one_line(3, &["two lines.wasm"]);
}

#[test]
fn name_of_a_file_that_cannot_be_read_cannot_break_the_line() {
    lifeboat(["inspect", "no\nsuch.wasm"]).output().exits_with_one_line(3, &["cannot be read"]);
}

#[test]
fn scripts_of_this_repository_are_not_workloads() {
    let output = lifeboat(["inspect"]).arg(root().join("workloads/build.sh")).output();
    output.exits_with_one_line(3, &["build.sh", "not WebAssembly"]);
}

#[test]
fn a_look_at_a_workload_reserves_no_address_space_for_it() {
    shell("ulimit -v 4000000 && lifeboat inspect workloads/prebuilt/counter.wasm").output().exits(0);
}
