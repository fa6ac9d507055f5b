//! Decodes a table, and checks that it is one that an export can have written.

use crate::chunk::CHUNK_BYTES;
use crate::disk::{ENTRY_BYTES, HARD_LINKS_MAX};
use crate::inode::{Ino, Times, Type};
use crate::path::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::place::{Hash, Packs, Place};
use crate::table::{CHUNK_RECORD_BYTES, ENTRY_RECORD_BYTES, INODE_RECORD_BYTES, NEXT_INO_MAX, section};
use crate::table::{InodeFault, PathFault, Sections, TableError};
use crate::wire::{Reader, WireError};
use std::collections::{HashMap, hash_map};

/// A table that was checked. Inodes and chunks are named by their index.
pub(super) struct Table<'a> {
    /// In the order of their numbers, the root first.
    pub(super) inodes: Vec<DecodedInode<'a>>,
    pub(super) chunks: Vec<DecodedChunk>,
    pub(super) packs: Packs,
    pub(super) next_ino: Ino,
    pub(super) used_bytes: u64,
}

pub(super) struct DecodedInode<'a> {
    pub(super) ino: Ino,
    pub(super) links: u32,
    pub(super) times: Times,
    pub(super) node: DecodedNode<'a>,
}

pub(super) enum DecodedNode<'a> {
    /// Each chunk has its index in the file, and its index in the table.
    File {
        len: u64,
        chunks: Vec<(u64, usize)>,
    },
    Directory {
        entries: Vec<(&'a str, usize)>,
        parent: usize,
    },
    Link(&'a str),
}

pub(super) struct DecodedChunk {
    pub(super) hash: Hash,
    pub(super) bytes: usize,
    pub(super) place: Place,
}

impl DecodedInode<'_> {
    pub(super) fn kind(&self) -> Type {
        match self.node {
            DecodedNode::File { .. } => Type::File,
            DecodedNode::Directory { .. } => Type::Directory,
            DecodedNode::Link(_) => Type::Link,
        }
    }
}

impl<'a> Table<'a> {
    pub(super) fn decode(table: &'a [u8]) -> Result<Self, TableError> {
        let sections = Sections::open(table)?;
        let mut end = sections.reader(section::END)?;
        let (next, used_bytes) = decode_end(&mut end).map_err(malformed("end"))?;
        end.end().map_err(malformed("end"))?;
        if next > NEXT_INO_MAX {
            return Err(TableError::NextIno { next });
        }
        let next_ino = Ino::from_number(next);
        let mut table = Self { inodes: Vec::new(), chunks: Vec::new(), packs: Packs::new(), next_ino, used_bytes };
        let mut inodes = sections.reader(section::INODES)?;
        Inodes { reader: &mut inodes, table: &mut table, by_hash: HashMap::new() }.decode()?;
        inodes.end().map_err(malformed("inodes"))?;
        table.check_tree()?;
        table.check_used_bytes()?;
        let packs = table.decode_packs(sections.reader(section::PACKS)?)?;
        table.decode_places(sections.reader(section::PLACES)?, &packs)?;
        Ok(table)
    }

    /// Resolves the entries of all directories, and checks that all inodes form one tree.
    fn check_tree(&mut self) -> Result<(), TableError> {
        let mut entries_to = vec![0_u64; self.inodes.len()];
        let mut parents = vec![0; self.inodes.len()];
        for (index, inode) in self.inodes.iter().enumerate() {
            if let DecodedNode::Directory { entries, .. } = &inode.node {
                for (_, to) in entries {
                    entries_to[*to] += 1;
                    parents[*to] = index;
                }
            }
        }
        for (index, (inode, entries)) in self.inodes.iter().zip(entries_to).enumerate() {
            // The root has a link, but no entry.
            let expected = if index == 0 { 0 } else { u64::from(inode.links) };
            if entries != expected {
                return Err(fault(inode.ino, InodeFault::Entries { links: inode.links, entries }));
            }
        }
        // Each directory but the root has one entry. So a walk from the root arrives at each at most once, and never
        // at a cycle.
        let mut is_reached = vec![false; self.inodes.len()];
        let mut rest = vec![0];
        while let Some(index) = rest.pop() {
            is_reached[index] = true;
            if let DecodedNode::Directory { entries, parent } = &mut self.inodes[index].node {
                *parent = parents[index];
                rest.extend(entries.iter().map(|(_, to)| *to));
            }
        }
        for (inode, is_reached) in self.inodes.iter().zip(is_reached) {
            if inode.kind() == Type::Directory && !is_reached {
                return Err(fault(inode.ino, InodeFault::Unreachable));
            }
        }
        Ok(())
    }

    fn check_used_bytes(&self) -> Result<(), TableError> {
        let bytes = self.inodes.iter().map(|inode| match &inode.node {
            DecodedNode::File { len, .. } => u128::from(*len),
            DecodedNode::Directory { entries, .. } => {
                entries.iter().map(|(name, _)| u128::from(ENTRY_BYTES) + name.len() as u128).sum()
            }
            DecodedNode::Link(target) => target.len() as u128,
        });
        let (used_bytes, sum_bytes) = (self.used_bytes, bytes.sum());
        if sum_bytes == u128::from(used_bytes) { Ok(()) } else { Err(TableError::UsedBytes { used_bytes, sum_bytes }) }
    }

    /// Returns the numbers of the packs.
    fn decode_packs(&mut self, mut reader: Reader<'_>) -> Result<Vec<u64>, TableError> {
        let malformed = malformed("packs");
        let mut numbers: Vec<u64> = Vec::new();
        for _ in 0..reader.count(16).map_err(malformed)? {
            let (next, bytes) = (reader.u64().map_err(malformed)?, reader.u64().map_err(malformed)?);
            if let Some(pack) = numbers.last().copied().filter(|last| *last >= next) {
                return Err(TableError::PackOrder { pack, next });
            }
            numbers.push(next);
            self.packs.insert(next, bytes);
        }
        reader.end().map_err(malformed)?;
        Ok(numbers)
    }

    fn decode_places(&mut self, mut reader: Reader<'_>, packs: &[u64]) -> Result<(), TableError> {
        let malformed = malformed("places");
        let mut live_bytes = vec![0_u64; packs.len()];
        for (chunk, decoded) in self.chunks.iter_mut().enumerate() {
            let (index, offset) = (reader.varint().map_err(malformed)?, reader.varint().map_err(malformed)?);
            let bad = TableError::Place { chunk, index, packs: packs.len(), offset };
            let bytes = decoded.bytes as u64;
            match usize::try_from(index).ok().and_then(|index| packs.get(index).zip(live_bytes.get_mut(index))) {
                Some((pack, live)) if offset.checked_add(bytes).is_some() => {
                    decoded.place = Place { pack: *pack, offset };
                    *live = live.saturating_add(bytes);
                }
                _ => return Err(bad),
            }
        }
        for ((pack, bytes), live_bytes) in self.packs.iter().zip(live_bytes) {
            if live_bytes == 0 || live_bytes > *bytes {
                return Err(TableError::PackBytes { pack: *pack, bytes: *bytes, live_bytes });
            }
        }
        reader.end().map_err(malformed)
    }
}

/// Decodes the section of inodes into a table.
struct Inodes<'t, 'a> {
    reader: &'t mut Reader<'a>,
    table: &'t mut Table<'a>,
    by_hash: HashMap<Hash, usize>,
}

impl<'a> Inodes<'_, 'a> {
    fn decode(mut self) -> Result<(), TableError> {
        let mut last: u64 = 0;
        // The numbers that the entries of directories lead to, until all inodes are known.
        let mut numbers: Vec<(usize, Vec<u64>)> = Vec::new();
        for index in 0..self.reader.count(INODE_RECORD_BYTES).map_err(malformed("inodes"))? {
            let step = self.reader.varint().map_err(malformed("inodes"))?;
            let number = last.checked_add(step).filter(|_| step > 0);
            last = number.ok_or(TableError::Inode { ino: last, fault: InodeFault::Order })?;
            let ino = Ino::from_number(last);
            if ino >= self.table.next_ino {
                return Err(fault(ino, InodeFault::NotBelowNext { next: self.table.next_ino.get() }));
            }
            let (inode, to) = self.decode_inode(ino)?;
            if index == 0 && (ino != Ino::ROOT || inode.kind() != Type::Directory) {
                return Err(TableError::NoRoot { ino: ino.get() });
            }
            if !to.is_empty() {
                numbers.push((index, to));
            }
            self.table.inodes.push(inode);
        }
        if self.table.inodes.is_empty() {
            return Err(TableError::NoRoot { ino: 0 });
        }
        for (index, to) in numbers {
            self.resolve(index, &to)?;
        }
        Ok(())
    }

    /// Replaces the numbers of inodes in the entries of a directory by indices.
    fn resolve(&mut self, index: usize, to: &[u64]) -> Result<(), TableError> {
        let indices: Vec<Option<usize>> =
            to.iter().map(|to| self.table.inodes.binary_search_by_key(to, |inode| inode.ino.get()).ok()).collect();
        let ino = self.table.inodes[index].ino;
        let DecodedNode::Directory { entries, .. } = &mut self.table.inodes[index].node else { return Ok(()) };
        for (((name, entry), found), to) in entries.iter_mut().zip(indices).zip(to) {
            *entry = found.ok_or_else(|| fault(ino, InodeFault::NoInode { name: (*name).to_owned(), to: *to }))?;
        }
        Ok(())
    }

    /// Returns an inode, and the numbers that its entries lead to.
    fn decode_inode(&mut self, ino: Ino) -> Result<(DecodedInode<'a>, Vec<u64>), TableError> {
        let malformed = malformed("inodes");
        let kind = self.reader.u8().map_err(malformed)?;
        let links = self.reader.varint().map_err(malformed)?;
        let links_max = if kind == 1 { 1 } else { HARD_LINKS_MAX };
        let links = match u32::try_from(links) {
            Ok(links) if (1..=links_max).contains(&links) => links,
            _ => return Err(fault(ino, InodeFault::Links { links })),
        };
        let times = decode_times(self.reader).map_err(malformed)?;
        let mut to = Vec::new();
        let node = match kind {
            0 => self.decode_file(ino)?,
            1 => self.decode_directory(ino, &mut to)?,
            2 => {
                let bytes = self.reader.varint().map_err(malformed)?;
                let target = self.reader.take(bytes).map_err(malformed)?;
                let target =
                    check_target(target).map_err(|path| fault(ino, InodeFault::Target { bytes, fault: path }))?;
                DecodedNode::Link(target)
            }
            value => return Err(fault(ino, InodeFault::Type { value })),
        };
        Ok((DecodedInode { ino, links, times, node }, to))
    }

    fn decode_file(&mut self, ino: Ino) -> Result<DecodedNode<'a>, TableError> {
        let malformed = malformed("inodes");
        let len = self.reader.varint().map_err(malformed)?;
        if len > i64::MAX as u64 {
            return Err(fault(ino, InodeFault::Length { bytes: len }));
        }
        let mut chunks = Vec::new();
        let mut next: u64 = 0;
        for _ in 0..self.reader.count(CHUNK_RECORD_BYTES).map_err(malformed)? {
            let gap = self.reader.varint().map_err(malformed)?;
            let missing = self.reader.varint().map_err(malformed)?;
            let hash: Hash = self.reader.array().map_err(malformed)?;
            let chunk = next.saturating_add(gap);
            let stored = usize::try_from(missing).ok().and_then(|missing| CHUNK_BYTES.checked_sub(missing));
            let Some(stored) = stored.filter(|stored| *stored > 0) else {
                return Err(fault(ino, InodeFault::ChunkLength { chunk, missing }));
            };
            let end = chunk.checked_mul(CHUNK_BYTES as u64).and_then(|start| start.checked_add(stored as u64));
            if end.is_none_or(|end| end > len) {
                return Err(fault(ino, InodeFault::ChunkIndex { chunk, stored, bytes: len }));
            }
            let index = match self.by_hash.entry(hash) {
                hash_map::Entry::Occupied(entry) => *entry.get(),
                hash_map::Entry::Vacant(entry) => {
                    let place = Place { pack: 0, offset: 0 };
                    self.table.chunks.push(DecodedChunk { hash, bytes: stored, place });
                    *entry.insert(self.table.chunks.len() - 1)
                }
            };
            let other = self.table.chunks[index].bytes;
            if other != stored {
                return Err(fault(ino, InodeFault::ChunkHash { chunk, stored, other }));
            }
            chunks.push((chunk, index));
            next = chunk + 1;
        }
        Ok(DecodedNode::File { len, chunks })
    }

    fn decode_directory(&mut self, ino: Ino, to: &mut Vec<u64>) -> Result<DecodedNode<'a>, TableError> {
        let malformed = malformed("inodes");
        let mut entries: Vec<(&str, usize)> = Vec::new();
        for index in 0..self.reader.count(ENTRY_RECORD_BYTES).map_err(malformed)? {
            let bytes = self.reader.varint().map_err(malformed)?;
            let name = self.reader.take(bytes).map_err(malformed)?;
            let name = check_name(name).map_err(|path| fault(ino, InodeFault::Name { index, bytes, fault: path }))?;
            if let Some((last, _)) = entries.last().filter(|(last, _)| *last >= name) {
                let (name, next) = ((*last).to_owned(), name.to_owned());
                return Err(fault(ino, InodeFault::EntryOrder { name, next }));
            }
            entries.push((name, 0));
            to.push(self.reader.varint().map_err(malformed)?);
        }
        Ok(DecodedNode::Directory { entries, parent: 0 })
    }
}

fn fault(ino: Ino, fault: InodeFault) -> TableError {
    TableError::Inode { ino: ino.get(), fault }
}

fn malformed(section: &'static str) -> impl Fn(WireError) -> TableError + Copy {
    move |error| TableError::Malformed { section, error }
}

fn decode_end(reader: &mut Reader<'_>) -> Result<(u64, u64), WireError> {
    Ok((reader.u64()?, reader.u64()?))
}

fn decode_times(reader: &mut Reader<'_>) -> Result<Times, WireError> {
    Ok(Times { accessed_ns: reader.u64()?, modified_ns: reader.u64()?, changed_ns: reader.u64()? })
}

fn check_name(bytes: &[u8]) -> Result<&str, PathFault> {
    let name = check_text(bytes, NAME_BYTES_MAX)?;
    if name.contains('/') || matches!(name, "." | "..") { Err(PathFault::NotAllowed) } else { Ok(name) }
}

fn check_target(bytes: &[u8]) -> Result<&str, PathFault> {
    let target = check_text(bytes, PATH_BYTES_MAX)?;
    if target.starts_with('/') { Err(PathFault::NotAllowed) } else { Ok(target) }
}

fn check_text(bytes: &[u8], bytes_max: usize) -> Result<&str, PathFault> {
    if bytes.is_empty() || bytes.len() > bytes_max {
        return Err(PathFault::Length);
    }
    let text = str::from_utf8(bytes).map_err(|_| PathFault::NotUtf8)?;
    if text.contains('\0') { Err(PathFault::NotAllowed) } else { Ok(text) }
}
