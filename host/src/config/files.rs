//! The files that a configuration names, loaded as a server would load them.

use super::tables::Named;
use super::{Config, ConfigError};
use crate::failover::HEADROOM_POINTS;
use crate::server::{ListenerError, TlsFile, tls};
use crate::workload::{LoadLimits, ReadError, load, read};
use std::path::{Path, PathBuf};

/// The files that a configuration names, each with the error that stands for it.
#[derive(Debug)]
pub struct NamedFiles(Vec<NamedFile>);

#[derive(Debug)]
struct NamedFile {
    key: &'static str,
    path: PathBuf,
    /// Its place, with an empty message.
    place: ConfigError,
}

impl NamedFiles {
    pub(super) fn new(mut named: Vec<Named>, invalid: impl Fn(usize, String) -> ConfigError) -> Self {
        named.sort_by_key(|file| file.start);
        let file = |Named { key, path, start }| NamedFile { key, path, place: invalid(start, String::new()) };
        Self(named.into_iter().map(file).collect())
    }

    /// Loads the certificate with its key, and every workload for the size that it is to have in `config`, which names
    /// them. Returns what is wrong with them, each with its place.
    #[must_use]
    pub fn check(self, config: &Config) -> Vec<ConfigError> {
        let of_tls = config.server.tls.as_ref().and_then(|files| tls(&files.certificate, &files.key).err());
        let mut services = config.services.iter();
        let mut wrong = Vec::new();
        for NamedFile { key, path, place } in self.0 {
            let message = match key {
                "workload" => services.next().and_then(|service| {
                    let size = config.sizes.iter().find(|size| size.name == service.size)?;
                    let level = service.thresholds.memory.less_points(HEADROOM_POINTS).whole_points();
                    check_workload(&path, &size.name, size.memory_bytes, level).err()
                }),
                "key" => of_tls.as_ref().filter(|error| is_about_key(error)).map(ToString::to_string),
                _certificate => of_tls.as_ref().filter(|error| !is_about_key(error)).map(ToString::to_string),
            };
            wrong.extend(message.map(|message| place.saying(message)));
        }
        wrong
    }
}

/// Whether an error of TLS is about the key: if not, it is told of the certificate.
fn is_about_key(error: &ListenerError) -> bool {
    matches!(error, ListenerError::Tls { what: TlsFile::Key, .. })
}

fn check_workload(path: &Path, size: &str, memory_bytes: u64, level_percent: u8) -> Result<(), String> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|error| match error {
        ReadError::Io(error) => {
            format!("the workload '{}' cannot be read: {error}; name a .wasm or .wat file", name.escape_debug())
        }
        refused => refused.to_string(),
    })?;
    let workload = load(&name, &bytes, &LoadLimits::default()).map_err(|error| error.to_string())?;
    workload.check_size(size, memory_bytes, level_percent).map_err(|error| error.to_string())
}

impl ConfigError {
    /// The same error with another message, if it has a place.
    fn saying(self, said: String) -> Self {
        match self {
            Self::Invalid { file, line, column, .. } => Self::Invalid { file, line, column, message: said },
            other => other,
        }
    }
}
