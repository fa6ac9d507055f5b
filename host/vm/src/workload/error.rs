//! The reasons for refusing a workload, each in one line.
//!
//! Names and messages come from the guest's bytes, so they pass through [`one_line`], which removes line breaks,
//! escapes control characters and limits the length. File names pass through it too.

use std::fmt::Write as _;

use lifeboat_api::text::is_deceptive;
use thiserror::Error;
use wasmparser::WasmFeatures;

/// An error for which [`load`](super::load) or [`Workload::check_size`](super::Workload::check_size) refuses a
/// workload.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file, the binary or the component exceeds a bound in bytes.
    #[error(
        "`{file}`: {what} is {bytes} bytes, limit is {limit_bytes} bytes: strip debug information, or split off data"
    )]
    TooLarge {
        /// The name of the file.
        file: String,
        /// The part that was measured.
        what: &'static str,
        /// Its length in bytes.
        bytes: u64,
        /// The bound in bytes.
        limit_bytes: u64,
    },
    /// The text exceeds its bound.
    #[error(
        "`{file}`: the text is {bytes} bytes, limit is {limit_bytes} bytes: make it a binary first, for example with \
         `wasm-tools parse`"
    )]
    TextTooLarge {
        /// The name of the file.
        file: String,
        /// The length of the text in bytes.
        bytes: u64,
        /// The bound in bytes.
        limit_bytes: u64,
    },
    /// The code exceeds the bound that protects the compiler.
    #[error("`{file}`: {what} is {bytes} bytes, limit is {limit_bytes} bytes: {remedy}")]
    TooMuchCode {
        /// The name of the file.
        file: String,
        /// The part that was measured.
        what: &'static str,
        /// Its length in bytes.
        bytes: u64,
        /// The bound in bytes.
        limit_bytes: u64,
        /// The remedy for the author.
        remedy: &'static str,
    },
    /// A count exceeds what a pooled slot holds, or the bound that protects the compiler.
    #[error("`{file}`: {count} {what}, limit is {limit}: {remedy}")]
    TooMany {
        /// The name of the file.
        file: String,
        /// The kind of item that was counted.
        what: &'static str,
        /// The number of items.
        count: u64,
        /// The bound on the number.
        limit: u64,
        /// The remedy for the author.
        remedy: &'static str,
    },
    /// The bytes are neither a WebAssembly binary nor text.
    #[error("`{file}`: not WebAssembly: {found}, a binary starts with 00 61 73 6d and text with `(`: {remedy}")]
    NotWasm {
        /// The name of the file.
        file: String,
        /// A description of its first bytes.
        found: String,
        /// The remedy for the author.
        remedy: &'static str,
    },
    /// The text does not parse.
    #[error("`{file}`: invalid WebAssembly text at line {line}, column {column}: {cause}: correct the text there")]
    Text {
        /// The name of the file.
        file: String,
        /// The line, from 1; 0 if unknown.
        line: u32,
        /// The column, from 1; 0 if unknown.
        column: u32,
        /// The parser's message.
        cause: String,
    },
    /// The binary is truncated or breaks a rule of validation.
    #[error("`{file}`: invalid WebAssembly at byte {offset} of the binary: {cause}: build or copy the file again")]
    Invalid {
        /// The name of the file.
        file: String,
        /// The position in the binary form.
        offset: u64,
        /// The validator's message.
        cause: String,
    },
    /// The binary needs a proposal that is off: see [`FEATURES`](super::FEATURES).
    #[error("`{file}`: uses {feature} at byte {offset} of the binary ({cause}), which is off here: {remedy}")]
    Feature {
        /// The name of the file.
        file: String,
        /// The proposal, by the name that authors know.
        feature: &'static str,
        /// The position in the binary form.
        offset: u64,
        /// The validator's message.
        cause: String,
        /// The remedy for the author.
        remedy: &'static str,
    },
    /// The file is a program for a version of WASI that the host does not have.
    #[error(
        "`{file}`: is a program for another version of WASI (exports `{export}`): build it for WASI 0.2 or preview 1, \
         such as wasm32-wasip2 or wasm32-wasip1"
    )]
    ProgramVersion {
        /// The name of the file.
        file: String,
        /// The export that identifies a program.
        export: String,
    },
    /// The module is a program without a memory for the adapter of preview 1.
    #[error(
        "`{file}`: is a program (exports `_start`) without the export `memory`, where WASI preview 1 reads and writes: \
         export its memory by that name"
    )]
    ProgramMemory {
        /// The name of the file.
        file: String,
    },
    /// The module is a program and a workload. The host would call no `_start`, so its runtime would not be set up.
    #[error(
        "`{file}`: exports the world lifeboat:vm/vm and `_start`, which the host never calls, so the runtime of its \
         language is not set up: build a reactor, which exports `_initialize`, with `-mexec-model=reactor` (C, C++), \
         `crate-type = [\"cdylib\"]` (Rust), `-buildmode=c-shared` (Go, TinyGo) or `--exportStart _initialize` \
         (AssemblyScript)"
    )]
    CommandWithWorld {
        /// The name of the file.
        file: String,
    },
    /// The workload lacks exports of the world.
    #[error(
        "`{file}`: not a workload of the world lifeboat:vm/vm: lacks {}, exports {}: build it with the SDK or \
         from wit/vm.wit, or as a program, which exports `_start` (module) or `wasi:cli/run` (component)",
        list(missing),
        list(found)
    )]
    MissingExports {
        /// The name of the file.
        file: String,
        /// All missing exports.
        missing: Vec<String>,
        /// The exports that it has.
        found: Vec<String>,
    },
    /// An export of the world, or of a program, has a different type.
    #[error(
        "`{file}`: export `{export}` is {found}, {owner} wants {expected}: {}",
        match *owner {
            A_PROGRAM => "build it as a command of WASI, such as for wasm32-wasip1 or wasm32-wasip2",
            _ => "rebuild it from wit/vm.wit",
        }
    )]
    ExportType {
        /// The name of the file.
        file: String,
        /// The name of the export.
        export: String,
        /// Its type in the workload.
        found: Box<str>,
        /// What wants another type: the world, or a program.
        owner: &'static str,
        /// That type.
        expected: Box<str>,
    },
    /// The workload imports functions that this host does not offer.
    #[error("`{file}`: imports {}, which this host does not offer: {remedy}", list(imports))]
    UnknownImports {
        /// The name of the file.
        file: String,
        /// All unknown imports.
        imports: Vec<String>,
        /// The remedy for the first of them.
        remedy: &'static str,
    },
    /// An import of the world has a different type.
    #[error(
        "`{file}`: import `{import}` is {found}, {owner} has {expected}: {}",
        match *owner {
            PREVIEW_1 => "build it with a compiler for wasm32-wasip1",
            _ => "rebuild it from wit/vm.wit",
        }
    )]
    ImportType {
        /// The name of the file.
        file: String,
        /// The name of the import.
        import: String,
        /// Its type in the workload.
        found: String,
        /// What has another type for it: the world, or WASI preview 1.
        owner: &'static str,
        /// That type.
        expected: String,
    },
    /// The component instantiates something that it receives at run time, so its memory cannot be counted beforehand.
    #[error(
        "`{file}`: instantiates {what} that it does not define, so its memory cannot be counted before it runs: \
         compose it into one file"
    )]
    Uncountable {
        /// The name of the file.
        file: String,
        /// Whether it is a core module or a component.
        what: &'static str,
    },
    /// The core module cannot be converted to a component.
    #[error("`{file}`: cannot make a component of this core module: {cause}: build it with the SDK or wit-bindgen")]
    Conversion {
        /// The name of the file.
        file: String,
        /// The converter's message.
        cause: String,
    },
    /// A library that reads the bytes panicked. The panic's message would not help the author of the file.
    #[error(
        "`{file}`: a library that parses it fails, so it is refused: build or copy the file again; if a compiler wrote \
         it, report this error with the file"
    )]
    Library {
        /// The name of the file.
        file: String,
        /// The message of the panic.
        cause: String,
    },
    /// No thread can be started to load the workload.
    #[error("`{file}`: no thread to load it on: {cause}: try again when the machine is less busy")]
    Thread {
        /// The name of the file.
        file: String,
        /// The operating system's message.
        cause: String,
    },
    /// A separate process refused the workload, for the reason of another variant.
    #[error("{reason}")]
    Refused {
        /// The message of that variant, which includes the file.
        reason: String,
    },
    /// Loading took too long.
    #[error(
        "`{file}`: not loaded within {} s; make it smaller, or try again when the machine is less busy",
        deadline.as_secs()
    )]
    Deadline {
        /// The name of the file.
        file: String,
        /// The time limit.
        deadline: std::time::Duration,
    },
    /// Loading needed more memory than its limit, or its process failed.
    #[error("`{file}`: cannot be loaded: {reason}")]
    Exceeded {
        /// The name of the file.
        file: String,
        /// How the process ended, and the remedy.
        reason: String,
    },
    /// The loading process could not be started, or another process killed it. A later attempt may succeed.
    #[error("`{file}`: cannot be loaded: {reason}")]
    Process {
        /// The name of the file.
        file: String,
        /// How the process ended, and the remedy.
        reason: String,
    },
    /// The size is too small for the workload's initial memory.
    #[error(
        "`{file}`: starts with {initial_bytes} bytes of memory, size `{size_name}` has {limit_bytes} bytes, of which \
         {level_percent}% may be in use at the start: give it at least {needed_bytes} bytes, for example {}KiB",
        needed_bytes.div_ceil(1 << 10)
    )]
    InitialMemory {
        /// The name of the file.
        file: String,
        /// The name of the size.
        size_name: String,
        /// The initial size of all linear memories, in bytes.
        initial_bytes: u64,
        /// The size's memory, in bytes.
        limit_bytes: u64,
        /// The share of it that may be in use at the start, in percent.
        level_percent: u8,
        /// The smallest sufficient limit, in bytes.
        needed_bytes: u64,
    },
}

/// Those who give an import or an export its type.
pub(super) const WORLD: &str = "the world lifeboat:vm/vm";
pub(super) const PREVIEW_1: &str = "WASI preview 1";
pub(super) const A_PROGRAM: &str = "a program";

/// The bytes of a message from a library or the guest that are shown.
const TEXT_SHOWN_BYTES: usize = 400;
/// The number of names that a list shows before it counts the rest.
const NAMES_SHOWN: usize = 16;

/// Makes any text fit on one line of a terminal: line breaks and runs of blanks become one blank, control characters
/// are escaped, and long text is truncated.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(TEXT_SHOWN_BYTES));
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for char in word.chars() {
            if line.len() >= TEXT_SHOWN_BYTES {
                line.push_str("...");
                return line;
            }
            if is_deceptive(char) {
                line.extend(char.escape_unicode());
            } else {
                line.push(char);
            }
        }
    }
    line
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::new();
    for name in &names[..names.len().min(NAMES_SHOWN)] {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}`{}`", one_line(name));
    }
    if names.len() > NAMES_SHOWN {
        let _ = write!(text, " and {} more", names.len() - NAMES_SHOWN);
    }
    text
}

impl LoadError {
    /// Returns whether the next attempt may succeed: the host, not the workload, caused the error.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Process { .. } | Self::Thread { .. })
    }

    /// Returns the same for a workload that was loaded before: its process may have failed for lack of memory that
    /// becomes available again.
    pub fn may_pass_of_stored(&self) -> bool {
        self.may_pass() || matches!(self, Self::Exceeded { .. })
    }

    /// Creates the error for a `file` that was not loaded within `deadline`.
    pub(crate) fn deadline(file: &str, deadline: std::time::Duration) -> Self {
        Self::Deadline { file: one_line(file), deadline }
    }

    /// Creates the error for a `file` whose loading process exceeded its limits.
    pub(crate) fn exceeded(file: &str, reason: String) -> Self {
        Self::Exceeded { file: one_line(file), reason }
    }

    /// Creates the error for a `file` whose loading process could not be started or was killed.
    pub(crate) fn process(file: &str, reason: String) -> Self {
        Self::Process { file: one_line(file), reason }
    }
}

pub(super) fn not_wasm(file: &str, bytes: &[u8]) -> LoadError {
    let found = match bytes {
        [] => "the file is empty".to_owned(),
        _ => {
            let first: Vec<_> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("the file starts with {}", first.join(" "))
        }
    };
    let remedy = match bytes {
        [0x7f, b'E', b'L', b'F', ..] => "this is a native program, build for wasm32-wasip1",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => "this is compressed, unpack it first",
        b"" | b"\0" | b"\0a" | b"\0as" => "the file is cut off, build or copy it again",
        _ => "pass a `.wasm` or `.wat` file",
    };
    LoadError::NotWasm { file: one_line(file), found, remedy }
}

pub(super) fn invalid(file: &str, cause: &wasmparser::Error) -> LoadError {
    let (offset, cause) = (cause.offset() as u64, one_line(cause.message()));
    LoadError::Invalid { file: one_line(file), offset, cause }
}

/// The proposals that [`feature`] names.
pub(super) const NAMED_PROPOSALS: [WasmFeatures; 5] = [
    WasmFeatures::THREADS,
    WasmFeatures::EXCEPTIONS,
    WasmFeatures::LEGACY_EXCEPTIONS.union(WasmFeatures::EXCEPTIONS),
    WasmFeatures::GC.union(WasmFeatures::GC_TYPES).union(WasmFeatures::FUNCTION_REFERENCES),
    WasmFeatures::MEMORY64,
];

/// Reports that the binary needs the proposal `missing`. A proposal is named as in the list of the WebAssembly group.
pub(super) fn feature(file: &str, cause: &wasmparser::Error, missing: WasmFeatures) -> LoadError {
    let is_of = |proposals: WasmFeatures| missing.intersects(proposals);
    let (feature, remedy) = match missing {
        _ if is_of(WasmFeatures::THREADS | WasmFeatures::SHARED_EVERYTHING_THREADS) => (
            "threads",
            "a workload is single-threaded, build it without `-pthread` (C, C++), `-C target-feature=+atomics` (Rust) \
             or `--enable threads` (AssemblyScript)",
        ),
        _ if is_of(WasmFeatures::MEMORY64) => ("64-bit memory", "build for wasm32"),
        _ if is_of(WasmFeatures::EXCEPTIONS | WasmFeatures::LEGACY_EXCEPTIONS) => (
            "exception handling",
            "build with `-fno-exceptions` and without `-fwasm-exceptions` and `-mllvm -wasm-enable-sjlj` (C, C++), \
             or with `panic = \"abort\"` (Rust)",
        ),
        _ if is_of(WasmFeatures::GC | WasmFeatures::GC_TYPES | WasmFeatures::FUNCTION_REFERENCES) => (
            "garbage collection (references that a collector owns)",
            "the engine has no collector, use a compiler that brings its own in linear memory, for example TeaVM for \
             `WEBASSEMBLY` instead of `WEBASSEMBLY_GC` (Java)",
        ),
        _ if is_of(WasmFeatures::CM_ASYNC) => ("asynchronous component functions", "build for WASI 0.2"),
        _ => ("a proposal beyond WebAssembly 2.0", "build without it, for wasm32-wasip1 if in doubt"),
    };
    let (offset, cause) = (cause.offset() as u64, one_line(cause.message()));
    LoadError::Feature { file: one_line(file), feature, offset, cause, remedy }
}
