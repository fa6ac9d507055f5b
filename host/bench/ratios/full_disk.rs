//! The memory of a full disk, compared with its quota.
//!
//! Each number is the difference between two separate processes, of which only one has something on its disk.

use crate::child::{Child, wait_for_parent};
use crate::pairs::{PAIRS_MIN, Pairs};
use crate::report::{Row, print};
use lifeboat_disk::{Call, Disk, Error, Ino, Mark, OpenHow, Result};

/// The quota of the disks, in bytes.
const QUOTA_BYTES: u64 = 256 * 1024 * 1024;

/// The bytes that one write to the large file takes.
const WRITE_BYTES: usize = 64 * 1024;

/// The bytes of a small file.
const SMALL_BYTES: usize = 1024;

/// The name of the child whose disk has nothing on it.
pub(crate) const NOTHING: &str = "full-disk-nothing";

/// The name of the child whose disk is full of one file.
pub(crate) const ONE_FILE: &str = "full-disk-one-file";

/// The name of the child whose disk is full of small files.
pub(crate) const SMALL_FILES: &str = "full-disk-small-files";

/// The name of the child whose disk is full of empty files.
pub(crate) const EMPTY_FILES: &str = "full-disk-empty-files";

/// Measures the resident bytes of full disks.
pub(crate) fn memory() -> Vec<Row> {
    let resident_bytes = |child| Child::start(child).resident_bytes();
    let row = |(a, child, target)| {
        let pairs = (0..PAIRS_MIN).map(|_| {
            let nothing = resident_bytes(NOTHING);
            (resident_bytes(child).saturating_sub(nothing), QUOTA_BYTES)
        });
        let (pairs, target) = (Pairs::of_bytes(pairs, 1), Some(target));
        Row { name: "resident bytes of a full disk", a, b: "its quota, 256 MiB", pairs, target }
    };
    [("one file", ONE_FILE, 1.05), ("files of 1 KiB", SMALL_FILES, 1.2), ("empty files", EMPTY_FILES, 1.2)]
        .map(row)
        .into()
}

/// Makes a disk, fills it by `fill`, which ends with an error when the disk is full, and waits.
pub(crate) fn hold(fill: fn(&mut Disk) -> Result<()>) {
    let mut disk = Disk::new(0);
    disk.enter(Call { now_ns: 1, mark: Mark::new(1, 1), limit_bytes: QUOTA_BYTES, is_read_only: false });
    if let Err(error) = fill(&mut disk) {
        assert!(matches!(error, Error::Full { .. }), "{error:?}");
        // What does not fit is less than a write.
        assert!(disk.used_bytes() > QUOTA_BYTES - WRITE_BYTES as u64, "{disk:?}");
    }
    print("ready");
    wait_for_parent();
    drop(disk);
}

/// Leaves a disk as it is.
#[expect(clippy::unnecessary_wraps, reason = "it is called like those that fill a disk")]
pub(crate) fn nothing(_: &mut Disk) -> Result<()> {
    Ok(())
}

/// Fills a disk with one file.
pub(crate) fn one_file(disk: &mut Disk) -> Result<()> {
    let file = create(disk, "file")?;
    loop {
        disk.append(file, &[1; WRITE_BYTES])?;
    }
}

/// Fills a disk with files of [`SMALL_BYTES`] bytes.
pub(crate) fn small_files(disk: &mut Disk) -> Result<()> {
    fill_with_files(disk, &[1; SMALL_BYTES])
}

/// Fills a disk with empty files.
pub(crate) fn empty_files(disk: &mut Disk) -> Result<()> {
    fill_with_files(disk, &[])
}

fn fill_with_files(disk: &mut Disk, contents: &[u8]) -> Result<()> {
    for index in 0_u64.. {
        let file = create(disk, &format!("file-{index}"))?;
        disk.write(file, 0, contents)?;
        disk.close(file);
    }
    Ok(())
}

fn create(disk: &mut Disk, name: &str) -> Result<Ino> {
    let how = OpenHow { create: true, exclusive: true, write: true, ..OpenHow::default() };
    disk.open_at(Ino::ROOT, name, how).map(|(file, _)| file)
}
