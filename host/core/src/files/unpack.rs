//! The archive of a deployment: a workload, and the files with which its service begins.
//!
//! It is a tar archive. Its entry `workload` is the workload, and the entries below `disk/` are the files of the virtual
//! disk. They are written to a disk in memory and nowhere else, so a path leads nowhere but there.

use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_api::text::Printable;
use lifeboat_disk::{Call, Disk, Error, Ino, Mark, OpenHow, PATH_BYTES_MAX, READ_BYTES_MAX, SetTimes, Type};
use lifeboat_vm::workload::MODULE_BYTES_MAX;
use std::io::{self, Read};
use tar::{Archive, Entry, EntryType};
use thiserror::Error;

/// The most bytes of an archive, beside those of a workload.
pub const ARCHIVE_FILES_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The name of the workload in an archive.
pub const ARCHIVE_WORKLOAD: &str = "workload";

/// The directory of the files in an archive.
pub const ARCHIVE_DISK: &str = "disk";

/// The fuel that a guest would burn to make the files of the largest archive: some seconds of host time.
const UNPACK_FUEL_MAX: u64 = 2_000_000_000;

/// The bytes of a tar archive's block: a header, or a part of a file.
const BLOCK_BYTES: usize = 512;

/// The bytes of a path that is too long that an error shows.
const NAME_SHOWN_BYTES: usize = 100;

/// The contents of an archive.
#[derive(Debug)]
pub struct Unpacked {
    /// The workload.
    pub workload: Bytes,
    /// The disk, or `None` if there are no files.
    pub disk: Option<Disk>,
}

/// An archive that cannot be deployed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It is not a tar archive, or is cut off.
    #[error(
        "the body cannot be read as a tar archive: {}; send one that is not compressed, with the entry 'workload', and \
         files below disk/", Printable(&.0.to_string())
    )]
    Archive(io::Error),
    /// It has no workload.
    #[error("the archive has no entry 'workload'; add the workload to it by this name")]
    NoWorkload,
    /// It has several workloads.
    #[error("the archive has more than one entry 'workload'; send one with a single workload")]
    ManyWorkloads,
    /// The workload is too long.
    #[error("the workload in the archive has {}, the limit is {}", ByteCount(*bytes), ByteCount(MODULE_BYTES_MAX))]
    LongWorkload {
        /// Its length, in bytes.
        bytes: u64,
    },
    /// An entry is not a file, directory or link that a virtual disk can have.
    #[error("'{}' in the archive {reason}", Printable(path))]
    Entry {
        /// The path of the entry.
        path: String,
        /// The reason, and the remedy.
        reason: String,
    },
    /// The files use more than the disk has.
    #[error("the files in the archive use more than the {} of the disk; choose a larger size", ByteCount(*limit_bytes))]
    Full {
        /// The limit of the disk, in bytes.
        limit_bytes: u64,
    },
}

/// Unpacks an archive onto a disk of `limit_bytes`, on which everything is made at `now`.
///
/// # Errors
/// [`UnpackError`].
pub fn unpack(archive: &[u8], limit_bytes: u64, now: Timestamp) -> Result<Unpacked, UnpackError> {
    unpack_within(archive, limit_bytes, now, UNPACK_FUEL_MAX)
}

fn unpack_within(archive: &[u8], limit_bytes: u64, now: Timestamp, fuel_max: u64) -> Result<Unpacked, UnpackError> {
    let mut disk = Disk::new(0);
    disk.enter(Call { now_ns: now.0, mark: Mark::default(), limit_bytes, is_read_only: false });
    let mut unpacking = Unpacking {
        disk,
        limit_bytes,
        workload: None,
        directory_times: Vec::new(),
        last_parent: String::new(),
        fuel: 0,
        fuel_max,
        part: vec![0; READ_BYTES_MAX],
    };
    let mut end = 0;
    for entry in Archive::new(archive).entries().map_err(UnpackError::Archive)? {
        let entry = entry.map_err(UnpackError::Archive)?;
        end = entry.raw_file_position().saturating_add(entry.size());
        unpacking.add(entry)?;
    }
    check_end(archive, end)?;
    let Unpacking { mut disk, workload, directory_times, .. } = unpacking;
    // What was added to a directory has set its times.
    for (path, times) in directory_times {
        disk.set_times_at(Ino::ROOT, &path, false, times).map_err(|error| refused(&path, error, limit_bytes))?;
    }
    let workload = workload.ok_or(UnpackError::NoWorkload)?;
    Ok(Unpacked { workload, disk: (!disk.is_untouched()).then_some(disk) })
}

/// Checks that a block of zeros follows on the last entry, which ends at `end`: the mark of an archive's end (POSIX.1,
/// `pax`, "ustar Interchange Format"). The reader takes an archive without it, which may have been cut off between two
/// entries.
fn check_end(archive: &[u8], end: u64) -> Result<(), UnpackError> {
    let block = usize::try_from(end).ok().and_then(|end| end.checked_next_multiple_of(BLOCK_BYTES));
    let block = block.and_then(|start| archive.get(start..)?.get(..BLOCK_BYTES));
    if block.is_some_and(|block| block.iter().all(|byte| *byte == 0)) {
        return Ok(());
    }
    Err(UnpackError::Archive(io::Error::new(io::ErrorKind::UnexpectedEof, "its end is missing")))
}

/// Checks the pax records of an entry. The reader leaves out a record that it cannot read, and reads a sparse file of pax
/// with its map, under another name.
fn check_pax(entry: &mut Entry<'_, &[u8]>) -> Result<(), UnpackError> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let wrong = |reason: &str| UnpackError::Entry { path: path.clone(), reason: reason.to_owned() };
    let Some(records) = entry.pax_extensions().map_err(UnpackError::Archive)? else { return Ok(()) };
    let mut seen = [0; 3];
    for record in records {
        let key = record.map_err(UnpackError::Archive)?.key_bytes();
        if key.starts_with(b"GNU.sparse.") {
            return Err(wrong("is a sparse file; make the archive without the option for sparse files"));
        }
        if let Some(place) = [&b"path"[..], b"linkpath", b"size"].iter().position(|name| *name == key) {
            seen[place] += 1;
        }
    }
    if seen.iter().any(|count| *count > 1) {
        return Err(wrong("has a pax record twice; make the archive with another program"));
    }
    Ok(())
}

struct Unpacking {
    disk: Disk,
    limit_bytes: u64,
    workload: Option<Bytes>,
    /// The directory of the last entry. It is there.
    last_parent: String,
    /// The fuel that a guest would have burnt to make all entries so far.
    fuel: u64,
    /// The most of that.
    fuel_max: u64,
    /// A buffer for parts of files.
    part: Vec<u8>,
    /// The times of the directories so far, by path.
    directory_times: Vec<(String, SetTimes)>,
}

impl Unpacking {
    fn add(&mut self, mut entry: Entry<'_, &[u8]>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let is_long = |name: &[u8]| name.len() > PATH_BYTES_MAX + ARCHIVE_DISK.len() + 1;
        if is_long(&entry.path_bytes()) || entry.link_name_bytes().is_some_and(|name| is_long(&name)) {
            let name = entry.path_bytes();
            let path = String::from_utf8_lossy(name.get(..NAME_SHOWN_BYTES).unwrap_or(&name)).into_owned();
            let reason = format!("has, or leads to, a path of over {PATH_BYTES_MAX} bytes; shorten it");
            return Err(UnpackError::Entry { path, reason });
        }
        check_pax(&mut entry)?;
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let wrong = |reason: &str| UnpackError::Entry { path: shown.clone(), reason: reason.to_owned() };
        let not_text = || wrong("has a name that is not UTF-8; rename it");
        let path = std::str::from_utf8(&entry.path_bytes()).map(plain).map_err(|_| not_text())?;
        if path == ARCHIVE_WORKLOAD && kind.is_file() {
            return self.add_workload(entry);
        }
        let path = match path.strip_prefix(ARCHIVE_DISK) {
            // The root of the disk is there.
            Some("") if kind.is_dir() => return Ok(()),
            // The entry of the archive's own root.
            None if path.is_empty() && kind.is_dir() => return Ok(()),
            Some(below) if below.starts_with('/') => below[1..].to_owned(),
            _ => return Err(wrong("is neither the workload, nor below disk/; move it there, or remove it")),
        };
        self.make_parents(&path)?;
        self.fuel = self.fuel.saturating_add(self.disk.take_fuel());
        if self.fuel > self.fuel_max {
            return Err(wrong("takes too long to reach: the paths so far are too deep, or too many; shorten them"));
        }
        // A time before 1970 is read as one after the end of `i64`.
        let modified = entry.header().mtime().map_err(UnpackError::Archive)?;
        let modified_ns = i64::try_from(modified).map_or(0, |_| modified.saturating_mul(1_000_000_000));
        let times = SetTimes { accessed_ns: Some(modified_ns), modified_ns: Some(modified_ns) };
        let limit_bytes = self.limit_bytes;
        let refused = |error| refused(&shown, error, limit_bytes);
        match kind {
            EntryType::Directory => {
                self.make_directory(&path).map_err(refused)?;
                self.directory_times.push((path, times));
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous => {
                let how = OpenHow { create: true, truncate: true, write: true, ..OpenHow::default() };
                let (ino, _) = self.disk.open_at(Ino::ROOT, &path, how).map_err(refused)?;
                let mut offset = 0;
                loop {
                    let length = entry.read(&mut self.part).map_err(UnpackError::Archive)?;
                    if length == 0 {
                        break;
                    }
                    self.disk.write(ino, offset, &self.part[..length]).map_err(refused)?;
                    offset += length as u64;
                }
                self.disk.close(ino);
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = std::str::from_utf8(&target).map_err(|_| wrong("leads to a name that is not UTF-8"))?;
                if kind == EntryType::Symlink && target.starts_with('/') {
                    return Err(wrong("is a link to an absolute path; make it relative"));
                }
                if kind == EntryType::Symlink {
                    self.disk.symlink_at(target, Ino::ROOT, &path).map_err(refused)?;
                } else {
                    let target = plain(target);
                    let below = target.strip_prefix("disk/").ok_or_else(|| wrong("leads out of disk/; remove it"))?;
                    self.disk.link_at(Ino::ROOT, below, Ino::ROOT, &path).map_err(refused)?;
                    // It has the times of the file.
                    return Ok(());
                }
            }
            _ => return Err(wrong("is neither a file, nor a directory, nor a link; remove it")),
        }
        self.disk.set_times_at(Ino::ROOT, &path, false, times).map_err(refused)
    }

    fn add_workload(&mut self, mut entry: Entry<'_, &[u8]>) -> Result<(), UnpackError> {
        let bytes = entry.size();
        if bytes > MODULE_BYTES_MAX {
            return Err(UnpackError::LongWorkload { bytes });
        }
        let mut workload = Vec::new();
        entry.read_to_end(&mut workload).map_err(UnpackError::Archive)?;
        match self.workload.replace(workload.into()) {
            None => Ok(()),
            Some(_) => Err(UnpackError::ManyWorkloads),
        }
    }

    /// Makes the directories on the way to `path`. An archive need not have entries for them.
    fn make_parents(&mut self, path: &str) -> Result<(), UnpackError> {
        let Some((directory, _)) = path.rsplit_once('/') else { return Ok(()) };
        // The entries of a directory usually follow one another.
        if self.last_parent == directory {
            return Ok(());
        }
        if !self.disk.stat_at(Ino::ROOT, directory, true).is_ok_and(|found| found.kind == Type::Directory) {
            self.make_all(directory)?;
        }
        self.last_parent = directory.to_owned();
        Ok(())
    }

    /// Makes a directory, and those on the way to it.
    fn make_all(&mut self, directory: &str) -> Result<(), UnpackError> {
        let ends = directory.match_indices('/').map(|(end, _)| end).chain([directory.len()]);
        for parent in ends.map(|end| &directory[..end]) {
            let made = self.make_directory(parent);
            made.map_err(|error| refused(&format!("{ARCHIVE_DISK}/{parent}"), error, self.limit_bytes))?;
        }
        Ok(())
    }

    fn make_directory(&mut self, path: &str) -> Result<(), Error> {
        match self.disk.create_directory_at(Ino::ROOT, path) {
            Err(Error::Exist) if self.disk.stat_at(Ino::ROOT, path, true)?.kind == Type::Directory => Ok(()),
            made => made,
        }
    }
}

/// Returns a path without `.` and without slashes at its ends.
fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    parts.join("/")
}

fn refused(path: &str, error: Error, limit_bytes: u64) -> UnpackError {
    match error {
        Error::Full { .. } => UnpackError::Full { limit_bytes },
        error => {
            let reason = format!("cannot be on a virtual disk: {error}; change or remove it");
            UnpackError::Entry { path: path.to_owned(), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use lifeboat_api::http::EntryType as Shown;
    use lifeboat_api::id::Sequence;
    use proptest::prelude::*;
    use tar::{Builder, Header};

    const LIMIT: u64 = 1 << 20;

    fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mtime(1_700_000_000);
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_size(0);
            let target = std::str::from_utf8(content).expect("text");
            archive.append_link(&mut header, path, target).expect("in memory");
        } else {
            header.set_size(content.len() as u64);
            // Unlike `append_data`, this writes any path.
            header.as_gnu_mut().expect("GNU").name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, content).expect("in memory");
        }
    }

    fn archive(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        entry(&mut archive, EntryType::Regular, "workload", b"wasm");
        for (kind, path, content) in entries {
            entry(&mut archive, *kind, path, content);
        }
        archive.into_inner().expect("in memory")
    }

    fn unpacked(entries: &[(EntryType, &str, &[u8])]) -> Result<Unpacked, UnpackError> {
        unpack(&archive(entries), LIMIT, Timestamp(5))
    }

    #[test]
    fn files_directories_and_links_are_on_the_disk() {
        let Unpacked { workload, disk } = unpacked(&[
            (EntryType::Directory, "./disk/", b""),
            (EntryType::Directory, "disk/d/", b""),
            (EntryType::Regular, "disk/d/a", b"first"),
            (EntryType::Regular, "disk/d/a", b"second"),
            (EntryType::Regular, "disk/deep/er/b", b"third"),
            (EntryType::Symlink, "disk/link", b"d/a"),
            (EntryType::Link, "disk/same", b"disk/d/a"),
        ])
        .expect("unpacked");
        let mut disk = disk.expect("it has files");
        assert_eq!(&workload[..], b"wasm");
        let mut read = |path| files::read(&mut disk, path, 0).expect("a file").bytes;
        assert_eq!(
            (read("d/a"), read("link"), read("deep/er/b")),
            (b"second".into(), b"second".into(), b"third".into())
        );
        let root = files::list(&mut disk, "/", None, Sequence(0)).expect("a directory");
        let shown: Vec<_> = root.entries.iter().map(|entry| (&*entry.name, entry.kind, entry.links)).collect();
        let expected = [
            ("d", Shown::Directory, 1),
            ("deep", Shown::Directory, 1),
            ("link", Shown::Link, 1),
            ("same", Shown::File, 2),
        ];
        assert_eq!(shown, expected);
        let modified: Vec<_> = root.entries.iter().map(|entry| &*entry.modified).collect();
        let (of_entry, of_unpacking) = ("2023-11-14T22:13:20.000000000Z", "1970-01-01T00:00:00.000000005Z");
        assert_eq!(modified, [of_entry, of_unpacking, of_entry, of_entry]);
    }

    #[test]
    fn an_archive_without_files_has_no_disk() {
        assert!(unpacked(&[]).expect("unpacked").disk.is_none());
        assert!(unpacked(&[(EntryType::Directory, "disk", b"")]).expect("unpacked").disk.is_none());
    }

    #[test]
    fn what_a_disk_cannot_have_is_refused_by_its_name() {
        let long = vec![b'x'; LIMIT as usize];
        for (kind, path, content, words) in [
            (EntryType::Fifo, "disk/pipe", &b""[..], "'disk/pipe' in the archive is neither a file, nor a directory"),
            (EntryType::Regular, "other", b"", "'other' in the archive is neither the workload, nor below disk/"),
            (EntryType::Regular, "disk", b"", "'disk' in the archive is neither"),
            (EntryType::Regular, "disk/../../x", b"", "operation not permitted"),
            (EntryType::Regular, "../disk/x", b"", "'../disk/x' in the archive is neither"),
            (EntryType::Symlink, "disk/l", b"/etc/passwd", "'disk/l' in the archive is a link to an absolute path"),
            (EntryType::Link, "disk/l", b"other", "'disk/l' in the archive leads out of disk/"),
            (EntryType::Link, "disk/l", b"disk/none", "no such file or directory"),
            (EntryType::Regular, "disk/long", &long, "the files in the archive use more than the 1 MiB of the disk"),
            (EntryType::Regular, "workload", b"again", "more than one entry 'workload'"),
            (
                EntryType::Regular,
                "disk/there/x",
                b"",
                "'disk/there' in the archive cannot be on a virtual disk: file exists",
            ),
            (
                EntryType::Directory,
                "disk/there/",
                b"",
                "'disk/there/' in the archive cannot be on a virtual disk: file exists",
            ),
        ] {
            let there = (EntryType::Regular, "disk/there", &b"a file"[..]);
            let refused = unpacked(&[there, (kind, path, content)]).expect_err("refused").to_string();
            assert!(refused.contains(words), "{path}: {refused}");
        }
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, EntryType::Regular, "disk/a", b"a");
        let none = unpack(&builder.into_inner().expect("in memory"), LIMIT, Timestamp(0));
        assert!(matches!(none, Err(UnpackError::NoWorkload)));
    }

    /// Returns an archive with a workload, and an entry with these pax records before it.
    fn with_pax(records: &[u8], kind: EntryType, link: &str) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        entry(&mut archive, EntryType::Regular, "workload", b"wasm");
        entry(&mut archive, EntryType::XHeader, "pax", records);
        if kind == EntryType::Regular {
            entry(&mut archive, kind, "disk/a", b"a");
        } else {
            entry(&mut archive, kind, "disk/a", link.as_bytes());
        }
        archive.into_inner().expect("in memory")
    }

    #[test]
    fn pax_records_that_cannot_be_followed_are_refused() {
        let long = format!("5017 linkpath={}\n", "a".repeat(5_002));
        for (records, words) in [
            (&b"22 GNU.sparse.major=1\n"[..], "is a sparse file"),
            (b"15 path=disk/b\n15 path=disk/c\n", "has a pax record twice"),
            (b"99 path=disk/b\n", "cannot be read as a tar archive"),
            (b"\xff\xff", "cannot be read as a tar archive"),
            (long.as_bytes(), "a path of over 4095 bytes"),
        ] {
            let refused = unpack(&with_pax(records, EntryType::Regular, ""), LIMIT, Timestamp(0)).expect_err("refused");
            assert!(refused.to_string().contains(words), "{refused}");
        }
        let followed = unpack(&with_pax(b"15 path=disk/b\n", EntryType::Regular, ""), LIMIT, Timestamp(0));
        let mut disk = followed.expect("unpacked").disk.expect("it has a file");
        assert_eq!(files::read(&mut disk, "b", 0).expect("a file").bytes, b"a");
        // The name is short, and what it leads to is long.
        let long =
            unpack(&with_pax(long.as_bytes(), EntryType::Symlink, "b"), LIMIT, Timestamp(0)).expect_err("refused");
        assert!(long.to_string().contains("'disk/a' in the archive has, or leads to, a path"), "{long}");
    }

    #[test]
    fn a_time_before_1970_becomes_1970() {
        let mut archive = Builder::new(Vec::new());
        entry(&mut archive, EntryType::Regular, "workload", b"wasm");
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mtime(u64::MAX);
        archive.append_data(&mut header, "disk/a", &[][..]).expect("in memory");
        let unpacked = unpack(&archive.into_inner().expect("in memory"), LIMIT, Timestamp(5)).expect("unpacked");
        let root = files::list(&mut unpacked.disk.expect("a file"), "/", None, Sequence(0)).expect("a directory");
        assert_eq!(root.entries[0].modified, "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn an_archive_that_is_cut_off_anywhere_is_refused() {
        let whole = archive(&[(EntryType::Regular, "disk/a", &[1; 5_000]), (EntryType::Regular, "disk/b", b"b")]);
        let end = whole.len() - 2 * BLOCK_BYTES;
        assert!(
            unpack(&whole, LIMIT, Timestamp(0)).is_ok()
                && unpack(&whole[..end + BLOCK_BYTES], LIMIT, Timestamp(0)).is_ok()
        );
        for length in (0..=end).step_by(BLOCK_BYTES).chain([1, 700, 2_500, end + 1]) {
            let cut = unpack(&whole[..length], LIMIT, Timestamp(0));
            assert!(matches!(cut, Err(UnpackError::Archive(_))), "{length} of {}: {cut:?}", whole.len());
        }
    }

    #[test]
    fn long_and_deep_paths_are_refused_before_they_take_time_or_memory() {
        let deep = |length: usize| "disk/".to_owned() + &"d/".repeat(length / 2) + "f";
        let mut builder = Builder::new(Vec::new());
        let add = |builder: &mut Builder<Vec<u8>>, path: &str| {
            let mut header = Header::new_gnu();
            header.set_size(0);
            builder.append_data(&mut header, path, &[][..]).expect("in memory");
        };
        add(&mut builder, "workload");
        add(&mut builder, &deep(4_000_000));
        let long = unpack(&builder.into_inner().expect("in memory"), LIMIT, Timestamp(0)).expect_err("refused");
        assert!(long.to_string().contains("a path of over 4095 bytes; shorten it"), "{long}");
        let mut builder = Builder::new(Vec::new());
        add(&mut builder, "workload");
        for number in 0..20 {
            add(&mut builder, &format!("disk/{}{}/f{number}", number % 2, "/d".repeat(1_500)));
        }
        let archive = builder.into_inner().expect("in memory");
        assert!(unpack(&archive, 8 << 20, Timestamp(0)).is_ok());
        let many =
            unpack_within(&archive, 8 << 20, Timestamp(0), 100_000_000).expect_err("the directories alone take it");
        assert!(many.to_string().contains("the paths so far are too deep, or too many; shorten them"), "{many}");
    }

    proptest! {
        #[test]
        fn a_damaged_archive_is_refused_or_unpacked(flips in proptest::collection::vec((0..6_000_usize, 1..=255_u8), 1..8)) {
            let mut bytes = archive(&[
                (EntryType::Directory, "disk/d/", b""),
                (EntryType::Regular, "disk/d/a", b"first"),
                (EntryType::Symlink, "disk/link", b"d/a"),
            ]);
            for (at, flip) in flips {
                let at = at % bytes.len();
                bytes[at] ^= flip;
            }
            let disk = unpack(&bytes, LIMIT, Timestamp(5)).ok().and_then(|unpacked| unpacked.disk);
            prop_assert!(disk.is_none_or(|disk| disk.used_bytes() <= LIMIT));
        }
    }
}
