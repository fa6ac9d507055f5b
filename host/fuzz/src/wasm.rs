//! WebAssembly as a list of sections. Their lengths stay right after any change.

/// The length of the magic and version at the start of every binary, in bytes.
const PREAMBLE_BYTES: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// The section's id. None for bytes that are not a section: the preamble, and bytes that cannot be split.
    pub(crate) id: Option<u8>,
    /// The contents of the section, without its length.
    pub(crate) bytes: Vec<u8>,
}

impl Section {
    /// Returns whether the section is a nested module or component.
    pub(crate) fn is_nested(&self) -> bool {
        self.id.is_some() && self.bytes.starts_with(b"\0asm")
    }
}

/// Splits a binary into its sections.
pub(crate) fn split(binary: &[u8]) -> Vec<Section> {
    let (preamble, mut rest) = binary.split_at(binary.len().min(PREAMBLE_BYTES));
    let mut sections = vec![Section { id: None, bytes: preamble.to_vec() }];
    while let Some((&id, after)) = rest.split_first() {
        let Some((bytes, after)) = length(after).and_then(|(bytes, after)| after.split_at_checked(bytes)) else {
            break;
        };
        sections.push(Section { id: Some(id), bytes: bytes.to_vec() });
        rest = after;
    }
    if !rest.is_empty() {
        sections.push(Section { id: None, bytes: rest.to_vec() });
    }
    sections
}

/// Joins sections into a binary.
pub(crate) fn join(sections: &[Section]) -> Vec<u8> {
    let mut binary = Vec::new();
    for Section { id, bytes } in sections {
        if let Some(id) = id {
            binary.push(*id);
            let mut rest = bytes.len();
            while rest >= 0x80 {
                binary.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            binary.push(rest as u8);
        }
        binary.extend_from_slice(bytes);
    }
    binary
}

/// Reads a LEB128 number of up to 32 bits.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(number).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_make_the_binary_again() {
        let binary = wat::parse_str("(component (core module (func) (memory 1)) (component))").expect("it is valid");
        let sections = split(&binary);
        assert_eq!(join(&sections), binary);
        assert_eq!(sections.iter().filter(|section| section.is_nested()).count(), 2);
    }

    #[test]
    fn what_is_no_section_stays_as_it_is() {
        for bytes in [&b""[..], b"\0as", b"\0asm\x01\0\0\0\x01", b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f\0"] {
            assert_eq!(join(&split(bytes)), bytes);
        }
    }
}
