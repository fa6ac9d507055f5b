//! Snapshots of a disk under random operations, copies, rollbacks and failed writes.
//!
//! The operations are those of the comparison with Linux. The model of a machine's disk is a map from the numbers of
//! packs to their bytes, beside the last two tables; a pack that neither table refers to is deleted. Each retained
//! snapshot must give the disk that it was made of.

#![forbid(unsafe_code)]

#[path = "../as_linux/guest.rs"]
mod guest;
mod ratio;
#[path = "../as_linux/steps.rs"]
mod steps;
mod store;

use guest::Guest;
use lifeboat_disk::{Call, Disk, Export, Hash, Ino, Mark, Stat, Type};
use proptest::prelude::*;
use steps::Step;
use store::Store;

/// What happens between two operations.
#[derive(Debug, Clone)]
enum Event {
    /// An export begins. It ends before the next event, with this outcome.
    Export(Written),
    /// The guest's disk is copied.
    Copy,
    /// The guest goes on with the last copy.
    Rollback,
}

/// What became durable of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    /// The pack, but not the table.
    Pack,
    All,
}

/// All that a guest can find out about a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    digest: Hash,
    used_bytes: u64,
    inodes: usize,
    all: Vec<(String, Stat, Vec<u8>)>,
}

impl State {
    fn of(disk: &Disk) -> Self {
        let digest = disk.digest();
        let mut disk = disk.clone();
        let mut all = vec![(String::new(), disk.stat(Ino::ROOT).expect("the root"), Vec::new())];
        let mut directories = vec![(Ino::ROOT, String::new())];
        while let Some((directory, path)) = directories.pop() {
            for (name, kind) in disk.list(directory).expect("a directory") {
                let stat = disk.stat_at(directory, &name, false).expect("a listed entry");
                let path = format!("{path}/{name}");
                let bytes = match kind {
                    Type::File => disk.read(stat.ino, 0, stat.bytes).expect("a file"),
                    Type::Link => disk.read_link_at(directory, &name).expect("a link").as_bytes().to_vec(),
                    Type::Directory => {
                        directories.push((stat.ino, path.clone()));
                        // `..` leads to the parent.
                        let parent = disk.stat_at(Ino::ROOT, &format!("{}/..", &path[1..]), false);
                        assert_eq!(parent.map(|parent| parent.ino), Ok(directory));
                        Vec::new()
                    }
                };
                all.push((path, stat, bytes));
            }
        }
        Self { digest, used_bytes: disk.used_bytes(), inodes: disk.inodes(), all }
    }
}

/// An export that is being written, and the disk that it was made of.
struct Pending {
    export: Export,
    written: Written,
    state: State,
}

fn call(sequence: usize, limit_bytes: u64) -> Call {
    let mark = Mark::new(1 + sequence as u64 / 4, 1);
    Call { now_ns: sequence as u64, mark, limit_bytes, is_read_only: false }
}

fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let written = prop_oneof![1 => Just(Written::Nothing), 1 => Just(Written::Pack), 4 => Just(Written::All)];
    let event = prop_oneof![5 => written.prop_map(Event::Export), 1 => Just(Event::Copy), 1 => Just(Event::Rollback)];
    prop::collection::vec((0..74usize, event), 0..40)
}

/// Ends an export, and checks all snapshots that are retained.
fn finish(pending: &mut Option<Pending>, store: &mut Store<State>) {
    let Some(Pending { export, written, state }) = pending.take() else { return };
    assert_eq!(export.digest(), &state.digest);
    if written != Written::Nothing {
        store.write_pack(&export);
    }
    if written == Written::All {
        store.write_table(&export, state);
    }
    if written == Written::Nothing {
        drop(export);
    } else {
        export.commit();
    }
    store.delete_packs();
    for snapshot in store.retained() {
        assert_eq!(State::of(&store.import(snapshot)), snapshot.state);
    }
}

/// Runs the same steps on two disks. Both must give the same outcomes for the same fuel.
fn run_on_both(one: &mut Guest, two: &mut Guest, step: &Step, call: Call) {
    one.disk.enter(call);
    two.disk.enter(call);
    assert_eq!(one.run(step), two.run(step), "{step:?}");
    assert_eq!(one.disk.take_fuel(), two.disk.take_fuel(), "{step:?}");
}

proptest! {
    #[test]
    fn each_retained_snapshot_is_the_disk_that_it_was_made_of(
        steps in steps::steps(),
        more in steps::steps(),
        events in events(),
        limit_bytes in prop::sample::select(vec![60_000, 600_000]),
    ) {
        let mut guest = Guest::new(Disk::new(0));
        // The same guest without snapshots: its fuel must be the same.
        let mut plain = Guest::new(Disk::new(0));
        let mut copies = (guest.disk.clone(), plain.disk.clone());
        let mut store = Store::default();
        let mut pending = None;
        for (sequence, step) in steps.iter().enumerate() {
            for (_, event) in events.iter().filter(|(at, _)| *at == sequence) {
                finish(&mut pending, &mut store);
                match event {
                    Event::Export(written) => {
                        let state = State::of(&guest.disk);
                        let export = guest.disk.export(store.next_number(), &store.packs());
                        pending = Some(Pending { export, written: *written, state });
                    }
                    Event::Copy => copies = (guest.disk.clone(), plain.disk.clone()),
                    Event::Rollback => {
                        guest = Guest::new(copies.0.clone());
                        plain = Guest::new(copies.1.clone());
                    }
                }
            }
            run_on_both(&mut guest, &mut plain, step, call(sequence, limit_bytes));
            prop_assert_eq!(guest.disk.digest(), plain.disk.digest());
        }
        finish(&mut pending, &mut store);

        guest.disk.close_all();
        guest.disk.take_fuel();
        let export = guest.disk.export(store.next_number(), &store.packs());
        pending = Some(Pending { export, written: Written::All, state: State::of(&guest.disk) });
        finish(&mut pending, &mut store);
        let last = store.retained().last().expect("it was just written");
        let (mut read, mut guest) = (Guest::new(store.import(last)), Guest::new(guest.disk));
        for (sequence, step) in more.iter().enumerate() {
            run_on_both(&mut read, &mut guest, step, call(1_000 + sequence, limit_bytes));
        }
        prop_assert_eq!(State::of(&read.disk), State::of(&guest.disk));
    }

    #[test]
    fn equal_disks_give_equal_tables(steps in steps::steps()) {
        let mut guest = Guest::new(Disk::new(0));
        let mut shared = Guest::new(Disk::new(0));
        let mut copies = Vec::new();
        for (sequence, step) in steps.iter().enumerate() {
            copies.push(shared.disk.clone());
            run_on_both(&mut guest, &mut shared, step, call(sequence, 600_000));
        }
        let none = lifeboat_disk::Packs::new();
        let (one, two) = (guest.disk.export(1, &none), shared.disk.export(1, &none));
        prop_assert_eq!(one.table(), two.table());
        prop_assert!(one.pack().eq(two.pack()));
    }
}
