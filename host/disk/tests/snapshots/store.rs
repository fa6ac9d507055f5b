//! A model of the files that a host writes for the snapshots of one disk.

use lifeboat_disk::{Disk, Export, Origin, PACK_HEADER_BYTES, PackHeader, Packs};
use std::collections::{BTreeMap, VecDeque};

/// The snapshots that are retained.
const RETAINED: usize = 2;

/// A snapshot's table, and `S`, what the test knows about the disk.
pub(crate) struct Snapshot<S> {
    table: Vec<u8>,
    packs: Packs,
    pub(crate) state: S,
}

/// Packs by their number, and the last snapshots.
pub(crate) struct Store<S> {
    packs: BTreeMap<u64, Vec<u8>>,
    snapshots: VecDeque<Snapshot<S>>,
    last_number: u64,
    /// The bytes of all packs that were written.
    pub(crate) written_bytes: u64,
}

impl<S> Default for Store<S> {
    fn default() -> Self {
        Self { packs: BTreeMap::new(), snapshots: VecDeque::new(), last_number: 0, written_bytes: 0 }
    }
}

impl<S> Store<S> {
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Returns the packs that are there, as a start of the host finds them.
    pub(crate) fn packs(&self) -> Packs {
        let header = |pack: &[u8]| PackHeader::read(&pack[..PACK_HEADER_BYTES]).expect("it was just written");
        self.packs.iter().map(|(number, pack)| (*number, header(pack).chunk_bytes())).collect()
    }

    /// Returns the length of all packs that are there.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.packs.values().map(|pack| pack.len() as u64).sum()
    }

    pub(crate) fn write_pack(&mut self, export: &Export) {
        let pack: Vec<u8> = export.pack().flatten().copied().collect();
        assert_eq!(pack.len() as u64, export.pack_bytes());
        self.written_bytes += export.pack_bytes();
        if pack.is_empty() {
            return;
        }
        let header = PackHeader::read(&pack[..PACK_HEADER_BYTES]).expect("it was just written");
        assert_eq!((header.number(), header.file_bytes()), (self.last_number, pack.len() as u64));
        let slice = |range: std::ops::Range<u64>| &pack[range.start as usize..range.end as usize];
        let chunks = header.read_index(slice(header.index_range())).expect("it was just written");
        assert!(chunks.iter().all(|chunk| chunk.is_intact(slice(chunk.range()))));
        self.packs.insert(header.number(), pack);
    }

    pub(crate) fn write_table(&mut self, export: &Export, state: S) {
        self.written_bytes += export.table().len() as u64;
        let snapshot = Snapshot { table: export.table().to_vec(), packs: export.packs().clone(), state };
        self.snapshots.push_back(snapshot);
        if self.snapshots.len() > RETAINED {
            self.snapshots.pop_front();
        }
    }

    pub(crate) fn delete_packs(&mut self) {
        let snapshots = &self.snapshots;
        self.packs.retain(|number, _| snapshots.iter().any(|snapshot| snapshot.packs.contains_key(number)));
    }

    pub(crate) fn retained(&self) -> impl DoubleEndedIterator<Item = &Snapshot<S>> {
        self.snapshots.iter()
    }

    pub(crate) fn import(&self, snapshot: &Snapshot<S>) -> Disk {
        let imported = Disk::import(&snapshot.table, Origin::OwnPacks, |place, len, _| {
            let pack = self.packs.get(&place.pack).ok_or(format!("pack {} is gone", place.pack))?;
            Ok::<_, String>(pack[place.offset as usize..][..len].to_vec())
        });
        let imported = imported.expect("all packs are there");
        assert_eq!(imported.packs, snapshot.packs);
        imported.disk
    }
}
