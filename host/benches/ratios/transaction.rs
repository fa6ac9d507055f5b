//! What the way through a service costs: authentication, queue, dedupe, meter, journal, reply.

use crate::bare::{BareTask, link};
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{Served, anonymous};
use bytes::Bytes;
use lifeboat::transaction::{Kind, Request};
use std::time::Duration;

/// Requests that the client keeps in flight.
const IN_FLIGHT: usize = 256;

const PAIRS: usize = 31;

/// What the working guest's loop is to take.
const WORK: Duration = Duration::from_micros(10);

/// A guest that does next to nothing, so that all is overhead.
pub(crate) fn trivial() -> Vec<Row> {
    const TRANSACTIONS: u32 = 20_000;
    const BODY: &[u8] = b"1";
    let rig = Rig::new("count.wat");
    let pipelined = rig.pairs(TRANSACTIONS, BODY, || anonymous(BODY), IN_FLIGHT);
    let mut ids = 0;
    let with_id = || {
        ids += 1;
        Request { id: Some(format!("client-{ids}")), body: Bytes::from_static(BODY), kind: Kind::Transaction }
    };
    let with_id = rig.pairs(TRANSACTIONS, BODY, with_id, IN_FLIGHT);
    let alone = rig.pairs(TRANSACTIONS / 10, BODY, || anonymous(BODY), 1);
    let row = |name, a, pairs, target| Row { name, a, b: "bare call_async", pairs, target };
    vec![
        row("transaction, trivial guest", "service, 256 in flight", pipelined, Some(5.0)),
        row("transaction, trivial guest", "the same, ids from the client", with_id, None),
        row("transaction, trivial guest", "service, one at a time", alone, None),
    ]
}

/// A guest that works for a time that is still short.
pub(crate) fn working() -> Vec<Row> {
    const TRANSACTIONS: u32 = 10_000;
    let rig = Rig::new("work.wat");
    let body = rig.iterations_for(WORK).to_string().leak().as_bytes();
    let pairs = rig.pairs(TRANSACTIONS, body, || anonymous(body), IN_FLIGHT);
    let (a, b) = ("service, 256 in flight", "bare call_async");
    vec![Row { name: "transaction, guest works 10 us", a, b, pairs, target: Some(1.15) }]
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
            let requests = (0..count).map(|_| request()).collect();
            let (elapsed, failed) = self.served.transact("bench", requests, in_flight);
            assert_eq!(failed, 0, "the guest never traps");
            elapsed
        };
        Pairs::measure(PAIRS, count, through_service, || self.bare.execute(body, count))
    }

    /// How many iterations of the guest's loop take `time`.
    fn iterations_for(&self, time: Duration) -> u128 {
        const PROBE: &[u8] = b"1000000";
        // The fastest of some: a slower one was disturbed.
        let probe = (0..20).map(|_| self.bare.execute(PROBE, 1)).min().expect("some");
        1_000_000 * time.as_nanos() / probe.as_nanos()
    }
}
