//! The cost of a failover, compared with the guest's own export and restore.

use crate::bare::guest_runtime;
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{SECRET, Served, anonymous};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::{Call, Instance};
use lifeboat_vm::network::Network;
use lifeboat_vm::rehydrate::{MAINTENANCE_DEADLINE, MAINTENANCE_FUEL};
use lifeboat_vm::store::{Allowance, Inputs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

const PAIRS: usize = 51;

/// The number of accounts that make a megabyte of exported state.
const ACCOUNTS: u32 = 60_000;

const ALLOWANCE: Allowance = Allowance {
    fuel: MAINTENANCE_FUEL,
    memory_bytes: 128 * 1024 * 1024,
    disk_bytes: 1024 * 1024,
    inputs: Inputs::Live { deadline: MAINTENANCE_DEADLINE },
};

/// Measures forced failovers of a one-megabyte ledger, compared with an export and restore of the same accounts by
/// hand. Both states are compact each time: the previous turn restored them.
pub(crate) fn failover() -> Vec<Row> {
    let served = Served::new();
    let program = served.compile("ledger.wasm");
    served.start("bank", &program);
    served.transact("bank", (0..ACCOUNTS).map(|account| anonymous(deposit(account))), 256);
    let ledger = Ledger::open(program);

    let by_service = || {
        let failover = served.fail_over("bank");
        assert!(
            (1_000_000..1_100_000).contains(&failover.snapshot_bytes),
            "{} bytes of state",
            failover.snapshot_bytes
        );
        assert_eq!(failover.replayed_transactions, 0, "it is direct");
        failover.pause
    };
    let pairs = Pairs::measure(PAIRS, 1, by_service, || ledger.export_and_restore());
    let (a, b) = ("forced failover, its pause", "the guest's export and restore");
    vec![Row { name: "failover, 1 MB of ledger", a, b, pairs, target: Some(1.2) }]
}

fn deposit(account: u32) -> String {
    format!(r#"{{"deposit":{{"account":"account-{account:06}","amount":{}}}}}"#, 1 + account % 1000)
}

/// A ledger without a service.
struct Ledger {
    program: Arc<Program>,
    runtime: tokio::runtime::Runtime,
    instance: Arc<Mutex<Instance>>,
}

impl Ledger {
    /// Opens every account.
    fn open(program: Arc<Program>) -> Self {
        let runtime = guest_runtime();
        let instance = runtime.block_on(async {
            let mut instance =
                Instance::create(&program, SECRET, ALLOWANCE, Disk::new(0)).await.expect("it instantiates");
            for account in 0..ACCOUNTS {
                let body = deposit(account);
                let sequence = Sequence(u64::from(account) + 1);
                let call = Call {
                    id: "1",
                    user: "ada",
                    sequence,
                    timestamp: Timestamp(1),
                    epoch: Epoch::default(),
                    body: body.as_bytes(),
                };
                let attempt = instance.execute(call, ALLOWANCE, Network::None).await;
                assert!(matches!(attempt.answer, Answer::Ok(_)), "{:?}", attempt.answer);
            }
            instance
        });
        Self { program, runtime, instance: Arc::new(Mutex::new(instance)) }
    }

    /// Exports the state, restores it into an existing instance, and continues in that instance.
    fn export_and_restore(&self) -> Duration {
        let program = Arc::clone(&self.program);
        let instance = Arc::clone(&self.instance);
        let task = self.runtime.spawn(async move {
            let mut fresh = Instance::create(&program, SECRET, ALLOWANCE, Disk::new(0)).await.expect("it instantiates");
            let mut instance = instance.lock().await;
            let start = Instant::now();
            let exported = instance.snapshot(Sequence(u64::from(ACCOUNTS)), Timestamp(1), ALLOWANCE).await;
            let (snapshot, _) = exported.expect("it exports");
            fresh.restore(&Arc::new(snapshot), ALLOWANCE).await.expect("it restores");
            let elapsed = start.elapsed();
            *instance = fresh;
            elapsed
        });
        self.runtime.block_on(task).expect("it does not panic")
    }
}
