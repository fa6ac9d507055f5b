//! Feeds every decoder with mutated files, on a stable toolchain.
//!
//! A [`Target`] is one decoder with its seeds. Whatever bytes it gets, it must
//!
//! - return: no panic, no abort, within [`WORK_MAX`];
//! - allocate no more than [`Target::memory`] says for so many bytes;
//! - refuse in lines that a terminal can show, or accept a value whose encoding is read as the same value.
//!
//! [`fuzz`] runs the corpus, then mutants of it. A mutant that gives an outcome which was not seen before joins the
//! corpus of the run, and so does the new encoding of what an older format holds. Most mutants have their lengths and
//! hashes put right ([`Target::repair`]): otherwise the checksum would be all that is tested.
//!
//! ```text
//!   seeds + corpus/TARGET/ -> mutate (mutatis) -> repair -> the decoder -> outcome, new ones back into the corpus
//!                                                             |
//!                                                             +-> a promise is broken: shrink, write, report
//! ```
//!
//! `cargo test` gives each target a few thousand mutants from a fixed seed. `README.md` beside this crate says how to
//! run one for longer, how to repeat a failure, and how to add a target.

mod driver;
mod measure;
mod mutate;
mod targets;
mod text;
mod wasm;

pub use driver::{Failure, Plan, Report, fuzz, replay};
pub use measure::WORK_MAX;
pub use targets::{TARGETS, target};

use std::path::{Path, PathBuf};

/// The longest mutant, in bytes.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// A decoder, and what it must keep to with any bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name, which is that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it decodes.
    pub about: &'static str,
    /// Makes valid inputs with the encoders of this host. There is one more in each file of `corpus/NAME/`.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How the mutator takes an input apart.
    pub shape: Shape,
    /// Puts hashes right, and lengths if told to, as far as the input has them.
    pub repair: fn(&mut Vec<u8>, Repair),
    /// Decodes an input. What it must not do, it does by a panic.
    pub decode: fn(&[u8]) -> Outcome,
    /// What it may allocate at once.
    pub memory: Memory,
    /// Mutants in `cargo test`.
    pub rounds: u64,
}

/// What an input consists of, beside bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: fields at places.
    Bytes,
    /// Text, which the mutator takes apart into words.
    Text,
    /// WebAssembly, binary or text: the mutator takes it apart into sections, or into words.
    Wasm,
}

/// How much of a mutant is put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Its hashes.
    Hashes,
    /// Its hashes, and the lengths that the whole must agree with.
    Lengths,
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was decoded; these bytes encode what it holds.
    Accepted(Vec<u8>),
    /// It was not, with this message.
    Refused(String),
}

impl Outcome {
    /// From what a decoder returns, and the bytes of what it decoded.
    pub(crate) fn of<E: std::fmt::Display>(decoded: Result<Vec<u8>, E>) -> Self {
        match decoded {
            Ok(bytes) => Self::Accepted(bytes),
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

/// A bound of what is allocated at once.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Bytes for any input.
    pub base: usize,
    /// Bytes for each byte of the input.
    pub each: usize,
}

impl Memory {
    /// The bound for an input of so many bytes.
    #[must_use]
    pub fn bound(&self, input_bytes: usize) -> usize {
        self.base + self.each * input_bytes
    }
}

/// The top of the repository.
fn root() -> &'static Path {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder)
}

/// The folder of a target's committed inputs.
#[must_use]
pub fn corpus_folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The folder where the inputs of failures are put.
#[must_use]
pub fn failures_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("fuzz")
}
