//! A directory of the host, used through `cap-primitives` as Wasmtime 48 uses it.
//!
//! Wasmtime 48.0.8 has a copy of `cap-primitives` 4.0.3 in `wasmtime-wasi/src/filesystem/primitives`. The two differ on
//! Linux in one place that these operations reach: see [`rename`].

use crate::guest::{OPEN_MAX, Outcome};
use crate::steps::Step;
use crate::{Node, Nodes};
use cap_primitives::ambient_authority;
use cap_primitives::fs::{self as cap, DirOptions, FollowSymlinks, Metadata, MetadataExt, OpenOptions, SystemTimeSpec};
use cap_primitives::time::SystemTime;
use lifeboat_disk::{Error, OpenHow, Type};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Host {
    directory: TempDir,
    directories: Vec<File>,
    files: Vec<OpenFile>,
}

struct OpenFile {
    /// For reading and writing, whatever the options were: the rights of descriptors are not compared.
    file: File,
}

impl Host {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = cap::open_ambient_dir(directory.path(), ambient_authority()).expect("it was just made");
        Self { directory, directories: vec![root], files: Vec::new() }
    }

    pub(crate) fn run(&mut self, step: &Step) -> Outcome {
        self.try_run(step).unwrap_or_else(Outcome::Failed)
    }

    fn try_run(&mut self, step: &Step) -> Result<Outcome, Error> {
        let base = |index: &usize| &self.directories[index % self.directories.len()];
        let file = |index: &usize| self.files.get(index % self.files.len().max(1)).map(|open| &open.file);
        match step {
            Step::Open { base: index, path, how } => {
                let opened = open(base(index), path, *how)?;
                if Metadata::from_file(&opened).map_err(code)?.is_dir() {
                    keep(&mut self.directories, opened);
                    return Ok(Outcome::Opened(Type::Directory));
                }
                if how.directory {
                    return Err(Error::NotDirectory);
                }
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
                let file = File::options().read(true).write(true).open(path).expect("it is open");
                keep(&mut self.files, OpenFile { file });
                return Ok(Outcome::Opened(Type::File));
            }
            Step::CreateDirectory { base: index, path } => {
                cap::create_dir(base(index), Path::new(path), &DirOptions::new()).map_err(code)?;
            }
            Step::RemoveDirectory { base: index, path } => {
                cap::remove_dir(base(index), Path::new(path)).map_err(code)?;
            }
            Step::Unlink { base: index, path } => cap::remove_file(base(index), Path::new(path)).map_err(code)?,
            Step::Rename { from: (old, old_path), to: (new, new_path) } => {
                rename(base(old), old_path, base(new), new_path).map_err(code)?;
            }
            Step::Link { from: (old, old_path), to: (new, new_path) } => {
                cap::hard_link(base(old), Path::new(old_path), base(new), Path::new(new_path)).map_err(code)?;
            }
            Step::Symlink { target, base: index, path } => {
                cap::symlink(Path::new(target), base(index), Path::new(path)).map_err(code)?;
            }
            Step::ReadLink { base: index, path } => {
                let target = cap::read_link(base(index), Path::new(path)).map_err(code)?;
                return Ok(Outcome::Target(target.into_os_string().into_string().expect("it was a string")));
            }
            Step::StatAt { base: index, path, is_followed } => {
                let follow = if *is_followed { FollowSymlinks::Yes } else { FollowSymlinks::No };
                return Ok(stat(&cap::stat(base(index), Path::new(path), follow).map_err(code)?));
            }
            Step::SetTimesAt { base: index, path, is_followed, is_set } => {
                let time = SystemTime::from_std(std::time::UNIX_EPOCH + Duration::from_secs(7));
                let modified = is_set.then_some(SystemTimeSpec::Absolute(time));
                let set = if *is_followed { cap::set_times } else { cap::set_times_nofollow };
                set(base(index), Path::new(path), None, modified).map_err(code)?;
            }
            Step::List { base: index } => {
                let mut names = Vec::new();
                for entry in cap::read_base_dir(base(index)).map_err(code)? {
                    let entry = entry.map_err(code)?;
                    let kind = kind(&entry.metadata().map_err(code)?);
                    names.push((entry.file_name().into_string().expect("it was a string"), kind));
                }
                names.sort_by(|(one, _), (two, _)| one.cmp(two));
                return Ok(Outcome::Names(names));
            }
            Step::Read { file: index, offset, len } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                let mut bytes = vec![0; *len];
                let count = file.read_at(&mut bytes, *offset).map_err(code)?;
                bytes.truncate(count);
                return Ok(Outcome::Bytes(bytes));
            }
            Step::Write { file: index, offset, bytes } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                let count = file.write_at(bytes, *offset).map_err(code)?;
                assert_eq!(count, bytes.len());
            }
            Step::Append { file: index, bytes } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                // Wasmtime uses `pwritev2` with `RWF_APPEND`, which is this without another writer.
                let count = file.write_at(bytes, file.metadata().map_err(code)?.len()).map_err(code)?;
                assert_eq!(count, bytes.len());
            }
            Step::SetSize { file: index, bytes } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                file.set_len(*bytes).map_err(code)?;
            }
            Step::Stat { file: index } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                return Ok(stat(&Metadata::from_file(file).map_err(code)?));
            }
            Step::CloseFile { file: index } => {
                if !self.files.is_empty() {
                    self.files.remove(index % self.files.len());
                }
            }
            Step::CloseDirectory { base: index } => {
                if self.directories.len() > 1 {
                    self.directories.remove(1 + index % (self.directories.len() - 1));
                }
            }
        }
        Ok(Outcome::Done)
    }

    /// Returns all that is in the directory.
    pub(crate) fn nodes(&self) -> Nodes {
        let mut nodes = Nodes::new();
        let mut directories = vec![(self.directory.path().to_path_buf(), String::new())];
        while let Some((directory, path)) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory") {
                let entry = entry.expect("an entry");
                let metadata = entry.metadata().expect("an entry");
                let path = format!("{path}/{}", entry.file_name().into_string().expect("it was a string"));
                let node = if metadata.is_dir() {
                    directories.push((entry.path(), path.clone()));
                    Node::Directory
                } else if metadata.is_symlink() {
                    let target = std::fs::read_link(entry.path()).expect("a link");
                    Node::Link(target.into_os_string().into_string().expect("it was a string"))
                } else {
                    Node::File { bytes: std::fs::read(entry.path()).expect("a file"), links: metadata.nlink() }
                };
                nodes.insert(path, node);
            }
        }
        nodes
    }
}

fn keep<T>(open: &mut Vec<T>, opened: T) {
    open.push(opened);
    if open.len() > OPEN_MAX {
        open.remove(1);
    }
}

/// As `Dir::open_at` of Wasmtime.
fn open(base: &File, path: &str, how: OpenHow) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    if how.create {
        if how.exclusive {
            options.create_new(true);
        } else {
            options.create(true);
        }
        options.write(true);
    }
    if how.truncate {
        options.truncate(true).write(true);
    }
    if how.write {
        options.write(true);
    } else {
        options.read(true);
    }
    options._cap_fs_ext_follow(if how.follow { FollowSymlinks::Yes } else { FollowSymlinks::No });
    if how.directory && (how.create || how.exclusive || how.truncate) {
        return Err(Error::Invalid);
    }
    cap::open(base, Path::new(path), &options).map_err(code)
}

/// As `rename` of Wasmtime's copy. There a slash at the end of the new path needs a directory too; in `cap-primitives`
/// only one at the end of the old path does.
fn rename(old: &File, old_path: &str, new: &File, new_path: &str) -> io::Result<()> {
    let is_moved = new_path.ends_with('/') && !old_path.is_empty() && !old_path.ends_with('/');
    let old_path = if is_moved { format!("{old_path}/") } else { old_path.to_owned() };
    cap::rename(old, Path::new(&old_path), new, Path::new(new_path))
}

fn kind(metadata: &Metadata) -> Type {
    if metadata.is_dir() {
        Type::Directory
    } else if metadata.is_symlink() {
        Type::Link
    } else {
        Type::File
    }
}

fn stat(metadata: &Metadata) -> Outcome {
    Outcome::stat(kind(metadata), metadata.nlink(), metadata.len())
}

/// As `ErrorCode::from` of Wasmtime.
fn code(error: io::Error) -> Error {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ResourceBusy => Error::Busy,
        ErrorKind::AlreadyExists => Error::Exist,
        ErrorKind::InvalidInput => Error::Invalid,
        ErrorKind::IsADirectory => Error::IsDirectory,
        ErrorKind::InvalidFilename => Error::NameTooLong,
        ErrorKind::NotFound => Error::NoEntry,
        ErrorKind::NotADirectory => Error::NotDirectory,
        ErrorKind::DirectoryNotEmpty => Error::NotEmpty,
        // `EPERM`, or a path that `cap-primitives` refuses. `EACCES` has the same kind, and another code.
        ErrorKind::PermissionDenied if error.raw_os_error() != Some(13) => Error::NotPermitted,
        ErrorKind::TooManyLinks => Error::TooManyLinks,
        // Not yet a stable kind.
        _ if error.raw_os_error() == Some(40) => Error::Loop,
        _ => panic!("an error of the host: {error:?}"),
    }
}
