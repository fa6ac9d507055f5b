//! Bounds how deep a file nests, before any recursive reader sees it.
//!
//! The validator and the converter read nested component types by recursion, without a bound. One megabyte of nested
//! types overflows the stack, and that ends the process; catching panics does not help. They read nested components in
//! a loop, but in a time that grows with the square of the depth.

use wasmparser::{Encoding, Parser, Payload};

use super::convert::COMPONENT_TYPE_SECTION;
use super::error::{LoadError, one_line};
use super::{COMPONENT_DEPTH_MAX, NESTED_TYPES_MAX};

/// Refuses a binary that nests too deeply, including inside its `component-type` sections.
///
/// A malformed file passes up to its first error: the validator stops at the same place with a better message.
pub(super) fn check(file: &str, binary: &[u8]) -> Result<(), LoadError> {
    check_layer(file, binary, &mut |data| {
        if !data.starts_with(b"\0asm") {
            let cause = "its `component-type` section has an outdated format".to_owned();
            return Err(LoadError::Conversion { file: one_line(file), cause });
        }
        // The data holds a component, and nothing reads such sections inside a component.
        check_layer(file, data, &mut |_| Ok(()))
    })
}

fn check_layer(
    file: &str,
    binary: &[u8],
    component_type: &mut dyn FnMut(&[u8]) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let (mut depth, mut module) = (0_u64, false);
    for payload in Parser::new(0).parse_all(binary) {
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::Version { encoding, .. } => {
                depth += 1;
                module = depth == 1 && encoding == Encoding::Module;
                if depth > COMPONENT_DEPTH_MAX {
                    return Err(too_many(file, "levels of nested components", depth, COMPONENT_DEPTH_MAX));
                }
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentTypeSection(section) => check_types(file, &binary[section.range()])?,
            Payload::CustomSection(section) if module && section.name().starts_with(COMPONENT_TYPE_SECTION) => {
                component_type(section.data())?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Counts the places where a type could open inside another. Their number is a bound on the depth.
///
/// At such a place, a declaration's tag 1 (a type) is followed by 0x41 (component) or 0x42 (instance) and a LEB128
/// count. If the type is not empty, the tag 0 to 4 of its first declaration follows. Other bytes match this pattern
/// rarely.
fn check_types(file: &str, section: &[u8]) -> Result<(), LoadError> {
    let opens = |position: &usize| {
        let Some([1, 0x41 | 0x42, rest @ ..]) = section.get(*position..) else { return false };
        let tag = rest.iter().skip_while(|byte| **byte & 0x80 != 0).nth(1);
        tag.is_some_and(|tag| *tag <= 4)
    };
    let count = (0..section.len()).filter(opens).count() as u64;
    if count <= NESTED_TYPES_MAX {
        return Ok(());
    }
    Err(too_many(file, "nested types in one section", count, NESTED_TYPES_MAX))
}

fn too_many(file: &str, what: &'static str, count: u64, limit: u64) -> LoadError {
    LoadError::TooMany {
        file: one_line(file),
        what,
        count,
        limit,
        remedy: "compose it flatter, or use fewer interfaces",
    }
}
