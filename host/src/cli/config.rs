//! `lifeboat config`: what a configuration file amounts to. And how other commands read one.

use super::{UsageError, exit, is_pipe_open};
use anyhow::Context;
use clap::{Args, Subcommand};
use lifeboat::config::{CONFIG_FILE, Config as ServerConfiguration, Overrides};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
says. A file that is wrong is told in one line with the place, and the exit code is 2. The files that it names, such as
workloads and certificates, are not looked at.";

impl Config {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let ConfigCommand::Check(check) = self.command;
        check.execute()
    }
}

impl Check {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let config = read(&self.file, Overrides::default())?;
        let text = if self.json {
            serde_json::to_string_pretty(&config).map(|json| json + "\n").context("cannot print the configuration")?
        } else {
            toml::to_string(&config).context("cannot print the configuration")?
        };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        if config.server.is_exposed() {
            let _ = writeln!(
                io::stderr(),
                "lifeboat: {} can be reached from elsewhere, and there is no [server.tls]: lifeboat serve wants it, or \
                 --insecure",
                config.server.listen
            );
        }
        Ok(ExitCode::from(exit::OK))
    }
}

/// Reads a configuration: flags override the environment, and that the file.
pub(crate) fn read(file: &Path, flags: Overrides) -> anyhow::Result<ServerConfiguration> {
    let overrides = Overrides::from_environment(|name| std::env::var_os(name)).map(|set| flags.over(set));
    let config = overrides.and_then(|overrides| ServerConfiguration::read(file, &overrides));
    // Whatever is wrong, the operator can put it right.
    config.map_err(|error| UsageError(error.to_string()).into())
}
