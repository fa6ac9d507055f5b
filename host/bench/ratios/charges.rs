//! The cost of charging a guest for what it does on its disk.
//!
//! No VM runs without these charges. So a store of the bench offers the disk to a guest, with a hook that charges each
//! call of the host as that of a VM does. On one side it collects the fuel of the disk as well. The disk adds this fuel
//! up on both sides.

use crate::bare::{Bare, FUEL, store};
use crate::cpu::time_of_this_thread;
use crate::guests;
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::Served;
use lifeboat_disk::{Call, Disk, Ino, Mark, OpenHow};
use lifeboat_vm::store::FUEL_PER_HOST_CALL;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{CallHook, Engine, StoreContextMut, Trap};

const PAIRS: usize = 101;

/// The transactions for one measured time.
const TRANSACTIONS: u32 = 200;

/// The quota of the disk, in bytes.
const LIMIT_BYTES: u64 = 1024 * 1024;

/// Measures transactions that write 100 small files. It is the thread's CPU time.
pub(crate) fn charges() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("count.wat");
    let pre = link(program.engine());
    let mut charged = SmallFiles::start(&pre, true);
    let mut uncharged = SmallFiles::start(&pre, false);
    let pairs = Pairs::measure(PAIRS, TRANSACTIONS, || charged.execute(), || uncharged.execute());
    let (a, b) = ("with the charges of the disk", "without");
    vec![Row { name: "transaction, writes 100 small files", a, b, pairs, target: Some(1.05) }]
}

/// The data of a store that offers a disk to its guest.
struct OwnDisk {
    disk: Disk,
    /// The open files, by number.
    open: BTreeMap<u64, Ino>,
    opened: u64,
    is_charged: bool,
    charged_fuel: u64,
}

/// Compiles the guest, and links its files to the disk of the store.
fn link(engine: &Engine) -> InstancePre<OwnDisk> {
    let component = Component::new(engine, guests::small_files()).expect("the engine compiles it");
    let mut linker = Linker::<OwnDisk>::new(engine);
    let mut files = linker.instance("bench:guest/files").expect("nothing is linked twice");
    let open = |mut store: StoreContextMut<'_, OwnDisk>, (name,): (String,)| {
        let how = OpenHow { create: true, write: true, ..OpenHow::default() };
        let data = store.data_mut();
        let (file, _) = data.disk.open_at(Ino::ROOT, &name, how)?;
        data.opened += 1;
        data.open.insert(data.opened, file);
        Ok((data.opened,))
    };
    let write = |mut store: StoreContextMut<'_, OwnDisk>, (file, bytes): (u64, Vec<u8>)| {
        let data = store.data_mut();
        Ok(data.disk.write(data.open[&file], 0, &bytes)?)
    };
    let close = |mut store: StoreContextMut<'_, OwnDisk>, (file,): (u64,)| {
        let data = store.data_mut();
        if let Some(file) = data.open.remove(&file) {
            data.disk.close(file);
        }
        Ok(())
    };
    files.func_wrap("open", open).expect("nothing is linked twice");
    files.func_wrap("write", write).expect("nothing is linked twice");
    files.func_wrap("close", close).expect("nothing is linked twice");
    linker.instantiate_pre(&component).expect("every import is defined")
}

/// Charges a call of the host, and the work of the disk if the guest pays for it.
fn charge(mut store: StoreContextMut<'_, OwnDisk>, hook: CallHook) -> wasmtime::Result<()> {
    let is_entry = match hook {
        CallHook::CallingHost => true,
        CallHook::ReturningFromHost => false,
        CallHook::CallingWasm | CallHook::ReturningFromWasm => return Ok(()),
    };
    let fuel_left = store.get_fuel()?;
    let data = store.data_mut();
    if is_entry {
        data.charged_fuel = data.charged_fuel.saturating_add(FUEL_PER_HOST_CALL);
    }
    if data.is_charged {
        data.charged_fuel = data.charged_fuel.saturating_add(data.disk.take_fuel());
    }
    if fuel_left < data.charged_fuel { Err(Trap::OutOfFuel.into()) } else { Ok(()) }
}

/// A guest that writes small files, on this thread.
struct SmallFiles {
    runtime: Runtime,
    bare: Bare<OwnDisk>,
    transactions: u64,
}

impl SmallFiles {
    fn start(pre: &InstancePre<OwnDisk>, is_charged: bool) -> Self {
        let (disk, open) = (Disk::new(0), BTreeMap::new());
        let mut store = store(pre.engine(), OwnDisk { disk, open, opened: 0, is_charged, charged_fuel: 0 }, true);
        store.call_hook(charge);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let bare = runtime.block_on(Bare::within(store, pre));
        Self { runtime, bare, transactions: 0 }
    }

    /// Executes [`TRANSACTIONS`] transactions and returns their CPU time.
    fn execute(&mut self) -> Duration {
        let start = time_of_this_thread();
        for _ in 0..TRANSACTIONS {
            self.transactions += 1;
            let store = self.bare.store();
            store.set_fuel(FUEL).expect("the engine meters");
            let data = store.data_mut();
            data.charged_fuel = 0;
            let mark = Mark::new(self.transactions, 1);
            let now_ns = self.transactions;
            data.disk.enter(Call { now_ns, mark, limit_bytes: LIMIT_BYTES, is_read_only: false });
            self.runtime.block_on(self.bare.execute(b"1"));
        }
        time_of_this_thread() - start
    }
}
