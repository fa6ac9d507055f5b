//! Operations that create, remove and rename entries of directories.
//!
//! Each follows a system call of Linux as Wasmtime uses it, with the same checks in the same order: a guest must find
//! the error codes that it knows. A path is split first, and its directory opened, as the functions of
//! [`crate::path`] do.

use crate::contents::{Contents, fuel_of_bytes};
use crate::disk::{Disk, ENTRY_BYTES, FUEL_PER_ENTRY_CHANGE, HARD_LINKS_MAX};
use crate::error::{Error, Result};
use crate::inode::{Entries, Entry, Ino, Node, Type};
use crate::path::{Last, Place, check_path};
use crate::table::NEXT_INO_MAX;
use std::sync::Arc;

/// How [`Disk::open_at`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenHow {
    /// Creates a file if there is none.
    pub create: bool,
    /// With `create`, fails if there is anything.
    pub exclusive: bool,
    /// Removes the bytes of the file.
    pub truncate: bool,
    /// Fails if it is not a directory. Not together with the options above.
    pub directory: bool,
    /// Follows a symbolic link at the end of the path. `exclusive` does not.
    pub follow: bool,
    /// The descriptor is for writing. `create` and `truncate` imply it.
    pub write: bool,
}

/// Returns the bytes of the quota that an entry uses.
fn entry_bytes(name: &str) -> u64 {
    ENTRY_BYTES + name.len() as u64
}

/// Returns a path without the slashes at its end.
fn without_slashes(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => path.get(..1).unwrap_or_default(),
        path => path,
    }
}

impl Disk {
    /// Opens, and perhaps creates, what `path` leads to from the directory `base`, and holds it [`open`](Self::open).
    /// Returns the inode and its type.
    ///
    /// # Errors
    ///
    /// As `openat2(2)` gives them, and [`Error::Full`].
    pub fn open_at(&mut self, base: Ino, path: &str, how: OpenHow) -> Result<(Ino, Type)> {
        self.entries(base)?;
        let is_written = how.create || how.truncate || how.write;
        let is_exclusive = how.create && how.exclusive;
        if how.directory && (how.create || how.exclusive || how.truncate) {
            return Err(Error::Invalid);
        }
        if is_written {
            self.check_writable()?;
        }
        let last = match (how.create, how.follow && !is_exclusive) {
            (false, false) => Last::Itself,
            (false, true) => Last::Followed,
            (true, false) => Last::CreatedItself,
            (true, true) => Last::CreatedFollowed,
        };
        let Entry { ino, kind } = match self.walk(base, path, last)? {
            Place::Missing { directory, name } => {
                self.add_entry(directory, name, Node::File(Contents::default()), Type::File)?
            }
            Place::Existing(_) if is_exclusive => return Err(Error::Exist),
            Place::Existing(Entry { kind: Type::Link, .. }) => return Err(Error::Loop),
            Place::Existing(Entry { kind: Type::Directory, .. }) if is_written => return Err(Error::IsDirectory),
            Place::Existing(entry) => {
                if how.directory && entry.kind != Type::Directory {
                    return Err(Error::NotDirectory);
                }
                if how.truncate {
                    self.set_size(entry.ino, 0)?;
                }
                entry
            }
        };
        self.open(ino)?;
        Ok((ino, kind))
    }

    /// Creates an empty directory. Slashes at the end of the path are ignored.
    ///
    /// # Errors
    ///
    /// As `mkdirat(2)` gives them, and [`Error::Full`].
    pub fn create_directory_at(&mut self, base: Ino, path: &str) -> Result<()> {
        self.entries(base)?;
        self.check_writable()?;
        let (directory, name) = self.parent(base, without_slashes(path))?;
        self.check_missing(directory, name)?;
        let node = Node::Directory { entries: Entries::default(), parent: directory };
        self.add_entry(directory, name.into(), node, Type::Directory)?;
        Ok(())
    }

    /// Creates a symbolic link to `target`, which need not exist and must not be absolute.
    ///
    /// # Errors
    ///
    /// As `symlinkat(2)` gives them; [`Error::NotPermitted`] for an absolute target; and [`Error::Full`].
    pub fn symlink_at(&mut self, target: &str, base: Ino, path: &str) -> Result<()> {
        self.entries(base)?;
        self.check_writable()?;
        if target.starts_with('/') {
            return Err(Error::NotPermitted);
        }
        let (directory, name) = self.parent(base, path)?;
        check_path(target)?;
        self.check_missing(directory, name)?;
        self.fuel += fuel_of_bytes(target.len() as u64);
        self.add_entry(directory, name.into(), Node::Link(target.into()), Type::Link)?;
        Ok(())
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    ///
    /// As `readlinkat(2)` gives them: [`Error::Invalid`] if it is no symbolic link.
    pub fn read_link_at(&mut self, base: Ino, path: &str) -> Result<Arc<str>> {
        let (directory, name) = self.parent(base, path)?;
        if name == "." {
            return Err(Error::Invalid);
        }
        let entry = self.lookup(directory, name)?.ok_or(Error::NoEntry)?;
        let target = self.target(entry.ino)?;
        self.fuel += fuel_of_bytes(target.len() as u64);
        Ok(target)
    }

    /// Creates another entry for a file or symbolic link. A symbolic link at the end of the old path is not followed:
    /// Wasmtime answers [`Error::Invalid`] to a guest that asks for it, and so must the caller.
    ///
    /// # Errors
    ///
    /// As `linkat(2)` gives them, and [`Error::Full`].
    pub fn link_at(&mut self, old_base: Ino, old_path: &str, new_base: Ino, new_path: &str) -> Result<()> {
        self.entries(old_base)?;
        self.entries(new_base)?;
        self.check_writable()?;
        let (old_directory, old_name) = self.parent(old_base, old_path)?;
        let (new_directory, new_name) = self.parent(new_base, new_path)?;
        let entry = match old_name {
            "." => Entry { ino: old_directory, kind: Type::Directory },
            _ => self.lookup(old_directory, old_name)?.ok_or(Error::NoEntry)?,
        };
        self.check_missing(new_directory, new_name)?;
        if entry.kind == Type::Directory {
            return Err(Error::NotPermitted);
        }
        if self.inode(entry.ino)?.links >= HARD_LINKS_MAX {
            return Err(Error::TooManyLinks);
        }
        self.reserve(entry_bytes(new_name), 0)?;
        self.fuel += FUEL_PER_ENTRY_CHANGE;
        let now_ns = self.call.now_ns;
        let inode = self.inode_mut(entry.ino)?;
        inode.links += 1;
        inode.times.changed_ns = now_ns;
        self.change_entries(new_directory, |entries| entries.insert(new_name.into(), entry))?;
        Ok(())
    }

    /// Removes the entry of a file or symbolic link. A file without entries lives on while it is open.
    ///
    /// # Errors
    ///
    /// As `unlinkat(2)` gives them: [`Error::IsDirectory`] for a directory.
    pub fn unlink_at(&mut self, base: Ino, path: &str) -> Result<()> {
        self.entries(base)?;
        self.check_writable()?;
        let (directory, name) = self.parent(base, path)?;
        if name == "." {
            return Err(Error::IsDirectory);
        }
        let entry = self.lookup(directory, name)?.ok_or(Error::NoEntry)?;
        if entry.kind == Type::Directory {
            return Err(Error::IsDirectory);
        }
        self.remove_entry(directory, name, entry.ino)
    }

    /// Removes an empty directory. A slash at the end of the path is [`Error::Invalid`].
    ///
    /// # Errors
    ///
    /// As `unlinkat(2)` with `AT_REMOVEDIR` gives them.
    pub fn remove_directory_at(&mut self, base: Ino, path: &str) -> Result<()> {
        self.entries(base)?;
        self.check_writable()?;
        let (directory, name) = self.parent(base, path)?;
        if name == "." {
            return Err(Error::Invalid);
        }
        let entry = self.lookup(directory, name)?.ok_or(Error::NoEntry)?;
        if !self.entries(entry.ino)?.is_empty() {
            return Err(Error::NotEmpty);
        }
        self.remove_entry(directory, name, entry.ino)
    }

    /// Moves an entry, and replaces what is at the new path: an empty directory by a directory, anything else by a
    /// file or symbolic link. Two entries of one file stay as they are.
    ///
    /// # Errors
    ///
    /// As `renameat(2)` gives them, and [`Error::Full`] if the new name is longer and the disk full.
    pub fn rename_at(&mut self, old_base: Ino, old_path: &str, new_base: Ino, new_path: &str) -> Result<()> {
        self.entries(old_base)?;
        self.entries(new_base)?;
        self.check_writable()?;
        let (old_directory, old_name) = self.parent(old_base, without_slashes(old_path))?;
        let (new_directory, new_name) = self.parent(new_base, without_slashes(new_path))?;
        if old_name == "." || new_name == "." {
            return Err(Error::Busy);
        }
        let source = self.lookup(old_directory, old_name)?.ok_or(Error::NoEntry)?;
        let target = self.lookup(new_directory, new_name)?;
        let is_directory = source.kind == Type::Directory;
        if !is_directory && (old_path.ends_with('/') || new_path.ends_with('/')) {
            return Err(Error::NotDirectory);
        }
        if old_directory != new_directory {
            if is_directory && self.is_below(new_directory, source.ino)? {
                return Err(Error::Invalid);
            }
            // Linux looks for an ancestor of the source before it compares the types.
            if let Some(Entry { ino, kind: Type::Directory }) = target
                && self.is_below(old_directory, ino)?
            {
                return Err(Error::NotEmpty);
            }
        }
        match target {
            Some(target) if target.ino == source.ino => return Ok(()),
            Some(target) => match (is_directory, target.kind == Type::Directory) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if !self.entries(target.ino)?.is_empty() => return Err(Error::NotEmpty),
                _ => self.credit(entry_bytes(old_name)),
            },
            None => self.reserve(entry_bytes(new_name), entry_bytes(old_name))?,
        }
        self.fuel += FUEL_PER_ENTRY_CHANGE;
        self.change_entries(old_directory, |entries| entries.remove(old_name))?;
        self.change_entries(new_directory, |entries| entries.insert(new_name.into(), source))?;
        let now_ns = self.call.now_ns;
        let moved = self.inode_mut(source.ino)?;
        moved.times.changed_ns = now_ns;
        if let Node::Directory { parent, .. } = &mut moved.node {
            *parent = new_directory;
        }
        match target {
            Some(target) => self.unlink_inode(target.ino),
            None => Ok(()),
        }
    }

    /// Checks that an entry of this name can be created.
    fn check_missing(&self, directory: Ino, name: &str) -> Result<()> {
        if name == "." || self.lookup(directory, name)?.is_some() { Err(Error::Exist) } else { Ok(()) }
    }

    /// Creates an inode and its entry.
    fn add_entry(&mut self, directory: Ino, name: Arc<str>, node: Node, kind: Type) -> Result<Entry> {
        let target_bytes = if let Node::Link(target) = &node { target.len() as u64 } else { 0 };
        // Otherwise the table of the next snapshot would be refused.
        if self.next_ino().get() >= NEXT_INO_MAX {
            return Err(Error::NoInode);
        }
        self.reserve(entry_bytes(&name) + target_bytes, 0)?;
        self.fuel += FUEL_PER_ENTRY_CHANGE;
        let entry = Entry { ino: self.add_inode(node), kind };
        self.change_entries(directory, |entries| entries.insert(name, entry))?;
        Ok(entry)
    }

    /// Removes an entry, and notes that it no longer leads to `ino`.
    fn remove_entry(&mut self, directory: Ino, name: &str, ino: Ino) -> Result<()> {
        self.fuel += FUEL_PER_ENTRY_CHANGE;
        self.credit(entry_bytes(name));
        self.change_entries(directory, |entries| entries.remove(name))?;
        self.unlink_inode(ino)
    }
}
