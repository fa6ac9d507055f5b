//! Counts the needs of one workload instance from a pooled slot, before anything is compiled.
//!
//! A component instantiates core modules and other components, possibly several times each. Every definition is
//! therefore summed once, at its end, and each instantiation adds that sum. Counting a file whose instances multiply
//! with depth costs no more than reading it.

use serde::{Deserialize, Serialize};
use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, Encoding,
    Instance, Parser, Payload,
};

use super::LoadLimits;
use super::error::{self, LoadError, one_line};

const WASM_PAGE_BYTES: u64 = 64 << 10;

/// The needs of one instance of a workload, and counts of the file's definitions.
///
/// It serialises without the fields that [`Workload`](super::Workload) repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Footprint {
    /// The number of core modules in the file, instantiated or not.
    pub core_modules: u64,
    /// The number of functions in the file, instantiated or not.
    pub functions: u64,
    /// The number of imports and exports of core modules in the file, instantiated or not.
    pub core_externs: u64,
    /// The number of core instances.
    pub core_instances: u64,
    /// The number of linear memories.
    pub memories: u64,
    /// The initial size of all linear memories, in bytes.
    #[serde(skip)]
    pub initial_memory_bytes: u64,
    /// The initial size of the largest linear memory, in bytes.
    pub largest_memory_bytes: u64,
    /// The size in bytes up to which all linear memories may grow, if each declares a maximum.
    #[serde(skip)]
    pub memory_max_bytes: Option<u64>,
    /// The number of tables.
    pub tables: u64,
    /// The initial elements of the largest table.
    pub table_elements: u64,
    /// Whether instantiation runs guest code.
    #[serde(skip)]
    pub has_start: bool,
}

impl Footprint {
    const EMPTY: Self = Self {
        core_modules: 0,
        functions: 0,
        core_externs: 0,
        core_instances: 0,
        memories: 0,
        initial_memory_bytes: 0,
        largest_memory_bytes: 0,
        memory_max_bytes: Some(0),
        tables: 0,
        table_elements: 0,
        has_start: false,
    };

    /// Refuses a footprint that exceeds `limits`.
    pub(super) fn check(&self, file: &str, limits: &LoadLimits) -> Result<(), LoadError> {
        let merge = "link them into fewer";
        let bounds = [
            ("core modules", self.core_modules, limits.core_modules, merge),
            ("imports and exports of core modules", self.core_externs, limits.core_externs, "export only what is used"),
            ("core instances", self.core_instances, limits.core_instances, merge),
            ("linear memories", self.memories, limits.memories, merge),
            ("tables", self.tables, limits.tables, merge),
            ("elements in one table", self.table_elements, limits.table_elements, "let it start smaller"),
            ("functions", self.functions, limits.functions, "build with size optimisation, or split the workload"),
        ];
        match bounds.into_iter().find(|(_, count, limit, _)| count > limit) {
            None => Ok(()),
            Some((what, count, limit, remedy)) => {
                Err(LoadError::TooMany { file: one_line(file), what, count, limit, remedy })
            }
        }
    }

    /// Adds the needs of one more instance of `other`. The counts of definitions do not change.
    fn instantiate(&mut self, other: &Self) {
        self.core_instances = self.core_instances.saturating_add(other.core_instances);
        self.memories = self.memories.saturating_add(other.memories);
        self.initial_memory_bytes = self.initial_memory_bytes.saturating_add(other.initial_memory_bytes);
        self.largest_memory_bytes = self.largest_memory_bytes.max(other.largest_memory_bytes);
        self.memory_max_bytes =
            self.memory_max_bytes.zip(other.memory_max_bytes).map(|(mine, its)| mine.saturating_add(its));
        self.tables = self.tables.saturating_add(other.tables);
        self.table_elements = self.table_elements.max(other.table_elements);
        self.has_start |= other.has_start;
    }
}

/// Counts a core module or component that has passed validation.
pub(super) fn scan(file: &str, binary: &[u8]) -> Result<Footprint, LoadError> {
    let mut scan = Scan { open: Vec::new(), core_modules: 0, functions: 0, core_externs: 0 };
    for payload in Parser::new(0).parse_all(binary) {
        let payload = payload.map_err(|cause| error::invalid(file, &cause))?;
        let step = scan.step(payload);
        if let Some(total) = step.map_err(|stop| stop.into_error(file))? {
            return Ok(total);
        }
    }
    // Only an empty input has no end, and it would not pass validation.
    Err(error::not_wasm(file, binary))
}

/// A module or component whose end has not been reached.
struct Open {
    component: bool,
    total: Footprint,
    /// The index spaces of definitions. `None` is a definition that is supplied at run time.
    modules: Vec<Option<Footprint>>,
    components: Vec<Option<Footprint>>,
}

enum Stop {
    Invalid(wasmparser::Error),
    Uncountable(&'static str),
}

impl Stop {
    fn into_error(self, file: &str) -> LoadError {
        match self {
            Self::Invalid(cause) => error::invalid(file, &cause),
            Self::Uncountable(what) => LoadError::Uncountable { file: one_line(file), what },
        }
    }
}

impl From<wasmparser::Error> for Stop {
    fn from(cause: wasmparser::Error) -> Self {
        Self::Invalid(cause)
    }
}

struct Scan {
    /// The open modules and components; the innermost is last.
    open: Vec<Open>,
    core_modules: u64,
    functions: u64,
    core_externs: u64,
}

impl Scan {
    /// Processes one payload; returns the sum at the end of the outermost.
    fn step(&mut self, payload: Payload<'_>) -> Result<Option<Footprint>, Stop> {
        match payload {
            Payload::Version { encoding, .. } => {
                let component = encoding == Encoding::Component;
                let core_instances = u64::from(!component);
                self.core_modules += core_instances;
                let total = Footprint { core_instances, ..Footprint::EMPTY };
                self.open.push(Open { component, total, modules: Vec::new(), components: Vec::new() });
            }
            Payload::End(_) => return Ok(self.close()),
            Payload::FunctionSection(section) => self.functions += u64::from(section.count()),
            Payload::ImportSection(section) => self.core_externs += u64::from(section.count()),
            Payload::ExportSection(section) => self.core_externs += u64::from(section.count()),
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory?;
                    let bytes = |pages: u64| pages.saturating_mul(WASM_PAGE_BYTES);
                    self.add(&Footprint {
                        memories: 1,
                        initial_memory_bytes: bytes(memory.initial),
                        largest_memory_bytes: bytes(memory.initial),
                        memory_max_bytes: memory.maximum.map(bytes),
                        ..Footprint::EMPTY
                    });
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table_elements = table?.ty.initial;
                    self.add(&Footprint { tables: 1, table_elements, ..Footprint::EMPTY });
                }
            }
            Payload::StartSection { .. } => self.add(&Footprint { has_start: true, ..Footprint::EMPTY }),
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        let module = self.module(0, module_index).ok_or(Stop::Uncountable("a core module"))?;
                        self.add(&module);
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        let component = self.component(0, component_index).ok_or(Stop::Uncountable("a component"))?;
                        self.add(&component);
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => self.define_module(None),
                        ComponentTypeRef::Component(_) => self.define_component(None),
                        _ => {}
                    }
                }
            }
            // An export is a new name for its item, with a new index.
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    match export.kind {
                        ComponentExternalKind::Module => self.define_module(self.module(0, export.index)),
                        ComponentExternalKind::Component => self.define_component(self.component(0, export.index)),
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias? {
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                            self.define_module(None);
                        }
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            self.define_component(None);
                        }
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                            self.define_module(self.module(count, index));
                        }
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            self.define_component(self.component(count, index));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn close(&mut self) -> Option<Footprint> {
        let closed = self.open.pop()?;
        match (self.open.is_empty(), closed.component) {
            (true, _) => {
                let Self { core_modules, functions, core_externs, .. } = *self;
                return Some(Footprint { core_modules, functions, core_externs, ..closed.total });
            }
            (false, true) => self.define_component(Some(closed.total)),
            (false, false) => self.define_module(Some(closed.total)),
        }
        None
    }

    fn add(&mut self, part: &Footprint) {
        if let Some(open) = self.open.last_mut() {
            open.total.instantiate(part);
        }
    }

    fn define_module(&mut self, module: Option<Footprint>) {
        if let Some(open) = self.open.last_mut() {
            open.modules.push(module);
        }
    }

    fn define_component(&mut self, component: Option<Footprint>) {
        if let Some(open) = self.open.last_mut() {
            open.components.push(component);
        }
    }

    /// Looks up a module in the component that is `outward` levels out from the innermost.
    fn module(&self, outward: u32, index: u32) -> Option<Footprint> {
        *self.open.iter().rev().nth(outward as usize)?.modules.get(index as usize)?
    }

    fn component(&self, outward: u32, index: u32) -> Option<Footprint> {
        *self.open.iter().rev().nth(outward as usize)?.components.get(index as usize)?
    }
}
