use super::super::{CallContext, Inputs};
use super::types::{Host as _, HostDescriptor as _, HostDirectoryEntryStream as _};
use super::*;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use wasmtime_wasi_io::bindings::wasi::io::streams;

const LIMIT_BYTES: u64 = 1024 * 1024;

fn wasi() -> Wasi {
    let mut wasi = Wasi::new([7; 32], 10_000, Disk::new(0), LIMIT_BYTES);
    wasi.leave(true);
    wasi
}

fn enter(wasi: &mut Wasi, phase: Phase, sequence: u64) {
    let now = Timestamp(sequence * 1_000_000_000);
    wasi.enter(
        CallContext { phase, sequence: Sequence(sequence), epoch: Epoch::default(), now },
        Inputs::Replay,
        LIMIT_BYTES,
        crate::network::Network::None,
    );
}

/// A WASI whose guest is in transaction 1, with the root.
fn in_transaction() -> (Wasi, Resource<Descriptor>) {
    let mut wasi = wasi();
    enter(&mut wasi, Phase::Execute, 1);
    let root = root(&mut wasi);
    (wasi, root)
}

fn root(wasi: &mut Wasi) -> Resource<Descriptor> {
    let mut directories = preopens::Host::get_directories(wasi).expect("a disk");
    let (root, path) = directories.pop().expect("one directory");
    assert_eq!((path.as_str(), directories.len()), ("/", 0));
    root
}

/// Another handle for the same entry of the table, as each call of a guest has.
fn again<T: 'static>(handle: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(handle.rep())
}

fn code<T: std::fmt::Debug>(result: FileResult<T>) -> ErrorCode {
    match result.expect_err("it fails") {
        FileError::Code(code) => code,
        error @ (FileError::Full { .. } | FileError::Trap(_)) => panic!("{error:?}"),
    }
}

fn open(wasi: &mut Wasi, root: &Resource<Descriptor>, path: &str, write: bool) -> FileResult<Resource<Descriptor>> {
    let (create, flags) = match write {
        true => (OpenFlags::CREATE, DescriptorFlags::READ | DescriptorFlags::WRITE),
        false => (OpenFlags::empty(), DescriptorFlags::READ),
    };
    wasi.open_at(again(root), PathFlags::empty(), path.into(), create, flags)
}

fn write(wasi: &mut Wasi, root: &Resource<Descriptor>, path: &str, bytes: &[u8]) {
    let file = open(wasi, root, path, true).expect("it opens");
    let count = types::HostDescriptor::write(wasi, again(&file), bytes.to_vec(), 0).expect("it is written");
    assert_eq!(count, bytes.len() as u64);
    types::HostDescriptor::drop(wasi, file).expect("a handle");
}

fn read(wasi: &mut Wasi, root: &Resource<Descriptor>, path: &str) -> FileResult<Vec<u8>> {
    let file = open(wasi, root, path, false)?;
    let (bytes, _) = types::HostDescriptor::read(wasi, again(&file), 1 << 20, 0)?;
    types::HostDescriptor::drop(wasi, file).expect("a handle");
    Ok(bytes)
}

#[test]
fn what_a_transaction_writes_is_read_by_the_next() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"text");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    assert_eq!(read(&mut wasi, &root, "a").expect("it is there"), b"text");
}

#[test]
fn what_a_query_writes_is_dropped() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"text");
    wasi.leave(true);
    enter(&mut wasi, Phase::Query, 1);
    write(&mut wasi, &root, "a", b"TEXT");
    write(&mut wasi, &root, "b", b"more");
    assert_eq!(read(&mut wasi, &root, "a").expect("it is there"), b"TEXT");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    assert_eq!(read(&mut wasi, &root, "a").expect("it is there"), b"text");
    assert_eq!(code(read(&mut wasi, &root, "b")), ErrorCode::NoEntry);
}

#[test]
fn an_export_may_not_write() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"text");
    wasi.leave(true);
    enter(&mut wasi, Phase::Snapshot, 1);
    assert_eq!(code(open(&mut wasi, &root, "a", true)), ErrorCode::ReadOnly);
    assert_eq!(read(&mut wasi, &root, "a").expect("it is there"), b"text");
}

#[test]
fn a_descriptor_of_an_earlier_call_is_stale() {
    let (mut wasi, root) = in_transaction();
    let file = open(&mut wasi, &root, "a", true).expect("it opens");
    let entries = wasi.read_directory(again(&root)).expect("a listing");
    let stream = wasi.append_via_stream(again(&file)).expect("a stream");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    assert_eq!(code(types::HostDescriptor::write(&mut wasi, again(&file), vec![1], 0)), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.stat(again(&file))), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.read_directory_entry(again(&entries))), ErrorCode::BadDescriptor);
    let failed = streams::HostOutputStream::write(&mut wasi, again(&stream), vec![1]);
    assert!(matches!(failed, Err(StreamError::LastOperationFailed(_))), "{failed:?}");
    // The preopened directory is not stale, and drops of stale handles work.
    assert!(wasi.stat(again(&root)).is_ok());
    assert!(wasi.observed().stale_uses >= 4, "each of these uses counts");
    types::HostDescriptor::drop(&mut wasi, file).expect("a handle");
    types::HostDirectoryEntryStream::drop(&mut wasi, entries).expect("a handle");
    futures::executor::block_on(streams::HostOutputStream::drop(&mut wasi, stream)).expect("a handle");
}

#[test]
fn a_stale_drop_does_not_close_what_a_later_call_has_opened() {
    let (mut wasi, root) = in_transaction();
    let stale = open(&mut wasi, &root, "a", true).expect("it opens");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    let file = open(&mut wasi, &root, "a", true).expect("it opens");
    wasi.unlink_file_at(again(&root), "a".into()).expect("it is there");
    types::HostDescriptor::drop(&mut wasi, stale).expect("a handle");
    types::HostDescriptor::write(&mut wasi, again(&file), b"text".to_vec(), 0).expect("it is still open");
    wasi.leave(true);
    assert_eq!(wasi.disk().used_bytes(), 0, "the end of the call has released it");
}

#[test]
fn a_call_may_hold_only_so_many_files_open() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"");
    let files: Vec<_> = (0..OPEN_FILES_MAX).map(|_| open(&mut wasi, &root, "a", false).expect("it opens")).collect();
    assert_eq!(code(open(&mut wasi, &root, "b", true)), ErrorCode::InsufficientMemory);
    assert_eq!(code(wasi.read_directory(again(&root))), ErrorCode::InsufficientMemory);
    assert_eq!(code(wasi.read_via_stream(again(&files[0]), 0)), ErrorCode::InsufficientMemory);
    types::HostDescriptor::drop(&mut wasi, again(&files[0])).expect("a handle");
    assert_eq!(code(read(&mut wasi, &root, "b")), ErrorCode::NoEntry, "nothing was created for a refused descriptor");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    assert!(open(&mut wasi, &root, "a", false).is_ok(), "stale descriptors do not count");
}

#[test]
fn a_descriptor_is_used_only_as_it_was_opened() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"text");
    let only_read = open(&mut wasi, &root, "a", false).expect("it opens");
    assert_eq!(code(types::HostDescriptor::write(&mut wasi, again(&only_read), vec![1], 0)), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.write_via_stream(again(&only_read), 0)), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.append_via_stream(again(&only_read))), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.set_size(again(&only_read), 0)), ErrorCode::Invalid);
    let only_written =
        wasi.open_at(again(&root), PathFlags::empty(), "a".into(), OpenFlags::empty(), DescriptorFlags::WRITE);
    let only_written = only_written.expect("it opens");
    assert_eq!(code(types::HostDescriptor::read(&mut wasi, again(&only_written), 1, 0)), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.read_via_stream(again(&only_written), 0)), ErrorCode::BadDescriptor);
    assert_eq!(code(wasi.read_via_stream(again(&root), 0)), ErrorCode::IsDirectory);
    assert_eq!(
        code(wasi.open_at(
            again(&only_read),
            PathFlags::empty(),
            "b".into(),
            OpenFlags::empty(),
            DescriptorFlags::READ
        )),
        ErrorCode::NotDirectory
    );
    let flags = wasi.get_flags(again(&only_written)).expect("a descriptor");
    assert!(flags.contains(DescriptorFlags::WRITE) && !flags.contains(DescriptorFlags::READ));
}

#[test]
fn a_descriptor_shows_the_flags_of_synchronisation_that_it_was_opened_with() {
    let (mut wasi, root) = in_transaction();
    let flags = DescriptorFlags::WRITE | DescriptorFlags::FILE_INTEGRITY_SYNC | DescriptorFlags::DATA_INTEGRITY_SYNC;
    let file = wasi.open_at(again(&root), PathFlags::empty(), "a".into(), OpenFlags::CREATE, flags).expect("it opens");
    assert_eq!(wasi.get_flags(again(&file)).expect("a descriptor"), flags);
    let plain = open(&mut wasi, &root, "a", false).expect("it opens");
    assert_eq!(wasi.get_flags(again(&plain)).expect("a descriptor"), DescriptorFlags::READ);
}

#[test]
fn a_full_disk_ends_the_guest_and_changes_nothing() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"text");
    let used_bytes = wasi.disk().used_bytes();
    let file = open(&mut wasi, &root, "a", true).expect("it opens");
    let full = wasi.set_size(again(&file), LIMIT_BYTES).expect_err("over the quota");
    let error = types::Host::convert_error_code(&mut wasi, full).expect_err("a guest must not see the quota");
    assert!(error.downcast_ref::<Stop>().is_some(), "{error}");
    assert_eq!(wasi.disk().used_bytes(), used_bytes);
}

#[test]
fn a_stream_moves_on_and_ends() {
    let (mut wasi, root) = in_transaction();
    let file = open(&mut wasi, &root, "a", true).expect("it opens");
    let out = wasi.write_via_stream(again(&file), 0).expect("a stream");
    assert_eq!(streams::HostOutputStream::check_write(&mut wasi, again(&out)).expect("ready"), 64 * 1024);
    for part in ["one ", "two "] {
        streams::HostOutputStream::write(&mut wasi, again(&out), part.into()).expect("there is room");
    }
    let end = wasi.append_via_stream(again(&file)).expect("a stream");
    streams::HostOutputStream::write(&mut wasi, again(&end), b"three".to_vec()).expect("there is room");
    let input = wasi.read_via_stream(again(&file), 4).expect("a stream");
    assert_eq!(streams::HostInputStream::read(&mut wasi, again(&input), 4).expect("bytes"), b"two ");
    assert_eq!(streams::HostInputStream::skip(&mut wasi, again(&input), 2).expect("bytes"), 2);
    assert_eq!(streams::HostInputStream::read(&mut wasi, again(&input), 100).expect("bytes"), b"ree");
    let ended = streams::HostInputStream::read(&mut wasi, again(&input), 1);
    assert!(matches!(ended, Err(StreamError::Closed)), "{ended:?}");
}

#[test]
fn a_splice_copies_from_file_to_file() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", &vec![7; 100_000]);
    let (from, into) = (open(&mut wasi, &root, "a", false), open(&mut wasi, &root, "b", true));
    let from = wasi.read_via_stream(from.expect("it opens"), 0).expect("a stream");
    let into = wasi.write_via_stream(into.expect("it opens"), 0).expect("a stream");
    let mut counts = Vec::new();
    while let Ok(count) = streams::HostOutputStream::splice(&mut wasi, again(&into), again(&from), 1 << 20) {
        counts.push(count);
    }
    assert_eq!(counts, [64 * 1024, 100_000 - 64 * 1024]);
    assert_eq!(read(&mut wasi, &root, "b").expect("it is there"), vec![7; 100_000]);
}

#[test]
fn a_guest_that_writes_more_than_a_stream_takes_is_ended() {
    let (mut wasi, root) = in_transaction();
    let file = open(&mut wasi, &root, "a", true).expect("it opens");
    let out = wasi.write_via_stream(file, 0).expect("a stream");
    let refused = streams::HostOutputStream::write(&mut wasi, again(&out), vec![0; 64 * 1024 + 1]);
    assert!(matches!(refused, Err(StreamError::Trap(_))), "{refused:?}");
    let whole = futures::executor::block_on(streams::HostOutputStream::blocking_write_and_flush(
        &mut wasi,
        again(&out),
        vec![0; 64 * 1024 + 1],
    ));
    whole.expect("it takes any length");
}

#[test]
fn the_error_of_a_stream_has_its_code() {
    let (mut wasi, root) = in_transaction();
    let file = open(&mut wasi, &root, "a", true).expect("it opens");
    let out = wasi.write_via_stream(file, u64::MAX - 1).expect("a stream");
    let failed = streams::HostOutputStream::write(&mut wasi, again(&out), vec![0; 2]).expect_err("behind the end");
    let failed = streams::Host::convert_stream_error(&mut wasi, failed).expect("no trap");
    let streams::StreamError::LastOperationFailed(error) = failed else { panic!("it is not closed") };
    assert_eq!(wasi.filesystem_error_code(error).expect("an error"), Some(ErrorCode::Invalid));
}

#[test]
fn a_listing_has_the_names_in_order_as_of_its_opening() {
    let (mut wasi, root) = in_transaction();
    for name in ["b", "a", "c"] {
        write(&mut wasi, &root, name, b"");
    }
    let entries = wasi.read_directory(again(&root)).expect("a listing");
    wasi.unlink_file_at(again(&root), "c".into()).expect("it is there");
    let mut names = Vec::new();
    while let Some(entry) = wasi.read_directory_entry(again(&entries)).expect("a listing") {
        names.push(entry.name);
    }
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn times_are_those_of_the_guests_clock() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"text");
    wasi.sleep_until(5_000_000_000).expect("no deadline");
    write(&mut wasi, &root, "b", b"text");
    let mut modified = |path: &str| {
        let stat = wasi.stat_at(again(&root), PathFlags::empty(), path.into()).expect("it is there");
        stat.data_modification_timestamp.expect("it has one").seconds
    };
    assert_eq!((modified("a"), modified("b")), (1, 5));
    let wrong = NewTimestamp::Timestamp(Datetime { seconds: 0, nanoseconds: 1_000_000_000 });
    let refused = wasi.set_times_at(again(&root), PathFlags::empty(), "a".into(), NewTimestamp::Now, wrong);
    assert_eq!(code(refused), ErrorCode::Invalid);
}

#[test]
fn what_the_disk_does_costs_fuel() {
    let (mut wasi, root) = in_transaction();
    wasi.take_owed_fuel();
    write(&mut wasi, &root, "a", &[1; 8_000]);
    let fuel = wasi.take_owed_fuel();
    // A path, an entry, the first write to a chunk, and 8,000 bytes.
    assert_eq!(fuel, 50 + 1_000 + 2_000 + 1_000);
}

#[test]
fn the_metadata_hash_is_that_of_the_inode() {
    let (mut wasi, root) = in_transaction();
    write(&mut wasi, &root, "a", b"");
    write(&mut wasi, &root, "b", b"");
    wasi.link_at(again(&root), PathFlags::empty(), "a".into(), again(&root), "link".into()).expect("a link");
    let mut hash = |path: &str| {
        let hash = wasi.metadata_hash_at(again(&root), PathFlags::empty(), path.into()).expect("it is there");
        (hash.lower, hash.upper)
    };
    assert_eq!(hash("a"), hash("link"));
    assert_ne!(hash("a"), hash("b"));
}
