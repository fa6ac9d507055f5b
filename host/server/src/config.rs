//! The configuration of a server: `lifeboat.toml`.
//!
//! [`Config::parse`] is pure: it gets the text, the folder that paths are relative to, and what overrides the file. What
//! it returns is whole and checked: every default is filled in, every name refers to something, every bound holds. It
//! does not look at the files that it names: `config/files.rs` does.
//!
//! `docs/configuration.md` tells every key, and [`TEMPLATE`] is a file that shows them all.

mod files;
mod tables;

#[cfg(test)]
mod tests;

pub use files::NamedFiles;

use files::Place;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, Size};
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_document::{Findings, Table};
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::{ServiceEntry, ServiceSettings};
use lifeboat_host::fleet::{Fleet, Machine};
use lifeboat_host::host::HostConfig;
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

/// What the file is called.
pub const CONFIG_FILE: &str = "lifeboat.toml";

/// A file with every key: commented out, with its default.
pub const TEMPLATE: &str = include_str!("config/template.toml");

/// The longest file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// The port that a server listens on, unless configured otherwise.
pub const PORT: u16 = 7098;

/// The data directory, unless configured otherwise.
pub const DATA: &str = "data";

/// How long a stop may take, unless configured otherwise.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

/// Connections at once, unless configured otherwise.
pub const CONNECTIONS_MAX: u32 = 4_096;

/// The most connections that may be configured. Each is a file of the process.
pub const CONNECTIONS_LIMIT: u32 = 65_536;

/// Bytes of all headers of a request, unless configured otherwise.
pub const HEADER_BYTES_MAX: u64 = 16 * 1024;

/// The bounds of that: what the HTTP library reads at once, and what is nobody's headers.
pub const HEADER_BYTES_LIMITS: [u64; 2] = [8 * 1024, 256 * 1024];

/// How long a client may take to send its headers, from when its connection is idle, unless configured otherwise.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take to send its body, unless configured otherwise.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// How long a token holds, unless configured otherwise.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that it may hold, in hours: a year.
pub const TOKEN_LIFETIME_HOURS_MAX: u64 = 366 * 24;

/// Slots of each of the two machines that there are unless others are named.
pub const MACHINE_SLOTS: u32 = 64;

/// Memory of each of them, in bytes.
pub const MACHINE_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Machines of a fleet.
pub const MACHINES_MAX: usize = 64;

/// Slots of all its machines together. The pool reserves addresses, not memory, for each.
pub const SLOTS_MAX: u32 = 4_096;

/// Sizes.
pub const SIZES_MAX: usize = 64;

/// The least memory of a size, in bytes: one WebAssembly page.
pub const SIZE_MEMORY_BYTES_MIN: u64 = 64 * 1024;

/// The most memory of a size, in bytes.
pub const SIZE_MEMORY_BYTES_MAX: u64 = MEMORY_BYTES_MAX;

/// Overrides `server.listen`, unless empty.
pub const LISTEN_VARIABLE: &str = "LIFEBOAT_LISTEN";

/// Overrides `data`, unless empty.
pub const DATA_VARIABLE: &str = "LIFEBOAT_DATA";

/// How a server runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// The data directory.
    #[serde(serialize_with = "as_absolute")]
    pub data: PathBuf,
    /// How clients reach it.
    pub server: ServerConfig,
    /// What log-ins give.
    pub tokens: TokensConfig,
    /// When a resource fails its SLA, for services that do not say otherwise.
    pub thresholds: Thresholds,
    /// The fleet.
    #[serde(rename = "machine")]
    pub machines: Vec<Machine>,
    /// The sizes that VMs may have, the one with the least memory first.
    #[serde(rename = "size")]
    pub sizes: Vec<Size>,
    /// Services to create if they are missing.
    #[serde(rename = "service")]
    pub services: Vec<ServiceConfig>,
}

/// How clients reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How long a stop may take.
    #[serde(rename = "shutdown_deadline_ms", serialize_with = "as_milliseconds")]
    pub shutdown_deadline: Duration,
    /// Who may read `/metrics`.
    pub metrics: MetricsAccess,
    /// The certificate, if it speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// What clients may cost.
    pub limits: ServerLimits,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsAccess {
    /// Admins.
    #[default]
    Admin,
    /// Everybody who reaches the server, which listens on loopback then.
    Open,
}

/// What a server shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsConfig {
    /// The file with the chain of certificates, in PEM.
    #[serde(serialize_with = "as_absolute")]
    pub certificate: PathBuf,
    /// The file with the private key, in PEM.
    #[serde(serialize_with = "as_absolute")]
    pub key: PathBuf,
}

/// What the clients of a server may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLimits {
    /// Connections at once.
    pub connections_max: u32,
    /// Bytes of all headers of a request.
    pub header_bytes_max: u64,
    /// Bytes of a transaction or a query.
    pub body_bytes_max: u64,
    /// How long a client may take to send its headers, from when its connection is idle: so an idle connection is closed
    /// then.
    #[serde(rename = "header_deadline_ms", serialize_with = "as_milliseconds")]
    pub header_deadline: Duration,
    /// How long it may take to send its body.
    #[serde(rename = "body_deadline_ms", serialize_with = "as_milliseconds")]
    pub body_deadline: Duration,
}

/// What log-ins give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokensConfig {
    /// How long a token holds.
    #[serde(rename = "lifetime_hours", serialize_with = "as_hours")]
    pub lifetime: Duration,
}

/// A service to create if it is missing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceConfig {
    /// Its name.
    pub name: Name,
    /// The file with its workload.
    #[serde(serialize_with = "as_absolute")]
    pub workload: PathBuf,
    /// The size of its first VM.
    pub size: String,
    /// How it moves into a fresh VM.
    pub failover: FailoverMode,
    /// When a resource fails its SLA.
    pub thresholds: Thresholds,
}

/// What overrides the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Overrides `server.listen`.
    pub listen: Option<SocketAddr>,
    /// Overrides `data`. Relative to the current directory.
    pub data: Option<PathBuf>,
}

/// A configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is none.
    #[error("{file}: there is no such file; lifeboat init writes one")]
    Missing {
        /// The file.
        file: String,
    },
    /// It cannot be read.
    #[error("{file}: cannot be read: {error}; name a configuration file")]
    Unreadable {
        /// The file.
        file: String,
        /// What the operating system said.
        error: io::Error,
    },
    /// It is too long.
    #[error("{file}: is longer than {CONFIG_BYTES_MAX} bytes, the most that a configuration has; write a shorter one")]
    TooLong {
        /// The file.
        file: String,
    },
    /// It is not UTF-8.
    #[error("{file}: not a configuration: it is not UTF-8 text; write TOML")]
    NotText {
        /// The file.
        file: String,
    },
    /// It is no TOML, or says what cannot be.
    #[error("{file}:{line}:{column}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// The character in it, counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A variable of the environment says what cannot be.
    #[error("{variable}: {message}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What is wrong.
        message: String,
    },
}

/// Everything that is wrong with a configuration, in the order of its places: one error at least.
#[derive(Debug, Error)]
pub struct ConfigErrors(
    /// The errors.
    pub Vec<ConfigError>,
);

impl fmt::Display for ConfigErrors {
    /// One on a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// The line and the column, if it has a place.
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

/// A configuration as far as it can be read, and everything that is wrong with the file.
#[derive(Debug)]
pub struct Draft {
    /// The configuration, with the default in the place of what is wrong.
    pub config: Config,
    /// The files that it names.
    pub files: NamedFiles,
    /// What is wrong, in the order of its places.
    pub errors: Vec<ConfigError>,
}

impl Overrides {
    /// What the environment overrides. `variable` returns the value of one; an empty one is as good as none.
    ///
    /// # Errors
    /// [`ConfigError::Variable`].
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let listen = set(LISTEN_VARIABLE).map(|value| {
            parse_listen(&value.to_string_lossy())
                .map_err(|message| ConfigError::Variable { variable: LISTEN_VARIABLE, message })
        });
        Ok(Self { listen: listen.transpose()?, data: set(DATA_VARIABLE).map(PathBuf::from) })
    }

    /// These, and of `weaker` what they leave open.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        Self { listen: self.listen.or(weaker.listen), data: self.data.or(weaker.data) }
    }
}

/// Takes `text` as where to listen.
///
/// # Errors
/// A sentence that says what it must be.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        let shown = shown.escape_debug();
        format!("'{shown}' is no address to listen on: write an IP address and a port, such as 127.0.0.1:{PORT}")
    })
}

impl Config {
    /// Reads the configuration in `path`, to whose folder paths in it are relative.
    ///
    /// # Errors
    /// [`ConfigErrors`].
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        Self::whole(Self::draft(path, overrides)?)
    }

    /// Reads the configuration in `path` as far as it can be read.
    ///
    /// # Errors
    /// [`ConfigError`]: there is no text to read.
    pub fn draft(path: &Path, overrides: &Overrides) -> Result<Draft, ConfigError> {
        let file = path.display().to_string().escape_debug().to_string();
        let mut bytes = Vec::new();
        // One byte more than the limit is enough to know that it is too long.
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

    /// Parses and checks `text`. `file` is what messages call it.
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

    /// How the host is set up.
    #[must_use]
    pub fn host(&self) -> HostConfig {
        let largest = self.sizes.iter().map(|size| size.memory_bytes).max().unwrap_or_default();
        let body_bytes_max = usize::try_from(self.server.limits.body_bytes_max).unwrap_or(usize::MAX);
        HostConfig { body_bytes_max, ..HostConfig::new(self.machines.clone(), largest) }
    }

    /// Which of `services`, that a data directory holds, a server with this configuration could not start, a sentence for
    /// each: its first VM finds no room on the machines, or it has a size that no slot holds. A VM that has moved to a
    /// larger size since needs more.
    #[must_use]
    pub fn check_fleet(&self, services: &BTreeMap<Name, ServiceEntry>) -> Vec<String> {
        let slot_bytes = self.host().largest_memory_bytes;
        let fleet = Fleet::new(self.machines.clone(), 1);
        let mut leases = Vec::with_capacity(services.len());
        let mut wrong = Vec::new();
        for (name, ServiceEntry { settings, .. }) in services {
            if let Some(size) = settings.sizes.iter().find(|size| size.memory_bytes > slot_bytes) {
                let (size, memory, slot) = (&size.name, Bytes(size.memory_bytes), Bytes(slot_bytes));
                wrong.push(format!(
                    "service '{name}' would not start: its size '{size}' has {memory} of memory, the largest size here \
                     {slot}; write a [[size]] with {memory}"
                ));
                continue;
            }
            let first = settings.sizes.iter().find(|size| size.name == settings.size);
            match first.map(|size| fleet.place(size)) {
                Some(Ok(lease)) => leases.push(lease),
                Some(Err(error)) => wrong.push(format!(
                    "service '{name}', one of {}, would not start: {error}; give the machines more slots or memory",
                    services.len()
                )),
                None => {}
            }
        }
        wrong
    }

    /// How a durable service runs whose first VM is of `size`, else of the one with the least memory: it moves to those
    /// with more memory.
    ///
    /// # Errors
    /// There is no such size; a sentence that names those that there are.
    pub fn settings(
        &self,
        size: Option<&str>,
        thresholds: Option<Thresholds>,
        failover: FailoverMode,
    ) -> Result<ServiceSettings, String> {
        let first = find_size(&self.sizes, size)?;
        let larger = self.sizes.iter().filter(|size| size.memory_bytes > first.memory_bytes);
        Ok(ServiceSettings {
            size: first.name.clone(),
            sizes: std::iter::once(first).chain(larger).cloned().collect(),
            thresholds: thresholds.unwrap_or(self.thresholds),
            deduplication_window: DeduplicationWindow::durable(),
            failover,
        })
    }
}

impl ServerConfig {
    /// Whether others could read what clients send, passwords among it: it can be reached from elsewhere, and speaks no
    /// TLS. A server refuses to be started so unless it is told to with `--insecure`.
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

/// The size of this name, or the first.
fn find_size<'a>(sizes: &'a [Size], name: Option<&str>) -> Result<&'a Size, String> {
    let found = match name {
        None => sizes.first(),
        Some(name) => sizes.iter().find(|size| size.name == name),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = sizes.iter().map(|size| size.name.as_str()).collect();
        let shown: String = name.unwrap_or_default().chars().take(lifeboat_api::name::NAME_BYTES_MAX).collect();
        format!("there is no size '{}'; there are {}", shown.escape_debug(), known.join(", "))
    })
}

/// Paths in a file are relative to that file: what is printed may be put anywhere.
fn as_absolute<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    serializer.collect_str(&absolute.display())
}

fn as_milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn as_hours<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs() / 3_600)
}
