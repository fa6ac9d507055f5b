//! Turns the bytes of a workload into one validated component, or reports in one line why it cannot.
//!
//! Many kinds of guest are accepted: a component, a core module built with the SDK or wit-bindgen (with or without WASI
//! preview 1), a plain core module with the canonical export names or their aliases, and text of these. The output is
//! always a component of the world `lifeboat:vm/vm`, checked against [`FEATURES`] and counted against [`LoadLimits`].
//!
//! This module is pure: no I/O, no clock, no compiler. Others read the file, compile the component and create its
//! store. It guarantees that
//! - every module inside is valid under [`FEATURES`], so the compiler meets no proposal that the engine leaves off;
//! - the exports of the world exist with the contract's types, and all imports are in [`STATE_IMPORT`], in
//!   [`WASI_IMPORTS`], or in other interfaces of WASI, which the host denies (linking, not this module, checks the
//!   *types* of WASI imports);
//! - the needs of one instance from a pooled slot are within `LoadLimits`.
//!
//! The bytes are untrusted. Every length is bounded before it is used (`bounds.rs`), and nesting is bounded before
//! anything recurses over it (`nesting.rs`). All of this runs on a separate thread with a known stack, where a
//! library's panic becomes a refusal (`thread.rs`): no input makes [`load`] panic or overflow a stack.
//!
//! ```text
//! bytes --text?--> binary --validate--> component ----------------------------+--> contract --> footprint --> Workload
//!                              \------> core module --contract--> convert -> validate
//! ```

mod adapter;
mod aliases;
mod bounds;
mod builtins;
mod contract;
mod convert;
mod error;
mod file;
mod footprint;
mod nesting;
mod own_memory;
mod program;
mod text;
mod thread;

#[cfg(test)]
mod tests;

use lifeboat_api::id::WorkloadHash;
use serde::{Deserialize, Serialize};
use wasmparser::types::Types;
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use contract::Checked;
pub use contract::{PREVIEW_1_IMPORT, STATE_IMPORT, WASI_IMPORTS, WORKLOAD_EXPORT};
pub(crate) use contract::{PROGRAM_FUNCTION, is_program_export};
use convert::Converted;
pub use error::LoadError;
pub use file::{ReadError, read};
pub use footprint::Footprint;
pub use thread::LOADER_STACK_BYTES;

/// The bound on a workload's file, and on the binary that a text stands for: 128 MiB. Interpreters with their libraries,
/// such as those of Python and Ruby, have 20 to 60 MB.
pub const MODULE_BYTES_MAX: u64 = 128 << 20;
/// The bound on a workload in text form: 4 MiB. The parser needs up to 75 times this memory.
pub const TEXT_BYTES_MAX: u64 = 4 << 20;
/// The bound on the component made from a module: the module, the adapter and some glue.
pub const COMPONENT_BYTES_MAX: u64 = MODULE_BYTES_MAX + (1 << 20);
/// The bound on all `component-type` sections of a core module together: 256 KiB. Usually they take 1 to 30 kB.
pub const COMPONENT_TYPE_BYTES_MAX: u64 = 256 << 10;
/// The bound on the depth to which components nest in components.
pub const COMPONENT_DEPTH_MAX: u64 = 32;
/// The bound on the component and instance types nested in other types of one section: an embedded world has one for
/// each interface. Reading 700 nested ones fits in a stack of 2 MiB.
pub const NESTED_TYPES_MAX: u64 = 200;
/// The bound on the core modules that a component contains, instantiated or not.
pub const CORE_MODULES_MAX: u64 = 64;
/// The bound on the core instances of one component instance. Glue between components may add a few at compile time.
pub const CORE_INSTANCES_MAX: u64 = 64;
/// The bound on the linear memories of one component instance.
pub const MEMORIES_MAX: u64 = 4;
/// The bound on the tables of a core module, or of one component instance.
pub const TABLES_MAX: u64 = 32;
/// The number of tables that the converter adds to those of a core module, for the functions that it imports. They do
/// not count as the module's own.
pub const CONVERTER_TABLES: u64 = 1;
/// The bound on the initial elements of one table.
pub const TABLE_ELEMENTS_MAX: u64 = 100_000;
/// The bound on the imports and exports of all core modules together. The converter copies a type for each of them.
pub const CORE_EXTERNS_MAX: u64 = 20_000;
/// The bound on the functions of all core modules together: each one is compiled.
pub const FUNCTIONS_MAX: u64 = 100_000;

/// The bound on the body of one function: 1 MiB. The compiler's time and memory grow faster than the body.
pub const FUNCTION_BYTES_MAX: u64 = 1 << 20;
/// The bound on the code of all functions together: 24 MiB.
pub const CODE_BYTES_MAX: u64 = 24 << 20;
/// The bound on the types of all core modules and components together.
pub const TYPES_MAX: u64 = 50_000;
/// The bound on the imports, exports, aliases, instances and functions of all components together, besides core
/// modules.
pub const COMPONENT_ITEMS_MAX: u64 = 50_000;
/// The bound on the functions and types of all interfaces that a component imports. All of WASI 0.2 has a few hundred. The host
/// makes a function for each one that it denies.
pub const IMPORTED_ITEMS_MAX: u64 = 5_000;

/// The Wasm proposals that a workload may use: WebAssembly 2.0, tail calls, extended constants, multiple memories,
/// relaxed SIMD and the component model.
///
/// Compared with WebAssembly 3.0, these are off: garbage-collected and typed references, exceptions, threads (shared
/// memories, atomics) and 64-bit memories. A guest must stay deterministic and its memory must be countable, and the
/// engine is built without a collector. The engine must enable at least these features.
pub const FEATURES: WasmFeatures = WasmFeatures::WASM3
    .difference(WasmFeatures::GC)
    .difference(WasmFeatures::GC_TYPES)
    .difference(WasmFeatures::FUNCTION_REFERENCES)
    .difference(WasmFeatures::EXCEPTIONS)
    .difference(WasmFeatures::THREADS)
    .difference(WasmFeatures::MEMORY64)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Validates `bytes` and converts them to a component of the world `lifeboat:vm/vm`.
///
/// `name` is the file's name in messages; the file is not opened. Text is recognised by its first token, not by `name`.
///
/// # Errors
/// Each variant of [`LoadError`] is one cause. Its message is one line with the file, the cause, the value, the bound
/// and the remedy.
pub fn load(name: &str, bytes: &[u8], limits: &LoadLimits) -> Result<Workload, LoadError> {
    check_bytes(name, "the file", bytes, limits.module_bytes)?;
    thread::run(name, || load_here(name, bytes, limits))
}

/// Loads on the caller's stack.
fn load_here(name: &str, bytes: &[u8], limits: &LoadLimits) -> Result<Workload, LoadError> {
    let text = text::is_text(bytes);
    if text && bytes.len() as u64 > limits.text_bytes {
        let (bytes, limit_bytes) = (bytes.len() as u64, limits.text_bytes);
        return Err(LoadError::TextTooLarge { file: error::one_line(name), bytes, limit_bytes });
    }
    let parsed = if text { Some(text::parse(name, bytes)?) } else { None };
    let binary = parsed.as_deref().unwrap_or(bytes);
    check_bytes(name, "its binary form", binary, limits.module_bytes)?;

    let Converted { form, component, adapted, denied: of_preview_1 } = if Parser::is_component(binary) {
        bounds::check(name, binary, limits)?;
        nesting::check(name, binary)?;
        let component = builtins::without_async(binary).unwrap_or_else(|| binary.to_vec());
        Converted { form: Form::Component, component, adapted: false, denied: Vec::new() }
    } else if binary.starts_with(b"\0asm") {
        validate(name, binary, limits)?;
        footprint::scan(name, binary)?.check(name, limits)?;
        let renamed = aliases::with_canonical_names(binary);
        convert::to_component(name, renamed.as_deref().unwrap_or(binary), limits)?
    } else {
        return Err(error::not_wasm(name, bytes));
    };
    check_bytes(name, "its component", &component, limits.component_bytes)?;

    let types = validate(name, &component, limits)?;
    let (imports, exports) = externs(name, &component)?;
    let Checked { kind, mut denied } = contract::check_component(name, types.as_ref(), &imports, &exports, limits)?;
    denied.extend(of_preview_1);
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
        kind,
        form,
        text,
        wasi,
        initial_memory_bytes: footprint.initial_memory_bytes,
        memory_max: footprint.memory_max_bytes,
        has_start: footprint.has_start,
        footprint,
        imports,
        denied,
        exports,
        input_bytes: bytes.len() as u64,
        component_bytes: component.len() as u64,
        component,
    })
}

/// A validated workload, ready to be compiled. It serialises as a report, without the component's bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Workload {
    /// The file's name in messages.
    pub name: String,
    /// The identity of the workload: the hash of the bytes that were loaded, not of the component.
    pub hash: WorkloadHash,
    /// What it is: a workload of the world, or a program.
    pub kind: Kind,
    /// The form of the bytes that were loaded.
    pub form: Form,
    /// Whether the bytes were text.
    pub text: bool,
    /// The version of WASI that the guest was built for, if any. Preview 1 is adapted: the component imports preview 2.
    pub wasi: Option<Wasi>,
    /// The component, at most [`LoadLimits::component_bytes`] long.
    #[serde(skip)]
    pub component: Vec<u8>,
    /// The initial size of all linear memories of one instance, in bytes. Instantiation itself may grow them further.
    pub initial_memory_bytes: u64,
    /// The size in bytes up to which all linear memories of one instance may grow, if each of them declares a maximum.
    pub memory_max: Option<u64>,
    /// The needs of one instance from a pooled slot.
    pub footprint: Footprint,
    /// The component's imports, in their order in the component.
    pub imports: Vec<String>,
    /// The imports that the host denies: interfaces of WASI beyond [`WASI_IMPORTS`], and the functions of preview 1 for
    /// sockets that the module imports.
    pub denied: Vec<String>,
    /// The component's exports, in their order in the component.
    pub exports: Vec<String>,
    /// The length of the bytes that were loaded.
    pub input_bytes: u64,
    /// The length of the component.
    pub component_bytes: u64,
    /// Whether instantiation runs guest code: a start function, `_initialize`, or the setup of the WASI adapter.
    pub has_start: bool,
}

impl Workload {
    /// Encodes the workload for another process of the same version.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut encoded = postcard::to_allocvec(self).map_err(|error| error.to_string())?;
        encoded.extend_from_slice(&self.component);
        Ok(encoded)
    }

    /// Decodes the output of [`Workload::encode`], or returns `None` if it is incomplete.
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

    /// Returns whether the workload is a program, and not of the world.
    #[must_use]
    pub fn is_program(&self) -> bool {
        self.kind == Kind::Program
    }

    /// Refuses a size whose memory is too small for the workload's initial memory.
    ///
    /// The initial memory may take at most `level_percent` (1 to 100) of `memory_limit_bytes`. With a threshold of 98 %
    /// that is 83 %: the share that a fresh VM may use without another failover soon.
    ///
    /// # Errors
    /// [`LoadError::InitialMemory`], which contains the smallest sufficient limit.
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

/// What a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A workload of the world `lifeboat:vm/vm`. One instance lives from transaction to transaction, and exports its state.
    World,
    /// A command of WASI: `wasi:cli/run`, or `_start` of preview 1. Each transaction is one run in a fresh instance, and
    /// the virtual disk is the state.
    Program,
}

/// The form in which a workload was supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A component, in binary or text form.
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
    /// WASI 0.2, by its interfaces.
    #[serde(rename = "preview 2")]
    Preview2,
}

/// The bounds on a workload. Each defaults to the constant of this module with the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadLimits {
    /// The length of the file, and of the binary that a text stands for; checked before anything is parsed.
    pub module_bytes: u64,
    /// The length of a file in text form.
    pub text_bytes: u64,
    /// The length of the component.
    pub component_bytes: u64,
    /// The length of all `component-type` sections of a core module.
    pub component_type_bytes: u64,
    /// The number of core modules that the component contains.
    pub core_modules: u64,
    /// The number of imports and exports of all core modules.
    pub core_externs: u64,
    /// The number of core instances of one component instance.
    pub core_instances: u64,
    /// The number of linear memories of one component instance.
    pub memories: u64,
    /// The number of tables of one component instance.
    pub tables: u64,
    /// The number of initial elements of one table.
    pub table_elements: u64,
    /// The number of functions of all core modules.
    pub functions: u64,
    /// The length of the body of one function.
    pub function_bytes: u64,
    /// The length of the bodies of all functions.
    pub code_bytes: u64,
    /// The number of types of all core modules and components.
    pub types: u64,
    /// The number of imports, exports, aliases, instances and functions of all components.
    pub component_items: u64,
    /// The number of functions and types of all imported interfaces.
    pub imported_items: u64,
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
            imported_items: IMPORTED_ITEMS_MAX,
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
        if let Some(missing) = cause.missing_wasm_feature() {
            return error::feature(file, &cause, missing);
        }
        // Some checks of a proposal fail with an ordinary message. If the binary is valid with a proposal on, or with
        // all of them, that is still the cause.
        let is_valid_with = |more| Validator::new_with_features(FEATURES.union(more)).validate_all(binary).is_ok();
        match is_valid_with(WasmFeatures::all()) {
            false => error::invalid(file, &cause),
            true => {
                let named = error::NAMED_PROPOSALS.into_iter().find(|proposal| is_valid_with(*proposal));
                error::feature(file, &cause, named.unwrap_or(WasmFeatures::empty()))
            }
        }
    })
}

/// Lists the imports and exports of the outermost component, in their order.
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
