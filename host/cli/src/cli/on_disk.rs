//! A host with all services of a data directory, for the commands that serve one of them without a server.

use super::{FindingError, code_cache, data, random_epoch};
use anyhow::Context;
use lifeboat_api::clock::SystemClock;
use lifeboat_api::event::EventSink;
use lifeboat_api::meter::Levels;
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::fleet::{MAINTENANCE_STORES, Machine};
use lifeboat_host::host::{Host, HostConfig};
use lifeboat_vm::engine::CodeCache;
use lifeboat_vm::workload::Workload;
use std::path::Path;
use std::sync::Arc;

/// The maintenance stores of a service in a host with few services: for a fresh VM, a shadow, a snapshot under proof,
/// and a store about to be dropped.
const MAINTENANCE_STORES_PER_SERVICE: u32 = 4;

/// The resources that services need of their host.
pub(crate) struct Needs {
    pub(crate) services: u32,
    /// The most linear memories of any workload.
    pub(crate) memories: u64,
    /// The most of each level that any size has.
    pub(crate) largest: Levels,
}

impl Needs {
    /// Returns a host with these resources.
    pub(crate) fn host(&self, code_cache: Option<Arc<CodeCache>>, events: EventSink) -> anyhow::Result<Host> {
        let Self { services, memories, largest } = *self;
        let all = |bytes: u64| bytes.saturating_mul(services.into());
        let machines = Machine::pair(services, all(largest.memory_bytes)).into_iter();
        let machines = machines.map(|machine| Machine { disk_bytes: all(largest.disk_bytes), ..machine }).collect();
        let maintenance_stores = services.saturating_mul(MAINTENANCE_STORES_PER_SERVICE).min(MAINTENANCE_STORES);
        let usual = HostConfig::new(machines, largest.memory_bytes);
        let config = HostConfig { memories_max: memories, maintenance_stores, code_cache, ..usual };
        Ok(Host::new(config, Arc::new(SystemClock), events)?)
    }
}

/// Returns the most of each level that any of the sizes has.
pub(crate) fn largest<'a>(sizes: impl Iterator<Item = &'a Size>) -> Levels {
    sizes.map(Size::levels).fold(Levels::default(), |largest, levels| Levels {
        memory_bytes: largest.memory_bytes.max(levels.memory_bytes),
        disk_bytes: largest.disk_bytes.max(levels.disk_bytes),
    })
}

/// A service that may be created beside those of a directory.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    pub(crate) workload: Option<&'a Workload>,
    pub(crate) sizes: &'a [Size],
}

/// Returns a host that serves all services of the directory `locked`, which is at `path`, and whether the journal is
/// damaged. It has room for one more service.
///
/// # Errors
/// The directory cannot be read, or `service` is quarantined.
pub(crate) async fn bring_up(
    path: &Path,
    locked: Locked,
    service: &Name,
    beside: Beside<'_>,
    events: EventSink,
) -> anyhow::Result<(Host, bool)> {
    let code_cache = code_cache::of_directory(path)?;
    let entries = locked.catalog().services()?;
    let largest = largest(entries.values().flat_map(|entry| &entry.settings.sizes).chain(beside.sizes));
    let hashes = entries.values().map(|entry| &entry.workload);
    let memories = data::memories_max(&**locked.storage(), hashes, beside.workload);
    let (directory, contents) = locked
        .open_journal(&DataOptions::default())
        .map_err(data::graded)
        .context("cannot continue with the data directory")?;
    let is_journal_damaged = !contents.recovery.damages.is_empty();
    let is_cut_off = contents.services.iter().any(|found| found.name == *service && !found.is_journal_sound);
    let services = u32::try_from(entries.len() + 1).unwrap_or(u32::MAX);
    let host = Needs { services, memories, largest }.host(code_cache, events)?.with_data(directory);
    let mut epochs = Vec::new();
    for _ in 0..entries.len() {
        epochs.push(random_epoch()?);
    }
    host.recover(contents, || epochs.pop().unwrap_or_default()).await;
    host.bring_back_found().await;
    if let Some(reason) = host.quarantined(service) {
        host.stop().await.context("the data directory was not closed cleanly")?;
        let (option, reason) = (data::option(path), data::completed(&reason, path));
        let saved = if is_cut_off {
            format!(", lifeboat data snapshot {option} {service} --out FILE saves the state that can be trusted")
        } else {
            String::new()
        };
        return Err(FindingError(format!(
            "service '{service}' is quarantined: {reason}; lifeboat data verify {option} {service} reports details{saved}"
        ))
        .into());
    }
    Ok((host, is_journal_damaged))
}
