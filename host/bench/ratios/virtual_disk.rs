//! Virtual disks: copies, snapshots, and failovers of services with much on them.

use crate::guests;
use crate::pairs::Pairs;
use crate::report::Row;
use crate::served::{Served, anonymous};
use lifeboat_disk::{Call, Disk, Ino, Mark, OpenHow, Packs};
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

const PAIRS: usize = 51;
const MIB: u64 = 1024 * 1024;

/// The bytes that one write takes.
const WRITE_BYTES: usize = 64 * 1024;

/// The copies for one measured time.
const COPIES: u32 = 1_000;

/// The disk of a service that fails over, in bytes.
const DISK_BYTES: u64 = 2 * 1024 * MIB;

/// A disk with one file, and the number of calls so far.
struct Filled {
    disk: Disk,
    file: Ino,
    call: u64,
    packs: Packs,
    snapshots: u64,
}

impl Filled {
    fn new(bytes: u64) -> Self {
        let mut filled = Self { disk: Disk::new(0), file: Ino::ROOT, call: 0, packs: Packs::new(), snapshots: 0 };
        filled.enter();
        let how = OpenHow { create: true, write: true, ..OpenHow::default() };
        (filled.file, _) = filled.disk.open_at(Ino::ROOT, "file", how).expect("there is room");
        filled.write(bytes, 0);
        filled.disk.close_all();
        filled
    }

    fn enter(&mut self) {
        self.call += 1;
        let mark = Mark::new(self.call, 1);
        self.disk.enter(Call { now_ns: self.call, mark, limit_bytes: 4 << 30, is_read_only: false });
    }

    /// Writes the first `bytes` of the file, with other bytes for each `seed`.
    fn write(&mut self, bytes: u64, seed: u64) {
        self.enter();
        let mut buffer = vec![0_u8; WRITE_BYTES];
        for at in (0..bytes).step_by(WRITE_BYTES) {
            // No two chunks are equal.
            for (index, part) in buffer.chunks_exact_mut(8).enumerate() {
                part.copy_from_slice(&((seed << 40) ^ (at + index as u64)).to_le_bytes());
            }
            self.disk.write(self.file, at, &buffer).expect("there is room");
        }
    }

    /// Exports a copy, writes table and pack to files, and syncs them, as the task that writes snapshots does.
    fn snapshot(&mut self, folder: &std::path::Path) -> Duration {
        let copy = self.disk.clone();
        self.snapshots += 1;
        let start = Instant::now();
        let export = copy.export(self.snapshots, &self.packs);
        let write = |name: &str, parts: &mut dyn Iterator<Item = &[u8]>| {
            let mut file = std::fs::File::create(folder.join(name)).expect("there is room");
            for part in parts {
                file.write_all(part).expect("there is room");
            }
            file.sync_data().expect("the disk works");
        };
        write("pack", &mut export.pack());
        write("table", &mut std::iter::once(export.table()));
        let elapsed = start.elapsed();
        self.packs = export.packs().clone();
        export.commit();
        elapsed
    }
}

/// Measures copies of a disk with 64 MiB, against one with 1 MiB.
pub(crate) fn copies() -> Vec<Row> {
    let (large, small) = (Filled::new(64 * MIB), Filled::new(MIB));
    let copies = |disk: &Disk| {
        let start = Instant::now();
        for _ in 0..COPIES {
            black_box(disk.clone());
        }
        start.elapsed()
    };
    let pairs = Pairs::measure(PAIRS, COPIES, || copies(&large.disk), || copies(&small.disk));
    vec![Row { name: "copy of a disk", a: "with 64 MiB", b: "with 1 MiB", pairs, target: Some(2.0) }]
}

/// Measures snapshots after 16 MiB were written anew, on a disk with 1 GiB against one with 64 MiB.
pub(crate) fn snapshots() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut large, mut small) = (Filled::new(1024 * MIB), Filled::new(64 * MIB));
    // The first snapshot has every chunk.
    large.snapshot(folder.path());
    small.snapshot(folder.path());
    let mut seed = 0;
    let mut next = || {
        seed += 1;
        seed
    };
    let pairs = (0..PAIRS).map(|_| {
        let turn = next();
        let one = |filled: &mut Filled| {
            filled.write(16 * MIB, turn);
            filled.snapshot(folder.path())
        };
        (one(&mut large), one(&mut small))
    });
    let pairs = Pairs::of(pairs.collect::<Vec<_>>(), 1);
    let (a, b) = ("of 1 GiB", "of 64 MiB");
    vec![Row { name: "snapshot of a disk, 16 MiB of it new", a, b, pairs, target: Some(2.0) }]
}

/// A service with a file.
struct WithFile {
    served: Served,
    file_bytes: u64,
}

impl WithFile {
    /// Starts a service, and writes `mib` MiB.
    fn new(mib: u32) -> Self {
        let served = Served::new();
        let program = served.compile_bytes(guests::WRITER, &guests::writer());
        served.start_with_disk("files", &program, DISK_BYTES);
        // 16 times 64 KiB.
        served.transact("files", (0..mib).map(|_| anonymous("a16")), 1);
        Self { served, file_bytes: u64::from(mib) * MIB }
    }

    /// Writes to the disk, forces a failover, and returns its pause.
    fn fail_over(&self) -> Duration {
        self.served.transact("files", [anonymous("o1")], 1);
        let failover = self.served.fail_over("files");
        assert!((self.file_bytes..self.file_bytes + MIB).contains(&failover.disk_bytes), "{failover}");
        assert_eq!(failover.replayed_transactions, 0, "it is direct");
        failover.pause
    }
}

/// Measures forced failovers of a service with 1 GiB on its disk, against one with 1 MiB.
pub(crate) fn failovers() -> Vec<Row> {
    let (large, small) = (WithFile::new(1_024), WithFile::new(1));
    let pairs = Pairs::measure(2 * PAIRS, 1, || large.fail_over(), || small.fail_over());
    let (a, b) = ("1 GiB of disk", "1 MiB of disk");
    vec![Row { name: "failover with a disk, its pause", a, b, pairs, target: Some(1.2) }]
}
