//! The copy of a directory or a file of a virtual disk in a new directory of this machine.
//!
//! Nothing outside of the new directory is written, whatever a server answers: a name leads only into its directory,
//! no existing file is opened, and symbolic links are created last.

use super::super::{FindingError, UsageError, arguments, output};
use super::links::leads_out;
use super::{CopyError, ENTRIES_MAX, Files, Source, copy, counted, list_all};
use anyhow::{Context, bail};
use clap::Args;
use lifeboat_api::clock::Utc;
use lifeboat_api::http::{DiskEntry, EntryType};
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_api::text::Printable;
use lifeboat_disk::PATH_BYTES_MAX;
use lifeboat_host::files::last_name;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct Export<S: Source> {
    #[command(flatten)]
    source: S,
    /// The directory to create; an existing one is not touched
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The directory or file
    #[arg(value_name = "PATH", default_value = "/")]
    file: String,
}

impl<S: Source> Export<S> {
    pub(super) fn execute(self) -> anyhow::Result<bool> {
        let shown = arguments::shown(&self.out.display().to_string());
        // The directory is checked before the work, and again when it is created.
        if self.out.symlink_metadata().is_ok() {
            return Err(UsageError(format!("{shown} exists already; name a new directory")).into());
        }
        let (copied, is_cut_off) = self.source.with_files(|files| self.copy(files))?;
        let Copied { files, bytes, skipped, sequences, .. } = &copied;
        output::note(&format!("{shown} has {} with {:#}", counted(*files, "file", "files"), Bytes(*bytes)));
        if let [first, ..] = &skipped[..] {
            let links = counted(skipped.len() as u64, "link", "links");
            return Err(FindingError(format!(
                "{links} that lead out of the exported directory, or in a circle, were left out, such as {first}"
            ))
            .into());
        }
        if let Some((first, last)) = sequences.filter(|(first, last)| first != last) {
            let (first, last) = (grouped(first), grouped(last));
            return Err(FindingError(format!(
                "the service went on from transaction {first} to {last} meanwhile, so that {shown} has files of \
                 different states; for files of one state, export again while no transaction arrives, or from a data \
                 directory"
            ))
            .into());
        }
        Ok(is_cut_off)
    }

    fn copy(&self, files: &mut dyn Files) -> anyhow::Result<Copied> {
        // A path that leads nowhere creates no directory.
        let kind = files.list(&self.file, None)?.kind;
        create(&self.out)?;
        let mut copied = Copied::default();
        match kind {
            EntryType::Directory => copied.directory(files, &self.file, &self.out)?,
            EntryType::File | EntryType::Link => {
                let listing = files.list(&self.file, None)?;
                copied.saw(listing.sequence);
                let [entry] = &listing.entries[..] else { bail!("the listing of one file has no single entry") };
                let name = last_name(&self.file);
                check_name(name)?;
                copied.file(files, &self.file, entry, &self.out.join(name))?;
            }
        }
        copied.create_links(&self.out)?;
        Ok(copied)
    }
}

/// Copies all files of a disk to the new directory `out`, which [`create`] has made. Returns their number and bytes,
/// and the links that were left out because they lead elsewhere.
pub(crate) fn export_all(files: &mut dyn Files, out: &Path) -> anyhow::Result<(u64, u64, Vec<String>)> {
    let mut copied = Copied::default();
    copied.directory(files, "/", out)?;
    copied.create_links(out)?;
    Ok((copied.files, copied.bytes, copied.skipped))
}

/// Creates the directory of an export.
///
/// # Errors
/// [`UsageError`] if the directory above it is none, or is not there.
pub(crate) fn create(out: &Path) -> anyhow::Result<()> {
    let shown = arguments::shown(&out.display().to_string());
    fs::create_dir(out).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            UsageError(format!("cannot create {shown}: {error}; name a new directory in one that is there")).into()
        }
        _ => anyhow::Error::from(error).context(format!("cannot create {shown}")),
    })
}

/// What was copied so far.
#[derive(Default)]
struct Copied {
    files: u64,
    bytes: u64,
    /// The entries that were listed.
    entries: u64,
    /// Where files with more than one name were written, by their inodes.
    written: HashMap<u64, PathBuf>,
    /// The links that are still to be created, by their paths below the exported directory, and their targets.
    links: BTreeMap<String, String>,
    /// The links that were left out.
    skipped: Vec<String>,
    /// The first and the last transaction of which something was copied.
    sequences: Option<(u64, u64)>,
}

impl Copied {
    fn saw(&mut self, sequence: u64) {
        let (first, last) = self.sequences.unwrap_or((sequence, sequence));
        self.sequences = Some((first.min(sequence), last.max(sequence)));
    }

    /// Copies the entries of a directory, and of those below it.
    fn directory(&mut self, files: &mut dyn Files, path: &str, to: &Path) -> anyhow::Result<()> {
        let mut left = vec![String::new()];
        while let Some(below) = left.pop() {
            let of_disk = if below.is_empty() { path.to_owned() } else { format!("{path}/{below}") };
            list_all(files, &of_disk, |files, listing| {
                self.saw(listing.sequence);
                self.entries += listing.entries.len() as u64;
                if self.entries > ENTRIES_MAX || of_disk.len() > PATH_BYTES_MAX + path.len() {
                    bail!("{} has more entries, or longer paths, than any disk", arguments::shown(path));
                }
                for entry in &listing.entries {
                    check_name(&entry.name)?;
                    let separator = if below.is_empty() { "" } else { "/" };
                    let below = format!("{below}{separator}{}", entry.name);
                    let written = to.join(&below);
                    match entry.kind {
                        EntryType::Directory => {
                            fs::create_dir(&written).with_context(|| failed(&written))?;
                            left.push(below);
                        }
                        EntryType::File => self.file(files, &format!("{path}/{below}"), entry, &written)?,
                        EntryType::Link => {
                            self.links.insert(below, entry.target.clone().unwrap_or_default());
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn file(&mut self, files: &mut dyn Files, path: &str, entry: &DiskEntry, to: &Path) -> anyhow::Result<()> {
        if let Some(written) = self.written.get(&entry.inode) {
            return fs::hard_link(written, to).with_context(|| failed(to));
        }
        if entry.links > 1 {
            self.written.insert(entry.inode, to.to_path_buf());
        }
        let mut file = File::create_new(to).with_context(|| failed(to))?;
        let last = copy(files, path, &mut file).map_err(|error| match error {
            CopyError::Read(error) => error,
            CopyError::Write(error) => anyhow::Error::from(error).context(failed(to)),
        })?;
        self.saw(last.sequence);
        if let Ok(Utc(modified)) = entry.modified.parse()
            && let Some(modified) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(modified.0))
        {
            file.set_modified(modified).with_context(|| failed(to))?;
        }
        self.files += 1;
        self.bytes += last.file_bytes;
        Ok(())
    }

    /// Creates the links, except those that lead out of the exported directory.
    fn create_links(&mut self, to: &Path) -> anyhow::Result<()> {
        for (below, target) in &self.links {
            let path = to.join(below);
            if leads_out(&self.links, below) {
                self.skipped.push(arguments::shown(&path.display().to_string()));
            } else {
                std::os::unix::fs::symlink(target, &path).with_context(|| failed(&path))?;
            }
        }
        Ok(())
    }
}

fn failed(path: &Path) -> String {
    format!("cannot write {}", arguments::shown(&path.display().to_string()))
}

/// Checks that a name leads to an entry of its directory.
fn check_name(name: &str) -> anyhow::Result<()> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        bail!("'{}' is no name of a file; nothing more was copied", Printable(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("...").is_ok());
    }
}
