//! Turns the bytes of a workload into one validated component, or says in one line why it cannot.
//!
//! Many kinds of guest come in: a component, a core module built with the SDK or wit-bindgen (with or without WASI
//! preview 1), a plain core module whose exports carry the canonical names, and text of any of these. One kind goes
//! on: a component of the world `lifeboat:vm/vm`, checked against [`FEATURES`] and counted against [`LoadLimits`].
//!
//! This module is pure: no I/O, no clock, no compiler. Reading the file, compiling the component and giving it a
//! store are left to others. What it promises them is that
//! - every module inside is valid under [`FEATURES`], so compiling meets no proposal that the engine leaves off;
//! - the exports of the world exist with the contract's types, and nothing is imported beyond [`STATE_IMPORT`] and
//!   [`WASI_IMPORTS`]. (The *types* of WASI imports are not checked here: linking does that);
//! - what one instance needs of a pooled slot is at most what `LoadLimits` allows.
//!
//! The bytes are untrusted. Every length is bounded before it is worked on (`bounds.rs`), nesting is bounded before
//! anything recurses over it (`nesting.rs`), and all of it runs on a thread of its own with a known stack, where a
//! panic of a library is a refusal (`thread.rs`): no input makes [`load`] panic or overflow a stack.
//!
//! ```text
//! bytes --text?--> binary --validate--> component ----------------------------+--> contract --> footprint --> Workload
//!                              \------> core module --contract--> convert -> validate
//! ```

mod bounds;
mod contract;
mod convert;
mod error;
mod file;
mod footprint;
mod nesting;
mod text;
mod thread;

#[cfg(test)]
mod tests;

use lifeboat_api::id::WorkloadHash;
use serde::{Deserialize, Serialize};
use wasmparser::types::Types;
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

pub use contract::{PREVIEW_1_IMPORT, STATE_IMPORT, WASI_IMPORTS, WORKLOAD_EXPORT};
pub use error::LoadError;
pub use file::{ReadError, read};
pub use footprint::Footprint;
pub use thread::LOADER_STACK_BYTES;

/// Bounds the bytes of a workload's file, and of the binary that text stands for: 32 MiB.
pub const MODULE_BYTES_MAX: u64 = 32 << 20;
/// Bounds the bytes of a workload that is text: 4 MiB. The parser needs up to 75 times the memory.
pub const TEXT_BYTES_MAX: u64 = 4 << 20;
/// Bounds the bytes of the component that a module was turned into: the module, the adapter and some glue.
pub const COMPONENT_BYTES_MAX: u64 = MODULE_BYTES_MAX + (1 << 20);
/// Bounds the `component-type` sections of a core module, together: 256 KiB. Usual are 1 to 30 kB.
pub const COMPONENT_TYPE_BYTES_MAX: u64 = 256 << 10;
/// Bounds how deep components nest in components.
pub const COMPONENT_DEPTH_MAX: u64 = 32;
/// Bounds the component and instance types inside other types of one section: one for each interface of an embedded
/// world. Reading 700 inside one another fits a stack of 2 MiB.
pub const NESTED_TYPES_MAX: u64 = 200;
/// Bounds the core modules that a component contains, instantiated or not.
pub const CORE_MODULES_MAX: u64 = 64;
/// Bounds the core instances of one component instance. Glue between components may add a few at compile time.
pub const CORE_INSTANCES_MAX: u64 = 64;
/// Bounds the linear memories of one component instance.
pub const MEMORIES_MAX: u64 = 4;
/// Bounds the tables of a core module, or of one component instance.
pub const TABLES_MAX: u64 = 32;
/// The tables that the converter adds to those of a core module, for the functions that it imports: they are not counted
/// among its own.
pub const CONVERTER_TABLES: u64 = 1;
/// Bounds the elements that one table starts with.
pub const TABLE_ELEMENTS_MAX: u64 = 100_000;
/// Bounds the imports and exports of all core modules together. The converter copies a type for each of them.
pub const CORE_EXTERNS_MAX: u64 = 20_000;
/// Bounds the functions of all core modules together: each one is compiled.
pub const FUNCTIONS_MAX: u64 = 100_000;

/// Bounds the body of one function: 1 MiB. The time and the memory that the compiler takes grow faster than the body.
pub const FUNCTION_BYTES_MAX: u64 = 1 << 20;
/// Bounds the code of all functions together: 24 MiB.
pub const CODE_BYTES_MAX: u64 = 24 << 20;
/// Bounds the types of all core modules and components together.
pub const TYPES_MAX: u64 = 50_000;
/// Bounds the imports, exports, aliases, instances and functions of all components together, beside core modules.
pub const COMPONENT_ITEMS_MAX: u64 = 50_000;

/// The Wasm proposals that a workload may use: WebAssembly 2.0, tail calls, extended constants, multiple memories,
/// relaxed SIMD and the component model.
///
/// Off, compared with WebAssembly 3.0: garbage-collected and typed references, exceptions, threads (shared memories,
/// atomics) and 64-bit memories. A guest must stay deterministic and its memory must be countable, and the engine is
/// built without a collector. The engine must enable at least these.
pub const FEATURES: WasmFeatures = WasmFeatures::WASM3
    .difference(WasmFeatures::GC)
    .difference(WasmFeatures::GC_TYPES)
    .difference(WasmFeatures::FUNCTION_REFERENCES)
    .difference(WasmFeatures::EXCEPTIONS)
    .difference(WasmFeatures::THREADS)
    .difference(WasmFeatures::MEMORY64)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Validates `bytes` and makes them a component of the world `lifeboat:vm/vm`.
///
/// `name` is what messages call the file; it is not opened. Text is recognised by its first token, not by `name`.
///
/// # Errors
/// Each variant of [`LoadError`] is one cause; its message is one line with the file, the cause, the value, the
/// bound and the remedy.
pub fn load(name: &str, bytes: &[u8], limits: &LoadLimits) -> Result<Workload, LoadError> {
    check_bytes(name, "the file", bytes, limits.module_bytes)?;
    thread::run(name, || load_here(name, bytes, limits))
}

/// Loads on the stack of the caller.
fn load_here(name: &str, bytes: &[u8], limits: &LoadLimits) -> Result<Workload, LoadError> {
    let text = text::is_text(bytes);
    if text && bytes.len() as u64 > limits.text_bytes {
        let (bytes, limit_bytes) = (bytes.len() as u64, limits.text_bytes);
        return Err(LoadError::TextTooLarge { file: error::one_line(name), bytes, limit_bytes });
    }
    let parsed = if text { Some(text::parse(name, bytes)?) } else { None };
    let binary = parsed.as_deref().unwrap_or(bytes);
    check_bytes(name, "its binary form", binary, limits.module_bytes)?;

    let (form, component, adapted) = if Parser::is_component(binary) {
        (Form::Component, binary.to_vec(), false)
    } else if binary.starts_with(b"\0asm") {
        validate(name, binary, limits)?;
        footprint::scan(name, binary)?.check(name, limits)?;
        let converted = convert::to_component(name, binary, limits)?;
        (converted.form, converted.component, converted.adapted)
    } else {
        return Err(error::not_wasm(name, bytes));
    };
    check_bytes(name, "its component", &component, limits.component_bytes)?;

    let types = validate(name, &component, limits)?;
    let (imports, exports) = externs(name, &component)?;
    contract::check_component(name, types.as_ref(), &imports, &exports)?;
    let footprint = footprint::scan(name, &component)?;
    let converter_tables = if form == Form::Component { 0 } else { CONVERTER_TABLES };
    footprint.check(name, &LoadLimits { tables: limits.tables + converter_tables, ..limits.clone() })?;

    let wasi = match adapted {
        true => Some(Wasi::Preview1),
        false => imports.iter().any(|import| import.starts_with("wasi:")).then_some(Wasi::Preview2),
    };
    Ok(Workload {
        name: name.to_owned(),
        hash: WorkloadHash::of(bytes),
        form,
        text,
        wasi,
        initial_memory_bytes: footprint.initial_memory_bytes,
        memory_max: footprint.memory_max_bytes,
        has_start: footprint.has_start,
        footprint,
        imports,
        exports,
        input_bytes: bytes.len() as u64,
        component_bytes: component.len() as u64,
        component,
    })
}

/// A validated workload, ready to be compiled. Serialises as a report, without the component's bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Workload {
    /// What messages call the file.
    pub name: String,
    /// The identity of the workload: the hash of the bytes that were loaded, not of the component.
    pub hash: WorkloadHash,
    /// What the bytes were.
    pub form: Form,
    /// Whether they were text.
    pub text: bool,
    /// Which WASI the guest was built for, if any. Preview 1 has been adapted, so the component imports preview 2.
    pub wasi: Option<Wasi>,
    /// The component, of at most [`LoadLimits::component_bytes`].
    #[serde(skip)]
    pub component: Vec<u8>,
    /// What all linear memories of one instance start with. Instantiation itself may grow them further.
    pub initial_memory_bytes: u64,
    /// What all linear memories of one instance may grow to, if each of them declares a maximum.
    pub memory_max: Option<u64>,
    /// What one instance takes of a pooled slot.
    pub footprint: Footprint,
    /// The component's imports, in its order.
    pub imports: Vec<String>,
    /// The component's exports, in its order.
    pub exports: Vec<String>,
    /// The length of what was loaded.
    pub input_bytes: u64,
    /// The length of the component.
    pub component_bytes: u64,
    /// Whether instantiation runs guest code: a start function, `_initialize`, or the set-up of the WASI adapter.
    pub has_start: bool,
}

impl Workload {
    /// Encodes it for another process of the same version.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut encoded = postcard::to_allocvec(self).map_err(|error| error.to_string())?;
        encoded.extend_from_slice(&self.component);
        Ok(encoded)
    }

    /// Decodes what [`Workload::encode`] made; none if it is not whole.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let (mut workload, component) = postcard::take_from_bytes::<Self>(encoded).ok()?;
        if component.len() as u64 != workload.component_bytes {
            return None;
        }
        workload.component = component.to_vec();
        let Self { initial_memory_bytes, memory_max: memory_max_bytes, has_start, footprint, .. } = workload;
        workload.footprint = Footprint { initial_memory_bytes, memory_max_bytes, has_start, ..footprint };
        Some(workload)
    }

    /// Refuses a size whose memory is too small to begin with.
    ///
    /// The initial memory may take at most `level_percent` (1 to 100) of `memory_limit_bytes`. With a threshold of
    /// 98 % that is 83 %: what a fresh VM may hold without failing over again soon.
    ///
    /// # Errors
    /// [`LoadError::InitialMemory`], with the smallest limit that suffices.
    pub fn check_size(&self, size_name: &str, memory_limit_bytes: u64, level_percent: u8) -> Result<(), LoadError> {
        let percent = u128::from(level_percent.clamp(1, 100));
        let needed = (u128::from(self.initial_memory_bytes) * 100).div_ceil(percent);
        if u128::from(memory_limit_bytes) >= needed {
            return Ok(());
        }
        Err(LoadError::InitialMemory {
            file: error::one_line(&self.name),
            size_name: error::one_line(size_name),
            initial_bytes: self.initial_memory_bytes,
            limit_bytes: memory_limit_bytes,
            level_percent: percent as u8,
            needed_bytes: u64::try_from(needed).unwrap_or(u64::MAX),
        })
    }
}

/// What the bytes of a workload were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A component.
    Component,
    /// A core module with a `component-type` section: built with the SDK or wit-bindgen.
    WitModule,
    /// A core module without one, whose exports carry the canonical names.
    PlainModule,
}

/// The version of WASI that a workload was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wasi {
    /// `wasi_snapshot_preview1`, adapted by the loader.
    #[serde(rename = "preview 1")]
    Preview1,
    /// The interfaces of WASI 0.2.
    #[serde(rename = "preview 2")]
    Preview2,
}

/// How large a workload may be. The defaults are the constants of this module, after which the fields are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadLimits {
    /// Bytes of the file, and of the binary that text stands for; checked before anything is parsed.
    pub module_bytes: u64,
    /// Bytes of a file that is text.
    pub text_bytes: u64,
    /// Bytes of the component.
    pub component_bytes: u64,
    /// Bytes of all `component-type` sections of a core module.
    pub component_type_bytes: u64,
    /// Core modules that the component contains.
    pub core_modules: u64,
    /// Imports and exports of all core modules.
    pub core_externs: u64,
    /// Core instances of one component instance.
    pub core_instances: u64,
    /// Linear memories of one component instance.
    pub memories: u64,
    /// Tables of one component instance.
    pub tables: u64,
    /// Elements that one table starts with.
    pub table_elements: u64,
    /// Functions of all core modules.
    pub functions: u64,
    /// Bytes of the body of one function.
    pub function_bytes: u64,
    /// Bytes of the bodies of all functions.
    pub code_bytes: u64,
    /// Types of all core modules and components.
    pub types: u64,
    /// Imports, exports, aliases, instances and functions of all components.
    pub component_items: u64,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            module_bytes: MODULE_BYTES_MAX,
            text_bytes: TEXT_BYTES_MAX,
            component_bytes: COMPONENT_BYTES_MAX,
            component_type_bytes: COMPONENT_TYPE_BYTES_MAX,
            core_modules: CORE_MODULES_MAX,
            core_externs: CORE_EXTERNS_MAX,
            core_instances: CORE_INSTANCES_MAX,
            memories: MEMORIES_MAX,
            tables: TABLES_MAX,
            table_elements: TABLE_ELEMENTS_MAX,
            functions: FUNCTIONS_MAX,
            function_bytes: FUNCTION_BYTES_MAX,
            code_bytes: CODE_BYTES_MAX,
            types: TYPES_MAX,
            component_items: COMPONENT_ITEMS_MAX,
        }
    }
}

fn check_bytes(file: &str, what: &'static str, bytes: &[u8], limit: u64) -> Result<(), LoadError> {
    let length = bytes.len() as u64;
    if length <= limit {
        return Ok(());
    }
    Err(LoadError::TooLarge { file: error::one_line(file), what, bytes: length, limit_bytes: limit })
}

fn validate(file: &str, binary: &[u8], limits: &LoadLimits) -> Result<Types, LoadError> {
    bounds::check(file, binary, limits)?;
    nesting::check(file, binary)?;
    Validator::new_with_features(FEATURES).validate_all(binary).map_err(|cause| {
        // Some checks of a proposal fail with an ordinary message. If the binary is valid with everything on, the
        // reason is a proposal all the same.
        let proposal = cause.missing_wasm_feature().is_some()
            || Validator::new_with_features(WasmFeatures::all()).validate_all(binary).is_ok();
        if proposal { error::feature(file, &cause) } else { error::invalid(file, &cause) }
    })
}

/// Lists the imports and exports of the outermost component, in its order.
fn externs(file: &str, component: &[u8]) -> Result<(Vec<String>, Vec<String>), LoadError> {
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0_u32);
    let mut collect = || -> wasmparser::Result<()> {
        for payload in Parser::new(0).parse_all(component) {
            match payload? {
                Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        exports.push(export?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    };
    collect().map_err(|cause| error::invalid(file, &cause))?;
    Ok((imports, exports))
}
