//! Programs in preview 1: core modules with `_start`, for the command adapter.
//!
//! The adapter makes `wasi:cli/run` of `_start`. Its `proc_exit` calls `wasi:cli/exit#exit`, which has no codes: any code
//! but 0 becomes 1. So the module's import of `proc_exit` is renamed to `wasi:cli/exit#exit-with-code`, which the module
//! then calls without the adapter. Both have the core type `[i32] -> []`, and the host lifts the code's lowest 8 bits
//! (Canonical ABI, `lift_flat_unsigned`), as POSIX does.

use std::borrow::Cow;
use std::sync::LazyLock;

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{ExportKind, ExportSection, ImportSection, MemorySection, MemoryType, Module, RawSection};
use wasmparser::{Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

use super::contract::PREVIEW_1_IMPORT;

/// The export of a core module that is a program.
pub(super) const START: &str = "_start";

/// The export of a program in which the adapter finds the memory.
pub(super) const MEMORY: &str = "memory";

/// The function of preview 1 that ends a program.
pub(super) const PROC_EXIT: &str = "proc_exit";

/// The interface and function in its place. The version is that of the adapter's imports.
const EXIT_INTERFACE: &str = "wasi:cli/exit@0.2.12";
const EXIT_FUNCTION: &str = "exit-with-code";

/// A world that imports [`EXIT_INTERFACE`] as the host has it. The converter merges it with that of the adapter.
const EXIT_WIT: &str = "\
package lifeboat:program;
world program { import wasi:cli/exit@0.2.12; }
package wasi:cli@0.2.12 {
  interface exit {
    exit: func(status: result);
    exit-with-code: func(status-code: u8);
  }
}
";

static EXIT_WORLD: LazyLock<(Resolve, WorldId)> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("program.wit", EXIT_WIT).expect("the WIT is part of this crate");
    let world = resolve.select_world(&[package], Some("program")).expect("the WIT has this world");
    (resolve, world)
});

/// Returns `module`, which is valid, with an empty memory that is exported as [`MEMORY`]. It has `_start`, no memory,
/// and no export of this name.
///
/// The adapter wants a memory, also where the module passes it no address.
///
/// # Errors
/// The message of the encoder. Bytes of a valid module cause none.
pub(super) fn with_empty_memory(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut written = Module::new();
    let mut has_memory = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| error.to_string())?;
        let Some((id, range)) = payload.as_section() else { continue };
        let is_before_memories = matches!(
            payload,
            Payload::CustomSection(_)
                | Payload::TypeSection(_)
                | Payload::ImportSection(_)
                | Payload::FunctionSection(_)
                | Payload::TableSection(_)
                | Payload::MemorySection(_)
        );
        // The section of exports, which the module has, is behind that of memories.
        if !is_before_memories && !has_memory {
            has_memory = true;
            let mut memories = MemorySection::new();
            memories.memory(MemoryType {
                minimum: 0,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
            written.section(&memories);
        }
        match payload {
            // It is empty.
            Payload::MemorySection(_) => {}
            Payload::ExportSection(section) => {
                let mut exports = ExportSection::new();
                RoundtripReencoder.parse_export_section(&mut exports, section).map_err(|error| error.to_string())?;
                exports.export(MEMORY, ExportKind::Memory, 0);
                written.section(&exports);
            }
            _ => {
                written.section(&RawSection { id, data: &module[range] });
            }
        }
    }
    Ok(written.finish())
}

/// Returns `module`, which is valid, with [`PROC_EXIT`] renamed, and with the types of the new name.
///
/// # Errors
/// The message of the encoder. Bytes of a valid module cause none.
pub(super) fn with_exit_codes(module: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let mut renamed = Module::new();
    let mut has_exit = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| error.to_string())?;
        if let Payload::ImportSection(section) = payload {
            let mut imports = ImportSection::new();
            for import in section.into_imports() {
                let import = import.map_err(|error| error.to_string())?;
                let ty = RoundtripReencoder.entity_type(import.ty).map_err(|error| error.to_string())?;
                if (import.module, import.name) == (PREVIEW_1_IMPORT, PROC_EXIT) {
                    has_exit = true;
                    imports.import(EXIT_INTERFACE, EXIT_FUNCTION, ty);
                } else {
                    imports.import(import.module, import.name, ty);
                }
            }
            renamed.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            renamed.section(&RawSection { id, data: &module[range] });
        }
    }
    if !has_exit {
        return Ok(Cow::Borrowed(module));
    }
    let (resolve, world) = &*EXIT_WORLD;
    let mut renamed = renamed.finish();
    embed_component_metadata(&mut renamed, resolve, *world, StringEncoding::UTF8)
        .map_err(|error| format!("{error:#}"))?;
    Ok(Cow::Owned(renamed))
}
