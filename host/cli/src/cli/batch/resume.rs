//! The file of `batch --resume`: the seed and times of the ids of its lines, as JSON, one object a line.
//!
//! ```text
//! {"lifeboat_batch":1,"server":URL,"user":NAME,"service":NAME,"seed":BASE64}
//! {"line":1,"time":NANOSECONDS}
//! {"line":4097,"time":NANOSECONDS}
//! ```
//!
//! Each line is synced before anything that depends on it is sent. So a last line without a line feed is the result of
//! a crash, and nothing was sent for it. One batch at a time may use the file: it is locked, and the lock ends with the
//! process.

use super::super::{UsageError, random};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::name::Name;
use lifeboat_client::{IdBlock, LineIds, Server};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest file, in bytes. It suffices for billions of lines.
const RESUME_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The beginning of the file, with its version.
const MAGIC: &[u8] = b"{\"lifeboat_batch\":1,";

/// The first line: the server, user and service of the batch.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    lifeboat_batch: u32,
    server: String,
    user: String,
    service: Name,
    seed: String,
}

/// The file of a running batch.
pub(super) struct Resume {
    path: PathBuf,
    file: Locked,
    bytes: u64,
    ids: LineIds,
    /// The last line for which an id was made.
    last_line: u64,
    /// Whether the file held no batch before.
    is_new: bool,
}

impl Resume {
    /// Opens the file for a batch of `user` to `service` at `server`, and creates it if it is missing.
    pub(super) fn take(path: &Path, server: &str, user: &str, service: &Name) -> anyhow::Result<Self> {
        let failed = |error: io::Error| {
            UsageError(format!("{}: {error}; name a file in a writable directory", super::shown(path)))
        };
        let wrong = |reason: &str| {
            let shown = super::shown(path);
            UsageError(format!(
                "{shown} {reason}; name another file, or remove this one if its batch is not to be continued"
            ))
        };
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let shown = super::shown(path);
            return Err(UsageError(format!("{shown} is a device or a pipe, not a file; name a regular file")).into());
        }
        let Some(mut file) = locked(path).map_err(failed)? else {
            let shown = super::shown(path);
            return Err(UsageError(format!("{shown} is in use by a batch under way; wait for its end")).into());
        };
        let mut text = Vec::new();
        (&*file).take(RESUME_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > RESUME_BYTES_MAX {
            return Err(wrong(&format!("is longer than {RESUME_BYTES_MAX} bytes")).into());
        }
        let is_new = !text.contains(&b'\n') && (MAGIC.starts_with(&text) || text.starts_with(MAGIC));
        let ids = if is_new {
            let seed = random()?;
            let head = Head {
                lifeboat_batch: 1,
                server: server.into(),
                user: user.into(),
                service: service.clone(),
                seed: STANDARD.encode(seed),
            };
            text = line(&head).map_err(failed)?;
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text)).map_err(failed)?;
            LineIds::new(seed, Vec::new())
        } else {
            let (head, ids) = read(&text).ok_or_else(|| wrong("is not a file that --resume wrote"))?;
            if head.service != *service || !Server::is_same(&head.server, server) {
                let (service, server) = (head.service, head.server.escape_debug());
                return Err(wrong(&format!("belongs to a batch to service '{service}' at {server}")).into());
            }
            if head.user != user {
                let head = head.user.escape_debug();
                return Err(wrong(&format!("belongs to a batch of user '{head}', and you are '{user}'")).into());
            }
            text.truncate(whole(&text).len());
            file.set_len(text.len() as u64).map_err(failed)?;
            ids
        };
        // The process that wrote the file may have died before its sync.
        file.sync_all().and_then(|()| sync_folder(path)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, bytes: text.len() as u64, ids, last_line: 0, is_new })
    }

    /// Returns the id of a line. Once returned, it stays the id of this line, even after a crash.
    pub(super) fn id(&mut self, number: u64, now: Timestamp) -> io::Result<String> {
        if let Some(block) = self.ids.next_block(number, now) {
            let failed =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", super::shown(&self.path)));
            let text = line(&block)?;
            let bytes = self.bytes + text.len() as u64;
            if bytes > RESUME_BYTES_MAX {
                return Err(failed(io::Error::other(format!("it would be longer than {RESUME_BYTES_MAX} bytes"))));
            }
            // The batch waits for its disk here and does nothing else meanwhile, but only once in some thousand lines.
            self.file.seek(SeekFrom::Start(self.bytes)).map_err(failed)?;
            self.file.write_all(&text).and_then(|()| self.file.sync_data()).map_err(failed)?;
            self.bytes = bytes;
            self.ids.begin(block);
        }
        self.last_line = self.last_line.max(number);
        Ok(self.ids.id(number))
    }

    /// Returns the id of the line after the last one, if that line may have been sent before. Then the file may belong
    /// to a longer batch.
    pub(super) fn id_after(&self) -> Option<String> {
        let next = self.last_line + 1;
        self.ids.may_be_sent(next).then(|| self.ids.id(next))
    }

    /// Removes the file if it was created for a batch of which the server accepted nothing. A file that cannot be
    /// removed does no harm.
    pub(super) fn remove_if_unused(&self) {
        if self.is_new {
            let _ = self.remove();
        }
    }

    /// Removes the file of a completed batch.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        sync_folder(&self.path)
    }
}

/// A file that this process has locked.
///
/// The lock is released explicitly: a child that another thread starts has the file as well, until it has become its own
/// program.
struct Locked(File);

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Opens and locks the file. Returns None if another process has it.
fn locked(path: &Path) -> io::Result<Option<Locked>> {
    loop {
        let options = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).to_owned();
        let file = options().open(path)?;
        let file = match file.try_lock() {
            Ok(()) => Locked(file),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        };
        // The previous holder may have removed the file between the open and the lock.
        let (opened, found) = (file.metadata()?, fs::metadata(path));
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino())) {
            return Ok(Some(file));
        }
    }
}

/// Returns `text` without an incomplete last line, which a crash leaves.
fn whole(text: &[u8]) -> &[u8] {
    &text[..text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)]
}

fn read(text: &[u8]) -> Option<(Head, LineIds)> {
    let mut lines = whole(text).split_inclusive(|byte| *byte == b'\n');
    let head: Head = lines.next().filter(|line| line.starts_with(MAGIC)).and_then(parsed)?;
    let blocks: Vec<IdBlock> = lines.map(parsed).collect::<Option<_>>()?;
    let seed = STANDARD.decode(&head.seed).ok().and_then(|seed| <[u8; 32]>::try_from(seed).ok())?;
    Some((head, LineIds::new(seed, blocks)))
}

fn parsed<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line).ok()
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_client::ID_BLOCK_LINES_MAX;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_645_557_742_000_000_000);

    fn bank() -> Name {
        Name::new("bank").expect("a name")
    }

    fn take(path: &Path) -> anyhow::Result<Resume> {
        Resume::take(path, "http://a", "ada", &bank())
    }

    #[test]
    fn a_device_is_reported_as_no_file() {
        let error = take(Path::new("/dev/null")).err().expect("nothing is kept there").to_string();
        assert_eq!(error, "'/dev/null' is a device or a pipe, not a file; name a regular file");
    }

    #[test]
    fn a_resumed_batch_has_the_same_ids() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resume");
        let lines = [1, 2, ID_BLOCK_LINES_MAX + 1, 3 * ID_BLOCK_LINES_MAX];
        let ids = |resume: &mut Resume, hours: u64| {
            let at = |line: u64| NOW.plus(Duration::from_secs(hours * 3_600 + line));
            lines.map(|line| resume.id(line, at(line)).expect("an id"))
        };
        let mut first = take(&path).expect("made");
        let drawn = ids(&mut first, 0);
        assert_ne!(drawn[0][..13], drawn[2][..13], "they are of two times");
        assert_eq!(first.id_after(), None, "nothing was sent before");
        drop(first);
        assert_eq!(take(&path).expect("there").id_after().as_ref(), drawn.first());
        let mut again = Resume::take(&path, "HTTP://a:80/", "ada", &bank()).expect("there");
        assert_eq!(ids(&mut again, 30), drawn);
        let next = again.id(5 * ID_BLOCK_LINES_MAX, NOW.plus(Duration::from_secs(30 * 3_600))).expect("an id");
        assert_ne!(next[..8], drawn[3][..8], "what was not sent is of the time when it is");
        again.remove().expect("removable");
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_in_use_of_another_batch_or_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resume");
        let first = take(&path).expect("made");
        let error = take(&path).err().expect("in use").to_string();
        assert!(error.contains("batch under way"), "{error}");
        drop(first);
        drop(take(&path).expect("free"));
        let refused = |server, user, service| {
            let service = Name::new(service).expect("a name");
            Resume::take(&path, server, user, &service).err().expect("another batch").to_string()
        };
        assert!(refused("http://a", "ada", "other").contains("to service 'bank'"));
        assert!(refused("http://b", "ada", "bank").contains("at http://a"));
        assert!(refused("http://a", "bob", "bank").contains("of user 'ada'"), "ids are each user's own");
        for text in ["time = 1", "{}\n", "{\"json\":1}\n{\"json\":2}\n", "\n", "\0\0"] {
            fs::write(&path, text).expect("writable");
            assert!(take(&path).err().expect(text).to_string().contains("is not a file that --resume wrote"));
            assert_eq!(fs::read_to_string(&path).expect("readable"), text, "it is left alone");
        }
    }

    #[test]
    fn a_crash_at_any_byte_of_the_file_changes_no_id_of_what_was_sent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resume");
        let later = NOW.plus(Duration::from_secs(3_600));
        let mut resume = take(&path).expect("made");
        let drawn = [1, ID_BLOCK_LINES_MAX + 1].map(|line| resume.id(line, NOW).expect("an id"));
        drop(resume);
        let text = fs::read(&path).expect("readable");
        let ends: Vec<usize> = (0..text.len()).filter(|at| text[*at] == b'\n').map(|at| at + 1).collect();
        assert_eq!(ends.len(), 3);
        for length in 0..=text.len() {
            fs::write(&path, &text[..length]).expect("writable");
            let mut resume = take(&path).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
            let is_kept = [1, ID_BLOCK_LINES_MAX + 1].map(|line| resume.id(line, later).expect("an id"));
            assert_eq!(is_kept[0] == drawn[0], length >= ends[1], "{length} bytes");
            assert_eq!(is_kept[1] == drawn[1], length >= ends[2], "{length} bytes");
            drop(resume);
            // Lines written after a torn end are whole.
            drop(take(&path).unwrap_or_else(|error| panic!("{length} bytes, again: {error}")));
        }
    }
}
