//! What a guest sees of `wasi:http`: every request is denied, whatever the guest does at the time.

use crate::rig::{MIB, Rig, cause, guest_bytes, name, ok, size};
use crate::world::HTTP_WORLD;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_vm::instance::{Call, Instance};
use lifeboat_vm::network::Network;
use lifeboat_vm::store::{Allowance, Inputs};
use lifeboat_vm::workload::{LoadLimits, load};
use std::sync::Arc;

/// The guest, which traps unless its request is denied.
fn guest() -> Vec<u8> {
    HTTP_WORLD.component(std::str::from_utf8(&guest_bytes("assembled/http.wat")).expect("text"))
}

#[tokio::test]
async fn a_request_is_denied_whatever_the_guest_does() {
    let rig = Rig::new();
    // Its start function makes a request.
    rig.start_bytes("guest", &guest(), &[size("s", 50_000_000, 8 * MIB)]).await;
    assert_eq!(ok(&rig.send("guest", "x").await), "1");
    assert_eq!(ok(&rig.query("guest", "x").await), "1");
    // An export, and a restore into a fresh instance.
    assert_eq!(rig.snapshot("guest").await.unmovable, None);
    assert_eq!(rig.fail_over("guest").await.unmovable, None);
    assert_eq!(rig.failovers().len(), 1);
    assert_eq!(ok(&rig.send("guest", "x").await), "2");
    // A replay, after a trap.
    assert!(cause(&rig.send("guest", "boom").await).starts_with("trap: "));
    let status = rig.status("guest").await;
    assert_eq!((status.stopped, status.counts.replayed_transactions), (None, 1));
    assert_eq!(ok(&rig.send("guest", "x").await), "3");
}

#[tokio::test]
async fn a_guest_with_http_costs_the_same_in_a_replay() {
    let rig = Rig::new();
    let workload = load("http.wat", &guest(), &LoadLimits::default()).expect("the loader takes it");
    let program = rig.host.compile(workload).await.expect("it compiles");
    let allowance = Allowance { fuel: 100_000_000, memory_bytes: 8 * MIB, disk_bytes: MIB, inputs: Inputs::Replay };
    let user = name("ada");
    let mut used = Vec::new();
    for _ in 0..2 {
        let mut instance = Instance::create(&program, [7; 32], allowance, Disk::new(0)).await.expect("it starts");
        for sequence in 1..=3 {
            let (sequence, timestamp) = (Sequence(sequence), Timestamp(sequence));
            let call = Call { id: "t", user: &user, sequence, timestamp, epoch: Epoch::default(), body: b"x" };
            let attempt = instance.execute(call, allowance, Network::None).await;
            assert!(matches!(attempt.answer, Answer::Ok(_)), "{:?}", attempt.answer);
            used.push(attempt.fuel_used);
        }
        let snapshot = instance.snapshot(Sequence(3), Timestamp(3), allowance).await.expect("it exports").0;
        let mut fresh = Instance::create(&program, [7; 32], allowance, Disk::new(0)).await.expect("it starts");
        fresh.restore(&Arc::new(snapshot), allowance).await.expect("it restores");
    }
    assert_eq!(used[..3], used[3..]);
}
