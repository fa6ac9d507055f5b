//! Directories of this machine for a virtual disk: in the archive of a deployment, or on the disk of a run.

use super::disk::links::leads_out;
use super::{Unusable, UsageError, arguments};
use anyhow::Context;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_disk::Disk;
use lifeboat_host::files::{self, ARCHIVE_DISK, ARCHIVE_FILES_BYTES_MAX, ARCHIVE_WORKLOAD, UnpackError};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;
use tar::{Builder, EntryType, Header};

/// A directory of this machine, and its path on the virtual disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dir {
    host: PathBuf,
    /// The path without a slash at its ends. The root is empty.
    guest: String,
    /// The path as it was written, by which a program finds the directory.
    name: String,
}

impl Dir {
    /// Returns the name by which a program finds the directory, and its path on the virtual disk.
    pub(super) fn preopen(&self) -> (String, String) {
        (self.name.clone(), self.guest.clone())
    }
}

impl FromStr for Dir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = text.split_once("::").unwrap_or((text, text));
        let parts: Vec<&str> = guest.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if host.is_empty() || guest.is_empty() {
            let shown = arguments::shown(text);
            return Err(format!("{shown} is neither HOST nor HOST::GUEST, such as ./site::/site"));
        }
        if parts.contains(&"..") {
            let shown = arguments::shown(text);
            return Err(format!(
                "{shown} has '..' in its path on the virtual disk; name that path, such as HOST::/site"
            ));
        }
        Ok(Self { host: host.into(), guest: parts.join("/"), name: guest.to_owned() })
    }
}

/// Returns a disk of at most `limit_bytes` with what is in these directories.
///
/// # Errors
/// [`UsageError`] for what a virtual disk cannot have, and for more than the limit.
pub(super) fn disk(dirs: &[Dir], limit_bytes: u64, now: Timestamp) -> anyhow::Result<Option<Disk>> {
    if dirs.is_empty() {
        return Ok(None);
    }
    let unpacked = files::unpack(&pack(&[], dirs)?, limit_bytes, now).map_err(|error| match error {
        UnpackError::Full { limit_bytes } => UsageError(format!(
            "the files of --dir use more than the {} of the disk; name fewer files, or give it more with --disk",
            ByteCount(limit_bytes)
        )),
        UnpackError::Entry { path, reason } => {
            let path = arguments::shown(path.strip_prefix(ARCHIVE_DISK).unwrap_or(&path));
            UsageError(format!("--dir: {path} {reason}"))
        }
        error => UsageError(format!("--dir: {error}")),
    })?;
    Ok(unpacked.disk)
}

/// Returns the archive with `workload`, and with what is in these directories.
///
/// # Errors
/// [`UsageError`] for what a virtual disk cannot have, for more than [`ARCHIVE_FILES_BYTES_MAX`], and for two directories
/// with the same path, or with a file of one in the place of something of the other.
pub(super) fn pack(workload: &[u8], dirs: &[Dir]) -> anyhow::Result<Vec<u8>> {
    check_distinct(dirs)?;
    let taken = (dirs.len() > 1).then(HashMap::new);
    let mut packing = Packing { archive: Builder::new(Vec::new()), workload_bytes: workload.len() as u64, taken };
    packing.file(ARCHIVE_WORKLOAD, workload, 0)?;
    for Dir { host, guest, .. } in dirs {
        // The directory itself may be a link.
        let found = fs::metadata(host).map_err(|error| unreadable(host, &error, NAME))?;
        if !found.is_dir() {
            return Err(unusable(host, &format!("it is not a directory; {NAME}")));
        }
        packing.directory(host, guest, &found)?;
    }
    Ok(packing.archive.into_inner()?)
}

struct Packing {
    archive: Builder<Vec<u8>>,
    workload_bytes: u64,
    /// What is at each path of the disk so far: its path on this machine, and whether it is a directory. None if there is
    /// one directory alone.
    taken: Option<HashMap<String, (PathBuf, bool)>>,
}

impl Packing {
    /// Takes a path of the disk. Several may take one for a directory, and only one for anything else.
    fn take(&mut self, guest: &str, path: &Path, is_directory: bool) -> Result<(), UsageError> {
        let Some(taken) = &mut self.taken else { return Ok(()) };
        match taken.get(guest) {
            Some((_, true)) if is_directory => Ok(()),
            Some((other, _)) => Err(both_at(other, path, guest)),
            None => {
                taken.insert(guest.to_owned(), (path.to_owned(), is_directory));
                Ok(())
            }
        }
    }

    fn directory(&mut self, host: &Path, guest: &str, found: &Metadata) -> anyhow::Result<()> {
        for (end, _) in guest.match_indices('/') {
            self.take(&guest[..end], host, true)?;
        }
        let mut left = vec![(host.to_path_buf(), guest.to_owned(), found.clone())];
        let mut links = BTreeMap::new();
        while let Some((path, guest, found)) = left.pop() {
            if !guest.is_empty() {
                self.take(&guest, &path, true)?;
                let mut header = header(EntryType::Directory, &found);
                self.archive.append_data(&mut header, format!("{ARCHIVE_DISK}/{guest}/"), &[][..])?;
            }
            let listed = fs::read_dir(&path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
            let mut entries = listed.map_err(|error| unreadable(&path, &error, REMOVE))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let wrong = |reason: &str| unusable(&path, reason);
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(|| wrong("its name is not UTF-8; rename it"))?;
                let guest = if guest.is_empty() { name.to_owned() } else { format!("{guest}/{name}") };
                let found = entry.metadata().map_err(|error| unreadable(&path, &error, REMOVE))?;
                let kind = found.file_type();
                if kind.is_dir() {
                    left.push((path, guest, found));
                } else if kind.is_file() {
                    self.take(&guest, &path, false)?;
                    let bytes = self.read(&path)?;
                    self.file(&format!("{ARCHIVE_DISK}/{guest}"), &bytes, modified(&found))?;
                } else if kind.is_symlink() {
                    self.take(&guest, &path, false)?;
                    let target = fs::read_link(&path).map_err(|error| unreadable(&path, &error, REMOVE))?;
                    let not_text = "it leads to a name that is not UTF-8; replace or remove it";
                    let target = target.to_str().ok_or_else(|| wrong(not_text))?;
                    let below = path.strip_prefix(host).ok().and_then(Path::to_str);
                    links.insert(
                        below.ok_or_else(|| wrong("its path is not UTF-8; rename it"))?.to_owned(),
                        target.to_owned(),
                    );
                    let mut header = header(EntryType::Symlink, &found);
                    self.archive.append_link(&mut header, format!("{ARCHIVE_DISK}/{guest}"), target)?;
                } else {
                    return Err(wrong("it is neither a file, nor a directory, nor a link; remove it"));
                }
                self.check_length()?;
            }
        }
        match links.keys().find(|link| leads_out(&links, link)) {
            Some(link) => {
                let reason = "it is a link out of the directory, or in a circle; replace or remove it";
                Err(unusable(&host.join(link), reason))
            }
            None => Ok(()),
        }
    }

    /// Reads a file that may grow meanwhile.
    fn read(&self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(ARCHIVE_FILES_BYTES_MAX + 1).read_to_end(&mut bytes));
        read.map_err(|error| unreadable(path, &error, REMOVE))?;
        Ok(bytes)
    }

    fn file(&mut self, path: &str, bytes: &[u8], modified: u64) -> anyhow::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(modified);
        header.set_size(bytes.len() as u64);
        self.archive.append_data(&mut header, path, bytes).with_context(|| format!("cannot pack {path}"))
    }

    fn check_length(&self) -> anyhow::Result<()> {
        let bytes = (self.archive.get_ref().len() as u64).saturating_sub(self.workload_bytes);
        if bytes <= ARCHIVE_FILES_BYTES_MAX {
            return Ok(());
        }
        let text = format!(
            "the files of --dir make an archive of over {}, which is the limit; name fewer files",
            ByteCount(ARCHIVE_FILES_BYTES_MAX)
        );
        Err(UsageError(text).into())
    }
}

/// The remedy for a directory of `--dir` that is none.
const NAME: &str = "name a directory of yours, as HOST or HOST::GUEST";

/// The remedy for something below a directory of `--dir`.
const REMOVE: &str = "remove it, or name another directory";

/// Returns the error for what cannot be on a virtual disk, for a reason with its remedy.
fn unusable(path: &Path, reason: &str) -> anyhow::Error {
    let shown = arguments::shown(&path.display().to_string());
    UsageError(format!("--dir: {shown} cannot be on a virtual disk: {reason}")).into()
}

/// Returns the error for what cannot be read. Some reasons have a remedy of their own, which its report adds.
fn unreadable(path: &Path, error: &io::Error, remedy: &str) -> anyhow::Error {
    let reason = error.to_string();
    match Unusable::in_text(&reason) {
        Some(_) => unusable(path, &reason),
        None => unusable(path, &format!("{reason}; {remedy}")),
    }
}

/// Checks that no two directories have one path.
fn check_distinct(dirs: &[Dir]) -> Result<(), UsageError> {
    let mut hosts = HashMap::new();
    for Dir { host, guest, .. } in dirs {
        if let Some(other) = hosts.insert(guest.as_str(), host) {
            return Err(both_at(other, host, guest));
        }
    }
    Ok(())
}

/// Returns the error for two that claim one path of the virtual disk.
fn both_at(one: &Path, other: &Path, guest: &str) -> UsageError {
    let [one, other] = [one, other].map(|path| arguments::shown(&path.display().to_string()));
    UsageError(format!(
        "--dir: {one} and {other} are both at {} on the virtual disk; name another path for one of them, as HOST::GUEST",
        arguments::shown(&format!("/{guest}"))
    ))
}

fn modified(found: &Metadata) -> u64 {
    let since = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

fn header(kind: EntryType, found: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o777 });
    header.set_mtime(modified(found));
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_with_its_path_on_the_disk() {
        let dir =
            |host: &str, guest: &str, name: &str| Ok(Dir { host: host.into(), guest: guest.into(), name: name.into() });
        for (text, expected) in [
            ("./site::/var//www/", dir("./site", "var/www", "/var//www/")),
            ("site", dir("site", "site", "site")),
            ("/srv/site", dir("/srv/site", "srv/site", "/srv/site")),
            ("../site::/", dir("../site", "", "/")),
            (".", dir(".", "", ".")),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", "::", "::/x", "x::", "../site", "x::../y"] {
            assert!(text.parse::<Dir>().is_err(), "{text}");
        }
    }
}
