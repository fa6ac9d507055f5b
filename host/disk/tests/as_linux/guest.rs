//! A guest that runs operations on a disk.

use crate::steps::Step;
use lifeboat_disk::{Disk, Error, Ino, SetTimes, Type};

/// The most descriptors of each type that are held open. The oldest is closed first.
pub(crate) const OPEN_MAX: usize = 6;

/// What an operation returned, as far as both sides must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Opened(Type),
    Target(String),
    Stat { kind: Type, links: u64, bytes: u64 },
    Bytes(Vec<u8>),
    Names(Vec<(String, Type)>),
    Failed(Error),
}

impl Outcome {
    pub(crate) fn stat(kind: Type, links: u64, bytes: u64) -> Self {
        if kind == Type::Directory {
            Self::Stat { kind, links: 0, bytes: 0 }
        } else {
            Self::Stat { kind, links, bytes }
        }
    }
}

/// A disk, and what a guest holds open on it.
pub(crate) struct Guest {
    pub(crate) disk: Disk,
    /// The root is the first, and stays.
    pub(crate) directories: Vec<Ino>,
    pub(crate) files: Vec<Ino>,
}

impl Guest {
    pub(crate) fn new(disk: Disk) -> Self {
        Self { disk, directories: vec![Ino::ROOT], files: Vec::new() }
    }

    pub(crate) fn run(&mut self, step: &Step) -> Outcome {
        self.try_run(step).unwrap_or_else(Outcome::Failed)
    }

    fn try_run(&mut self, step: &Step) -> Result<Outcome, Error> {
        let disk = &mut self.disk;
        let base = |index: &usize| self.directories[index % self.directories.len()];
        let file = |index: &usize| self.files.get(index % self.files.len().max(1)).copied();
        match step {
            Step::Open { base: index, path, how } => {
                let (ino, kind) = disk.open_at(base(index), path, *how)?;
                let open = if kind == Type::Directory { &mut self.directories } else { &mut self.files };
                open.push(ino);
                if open.len() > OPEN_MAX {
                    disk.close(open.remove(1));
                }
                return Ok(Outcome::Opened(kind));
            }
            Step::CreateDirectory { base: index, path } => disk.create_directory_at(base(index), path)?,
            Step::RemoveDirectory { base: index, path } => disk.remove_directory_at(base(index), path)?,
            Step::Unlink { base: index, path } => disk.unlink_at(base(index), path)?,
            Step::Rename { from: (old, old_path), to: (new, new_path) } => {
                disk.rename_at(base(old), old_path, base(new), new_path)?;
            }
            Step::Link { from: (old, old_path), to: (new, new_path) } => {
                disk.link_at(base(old), old_path, base(new), new_path)?;
            }
            Step::Symlink { target, base: index, path } => disk.symlink_at(target, base(index), path)?,
            Step::ReadLink { base: index, path } => {
                return Ok(Outcome::Target(disk.read_link_at(base(index), path)?.to_string()));
            }
            Step::StatAt { base: index, path, is_followed } => {
                let stat = disk.stat_at(base(index), path, *is_followed)?;
                return Ok(Outcome::stat(stat.kind, stat.links.into(), stat.bytes));
            }
            Step::SetTimesAt { base: index, path, is_followed, is_set } => {
                let times = SetTimes { accessed_ns: None, modified_ns: is_set.then_some(7_000_000_000) };
                disk.set_times_at(base(index), path, *is_followed, times)?;
            }
            Step::List { base: index } => {
                let names = disk.list(base(index))?.map(|(name, kind)| (name.to_string(), kind));
                return Ok(Outcome::Names(names.collect()));
            }
            Step::Read { file: index, offset, len } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                return Ok(Outcome::Bytes(disk.read(file, *offset, *len as u64)?));
            }
            Step::Write { file: index, offset, bytes } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                disk.write(file, *offset, bytes)?;
            }
            Step::Append { file: index, bytes } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                disk.append(file, bytes)?;
            }
            Step::SetSize { file: index, bytes } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                disk.set_size(file, *bytes)?;
            }
            Step::Stat { file: index } => {
                let Some(file) = file(index) else { return Ok(Outcome::Done) };
                let stat = disk.stat(file)?;
                return Ok(Outcome::stat(stat.kind, stat.links.into(), stat.bytes));
            }
            Step::CloseFile { file: index } => {
                if !self.files.is_empty() {
                    disk.close(self.files.remove(index % self.files.len()));
                }
            }
            Step::CloseDirectory { base: index } => {
                if self.directories.len() > 1 {
                    disk.close(self.directories.remove(1 + index % (self.directories.len() - 1)));
                }
            }
        }
        Ok(Outcome::Done)
    }
}
