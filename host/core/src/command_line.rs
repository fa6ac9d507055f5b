//! The command line and the environment of a service whose workload is a program.

use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::text::{Printable, shortened};
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::CommandLine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// The most bytes of all arguments and variables of a program together.
pub const COMMAND_LINE_BYTES_MAX: usize = 16 * 1024;

/// The beginning of the names of variables that describe a call. A guest reads the first variable of a name.
const RESERVED_PREFIX: &str = "LIFEBOAT_";

/// The longest part of an argument that an error shows, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// The arguments and variables that each run of a program gets, besides its name and the variables of the call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ProgramSettings {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Unchecked {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl TryFrom<Unchecked> for ProgramSettings {
    type Error = CommandLineError;

    fn try_from(Unchecked { arguments, environment }: Unchecked) -> Result<Self, CommandLineError> {
        Self::new(arguments, environment)
    }
}

/// Arguments or variables that no program can get.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// They are too long.
    #[error(
        "the arguments and variables of a program have {} bytes, and the limit is {}; put long values into files",
        grouped(*bytes), grouped(COMMAND_LINE_BYTES_MAX as u64)
    )]
    TooLong {
        /// Their length, in bytes.
        bytes: u64,
    },
    /// An argument or a value has a zero byte, which ends it in C.
    #[error("the argument or value '{}' has a zero byte, which no program can read; remove it", Printable(text))]
    Zero {
        /// The text, shortened.
        text: String,
    },
    /// A variable has a name of those that describe a call.
    #[error("'{}' begins with LIFEBOAT_, as the variables that describe a call; choose another name", Printable(name))]
    Reserved {
        /// The name, shortened.
        name: String,
    },
    /// A variable has an impossible name.
    #[error("'{}' names no variable of the environment; write a name without '=' and zero bytes", Printable(name))]
    Name {
        /// The name, shortened.
        name: String,
    },
}

impl ProgramSettings {
    /// Checks arguments and variables.
    ///
    /// # Errors
    /// [`CommandLineError`].
    pub fn new(arguments: Vec<String>, environment: BTreeMap<String, String>) -> Result<Self, CommandLineError> {
        let shown = |text: &str| shortened(text, SHOWN_CHARS_MAX);
        if let Some(name) = environment.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(CommandLineError::Name { name: shown(name) });
        }
        if let Some(name) = environment.keys().find(|name| name.starts_with(RESERVED_PREFIX)) {
            return Err(CommandLineError::Reserved { name: shown(name) });
        }
        if let Some(text) = arguments.iter().chain(environment.values()).find(|text| text.contains('\0')) {
            return Err(CommandLineError::Zero { text: shown(text) });
        }
        let of_variables = environment.iter().flat_map(|(name, value)| [name.len(), value.len()]);
        let bytes: usize = arguments.iter().map(String::len).chain(of_variables).map(|bytes| bytes + 1).sum();
        if bytes > COMMAND_LINE_BYTES_MAX {
            return Err(CommandLineError::TooLong { bytes: bytes as u64 });
        }
        Ok(Self { arguments, environment })
    }

    /// Returns whether there are neither arguments nor variables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arguments.is_empty() && self.environment.is_empty()
    }

    /// Returns the arguments, without the name of the program.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Returns the variables.
    #[must_use]
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// Returns what the program of `service` gets: its name is that of the service.
    #[must_use]
    pub fn command_line(&self, service: &Name) -> CommandLine {
        CommandLine {
            arguments: std::iter::once(service.to_string()).chain(self.arguments.iter().cloned()).collect(),
            environment: self.environment.clone().into_iter().collect(),
        }
    }

    /// Returns the program as `service` runs it. A workload of the world has no command line.
    pub(crate) fn of_service(&self, service: &Name, program: Arc<Program>) -> Arc<Program> {
        match program.workload().is_program() {
            true => program.with_command_line(self.command_line(service)),
            false => program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_program_is_called_by_the_name_of_its_service() {
        let settings = ProgramSettings::new(vec!["-x".into()], variables("K", "v=w")).expect("right");
        let expected =
            CommandLine { arguments: vec!["bank".into(), "-x".into()], environment: vec![("K".into(), "v=w".into())] };
        assert_eq!(settings.command_line(&Name::new("bank").expect("a name")), expected);
    }

    #[test]
    fn what_no_program_can_read_is_refused() {
        let of = |argument: &str, name: &str, value: &str| {
            ProgramSettings::new(vec![argument.to_owned()], variables(name, value)).expect_err("wrong").to_string()
        };
        assert_eq!(
            of("a\0b", "K", "v"),
            "the argument or value 'a\\u{0}b' has a zero byte, which no program can read; remove it"
        );
        assert!(of("a", "K", "\0").contains("zero byte"));
        for name in ["", "A=B", "\0"] {
            assert!(of("a", name, "v").contains("names no variable"), "{name:?}");
        }
        assert!(of("a", "LIFEBOAT_USER", "admin").contains("begins with LIFEBOAT_"));
        let long = "x".repeat(COMMAND_LINE_BYTES_MAX);
        assert!(of(&long, "K", "v").contains("16,389 bytes, and the limit is 16,384"), "{}", of(&long, "K", "v"));
    }
}
