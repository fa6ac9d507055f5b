//! The adapters of WASI preview 1, whose functions for sockets answer an error.
//!
//! As they are published, [`SOCKET_FUNCTIONS`] trap for any descriptor, and the trap names no cause. Here no descriptor
//! is a socket, so their errors are those of `sock_shutdown`: `badf` for a descriptor that is not open, else `notsock`.
//! Each of them gets a body that asks `sock_shutdown`, which changes nothing. All indices and types stay as they are.

use std::sync::LazyLock;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasm_encoder::{CodeSection, Function, Module, RawSection};
use wasmparser::{Parser, Payload, TypeRef};

use super::Kind;

/// The functions of preview 1 that are denied. The first parameter of each is a descriptor, and the result is an error.
pub(super) const SOCKET_FUNCTIONS: [&str; 3] = ["sock_accept", "sock_recv", "sock_send"];
/// The function that answers in their place. Its parameters are a descriptor and flags.
const ANSWERING_FUNCTION: &str = "sock_shutdown";

static REACTOR: LazyLock<Vec<u8>> =
    LazyLock::new(|| with_answers(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER).expect("the adapter is part of this crate"));
static COMMAND: LazyLock<Vec<u8>> =
    LazyLock::new(|| with_answers(WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER).expect("the adapter is part of this crate"));

/// Returns the adapter for a module of this kind.
pub(super) fn of(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::World => REACTOR.as_slice(),
        Kind::Program => COMMAND.as_slice(),
    }
}

/// Returns `adapter` with other bodies of [`SOCKET_FUNCTIONS`].
fn with_answers(adapter: &[u8]) -> wasmparser::Result<Vec<u8>> {
    let mut written = Module::new();
    let mut code = CodeSection::new();
    let mut code_end = 0;
    let (mut sockets, mut answering) = (Vec::new(), 0);
    // The index of the function whose body comes next. Imports come before all bodies.
    let mut function = 0_u32;
    for payload in Parser::new(0).parse_all(adapter) {
        let payload = payload?;
        let section = payload.as_section();
        let is_code = matches!(payload, Payload::CodeSectionStart { .. });
        if let Some((id, range)) = section
            && !is_code
        {
            written.section(&RawSection { id, data: &adapter[range] });
        }
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                        function += 1;
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if SOCKET_FUNCTIONS.contains(&export.name) {
                        sockets.push(export.index);
                    } else if export.name == ANSWERING_FUNCTION {
                        answering = export.index;
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } => code_end = range.end,
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                let is_last = range.end == code_end;
                if sockets.contains(&function) {
                    let mut answer = Function::new([]);
                    answer.instructions().local_get(0).i32_const(0).call(answering).end();
                    code.function(&answer);
                } else {
                    code.raw(&adapter[range]);
                }
                function += 1;
                if is_last {
                    written.section(&code);
                }
            }
            _ => {}
        }
    }
    Ok(written.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bodies of a module's functions.
    fn bodies(module: &[u8]) -> Vec<&[u8]> {
        let payloads = Parser::new(0).parse_all(module);
        let bodies = payloads.filter_map(|payload| match payload.expect("valid") {
            Payload::CodeSectionEntry(body) => Some(&module[body.range()]),
            _ => None,
        });
        bodies.collect()
    }

    #[test]
    fn an_adapter_stays_valid_and_changes_in_the_functions_for_sockets_alone() {
        let published = [
            (Kind::World, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER),
            (Kind::Program, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER),
        ];
        for (kind, published) in published {
            let adapter = of(kind);
            wasmparser::Validator::new_with_features(crate::workload::FEATURES).validate_all(adapter).expect("valid");
            let (before, after) = (bodies(published), bodies(adapter));
            assert_eq!(before.len(), after.len(), "{kind:?}");
            let changed = before.iter().zip(&after).filter(|(before, after)| before != after);
            assert_eq!(changed.count(), SOCKET_FUNCTIONS.len(), "{kind:?}");
        }
    }
}
