//! The cost of the path through a service: authentication, queue, dedupe, meter, journal, reply.

use crate::bare::{BareTask, link};
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{Served, anonymous};
use bytes::Bytes;
use lifeboat_api::transaction::{Kind, Request};
use std::time::Duration;

/// The number of requests that the client keeps in flight.
const IN_FLIGHT: usize = 256;

/// There are many short turns rather than a few long ones, so that other work of the machine affects both alike.
const PAIRS: usize = 101;

/// The body for the trivial guest.
const BODY: &[u8] = b"1";

/// The duration of the working guest's loop.
const WORK: Duration = Duration::from_micros(10);

/// Measures a guest that does almost nothing, so that everything is overhead.
pub(crate) fn trivial() -> Vec<Row> {
    let pairs = Rig::new("count.wat").pairs(5_000, BODY, || anonymous(BODY), IN_FLIGHT);
    vec![row("transaction, trivial guest", "service, 256 in flight", pairs, Some(5.0))]
}

/// Measures the same with ids from the client, by which a repetition would be recognised.
pub(crate) fn with_ids() -> Vec<Row> {
    let mut ids = 0;
    let request = || {
        ids += 1;
        Request { id: Some(format!("client-{ids}")), body: Bytes::from_static(BODY), kind: Kind::Transaction }
    };
    let pairs = Rig::new("count.wat").pairs(5_000, BODY, request, IN_FLIGHT);
    vec![row("transaction, ids from the client", "service, 256 in flight", pairs, None)]
}

/// Measures the same with a client that waits for each answer: two threads that wake each other alternately.
pub(crate) fn one_at_a_time() -> Vec<Row> {
    let pairs = Rig::new("count.wat").pairs(1_000, BODY, || anonymous(BODY), 1);
    vec![row("transaction, one at a time", "service, 1 in flight", pairs, None)]
}

/// Measures a guest that works for a short time.
pub(crate) fn working() -> Vec<Row> {
    let rig = Rig::new("work.wat");
    let body = rig.iterations_for(WORK).to_string().leak().as_bytes();
    let pairs = rig.pairs(2_000, body, || anonymous(body), IN_FLIGHT);
    vec![row("transaction, guest works 10 us", "service, 256 in flight", pairs, Some(1.15))]
}

fn row(name: &'static str, a: &'static str, pairs: Pairs, target: Option<f64>) -> Row {
    Row { name, a, b: "bare call_async", pairs, target }
}

/// A service, and the same component of the same engine in a bare store.
struct Rig {
    served: Served,
    bare: BareTask,
}

impl Rig {
    fn new(guest: &str) -> Self {
        let served = Served::new();
        let program = served.compile(guest);
        served.start("bench", &program);
        let bare = BareTask::start(&link(program.engine(), &program.workload().component), true);
        Self { served, bare }
    }

    fn pairs(&self, count: u32, body: &'static [u8], mut request: impl FnMut() -> Request, in_flight: usize) -> Pairs {
        let through_service = || {
            let requests: Vec<Request> = (0..count).map(|_| request()).collect();
            let answered = self.served.transact("bench", requests, in_flight);
            assert_eq!(answered.failed, 0, "the guest never traps");
            answered.elapsed
        };
        Pairs::measure(PAIRS, count, through_service, || self.bare.execute(body, count))
    }

    /// Returns the number of iterations of the guest's loop that take `time`.
    fn iterations_for(&self, time: Duration) -> u128 {
        const PROBE: &[u8] = b"1000000";
        // The fastest probe counts: a slower one was disturbed.
        let probe = (0..20).map(|_| self.bare.execute(PROBE, 1)).min().expect("some");
        1_000_000 * time.as_nanos() / probe.as_nanos()
    }
}
