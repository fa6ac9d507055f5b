//! `lifeboat config`: what a configuration file amounts to.

use super::{UsageError, exit, is_pipe_open};
use anyhow::Context;
use clap::{Args, Subcommand};
use lifeboat::config::{CONFIG_FILE, Config as ServerConfiguration, NamedFiles, Overrides};
use lifeboat::data::{DataError, Locked};
use lifeboat::storage::DiskStorage;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration file, and print what is in force: every key with its value.
    Check(Check),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Check {
    /// Print one JSON object instead of TOML
    #[arg(long)]
    json: bool,
    /// The file
    #[arg(value_name = "FILE", default_value = CONFIG_FILE)]
    file: PathBuf,
}

const AFTER_HELP: &str = "\
What is printed is a configuration file itself, in which LIFEBOAT_LISTEN and LIFEBOAT_DATA have overridden what FILE
says. The certificate, its key and the workloads that it names are loaded, and the data directory is looked at; nothing is
changed. What is wrong is told in one line each with the place, and the exit code is 2. A data directory that is not there
yet, or that a server has, is told and is no error.";

impl Config {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let ConfigCommand::Check(check) = self.command;
        check.execute()
    }
}

impl Check {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let (config, named) = read(&self.file)?;
        let wrong = named.check(&config);
        for error in &wrong {
            tell(error);
        }
        let is_usable = tell_data(&config.data);
        if !wrong.is_empty() || !is_usable {
            return Ok(ExitCode::from(exit::USAGE));
        }
        let text = if self.json {
            serde_json::to_string_pretty(&config).map(|json| json + "\n").context("cannot print the configuration")?
        } else {
            toml::to_string(&config).context("cannot print the configuration")?
        };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        if config.server.is_exposed() {
            tell(format_args!(
                "{} can be reached from elsewhere, and there is no [server.tls]: lifeboat serve wants it, or --insecure",
                config.server.listen
            ));
        }
        Ok(ExitCode::from(exit::OK))
    }
}

/// Says how the data directory is. False if no server could go on with it.
fn tell_data(path: &Path) -> bool {
    let named = format!("data directory '{}'", path.display().to_string().escape_debug());
    if !path.exists() {
        tell(format_args!("{named} is not there yet: lifeboat init makes it, with a first admin"));
        return true;
    }
    let looked = DiskStorage::open(path).map_err(anyhow::Error::from).and_then(|storage| {
        let locked = Locked::look(Arc::new(storage))?;
        Ok((locked.catalog().services()?.len(), locked.catalog().users()?.len()))
    });
    match looked {
        Ok((services, 0)) => tell(format_args!(
            "{named}: services {services}, users 0, so that nobody could log in: lifeboat init adds a first admin"
        )),
        Ok((services, users)) => tell(format_args!("{named}: services {services}, users {users}")),
        Err(error) => match error.downcast_ref() {
            Some(DataError::InUse) => tell(format_args!("{named} is in use by another lifeboat, such as a server")),
            Some(DataError::Empty) => {
                tell(format_args!("{named} is empty: lifeboat init makes it one, with a first admin"));
            }
            _ => {
                tell(format_args!("{named} cannot be used: {error:#}"));
                return false;
            }
        },
    }
    true
}

fn tell(what: impl Display) {
    let _ = writeln!(io::stderr(), "lifeboat: {what}");
}

/// Reads a configuration: the environment overrides the file.
fn read(file: &Path) -> anyhow::Result<(ServerConfiguration, NamedFiles)> {
    let overrides = Overrides::from_environment(|name| std::env::var_os(name));
    let config = overrides.and_then(|overrides| ServerConfiguration::read_with_files(file, &overrides));
    // Whatever is wrong, the operator can put it right.
    config.map_err(|error| UsageError(error.to_string()).into())
}
