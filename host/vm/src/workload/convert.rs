//! Converts a core module to a component of the world, with the WASI preview 1 adapter if it imports preview 1.
//!
//! Names and types of the contract are checked first, in the author's own module, so that a message refers to the
//! author's code. The converter makes the final decision.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
use wasmparser::{CompositeInnerType, ExternalKind, FuncType, Parser, Payload, TypeRef, ValType};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::contract::{
    CONTRACT, Function, PREVIEW_1_IMPORT, STATE_IMPORT, WORKLOAD_EXPORT, canonical, is_denied, is_wasi, refuse_unknown,
};
use super::error::{self, LoadError, one_line};
use super::program::{self, MEMORY, PROC_EXIT, START};
use super::{Form, Kind, LoadLimits, adapter, own_memory, thread};

/// The section in which the SDK and wit-bindgen record their world.
pub(super) const COMPONENT_TYPE_SECTION: &str = "component-type";
/// The prefix of names in the build-target specification of the component model; wit-bindgen can emit them too. Such
/// names contain only the significant part of a version.
pub(super) const STANDARD_PREFIX: &str = "cm32p2|";

pub(super) struct Converted {
    pub(super) form: Form,
    pub(super) component: Vec<u8>,
    /// Whether it contains the preview 1 adapter.
    pub(super) adapted: bool,
    /// The imports that are denied and are no interfaces: functions of preview 1 for sockets.
    pub(super) denied: Vec<String>,
}

/// Converts a core module that has passed validation. The result is not validated yet.
pub(super) fn to_component(file: &str, module: &[u8], limits: &LoadLimits) -> Result<Converted, LoadError> {
    let summary = Summary::read(module).map_err(|cause| error::invalid(file, &cause))?;
    let form = if summary.component_type_bytes == 0 { Form::PlainModule } else { Form::WitModule };
    let kind = summary.check_exports(file)?;
    summary.check_imports(file, form, kind)?;
    if summary.component_type_bytes > limits.component_type_bytes {
        return Err(LoadError::TooLarge {
            file: one_line(file),
            what: "its `component-type` information",
            bytes: summary.component_type_bytes,
            limit_bytes: limits.component_type_bytes,
        });
    }

    // The export of a program is the adapter's, also where the program imports nothing.
    let adapted = kind == Kind::Program || summary.imports.iter().any(|(module, ..)| *module == PREVIEW_1_IMPORT);
    let encoded = survive(|| {
        let with_memory = match kind == Kind::Program && summary.needs_no_memory() {
            true => Some(program::with_empty_memory(module)?),
            false => None,
        };
        encode(with_memory.as_deref().unwrap_or(module), form, kind, adapted, limits)
    });
    match encoded {
        Ok(component) => Ok(Converted { form, component, adapted, denied: summary.denied() }),
        Err(cause) => Err(LoadError::Conversion { file: one_line(file), cause: one_line(&cause) }),
    }
}

/// Runs a third-party parser or converter on untrusted bytes, and turns a panic into an error with its message.
/// `thread.rs` explains why that is sound.
///
/// `wit-component` is meant for build machines: it checks invariants of its input with `unwrap` and `assert!`, and a
/// crafted `component-type` section may violate one.
pub(super) fn survive<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(format!("the converter failed: {}", thread::message(&*panic))))
}

fn encode(module: &[u8], form: Form, kind: Kind, adapted: bool, limits: &LoadLimits) -> Result<Vec<u8>, String> {
    fn chain(cause: impl std::fmt::Display) -> String {
        format!("{cause:#}")
    }
    let own_memory = match form {
        Form::PlainModule if adapted => own_memory::with_own_memory(module, kind, limits)?,
        _ => None,
    };
    let module = own_memory.as_deref().unwrap_or(module);
    let mut module = match kind {
        Kind::World => module.to_vec(),
        Kind::Program => program::with_exit_codes(module)?.into_owned(),
    };
    if kind == Kind::World && form == Form::PlainModule {
        embed_component_metadata(&mut module, &CONTRACT.resolve, CONTRACT.world, StringEncoding::UTF8)
            .map_err(chain)?;
    }
    let mut encoder = ComponentEncoder::default().module(&module).map_err(chain)?;
    if adapted {
        encoder = encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter::of(kind)).map_err(chain)?;
    }
    // The encoder would validate with every proposal on; `load` validates with the proposals of this host.
    encoder.validate(false).encode().map_err(chain)
}

/// The imports and exports of a core module.
struct Summary<'a> {
    /// The module, the name, and the type if it is a function.
    imports: Vec<(&'a str, &'a str, Option<FuncType>)>,
    exports: HashMap<&'a str, Item>,
    has_memory: bool,
    component_type_bytes: u64,
}

enum Item {
    Function(FuncType),
    Memory,
    Other,
}

impl<'a> Summary<'a> {
    fn read(module: &'a [u8]) -> wasmparser::Result<Self> {
        let mut summary =
            Self { imports: Vec::new(), exports: HashMap::new(), has_memory: false, component_type_bytes: 0 };
        let mut types: Vec<Option<FuncType>> = Vec::new();
        let mut functions: Vec<u32> = Vec::new();
        let function_type = |types: &[Option<FuncType>], index: u32| types.get(index as usize).cloned().flatten();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types.extend(group?.types().map(|ty| match &ty.composite_type.inner {
                            CompositeInnerType::Func(function) => Some(function.clone()),
                            _ => None,
                        }));
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        summary.has_memory |= matches!(import.ty, TypeRef::Memory(_));
                        let mut ty = None;
                        if let TypeRef::Func(index) | TypeRef::FuncExact(index) = import.ty {
                            functions.push(index);
                            ty = function_type(&types, index);
                        }
                        summary.imports.push((import.module, import.name, ty));
                    }
                }
                Payload::FunctionSection(section) => {
                    for index in section {
                        functions.push(index?);
                    }
                }
                Payload::MemorySection(section) => summary.has_memory |= section.count() > 0,
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        let item = match export.kind {
                            ExternalKind::Func | ExternalKind::FuncExact => functions
                                .get(export.index as usize)
                                .and_then(|index| function_type(&types, *index))
                                .map_or(Item::Other, Item::Function),
                            ExternalKind::Memory => Item::Memory,
                            _ => Item::Other,
                        };
                        summary.exports.insert(export.name, item);
                    }
                }
                Payload::CustomSection(section) if section.name().starts_with(COMPONENT_TYPE_SECTION) => {
                    summary.component_type_bytes += section.data().len() as u64;
                }
                _ => {}
            }
        }
        Ok(summary)
    }

    /// Returns whether a program has no memory, and imports nothing of preview 1 that could use one.
    fn needs_no_memory(&self) -> bool {
        let uses_memory =
            self.imports.iter().any(|(module, name, _)| *module == PREVIEW_1_IMPORT && *name != PROC_EXIT);
        !self.has_memory && !uses_memory && !self.exports.contains_key(MEMORY)
    }

    fn check_exports(&self, file: &str) -> Result<Kind, LoadError> {
        let file = one_line(file);
        let standard = self.exports.keys().any(|name| name.starts_with(STANDARD_PREFIX));
        let workload = |function: &Function| match standard {
            true => format!("{STANDARD_PREFIX}{}|{}", without_patch(WORKLOAD_EXPORT), function.name),
            false => canonical(WORKLOAD_EXPORT, &function.name),
        };
        let (memory, realloc) = if standard { ("cm32p2_memory", "cm32p2_realloc") } else { ("memory", "cabi_realloc") };

        let mut wanted: Vec<_> = CONTRACT.exports.iter().map(|it| (workload(it), Some(it.core.clone()))).collect();
        if let Some(start) = self.exports.get(START) {
            if wanted.iter().any(|(name, _)| self.exports.contains_key(&**name)) {
                return Err(LoadError::CommandWithWorld { file });
            }
            let expected = FuncType::new([], []);
            let found = match start {
                Item::Function(found) if *found == expected => {
                    return match self.exports.get(MEMORY) {
                        Some(Item::Memory) => Ok(Kind::Program),
                        _ if self.needs_no_memory() => Ok(Kind::Program),
                        _ => Err(LoadError::ProgramMemory { file }),
                    };
                }
                Item::Function(found) => print_core(found),
                Item::Memory | Item::Other => "not a function".to_owned(),
            };
            let (export, found, expected) = (START.to_owned(), found.into(), print_core(&expected).into());
            return Err(LoadError::ExportType { file, export, found, owner: error::A_PROGRAM, expected });
        }
        wanted.push((memory.to_owned(), None));
        wanted.push((realloc.to_owned(), Some(FuncType::new([ValType::I32; 4], [ValType::I32]))));

        let missing: Vec<_> =
            wanted.iter().map(|(name, _)| name).filter(|name| !self.exports.contains_key(&***name)).cloned().collect();
        if !missing.is_empty() {
            let mut found: Vec<_> = self.exports.keys().map(|name| (*name).to_owned()).collect();
            found.sort();
            return Err(LoadError::MissingExports { file, missing, found });
        }
        for (export, expected) in wanted {
            let found = match (&self.exports[&*export], &expected) {
                (Item::Memory, None) => continue,
                (Item::Function(found), Some(expected)) if found == expected => continue,
                (Item::Function(found), _) => print_core(found),
                (Item::Memory, _) => "a memory".to_owned(),
                (Item::Other, _) => "neither a function nor a memory".to_owned(),
            };
            let expected = expected.as_ref().map_or("a memory".to_owned(), print_core);
            let (found, expected) = (found.into(), expected.into());
            return Err(LoadError::ExportType { file, export, found, owner: error::WORLD, expected });
        }
        Ok(Kind::World)
    }

    fn check_imports(&self, file: &str, form: Form, kind: Kind) -> Result<(), LoadError> {
        let mut unknown = Vec::new();
        let mut plain_wasi = Vec::new();
        for (module, name, ty) in &self.imports {
            let import = canonical(module, name);
            let known = if *module == STATE_IMPORT && kind == Kind::World {
                match CONTRACT.imports.iter().find(|function| function.name == *name) {
                    Some(function) if ty.as_ref() != Some(&function.core) => {
                        let found = ty.as_ref().map_or("not a function".to_owned(), print_core);
                        let (file, expected) = (one_line(file), print_core(&function.core));
                        let owner = error::WORLD;
                        return Err(LoadError::ImportType { file, import, found, owner, expected });
                    }
                    function => function.is_some(),
                }
            } else if *module == PREVIEW_1_IMPORT {
                match adapter_function(name) {
                    Some(expected) if ty.as_ref() != Some(expected) => {
                        let found = ty.as_ref().map_or("not a function".to_owned(), print_core);
                        let (file, expected) = (one_line(file), print_core(expected));
                        let owner = error::PREVIEW_1;
                        return Err(LoadError::ImportType { file, import, found, owner, expected });
                    }
                    function => function.is_some(),
                }
            } else if let Some(interface) = module.strip_prefix(STANDARD_PREFIX) {
                interface == without_patch(STATE_IMPORT) || is_wasi(&format!("{interface}.0")) || is_denied(interface)
            } else {
                let of_wasi = is_wasi(module) || is_denied(module);
                if of_wasi && form == Form::PlainModule {
                    plain_wasi.push(import.clone());
                }
                of_wasi
            };
            if !known {
                unknown.push(import);
            }
        }
        refuse_unknown(file, unknown)?;
        if plain_wasi.is_empty() {
            return Ok(());
        }
        Err(LoadError::UnknownImports {
            file: one_line(file),
            imports: plain_wasi,
            remedy: "a module without a `component-type` section may use WASI preview 1 only: build it with the SDK \
                     or wit-bindgen, or write it as a component",
        })
    }

    /// Returns the imports from preview 1 that are denied.
    fn denied(&self) -> Vec<String> {
        let is_denied =
            |module: &str, name: &str| module == PREVIEW_1_IMPORT && adapter::SOCKET_FUNCTIONS.contains(&name);
        let denied = self.imports.iter().filter(|(module, name, _)| is_denied(module, name));
        denied.map(|(module, name, _)| canonical(module, name)).collect()
    }
}

/// The functions of WASI preview 1 that the adapter has, without those for the converter.
static ADAPTER_FUNCTIONS: LazyLock<HashMap<&'static str, FuncType>> = LazyLock::new(|| {
    let adapter = Summary::read(adapter::of(Kind::World)).expect("the adapter is part of this crate");
    let functions = adapter.exports.into_iter().filter_map(|(name, item)| match item {
        Item::Function(ty) if !name.starts_with("cabi_") => Some((name, ty)),
        Item::Function(_) | Item::Memory | Item::Other => None,
    });
    functions.collect()
});

/// Returns the type of a function of WASI preview 1, if the adapter has it.
pub(super) fn adapter_function(name: &str) -> Option<&'static FuncType> {
    ADAPTER_FUNCTIONS.get(name)
}

/// Returns the functions of the adapter, with their types.
#[cfg(test)]
pub(super) fn adapter_functions() -> &'static HashMap<&'static str, FuncType> {
    &ADAPTER_FUNCTIONS
}

/// Removes the patch version from an interface of version 0.x.y.
fn without_patch(interface: &str) -> &str {
    interface.rsplit_once('.').map_or(interface, |(significant, _)| significant)
}

fn print_core(ty: &FuncType) -> String {
    let list = |types: &[ValType]| types.iter().map(ValType::to_string).collect::<Vec<_>>().join(" ");
    one_line(&format!("[{}] -> [{}]", list(ty.params()), list(ty.results())))
}
