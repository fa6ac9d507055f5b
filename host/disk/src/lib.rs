//! The virtual disk of a VM: a file system in memory whose copies cost nothing, with a quota.
//!
//! ```text
//!   Disk: inode number -> inode     operations by path (path, entries) and by inode (files)
//!            |
//!          Inode: a file's Contents: chunk index -> Chunk
//!                 a directory's entries: name -> inode number
//!                 a symbolic link's target
//! ```
//!
//! Each arrow is a sorted map, a persistent B+ tree, whose copies share what they do not change. So a copy of a disk
//! costs the same whatever is on it: each transaction of a guest gets one, and a rollback goes back to it.
//!
//! A snapshot of a disk is a table (`table`) and the packs (`pack`) of the chunks that it names: [`Disk::export`] gives
//! the table, and the chunks that no pack stores yet; [`Disk::import`] checks and reads them. The caller reads and
//! writes all files, and decides which are retained.
//!
//! All that a guest observes, and the fuel that it pays, is a function of the operations and of the [`Call`]s. The
//! crate reads no clock and does no I/O, and no result depends on random numbers.

#![forbid(unsafe_code)]

mod chunk;
mod contents;
mod disk;
mod entries;
mod error;
mod export;
mod files;
mod import;
mod inode;
mod pack;
mod path;
mod place;
mod table;
mod tree;
mod wire;

pub use chunk::{CHUNK_BYTES, FUEL_PER_FIRST_WRITE, Mark, resident_bytes};
pub use contents::{BYTES_PER_FUEL, FUEL_PER_CHUNK_RELEASED, Released};
pub use disk::{Call, Disk, ENTRY_BYTES, FUEL_PER_ENTRY_CHANGE, HARD_LINKS_MAX};
pub use entries::OpenHow;
pub use error::{Error, Result};
pub use export::{Export, PACK_PARTS_MAX, PACKS_MAX};
pub use files::{Listing, READ_BYTES_MAX, SetTimes};
pub use import::{ImportError, Imported, Origin, check_table};
pub use inode::{Ino, Stat, Times, Type};
pub use pack::{PACK_ENTRY_BYTES, PACK_HEADER_BYTES, PACK_VERSION, PackError, PackHeader, PackedChunk};
pub use path::{FUEL_PER_COMPONENT, LINKS_PER_PATH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};
pub use place::{Hash, Packs, Place};
pub use table::{InodeFault, NEXT_INO_MAX, PathFault, TABLE_VERSION, TableError, WireError};
