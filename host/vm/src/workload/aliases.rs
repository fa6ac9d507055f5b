//! Names for the exports of the world that any compiler can write.
//!
//! The canonical names, such as `lifeboat:vm/workload@0.1.0#state-version`, are not identifiers. A compiler that names an
//! export after its function, as AssemblyScript's does, exports `lifeboat_state_version`. The name is replaced here, so
//! everything after this step sees the canonical one.

use std::collections::HashMap;

use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExportSectionReader, ExternalKind, Parser, Payload};

use super::contract::{CONTRACT, WORKLOAD_EXPORT, canonical};

/// The beginning of an alias. The name of the function follows, with `_` for `-`.
const PREFIX: &str = "lifeboat_";

/// Returns `module`, which is valid, with the canonical names in the place of aliases. Returns `None` if it has no alias,
/// or has a canonical name as well.
pub(super) fn with_canonical_names(module: &[u8]) -> Option<Vec<u8>> {
    let functions = CONTRACT.exports.iter().map(|function| function.name.as_str());
    let names: HashMap<String, String> = functions
        .map(|function| (format!("{PREFIX}{}", function.replace('-', "_")), canonical(WORKLOAD_EXPORT, function)))
        .collect();
    let has = |is_one: &dyn Fn(&str) -> bool| {
        let exports = Parser::new(0).parse_all(module).find_map(|payload| match payload {
            Ok(Payload::ExportSection(section)) => Some(section),
            _ => None,
        });
        exports.is_some_and(|exports| exports.into_iter().flatten().any(|export| is_one(export.name)))
    };
    let is_canonical = |name: &str| names.values().any(|canonical| canonical == name);
    if has(&is_canonical) || !has(&|name| names.contains_key(name)) {
        return None;
    }

    let mut renamed = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        if let Payload::ExportSection(section) = payload {
            renamed.section(&export_section(section, &names)?);
        } else if let Some((id, range)) = payload.as_section() {
            renamed.section(&RawSection { id, data: &module[range] });
        }
    }
    Some(renamed.finish())
}

fn export_section(section: ExportSectionReader<'_>, names: &HashMap<String, String>) -> Option<ExportSection> {
    let mut exports = ExportSection::new();
    for export in section {
        let export = export.ok()?;
        let kind = match export.kind {
            ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
            ExternalKind::Table => ExportKind::Table,
            ExternalKind::Memory => ExportKind::Memory,
            ExternalKind::Global => ExportKind::Global,
            ExternalKind::Tag => ExportKind::Tag,
        };
        exports.export(names.get(export.name).map_or(export.name, String::as_str), kind, export.index);
    }
    Some(exports)
}
