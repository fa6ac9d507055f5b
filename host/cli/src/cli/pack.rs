//! Directories of this machine for a virtual disk: in the archive of a deployment, or on the disk of a run.

use super::disk::links::leads_out;
use super::{UsageError, arguments};
use anyhow::Context;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_disk::Disk;
use lifeboat_host::files::{self, ARCHIVE_DISK, ARCHIVE_FILES_BYTES_MAX, ARCHIVE_WORKLOAD, UnpackError};
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
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
        error => UsageError(format!("--dir: {error}")),
    })?;
    Ok(unpacked.disk)
}

/// Returns the archive with `workload`, and with what is in these directories.
///
/// # Errors
/// [`UsageError`] for what a virtual disk cannot have, and for more than [`ARCHIVE_FILES_BYTES_MAX`].
pub(super) fn pack(workload: &[u8], dirs: &[Dir]) -> anyhow::Result<Vec<u8>> {
    let mut packing = Packing { archive: Builder::new(Vec::new()), workload_bytes: workload.len() as u64 };
    packing.file(ARCHIVE_WORKLOAD, workload, 0)?;
    for Dir { host, guest, .. } in dirs {
        // The directory itself may be a link.
        let found = fs::metadata(host).map_err(|error| unusable(host, &error.to_string()))?;
        if !found.is_dir() {
            return Err(unusable(host, "it is not a directory"));
        }
        packing.directory(host, guest, &found)?;
    }
    Ok(packing.archive.into_inner()?)
}

struct Packing {
    archive: Builder<Vec<u8>>,
    workload_bytes: u64,
}

impl Packing {
    fn directory(&mut self, host: &Path, guest: &str, found: &Metadata) -> anyhow::Result<()> {
        let mut left = vec![(host.to_path_buf(), guest.to_owned(), found.clone())];
        let mut links = BTreeMap::new();
        while let Some((path, guest, found)) = left.pop() {
            if !guest.is_empty() {
                let mut header = header(EntryType::Directory, &found);
                self.archive.append_data(&mut header, format!("{ARCHIVE_DISK}/{guest}/"), &[][..])?;
            }
            let listed = fs::read_dir(&path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
            let mut entries = listed.map_err(|error| unusable(&path, &error.to_string()))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let wrong = |reason: &str| unusable(&path, reason);
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(|| wrong("its name is not UTF-8; rename it"))?;
                let guest = if guest.is_empty() { name.to_owned() } else { format!("{guest}/{name}") };
                let found = entry.metadata().map_err(|error| wrong(&error.to_string()))?;
                let kind = found.file_type();
                if kind.is_dir() {
                    left.push((path, guest, found));
                } else if kind.is_file() {
                    let bytes = self.read(&path)?;
                    self.file(&format!("{ARCHIVE_DISK}/{guest}"), &bytes, modified(&found))?;
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path).map_err(|error| wrong(&error.to_string()))?;
                    let target = target.to_str().ok_or_else(|| wrong("it leads to a name that is not UTF-8"))?;
                    let below = path.strip_prefix(host).ok().and_then(Path::to_str);
                    links.insert(below.ok_or_else(|| wrong("its path is not UTF-8"))?.to_owned(), target.to_owned());
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
        read.map_err(|error| unusable(path, &error.to_string()))?;
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

fn unusable(path: &Path, reason: &str) -> anyhow::Error {
    UsageError(format!(
        "--dir: {} cannot be on a virtual disk: {reason}; name a directory of yours, as HOST or HOST::GUEST",
        arguments::shown(&path.display().to_string())
    ))
    .into()
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
