//! The table of a disk, and the pack of what is new on it.

use crate::chunk::Chunk;
use crate::contents::Contents;
use crate::disk::Disk;
use crate::inode::Node;
use crate::pack;
use crate::place::{Hash, Packs, Place};
use crate::table::{InodeWriter, end_section, seal, section};
use crate::wire::put_varint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// The next pack takes the live chunks of a pack along when they are less than one of this many parts of it.
///
/// So packs store at most this many bytes for each byte that a disk has in chunks. And of all bytes that are written,
/// less than a third are copies: at most 1.5 bytes are written for each new one.
pub const PACK_PARTS_MAX: u64 = 3;

/// A disk as it was at one time, encoded for a snapshot.
///
/// It shares chunks with the disk, but nothing that happens to the disk later changes it. The disk in turn notices
/// nothing until [`commit`](Self::commit).
pub struct Export {
    table: Vec<u8>,
    digest: Hash,
    packs: Packs,
    /// The header and the index of the new pack, if there is one.
    head: Vec<u8>,
    chunks: Vec<Arc<Chunk>>,
    new_bytes: u64,
    moved_bytes: u64,
    /// The chunks that have another place as soon as the pack is durable.
    placed: Vec<(Arc<Chunk>, Place)>,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("table", &self.table.len())
            .field("packs", &self.packs)
            .field("new_bytes", &self.new_bytes)
            .field("moved_bytes", &self.moved_bytes)
            .finish_non_exhaustive()
    }
}

impl Export {
    /// Returns the table.
    #[must_use]
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// Returns the digest of the disk. See [`Disk::digest`].
    #[must_use]
    pub fn digest(&self) -> &Hash {
        &self.digest
    }

    /// Returns the packs that the table refers to, the new one among them. A snapshot with the table needs them.
    #[must_use]
    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// Returns the new pack's file in slices: its head, and then each chunk. It is empty if no chunk is new; then the
    /// snapshot has no pack of its own.
    pub fn pack(&self) -> impl Iterator<Item = &[u8]> {
        let head = (!self.chunks.is_empty()).then_some(&*self.head);
        head.into_iter().chain(self.chunks.iter().map(|chunk| chunk.bytes()))
    }

    /// Returns the length of the new pack's file: 0 if there is none.
    #[must_use]
    pub fn pack_bytes(&self) -> u64 {
        let head = if self.chunks.is_empty() { 0 } else { self.head.len() as u64 };
        head + self.new_bytes + self.moved_bytes
    }

    /// Returns the bytes of the chunks that no pack stored before.
    #[must_use]
    pub fn new_bytes(&self) -> u64 {
        self.new_bytes
    }

    /// Returns the bytes of the chunks that the new pack takes along from old packs.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }

    /// Notes in the chunks where they are stored: the new pack is durable. Without it, as after a failed write, the
    /// next export stores them again.
    ///
    /// From here on no other pack may get the number of the new one, even if this one is removed.
    pub fn commit(self) {
        for (chunk, place) in self.placed {
            chunk.set_place(place);
        }
    }
}

/// The most packs that a table refers to beside the new one. When there are more, the new pack takes along the chunks of
/// the smallest half, so that a byte is moved rarely. Each pack is a file that a start opens.
pub const PACKS_MAX: usize = 64;

impl Disk {
    /// Encodes the disk for a snapshot, with the number that its pack would have.
    ///
    /// `packs` are those of this disk's history that are there, and that stay until the snapshot is durable or
    /// given up: chunks that these store are not stored again, unless they are moved to the new pack. With no packs the
    /// new one has all chunks. Files without an entry are left out.
    ///
    /// The work grows with the number of inodes and chunks, and with the bytes of the chunks that were written
    /// since the last export or [`digest`](Self::digest).
    #[must_use]
    pub fn export(&self, number: u64, packs: &Packs) -> Export {
        let mut packs = packs.clone();
        packs.remove(&number);
        let mut survey = Survey::new(self, &packs);
        let moved = survey.sparse_packs(&packs);
        let (mut new_bytes, mut moved_bytes) = (0, 0);
        let mut chunks = Vec::new();
        for distinct in &mut survey.distinct {
            let len = distinct.len;
            match distinct.place {
                None => new_bytes += len,
                Some(place) if moved.contains(&place.pack) => moved_bytes += len,
                Some(_) => continue,
            }
            distinct.place = None;
            chunks.push(Arc::clone(distinct.chunk));
        }
        let mut offset = pack::first_offset(chunks.len());
        let places: Vec<Place> = survey
            .distinct
            .iter()
            .map(|distinct| {
                distinct.place.unwrap_or_else(|| {
                    let place = Place { pack: number, offset };
                    offset += distinct.len;
                    place
                })
            })
            .collect();
        packs.insert(number, new_bytes + moved_bytes);
        let used: BTreeSet<u64> = places.iter().map(|place| place.pack).collect();
        packs.retain(|pack, _| used.contains(pack));
        let firsts = survey.distinct.iter().enumerate().map(|(index, distinct)| (distinct.chunk, distinct.own, index));
        let placed = firsts
            .chain(survey.repeated.iter().copied())
            .filter(|(_, own, index)| *own != Some(places[*index]))
            .map(|(chunk, _, index)| (Arc::clone(chunk), places[index]))
            .collect();
        Export {
            table: survey.table(&packs, &places),
            digest: survey.digest(),
            packs,
            head: pack::head(number, &chunks),
            chunks,
            new_bytes,
            moved_bytes,
            placed,
        }
    }

    /// Returns the hash of all that a snapshot restores: inodes with their numbers and times, entries, bytes.
    ///
    /// Two disks with the same history of operations have the same digest, whatever copies and snapshots were made of
    /// them. Files without an entry do not count.
    #[must_use]
    pub fn digest(&self) -> Hash {
        Survey::new(self, &Packs::new()).digest()
    }
}

/// A chunk of a disk, for all that have the same bytes.
struct Distinct<'a> {
    chunk: &'a Arc<Chunk>,
    len: u64,
    /// Where the chunk itself is stored.
    own: Option<Place>,
    /// Where a known pack stores the same bytes.
    place: Option<Place>,
}

/// What there is on a disk.
struct Survey<'a> {
    inodes: Vec<u8>,
    end: [u8; 16],
    /// In the order in which the inodes first have them.
    distinct: Vec<Distinct<'a>>,
    /// Chunks with the bytes of an earlier one, where they are stored, and the index of that one in `distinct`.
    repeated: Vec<(&'a Arc<Chunk>, Option<Place>, usize)>,
    by_hash: HashMap<&'a Hash, usize>,
}

impl<'a> Survey<'a> {
    fn new(disk: &'a Disk, packs: &Packs) -> Self {
        let (mut unlinked, mut unlinked_bytes) = (0, 0);
        for inode in disk.unlinked() {
            unlinked += 1;
            unlinked_bytes += inode.bytes();
        }
        let mut survey = Self {
            inodes: Vec::new(),
            end: end_section(disk.next_ino(), disk.used_bytes() - unlinked_bytes),
            distinct: Vec::new(),
            repeated: Vec::new(),
            by_hash: HashMap::new(),
        };
        let mut writer = InodeWriter::new(disk.inodes.len() - unlinked);
        for (ino, inode) in &disk.inodes {
            if inode.links > 0 {
                writer.put(*ino, inode);
                if let Node::File(contents) = &inode.node {
                    survey.add_chunks(contents, packs);
                }
            }
        }
        survey.inodes = writer.into_bytes();
        survey
    }

    fn add_chunks(&mut self, contents: &'a Contents, packs: &Packs) {
        self.by_hash.reserve(contents.chunks().len());
        self.distinct.reserve(contents.chunks().len());
        for (_, chunk) in contents.chunks() {
            let own = chunk.place();
            let place = own.filter(|place| packs.contains_key(&place.pack));
            let index = *self.by_hash.entry(chunk.hash()).or_insert(self.distinct.len());
            match self.distinct.get_mut(index) {
                None => self.distinct.push(Distinct { chunk, len: chunk.bytes().len() as u64, own, place }),
                Some(distinct) => {
                    distinct.place = distinct.place.or(place);
                    self.repeated.push((chunk, own, index));
                }
            }
        }
    }

    /// Returns the packs whose live chunks the new one takes along.
    fn sparse_packs(&self, packs: &Packs) -> BTreeSet<u64> {
        let mut live = Packs::new();
        for distinct in &self.distinct {
            if let Some(place) = distinct.place {
                *live.entry(place.pack).or_default() += distinct.len;
            }
        }
        let is_sparse = |(pack, live): &(u64, u64)| {
            packs.get(pack).is_some_and(|bytes| live.saturating_mul(PACK_PARTS_MAX) < *bytes)
        };
        let mut moved: BTreeSet<u64> = live.clone().into_iter().filter(is_sparse).map(|(pack, _)| pack).collect();
        live.retain(|pack, _| !moved.contains(pack));
        if live.len() > PACKS_MAX {
            let mut by_size: Vec<(u64, u64)> = live.into_iter().map(|(pack, live)| (live, pack)).collect();
            by_size.sort_unstable();
            moved.extend(by_size.iter().take(PACKS_MAX / 2).map(|(_, pack)| *pack));
        }
        moved
    }

    fn table(&self, packs: &Packs, places: &[Place]) -> Vec<u8> {
        let mut packs_section = Vec::new();
        let mut indices = BTreeMap::new();
        put_varint(&mut packs_section, packs.len() as u64);
        for (index, (pack, bytes)) in packs.iter().enumerate() {
            packs_section.extend_from_slice(&pack.to_le_bytes());
            packs_section.extend_from_slice(&bytes.to_le_bytes());
            indices.insert(*pack, index as u64);
        }
        let mut places_section = Vec::new();
        for place in places {
            put_varint(&mut places_section, indices.get(&place.pack).copied().unwrap_or_default());
            put_varint(&mut places_section, place.offset);
        }
        seal(&[
            (section::INODES, &self.inodes),
            (section::END, &self.end),
            (section::PACKS, &packs_section),
            (section::PLACES, &places_section),
        ])
    }

    fn digest(&self) -> Hash {
        *blake3::Hasher::new().update(&self.inodes).update(&self.end).finalize().as_bytes()
    }
}
