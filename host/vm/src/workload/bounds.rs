//! Bounds how much a binary defines, before any library that allocates for each definition reads it.
//!
//! Counts and sizes are taken from the headers of sections and bodies, which costs no more than skipping them. A
//! malformed file passes up to its first error: the validator stops at the same place with a better message.

use wasmparser::{Parser, Payload};

use super::LoadLimits;
use super::error::{LoadError, one_line};

/// Refuses a binary that defines more than `limits` allows, or that has too much code.
pub(super) fn check(file: &str, binary: &[u8], limits: &LoadLimits) -> Result<(), LoadError> {
    let (mut types, mut items, mut functions, mut externs, mut code_bytes) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    let too_many = |what, count, limit, remedy| {
        if count <= limit {
            Ok(())
        } else {
            Err(LoadError::TooMany { file: one_line(file), what, count, limit, remedy })
        }
    };
    let too_large = |what, bytes, limit_bytes, remedy| {
        if bytes <= limit_bytes {
            return Ok(());
        }
        Err(LoadError::TooMuchCode { file: one_line(file), what, bytes, limit_bytes, remedy })
    };
    for payload in Parser::new(0).parse_all(binary) {
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::TypeSection(section) => types += u64::from(section.count()),
            Payload::CoreTypeSection(section) => types += u64::from(section.count()),
            Payload::ComponentTypeSection(section) => types += u64::from(section.count()),
            Payload::ImportSection(section) => externs += u64::from(section.count()),
            Payload::ExportSection(section) => externs += u64::from(section.count()),
            Payload::FunctionSection(section) => functions += u64::from(section.count()),
            Payload::InstanceSection(section) => items += u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => items += u64::from(section.count()),
            Payload::ComponentAliasSection(section) => items += u64::from(section.count()),
            Payload::ComponentCanonicalSection(section) => items += u64::from(section.count()),
            Payload::ComponentImportSection(section) => items += u64::from(section.count()),
            Payload::ComponentExportSection(section) => items += u64::from(section.count()),
            Payload::CodeSectionEntry(body) => {
                let bytes = body.range().len() as u64;
                code_bytes += bytes;
                let remedy = "split the function, or build with size optimisation";
                too_large("the body of one function", bytes, limits.function_bytes, remedy)?;
            }
            _ => {}
        }
        let merge = "use fewer interfaces, or split the workload";
        too_many("types", types, limits.types, merge)?;
        too_many("imports, exports, aliases and instances of components", items, limits.component_items, merge)?;
        let unused = "export only what is used";
        too_many("imports and exports of core modules", externs, limits.core_externs, unused)?;
        let smaller = "build with size optimisation, or split the workload";
        too_many("functions", functions, limits.functions, smaller)?;
        too_large("the code of all functions", code_bytes, limits.code_bytes, smaller)?;
    }
    Ok(())
}
