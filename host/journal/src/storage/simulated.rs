//! A directory in memory that loses whatever a disk may lose.
//!
//! A process always reads what it wrote. The seed decides what is left after [`SimulatedStorage::crash`]:
//!
//! - of every 512-byte sector that was written since the last successful sync of its file: any version since then, or
//!   the one before;
//! - of a file's length: the last one, or that of the last sync;
//! - of every creation, renaming and removal since the last sync of the directory: all or nothing, independently.
//!
//! A failed sync is as bad as on Linux: some sectors are durable, and the kernel forgets the others, so that a later
//! successful sync does not write them to disk.

use super::{FileIdentity, LockGuard, Storage, StorageFile, check_file_name};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The unit that a disk writes as a whole, in bytes.
const SECTOR_BYTES: usize = 512;

/// A kind of operation that can be counted and made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Storage::create`].
    Create,
    /// [`Storage::open`].
    Open,
    /// [`Storage::rename`].
    Rename,
    /// [`Storage::remove`].
    Remove,
    /// [`Storage::sync_directory`].
    SyncDirectory,
    /// [`StorageFile::write_at`]. A failed one has written a part.
    Write,
    /// [`StorageFile::read_at`].
    Read,
    /// [`StorageFile::set_bytes`]. A failed one has done nothing.
    SetBytes,
    /// [`StorageFile::hold_room`]. An injected failure has done nothing. One that finds the disk full has reserved the
    /// remaining space, as on ext4.
    HoldRoom,
    /// [`StorageFile::sync_data`].
    SyncData,
}

/// A fault-injecting directory in memory. Clones are the same directory.
#[derive(Debug, Clone)]
pub struct SimulatedStorage(Arc<Disk>);

#[derive(Debug)]
struct Disk {
    state: Mutex<State>,
    is_held: Mutex<bool>,
    released: Condvar,
}

/// A guard that makes every write wait until it is dropped. See [`SimulatedStorage::hold_writes`].
#[derive(Debug)]
#[must_use]
pub struct HeldWrites(Arc<Disk>);

impl Drop for HeldWrites {
    fn drop(&mut self) {
        *self.0.is_held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.released.notify_all();
    }
}

/// An injected fault, pending or fired. See [`SimulatedStorage::fail`].
#[derive(Debug)]
pub struct Fault {
    disk: Arc<Disk>,
    /// The index of the fault among [`State::armed`].
    number: usize,
}

impl Fault {
    /// Returns whether the fault has made its operation fail.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.disk.state.lock().unwrap_or_else(PoisonError::into_inner).armed[self.number].left == 0
    }
}

/// A pending fault of an operation.
#[derive(Debug)]
struct Armed {
    /// The suffix of the file's name, if the fault is limited to such files.
    ending: Option<String>,
    operation: Operation,
    /// The number of such operations up to and including the one that fails.
    left: u64,
}

#[derive(Debug)]
struct State {
    random: SplitMix64,
    files: Vec<File>,
    /// Names as the process sees them, and the file of each.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    counts: BTreeMap<Operation, u64>,
    operations: u64,
    read_bytes: u64,
    armed: Vec<Armed>,
    /// The kinds of operations that fail until they are mended.
    broken: BTreeMap<Operation, io::ErrorKind>,
    power_off_at: Option<u64>,
    is_off: bool,
    is_locked: bool,
    is_replaced: bool,
    is_writing_short: bool,
    is_ignoring_syncs: bool,
    space_bytes: u64,
}

#[derive(Debug, Default, Clone)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Every version of a sector that was written since the last sync.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The end of the reserved space, if that is after the end of the file.
    held: usize,
}

#[derive(Debug)]
enum Change {
    Create { name: String, file: usize },
    Rename { from: String, to: String, file: usize },
    Remove { name: String, file: usize },
}

impl SimulatedStorage {
    /// Returns an empty directory. `seed` determines every choice.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = Mutex::new(State {
            random: SplitMix64(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            counts: BTreeMap::new(),
            operations: 0,
            read_bytes: 0,
            armed: Vec::new(),
            broken: BTreeMap::new(),
            power_off_at: None,
            is_off: false,
            is_locked: false,
            is_replaced: false,
            is_writing_short: false,
            is_ignoring_syncs: false,
            space_bytes: u64::MAX,
        });
        Self(Arc::new(Disk { state, is_held: Mutex::new(false), released: Condvar::new() }))
    }

    /// Makes every write wait, as a slow disk does, until the returned guard is dropped.
    pub fn hold_writes(&self) -> HeldWrites {
        *self.0.is_held.lock().unwrap_or_else(PoisonError::into_inner) = true;
        HeldWrites(Arc::clone(&self.0))
    }

    /// Cuts the power, and returns the directory as a start finds it afterwards. Faults and settings are not copied.
    /// Users of the old directory get errors.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.state();
        state.is_off = true;
        let mut random = SplitMix64(state.random.next());
        // Some crashes retain nearly everything, some nearly nothing.
        let kept_of_four = random.below(5);
        let is_kept = |random: &mut SplitMix64| random.below(4) < kept_of_four;
        let mut names = state.durable_names.clone();
        for change in &state.changes {
            if is_kept(&mut random) {
                change.apply(&mut names);
            }
        }
        let mut files = Vec::with_capacity(state.files.len());
        for file in &state.files {
            let mut bytes = file.durable.clone();
            if is_kept(&mut random) {
                bytes.resize(file.bytes.len(), 0);
            }
            for (sector, versions) in &file.unsynced {
                let start = sector * SECTOR_BYTES;
                if start < bytes.len() && is_kept(&mut random) {
                    // Choose the newest version most of the time.
                    let back = random.below(2 * versions.len() as u64).saturating_sub(versions.len() as u64);
                    let version = &versions[versions.len() - 1 - usize::try_from(back).unwrap_or(0)];
                    let end = bytes.len().min(start + version.len());
                    bytes[start..end].copy_from_slice(&version[..end - start]);
                }
            }
            files.push(File { durable: bytes.clone(), bytes, ..File::default() });
        }
        drop(state);
        let after = Self::new(random.next());
        {
            let mut state = after.state();
            state.files = files;
            state.names.clone_from(&names);
            state.durable_names = names;
        }
        after
    }

    /// Makes the `nth` operation of this kind from now fail, 1 being the next.
    pub fn fail(&self, operation: Operation, nth: u64) -> Fault {
        self.arm(Armed { ending: None, operation, left: nth })
    }

    /// Makes the `nth` operation of this kind from now fail on files whose names end with `ending`. Unlike with
    /// [`SimulatedStorage::fail`], writes to other files cannot consume the fault. The name of a file is the one that
    /// it has at the time of the operation; for a rename, the old one.
    pub fn fail_in(&self, ending: &str, operation: Operation, nth: u64) -> Fault {
        self.arm(Armed { ending: Some(ending.to_owned()), operation, left: nth })
    }

    fn arm(&self, armed: Armed) -> Fault {
        let mut state = self.state();
        state.armed.push(armed);
        Fault { disk: Arc::clone(&self.0), number: state.armed.len() - 1 }
    }

    /// Makes every operation of this kind fail with an error of `kind`, until [`SimulatedStorage::mend`].
    pub fn break_down(&self, operation: Operation, kind: io::ErrorKind) {
        self.state().broken.insert(operation, kind);
    }

    /// Ends the failures that [`SimulatedStorage::break_down`] began.
    pub fn mend(&self, operation: Operation) {
        self.state().broken.remove(&operation);
    }

    /// Replaces this directory by another one: users of this one no longer have its lock.
    pub fn replace(&self) {
        self.state().is_replaced = true;
    }

    /// Cuts the power in the middle of the `nth` operation from now: it and all later ones fail.
    pub fn power_off(&self, nth: u64) {
        let mut state = self.state();
        state.power_off_at = Some(state.operations + nth);
    }

    /// Returns whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// Makes some writes shorter than requested.
    pub fn write_short(&self) {
        self.state().is_writing_short = true;
    }

    /// Makes every sync report success without syncing, to show that a test can fail.
    pub fn ignore_syncs(&self) {
        self.state().is_ignoring_syncs = true;
    }

    /// Limits [`SimulatedStorage::taken_bytes`] to `bytes`, after which the disk is full.
    pub fn limit_space(&self, bytes: u64) {
        self.state().space_bytes = bytes;
    }

    /// Returns the number of operations of a kind.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Returns the number of all operations.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Returns the number of bytes that were read from files.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// Returns the sum of all files' lengths, in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let state = self.state();
        state.names.values().map(|&file| state.files[file].bytes.len() as u64).sum()
    }

    /// Returns the sum of all files' lengths and of the space reserved after their ends, in bytes.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.state().taken_bytes()
    }

    /// Returns an independent copy of the directory, as a start would find it after a clean stop of everything.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state();
        let copy = Self::new(state.random.0);
        {
            let mut into = copy.state();
            let files = state.files.iter();
            into.files = files
                .map(|file| File { durable: file.bytes.clone(), unsynced: BTreeMap::new(), ..file.clone() })
                .collect();
            into.names.clone_from(&state.names);
            into.durable_names.clone_from(&state.names);
        }
        copy
    }

    /// Simulates rot: inverts the bits of `mask` in one byte on the disk. Does nothing if there is no such byte.
    pub fn flip(&self, name: &str, offset: usize, mask: u8) {
        let mut state = self.state();
        let Some(&file) = state.names.get(name) else { return };
        let file = &mut state.files[file];
        for bytes in [&mut file.bytes, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }

    /// Simulates rot: truncates a file.
    pub fn truncate(&self, name: &str, bytes: usize) {
        let mut state = self.state();
        let Some(&file) = state.names.get(name) else { return };
        state.files[file].bytes.truncate(bytes);
        state.files[file].durable.truncate(bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_release(&self) {
        let is_held = self.0.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.released.wait_while(is_held, |is_held| *is_held));
    }
}

/// The outcome of an operation.
enum Fate {
    Done,
    Fails(io::Error),
}

impl State {
    /// Counts an operation on a file, and decides its outcome.
    fn enter_file(&mut self, operation: Operation, file: usize) -> io::Result<Fate> {
        let name = self.names.iter().find(|(_, other)| **other == file).map(|(name, _)| name.clone());
        self.enter(operation, name.as_deref())
    }

    /// Counts an operation, and decides its outcome. `name` is that of its file, if it has one.
    fn enter(&mut self, operation: Operation, name: Option<&str>) -> io::Result<Fate> {
        if self.is_off {
            return Err(power_is_off());
        }
        self.operations += 1;
        *self.counts.entry(operation).or_default() += 1;
        if self.power_off_at == Some(self.operations) {
            self.is_off = true;
            return Ok(Fate::Fails(power_is_off()));
        }
        let mut is_hit = false;
        for armed in self.armed.iter_mut().filter(|armed| armed.left > 0 && armed.operation == operation) {
            let ending = armed.ending.as_deref();
            if ending.is_none_or(|ending| name.is_some_and(|name| name.ends_with(ending))) {
                armed.left -= 1;
                is_hit |= armed.left == 0;
            }
        }
        if is_hit {
            let message = format!("injected: {operation:?} of '{}' fails", name.unwrap_or_default());
            return Ok(Fate::Fails(io::Error::other(message)));
        }
        if let Some(kind) = self.broken.get(&operation) {
            return Ok(Fate::Fails((*kind).into()));
        }
        Ok(Fate::Done)
    }

    fn taken_bytes(&self) -> u64 {
        self.names.values().map(|&file| self.files[file].room() as u64).sum()
    }

    /// Checks that the disk has room for a file up to `end`.
    fn check_room(&self, file: usize, end: usize) -> io::Result<()> {
        let growth = end.saturating_sub(self.files[file].room()) as u64;
        if growth > 0 && self.taken_bytes() + growth > self.space_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Applies a change of names. If the power goes off in the middle, the crash decides whether it counts.
    fn change(&mut self, operation: Operation, change: Change) -> io::Result<()> {
        let (Change::Create { name, .. } | Change::Rename { from: name, .. } | Change::Remove { name, .. }) = &change;
        let fate = self.enter(operation, Some(name))?;
        if matches!(fate, Fate::Done) || self.is_off {
            change.apply(&mut self.names);
            self.changes.push(change);
        }
        match fate {
            Fate::Done => Ok(()),
            Fate::Fails(error) => Err(error),
        }
    }

    fn file_of(&self, name: &str) -> io::Result<usize> {
        check_file_name(name)?;
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Self::Remove { name, file } => {
                if names.get(name) == Some(file) {
                    names.remove(name);
                }
            }
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("injected: the power is off")
}

impl Storage for SimulatedStorage {
    fn lock(&self) -> io::Result<LockGuard> {
        let mut state = self.state();
        if state.is_off {
            return Err(power_is_off());
        }
        if std::mem::replace(&mut state.is_locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(LockGuard::new(Box::new(Unlock(self.clone()))))
    }

    fn check_lock(&self) -> io::Result<()> {
        if self.state().is_replaced { Err(io::Error::other("injected: another directory")) } else { Ok(()) }
    }

    fn check_place(&self, name: &str, identity: &FileIdentity) -> io::Result<()> {
        let named = self.state().file_of(name).map(identity_of);
        match named {
            Ok(named) if named.is_same(identity) => Ok(()),
            Ok(_) => Err(io::Error::other(format!("its '{name}' is now another file"))),
            Err(_) => Err(io::Error::other(format!("its '{name}' is gone"))),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        check_file_name(name)?;
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(File::default());
        state.change(Operation::Create, Change::Create { name: name.to_owned(), file })?;
        Ok(Box::new(SimulatedFile { storage: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut state = self.state();
        if let Fate::Fails(error) = state.enter(Operation::Open, Some(name))? {
            return Err(error);
        }
        let file = state.file_of(name)?;
        Ok(Box::new(SimulatedFile { storage: self.clone(), file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.is_off { Err(power_is_off()) } else { Ok(state.names.keys().cloned().collect()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_file_name(to)?;
        let mut state = self.state();
        let file = state.file_of(from)?;
        state.change(Operation::Rename, Change::Rename { from: from.to_owned(), to: to.to_owned(), file })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file_of(name)?;
        state.change(Operation::Remove, Change::Remove { name: name.to_owned(), file })
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.enter(Operation::SyncDirectory, None)? {
            Fate::Done => {
                if !state.is_ignoring_syncs {
                    state.durable_names = state.names.clone();
                    state.changes.clear();
                }
                Ok(())
            }
            Fate::Fails(error) => Err(error),
        }
    }
}

fn identity_of(file: usize) -> FileIdentity {
    FileIdentity { device: 0, number: file as u64, created: None }
}

/// A guard that releases the lock when it is dropped.
struct Unlock(SimulatedStorage);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state().is_locked = false;
    }
}

#[derive(Debug)]
struct SimulatedFile {
    storage: SimulatedStorage,
    file: usize,
}

impl StorageFile for SimulatedFile {
    fn bytes(&self) -> io::Result<u64> {
        let state = self.storage.state();
        if state.is_off { Err(power_is_off()) } else { Ok(state.files[self.file].bytes.len() as u64) }
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(identity_of(self.file))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.storage.await_release();
        let mut state = self.storage.state();
        let fate = state.enter_file(Operation::Write, self.file)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut count = bytes.len();
        if state.is_writing_short && count > 1 && state.random.below(2) == 0 {
            count = 1 + below(&mut state.random, count - 1);
        }
        if matches!(fate, Fate::Fails(_)) && !state.is_off {
            count = below(&mut state.random, count + 1);
        }
        state.check_room(self.file, offset + count)?;
        state.files[self.file].write(offset, &bytes[..count]);
        match fate {
            Fate::Done => Ok(count),
            Fate::Fails(error) => Err(error),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.storage.state();
        if let Fate::Fails(error) = state.enter_file(Operation::Read, self.file)? {
            return Err(error);
        }
        let bytes = &state.files[self.file].bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        state.read_bytes += count as u64;
        Ok(count)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        let fate = state.enter_file(Operation::SetBytes, self.file)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        state.check_room(self.file, bytes)?;
        // If the power goes off in the middle, the crash decides.
        if matches!(fate, Fate::Done) || state.is_off {
            state.files[self.file].set_bytes(bytes);
        }
        match fate {
            Fate::Done => Ok(()),
            Fate::Fails(error) => Err(error),
        }
    }

    fn hold_room(&self, bytes: u64, spare: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        if let Fate::Fails(error) = state.enter_file(Operation::HoldRoom, self.file)? {
            return Err(error);
        }
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let room = state.files[self.file].room();
        let growth = bytes.saturating_sub(room) as u64;
        let free = state.space_bytes.saturating_sub(state.taken_bytes());
        if growth > 0 && free < growth.saturating_add(spare) {
            if spare == 0 {
                let got = usize::try_from(free).map_err(io::Error::other)?;
                state.files[self.file].held = room + got;
            }
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = &mut state.files[self.file];
        file.held = file.held.max(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.storage.state();
        match state.enter_file(Operation::SyncData, self.file)? {
            Fate::Done => {
                if !state.is_ignoring_syncs {
                    state.files[self.file].sync();
                }
                Ok(())
            }
            Fate::Fails(error) => {
                if !state.is_off {
                    let mut random = SplitMix64(state.random.next());
                    state.files[self.file].sync_in_part(&mut random);
                }
                Err(error)
            }
        }
    }
}

impl File {
    /// Returns the room that the file takes, in bytes.
    fn room(&self) -> usize {
        self.bytes.len().max(self.held)
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let start = sector * SECTOR_BYTES;
            let version = self.bytes[start..self.bytes.len().min(start + SECTOR_BYTES)].to_vec();
            self.unsynced.entry(sector).or_default().push(version);
        }
    }

    /// Sets the length of the file. Added zeros are versions of their sectors, like written bytes: the disk may still
    /// have the old bytes that an unsynced truncation removed.
    fn set_bytes(&mut self, bytes: usize) {
        let before = self.bytes.len();
        if bytes <= before {
            self.held = 0;
        }
        if bytes > before {
            self.write(before, &vec![0; bytes - before]);
        } else {
            self.bytes.truncate(bytes);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            self.make_durable(sector);
        }
    }

    fn sync_in_part(&mut self, random: &mut SplitMix64) {
        if self.durable.len() > self.bytes.len() && random.below(2) == 0 {
            self.durable.truncate(self.bytes.len());
        }
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            if random.below(2) == 0 {
                self.make_durable(sector);
            }
        }
    }

    fn make_durable(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = self.bytes.len().min(start + SECTOR_BYTES);
        if start >= end {
            // The sector was truncated.
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.bytes[start..end]);
    }
}

/// `SplitMix64`, a small generator of random numbers by Sebastiano Vigna. Choosing faults needs no better one.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn below(random: &mut SplitMix64, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
