//! `lifeboat data disk`: lists, prints and copies the files of a service, as they are or were after a transaction.

use super::super::{FindingError, UsageError, arguments, exit, is_pipe_open, output, table};
use super::directory::{Directory, note_if_cut_off, runtime, scratch};
use anyhow::Context;
use clap::{Args, Subcommand};
use lifeboat_api::clock::{Timestamp, Utc};
use lifeboat_api::id::Sequence;
use lifeboat_api::lines::json_line;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, grouped};
use lifeboat_api::text::Printable;
use lifeboat_disk::{Disk, Error, Ino, READ_BYTES_MAX, Stat, Type};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const AFTER_HELP: &str = "\
A scratch VM restores the disk from the newest earlier snapshot and the transactions since. Nothing is changed.";

/// Arguments of `data disk`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct OfDisk {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List a directory of a service's disk, or show one file.
    Ls(Ls),
    /// Write the bytes of a file to standard output.
    Cat(Cat),
    /// Copy a directory or a file of a service's disk to a new directory of this machine.
    Export(Export),
}

/// Whose disk, and when.
#[derive(Debug, Args)]
struct State {
    #[command(flatten)]
    directory: Directory,
    /// Show the disk after transaction SEQ [default: the last one]
    #[arg(long, value_name = "SEQ", value_parser = arguments::whole, allow_negative_numbers = true)]
    at: Option<u64>,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

/// Arguments of `data disk ls`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Ls {
    #[command(flatten)]
    state: State,
    /// Print one JSON object for each entry
    #[arg(long)]
    json: bool,
    /// The directory or file
    #[arg(value_name = "PATH", default_value = "/")]
    file: String,
}

/// Arguments of `data disk cat`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Cat {
    #[command(flatten)]
    state: State,
    /// The file
    #[arg(value_name = "PATH")]
    file: String,
}

/// Arguments of `data disk export`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct Export {
    #[command(flatten)]
    state: State,
    /// The directory to create; an existing one is not touched
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The directory or file
    #[arg(value_name = "PATH", default_value = "/")]
    file: String,
}

impl OfDisk {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Ls(ls) => ls.execute(),
            Command::Cat(cat) => cat.execute(),
            Command::Export(export) => export.execute(),
        }
    }
}

impl State {
    /// Brings back the disk. Returns also whether later transactions are known to be missing.
    fn disk(&self) -> anyhow::Result<(Disk, bool)> {
        let locked = self.directory.open_read_only()?;
        let found = self.directory.find(&locked, &self.service)?;
        let storage = &**locked.storage();
        let runtime = runtime()?;
        let (scratch, program) = scratch(&runtime, storage, &found)?;
        let state = runtime
            .block_on(scratch.state(storage, &program, &found, self.at.map(Sequence)))
            .map_err(|error| self.directory.no_state(&found.name, error))?;
        // A user who named the transaction knows which state this is.
        let is_cut_off = self.at.is_none() && note_if_cut_off(&found, state.sequence);
        Ok((state.disk().clone(), is_cut_off))
    }

    fn wrong(&self, path: &str, error: Error) -> anyhow::Error {
        let path = arguments::shown(path);
        let reason = match error {
            Error::NoEntry => "there is no such file or directory".to_owned(),
            error => error.to_string(),
        };
        let list = format!("lifeboat data disk ls {} {}", self.directory.option(), self.service);
        UsageError(format!("{path} on the disk of '{}': {reason}; {list} lists it", self.service)).into()
    }
}

/// Returns a path as the disk resolves it from its root.
fn below_root(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        below => below,
    }
}

fn code(is_cut_off: bool) -> ExitCode {
    ExitCode::from(if is_cut_off { exit::SOME_NOT_OK } else { exit::OK })
}

impl Ls {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let (mut disk, is_cut_off) = self.state.disk()?;
        let wrong = |error| self.state.wrong(&self.file, error);
        let stat = disk.stat_at(Ino::ROOT, below_root(&self.file), true).map_err(wrong)?;
        let mut entries = Vec::new();
        if stat.kind == Type::Directory {
            for (name, _) in disk.list(stat.ino).map_err(wrong)? {
                let entry = disk.stat_at(stat.ino, &name, false).map_err(wrong)?;
                let target = if entry.kind == Type::Link { disk.read_link_at(stat.ino, &name).ok() } else { None };
                entries.push((name.to_string(), entry, target));
            }
        } else {
            let name = self.file.rsplit('/').find(|name| !name.is_empty()).unwrap_or_default();
            entries.push((name.to_owned(), stat, None));
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = if self.json {
            entries.iter().try_for_each(|(name, stat, target)| {
                let line = json_line(&entry_json(name, stat, target.as_deref())).map_err(io::Error::other)?;
                out.write_all(line.as_bytes())
            })
        } else {
            let rows: Vec<Vec<String>> =
                entries.iter().map(|(name, stat, target)| row(name, stat, target.as_deref())).collect();
            let text = if rows.is_empty() { String::new() } else { table::table(&rows) };
            out.write_all(text.as_bytes())
        };
        is_pipe_open(written.and_then(|()| out.flush())).context("cannot write to standard output")?;
        if !self.json {
            let (count, used) = (counted(entries.len() as u64, "entry", "entries"), Bytes(disk.used_bytes()));
            output::note(&format!("{count}; the disk of '{}' uses {used:#}", self.state.service));
        }
        Ok(code(is_cut_off))
    }
}

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { more })
}

fn word(kind: Type) -> &'static str {
    match kind {
        Type::File => "file",
        Type::Directory => "directory",
        Type::Link => "link",
    }
}

fn row(name: &str, stat: &Stat, target: Option<&str>) -> Vec<String> {
    let arrow = target.map_or(String::new(), |target| format!(" -> {}", Printable(target)));
    let bytes = if stat.kind == Type::Directory { "-".to_owned() } else { grouped(stat.bytes) };
    let time = format!("{:.0}", Utc(Timestamp(stat.times.modified_ns)));
    vec![word(stat.kind).to_owned(), bytes, time, format!("{}{arrow}", Printable(name))]
}

fn entry_json(name: &str, stat: &Stat, target: Option<&str>) -> Value {
    let modified = format!("{:.9}", Utc(Timestamp(stat.times.modified_ns)));
    let mut entry = json!({
        "name": name, "type": word(stat.kind), "bytes": stat.bytes, "links": stat.links, "modified": modified,
    });
    if let Some(target) = target {
        entry["target"] = target.into();
    }
    entry
}

impl Cat {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let (mut disk, is_cut_off) = self.state.disk()?;
        let wrong = |error| self.state.wrong(&self.file, error);
        let stat = disk.stat_at(Ino::ROOT, below_root(&self.file), true).map_err(wrong)?;
        if stat.kind == Type::Directory {
            return Err(wrong(Error::IsDirectory));
        }
        let copied = copy(&mut disk, stat, &mut io::stdout().lock());
        is_pipe_open(copied).context("cannot write to standard output")?;
        Ok(code(is_cut_off))
    }
}

/// Writes the bytes of a file.
fn copy(disk: &mut Disk, stat: Stat, out: &mut impl Write) -> io::Result<()> {
    let mut offset = 0;
    while offset < stat.bytes {
        let bytes = disk.read(stat.ino, offset, READ_BYTES_MAX as u64).map_err(io::Error::other)?;
        out.write_all(&bytes)?;
        offset += bytes.len() as u64;
    }
    out.flush()
}

impl Export {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let shown = arguments::shown(&self.out.display().to_string());
        // The directory is checked before the work, and again when it is created.
        if self.out.symlink_metadata().is_ok() {
            return Err(UsageError(format!("{shown} exists already; name a new directory")).into());
        }
        let (mut disk, is_cut_off) = self.state.disk()?;
        let stat = disk.stat_at(Ino::ROOT, below_root(&self.file), true);
        let stat = stat.map_err(|error| self.state.wrong(&self.file, error))?;
        fs::create_dir(&self.out).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename => {
                UsageError(format!("cannot create {shown}: {error}; name a new directory in one that is there")).into()
            }
            _ => anyhow::Error::from(error).context(format!("cannot create {shown}")),
        })?;
        let mut copied = Copied::default();
        if stat.kind == Type::Directory {
            copied.directory(&mut disk, stat.ino, &self.out)?;
        } else {
            let name = self.file.rsplit('/').find(|name| !name.is_empty()).unwrap_or_default();
            copied.file(&mut disk, stat, &self.out.join(name))?;
        }
        copied.links()?;
        let Copied { files, bytes, skipped, .. } = &copied;
        output::note(&format!("{shown} has {} with {:#}", counted(*files, "file", "files"), Bytes(*bytes)));
        if let [first, ..] = &skipped[..] {
            let links = counted(skipped.len() as u64, "link", "links");
            return Err(FindingError(format!(
                "{links} out of the exported directory, or in a circle, left out, such as {first}"
            ))
            .into());
        }
        Ok(code(is_cut_off))
    }
}

/// What was copied so far.
#[derive(Default)]
struct Copied {
    files: u64,
    bytes: u64,
    /// Where files with more than one name were written.
    written: HashMap<Ino, PathBuf>,
    /// The links that are still to be created, and their targets. They come last, so that nothing is written through
    /// one.
    links: Vec<(PathBuf, String)>,
    /// The links that were left out.
    skipped: Vec<String>,
}

impl Copied {
    /// Copies the entries of a directory, and of those below it.
    fn directory(&mut self, disk: &mut Disk, directory: Ino, to: &Path) -> anyhow::Result<()> {
        let failed = |path: &Path| format!("cannot write {}", arguments::shown(&path.display().to_string()));
        let exported = directory;
        let mut left = vec![(directory, to.to_path_buf(), String::new())];
        while let Some((directory, to, below)) = left.pop() {
            for (name, _) in disk.list(directory)? {
                let path = to.join(&*name);
                let below = if below.is_empty() { name.to_string() } else { format!("{below}/{name}") };
                let stat = disk.stat_at(directory, &name, false)?;
                match stat.kind {
                    Type::Directory => {
                        fs::create_dir(&path).with_context(|| failed(&path))?;
                        left.push((stat.ino, path, below));
                    }
                    Type::File => self.file(disk, stat, &path)?,
                    Type::Link => {
                        let target = disk.read_link_at(directory, &name)?;
                        // The disk follows the link, and those on its way, as this machine will. A link to nothing
                        // leads nowhere.
                        match disk.stat_at(exported, &below, true) {
                            Ok(_) | Err(Error::NoEntry) => self.links.push((path, target.to_string())),
                            Err(_) => self.skipped.push(arguments::shown(&path.display().to_string())),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, disk: &mut Disk, stat: Stat, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", arguments::shown(&path.display().to_string()));
        if let Some(written) = self.written.get(&stat.ino) {
            return fs::hard_link(written, path).with_context(failed);
        }
        if stat.links > 1 {
            self.written.insert(stat.ino, path.to_path_buf());
        }
        let mut file = File::create_new(path).with_context(failed)?;
        copy(disk, stat, &mut file).with_context(failed)?;
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(stat.times.modified_ns));
        if let Some(modified) = modified {
            file.set_modified(modified).with_context(failed)?;
        }
        self.files += 1;
        self.bytes += stat.bytes;
        Ok(())
    }

    fn links(&mut self) -> anyhow::Result<()> {
        for (path, target) in self.links.drain(..) {
            let failed = || format!("cannot write {}", arguments::shown(&path.display().to_string()));
            std::os::unix::fs::symlink(&target, &path).with_context(failed)?;
        }
        Ok(())
    }
}
