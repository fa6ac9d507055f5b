//! What a simulation is made of, as a TOML file says it.
//!
//! `default.toml` beside this file is the scenario that runs when none is named, and the format's commented example:
//!
//! | table | keys |
//! |---|---|
//! | `[[machine]]` | `name`, `slots`, `memory` |
//! | `[[size]]`, the built-in sizes if there is none | `name`, `fuel`, `memory`, `deadline_ms` |
//! | `[[service]]` | `name`; `workload`: `counter`, `ledger`, `notes`, `crunch`, or a file beside the scenario; optional: `size` (the one with the least memory), `thresholds = { cpu, memory }` in percent (98), `queries` (bodies of the queries whose answers are compared at the end), `fail_over_every` (an operator forces a failover after every so many requests) |
//! | `[[user]]` | `name`, `services` that they may transact with |
//! | `[[traffic]]` | `service`, `count`; optional: `users` (all), `repeat_percent` (0): how many requests are sent once more under the same id; and one of `generator`, `bodies`, `choices` |
//!
//! `generator` is a name (`"ledger"`) or a table of one ([`Generator`]); `bodies` are cycled through; `choices` are
//! drawn by their weights. Unknown keys are refused with their line, and everything has a bound.

use crate::failover::Thresholds;
use crate::fleet::Machine;
use crate::meter::Percent;
use crate::name::Name;
use crate::size::Size;
use crate::workload::MODULE_BYTES_MAX;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use toml::Spanned;

/// The longest scenario file, in bytes.
pub const SCENARIO_BYTES_MAX: u64 = 1024 * 1024;

/// Machines of a scenario.
pub const MACHINES_MAX: usize = 64;

/// Slots of all its machines together.
pub const SLOTS_MAX: u64 = 256;

/// Sizes of a scenario.
pub const SIZES_MAX: usize = 64;

/// Memory of a size, in bytes: all that a 32-bit guest can address.
pub const SIZE_MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Services of a scenario.
pub const SERVICES_MAX: usize = 64;

/// Users of a scenario.
pub const USERS_MAX: usize = 1_000;

/// `[[traffic]]` tables of a scenario.
pub const TRAFFIC_MAX: usize = 256;

/// Transactions of a scenario: the sum of all counts. Their records are kept until they are reconciled.
pub const TRANSACTIONS_MAX: u64 = 1_000_000;

/// Queries of a service.
pub const QUERIES_MAX: usize = 1_000;

/// Accounts or notes that a generator spreads its transactions over.
pub const KEYS_MAX: u32 = 1_000_000;

/// The longest text that the generator for `notes` writes, in bytes.
pub const TEXT_BYTES_MAX: u32 = 1_000_000;

/// The user who observes, forces failovers and asks the queries at the end. No scenario may have one of this name.
pub const OPERATOR: &str = "operator";

/// A simulation, checked: every name refers to something, every bound holds, every workload's file was read.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What reports call it: the path of its file, or `built-in`.
    pub title: String,
    /// The fleet.
    pub machines: Vec<Machine>,
    /// The sizes that VMs may have.
    pub sizes: Vec<Arc<Size>>,
    /// The services.
    pub services: Vec<ServicePlan>,
    /// The users.
    pub users: Vec<UserPlan>,
    /// What the users send.
    pub traffic: Vec<TrafficPlan>,
}

/// A service of a scenario.
#[derive(Debug, Clone)]
pub struct ServicePlan {
    /// Its name.
    pub name: Name,
    /// What it runs.
    pub workload: WorkloadSource,
    /// The size of its first VM.
    pub size: Arc<Size>,
    /// When a resource fails its SLA.
    pub thresholds: Thresholds,
    /// The queries that are asked at the end.
    pub queries: Vec<String>,
    /// After how many of its requests an operator forces a failover.
    pub fail_over_every: Option<NonZeroU64>,
}

/// Where a service's workload comes from.
#[derive(Debug, Clone)]
pub enum WorkloadSource {
    /// It is embedded.
    BuiltIn(BuiltIn),
    /// It was read from a file.
    File {
        /// The path.
        path: String,
        /// What it holds; one byte over the loader's limit if it is too long.
        bytes: Vec<u8>,
    },
}

/// A workload that is embedded in the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// One number.
    Counter,
    /// Accounts.
    Ledger,
    /// Texts.
    Notes,
    /// Arithmetic.
    Crunch,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Counter, Self::Ledger, Self::Notes, Self::Crunch];

    /// The name by which scenarios call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Ledger => "ledger",
            Self::Notes => "notes",
            Self::Crunch => "crunch",
        }
    }

    /// The module. `host/prebuilt` leads to the prebuilt workloads, so that a packaged crate holds them.
    #[must_use]
    pub fn wasm(self) -> &'static [u8] {
        match self {
            Self::Counter => include_bytes!("../../prebuilt/counter.wasm"),
            Self::Ledger => include_bytes!("../../prebuilt/ledger.wasm"),
            Self::Notes => include_bytes!("../../prebuilt/notes.wasm"),
            Self::Crunch => include_bytes!("../../prebuilt/crunch.wasm"),
        }
    }
}

impl WorkloadSource {
    /// The name or the path.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(built_in) => built_in.name(),
            Self::File { path, .. } => path,
        }
    }

    /// The workload's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::BuiltIn(built_in) => built_in.wasm(),
            Self::File { bytes, .. } => bytes,
        }
    }

    /// Which of the embedded workloads it is, also if it was read from a file.
    #[must_use]
    pub fn built_in(&self) -> Option<BuiltIn> {
        match self {
            Self::BuiltIn(built_in) => Some(*built_in),
            Self::File { bytes, .. } => BuiltIn::ALL.into_iter().find(|built_in| built_in.wasm() == bytes),
        }
    }
}

/// A user of a scenario.
#[derive(Debug, Clone)]
pub struct UserPlan {
    /// Their name.
    pub name: Name,
    /// The services that they may transact with.
    pub services: Vec<Name>,
}

/// Transactions for one service.
#[derive(Debug, Clone)]
pub struct TrafficPlan {
    /// The index of the service in [`Scenario::services`].
    pub service: usize,
    /// The indices in [`Scenario::users`] of those who send them, each as often as another.
    pub users: Vec<usize>,
    /// How many, repetitions not counted.
    pub count: u64,
    /// How many of them are sent once more, under the same id.
    pub repeat: Option<Percent>,
    /// What they say.
    pub bodies: Bodies,
}

/// Where the bodies of transactions come from.
#[derive(Debug, Clone)]
pub enum Bodies {
    /// Made up.
    Generated(Generator),
    /// One after another, and again from the first.
    Cycled(Vec<String>),
    /// Drawn by weight.
    Chosen(Vec<Choice>),
}

/// A body and its weight among others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The transaction, byte for byte.
    pub body: String,
    /// How often it is drawn, compared with the others.
    pub weight: u32,
}

/// Makes up transactions for an embedded workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generator {
    /// `generator = { counter = { up_to = 100 } }`
    Counter(CounterTraffic),
    /// `generator = { ledger = { accounts = 40, amount_up_to = 1000, deposit = 5, withdraw = 3, transfer = 4 } }`
    Ledger(LedgerTraffic),
    /// `generator = { notes = { notes = 40, text_bytes = 2000, put = 5, append = 3, delete = 2 } }`
    Notes(NotesTraffic),
    /// `generator = { crunch = { primes_below = 20000, sha256_bytes = 4000, json_records = 100, primes = 1, sha256 = 1, json = 1 } }`
    Crunch(CrunchTraffic),
}

impl Generator {
    /// With the usual settings.
    #[must_use]
    pub fn of(workload: BuiltIn) -> Self {
        match workload {
            BuiltIn::Counter => Self::Counter(CounterTraffic::default()),
            BuiltIn::Ledger => Self::Ledger(LedgerTraffic::default()),
            BuiltIn::Notes => Self::Notes(NotesTraffic::default()),
            BuiltIn::Crunch => Self::Crunch(CrunchTraffic::default()),
        }
    }

    /// The workload that understands what it makes up.
    #[must_use]
    pub fn workload(&self) -> BuiltIn {
        match self {
            Self::Counter(_) => BuiltIn::Counter,
            Self::Ledger(_) => BuiltIn::Ledger,
            Self::Notes(_) => BuiltIn::Notes,
            Self::Crunch(_) => BuiltIn::Crunch,
        }
    }

    fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: u32, bound: u32| {
            if (1..=bound).contains(&value) {
                Ok(())
            } else {
                Err(format!("{key} is {value}, it must be 1 to {bound}"))
            }
        };
        let any = |weights: [u32; 3]| {
            if weights.iter().all(|weight| *weight == 0) { Err("all weights are 0".to_owned()) } else { Ok(()) }
        };
        match self {
            Self::Counter(CounterTraffic { up_to }) => within("up_to", *up_to, u32::MAX),
            Self::Ledger(LedgerTraffic { accounts, amount_up_to, deposit, withdraw, transfer }) => {
                within("accounts", *accounts, KEYS_MAX)?;
                within("amount_up_to", *amount_up_to, u32::MAX)?;
                any([*deposit, *withdraw, *transfer])
            }
            Self::Notes(NotesTraffic { notes, text_bytes, put, append, delete }) => {
                within("notes", *notes, KEYS_MAX)?;
                within("text_bytes", *text_bytes, TEXT_BYTES_MAX)?;
                any([*put, *append, *delete])
            }
            Self::Crunch(CrunchTraffic { primes_below, sha256_bytes, json_records, primes, sha256, json }) => {
                within("primes_below", *primes_below, u32::MAX)?;
                within("sha256_bytes", *sha256_bytes, u32::MAX)?;
                within("json_records", *json_records, u32::MAX)?;
                any([*primes, *sha256, *json])
            }
        }
    }
}

/// Additions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CounterTraffic {
    /// What is added is 1 to this.
    pub up_to: u32,
}

impl Default for CounterTraffic {
    fn default() -> Self {
        Self { up_to: 100 }
    }
}

/// Deposits, withdrawals and transfers, by weight. Some are refused: for want of funds, or of the account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerTraffic {
    /// How many accounts there are in the end, at the most.
    pub accounts: u32,
    /// Amounts are 1 to this.
    pub amount_up_to: u32,
    /// The weight of deposits.
    pub deposit: u32,
    /// The weight of withdrawals.
    pub withdraw: u32,
    /// The weight of transfers.
    pub transfer: u32,
}

impl Default for LedgerTraffic {
    fn default() -> Self {
        Self { accounts: 40, amount_up_to: 1_000, deposit: 5, withdraw: 3, transfer: 4 }
    }
}

/// Texts that come, grow and go, by weight. Some are refused: there is no such note.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotesTraffic {
    /// How many notes there are in the end, at the most.
    pub notes: u32,
    /// Texts are 1 to this many bytes long.
    pub text_bytes: u32,
    /// The weight of notes that are written, or written anew.
    pub put: u32,
    /// The weight of texts that are added to a note.
    pub append: u32,
    /// The weight of notes that are removed.
    pub delete: u32,
}

impl Default for NotesTraffic {
    fn default() -> Self {
        Self { notes: 40, text_bytes: 2_000, put: 5, append: 3, delete: 2 }
    }
}

/// Jobs, by weight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrunchTraffic {
    /// Primes are counted below 1 to this.
    pub primes_below: u32,
    /// 1 to this many bytes are hashed.
    pub sha256_bytes: u32,
    /// 1 to this many records are written and parsed.
    pub json_records: u32,
    /// The weight of prime counting.
    pub primes: u32,
    /// The weight of hashing.
    pub sha256: u32,
    /// The weight of writing and parsing.
    pub json: u32,
}

impl Default for CrunchTraffic {
    fn default() -> Self {
        Self { primes_below: 20_000, sha256_bytes: 4_000, json_records: 100, primes: 1, sha256: 1, json: 1 }
    }
}

/// A scenario cannot be run as it is written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// Its file, or that of a workload, cannot be read.
    #[error("{file}: cannot be read: {error}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The file is too long.
    #[error("{file}: a scenario is at most {SCENARIO_BYTES_MAX} bytes long; write a smaller one")]
    TooLong {
        /// The file.
        file: String,
    },
    /// The file is not UTF-8.
    #[error("{file}: not a scenario: it is not UTF-8 text; write TOML")]
    NotText {
        /// The file.
        file: String,
    },
    /// It is no TOML, or says what cannot be.
    #[error("{file}: line {line}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A bound does not hold.
    #[error("{file}: {message}")]
    Bound {
        /// The file.
        file: String,
        /// Which, with the actual value and the bound.
        message: String,
    },
}

const DEFAULT: &str = include_str!("default.toml");

impl Scenario {
    /// The scenario that runs when none is named.
    ///
    /// # Panics
    /// Never: a test reads it.
    #[must_use]
    pub fn built_in() -> Self {
        Self::parse("built-in", DEFAULT, Path::new("")).expect("the embedded scenario is valid")
    }

    /// Reads the scenario in `path` and the workloads that it names, whose paths are relative to its folder.
    ///
    /// # Errors
    /// [`ScenarioError`]. Whether a workload is one is left to the loader.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let file = path.display().to_string();
        let bytes = read_bounded(path, SCENARIO_BYTES_MAX)?;
        if bytes.len() as u64 > SCENARIO_BYTES_MAX {
            return Err(ScenarioError::TooLong { file });
        }
        let Ok(text) = String::from_utf8(bytes) else { return Err(ScenarioError::NotText { file }) };
        Self::parse(&file, &text, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses and checks `text`. `title` is what messages call it; workloads are read relative to `folder`.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn parse(title: &str, text: &str, folder: &Path) -> Result<Self, ScenarioError> {
        let invalid = |offset: usize, message: String| ScenarioError::Invalid {
            file: title.to_owned(),
            line: line_of(text, offset),
            message,
        };
        let tables: Tables = toml::from_str(text).map_err(|error| {
            let message = error.message().replace('\n', " ");
            invalid(error.span().map_or(0, |span| span.start), message)
        })?;
        Resolver { title, folder, invalid: &invalid }.resolve(tables)
    }

    /// How many transactions the users make up, repetitions not counted.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.traffic.iter().map(|traffic| traffic.count).sum()
    }
}

/// One byte more than `limit` is enough to know that a file is too long.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ScenarioError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| ScenarioError::Unreadable { file: path.display().to_string(), error })?;
    Ok(bytes)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    machine: Vec<Machine>,
    #[serde(default)]
    size: Vec<Spanned<Size>>,
    service: Vec<ServiceTable>,
    user: Vec<UserTable>,
    traffic: Vec<Spanned<TrafficTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    name: Spanned<Name>,
    workload: String,
    size: Option<Spanned<String>>,
    #[serde(default)]
    thresholds: Thresholds,
    #[serde(default)]
    queries: Vec<String>,
    fail_over_every: Option<NonZeroU64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserTable {
    name: Spanned<Name>,
    services: Vec<Spanned<Name>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficTable {
    service: Spanned<Name>,
    users: Option<Vec<Spanned<Name>>>,
    count: u64,
    repeat_percent: Option<Percent>,
    generator: Option<Spanned<Generator>>,
    bodies: Option<Vec<String>>,
    choices: Option<Vec<Choice>>,
}

impl<'de> Deserialize<'de> for Generator {
    /// From a name, or a table with one key.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Table {
            Counter(CounterTraffic),
            Ledger(LedgerTraffic),
            Notes(NotesTraffic),
            Crunch(CrunchTraffic),
        }

        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Generator;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"counter\", \"ledger\", \"notes\", \"crunch\", or a table such as { ledger = { accounts = 9 } }",
                )
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Generator, E> {
                let workload = BuiltIn::ALL.into_iter().find(|workload| workload.name() == name);
                workload.map(Generator::of).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Generator, A::Error> {
                Ok(match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table::Counter(counter) => Generator::Counter(counter),
                    Table::Ledger(ledger) => Generator::Ledger(ledger),
                    Table::Notes(notes) => Generator::Notes(notes),
                    Table::Crunch(crunch) => Generator::Crunch(crunch),
                })
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

/// Checks what was read and follows its names.
struct Resolver<'a> {
    title: &'a str,
    folder: &'a Path,
    invalid: &'a dyn Fn(usize, String) -> ScenarioError,
}

impl Resolver<'_> {
    fn resolve(&self, tables: Tables) -> Result<Scenario, ScenarioError> {
        self.bound("machines", tables.machine.len(), MACHINES_MAX)?;
        self.bound("services", tables.service.len(), SERVICES_MAX)?;
        self.bound("users", tables.user.len(), USERS_MAX)?;
        self.bound("traffic tables", tables.traffic.len(), TRAFFIC_MAX)?;
        let slots: u64 = tables.machine.iter().map(|machine| u64::from(machine.slots)).sum();
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(self.too_much(format!("its machines have {slots} slots, they must have 1 to {SLOTS_MAX}")));
        }
        let mut machines = HashSet::new();
        if let Some(twice) = tables.machine.iter().find(|machine| !machines.insert(machine.name.clone())) {
            return Err(self.too_much(format!("two machines are called '{}'; rename one", twice.name)));
        }
        let sizes = self.sizes(tables.size)?;
        let services = self.services(tables.service, &sizes)?;
        let users = self.users(tables.user, &services)?;
        let traffic = tables
            .traffic
            .into_iter()
            .map(|table| self.traffic(table, &services, &users))
            .collect::<Result<Vec<_>, _>>()?;
        let transactions = traffic.iter().fold(0_u64, |sum, traffic| sum.saturating_add(traffic.count));
        if transactions > TRANSACTIONS_MAX {
            return Err(self.too_much(format!("it has {transactions} transactions, the limit is {TRANSACTIONS_MAX}")));
        }
        Ok(Scenario { title: self.title.to_owned(), machines: tables.machine, sizes, services, users, traffic })
    }

    fn sizes(&self, tables: Vec<Spanned<Size>>) -> Result<Vec<Arc<Size>>, ScenarioError> {
        if tables.is_empty() {
            return Ok(Size::built_in().into_iter().map(Arc::new).collect());
        }
        self.bound("sizes", tables.len(), SIZES_MAX)?;
        let mut names = HashSet::new();
        let mut sizes = Vec::with_capacity(tables.len());
        for table in tables {
            let start = table.span().start;
            let size = table.into_inner();
            if size.memory_bytes > SIZE_MEMORY_BYTES_MAX {
                let message = format!(
                    "size '{}' has {} bytes of memory, the limit is {SIZE_MEMORY_BYTES_MAX}",
                    size.name, size.memory_bytes
                );
                return Err((self.invalid)(start, message));
            }
            if !names.insert(size.name.clone()) {
                return Err((self.invalid)(start, format!("two sizes are called '{}'; rename one", size.name)));
            }
            sizes.push(Arc::new(size));
        }
        sizes.sort_by_key(|size| size.memory_bytes);
        Ok(sizes)
    }

    fn services(&self, tables: Vec<ServiceTable>, sizes: &[Arc<Size>]) -> Result<Vec<ServicePlan>, ScenarioError> {
        let mut services: Vec<ServicePlan> = Vec::with_capacity(tables.len());
        for table in tables {
            let start = table.name.span().start;
            let name = table.name.into_inner();
            if services.iter().any(|service| service.name == name) {
                return Err((self.invalid)(start, format!("two services are called '{name}'; rename one")));
            }
            self.bound(&format!("queries for '{name}'"), table.queries.len() + 1, QUERIES_MAX + 1)?;
            let size = match &table.size {
                None => &sizes[0],
                Some(wanted) => sizes.iter().find(|size| &size.name == wanted.get_ref()).ok_or_else(|| {
                    let known: Vec<&str> = sizes.iter().map(|size| size.name.as_str()).collect();
                    let message = format!("there is no size '{}'; there are {}", wanted.get_ref(), known.join(", "));
                    (self.invalid)(wanted.span().start, message)
                })?,
            };
            services.push(ServicePlan {
                workload: self.workload(table.workload)?,
                size: Arc::clone(size),
                thresholds: table.thresholds,
                queries: table.queries,
                fail_over_every: table.fail_over_every,
                name,
            });
        }
        Ok(services)
    }

    fn workload(&self, name: String) -> Result<WorkloadSource, ScenarioError> {
        if let Some(built_in) = BuiltIn::ALL.into_iter().find(|built_in| built_in.name() == name) {
            return Ok(WorkloadSource::BuiltIn(built_in));
        }
        let path = self.folder.join(&name);
        let bytes = read_bounded(&path, MODULE_BYTES_MAX)?;
        Ok(WorkloadSource::File { path: path.display().to_string(), bytes })
    }

    fn users(&self, tables: Vec<UserTable>, services: &[ServicePlan]) -> Result<Vec<UserPlan>, ScenarioError> {
        let mut users: Vec<UserPlan> = Vec::with_capacity(tables.len());
        for UserTable { name, services: granted } in tables {
            let start = name.span().start;
            let name = name.into_inner();
            if &*name == OPERATOR {
                return Err((self.invalid)(start, format!("'{OPERATOR}' is the simulation itself; rename the user")));
            }
            if users.iter().any(|user| user.name == name) {
                return Err((self.invalid)(start, format!("two users are called '{name}'; rename one")));
            }
            for service in &granted {
                self.service(service, services)?;
            }
            users.push(UserPlan { name, services: granted.into_iter().map(Spanned::into_inner).collect() });
        }
        Ok(users)
    }

    fn traffic(
        &self,
        table: Spanned<TrafficTable>,
        services: &[ServicePlan],
        users: &[UserPlan],
    ) -> Result<TrafficPlan, ScenarioError> {
        let start = table.span().start;
        let table = table.into_inner();
        let service = self.service(&table.service, services)?;
        let users = match table.users {
            None => (0..users.len()).collect(),
            Some(names) => names
                .into_iter()
                .map(|name| {
                    users.iter().position(|user| &user.name == name.get_ref()).ok_or_else(|| {
                        (self.invalid)(name.span().start, format!("there is no user '{}'", name.get_ref()))
                    })
                })
                .collect::<Result<Vec<_>, _>>()?,
        };
        let fail = |message: &str| (self.invalid)(start, message.to_owned());
        if users.is_empty() {
            return Err(fail("traffic needs at least one user"));
        }
        let bodies = match (table.generator, table.bodies, table.choices) {
            (Some(generator), None, None) => {
                let start = generator.span().start;
                let generator = generator.into_inner();
                generator.check().map_err(|message| (self.invalid)(start, message))?;
                let runs = &services[service].workload;
                if runs.built_in().is_some_and(|built_in| built_in != generator.workload()) {
                    let (service, wrong) = (&services[service].name, generator.workload().name());
                    let message =
                        format!("'{service}' runs {}, which does not understand traffic for {wrong}", runs.name());
                    return Err((self.invalid)(start, message));
                }
                Bodies::Generated(generator)
            }
            (None, Some(bodies), None) if !bodies.is_empty() => Bodies::Cycled(bodies),
            (None, None, Some(choices)) if choices.iter().any(|choice| choice.weight > 0) => Bodies::Chosen(choices),
            (None, Some(_), None) => return Err(fail("bodies are empty; name at least one")),
            (None, None, Some(_)) => return Err(fail("choices have no weight; give one of them at least 1")),
            _ => return Err(fail("traffic needs exactly one of generator, bodies and choices")),
        };
        Ok(TrafficPlan { service, users, count: table.count, repeat: table.repeat_percent, bodies })
    }

    fn service(&self, name: &Spanned<Name>, services: &[ServicePlan]) -> Result<usize, ScenarioError> {
        services
            .iter()
            .position(|service| &service.name == name.get_ref())
            .ok_or_else(|| (self.invalid)(name.span().start, format!("there is no service '{}'", name.get_ref())))
    }

    fn bound(&self, what: &str, count: usize, limit: usize) -> Result<(), ScenarioError> {
        if (1..=limit).contains(&count) {
            return Ok(());
        }
        Err(self.too_much(format!("it has {count} {what}, it must have 1 to {limit}")))
    }

    fn too_much(&self, message: String) -> ScenarioError {
        ScenarioError::Bound { file: self.title.to_owned(), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
        machine = [{ name = "m1", slots = 1, memory = "64MiB" }]
        service = [{ name = "tally", workload = "counter" }]
        user = [{ name = "ada", services = ["tally"] }]
        traffic = [{ service = "tally", count = 1, generator = "counter" }]
    "#;

    fn error(text: &str) -> String {
        Scenario::parse("s.toml", text, Path::new("")).expect_err("it is wrong").to_string()
    }

    #[test]
    fn the_smallest_scenario_gets_the_documented_defaults() -> Result<(), ScenarioError> {
        let scenario = Scenario::parse("s.toml", SMALLEST, Path::new(""))?;
        assert_eq!(scenario.sizes.len(), Size::built_in().len());
        assert_eq!(scenario.services[0].size.name, "small");
        assert_eq!(scenario.services[0].thresholds, Thresholds::default());
        assert_eq!(scenario.traffic[0].users, [0]);
        Ok(())
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let text = "[[machine]]\nname = \"m1\"\nslots = 1\nmemory = 1\ncolour = \"red\"\n";
        let message = error(text);
        assert!(message.starts_with("s.toml: line 5: unknown field `colour`"), "{message}");
        let text = SMALLEST.replace("\"counter\" }]\n    ", "{ counter = { up_too = 1 } } }]\n");
        let message = error(&text);
        assert!(message.starts_with("s.toml: line 5: unknown field `up_too`"), "{message}");
    }

    #[test]
    fn names_that_lead_nowhere_are_refused_with_their_line() {
        for (from, to, expected) in [
            ("service = \"tally\"", "service = \"talli\"", "s.toml: line 5: there is no service 'talli'"),
            ("[\"tally\"]", "[\"bank\"]", "s.toml: line 4: there is no service 'bank'"),
            ("count = 1", "count = 1, users = [\"bob\"]", "s.toml: line 5: there is no user 'bob'"),
            (
                "workload = \"counter\"",
                "workload = \"counter\", size = \"tiny\"",
                "s.toml: line 3: there is no size 'tiny'; there are small, medium, large, huge",
            ),
            ("\"ada\"", "\"operator\"", "s.toml: line 4: 'operator' is the simulation itself; rename the user"),
        ] {
            assert_eq!(error(&SMALLEST.replace(from, to)), expected);
        }
    }

    #[test]
    fn traffic_comes_from_exactly_one_source_that_fits() {
        for (to, expected) in [
            (
                "generator = \"ledger\"",
                "s.toml: line 5: 'tally' runs counter, which does not understand traffic for ledger",
            ),
            ("generator = { counter = { up_to = 0 } }", "s.toml: line 5: up_to is 0, it must be 1 to 4294967295"),
            ("bodies = []", "s.toml: line 5: bodies are empty; name at least one"),
            (
                "choices = [{ body = \"x\", weight = 0 }]",
                "s.toml: line 5: choices have no weight; give one of them at least 1",
            ),
            (
                "bodies = [\"a\"], generator = \"counter\"",
                "s.toml: line 5: traffic needs exactly one of generator, bodies and choices",
            ),
        ] {
            assert_eq!(error(&SMALLEST.replace("generator = \"counter\"", to)), expected);
        }
        let message = error(&SMALLEST.replace("generator = \"counter\"", "generator = \"poems\""));
        assert!(message.contains("line 5: invalid value: string \"poems\""), "{message}");
    }

    #[test]
    fn counts_are_bounded() {
        let message = error(&SMALLEST.replace("count = 1", "count = 1_000_001"));
        assert_eq!(message, "s.toml: it has 1000001 transactions, the limit is 1000000");
        let message = error(&SMALLEST.replace("slots = 1", "slots = 257"));
        assert_eq!(message, "s.toml: its machines have 257 slots, they must have 1 to 256");
        let message = error(&SMALLEST.replace("[{ name = \"ada\", services = [\"tally\"] }]", "[]"));
        assert_eq!(message, "s.toml: it has 0 users, it must have 1 to 1000");
    }

    #[test]
    fn the_embedded_scenario_is_valid() {
        let scenario = Scenario::built_in();
        assert_eq!((scenario.machines.len(), scenario.services.len(), scenario.users.len()), (3, 4, 3));
        assert!((4_000..=8_000).contains(&scenario.transactions()));
    }

    #[test]
    fn files_that_cannot_be_scenarios_are_refused_by_name() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("s.toml");
        assert!(matches!(Scenario::read(&path), Err(ScenarioError::Unreadable { .. })));
        std::fs::write(&path, [0xff])?;
        assert!(matches!(Scenario::read(&path), Err(ScenarioError::NotText { .. })));
        std::fs::write(&path, vec![b'#'; 1024 * 1024 + 1])?;
        assert!(matches!(Scenario::read(&path), Err(ScenarioError::TooLong { .. })));
        std::fs::write(&path, SMALLEST.replace("workload = \"counter\"", "workload = \"none.wasm\""))?;
        assert!(Scenario::read(&path).is_err_and(|error| error.to_string().contains("none.wasm")));
        Ok(())
    }
}
