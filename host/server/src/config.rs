//! The configuration of a server: `lifeboat.toml`.
//!
//! [`Config::parse`] is pure. Its inputs are the text, the folder that paths are relative to, and the overrides. The
//! configuration that it returns is complete and checked: every default is filled in, every name refers to something,
//! and every bound holds. It does not read the files that the configuration names; `config/files.rs` does.
//!
//! `docs/configuration.md` documents every key. [`TEMPLATE`] is a file that shows them all.

mod credentials;
mod files;
mod tables;

#[cfg(test)]
mod tests;

pub use credentials::{Credential, CredentialError};
pub use files::NamedFiles;

use files::Place;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, Size};
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_document::{Findings, Table};
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::{ServiceEntry, ServiceSettings};
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::fleet::{Fleet, Machine};
use lifeboat_host::host::HostConfig;
use lifeboat_host::network::{AllowList, Allowed, NetworkSettings, Retry, Target};
use lifeboat_vm::engine::MEMORY_BYTES_MAX;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tables::Resolver;
use thiserror::Error;

/// The name of the configuration file.
pub const CONFIG_FILE: &str = "lifeboat.toml";

/// A file with every key, commented out, with its default.
pub const TEMPLATE: &str = include_str!("config/template.toml");

/// The maximum length of a configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// The default port of a server.
pub const PORT: u16 = 7098;

/// The default data directory.
pub const DATA: &str = "data";

/// The default time that a stop may take.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

/// The default maximum number of concurrent connections.
pub const CONNECTIONS_MAX: u32 = 4_096;

/// The highest number of connections that can be configured. Each connection is a file descriptor of the process.
pub const CONNECTIONS_LIMIT: u32 = 65_536;

/// The default maximum size of all headers of a request, in bytes.
pub const HEADER_BYTES_MAX: u64 = 16 * 1024;

/// The lowest and the highest maximum size of headers that can be configured, in bytes. The HTTP library reads the
/// lower one at once; no real request has headers above the higher one.
pub const HEADER_BYTES_LIMITS: [u64; 2] = [8 * 1024, 256 * 1024];

/// The default time that a client may take to send its headers, counted from when its connection becomes idle.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(60);

/// The default time that a client may take to send its body.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// The default lifetime of a token.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest lifetime of a token that can be configured, in hours: a year.
pub const TOKEN_LIFETIME_HOURS_MAX: u64 = 366 * 24;

/// The number of slots of each of the two default machines.
pub const MACHINE_SLOTS: u32 = 64;

/// The memory of each of the two default machines, in bytes.
pub const MACHINE_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The maximum number of machines in a fleet.
pub const MACHINES_MAX: usize = 64;

/// The maximum number of slots of all machines of a fleet together. The pool reserves address space, not memory, for
/// each slot.
pub const SLOTS_MAX: u32 = 4_096;

/// The maximum number of sizes.
pub const SIZES_MAX: usize = 64;

/// The minimum memory of a size, in bytes: one Wasm page.
pub const SIZE_MEMORY_BYTES_MIN: u64 = 64 * 1024;

/// The maximum memory of a size, in bytes.
pub const SIZE_MEMORY_BYTES_MAX: u64 = MEMORY_BYTES_MAX;

/// The environment variable that overrides `server.listen`, unless it is empty.
pub const LISTEN_VARIABLE: &str = "LIFEBOAT_LISTEN";

/// The environment variable that overrides `data`, unless it is empty.
pub const DATA_VARIABLE: &str = "LIFEBOAT_DATA";

/// The configuration of a server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// The path of the data directory.
    #[serde(serialize_with = "as_absolute")]
    pub data: PathBuf,
    /// How clients reach the server.
    pub server: ServerConfig,
    /// The tokens that log-ins issue.
    pub tokens: TokensConfig,
    /// The SLA thresholds of services that set none of their own.
    pub thresholds: Thresholds,
    /// The machines of the fleet.
    #[serde(rename = "machine")]
    pub machines: Vec<Machine>,
    /// The sizes that VMs may have, sorted by memory, smallest first.
    #[serde(rename = "size")]
    pub sizes: Vec<Size>,
    /// The services to create if they are missing.
    #[serde(rename = "service")]
    pub services: Vec<ServiceConfig>,
}

/// How clients reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerConfig {
    /// The address that the server listens on.
    pub listen: SocketAddr,
    /// The time that a stop may take.
    #[serde(rename = "shutdown_deadline_ms", serialize_with = "as_milliseconds")]
    pub shutdown_deadline: Duration,
    /// Who may read `/metrics`.
    pub metrics: MetricsAccess,
    /// The certificate and key, if the server uses TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// The limits on what clients may use.
    pub limits: ServerLimits,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsAccess {
    /// Only admins.
    #[default]
    Admin,
    /// Everyone who can reach the server. The server must then listen on a loopback address.
    Open,
}

/// The files with which a server identifies itself over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsConfig {
    /// The file with the certificate chain, in PEM.
    #[serde(serialize_with = "as_absolute")]
    pub certificate: PathBuf,
    /// The file with the private key, in PEM.
    #[serde(serialize_with = "as_absolute")]
    pub key: PathBuf,
}

/// The limits on what the clients of a server may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLimits {
    /// The maximum number of concurrent connections.
    pub connections_max: u32,
    /// The maximum size of all headers of a request, in bytes.
    pub header_bytes_max: u64,
    /// The maximum size of the body of a transaction or a query, in bytes.
    pub body_bytes_max: u64,
    /// The time that a client may take to send its headers, counted from when its connection becomes idle. An idle
    /// connection is therefore closed after this time.
    #[serde(rename = "header_deadline_ms", serialize_with = "as_milliseconds")]
    pub header_deadline: Duration,
    /// The time that a client may take to send its body.
    #[serde(rename = "body_deadline_ms", serialize_with = "as_milliseconds")]
    pub body_deadline: Duration,
}

/// The tokens that log-ins issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokensConfig {
    /// The lifetime of a token.
    #[serde(rename = "lifetime_hours", serialize_with = "as_hours")]
    pub lifetime: Duration,
}

/// A service to create if it is missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceConfig {
    /// The name of the service.
    pub name: Name,
    /// The file with the workload.
    #[serde(serialize_with = "as_absolute")]
    pub workload: PathBuf,
    /// The size of the first VM.
    pub size: String,
    /// How the service moves to a fresh VM.
    pub failover: FailoverMode,
    /// The addresses that the service may call.
    #[serde(serialize_with = "as_targets")]
    pub allow_net: AllowList,
    /// What the service does about calls in doubt.
    pub retry: Retry,
    /// The file with the certificate authorities that its calls trust, in PEM, if they are not the system's.
    #[serde(serialize_with = "as_optional_absolute", skip_serializing_if = "Option::is_none")]
    pub roots: Option<PathBuf>,
    /// The SLA thresholds of the service.
    pub thresholds: Thresholds,
    /// The arguments and the environment of a program.
    #[serde(flatten, skip_serializing_if = "ProgramSettings::is_empty")]
    pub program: ProgramSettings,
    /// The secrets that the service may send, by name.
    #[serde(rename = "secret", skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretSource>,
}

impl ServiceConfig {
    /// Returns the network of the service, whether it exists or is to be created.
    #[must_use]
    pub fn network(&self) -> NetworkSettings {
        NetworkSettings { allow: self.allow_net.clone(), retry: self.retry }
    }
}

/// The place of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// A file.
    File(#[serde(serialize_with = "as_absolute")] PathBuf),
    /// A variable of the server's environment.
    Env(String),
}

/// Values that override the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Overrides `server.listen`.
    pub listen: Option<SocketAddr>,
    /// Overrides `data`. Relative to the current directory.
    pub data: Option<PathBuf>,
}

/// The reason why a configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file does not exist.
    #[error("{file}: there is no such file; lifeboat init writes one")]
    Missing {
        /// The path of the file.
        file: String,
    },
    /// The file cannot be read.
    #[error("{file}: cannot be read: {error}; name a configuration file")]
    Unreadable {
        /// The path of the file.
        file: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The file is longer than [`CONFIG_BYTES_MAX`].
    #[error("{file}: is longer than {CONFIG_BYTES_MAX} bytes, the limit of a configuration; write a shorter one")]
    TooLong {
        /// The path of the file.
        file: String,
    },
    /// The file is not UTF-8.
    #[error("{file}: not a configuration: it is not UTF-8 text; write TOML")]
    NotText {
        /// The path of the file.
        file: String,
    },
    /// The file is not TOML, or it contains an invalid key or value.
    #[error("{file}:{line}:{column}: {message}")]
    Invalid {
        /// The path of the file.
        file: String,
        /// The line of the error, counted from 1.
        line: usize,
        /// The character in the line, counted from 1.
        column: usize,
        /// The description of the error.
        message: String,
    },
    /// An environment variable has an invalid value.
    #[error("{variable}: {message}")]
    Variable {
        /// The name of the variable.
        variable: &'static str,
        /// The description of the error.
        message: String,
    },
}

/// All errors of a configuration, in the order of their positions. There is at least one.
#[derive(Debug, Error)]
pub struct ConfigErrors(
    /// The errors.
    pub Vec<ConfigError>,
);

impl fmt::Display for ConfigErrors {
    /// Writes one error per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// Returns the line and the column, or zeros if the error has no position.
    #[must_use]
    pub fn place(&self) -> (usize, usize) {
        match self {
            Self::Invalid { line, column, .. } => (*line, *column),
            _ => (0, 0),
        }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// A configuration as far as it can be read, and all errors of the file.
#[derive(Debug)]
pub struct Draft {
    /// The configuration, with defaults in place of invalid values.
    pub config: Config,
    /// The files that the configuration names.
    pub files: NamedFiles,
    /// The errors, in the order of their positions.
    pub errors: Vec<ConfigError>,
}

impl Overrides {
    /// Returns the overrides that the environment sets. `variable` returns the value of a variable; an empty value
    /// counts as unset.
    ///
    /// # Errors
    /// [`ConfigError::Variable`] if the address to listen on is invalid.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let listen = set(LISTEN_VARIABLE).map(|value| {
            parse_listen(&value.to_string_lossy())
                .map_err(|message| ConfigError::Variable { variable: LISTEN_VARIABLE, message })
        });
        Ok(Self { listen: listen.transpose()?, data: set(DATA_VARIABLE).map(PathBuf::from) })
    }

    /// Returns these overrides, completed with those of `weaker`.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        Self { listen: self.listen.or(weaker.listen), data: self.data.or(weaker.data) }
    }
}

/// Parses `text` as the address to listen on.
///
/// # Errors
/// A sentence that describes a valid address.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        let shown = shown.escape_debug();
        format!("'{shown}' is not an address to listen on: write an IP address and a port, such as 127.0.0.1:{PORT}")
    })
}

impl Config {
    /// Reads the configuration in `path`. Paths in it are relative to the folder of `path`.
    ///
    /// # Errors
    /// [`ConfigErrors`] with all errors of the file.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        Self::whole(Self::draft(path, overrides)?)
    }

    /// Reads the configuration in `path` as far as possible.
    ///
    /// # Errors
    /// [`ConfigError`] if the file has no text that can be read.
    pub fn draft(path: &Path, overrides: &Overrides) -> Result<Draft, ConfigError> {
        let file = path.display().to_string().escape_debug().to_string();
        let mut bytes = Vec::new();
        // One byte above the limit is enough to detect a file that is too long.
        let read = File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 > CONFIG_BYTES_MAX => return Err(ConfigError::TooLong { file }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ConfigError::Missing { file }),
            Err(error) => return Err(ConfigError::Unreadable { file, error }),
        }
        let Ok(text) = String::from_utf8(bytes) else { return Err(ConfigError::NotText { file }) };
        Ok(Self::parse_draft(&file, &text, path.parent().unwrap_or(Path::new("")), overrides))
    }

    /// Parses and checks `text`. Messages refer to it as `file`.
    ///
    /// # Errors
    /// [`ConfigErrors`] of [`ConfigError::Invalid`].
    pub fn parse(file: &str, text: &str, folder: &Path, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        Self::whole(Self::parse_draft(file, text, folder, overrides))
    }

    fn whole(Draft { config, errors, .. }: Draft) -> Result<Self, ConfigErrors> {
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    fn parse_draft(file: &str, text: &str, folder: &Path, overrides: &Overrides) -> Draft {
        let place = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let (line, column) = (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count());
            Place { file: file.to_owned(), line, column }
        };
        let findings = Findings::default();
        let document = lifeboat_document::parse(text, &findings).unwrap_or_default();
        let resolver = Resolver { folder, overrides, findings: &findings };
        let (config, named) = resolver.resolve(Table::root(&document, &findings));
        let files = NamedFiles::new(named, place);
        let errors = findings.sorted().into_iter().map(|wrong| place(wrong.offset).error(wrong.message)).collect();
        Draft { config, files, errors }
    }

    /// Returns the configuration of the host.
    #[must_use]
    pub fn host(&self) -> HostConfig {
        let largest = self.sizes.iter().map(|size| size.memory_bytes).max().unwrap_or_default();
        let body_bytes_max = usize::try_from(self.server.limits.body_bytes_max).unwrap_or(usize::MAX);
        HostConfig { body_bytes_max, ..HostConfig::new(self.machines.clone(), largest) }
    }

    /// Returns a sentence for each of `services` that a server with this configuration could not start. `services` are
    /// those of a data directory.
    ///
    /// A service cannot start if no machine has room for its first VM, or if no slot is large enough for one of its
    /// sizes. A VM that has since moved to a larger size needs more than this checks.
    #[must_use]
    pub fn check_fleet(&self, services: &BTreeMap<Name, ServiceEntry>) -> Vec<String> {
        let slot_bytes = self.host().largest_memory_bytes;
        let fleet = Fleet::new(self.machines.clone(), 1);
        let mut leases = Vec::with_capacity(services.len());
        let mut wrong = Vec::new();
        for (name, ServiceEntry { settings, .. }) in services {
            let largest = settings.sizes.iter().max_by_key(|size| size.memory_bytes);
            if let Some(size) = largest.filter(|size| size.memory_bytes > slot_bytes) {
                let (size, memory, slot) = (&size.name, Bytes(size.memory_bytes), Bytes(slot_bytes));
                wrong.push(format!(
                    "service '{name}' would not start: its size '{size}' has {memory} of memory, the largest size here \
                     has {slot}; write a [[size]] with {memory}"
                ));
                continue;
            }
            let first = settings.sizes.iter().find(|size| size.name == settings.size);
            match first.map(|size| fleet.place(size)) {
                Some(Ok(lease)) => leases.push(lease),
                Some(Err(error)) => wrong.push(format!(
                    "service '{name}', one of {}, would not start: {error}; give the machines more slots, memory or disk",
                    services.len()
                )),
                None => {}
            }
        }
        wrong
    }

    /// Returns the networks of the services in the file. A server gives them to services that exist, too.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<Name, NetworkSettings> {
        self.services.iter().map(|service| (service.name.clone(), service.network())).collect()
    }

    /// Returns the settings of a durable service whose first VM has `size`, or the size with the least memory if `size`
    /// is `None`. The service calls nobody. It may move to all larger sizes: those with more of some level and less of
    /// none.
    ///
    /// # Errors
    /// A sentence that lists the known sizes, if there is no such size.
    pub fn settings(
        &self,
        size: Option<&str>,
        thresholds: Option<Thresholds>,
        failover: FailoverMode,
    ) -> Result<ServiceSettings, String> {
        let first = find_size(&self.sizes, size)?;
        let larger = self.sizes.iter().filter(|size| size.levels().exceed(first.levels()));
        Ok(ServiceSettings {
            size: first.name.clone(),
            sizes: std::iter::once(first).chain(larger).cloned().collect(),
            thresholds: thresholds.unwrap_or(self.thresholds),
            deduplication_window: DeduplicationWindow::durable(),
            failover,
            network: NetworkSettings::default(),
            program: ProgramSettings::default(),
        })
    }
}

impl ServerConfig {
    /// Returns whether others could read what clients send, including passwords: the server has no TLS and can be
    /// reached from other machines. Such a server refuses to start without `--insecure`.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.tls.is_none() && !self.listen.ip().to_canonical().is_loopback()
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT),
            shutdown_deadline: SHUTDOWN_DEADLINE,
            metrics: MetricsAccess::default(),
            tls: None,
            limits: ServerLimits::default(),
        }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            header_bytes_max: HEADER_BYTES_MAX,
            body_bytes_max: lifeboat_api::transaction::BODY_BYTES_MAX as u64,
            header_deadline: HEADER_DEADLINE,
            body_deadline: BODY_DEADLINE,
        }
    }
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self { lifetime: TOKEN_LIFETIME }
    }
}

/// Returns the size with this name, or the first size.
fn find_size<'a>(sizes: &'a [Size], name: Option<&str>) -> Result<&'a Size, String> {
    let found = match name {
        None => sizes.first(),
        Some(name) => sizes.iter().find(|size| size.name == name),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = sizes.iter().map(|size| size.name.as_str()).collect();
        let shown: String = name.unwrap_or_default().chars().take(lifeboat_api::name::NAME_BYTES_MAX).collect();
        format!("there is no size '{}'; the sizes are {}", shown.escape_debug(), known.join(", "))
    })
}

/// Serializes a path as absolute. Paths in a file are relative to that file, and the printed configuration may be
/// stored anywhere.
fn as_absolute<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    serializer.collect_str(&absolute.display())
}

fn as_optional_absolute<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => as_absolute(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// Serializes an allow-list as a person would write it: an entry is a table only if it is private.
fn as_targets<S: Serializer>(allow: &AllowList, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Entry<'a> {
        Text(&'a Target),
        Table(&'a Allowed),
    }
    serializer.collect_seq(allow.entries().iter().map(|allowed| match allowed.private {
        true => Entry::Table(allowed),
        false => Entry::Text(&allowed.target),
    }))
}

fn as_milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn as_hours<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs() / 3_600)
}
