//! `lifeboat disk` and `lifeboat data disk`: list, print and copy the files of a service.
//!
//! ```text
//!   Command (ls, cat, export)  <-- Files, of a server: disk/remote.rs
//!                              <-- Files, of a data directory: data/disk.rs
//! ```

pub(crate) mod export;
pub(crate) mod links;
mod remote;

use super::{arguments, exit, is_pipe_open, output, table};
use anyhow::Context;
use clap::{Args, Subcommand};
use export::Export;
use lifeboat_api::clock::Utc;
use lifeboat_api::http::{DiskEntry, DiskListing, EntryType};
use lifeboat_api::lines::json_line;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, DISK_BYTES_MAX, grouped};
use lifeboat_api::text::Printable;
use lifeboat_client::FilePart;
use lifeboat_disk::ENTRY_BYTES;
pub(crate) use remote::OfDisk;
use std::io::{self, Write};
use std::process::ExitCode;

/// The most entries of a disk.
const ENTRIES_MAX: u64 = DISK_BYTES_MAX / ENTRY_BYTES;

/// The service whose files are shown, and where they are.
pub(crate) trait Source: Args {
    fn service(&self) -> &Name;

    /// Does `work` on the files. Returns also whether later transactions are known to be missing.
    fn with_files<T>(&self, work: impl FnOnce(&mut dyn Files) -> anyhow::Result<T>) -> anyhow::Result<(T, bool)>;
}

/// The files of a service. Results have the bounds of [`lifeboat_host::files`].
pub(crate) trait Files {
    /// Lists a directory, from the first name after `after` on, or one file.
    fn list(&mut self, path: &str, after: Option<&str>) -> anyhow::Result<DiskListing>;

    /// Reads a part of a file, which must have this version.
    fn read(&mut self, path: &str, offset: u64, version: Option<&str>) -> anyhow::Result<FilePart>;
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command<S: Source> {
    /// List a directory of a service's disk, or show one file.
    Ls(Ls<S>),
    /// Write the bytes of a file to standard output.
    Cat(Cat<S>),
    /// Copy a directory or a file of a service's disk to a new directory of this machine.
    Export(Export<S>),
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls<S: Source> {
    #[command(flatten)]
    source: S,
    /// Print one JSON object for each entry
    #[arg(long)]
    json: bool,
    /// The directory or file
    #[arg(value_name = "PATH", default_value = "/")]
    file: String,
}

/// Arguments of `cat`.
#[derive(Debug, Args)]
pub(crate) struct Cat<S: Source> {
    #[command(flatten)]
    source: S,
    /// The file
    #[arg(value_name = "PATH")]
    file: String,
}

impl<S: Source> Command<S> {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let is_cut_off = match self {
            Self::Ls(ls) => ls.execute()?,
            Self::Cat(cat) => cat.execute()?,
            Self::Export(export) => export.execute()?,
        };
        Ok(ExitCode::from(if is_cut_off { exit::SOME_NOT_OK } else { exit::OK }))
    }
}

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { more })
}

/// Calls `each` with every part of a listing, in order. Returns the last part.
fn list_all(
    files: &mut dyn Files,
    path: &str,
    mut each: impl FnMut(&mut dyn Files, &DiskListing) -> anyhow::Result<()>,
) -> anyhow::Result<DiskListing> {
    let (mut after, mut count) = (None::<String>, 0);
    loop {
        let listing = files.list(path, after.as_deref())?;
        count += listing.entries.len() as u64;
        each(files, &listing)?;
        let Some(next) = &listing.next else { return Ok(listing) };
        // The names go up, and a disk has a limited number of them: this ends, whatever a server answers.
        let has_more = after.as_ref().is_none_or(|after| next > after) && !listing.entries.is_empty();
        if !has_more || count > ENTRIES_MAX {
            anyhow::bail!("the listing of {} has no end: it goes on at '{}'", arguments::shown(path), Printable(next));
        }
        after = Some(next.clone());
    }
}

impl<S: Source> Ls<S> {
    fn execute(self) -> anyhow::Result<bool> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let (mut rows, mut count, mut is_read) = (Vec::new(), 0, true);
        let (last, is_cut_off) = self.source.with_files(|files| {
            list_all(files, &self.file, |_, listing| {
                count += listing.entries.len() as u64;
                for entry in &listing.entries {
                    if !self.json {
                        rows.push(row(entry));
                    } else if is_read {
                        is_read = is_pipe_open(out.write_all(json_line(entry)?.as_bytes()))?;
                    }
                }
                Ok(())
            })
        })?;
        let text = if rows.is_empty() { String::new() } else { table::table(&rows) };
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        is_pipe_open(written).context("cannot write to standard output")?;
        if !self.json {
            let (count, used) = (counted(count, "entry", "entries"), Bytes(last.used_bytes));
            output::note(&format!("{count}; the disk of '{}' uses {used:#}", self.source.service()));
        }
        Ok(is_cut_off)
    }
}

fn row(entry: &DiskEntry) -> Vec<String> {
    let arrow = entry.target.as_ref().map_or(String::new(), |target| format!(" -> {}", Printable(target)));
    let bytes = if entry.kind == EntryType::Directory { "-".to_owned() } else { grouped(entry.bytes) };
    let time = match entry.modified.parse::<Utc>() {
        Ok(time) => format!("{time:.0}"),
        Err(_) => Printable(&entry.modified).to_string(),
    };
    vec![entry.kind.to_string(), bytes, time, format!("{}{arrow}", Printable(&entry.name))]
}

impl<S: Source> Cat<S> {
    fn execute(self) -> anyhow::Result<bool> {
        let mut out = io::stdout().lock();
        let (copied, is_cut_off) = self.source.with_files(|files| Ok(copy(files, &self.file, &mut out)))?;
        match copied {
            Ok(_) => {}
            Err(CopyError::Read(error)) => return Err(error),
            Err(CopyError::Write(error)) => {
                is_pipe_open(Err(error)).context("cannot write to standard output")?;
            }
        }
        Ok(is_cut_off)
    }
}

enum CopyError {
    Read(anyhow::Error),
    Write(io::Error),
}

/// Writes the bytes of a file, all of the same version. Returns its last part.
fn copy(files: &mut dyn Files, path: &str, out: &mut impl Write) -> Result<FilePart, CopyError> {
    let (mut offset, mut before) = (0, None::<FilePart>);
    loop {
        let version = before.as_ref().map(|part| part.version.as_str());
        let part = files.read(path, offset, version).map_err(CopyError::Read)?;
        let wrong = |reason: &str| {
            CopyError::Read(anyhow::anyhow!("the parts of {} do not belong together: {reason}", arguments::shown(path)))
        };
        if before.is_some_and(|before| (&before.version, before.file_bytes) != (&part.version, part.file_bytes)) {
            return Err(wrong("their versions or lengths differ"));
        }
        offset += part.bytes.len() as u64;
        if offset > part.file_bytes || part.file_bytes > DISK_BYTES_MAX {
            return Err(wrong("they are longer than the file, or than any disk"));
        }
        if part.bytes.is_empty() && offset < part.file_bytes {
            return Err(wrong("one of them is empty"));
        }
        out.write_all(&part.bytes).map_err(CopyError::Write)?;
        if offset == part.file_bytes {
            out.flush().map_err(CopyError::Write)?;
            return Ok(part);
        }
        before = Some(part);
    }
}
