//! Files, directories and symbolic links, by number.

use crate::contents::Contents;
use crate::tree::Tree;
use std::sync::Arc;

/// The number of an inode. Numbers count up, and are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(u64);

impl Ino {
    /// The inode of the directory that has no parent.
    pub const ROOT: Self = Self(1);

    /// Returns the number, which is at least 1.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What an inode is. That never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) ino: Ino,
    /// A listing needs the types of entries that may be gone when it arrives at them.
    pub(crate) kind: Type,
}

pub(crate) type Entries = Tree<Arc<str>, Entry>;

#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) node: Node,
    /// The number of entries that lead here: 0 for what is only held open, 1 for the root.
    pub(crate) links: u32,
    pub(crate) times: Times,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    File(Contents),
    /// The parent is a number, and not a pointer: a drop of nested directories does not recurse.
    Directory {
        entries: Entries,
        parent: Ino,
    },
    Link(Arc<str>),
}

/// Times in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When the contents were last read, as far as a guest has set it. Reading does not.
    pub accessed_ns: u64,
    /// When the contents, or the entries of the directory, were last changed.
    pub modified_ns: u64,
    /// When anything was last changed.
    pub changed_ns: u64,
}

/// What [`Disk::stat`](crate::Disk::stat) reports about an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The number.
    pub ino: Ino,
    /// The type.
    pub kind: Type,
    /// The number of entries that lead to it. For the root it is 1.
    pub links: u32,
    /// The length of a file or of a link's target, in bytes. For a directory it is 0.
    pub bytes: u64,
    /// The times.
    pub times: Times,
}

impl Inode {
    pub(crate) fn new(node: Node, now_ns: u64) -> Self {
        let times = Times { accessed_ns: now_ns, modified_ns: now_ns, changed_ns: now_ns };
        Self { node, links: 1, times }
    }

    pub(crate) fn kind(&self) -> Type {
        match self.node {
            Node::File(_) => Type::File,
            Node::Directory { .. } => Type::Directory,
            Node::Link(_) => Type::Link,
        }
    }

    /// Returns the bytes that the quota counts beside the entries: of the file, with holes, or of the link's target.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.node {
            Node::File(contents) => contents.len(),
            Node::Directory { .. } => 0,
            Node::Link(target) => target.len() as u64,
        }
    }

    /// Notes a change of the contents or entries.
    pub(crate) fn modify(&mut self, now_ns: u64) {
        self.times.modified_ns = now_ns;
        self.times.changed_ns = now_ns;
    }
}
