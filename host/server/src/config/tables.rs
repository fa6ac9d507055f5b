//! The tables of the configuration file, and their conversion to a [`Config`]. The conversion fills in defaults,
//! resolves names and checks bounds. It collects errors and continues with defaults, so that one run reports
//! everything.

use super::{
    CONNECTIONS_LIMIT, Config, Credential, DATA, HEADER_BYTES_LIMITS, MACHINE_MEMORY_BYTES, MACHINE_SLOTS,
    MACHINES_MAX, MetricsAccess, Overrides, SIZE_MEMORY_BYTES_MAX, SIZE_MEMORY_BYTES_MIN, SIZES_MAX, SLOTS_MAX,
    SecretSource, ServerConfig, ServerLimits, ServiceConfig, TOKEN_LIFETIME_HOURS_MAX, TlsConfig, TokensConfig,
    find_size, parse_listen,
};
use lifeboat_api::meter::{Levels, Resource};
use lifeboat_api::name::Name;
use lifeboat_api::size::{
    Bytes, DEADLINE_MAX, DISK_BYTES_MAX, DISK_BYTES_MIN, NETWORK_BYTES_MIN, NETWORK_CALLS_MIN, Size, check_fuel,
};
use lifeboat_api::sla::{FailoverMode, Thresholds, threshold};
use lifeboat_api::text::{SHOWN_CHARS_MAX, shortened};
use lifeboat_api::transaction::BODY_BYTES_MAX;
use lifeboat_document::{Findings, Placed, Table, Value};
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::fleet::Machine;
use lifeboat_host::network::{AllowList, Allowed, Retry, Secrets, Target};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The failover modes, by their names in files and options.
const FAILOVER_MODES: [(&str, FailoverMode); 3] =
    [("direct", FailoverMode::Direct), ("shadow", FailoverMode::Shadow), ("auto", FailoverMode::Auto)];

/// The modes of retries, by their names in files.
const RETRIES: [(&str, Retry); 3] = [("ask", Retry::Ask), ("never", Retry::Never), ("idempotent", Retry::Idempotent)];

/// Converts the tables to a checked [`Config`].
pub(super) struct Resolver<'a> {
    pub(super) folder: &'a Path,
    pub(super) overrides: &'a Overrides,
    pub(super) findings: &'a Findings,
}

/// The files that a configuration names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) certificate: Option<Placed<PathBuf>>,
    pub(super) key: Option<Placed<PathBuf>>,
    pub(super) workloads: Vec<NamedWorkload>,
    pub(super) credentials: Vec<NamedCredential>,
    /// The offsets of the fleet and of the address, in bytes.
    pub(super) fleet_offset: usize,
    pub(super) listen_offset: usize,
}

/// The workload of a service. If its size is unknown, the file is only loaded.
#[derive(Debug)]
pub(super) struct NamedWorkload {
    pub(super) path: Placed<PathBuf>,
    pub(super) service: Option<ServiceConfig>,
}

/// A secret or the authorities of a service.
#[derive(Debug)]
pub(super) struct NamedCredential {
    pub(super) service: Name,
    pub(super) credential: Credential,
    pub(super) offset: usize,
}

/// The machines or the sizes, and whether all of them are valid. Errors that only follow from invalid ones are not
/// reported.
struct Known<T> {
    all: Vec<T>,
    is_right: bool,
}

impl Resolver<'_> {
    pub(super) fn resolve(&self, root: Table<'_>) -> (Config, Named) {
        let mut named = Named::default();
        let data = root.get("data").and_then(|value| self.path(&value)).map(|path| path.value);
        let data = data.unwrap_or_else(|| self.folder.join(DATA));
        let thresholds = self.thresholds(root.table("thresholds"), Thresholds::default());
        let machine_tables = root.tables("machine");
        named.fleet_offset = machine_tables.first().map_or(0, Table::offset);
        let machines = self.machines(machine_tables);
        let sizes = self.sizes(root.tables("size"), &machines, named.fleet_offset);
        let services = self.services(root.tables("service"), &sizes, thresholds, &machines, &mut named);
        let server = self.server(root.table("server"), &mut named);
        let tokens = root.table("tokens").map_or_else(TokensConfig::default, |table| {
            let hours = whole(&table, "lifetime_hours", TOKEN_LIFETIME_HOURS_MAX);
            table.finish();
            hours.map_or_else(TokensConfig::default, |hours| TokensConfig {
                lifetime: Duration::from_secs(hours * 3_600),
            })
        });
        root.finish();
        let data = self.overrides.data.clone().unwrap_or(data);
        let (machines, sizes) = (machines.all, sizes.all);
        (Config { data, server, tokens, thresholds, machines, sizes, services }, named)
    }

    fn server(&self, table: Option<Table<'_>>, named: &mut Named) -> ServerConfig {
        let default = ServerConfig::default();
        let Some(table) = table else {
            return ServerConfig { listen: self.overrides.listen.unwrap_or(default.listen), ..default };
        };
        let listen = table.get("listen").and_then(|value| value.parsed(parse_listen));
        named.listen_offset = listen.as_ref().map_or(table.offset(), |listen| listen.offset);
        let listen = self.overrides.listen.or(listen.map(|listen| listen.value)).unwrap_or(default.listen);
        let metrics = table.get("metrics").and_then(|value| self.metrics(&value, listen));
        let shutdown_deadline = deadline(&table, "shutdown_deadline_ms").unwrap_or(default.shutdown_deadline);
        let tls = table.table("tls").and_then(|tls| {
            named.certificate = tls.need("certificate").and_then(|value| self.path(&value));
            named.key = tls.need("key").and_then(|value| self.path(&value));
            tls.finish();
            let (certificate, key) = (named.certificate.clone()?.value, named.key.clone()?.value);
            Some(TlsConfig { certificate, key })
        });
        let limits = table.table("limits").map_or_else(ServerLimits::default, limits);
        table.finish();
        ServerConfig { listen, shutdown_deadline, metrics: metrics.unwrap_or_default(), tls, limits }
    }

    fn metrics(&self, value: &Value<'_>, listen: SocketAddr) -> Option<MetricsAccess> {
        let access = value.word(&[("admin", MetricsAccess::Admin), ("open", MetricsAccess::Open)])?.value;
        if access == MetricsAccess::Open && !listen.ip().to_canonical().is_loopback() {
            return value.wrong(format!(
                "metrics are open, and other machines can reach {listen}; write \"admin\", or listen on loopback"
            ));
        }
        Some(access)
    }

    fn thresholds(&self, table: Option<Table<'_>>, default: Thresholds) -> Thresholds {
        let Some(table) = table else { return default };
        let read = |key| table.get(key).and_then(|value| value.percent(threshold)).map(|percent| percent.value);
        let thresholds = Thresholds {
            cpu: read("cpu").unwrap_or(default.cpu),
            memory: read("memory").unwrap_or(default.memory),
            disk: read("disk").unwrap_or(default.disk),
            network: read("network").unwrap_or(default.network),
        };
        table.finish();
        thresholds
    }

    fn machines(&self, tables: Vec<Table<'_>>) -> Known<Machine> {
        let wrong_before = self.findings.count();
        let mut names = HashSet::new();
        let mut all: Vec<Machine> = Vec::with_capacity(tables.len());
        let mut slots = 0_u64;
        for (index, table) in tables.into_iter().enumerate() {
            let offset = table.offset();
            let at = |message: String| self.findings.add(offset, message);
            if !self.bound("machines", index, MACHINES_MAX, offset) {
                break;
            }
            let name = table.need("name").and_then(|value| value.name());
            let its_slots = table.need("slots").and_then(|value| value.whole(1..=u64::from(SLOTS_MAX)));
            let memory = table.need("memory").and_then(|value| value.bytes(1..=u64::MAX));
            let disk = table.get("disk").and_then(|value| value.bytes(DISK_BYTES_MIN..=u64::MAX));
            table.finish();
            if let Some(Placed { value: name, .. }) = &name
                && !names.insert(name.clone())
            {
                at(format!("two machines are called '{name}'; rename one"));
            }
            slots += its_slots.as_ref().map_or(0, |slots| slots.value);
            let (Some(name), Some(its_slots), Some(memory)) = (name, its_slots, memory) else { continue };
            if slots > u64::from(SLOTS_MAX) {
                at(format!(
                    "the machines up to '{}' have {slots} slots, the limit is {SLOTS_MAX}; give them fewer",
                    name.value
                ));
                continue;
            }
            let slots = u32::try_from(its_slots.value).unwrap_or(SLOTS_MAX);
            let memory_bytes = memory.value;
            let disk_bytes = disk.map_or_else(|| Machine::disk_bytes_for(slots, memory_bytes), |disk| disk.value);
            all.push(Machine { name: name.value, slots, memory_bytes, disk_bytes });
        }
        let is_right = self.findings.count() == wrong_before;
        if all.is_empty() {
            all = Machine::pair(MACHINE_SLOTS, MACHINE_MEMORY_BYTES);
        }
        Known { all, is_right }
    }

    fn sizes(&self, tables: Vec<Table<'_>>, machines: &Known<Machine>, fleet_offset: usize) -> Known<Size> {
        let wrong_before = self.findings.count();
        let fits = |size: &Size| {
            if !machines.is_right || machines.all.iter().any(|machine| size.levels().fit(machine.levels())) {
                return Ok(());
            }
            let largest = |level| machines.all.iter().filter_map(|machine| machine.levels().of(level)).max();
            let lacks = |level: &Resource| size.levels().of(*level) > largest(*level);
            let Some(level) = Levels::ALL.into_iter().find(lacks) else {
                let (size, memory, disk) = (&size.name, Bytes(size.memory_bytes), Bytes(size.disk_bytes));
                return Err(format!(
                    "no machine has room for size '{size}': none has both {memory} of memory and {disk} of disk; give a \
                     machine more, or write [[size]] tables with less"
                ));
            };
            let of_size = Bytes(size.levels().of(level).unwrap_or_default());
            let room = Bytes(largest(level).unwrap_or_default());
            Err(format!(
                "no machine has room for size '{}': it has {of_size} of {level}, the largest machine has {room}; give \
                 a machine more, or write [[size]] tables with less",
                size.name
            ))
        };
        if tables.is_empty() {
            let all = Size::built_in();
            if let Err(message) = all.iter().try_for_each(fits) {
                self.findings.add(fleet_offset, message);
            }
            return Known { all, is_right: true };
        }
        let mut names = HashSet::new();
        let mut all = Vec::with_capacity(tables.len());
        for (index, table) in tables.into_iter().enumerate() {
            let offset = table.offset();
            if !self.bound("sizes", index, SIZES_MAX, offset) {
                break;
            }
            let name = table.need("name").and_then(|value| value.name());
            if let Some(Placed { value: name, .. }) = &name
                && !names.insert(name.clone())
            {
                self.findings.add(offset, format!("two sizes are called '{name}'; rename one"));
            }
            let fuel = table.need("fuel").and_then(|value| {
                let fuel = value.whole(0..=u64::MAX)?.value;
                match check_fuel(fuel) {
                    Ok(fuel) => Some(fuel),
                    Err(reason) => value.wrong(format!("fuel: {reason}")),
                }
            });
            let memory =
                table.need("memory").and_then(|value| value.bytes(SIZE_MEMORY_BYTES_MIN..=SIZE_MEMORY_BYTES_MAX));
            let disk = table.get("disk").and_then(|value| value.bytes(DISK_BYTES_MIN..=DISK_BYTES_MAX));
            let calls = table.get("network_calls").and_then(|value| value.whole(NETWORK_CALLS_MIN..=u64::MAX));
            let bytes = table.get("network_bytes").and_then(|value| value.bytes(NETWORK_BYTES_MIN..=u64::MAX));
            let deadline = table.need("deadline_ms").and_then(|value| value.whole(1..=deadline_ms_max()));
            table.finish();
            let (Some(name), Some(fuel), Some(memory), Some(deadline)) = (name, fuel, memory, deadline) else {
                continue;
            };
            let network = Size::network_for(memory.value);
            let size = Size {
                name: name.value.to_string(),
                fuel,
                memory_bytes: memory.value,
                disk_bytes: disk.map_or_else(|| Size::disk_bytes_for(memory.value), |disk| disk.value),
                network_calls: calls.map_or(network.calls, |calls| calls.value),
                network_bytes: bytes.map_or(network.bytes, |bytes| bytes.value),
                deadline: Duration::from_millis(deadline.value),
            };
            if let Err(message) = fits(&size) {
                self.findings.add(offset, message);
            }
            all.push(size);
        }
        let is_right = self.findings.count() == wrong_before;
        if all.is_empty() {
            all = Size::built_in();
        }
        all.sort_by_key(|size| (size.memory_bytes, size.disk_bytes));
        Known { all, is_right }
    }

    fn services(
        &self,
        tables: Vec<Table<'_>>,
        sizes: &Known<Size>,
        thresholds: Thresholds,
        machines: &Known<Machine>,
        named: &mut Named,
    ) -> Vec<ServiceConfig> {
        let slots: u64 = machines.all.iter().map(|machine| u64::from(machine.slots)).sum();
        let mut services: Vec<ServiceConfig> = Vec::with_capacity(tables.len());
        let mut names: HashSet<Name> = HashSet::new();
        for (index, table) in tables.into_iter().enumerate() {
            let name = table.need("name").and_then(|value| value.name());
            let name_offset = name.as_ref().map_or(table.offset(), |name| name.offset);
            if machines.is_right && index as u64 >= slots {
                let message = format!("there are more services than the {slots} slots of all machines; give them more");
                self.findings.add(name_offset, message);
                break;
            }
            if let Some(Placed { value: name, .. }) = &name
                && !names.insert(name.clone())
            {
                self.findings.add(name_offset, format!("two services are called '{name}'; rename one"));
            }
            let wanted = table.get("size").and_then(|value| value.text());
            let size = match find_size(&sizes.all, wanted.as_ref().map(|size| size.value.as_str())) {
                Ok(size) => Some(size.name.clone()),
                Err(message) => {
                    if sizes.is_right {
                        self.findings.add(wanted.as_ref().map_or(0, |size| size.offset), message);
                    }
                    None
                }
            };
            let failover = table.get("failover").and_then(|value| value.word(&FAILOVER_MODES));
            let failover = failover.map(|mode| mode.value).unwrap_or_default();
            let allow_net = table.get("allow_net").map(|value| allow_net(&value)).unwrap_or_default();
            let retry = table.get("retry").and_then(|value| value.word(&RETRIES));
            let retry = retry.map(|retry| retry.value).unwrap_or_default();
            let program = program(&table);
            let roots = table.get("roots").and_then(|value| self.path(&value));
            let secrets = table.get("secret").map(|value| self.secrets(&value)).unwrap_or_default();
            let thresholds = self.thresholds(table.table("thresholds"), thresholds);
            let workload = table.need("workload").and_then(|value| self.path(&value));
            table.finish();
            if let Some(Placed { value: service, .. }) = &name {
                let of_roots = roots.iter().map(|roots| (Credential::Roots, roots.offset));
                let of_secrets = secrets.iter().map(|(name, source)| (Credential::Secret(name.clone()), source.offset));
                named.credentials.extend(of_roots.chain(of_secrets).map(|(credential, offset)| NamedCredential {
                    service: service.clone(),
                    credential,
                    offset,
                }));
            }
            let Some(path) = workload else { continue };
            let service = name.zip(size).map(|(name, size)| ServiceConfig {
                name: name.value,
                workload: path.value.clone(),
                size,
                failover,
                allow_net,
                retry,
                roots: roots.map(|roots| roots.value),
                thresholds,
                program,
                secrets: secrets.into_iter().map(|(name, source)| (name, source.value)).collect(),
            });
            services.extend(service.clone());
            named.workloads.push(NamedWorkload { path, service: service.filter(|_| sizes.is_right) });
        }
        services
    }

    /// Returns the secrets of a service with the places of their files and variables.
    fn secrets(&self, value: &Value<'_>) -> BTreeMap<String, Placed<SecretSource>> {
        let (mut secrets, mut checked) = (BTreeMap::new(), Secrets::default());
        // A value that is no table may be the secret itself, so no message shows it.
        if !value.is_table() {
            value.wrong::<()>("secret is no table; write a table for each secret: secret.NAME = { file = \"FILE\" }");
        }
        let table = if value.is_table() { value.table() } else { None };
        for (name, value) in table.into_iter().flat_map(Table::entries) {
            // Only the name and the number of names are checked here.
            if let Err(error) = checked.insert(&name.value, b"value") {
                self.findings.add(name.offset, error.to_string());
                continue;
            }
            if !value.is_table() {
                let name = &name.value;
                value.wrong::<()>(format!(
                    "the secret '{name}' is no table; write {{ file = \"FILE\" }} or {{ env = \"VARIABLE\" }}"
                ));
                continue;
            }
            let Some(table) = value.table() else { continue };
            let file = table.get("file").map(|value| (value.offset(), self.path(&value)));
            let variable = table.get("env").map(|value| (value.offset(), variable(&value)));
            table.finish();
            let source = match (file, variable) {
                (Some((offset, file)), None) => {
                    file.map(|file| Placed { value: SecretSource::File(file.value), offset })
                }
                (None, Some((offset, name))) => name.map(|name| Placed { value: SecretSource::Env(name), offset }),
                (file, _) => {
                    let found = if file.is_some() { "both a file and a variable" } else { "neither file nor variable" };
                    let name = &name.value;
                    value.wrong(format!("the secret '{name}' has {found}; write either file or env"))
                }
            };
            secrets.extend(source.map(|source| (name.value, source)));
        }
        secrets
    }

    /// Returns a path relative to the folder of the file.
    fn path(&self, value: &Value<'_>) -> Option<Placed<PathBuf>> {
        let Placed { value: text, offset } = value.text()?;
        if text.is_empty() {
            return value.wrong(format!("{} is empty; write a path, or leave the key out", value.key()));
        }
        Some(Placed { value: self.folder.join(text), offset })
    }

    /// Returns whether `index` is within the limit, and reports an error otherwise.
    fn bound(&self, what: &str, index: usize, limit: usize, offset: usize) -> bool {
        if index >= limit {
            self.findings.add(offset, format!("there are more than {limit} {what}, the limit; remove some"));
        }
        index < limit
    }
}

/// Reads the addresses that a service may call.
fn allow_net(value: &Value<'_>) -> AllowList {
    let target = |value: &Value<'_>| value.parsed(|text| text.parse::<Target>().map_err(|error| error.to_string()));
    let allowed = |value: Value<'_>| {
        if value.is_text() {
            return target(&value).map(|target| Allowed::from(target.value));
        }
        if !value.is_table() {
            return value.wrong(
                "an entry of allow_net is neither a text nor a table; write \"https://api.example.org\", or { target = \
                 \"https://api.example.org\", private = true }",
            );
        }
        let table = value.table()?;
        let target = table.need("target").and_then(|value| target(&value));
        let private = table.get("private").and_then(|value| value.boolean()).is_some_and(|private| private.value);
        table.finish();
        Some(Allowed { target: target?.value, private })
    };
    let entries = value.values().into_iter().filter_map(allowed).collect();
    AllowList::new(entries).map_err(|error| value.wrong::<()>(error.to_string())).unwrap_or_default()
}

/// Reads the arguments and the environment of a program.
fn program(table: &Table<'_>) -> ProgramSettings {
    let text = |value: &Value<'_>| value.text().map(|text| text.value);
    let arguments = table.get("arguments");
    let environment = table.get("environment");
    let last = environment.as_ref().or(arguments.as_ref());
    let texts = arguments.iter().flat_map(Value::values).filter_map(|value| text(&value)).collect();
    let variables = environment.as_ref().and_then(Value::table).map(Table::entries).unwrap_or_default();
    let variables = variables.into_iter().filter_map(|(name, value)| Some((name.value, text(&value)?))).collect();
    let settings = ProgramSettings::new(texts, variables);
    settings.map_err(|error| last.and_then(|value| value.wrong::<()>(error.to_string()))).unwrap_or_default()
}

/// Reads the name of a variable of the environment.
fn variable(value: &Value<'_>) -> Option<String> {
    value.parsed(check_variable).map(|name| name.value)
}

fn check_variable(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let shown = shortened(name, SHOWN_CHARS_MAX);
        return Err(format!("env is '{shown}', which names no variable of the environment; write a name without '='"));
    }
    Ok(name.to_owned())
}

fn limits(table: Table<'_>) -> ServerLimits {
    let default = ServerLimits::default();
    let [least, most] = HEADER_BYTES_LIMITS;
    let bytes = |key, range| table.get(key).and_then(|value| value.bytes(range)).map(|bytes| bytes.value);
    let connections_max = whole(&table, "connections_max", CONNECTIONS_LIMIT.into());
    let limits = ServerLimits {
        connections_max: connections_max.and_then(|max| max.try_into().ok()).unwrap_or(default.connections_max),
        header_bytes_max: bytes("header_bytes_max", least..=most).unwrap_or(default.header_bytes_max),
        body_bytes_max: bytes("body_bytes_max", 1..=BODY_BYTES_MAX as u64).unwrap_or(default.body_bytes_max),
        header_deadline: deadline(&table, "header_deadline_ms").unwrap_or(default.header_deadline),
        body_deadline: deadline(&table, "body_deadline_ms").unwrap_or(default.body_deadline),
    };
    table.finish();
    limits
}

/// Reads a whole number from 1 to `most`.
fn whole(table: &Table<'_>, key: &'static str, most: u64) -> Option<u64> {
    table.get(key).and_then(|value| value.whole(1..=most)).map(|number| number.value)
}

fn deadline(table: &Table<'_>, key: &'static str) -> Option<Duration> {
    whole(table, key, deadline_ms_max()).map(Duration::from_millis)
}

fn deadline_ms_max() -> u64 {
    u64::try_from(DEADLINE_MAX.as_millis()).unwrap_or(u64::MAX)
}
