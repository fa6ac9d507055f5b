//! Data that earlier releases wrote. It opens, has the same proofs and answers as then, and continues.
//!
//! `tests/old-data` describes each directory. Its segments lack their trailing zeros, which the test restores.

use crate::rig::{Rig, name};
use crate::util::{copy_directory, lifeboat, root};
use lifeboat_api::transaction::Answer;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_journal::storage::DiskStorage;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories, and the exit codes of `verify`.
const DIRECTORIES: [(&str, i32); 3] = [("sealed", 0), ("killed", 0), ("troubled", 1)];

/// The length of every segment in them, in bytes.
const SEGMENT_BYTES: u64 = 64 * 1024;

fn kept(file: &str) -> PathBuf {
    root().join("tests/old-data").join(file)
}

/// Copies a directory into the state that the release left: files that only their owner can read, and segments of full
/// length.
fn copy(directory: &str, to: &Path) {
    copy_directory(&kept(directory), to);
    for entry in std::fs::read_dir(to).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            let segment = std::fs::OpenOptions::new().write(true).open(path).expect("writable");
            segment.set_len(SEGMENT_BYTES).expect("as long as it was");
        }
    }
}

fn json(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(kept(file)).expect("readable")).expect("JSON")
}

/// Asserts that `now` contains everything that `then` contains. It may contain more.
#[track_caller]
fn assert_has(now: &Value, then: &Value, at: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (key, then) in then {
                assert_has(now.get(key).unwrap_or(&Value::Null), then, &format!("{at}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(then)) => {
            assert_eq!(now.len(), then.len(), "{at}: {now:?}");
            for (index, (now, then)) in now.iter().zip(then).enumerate() {
                assert_has(now, then, &format!("{at}[{index}]"));
            }
        }
        _ => assert_eq!(now, then, "{at}"),
    }
}

#[test]
fn an_old_directory_proves_what_it_proved() {
    for (directory, code) in DIRECTORIES {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        copy(directory, &data);
        for (command, code) in [("verify", code), ("services", code)] {
            let output = lifeboat(["data", command, "--json", "--data"]).arg(&data).output();
            let now = serde_json::from_str(output.exits(code)).expect("JSON");
            assert_has(&now, &json(&format!("{directory}.{command}.json")), &format!("{directory}: {command}"));
        }
    }
}

#[tokio::test]
async fn services_of_an_old_directory_continue_with_their_answers() {
    for (directory, code) in DIRECTORIES {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        copy(directory, &data);
        let storage = DiskStorage::create(&data).expect("the directory");
        let locked = Locked::open(Arc::new(storage), None).expect("free");
        let (opened, contents) = locked.open_journal(&DataOptions::default()).expect("it opens");
        let rig = Rig::recovered(opened, contents).await;
        let answers = std::fs::read_to_string(kept(&format!("{directory}.answers.jsonl"))).expect("readable");
        for line in answers.lines() {
            let then: Value = serde_json::from_str(line).expect("JSON");
            let text = |key: &str| then[key].as_str().expect("a string");
            let service = text("service");
            rig.grant(service);
            let Ok(reply) = rig.send_as(service, text("id"), text("body")).await else {
                // Its service cannot be recovered, as at that time.
                assert_eq!(then["denied"], true, "{line}");
                continue;
            };
            let (outcome, answer) = match &reply.answer {
                Answer::Ok(bytes) => ("ok", String::from_utf8_lossy(bytes).into_owned()),
                Answer::Refused(text) => ("refused", text.clone()),
                Answer::Failed(cause) => ("failed", cause.to_string()),
            };
            assert!(reply.is_repeated, "{line}");
            assert_eq!((outcome, answer.as_str()), (text("outcome"), text("answer")), "{line}");
            assert_eq!(reply.sequence.0, then["sequence"].as_u64().expect("a number"), "{line}");
        }
        for (service, body) in [("bank", "{\"add\":1}"), ("busy", "1"), ("notes", "nonsense")] {
            rig.grant(service);
            if rig.host.entry(&name(service)).expect("readable").is_some() {
                let reply = rig.send_as(service, "new", body).await.expect("it goes on");
                assert!(!reply.is_repeated);
            }
        }
        rig.host.stop().await.expect("sealed");
        drop(rig);
        lifeboat(["data", "verify", "--data"]).arg(&data).output().exits(code);
    }
}

#[test]
fn an_old_portable_snapshot_is_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let restored =
        lifeboat(["data", "restore", "--name", "bank", "--data"]).arg(&data).arg(kept("bank.portable")).output();
    restored.exits(0);
    let queried = lifeboat(["data", "query", "--data"]).arg(&data).args(["bank", "\"total\""]).output();
    assert_eq!(queried.exits(0), std::fs::read_to_string(kept("bank.total.txt")).expect("readable"));
    lifeboat(["data", "verify", "--data"]).arg(&data).output().exits(0);
}
