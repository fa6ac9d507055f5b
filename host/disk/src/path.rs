//! Paths, resolved as Linux's `openat2` with `RESOLVE_BENEATH` resolves them.
//!
//! - `..` may lead back to the directory that the path starts at, but not above it: that is
//!   [`Error::NotPermitted`], as an absolute path is, and a symbolic link to one.
//! - A symbolic link is followed in the middle of a path, and at its end if the caller asks for it or a `/` follows.
//! - A path that ends in `/` must lead to a directory.
//!
//! `openat2(2)` and `path_resolution(7)` describe it. What they leave open is in `fs/namei.c` of Linux 6.18, and the
//! order of the checks here follows it.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::inode::{Entry, Ino, Node, Type};
use std::sync::Arc;

/// The longest name of an entry, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest path and the longest target of a symbolic link, in bytes. Linux counts a NUL at the end, up to 4,096.
pub const PATH_BYTES_MAX: usize = 4_095;

/// The most symbolic links that one path may lead through.
pub const LINKS_PER_PATH_MAX: u32 = 40;

/// The fuel of a component of a path, also of a symbolic link's target and of a parent that a rename looks at.
pub const FUEL_PER_COMPONENT: u64 = 50;

/// What the last component of a path is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// An existing inode. A symbolic link is itself.
    Itself,
    /// An existing inode behind symbolic links.
    Followed,
    /// An inode that is created if it is missing. A symbolic link is itself.
    CreatedItself,
    /// An inode that is created if it is missing, also where a symbolic link leads.
    CreatedFollowed,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Place {
    Existing(Entry),
    /// Only if it may be created.
    Missing {
        directory: Ino,
        name: Arc<str>,
    },
}

/// A path, or the target of a symbolic link in it.
enum Text<'a> {
    Path(&'a str),
    Target(Arc<str>),
}

impl Text<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Target(target) => target,
        }
    }
}

/// Checks what needs no disk.
pub(crate) fn check_path(path: &str) -> Result<()> {
    if path.contains('\0') {
        Err(Error::Invalid)
    } else if path.len() > PATH_BYTES_MAX {
        Err(Error::NameTooLong)
    } else if path.is_empty() {
        Err(Error::NoEntry)
    } else if path.starts_with('/') {
        Err(Error::NotPermitted)
    } else {
        Ok(())
    }
}

/// Splits a path into its directory and the name in it.
///
/// The name is `.` if the path ends in `/`, `.` or `..`. The directory is empty if the path is a name alone.
fn split_parent(path: &str) -> (&str, &str) {
    if path.ends_with('/') || path.ends_with("/.") {
        return (path, ".");
    }
    let (directory, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
    if name == ".." { (path, ".") } else { (directory, name) }
}

/// Returns the name, if `path` is a name alone, with at most slashes and `.` behind it.
pub(crate) fn sole_name(path: &str) -> Option<&str> {
    let (name, rest) = path.split_once('/')?;
    (!matches!(name, "" | "." | "..") && rest.split('/').all(|part| matches!(part, "" | "."))).then_some(name)
}

impl Disk {
    /// Returns where `path` leads from the directory `base`.
    pub(crate) fn walk(&mut self, base: Ino, path: &str, last: Last) -> Result<Place> {
        self.entries(base)?;
        check_path(path)?;
        let is_created = matches!(last, Last::CreatedItself | Last::CreatedFollowed);
        let is_followed = matches!(last, Last::Followed | Last::CreatedFollowed);
        let (mut at, mut links, mut needs_directory) = (base, 0, false);
        // The targets of links that are being followed, each with the position of what follows there, below the path.
        // Each but the last has a component left.
        let mut texts = vec![(Text::Path(path), 0)];
        while let Some((text, from)) = texts.pop() {
            let start = from + leading_slashes(&text.as_str()[from..]);
            let name = text.as_str()[start..].split('/').next().unwrap_or_default();
            let end = start + name.len();
            let rest = &text.as_str()[end..];
            let has_more = leading_slashes(rest) < rest.len();
            let has_slash = !rest.is_empty();
            let is_last = !has_more && texts.is_empty();
            self.fuel += FUEL_PER_COMPONENT;
            let found = match name {
                "." => Entry { ino: at, kind: Type::Directory },
                ".." if at == base => return Err(Error::NotPermitted),
                ".." => Entry { ino: self.parent_of(at)?, kind: Type::Directory },
                // Linux refuses to create a file with a slash behind its name, whether there is one or not.
                _ if is_last && is_created && has_slash => return Err(Error::IsDirectory),
                _ => match self.lookup(at, name)? {
                    Some(entry) => entry,
                    None if is_last && is_created => return Ok(Place::Missing { directory: at, name: name.into() }),
                    None => return Err(Error::NoEntry),
                },
            };
            if has_more {
                texts.push((text, end));
            }
            needs_directory |= is_last && has_slash;
            if found.kind == Type::Link && (!is_last || is_followed || needs_directory) {
                links += 1;
                if links > LINKS_PER_PATH_MAX {
                    return Err(Error::Loop);
                }
                texts.push((Text::Target(self.target(found.ino)?), 0));
                continue;
            }
            if found.kind != Type::Directory && (!is_last || needs_directory) {
                return Err(Error::NotDirectory);
            }
            if is_last {
                return Ok(Place::Existing(found));
            }
            at = found.ino;
        }
        Ok(Place::Existing(Entry { ino: at, kind: Type::Directory }))
    }

    /// Returns the inode that `path` leads to.
    pub(crate) fn resolve(&mut self, base: Ino, path: &str, is_followed: bool) -> Result<Entry> {
        match self.walk(base, path, if is_followed { Last::Followed } else { Last::Itself })? {
            Place::Existing(entry) => Ok(entry),
            Place::Missing { .. } => Err(Error::NoEntry),
        }
    }

    /// Returns the directory in which the last component of `path` is to be found, and that component.
    ///
    /// The component is `.` if the path ends in `/`, `.` or `..`: then the directory is the one it leads to.
    pub(crate) fn parent<'p>(&mut self, base: Ino, path: &'p str) -> Result<(Ino, &'p str)> {
        self.entries(base)?;
        check_path(path)?;
        let (directory, name) = split_parent(path);
        self.fuel += FUEL_PER_COMPONENT;
        if directory.is_empty() {
            return Ok((base, name));
        }
        let entry = self.resolve(base, directory, true)?;
        if entry.kind == Type::Directory { Ok((entry.ino, name)) } else { Err(Error::NotDirectory) }
    }

    /// Returns the entry of a name, which is neither `.` nor `..`.
    pub(crate) fn lookup(&self, directory: Ino, name: &str) -> Result<Option<Entry>> {
        let entries = self.entries(directory)?;
        if self.inode(directory)?.links == 0 {
            return Err(Error::NoEntry);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        Ok(entries.get(name).copied())
    }

    pub(crate) fn parent_of(&self, directory: Ino) -> Result<Ino> {
        match &self.inode(directory)?.node {
            Node::Directory { parent, .. } => Ok(*parent),
            _ => Err(Error::NotDirectory),
        }
    }

    /// Returns the target of a symbolic link.
    pub(crate) fn target(&self, ino: Ino) -> Result<Arc<str>> {
        match &self.inode(ino)?.node {
            Node::Link(target) => Ok(Arc::clone(target)),
            _ => Err(Error::Invalid),
        }
    }

    /// Returns whether `directory` is `ancestor` or lies below it. The fuel grows with the depth.
    pub(crate) fn is_below(&mut self, directory: Ino, ancestor: Ino) -> Result<bool> {
        let mut at = directory;
        while at != ancestor && at != Ino::ROOT {
            self.fuel += FUEL_PER_COMPONENT;
            at = self.parent_of(at)?;
        }
        Ok(at == ancestor)
    }
}

fn leading_slashes(text: &str) -> usize {
    text.len() - text.trim_start_matches('/').len()
}

#[cfg(test)]
mod tests;
