//! `wasi:filesystem`: the virtual disk as a guest sees it.
//!
//! Wasmtime's own file system is linked nowhere. Every call here ends in a [`Disk`], which is memory: no path, link or
//! handle leads to the host's files. The error codes are those that Wasmtime 48 gives on Linux.
//!
//! A descriptor belongs to the call that opened it:
//!
//! ```text
//!   get-directories -> descriptor of `/`, valid for the instance's life
//!   open-at, *-via-stream, read-directory -> valid until the call of the guest ends, then stale:
//!                                            every use answers `bad-descriptor`, and a drop works
//! ```
//!
//! A handle is not deleted at the end of its call, because a guest in preview 1 drops it later, and that would trap.

use super::streams::Stream;
use super::{Phase, Wasi, datetime};
use crate::stop::Stop;
use lifeboat_api::transaction::Cause;
use lifeboat_disk::{Call, Disk, Error, Ino, Listing, Mark, OpenHow, READ_BYTES_MAX, Released, SetTimes, Stat, Type};
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError};

#[allow(missing_docs, unreachable_pub, reason = "generated; the files in host/vm/wasi are the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wasi",
        world: "lifeboat:wasi/files",
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:filesystem/types.descriptor": super::Descriptor,
            "wasi:filesystem/types.directory-entry-stream": super::Entries,
        },
        imports: { default: trappable },
        require_store_data_send: true,
        trappable_error_type: { "wasi:filesystem/types.error-code" => super::FileError },
    });
}
use bindings::wasi::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, Filesize, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use bindings::wasi::filesystem::{preopens, types};

/// The most descriptors, file streams and listings that a guest may hold at once.
pub(crate) const OPEN_FILES_MAX: usize = 1_024;

/// The most bytes that one call of `descriptor.write` takes. It returns how many it took.
const WRITE_AT_ONCE_MAX: usize = 1024 * 1024;

/// Returns the flags that ask to synchronise what is written. What makes a write durable is the transaction.
fn sync_flags() -> DescriptorFlags {
    DescriptorFlags::FILE_INTEGRITY_SYNC | DescriptorFlags::DATA_INTEGRITY_SYNC | DescriptorFlags::REQUESTED_WRITE_SYNC
}

/// The path at which the disk is preopened.
const ROOT_PATH: &str = "/";

/// Links `wasi:filesystem`.
///
/// # Errors
/// Fails only if a name is linked twice.
pub(super) fn add_to_linker<D: super::HasWasi>(linker: &mut Linker<D>) -> Result<()> {
    types::add_to_linker::<D, HasSelf<Wasi>>(linker, D::wasi)?;
    preopens::add_to_linker::<D, HasSelf<Wasi>>(linker, D::wasi)
}

/// The reason why an operation on a file does not succeed: the guest gets the code, and a trap ends the guest.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub enum FileError {
    /// The guest gets this code.
    Code(ErrorCode),
    /// The disk is full.
    Full {
        /// What would have been on the disk, in bytes.
        wanted_bytes: u64,
        /// The quota, in bytes.
        limit_bytes: u64,
    },
    /// The guest ends.
    Trap(wasmtime::Error),
}

type FileResult<T> = std::result::Result<T, FileError>;

impl From<ErrorCode> for FileError {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

impl From<wasmtime::component::ResourceTableError> for FileError {
    fn from(error: wasmtime::component::ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl From<Error> for FileError {
    fn from(error: Error) -> Self {
        Self::Code(match error {
            Error::BadDescriptor => ErrorCode::BadDescriptor,
            Error::Busy => ErrorCode::Busy,
            Error::Exist => ErrorCode::Exist,
            Error::Full { wanted_bytes, limit_bytes } => return Self::Full { wanted_bytes, limit_bytes },
            Error::Invalid => ErrorCode::Invalid,
            Error::IsDirectory => ErrorCode::IsDirectory,
            Error::Loop => ErrorCode::Loop,
            Error::NameTooLong => ErrorCode::NameTooLong,
            Error::NoEntry => ErrorCode::NoEntry,
            // As Linux. It depends on the state of the disk alone.
            Error::NoInode => ErrorCode::InsufficientSpace,
            Error::NotDirectory => ErrorCode::NotDirectory,
            Error::NotEmpty => ErrorCode::NotEmpty,
            Error::NotPermitted => ErrorCode::NotPermitted,
            Error::ReadOnly => ErrorCode::ReadOnly,
            Error::TooManyLinks => ErrorCode::TooManyLinks,
        })
    }
}

/// The code of a failed stream.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct StreamCode(ErrorCode);

/// A file or directory that a guest has opened.
#[derive(Debug, Clone, Copy)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct Descriptor {
    ino: Ino,
    kind: Type,
    is_readable: bool,
    is_writable: bool,
    /// How the guest asked to synchronise what it writes. It is shown to the guest again, and has no effect.
    sync: DescriptorFlags,
    /// The number of the call that opened it. None for the preopened directory, which is never stale.
    call: Option<u64>,
}

/// A listing of a directory.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct Entries {
    listing: Listing,
    call: u64,
}

/// A stream over a file, beside its entry in the resource table.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileStream {
    pub(super) ino: Ino,
    /// The next byte, or none for a stream that appends.
    pub(super) offset: Option<u64>,
    pub(super) call: u64,
}

/// The virtual disk in a store, and what a guest has open on it.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Disk,
    /// What the disk knows of the current call.
    current: Option<Call>,
    /// The number of the current or the last call into the guest.
    call: u64,
    /// The number of descriptors, streams and listings that are open and not stale.
    open: usize,
    /// Whether a transaction or query has left something open.
    has_left_open: bool,
    /// The disk to which the current call goes back at its end.
    before: Option<Disk>,
    /// The directories that the guest finds open.
    preopens: Vec<Preopen>,
    /// Whether the guest gets an error when the disk is full. No reply may depend on the quota: in a service the attempt
    /// ends, as it does when memory is exhausted.
    tells_full: bool,
    /// The uses of stale descriptors, streams and listings in the current or the last call.
    stale_uses: u64,
}

/// A directory that a guest finds open.
#[derive(Debug, Clone)]
pub(crate) struct Preopen {
    /// Its name, by which the guest finds it.
    pub(crate) name: String,
    /// The directory.
    pub(crate) ino: Ino,
}

impl Files {
    pub(crate) fn new(disk: Disk) -> Self {
        let root = Preopen { name: ROOT_PATH.to_owned(), ino: Ino::ROOT };
        Self {
            disk,
            current: None,
            call: 0,
            open: 0,
            has_left_open: false,
            before: None,
            preopens: vec![root],
            tells_full: false,
            stale_uses: 0,
        }
    }

    pub(super) fn set_preopens(&mut self, preopens: Vec<Preopen>) {
        (self.preopens, self.tells_full) = (preopens, true);
    }

    /// Returns the code for a full disk.
    ///
    /// # Errors
    /// In a service, the guest ends.
    fn full(&self, wanted_bytes: u64, limit_bytes: u64) -> Result<ErrorCode> {
        match self.tells_full {
            true => Ok(ErrorCode::InsufficientSpace),
            false => Err(wasmtime::Error::new(Stop(Cause::Disk { wanted_bytes, limit_bytes }))),
        }
    }

    /// Begins a call at `now_ns` with a quota of `limit_bytes`. What an earlier call has left open is stale from now on.
    pub(super) fn enter(&mut self, now_ns: u64, mark: Mark, limit_bytes: u64, phase: Phase) {
        self.leave(false);
        self.call += 1;
        self.stale_uses = 0;
        self.before = (phase == Phase::Query).then(|| self.disk.clone());
        let is_read_only = phase == Phase::Snapshot;
        let call = Call { now_ns, mark, limit_bytes, is_read_only };
        self.current = Some(call);
        self.disk.enter(call);
    }

    /// Moves the clock of the call to `now_ns`.
    pub(super) fn set_time(&mut self, now_ns: u64) {
        if let Some(call) = &mut self.current {
            call.now_ns = now_ns;
            self.disk.enter(*call);
        }
    }

    /// Ends a call: closes what it has left open, and undoes its writes if they are to be dropped. Then it returns the
    /// disk with these writes. A call that was cut off could not close anything.
    pub(super) fn leave(&mut self, is_finished: bool) -> Option<Disk> {
        self.has_left_open |= is_finished && self.open > 0;
        self.open = 0;
        self.disk.close_all();
        self.before.take().map(|before| std::mem::replace(&mut self.disk, before))
    }

    /// Returns the number of the current or the last call into the guest.
    pub(super) fn call(&self) -> u64 {
        self.call
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Returns whether any call so far has left a descriptor, stream or listing open.
    pub(super) fn has_left_open(&self) -> bool {
        self.has_left_open
    }

    /// Replaces the disk between two calls.
    pub(super) fn set_disk(&mut self, disk: Disk) {
        self.disk = disk;
    }

    pub(super) fn take_released(&mut self) -> Released {
        self.disk.take_released()
    }

    pub(super) fn take_fuel(&mut self) -> u64 {
        self.disk.take_fuel()
    }

    /// Returns whether something that `call` has opened is stale when it is used.
    fn is_stale(&mut self, call: Option<u64>) -> bool {
        let is_stale = call.is_some_and(|call| call != self.call);
        self.stale_uses += u64::from(is_stale);
        is_stale
    }

    /// Returns the number of uses of what an earlier call has opened, in the current or the last call.
    pub(super) fn stale_uses(&self) -> u64 {
        self.stale_uses
    }

    /// Counts one more open descriptor, stream or listing.
    fn count_open(&mut self) -> FileResult<()> {
        if self.open >= OPEN_FILES_MAX {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        self.open += 1;
        Ok(())
    }

    /// Notes that something of `call` was dropped. `ino` is what it held open.
    pub(super) fn closed(&mut self, call: Option<u64>, ino: Option<Ino>) {
        if call != Some(self.call) {
            return;
        }
        self.open = self.open.saturating_sub(1);
        if let Some(ino) = ino {
            self.disk.close(ino);
        }
    }
}

impl Wasi {
    /// Returns a descriptor that is not stale.
    fn descriptor(&mut self, handle: &Resource<Descriptor>) -> FileResult<Descriptor> {
        let descriptor = *self.table.get(handle)?;
        if self.files.is_stale(descriptor.call) {
            return Err(ErrorCode::BadDescriptor.into());
        }
        Ok(descriptor)
    }

    /// Returns the disk and the directory that a descriptor stands for.
    fn directory(&mut self, handle: &Resource<Descriptor>) -> FileResult<(&mut Disk, Ino)> {
        let descriptor = self.descriptor(handle)?;
        if descriptor.kind != Type::Directory {
            return Err(ErrorCode::NotDirectory.into());
        }
        Ok((&mut self.files.disk, descriptor.ino))
    }

    /// Returns the disk and the file that a descriptor stands for.
    fn file(&mut self, handle: &Resource<Descriptor>) -> FileResult<(&mut Disk, Descriptor)> {
        let descriptor = self.descriptor(handle)?;
        if descriptor.kind == Type::Directory {
            return Err(ErrorCode::BadDescriptor.into());
        }
        Ok((&mut self.files.disk, descriptor))
    }

    /// Opens a stream over a file. The table gets a stand-in: the functions of `wasi:io/streams` find the stream by
    /// the number of that entry.
    fn stream<T: Send + 'static>(&mut self, ino: Ino, offset: Option<u64>, stand_in: T) -> FileResult<Resource<T>> {
        let files = &mut self.files;
        files.count_open()?;
        let call = files.call;
        if let Err(error) = files.disk.open(ino) {
            files.closed(Some(call), None);
            return Err(error.into());
        }
        let stream = match self.table.push(stand_in) {
            Ok(stream) => stream,
            Err(error) => {
                self.files.closed(Some(call), Some(ino));
                return Err(error.into());
            }
        };
        self.streams.insert(stream.rep(), Stream::File(FileStream { ino, offset, call }));
        Ok(stream)
    }

    /// Reads from a file stream, and moves it on.
    pub(super) fn read_file(&mut self, rep: u32, len: u64) -> std::result::Result<Vec<u8>, StreamError> {
        let read = self.live_stream(rep).and_then(|stream| {
            let offset = stream.offset.unwrap_or_default();
            Ok(self.files.disk.read(stream.ino, offset, len)?)
        });
        let bytes = read.map_err(|error| self.stream_error(error))?;
        if bytes.is_empty() && len > 0 {
            return Err(StreamError::Closed);
        }
        self.move_stream(rep, bytes.len());
        Ok(bytes)
    }

    /// Writes all of `bytes` to a file stream, and moves it on.
    pub(super) fn write_file(&mut self, rep: u32, bytes: &[u8]) -> std::result::Result<(), StreamError> {
        let written = self.live_stream(rep).and_then(|stream| {
            let disk = &mut self.files.disk;
            match stream.offset {
                Some(offset) => disk.write(stream.ino, offset, bytes)?,
                None => disk.append(stream.ino, bytes).map(drop)?,
            }
            Ok(())
        });
        written.map_err(|error| self.stream_error(error))?;
        self.move_stream(rep, bytes.len());
        Ok(())
    }

    /// Returns the error of a stream: `filesystem-error-code` finds the code in it.
    fn stream_error(&mut self, error: FileError) -> StreamError {
        match types::Host::convert_error_code(self, error) {
            Ok(code) => StreamError::LastOperationFailed(wasmtime::Error::new(StreamCode(code))),
            Err(error) => StreamError::Trap(error),
        }
    }

    fn live_stream(&mut self, rep: u32) -> FileResult<FileStream> {
        let Some(&Stream::File(stream)) = self.streams.get(&rep) else {
            return Err(ErrorCode::BadDescriptor.into());
        };
        if self.files.is_stale(Some(stream.call)) {
            return Err(ErrorCode::BadDescriptor.into());
        }
        Ok(stream)
    }

    fn move_stream(&mut self, rep: u32, bytes: usize) {
        if let Some(Stream::File(FileStream { offset: Some(offset), .. })) = self.streams.get_mut(&rep) {
            *offset = offset.saturating_add(bytes as u64);
        }
    }

    /// Returns what a time of the guest stands for, in nanoseconds since 1970. None leaves the time as it is.
    fn time(&self, time: NewTimestamp) -> FileResult<Option<u64>> {
        match time {
            NewTimestamp::NoChange => Ok(None),
            NewTimestamp::Now => Ok(Some(self.now_ns)),
            NewTimestamp::Timestamp(Datetime { nanoseconds, .. }) if nanoseconds >= 1_000_000_000 => {
                Err(ErrorCode::Invalid.into())
            }
            NewTimestamp::Timestamp(Datetime { seconds, nanoseconds }) => {
                let ns = seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(nanoseconds.into()));
                Ok(Some(ns.ok_or(ErrorCode::Overflow)?))
            }
        }
    }

    fn times(&self, accessed: NewTimestamp, modified: NewTimestamp) -> FileResult<SetTimes> {
        Ok(SetTimes { accessed_ns: self.time(accessed)?, modified_ns: self.time(modified)? })
    }
}

impl preopens::Host for Wasi {
    fn get_directories(&mut self) -> Result<Vec<(Resource<Descriptor>, String)>> {
        let mut opened = Vec::with_capacity(self.files.preopens.len());
        for Preopen { name, ino } in &self.files.preopens {
            let directory = Descriptor {
                ino: *ino,
                kind: Type::Directory,
                is_readable: true,
                is_writable: true,
                sync: DescriptorFlags::empty(),
                call: None,
            };
            opened.push((self.table.push(directory)?, name.clone()));
        }
        Ok(opened)
    }
}

impl types::Host for Wasi {
    fn convert_error_code(&mut self, error: FileError) -> Result<ErrorCode> {
        match error {
            FileError::Code(code) => Ok(code),
            FileError::Full { wanted_bytes, limit_bytes } => self.files.full(wanted_bytes, limit_bytes),
            FileError::Trap(error) => Err(error),
        }
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<StreamCode>().map(|StreamCode(code)| *code))
    }
}

impl types::HostDescriptor for Wasi {
    fn read_via_stream(
        &mut self,
        file: Resource<Descriptor>,
        offset: Filesize,
    ) -> FileResult<Resource<DynInputStream>> {
        let descriptor = self.descriptor(&file)?;
        if descriptor.kind == Type::Directory {
            return Err(ErrorCode::IsDirectory.into());
        }
        if !descriptor.is_readable {
            return Err(ErrorCode::BadDescriptor.into());
        }
        self.stream(descriptor.ino, Some(offset), super::streams::stand_in_for_input())
    }

    fn write_via_stream(
        &mut self,
        file: Resource<Descriptor>,
        offset: Filesize,
    ) -> FileResult<Resource<DynOutputStream>> {
        let ino = self.written(&file)?;
        self.stream(ino, Some(offset), super::streams::stand_in_for_output())
    }

    fn append_via_stream(&mut self, file: Resource<Descriptor>) -> FileResult<Resource<DynOutputStream>> {
        let ino = self.written(&file)?;
        self.stream(ino, None, super::streams::stand_in_for_output())
    }

    fn advise(&mut self, file: Resource<Descriptor>, _: Filesize, _: Filesize, _: Advice) -> FileResult<()> {
        self.file(&file).map(drop)
    }

    fn sync_data(&mut self, file: Resource<Descriptor>) -> FileResult<()> {
        // What makes a write durable is the transaction.
        self.descriptor(&file).map(drop)
    }

    fn get_flags(&mut self, file: Resource<Descriptor>) -> FileResult<DescriptorFlags> {
        let descriptor = self.descriptor(&file)?;
        let writing = match descriptor.kind {
            Type::Directory => DescriptorFlags::MUTATE_DIRECTORY,
            Type::File | Type::Link => DescriptorFlags::WRITE,
        };
        let readable = if descriptor.is_readable { DescriptorFlags::READ } else { DescriptorFlags::empty() };
        Ok(readable | descriptor.sync | if descriptor.is_writable { writing } else { DescriptorFlags::empty() })
    }

    fn get_type(&mut self, file: Resource<Descriptor>) -> FileResult<DescriptorType> {
        Ok(self.descriptor(&file)?.kind.into())
    }

    fn set_size(&mut self, file: Resource<Descriptor>, size: Filesize) -> FileResult<()> {
        let (disk, descriptor) = self.file(&file)?;
        if !descriptor.is_writable {
            // As `ftruncate` on Linux.
            return Err(ErrorCode::Invalid.into());
        }
        Ok(disk.set_size(descriptor.ino, size)?)
    }

    fn set_times(
        &mut self,
        file: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FileResult<()> {
        let descriptor = self.descriptor(&file)?;
        let times = self.times(accessed, modified)?;
        Ok(self.files.disk.set_times(descriptor.ino, times)?)
    }

    fn read(&mut self, file: Resource<Descriptor>, length: Filesize, offset: Filesize) -> FileResult<(Vec<u8>, bool)> {
        let (disk, descriptor) = self.file(&file)?;
        check_offset(offset)?;
        if !descriptor.is_readable {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let bytes = disk.read(descriptor.ino, offset, length.min(READ_BYTES_MAX as u64))?;
        let is_end = bytes.is_empty();
        Ok((bytes, is_end))
    }

    fn write(&mut self, file: Resource<Descriptor>, mut buffer: Vec<u8>, offset: Filesize) -> FileResult<Filesize> {
        self.file(&file)?;
        check_offset(offset)?;
        let ino = self.written(&file)?;
        buffer.truncate(WRITE_AT_ONCE_MAX);
        self.files.disk.write(ino, offset, &buffer)?;
        Ok(buffer.len() as u64)
    }

    fn read_directory(&mut self, directory: Resource<Descriptor>) -> FileResult<Resource<Entries>> {
        let (disk, ino) = self.directory(&directory)?;
        let listing = disk.list(ino)?;
        let files = &mut self.files;
        files.count_open()?;
        let call = files.call;
        match self.table.push(Entries { listing, call }) {
            Ok(entries) => Ok(entries),
            Err(error) => {
                self.files.closed(Some(call), None);
                Err(error.into())
            }
        }
    }

    fn sync(&mut self, file: Resource<Descriptor>) -> FileResult<()> {
        self.descriptor(&file).map(drop)
    }

    fn create_directory_at(&mut self, directory: Resource<Descriptor>, path: String) -> FileResult<()> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.create_directory_at(ino, &path)?)
    }

    fn stat(&mut self, file: Resource<Descriptor>) -> FileResult<DescriptorStat> {
        let descriptor = self.descriptor(&file)?;
        Ok(self.files.disk.stat(descriptor.ino)?.into())
    }

    fn stat_at(
        &mut self,
        directory: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FileResult<DescriptorStat> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.stat_at(ino, &path, flags.contains(PathFlags::SYMLINK_FOLLOW))?.into())
    }

    fn set_times_at(
        &mut self,
        directory: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FileResult<()> {
        let times = self.times(accessed, modified);
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.set_times_at(ino, &path, flags.contains(PathFlags::SYMLINK_FOLLOW), times?)?)
    }

    fn link_at(
        &mut self,
        old_directory: Resource<Descriptor>,
        flags: PathFlags,
        old_path: String,
        new_directory: Resource<Descriptor>,
        new_path: String,
    ) -> FileResult<()> {
        let (_, new_ino) = self.directory(&new_directory)?;
        let (disk, old_ino) = self.directory(&old_directory)?;
        if flags.contains(PathFlags::SYMLINK_FOLLOW) {
            return Err(ErrorCode::Invalid.into());
        }
        Ok(disk.link_at(old_ino, &old_path, new_ino, &new_path)?)
    }

    fn open_at(
        &mut self,
        directory: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FileResult<Resource<Descriptor>> {
        let (_, base) = self.directory(&directory)?;
        let how = OpenHow {
            create: open_flags.contains(OpenFlags::CREATE),
            exclusive: open_flags.contains(OpenFlags::EXCLUSIVE),
            truncate: open_flags.contains(OpenFlags::TRUNCATE),
            directory: open_flags.contains(OpenFlags::DIRECTORY),
            follow: path_flags.contains(PathFlags::SYMLINK_FOLLOW),
            write: flags.contains(DescriptorFlags::WRITE),
        };
        let files = &mut self.files;
        // Nothing may be created for a descriptor that the guest then does not get.
        files.count_open()?;
        let call = files.call;
        let (ino, kind) = match files.disk.open_at(base, &path, how) {
            Ok(opened) => opened,
            Err(error) => {
                files.closed(Some(call), None);
                return Err(error.into());
            }
        };
        let descriptor = Descriptor {
            ino,
            kind,
            // As in wasmtime: what is not opened for writing is opened for reading.
            is_readable: flags.contains(DescriptorFlags::READ) || !how.write,
            is_writable: how.write || how.create || how.truncate,
            sync: flags & sync_flags(),
            call: Some(call),
        };
        match self.table.push(descriptor) {
            Ok(descriptor) => Ok(descriptor),
            Err(error) => {
                self.files.closed(Some(call), Some(ino));
                Err(error.into())
            }
        }
    }

    fn readlink_at(&mut self, directory: Resource<Descriptor>, path: String) -> FileResult<String> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.read_link_at(ino, &path)?.to_string())
    }

    fn remove_directory_at(&mut self, directory: Resource<Descriptor>, path: String) -> FileResult<()> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.remove_directory_at(ino, &path)?)
    }

    fn rename_at(
        &mut self,
        old_directory: Resource<Descriptor>,
        old_path: String,
        new_directory: Resource<Descriptor>,
        new_path: String,
    ) -> FileResult<()> {
        let (_, new_ino) = self.directory(&new_directory)?;
        let (disk, old_ino) = self.directory(&old_directory)?;
        Ok(disk.rename_at(old_ino, &old_path, new_ino, &new_path)?)
    }

    fn symlink_at(&mut self, directory: Resource<Descriptor>, old_path: String, new_path: String) -> FileResult<()> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.symlink_at(&old_path, ino, &new_path)?)
    }

    fn unlink_file_at(&mut self, directory: Resource<Descriptor>, path: String) -> FileResult<()> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(disk.unlink_at(ino, &path)?)
    }

    fn is_same_object(&mut self, one: Resource<Descriptor>, other: Resource<Descriptor>) -> Result<bool> {
        let (one, other) = (self.table.get(&one)?, self.table.get(&other)?);
        Ok(one.ino == other.ino)
    }

    fn metadata_hash(&mut self, file: Resource<Descriptor>) -> FileResult<MetadataHashValue> {
        Ok(metadata_hash(self.descriptor(&file)?.ino))
    }

    fn metadata_hash_at(
        &mut self,
        directory: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FileResult<MetadataHashValue> {
        let (disk, ino) = self.directory(&directory)?;
        Ok(metadata_hash(disk.stat_at(ino, &path, flags.contains(PathFlags::SYMLINK_FOLLOW))?.ino))
    }

    fn drop(&mut self, file: Resource<Descriptor>) -> Result<()> {
        let descriptor = self.table.delete(file)?;
        self.files.closed(descriptor.call, Some(descriptor.ino));
        Ok(())
    }
}

impl types::HostDirectoryEntryStream for Wasi {
    fn read_directory_entry(&mut self, entries: Resource<Entries>) -> FileResult<Option<DirectoryEntry>> {
        let call = self.table.get(&entries)?.call;
        if self.files.is_stale(Some(call)) {
            return Err(ErrorCode::BadDescriptor.into());
        }
        self.owed_fuel += FUEL_PER_ENTRY;
        let next = self.table.get_mut(&entries)?.listing.next();
        Ok(next.map(|(name, kind)| DirectoryEntry { type_: kind.into(), name: name.to_string() }))
    }

    fn drop(&mut self, entries: Resource<Entries>) -> Result<()> {
        let call = self.table.delete(entries)?.call;
        self.files.closed(Some(call), None);
        Ok(())
    }
}

/// Refuses what Linux refuses before it looks at the rights of a descriptor.
fn check_offset(offset: u64) -> FileResult<()> {
    if i64::try_from(offset).is_ok() { Ok(()) } else { Err(ErrorCode::Invalid.into()) }
}

/// The fuel of an entry of a listing, beside that of the call.
const FUEL_PER_ENTRY: u64 = 50;

impl Wasi {
    /// Returns the file that a descriptor may write to.
    fn written(&mut self, file: &Resource<Descriptor>) -> FileResult<Ino> {
        let (_, descriptor) = self.file(file)?;
        if descriptor.is_writable { Ok(descriptor.ino) } else { Err(ErrorCode::BadDescriptor.into()) }
    }
}

impl From<Type> for DescriptorType {
    fn from(kind: Type) -> Self {
        match kind {
            Type::File => Self::RegularFile,
            Type::Directory => Self::Directory,
            Type::Link => Self::SymbolicLink,
        }
    }
}

impl From<Stat> for DescriptorStat {
    fn from(stat: Stat) -> Self {
        let Stat { kind, links, bytes, times, .. } = stat;
        Self {
            type_: kind.into(),
            link_count: links.into(),
            size: bytes,
            data_access_timestamp: Some(datetime(times.accessed_ns)),
            data_modification_timestamp: Some(datetime(times.modified_ns)),
            status_change_timestamp: Some(datetime(times.changed_ns)),
        }
    }
}

/// Returns the hash that stands for an inode: of its number alone, since `cp`, `tar` and SQLite compare it.
fn metadata_hash(ino: Ino) -> MetadataHashValue {
    let hash = blake3::hash(&ino.get().to_le_bytes());
    let half = |from: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[from..from + 8]);
        u64::from_le_bytes(bytes)
    };
    MetadataHashValue { lower: half(0), upper: half(8) }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod as_wasmtime;
