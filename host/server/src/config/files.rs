//! The files that a configuration names, loaded as a server would load them.

use super::tables::{Named, NamedCredential, NamedWorkload};
use super::{Config, ConfigError, Credential, ServiceConfig};
use crate::tls::{self, TlsFile, Unencrypted, Validity};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_host::failover::HEADROOM_POINTS;
use lifeboat_vm::engine::load;
use lifeboat_vm::workload::{ReadError, read};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A position in a configuration file.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) fn error(&self, message: String) -> ConfigError {
        let Self { file, line, column } = self.clone();
        ConfigError::Invalid { file, line, column, message }
    }
}

/// The files that a configuration names, each with the position of its name.
#[derive(Debug)]
pub struct NamedFiles {
    certificate: Option<Place>,
    key: Option<Place>,
    /// The workload files, each with its service if that is known.
    workloads: Vec<(PathBuf, Option<ServiceConfig>, Place)>,
    credentials: BTreeMap<(Name, Credential), Place>,
    listen: Place,
    fleet: Place,
}

impl NamedFiles {
    /// Creates the list. `place` converts an offset in bytes to a position.
    pub(super) fn new(named: Named, place: impl Fn(usize) -> Place) -> Self {
        let workload = |NamedWorkload { path, service }: NamedWorkload| (path.value, service, place(path.offset));
        let credential = |NamedCredential { service, credential, offset }| ((service, credential), place(offset));
        Self {
            certificate: named.certificate.map(|path| place(path.offset)),
            key: named.key.map(|path| place(path.offset)),
            workloads: named.workloads.into_iter().map(workload).collect(),
            credentials: named.credentials.into_iter().map(credential).collect(),
            listen: place(named.listen_offset),
            fleet: place(named.fleet_offset),
        }
    }

    /// Checks the files as a server would use them, and returns each error with its position, and the validity of the
    /// certificate if it can be used.
    ///
    /// The certificate and its key must load, and the certificate must be valid at `now`. Every workload must load and
    /// fit its size in `config`, which names the files. Every secret must be in its file, or in the environment, which
    /// `variable` reads. An address off loopback requires TLS or `is_insecure`.
    #[must_use]
    pub fn check(
        &self,
        config: &Config,
        now: Timestamp,
        is_insecure: bool,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> (Vec<ConfigError>, Option<Validity>) {
        let (mut wrong, mut validity) = (Vec::new(), None);
        // An incomplete [server.tls] is reported separately.
        if config.server.is_exposed() && !is_insecure && self.certificate.is_none() && self.key.is_none() {
            let error = Unencrypted { address: config.server.listen };
            wrong.push(self.listen.error(error.to_string()));
        }
        if let Some(files) = &config.server.tls {
            match tls::load(&files.certificate, &files.key, now) {
                Ok(loaded) => validity = loaded.validity,
                Err(errors) => wrong.extend(errors.iter().filter_map(|error| {
                    let place = if error.what == TlsFile::Key { &self.key } else { &self.certificate };
                    place.as_ref().map(|place| place.error(error.to_string()))
                })),
            }
        }
        for (path, service, place) in &self.workloads {
            let size = service.as_ref().and_then(|service| {
                let size = config.sizes.iter().find(|size| size.name == service.size)?;
                Some((size, service.thresholds.memory.less_points(HEADROOM_POINTS).whole_points()))
            });
            wrong.extend(check_workload(path, size).err().map(|message| place.error(message)));
        }
        for error in config.credentials(variable).err().into_iter().flatten() {
            let place = self.credentials.get(&(error.service.clone(), error.credential.clone()));
            wrong.extend(place.map(|place| place.error(error.to_string())));
        }
        (wrong, validity)
    }

    /// Returns an error with this message at the position of the address to listen on.
    #[must_use]
    pub fn of_listen(&self, message: String) -> ConfigError {
        self.listen.error(message)
    }

    /// Returns an error with this message at the position of the machines.
    #[must_use]
    pub fn of_fleet(&self, message: String) -> ConfigError {
        self.fleet.error(message)
    }
}

/// Loads a workload, and checks that a VM of the size has enough memory for it.
fn check_workload(path: &Path, size: Option<(&Size, u8)>) -> Result<(), String> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|error| match error {
        ReadError::Io(error) => {
            format!("the workload '{}' cannot be read: {error}; name a .wasm or .wat file", name.escape_debug())
        }
        refused => refused.to_string(),
    })?;
    let workload = load(&name, &bytes).map_err(|error| error.to_string())?;
    let Some((size, level_percent)) = size else { return Ok(()) };
    workload.check_size(&size.name, size.memory_bytes, level_percent).map_err(|error| error.to_string())
}
