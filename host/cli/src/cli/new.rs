//! `lifeboat new`: writes a workload that builds, in one of several languages.
//!
//! The templates are in `host/cli/templates`. A test builds each of them with the commands that `new` prints.

use super::{UsageError, exit, is_pipe_open};
use anyhow::Context;
use clap::{Args, ValueEnum};
use lifeboat_api::text::plain;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The longest name of a workload, in bytes.
const NAME_MAX_BYTES: usize = 64;

/// The folder of the SDK in the clone that this program was built from.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest");

const AFTER_HELP: &str = "\
The command writes the folder NAME: a counter, its test, its build, and transactions.jsonl. It prints the commands that \
test, build and run it, one per line. docs/guests.md describes each language.

A workload in Rust depends on the folder guest/ of Lifeboat's repository, since lifeboat-guest is not on crates.io. By \
default this is the clone that lifeboat was built from.";

/// Arguments of `new`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct New {
    /// The folder guest/ of Lifeboat's repository, for a workload in Rust [default: that of the clone that lifeboat was
    /// built from]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// The language of the workload
    #[arg(value_name = "LANGUAGE")]
    language: Language,
    /// The name of the workload and of its folder, which is created here
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Js,
    Python,
    Assemblyscript,
    C,
    Go,
    Zig,
}

/// The files of a template, by their paths in the new folder.
type Files = &'static [(&'static str, &'static str)];

/// Lists files of `host/cli/templates`, which have another path in the new folder only after `as`.
macro_rules! files {
    ($folder:literal: $($path:literal $(as $name:literal)?,)*) => {
        &[$((files!(@ $path $($name)?), include_str!(concat!("../../templates/", $folder, "/", $path)))),*]
    };
    (@ $path:literal) => { $path };
    (@ $path:literal $name:literal) => { $name };
}

/// The interfaces of a workload, which compilers of components read.
const WIT: (&str, &str) = ("wit/vm.wit", include_str!("../../../wit/vm.wit"));

/// The sample transactions, which are the same for every language.
const TRANSACTIONS: (&str, &str) = ("transactions.jsonl", include_str!("../../templates/transactions.jsonl"));

impl Language {
    fn files(self) -> Files {
        match self {
            Self::Rust => files!("rust": "Cargo.toml", "src/lib.rs", "gitignore" as ".gitignore",),
            Self::Js => files!("js":
                "package.json", "src/counter.js", "src/workload.js", "test/counter.test.js",
                "gitignore" as ".gitignore",
            ),
            Self::Python => files!("python":
                "Makefile", "app.py", "bodies.py", "counter.py", "requirements.txt", "test_bodies.py", "test_counter.py",
                "gitignore" as ".gitignore",
            ),
            Self::Assemblyscript => files!("assemblyscript":
                "package.json", "assembly/counter.ts", "assembly/lifeboat.ts", "assembly/workload.ts",
                "test/counter.test.js", "gitignore" as ".gitignore",
            ),
            Self::C => files!("c":
                "Makefile", "counter.c", "counter_test.c", "lifeboat.h", "gitignore" as ".gitignore",
            ),
            Self::Go => files!("go":
                "Makefile", "counter.go", "counter_test.go", "context.go", "go.mod", "lifeboat_wasip1.go",
                "gitignore" as ".gitignore",
            ),
            Self::Zig => files!("zig": "Makefile", "counter.zig", "lifeboat.zig", "gitignore" as ".gitignore",),
        }
    }

    /// Returns whether the compiler makes a component, from the interfaces in `wit/`.
    fn needs_wit(self) -> bool {
        matches!(self, Self::Js | Self::Python)
    }

    /// Returns the commands that test and build the workload, within its folder.
    fn build(self) -> &'static [&'static str] {
        match self {
            Self::Rust => {
                &["cargo test", "rustup target add wasm32-wasip1", "cargo build --release --target wasm32-wasip1"]
            }
            Self::Js => &["npm install", "npm test", "npm run build"],
            Self::Python | Self::C | Self::Go | Self::Zig => &["make test", "make"],
            Self::Assemblyscript => &["npm install", "npm test"],
        }
    }

    /// Returns the path of the built module.
    fn module(self, name: &str) -> String {
        match self {
            Self::Rust => format!("target/wasm32-wasip1/release/{}.wasm", name.replace('-', "_")),
            _ => format!("{name}.wasm"),
        }
    }

    /// Returns the fuel with which the sample transactions take more than one VM.
    fn fuel(self) -> u64 {
        match self {
            Self::Zig => 60_000,
            Self::Rust | Self::C => 100_000,
            Self::Assemblyscript => 400_000,
            Self::Go => 600_000,
            Self::Python => 4_000_000,
            Self::Js => 9_000_000,
        }
    }
}

impl New {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let sdk = self.sdk()?;
        let folder = Path::new(&self.name);
        if !is_free(folder) {
            return Err(UsageError(format!(
                "'{}' already exists, and is not overwritten: choose another name, or remove it",
                self.name
            ))
            .into());
        }
        let wit = self.language.needs_wit().then_some(&WIT);
        for (path, content) in self.language.files().iter().chain([&TRANSACTIONS]).chain(wit) {
            let content = content.replace("{{name}}", &self.name).replace("{{sdk}}", &sdk);
            let path = folder.join(path);
            write(&path, &content).with_context(|| format!("cannot write {}", plain(&path.to_string_lossy())))?;
        }

        let _ = writeln!(io::stderr(), "wrote {}; now test, build and run it:", self.name);
        let mut commands = format!("cd {}\n", self.name);
        for command in self.language.build() {
            commands += command;
            commands.push('\n');
        }
        let (fuel, module) = (self.language.fuel(), self.language.module(&self.name));
        commands += &format!("lifeboat run --fuel {fuel} --transactions transactions.jsonl {module}\n");
        is_pipe_open(io::stdout().write_all(commands.as_bytes()).and_then(|()| io::stdout().flush()))?;
        let _ = writeln!(io::stderr(), "while you change it: lifeboat dev builds and serves it anew at each change");
        Ok(ExitCode::from(exit::OK))
    }

    /// Returns the path of the SDK, as text of TOML; empty if the language needs none.
    fn sdk(&self) -> Result<String, UsageError> {
        if self.language != Language::Rust {
            return match self.sdk {
                Some(_) => Err(UsageError("--sdk is for a workload in Rust; leave it out".to_owned())),
                None => Ok(String::new()),
            };
        }
        let named = self.sdk.as_deref().unwrap_or(Path::new(SDK));
        let shown = plain(&named.to_string_lossy());
        if !named.join("macros/Cargo.toml").is_file() {
            return Err(UsageError(format!(
                "{shown} is not the folder guest/ of Lifeboat's repository: name it with --sdk DIR, in a clone"
            )));
        }
        let path =
            fs::canonicalize(named).map_err(|error| UsageError(format!("{shown}: {error}; use another --sdk")))?;
        match path.into_os_string().into_string() {
            Ok(path) => Ok(toml::Value::String(path).to_string()),
            Err(_) => Err(UsageError(format!("{shown} is not UTF-8, which Cargo.toml must be: move the clone"))),
        }
    }
}

/// Parses the name of a workload. It is that of a package in every language.
fn name(text: &str) -> Result<String, String> {
    let is_one = text.len() <= NAME_MAX_BYTES
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if is_one {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a name for a workload: use 1 to {NAME_MAX_BYTES} of a to z, 0 to 9 and -, and begin with a letter",
        super::arguments::shown(text)
    ))
}

/// Returns whether nothing is at `folder`, or an empty folder.
fn is_free(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => fs::symlink_metadata(folder).is_err(),
    }
}

/// Writes a file that does not exist, and the folders above it.
fn write(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create_new(path)?.write_all(content.as_bytes())
}
