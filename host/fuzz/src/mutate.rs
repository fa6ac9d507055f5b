//! Mutations of bytes, of words of text, and of sections of WebAssembly.

use crate::{INPUT_BYTES_MAX, Repair, Shape, Target, text, wasm};
use mutatis::{Candidates, Context, Mutate, Result};
use std::ops::Range;

/// The longest range that one mutation repeats or removes, in bytes. Truncation may remove more.
const RANGE_BYTES_MAX: usize = 1024;

/// The beginning of an input, in bytes, where half of the changes are made.
const HEAD_BYTES: usize = 128;

/// Numbers at which decoders often fail, besides those that depend on the input's length.
const NUMBERS: [u64; 22] = [
    0,
    1,
    2,
    3,
    16,
    64,
    65,
    127,
    128,
    255,
    256,
    1024,
    4096,
    65_535,
    65_536,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// The most changes of one mutant.
const CHANGES_MAX: usize = 16;

/// The inputs from which mutants are made.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// The inputs that were decoded.
    pub(crate) accepted: Vec<Vec<u8>>,
    /// The inputs that were refused, each for another reason.
    pub(crate) refused: Vec<Vec<u8>>,
}

impl Pool {
    /// Returns an input, usually an accepted one. Most changes of a refused input are refused for the same reason.
    fn choose(&self, context: &mut Context) -> &[u8] {
        let is_refused = self.accepted.is_empty() || context.rng().gen_index(8) == Some(0);
        let inputs = if is_refused && !self.refused.is_empty() { &self.refused } else { &self.accepted };
        context.rng().choose(inputs).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Makes a mutant of any input of the pool, or shrinks an input.
///
/// A mutant may receive bytes of other inputs, and changes to the pieces that its shape has.
pub(crate) struct Mutator<'a> {
    pub(crate) target: &'a Target,
    pub(crate) pool: &'a Pool,
}

impl Mutate<Vec<u8>> for Mutator<'_> {
    fn mutate(&mut self, candidates: &mut Candidates<'_>, input: &mut Vec<u8>) -> Result<()> {
        if candidates.shrink() {
            return candidates.mutation_group(4, |context, which| {
                match which {
                    0 => remove(context, input),
                    1 => input.truncate(place(context, input.len())),
                    2 => zero(context, input),
                    _ => self.pieces(context, input, true),
                }
                Ok(())
            });
        }
        candidates.mutation(|context| {
            *input = self.pool.choose(context).to_vec();
            // A mutant often has one change, whose effect is then seen alone. Sometimes it has many.
            for _ in 0..CHANGES_MAX {
                // If the shape has pieces, half of the changes concern them.
                if self.target.shape != Shape::Bytes && context.rng().gen_bool() {
                    self.pieces(context, input, false);
                } else {
                    let which = context.rng().gen_index(BYTE_CHANGES).unwrap_or(0);
                    self.bytes(context, input, which);
                }
                input.truncate(INPUT_BYTES_MAX);
                if context.rng().gen_bool() {
                    break;
                }
            }
            match context.rng().gen_index(8) {
                Some(0) => {}
                Some(1..4) => (self.target.repair)(input, Repair::Hashes),
                _ => (self.target.repair)(input, Repair::Lengths),
            }
            Ok(())
        })
    }
}

/// The number of changes that [`Mutator::bytes`] can make.
const BYTE_CHANGES: usize = 14;

impl Mutator<'_> {
    fn bytes(&self, context: &mut Context, input: &mut Vec<u8>, which: usize) {
        match which {
            0 | 1 => change(context, input, |context, byte| byte ^ (1 << context.rng().gen_index(8).unwrap_or(0))),
            2 => change(context, input, |context, _| context.rng().gen_u8()),
            3 => change(context, input, |context, byte| {
                let step = 1 + context.rng().gen_index(16).unwrap_or(0) as u8;
                if context.rng().gen_bool() { byte.wrapping_add(step) } else { byte.wrapping_sub(step) }
            }),
            // A length, a count or a number: little-endian of any width, or a varint.
            4 | 5 => {
                let number = number(context, input.len());
                let width = [1, 2, 4, 8][context.rng().gen_index(4).unwrap_or(0)];
                let at = range(context, input.len(), width);
                let bytes = &number.to_le_bytes()[..at.len()];
                input[at].copy_from_slice(bytes);
            }
            6 => {
                let number = number(context, input.len());
                let at = range(context, input.len(), 1);
                let end = at.start + input[at.start..].iter().take(9).take_while(|byte| **byte & 0x80 != 0).count() + 1;
                input.splice(at.start..end.min(input.len()), varint(number));
            }
            7 => input.truncate(place(context, input.len())),
            8 => remove(context, input),
            9 => {
                let from = range_of_any_length(context, input.len());
                let copy = input[from].to_vec();
                let at = place(context, input.len());
                input.splice(at..at, copy);
            }
            10 => {
                let count = 1 + context.rng().gen_index(32).unwrap_or(0);
                let mut more = vec![context.rng().gen_u8(); count];
                if context.rng().gen_bool() {
                    context.rng().gen_bytes(&mut more);
                }
                let at = place(context, input.len());
                input.splice(at..at, more);
            }
            11 => {
                let from = range_of_any_length(context, input.len());
                let copy = input[from].to_vec();
                let at = range(context, input.len(), copy.len());
                let count = at.len();
                input[at].copy_from_slice(&copy[..count]);
            }
            _ => {
                let other = self.pool.choose(context);
                if which == 12 {
                    // The start of this input, followed by the end of another.
                    let end = place(context, input.len());
                    let other = &other[place(context, other.len())..];
                    input.truncate(end);
                    input.extend_from_slice(other);
                } else {
                    let from = range_of_any_length(context, other.len());
                    let at = range_of_any_length(context, input.len());
                    input.splice(at, other[from].iter().copied());
                }
            }
        }
    }

    fn pieces(&self, context: &mut Context, input: &mut Vec<u8>, shrink: bool) {
        let is_binary = self.target.shape == Shape::Wasm && input.starts_with(b"\0asm");
        if self.target.shape == Shape::Bytes {
            return remove(context, input);
        }
        let other = self.pool.choose(context);
        *input = if is_binary {
            let mut sections = wasm::split(input);
            if !shrink && context.rng().gen_index(4) != Some(0) {
                self.section(context, &mut sections);
            } else {
                mutate_list(context, &mut sections, &wasm::split(other), shrink, 16);
            }
            wasm::join(&sections)
        } else {
            let mut words = text::split(input);
            mutate_list(context, &mut words, &text::split(other), shrink, 512);
            words.concat()
        };
    }

    /// Mutates the contents of one section. The section's length stays right.
    fn section(&self, context: &mut Context, sections: &mut [wasm::Section]) {
        let Some(at) = context.rng().gen_index(sections.len()) else { return };
        let section = &mut sections[at];
        if section.is_nested() && context.rng().gen_index(4) != Some(0) {
            return self.pieces(context, &mut section.bytes, false);
        }
        let which = context.rng().gen_index(BYTE_CHANGES - 2).unwrap_or(0);
        self.bytes(context, &mut section.bytes, which);
    }
}

/// Removes, copies or swaps elements of a list, repeats a few up to `times_max` times, or inserts some of another list.
fn mutate_list<T: Clone>(context: &mut Context, list: &mut Vec<T>, other: &[T], shrink: bool, times_max: u32) {
    let count = list.len();
    let span = range_of_any_length(context, count);
    match context.rng().gen_index(if shrink { 1 } else { 5 }) {
        Some(1) => {
            let copy = list[span].to_vec();
            let at = place(context, count);
            list.splice(at..at, copy);
        }
        Some(2) if count > 1 => {
            let (one, two) = (place(context, count - 1), place(context, count - 1));
            list.swap(one, two);
        }
        // The repetitions give nesting that is deep enough to matter.
        Some(3) => {
            let times = 1 << context.rng().gen_index(times_max.ilog2() as usize + 1).unwrap_or(0);
            let few = span.start..span.end.min(span.start + 4);
            let copies: Vec<T> = list[few.clone()].iter().cycle().take(few.len() * times).cloned().collect();
            list.splice(few, copies);
        }
        Some(4) if !other.is_empty() => {
            let from = range_of_any_length(context, other.len());
            list.splice(span, other[from].to_vec());
        }
        _ => drop(list.drain(span)),
    }
}

fn change(context: &mut Context, input: &mut [u8], with: impl FnOnce(&mut Context, u8) -> u8) {
    if let Some(at) = context.rng().gen_index(input.len()) {
        input[at] = with(context, input[at]);
    }
}

fn zero(context: &mut Context, input: &mut [u8]) {
    let at = range_of_any_length(context, input.len());
    input[at].fill(0);
}

fn remove(context: &mut Context, input: &mut Vec<u8>) {
    let at = range_of_any_length(context, input.len());
    input.drain(at);
}

/// Returns a number that is often a bound: one of [`NUMBERS`], the input's length, or a place in the input.
fn number(context: &mut Context, input_bytes: usize) -> u64 {
    let number = match context.rng().gen_index(4) {
        Some(0) => context.rng().gen_u64() >> context.rng().gen_index(64).unwrap_or(0),
        Some(1) => place(context, input_bytes) as u64,
        Some(2) => input_bytes as u64,
        _ => NUMBERS[context.rng().gen_index(NUMBERS.len()).unwrap_or(0)],
    };
    match context.rng().gen_index(4) {
        Some(0) => number.wrapping_sub(1),
        Some(1) => number.wrapping_add(1),
        _ => number,
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Returns a position within `bytes` bytes, or just after them.
fn place(context: &mut Context, bytes: usize) -> usize {
    context.rng().gen_index(bytes + 1).unwrap_or(0)
}

/// Returns a range of `bytes`, or a shorter one at the end of the input.
fn range(context: &mut Context, input_bytes: usize, bytes: usize) -> Range<usize> {
    // Half of them at the beginning, where the fields are that all depends on.
    let reach = if context.rng().gen_bool() { input_bytes.min(HEAD_BYTES) } else { input_bytes };
    let start = context.rng().gen_index(reach).unwrap_or(0);
    start..(start + bytes).min(input_bytes)
}

/// Returns a range that is usually short.
fn range_of_any_length(context: &mut Context, input_bytes: usize) -> Range<usize> {
    let longest = 1 << context.rng().gen_index(RANGE_BYTES_MAX.ilog2() as usize + 1).unwrap_or(0);
    let bytes = 1 + context.rng().gen_index(longest).unwrap_or(0);
    range(context, input_bytes, bytes)
}
