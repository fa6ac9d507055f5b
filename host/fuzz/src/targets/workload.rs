//! The target for the loader. In production it runs in its own process. Here it runs in this one, where nothing hides a
//! crash.

use crate::{INPUT_BYTES_MAX, Outcome, root, wasm};
use lifeboat_vm::fuzzing;
use lifeboat_vm::workload::{LoadLimits, load as load_workload};

/// Returns guests of the tests as text and binary, some as components, and one as the SDK would build it.
pub(super) fn workloads() -> Vec<Vec<u8>> {
    let mut workloads = Vec::new();
    for guest in ["count", "grow", "wasi", "two-host-calls", "table-bomb", "moving-query", "spin-start"] {
        let path = root().join(format!("tests/guests/{guest}.wat"));
        let text = std::fs::read(&path).expect("it is a file of the repository");
        let binary = wat::parse_bytes(&text).expect("it is valid").into_owned();
        let component = load_workload(guest, &binary, &LoadLimits::default()).expect("it is valid").component;
        if guest == "count" {
            workloads.push(as_of_the_sdk(&binary));
        }
        workloads.extend([text, binary, component]);
    }
    workloads.push(std::fs::read(root().join("tests/guests/refused/alias-chain-150.wat")).expect("it is there"));
    workloads.retain(|workload| workload.len() <= INPUT_BYTES_MAX);
    workloads
}

/// Adds to a core module the section of a workload built with the SDK.
fn as_of_the_sdk(module: &[u8]) -> Vec<u8> {
    let built = std::fs::read(root().join("workloads/prebuilt/counter.wasm")).expect("it is a file of the repository");
    let mut sections = wasm::split(module);
    let of_world = |section: &wasm::Section| {
        section.id == Some(0) && section.bytes.get(1..).is_some_and(|bytes| bytes.starts_with(b"component-type"))
    };
    sections.extend(wasm::split(&built).into_iter().filter(of_world));
    wasm::join(&sections)
}

pub(super) fn load(bytes: &[u8]) -> Outcome {
    let loaded = load_workload("fuzz.wasm", bytes, &LoadLimits::default());
    Outcome::of(loaded.map(|workload| {
        let encoded = fuzzing::encode(&workload).expect("a workload can be handed to another process");
        assert_eq!(fuzzing::loaded(&encoded), Some(encoded), "what was handed over is read");
        workload.component
    }))
}
