//! The source position of an instruction, from the line tables that a compiler left in a core module (DWARF 2 to 5).
//!
//! The tables are untrusted bytes, and a trap must be explained soon. This module therefore reads no more than it needs:
//! the section `.debug_line`, once from its beginning to its end, without building a table, and the lists of files of the
//! units that it found, once for each function. Its time is proportional to the length of that section
//! ([`LINE_BYTES_MAX`]), and its memory does not depend on it. A general reader of DWARF follows references among
//! sections, so that a few bytes can stand for a lot of work and memory.
//!
//! Whatever it cannot read has no position.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wasmparser::{Encoding, Parser, Payload, TypeRef};

/// The most bytes of `.debug_line` that are read for a trap. A core module beyond that has no source positions. It takes
/// some tens of milliseconds to read as many.
const LINE_BYTES_MAX: usize = 4 << 20;

/// The most bytes of the lists of directories and files of a unit. A unit with more has no source positions.
const LIST_BYTES_MAX: usize = 256 << 10;

/// The most fields of an entry in such a list. The format has five.
const FIELDS_MAX: u8 = 8;

/// The most bytes of a number of 64 bits, 7 of them in each byte.
const NUMBER_BYTES_MAX: u32 = 10;

/// The most bytes of one part of a path: the directory, or the name of the file.
const PATH_BYTES_MAX: usize = 1_024;

/// An instruction of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The offset of the instruction in the component.
    pub(super) offset: usize,
    /// The index of its function in its core module.
    pub(super) function: u32,
}

/// A source position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// The path of the file, as the compiler wrote it.
    pub(super) file: String,
    pub(super) line: u64,
}

/// Returns the source position of each place, where it is known.
pub(super) fn positions(component: &[u8], places: &[Place]) -> Vec<Option<Position>> {
    // Nothing here panics on purpose. If it does all the same, a guest must not be able to use that.
    catch_unwind(AssertUnwindSafe(|| find(component, places))).unwrap_or_else(|_| vec![None; places.len()])
}

fn find(component: &[u8], places: &[Place]) -> Vec<Option<Position>> {
    let mut found = vec![None; places.len()];
    let mut left = LINE_BYTES_MAX;
    for module in modules(component, places).unwrap_or_default() {
        let Some(rest) = left.checked_sub(module.tables.lines.len()) else { continue };
        left = rest;
        let mut search = Search::new(module.addresses);
        search.read(module.tables.lines);
        for (index, row) in search.found {
            found[index] = module.tables.position(row);
        }
    }
    found
}

/// The debug sections of a core module that have to do with lines.
#[derive(Debug, Clone, Copy, Default)]
struct Tables<'a> {
    lines: &'a [u8],
    line_strings: &'a [u8],
    strings: &'a [u8],
}

/// A core module with some of the places.
#[derive(Debug, Default)]
struct Module<'a> {
    tables: Tables<'a>,
    /// The places: their addresses, which count from the beginning of the code section, and their indices.
    addresses: Vec<(u64, usize)>,
}

/// Returns the core modules that have a place and line tables.
fn modules<'a>(component: &'a [u8], places: &[Place]) -> wasmparser::Result<Vec<Module<'a>>> {
    /// A module or component that was begun.
    #[derive(Default)]
    struct Open<'a> {
        module: Module<'a>,
        code: Range<usize>,
        next_function: u32,
    }
    let mut modules = Vec::new();
    let mut open: Vec<Open<'_>> = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload?;
        if let Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } = payload {
            open.push(Open::default());
            continue;
        }
        let Some(current) = open.last_mut() else { continue };
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import?.ty {
                        current.next_function += 1;
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } => current.code = range,
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                let is_here = |place: &Place| place.function == current.next_function && range.contains(&place.offset);
                for (index, place) in places.iter().enumerate().filter(|(_, place)| is_here(place)) {
                    current.module.addresses.push(((place.offset - current.code.start) as u64, index));
                }
                current.next_function = current.next_function.wrapping_add(1);
            }
            Payload::CustomSection(section) => match section.name() {
                ".debug_line" => current.module.tables.lines = section.data(),
                ".debug_line_str" => current.module.tables.line_strings = section.data(),
                ".debug_str" => current.module.tables.strings = section.data(),
                _ => {}
            },
            Payload::End(_) => {
                if let Some(Open { module, .. }) = open.pop()
                    && !module.addresses.is_empty()
                    && !module.tables.lines.is_empty()
                {
                    modules.push(module);
                }
            }
            _ => {}
        }
    }
    Ok(modules)
}

/// A row of a line table, and the header of its table.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    header: Header<'a>,
    file: u64,
    line: u64,
}

/// The beginning of a line table.
#[derive(Debug, Clone, Copy)]
struct Header<'a> {
    version: u16,
    instruction_bytes: u64,
    line_base: i8,
    line_range: u8,
    opcode_base: u8,
    /// The number of arguments of each standard opcode.
    argument_counts: &'a [u8],
    /// The lists of directories and files.
    lists: &'a [u8],
}

/// A search for the rows of some addresses.
struct Search<'a> {
    /// The addresses, in ascending order, and the indices of their places.
    wanted: Vec<(u64, usize)>,
    /// The index of a place, and its row.
    found: Vec<(usize, Row<'a>)>,
}

impl<'a> Search<'a> {
    fn new(mut wanted: Vec<(u64, usize)>) -> Self {
        wanted.sort_unstable();
        Self { wanted, found: Vec::new() }
    }

    /// Reads the tables of all units, one behind the other.
    fn read(&mut self, section: &'a [u8]) {
        let mut section = Bytes(section);
        while !self.wanted.is_empty() {
            // A table of 2^32 bytes, which would have another form, does not fit.
            let Some(mut table) = section.u32().and_then(|length| section.take(u64::from(length))) else { return };
            if let Some((header, program)) = header(&mut table) {
                self.run(header, program);
            }
        }
    }

    /// Runs the program of a table, which makes its rows.
    fn run(&mut self, header: Header<'a>, mut program: Bytes<'a>) -> Option<()> {
        let Header { instruction_bytes, line_base, line_range, opcode_base, argument_counts, .. } = header;
        let begin = Row { header, file: 1, line: 1 };
        let (mut address, mut row) = (0_u64, begin);
        let mut last: Option<(u64, Row<'_>)> = None;
        let step = |units: u64| instruction_bytes.wrapping_mul(units);
        while let Some(opcode) = program.u8() {
            if opcode >= opcode_base {
                let units = opcode - opcode_base;
                address = address.wrapping_add(step(u64::from(units / line_range)));
                row.line =
                    row.line.wrapping_add_signed(i64::from(line_base)).wrapping_add(u64::from(units % line_range));
                self.add_row(&mut last, address, Some(row));
                continue;
            }
            match opcode {
                0 => {
                    let length = program.uleb()?;
                    let mut extended = program.take(length)?;
                    match extended.u8() {
                        Some(1) => {
                            self.add_row(&mut last, address, None);
                            (address, row) = (0, begin);
                        }
                        Some(2) => address = extended.address()?,
                        _ => {}
                    }
                }
                1 => self.add_row(&mut last, address, Some(row)),
                2 => address = address.wrapping_add(step(program.uleb()?)),
                3 => row.line = row.line.wrapping_add_signed(program.sleb()?),
                4 => row.file = program.uleb()?,
                8 => address = address.wrapping_add(step(u64::from((255 - opcode_base) / line_range))),
                9 => address = address.wrapping_add(u64::from(program.u16()?)),
                opcode => {
                    for _ in 0..*argument_counts.get(usize::from(opcode) - 1)? {
                        program.uleb()?;
                    }
                }
            }
        }
        Some(())
    }

    /// Adds a row, which ends the last one. None ends a sequence of rows.
    fn add_row(&mut self, last: &mut Option<(u64, Row<'a>)>, address: u64, row: Option<Row<'a>>) {
        if let Some((from, row)) = *last {
            let first = self.wanted.partition_point(|(wanted, _)| *wanted < from);
            while let Some(&(_, index)) = self.wanted.get(first).filter(|(wanted, _)| *wanted < address) {
                self.wanted.remove(first);
                self.found.push((index, row));
            }
        }
        // The linker moves functions that it has removed to address 0, where the code section has their number.
        *last = row.map(|row| (address, row)).filter(|(address, _)| *address > 0);
    }
}

/// Reads the header of a table. Returns it, and the program behind it.
fn header<'a>(table: &mut Bytes<'a>) -> Option<(Header<'a>, Bytes<'a>)> {
    let version = table.u16().filter(|version| (2..=5).contains(version))?;
    if version >= 5 {
        // The sizes of an address and of a segment's selector.
        table.u16()?;
    }
    let length = table.u32()?;
    let mut header = table.take(u64::from(length))?;
    let instruction_bytes = header.u8()?.into();
    if version >= 4 {
        // The operations in an instruction. Wasm has one.
        header.u8()?;
    }
    let _is_statement = header.u8()?;
    let line_base = header.u8()?.cast_signed();
    let line_range = header.u8().filter(|range| *range > 0)?;
    let opcode_base = header.u8().filter(|base| *base > 0)?;
    let Bytes(argument_counts) = header.take(u64::from(opcode_base) - 1)?;
    let Bytes(lists) = header;
    if lists.len() > LIST_BYTES_MAX {
        return None;
    }
    let header = Header { version, instruction_bytes, line_base, line_range, opcode_base, argument_counts, lists };
    Some((header, *table))
}

impl<'a> Tables<'a> {
    fn position(&self, row: Row<'a>) -> Option<Position> {
        // A row for code that the compiler made up has line 0.
        let line = Some(row.line).filter(|line| *line > 0)?;
        let (directory, name) = match row.header.version {
            5 => self.file_of_5(row.header, row.file)?,
            _ => file_of_4(row.header, row.file)?,
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(PATH_BYTES_MAX)]).into_owned();
        let name = text(name);
        // A name without a directory counts from that of the compiler, which nobody else has.
        let file = match directory {
            Some(directory) if !name.starts_with('/') => format!("{}/{name}", text(directory)),
            _ => name,
        };
        Some(Position { file, line })
    }

    /// Returns the directory, unless it is that of the compiler, and the name of a file in a table of version 5.
    fn file_of_5(&self, header: Header<'a>, file: u64) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        let mut lists = Bytes(header.lists);
        let formats = Formats::read(&mut lists)?;
        let (directories, count) = (lists, lists.uleb()?);
        formats.skip(&mut lists, count)?;
        let formats_of_files = Formats::read(&mut lists)?;
        let (name, directory) = self.entry_of_5(&formats_of_files, &mut lists, file)?;
        let mut directories = directories;
        let directory = match directory {
            0 => None,
            directory => Some(self.entry_of_5(&formats, &mut directories, directory)?.0),
        };
        Some((directory, name))
    }

    /// Returns the path of an entry of a list, and the number of its directory.
    fn entry_of_5(&self, formats: &Formats, list: &mut Bytes<'a>, index: u64) -> Option<(&'a [u8], u64)> {
        let count = list.uleb()?;
        if index >= count {
            return None;
        }
        formats.skip(list, index)?;
        let (mut path, mut directory) = (None, 0);
        for &(kind, form) in &formats.0 {
            match (kind, list.value(form)?) {
                (1, text @ (Value::Text(_) | Value::LineString(_) | Value::String(_))) => path = Some(text),
                (2, Value::Number(number)) => directory = number,
                _ => {}
            }
        }
        let path = match path? {
            Value::Text(text) => Some(text),
            Value::LineString(offset) => text_at(self.line_strings, offset),
            Value::String(offset) => text_at(self.strings, offset),
            Value::Number(_) | Value::Other => None,
        };
        Some((path?, directory))
    }
}

/// Returns the directory, unless it is that of the compiler, and the name of a file in a table of version 2 to 4.
fn file_of_4(header: Header<'_>, file: u64) -> Option<(Option<&[u8]>, &[u8])> {
    let mut lists = Bytes(header.lists);
    let directories = lists;
    while !lists.text()?.is_empty() {}
    let mut number = 1;
    let (name, directory) = loop {
        let name = lists.text().filter(|name| !name.is_empty())?;
        let directory = lists.uleb()?;
        let (_time, _length) = (lists.uleb()?, lists.uleb()?);
        if number == file {
            break (name, directory);
        }
        number += 1;
    };
    if directory == 0 {
        return Some((None, name));
    }
    let mut directories = directories;
    let mut number = 1;
    loop {
        let text = directories.text().filter(|text| !text.is_empty())?;
        if number == directory {
            return Some((Some(text), name));
        }
        number += 1;
    }
}

/// What each entry of a list in a table of version 5 has: the content of each field, and its form.
struct Formats(Vec<(u64, u64)>);

impl Formats {
    fn read(lists: &mut Bytes<'_>) -> Option<Self> {
        let count = lists.u8().filter(|count| *count <= FIELDS_MAX)?;
        (0..count).map(|_| Some((lists.uleb()?, lists.uleb()?))).collect::<Option<_>>().map(Self)
    }

    /// Skips `count` entries of a list.
    fn skip(&self, list: &mut Bytes<'_>, count: u64) -> Option<()> {
        // An entry without bytes could be repeated for ever. Each form that is read here has some.
        if count > 0 && self.0.is_empty() {
            return None;
        }
        for _ in 0..count {
            for &(_, form) in &self.0 {
                list.value(form)?;
            }
        }
        Some(())
    }
}

/// A field of an entry in a table of version 5.
enum Value<'a> {
    Text(&'a [u8]),
    /// An offset in `.debug_line_str`.
    LineString(u32),
    /// An offset in `.debug_str`.
    String(u32),
    Number(u64),
    Other,
}

/// Returns the text at an offset of a section, as far as it is shown.
fn text_at(section: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = section.get(usize::try_from(offset).ok()?..)?;
    let text = &rest[..rest.len().min(PATH_BYTES_MAX)];
    text.split(|byte| *byte == 0).next()
}

/// Bytes that are read from their beginning on.
#[derive(Debug, Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: u64) -> Option<Self> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(Self(taken))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Reads an address that takes all bytes.
    fn address(&mut self) -> Option<u64> {
        match self.0.len() {
            4 => self.u32().map(u64::from),
            8 => self.array().map(u64::from_le_bytes),
            _ => None,
        }
    }

    /// Reads a number of which each byte has 7 bits. Bits beyond 64 are dropped.
    fn uleb(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..NUMBER_BYTES_MAX).map(|place| 7 * place) {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// Reads such a number with a sign.
    fn sleb(&mut self) -> Option<i64> {
        let mut number = 0_i64;
        for shift in (0..NUMBER_BYTES_MAX).map(|place| 7 * place) {
            let byte = self.u8()?;
            number |= i64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                let sign = if byte & 0x40 == 0 { 0 } else { (-1_i64).checked_shl(shift + 7).unwrap_or(0) };
                return Some(number | sign);
            }
        }
        None
    }

    /// Reads up to the next NUL.
    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.0.iter().position(|byte| *byte == 0)?;
        let text = &self.0[..length];
        self.0 = &self.0[length + 1..];
        Some(text)
    }

    fn value(&mut self, form: u64) -> Option<Value<'a>> {
        Some(match form {
            0x08 => Value::Text(self.text()?),
            0x1f => Value::LineString(self.u32()?),
            0x0e => Value::String(self.u32()?),
            0x0b => Value::Number(self.u8()?.into()),
            0x05 => Value::Number(self.u16()?.into()),
            0x06 => Value::Number(self.u32()?.into()),
            0x07 => Value::Number(self.array().map(u64::from_le_bytes)?),
            0x0f => Value::Number(self.uleb()?),
            0x1e => self.take(16).map(|_| Value::Other)?,
            0x09 => {
                let length = self.uleb()?;
                self.take(length).map(|_| Value::Other)?
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
