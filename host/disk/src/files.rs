//! Operations on the bytes and times of an inode, and listings of directories.

use crate::contents::{Contents, fuel_of_bytes};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::inode::{Entries, Ino, Node, Stat, Type};
use crate::path::sole_name;
use std::ops::Bound;
use std::sync::Arc;

/// The most bytes that one read returns.
pub const READ_BYTES_MAX: usize = 1024 * 1024;

/// The largest length of a file and the end of the last byte that can be read or written: Linux's `off_t`.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// The times to set, in nanoseconds since 1970. `None` leaves a time as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetTimes {
    /// The time of the last access.
    pub accessed_ns: Option<u64>,
    /// The time of the last modification.
    pub modified_ns: Option<u64>,
}

/// Returns the offset behind `len` bytes at `offset`.
fn end_of(offset: u64, len: usize) -> Result<u64> {
    offset.checked_add(len as u64).filter(|end| *end <= OFFSET_MAX).ok_or(Error::Invalid)
}

impl Disk {
    /// Returns the bytes of a file from `offset` on: at most `len`, at most [`READ_BYTES_MAX`], none at its end.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if it is not a file, [`Error::Invalid`] if the bytes end behind [`i64::MAX`].
    pub fn read(&mut self, ino: Ino, offset: u64, len: u64) -> Result<Vec<u8>> {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(READ_BYTES_MAX);
        let file = self.file(ino)?;
        end_of(offset, len)?;
        let bytes = file.read(offset, len);
        self.fuel += fuel_of_bytes(bytes.len() as u64);
        Ok(bytes)
    }

    /// Writes all `bytes` at `offset`, and lengthens the file if they end behind it.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if it is not a file, [`Error::Invalid`] if the bytes end behind [`i64::MAX`], and
    /// [`Error::Full`], which a write that does not lengthen the file never gives.
    pub fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = self.file(ino)?.len();
        self.check_writable()?;
        let end = end_of(offset, bytes.len())?;
        // Linux: a write of nothing does not lengthen the file, and changes no time.
        if bytes.is_empty() {
            return Ok(());
        }
        self.reserve(end.saturating_sub(len), 0)?;
        let mark = self.call.mark;
        let fuel = self.change_file(ino, |file, _| file.write(offset, bytes, mark))?;
        self.fuel += fuel;
        Ok(())
    }

    /// Writes all `bytes` at the end of the file. Returns its new length.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn append(&mut self, ino: Ino, bytes: &[u8]) -> Result<u64> {
        let len = self.file(ino)?.len();
        self.write(ino, len, bytes)?;
        Ok(len + bytes.len() as u64)
    }

    /// Cuts a file off at `bytes`, or lengthens it by a hole.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if it is not a file, [`Error::Invalid`] above [`i64::MAX`], and [`Error::Full`].
    pub fn set_size(&mut self, ino: Ino, bytes: u64) -> Result<()> {
        let len = self.file(ino)?.len();
        self.check_writable()?;
        end_of(bytes, 0)?;
        self.reserve(bytes, len)?;
        let mark = self.call.mark;
        let fuel = self.change_file(ino, |file, released| file.set_len(bytes, mark, released))?;
        self.fuel += fuel;
        Ok(())
    }

    /// Returns a hash of the length and the contents of a file. Files with equal hashes have equal bytes; the reverse
    /// need not hold, because zeros and a hole differ. Only the first call after a write hashes what was written.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if it is not a file.
    pub fn file_digest(&self, ino: Ino) -> Result<[u8; 32]> {
        let file = self.file(ino)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&file.len().to_le_bytes());
        for (index, chunk) in file.chunks().iter() {
            hasher.update(&index.to_le_bytes()).update(chunk.hash());
        }
        Ok(hasher.finalize().into())
    }

    /// Describes an inode.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if there is no such inode.
    pub fn stat(&self, ino: Ino) -> Result<Stat> {
        let inode = self.inode(ino)?;
        Ok(Stat { ino, kind: inode.kind(), links: inode.links, bytes: inode.bytes(), times: inode.times })
    }

    /// Describes what `path` leads to from the directory `base`.
    ///
    /// # Errors
    ///
    /// As `statx(2)` gives them. Wasmtime passes a path of a single name without what follows it: so a slash behind
    /// the name of a file is an error if `is_followed`, and ignored if not.
    pub fn stat_at(&mut self, base: Ino, path: &str, is_followed: bool) -> Result<Stat> {
        let path = if is_followed { path } else { sole_name(path).unwrap_or(path) };
        let entry = self.resolve(base, path, is_followed)?;
        self.stat(entry.ino)
    }

    /// Sets times of an inode.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if there is no such inode.
    pub fn set_times(&mut self, ino: Ino, times: SetTimes) -> Result<()> {
        self.inode(ino)?;
        self.check_writable()?;
        if times == SetTimes::default() {
            return Ok(());
        }
        let now_ns = self.call.now_ns;
        let inode = self.inode_mut(ino)?;
        inode.times.accessed_ns = times.accessed_ns.unwrap_or(inode.times.accessed_ns);
        inode.times.modified_ns = times.modified_ns.unwrap_or(inode.times.modified_ns);
        inode.times.changed_ns = now_ns;
        Ok(())
    }

    /// Sets times of what `path` leads to from the directory `base`.
    ///
    /// # Errors
    ///
    /// As `utimensat(2)` gives them. It looks for the last component only if there is a time to set or a symbolic
    /// link to follow.
    pub fn set_times_at(&mut self, base: Ino, path: &str, is_followed: bool, times: SetTimes) -> Result<()> {
        self.entries(base)?;
        self.check_writable()?;
        if is_followed {
            let entry = self.resolve(base, path, true)?;
            return self.set_times(entry.ino, times);
        }
        let (directory, name) = self.parent(base, path)?;
        if times == SetTimes::default() {
            return Ok(());
        }
        let ino = match name {
            "." => directory,
            _ => self.lookup(directory, name)?.ok_or(Error::NoEntry)?.ino,
        };
        self.set_times(ino, times)
    }

    /// Lists a directory as it is now, whatever changes later.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if there is no such inode, [`Error::NotDirectory`] if it is not a directory.
    pub fn list(&self, directory: Ino) -> Result<Listing> {
        self.list_after(directory, None)
    }

    /// Does the same for the entries whose names come after `name`, which need not be that of an entry.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    pub fn list_after(&self, directory: Ino, name: Option<&str>) -> Result<Listing> {
        Ok(Listing { entries: self.entries(directory)?.clone(), last: name.map(Arc::from) })
    }

    fn file(&self, ino: Ino) -> Result<&Contents> {
        match &self.inode(ino)?.node {
            Node::File(contents) => Ok(contents),
            _ => Err(Error::BadDescriptor),
        }
    }

    /// Changes the contents of a file, and its times. Returns the fuel that `change` returns.
    fn change_file(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Contents, &mut crate::contents::Released) -> u64,
    ) -> Result<u64> {
        let now_ns = self.call.now_ns;
        // The fields, and not `inode_mut`: the contents and the released chunks are borrowed together.
        let inode = self.inodes.get_mut(&ino).map(Arc::make_mut).ok_or(Error::BadDescriptor)?;
        let Node::File(contents) = &mut inode.node else { return Err(Error::BadDescriptor) };
        let fuel = change(contents, &mut self.released);
        inode.modify(now_ns);
        Ok(fuel)
    }
}

/// The entries of a directory, in the order of their names' bytes, without `.` and `..`.
///
/// It shares the entries with the directory, but holds no file: a file that is removed meanwhile is released.
#[derive(Debug, Clone)]
pub struct Listing {
    entries: Entries,
    last: Option<Arc<str>>,
}

impl Iterator for Listing {
    type Item = (Arc<str>, Type);

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (name, entry) = self.entries.iter_from(from).next()?;
        let item = (Arc::clone(name), entry.kind);
        self.last = Some(Arc::clone(name));
        Some(item)
    }
}
