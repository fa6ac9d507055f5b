//! The virtual disk as a guest sees it, through preview 1.

use crate::rig::{MIB, Rig, guest_bytes, name};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_vm::instance::{Call, Instance, MoveError};
use lifeboat_vm::network::Network;
use lifeboat_vm::store::{Allowance, Inputs};
use lifeboat_vm::workload::{LoadLimits, load};
use std::time::Duration;

const DISK_BYTES: u64 = 64 * 1024;

const ALLOWANCE: Allowance = Allowance {
    fuel: 100_000_000,
    memory_bytes: 8 * MIB,
    disk_bytes: DISK_BYTES,
    inputs: Inputs::Live { deadline: Duration::from_secs(60) },
};

/// A guest with a disk, and the number of its last transaction.
struct Guest {
    _rig: Rig,
    instance: Instance,
    sequence: u64,
    user: Name,
}

impl Guest {
    async fn start() -> Self {
        let rig = Rig::new();
        let workload =
            load("files.wat", &guest_bytes("files.wat"), &LoadLimits::default()).expect("the loader takes it");
        let program = rig.host.compile(workload).await.expect("it compiles");
        let instance = Instance::create(&program, [7; 32], ALLOWANCE, Disk::new(0)).await;
        Self { _rig: rig, instance: instance.expect("it starts"), sequence: 0, user: name("ada") }
    }

    fn call<'a>(sequence: u64, user: &'a Name, body: &'a str) -> Call<'a> {
        let (sequence, timestamp) = (Sequence(sequence), Timestamp(sequence * 1_000_000_000));
        Call { id: "t", user, sequence, timestamp, epoch: Epoch::default(), body: body.as_bytes() }
    }

    /// Executes a transaction, and returns the reply, or the guest's error, or the cause of its failure.
    async fn execute(&mut self, body: &str) -> String {
        self.sequence += 1;
        let call = Self::call(self.sequence, &self.user, body);
        text(self.instance.execute(call, ALLOWANCE, Network::None).await.answer)
    }

    async fn query(&mut self, body: &str) -> String {
        let call = Self::call(self.sequence, &self.user, body);
        text(self.instance.query(call, ALLOWANCE).await.answer)
    }
}

fn text(answer: Answer) -> String {
    match answer {
        Answer::Ok(reply) => String::from_utf8(reply.to_vec()).expect("text"),
        Answer::Refused(text) => text,
        Answer::Failed(cause) => format!("failed: {cause}"),
    }
}

#[tokio::test]
async fn a_file_lasts_from_transaction_to_transaction() {
    let mut guest = Guest::start().await;
    assert_eq!(guest.execute("r").await, "errno 44", "there is no file yet");
    assert_eq!(guest.execute("wone ").await, "");
    assert_eq!(guest.execute("wtwo").await, "");
    assert_eq!(guest.execute("r").await, "one two");
    assert_eq!(guest.execute("d").await, "");
    assert_eq!(guest.execute("r").await, "errno 44");
}

#[tokio::test]
async fn what_a_query_writes_is_gone_after_it() {
    let mut guest = Guest::start().await;
    guest.execute("wone").await;
    assert_eq!(guest.query("wtwo").await, "");
    assert_eq!(guest.query("r").await, "one");
    assert_eq!(guest.execute("r").await, "one");
}

#[tokio::test]
async fn a_file_that_was_left_open_cannot_be_used_by_the_next_transaction() {
    let mut guest = Guest::start().await;
    guest.execute("wone").await;
    assert_eq!(guest.execute("k").await, "");
    assert_eq!(guest.execute("u").await, "errno 08", "a bad descriptor");
    // The guest and its other files are unaffected.
    assert_eq!(guest.execute("r").await, "one");
}

#[tokio::test]
async fn an_export_that_changes_the_disk_is_refused_by_it() {
    let mut guest = Guest::start().await;
    guest.execute("wone").await;
    let exported = guest.instance.snapshot(Sequence(guest.sequence), Timestamp(1), ALLOWANCE).await;
    let Err(MoveError::Refused { text, .. }) = exported else { panic!("{exported:?}") };
    assert_eq!(text, "errno 69", "a read-only disk");
    assert_eq!(guest.execute("r").await, "one");
}

#[tokio::test]
async fn a_transaction_that_fills_the_disk_fails() {
    let mut guest = Guest::start().await;
    guest.execute("wone").await;
    let used_bytes = guest.instance.disk().used_bytes();
    assert_eq!(used_bytes, 1_024 + 3 + 3);
    let long = format!("w{}", "x".repeat(70_000));
    let failed = guest.execute(&long).await;
    assert!(
        failed.starts_with("failed: ") && failed.contains("disk: ") && failed.contains("limit of 64 KiB"),
        "{failed}"
    );
    assert!(guest.instance.is_dead());
}
