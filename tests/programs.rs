//! Programs, as services: each transaction is one run, and the virtual disk is the state; and as `lifeboat run` runs one
//! once.

use crate::rig::{MIB, Rig, cause, name, ok, size};
use crate::site::Site;
use crate::util::{Lifeboat, guest, lifeboat, prebuilt, root, shell};
use lifeboat_api::access::Grant;
use lifeboat_api::event::FailoverCause;
use lifeboat_api::meter::Resource;
use lifeboat_api::sla::FailoverMode;
use lifeboat_api::transaction::{Answer, Reply, RequestError};
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::service::ServiceSpec;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const PROGRAM: &str = "program.wat";

const KIB: u64 = 1024;

/// The fuel of about three runs of the program.
const FEW_RUNS_FUEL: u64 = 150_000;

#[track_caller]
fn refusal(result: &Result<Reply, RequestError>) -> &str {
    match result {
        Ok(Reply { answer: Answer::Refused(text), .. }) => text,
        other => panic!("not refused: {other:?}"),
    }
}

/// Sends transactions of every outcome, and returns what the program has kept.
async fn traffic(rig: &Rig, rounds: u32) -> String {
    let mut log = String::new();
    for round in 0..rounds {
        log += &format!("[{round}]");
        let result = rig.send_as("p", &format!("a{round}"), format!("a[{round}]")).await;
        assert_eq!(ok(&result), log, "round {round}");
        assert_eq!(refusal(&rig.send("p", "xno").await), "exit code 33: no");
        assert!(cause(&rig.send("p", "tboom").await).starts_with("trap: "));
        assert_eq!(ok(&rig.query("p", "anot kept").await), format!("{log}not kept"));
        let again = rig.send_as("p", &format!("a{round}"), format!("a[{round}]")).await;
        assert_eq!(ok(&again), log, "a repetition gets the same reply");
    }
    log
}

#[tokio::test]
async fn a_program_fails_over_when_its_tank_is_empty_and_keeps_its_files() {
    for mode in [FailoverMode::Direct, FailoverMode::Shadow] {
        let rig = Rig::new();
        let sizes = [size("s", FEW_RUNS_FUEL, 4 * MIB)];
        rig.try_start("p", PROGRAM, &sizes, |spec| spec.failover = mode).await.expect("it starts");
        let log = traffic(&rig, 12).await;
        assert_eq!(ok(&rig.query("p", "r").await), log);
        let failovers = rig.failovers();
        assert!(failovers.len() >= 6, "{mode}: {}", failovers.len());
        assert!(failovers.iter().all(|failover| failover.cause == FailoverCause::Cpu));
        let status = rig.status("p").await;
        assert_eq!((status.unmovable, status.degraded), (None, None), "{mode}");
    }
}

#[tokio::test]
async fn a_failed_run_of_a_program_needs_no_rollback() {
    let rig = Rig::new();
    rig.start("p", PROGRAM, &[size("s", 100_000_000, 4 * MIB)]).await;
    traffic(&rig, 5).await;
    let counts = rig.status("p").await.counts;
    assert_eq!((counts.rollbacks, counts.replayed_transactions), (0, 0));
}

#[tokio::test]
async fn a_program_whose_memory_crosses_the_threshold_moves_to_a_larger_size_once() {
    let rig = Rig::new();
    // The run begins with some pages of the program and of the adapter, and `m` takes 16 more.
    let sizes = [size("s", 100_000_000, 1_420 * KIB), size("m", 100_000_000, 4 * MIB)];
    rig.start("p", PROGRAM, &sizes).await;
    ok(&rig.send("p", "eno memory").await);
    let small = rig.status("p").await.meter.memory;
    assert!(small.used > 0 && small.utilisation_percent() < 83.0, "{small:?}");
    for _ in 0..3 {
        assert_eq!(ok(&rig.send("p", "m").await), "m");
    }
    let status = rig.status("p").await;
    assert_eq!((status.size.as_str(), status.vm.number, status.degraded), ("m", 2, None));
    assert_eq!(rig.failovers()[0].cause, FailoverCause::Memory);
}

#[tokio::test]
async fn a_run_that_lacks_memory_or_disk_runs_again_on_a_larger_size() {
    let rig = Rig::new();
    rig.start("p", PROGRAM, &[size("s", 100_000_000, 512 * KIB), size("m", 100_000_000, 4 * MIB)]).await;
    assert_eq!(ok(&rig.send("p", "m").await), "m");
    assert_eq!(rig.status("p").await.size, "m");
    let lack = rig.failovers().remove(0);
    assert_eq!((lack.cause, lack.replayed_transactions), (FailoverCause::Memory, 0));

    let rig = Rig::new();
    let on_disk = |name, bytes| {
        let mut size = size(name, 100_000_000, 4 * MIB);
        std::sync::Arc::make_mut(&mut size).disk_bytes = bytes;
        size
    };
    rig.start("p", PROGRAM, &[on_disk("s", 64 * KIB), on_disk("m", MIB)]).await;
    let text = "x".repeat(40_000);
    assert_eq!(ok(&rig.send("p", format!("a{text}")).await), text);
    ok(&rig.send("p", format!("a{}", "y".repeat(24_000))).await);
    ok(&rig.send("p", "az").await);
    let status = rig.status("p").await;
    assert_eq!(status.size, "m");
    assert!(rig.failovers().iter().any(|failover| failover.cause.resource() == Some(Resource::Disk)));
}

#[tokio::test]
async fn a_program_is_degraded_only_while_its_last_run_filled_the_memory() {
    let rig = Rig::new();
    rig.start("p", PROGRAM, &[size("s", 100_000_000, 1_420 * KIB)]).await;
    assert_eq!(ok(&rig.send("p", "m").await), "m");
    let degraded = rig.status("p").await.degraded.expect("there is no larger size");
    assert!(degraded.contains("of memory"), "{degraded}");
    ok(&rig.send("p", "eno memory").await);
    assert_eq!(rig.status("p").await.degraded, None);
}

#[tokio::test]
async fn a_query_that_exhausts_its_tank_replays_nothing() {
    let rig = Rig::new();
    rig.start("p", PROGRAM, &[size("s", 1_000_000, 4 * MIB)]).await;
    assert_eq!(ok(&rig.send("p", "aone").await), "one");
    assert!(cause(&rig.query("p", "s").await).starts_with("cpu: "));
    assert_eq!(rig.status("p").await.counts.replayed_transactions, 0);
    assert_eq!(ok(&rig.send("p", "a two").await), "one two");
}

#[tokio::test]
async fn an_endless_program_ends_with_its_tank_and_harms_no_later_run() {
    let rig = Rig::new();
    rig.start("p", PROGRAM, &[size("s", 1_000_000, 4 * MIB)]).await;
    assert_eq!(ok(&rig.send("p", "aone").await), "one");
    assert!(cause(&rig.send("p", "s").await).starts_with("cpu: "));
    assert!(cause(&rig.send("p", "y").await).starts_with("cpu: "));
    assert_eq!(ok(&rig.send("p", "a two").await), "one two");
}

#[tokio::test]
async fn a_program_gets_the_arguments_and_variables_of_its_service() {
    let rig = Rig::new();
    let environment = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let settings = ProgramSettings::new(vec!["-q".into()], environment).expect("short");
    let with = |spec: &mut ServiceSpec| {
        spec.program = spec.program.with_command_line(settings.command_line(&name("p")));
    };
    rig.try_start("p", PROGRAM, &[size("s", 100_000_000, 4 * MIB)], with).await.expect("it starts");
    let expected = "p\0-q\0GREETING=hello\0LIFEBOAT_TRANSACTION=t1\0LIFEBOAT_USER=ada\0LIFEBOAT_SEQUENCE=1\0";
    let result = rig.send_as("p", "t1", "v").await;
    assert!(ok(&result).starts_with(expected), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_sets_the_command_line_of_a_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    let query = "size=small&arguments=%5B%22-q%22%2C%22a%20b%22%5D&environment=%7B%22LANG%22%3A%22C%22%7D";
    site.deploy(&admin, "p", PROGRAM, query).await;
    let ada = site.user(&admin, "ada", "p", &[Grant::Transact]).await;
    let answered = site.transact(&ada, "p", "t1", "v").await;
    assert_eq!(answered.status, 200, "{answered:?}");
    assert!(answered.text().starts_with("p\0-q\0a b\0LANG=C\0LIFEBOAT_TRANSACTION=t1\0"), "{answered:?}");
    site.stop().await;
}

// A data directory.

fn run_in(data: &Path) -> Lifeboat {
    lifeboat(["run", "--service", "p", "--data"]).arg(data)
}

#[test]
fn a_program_continues_from_a_data_directory_with_its_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let first = run_in(&data).args(["--env", "LANG=C"]).arg(guest(PROGRAM)).arg("-q").input("aone\nv\n").output();
    assert!(first.exits(0).starts_with("one\n"), "{first:?}");
    let again = run_in(&data).input("a two\nr\n").output();
    assert_eq!(again.exits(0), "one two\none two\n");
    let shown = run_in(&data).args(["--json"]).input("v\n").output();
    assert!(shown.exits(0).contains("p\\u0000-q\\u0000LANG=C\\u0000"), "{shown:?}");
    let other = run_in(&data).args(["--env", "LANG=D"]).arg(guest(PROGRAM)).arg("-q").input("v\n").output();
    assert_eq!(other.exits(2), "");
    assert!(other.stderr.contains("keeps those that it was created with"), "{}", other.stderr);
    lifeboat(["data", "verify", "--data"]).arg(&data).output().exits(0);
    let queried = lifeboat(["data", "query", "--data"]).arg(&data).args(["p", "r"]).output();
    assert_eq!(queried.exits(0), "one two\n");
}

#[test]
fn a_program_in_a_portable_snapshot_keeps_its_files_and_its_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let [data, other, file] = ["data", "other", "p.snapshot"].map(|name| folder.path().join(name));
    run_in(&data).arg(guest(PROGRAM)).arg("-q").input("aone\n").output().exits(0);
    lifeboat(["data", "snapshot", "--data"]).arg(&data).arg("p").arg("--out").arg(&file).output().exits(0);
    lifeboat(["data", "restore", "--name", "copy", "--data"]).arg(&other).arg(&file).output().exits(0);
    let copy = lifeboat(["run", "--service", "copy", "--data"]).arg(&other).input("a two\nv\n").output();
    let output = copy.exits(0);
    assert!(output.starts_with("one two\n") && output.contains("-q"), "{output}");
}

// One run.

fn once(options: &[&str], arguments: &[&str]) -> Lifeboat {
    lifeboat(["run"]).args(options).arg(guest(PROGRAM)).args(arguments)
}

#[test]
fn a_program_that_runs_once_has_its_own_output_and_exit_code() {
    let output = once(&[], &[]).input("ehello\n").output();
    assert_eq!((output.exits(0), &*output.stderr), ("hello\n", ""));
    let output = once(&[], &[]).input("\u{7}").output();
    assert_eq!((output.exits(7), &*output.stderr), ("", ""));
}

#[test]
fn a_program_without_a_memory_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bare.wat");
    let exit = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    for (import, body, code) in [("", "", 0), (exit, "(call $exit (i32.const 33))", 33)] {
        std::fs::write(&file, format!(r#"(module {import} (func (export "_start") {body}))"#)).expect("written");
        let output = lifeboat(["run"]).arg(&file).output();
        assert_eq!((output.exits(code), &*output.stderr), ("", ""));
    }
}

#[test]
fn what_follows_a_program_is_for_the_program() {
    let output = once(&["--env", "A=b", "--env", "NO_SUCH_VARIABLE"], &["--json", "-x", "--", "y"]).input("v").output();
    assert_eq!(output.exits(0), "program.wat\0--json\0-x\0--\0y\0A=b\0");
}

#[test]
fn a_variable_of_the_command_that_is_not_text_is_refused_by_name() {
    let value = OsStr::from_bytes(b"\xff");
    once(&["--env", "A"], &[]).env("A", value).output().exits_with_one_line(2, &["the variable 'A'", "not UTF-8"]);
    let service = lifeboat(["run", "--service", "p", "--env", "A"]).arg(guest(PROGRAM)).env("A", value).output();
    service.exits_with_one_line(2, &["the variable 'A'", "not UTF-8"]);
    once(&["--env", "A=b", "--env", "C"], &[]).env("A", value).input("v").output().exits(0);
}

#[test]
fn options_of_a_service_are_refused_for_a_program_that_runs_once() {
    for (option, value) in [
        ("--threshold", "50"),
        ("--failover", "direct"),
        ("--network-calls", "5"),
        ("--network-bytes", "1MiB"),
        ("--allow-net", "http://127.0.0.1:1"),
    ] {
        let output = once(&[option, value], &[]).input("e").output();
        assert_eq!(output.exits(2), "", "{option}");
        assert!(output.stderr.contains(option) && output.stderr.contains("is for a service"), "{}", output.stderr);
    }
}

#[test]
fn options_may_follow_a_workload_of_the_world() {
    let counter = || lifeboat(["run"]).arg(crate::util::prebuilt("counter"));
    assert_eq!(counter().args(["--size", "huge"]).input("{\"add\":2}\n").output().exits(0), "2\n");
    for (arguments, words) in [
        (&["--transactions"][..], "--transactions"),
        (&["--no-such-option"], "--no-such-option"),
        (&["--json", "lines.jsonl"], "is an extra argument"),
        (&["lines.jsonl"], "'lines.jsonl' is an extra argument: a workload takes none"),
        (&["--usage"], "--usage is for a program that runs once, and this is a service; leave it out"),
        (&["--env", "A=b"], "--env is for a program"),
    ] {
        let output = counter().args(arguments).output();
        assert_eq!(output.exits(2), "");
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
}

#[test]
fn the_files_of_a_run_are_a_copy_and_are_saved_on_demand() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, saved) = (folder.path().join("files"), folder.path().join("saved"));
    std::fs::create_dir(&files).expect("made");
    std::fs::write(files.join("log"), "one").expect("written");
    let dir = format!("{}::/in", files.display());
    let lost = once(&["--dir", &dir], &[]).input("a two").output();
    assert_eq!(lost.exits(0), "one two");
    assert!(lost.stderr.contains("changed files on its virtual disk, which ended with it; --save DIR keeps them"));
    assert_eq!(once(&["--dir", &dir], &[]).input("r").output().stderr, "", "it has read only");
    let output = lifeboat(["run", "--dir", &dir, "--save"]).arg(&saved).arg(guest(PROGRAM)).input("a two").output();
    assert_eq!(output.exits(0), "one two");
    assert_eq!(std::fs::read_to_string(saved.join("in/log")).expect("saved"), "one two");
    assert_eq!(std::fs::read_to_string(files.join("log")).expect("kept"), "one", "the original is not changed");
    let again = lifeboat(["run", "--save"]).arg(&saved).arg(guest(PROGRAM)).input("e").output();
    assert_eq!(again.exits(2), "");
    assert!(again.stderr.contains("exists already; name a new directory"), "{}", again.stderr);
}

#[test]
fn two_directories_have_no_file_at_one_path() {
    let folder = tempfile::tempdir().expect("a folder");
    for directory in ["d/b", "e", "f"] {
        std::fs::create_dir_all(folder.path().join(directory)).expect("made");
    }
    for file in ["d/a", "d/log", "d/b/c", "f/c"] {
        std::fs::write(folder.path().join(file), "one").expect("written");
    }
    let run =
        |dirs: [&str; 2]| once(&["--dir", dirs[0], "--dir", dirs[1]], &[]).within(folder.path()).input("r").output();
    for (dirs, words) in [
        (["d::/x", "e::/x"], "--dir: 'd' and 'e' are both at '/x' on the virtual disk; name another path"),
        (["d::x/", "d::/x"], "--dir: 'd' and 'd' are both at '/x'"),
        (["d::/x", "e::/x/a"], "--dir: 'd/a' and 'e' are both at '/x/a'"),
        (["d::/x", "e::/x/a/b"], "--dir: 'd/a' and 'e' are both at '/x/a'"),
        (["e::/x/a/b", "d::/x"], "--dir: 'e' and 'd/a' are both at '/x/a'"),
        (["d::/", "f::/b"], "--dir: 'd/b/c' and 'f/c' are both at '/b/c'"),
    ] {
        run(dirs).exits_with_one_line(2, &[words]);
    }
    assert_eq!(run(["d::/", "e::/b"]).exits(0), "one", "directories may have one path");
}

#[test]
fn what_cannot_be_on_a_disk_is_named_with_one_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("d")).expect("made");
    std::os::unix::fs::symlink("/etc", folder.path().join("d/out")).expect("linked");
    for (dir, end) in [
        ("none", "name a directory of yours, as HOST or HOST::GUEST"),
        ("d", "it is a link out of the directory, or in a circle; replace or remove it"),
    ] {
        let output = once(&["--dir", dir], &[]).within(folder.path()).output();
        let line = output.exits_with_one_line(2, &["cannot be on a virtual disk: "]);
        assert!(line.ends_with(end) && line.matches(';').count() == 1, "{line}");
    }
}

#[test]
fn a_program_is_not_started_without_room_for_its_saved_files() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("file"), "").expect("written");
    for above in ["none", "file"] {
        let saved = folder.path().join(above).join("saved");
        let output = lifeboat(["run", "--save"]).arg(&saved).arg(guest(PROGRAM)).input("estarted").output();
        output.exits_with_one_line(2, &["cannot create", "name a new directory in one that is there"]);
    }
}

#[test]
fn a_program_keeps_its_exit_code_if_its_files_cannot_be_saved() {
    // The paths on the disk have their longest length, and those of the copies are longer by the name of the copy.
    let folder = tempfile::tempdir().expect("a folder");
    let (files, saved) = (folder.path().join("f"), folder.path().join("s".repeat(250)));
    let mut deepest = files.clone();
    while deepest.as_os_str().len() < 3_900 {
        deepest.push("d".repeat(90));
    }
    std::fs::create_dir_all(&deepest).expect("made");
    let dir = format!("{}::/", files.display());
    for (input, own, code) in [("ehello", "hello", 4), ("\u{7}", "", 7)] {
        let run = lifeboat(["run", "--dir", &dir, "--save"]).arg(&saved).arg(guest(PROGRAM));
        let output = run.input(input).output();
        assert_eq!(output.exits(code), own);
        assert!(output.stderr.contains("does not have all files of the program: cannot write"), "{}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        std::fs::remove_dir_all(&saved).expect("it was made");
    }
}

#[test]
fn a_signal_ends_a_program_and_says_that_its_files_were_not_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let saved = folder.path().join("saved");
    let run = lifeboat(["run", "--fuel", "1_000_000_000_000", "--save"]).arg(&saved).arg(guest(PROGRAM));
    let mut running = run.start();
    running.send("y");
    running.close_input();
    assert_eq!(running.line().expect("at once"), b"y\n");
    running.signal("TERM");
    let ended = running.finish();
    ended.exits(128 + 15);
    assert!(ended.stderr.contains("interrupted: --save did not copy the files"), "{}", ended.stderr);
    assert!(!saved.exists());
}

#[test]
fn a_program_that_waits_for_the_reader_of_its_output_says_that_its_files_were_not_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    // The row has 200,000 bytes, and a pipe holds fewer. Its reader waits for the exit code of the command instead.
    let script = format!(
        "cd '{}' && mkfifo code && mkdir db && {{ \
           echo 'select hex(zeroblob(100000));' | \
             lifeboat run --timeout 2s --usage --dir db::/ --save saved '{}'; echo $? >code; \
         }} | cat code",
        folder.path().display(),
        prebuilt("sql").display()
    );
    let output = shell(&script).output();
    assert_eq!(output.exits(0), "134\n");
    assert!(output.stderr.contains("deadline: not finished within 2000 ms"), "{}", output.stderr);
    let words = "--save did not copy the files, and --usage does not know the usage, because the program waited";
    assert!(output.stderr.contains(words), "{}", output.stderr);
    assert!(!folder.path().join("saved").exists());
}

#[test]
fn a_program_without_a_directory_finds_none() {
    // It adds 90 to the error `badf`, which is 8.
    once(&[], &[]).input("aone").output().exits(98);
}

#[test]
fn sockets_of_preview_1_answer_that_a_descriptor_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sockets.wat");
    // The errors `notsock`, and `badf` for a descriptor that is not open. One buffer of 4 bytes is listed at 8.
    for (call, errno) in [
        ("$accept (i32.const 0) (i32.const 0) (i32.const 32)", 57),
        ("$receive (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 0) (i32.const 32) (i32.const 36)", 57),
        ("$send (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0) (i32.const 32)", 57),
        ("$accept (i32.const 99) (i32.const 0) (i32.const 32)", 8),
    ] {
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "sock_recv"
                  (func $receive (param i32 i32 i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (data (i32.const 8) "\10\00\00\00\04\00\00\00")
                (func (export "_start") (call $exit (call {call}))))"#
        );
        std::fs::write(&file, text).expect("written");
        let output = lifeboat(["run"]).arg(&file).output();
        assert_eq!((output.exits(errno), &*output.stderr), ("", ""), "{call}");
    }
    let inspected = lifeboat(["inspect", "--json"]).arg(&file).output();
    let denied = ["accept", "recv", "send"].map(|name| format!("wasi_snapshot_preview1#sock_{name}"));
    let report: serde_json::Value = serde_json::from_str(inspected.exits(0)).expect("JSON");
    assert_eq!(report["denied"], serde_json::json!(denied));
}

#[test]
fn a_program_for_preview_1_is_not_started_with_more_text_than_its_adapter_takes() {
    // What the adapter's table leaves of 56 KiB: the table has two arguments, or a name and a value.
    let longest = "x".repeat(56 * 1024 - 16);
    let output = once(&[], &[&longest]).input("v").output();
    assert_eq!(output.exits(0), format!("program.wat\0{longest}\0"));
    let output = once(&["--env", &format!("A={longest}")], &[]).input("v").output();
    assert_eq!(output.exits(0), format!("program.wat\0A={longest}\0"));
    let many = |count: usize| lifeboat(["run"]).arg(prebuilt("wordcount")).args(vec!["x"; count]).output();
    let output = many(7_165);
    assert_eq!(output.exits(1).lines().count(), 1, "a total of no files");
    assert_eq!(output.stderr.lines().count(), 7_165, "none can be opened");

    let longer = longest + "x";
    let remedy = "57,344 for them; put them into a file, and give it to the program with --dir";
    once(&[], &[&longer]).output().exits_with_one_line(2, &["the arguments take 57,345 bytes", remedy]);
    let variable = format!("A={longer}");
    let refused = once(&["--env", &variable], &[]).output();
    refused.exits_with_one_line(2, &["the variables of --env take 57,345 bytes", remedy]);
    many(7_166).exits_with_one_line(2, &["the arguments take 57,350 bytes", remedy]);
}

#[test]
fn a_run_that_the_host_ends_has_the_code_of_an_abort_and_names_the_option() {
    for (options, input, words) in [
        (&[][..], "tboom", "trap: "),
        (&["--fuel", "1_000_000"], "s", "cpu: it used up its 1,000,000 fuel; give it more with --fuel"),
        (&["--memory", "512KiB"], "m", "limit of 512 KiB; give it more with --memory"),
        (&["--timeout", "50ms"], "s", "deadline: not finished within 50 ms; give it more with --timeout"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = format!("{}::/", folder.path().display());
        let output = once(&[options, &["--dir", &dir]].concat(), &[]).input(input).output();
        assert_eq!(output.exits(134), "");
        assert!(output.stderr.contains("program.wat: ") && output.stderr.contains(words), "{}", output.stderr);
    }
    let output = once(&["--memory", "64KiB"], &[]).output();
    assert_eq!(output.exits(2), "");
    assert!(output.stderr.contains("give it more with --memory"), "{}", output.stderr);
}

#[test]
fn a_run_ends_with_the_reader_of_its_output() {
    let mut running = once(&["--fuel", "1_000_000_000_000"], &[]).start();
    running.send("y");
    running.close_input();
    assert_eq!(running.line().expect("at once"), b"y\n");
    running.hang_up();
    let ended = running.finish();
    assert_eq!((ended.exits(141), &*ended.stderr), ("", ""));
}

#[test]
fn a_deterministic_run_sees_the_same_clocks_and_random_numbers() {
    let run = |options: &[&str]| once(options, &[]).input("c").output().stdout;
    let fixed = run(&["--deterministic"]);
    assert_eq!(fixed, run(&["--deterministic"]));
    assert_eq!(fixed[..8], 946_684_800_000_000_000_u64.to_le_bytes());
    let (one, two) = (run(&[]), run(&[]));
    assert!(one[..8] != two[..8] && one[16..] != two[16..], "{one:?} {two:?}");
}

#[test]
fn the_usage_of_a_run_has_four_meters() {
    let output = once(&["--usage"], &[]).input("ehi").output();
    assert_eq!(output.exits(0), "hi");
    for resource in Resource::ALL {
        assert!(output.stderr.contains(&format!("  {resource} ")), "{}", output.stderr);
    }
    assert!(output.stderr.contains("\n  network    none\n"), "{}", output.stderr);
    let output = once(&["--usage", "--json"], &[]).input("ehi").output();
    let usage = &output.events()[0]["usage"];
    assert!(usage["cpu"]["used"].as_u64().is_some_and(|fuel| fuel > 0), "{usage}");
    assert!(usage["memory"]["used"].as_u64().is_some_and(|bytes| bytes > 0), "{usage}");
}

#[test]
fn lines_of_transactions_make_a_program_a_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("lines");
    std::fs::write(&lines, "aone\na two\nxno\nr\n").expect("written");
    let output = lifeboat(["run", "--fuel", "100000", "--transactions"]).arg(&lines).arg(guest(PROGRAM)).output();
    let replies: Vec<&str> = output.exits(1).lines().collect();
    assert_eq!((replies[0], replies[1], replies[3]), ("one", "one two", "one two"));
    assert!(replies[2].contains("exit code 33: no"), "{}", replies[2]);
}

// The sample programs.

#[test]
fn wordcount_counts_the_files_of_a_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.txt"), "one two\nthree\n").expect("written");
    let dir = format!("{}::/in", folder.path().display());
    let count = |files: &[&str]| {
        lifeboat(["run", "--dir", &dir]).arg(prebuilt("wordcount")).args(files).input("a b\n").output()
    };
    let output = count(&["/in/a.txt"]);
    assert_eq!((output.exits(0), &*output.stderr), ("      2       3      14 /in/a.txt\n", ""));
    assert_eq!(count(&[]).exits(0), "      1       2       4\n");
    let missing = count(&["/in/a.txt", "/in/none"]);
    assert!(missing.exits(1).ends_with(" total\n"));
    assert_eq!(missing.stderr, "wordcount.wasm: /in/none: No such file or directory\n");
}

#[test]
fn a_database_survives_failovers_with_equal_rows() {
    let lines = root().join("workloads/sql.transactions.txt");
    let run = |options: &[&str]| {
        let run = lifeboat(["run"]).args(options).arg("--transactions").arg(&lines).arg(prebuilt("sql")).output();
        (run.exits(1).to_owned(), run.stderr.matches("Trigger process failover: triggered").count())
    };
    let (rows, failovers) = run(&["--size", "huge"]);
    assert_eq!(failovers, 0);
    assert!(rows.ends_with("[{\"total\":400,\"average\":100.0}]\n[{\"integrity_check\":\"ok\"}]\n"), "{rows}");
    let (moved, failovers) = run(&["--fuel", "3_000_000"]);
    assert!(failovers >= 5, "{failovers}");
    assert_eq!(moved, rows);
    let refused = rows.lines().filter(|line| line.contains("CHECK constraint failed")).count();
    assert!(refused >= 3 && rows.contains("no such table: nowhere"), "{rows}");
}

#[test]
fn a_database_is_recovered_and_verified() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let run = || lifeboat(["run", "--service", "db", "--fuel", "3_000_000", "--data"]).arg(&data);
    let first = "create table t (a);\ninsert into t values (1), (2.5), ('x'), (x'00ff'), (null), (1e999);\n";
    run().arg(prebuilt("sql")).input(first).output().exits(0);
    let rows = run().input("select a from t;\ndelete from t; nonsense;\nselect count(*) as n from t;\n").output();
    let expected = "[{\"a\":1},{\"a\":2.5},{\"a\":\"x\"},{\"a\":\"00ff\"},{\"a\":null},{\"a\":null}]\n";
    assert!(rows.exits(1).starts_with(expected) && rows.exits(1).ends_with("[{\"n\":6}]\n"), "{rows:?}");
    lifeboat(["data", "verify", "--data"]).arg(&data).output().exits(0);
}

#[test]
fn a_long_statement_is_refused_as_a_short_one_is() {
    let statement = "a".repeat(1_000_000);
    let output = lifeboat(["run", "--service", "db"]).arg(prebuilt("sql")).input(statement + "\n").output();
    let refused = output.exits(1);
    assert!(refused.contains("exit code 1: statement 1: near") && refused.len() < 10_000, "{}", refused.len());
}
