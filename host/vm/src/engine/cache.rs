//! Compiled code that is kept in files, so that the next start does not compile it again.
//!
//! A file is named by the hash of the component that was compiled:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `LBCODE1\n` |
//! | 8 | 32 | fingerprint: hash of the executable, and of the engine's settings and the processor's features |
//! | 40 | 32 | hash of the component's hash, the fingerprint, and the code |
//! | 72 | | the code |
//!
//! Nothing but this module of the same executable makes a file that counts. So the code of another version, or of
//! another build of the same version, is never run. A file that is missing, damaged, or of another fingerprint costs a
//! compilation, which replaces it. A file that cannot be written costs a compilation at the next start. Neither is an
//! error.
//!
//! Any number of processes may share a directory: a file appears whole under its name, and nobody changes it.

use super::child::{COMPILED_BYTES_MAX, RUNNING};
use blake3::{Hash, Hasher};
use rustix::fs::OFlags;
use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// The most bytes of all files of compiled code in a directory. The files that were used least lately are removed
/// before another one would exceed this.
pub const CODE_CACHE_BYTES_MAX: u64 = 4 << 30;

/// The free bytes that a file of compiled code leaves on its file system, or a tenth of a smaller one. Journals and
/// snapshots need them more.
pub const CODE_CACHE_FREE_BYTES_MIN: u64 = 1 << 30;

const MAGIC: [u8; 8] = *b"LBCODE1\n";

/// The length of everything before the code.
const HEADER_BYTES: usize = 72;

/// The ending of a file of compiled code.
const CODE: &str = ".code";

/// The ending of a file that is being written, or was when its process ended.
const PART: &str = ".code.tmp";

/// Takes the directory of a cache, and why a file could not be written there.
type Report = dyn Fn(&Path, &io::Error) + Send + Sync;

/// A directory of compiled code. Nothing in it is missed if it is deleted.
pub struct CodeCache {
    directory: PathBuf,
    is_read_only: bool,
    bytes_max: u64,
    /// The hash of this process's executable, once it was needed. None if the executable cannot be read.
    executable: OnceLock<Option<Hash>>,
    report: Option<Box<Report>>,
    has_reported: AtomicBool,
}

impl fmt::Debug for CodeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, is_read_only, .. } = self;
        f.debug_struct("CodeCache").field("directory", directory).field("is_read_only", is_read_only).finish()
    }
}

/// What compiled code is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    component: Hash,
    settings: u64,
}

impl Source {
    /// Returns the source for `component` and the hash of an engine's `settings`.
    pub(super) fn of(component: &[u8], settings: u64) -> Self {
        Self { component: blake3::hash(component), settings }
    }
}

impl CodeCache {
    /// Returns the cache in `directory`, which is created with its first file. Its parent must exist by then.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            is_read_only: false,
            bytes_max: CODE_CACHE_BYTES_MAX,
            executable: OnceLock::new(),
            report: None,
            has_reported: AtomicBool::new(false),
        }
    }

    /// Returns the cache of a user whose `folder` for caches this is. The folder is created if it is missing, and
    /// belongs in a directory of the user.
    #[must_use]
    pub fn of_user(folder: &Path) -> Self {
        if !folder.exists() {
            // The failure is reported with the first file, if anybody needs it.
            let _ = create_own(folder);
        }
        Self::new(folder.join("lifeboat"))
    }

    /// Returns this cache without the right to change its directory.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// Returns this cache with a `report` of the first failure to write a file.
    #[must_use]
    pub fn with_report(mut self, report: impl Fn(&Path, &io::Error) + Send + Sync + 'static) -> Self {
        self.report = Some(Box::new(report));
        self
    }

    /// Returns the code that this executable compiled from `source` before. Only this user could have written it.
    pub(super) fn find(&self, source: Source) -> Option<Vec<u8>> {
        check_own(&fs::metadata(&self.directory).ok()?).ok()?;
        // A link could name a file in a directory that others may write to.
        let no_link = OFlags::NOFOLLOW.bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(no_link).open(self.path(source)).ok()?;
        let metadata = file.metadata().ok()?;
        let code_bytes =
            metadata.len().checked_sub(HEADER_BYTES as u64).filter(|bytes| *bytes <= COMPILED_BYTES_MAX)?;
        if !metadata.is_file() || metadata.mode() & 0o077 != 0 || check_own(&metadata).is_err() {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).ok()?;
        let (fingerprint, hash) = header.strip_prefix(&MAGIC)?.split_first_chunk::<32>()?;
        if *fingerprint != *self.fingerprint(source)?.as_bytes() {
            return None;
        }
        let mut code = Vec::with_capacity(usize::try_from(code_bytes).ok()?);
        (&file).take(code_bytes).read_to_end(&mut code).ok()?;
        if *hash != *hash_of(source, fingerprint, &code).as_bytes() {
            return None;
        }
        if !self.is_read_only {
            // The files that were used least lately are removed first.
            let _ = file.set_modified(SystemTime::now());
        }
        Some(code)
    }

    /// Keeps `code` for later starts, if that is possible.
    pub(super) fn keep(&self, source: Source, code: &[u8]) {
        let Err(error) = self.write(source, code) else { return };
        if let Some(report) = &self.report
            && !self.has_reported.swap(true, Ordering::Relaxed)
        {
            report(&self.directory, &error);
        }
    }

    fn write(&self, source: Source, code: &[u8]) -> io::Result<()> {
        if self.is_read_only || code.len() as u64 > COMPILED_BYTES_MAX {
            return Ok(());
        }
        let Some(fingerprint) = self.fingerprint(source) else { return Ok(()) };
        self.make_directory()?;
        self.make_room((HEADER_BYTES + code.len()) as u64)?;
        let path = self.path(source);
        // No other process takes this name, and none that was killed has left it, even if all have the same number.
        let aside = RandomState::new().hash_one(&path);
        let aside = self.directory.join(format!("{aside:016x}{PART}"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        let fingerprint = fingerprint.as_bytes();
        let header = [&MAGIC[..], fingerprint, hash_of(source, fingerprint, code).as_bytes()].concat();
        // Nothing is synced: what a crash leaves of a file does not have its hash.
        let written = file.write_all(&header).and_then(|()| file.write_all(code));
        let written = written.and_then(|()| fs::rename(&aside, &path));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }

    fn path(&self, source: Source) -> PathBuf {
        self.directory.join(format!("{}{CODE}", source.component.to_hex()))
    }

    fn fingerprint(&self, source: Source) -> Option<Hash> {
        let executable = self.executable.get_or_init(|| hash_of_executable().ok()).as_ref()?;
        let mut hasher = Hasher::new();
        hasher.update(executable.as_bytes()).update(&source.settings.to_le_bytes());
        Some(hasher.finalize())
    }

    /// Creates the directory if it is missing, for this user alone.
    fn make_directory(&self) -> io::Result<()> {
        let found = match fs::metadata(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_own(&self.directory)?;
                fs::metadata(&self.directory)
            }
            found => found,
        };
        check_own(&found?)
    }

    /// Removes the files that were used least lately, until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.directory)?;
        let (free, total) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
        if !leaves_room(free, total, bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // Another process may remove files at the same time.
            let Ok(metadata) = entry.metadata() else { continue };
            let is_of_cache =
                entry.file_name().to_str().is_some_and(|name| name.ends_with(CODE) || name.ends_with(PART));
            if metadata.is_file() && is_of_cache {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort_unstable();
        let mut held: u64 = files.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in files {
            if held.saturating_add(bytes) <= self.bytes_max {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => held -= length,
            }
        }
        Ok(())
    }
}

/// Returns whether a file of `bytes` leaves enough of the `free` bytes of a file system. One without a fixed size has a
/// `total` of 0.
fn leaves_room(free: u64, total: u64, bytes: u64) -> bool {
    total == 0 || free >= bytes.saturating_add(CODE_CACHE_FREE_BYTES_MIN.min(total / 10))
}

/// Checks that nobody but this user, and root, may write to a file or a directory.
fn check_own(metadata: &Metadata) -> io::Result<()> {
    check_owner(metadata)?;
    match metadata.mode() & 0o022 {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write to it (chmod go-w)")),
    }
}

fn check_owner(metadata: &Metadata) -> io::Result<()> {
    match metadata.uid() == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")),
    }
}

/// Creates a directory in a directory of this user. In that of another user, whose data root examines, for instance, it
/// would be in the way of that user.
fn create_own(directory: &Path) -> io::Result<()> {
    check_owner(&fs::metadata(directory.parent().unwrap_or(directory))?)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// Returns a hash that binds `code` to its source, so that no file counts under the name of another one.
fn hash_of(source: Source, fingerprint: &[u8; 32], code: &[u8]) -> Hash {
    Hasher::new().update(source.component.as_bytes()).update(fingerprint).update(code).finalize()
}

fn hash_of_executable() -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    hasher.update_reader(File::open(RUNNING)?)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    fn cache(folder: &tempfile::TempDir) -> CodeCache {
        CodeCache::new(folder.path().join("code"))
    }

    fn source(component: &str) -> Source {
        Source::of(component.as_bytes(), 1)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its owner may");
    }

    #[test]
    fn code_is_found_by_its_component_and_settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = cache(&folder);
        assert_eq!(first.find(source("a")), None);
        first.keep(source("a"), b"machine code");
        for cache in [first, cache(&folder)] {
            assert_eq!(cache.find(source("a")).as_deref(), Some(&b"machine code"[..]));
            assert_eq!(cache.find(source("b")), None);
            assert_eq!(cache.find(Source::of(b"a", 2)), None);
        }
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        let cache = cache(&folder);
        assert_eq!((mode(&cache.directory), mode(&cache.path(source("a")))), (0o700, 0o600));
    }

    #[test]
    fn code_of_other_settings_or_of_another_executable_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (cache(&folder), cache(&folder));
        old.keep(source("a"), b"of these settings");
        old.keep(Source::of(b"a", 2), b"of others");
        assert_eq!(old.find(source("a")), None);
        assert_eq!(old.find(Source::of(b"a", 2)).as_deref(), Some(&b"of others"[..]));
        new.executable.set(Some(blake3::hash(b"another"))).expect("it is new");
        assert_eq!(new.find(Source::of(b"a", 2)), None);
        new.keep(source("a"), b"of another");
        assert_eq!(new.find(source("a")).as_deref(), Some(&b"of another"[..]));
        assert_eq!(fs::read_dir(&old.directory).expect("a directory").count(), 1);
    }

    #[test]
    fn damaged_code_is_not_found_and_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(&folder);
        let path = cache.path(source("a"));
        let damages: [fn(&mut Vec<u8>); 8] = [
            |bytes| bytes[0] ^= 1,
            |bytes| bytes[8] ^= 1,
            |bytes| bytes[40] ^= 1,
            |bytes| bytes[72] ^= 1,
            |bytes| bytes.truncate(73),
            |bytes| bytes.truncate(20),
            Vec::clear,
            |bytes| bytes.push(0),
        ];
        for (index, damage) in damages.into_iter().enumerate() {
            cache.keep(source("a"), b"machine code");
            let mut bytes = fs::read(&path).expect("readable");
            damage(&mut bytes);
            fs::write(&path, bytes).expect("writable");
            assert_eq!(cache.find(source("a")), None, "{index}");
        }
        cache.keep(source("a"), b"machine code");
        assert!(cache.find(source("a")).is_some());
        // Intact code of another component.
        fs::rename(&path, cache.path(source("b"))).expect("moved");
        assert_eq!(cache.find(source("b")), None);
    }

    #[test]
    fn files_that_others_could_have_written_are_not_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(&folder);
        cache.keep(source("a"), b"machine code");
        let path = cache.path(source("a"));
        for mode in [0o602, 0o620, 0o640, 0o604] {
            set_mode(&path, mode);
            assert_eq!(cache.find(source("a")), None, "{mode:o}");
        }
        set_mode(&path, 0o600);
        for mode in [0o702, 0o720] {
            set_mode(&cache.directory, mode);
            assert_eq!(cache.find(source("a")), None, "{mode:o}");
        }
        set_mode(&cache.directory, 0o700);
        assert!(cache.find(source("a")).is_some());
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("linked");
        assert_eq!(cache.find(source("a")), None);
    }

    #[test]
    fn the_first_failure_to_keep_code_is_reported_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let cache = cache(&folder).with_report(move |directory, error| {
            assert!(directory.ends_with("code"));
            assert_eq!(error.to_string(), "others may write to it (chmod go-w)");
            counted.fetch_add(1, Ordering::Relaxed);
        });
        cache.keep(source("a"), b"machine code");
        assert_eq!(count.load(Ordering::Relaxed), 0);
        set_mode(&cache.directory, 0o777);
        cache.keep(source("b"), b"machine code");
        cache.keep(source("c"), b"machine code");
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_cache_that_is_only_read_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let reading = cache(&folder).read_only();
        reading.keep(source("a"), b"machine code");
        assert!(!reading.directory.exists());
        cache(&folder).keep(source("a"), b"machine code");
        let modified = || fs::metadata(reading.path(source("a"))).expect("it is there").modified().expect("a time");
        let before = modified();
        assert!(reading.find(source("a")).is_some());
        assert_eq!(modified(), before);
    }

    #[test]
    fn the_code_that_was_used_least_lately_makes_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cache = cache(&folder);
        cache.bytes_max = 3 * (HEADER_BYTES as u64 + 100);
        let code = [7; 100];
        for (age, component) in [(30, "a"), (20, "b"), (10, "c")] {
            cache.keep(source(component), &code);
            let file = File::open(cache.path(source(component))).expect("it is there");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("its owner may");
        }
        // Neither is a file of the cache.
        let (own, folder) = (cache.directory.join("notes"), cache.directory.join("folder.code"));
        fs::write(&own, [0; 1000]).expect("written");
        fs::create_dir(&folder).expect("created");
        assert!(cache.find(source("a")).is_some());
        cache.keep(source("d"), &code);
        let found = ["a", "b", "c", "d"].map(|component| cache.find(source(component)).is_some());
        assert_eq!(found, [true, false, true, true]);
        assert!(own.exists() && folder.exists());
        // An unfinished file of a process that was killed.
        fs::write(cache.directory.join(format!("0{PART}")), [0; 300]).expect("written");
        cache.keep(source("e"), &code);
        cache.keep(source("f"), &code);
        let total = fs::read_dir(&cache.directory).expect("a directory").map(|entry| entry.expect("an entry"));
        let total = total.filter(|entry| entry.path().is_file() && entry.path() != own);
        assert!(total.map(|entry| entry.metadata().expect("it is there").len()).sum::<u64>() <= cache.bytes_max);
    }

    #[test]
    fn code_leaves_room_on_its_disk_for_other_files() {
        const GIB: u64 = 1 << 30;
        for (free, total, bytes, expected) in [
            (2 * GIB, 100 * GIB, GIB, true),
            (2 * GIB - 1, 100 * GIB, GIB, false),
            (GIB / 5, GIB, GIB / 10, true),
            (GIB / 6, GIB, GIB / 10, false),
            (0, 0, GIB, true),
        ] {
            assert_eq!(leaves_room(free, total, bytes), expected, "{free} of {total}, {bytes}");
        }
    }

    #[test]
    fn two_that_write_at_once_leave_one_whole_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = vec![9; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = cache(&folder);
                    for _ in 0..8 {
                        cache.keep(source("a"), &long);
                        assert_eq!(cache.find(source("a")).as_ref(), Some(&long));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path().join("code")).expect("a directory").count(), 1);
    }
}
