//! Changes of a directory's files, found by scans of their times and sizes.
//!
//! Nothing is registered with the operating system, so none of its limits for watchers matters. [`Watch`] compares two
//! scans, and is pure. [`scans`] takes them, on a thread of its own.
//!
//! ```text
//!   outside of a build:  a file changed -> pending -> nothing changed since the last scan -> report
//!   during a build:      a new file is an output; a changed one is built again after the build;
//!                        a removed one is no change
//! ```
//!
//! A build may change files that no list of outputs has. One that changes in [`OUTPUT_BUILDS`] builds in a row is an
//! output, until it changes outside of a build. Other files may change each time. So at most [`FOLLOWING_BUILDS_MAX`]
//! builds in a row begin because of changes during the one before, and no build begins the next one for ever. Both are
//! reported, because somebody may have saved such a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// The pause between two scans of the files.
pub(super) const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// The least pause in multiples of the time that the last scan took.
const PAUSE_FACTOR: u32 = 20;

/// The most files and directories of a scan.
pub(super) const WATCHED_MAX: usize = 10_000;

/// The number of builds in a row in which a file changes that is then an output.
pub(super) const OUTPUT_BUILDS: u32 = 3;

/// The most builds in a row that begin only because files changed during the one before.
pub(super) const FOLLOWING_BUILDS_MAX: u32 = 5;

/// The directories that have no sources. Hidden ones have none either.
const SKIPPED: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// What shows that a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// The files at one time.
#[derive(Debug)]
pub(super) struct Scan {
    /// The time at which the scan began.
    begun: Instant,
    files: BTreeMap<PathBuf, Stamp>,
    /// Whether there are more files.
    pub(super) is_partial: bool,
}

/// What is watched.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// A directory, or one file.
    pub(super) root: PathBuf,
    /// A file that the build writes.
    pub(super) output: Option<PathBuf>,
    /// Whether the build writes the modules that are directly in the directory.
    pub(super) are_modules_outputs: bool,
}

impl Watched {
    fn is_skipped(&self, path: &Path, is_directory: bool) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || (is_directory && SKIPPED.contains(&&*name)) {
            return true;
        }
        let is_module = path.extension().is_some_and(|extension| extension == "wasm");
        !is_directory
            && (name.ends_with('~')
                || self.output.as_deref() == Some(path)
                || (self.are_modules_outputs && is_module && path.parent() == Some(&self.root)))
    }

    /// Scans all files. What cannot be read is not there.
    pub(super) fn scan(&self) -> Scan {
        let begun = Instant::now();
        let mut files = BTreeMap::new();
        let (mut left, mut seen) = (vec![self.root.clone()], 0);
        while let Some(path) = left.pop() {
            let Ok(found) = fs::metadata(&path) else { continue };
            if !found.is_dir() {
                let stamp = Stamp { modified: found.modified().ok(), bytes: found.len(), inode: found.ino() };
                files.insert(path, stamp);
                continue;
            }
            let Ok(entries) = fs::read_dir(&path) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                let Ok(kind) = entry.file_type() else { continue };
                // A link to a directory may lead anywhere, also back.
                let is_directory = kind.is_dir() || (kind.is_symlink() && path.is_dir());
                if self.is_skipped(&path, is_directory) || (kind.is_symlink() && is_directory) {
                    continue;
                }
                seen += 1;
                if seen > WATCHED_MAX {
                    return Scan { begun, files, is_partial: true };
                }
                left.push(path);
            }
        }
        Scan { begun, files, is_partial: false }
    }
}

/// Scans the files until the receiver is dropped.
pub(super) fn scans(watched: Watched) -> mpsc::Receiver<Scan> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let scan = watched.scan();
            let pause = SCAN_INTERVAL.max(scan.begun.elapsed() * PAUSE_FACTOR);
            if sender.blocking_send(scan).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
    });
    receiver
}

/// Changes during a build that begin no other one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ignored {
    /// The files that are outputs from now on.
    pub(super) outputs: Vec<PathBuf>,
    /// A file that changed after [`FOLLOWING_BUILDS_MAX`] builds in a row had begun because of such changes.
    pub(super) unbuilt: Option<PathBuf>,
}

/// What changed between the scans so far.
#[derive(Debug)]
pub(super) struct Watch {
    /// The last scan.
    last: Scan,
    is_building: bool,
    /// A change that was not reported yet.
    pending: Option<PathBuf>,
    /// Whether the pending change is of a build, or the one that was reported last and not built yet.
    is_of_build: bool,
    /// The number of builds in a row that began because files changed during the one before.
    following: u32,
    /// The files that changed in the current build.
    touched: BTreeSet<PathBuf>,
    /// The files that were removed in the current build, as they were before.
    removed: BTreeMap<PathBuf, Stamp>,
    /// The number of builds in a row in which files changed.
    streaks: BTreeMap<PathBuf, u32>,
}

impl Watch {
    /// Begins with the files that the first build finds.
    pub(super) fn new(first: Scan) -> Self {
        Self {
            last: first,
            is_building: false,
            pending: None,
            is_of_build: false,
            following: 0,
            touched: BTreeSet::new(),
            removed: BTreeMap::new(),
            streaks: BTreeMap::new(),
        }
    }

    /// Notes that a build begins. It includes the changes so far.
    pub(super) fn begin_build(&mut self) {
        self.is_building = true;
        // An order begins a build while a change is pending, or without one.
        let is_following = self.pending.take().is_none() && std::mem::take(&mut self.is_of_build);
        self.following = if is_following { self.following.saturating_add(1) } else { 0 };
        self.is_of_build = false;
        self.touched.clear();
        self.removed.clear();
    }

    /// Notes that a build has ended. The scan began after that, so it shows all that the build wrote. Returns the
    /// changes that begin no other build.
    pub(super) fn end_build(&mut self, scan: Scan) -> Ignored {
        self.see(scan);
        self.is_building = false;
        let touched = std::mem::take(&mut self.touched);
        self.streaks.retain(|path, _| touched.contains(path));
        let mut ignored = Ignored::default();
        for path in touched {
            let streak = self.streaks.entry(path.clone()).or_default();
            *streak = streak.saturating_add(1);
            match *streak {
                streak if streak > OUTPUT_BUILDS => {}
                OUTPUT_BUILDS => ignored.outputs.push(path),
                _ if self.following >= FOLLOWING_BUILDS_MAX => ignored.unbuilt = Some(path),
                _ => (self.pending, self.is_of_build) = (Some(path), true),
            }
        }
        ignored
    }

    /// Compares a scan with the one before. Returns a file that changed, once no more files change.
    pub(super) fn see(&mut self, scan: Scan) -> Option<PathBuf> {
        if scan.begun < self.last.begun {
            return None;
        }
        let before = std::mem::replace(&mut self.last, scan).files;
        let files = &self.last.files;
        let differs = |(path, stamp): &(&PathBuf, &Stamp)| files.get(*path) != Some(*stamp);
        let changed: Vec<PathBuf> = before.iter().filter(differs).map(|(path, _)| path.clone()).collect();
        if self.is_building {
            for path in changed {
                if files.contains_key(&path) {
                    self.touched.insert(path);
                } else if let Some(stamp) = before.get(&path) {
                    self.touched.remove(&path);
                    self.removed.insert(path, *stamp);
                }
            }
            // An editor or a build may write a file by removing it first.
            let is_other = |path: &PathBuf, stamp: &Stamp| files.get(path).is_some_and(|found| found != stamp);
            self.touched.extend(
                self.removed.iter().filter(|(path, stamp)| is_other(path, stamp)).map(|(path, _)| path.clone()),
            );
            self.removed.retain(|path, _| !files.contains_key(path));
            return None;
        }
        for path in &changed {
            // A build is not the only one that changes it.
            self.streaks.remove(path);
        }
        let created = || files.keys().find(|path| !before.contains_key(*path)).cloned();
        match changed.into_iter().next().or_else(created) {
            Some(path) => {
                (self.pending, self.is_of_build) = (Some(path), false);
                None
            }
            None => self.pending.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes scans of files whose sizes are given, a second after one another.
    struct Clock(Instant);

    impl Clock {
        fn scan(&mut self, files: &[(&str, u64)]) -> Scan {
            self.0 += Duration::from_secs(1);
            let stamp = |bytes| Stamp { modified: None, bytes, inode: 1 };
            let files = files.iter().map(|(path, bytes)| (path.into(), stamp(*bytes))).collect();
            Scan { begun: self.0, files, is_partial: false }
        }
    }

    fn watch() -> (Watch, Clock) {
        let mut clock = Clock(Instant::now());
        (Watch::new(clock.scan(&[("a", 1), ("b", 1)])), clock)
    }

    #[test]
    fn change_is_reported_once_and_after_the_last_of_several() {
        let (mut watch, mut clock) = watch();
        assert_eq!(watch.see(clock.scan(&[("a", 2), ("b", 1)])), None);
        assert_eq!(watch.see(clock.scan(&[("a", 3), ("b", 1)])), None, "it still changes");
        assert_eq!(watch.see(clock.scan(&[("a", 3), ("b", 1)])), Some("a".into()));
        assert_eq!(watch.see(clock.scan(&[("a", 3), ("b", 1)])), None);
    }

    #[test]
    fn new_and_removed_files_are_changes() {
        let (mut watch, mut clock) = watch();
        watch.see(clock.scan(&[("a", 1), ("b", 1), ("c", 1)]));
        assert_eq!(watch.see(clock.scan(&[("a", 1), ("b", 1), ("c", 1)])), Some("c".into()));
        watch.see(clock.scan(&[("b", 1), ("c", 1)]));
        assert_eq!(watch.see(clock.scan(&[("b", 1), ("c", 1)])), Some("a".into()));
    }

    #[test]
    fn file_that_a_build_makes_is_no_change() {
        let (mut watch, mut clock) = watch();
        watch.begin_build();
        assert_eq!(watch.see(clock.scan(&[("a", 1), ("b", 1), ("out", 1)])), None);
        watch.end_build(clock.scan(&[("a", 1), ("b", 1), ("out", 1), ("out2", 1)]));
        assert_eq!(watch.see(clock.scan(&[("a", 1), ("b", 1), ("out", 1), ("out2", 1)])), None);
    }

    #[test]
    fn source_that_changes_during_a_build_is_built_after_it() {
        let (mut watch, mut clock) = watch();
        watch.begin_build();
        assert_eq!(watch.see(clock.scan(&[("a", 2), ("b", 1)])), None);
        watch.end_build(clock.scan(&[("a", 2), ("b", 1)]));
        assert_eq!(watch.see(clock.scan(&[("a", 2), ("b", 1)])), Some("a".into()));
    }

    #[test]
    fn file_that_is_removed_during_a_build_is_no_change_unless_it_comes_back() {
        let (mut watch, mut clock) = watch();
        watch.begin_build();
        watch.see(clock.scan(&[("b", 1)]));
        assert_eq!(watch.end_build(clock.scan(&[("b", 1)])), Ignored::default());
        assert_eq!(watch.see(clock.scan(&[("b", 1)])), None);
        watch.begin_build();
        watch.see(clock.scan(&[]));
        watch.end_build(clock.scan(&[("b", 2)]));
        assert_eq!(watch.see(clock.scan(&[("b", 2)])), Some("b".into()));
    }

    #[test]
    fn scan_from_before_the_end_of_a_build_shows_no_change_after_it() {
        let (mut watch, mut clock) = watch();
        watch.begin_build();
        let early = clock.scan(&[("a", 1), ("b", 1)]);
        watch.end_build(clock.scan(&[("a", 1), ("b", 1), ("out", 1)]));
        assert_eq!(watch.see(early), None);
        assert_eq!(watch.see(clock.scan(&[("a", 1), ("b", 1), ("out", 1)])), None);
    }

    #[test]
    fn file_that_every_build_changes_does_not_begin_builds_for_ever() {
        let (mut watch, mut clock) = watch();
        let (mut builds, mut size) = (0, 1);
        loop {
            watch.begin_build();
            (builds, size) = (builds + 1, size + 1);
            let ignored = watch.end_build(clock.scan(&[("a", 1), ("b", size)]));
            assert_eq!(ignored.outputs.is_empty(), builds < OUTPUT_BUILDS, "the last one reports it");
            if watch.see(clock.scan(&[("a", 1), ("b", size)])).is_none() {
                break;
            }
        }
        assert_eq!(builds, OUTPUT_BUILDS);
        watch.see(clock.scan(&[("a", 1), ("b", 100)]));
        assert_eq!(watch.see(clock.scan(&[("a", 1), ("b", 100)])), Some("b".into()), "somebody else changed it");
    }

    #[test]
    fn builds_that_change_another_file_each_do_not_follow_one_another_for_ever() {
        let (mut watch, mut clock) = watch();
        let (mut sizes, mut builds) = ([1, 1], 0);
        let unbuilt = loop {
            watch.begin_build();
            sizes[builds % 2] += 1;
            builds += 1;
            let ignored = watch.end_build(clock.scan(&[("a", sizes[0]), ("b", sizes[1])]));
            assert_eq!(ignored.outputs, Vec::<PathBuf>::new(), "no file changes in two builds in a row");
            if watch.see(clock.scan(&[("a", sizes[0]), ("b", sizes[1])])).is_none() {
                break ignored.unbuilt;
            }
        };
        assert_eq!(builds, FOLLOWING_BUILDS_MAX as usize + 1);
        assert!(unbuilt.is_some(), "it is reported");
        watch.begin_build();
        watch.end_build(clock.scan(&[("a", 100), ("b", sizes[1])]));
        assert!(watch.see(clock.scan(&[("a", 100), ("b", sizes[1])])).is_some(), "an order begins a new row");
    }

    #[test]
    fn build_includes_the_changes_before_it() {
        let (mut watch, mut clock) = watch();
        watch.see(clock.scan(&[("a", 2), ("b", 1)]));
        watch.begin_build();
        watch.end_build(clock.scan(&[("a", 2), ("b", 1)]));
        assert_eq!(watch.see(clock.scan(&[("a", 2), ("b", 1)])), None);
    }

    fn names(watched: &Watched) -> Vec<String> {
        let scan = watched.scan();
        assert!(!scan.is_partial);
        let name = |path: &PathBuf| path.strip_prefix(&watched.root).expect("below").display().to_string();
        scan.files.keys().map(name).collect()
    }

    #[test]
    fn outputs_and_hidden_files_are_not_scanned() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_owned();
        for file in [
            "Cargo.toml",
            "src/lib.rs",
            "src/a.wasm",
            "src/target.rs",
            "src/lib.rs~",
            ".git/index",
            ".venv/bin/python",
            ".lib.rs.swp",
            "target/x",
            "node_modules/x/y.js",
            "sub/__pycache__/z",
            "tally.wasm",
            "out.bin",
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "x").expect("a file");
        }
        std::os::unix::fs::symlink(&root, root.join("src/loop")).expect("a link");
        let output = Some(root.join("out.bin"));
        let watched = Watched { root, output, are_modules_outputs: true };
        assert_eq!(names(&watched), ["Cargo.toml", "src/a.wasm", "src/lib.rs", "src/target.rs"]);
    }

    #[test]
    fn scan_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        for index in 0..=WATCHED_MAX {
            fs::File::create(folder.path().join(index.to_string())).expect("a file");
        }
        let root = folder.path().to_owned();
        let scan = Watched { root, output: None, are_modules_outputs: false }.scan();
        assert!(scan.is_partial && scan.files.len() <= WATCHED_MAX);
    }
}
