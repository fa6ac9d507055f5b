//! The file as it is written, and the way from there to a [`Scenario`]: names are followed, bounds are checked.

use super::{
    Bodies, BuiltIn, Choice, Generator, MACHINES_MAX, OPERATOR, QUERIES_MAX, SERVICES_MAX, SIZE_MEMORY_BYTES_MAX,
    SIZES_MAX, SLOTS_MAX, Scenario, ScenarioError, ServicePlan, TRAFFIC_MAX, TRANSACTIONS_MAX, TrafficPlan, USERS_MAX,
    UserPlan, WorkloadSource, read_bounded,
};
use crate::failover::Thresholds;
use crate::fleet::Machine;
use crate::meter::Percent;
use crate::name::Name;
use crate::size::Size;
use crate::workload::MODULE_BYTES_MAX;
use serde::Deserialize;
use std::collections::HashSet;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use toml::Spanned;

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
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

/// Checks what was read and follows its names.
pub(super) struct Resolver<'a> {
    pub(super) title: &'a str,
    pub(super) folder: &'a Path,
    pub(super) invalid: &'a dyn Fn(usize, String) -> ScenarioError,
}

impl Resolver<'_> {
    pub(super) fn resolve(&self, tables: Tables) -> Result<Scenario, ScenarioError> {
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
