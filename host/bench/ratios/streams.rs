//! The cost of files on the virtual disk, compared with those of `wasmtime-wasi` on a tmpfs.
//!
//! Both sides run the same component in the same engine, with fuel and the same yields. A VM also charges each call of
//! the host, and the other side does not.

use crate::bare::{Bare, FUEL, guest_runtime, store};
use crate::guests;
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{SECRET, Served};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::{Call, Instance};
use lifeboat_vm::network::Network;
use lifeboat_vm::store::{Allowance, Inputs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

const PAIRS: usize = 51;

/// How the guest writes and reads 16 MiB.
struct Way {
    name: &'static str,
    /// What the guest does first, outside of the timed part.
    before: &'static str,
    body: &'static str,
    target: Option<f64>,
}

const WAYS: [Way; 4] = [
    Way { name: "16 MiB in streams, 64 KiB at once", before: REMOVE, body: "s65536", target: Some(0.5) },
    Way { name: "16 MiB in streams, 4 KiB at once", before: REMOVE, body: "f4096", target: Some(0.6) },
    Way { name: "16 MiB without streams, 64 KiB", before: REMOVE, body: "d65536", target: None },
    Way { name: "16 MiB over a file, without streams", before: FILL, body: "d65536", target: None },
];

/// The body with which the guest removes its file.
const REMOVE: &str = "u0";

/// The body with which it writes the whole file.
const FILL: &str = "o256";

/// Where Linux has a tmpfs.
const TMPFS: &str = "/dev/shm";

const ALLOWANCE: Allowance = Allowance {
    fuel: FUEL,
    memory_bytes: 16 * 1024 * 1024,
    disk_bytes: 64 * 1024 * 1024,
    inputs: Inputs::Live { deadline: Duration::from_secs(60) },
};

/// Measures a file of 16 MiB that is written and read. First it is removed, or written, outside of the timed part.
pub(crate) fn streams() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile_bytes(guests::WRITER, &guests::writer());
    let (virtual_disk, tmpfs) = (OnVirtualDisk::new(&program), OnTmpfs::new(&program));
    let (a, b) = ("on the virtual disk", "wasmtime-wasi on a tmpfs");
    let row = |Way { name, before, body, target }| {
        let pairs = Pairs::measure(PAIRS, 1, || virtual_disk.execute(before, body), || tmpfs.execute(before, body));
        Row { name, a, b, pairs, target }
    };
    WAYS.map(row).into()
}

/// The guest in a VM.
struct OnVirtualDisk {
    runtime: Runtime,
    instance: Arc<Mutex<(Instance, Sequence)>>,
}

impl OnVirtualDisk {
    fn new(program: &Arc<Program>) -> Self {
        let runtime = guest_runtime();
        let created = Instance::create(program, SECRET, ALLOWANCE, Disk::new(0));
        let instance = runtime.block_on(created).expect("it instantiates");
        Self { runtime, instance: Arc::new(Mutex::new((instance, Sequence(0)))) }
    }

    /// Executes `before` and `body`, and returns the time that `body` took.
    fn execute(&self, before: &'static str, body: &'static str) -> Duration {
        let instance = Arc::clone(&self.instance);
        let task = self.runtime.spawn(async move {
            let (instance, sequence) = &mut *instance.lock().await;
            let mut elapsed = Duration::ZERO;
            for body in [before, body] {
                sequence.0 += 1;
                let (sequence, timestamp, epoch) = (*sequence, Timestamp(1), Epoch::default());
                let call = Call { id: "host-1", user: "ada", sequence, timestamp, epoch, body: body.as_bytes() };
                let start = Instant::now();
                let attempt = instance.execute(call, ALLOWANCE, Network::None).await;
                elapsed = start.elapsed();
                assert!(matches!(attempt.answer, Answer::Ok(_)), "{:?}", attempt.answer);
            }
            elapsed
        });
        self.runtime.block_on(task).expect("it does not panic")
    }
}

/// The data of a store in which `wasmtime-wasi` serves the guest.
struct Theirs {
    table: ResourceTable,
    ctx: WasiCtx,
}

impl WasiView for Theirs {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

/// The guest in a bare store, with a folder on a tmpfs.
struct OnTmpfs {
    runtime: Runtime,
    bare: Arc<Mutex<Bare<Theirs>>>,
    _folder: TempDir,
}

impl OnTmpfs {
    fn new(program: &Program) -> Self {
        let engine = program.engine();
        let component = Component::new(engine, &program.workload().component).expect("it has been compiled before");
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("nothing is linked twice");
        let pre = linker.instantiate_pre(&component).expect("every import is defined");
        let folder = tempfile::tempdir_in(TMPFS).expect("a tmpfs");
        let mut builder = WasiCtxBuilder::new();
        // Otherwise each call would go to another thread and back.
        builder.allow_blocking_current_thread(true);
        builder.preopened_dir(folder.path(), "/", FsPerms::ReadWrite).expect("it was just made");
        let data = Theirs { table: ResourceTable::new(), ctx: builder.build() };
        let runtime = guest_runtime();
        let bare = runtime.block_on(Bare::within(store(engine, data, true), &pre));
        Self { runtime, bare: Arc::new(Mutex::new(bare)), _folder: folder }
    }

    /// Executes `before` and `body`, and returns the time that `body` took.
    fn execute(&self, before: &'static str, body: &'static str) -> Duration {
        let bare = Arc::clone(&self.bare);
        let task = self.runtime.spawn(async move {
            let mut bare = bare.lock().await;
            bare.execute(before.as_bytes()).await;
            let start = Instant::now();
            bare.execute(body.as_bytes()).await;
            start.elapsed()
        });
        self.runtime.block_on(task).expect("it does not panic")
    }
}
