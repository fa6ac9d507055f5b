//! What users see of a virtual disk: listings of directories, and parts of files; and the archives with which they give
//! a new service its first files.
//!
//! Each result is short, whatever is on the disk. A reader asks again for the rest, and meanwhile holds nothing of the
//! disk.

mod unpack;

use lifeboat_api::clock::{Timestamp, Utc};
use lifeboat_api::http::{DiskEntry, DiskListing, EntryType};
use lifeboat_api::id::Sequence;
use lifeboat_disk::{Disk, Error, Ino, READ_BYTES_MAX, Stat, Type};

pub use unpack::{ARCHIVE_DISK, ARCHIVE_FILES_BYTES_MAX, ARCHIVE_WORKLOAD, UnpackError, Unpacked, unpack};

/// The most entries of a listing.
pub const LISTING_ENTRIES_MAX: usize = 1_000;

/// The length of the names and targets in a listing after which it ends, in bytes.
pub const LISTING_BYTES_MAX: usize = 256 * 1024;

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The bytes: at most [`READ_BYTES_MAX`], and none at the end of the file.
    pub bytes: Vec<u8>,
    /// The length of the file, in bytes.
    pub file_bytes: u64,
    /// Identifies the contents of the file. Parts with the same version belong together.
    pub version: String,
}

/// Lists the directory that `path` leads to, from the first name after `after` on, or the file that it leads to.
/// `sequence` is the last transaction that the disk shows. Symbolic links are followed as the guest's are.
///
/// # Errors
/// As [`Disk::stat_at`].
pub fn list(disk: &mut Disk, path: &str, after: Option<&str>, sequence: Sequence) -> Result<DiskListing, Error> {
    let stat = disk.stat_at(Ino::ROOT, below_root(path), true)?;
    let mut listing = DiskListing {
        sequence: sequence.0,
        used_bytes: disk.used_bytes(),
        kind: entry_type(stat.kind),
        entries: Vec::new(),
        next: None,
    };
    if stat.kind != Type::Directory {
        listing.entries.push(entry(last_name(path), &stat, None));
        return Ok(listing);
    }
    let mut bytes = 0;
    for (name, kind) in disk.list_after(stat.ino, after)? {
        if listing.entries.len() == LISTING_ENTRIES_MAX || bytes >= LISTING_BYTES_MAX {
            listing.next = listing.entries.last().map(|last| last.name.clone());
            break;
        }
        let target = match kind {
            Type::Link => Some(disk.read_link_at(stat.ino, &name)?),
            Type::File | Type::Directory => None,
        };
        bytes += name.len() + target.as_ref().map_or(0, |target| target.len());
        let of_entry = disk.stat_at(stat.ino, &name, false)?;
        listing.entries.push(entry(&name, &of_entry, target.as_deref()));
    }
    Ok(listing)
}

/// Reads a part of the file that `path` leads to, from `offset` on.
///
/// # Errors
/// [`Error::IsDirectory`], [`Error::Invalid`] for an offset that no file can have, and as [`Disk::stat_at`].
pub fn read(disk: &mut Disk, path: &str, offset: u64) -> Result<Part, Error> {
    let stat = disk.stat_at(Ino::ROOT, below_root(path), true)?;
    if stat.kind == Type::Directory {
        return Err(Error::IsDirectory);
    }
    let bytes = disk.read(stat.ino, offset, READ_BYTES_MAX as u64)?;
    // Not the time of the last change: a guest that sleeps can write at the same time in two transactions.
    let version = blake3::Hash::from_bytes(disk.file_digest(stat.ino)?).to_hex().to_string();
    Ok(Part { bytes, file_bytes: stat.bytes, version })
}

/// Returns a path as the disk resolves it from its root.
fn below_root(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        below => below,
    }
}

/// Returns the last name of a path.
#[must_use]
pub fn last_name(path: &str) -> &str {
    path.rsplit('/').find(|name| !name.is_empty()).unwrap_or_default()
}

fn entry_type(kind: Type) -> EntryType {
    match kind {
        Type::File => EntryType::File,
        Type::Directory => EntryType::Directory,
        Type::Link => EntryType::Link,
    }
}

fn entry(name: &str, stat: &Stat, target: Option<&str>) -> DiskEntry {
    DiskEntry {
        name: name.to_owned(),
        kind: entry_type(stat.kind),
        bytes: stat.bytes,
        inode: stat.ino.get(),
        links: stat.links,
        modified: format!("{:.9}", Utc(Timestamp(stat.times.modified_ns))),
        target: target.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_disk::{Call, Mark, OpenHow};

    fn disk() -> Disk {
        let mut disk = Disk::new(0);
        enter(&mut disk, 1);
        disk
    }

    fn enter(disk: &mut Disk, now_ns: u64) {
        disk.enter(Call { now_ns, mark: Mark::new(now_ns, 0), limit_bytes: 1 << 30, is_read_only: false });
    }

    fn write(disk: &mut Disk, path: &str, bytes: &[u8]) {
        let how = OpenHow { create: true, write: true, ..OpenHow::default() };
        let (ino, _) = disk.open_at(Ino::ROOT, path, how).expect("opened");
        disk.write(ino, 0, bytes).expect("written");
        disk.close(ino);
    }

    #[test]
    fn a_long_directory_is_listed_in_parts_without_gaps() {
        let mut disk = disk();
        let names: Vec<String> = (0..2 * LISTING_ENTRIES_MAX + 1).map(|number| format!("{number:05}")).collect();
        for name in &names {
            write(&mut disk, name, b"");
        }
        let (mut found, mut after, mut parts) = (Vec::new(), None::<String>, 0);
        loop {
            let listing = list(&mut disk, "/", after.as_deref(), Sequence(7)).expect("a directory");
            assert_eq!((listing.sequence, listing.used_bytes), (7, disk.used_bytes()));
            found.extend(listing.entries.into_iter().map(|entry| entry.name));
            parts += 1;
            after = listing.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((found, parts), (names, 3));
    }

    #[test]
    fn long_targets_end_a_listing_early() {
        let mut disk = disk();
        let target = "x/".repeat(2_000);
        for number in 0..100 {
            disk.symlink_at(&target, Ino::ROOT, &format!("{number:03}")).expect("made");
        }
        let listing = list(&mut disk, "", None, Sequence(0)).expect("a directory");
        assert_eq!(listing.entries.len(), LISTING_BYTES_MAX.div_ceil(4_003));
        assert_eq!(listing.next.as_ref(), listing.entries.last().map(|entry| &entry.name));
        assert_eq!(listing.entries.first().and_then(|entry| entry.target.as_ref()), Some(&target));
    }

    #[test]
    fn the_parts_of_a_file_have_one_version_until_it_changes() {
        let mut disk = disk();
        write(&mut disk, "a", &[7; READ_BYTES_MAX + 5]);
        let first = read(&mut disk, "//a", 0).expect("a file");
        let second = read(&mut disk, "a", READ_BYTES_MAX as u64).expect("a file");
        assert_eq!((first.bytes.len(), &*second.bytes), (READ_BYTES_MAX, &[7; 5][..]));
        assert_eq!((first.file_bytes, &first.version), (READ_BYTES_MAX as u64 + 5, &second.version));
        assert_eq!(read(&mut disk, "a", u64::MAX), Err(Error::Invalid));
        // A transaction whose guest sleeps may end at the time at which the next one writes.
        write(&mut disk, "a", b"8");
        let changed = read(&mut disk, "a", 0).expect("a file");
        assert_eq!(changed.file_bytes, first.file_bytes);
        assert_ne!(changed.version, first.version);
        write(&mut disk, "a", &[7]);
        assert_eq!(read(&mut disk, "a", 0).expect("a file").version, first.version);
    }

    #[test]
    fn a_path_leads_nowhere_but_into_the_disk() {
        let mut disk = disk();
        disk.create_directory_at(Ino::ROOT, "d").expect("made");
        for (path, expected) in
            [("../etc", Error::NotPermitted), ("/d/../../x", Error::NotPermitted), ("a\0", Error::Invalid)]
        {
            assert_eq!(list(&mut disk, path, None, Sequence(0)), Err(expected), "{path:?}");
            assert_eq!(read(&mut disk, path, 0), Err(expected), "{path:?}");
        }
        assert_eq!(read(&mut disk, "d", 0), Err(Error::IsDirectory));
        assert_eq!(list(&mut disk, "d/", Some("zz"), Sequence(0)).expect("a directory").entries, []);
    }
}
