//! Random calls of `wasi:filesystem` on the virtual disk and, through Wasmtime's own implementation, on a temporary
//! directory: the results and the error codes must be the same.
//!
//! Excluded, because they are the host's: times, the size and the links of directories, flags of synchronous writes
//! (Wasmtime refuses them), metadata hashes beyond whether two are equal, a stream after an error (Wasmtime closes it),
//! a stream that the descriptor's rights forbid at an offset that is none (here the rights count first), and a read of nothing from a stream (Wasmtime closes it as well).

use super::super::{CallContext, Inputs};
use super::{Descriptor, FileError, Phase, Wasi};
use crate::network::Network;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_disk::Disk;
use proptest::prelude::*;
use std::fmt::Debug;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_io::bindings::wasi::io::streams::{HostInputStream, HostOutputStream};
use wasmtime_wasi_io::streams::StreamError;

/// The names of what is below the root, so few that the calls meet.
const PATHS: [&str; 22] = [
    "a",
    "b",
    "d",
    "d/a",
    "d/b",
    "d/e",
    "d/e/a",
    "l",
    "d/l",
    "a/",
    "d/",
    "./a",
    "d/../a",
    "..",
    ".",
    "",
    "/a",
    "d/e/../../a",
    "l/a",
    "d//a",
    "../a",
    "a/b",
];

/// The targets of symbolic links.
const TARGETS: [&str; 8] = ["a", "d", "d/a", "l", "nothing", "../a", "/a", "../../a"];

/// The descriptors that are open at once. The first is the root.
const OPEN_MAX: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    Open { at: usize, path: &'static str, follow: bool, open: u8, write: bool, read: bool },
    Close(usize),
    Read { at: usize, offset: u64, len: u64 },
    Write { at: usize, offset: u64, bytes: Vec<u8> },
    ReadStream { at: usize, offset: u64, lens: Vec<u64> },
    WriteStream { at: usize, offset: Option<u64>, parts: Vec<Vec<u8>> },
    SetSize { at: usize, size: u64 },
    Flags(usize),
    Type(usize),
    Stat(usize),
    StatAt { at: usize, path: &'static str, follow: bool },
    SetTimesAt { at: usize, path: &'static str, follow: bool, is_set: bool },
    Sync(usize),
    Advise(usize),
    List(usize),
    CreateDirectory { at: usize, path: &'static str },
    RemoveDirectory { at: usize, path: &'static str },
    Unlink { at: usize, path: &'static str },
    Rename { at: usize, path: &'static str, to: usize, new: &'static str },
    Link { at: usize, path: &'static str, to: usize, new: &'static str, follow: bool },
    Symlink { target: &'static str, at: usize, path: &'static str },
    ReadLink { at: usize, path: &'static str },
    IsSame(usize, usize),
    AreHashesEqual { at: usize, one: &'static str, other: &'static str },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0..OPEN_MAX;
    let path = prop::sample::select(&PATHS[..]);
    let target = prop::sample::select(&TARGETS[..]);
    let within = prop_oneof![4 => 0..40u64, 1 => 16_000..33_000u64];
    let offset = prop_oneof![5 => within.clone(), 1 => Just(u64::MAX - 3)];
    let bytes = prop::collection::vec(any::<u8>(), 0..30);
    let at_path = (at.clone(), path.clone());
    prop::collection::vec(
        prop_oneof![
            6 => (at_path.clone(), any::<(bool, bool, bool)>(), 0..16u8).prop_map(|((at, path), (follow, write, read), open)| {
                Step::Open { at, path, follow, open, write, read }
            }),
            2 => at.clone().prop_map(Step::Close),
            2 => (at.clone(), offset.clone(), 0..60u64).prop_map(|(at, offset, len)| Step::Read { at, offset, len }),
            3 => (at.clone(), offset.clone(), bytes.clone())
                .prop_map(|(at, offset, bytes)| Step::Write { at, offset, bytes }),
            2 => (at.clone(), within, prop::collection::vec(1..30u64, 1..4))
                .prop_map(|(at, offset, lens)| Step::ReadStream { at, offset, lens }),
            3 => (at.clone(), prop::option::of(0..40u64), prop::collection::vec(bytes, 1..4))
                .prop_map(|(at, offset, parts)| Step::WriteStream { at, offset, parts }),
            2 => (at.clone(), prop_oneof![0..40u64, Just(u64::MAX)])
                .prop_map(|(at, size)| Step::SetSize { at, size }),
            1 => at.clone().prop_map(Step::Flags),
            1 => at.clone().prop_map(Step::Type),
            1 => at.clone().prop_map(Step::Stat),
            2 => (at_path.clone(), any::<bool>()).prop_map(|((at, path), follow)| Step::StatAt { at, path, follow }),
            1 => (at_path.clone(), any::<(bool, bool)>())
                .prop_map(|((at, path), (follow, is_set))| Step::SetTimesAt { at, path, follow, is_set }),
            1 => at.clone().prop_map(Step::Sync),
            1 => at.clone().prop_map(Step::Advise),
            2 => at.clone().prop_map(Step::List),
            3 => at_path.clone().prop_map(|(at, path)| Step::CreateDirectory { at, path }),
            2 => at_path.clone().prop_map(|(at, path)| Step::RemoveDirectory { at, path }),
            2 => at_path.clone().prop_map(|(at, path)| Step::Unlink { at, path }),
            3 => (at_path.clone(), at_path.clone())
                .prop_map(|((at, path), (to, new))| Step::Rename { at, path, to, new }),
            2 => (at_path.clone(), at_path.clone(), prop::bool::weighted(0.1))
                .prop_map(|((at, path), (to, new), follow)| Step::Link { at, path, to, new, follow }),
            3 => (target, at_path.clone()).prop_map(|(target, (at, path))| Step::Symlink { target, at, path }),
            1 => at_path.clone().prop_map(|(at, path)| Step::ReadLink { at, path }),
            1 => (at.clone(), at.clone()).prop_map(|(one, other)| Step::IsSame(one, other)),
            1 => (at, path.clone(), path).prop_map(|(at, one, other)| Step::AreHashesEqual { at, one, other }),
        ],
        1..60,
    )
}

/// Wasmtime's own implementation, on a temporary directory.
struct Theirs {
    table: ResourceTable,
    ctx: WasiCtx,
    _directory: tempfile::TempDir,
}

impl WasiView for Theirs {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

impl Theirs {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut builder = WasiCtxBuilder::new();
        builder.allow_blocking_current_thread(true);
        builder.preopened_dir(directory.path(), "/", FsPerms::ReadWrite).expect("it was just made");
        Self { table: ResourceTable::new(), ctx: builder.build(), _directory: directory }
    }
}

fn again<T: 'static>(handle: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(handle.rep())
}

/// Runs a step against one of the implementations, which differ in their types and in what is asynchronous. Evaluates
/// to the outcome as text.
macro_rules! run {
    ($step:expr, $host:expr, $table:expr, $open:expr, $types:path, $code:expr, $stream:expr, $io:expr, [$($wait:tt)*]) => {{
        use $types::{
            Advice, DescriptorFlags, DescriptorStat, DescriptorType, HostDescriptor, HostDirectoryEntryStream, NewTimestamp, OpenFlags,
            PathFlags,
        };
        let open = $open;
        let flags = |follow: bool| if follow { PathFlags::SYMLINK_FOLLOW } else { PathFlags::empty() };
        macro_rules! at {
            ($index:expr) => {
                again(&open[$index % open.len()])
            };
        }
        macro_rules! shown {
            ($result:expr) => {
                match $result {
                    Ok(value) => format!("{value:?}"),
                    Err(error) => $code(error),
                }
            };
        }
        let stat = |stat: DescriptorStat| {
            let is_directory = stat.type_ == DescriptorType::Directory;
            let (links, size) = if is_directory { (0, 0) } else { (stat.link_count, stat.size) };
            format!("{:?} {links} {size}", stat.type_)
        };
        match $step {
            Step::Open { at, path, follow, open: bits, write, read } => {
                let mut how = OpenFlags::empty();
                for (bit, flag) in
                    [OpenFlags::CREATE, OpenFlags::EXCLUSIVE, OpenFlags::TRUNCATE, OpenFlags::DIRECTORY].into_iter().enumerate()
                {
                    how |= if bits >> bit & 1 == 1 { flag } else { OpenFlags::empty() };
                }
                let read = if *read { DescriptorFlags::READ } else { DescriptorFlags::empty() };
                let write = if *write { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
                match HostDescriptor::open_at($host, at!(*at), flags(*follow), (*path).into(), how, read | write)$($wait)* {
                    Ok(descriptor) => {
                        open.push(descriptor);
                        "opened".to_owned()
                    }
                    Err(error) => $code(error),
                }
            }
            Step::Close(at) if open.len() > 1 => {
                let at = 1 + at % (open.len() - 1);
                HostDescriptor::drop($host, open.remove(at)).expect("it is open");
                String::new()
            }
            Step::Close(_) => String::new(),
            Step::Read { at, offset, len } => shown!(HostDescriptor::read($host, at!(*at), *len, *offset)$($wait)*),
            Step::Write { at, offset, bytes } => {
                shown!(HostDescriptor::write($host, at!(*at), bytes.clone(), *offset)$($wait)*)
            }
            Step::ReadStream { at, offset, lens } => match HostDescriptor::read_via_stream($host, at!(*at), *offset) {
                Ok(stream) => {
                    let mut text = String::new();
                    for len in lens {
                        match HostInputStream::blocking_read($io, again(&stream), *len).await {
                            Ok(bytes) => text += &format!("{bytes:?}"),
                            Err(error) => {
                                text += &$stream(error);
                                break;
                            }
                        }
                    }
                    HostInputStream::drop($io, stream).await.expect("it is open");
                    text
                }
                Err(error) => $code(error),
            },
            Step::WriteStream { at, offset, parts } => {
                let stream = match offset {
                    Some(offset) => HostDescriptor::write_via_stream($host, at!(*at), *offset),
                    None => HostDescriptor::append_via_stream($host, at!(*at)),
                };
                match stream {
                    Ok(stream) => {
                        let mut text = String::new();
                        for part in parts {
                            match HostOutputStream::blocking_write_and_flush($io, again(&stream), part.clone()).await {
                                Ok(()) => text += "written ",
                                Err(error) => {
                                text += &$stream(error);
                                break;
                            }
                            }
                        }
                        HostOutputStream::drop($io, stream).await.expect("it is open");
                        text
                    }
                    Err(error) => $code(error),
                }
            }
            Step::SetSize { at, size } => shown!(HostDescriptor::set_size($host, at!(*at), *size)$($wait)*),
            Step::Flags(at) => shown!(HostDescriptor::get_flags($host, at!(*at))$($wait)*),
            Step::Type(at) => shown!(HostDescriptor::get_type($host, at!(*at))$($wait)*),
            Step::Stat(at) => shown!(HostDescriptor::stat($host, at!(*at))$($wait)*.map(stat)),
            Step::StatAt { at, path, follow } => {
                shown!(HostDescriptor::stat_at($host, at!(*at), flags(*follow), (*path).into())$($wait)*.map(stat))
            }
            Step::SetTimesAt { at, path, follow, is_set } => {
                let time = match is_set {
                    true => NewTimestamp::Timestamp(Datetime { seconds: 7, nanoseconds: 0 }),
                    false => NewTimestamp::NoChange,
                };
                shown!(
                    HostDescriptor::set_times_at($host, at!(*at), flags(*follow), (*path).into(), time, time)$($wait)*
                )
            }
            Step::Sync(at) => shown!(HostDescriptor::sync_data($host, at!(*at))$($wait)*),
            Step::Advise(at) => shown!(HostDescriptor::advise($host, at!(*at), 0, 10, Advice::Normal)$($wait)*),
            Step::List(at) => match HostDescriptor::read_directory($host, at!(*at))$($wait)* {
                Ok(entries) => {
                    let mut names = Vec::new();
                    while let Some(entry) = HostDirectoryEntryStream::read_directory_entry($host, again(&entries))$($wait)*
                        .map_err($code)
                        .expect("it lists")
                    {
                        names.push(format!("{} {:?}", entry.name, entry.type_));
                    }
                    HostDirectoryEntryStream::drop($host, entries).expect("it is open");
                    names.sort();
                    names.join(", ")
                }
                Err(error) => $code(error),
            },
            Step::CreateDirectory { at, path } => {
                shown!(HostDescriptor::create_directory_at($host, at!(*at), (*path).into())$($wait)*)
            }
            Step::RemoveDirectory { at, path } => {
                shown!(HostDescriptor::remove_directory_at($host, at!(*at), (*path).into())$($wait)*)
            }
            Step::Unlink { at, path } => shown!(HostDescriptor::unlink_file_at($host, at!(*at), (*path).into())$($wait)*),
            Step::Rename { at, path, to, new } => {
                shown!(HostDescriptor::rename_at($host, at!(*at), (*path).into(), at!(*to), (*new).into())$($wait)*)
            }
            Step::Link { at, path, to, new, follow } => shown!(
                HostDescriptor::link_at($host, at!(*at), flags(*follow), (*path).into(), at!(*to), (*new).into())$($wait)*
            ),
            Step::Symlink { target, at, path } => {
                shown!(HostDescriptor::symlink_at($host, at!(*at), (*target).into(), (*path).into())$($wait)*)
            }
            Step::ReadLink { at, path } => shown!(HostDescriptor::readlink_at($host, at!(*at), (*path).into())$($wait)*),
            Step::IsSame(one, other) => {
                format!("{:?}", HostDescriptor::is_same_object($host, at!(*one), at!(*other))$($wait)*.expect("open"))
            }
            Step::AreHashesEqual { at, one, other } => {
                let mut hash = Vec::new();
                for path in [one, other] {
                    hash.push(
                        HostDescriptor::metadata_hash_at($host, at!(*at), flags(true), (*path).into())$($wait)*
                            .map(|hash| (hash.lower, hash.upper))
                            .map_err($code),
                    );
                }
                match (&hash[0], &hash[1]) {
                    (Ok(one), Ok(other)) => (one == other).to_string(),
                    (one, other) => format!("{:?} {:?}", one.as_ref().err(), other.as_ref().err()),
                }
            }
        }
    }};
}

/// Returns the name of an error code, which both implementations generate from the same text.
fn code_name(code: impl Debug) -> String {
    format!("error {code:?}")
}

async fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut ours = Wasi::new([7; 32], 10_000, Disk::new(0), 1 << 30);
    let context =
        CallContext { phase: Phase::Execute, sequence: Sequence(1), epoch: Epoch::default(), now: Timestamp(1) };
    ours.enter(context, Inputs::Replay, 1 << 30, Network::None);
    let mut theirs = Theirs::new();
    let (root, _) = super::preopens::Host::get_directories(&mut ours).expect("a disk").pop().expect("a root");
    let mut our_open: Vec<Resource<Descriptor>> = vec![root];
    let (root, _) = wasmtime_wasi::p2::bindings::filesystem::preopens::Host::get_directories(&mut theirs.filesystem())
        .expect("a directory")
        .pop()
        .expect("a root");
    let mut their_open = vec![root];
    for (index, step) in steps.iter().enumerate() {
        if matches!(step, Step::Open { .. }) && our_open.len() >= OPEN_MAX {
            continue;
        }
        let our_outcome = run!(
            step,
            &mut ours,
            &mut ours,
            &mut our_open,
            super::types,
            |error: FileError| match error {
                FileError::Code(code) => code_name(code),
                full @ FileError::Full { .. } => format!("{full:?}"),
                FileError::Trap(error) => format!("trap {error}"),
            },
            |error: StreamError| match error {
                StreamError::LastOperationFailed(error) =>
                    code_name(error.downcast_ref::<super::StreamCode>().expect("a code").0),
                error => format!("{error:?}"),
            },
            &mut ours,
            []
        );
        let their_outcome = {
            run!(
                step,
                &mut theirs.filesystem(),
                &mut theirs.table,
                &mut their_open,
                wasmtime_wasi::p2::bindings::filesystem::types,
                |error: wasmtime_wasi::p2::FsError| code_name(error.downcast().expect("no trap")),
                |error: StreamError| match error {
                    StreamError::LastOperationFailed(error) => {
                        let error = error.downcast_ref::<std::io::Error>().expect("an error of the system");
                        code_name(wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode::from(error))
                    }
                    error => format!("{error:?}"),
                },
                &mut theirs.table,
                [.await]
            )
        };
        prop_assert_eq!(our_outcome, their_outcome, "ours, theirs, step {} {:?}", index, step);
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_virtual_disk_answers_as_wasmtime_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(compare(&steps))?;
    }
}
