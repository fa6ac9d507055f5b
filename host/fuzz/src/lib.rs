//! Fuzzes every decoder with mutated files, on a stable toolchain.
//!
//! A [`Target`] is one decoder with its seeds. For any input, the decoder must
//!
//! - return: no panic, no abort, within [`WORK_MAX`];
//! - allocate no more than [`Target::memory`] allows for the input's length;
//! - refuse with a message that a terminal can show, or accept a value whose encoding decodes to the same value.
//!
//! [`fuzz`] runs the corpus, then mutants of it. A mutant that is refused in a new way joins the corpus of the run, and
//! so does one of some accepted ones, and the new encoding of an input in an older format. The lengths and hashes of
//! most mutants are repaired ([`Target::repair`]). Otherwise the run would test little more than checksums.
//!
//! ```text
//!   seeds + corpus/TARGET/ -> mutate (mutatis) -> repair -> the decoder -> outcome; some go back into the corpus
//!                                                             |
//!                                                             +-> a promise is broken: shrink, write, report
//! ```
//!
//! `cargo test` runs 3,000 to 50,000 mutants of each target from a fixed seed. `README.md` beside this crate explains
//! longer runs, how to reproduce a failure, and how to add a target.

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

/// A decoder, and the limits that it must keep for any input.
#[derive(Debug)]
pub struct Target {
    /// The target's name, which is also that of its folder in `corpus/`.
    pub name: &'static str,
    /// A description of the input that the target decodes.
    pub about: &'static str,
    /// Makes valid inputs with the encoders of this host. Each file of `corpus/NAME/` is one more input.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The structure by which the mutator splits an input.
    pub shape: Shape,
    /// Repairs the hashes of an input, and with [`Repair::Lengths`] its lengths, as far as the input has them.
    pub repair: fn(&mut Vec<u8>, Repair),
    /// Decodes an input. Panics if the decoder breaks a promise.
    pub decode: fn(&[u8]) -> Outcome,
    /// The bound of the memory that the decoder holds at once.
    pub memory: Memory,
    /// The number of mutants in `cargo test`.
    pub rounds: u64,
}

/// The structure of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Bytes: fields at fixed places.
    Bytes,
    /// Text, which the mutator splits into words.
    Text,
    /// WebAssembly, binary or text, which the mutator splits into sections or words.
    Wasm,
}

/// The fields of a mutant that are repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// The hashes of the mutant.
    Hashes,
    /// The hashes, and the lengths that must agree with the whole.
    Lengths,
}

/// The outcome of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The input was decoded. These bytes encode the decoded value.
    Accepted(Vec<u8>),
    /// The input was refused, with this message.
    Refused(String),
}

impl Outcome {
    /// Returns the outcome for a decoder's result. The bytes encode the decoded value.
    pub(crate) fn of<E: std::fmt::Display>(decoded: Result<Vec<u8>, E>) -> Self {
        match decoded {
            Ok(bytes) => Self::Accepted(bytes),
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

/// A bound of the memory allocated at once.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The bytes allowed for any input.
    pub base: usize,
    /// The bytes allowed for each byte of the input.
    pub each: usize,
}

impl Memory {
    /// Returns the bound for an input of `input_bytes`, in bytes.
    #[must_use]
    pub fn bound(&self, input_bytes: usize) -> usize {
        self.base + self.each * input_bytes
    }
}

/// Returns the top folder of the repository.
fn root() -> &'static Path {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder)
}

/// Returns the folder of a target's committed inputs.
#[must_use]
pub fn corpus_folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Returns the folder of the inputs that caused failures.
#[must_use]
pub fn failures_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("fuzz")
}
