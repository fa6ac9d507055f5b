//! `lifeboat config`: checks a configuration file and prints the values in force.

use super::{Unusable, UsageError, UsageErrors, data, exit, is_pipe_open, output, print_line, report};
use anyhow::Context;
use clap::{Args, Subcommand};
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::text::plain;
use lifeboat_server::Listener;
use lifeboat_server::config::{CONFIG_FILE, Config as ServerConfiguration, ConfigError, Draft, NamedFiles, Overrides};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
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
    /// Check a configuration file, and print the effective configuration: every key with its value.
    Check(Check),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Check {
    /// Allow other addresses than loopback without TLS: a proxy in front of the server encrypts
    #[arg(long)]
    insecure: bool,
    /// Print one JSON object instead of TOML
    #[arg(long)]
    json: bool,
    /// The file
    #[arg(value_name = "FILE", default_value = CONFIG_FILE)]
    file: PathBuf,
}

const AFTER_HELP: &str = "\
The output is itself a configuration file, in which LIFEBOAT_LISTEN and LIFEBOAT_DATA have overridden the values of
FILE. The command refuses what lifeboat serve would refuse, and changes nothing. It reports every error in FILE, and in
the certificate, the key and the workloads that FILE names, on a line with its place. It reads the data directory only
if the text of FILE has no error. The exit code of an error is 2, or 1 for a damaged data directory. A data directory
that a server has open is reported, but is not an error.";

impl Config {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let ConfigCommand::Check(check) = self.command;
        check.execute()
    }
}

impl Check {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let now = SystemClock.now();
        let overrides = Overrides::from_environment(|name| std::env::var_os(name));
        let draft = overrides.and_then(|overrides| ServerConfiguration::draft(&self.file, &overrides));
        // The operator can correct any error in the file.
        let Draft { config, files, errors } = draft.map_err(|error| UsageError(error.to_string()))?;
        // If the file has errors, this might check a default in place of the intended directory.
        let of_data = if errors.is_empty() { check_data(&config, &files) } else { Ok(None) };
        let mut wrong = errors;
        let (of_files, validity) = files.check(&config, now, self.insecure, |name| std::env::var_os(name));
        wrong.extend(of_files);
        let unbound = Listener::check(config.server.listen).err();
        wrong.extend(unbound.map(|error| files.of_listen(error.to_string())));
        wrong.sort_by_key(ConfigError::place);
        for error in &wrong {
            let error = plain(&error.to_string());
            print_line(&error, Unusable::in_text(&error));
        }
        match of_data {
            // A server refuses its file first, whatever exit code the data directory would give.
            Err(error) => {
                let code = report(&error);
                return Ok(if wrong.is_empty() { code } else { ExitCode::from(exit::USAGE) });
            }
            Ok(found) => found.iter().for_each(note),
        }
        if !wrong.is_empty() {
            return Ok(ExitCode::from(exit::USAGE));
        }
        // This reserves as much address space as a server does. A host needs a runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let _guard = runtime.enter();
        drop(lifeboat_server::host(&config, None, Arc::new(SystemClock), Arc::new(|_| {}))?);
        let text = if self.json {
            lifeboat_api::lines::json_lines(&config).context("cannot print the configuration")?
        } else {
            toml::to_string(&config).context("cannot print the configuration")?
        };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        if let Some(tls) = &config.server.tls
            && let Some(warning) = validity.and_then(|validity| validity.warning(now))
        {
            note(format_args!("the certificate '{}' {warning}", tls.certificate.display().to_string().escape_debug()));
        }
        Ok(ExitCode::from(exit::OK))
    }
}

/// Checks the data directory, and returns a note about it.
///
/// # Errors
/// The reason for which no server could use the directory.
fn check_data(config: &ServerConfiguration, files: &NamedFiles) -> anyhow::Result<Option<String>> {
    let path = &config.data;
    let named = format!("data directory '{}'", path.display().to_string().escape_debug());
    let Some(locked) = data::look_as_server(path)? else {
        return Ok(Some(format!("{named} is in use by another lifeboat, such as a server")));
    };
    let services = locked.catalog().services()?;
    let wrong = config.check_fleet(&services);
    if !wrong.is_empty() {
        let wrong = wrong.into_iter().map(|message| files.of_fleet(format!("{named}: {message}")).to_string());
        return Err(UsageErrors(wrong.collect()).into());
    }
    Ok(Some(format!("{named}: services {}, users {}", services.len(), locked.catalog().users()?.len())))
}

fn note(what: impl Display) {
    output::note(&format!("lifeboat: {what}"));
}
