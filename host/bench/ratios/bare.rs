//! The control: a workload's component in a store of wasmtime alone, called through `TypedFunc::call_async`.
//!
//! There is no user, queue, journal, meter or deadline. Imports trap, unless an experiment links them itself.

use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use wasmtime::component::{Component, ComponentType, InstancePre, Linker, Lower, TypedFunc};
use wasmtime::{Engine, Store};

/// More fuel than any measurement burns.
pub(crate) const FUEL: u64 = 1_000_000_000_000_000_000;

/// The record `context` of the contract.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Context {
    id: &'static str,
    user: &'static str,
    sequence: u64,
    timestamp: u64,
}

type Execute = TypedFunc<(Context, &'static [u8]), (Result<Vec<u8>, String>,)>;

/// An instance in a store.
pub(crate) struct Bare<T: 'static = ()> {
    store: Store<T>,
    execute: Execute,
    sequence: u64,
}

/// Compiles `component` without any imports linked.
pub(crate) fn link(engine: &Engine, component: &[u8]) -> InstancePre<()> {
    let component = Component::new(engine, component).expect("it has been compiled before");
    let mut linker = Linker::new(engine);
    linker.define_unknown_imports_as_traps(&component).expect("every import can be a trap");
    linker.instantiate_pre(&component).expect("every import is defined")
}

/// Creates a store with `data`. It yields as a VM's does if the engine meters, and otherwise never.
pub(crate) fn store<T: 'static>(engine: &Engine, data: T, is_metered: bool) -> Store<T> {
    let mut store = Store::new(engine, data);
    if is_metered {
        store.set_fuel(FUEL).expect("the engine meters");
        store.fuel_async_yield_interval(Some(lifeboat_vm::store::FUEL_YIELD_INTERVAL)).expect("the engine meters");
    }
    store
}

impl Bare {
    /// Instantiates in a fresh store.
    pub(crate) async fn instantiate(pre: &InstancePre<()>, is_metered: bool) -> Self {
        Self::within(store(pre.engine(), (), is_metered), pre).await
    }
}

impl<T: Send> Bare<T> {
    /// Instantiates in `store`.
    pub(crate) async fn within(mut store: Store<T>, pre: &InstancePre<T>) -> Self {
        let instance = pre.instantiate_async(&mut store).await.expect("it instantiates");
        let workload = instance.get_export_index(&mut store, None, "lifeboat:vm/workload@0.1.0").expect("the export");
        let execute = instance.get_export_index(&mut store, Some(&workload), "execute").expect("the export");
        let execute = instance.get_typed_func(&mut store, execute).expect("the type of the contract");
        Self { store, execute, sequence: 0 }
    }

    /// Returns the store.
    pub(crate) fn store(&mut self) -> &mut Store<T> {
        &mut self.store
    }

    /// Executes `body` and returns the reply.
    pub(crate) async fn execute(&mut self, body: &'static [u8]) -> Vec<u8> {
        self.sequence += 1;
        let context = Context { id: "host-1", user: "ada", sequence: self.sequence, timestamp: 1 };
        let (answer,) = self.execute.call_async(&mut self.store, (context, body)).await.expect("it does not trap");
        answer.expect("it is not refused")
    }
}

/// An instance whose calls run in a task of a runtime like that of a host's guests.
pub(crate) struct BareTask {
    runtime: tokio::runtime::Runtime,
    bare: Arc<Mutex<Bare>>,
}

impl BareTask {
    /// Instantiates `pre` in a new runtime.
    pub(crate) fn start(pre: &InstancePre<()>, is_metered: bool) -> Self {
        let runtime = guest_runtime();
        let bare = runtime.block_on(Bare::instantiate(pre, is_metered));
        Self { runtime, bare: Arc::new(Mutex::new(bare)) }
    }

    /// Executes `body` `count` times, one after another, and returns the elapsed time.
    pub(crate) fn execute(&self, body: &'static [u8], count: u32) -> Duration {
        let bare = Arc::clone(&self.bare);
        let task = self.runtime.spawn(async move {
            let mut bare = bare.lock().await;
            let start = Instant::now();
            for _ in 0..count {
                bare.execute(body).await;
            }
            start.elapsed()
        });
        self.runtime.block_on(task).expect("it does not panic")
    }
}

/// Builds a runtime like that of a host's guests.
pub(crate) fn guest_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("threads")
}
