//! `lifeboat init` and `lifeboat config check`, as a user sees them.

use crate::site::{tls_file, tls_table};
use crate::util::{Lifeboat, PATIENCE, guest, lifeboat, prebuilt, shell};
use lifeboat_api::clock::{ClockReading, Timestamp};
use lifeboat_host::auth::{Accounts, argon2id};
use lifeboat_host::data::{DataError, Locked};
use lifeboat_journal::storage::DiskStorage;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Creates an `init` of this folder from outside it, with a password on standard input.
fn init(folder: &Path) -> Lifeboat {
    lifeboat(["init", "--admin-password-stdin"]).arg(folder).input("correct horse\nand more\n")
}

fn check(file: &Path) -> Lifeboat {
    lifeboat(["config", "check"]).arg(file)
}

/// Opens a data directory once nothing else has it open. A child process of another test inherits the open files of
/// this process until it starts its own program, including a lock that was released here.
fn taken(data: &Path) -> Locked {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let storage = DiskStorage::open(data).expect("the data directory is there");
        match Locked::open(Arc::new(storage), None) {
            Err(DataError::InUse) if Instant::now() < deadline => std::thread::yield_now(),
            taken => return taken.expect("nobody else has it"),
        }
    }
}

/// Returns whether `user` is an admin with this password.
fn lets_in(folder: &Path, user: &str, password: &str) -> bool {
    let locked = taken(&folder.join("data"));
    let scheme = argon2id();
    let lifetime = Duration::from_secs(60);
    let now = ClockReading { wall: Timestamp(1), monotonic: Duration::ZERO };
    let accounts = Accounts::load(Arc::new(locked), Arc::default(), scheme, lifetime, now);
    let log_in = accounts.expect("accounts can be read").log_in(
        user,
        password,
        "127.0.0.1".parse().expect("an address"),
        now,
        [7; 32],
    );
    log_in.is_ok_and(|log_in| log_in.identity.is_admin)
}

#[test]
fn init_does_not_overwrite_a_folder_that_is_set_up() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("bank");
    let file = folder.join("lifeboat.toml");
    let first = init(&folder).output();
    assert_eq!(first.exits(0), format!("lifeboat serve --config {}\n", file.display()));
    assert!(lets_in(&folder, "admin", "correct horse"));
    check(&file).output().exits(0);
    init(&folder).output().exits_with_one_line(2, &["already exists, and is not overwritten"]);
    // As after a crash before the last step.
    fs::remove_file(&file).expect("the file is there");
    fs::write(folder.join("lifeboat.toml.tmp"), "half a fi").expect("a file can be written");
    let resumed = lifeboat(["init", "--admin", "other"]).arg(&folder).output();
    resumed.exits(0);
    assert!(resumed.stderr.contains("already has admin 'admin'"), "{}", resumed.stderr);
    assert!(lets_in(&folder, "admin", "correct horse") && !lets_in(&folder, "other", "correct horse"));
    check(&file).output().exits(0);
}

#[test]
fn nobody_but_its_owner_may_write_a_new_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = format!("umask 0; lifeboat init --admin-password-stdin {}", folder.path().display());
    shell(&init).input("correct horse\n").output().exits(0);
    let mode = fs::metadata(folder.path().join("lifeboat.toml")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn an_init_that_is_refused_can_be_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("new");
    init(&new).input("short\n").output().exits_with_one_line(2, &["the password has 5 characters"]);
    assert!(!new.exists(), "nothing is left behind");
    let short = init(folder.path()).input("short\n").output();
    short.exits_with_one_line(2, &["the password has 5 characters, it must have at least 8"]);
    let unattended = lifeboat(["init"]).arg(folder.path()).output();
    unattended.exits_with_one_line(2, &["--admin-password-stdin"]);
    assert!(!folder.path().join("lifeboat.toml").exists());
    let right = lifeboat(["init", "--admin-password-stdin", "--admin", "root"]).within(folder.path());
    let right = right.input("correct horse").output();
    assert_eq!(right.exits(0), "lifeboat serve --config ./lifeboat.toml\n");
    assert!(lets_in(folder.path(), "root", "correct horse"));
}

#[test]
fn a_configuration_whose_data_is_gone_gets_another_data_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    let text = fs::read_to_string(&file).expect("readable") + "# mine\n";
    fs::write(&file, &text).expect("writable");
    fs::remove_dir_all(folder.path().join("data")).expect("it is there");
    let again = init(folder.path()).input("another password\n").output();
    assert_eq!(again.exits(0), format!("lifeboat serve --config {}\n", file.display()));
    assert!(again.stderr.contains("is unchanged"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(&file).expect("readable"), text);
    assert!(lets_in(folder.path(), "admin", "another password"));
    init(folder.path()).output().exits_with_one_line(2, &["already exists, and is not overwritten"]);
}

#[test]
fn the_variable_names_the_data_directory_of_init_as_that_of_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, data) = (folder.path().join("server"), folder.path().join("else where/data"));
    fs::create_dir(folder.path().join("else where")).expect("a new one");
    let init = || init(&server).env("LIFEBOAT_DATA", &data);
    let serve = format!(
        "LIFEBOAT_DATA='{}' lifeboat serve --config {}",
        data.display(),
        server.join("lifeboat.toml").display()
    );
    assert_eq!(init().output().exits(0), format!("{serve}\n"));
    assert!(!server.join("data").exists(), "no server would serve it");
    assert!(lets_in(data.parent().expect("a folder"), "admin", "correct horse"));
    init().output().exits_with_one_line(2, &["is not overwritten", &format!("start the server with {serve}, or")]);
    // The same with a configuration whose data directory is gone.
    fs::remove_dir_all(&data).expect("it is there");
    assert_eq!(init().output().exits(0), format!("{serve}\n"));
    check(&server.join("lifeboat.toml")).env("LIFEBOAT_DATA", &data).output().exits(0);
}

#[test]
fn a_data_directory_is_not_made_the_folder_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = lifeboat(["run", "--service", "count", "--data"]).arg(folder.path()).arg(prebuilt("counter"));
    run.input("{\"add\":1}\n").output().exits(0);
    let words = ["is itself a data directory", "FOLDER/data", "lifeboat init FOLDER"];
    init(folder.path()).output().exits_with_one_line(2, &words);
    assert!(!folder.path().join("data").exists() && !folder.path().join("lifeboat.toml").exists());
}

#[test]
fn an_empty_configuration_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    fs::write(&file, "").expect("a file can be written");
    let shown = check(&file).output();
    // The printed configuration is equivalent.
    let printed = folder.path().join("printed.toml");
    fs::write(&printed, shown.exits(0)).expect("a file can be written");
    assert_eq!(check(&printed).output().exits(0), shown.exits(0));
    // The same holds if the file was named from another folder.
    let (parent, name) = (folder.path().parent().expect("it has one"), folder.path().file_name().expect("it has one"));
    let shown_from_there = check(&Path::new(name).join("lifeboat.toml")).within(parent).output();
    fs::write(&printed, shown_from_there.exits(0)).expect("a file can be written");
    assert_eq!(check(&printed).output().exits(0), shown_from_there.exits(0));
    let json: Value = serde_json::from_str(check(&file).arg("--json").output().exits(0)).expect("JSON");
    assert_eq!(json["server"]["listen"], "127.0.0.1:7098");
    assert_eq!(json["server"]["limits"]["connections_max"], 4096);
    assert_eq!(json["machine"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["data"], folder.path().join("data").display().to_string());
}

#[test]
fn a_wrong_configuration_is_reported_in_one_line_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lifeboat.toml");
    init(folder.path()).output().exits(0);
    fs::remove_file(&file).expect("it is there");
    check(&file).output().exits_with_one_line(2, &["there is no such file; lifeboat init writes one"]);
    fs::write(&file, "[server]\nlisten = 7098\n").expect("a file can be written");
    check(&file).output().exits_with_one_line(2, &["lifeboat.toml:2:10: listen is 7098; it must be a text in quotes"]);
    fs::write(&file, "[server]\nlisten = \"0.0.0.0:0\"\n").expect("a file can be written");
    let exposed = check(&file).output();
    exposed.exits(2);
    let place = format!("lifeboat: {}:2:10: other machines can reach 0.0.0.0:0", file.display());
    assert!(exposed.stderr.starts_with(&place), "{}", exposed.stderr);
    check(&file).arg("--insecure").output().exits(0);
}

/// Returns the table for two files of `tests/tls`.
fn tls_of(certificate: &str, key: &str) -> String {
    tls_table(&tls_file(certificate), &tls_file(key))
}

fn service_table(name: &str, workload: &Path) -> String {
    format!("[[service]]\nname = '{name}'\nworkload = '{}'\n", workload.display())
}

/// Returns a folder that `init` has set up, and its configuration file.
fn set_up() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    (folder, file)
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).expect("a file can be written");
}

/// Returns how a line of `config check` about this place begins.
fn place(file: &Path, line: usize, column: usize) -> String {
    format!("lifeboat: {}:{line}:{column}: ", file.display())
}

#[test]
fn the_check_counts_the_entries_of_the_data_directory() {
    let (folder, file) = set_up();
    write(&file, &(tls_of("server.pem", "server.key") + &service_table("count", &prebuilt("counter"))));
    let right = check(&file).output();
    right.exits(0);
    let data = folder.path().join("data");
    assert_eq!(right.stderr, format!("lifeboat: data directory '{}': services 0, users 1\n", data.display()));
}

#[test]
fn a_data_directory_that_is_in_use_passes_the_check() {
    let (folder, file) = set_up();
    let _locked = taken(&folder.path().join("data"));
    let checked = check(&file).output();
    checked.exits(0);
    assert!(checked.stderr.contains("is in use by another lifeboat"), "{}", checked.stderr);
}

#[test]
fn the_check_reports_every_unusable_file_on_a_line_of_its_own() {
    let (folder, file) = set_up();
    let small = "[[size]]\nname = 's'\nfuel = 10000\nmemory = '1MiB'\ndeadline_ms = 1000\n";
    let (missing, none) = (folder.path().join("missing.wasm"), tls_file("README.md"));
    let (chain, large) = (guest("refused/alias-chain-150.wat"), folder.path().join("large.wasm"));
    fs::File::create(&large).and_then(|file| file.set_len(200_000_000)).expect("a sparse file");
    let services = [("a", &missing), ("b", &none), ("c", &prebuilt("counter")), ("d", &chain), ("e", &large)];
    let services: String = services.iter().map(|(name, workload)| service_table(name, workload)).collect();
    write(&file, &(tls_of("server.pem", "README.md") + small + &services));
    let wrong = check(&file).output();
    assert_eq!(wrong.exits(2), "");
    let lines: Vec<&str> = wrong.stderr.lines().collect();
    for (index, (line, column, words)) in [
        (3, 7, "the key '"),
        (11, 12, "missing.wasm' cannot be read: "),
        (14, 12, "not WebAssembly"),
        (17, 12, "starts with 1114112 bytes of memory"),
        (20, 12, "alias-chain-150.wat`: "),
        (23, 12, "the file is 200000000 bytes, limit is 134217728 bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = place(&file, line, column);
        assert!(lines[index].starts_with(&at) && lines[index].contains(words), "{at}{words}: {}", lines[index]);
    }
    assert_eq!(lines.len(), 7, "{lines:?}");
}

/// Both commands reject a certificate that no client would accept, and a key that does not match.
#[test]
fn an_expired_certificate_or_a_foreign_key_is_refused() {
    let (_folder, file) = set_up();
    for (certificate, key, at, words) in [
        (
            "expired.pem",
            "server.key",
            place(&file, 2, 15),
            "expired.pem' cannot be used: it expired at 2021-01-01T00:00:00Z, and",
        ),
        (
            "server.pem",
            "other.key",
            place(&file, 3, 7),
            "other.key' cannot be used: it does not belong to the certificate '",
        ),
    ] {
        write(&file, &tls_of(certificate, key));
        let refused = check(&file).output();
        let line = refused.stderr.lines().next().expect("a line");
        assert!(line.starts_with(&at) && line.contains(words), "{line}");
        assert_eq!((refused.code, refused.stdout.as_slice()), (2, &b""[..]));
        let serve = lifeboat(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file).output();
        serve.exits_with_one_line(2, &[words]);
    }
}

#[test]
fn a_fleet_without_room_for_the_services_that_there_are_is_refused_by_the_check() {
    let (folder, file) = set_up();
    for name in ["bank", "vault"] {
        let run = lifeboat(["run", "--size", "huge", "--service", name, "--data"]).arg(folder.path().join("data"));
        run.arg(prebuilt("counter")).output().exits(0);
    }
    write(&file, "[[machine]]\nname = 'm1'\nslots = 1\nmemory = '4GiB'\n");
    let refused = check(&file).output();
    let words = ["service 'vault', one of 2, would not start", "give the machines more slots, memory or disk"];
    let line = refused.exits_with_one_line(2, &words);
    assert!(line.starts_with(&place(&file, 1, 1)), "{line}");
}

#[test]
fn a_folder_around_the_data_directory_is_none() {
    let (_folder, file) = set_up();
    write(&file, "data = '.'\n");
    let words = ["data directory '", "lifeboat init created this folder, which contains the data directory"];
    both_refuse(&file, 2, &words);
}

/// Checks that `config check` and `serve` reject a file with this code and one line with these words.
#[track_caller]
fn both_refuse(file: &Path, code: i32, words: &[&str]) {
    check(file).output().exits_with_one_line(code, words);
    let serve = lifeboat(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(file).output();
    serve.exits_with_one_line(code, words);
}

#[test]
fn a_data_directory_with_which_no_server_starts_is_refused_by_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    let write = |text: &str| fs::write(&file, text).expect("a file can be written");
    write("data = 'none'\n");
    both_refuse(&file, 2, &["data directory '", "none': there is no such directory"]);
    write("data = 'empty'\n");
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    both_refuse(&file, 2, &["data directory '", "empty': the directory is empty"]);
    write("data = 'of-run'\n");
    let run =
        lifeboat(["run", "--service", "bank", "--data"]).arg(folder.path().join("of-run")).arg(prebuilt("counter"));
    run.output().exits(0);
    both_refuse(&file, 2, &["has no users, so nobody could log in; run lifeboat init FOLDER"]);
}

#[test]
fn a_data_directory_whose_segments_are_gone_is_damaged_for_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let data = folder.path().join("data");
    lifeboat(["run", "--service", "bank", "--data"]).arg(&data).arg(prebuilt("counter")).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    // As after a crash: the catalog has no seal for the end of the journal.
    taken(&data).catalog().set_seal(None).expect("writable");
    for entry in fs::read_dir(&data).expect("it can be listed") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            fs::remove_file(path).expect("it is there");
        }
    }
    both_refuse(&file, 1, &["the journal has no segments", "restore them from the newest copy of the directory"]);
}

#[test]
fn a_certificate_is_read_once_by_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let (file, pipe) = (folder.path().join("lifeboat.toml"), folder.path().join("certificate"));
    let tls = format!("[server.tls]\ncertificate = \"certificate\"\nkey = '{}'\n", tls_file("server.key").display());
    fs::write(&file, tls).expect("a file can be written");
    shell("mkfifo certificate").within(folder.path()).output().exits(0);
    // A second reader of the pipe would wait for ever.
    let writer = std::thread::spawn(move || {
        let mut writer = fs::OpenOptions::new().write(true).open(pipe).expect("there is a reader");
        writer.write_all(&fs::read(tls_file("server.pem")).expect("readable")).expect("it is read");
    });
    check(&file).output().exits(0);
    writer.join().expect("it does not panic");
}

#[test]
fn an_unusable_certificate_does_not_hide_an_unusable_key() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    let (readme, key) = (tls_file("README.md"), folder.path().join("missing.key"));
    for (certificate, words) in [(readme, "there is no certificate in it"), (tls_file("expired.pem"), "it expired at")]
    {
        let text = tls_table(&certificate, &key);
        fs::write(&file, text).expect("a file can be written");
        let serve = lifeboat(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file).output();
        for refused in [check(&file).output(), serve] {
            refused.exits(2);
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
            assert!(refused.stderr.contains("missing.key' cannot be used: it cannot be read"), "{}", refused.stderr);
        }
    }
}

#[test]
fn the_files_of_a_certificate_are_read_up_to_their_limit() {
    let (_folder, file) = set_up();
    write(&file, "[server.tls]\ncertificate = '/dev/zero'\nkey = '/dev/zero'\n");
    let serve = lifeboat(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file).output();
    for refused in [check(&file).output(), serve] {
        refused.exits(2);
        for what in ["the certificate", "the key"] {
            let words =
                format!("{what} '/dev/zero' cannot be used: it cannot be read: it is longer than 1 MiB; name a");
            assert!(refused.stderr.contains(&words), "{}", refused.stderr);
        }
    }
}

#[test]
fn the_file_of_a_certificate_authority_is_read_up_to_its_limit() {
    let login = lifeboat(["login", "--server", "https://127.0.0.1:1", "--ca", "/dev/zero", "--user", "ada"]);
    login
        .arg("--password-stdin")
        .output()
        .exits_with_one_line(2, &["'/dev/zero' cannot be used: it is longer than 1 MiB"]);
}

#[test]
fn an_address_of_another_machine_is_refused_by_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).output().exits(0);
    let file = folder.path().join("lifeboat.toml");
    // An address of the block for documentation.
    fs::write(&file, "[server]\nlisten = \"192.0.2.1:7098\"\n").expect("a file can be written");
    let words = "cannot listen on 192.0.2.1:7098: it is not an address of this machine; name one that is";
    let refused = check(&file).arg("--insecure").output();
    let line = refused.stderr.lines().next().expect("a line");
    assert!(refused.code == 2 && line.contains(":2:10: ") && line.contains(words), "{}", refused.stderr);
    let serve = lifeboat(["serve", "--insecure", "--config"]).arg(&file).output();
    serve.exits_with_one_line(2, &[words]);
}

#[test]
fn the_environment_overrides_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    init(&folder.path().join("there")).output().exits(0);
    init(folder.path()).output().exits(0);
    fs::rename(folder.path().join("data"), folder.path().join("here")).expect("on one disk");
    fs::write(folder.path().join("lifeboat.toml"), "data = \"here\"\n").expect("a file can be written");
    let check =
        |variables: &str| shell(&format!("{variables} lifeboat config check --json")).within(folder.path()).output();
    let json = |variables: &str| -> Value { serde_json::from_str(check(variables).exits(0)).expect("JSON") };
    let there = folder.path().join("there/data").display().to_string();
    let set = json(&format!("LIFEBOAT_LISTEN=127.0.0.1:7099 LIFEBOAT_DATA={there}"));
    assert_eq!((set["server"]["listen"].as_str(), set["data"].as_str()), (Some("127.0.0.1:7099"), Some(&*there)));
    let empty = json("LIFEBOAT_LISTEN= LIFEBOAT_DATA=");
    assert_eq!(empty["server"]["listen"], "127.0.0.1:7098");
    let data = empty["data"].as_str().map(Path::new).expect("text");
    assert!(data.is_absolute() && data.ends_with("here"), "{}", data.display());
    check("LIFEBOAT_LISTEN=here").exits_with_one_line(2, &["LIFEBOAT_LISTEN: 'here' is not an address"]);
}
