//! The memory of an idle service, compared with that of an instance without a service.
//!
//! Each number is the difference between two separate processes, of which only one has the services or instances.

use crate::bare::{Bare, guest_runtime, link};
use crate::child::{Child, wait_for_parent};
use crate::pairs::{PAIRS_MIN, Pairs};
use crate::report::{Row, print};
use crate::served::Served;

/// The number of services, or instances, of `counter`.
pub(crate) const COUNT: u32 = 1_000;

/// The target for the memory of a service besides its instance, in bytes.
const BEYOND_INSTANCE_BYTES_MAX: f64 = 32.0 * 1024.0;

/// The linear memory of a VM, in bytes.
const MEMORY_BYTES: u64 = 16 * 1024 * 1024;

/// The name of the child whose host has the services.
pub(crate) const SERVICES: &str = "idle-services";

/// The name of the child whose host has no services.
pub(crate) const NO_SERVICES: &str = "idle-no-services";

/// The name of the child whose host has instances in its pool.
pub(crate) const INSTANCES: &str = "idle-instances";

/// Measures the resident bytes of each service and of each instance.
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

/// Creates [`COUNT`] instances, and waits.
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
