//! The committed workloads: built from the sources beside them, small, and each with its transactions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use lifeboat_vm::workload::{Form, Kind, LoadLimits, Wasi, load};
use sha2::{Digest, Sha256};

use crate::util::{PROGRAMS, WORKLOADS, guest, prebuilt, root, transactions};

/// The maximum size of a workload, in bytes. It is downloaded, embedded in the binary and compiled often, so it stays
/// small.
const WORKLOAD_BYTES_MAX: usize = 200_000;

/// The maximum size of a program, in bytes.
const PROGRAM_BYTES_MAX: usize = 1_000_000;

#[test]
fn binary_was_built_from_the_sources_beside_it() {
    let listed = std::fs::read_to_string(root().join("workloads/prebuilt/SOURCES")).expect("SOURCES can be read");
    let lines: Vec<String> = WORKLOADS.iter().map(|name| format!("{}  {name}", source_hash(name))).collect();
    for (line, name) in lines.iter().zip(WORKLOADS) {
        let is_current = listed.lines().any(|listed| listed == line);
        assert!(is_current, "sources of `{name}` changed: rebuild workloads/prebuilt with `workloads/build.sh`");
    }
    assert_eq!(listed.lines().collect::<Vec<_>>(), lines, "SOURCES lists the workloads by name, and nothing else");
}

#[test]
fn program_was_built_from_the_sources_beside_it() {
    let listed = std::fs::read_to_string(root().join("workloads/prebuilt/PROGRAMS")).expect("PROGRAMS can be read");
    let lines: Vec<String> = PROGRAMS.iter().map(|name| format!("{}  {name}", program_hash(name))).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), lines, "rebuild with `workloads/build-programs.sh`");
}

#[test]
fn every_program_is_loaded_as_one() {
    for name in PROGRAMS {
        let bytes = std::fs::read(prebuilt(name)).expect("a program can be read");
        assert!(bytes.len() <= PROGRAM_BYTES_MAX, "{name} is {} bytes, limit is {PROGRAM_BYTES_MAX}", bytes.len());
        let program = load(name, &bytes, &LoadLimits::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((program.kind, program.wasi), (Kind::Program, Some(Wasi::Preview1)), "{name}");
    }
}

#[test]
fn folder_holds_the_sample_workloads_alone() {
    let mut names: Vec<String> = entries(&root().join("workloads/prebuilt")).into_keys().collect();
    names.retain(|name| name != "SOURCES" && name != "PROGRAMS");
    let mut expected: Vec<String> = WORKLOADS.into_iter().chain(PROGRAMS).map(|name| format!("{name}.wasm")).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "tests run every workload of `util::WORKLOADS` and `util::PROGRAMS`");
}

#[test]
fn every_workload_is_small() {
    for name in WORKLOADS {
        let bytes = std::fs::read(prebuilt(name)).expect("a workload can be read").len();
        assert!(bytes <= WORKLOAD_BYTES_MAX, "{name} is {bytes} bytes, limit is {WORKLOAD_BYTES_MAX}");
    }
}

#[test]
fn every_workload_is_loaded() {
    for name in WORKLOADS {
        let bytes = std::fs::read(prebuilt(name)).expect("a workload can be read");
        let workload = load(name, &bytes, &LoadLimits::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((workload.form, workload.wasi), (Form::WitModule, Some(Wasi::Preview1)), "{name}");
    }
}

#[test]
fn every_workload_has_transactions() {
    for name in WORKLOADS {
        let lines = std::fs::read_to_string(transactions(name)).expect("a file of transactions");
        assert!(lines.lines().count() >= 50 && lines.ends_with('\n'), "{name}");
    }
}

#[test]
fn no_path_of_the_building_machine_is_in_a_workload() {
    for name in WORKLOADS.into_iter().chain(PROGRAMS) {
        let bytes = std::fs::read(prebuilt(name)).expect("a workload can be read");
        for path in [&b"/home/"[..], b"/root/", b"/Users/", b".cargo"] {
            let is_in = bytes.windows(path.len()).any(|window| window == path);
            assert!(!is_in, "{name} contains `{}`", path.escape_ascii());
        }
    }
}

#[test]
fn every_guest_of_the_tests_is_used_by_one() {
    let mut sources = String::new();
    for folder in ["tests", "host"] {
        read_sources(&root().join(folder), &mut sources);
    }
    for name in entries(&guest("")).into_keys().filter(|name| name.ends_with(".wat")) {
        assert!(sources.contains(&name), "no test names `tests/guests/{name}`: test it or remove it");
    }
}

/// Returns the SHA-256 that the head of `workloads/build.sh` describes.
fn source_hash(name: &str) -> String {
    let root = root();
    let mut files = BTreeMap::new();
    for path in ["guest/Cargo.toml", "guest/macros/Cargo.toml", &format!("workloads/{name}/Cargo.toml")] {
        files.insert(path.to_owned(), std::fs::read(root.join(path)).expect("a manifest can be read"));
    }
    for folder in ["guest/src", "guest/macros/src", "host/wit", "host/vm/wasi/deps", &format!("workloads/{name}/src")] {
        collect(&root, folder, &mut files);
    }
    listing_hash(files)
}

fn listing_hash(files: BTreeMap<String, Vec<u8>>) -> String {
    let mut listing = String::new();
    for (path, content) in files {
        writeln!(listing, "{path}\n{}", sha256(&content)).expect("a string takes everything");
    }
    sha256(listing.as_bytes())
}

/// Returns the SHA-256 that the head of `workloads/build-programs.sh` describes.
fn program_hash(name: &str) -> String {
    let root = root();
    let script = "workloads/build-programs.sh";
    let mut files = BTreeMap::from([(script.to_owned(), std::fs::read(root.join(script)).expect("it can be read"))]);
    collect(&root, &format!("workloads/{name}"), &mut files);
    listing_hash(files)
}

/// Adds all files below `folder` by their paths from `root`, except `tests.rs`.
fn collect(root: &Path, folder: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for (name, is_folder) in entries(&root.join(folder)) {
        let path = format!("{folder}/{name}");
        if is_folder {
            collect(root, &path, files);
        } else if name != "tests.rs" {
            let content = std::fs::read(root.join(&path)).expect("a source can be read");
            files.insert(path, content);
        }
    }
}

/// Appends every Rust source at or below `folder`, if the folder exists.
fn read_sources(folder: &Path, sources: &mut String) {
    if !folder.exists() {
        return;
    }
    for (name, is_folder) in entries(folder) {
        let path = folder.join(&name);
        if is_folder {
            read_sources(&path, sources);
        } else if name.ends_with(".rs") {
            sources.push_str(&std::fs::read_to_string(path).expect("a source can be read"));
        }
    }
}

/// Returns the names in a folder, and whether each is a folder itself.
fn entries(folder: &Path) -> BTreeMap<String, bool> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| {
            let entry = entry.expect("a folder can be listed");
            let name = entry.file_name().into_string().expect("names are UTF-8");
            (name, entry.path().is_dir())
        })
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
