//! The cost of programs: a run that does nothing, SQLite on the virtual disk, and a run that computes.
//!
//! The other side instantiates the same component in a bare store for each run, as a command line would.

use crate::bare::{guest_runtime, store};
use crate::cpu::time_of_this_thread;
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{SECRET, Served};
use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::{Call, Instance};
use lifeboat_vm::network::Network;
use lifeboat_vm::store::{Allowance, Inputs};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use wasmtime::OperatorCost;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, ResourceTable};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

const PAIRS: usize = 51;

/// The runs of the trivial program in one turn.
const RUNS: u32 = 500;

/// The statements of one run of SQLite. Each is a transaction of its own, as without `BEGIN`.
const INSERTS: u32 = 500;

/// A program without imports that returns at once.
const TRIVIAL: &str = "(component
    (core module $m (func (export \"run\") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i \"run\")))
    (instance $exported (export \"run\" (func $run)))
    (export \"wasi:cli/run@0.2.0\" (instance $exported)))";

/// A query that computes for some tens of milliseconds, and reads no file.
const COMPUTE: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 100000)
    SELECT sum(x * x % 7) AS s FROM c;";

/// Where Linux has a tmpfs.
const TMPFS: &str = "/dev/shm";

const ALLOWANCE: Allowance = Allowance {
    fuel: 1_000_000_000_000,
    memory_bytes: 64 * 1024 * 1024,
    disk_bytes: 64 * 1024 * 1024,
    inputs: Inputs::Live { deadline: Duration::from_secs(60) },
};

/// Measures a transaction of a program that does nothing.
pub(crate) fn run() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile_bytes("trivial.wat", TRIVIAL.as_bytes());
    let ours = Ours::new(&program, guest_runtime());
    let theirs = Theirs::new(program.engine(), &program, true, guest_runtime());
    let pairs = Pairs::measure(PAIRS, RUNS, || ours.execute("", RUNS), || theirs.execute("", RUNS));
    let (a, b) = ("transaction of a VM", "instantiate, call");
    vec![Row { name: "program, trivial run", a, b, pairs, target: Some(1.5) }]
}

/// Measures statements of SQLite.
pub(crate) fn sqlite() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("sql.wasm");
    let mut sql = String::from("DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT);\n");
    for number in 0..INSERTS {
        let _ = writeln!(sql, "INSERT INTO t (text) VALUES ('the text of row {number}');");
    }
    let sql: &'static str = sql.leak();
    let ours = Ours::new(&program, guest_runtime());
    let theirs = Theirs::new(program.engine(), &program, true, guest_runtime());
    let pairs = Pairs::measure(PAIRS, INSERTS, || ours.execute(sql, 1), || theirs.execute(sql, 1));
    let (a, b) = ("on the virtual disk", "wasmtime-wasi on a tmpfs");
    vec![Row { name: "program, SQLite, an insert", a, b, pairs, target: Some(1.0) }]
}

/// Measures a run that computes, in CPU time, on the host's engine and on one without fuel. The second row has a bare
/// store of an engine in which each operator costs nothing. It shows what remains of metering without any count: the
/// check in each loop and function, and the counter that each call writes and reads.
pub(crate) fn metering() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("sql.wasm");
    let mut config = program.engine().config().clone();
    config.operator_cost(free_operators());
    let free = wasmtime::Engine::new(&config).expect("an engine with free operators");
    config.consume_fuel(false);
    let unmetered = wasmtime::Engine::new(&config).expect("an engine without fuel");
    let here = || Builder::new_current_thread().enable_time().build().expect("a runtime");
    let ours = Ours::new(&program, here());
    let uncounted = Theirs::new(&free, &program, true, here());
    let theirs = Theirs::new(&unmetered, &program, false, here());
    let counted = Pairs::measure(PAIRS, 1, || ours.execute_here(COMPUTE), || theirs.execute_here(COMPUTE));
    let checked = Pairs::measure(PAIRS, 1, || uncounted.execute_here(COMPUTE), || theirs.execute_here(COMPUTE));
    let b = "neither";
    vec![
        Row { name: "program, a run that computes", a: "fuel, yields", b, pairs: counted, target: Some(1.25) },
        Row { name: "program, the same, nothing counted", a: "fuel, each operator 0", b, pairs: checked, target: None },
    ]
}

/// Returns a table in which each operator costs nothing. Its fields have no other common form than the serialized one.
fn free_operators() -> OperatorCost {
    let mut table = serde_json::to_value(OperatorCost::new()).expect("it can be serialized");
    let operators = table.as_object_mut().expect("a struct").values_mut();
    operators.filter(|cost| cost.is_number()).for_each(|cost| *cost = 0.into());
    serde_json::from_value(table).expect("it is the same type")
}

/// The program in a VM.
struct Ours {
    runtime: Runtime,
    instance: Arc<Mutex<(Instance, Sequence)>>,
}

impl Ours {
    fn new(program: &Arc<Program>, runtime: Runtime) -> Self {
        let created = Instance::create(program, SECRET, ALLOWANCE, Disk::new(0));
        let instance = runtime.block_on(created).expect("it instantiates");
        Self { runtime, instance: Arc::new(Mutex::new((instance, Sequence(0)))) }
    }

    /// Executes `body` some times on the guests' threads.
    fn execute(&self, body: &'static str, times: u32) -> Duration {
        let task = self.runtime.spawn(Self::timed(Arc::clone(&self.instance), body, times));
        self.runtime.block_on(task).expect("it does not panic")
    }

    /// Executes `body` on this thread, and returns its CPU time.
    fn execute_here(&self, body: &'static str) -> Duration {
        let start = time_of_this_thread();
        self.runtime.block_on(Self::timed(Arc::clone(&self.instance), body, 1));
        time_of_this_thread() - start
    }

    async fn timed(instance: Arc<Mutex<(Instance, Sequence)>>, body: &'static str, times: u32) -> Duration {
        let (instance, sequence) = &mut *instance.lock().await;
        let start = Instant::now();
        for _ in 0..times {
            sequence.0 += 1;
            let (sequence, timestamp, epoch) = (*sequence, Timestamp(1), Epoch::default());
            let call = Call { id: "host-1", user: "ada", sequence, timestamp, epoch, body: body.as_bytes() };
            let attempt = instance.execute(call, ALLOWANCE, Network::None).await;
            assert!(matches!(attempt.answer, Answer::Ok(_)), "{:?}", attempt.answer);
        }
        start.elapsed()
    }
}

/// The data of a store in which `wasmtime-wasi` serves the program.
struct Data {
    table: ResourceTable,
    ctx: WasiCtx,
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

/// The program in bare stores, one for each run, with a folder on a tmpfs.
struct Theirs {
    runtime: Runtime,
    bare: Arc<BareProgram>,
}

struct BareProgram {
    pre: InstancePre<Data>,
    run: ComponentExportIndex,
    is_metered: bool,
    folder: TempDir,
}

impl Theirs {
    fn new(engine: &wasmtime::Engine, program: &Program, is_metered: bool, runtime: Runtime) -> Self {
        let workload = program.workload();
        let component = Component::new(engine, &workload.component).expect("it has been compiled before");
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("nothing is linked twice");
        let pre = linker.instantiate_pre(&component).expect("every import is defined");
        let interface = workload.exports.iter().find(|name| name.starts_with("wasi:cli/run@")).expect("a program");
        let interface = component.get_export_index(None, interface).expect("it is exported");
        let run = component.get_export_index(Some(&interface), "run").expect("it is exported");
        let folder = tempfile::tempdir_in(TMPFS).expect("a tmpfs");
        Self { runtime, bare: Arc::new(BareProgram { pre, run, is_metered, folder }) }
    }

    fn execute(&self, body: &'static str, times: u32) -> Duration {
        let bare = Arc::clone(&self.bare);
        let task = self.runtime.spawn(async move {
            let start = Instant::now();
            for _ in 0..times {
                bare.execute(body).await;
            }
            start.elapsed()
        });
        self.runtime.block_on(task).expect("it does not panic")
    }

    fn execute_here(&self, body: &'static str) -> Duration {
        let start = time_of_this_thread();
        self.runtime.block_on(self.bare.execute(body));
        time_of_this_thread() - start
    }
}

impl BareProgram {
    async fn execute(&self, body: &'static str) {
        let output = MemoryOutputPipe::new(1024 * 1024);
        let mut builder = WasiCtxBuilder::new();
        // Otherwise each call would go to another thread and back.
        builder.allow_blocking_current_thread(true);
        builder.stdin(MemoryInputPipe::new(Bytes::from_static(body.as_bytes()))).stdout(output.clone());
        builder.preopened_dir(self.folder.path(), "/", FsPerms::ReadWrite).expect("it is there");
        let data = Data { table: ResourceTable::new(), ctx: builder.build() };
        let mut store = store(self.pre.engine(), data, self.is_metered);
        let instance = self.pre.instantiate_async(&mut store).await.expect("it instantiates");
        let run = instance.get_typed_func::<(), (Result<(), ()>,)>(&mut store, self.run).expect("the type");
        // A command adapter ends a program that returns 0 without an exit.
        run.call_async(&mut store, ()).await.expect("it does not trap").0.expect("it succeeds");
    }
}
