//! How much memory a service holds that does nothing, beside an instance that nobody serves.
//!
//! Each number is that of a process of its own, less that of one that is the same but for the services.

use crate::bare::{Bare, guest_runtime, link};
use crate::child::{Child, wait_for_parent};
use crate::pairs::{PAIRS_MIN, Pairs};
use crate::report::{Row, print};
use crate::served::Served;

/// As many services, or instances, of `counter`.
pub(crate) const COUNT: u32 = 1_000;

/// What a service may hold beyond its instance, in bytes.
const BEYOND_INSTANCE_BYTES_MAX: f64 = 32.0 * 1024.0;

/// Linear memory of a VM, in bytes.
const MEMORY_BYTES: u64 = 16 * 1024 * 1024;

/// As a child, a host with the services.
pub(crate) const SERVICES: &str = "idle-services";

/// As a child, the same without.
pub(crate) const NO_SERVICES: &str = "idle-no-services";

/// As a child, a host with instances in its pool.
pub(crate) const INSTANCES: &str = "idle-instances";

/// Resident bytes for each of them.
pub(crate) fn idle() -> Vec<Row> {
    let resident_bytes = |child| Child::start(child).resident_bytes();
    let pairs = (0..PAIRS_MIN).map(|_| {
        let none = resident_bytes(NO_SERVICES);
        [SERVICES, INSTANCES].map(|child| resident_bytes(child).saturating_sub(none))
    });
    let pairs = Pairs::of_bytes(pairs.map(|[services, instances]| (services, instances)), COUNT);
    let target = Some(1.0 + BEYOND_INSTANCE_BYTES_MAX / pairs.b());
    let (a, b) = ("1,000 services of counter", "instances in the pool");
    vec![Row { name: "resident bytes of an idle service", a, b, pairs, target }]
}

/// Starts `count` services, and waits.
pub(crate) fn with_services(count: u32) {
    let served = Served::with_slots(COUNT, MEMORY_BYTES);
    let program = served.compile("counter.wasm");
    for service in 0..count {
        served.start_as(&format!("idle-{service}"), &program, MEMORY_BYTES, lifeboat_api::sla::FailoverMode::Auto);
    }
    print("ready");
    wait_for_parent();
}

/// Instantiates as often, and waits.
pub(crate) fn with_instances() {
    let served = Served::with_slots(COUNT, MEMORY_BYTES);
    let program = served.compile("counter.wasm");
    let bare = link(program.engine(), &program.workload().component);
    let instances: Vec<Bare> = guest_runtime().block_on(async {
        let mut instances = Vec::new();
        for _ in 0..COUNT {
            instances.push(Bare::instantiate(&bare, true).await);
        }
        instances
    });
    print("ready");
    wait_for_parent();
    drop(instances);
}
