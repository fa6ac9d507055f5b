//! The disk: a table of inodes, what they use of the quota, and which are held open.

use crate::chunk::Mark;
use crate::contents::Released;
use crate::error::{Error, Result};
use crate::inode::{Entries, Entry, Ino, Inode, Node, Times, Type};
use crate::tree::Tree;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The bytes that an entry of a directory uses of the quota, beside those of its name.
pub const ENTRY_BYTES: u64 = 1_024;

/// The most entries that lead to one file.
pub const HARD_LINKS_MAX: u32 = 65_000;

/// The fuel of creating, removing, renaming or linking an entry.
pub const FUEL_PER_ENTRY_CHANGE: u64 = 1_000;

/// What a disk needs to know about the call of a guest that uses it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The clock of the call, in nanoseconds since 1970.
    pub now_ns: u64,
    /// Identifies the call among all of the disk's history.
    pub mark: Mark,
    /// The quota, in bytes as [`Disk::used_bytes`] counts them. What uses more already may still shrink.
    pub limit_bytes: u64,
    /// Whether every change fails with [`Error::ReadOnly`].
    pub is_read_only: bool,
}

/// A file system in memory.
///
/// A copy costs the same whatever is on the disk, and shares all that neither it nor the original changes later.
///
/// ```text
///   inodes: 1 -> directory { "a" -> 2, "b" -> 3 }      one flat table: nothing recurses over the depth of
///           2 -> file { len, chunks }                  directories, and a rename of one moves a single entry
///           3 -> directory { "c" -> 2 }
/// ```
///
/// An operation belongs to the call that [`enter`](Self::enter) named last. A new disk and a copy are read-only until
/// then. An operation that fails changes nothing. What operations cost is added up, and taken with
/// [`take_fuel`](Self::take_fuel); it is a function of the operations alone, also of those that fail.
///
/// Operations by path start at a directory, and resolve the path as Linux's `openat2` with `RESOLVE_BENEATH` does. A
/// path that is absolute, or that leads above that directory, is [`Error::NotPermitted`], and so is a symbolic link to
/// one. Operations by inode are for an inode that the caller holds open.
pub struct Disk {
    pub(crate) inodes: Tree<Ino, Arc<Inode>>,
    next_ino: Ino,
    used_bytes: u64,
    pub(crate) call: Call,
    pub(crate) fuel: u64,
    /// How often each inode is held open. A copy holds none open.
    open: BTreeMap<Ino, u32>,
    pub(crate) released: Released,
    /// The changes that failed because the disk was read-only. A copy has none.
    refused_writes: u64,
}

impl Clone for Disk {
    fn clone(&self) -> Self {
        let mut copy = Self {
            inodes: self.inodes.clone(),
            next_ino: self.next_ino,
            used_bytes: self.used_bytes,
            call: Call { is_read_only: true, ..self.call },
            fuel: 0,
            open: BTreeMap::new(),
            released: Released::default(),
            refused_writes: 0,
        };
        // Nothing leads to an unlinked file in the copy, neither an entry nor a descriptor. Its chunks are the
        // original's to release, and its fuel the original's to pay.
        for ino in self.open.keys() {
            copy.release_if_unused(*ino);
        }
        copy.fuel = 0;
        copy.released = Released::default();
        copy
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("inodes", &self.inodes.len())
            .field("used_bytes", &self.used_bytes)
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Returns a disk with an empty root, made at `now_ns` nanoseconds since 1970.
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        let root = Node::Directory { entries: Entries::default(), parent: Ino::ROOT };
        let inodes = Tree::from_iter([(Ino::ROOT, Arc::new(Inode::new(root, now_ns)))]);
        Self::with_inodes(inodes, Ino::ROOT.next(), 0)
    }

    /// Returns the disk with these inodes, which form a tree below the root.
    pub(crate) fn with_inodes(inodes: Tree<Ino, Arc<Inode>>, next_ino: Ino, used_bytes: u64) -> Self {
        Self {
            inodes,
            next_ino,
            used_bytes,
            call: Call { now_ns: 0, mark: Mark::default(), limit_bytes: 0, is_read_only: true },
            fuel: 0,
            open: BTreeMap::new(),
            released: Released::default(),
            refused_writes: 0,
        }
    }

    /// Begins a call: the operations that follow belong to it.
    pub fn enter(&mut self, call: Call) {
        self.call = call;
    }

    /// Returns the fuel of the operations since the last time.
    pub fn take_fuel(&mut self) -> u64 {
        std::mem::take(&mut self.fuel)
    }

    /// Returns the bytes that count against the quota: those of files with their holes, those of the targets of
    /// symbolic links, and for each entry of a directory [`ENTRY_BYTES`] and its name.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Returns whether nothing was ever made on a disk that began at time 0, nor set on its root.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let times = Times { accessed_ns: 0, modified_ns: 0, changed_ns: 0 };
        self.next_ino == Ino::ROOT.next() && self.inode(Ino::ROOT).is_ok_and(|root| root.times == times)
    }

    /// Returns whether nothing has changed since one of the two disks was cloned from the other.
    #[must_use]
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.inodes.is_copy_of(&other.inodes)
    }

    /// Returns how many changes of this disk failed because it was read-only.
    #[must_use]
    pub fn refused_writes(&self) -> u64 {
        self.refused_writes
    }

    /// Returns the number of files, directories and symbolic links, with the root.
    #[must_use]
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Takes the many chunks of files that were cut off or removed since the last time.
    #[must_use]
    pub fn take_released(&mut self) -> Released {
        std::mem::take(&mut self.released)
    }

    /// Holds `ino` open: it lives until [`close`](Self::close), even without an entry. To be closed as often.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if there is no such inode.
    pub fn open(&mut self, ino: Ino) -> Result<()> {
        self.inode(ino)?;
        *self.open.entry(ino).or_default() += 1;
        Ok(())
    }

    /// Undoes one [`open`](Self::open) or [`open_at`](Self::open_at). What is not open is ignored.
    ///
    /// After [`close_all`](Self::close_all) a descriptor of before must not be closed: the file may be open anew.
    pub fn close(&mut self, ino: Ino) {
        let Some(count) = self.open.get_mut(&ino) else { return };
        *count -= 1;
        if *count == 0 {
            self.open.remove(&ino);
            self.release_if_unused(ino);
        }
    }

    /// Closes all that is open, at the end of a call. Returns how many times [`close`](Self::close) was missing.
    pub fn close_all(&mut self) -> u64 {
        let open = std::mem::take(&mut self.open);
        for ino in open.keys() {
            self.release_if_unused(*ino);
        }
        open.values().map(|count| u64::from(*count)).sum()
    }

    /// Returns whether `ino` is a directory.
    ///
    /// # Errors
    ///
    /// [`Error::BadDescriptor`] if there is no such inode.
    pub fn is_directory(&self, ino: Ino) -> Result<bool> {
        Ok(self.inode(ino)?.kind() == Type::Directory)
    }

    pub(crate) fn next_ino(&self) -> Ino {
        self.next_ino
    }

    /// Returns the inodes that are held open and have no entry.
    pub(crate) fn unlinked(&self) -> impl Iterator<Item = &Inode> {
        self.open.keys().filter_map(|ino| self.inodes.get(ino)).map(|inode| &**inode).filter(|inode| inode.links == 0)
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).map(|inode| &**inode).ok_or(Error::BadDescriptor)
    }

    pub(crate) fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).map(Arc::make_mut).ok_or(Error::BadDescriptor)
    }

    /// Returns the entries of a directory that an operation starts at.
    pub(crate) fn entries(&self, directory: Ino) -> Result<&Entries> {
        match &self.inode(directory)?.node {
            Node::Directory { entries, .. } => Ok(entries),
            _ => Err(Error::NotDirectory),
        }
    }

    pub(crate) fn check_writable(&mut self) -> Result<()> {
        if !self.call.is_read_only {
            return Ok(());
        }
        self.refused_writes = self.refused_writes.saturating_add(1);
        Err(Error::ReadOnly)
    }

    /// Counts `added` bytes against the quota, or fails. What frees bytes at the same time gives their number as
    /// `freed`: if the disk does not grow, it never fails.
    pub(crate) fn reserve(&mut self, added: u64, freed: u64) -> Result<()> {
        let limit_bytes = self.call.limit_bytes;
        let rest = self.used_bytes.saturating_sub(freed);
        match rest.checked_add(added) {
            Some(wanted) if added <= freed || wanted <= limit_bytes => {
                self.used_bytes = wanted;
                Ok(())
            }
            wanted => Err(Error::Full { wanted_bytes: wanted.unwrap_or(u64::MAX), limit_bytes }),
        }
    }

    pub(crate) fn credit(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used_bytes, "{bytes} of {} bytes", self.used_bytes);
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
    }

    /// Adds an inode without an entry.
    pub(crate) fn add_inode(&mut self, node: Node) -> Ino {
        let ino = self.next_ino;
        self.next_ino = ino.next();
        self.inodes.insert(ino, Arc::new(Inode::new(node, self.call.now_ns)));
        ino
    }

    /// Changes the entries of a directory by `change`, which returns the former entry.
    pub(crate) fn change_entries(
        &mut self,
        directory: Ino,
        change: impl FnOnce(&mut Entries) -> Option<Entry>,
    ) -> Result<Option<Entry>> {
        let now_ns = self.call.now_ns;
        let inode = self.inode_mut(directory)?;
        let Node::Directory { entries, .. } = &mut inode.node else { return Err(Error::NotDirectory) };
        let former = change(entries);
        inode.modify(now_ns);
        Ok(former)
    }

    /// Notes that one entry that led to `ino` is gone.
    pub(crate) fn unlink_inode(&mut self, ino: Ino) -> Result<()> {
        let now_ns = self.call.now_ns;
        let inode = self.inode_mut(ino)?;
        inode.links = inode.links.saturating_sub(1);
        inode.times.changed_ns = now_ns;
        self.release_if_unused(ino);
        Ok(())
    }

    /// Removes an inode that has no entry and is not open, and credits its bytes.
    fn release_if_unused(&mut self, ino: Ino) {
        let is_unused = self.inodes.get(&ino).is_some_and(|inode| inode.links == 0) && !self.open.contains_key(&ino);
        if !is_unused {
            return;
        }
        let Some(inode) = self.inodes.remove(&ino) else { return };
        self.credit(inode.bytes());
        if let Node::File(contents) = Arc::unwrap_or_clone(inode).node {
            self.fuel = self.fuel.saturating_add(contents.release(&mut self.released));
        }
    }
}

#[cfg(test)]
mod tests;
