//! Tests of each accepted form and each refusal, then random and mutated bytes.
//!
//! Guests are variations of `tests/guests/count.wat`: a case replaces one piece of its text and states the outcome.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use wit_component::{StringEncoding, embed_component_metadata};

use super::contract::CONTRACT;
use super::convert::COMPONENT_TYPE_SECTION as COMPONENT_TYPE;
use super::*;

const COUNT: &str = include_str!("../../../../tests/guests/count.wat");
const COMPONENT: &str = include_str!("../../../../tests/guests/handle-bomb.wat");
const DENIED: &str = include_str!("../../../../tests/guests/denied.wat");

fn try_load(bytes: impl AsRef<[u8]>) -> Result<Workload, LoadError> {
    load("guest.wasm", bytes.as_ref(), &LoadLimits::default())
}

/// Loads `bytes`, which must be refused in one line that contains the file's name and each of `words`.
#[track_caller]
fn refused(bytes: impl AsRef<[u8]>, words: &[&str]) -> LoadError {
    let error = try_load(bytes).expect_err("must be refused");
    let line = error.to_string();
    assert!(line.starts_with("`guest.wasm`: ") && !line.contains('\n'), "{line}");
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
    error
}

/// Replaces a piece of `text`, which must occur.
#[track_caller]
fn with(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "no `{old}` to replace");
    text.replace(old, new)
}

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("valid text")
}

/// Adds to `text` the section that wit-bindgen would add.
fn wit_module(text: &str) -> Vec<u8> {
    let mut module = binary(text);
    embed_component_metadata(&mut module, &CONTRACT.resolve, CONTRACT.world, StringEncoding::UTF8).expect("own world");
    module
}

/// Returns count.wat with another import, declared before its own.
fn importing(import: &str) -> String {
    with(COUNT, "(module\n", &format!("(module\n  {import}\n"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_owned()
}

// Accepted forms.

#[test]
fn plain_modules_are_accepted_as_text_or_binary() {
    let text = try_load(COUNT).unwrap();
    assert_eq!((text.form, text.text, text.wasi), (Form::PlainModule, true, None));
    assert_eq!(text.imports, [STATE_IMPORT]);
    assert_eq!(text.exports, [WORKLOAD_EXPORT]);
    assert_eq!((text.initial_memory_bytes, text.memory_max, text.has_start), (64 << 10, None, false));
    assert_eq!(text.input_bytes, COUNT.len() as u64);
    assert_eq!(text.component_bytes, text.component.len() as u64);

    let bytes = binary(COUNT);
    let module = try_load(&bytes).unwrap();
    assert_eq!((module.form, module.text), (Form::PlainModule, false));
    assert_eq!(module.component, text.component);
    assert_eq!(module.hash, WorkloadHash::of(&bytes));
    assert_ne!(module.hash, text.hash, "the hash is of what was loaded");
}

/// Returns count.wat with aliases in the place of the canonical names of its exports.
fn aliased() -> String {
    let text = with(COUNT, "\"lifeboat:vm/workload@0.1.0#", "\"lifeboat_");
    with(&text, "lifeboat_state-version", "lifeboat_state_version")
}

#[test]
fn exports_may_have_names_that_are_identifiers() {
    let workload = try_load(aliased()).unwrap();
    assert_eq!((workload.form, &*workload.exports), (Form::PlainModule, &[WORKLOAD_EXPORT.to_owned()][..]));
    assert_eq!(workload.component, try_load(COUNT).unwrap().component);
    assert_ne!(workload.hash, try_load(COUNT).unwrap().hash);
}

#[test]
fn aliases_beside_canonical_names_are_ordinary_exports() {
    let text = with(COUNT, "  (func $is", "  (func (export \"lifeboat_execute\"))\n  (func $is");
    try_load(text).unwrap();
}

#[test]
fn an_alias_of_another_type_is_refused_by_its_canonical_name() {
    let text = with(&aliased(), "_version\") (result i32) (i32.const 1)", "_version\") (result i64) (i64.const 1)");
    refused(text, &["`lifeboat:vm/workload@0.1.0#state-version` is [] -> [i64]"]);
}

#[test]
fn the_abort_of_assemblyscript_is_refused_with_its_switch() {
    refused(importing("(import \"env\" \"abort\" (func (param i32 i32 i32 i32)))"), &["env#abort", "--use abort="]);
}

#[test]
fn modules_with_a_component_type_section_are_accepted() {
    let workload = try_load(wit_module(COUNT)).unwrap();
    assert_eq!(workload.form, Form::WitModule);
    assert_eq!(workload.exports, [WORKLOAD_EXPORT]);
}

#[test]
fn preview_1_is_adapted() {
    let text = importing(
        "(import \"wasi_snapshot_preview1\" \"random_get\" (func (param i32 i32) (result i32)))
         (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))",
    );
    for (form, bytes) in [(Form::PlainModule, binary(&text)), (Form::WitModule, wit_module(&text))] {
        let workload = try_load(bytes).unwrap();
        assert_eq!((workload.form, workload.wasi), (form, Some(Wasi::Preview1)));
        let mut names = workload.imports.iter();
        assert!(names.any(|name| name.starts_with("wasi:random/random@0.2.")), "{:?}", workload.imports);
    }
}

#[test]
fn components_are_accepted_as_text_or_binary() {
    for bytes in [COMPONENT.as_bytes(), &binary(COMPONENT)] {
        let workload = try_load(bytes).unwrap();
        assert_eq!((workload.form, workload.wasi), (Form::Component, Some(Wasi::Preview2)));
        assert_eq!(workload.component, binary(COMPONENT));
        assert_eq!((workload.footprint.core_instances, workload.footprint.memories), (2, 1));
    }
}

/// Returns handle-bomb.wat with every asynchronous built-in that can be replaced, and with `more` after them.
fn declaring_async(more: &str) -> String {
    let built_ins = "(core func $task-cancel (canon task.cancel))
        (core func $set (canon context.set i32 0)) (core func $get (canon context.get i32 0))
        (core func $yield (canon thread.yield)) (core func $drop (canon subtask.drop))
        (core func (canon subtask.cancel)) (core func (canon subtask.cancel async))
        (core func (canon backpressure.inc)) (core func (canon backpressure.dec))
        (core func $new-set (canon waitable-set.new)) (core func (canon waitable-set.drop))
        (core func (canon waitable-set.wait (memory $memory))) (core func (canon waitable-set.poll (memory $memory)))
        (core func $join (canon waitable.join))
        (core module $user
          (import \"a\" \"cancel\" (func)) (import \"a\" \"set\" (func (param i32)))
          (import \"a\" \"get\" (func (result i32))) (import \"a\" \"join\" (func (param i32 i32))))
        (core instance (instantiate $user (with \"a\" (instance
          (export \"cancel\" (func $task-cancel)) (export \"set\" (func $set)) (export \"get\" (func $get))
          (export \"join\" (func $join))))))";
    let lower = "  (core func $subscribe (canon lower";
    with(COMPONENT, lower, &format!("  {built_ins}\n{more}\n{lower}"))
}

#[test]
fn asynchronous_built_ins_that_are_not_used_are_accepted() {
    let bytes = binary(&declaring_async(""));
    let workload = try_load(&bytes).unwrap();
    assert_eq!(workload.form, Form::Component);
    assert_eq!(workload.hash, WorkloadHash::of(&bytes));
    let plain = try_load(COMPONENT).unwrap().footprint;
    assert_eq!(workload.footprint.core_instances, plain.core_instances + 2, "the user, and the functions that trap");
    assert_eq!(workload.footprint.memories, plain.memories);
}

#[test]
fn modules_are_found_behind_replaced_built_ins_at_any_depth() {
    let nested = "(component (alias outer 1 $user (core module $theirs)) (core module $own)
        (component (alias outer 2 $heap (core module $far)) (alias outer 1 $own (core module $near))
          (core func (canon task.cancel)) (core module $empty)
          (core instance (instantiate $far)) (core instance (instantiate $near)) (core instance (instantiate $empty)))
        (core instance (instantiate $own)))";
    let nested = nested.replace("$heap", "$heap-module");
    let text = with(&declaring_async(&nested), "(core module $heap", "(core module $heap-module");
    let text = with(&text, "(instantiate $heap)", "(instantiate $heap-module)");
    try_load(text).unwrap();
}

#[test]
fn other_asynchronous_functions_are_refused_as_such() {
    let streams = declaring_async("(type $s (stream u8)) (core func (canon stream.new $s))");
    let error = refused(streams, &["asynchronous component functions", "WASI 0.2"]);
    assert!(matches!(error, LoadError::Feature { .. }), "{error:?}");
}

#[test]
fn the_component_that_is_made_from_a_module_is_accepted() {
    let made = try_load(COUNT).unwrap();
    let again = try_load(&made.component).unwrap();
    assert_eq!((again.form, again.footprint), (Form::Component, made.footprint));
}

/// Returns the paths of the guests of the tests, with their names.
fn guests() -> Vec<(String, PathBuf)> {
    let paths = std::fs::read_dir(repository().join("tests/guests")).unwrap().map(|entry| entry.unwrap().path());
    let guests = paths.filter(|path| path.extension().is_some_and(|extension| extension == "wat"));
    let guests: Vec<_> = guests.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path)).collect();
    assert!(guests.len() > 20);
    guests
}

#[test]
fn every_guest_of_the_tests_is_accepted() {
    for (name, path) in guests() {
        load(&name, &std::fs::read(&path).unwrap(), &LoadLimits::default()).unwrap();
    }
}

#[test]
fn every_guest_of_the_tests_is_listed() {
    let list = std::fs::read_to_string(repository().join("tests/guests/README.md")).unwrap();
    for (name, _) in guests() {
        assert!(list.contains(&format!("`{name}`")), "README.md does not list {name}");
    }
}

#[test]
fn text_is_recognised_by_its_first_token() {
    for text in ["(module)", " \t\r\n(module)", ";; a\n;; b\n(module)", "(; a (; nested ;) ;) (module)", "(; open"] {
        assert!(text::is_text(text.as_bytes()), "{text}");
    }
    for text in ["", ";", ";; only a comment", "(; only ;)", "module", "\0asm", "#!/bin/sh"] {
        assert!(!text::is_text(text.as_bytes()), "{text}");
    }
    assert!(!text::is_text(b"(module \xff)"));
}

#[test]
fn declared_memory_is_counted() {
    let text = with(COUNT, "(memory (export \"memory\") 1)", "(memory (export \"memory\") 2 5) (memory 3 4)");
    let workload = try_load(text).unwrap();
    assert_eq!(workload.initial_memory_bytes, 5 * 65536);
    assert_eq!(workload.memory_max, Some(9 * 65536));
    assert_eq!(workload.footprint.largest_memory_bytes, 3 * 65536);
}

#[test]
fn a_start_function_is_noticed() {
    let start = with(COUNT, "  (func $is", "  (func $begin) (start $begin)\n  (func $is");
    assert!(try_load(start).unwrap().has_start);
    let initialize = with(COUNT, "  (func $is", "  (func (export \"_initialize\"))\n  (func $is");
    assert!(try_load(initialize).unwrap().has_start);
}

#[test]
fn a_hash_is_printed_as_64_digits() {
    let hash = try_load(COUNT).unwrap().hash;
    let text = hash.to_string();
    assert_eq!(text, blake3::hash(COUNT.as_bytes()).to_hex().as_str());
    assert_eq!(text.parse::<WorkloadHash>().unwrap(), hash);
}

#[test]
fn json_of_a_workload_shows_its_hash_in_the_place_of_its_component() {
    let workload = try_load(COUNT).unwrap();
    let json = serde_json::to_value(&workload).unwrap();
    assert_eq!(json["hash"], workload.hash.to_string());
    assert_eq!(json["form"], "plain-module");
    assert!(json.get("component").is_none());
    assert_eq!(serde_json::from_value::<WorkloadHash>(json["hash"].clone()).unwrap(), workload.hash);
    assert!(serde_json::from_str::<WorkloadHash>("\"00\"").is_err());
}

// Refusals of malformed bytes.

#[test]
fn bytes_that_are_no_wasm_are_refused() {
    for bytes in [&b""[..], b"\0as", b"hello", b"\x7fELF\x02\x01", b"PK\x03\x04", b"\xff\xfe(module)"] {
        assert!(matches!(refused(bytes, &["not WebAssembly"]), LoadError::NotWasm { .. }));
    }
    refused(b"\x7fELF\x02", &["7f 45 4c 46", "00 61 73 6d", "wasm32-wasip1"]);
}

#[test]
fn text_that_does_not_parse_is_refused_with_its_place() {
    let error = refused("(module\n  (funk))", &["line 2, column 4"]);
    assert!(matches!(error, LoadError::Text { line: 2, column: 4, .. }), "{error:?}");
    refused("(; open", &["line 1, column 1"]);
    let long = refused(format!("(module{}(funk))", " ".repeat(100_000)), &["line 1, column 100009"]);
    assert!(!long.to_string().contains("<anon>"), "{long}");
    refused("(module (func (call $nobody)))", &["line 1, column 21", "$nobody"]);
}

#[test]
fn truncated_binaries_are_refused_with_their_place() {
    for bytes in [binary(COUNT), binary(COMPONENT)] {
        let error = refused(&bytes[..bytes.len() / 2], &["at byte"]);
        assert!(matches!(error, LoadError::Invalid { .. }), "{error:?}");
    }
    refused(b"\0asm", &["at byte 4", "unexpected end"]);
}

#[test]
fn invalid_modules_are_refused_with_their_place() {
    refused("(module (func (result i32)))", &["at byte", "type mismatch"]);
}

#[test]
fn bytes_are_bounded_before_anything_is_parsed() {
    let limits = LoadLimits { module_bytes: 100, ..LoadLimits::default() };
    let garbage = load("big.wat", &[b'('; 101], &limits).unwrap_err();
    let line = garbage.to_string();
    assert!(line.contains("the file is 101 bytes, limit is 100 bytes"), "{line}");

    let limits = LoadLimits { component_bytes: 1000, ..LoadLimits::default() };
    let error = load("big.wat", COUNT.as_bytes(), &limits).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { what: "its component", .. }), "{error:?}");

    let limits = LoadLimits { component_type_bytes: 10, ..LoadLimits::default() };
    let error = load("big.wasm", &wit_module(COUNT), &limits).unwrap_err();
    assert!(error.to_string().contains("component-type"), "{error}");
}

/// Returns a component with one type: `levels` nested component types.
fn nested_types(levels: usize) -> Vec<u8> {
    let types = [&[1][..], &[0x41, 1, 1].repeat(levels - 1), &[0x41, 0]].concat();
    component_with_section(7, &types)
}

fn component_with_section(id: u8, body: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", &[id][..], &leb128(body.len()), body].concat()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn nesting_that_would_overflow_the_stack_is_refused() {
    // A type section of 3 MB once ended the process with a stack overflow.
    refused(nested_types(1_000_000), &["999999 nested types in one section, limit is 200"]);
    refused(nested_types(NESTED_TYPES_MAX as usize), &["lacks `lifeboat:vm/workload"]);

    let name = [&leb128(COMPONENT_TYPE.len())[..], COMPONENT_TYPE.as_bytes()].concat();
    let section = |data: &[u8]| [&[0][..], &leb128(name.len() + data.len()), &name, data].concat();
    refused([binary(COUNT), section(&nested_types(1_000_000))].concat(), &["nested types in one section"]);
    refused([binary(COUNT), section(&nested_types(100))].concat(), &["cannot make a component"]);
    refused([binary(COUNT), section(b"\x03\0")].concat(), &["outdated format"]);

    let mut component = component_with_section(0, b"\0");
    for _ in 0..COMPONENT_DEPTH_MAX - 1 {
        component = component_with_section(4, &component);
    }
    refused(&component, &["lacks `lifeboat:vm/workload"]);
    refused(component_with_section(4, &component), &["33 levels of nested components, limit is 32"]);
}

/// Returns a chain of component types, each of which contains the previous one.
fn alias_chain(levels: usize) -> String {
    let mut text = String::from("(component\n(type $t0 (instance))\n");
    for level in 1..levels {
        let before = level - 1;
        text += &format!(
            "(type $t{level} (instance (alias outer 1 $t{before} (type $p)) (export \"x\" (instance (type $p)))))\n"
        );
    }
    text + ")"
}

#[test]
fn types_that_a_library_panics_at_are_refused() {
    let case = std::fs::read(repository().join("tests/guests/refused/alias-chain-150.wat")).unwrap();
    refused(&case, &[]);
    for levels in [90, 101, 150, 400, 3000] {
        let text = alias_chain(levels);
        refused(&text, &[]);
        refused(binary(&text), &[]);
        // The same holds in the section that describes the component to make from a module.
        let name = [&leb128(COMPONENT_TYPE.len())[..], COMPONENT_TYPE.as_bytes()].concat();
        let data = [name, binary(&text)].concat();
        refused([binary(COUNT), vec![0], leb128(data.len()), data].concat(), &[]);
    }
}

#[test]
fn code_is_bounded_before_it_is_compiled() {
    // Each constant takes 11 bytes.
    let function = |constants: usize| {
        let body = "i64.const 0x7fffffffffffffff drop ".repeat(constants);
        binary(&with(COUNT, "  (func $is", &format!("  (func {body})\n  (func $is")))
    };
    try_load(function(60_000)).unwrap();
    let above = function(100_000);
    let error = refused(above, &["the body of one function is ", "limit is 1048576 bytes", "split the function"]);
    assert!(matches!(error, LoadError::TooMuchCode { .. }), "{error:?}");

    let limits = LoadLimits { code_bytes: 100, ..LoadLimits::default() };
    let error = load("big.wasm", &binary(COUNT), &limits).unwrap_err();
    assert!(error.to_string().contains("the code of all functions is"), "{error}");
    let limits = LoadLimits { types: 3, ..LoadLimits::default() };
    assert!(load("big.wasm", &binary(COUNT), &limits).unwrap_err().to_string().contains("types, limit is 3"));
    let limits = LoadLimits { component_items: 3, ..LoadLimits::default() };
    let error = load("big.wasm", &binary(COMPONENT), &limits).unwrap_err();
    assert!(error.to_string().contains("aliases and instances of components, limit is 3"), "{error}");
}

#[test]
fn text_is_bounded_more_tightly_than_a_binary() {
    let text = format!("(module {})", "(func)".repeat(TEXT_BYTES_MAX as usize / 6));
    let error = refused(&text, &["the text is 4194", "limit is 4194304 bytes", "wasm-tools parse"]);
    assert!(matches!(error, LoadError::TextTooLarge { .. }), "{error:?}");
}

// Refusals of proposals.

#[test]
fn proposals_that_are_off_are_refused_by_name() {
    let memory = "(memory (export \"memory\") 1)";
    refused(with(COUNT, memory, "(memory (export \"memory\") 1 2 shared)"), &["threads", "-pthread"]);
    refused(with(COUNT, memory, "(memory (export \"memory\") 1) (memory i64 1)"), &["64-bit memory", "wasm32"]);
    let function = |body: &str| with(COUNT, "  (func $is", &format!("  {body}\n  (func $is"));
    refused(function("(func (drop (i32.atomic.load (i32.const 0))))"), &["threads"]);
    refused(function("(func (param externref))"), &["references", "collector"]);
    refused(function("(type (struct (field i32)))"), &["references"]);
    refused(function("(func (param (ref null func)) (local (ref func)))"), &["references"]);
    let error = refused(function("(tag $oops) (func (throw $oops))"), &["exception handling", "-fwasm-exceptions"]);
    assert!(matches!(error, LoadError::Feature { .. }));
    let legacy = "(tag $oops) (func try throw $oops catch $oops end)";
    refused(function(legacy), &["exception handling", "-fno-exceptions"]);
}

#[test]
fn proposals_that_are_on_are_accepted() {
    for body in [
        "(func (param v128) (result v128) local.get 0)",
        "(func $tail (return_call $tail))",
        "(func (param funcref) (result i32) (ref.is_null (local.get 0)))",
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
        "(func (result i32 i32) i32.const 1 i32.const 2)",
    ] {
        try_load(with(COUNT, "  (func $is", &format!("  {body}\n  (func $is"))).unwrap();
    }
}

// Refusals by the contract.

#[test]
fn missing_exports_are_all_listed() {
    let text = with(COUNT, "#restore\"", "#restart\"");
    let text = with(&text, "#query\"", "#ask\"");
    let text = with(&text, "(export \"cabi_realloc\")", "");
    for bytes in [binary(&text), wit_module(&text)] {
        let error = refused(bytes, &["workload@0.1.0#query", "workload@0.1.0#restore", "cabi_realloc", "#restart"]);
        let LoadError::MissingExports { missing, .. } = error else { panic!("{error:?}") };
        assert_eq!(missing.len(), 3, "{missing:?}");
    }
    refused("(module)", &["#execute", "#query", "#state-version", "#snapshot", "#restore", "`memory`", "nothing"]);
    refused(with(COUNT, "(memory (export \"memory\") 1)", "(memory 1)"), &["lacks `memory`"]);
}

#[test]
fn components_of_other_worlds_are_refused() {
    refused("(component)", &["#execute", "#query", "#state-version", "#snapshot", "#restore", "exports nothing"]);
    let other = with(COMPONENT, "\"lifeboat:vm/workload@0.1.0\"", "\"lifeboat:vm/workload@0.9.0\"");
    refused(other, &["lacks `lifeboat:vm/workload@0.1.0#execute`", "exports `lifeboat:vm/workload@0.9.0`"]);
    let partial = with(COMPONENT, "    (export \"snapshot\" (func $snapshot))\n", "");
    refused(partial, &["lacks `lifeboat:vm/workload@0.1.0#snapshot`, exports"]);
}

#[test]
fn exports_of_another_type_are_refused() {
    let text =
        with(COUNT, "#state-version\") (result i32) (i32.const 1)", "#state-version\") (result i64) (i64.const 1)");
    refused(&text, &["#state-version` is [] -> [i64]", "wants [] -> [i32]"]);
    refused(wit_module(&text), &["#state-version` is [] -> [i64]"]);
    refused(
        with(COUNT, "(export \"memory\") 1", "(export \"other\") 1) (global (export \"memory\") i32 (i32.const 1)"),
        &["wants a memory"],
    );
    let component = with(
        COMPONENT,
        "(export \"state-version\" (func $state_version))",
        "(export \"state-version\" (func $snapshot))",
    );
    refused(component, &["#state-version` is func() -> result<_, string>", "wants func() -> u32"]);
    let component = with(COMPONENT, "(field \"sequence\" u64)", "(field \"sequel\" u64)");
    let error = refused(component, &["sequel: u64", "sequence: u64"]);
    assert!(matches!(error, LoadError::ExportType { .. }), "{error:?}");
}

#[test]
fn unknown_imports_are_refused_by_name() {
    let cases = [
        ("\"env\" \"emscripten_notify\"", "env#emscripten_notify", "without glue"),
        ("\"wasi_unstable\" \"fd_write\"", "wasi_unstable#fd_write", "wasm32-wasip1"),
        ("\"wasi_snapshot_preview1\" \"fd_fly\"", "wasi_snapshot_preview1#fd_fly", "drop what needs more"),
        ("\"wasi\" \"thread-spawn\"", "wasi#thread-spawn", "drop what needs more"),
        ("\"wasi:cli/environment@0.3.0\" \"x\"", "wasi:cli/environment@0.3.0#x", "WASI 0.2"),
        ("\"lifeboat:vm/state@0.1.0\" \"erase\"", "lifeboat:vm/state@0.1.0#erase", "SDK"),
        ("\"lifeboat:vm/state@0.2.0\" \"read\"", "lifeboat:vm/state@0.2.0#read", "SDK"),
    ];
    for (import, name, remedy) in cases {
        let text = importing(&format!("(import {import} (func))"));
        for bytes in [binary(&text), wit_module(&text)] {
            assert!(matches!(refused(bytes, &[name, remedy]), LoadError::UnknownImports { .. }));
        }
    }
}

#[test]
fn wasi_0_2_in_a_module_without_its_types_is_refused() {
    for interface in ["wasi:clocks/wall-clock@0.2.0", "wasi:sockets/tcp@0.2.0"] {
        let module = importing(&format!("(import \"{interface}\" \"now\" (func (param i32)))"));
        refused(module, &[&format!("{interface}#now"), "component-type"]);
    }
}

#[test]
fn unknown_imports_of_components_are_refused_by_name() {
    let import = |import: &str| with(COMPONENT, "(component\n  (import", &format!("(component\n  {import}\n  (import"));
    refused(import("(import \"wasi:cli/environment@0.3.0\" (instance))"), &["environment@0.3.0", "WASI 0.2"]);
    refused(import("(import \"log\" (func))"), &["`log`"]);
    refused(import("(import \"wasi:cli/environment@0.2.0\" (func))"), &["wasi:cli/environment@0.2.0"]);
    try_load(import("(import \"wasi:cli/environment@0.2.9\" (instance))")).unwrap();
    let text = with(
        COMPONENT,
        "(export \"read\" (func (param \"max\" u32)",
        "(export \"erase\" (func))\n (export \"read\" (func (param \"max\" u32)",
    );
    refused(text, &["lifeboat:vm/state@0.1.0#erase"]);
}

#[test]
fn interfaces_of_wasi_that_no_service_is_granted_are_listed_as_denied() {
    let denied = ["wasi:sockets/network@0.2.3", "wasi:sockets/instance-network@0.2.3"];
    let denied = [&denied[..], &["wasi:sockets/ip-name-lookup@0.2.3", "wasi:nowhere/things"]].concat();
    assert_eq!(try_load(DENIED).unwrap().denied, denied);
    assert!(try_load(COMPONENT).unwrap().denied.is_empty());
}

#[test]
fn functions_of_preview_1_for_sockets_are_listed_as_denied() {
    let accept = r#"(import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32)))"#;
    let program = "(module IMPORT (memory (export \"memory\") 1) (func (export \"_start\")))".replace("IMPORT", accept);
    for module in [importing(accept), program] {
        assert_eq!(try_load(module).unwrap().denied, ["wasi_snapshot_preview1#sock_accept"]);
    }
    let shutdown = r#"(import "wasi_snapshot_preview1" "sock_shutdown" (func (param i32 i32) (result i32)))"#;
    assert!(try_load(importing(shutdown)).unwrap().denied.is_empty());
}

#[test]
fn interfaces_of_other_packages_are_refused_by_name() {
    for interface in ["acme:sockets/tcp@0.2.0", "wasix:sockets/tcp"] {
        let component = with(DENIED, "wasi:nowhere/things", interface);
        assert!(matches!(refused(component, &[interface]), LoadError::UnknownImports { .. }));
    }
}

#[test]
fn more_imported_functions_than_the_bound_are_refused() {
    let peeks = |count: u64| {
        let peeks: String = (0..count).map(|index| format!("(export \"peek{index}\" (func))")).collect();
        with(DENIED, "(export \"peek\" (func (result u32)))", &format!("(export \"peek\" (func (result u32))){peeks}"))
    };
    try_load(binary(&peeks(IMPORTED_ITEMS_MAX - 20))).unwrap();
    let error = refused(binary(&peeks(IMPORTED_ITEMS_MAX)), &["functions and types", "limit is 5000"]);
    assert!(matches!(error, LoadError::TooMany { .. }), "{error:?}");
}

#[test]
fn imports_of_another_type_are_refused() {
    let text = with(
        COUNT,
        "(func $read (param $max i32) (param $answer i32))",
        "(func $read (param $max i32) (param $answer i32) (result i32))",
    );
    let text = with(
        &text,
        "(call $read (i32.sub (i32.const 8) (local.get $have)) (i32.const 16))",
        "(drop (call $read (i32.const 8) (i32.const 16)))",
    );
    refused(&text, &["lifeboat:vm/state@0.1.0#read` is [i32 i32] -> [i32]", "has [i32 i32] -> []"]);
    let text = with(COMPONENT, "(param \"chunk\" (list u8))", "(param \"bytes\" (list u8))");
    refused(text, &["func(bytes: list<u8>)", "func(chunk: list<u8>)"]);
    let import = r#"(import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32) (result i32)))"#;
    let words = ["#sock_accept` is [i32 i32] -> [i32], WASI preview 1 has [i32 i32 i32] -> [i32]", "for wasm32-wasip1"];
    refused(importing(import), &words);
}

#[test]
fn only_released_wasi_0_2_is_wasi() {
    for import in WASI_IMPORTS {
        assert!(contract::is_wasi(&format!("{import}@0.2.0")) && contract::is_wasi(&format!("{import}@0.2.12")));
        for version in ["", "@", "@0.2", "@0.2.", "@0.3.0", "@0.2.0-rc-2023-11-10", "@10.2.0"] {
            assert!(!contract::is_wasi(&format!("{import}{version}")), "{import}{version}");
        }
    }
}

#[test]
fn workloads_that_are_also_commands_are_refused_as_both() {
    let text = with(COUNT, "  (func $is", "  (func (export \"_start\"))\n  (func $is");
    for bytes in [binary(&text), wit_module(&text)] {
        let error = refused(bytes, &["exports the world", "`_start`", "-mexec-model=reactor", "-buildmode=c-shared"]);
        assert!(matches!(error, LoadError::CommandWithWorld { .. }), "{error:?}");
    }
}

/// A program in preview 1 that ends with a code.
const EXIT_33: &str = "(module
    (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
    (memory (export \"memory\") 1)
    (func (export \"_start\") (call $exit (i32.const 33))))";

/// A component that exports `wasi:cli/run` of `version` with a function of `result`.
fn command(version: &str, result: &str) -> String {
    format!(
        "(component
            (core module $m (func (export \"run\") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result {result}) (canon lift (core func $i \"run\")))
            (instance $exported (export \"run\" (func $run)))
            (export \"wasi:cli/run@{version}\" (instance $exported)))"
    )
}

#[test]
fn a_module_with_start_is_a_program() {
    let silent = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
    // The adapter gets an empty memory, between the sections of tables and globals.
    let bare = "(module (table 1 funcref) (global i32 (i32.const 0)) (func (export \"_start\")))";
    let bare_exit = with(EXIT_33, "(memory (export \"memory\") 1)", "");
    for (module, wasi_exit) in [(EXIT_33, true), (silent, false), (bare, false), (&*bare_exit, true)] {
        let workload = try_load(module).unwrap();
        assert_eq!(
            (workload.kind, workload.form, workload.wasi),
            (Kind::Program, Form::PlainModule, Some(Wasi::Preview1))
        );
        assert_eq!(workload.exports, ["wasi:cli/run@0.2.12"]);
        assert_eq!(workload.imports.iter().any(|import| import == "wasi:cli/exit@0.2.12"), wasi_exit, "{module}");
    }
    assert_eq!(try_load(COUNT).unwrap().kind, Kind::World);
}

#[test]
fn a_component_that_exports_run_is_a_program() {
    for version in ["0.2.0", "0.2.12"] {
        let workload = try_load(command(version, "(result)")).unwrap();
        assert_eq!((workload.kind, workload.form, workload.wasi), (Kind::Program, Form::Component, None));
    }
    for version in ["0.3.0", "0.2.0-rc-2023-12-05"] {
        refused(command(version, "(result)"), &["another version of WASI", version, "wasm32-wasip2"]);
    }
    refused(command("0.2.0", "u32"), &["`wasi:cli/run@0.2.0#run`", "func() -> u32", "func() -> result<_, _>"]);
}

#[test]
fn a_program_has_no_stream_of_state() {
    let module = "(module (import \"lifeboat:vm/state@0.1.0\" \"write\" (func (param i32 i32)))
        (memory (export \"memory\") 1) (func (export \"_start\")))";
    refused(module, &["lifeboat:vm/state@0.1.0#write"]);
}

#[test]
fn a_program_whose_memory_the_adapter_cannot_find_is_refused() {
    let random = r#"(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))"#;
    for items in ["(memory 1)", "(global (export \"memory\") i32 (i32.const 0))", random] {
        refused(format!("(module {items} (func (export \"_start\")))"), &["without the export `memory`"]);
    }
}

#[test]
fn a_program_of_another_type_is_refused_without_a_word_about_the_world() {
    let module = "(module (func (export \"_start\") (param i32)))";
    let words = ["`_start` is [i32] -> [], a program wants [] -> []", "build it as a command of WASI"];
    for error in [refused(module, &words), refused(command("0.2.0", "u32"), &["a program wants", words[1]])] {
        assert!(!error.to_string().contains("vm.wit"), "{error}");
    }
}

#[test]
fn a_module_or_component_without_exports_may_become_a_program() {
    for text in ["(module)", "(component)"] {
        refused(text, &["from wit/vm.wit, or as a program, which exports `_start` (module) or `wasi:cli/run`"]);
    }
}

// Refusals of quantities.

#[test]
fn more_than_a_slot_holds_is_refused() {
    let many =
        |what: &str, count: u64| with(COUNT, "  (func $is", &format!("{}\n  (func $is", what.repeat(count as usize)));
    refused(many("(memory 0)", MEMORIES_MAX), &["5 linear memories, limit is 4"]);
    try_load(many("(memory 0)", MEMORIES_MAX - 1)).unwrap();
    refused(many("(table 0 funcref)", TABLES_MAX + 1), &["33 tables, limit is 32"]);
    let workload = try_load(many("(table 0 funcref)", TABLES_MAX)).unwrap();
    assert_eq!(workload.footprint.tables, TABLES_MAX + CONVERTER_TABLES);
    refused(many("(table 100001 funcref)", 1), &["100001 elements in one table, limit is 100000"]);
    refused(many("(func)", FUNCTIONS_MAX), &["functions, limit is 100000"]);
    let exports: String = (0..CORE_EXTERNS_MAX).map(|n| format!("(export \"{n}\" (func $is))")).collect();
    refused(many(&exports, 1), &["imports and exports of core modules, limit is 20000"]);
}

#[test]
fn instances_that_multiply_with_depth_are_counted() {
    let mut inner = "(core module $m (memory 1)) (core instance (instantiate $m))".to_owned();
    for _ in 0..12 {
        let instances = "(instance (instantiate $c))".repeat(10);
        inner = format!("(component $c {inner}) {instances}");
    }
    let text = with(COMPONENT, "(component\n  (import", &format!("(component\n  {inner}\n  (import"));
    refused(text, &["1000000000002 core instances, limit is 64"]);
}

#[test]
fn modules_reached_by_alias_or_export_are_counted() {
    let text = with(
        COMPONENT,
        "(component\n  (import",
        "(component $outer
          (core module $m (memory 2))
          (component $inner (alias outer $outer $m (core module $n)) (core instance (instantiate $n)))
          (export $named \"again\" (core module $m))
          (core instance (instantiate $named))
          (instance (instantiate $inner))
          (import",
    );
    let workload = try_load(text).unwrap();
    assert_eq!(workload.footprint.memories, 3);
    assert_eq!(workload.initial_memory_bytes, 5 * 65536);
}

#[test]
fn modules_that_are_passed_in_are_refused() {
    let text = with(
        COMPONENT,
        "(component\n  (import",
        "(component
          (component $late (import \"m\" (core module $m)) (core instance (instantiate $m)))
          (core module $m (memory 2))
          (instance (instantiate $late (with \"m\" (core module $m))))
          (import",
    );
    refused(text, &["instantiates a core module that it does not define", "compose"]);
}

#[test]
fn size_must_leave_room_beyond_the_initial_memory() {
    let workload = try_load(COUNT).unwrap();
    let needed = (65536_u64 * 100).div_ceil(83);
    workload.check_size("small", needed, 83).unwrap();
    let error = workload.check_size("small", needed - 1, 83).unwrap_err();
    let line = error.to_string();
    for word in ["`guest.wasm`", "`small`", "65536 bytes", "83%", &format!("at least {needed} bytes")] {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
    workload.check_size("full", 65536, 100).unwrap();
    assert!(workload.check_size("none", 65536, 0).is_err());
}

#[test]
fn names_from_the_guest_cannot_break_the_line() {
    let name = "a\\0ab\\1b[31m".to_owned() + &"x".repeat(5000);
    let error = refused(importing(&format!("(import \"{name}\" \"y\" (func))")), &["a b\\u{1b}[31m", "..."]);
    assert!(error.to_string().len() < 1500);
    let error = load("two\nlines", b"", &LoadLimits::default()).unwrap_err();
    assert!(error.to_string().starts_with("`two lines`: "));
}

#[test]
fn panic_of_the_converter_is_an_error() {
    let result: Result<(), String> = convert::survive(|| panic!("as wit-component might: {}", 1));
    assert_eq!(result.unwrap_err(), "the converter failed: as wit-component might: 1");
}

// Untrusted bytes.

/// Returns valid inputs of every form, for a test to damage.
fn bases() -> Vec<Vec<u8>> {
    let preview_1 = importing("(import \"wasi_snapshot_preview1\" \"random_get\" (func (param i32 i32) (result i32)))");
    let mut bases = vec![
        COUNT.into(),
        COMPONENT.into(),
        binary(COUNT),
        wit_module(COUNT),
        wit_module(&preview_1),
        binary(COMPONENT),
        try_load(&preview_1).unwrap().component,
    ];
    bases.extend(std::fs::read(repository().join("workloads/prebuilt/counter.wasm")));
    bases
}

/// Loads `bytes`: an error must be one line, and a workload must load again from its component.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let start = Instant::now();
    match try_load(bytes) {
        Ok(workload) => prop_assert!(try_load(&workload.component).is_ok()),
        Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
    }
    // This is far more than any input takes, and far less than a quadratic reader would take.
    prop_assert!(start.elapsed() < Duration::from_secs(60));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), header in 0..4) {
        let header: &[u8] = [&b""[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", b"(module "][header as usize];
        survives(&[header, &bytes].concat())?;
    }

    /// Components that nest, alias and repeat types, intact and damaged.
    #[test]
    fn types_of_any_shape_never_panic(
        levels in 1..250_usize,
        shape in 0..6_usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let chain = |of: fn(usize) -> String| -> String { (1..=levels).map(of).collect() };
        let types = match shape {
            0 => alias_chain(levels),
            1 => format!("(component (type $t0 u8){})", chain(|n| format!("(type $t{n} (list $t{}))", n - 1))),
            2 => format!("(component (type $t0 u8){})", chain(|n| format!("(type $t{n} (tuple $t{0} $t{0}))", n - 1))),
            3 => format!(
                "(component (type $t0 (func)){})",
                chain(|n| format!("(type $t{n} (instance (export \"f\" (func)))) (import \"i{n}\" (instance (type $t{n})))"))
            ),
            4 => format!("(component (type $t0 u8){})", chain(|n| format!("(type $t{n} (record (field \"a\" $t{})))", n - 1))),
            _ => format!("(component {}{})", "(type (component ".repeat(levels.min(90)), "))".repeat(levels.min(90))),
        };
        survives(types.as_bytes())?;
        // Text of one of these shapes is not always a component.
        let Ok(mut bytes) = wat::parse_str(&types) else { return Ok(()) };
        for (index, byte) in flips {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        survives(&bytes)?;
    }

    #[test]
    fn damaged_workloads_never_panic(
        base in 0..8_usize,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        splice in prop::option::of((
            0..8_usize,
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            0..64_usize,
        )),
    ) {
        let bases = bases();
        let mut bytes = bases[base % bases.len()].clone();
        for (index, byte) in flips {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some((other, from, to, length)) = splice {
            let other = &bases[other % bases.len()];
            let (from, to) = (from.index(other.len()), to.index(bytes.len()));
            let piece = other[from..].iter().take(length).copied();
            let end = bytes.len().min(to + length);
            bytes.splice(to..end, piece);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survives(&bytes)?;
    }
}
