//! Starts of services whose compiled code is kept, damaged, replaced, or not there.

use crate::rig::{MIB, Rig, guest_bytes, ok, size};
use crate::serving::{Serving, set_up};
use crate::util::{copy_directory, guest, lifeboat, prebuilt};
use lifeboat_vm::engine::CodeCache;
use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A service of `counter` in a data directory.
struct Data(tempfile::TempDir);

impl Data {
    /// Creates the service, whose total is then 1.
    fn new() -> Self {
        let data = Self(tempfile::tempdir().expect("a folder"));
        lifeboat(["run", "--service", "sum", "--data"])
            .arg(data.path())
            .arg(prebuilt("counter"))
            .input("{\"add\":1}\n")
            .output()
            .exits(0);
        data
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Returns the only file of compiled code.
    fn code(&self) -> PathBuf {
        let files = std::fs::read_dir(self.path().join("code")).expect("code is kept");
        let files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    /// Adds 1 in another run, and returns the total.
    fn add(&self) -> String {
        let run = lifeboat(["run", "--service", "sum", "--data"]).arg(self.path()).input("{\"add\":1}\n");
        run.output().exits(0).to_owned()
    }
}

/// Makes a file look as if it was last used long ago.
fn age(file: &Path) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(file).expect("it is there").set_modified(long_ago).expect("its owner may");
}

/// Returns what distinguishes a file from one that replaces it, and when it was last used.
fn identity(file: &Path) -> (u64, i64) {
    let metadata = std::fs::metadata(file).expect("it is there");
    (metadata.ino(), metadata.mtime())
}

#[tokio::test]
async fn a_host_compiles_nothing_that_an_earlier_one_compiled() {
    let folder = tempfile::tempdir().expect("a folder");
    let begin = async |guest: &[u8]| {
        let cache = CodeCache::new(folder.path().join("code"));
        let rig = Rig::with(|config| config.code_cache = Some(Arc::new(cache)));
        rig.start_bytes("count", guest, &[size("m", 4_000_000, 16 * MIB)]).await;
        assert_eq!(ok(&rig.send("count", "x").await), "1");
        rig.host.compiled()
    };
    let count = guest_bytes("count.wat");
    assert_eq!(begin(&count).await, 1);
    assert_eq!(begin(&count).await, 0);
    // Another file with the same component is other text, and the same code.
    assert_eq!(begin(&[&count[..], b" "].concat()).await, 0);
    let other = String::from_utf8(count).expect("text").replacen("(global $heap", "(func) (global $heap", 1);
    assert_eq!(begin(other.as_bytes()).await, 1);
    assert_eq!(begin(other.as_bytes()).await, 0);
}

#[test]
fn a_second_run_of_a_data_directory_uses_the_code_of_the_first() {
    let data = Data::new();
    let code = data.code();
    age(&code);
    let (file, used) = identity(&code);
    assert_eq!(data.add(), "2\n");
    assert_eq!(data.code(), code);
    let (file_then, used_then) = identity(&code);
    assert!(file_then == file && used_then > used, "the file was read, and not written again");
}

#[test]
fn damaged_code_and_code_that_others_can_read_is_compiled_again() {
    let data = Data::new();
    let code = data.code();
    let intact = std::fs::read(&code).expect("readable");
    let mut damaged = intact.clone();
    *damaged.last_mut().expect("it has bytes") ^= 1;
    std::fs::write(&code, damaged).expect("writable");
    let before = identity(&code);
    assert_eq!(data.add(), "2\n");
    assert!(data.code() == code && identity(&code).0 != before.0, "it was replaced");

    std::fs::set_permissions(&code, Permissions::from_mode(0o644)).expect("its owner may");
    let before = identity(&code);
    assert_eq!(data.add(), "3\n");
    assert!(identity(&code).0 != before.0, "it was replaced");
    assert_eq!(std::fs::metadata(&code).expect("it is there").mode() & 0o777, 0o600);
}

#[test]
fn a_folder_for_code_that_cannot_be_written_to_prevents_nothing() {
    let data = Data::new();
    let code = data.path().join("code");
    std::fs::remove_dir_all(&code).expect("removed");
    assert_eq!(data.add(), "2\n");
    data.code();
    std::fs::remove_dir_all(&code).expect("removed");
    std::fs::write(&code, "a file is in its place").expect("written");
    assert_eq!(data.add(), "3\n");
}

#[test]
fn a_server_notes_once_that_it_cannot_keep_code() {
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    let code = folder.path().join("data/code");
    std::fs::create_dir(&code).expect("created");
    std::fs::set_permissions(&code, Permissions::from_mode(0o777)).expect("its owner may");
    let configuration = folder.path().join("lifeboat.toml");
    let mut text = std::fs::read_to_string(&configuration).expect("readable");
    for (name, workload) in [("sum", prebuilt("counter")), ("bank", prebuilt("ledger"))] {
        text += &format!("\n[[service]]\nname = '{name}'\nworkload = '{}'\n", workload.display());
    }
    std::fs::write(&configuration, text).expect("writable");
    let server = Serving::start(folder.path());
    let expected = format!(
        "lifeboat: compiled code is not kept in '{}': others may write to it (chmod go-w); workloads are compiled at \
         each start until the folder can be written to",
        code.display()
    );
    server.line(&expected);
    server.line("serving 2 of 2 services");
    assert_eq!(server.count(&expected), 1);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn commands_that_read_a_data_directory_use_its_code_and_write_none() {
    let data = Data::new();
    let code = data.code();
    age(&code);
    let before = identity(&code);
    let query = || lifeboat(["data", "query", "--data"]).arg(data.path()).args(["sum", "\"total\""]).output();
    assert_eq!(query().exits(0), "1\n");
    assert_eq!(identity(&code), before);
    std::fs::remove_dir_all(data.path().join("code")).expect("removed");
    assert_eq!(query().exits(0), "1\n");
    lifeboat(["data", "verify", "--data"]).arg(data.path()).output().exits(0);
    assert!(!data.path().join("code").exists());
}

#[test]
fn a_copy_of_a_data_directory_works_with_its_code_and_without() {
    let data = Data::new();
    let (with, without) = (data.0.path().join("with"), data.0.path().join("without"));
    copy_directory(&data.path(), &without);
    copy_directory(&data.path(), &with);
    copy_directory(&data.path().join("code"), &with.join("code"));
    for copy in [with, without] {
        let run = lifeboat(["run", "--service", "sum", "--data"]).arg(&copy).input("{\"add\":1}\n");
        assert_eq!(run.output().exits(0), "2\n");
        assert!(copy.join("code").is_dir());
    }
}

#[test]
fn commands_without_a_data_directory_share_the_folder_of_the_user() {
    let folder = tempfile::tempdir().expect("a folder");
    // Neither the folder for all caches nor that of this program exists.
    let caches = folder.path().join("caches");
    // What distinguishes each file from one that replaces it.
    let kept = || {
        let files = std::fs::read_dir(caches.join("lifeboat")).map(|files| files.map(|file| file.expect("an entry")));
        files.map_or_else(|_| BTreeSet::new(), |files| files.map(|file| identity(&file.path()).0).collect())
    };
    let own = |command: &str| lifeboat([command]).arg(guest("count.wat")).env("XDG_CACHE_HOME", &caches);
    let transactions = folder.path().join("transactions");
    std::fs::write(&transactions, "x\n").expect("a file");
    // It has a finding.
    own("check").arg("--transactions").arg(&transactions).output().exits(1);
    let one = kept();
    assert_eq!(one.len(), 1);
    own("profile").arg("--transactions").arg(&transactions).output().exits(0);
    own("inspect").output().exits(0);
    assert_eq!(kept(), one);
    // Its engine has other limits, which the code does not depend on.
    own("run").input("x\n").output().exits(0);
    assert_eq!(kept(), one);
    lifeboat(["run"]).arg(prebuilt("counter")).env("XDG_CACHE_HOME", &caches).output().exits(0);
    assert!(kept().len() == 2 && kept().is_superset(&one));
    // As on a machine where the folder cannot be created.
    let nowhere = guest("count.wat");
    own("run").env("XDG_CACHE_HOME", nowhere).input("x\n").output().exits(0);
}

#[test]
fn code_is_not_kept_where_the_variable_turns_that_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let off = |run: crate::util::Lifeboat| {
        run.env("XDG_CACHE_HOME", folder.path()).env("LIFEBOAT_CACHE", "off").input("{\"add\":1}\n")
    };
    off(lifeboat(["run"]).arg(prebuilt("counter"))).output().exits(0);
    let data = folder.path().join("data");
    off(lifeboat(["run", "--service", "sum", "--data"]).arg(&data).arg(prebuilt("counter"))).output().exits(0);
    assert!(data.is_dir() && !data.join("code").exists() && !folder.path().join("lifeboat").exists());
    let wrong = lifeboat(["inspect"]).arg(prebuilt("counter")).env("LIFEBOAT_CACHE", "no");
    let words = ["LIFEBOAT_CACHE is 'no': set it to off to keep no compiled code, or unset it"];
    wrong.output().exits_with_one_line(2, &words);
}
