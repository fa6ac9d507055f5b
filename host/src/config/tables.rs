//! The file as it is written, and the way from there to a [`Config`]: defaults are filled in, names followed, bounds
//! checked.

use super::{
    CONNECTIONS_LIMIT, Config, ConfigError, DATA, DEADLINE_MAX, HEADER_BYTES_LIMITS, MACHINE_MEMORY_BYTES,
    MACHINE_SLOTS, MACHINES_MAX, MetricsAccess, Overrides, SIZE_MEMORY_BYTES_MAX, SIZE_MEMORY_BYTES_MIN, SIZES_MAX,
    SLOTS_MAX, ServerConfig, ServerLimits, ServiceConfig, TOKEN_LIFETIME_HOURS_MAX, TlsConfig, TokensConfig, find_size,
    parse_listen,
};
use crate::failover::{FailoverMode, Thresholds, threshold};
use crate::fleet::Machine;
use crate::name::Name;
use crate::size::{Bytes, Size, check_fuel};
use crate::transaction::BODY_BYTES_MAX;
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    data: Option<Spanned<String>>,
    #[serde(default)]
    server: ServerTable,
    #[serde(default)]
    tokens: TokensTable,
    #[serde(default)]
    thresholds: ThresholdsTable,
    #[serde(default)]
    machine: Vec<Spanned<Machine>>,
    #[serde(default)]
    size: Vec<Spanned<Size>>,
    #[serde(default)]
    service: Vec<ServiceTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServerTable {
    listen: Option<Spanned<String>>,
    shutdown_deadline_ms: Option<Spanned<u64>>,
    metrics: Option<Spanned<MetricsAccess>>,
    tls: Option<TlsTable>,
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    certificate: Spanned<String>,
    key: Spanned<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    connections_max: Option<Spanned<u64>>,
    header_bytes_max: Option<Spanned<ByteSize>>,
    body_bytes_max: Option<Spanned<ByteSize>>,
    header_deadline_ms: Option<Spanned<u64>>,
    body_deadline_ms: Option<Spanned<u64>>,
}

/// A number of bytes, or a text such as `64KiB`.
#[derive(Deserialize)]
struct ByteSize(#[serde(deserialize_with = "crate::size::byte_size::deserialize")] u64);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TokensTable {
    lifetime_hours: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ThresholdsTable {
    cpu: Option<Spanned<f64>>,
    memory: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    name: Spanned<Name>,
    workload: Spanned<String>,
    size: Option<Spanned<String>>,
    #[serde(default)]
    failover: FailoverMode,
    #[serde(default)]
    thresholds: ThresholdsTable,
}

/// Checks what was read.
pub(super) struct Resolver<'a> {
    pub(super) folder: &'a Path,
    pub(super) overrides: &'a Overrides,
    /// The error with this message, about what stands at this offset.
    pub(super) invalid: &'a dyn Fn(usize, String) -> ConfigError,
    /// What the file names, in its order.
    pub(super) named: RefCell<Vec<Named>>,
}

/// A path that the file names.
pub(super) struct Named {
    pub(super) key: &'static str,
    pub(super) path: PathBuf,
    /// Where it stands.
    pub(super) start: usize,
}

impl Resolver<'_> {
    pub(super) fn resolve(&self, tables: Tables) -> Result<Config, ConfigError> {
        let Tables { data, server, tokens, thresholds, machine, size, service } = tables;
        let data = data.map(|data| self.path("data", data)).transpose()?.unwrap_or_else(|| self.folder.join(DATA));
        let thresholds = self.thresholds(&thresholds, Thresholds::default())?;
        let machine_start = machine.first().map_or(0, |machine| machine.span().start);
        let machines = self.machines(machine)?;
        let sizes = self.sizes(size, &machines, machine_start)?;
        let services = self.services(service, &sizes, thresholds, &machines)?;
        let hours = self.number("lifetime_hours", tokens.lifetime_hours, 1..=TOKEN_LIFETIME_HOURS_MAX)?;
        Ok(Config {
            data: self.overrides.data.clone().unwrap_or(data),
            server: self.server(server)?,
            tokens: hours.map_or_else(TokensConfig::default, |hours| TokensConfig {
                lifetime: Duration::from_secs(hours * 3_600),
            }),
            thresholds,
            machines,
            sizes,
            services,
        })
    }

    fn server(&self, table: ServerTable) -> Result<ServerConfig, ConfigError> {
        let ServerTable { listen, shutdown_deadline_ms, metrics, tls, limits } = table;
        let default = ServerConfig::default();
        let listen = match listen {
            None => default.listen,
            Some(text) => parse_listen(text.get_ref()).map_err(|message| self.at(&text, message))?,
        };
        let listen = self.overrides.listen.unwrap_or(listen);
        if let Some(metrics) = metrics.as_ref().filter(|metrics| *metrics.get_ref() == MetricsAccess::Open)
            && !listen.ip().to_canonical().is_loopback()
        {
            let message = format!(
                "metrics are open, and {listen} can be reached from elsewhere; write \"admin\", or listen on loopback"
            );
            return Err(self.at(metrics, message));
        }
        let tls = tls.map(|TlsTable { certificate, key }| {
            Ok(TlsConfig { certificate: self.path("certificate", certificate)?, key: self.path("key", key)? })
        });
        let shutdown_deadline = self.deadline("shutdown_deadline_ms", shutdown_deadline_ms)?;
        Ok(ServerConfig {
            listen,
            shutdown_deadline: shutdown_deadline.unwrap_or(default.shutdown_deadline),
            metrics: metrics.map_or(default.metrics, Spanned::into_inner),
            tls: tls.transpose()?,
            limits: self.limits(limits)?,
        })
    }

    fn limits(&self, table: LimitsTable) -> Result<ServerLimits, ConfigError> {
        let LimitsTable { connections_max, header_bytes_max, body_bytes_max, header_deadline_ms, body_deadline_ms } =
            table;
        let default = ServerLimits::default();
        let connections = self.number("connections_max", connections_max, 1..=CONNECTIONS_LIMIT.into())?;
        let [least, most] = HEADER_BYTES_LIMITS;
        Ok(ServerLimits {
            connections_max: connections.and_then(|max| max.try_into().ok()).unwrap_or(default.connections_max),
            header_bytes_max: self
                .bytes("header_bytes_max", header_bytes_max, least..=most)?
                .unwrap_or(default.header_bytes_max),
            body_bytes_max: self
                .bytes("body_bytes_max", body_bytes_max, 1..=BODY_BYTES_MAX as u64)?
                .unwrap_or(default.body_bytes_max),
            header_deadline: self
                .deadline("header_deadline_ms", header_deadline_ms)?
                .unwrap_or(default.header_deadline),
            body_deadline: self.deadline("body_deadline_ms", body_deadline_ms)?.unwrap_or(default.body_deadline),
        })
    }

    fn thresholds(&self, table: &ThresholdsTable, default: Thresholds) -> Result<Thresholds, ConfigError> {
        let check = |value: &Option<Spanned<f64>>, default| match value {
            None => Ok(default),
            Some(value) => threshold(*value.get_ref()).map_err(|message| self.at(value, message)),
        };
        Ok(Thresholds { cpu: check(&table.cpu, default.cpu)?, memory: check(&table.memory, default.memory)? })
    }

    fn machines(&self, tables: Vec<Spanned<Machine>>) -> Result<Vec<Machine>, ConfigError> {
        if tables.is_empty() {
            return Ok(Machine::pair(MACHINE_SLOTS, MACHINE_MEMORY_BYTES));
        }
        let mut names = HashSet::new();
        let mut slots = 0_u32;
        for (index, machine) in tables.iter().enumerate() {
            let Machine { name, slots: its_slots, .. } = machine.get_ref();
            self.bound("machines", index, MACHINES_MAX, machine)?;
            if !names.insert(name) {
                return Err(self.at(machine, format!("two machines are called '{name}'; rename one")));
            }
            slots = slots.saturating_add(*its_slots);
            if *its_slots == 0 {
                return Err(self.at(machine, format!("machine '{name}' has 0 slots; give it at least 1")));
            }
            if slots > SLOTS_MAX {
                let message = format!(
                    "the machines up to '{name}' have {slots} slots, the limit is {SLOTS_MAX}; give them fewer"
                );
                return Err(self.at(machine, message));
            }
        }
        Ok(tables.into_iter().map(Spanned::into_inner).collect())
    }

    fn sizes(
        &self,
        tables: Vec<Spanned<Size>>,
        machines: &[Machine],
        machine_start: usize,
    ) -> Result<Vec<Size>, ConfigError> {
        let room_bytes = machines.iter().map(|machine| machine.memory_bytes).max().unwrap_or_default();
        let fits = |size: &Size| {
            if size.memory_bytes <= room_bytes {
                return Ok(());
            }
            let (size, memory, room) = (&size.name, Bytes(size.memory_bytes), Bytes(room_bytes));
            Err(format!(
                "no machine has room for size '{size}': it has {memory} of memory, the largest machine {room}; give a \
                 machine more, or write [[size]] tables with less"
            ))
        };
        if tables.is_empty() {
            let sizes = Size::built_in();
            sizes.iter().try_for_each(fits).map_err(|message| (self.invalid)(machine_start, message))?;
            return Ok(sizes);
        }
        let mut names = HashSet::new();
        for (index, table) in tables.iter().enumerate() {
            self.bound("sizes", index, SIZES_MAX, table)?;
            let size = table.get_ref();
            let name = Name::new(&size.name).map_err(|message| self.at(table, message))?;
            let fail = |message: String| Err(self.at(table, format!("size '{name}' {message}")));
            if !names.insert(name.clone()) {
                return Err(self.at(table, format!("two sizes are called '{name}'; rename one")));
            }
            if let Err(reason) = check_fuel(size.fuel) {
                return fail(format!("cannot be used: {reason}"));
            }
            if !(SIZE_MEMORY_BYTES_MIN..=SIZE_MEMORY_BYTES_MAX).contains(&size.memory_bytes) {
                let [found, least, most] = [size.memory_bytes, SIZE_MEMORY_BYTES_MIN, SIZE_MEMORY_BYTES_MAX].map(Bytes);
                return fail(format!("has {found} of memory; it must have {least} to {most}"));
            }
            if size.deadline.is_zero() || size.deadline > DEADLINE_MAX {
                let (found, most) = (size.deadline.as_millis(), DEADLINE_MAX.as_millis());
                return fail(format!("has a deadline of {found} ms; it must be 1 to {most} ms"));
            }
            fits(size).map_err(|message| self.at(table, message))?;
        }
        let mut sizes: Vec<_> = tables.into_iter().map(Spanned::into_inner).collect();
        sizes.sort_by_key(|size| size.memory_bytes);
        Ok(sizes)
    }

    fn services(
        &self,
        tables: Vec<ServiceTable>,
        sizes: &[Size],
        thresholds: Thresholds,
        machines: &[Machine],
    ) -> Result<Vec<ServiceConfig>, ConfigError> {
        let slots: u32 = machines.iter().map(|machine| machine.slots).sum();
        let mut services: Vec<ServiceConfig> = Vec::with_capacity(tables.len());
        for ServiceTable { name, workload, size, failover, thresholds: own } in tables {
            if services.len() as u64 >= u64::from(slots) {
                let message = format!("there are more services than the {slots} slots of all machines; give them more");
                return Err(self.at(&name, message));
            }
            if services.iter().any(|service| service.name == *name.get_ref()) {
                return Err(self.at(&name, format!("two services are called '{}'; rename one", name.get_ref())));
            }
            let wanted = size.as_ref().map(|size| size.get_ref().as_str());
            let start = size.as_ref().map_or(0, |size| size.span().start);
            let size = find_size(sizes, wanted).map_err(|message| (self.invalid)(start, message))?.name.clone();
            let thresholds = self.thresholds(&own, thresholds)?;
            let workload = self.path("workload", workload)?;
            services.push(ServiceConfig { name: name.into_inner(), workload, size, failover, thresholds });
        }
        Ok(services)
    }

    /// A path, relative to the file.
    fn path(&self, key: &'static str, text: Spanned<String>) -> Result<PathBuf, ConfigError> {
        if text.get_ref().is_empty() {
            return Err(self.at(&text, format!("{key} is empty; write a path, or leave the key out")));
        }
        let start = text.span().start;
        let path = self.folder.join(text.into_inner());
        self.named.borrow_mut().push(Named { key, path: path.clone(), start });
        Ok(path)
    }

    fn deadline(&self, key: &str, value: Option<Spanned<u64>>) -> Result<Option<Duration>, ConfigError> {
        let most = u64::try_from(DEADLINE_MAX.as_millis()).unwrap_or(u64::MAX);
        Ok(self.number(key, value, 1..=most)?.map(Duration::from_millis))
    }

    fn number(
        &self,
        key: &str,
        value: Option<Spanned<u64>>,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        match value {
            Some(value) if !range.contains(value.get_ref()) => {
                let (found, least, most) = (value.get_ref(), range.start(), range.end());
                Err(self.at(&value, format!("{key} is {found}; it must be {least} to {most}")))
            }
            value => Ok(value.map(Spanned::into_inner)),
        }
    }

    fn bytes(
        &self,
        key: &str,
        value: Option<Spanned<ByteSize>>,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        match value {
            Some(value) if !range.contains(&value.get_ref().0) => {
                let [found, least, most] = [value.get_ref().0, *range.start(), *range.end()].map(Bytes);
                Err(self.at(&value, format!("{key} is {found}; it must be {least} to {most}")))
            }
            value => Ok(value.map(|value| value.into_inner().0)),
        }
    }

    /// That the table of this index is not one too many.
    fn bound<T>(&self, what: &str, index: usize, limit: usize, table: &Spanned<T>) -> Result<(), ConfigError> {
        if index < limit {
            return Ok(());
        }
        Err(self.at(table, format!("there are more than {limit} {what}, which is the limit; remove some")))
    }

    fn at<T>(&self, value: &Spanned<T>, message: String) -> ConfigError {
        (self.invalid)(value.span().start, message)
    }
}
