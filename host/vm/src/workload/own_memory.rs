//! Gives the adapter of WASI preview 1 a memory of its own.
//!
//! wit-component gives the adapter the memory of the module that it adapts. The adapter takes two pages there for its
//! state and its stack: by `cabi_realloc` if the module exports that, else by `memory.grow`. Both fail for some
//! languages. Go cannot run an export before `_initialize` has ended, which already needs the adapter. The allocators of
//! AssemblyScript, TinyGo, and wasi-libc before version 20 of its SDK take all memory up to its end when they begin, and
//! Go's takes all from its data on, so what the adapter has grown by is theirs as well.
//!
//! So such a module gets a second memory, which it exports as its memory: the adapter and the converter use that one
//! alone. Functions that are added to the module, the *bridges*, copy arguments and results between the two
//! (`own_memory/bridge.rs`):
//!
//! ```text
//! module's code -- its memory --> bridge -- second memory --> adapter or host
//! host -- second memory --> bridge -- its memory --> module's export
//! ```
//!
//! This is for modules that could not share their memory: a program without `cabi_realloc`, and a module of Go. Any other
//! module lends the adapter its allocator, as before. A stored service would notice a change there: a copy costs fuel,
//! and the second memory counts.
//!
//! Each import keeps its index. The module's code calls the bridge in its place, whose index is after all others. Nothing
//! else in the code changes, not even the length of a call whose operand has room for the new index, as those have that
//! LLVM's linker writes. So debug information stays true for its modules.
//!
//! Only a module whose imports and exports are all known here can be changed: one without a `component-type` section,
//! with the canonical names.

mod bridge;

use std::collections::HashMap;
use std::ops::Range;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    CodeSection, ConstExpr, ElementSection, Elements, ExportKind, ExportSection, FunctionSection, GlobalSection,
    GlobalType, MemorySection, MemoryType, Module, RawSection, TypeSection, ValType,
};
use wasmparser::{
    BinaryReader, CompositeInnerType, ExternalKind, FuncType, FunctionBody, KnownCustom, Operator, Parser, Payload,
    TypeRef,
};

use super::contract::{CONTRACT, PREVIEW_1_IMPORT, STATE_IMPORT, WORKLOAD_EXPORT, canonical};
use super::convert::STANDARD_PREFIX;
use super::{Kind, LoadLimits};
use bridge::{Code, Layout};

/// The name under which wit-component finds the function that allocates for the adapter, and for nothing else.
const ADAPTER_REALLOC: &str = "cabi_realloc_adapter";
const REALLOC: &str = "cabi_realloc";
/// Other names under which wit-component looks for an allocator, some of them before [`REALLOC`].
const OTHER_REALLOCS: [&str; 3] = ["cabi_export_realloc", "cabi_import_realloc", "canonical_abi_realloc"];
const MEMORY: &str = "memory";
/// The prefix of an export that is called once the result of another one has been read.
const POST_RETURN: &str = "cabi_post_";
/// The custom section that Go's linker writes.
const GO: &str = "go:buildid";
/// The field and the value of the section `producers` in a module of Go.
const LANGUAGE: (&str, &str) = ("language", "Go");

/// Returns `module`, which is valid and fits the contract, with the memory and the bridges.
///
/// Returns `None` for a module that shares its memory with the adapter. Such are also one with as many memories as a
/// workload may have, one that imports `args_get` without `args_sizes_get` (or those for the environment), one without
/// functions of its own, and one with names of the build-target specification.
///
/// # Errors
/// The message of the parser. Bytes of a valid module cause none.
pub(super) fn with_own_memory(module: &[u8], kind: Kind, limits: &LoadLimits) -> Result<Option<Vec<u8>>, String> {
    let summary = Summary::read(module).map_err(|error| error.to_string())?;
    if !summary.needs_own_memory(kind) || u64::from(summary.memories) >= limits.memories {
        return Ok(None);
    }
    let Some(added) = Added::new(&summary, kind) else { return Ok(None) };
    added.write(module, &summary).map(Some).map_err(|error| error.to_string())
}

/// What must be known of a module before anything is added.
#[derive(Default)]
struct Summary<'a> {
    types: Vec<Option<FuncType>>,
    /// The module and the name of each imported function.
    imports: Vec<(&'a str, &'a str)>,
    /// The type of each function.
    functions: Vec<u32>,
    memories: u32,
    globals: u32,
    /// The exported functions.
    exports: HashMap<&'a str, u32>,
    /// The memory that is exported as [`MEMORY`].
    memory: Option<u32>,
    is_go: bool,
    /// Whether an import or an export has a name of the build-target specification.
    has_standard_name: bool,
}

impl<'a> Summary<'a> {
    fn read(module: &'a [u8]) -> wasmparser::Result<Self> {
        let mut summary = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        summary.types.extend(group?.types().map(|ty| match &ty.composite_type.inner {
                            CompositeInnerType::Func(function) => Some(function.clone()),
                            _ => None,
                        }));
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        summary.has_standard_name |= import.module.starts_with(STANDARD_PREFIX);
                        match import.ty {
                            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                                summary.imports.push((import.module, import.name));
                                summary.functions.push(ty);
                            }
                            TypeRef::Memory(_) => summary.memories += 1,
                            TypeRef::Global(_) => summary.globals += 1,
                            TypeRef::Table(_) | TypeRef::Tag(_) => {}
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        summary.functions.push(ty?);
                    }
                }
                Payload::MemorySection(section) => summary.memories += section.count(),
                Payload::GlobalSection(section) => summary.globals += section.count(),
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        summary.has_standard_name |= export.name.starts_with(STANDARD_PREFIX.trim_end_matches('|'));
                        match export.kind {
                            ExternalKind::Func | ExternalKind::FuncExact => {
                                summary.exports.insert(export.name, export.index);
                            }
                            ExternalKind::Memory if export.name == MEMORY => summary.memory = Some(export.index),
                            _ => {}
                        }
                    }
                }
                Payload::CustomSection(section) => {
                    summary.is_go |= section.name() == GO;
                    // A module may have anything in a custom section.
                    if let KnownCustom::Producers(fields) = section.as_known() {
                        let values = fields.into_iter().flatten().filter(|field| field.name == LANGUAGE.0);
                        let mut values = values.flat_map(|field| field.values.into_iter().flatten());
                        summary.is_go |= values.any(|value| value.name == LANGUAGE.1);
                    }
                }
                _ => {}
            }
        }
        Ok(summary)
    }

    /// Returns whether the adapter cannot use the module's memory.
    fn needs_own_memory(&self, kind: Kind) -> bool {
        let has_functions = self.functions.len() > self.imports.len();
        let cannot_share = self.is_go || (kind == Kind::Program && !self.exports.contains_key(REALLOC));
        cannot_share && has_functions && !self.has_standard_name
    }

    /// Returns the function that is exported under `name`, if it has this type.
    fn export_of(&self, name: &str, params: &[wasmparser::ValType], results: &[wasmparser::ValType]) -> Option<u32> {
        let index = *self.exports.get(name)?;
        let ty = self.types.get(*self.functions.get(index as usize)? as usize)?.as_ref()?;
        (ty.params() == params && ty.results() == results).then_some(index)
    }
}

/// What is added to a module.
struct Added {
    layout: Layout,
    /// The types and the code of the functions, in their order after those of the module.
    functions: Vec<(FuncType, Code)>,
    /// The bridge in the place of each import that has one.
    instead: HashMap<u32, u32>,
    /// The functions that are exported under these names, in the place of what the module exports under them.
    exports: Vec<(String, u32)>,
}

impl Added {
    fn new(summary: &Summary<'_>, kind: Kind) -> Option<Self> {
        let function = |added: u32| summary.functions.len() as u32 + added;
        let layout = Layout {
            guest: summary.memory?,
            own: summary.memories,
            top: summary.globals,
            adapter_pages: summary.globals + 1,
            reserve: function(0),
            allocate: function(1),
        };
        let mut added = Self { layout, functions: Vec::new(), instead: HashMap::new(), exports: Vec::new() };
        added.add(summary, bridge::reserve(layout));
        added.add(summary, bridge::allocate(layout));
        let realloc = added.add(summary, bridge::realloc(layout));
        added.exports.push((REALLOC.to_owned(), realloc));
        let adapter_realloc = added.add(summary, bridge::adapter_realloc(layout));
        added.exports.push((ADAPTER_REALLOC.to_owned(), adapter_realloc));

        let guest_realloc = summary.exports.get(REALLOC).copied();
        for (index, (module, name)) in (0..).zip(&summary.imports) {
            let bridge = match *module {
                PREVIEW_1_IMPORT => {
                    let sizes = bridge::sizes_of(name);
                    let is_sizes = |import: &(&str, &str)| *import == (PREVIEW_1_IMPORT, sizes.unwrap_or_default());
                    let sizes = match (sizes, (0..).zip(&summary.imports).find(|(_, import)| is_sizes(import))) {
                        (Some(_), None) => return None,
                        (_, found) => found.map(|(index, _)| index),
                    };
                    bridge::of_preview_1(layout, name, index, sizes)
                }
                STATE_IMPORT => {
                    let function = CONTRACT.imports.iter().find(|function| function.name == *name)?;
                    bridge::of_import(layout, function, index, guest_realloc?)
                }
                _ => None,
            };
            if let Some(bridge) = bridge {
                let bridge = added.add(summary, bridge);
                added.instead.insert(index, bridge);
            }
        }
        if kind == Kind::World {
            for function in &CONTRACT.exports {
                let name = canonical(WORKLOAD_EXPORT, &function.name);
                let post_name = format!("{POST_RETURN}{name}");
                let export = *summary.exports.get(name.as_str())?;
                let post = summary.export_of(&post_name, &[wasmparser::ValType::I32], &[]);
                let Some(bridge) = bridge::of_export(layout, function, export, guest_realloc?, post) else { continue };
                let bridge = added.add(summary, bridge);
                added.exports.push((name, bridge));
                let post = added.add(summary, bridge::release(layout));
                added.exports.push((post_name, post));
            }
        }
        Some(added)
    }

    fn add(&mut self, summary: &Summary<'_>, function: (FuncType, Code)) -> u32 {
        self.functions.push(function);
        // A module has fewer than 2^32 functions, and a few dozen are added.
        (summary.functions.len() + self.functions.len()) as u32 - 1
    }

    fn write(mut self, module: &[u8], summary: &Summary<'_>) -> Result<Vec<u8>, Error> {
        let mut written = Module::new();
        let (mut has_globals, mut has_elements) = (false, false);
        let mut bodies = Vec::new();
        let mut code = 0..0;
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload?;
            let section = payload.as_section();
            match payload {
                Payload::TypeSection(section) => {
                    let mut types = TypeSection::new();
                    self.parse_type_section(&mut types, section)?;
                    for (ty, _) in &self.functions {
                        let list = |types: &[wasmparser::ValType]| types.iter().map(value_type).collect::<Vec<_>>();
                        types.ty().function(list(ty.params()), list(ty.results()));
                    }
                    written.section(&types);
                }
                Payload::FunctionSection(section) => {
                    let mut functions = FunctionSection::new();
                    self.parse_function_section(&mut functions, section)?;
                    for (index, _) in (summary.types.len() as u32..).zip(&self.functions) {
                        functions.function(index);
                    }
                    written.section(&functions);
                }
                Payload::TableSection(section) => {
                    let mut tables = wasm_encoder::TableSection::new();
                    self.parse_table_section(&mut tables, section)?;
                    written.section(&tables);
                }
                Payload::MemorySection(section) => {
                    let mut memories = MemorySection::new();
                    self.parse_memory_section(&mut memories, section)?;
                    memories.memory(MemoryType {
                        // It grows on demand, so that it does not count as initial memory.
                        minimum: 0,
                        maximum: None,
                        memory64: false,
                        shared: false,
                        page_size_log2: None,
                    });
                    written.section(&memories);
                }
                Payload::GlobalSection(section) => {
                    let mut globals = GlobalSection::new();
                    self.parse_global_section(&mut globals, section)?;
                    written.section(add_globals(&mut globals));
                    has_globals = true;
                }
                Payload::ExportSection(section) => {
                    // There is one: the module exports its memory. It comes after the globals.
                    if !has_globals {
                        written.section(add_globals(&mut GlobalSection::new()));
                    }
                    written.section(&self.exports(section)?);
                }
                Payload::StartSection { func, .. } => {
                    let function_index = self.function_index(func)?;
                    written.section(&wasm_encoder::StartSection { function_index });
                }
                Payload::ElementSection(section) => {
                    let mut elements = ElementSection::new();
                    self.parse_element_section(&mut elements, section)?;
                    written.section(self.declare(&mut elements, summary));
                    has_elements = true;
                }
                Payload::CodeSectionStart { range, count, .. } => {
                    if !has_elements {
                        written.section(self.declare(&mut ElementSection::new(), summary));
                    }
                    code = range;
                    bodies.reserve(count as usize);
                }
                Payload::DataCountSection { .. } => {
                    if !has_elements {
                        written.section(self.declare(&mut ElementSection::new(), summary));
                        has_elements = true;
                    }
                    if let Some((id, range)) = section {
                        written.section(&RawSection { id, data: &module[range] });
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let is_last = body.range().end == code.end;
                    bodies.push(body);
                    if is_last {
                        written.section(&RawSection { id: 10, data: &self.code(module, code.clone(), &bodies)? });
                    }
                }
                _ => {
                    if let Some((id, range)) = section {
                        written.section(&RawSection { id, data: &module[range] });
                    }
                }
            }
        }
        Ok(written.finish())
    }

    fn exports(&self, section: wasmparser::ExportSectionReader<'_>) -> Result<ExportSection, Error> {
        let mut exports = ExportSection::new();
        for export in section {
            let export = export?;
            let is_replaced = self.exports.iter().any(|(name, _)| name == export.name);
            if is_replaced || export.name == MEMORY || OTHER_REALLOCS.contains(&export.name) {
                continue;
            }
            let (kind, index) = match export.kind {
                ExternalKind::Func | ExternalKind::FuncExact => {
                    (ExportKind::Func, self.instead.get(&export.index).copied().unwrap_or(export.index))
                }
                ExternalKind::Table => (ExportKind::Table, export.index),
                ExternalKind::Memory => (ExportKind::Memory, export.index),
                ExternalKind::Global => (ExportKind::Global, export.index),
                ExternalKind::Tag => (ExportKind::Tag, export.index),
            };
            exports.export(export.name, kind, index);
        }
        exports.export(MEMORY, ExportKind::Memory, self.layout.own);
        for (name, index) in &self.exports {
            exports.export(name, ExportKind::Func, *index);
        }
        Ok(exports)
    }

    /// Declares the functions whose exports were replaced or dropped: an export is a declaration too, which `ref.func`
    /// needs.
    fn declare<'s>(&self, elements: &'s mut ElementSection, summary: &Summary<'_>) -> &'s ElementSection {
        let is_gone =
            |name: &str| OTHER_REALLOCS.contains(&name) || self.exports.iter().any(|(other, _)| other == name);
        let gone = summary.exports.iter().filter(|(name, _)| is_gone(name));
        let mut functions: Vec<u32> = gone.map(|(_, index)| *index).collect();
        functions.sort_unstable();
        elements.declared(Elements::Functions(functions.into()))
    }

    /// Returns the contents of the code section at `range`: the bodies of the module, and those that are added.
    fn code(&self, module: &[u8], range: Range<usize>, bodies: &[FunctionBody<'_>]) -> Result<Vec<u8>, Error> {
        let mut reader = BinaryReader::new(&module[range.clone()], range.start);
        let count = reader.read_var_u32()?;
        let count_bytes = reader.original_position() - range.start;
        let mut code = Vec::with_capacity(range.len() + 16 * 1024);
        let added = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
        write_padded(&mut code, count.saturating_add(added), count_bytes);
        let mut end = range.start + count_bytes;
        for body in bodies {
            let body_range = body.range();
            match self.redirected(module, body)? {
                None => code.extend_from_slice(&module[end..body_range.end]),
                Some(redirected) => {
                    let length = u32::try_from(redirected.len()).unwrap_or(u32::MAX);
                    write_padded(&mut code, length, body_range.start - end);
                    code.extend_from_slice(&redirected);
                }
            }
            end = body_range.end;
        }
        // A code section of its own writes each body with its length; its count is left out.
        let mut section = CodeSection::new();
        for (ty, function) in &self.functions {
            section.function(&function.function(ty.params().len()));
        }
        let mut encoded = Vec::new();
        wasm_encoder::Encode::encode(&section, &mut encoded);
        let mut reader = BinaryReader::new(&encoded, 0);
        reader.read_var_u32()?;
        reader.read_var_u32()?;
        code.extend_from_slice(&encoded[reader.original_position()..]);
        Ok(code)
    }

    /// Returns a body with bridges in the place of imports, or `None` if it uses no such import.
    fn redirected(&self, module: &[u8], body: &FunctionBody<'_>) -> Result<Option<Vec<u8>>, Error> {
        let range = body.range();
        let mut redirected = Vec::new();
        let mut end = range.start;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let start = operators.original_position();
            let function = match operators.read()? {
                Operator::Call { function_index }
                | Operator::ReturnCall { function_index }
                | Operator::RefFunc { function_index } => function_index,
                _ => continue,
            };
            let Some(bridge) = self.instead.get(&function) else { continue };
            // The opcodes of all three are one byte.
            redirected.extend_from_slice(&module[end..=start]);
            end = operators.original_position();
            write_padded(&mut redirected, *bridge, end - start - 1);
        }
        if redirected.is_empty() {
            return Ok(None);
        }
        redirected.extend_from_slice(&module[end..range.end]);
        Ok(Some(redirected))
    }
}

impl Reencode for Added {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        Ok(self.instead.get(&function).copied().unwrap_or(function))
    }
}

/// Adds the globals of [`Layout`], in the order of their indices.
fn add_globals(globals: &mut GlobalSection) -> &GlobalSection {
    let ty = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
    globals.global(ty, &ConstExpr::i32_const(bridge::ARENA));
    globals.global(ty, &ConstExpr::i32_const(0))
}

fn value_type(ty: &wasmparser::ValType) -> ValType {
    match ty {
        wasmparser::ValType::I64 => ValType::I64,
        // The types of the contract and of preview 1 have no others.
        _ => ValType::I32,
    }
}

/// Writes `number` in LEB128 of `bytes` bytes, or of as many as it needs if these are more.
fn write_padded(code: &mut Vec<u8>, mut number: u32, bytes: usize) {
    let mut left = bytes;
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        left = left.saturating_sub(1);
        if number == 0 && left == 0 {
            return code.push(low);
        }
        code.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lengths of the bodies of a module's functions.
    fn lengths(module: &[u8]) -> Vec<usize> {
        let payloads = Parser::new(0).parse_all(module);
        let bodies = payloads.filter_map(|payload| match payload.expect("valid") {
            Payload::CodeSectionEntry(body) => Some(body.range().len()),
            _ => None,
        });
        bodies.collect()
    }

    /// Returns the module with a memory of its own for the adapter, which is valid, if it gets one.
    fn changed(module: &[u8], kind: Kind) -> Option<Vec<u8>> {
        let changed = with_own_memory(module, kind, &LoadLimits::default()).expect("a valid module")?;
        wasmparser::Validator::new_with_features(crate::workload::FEATURES).validate_all(&changed).expect("valid");
        Some(changed)
    }

    #[test]
    fn code_of_llvm_keeps_its_lengths() {
        let wordcount = include_bytes!("../../../../workloads/prebuilt/wordcount.wasm");
        let changed = changed(wordcount, Kind::Program).expect("it can be changed");
        let (before, after) = (lengths(wordcount), lengths(&changed));
        assert_eq!(before, after[..before.len()]);
        assert!(after.len() > before.len());
    }

    #[test]
    fn a_call_without_room_for_the_index_of_its_bridge_is_lengthened() {
        let text = r#"(module
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (table 1 funcref)
            (elem (i32.const 0) func $random)
            (func $start (export "_start")
              (drop (ref.func $random))
              (drop (call $random (i32.const 0) (i32.const 1))))
            (export "again" (func $random))
            FUNCTIONS)"#;
        let module = wat::parse_str(text.replace("FUNCTIONS", &"(func)".repeat(200))).expect("valid text");
        let changed = changed(&module, Kind::Program).expect("it can be changed");
        let (before, after) = (lengths(&module), lengths(&changed));
        assert_eq!(after[0], before[0] + 2);
        assert_eq!(before[1..], after[1..before.len()]);
    }

    const RANDOM: &str =
        r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;

    fn program(imports: &str, more: &str) -> Vec<u8> {
        let text = format!(r#"(module {imports} (memory (export "memory") 1) {more} (func (export "_start")))"#);
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn a_module_that_shares_its_memory_is_left_as_it_is() {
        let memories = "(memory 1)".repeat(crate::workload::MEMORIES_MAX as usize - 1);
        let realloc = r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)"#;
        let strings = r#"(import "wasi_snapshot_preview1" "args_get" (func (param i32 i32) (result i32)))"#;
        let standard = r#"(import "cm32p2|wasi:cli/environment@0.2" "x" (func))"#;
        for (imports, more) in [("", memories.as_str()), (RANDOM, realloc), (strings, ""), (standard, "")] {
            assert!(changed(&program(imports, more), Kind::Program).is_none(), "{imports} {more}");
        }
        let only_imports = r#"(module
            (import "wasi_snapshot_preview1" "reset_adapter_state" (func $reset))
            (memory (export "memory") 1)
            (export "_start" (func $reset)))"#;
        assert!(changed(&wat::parse_str(only_imports).expect("valid text"), Kind::Program).is_none());
    }

    #[test]
    fn a_module_of_go_has_a_memory_of_its_own_whatever_it_exports() {
        let realloc = r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)"#;
        for section in ["\"go:buildid\" \"\"", "\"producers\" \"\\01\\08language\\01\\02Go\\01\\31\""] {
            let more = format!("{realloc} (@custom {section})");
            assert!(changed(&program(RANDOM, &more), Kind::Program).is_some(), "{section}");
        }
        let more = format!(r#"{realloc} (@custom "producers" "\01\08language\01\01C\00")"#);
        assert!(changed(&program(RANDOM, &more), Kind::Program).is_none());
    }

    #[test]
    fn modules_of_every_shape_stay_valid() {
        for more in [
            "(global $count (mut i32) (i32.const 0)) (data (i32.const 0) \"x\")",
            "(func $begin) (start $begin)",
            "(table 2 funcref) (elem (i32.const 0) func $random $random) (elem declare func $random)",
            "(table 1 funcref) (elem funcref (ref.func $random) (ref.null func))",
            "(global funcref (ref.func $random)) (export \"again\" (func $random))",
            "(func (param i32 i32) (result i32) local.get 0 local.get 1 return_call $random)",
            "(data $text \"x\") (func (memory.init $text (i32.const 0) (i32.const 0) (i32.const 1)))",
            "(func $free (export \"canonical_abi_realloc\")) (func (drop (ref.func $free)))",
            "(func $free (export \"cabi_import_realloc\")) (table 1 funcref) (elem (i32.const 0) func $free)",
            "(memory 1) (export \"second\" (memory 1))",
        ] {
            let module = program(RANDOM, more);
            assert!(changed(&module, Kind::Program).is_some(), "{more}");
        }
    }

    #[test]
    fn numbers_are_padded_or_lengthened() {
        let written = |number, bytes| {
            let mut written = Vec::new();
            write_padded(&mut written, number, bytes);
            written
        };
        assert_eq!(written(1, 1), [1]);
        assert_eq!(written(1, 3), [0x81, 0x80, 0]);
        assert_eq!(written(300, 1), [0xac, 2]);
        assert_eq!(written(u32::MAX, 5), [0xff, 0xff, 0xff, 0xff, 0xf]);
    }
}
