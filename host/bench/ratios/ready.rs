//! The time until a VM can be called: creating its store with limits, meters and WASI, and its instance.

use crate::bare::{guest_runtime, link, store};
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{SECRET, Served};
use lifeboat_disk::Disk;
use lifeboat_vm::instance::Instance;
use lifeboat_vm::rehydrate::{MAINTENANCE_DEADLINE, MAINTENANCE_FUEL};
use lifeboat_vm::store::{Allowance, Inputs};
use std::sync::Arc;
use std::time::Instant;

const PAIRS: usize = 51;

/// The number of instances for one measured time, created one after another and dropped outside the timed part.
const INSTANCES: u32 = 200;

/// Measures instances of `counter`, each in its own store, from the same pool.
pub(crate) fn ready() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("counter.wasm");
    let bare = link(program.engine(), &program.workload().component);
    let runtime = guest_runtime();
    let allowance = Allowance {
        fuel: MAINTENANCE_FUEL,
        memory_bytes: 128 * 1024 * 1024,
        disk_bytes: 1024 * 1024,
        inputs: Inputs::Live { deadline: MAINTENANCE_DEADLINE },
    };
    let limited = || {
        let program = Arc::clone(&program);
        let task = runtime.spawn(async move {
            let mut elapsed = std::time::Duration::ZERO;
            for _ in 0..INSTANCES {
                let start = Instant::now();
                let instance = Instance::create(&program, SECRET, allowance, Disk::new(0)).await;
                elapsed += start.elapsed();
                drop(instance.expect("it instantiates"));
            }
            elapsed
        });
        runtime.block_on(task).expect("it does not panic")
    };
    let unlimited = || {
        let pre = bare.clone();
        let task = runtime.spawn(async move {
            let mut elapsed = std::time::Duration::ZERO;
            for _ in 0..INSTANCES {
                let start = Instant::now();
                let mut store = store(pre.engine(), (), true);
                let instance = pre.instantiate_async(&mut store).await;
                elapsed += start.elapsed();
                instance.expect("it instantiates");
                drop(store);
            }
            elapsed
        });
        runtime.block_on(task).expect("it does not panic")
    };
    let pairs = Pairs::measure(PAIRS, INSTANCES, limited, unlimited);
    let (a, b) = ("Instance::create", "Store::new, instantiate_async");
    vec![Row { name: "VM ready, counter", a, b, pairs, target: Some(3.0) }]
}
