//! The conversion of a parsed file to a [`Scenario`], which resolves names and checks bounds. Errors are collected, so
//! that one run reports all of them.

use super::{
    Bodies, BuiltIn, COURIER_PARCELS_MAX, Choice, Generator, MACHINES_MAX, OPERATOR, QUERIES_MAX, SERVICES_MAX,
    SIZE_MEMORY_BYTES_MAX, SIZES_MAX, SLOTS_MAX, Scenario, ScenarioError, ServicePlan, TRAFFIC_MAX, TRANSACTIONS_MAX,
    TrafficPlan, USERS_MAX, UserPlan, WorkloadSource, read_bounded,
};
use lifeboat_api::call::CALL_BYTES_PER_TRANSACTION_MAX;
use lifeboat_api::meter::Percent;
use lifeboat_api::name::Name;
use lifeboat_api::size::{
    Bytes as ByteCount, DEADLINE_MAX, DISK_BYTES_MAX, DISK_BYTES_MIN, NETWORK_BYTES_MIN, NETWORK_CALLS_MIN, Size,
};
use lifeboat_api::sla::{Thresholds, threshold};
use lifeboat_api::text::{SHOWN_CHARS_MAX, shortened};
use lifeboat_document::{Findings, Placed, Table, Value};
use lifeboat_host::fleet::Machine;
use lifeboat_vm::workload::MODULE_BYTES_MAX;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Checks the parsed file and resolves its names.
pub(super) struct Resolver<'a> {
    pub(super) title: &'a str,
    pub(super) folder: &'a Path,
    pub(super) findings: &'a Findings,
    /// Errors without a place.
    pub(super) others: RefCell<Vec<ScenarioError>>,
    /// The names of all services in the file, including those with errors.
    pub(super) declared: RefCell<HashSet<Name>>,
}

impl Resolver<'_> {
    /// Returns the scenario, which is unusable if any error was found.
    pub(super) fn resolve(&self, root: Table<'_>) -> Scenario {
        let needed = |key, what, most| {
            let tables = root.need(key).map(|value| value.tables());
            if let Some(tables) = &tables {
                self.bound(what, tables.len(), most);
            }
            tables.unwrap_or_default()
        };
        let machines = self.machines(needed("machine", "machines", MACHINES_MAX));
        let sizes = self.sizes(root.tables("size"));
        let services = self.services(needed("service", "services", SERVICES_MAX), &sizes);
        let users = self.users(needed("user", "users", USERS_MAX), &services);
        let traffic: Vec<TrafficPlan> = needed("traffic", "traffic tables", TRAFFIC_MAX)
            .into_iter()
            .filter_map(|table| self.traffic(table, &services, &users))
            .collect();
        root.finish();
        let transactions = traffic.iter().fold(0_u64, |sum, traffic| sum.saturating_add(traffic.count));
        if transactions > TRANSACTIONS_MAX {
            self.too_much(format!("it has {transactions} transactions, the limit is {TRANSACTIONS_MAX}"));
        }
        Scenario { title: self.title.to_owned(), machines, sizes, services, users, traffic }
    }

    fn machines(&self, tables: Vec<Table<'_>>) -> Vec<Machine> {
        let mut names = HashSet::new();
        let mut machines = Vec::with_capacity(tables.len());
        let mut slots = 0;
        for table in tables {
            let name = table.need("name").and_then(|value| value.name());
            let its_slots = table.need("slots").and_then(|value| value.whole(0..=SLOTS_MAX));
            let memory = table.need("memory").and_then(|value| value.bytes(0..=u64::MAX));
            let disk = table.get("disk").and_then(|value| value.bytes(0..=u64::MAX));
            if let Some(Placed { value: name, offset }) = &name
                && !names.insert(name.clone())
            {
                self.findings.add(*offset, format!("two machines are called '{name}'; rename one"));
            }
            table.finish();
            let (Some(name), Some(its_slots), Some(memory)) = (name, its_slots, memory) else { continue };
            slots += its_slots.value;
            let its_slots = u32::try_from(its_slots.value).unwrap_or(u32::MAX);
            let (slots, memory_bytes) = (its_slots, memory.value);
            let disk_bytes = disk.map_or_else(|| Machine::disk_bytes_for(slots, memory_bytes), |disk| disk.value);
            machines.push(Machine { name: name.value, slots, memory_bytes, disk_bytes });
        }
        if !machines.is_empty() && !(1..=SLOTS_MAX).contains(&slots) {
            self.too_much(format!("its machines have {slots} slots in total, they must have 1 to {SLOTS_MAX}"));
        }
        machines
    }

    fn sizes(&self, tables: Vec<Table<'_>>) -> Vec<Arc<Size>> {
        let built_in = || Size::built_in().into_iter().map(Arc::new).collect();
        if tables.is_empty() {
            return built_in();
        }
        self.bound("sizes", tables.len(), SIZES_MAX);
        let mut names = HashSet::new();
        let mut sizes = Vec::with_capacity(tables.len());
        for table in tables {
            let name = table.need("name").and_then(|value| value.name());
            let fuel = table.need("fuel").and_then(|value| value.whole(0..=u64::MAX));
            let memory = table.need("memory").and_then(|value| value.bytes(0..=SIZE_MEMORY_BYTES_MAX));
            let disk = table.get("disk").and_then(|value| value.bytes(DISK_BYTES_MIN..=DISK_BYTES_MAX));
            let calls = table.get("network_calls").and_then(|value| value.whole(NETWORK_CALLS_MIN..=u64::MAX));
            let bytes = table.get("network_bytes").and_then(|value| value.bytes(NETWORK_BYTES_MIN..=u64::MAX));
            let deadline_ms_max = u64::try_from(DEADLINE_MAX.as_millis()).unwrap_or(u64::MAX);
            let deadline = table.need("deadline_ms").and_then(|value| value.whole(1..=deadline_ms_max));
            if let Some(Placed { value: name, .. }) = &name
                && !names.insert(name.clone())
            {
                let message = format!("two sizes are called '{name}'; rename one");
                table.wrong::<()>(message);
            }
            table.finish();
            let (Some(name), Some(fuel), Some(memory), Some(deadline)) = (name, fuel, memory, deadline) else {
                continue;
            };
            let (fuel, memory_bytes, deadline) = (fuel.value, memory.value, Duration::from_millis(deadline.value));
            let disk_bytes = disk.map_or_else(|| Size::disk_bytes_for(memory_bytes), |disk| disk.value);
            let network = Size::network_for(memory_bytes);
            sizes.push(Arc::new(Size {
                name: name.value.to_string(),
                fuel,
                memory_bytes,
                disk_bytes,
                network_calls: calls.map_or(network.calls, |calls| calls.value),
                network_bytes: bytes.map_or(network.bytes, |bytes| bytes.value),
                deadline,
            }));
        }
        if sizes.is_empty() {
            return built_in();
        }
        sizes.sort_by_key(|size| (size.memory_bytes, size.disk_bytes));
        sizes
    }

    fn services(&self, tables: Vec<Table<'_>>, sizes: &[Arc<Size>]) -> Vec<ServicePlan> {
        let are_sizes_right = self.findings.count() == 0;
        let mut services: Vec<ServicePlan> = Vec::with_capacity(tables.len());
        for table in tables {
            let name = table.need("name").and_then(|value| value.name());
            if let Some(Placed { value: name, offset }) = &name
                && services.iter().any(|service| service.name == *name)
            {
                self.findings.add(*offset, format!("two services are called '{name}'; rename one"));
            }
            self.declared.borrow_mut().extend(name.as_ref().map(|name| name.value.clone()));
            let queries = texts(table.get("queries"));
            if queries.len() > QUERIES_MAX {
                table.wrong::<()>(format!(
                    "there are {} queries, the limit is {QUERIES_MAX}; remove some",
                    queries.len()
                ));
            }
            let size = match table.get("size").and_then(|value| value.text()) {
                None => Some(&sizes[0]),
                Some(Placed { value: wanted, offset }) => {
                    let found = sizes.iter().find(|size| size.name == wanted);
                    if found.is_none() && are_sizes_right {
                        let known: Vec<&str> = sizes.iter().map(|size| size.name.as_str()).collect();
                        let wanted = shortened(&wanted, SHOWN_CHARS_MAX);
                        let message = format!("there is no size '{wanted}'; the sizes are {}", known.join(", "));
                        self.findings.add(offset, message);
                    }
                    found
                }
            };
            let thresholds = table.table("thresholds").map_or_else(Thresholds::default, |table| {
                let default = Thresholds::default();
                let read = |key| table.get(key).and_then(|value| value.percent(threshold)).map(|percent| percent.value);
                let thresholds = Thresholds {
                    cpu: read("cpu").unwrap_or(default.cpu),
                    memory: read("memory").unwrap_or(default.memory),
                    disk: read("disk").unwrap_or(default.disk),
                    network: read("network").unwrap_or(default.network),
                };
                table.finish();
                thresholds
            });
            let every = table.get("fail_over_every").and_then(|value| value.whole(1..=u64::MAX));
            let workload = table.need("workload").and_then(|value| self.workload(&value));
            if let (Some(name), Some(size), Some(BuiltIn::Courier)) =
                (&name, size, workload.as_ref().and_then(WorkloadSource::built_in))
            {
                self.check_network(name, size, sizes);
            }
            table.finish();
            let (Some(name), Some(size), Some(workload)) = (name, size, workload) else { continue };
            services.push(ServicePlan {
                name: name.value,
                workload,
                size: Arc::clone(size),
                thresholds,
                queries,
                fail_over_every: every.and_then(|every| NonZeroU64::new(every.value)),
            });
        }
        services
    }

    /// Checks that a transaction of `courier` fits every size that the service may have. If one did not, the replies
    /// would depend on the size, and those of the roomy VM would differ.
    fn check_network(&self, name: &Placed<Name>, first: &Size, sizes: &[Arc<Size>]) {
        let may_have =
            |size: &&Arc<Size>| size.memory_bytes >= first.memory_bytes && size.disk_bytes >= first.disk_bytes;
        for size in sizes.iter().filter(may_have) {
            let (calls, bytes) = (u64::from(COURIER_PARCELS_MAX), CALL_BYTES_PER_TRANSACTION_MAX);
            if size.network_calls < calls || size.network_bytes < bytes {
                let (size, bytes) = (&size.name, ByteCount(bytes));
                let message = format!(
                    "'{}' runs courier and may have the size '{size}', which needs at least {calls} network_calls \
                     and {bytes} of network_bytes",
                    name.value
                );
                self.findings.add(name.offset, message);
            }
        }
    }

    fn workload(&self, value: &Value<'_>) -> Option<WorkloadSource> {
        let name = value.text()?.value;
        if let Some(built_in) = BuiltIn::ALL.into_iter().find(|built_in| built_in.name() == name) {
            return Some(WorkloadSource::BuiltIn(built_in));
        }
        let path = self.folder.join(&name);
        match read_bounded(&path, MODULE_BYTES_MAX) {
            Ok(bytes) => Some(WorkloadSource::File { path: path.display().to_string(), bytes }),
            Err(error) => {
                self.others.borrow_mut().push(error);
                None
            }
        }
    }

    fn users(&self, tables: Vec<Table<'_>>, services: &[ServicePlan]) -> Vec<UserPlan> {
        let mut users: Vec<UserPlan> = Vec::with_capacity(tables.len());
        for table in tables {
            let name = table.need("name").and_then(|value| value.name());
            if let Some(Placed { value: name, offset }) = &name {
                if &**name == OPERATOR {
                    self.findings
                        .add(*offset, format!("'{OPERATOR}' is the name of the simulation itself; rename the user"));
                }
                if users.iter().any(|user| user.name == *name) {
                    self.findings.add(*offset, format!("two users are called '{name}'; rename one"));
                }
            }
            let granted = table.need("services").map(|value| value.values()).unwrap_or_default();
            let granted: Vec<Placed<Name>> = granted.iter().filter_map(Value::name).collect();
            table.finish();
            for service in &granted {
                self.service(service, services);
            }
            let Some(name) = name else { continue };
            users.push(UserPlan { name: name.value, services: granted.into_iter().map(|name| name.value).collect() });
        }
        users
    }

    fn traffic(&self, table: Table<'_>, services: &[ServicePlan], users: &[UserPlan]) -> Option<TrafficPlan> {
        let service = table.need("service").and_then(|value| value.name());
        let service = service.and_then(|service| self.service(&service, services));
        let users = match table.get("users") {
            None => (0..users.len()).collect(),
            Some(names) => {
                let position = |name: Placed<Name>| {
                    let found = users.iter().position(|user| user.name == name.value);
                    if found.is_none() {
                        self.findings.add(name.offset, format!("there is no user '{}'", name.value));
                    }
                    found
                };
                let names = names.values();
                if names.is_empty() {
                    table.wrong::<()>("traffic needs at least one user");
                }
                names.iter().filter_map(Value::name).filter_map(position).collect::<Vec<_>>()
            }
        };
        let count = table.need("count").and_then(|value| value.whole(0..=u64::MAX));
        let repeat =
            table.get("repeat_percent").and_then(|value| value.percent(Percent::try_from)).map(|percent| percent.value);
        let bodies = match (table.get("generator"), table.get("bodies"), table.get("choices")) {
            (Some(value), None, None) => {
                let generator = Generator::read(&value);
                if let (Some(generator), Some(service)) = (&generator, service) {
                    let ServicePlan { name, workload, .. } = &services[service];
                    if workload.built_in().is_some_and(|built_in| built_in != generator.workload()) {
                        let (runs, wrong) = (workload.name(), generator.workload().name());
                        value.wrong::<()>(format!(
                            "'{name}' runs {runs}, which does not understand traffic for {wrong}"
                        ));
                    }
                }
                generator.map(Bodies::Generated)
            }
            (None, bodies @ Some(_), None) => match texts(bodies) {
                bodies if bodies.is_empty() => table.wrong("bodies are empty; name at least one"),
                bodies => Some(Bodies::Cycled(bodies)),
            },
            (None, None, Some(choices)) => {
                let choices: Vec<Choice> = choices.tables().into_iter().filter_map(choice).collect();
                if choices.iter().all(|choice| choice.weight == 0) {
                    table.wrong("choices have no weight; give one of them at least 1")
                } else {
                    Some(Bodies::Chosen(choices))
                }
            }
            _ => table.wrong("traffic needs exactly one of generator, bodies and choices"),
        };
        table.finish();
        Some(TrafficPlan { service: service?, users, count: count?.value, repeat, bodies: bodies? })
    }

    fn service(&self, name: &Placed<Name>, services: &[ServicePlan]) -> Option<usize> {
        let found = services.iter().position(|service| service.name == name.value);
        if found.is_none() && !self.declared.borrow().contains(&name.value) {
            let known: BTreeSet<String> = self.declared.borrow().iter().map(ToString::to_string).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            self.findings.add(name.offset, format!("there is no service '{}'; the services are {known}", name.value));
        }
        found
    }

    fn bound(&self, what: &str, count: usize, limit: usize) {
        if !(1..=limit).contains(&count) {
            self.too_much(format!("it has {count} {what}, it must have 1 to {limit}"));
        }
    }

    fn too_much(&self, message: String) {
        self.others.borrow_mut().push(ScenarioError::Bound { file: self.title.to_owned(), message });
    }
}

fn choice(table: Table<'_>) -> Option<Choice> {
    let body = table.need("body").and_then(|value| value.text());
    let weight = table.need("weight").and_then(|value| value.whole(0..=u32::MAX.into()));
    table.finish();
    Some(Choice { body: body?.value, weight: u32::try_from(weight?.value).unwrap_or(u32::MAX) })
}

fn texts(value: Option<Value<'_>>) -> Vec<String> {
    let values = value.map(|value| value.values()).unwrap_or_default();
    values.iter().filter_map(Value::text).map(|text| text.value).collect()
}
