//! What long runs write and keep.

use crate::store::Store;
use lifeboat_disk::{CHUNK_BYTES, Call, Disk, Hash, Ino, Mark, OpenHow, Origin, PACK_PARTS_MAX, PACKS_MAX, Packs};

const CHUNK: u64 = CHUNK_BYTES as u64;

/// The chunks of the disk.
const CHUNKS: u64 = 1_024;

/// The chunks that are written between two snapshots.
const DIRTY: u64 = 64;

const SNAPSHOTS: u64 = 500;

fn call(sequence: u64) -> Call {
    Call { now_ns: 1, mark: Mark::new(sequence, 1), limit_bytes: 1 << 30, is_read_only: false }
}

fn create(disk: &mut Disk, name: &str) -> Ino {
    let how = OpenHow { create: true, write: true, ..OpenHow::default() };
    disk.open_at(Ino::ROOT, name, how).expect("there is room").0
}

/// Numbers that are always the same: xorshift64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Returns the bytes of a chunk that no other has.
fn bytes(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(CHUNK_BYTES / 8)
}

/// Runs a guest that writes the chunks that `choose` names. Returns the bytes written to packs for each new byte.
#[expect(clippy::print_stdout, reason = "the figures are for those who change the rule")]
fn ratio_of(name: &str, mut choose: impl FnMut(&mut Numbers, u64) -> u64) -> f64 {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let file = create(&mut disk, "file");
    for index in 0..CHUNKS {
        disk.write(file, index * CHUNK, &bytes(index)).expect("there is room");
    }
    let (mut numbers, mut written) = (Numbers(81_537_243), CHUNKS);
    let mut store: Store<Hash> = Store::default();
    let (mut new_bytes, mut kept_most) = (0, 0);
    for snapshot in 0..SNAPSHOTS {
        disk.enter(call(2 + snapshot));
        for step in 0..DIRTY {
            let index = choose(&mut numbers, snapshot * DIRTY + step) % CHUNKS;
            disk.write(file, index * CHUNK, &bytes(written)).expect("there is room");
            written += 1;
        }
        let export = disk.export(store.next_number(), &store.packs());
        new_bytes += export.new_bytes();
        let packed: u64 = export.packs().values().sum();
        assert!(packed <= PACK_PARTS_MAX * CHUNKS * CHUNK, "{name}: {packed} bytes");
        store.write_pack(&export);
        store.write_table(&export, disk.digest());
        export.commit();
        store.delete_packs();
        kept_most = kept_most.max(store.kept_bytes());
    }
    for snapshot in store.retained() {
        assert_eq!(store.import(snapshot).digest(), snapshot.state);
    }
    let ratio = store.written_bytes as f64 / new_bytes as f64;
    let kept = kept_most as f64 / (CHUNKS * CHUNK) as f64;
    println!("{name}: {ratio:.3} bytes written for each new byte, at most {kept:.2} kept for each byte of the disk");
    ratio
}

/// Returns a chunk: in `percent` cases of a hundred one of the first `part` hundredths, else any.
fn skewed(numbers: &mut Numbers, percent: u64, part: u64) -> u64 {
    let end = if numbers.below(100) < percent { CHUNKS * part / 100 } else { CHUNKS };
    numbers.below(end)
}

#[test]
fn long_runs_write_at_most_one_and_a_half_times_the_new_bytes() {
    let ratios = [
        ratio_of("uniform", |numbers, _| numbers.below(CHUNKS)),
        ratio_of("seven of ten in three tenths", |numbers, _| skewed(numbers, 70, 30)),
        ratio_of("nine of ten in a tenth", |numbers, _| skewed(numbers, 90, 10)),
        ratio_of("95 of 100 in a twentieth", |numbers, _| skewed(numbers, 95, 5)),
        ratio_of("the same chunks again", |_, step| step % DIRTY),
        ratio_of("a ring", |_, step| step),
        ratio_of("each seventh chunk", |_, step| step * 7),
        ratio_of("random in one half", |numbers, step| if step % 2 == 0 { numbers.below(CHUNKS / 2) } else { step }),
    ];
    assert!(ratios.iter().all(|ratio| *ratio <= 1.5), "{ratios:?}");
}

#[test]
fn a_snapshot_without_changes_has_no_pack() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let file = create(&mut disk, "file");
    disk.write(file, 0, &bytes(1)).expect("there is room");
    let first = disk.export(1, &Packs::new());
    let (table, packs) = (first.table().to_vec(), first.packs().clone());
    assert_eq!(packs, Packs::from([(1, CHUNK)]));
    first.commit();
    let second = disk.export(2, &packs);
    assert_eq!((second.pack().count(), second.pack_bytes()), (0, 0));
    assert_eq!((second.table(), second.packs()), (&*table, &packs));
}

#[test]
fn an_export_without_known_packs_has_every_chunk_once() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    for (name, number) in [("a", 1), ("b", 1), ("c", 2)] {
        let file = create(&mut disk, name);
        disk.write(file, 0, &bytes(number)).expect("there is room");
    }
    let own = disk.export(1, &Packs::new());
    let packs = own.packs().clone();
    own.commit();
    let portable = disk.export(9, &Packs::new());
    assert_eq!((portable.new_bytes(), portable.packs()), (2 * CHUNK, &Packs::from([(9, 2 * CHUNK)])));
    // It leaves the places alone: the next snapshot needs no pack.
    let file: Vec<u8> = portable.pack().flatten().copied().collect();
    assert_eq!(disk.export(2, &packs).pack_bytes(), 0);
    let read = |origin| {
        let imported = Disk::import(portable.table(), origin, |place, len, _| {
            Ok::<_, ()>(file[place.offset as usize..][..len].to_vec())
        });
        imported.expect("nothing is damaged")
    };
    let imported = read(Origin::Elsewhere);
    assert_eq!(imported.disk.digest(), disk.digest());
    // A pack of the new disk with the same number is another one.
    assert_eq!(imported.disk.export(10, &imported.packs).new_bytes(), 2 * CHUNK);
    assert_eq!(read(Origin::OwnPacks).disk.export(10, &imported.packs).new_bytes(), 0);
}

#[test]
fn a_write_after_an_export_does_not_change_it() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let file = create(&mut disk, "file");
    disk.write(file, 0, &bytes(1)).expect("there is room");
    disk.write(file, CHUNK, &bytes(2)).expect("there is room");
    let export = disk.export(1, &Packs::new());
    let before: Vec<u8> = export.pack().flatten().copied().collect();
    disk.write(file, 5, b"later").expect("there is room");
    disk.set_size(file, CHUNK + 7).expect("less");
    assert!(export.pack().flatten().copied().eq(before));
    let packs = export.packs().clone();
    export.commit();
    // What the pack stores is not what the file has now.
    assert_eq!(disk.export(2, &packs).new_bytes(), CHUNK + 7);
}

#[test]
fn chunks_of_a_failed_pack_are_stored_again() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let file = create(&mut disk, "file");
    disk.write(file, 0, &bytes(1)).expect("there is room");
    drop(disk.export(1, &Packs::new()));
    let second = disk.export(2, &Packs::from([(1, CHUNK)]));
    assert_eq!((second.new_bytes(), second.packs()), (CHUNK, &Packs::from([(2, CHUNK)])));
}

#[test]
fn bytes_that_a_pack_stores_for_another_file_are_not_stored_again() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let files = ["a", "b"].map(|name| create(&mut disk, name));
    disk.write(files[1], 0, &bytes(1)).expect("there is room");
    let first = disk.export(1, &Packs::new());
    let packs = first.packs().clone();
    first.commit();
    disk.write(files[0], 0, &bytes(1)).expect("there is room");
    let second = disk.export(2, &packs);
    assert_eq!((second.pack_bytes(), second.packs()), (0, &packs));
}

#[test]
fn a_pack_with_the_number_of_a_known_one_does_not_count_on_it() {
    let mut disk = Disk::new(0);
    disk.enter(call(1));
    let file = create(&mut disk, "file");
    disk.write(file, 0, &bytes(1)).expect("there is room");
    let first = disk.export(1, &Packs::new());
    let packs = first.packs().clone();
    first.commit();
    disk.write(file, CHUNK, &bytes(2)).expect("there is room");
    // The caller is about to replace pack 1.
    assert_eq!(disk.export(1, &packs).new_bytes(), 2 * CHUNK);
}

#[test]
fn the_number_of_packs_has_a_bound() {
    let mut disk = Disk::new(0);
    let (mut packs, mut written, mut new) = (Packs::new(), 0, 0);
    for snapshot in 1..2_000 {
        disk.enter(Call { now_ns: 0, mark: Mark::new(snapshot, 1), limit_bytes: 1 << 30, is_read_only: false });
        let how = OpenHow { create: true, write: true, ..OpenHow::default() };
        let (ino, _) = disk.open_at(Ino::ROOT, &snapshot.to_string(), how).expect("there is room");
        disk.write(ino, 0, format!("{snapshot}").repeat(100).as_bytes()).expect("there is room");
        disk.close_all();
        let export = disk.export(snapshot, &packs);
        written += export.new_bytes() + export.moved_bytes();
        new += export.new_bytes();
        packs = export.packs().clone();
        export.commit();
        assert!(packs.len() <= PACKS_MAX + 1, "{}", packs.len());
    }
    // A byte moves to a larger pack each time.
    assert!(written < 5 * new, "{written} bytes of {new}");
}
