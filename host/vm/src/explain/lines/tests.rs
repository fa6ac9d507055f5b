use super::*;
use proptest::prelude::*;
use wasm_encoder::{
    CodeSection, Component, CustomSection, Function, FunctionSection, Instruction, Module, ModuleSection, TypeSection,
};

/// A table of version 4 with two files: `src/lib.rs` of the compiler's directory, and `src/b.c` of `/c`.
fn table_of_4(program: &[u8]) -> Vec<u8> {
    let lists = b"/c/src\0\0src/lib.rs\0\0\0\0b.c\0\x01\0\0\0";
    table(4, &[], lists, program)
}

/// A table of version 5 with the same files, whose names are in three sections.
fn table_of_5(program: &[u8]) -> Vec<u8> {
    // Directories have a path (1) in `.debug_line_str` (0x1f); files have a path, a directory (2) and an MD5 (5).
    let mut lists = vec![1, 1, 0x1f, 2];
    lists.extend([0, 0, 0, 0, 6, 0, 0, 0]);
    lists.extend([3, 1, 0x0e, 2, 0x0b, 5, 0x1e, 2]);
    lists.extend([0, 0, 0, 0, 0].into_iter().chain([7; 16]));
    lists.extend([11, 0, 0, 0, 1].into_iter().chain([7; 16]));
    table(5, &[4, 0], &lists, program)
}

fn table(version: u16, sizes: &[u8], lists: &[u8], program: &[u8]) -> Vec<u8> {
    let mut header = vec![1];
    if version >= 4 {
        header.push(1);
    }
    // Statements by default, lines from -5 on, 14 of them, opcodes from 13 on.
    header.extend([1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    header.extend(lists);
    let mut table = version.to_le_bytes().to_vec();
    table.extend(sizes);
    table.extend(u32::try_from(header.len()).expect("short").to_le_bytes());
    table.extend(header);
    table.extend(program);
    let mut whole = u32::try_from(table.len()).expect("short").to_le_bytes().to_vec();
    whole.extend(table);
    whole
}

/// A program with rows for the addresses 10 (file 1, line 7), 12 (file 2, line 40) and 14 (the end).
fn program(first: u8, second: u8) -> Vec<u8> {
    let set_address = [0, 5, 2, 10, 0, 0, 0];
    let rows = [4, first, 3, 6, 1, 4, second, 3, 33, 2, 2, 1, 2, 2, 0, 1, 1];
    set_address.into_iter().chain(rows).collect()
}

fn rows(section: &[u8], addresses: &[u64]) -> Vec<Option<Position>> {
    let tables = Tables { lines: section, line_strings: b"/work\0/c/src\0", strings: b"src/lib.rs\0b.c\0" };
    let mut search = Search::new(addresses.iter().copied().zip(0..).collect());
    search.read(tables.lines);
    let mut positions = vec![None; addresses.len()];
    for (index, row) in search.found {
        positions[index] = tables.position(row);
    }
    positions
}

fn position(file: &str, line: u64) -> Option<Position> {
    Some(Position { file: file.to_owned(), line })
}

#[test]
fn an_address_has_the_last_row_before_it() {
    let addresses = [9, 10, 11, 12, 13, 14];
    let (first, second) = (position("src/lib.rs", 7), position("/c/src/b.c", 40));
    let expected = [None, first.clone(), first, second.clone(), second, None];
    assert_eq!(rows(&table_of_4(&program(1, 2)), &addresses), expected);
    assert_eq!(rows(&table_of_5(&program(0, 1)), &addresses), expected);
    let behind_others = [table_of_4(&[0, 1, 1]), table(9, &[], b"", b""), table_of_4(&program(1, 2))].concat();
    assert_eq!(rows(&behind_others, &addresses), expected);
}

#[test]
fn special_opcodes_advance_the_address_and_the_line() {
    // Two steps of 1 and 8 lines, then the constant step, which is that of opcode 255 without a row.
    let program = [0, 5, 2, 10, 0, 0, 0, 13 + 14 + 13, 13 + 14 + 13, 8, 0, 1, 1];
    let found = rows(&table_of_4(&program), &[11, 12, 28, 29]);
    assert_eq!(found, [position("src/lib.rs", 9), position("src/lib.rs", 17), position("src/lib.rs", 17), None]);
}

#[test]
fn functions_that_the_linker_removed_are_nowhere() {
    let removed = [0, 5, 2, 0, 0, 0, 0, 1, 2, 100, 0, 1, 1];
    let both = [table_of_4(&removed), table_of_4(&program(1, 2))].concat();
    assert_eq!(rows(&both, &[10]), [position("src/lib.rs", 7)]);
}

#[test]
fn files_that_are_not_listed_have_no_position() {
    assert_eq!(rows(&table_of_4(&program(0, 3)), &[10, 12]), [None, None]);
    assert_eq!(rows(&table_of_5(&program(2, 200)), &[10, 12]), [None, None]);
}

#[test]
fn numbers_and_entries_longer_than_the_format_has_them_have_no_position() {
    let padded = |bytes: usize| [vec![0x80; bytes - 1], vec![0]].concat();
    assert_eq!(Bytes(&padded(10)).uleb(), Some(0));
    assert_eq!(Bytes(&padded(11)).uleb(), None);
    assert_eq!(Bytes(&padded(11)).sleb(), None);
    for fields in [FIELDS_MAX, FIELDS_MAX + 1] {
        let formats = [vec![fields], [1, 0x08].repeat(usize::from(fields))].concat();
        assert_eq!(Formats::read(&mut Bytes(&formats)).is_some(), fields == FIELDS_MAX);
    }
    let long = [vec![0; LIST_BYTES_MAX - 40], program(1, 2)].concat();
    assert_eq!(rows(&table(4, &[], &vec![0; LIST_BYTES_MAX + 1], &long), &[10]), [None]);
}

#[test]
fn a_text_in_another_section_is_read_as_far_as_it_is_shown() {
    let endless = vec![b'x'; 10 * PATH_BYTES_MAX];
    assert_eq!(text_at(&endless, 5).map(<[u8]>::len), Some(PATH_BYTES_MAX));
    assert_eq!(text_at(b"ab\0cd\0", 3), Some(&b"cd"[..]));
    assert_eq!(text_at(b"ab", 3), None);
}

#[test]
fn lists_that_claim_to_be_endless_end() {
    for (formats, count) in [(vec![0], 0x7f), (vec![1, 1, 0x19], 0x7f), (vec![1, 1, 0x08], 0x7f)] {
        let mut lists = formats;
        lists.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, count]);
        assert_eq!(rows(&table(5, &[4, 0], &lists, &program(0, 1)), &[10]), [None]);
    }
}

/// A module with two functions, and this line table.
fn module(table: &[u8]) -> Module {
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0).function(0);
    for _ in 0..2 {
        let mut function = Function::new([]);
        for _ in 0..6 {
            function.instruction(&Instruction::Nop);
        }
        code.function(function.instruction(&Instruction::End));
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module.section(&CustomSection { name: ".debug_line".into(), data: table.into() });
    module
}

/// Returns the offsets of the code sections of a component.
fn code_sections(component: &[u8]) -> Vec<usize> {
    let payloads = Parser::new(0).parse_all(component).map(|payload| payload.expect("valid"));
    let start = |payload| if let Payload::CodeSectionStart { range, .. } = payload { Some(range.start) } else { None };
    payloads.filter_map(start).collect()
}

#[test]
fn a_place_is_looked_up_in_the_module_of_its_function() {
    let mut component = Component::new();
    for table in [table_of_4(&program(2, 1)), table_of_4(&program(1, 2))] {
        component.section(&ModuleSection(&module(&table)));
    }
    let component = component.finish();
    let [first, second] = code_sections(&component)[..] else { panic!("there are two") };
    // Byte 0 is the number of functions. Each has 9 bytes, of which the first is its length.
    let places = [
        Place { offset: first + 11, function: 1 },
        Place { offset: second + 12, function: 1 },
        Place { offset: second + 12, function: 0 },
        Place { offset: usize::MAX, function: 1 },
    ];
    let expected = [position("/c/src/b.c", 7), position("/c/src/b.c", 40), None, None];
    assert_eq!(positions(&component, &places), expected);
    assert_eq!(positions(b"none", &places[..1]), [None]);
}

#[test]
fn a_module_with_more_lines_than_the_limit_has_no_positions() {
    for (bytes, expected) in [(LINE_BYTES_MAX, position("src/lib.rs", 7)), (LINE_BYTES_MAX + 1, None)] {
        let mut table = table_of_4(&program(1, 2));
        table.resize(bytes, 0);
        let module = module(&table).finish();
        let place = Place { offset: code_sections(&module)[0] + 11, function: 1 };
        assert_eq!(positions(&module, &[place]), [expected]);
    }
}

proptest! {
    #[test]
    fn whatever_the_bytes_are_they_end(
        version in 2_u16..6,
        lists in prop::collection::vec(any::<u8>(), 0..64),
        program in prop::collection::vec(any::<u8>(), 0..256),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut section = table(version, if version == 5 { &[4, 0] } else { &[] }, &lists, &program);
        section.extend(table_of_4(&program));
        section.extend(table_of_5(&program));
        for (index, byte) in damage {
            let index = index.index(section.len());
            section[index] = byte;
        }
        rows(&section, &[1, 10, 12, 1_000, u64::from(u32::MAX)]);
    }
}
