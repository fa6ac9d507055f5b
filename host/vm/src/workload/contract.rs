//! The requirements of the world `lifeboat:vm/vm`, read from its WIT, and the check of a workload against them.
//!
//! Types are compared as text. The world has no resources, so two functions have the same type exactly when they print
//! the same, including the names of parameters and fields. The same text then explains the difference.

use std::fmt::Write as _;
use std::sync::LazyLock;

use wasmparser::component_types::{
    ComponentDefinedType, ComponentEntityType, ComponentFuncTypeId, ComponentInstanceTypeId, ComponentValType,
};
use wasmparser::types::TypesRef;
use wasmparser::{FuncType, ValType, Validator};
use wit_component::StringEncoding;
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Resolve, WorldId};

use super::error::{self, LoadError, one_line};
use super::{FEATURES, Kind, LoadLimits};

/// The interface that a workload exports.
pub const WORKLOAD_EXPORT: &str = "lifeboat:vm/workload@0.1.0";
/// The interface that a workload may import to stream its state.
pub const STATE_IMPORT: &str = "lifeboat:vm/state@0.1.0";
/// The module that a core module may import for WASI preview 1; the loader adapts it.
pub const PREVIEW_1_IMPORT: &str = "wasi_snapshot_preview1";
/// The interfaces of WASI 0.2, of any patch version, that the host implements. It denies all others that a workload
/// imports.
pub const WASI_IMPORTS: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// The interface whose export makes a component a program, of any version 0.2.x.
const PROGRAM_EXPORT: &str = "wasi:cli/run";
/// The function of [`PROGRAM_EXPORT`] that runs the program.
pub(crate) const PROGRAM_FUNCTION: &str = "run";
/// The type of [`PROGRAM_FUNCTION`], as [`print_function`] prints it.
const PROGRAM_SIGNATURE: &str = "func() -> result<_, _>";

/// The contract, read from the WIT once.
pub(super) static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    Contract::read(include_str!("../../wit/vm.wit")).expect("the contract's WIT is part of this crate")
});

pub(super) struct Contract {
    pub(super) resolve: Resolve,
    pub(super) world: WorldId,
    /// The functions of [`WORKLOAD_EXPORT`].
    pub(super) exports: Vec<Function>,
    /// The functions of [`STATE_IMPORT`].
    pub(super) imports: Vec<Function>,
}

/// One function of the contract.
pub(super) struct Function {
    pub(super) name: String,
    /// Its type in a component, as [`print_function`] prints it.
    signature: String,
    /// Its type in a core module.
    pub(super) core: FuncType,
}

impl Contract {
    fn read(wit: &str) -> Option<Self> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("vm.wit", wit).ok()?;
        let world = resolve.select_world(&[package], Some("vm")).ok()?;

        // The world is a component type, two levels deep: vm = component { vm = component { import, export } }.
        let encoded = wit_component::metadata::encode(&resolve, world, StringEncoding::UTF8, None).ok()?;
        let types = Validator::new_with_features(FEATURES).validate_all(&encoded).ok()?;
        let types = types.as_ref();
        let mut item = types.component_item_for_export("vm")?.ty;
        for _ in 0..2 {
            use wasmparser::component_types::ComponentAnyTypeId as Any;
            let component = match item {
                ComponentEntityType::Type { referenced: Any::Component(id), .. }
                | ComponentEntityType::Component(id) => id,
                _ => return None,
            };
            let component = &types[component];
            if component.exports.contains_key(WORKLOAD_EXPORT) {
                let exports =
                    functions(&resolve, types, component.exports[WORKLOAD_EXPORT].ty, AbiVariant::GuestExport)?;
                let imports = functions(&resolve, types, component.imports[STATE_IMPORT].ty, AbiVariant::GuestImport)?;
                return Some(Self { resolve, world, exports, imports });
            }
            item = component.exports.values().next()?.ty;
        }
        None
    }
}

fn functions(
    resolve: &Resolve,
    types: TypesRef<'_>,
    item: ComponentEntityType,
    abi: AbiVariant,
) -> Option<Vec<Function>> {
    let ComponentEntityType::Instance(instance) = item else { return None };
    let mut found = Vec::new();
    for (name, item) in &types[instance].exports {
        let ComponentEntityType::Func(id) = item.ty else { continue };
        let function = resolve.interfaces.iter().find_map(|(_, interface)| interface.functions.get(name.as_str()))?;
        let core = resolve.wasm_signature(abi, function);
        let core = FuncType::new(core.params.iter().map(core_type), core.results.iter().map(core_type));
        found.push(Function { name: name.clone(), signature: print_function(types, id), core });
    }
    Some(found)
}

fn core_type(ty: &WasmType) -> ValType {
    match ty {
        WasmType::I32 | WasmType::Pointer | WasmType::Length => ValType::I32,
        WasmType::I64 | WasmType::PointerOrI64 => ValType::I64,
        WasmType::F32 => ValType::F32,
        WasmType::F64 => ValType::F64,
    }
}

/// What a component that fits the contract is.
pub(super) struct Checked {
    pub(super) kind: Kind,
    /// The imports that the host denies.
    pub(super) denied: Vec<String>,
}

/// Checks a component's imports and exports against the contract.
pub(super) fn check_component(
    file: &str,
    types: TypesRef<'_>,
    imports: &[String],
    exports: &[String],
    limits: &LoadLimits,
) -> Result<Checked, LoadError> {
    // Exports are checked first: for a library, that message is more useful than one about its imports.
    let kind = check_exports(file, types, exports)?;
    let (mut unknown, mut denied, mut imported_items) = (Vec::new(), Vec::new(), 0);
    for import in imports {
        let item = types.component_item_for_import(import).map(|item| item.ty);
        if let Some(ComponentEntityType::Instance(id)) = item {
            imported_items += types[id].exports.len() as u64;
        }
        match item {
            Some(ComponentEntityType::Instance(id)) if import == STATE_IMPORT && kind == Kind::World => {
                unknown.extend(check_state(file, types, id)?);
            }
            Some(ComponentEntityType::Instance(_)) if is_wasi(import) => {}
            Some(ComponentEntityType::Instance(_)) if is_denied(import) => denied.push(import.clone()),
            _ => unknown.push(import.clone()),
        }
    }
    refuse_unknown(file, unknown)?;
    if imported_items > limits.imported_items {
        return Err(LoadError::TooMany {
            file: one_line(file),
            what: "functions and types of the imported interfaces",
            count: imported_items,
            limit: limits.imported_items,
            remedy: "import fewer interfaces",
        });
    }
    Ok(Checked { kind, denied })
}

fn check_exports(file: &str, types: TypesRef<'_>, exports: &[String]) -> Result<Kind, LoadError> {
    let Some(ComponentEntityType::Instance(id)) = types.component_item_for_export(WORKLOAD_EXPORT).map(|item| item.ty)
    else {
        if let Some(program) = exports.iter().find(|export| is_program_export(export)) {
            return check_program(file, types, program);
        }
        if let Some(program) = exports.iter().find(|export| export.split('@').next() == Some(PROGRAM_EXPORT)) {
            return Err(LoadError::ProgramVersion { file: one_line(file), export: one_line(program) });
        }
        let missing = CONTRACT.exports.iter().map(|function| canonical(WORKLOAD_EXPORT, &function.name)).collect();
        return Err(LoadError::MissingExports { file: one_line(file), missing, found: exports.to_vec() });
    };
    let found = &types[id].exports;
    let missing = |function: &&Function| !found.contains_key(function.name.as_str());
    let missing: Vec<_> =
        CONTRACT.exports.iter().filter(missing).map(|function| canonical(WORKLOAD_EXPORT, &function.name)).collect();
    if !missing.is_empty() {
        let found = found.keys().map(|name| canonical(WORKLOAD_EXPORT, name)).collect();
        return Err(LoadError::MissingExports { file: one_line(file), missing, found });
    }
    for function in &CONTRACT.exports {
        let (found, expected) = (print_item(types, found[function.name.as_str()].ty), &function.signature);
        if found != *expected {
            return Err(LoadError::ExportType {
                file: one_line(file),
                export: canonical(WORKLOAD_EXPORT, &function.name),
                found: one_line(&found).into(),
                owner: error::WORLD,
                expected: expected.as_str().into(),
            });
        }
    }
    Ok(Kind::World)
}

/// Checks the function that runs a program.
fn check_program(file: &str, types: TypesRef<'_>, export: &str) -> Result<Kind, LoadError> {
    let found = match types.component_item_for_export(export).map(|item| item.ty) {
        Some(ComponentEntityType::Instance(id)) => types[id].exports.get(PROGRAM_FUNCTION).map(|item| item.ty),
        _ => None,
    };
    let found = found.map_or("nothing".to_owned(), |item| print_item(types, item));
    if found == PROGRAM_SIGNATURE {
        return Ok(Kind::Program);
    }
    Err(LoadError::ExportType {
        file: one_line(file),
        export: one_line(&canonical(export, PROGRAM_FUNCTION)),
        found: one_line(&found).into(),
        owner: error::A_PROGRAM,
        expected: PROGRAM_SIGNATURE.into(),
    })
}

/// Checks the imports from [`STATE_IMPORT`] and returns the names that it does not have.
fn check_state(file: &str, types: TypesRef<'_>, id: ComponentInstanceTypeId) -> Result<Vec<String>, LoadError> {
    let mut unknown = Vec::new();
    for (name, item) in &types[id].exports {
        let import = canonical(STATE_IMPORT, name);
        let Some(function) = CONTRACT.imports.iter().find(|function| function.name == *name) else {
            unknown.push(import);
            continue;
        };
        let found = print_item(types, item.ty);
        if found != function.signature {
            let (found, expected) = (one_line(&found), function.signature.clone());
            let (file, owner) = (one_line(file), error::WORLD);
            return Err(LoadError::ImportType { file, import, found, owner, expected });
        }
    }
    Ok(unknown)
}

/// Returns the name of an interface's function in core modules.
pub(super) fn canonical(interface: &str, function: &str) -> String {
    format!("{interface}#{function}")
}

/// Returns whether `export` is [`PROGRAM_EXPORT`] at a released version 0.2.x.
pub(crate) fn is_program_export(export: &str) -> bool {
    released(export) == Some(PROGRAM_EXPORT)
}

/// Returns whether `import` is one of [`WASI_IMPORTS`] at a released version 0.2.x.
pub(super) fn is_wasi(import: &str) -> bool {
    released(import).is_some_and(|interface| WASI_IMPORTS.contains(&interface))
}

/// Returns the interface without its version, if that is a released version 0.2.x.
fn released(name: &str) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let patch = version.strip_prefix("0.2.").unwrap_or_default();
    (!patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())).then_some(interface)
}

/// Returns whether `import` is an interface of WASI that the host denies, of any version. Another version of one of
/// [`WASI_IMPORTS`] is not: the workload needs it, and can be built for the version that the host has.
pub(super) fn is_denied(import: &str) -> bool {
    import.starts_with("wasi:") && !WASI_IMPORTS.contains(&import.split('@').next().unwrap_or_default())
}

/// Refuses `unknown` imports, if any, with a remedy for the first.
pub(super) fn refuse_unknown(file: &str, unknown: Vec<String>) -> Result<(), LoadError> {
    let Some(first) = unknown.first() else { return Ok(()) };
    let remedy = if first.starts_with("wasi:") {
        "it offers WASI 0.2 and preview 1, build for wasm32-wasip1 or wasm32-wasip2"
    } else if first.starts_with("wasi_unstable") {
        "it offers WASI preview 1 and 0.2, build for wasm32-wasip1"
    } else if first.starts_with("lifeboat:vm/") {
        "it offers version 0.1.0 of `lifeboat:vm/state`, rebuild with this host's SDK"
    } else if first == "env#abort" {
        "build it with `--use abort=` (AssemblyScript), so that an abort is a trap"
    } else if first.starts_with("env#") || first.starts_with("__wbindgen") || first.starts_with("wbg#") {
        "link everything statically for wasm32-wasip1, without glue for JavaScript"
    } else {
        "it offers `lifeboat:vm/state@0.1.0`, WASI preview 1 and parts of WASI 0.2, drop what needs more"
    };
    Err(LoadError::UnknownImports { file: one_line(file), imports: unknown, remedy })
}

/// The length to which a type is printed, in bytes: far more than any type of the contract has. A guest's type may have
/// a million parts.
const PRINTED_BYTES_MAX: usize = 1000;

fn print_item(types: TypesRef<'_>, item: ComponentEntityType) -> String {
    match item {
        ComponentEntityType::Func(id) => print_function(types, id),
        ComponentEntityType::Module(_) => "a core module".to_owned(),
        ComponentEntityType::Value(_) => "a value".to_owned(),
        ComponentEntityType::Type { .. } => "a type".to_owned(),
        ComponentEntityType::Instance(_) => "an instance".to_owned(),
        ComponentEntityType::Component(_) => "a component".to_owned(),
    }
}

/// Prints the type of a function in the style of WIT, with records written out.
fn print_function(types: TypesRef<'_>, id: ComponentFuncTypeId) -> String {
    let function = &types[id];
    let mut text = String::from(if function.async_ { "async func(" } else { "func(" });
    print_fields(types, &mut text, function.params.iter().map(|(name, ty)| (name.as_str(), *ty)));
    text.push(')');
    if let Some(result) = function.result {
        text.push_str(" -> ");
        print_value(types, &mut text, result);
    }
    text
}

fn print_fields<'a>(
    types: TypesRef<'_>,
    text: &mut String,
    fields: impl IntoIterator<Item = (&'a str, ComponentValType)>,
) {
    for (index, (name, ty)) in fields.into_iter().enumerate() {
        if text.len() > PRINTED_BYTES_MAX {
            return;
        }
        let _ = write!(text, "{}{name}: ", if index == 0 { "" } else { ", " });
        print_value(types, text, ty);
    }
}

/// Prints a type. The contract has only lists, records, results and primitives; other types are printed by kind.
/// Validation bounds the depth to 100.
fn print_value(types: TypesRef<'_>, text: &mut String, ty: ComponentValType) {
    let id = match ty {
        ComponentValType::Primitive(primitive) => {
            let _ = write!(text, "{primitive}");
            return;
        }
        ComponentValType::Type(id) => id,
    };
    if text.len() > PRINTED_BYTES_MAX {
        return;
    }
    let optional = |text: &mut String, ty: &Option<ComponentValType>| match ty {
        Some(ty) => print_value(types, text, *ty),
        None => text.push('_'),
    };
    match &types[id] {
        ComponentDefinedType::Primitive(primitive) => {
            let _ = write!(text, "{primitive}");
        }
        ComponentDefinedType::Record(record) => {
            text.push_str("record { ");
            print_fields(types, text, record.fields.iter().map(|(name, ty)| (name.as_str(), *ty)));
            text.push_str(" }");
        }
        ComponentDefinedType::List { element, .. } => {
            text.push_str("list<");
            print_value(types, text, *element);
            text.push('>');
        }
        ComponentDefinedType::Option { ty, .. } => {
            text.push_str("option<");
            print_value(types, text, *ty);
            text.push('>');
        }
        ComponentDefinedType::Result { ok, err, .. } => {
            text.push_str("result<");
            optional(text, ok);
            text.push_str(", ");
            optional(text, err);
            text.push('>');
        }
        ComponentDefinedType::Tuple(tuple) => {
            text.push_str("tuple<");
            for (index, ty) in tuple.types.iter().enumerate() {
                if text.len() > PRINTED_BYTES_MAX {
                    return;
                }
                text.push_str(if index == 0 { "" } else { ", " });
                print_value(types, text, *ty);
            }
            text.push('>');
        }
        ComponentDefinedType::Variant(_) => text.push_str("a variant"),
        ComponentDefinedType::Flags(_) => text.push_str("flags"),
        ComponentDefinedType::Enum(_) => text.push_str("an enum"),
        ComponentDefinedType::Own(_) | ComponentDefinedType::Borrow(_) => text.push_str("a handle"),
        ComponentDefinedType::Map { .. } => text.push_str("a map"),
        ComponentDefinedType::FixedLengthList { .. } => text.push_str("a list of fixed length"),
        ComponentDefinedType::Future { .. } | ComponentDefinedType::Stream { .. } => {
            text.push_str("a future or stream")
        }
    }
}
