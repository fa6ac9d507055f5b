//! A disk from its table and the chunks in its packs.

mod decode;

use crate::chunk::Chunk;
use crate::contents::Contents;
use crate::disk::Disk;
use crate::inode::{Entry, Inode, Node};
use crate::place::{Hash, Packs, Place};
use crate::table::TableError;
use decode::{DecodedInode, DecodedNode, Table};
use std::sync::Arc;

/// What the places in a table are worth after the import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The packs belong to the disk's history: exports may refer to them.
    OwnPacks,
    /// The packs are not those of the disk, as in a portable file: the next export stores every chunk.
    Elsewhere,
}

/// A disk that was read.
#[derive(Debug)]
pub struct Imported {
    /// The disk. It is read-only until [`Disk::enter`].
    pub disk: Disk,
    /// The packs that the table refers to.
    pub packs: Packs,
}

/// Why a disk cannot be read. `E` is the error of the caller's function that reads chunks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError<E> {
    /// The table is wrong.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A chunk cannot be read.
    #[error("cannot read the chunk of {bytes} bytes at offset {} of pack {}", .place.offset, .place.pack)]
    Read {
        /// Where the chunk is.
        place: Place,
        /// The length of the chunk.
        bytes: usize,
        /// The cause.
        source: E,
    },
    /// The bytes of a chunk are not those that were stored.
    #[error(
        "the chunk at offset {} of pack {} is damaged: its {found_bytes} bytes do not match the hash of the {bytes} bytes \
         that were stored", .place.offset, .place.pack
    )]
    DamagedChunk {
        /// Where the chunk is.
        place: Place,
        /// The length of the chunk.
        bytes: usize,
        /// The hash of the chunk.
        hash: Hash,
        /// The number of bytes that were read.
        found_bytes: usize,
        /// The hash of the bytes that were read.
        found: Hash,
    },
}

/// Checks a table without its chunks. Returns the packs that it refers to.
///
/// # Errors
///
/// [`TableError`].
pub fn check_table(table: &[u8]) -> Result<Packs, TableError> {
    Ok(Table::decode(table)?.packs)
}

impl Disk {
    /// Returns the disk that a table describes.
    ///
    /// The table is checked as a whole before `read_chunk` is called, once for each distinct chunk, with its place, its
    /// length in bytes and its hash. The function's bytes become the chunk, if they have this length and hash: so it
    /// should return an allocation of exactly this length.
    ///
    /// # Errors
    ///
    /// [`ImportError`].
    pub fn import<E>(
        table: &[u8],
        origin: Origin,
        mut read_chunk: impl FnMut(Place, usize, &Hash) -> Result<Vec<u8>, E>,
    ) -> Result<Imported, ImportError<E>> {
        let table = Table::decode(table)?;
        let mut chunks = Vec::with_capacity(table.chunks.len());
        for chunk in &table.chunks {
            let (place, bytes, hash) = (chunk.place, chunk.bytes, chunk.hash);
            let found = read_chunk(place, bytes, &hash).map_err(|source| ImportError::Read { place, bytes, source })?;
            let (found_bytes, found_hash) = (found.len(), *blake3::hash(&found).as_bytes());
            if found_bytes != bytes || found_hash != hash {
                return Err(ImportError::DamagedChunk { place, bytes, hash, found_bytes, found: found_hash });
            }
            let place = (origin == Origin::OwnPacks).then_some(place);
            chunks.push(Arc::new(Chunk::stored(found, hash, place)));
        }
        let inodes = table.inodes.iter().map(|inode| (inode.ino, Arc::new(table.build(inode, &chunks)))).collect();
        let disk = Self::with_inodes(inodes, table.next_ino, table.used_bytes);
        Ok(Imported { disk, packs: table.packs })
    }
}

impl Table<'_> {
    /// Returns an inode of the checked table.
    fn build(&self, inode: &DecodedInode<'_>, chunks: &[Arc<Chunk>]) -> Inode {
        let node = match &inode.node {
            DecodedNode::File { len, chunks: indices } => {
                let chunks = indices.iter().map(|(index, chunk)| (*index, Arc::clone(&chunks[*chunk])));
                Node::File(Contents::with_chunks(*len, chunks))
            }
            DecodedNode::Directory { entries, parent } => {
                let entries = entries.iter().map(|(name, to)| {
                    let to = &self.inodes[*to];
                    (Arc::from(*name), Entry { ino: to.ino, kind: to.kind() })
                });
                Node::Directory { entries: entries.collect(), parent: self.inodes[*parent].ino }
            }
            DecodedNode::Link(target) => Node::Link(Arc::from(*target)),
        };
        Inode { node, links: inode.links, times: inode.times }
    }
}

#[cfg(test)]
mod tests;
