//! `lifeboat data`: the commands that work on a data directory while no host has it open.

use crate::util::{Lifeboat, Output, Unprivileged, guest, lifeboat, prebuilt, shell, transactions};
use bytes::Bytes;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_api::text::is_deceptive;
use lifeboat_api::transaction::{Answer, ReplyHash};
use lifeboat_host::data::{Contents, DataDirectory, DataOptions, Locked};
use lifeboat_host::journal::{Record, TransactionRecord, record};
use lifeboat_host::snapshot_file;
use lifeboat_journal::commit::{Change, Entry};
use lifeboat_journal::storage::DiskStorage;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder with a data directory, deleted at the end of the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates a command of `lifeboat data` on the data directory.
    fn command(&self, command: &str, arguments: &[&str]) -> Lifeboat {
        lifeboat(["data", command, "--data"]).arg(self.path("data")).args(arguments)
    }

    /// Creates a `lifeboat run` on the data directory.
    fn run_with(&self, arguments: &[&str]) -> Lifeboat {
        lifeboat(["run", "--data"]).arg(self.path("data")).args(arguments)
    }

    /// Runs a command of `lifeboat data` to its end.
    #[track_caller]
    fn output(&self, command: &str, arguments: &[&str]) -> Output {
        self.command(command, arguments).output()
    }

    /// Creates a `lifeboat run` of a service, which is created if it is missing.
    fn run(&self, service: &str, workload: &Path) -> Lifeboat {
        self.run_with(&["--service", service, "--envelope"]).arg(workload)
    }

    /// Sends envelopes to a service, and stops cleanly.
    #[track_caller]
    fn send(&self, service: &str, workload: &Path, lines: &[Value]) -> Output {
        self.run(service, workload).input(lines.iter().map(|line| format!("{line}\n")).collect::<String>()).output()
    }

    /// Creates a counter that added 1, 2 and 3, and refused a transaction.
    fn counter(&self) {
        let add = |id: &str, add: i64| json!({"id": id, "json": {"add": add}});
        let counter = prebuilt("counter");
        self.send("counter", &counter, &[add("a", 1), add("b", 2)]).exits(0);
        let take = json!({"text": "{\"take\":\"\u{1b}[2J\u{202e}\u{2028}\u{85}\u{7f}\u{200b}\"}"});
        let query = json!({"query": true, "json": "total"});
        self.send("counter", &counter, &[add("c", 3), query, take]).exits(1);
    }

    /// Changes the data directory in a way that no command offers.
    fn with_directory(&self, change: impl FnOnce(&DataDirectory, &Contents)) {
        let storage = Arc::new(DiskStorage::open(&self.path("data")).expect("opens"));
        let locked = Locked::open(storage, None).expect("taken");
        let (directory, contents) = locked.open_journal(&DataOptions::default()).expect("opens");
        change(&directory, &contents);
        directory.close().expect("closed");
    }

    /// Returns the bytes of all files, but of no compiled code.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = std::fs::read_dir(self.path("data")).expect("a directory");
        let files = files.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_file()));
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("an entry");
            (entry.file_name().into_string().expect("plain"), std::fs::read(entry.path()).expect("readable"))
        };
        files.map(read).collect()
    }

    /// Inverts a bit of the last occurrence of `bytes` in a file with this ending.
    fn damage(&self, ending: &str, bytes: &[u8]) {
        for (name, mut content) in self.files().into_iter().rev().filter(|(name, _)| name.ends_with(ending)) {
            if let Some(offset) = content.windows(bytes.len()).rposition(|window| window == bytes) {
                content[offset] ^= 1;
                std::fs::write(self.path("data").join(name), content).expect("writable");
                return;
            }
        }
        panic!("no '{ending}' holds them");
    }
}

fn add(amount: i64) -> Value {
    json!({"json": {"add": amount}})
}

const TOTAL: &str = "\"total\"";

// Reading.

/// Takes the permission to write to the data directory from everyone, or gives it to the owner.
fn set_writable(folder: &Folder, is_writable: bool) {
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    for name in folder.files().into_keys() {
        set(&folder.path("data").join(name), if is_writable { 0o644 } else { 0o444 });
    }
    set(&folder.path("data"), if is_writable { 0o755 } else { 0o555 });
    set(folder.0.path(), 0o755);
}

#[test]
fn commands_that_look_need_no_permission_to_write() {
    let folder = Folder::new();
    folder.counter();
    std::fs::remove_file(folder.path("data").join("lock")).expect("it was there");
    set_writable(&folder, false);
    let before = folder.files();
    let out = tempfile::tempdir().expect("a folder for everybody");
    std::fs::set_permissions(out.path(), std::fs::Permissions::from_mode(0o777)).expect("ours");
    let exported = out.path().join("counter.snapshot");
    let nobody = Unprivileged::new();
    for (command, arguments) in [
        ("services", vec![]),
        ("verify", vec![]),
        ("journal", vec!["counter"]),
        ("query", vec!["counter", TOTAL]),
        ("snapshot", vec!["counter", "--out", exported.to_str().expect("plain")]),
    ] {
        let looked = nobody.of(folder.command(command, &arguments)).output();
        looked.exits(0);
        assert!(looked.stderr.contains("is not writable: it is only read"), "{command}: {}", looked.stderr);
        assert_eq!(looked.stderr.matches("only read").count(), 1);
    }
    assert!(folder.files() == before, "nothing was changed");
    let mode = std::fs::metadata(&exported).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a state is nobody else's");
    // A command that changes something reports that it has no permission.
    let refused = nobody.of(folder.command("remove", &["counter", "--yes"])).output();
    assert!(!refused.stderr.is_empty() && refused.code != 0, "{}", refused.stderr);
    assert!(folder.files() == before);
    set_writable(&folder, true);
    folder.output("services", &[]).exits(0);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_with_the_remedy() {
    let folder = Folder::new();
    folder.counter();
    let set = |mode| std::fs::set_permissions(folder.path("data"), std::fs::Permissions::from_mode(mode));
    set(0o775).expect("ours");
    let refused = folder.send("counter", &prebuilt("counter"), &[add(1)]);
    assert!(refused.stderr.contains("others can write to it (mode 0775)"), "{}", refused.stderr);
    let is_told = refused.stderr.contains("chmod go-w") && !refused.stderr.contains("as the owner");
    assert!(is_told && refused.code == 2, "{}", refused.stderr);
    set(0o755).expect("ours");
    folder.send("counter", &prebuilt("counter"), &[add(1)]).exits(0);
}

#[test]
fn services_are_listed_with_all_that_is_known_of_them() {
    let folder = Folder::new();
    folder.counter();
    let ledger = lifeboat(["run", "--service", "bank", "--fuel", "200000", "--transactions"]);
    let ledger = ledger.arg(transactions("ledger")).arg("--data").arg(folder.path("data")).arg(prebuilt("ledger"));
    ledger.output().exits(1);
    let output = folder.output("services", &[]);
    let lines: Vec<Vec<&str>> = output.exits(0).lines().map(|line| line.split_whitespace().collect()).collect();
    let [head, bank, counter, journal] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(head[..3], ["name", "workload", "last"]);
    assert_eq!((bank[0], bank[2], bank.last()), ("bank", "150", Some(&"intact")));
    assert!(bank[3].starts_with("bank/") && bank[3] != "bank/1", "{bank:?}");
    assert_eq!(
        (counter[0], counter[2], counter[3], counter[4], counter[5]),
        ("counter", "4", "counter/1", "small", "4")
    );
    assert!(journal.join(" ").starts_with("journal: sealed by a clean stop ("), "{journal:?}");

    let json: Value = serde_json::from_str(folder.output("services", &["--json"]).exits(0)).expect("JSON");
    assert_eq!((&json["journal"]["seal"], &json["journal"]["damages"]), (&json!("kept"), &json!([])));
    let counter = &json["services"][1];
    assert_eq!((&counter["ids"], &counter["state"], &counter["vm"]), (&json!(3), &json!("intact"), &json!(1)));
    assert_eq!(counter["snapshot"]["sequence"], 4);
    assert!(counter.get("queue_length").is_some_and(Value::is_null), "no server runs that knew it: {counter}");
}

#[test]
fn the_journal_command_prints_each_record_as_a_safe_line() {
    let folder = Folder::new();
    folder.counter();
    let output = folder.output("journal", &["counter"]);
    let text = output.exits(0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 9, "{text}");
    assert!(lines[0].ends_with("opened: the service was created"), "{}", lines[0]);
    assert!(lines[4].ends_with("opened: a host started the service"), "{}", lines[4]);
    assert!(lines[1].contains("  transaction 1 'a' by operator: {\"add\":1} -> ok 1 ("), "{}", lines[1]);
    assert!(lines[3].ends_with("snapshot of transaction 2"));
    assert!(lines[6].contains("  1 query ("), "{}", lines[6]);
    assert!(lines[7].contains("4 (no id) by operator: {\"take\":\"\\u{1b}[2J\\u{202e}"), "{}", lines[7]);
    assert!(!text.contains('\u{1b}'));

    let output = folder.output("journal", &["--json", "counter"]);
    assert!(!output.exits(0).chars().any(|c| is_deceptive(c) && c != '\n'), "{output:?}");
    let records = output.json_lines();
    assert_eq!(records.len(), 9);
    assert_eq!((&records[0]["event"], &records[3]["event"]), (&json!("opened"), &json!("snapshot")));
    assert_eq!((&records[2]["id"], &records[2]["made_up_id"]), (&json!("b"), &Value::Null));
    assert_eq!((&records[7]["id"], &records[7]["made_up_id"]), (&Value::Null, &json!("host-4")));
    assert_eq!((&records[2]["body"], &records[2]["reply"]), (&json!({"json": {"add": 2}}), &json!({"json": 3})));
    assert_eq!(
        (&records[7]["outcome"], &records[7]["body"]["text"]),
        (&json!("refused"), &json!("{\"take\":\"\u{1b}[2J\u{202e}\u{2028}\u{85}\u{7f}\u{200b}\"}"))
    );
    assert!(records[7]["query_fuel_used"].as_u64().is_some_and(|fuel| fuel > 0));

    assert_eq!((&records[6]["event"], &records[6]["sequence"]), (&json!("queries"), &json!(3)));
    let query = &records[6]["queries"][0];
    assert_eq!((&query["user"], &query["body"]), (&json!("operator"), &json!({"json": "total"})));

    let some = folder.output("journal", &["--json", "--after", "1", "--limit", "2", "counter"]).json_lines();
    assert_eq!(some, records[2..4]);
    assert_eq!(folder.output("journal", &["--after", "4", "counter"]).exits(0), "");
    let hint = format!("lifeboat data services --data {} lists", folder.path("data").display());
    folder.output("journal", &["other"]).exits_with_one_line(2, &["no service 'other'", &hint]);
}

#[test]
fn events_are_in_the_journal_as_they_were_reported() {
    let folder = Folder::new();
    let run = lifeboat(["run", "--service", "bank", "--fuel", "200000", "--failover", "direct", "--transactions"]);
    let run = run.arg(transactions("ledger")).arg("--data").arg(folder.path("data")).arg(prebuilt("ledger")).output();
    run.exits(1);
    let mut shown = run.stderr.lines().take_while(|line| !line.is_empty());
    assert!(shown.next().is_some_and(|line| line.starts_with("Created: bank/1 on m1 (size small, workload ")));
    let shown: Vec<&str> = shown.collect();
    let output = folder.output("journal", &["bank"]);
    let kept: Vec<&str> = output.exits(0).lines().map(|line| &line[36..]).collect();
    let kept: Vec<&str> = kept.into_iter().filter(|line| line.starts_with("SLA") || line.starts_with("Trig")).collect();
    assert!(!shown.is_empty());
    // The pause is printed in tenths of a millisecond and stored in nanoseconds.
    assert_eq!(kept, shown);
    let records = folder.output("journal", &["--json", "bank"]).json_lines();
    let has_time = |kind| {
        let mut of_kind = records.iter().filter(|record| record["event"] == kind).peekable();
        of_kind.peek().is_some() && of_kind.all(|record| record["time"].is_string())
    };
    assert!(has_time("sla_failure") && has_time("failover"), "{records:?}");
}

#[test]
fn looking_changes_no_byte() {
    let folder = Folder::new();
    folder.counter();
    let before = folder.files();
    folder.output("services", &[]).exits(0);
    folder.output("journal", &["counter"]).exits(0);
    folder.output("verify", &[]).exits(0);
    folder.output("query", &["counter", TOTAL]).exits(0);
    folder.command("snapshot", &["counter", "--out"]).arg(folder.path("out")).output().exits(0);
    assert!(folder.files() == before);
    // Nor do they change anything after a crash, where a start would clean up.
    let mut running = folder.run("counter", &prebuilt("counter")).start();
    running.send(&add(1).to_string());
    assert_eq!(running.line().as_deref(), Some(&b"7\n"[..]));
    running.kill();
    let before = folder.files();
    assert!(folder.output("services", &[]).exits(0).contains("journal: not sealed: the host did not stop cleanly"));
    folder.output("verify", &[]).exits(0);
    assert_eq!(folder.output("query", &["counter", TOTAL]).exits(0), "7\n");
    assert!(folder.files() == before);
}

#[test]
fn a_query_sees_the_state_after_any_transaction() {
    let folder = Folder::new();
    folder.counter();
    for (at, total) in [("0", "0\n"), ("1", "1\n"), ("2", "3\n"), ("3", "6\n"), ("4", "6\n")] {
        assert_eq!(folder.output("query", &["--at", at, "counter", TOTAL]).exits(0), total);
    }
    assert_eq!(folder.output("query", &["counter", TOTAL]).exits(0), "6\n");
    let json = folder.output("query", &["--json", "counter", TOTAL]);
    json.exits(0);
    let lines = json.json_lines();
    let fuel_used = &lines[0]["fuel_used"];
    assert!(fuel_used.as_u64().is_some_and(|fuel| fuel > 0), "{lines:?}");
    assert_eq!(lines, [json!({"id": "query", "outcome": "ok", "json": 6, "fuel_used": fuel_used})]);
    let outside = folder.output("query", &["--at", "5", "counter", TOTAL]);
    outside.exits_with_one_line(2, &["transaction 5", "'counter'", "0 to 4"]);
    let refused = folder.output("query", &["counter", "1"]);
    refused.exits(1);
    assert_eq!(refused.json_lines()[0]["outcome"], "refused");
    folder.output("query", &["other", TOTAL]).exits_with_one_line(2, &["no service 'other'"]);
}

// Proofs.

#[test]
fn a_look_at_a_service_reserves_what_its_workload_needs() {
    let folder = Folder::new();
    folder.counter();
    let path = |name: &str| folder.path(name).to_str().expect("plain").to_owned();
    let (data, other, out) = (path("data"), path("other"), path("counter.snapshot"));
    // In KiB: four stores with a linear memory each, of 4 GiB each.
    let limited = |command: &str| shell(&format!("ulimit -v {} && lifeboat {command}", 24 << 20)).output();
    limited(&format!("data verify --data {data}")).exits(0);
    assert_eq!(limited(&format!("data query --data {data} counter '{TOTAL}'")).exits(0), "6\n");
    limited(&format!("data snapshot --data {data} counter --out {out}")).exits(0);
    limited(&format!("data restore --data {other} {out} --name copy")).exits(0);
    assert_eq!(limited(&format!("data query --data {other} copy '{TOTAL}'")).exits(0), "6\n");
}

/// Creates a counter that was answered 1, and whose journal has `answers` to the transactions after that. A replay
/// gives 2.
fn diverging(folder: &Folder, answers: &[&str]) {
    let transactions: Vec<_> =
        answers.iter().zip(2..).map(|(answer, number)| (format!("t{number}"), *answer)).collect();
    journalled(folder, &transactions);
}

/// Creates a counter that was answered 1, and whose journal has these ids and answers after that.
fn journalled(folder: &Folder, transactions: &[(String, &str)]) {
    folder.send("count", &guest("count.wat"), &[json!({"id": "t1", "text": "x"})]).exits(0);
    folder.with_directory(|directory, contents| {
        let found = contents.services.iter().find(|found| *found.name == *"count").expect("it is there");
        let (mut number, mut sequence) = (found.last, found.last_transaction());
        for (id, answer) in transactions {
            let timestamp = found.snapshots[0].timestamp();
            let body = Bytes::from_static(b"x");
            sequence = Sequence(sequence.0 + 1);
            let record = Record::Transaction(Arc::new(TransactionRecord {
                sequence,
                id: id.as_str().into(),
                is_id_kept: true,
                user: Name::new("operator").expect("a name"),
                incarnation: 0,
                timestamp,
                epoch: found.epoch,
                body_hash: ReplyHash::of_body(&body),
                body,
                answer: Answer::Ok(Bytes::copy_from_slice(answer.as_bytes())),
                fuel_used: 1_000,
                query_fuel_used: 0,
                network: None,
            }));
            number = number.next();
            let change = Change::Continue { number, record: record::encode(&record) };
            let ticket = directory.committer().submit(Entry { service: found.name.clone(), change }, None);
            ticket.expect("submitted").wait().expect("written");
        }
    });
}

/// Earlier releases accepted any character. A client that repeats such an id must not execute it again under another
/// one.
#[test]
fn an_id_that_earlier_releases_accepted_is_not_executed_again() {
    let folder = Folder::new();
    journalled(&folder, &[("M\u{fc}ller-7".to_owned(), "2")]);
    let sent = |id: &str| folder.send("count", &guest("count.wat"), &[json!({"id": id, "text": "x"})]);
    assert_eq!(sent("M\u{fc}ller-7").exits(0), "2\n");
    let refused = sent("M\u{fc}ller-8");
    let shown = refused.exits(1);
    assert!(shown.contains("is not valid; use printable ASCII characters"), "{shown}");
    assert_eq!(sent("next").exits(0), "3\n", "nothing was executed in between");
}

#[test]
fn verify_proves_from_the_oldest_snapshot_to_the_end() {
    let folder = Folder::new();
    folder.counter();
    let text = folder.output("verify", &[]).exits(0).to_owned();
    assert!(
        text.ends_with(
            "counter: proven from transaction 0 to 4: 4 transactions and 1 query replayed, 2 snapshots compared\n"
        ),
        "{text}"
    );
    let json: Value = serde_json::from_str(folder.output("verify", &["--json", "counter"]).exits(0)).expect("JSON");
    assert_eq!((&json["services"][0]["findings"], &json["services"][0]["through"]), (&json!([]), &json!(4)));
    folder.output("verify", &["other"]).exits_with_one_line(2, &["no service 'other'"]);
}

#[test]
fn verify_names_the_transaction_at_which_a_replay_diverges() {
    let folder = Folder::new();
    folder.counter();
    diverging(&folder, &["3"]);
    let output = folder.output("verify", &[]);
    let text = output.exits(1);
    assert!(
        text.contains("count: the replay diverged at sequence 2, transaction 't2': it was ok '3' and is ok '2'"),
        "{text}"
    );
    assert!(text.contains("counter: proven from"), "{text}");
    let way_on = format!("lifeboat data accept-divergence --data {} count --at 2", folder.path("data").display());
    assert!(text.contains(&way_on), "{text}");
    folder.output("verify", &["counter"]).exits(0);
    let json: Value = serde_json::from_str(folder.output("verify", &["--json"]).exits(1)).expect("JSON");
    let finding = &json["services"][0]["findings"][0];
    assert_eq!((&finding["finding"], &finding["sequence"]), (&json!("diverged"), &json!(2)));
}

/// The guest forgets its count when it is restored. No snapshot from the time of the first restore is left.
#[test]
fn verify_says_that_a_start_is_not_affected_by_a_divergence_before_the_newest_snapshot() {
    let folder = Folder::new();
    for expected in ["1\n2\n", "1\n2\n", "1\n2\n"] {
        let lines = [json!({"text": "x"}), json!({"text": "x"})];
        assert_eq!(folder.send("count", &guest("forgetful.wat"), &lines).exits(0), expected);
    }
    let output = folder.output("verify", &[]);
    let text = output.exits(1);
    assert!(text.contains("count: the replay diverged at sequence 3"), "{text}");
    assert!(text.contains("count: a start is not affected: its replay from the newest snapshot ends"), "{text}");
    assert!(!text.contains("accept-divergence"), "{text}");
    folder.output("accept-divergence", &["count", "--at", "3"]).exits_with_one_line(2, &["there is nothing to accept"]);
    assert_eq!(folder.send("count", &guest("forgetful.wat"), &[json!({"text": "x"})]).exits(0), "1\n");
}

#[test]
fn verify_finds_a_state_that_diverged_behind_equal_answers() {
    let folder = Folder::new();
    folder.send("count", &guest("count.wat"), &[json!({"text": "x"})]).exits(0);
    // The snapshot of a clean stop, with a different count.
    folder.with_directory(|directory, contents| {
        let found = contents.services.iter().find(|found| *found.name == *"count").expect("it is there");
        let (name, header) = (found.snapshots[0].file.clone(), found.snapshots[0].header.clone());
        let (name, header) = name.zip(header).expect("it is in a file");
        directory.storage().remove(&name).expect("removed");
        let state: &[u8] = &2u64.to_le_bytes();
        snapshot_file::write(&**directory.storage(), &name, &header, [state]).expect("written");
    });
    let output = folder.output("verify", &[]);
    assert!(output.exits(1).contains("count: the state diverged between transaction 0 and 1, with the same answers"));
}

#[test]
fn a_directory_in_the_place_of_a_file_is_named_with_a_remedy() {
    let folder = Folder::new();
    folder.counter();
    folder.send("count", &guest("count.wat"), &[json!({"text": "x"})]).exits(0);
    let directory = folder.path("data");
    let mut hash = None;
    folder.with_directory(|_, contents| {
        hash = contents.services.iter().find(|found| *found.name == *"count").map(|found| found.entry.workload);
    });
    let workload = format!("{}.workload", hash.expect("it is there"));
    std::fs::remove_file(directory.join(&workload)).expect("it is there");
    std::fs::create_dir(directory.join(&workload)).expect("a folder");
    let is_directory = format!("'{workload}' is a directory, not a file: move it away, and restore");
    let output = folder.output("verify", &[]);
    let text = output.exits(1);
    assert!(text.contains(&is_directory) && text.contains("counter: proven from"), "{text}");
    folder.output("query", &["count", "x"]).exits_with_one_line(1, &[&is_directory]);
    std::fs::remove_file(directory.join("lock")).expect("it is there");
    std::fs::create_dir(directory.join("lock")).expect("a folder");
    folder.output("services", &[]).exits_with_one_line(1, &["'lock' is a directory, not a file: move it away"]);
    std::fs::remove_dir(directory.join("lock")).expect("it is there");
    std::fs::remove_file(directory.join("catalog.redb")).expect("it is there");
    std::fs::create_dir(directory.join("catalog.redb")).expect("a folder");
    let is_missing = "but its catalog.redb is missing or is not a file (check with ls -l)";
    folder.output("services", &[]).exits_with_one_line(1, &[is_missing]);
}

// Divergence that an operator accepts.

#[test]
fn a_diverging_service_starts_once_its_divergence_is_accepted() {
    let folder = Folder::new();
    diverging(&folder, &["3"]);
    let start = || folder.run("count", &guest("count.wat"));
    let stopped = start().output();
    stopped.exits(1);
    let hint = format!("lifeboat data accept-divergence --data {} count --at 2", folder.path("data").display());
    assert_eq!(stopped.stderr.lines().filter(|line| line.contains(&hint)).count(), 1, "{}", stopped.stderr);
    let resume = |at: &str| folder.output("accept-divergence", &["count", "--at", at]);
    let before = folder.files();
    resume("1").exits_with_one_line(2, &["does not diverge first at 1", "sequence 2"]);
    resume("3").exits_with_one_line(2, &["does not diverge first at 3", "sequence 2"]);
    folder.output("query", &["count", "x"]).exits_with_one_line(1, &["diverged at sequence 2", &hint]);
    folder
        .command("snapshot", &["count", "--out"])
        .arg(folder.path("out"))
        .output()
        .exits_with_one_line(1, &["diverged", &hint]);
    let after = folder.files();
    assert!(before.keys().eq(after.keys()));
    assert_eq!(resume("2").exits(0), "");
    resume("2").exits_with_one_line(2, &["does not diverge"]);
    let again = json!({"id": "t2", "text": "x"});
    let more = json!({"text": "x"});
    let output = start().input(format!("{again}\n{more}\n")).output();
    // An answer that was given remains the same.
    assert_eq!(output.exits(0), "3\n3\n");
    folder.output("verify", &[]).exits(0);
}

#[test]
fn accepting_a_divergence_reports_one_that_follows() {
    let folder = Folder::new();
    diverging(&folder, &["3", "4"]);
    let resume = |at: &str| folder.output("accept-divergence", &["count", "--at", at]);
    let first = resume("2");
    first.exits(1);
    assert!(first.stderr.contains("will still not start: the replay diverged at sequence 3"), "{}", first.stderr);
    resume("3").exits(0);
    resume("4").exits_with_one_line(2, &["does not diverge"]);
    folder.output("accept-divergence", &["other", "--at", "1"]).exits_with_one_line(2, &["no service 'other'"]);
}

// Portable snapshots.

#[test]
fn a_service_continues_elsewhere_from_its_portable_snapshot() {
    let (here, there) = (Folder::new(), Folder::new());
    here.counter();
    // An id of the year 2023, which contains its time.
    let uuid = json!({"id": "018bcfe5-6800-7000-8000-000000000001", "json": {"add": 10}});
    assert_eq!(here.send("counter", &prebuilt("counter"), std::slice::from_ref(&uuid)).exits(0), "16\n");
    let file = here.path("counter.snapshot");
    here.command("snapshot", &["counter", "--out"]).arg(&file).output().exits(0);
    let bytes = std::fs::read(&file).expect("written");
    let again = here.command("snapshot", &["counter", "--out"]).arg(&file).output();
    again.exits_with_one_line(2, &["exists already"]);
    assert!(std::fs::read(&file).expect("there") == bytes);
    assert_eq!(std::fs::read_dir(here.0.path()).expect("a folder").count(), 2, "nothing is left aside");

    there.command("restore", &["--name", "copy"]).arg(&file).output().exits(0);
    there.command("restore", &["--name", "copy"]).arg(&file).output().exits_with_one_line(2, &["'copy'", "already"]);
    let table = there.output("services", &[]);
    let row: Vec<&str> = table.exits(0).lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!((row[0], row[2], row[3], row.last()), ("copy", "5", "copy/1", Some(&"intact")));
    assert!(table.exits(0).contains("journal: sealed"));
    there.output("verify", &[]).exits(0);
    let shown = there.output("journal", &["copy"]);
    assert!(
        shown.exits(0).ends_with("opened: the service was restored from a portable snapshot\n"),
        "{}",
        shown.exits(0)
    );
    there
        .output("query", &["--at", "1", "copy", TOTAL])
        .exits_with_one_line(2, &["is not retained: name 5; lifeboat data journal"]);

    // The copy continues with the next transaction. It does not repeat what the original may have executed.
    let output = there.run_with(&["--service", "copy", "--envelope"]).input(format!("{uuid}\n{}\n", add(1))).output();
    let lines: Vec<&str> = output.exits(1).lines().collect();
    assert!(lines[0].contains("\"denied\"") && lines[0].contains("forgotten"), "{lines:?}");
    assert!(
        lines[0].contains("has the time 2023-11-14T22:13:20.000Z, and ids up to 2023-11-14T22:13:20.000Z are"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "17");
    let journal = there.output("journal", &["--json", "copy"]).json_lines();
    assert!(journal.iter().any(|record| record["sequence"] == 6), "{journal:?}");
    there.output("verify", &[]).exits(0);

    // A restore creates a new service beside others and leaves those unchanged.
    here.command("restore", &["--name", "twin"]).arg(&file).output().exits(0);
    here.output("verify", &[]).exits(0);
    assert_eq!(here.output("query", &["twin", TOTAL]).exits(0), "16\n");
    here.command("restore", &["--name", "counter"]).arg(&file).output().exits_with_one_line(2, &["'counter'"]);
}

#[test]
fn a_file_that_is_no_portable_snapshot_is_refused_before_any_write() {
    let folder = Folder::new();
    folder.counter();
    let file = folder.path("file");
    folder.command("snapshot", &["counter", "--out"]).arg(&file).output().exits(0);
    let bytes = std::fs::read(&file).expect("written");
    let other = Folder::new();
    let refused = |content: &[u8], code: i32, word: &str| {
        let wrong = other.path("wrong");
        std::fs::write(&wrong, content).expect("writable");
        let output = other.command("restore", &["--name", "copy"]).arg(&wrong).output();
        let remedy = if code == 1 { "; copy the file again " } else { "; " };
        output.exits_with_one_line(code, &[word, "wrong", remedy]);
        assert!(!other.path("data").exists());
    };
    refused(b"", 2, "is not a snapshot");
    refused(b"(module)", 2, "is not a snapshot");
    refused(&bytes[..60], 1, "is cut off: it is 60 bytes long, and every snapshot has at least 64;");
    let cut = bytes.len() - 1;
    refused(&bytes[..cut], 1, &format!("is {cut} bytes long, but was written with {};", bytes.len()));
    let step = bytes.len() / 40;
    for offset in (8..bytes.len()).step_by(step) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x20;
        refused(&damaged, 1, "is damaged");
    }
    let snapshot = folder.files().into_iter().rfind(|(name, _)| name.ends_with(".snapshot")).expect("one");
    refused(&snapshot.1, 2, "not a portable one");
    let missing = other.command("restore", &["--name", "copy"]).arg(other.path("missing")).output();
    missing.exits_with_one_line(2, &["cannot open"]);

    // A state that the workload does not accept.
    let broken = Folder::new();
    broken.send("broken", &guest("refuse-restore.wat"), &[json!({"text": "x"})]);
    let out = broken.command("snapshot", &["broken", "--out"]).arg(broken.path("out")).output();
    out.exits_with_one_line(1, &["cannot be exported", "restore"]);
    assert!(!broken.path("out").exists());
}

// Damage.

#[test]
fn the_trusted_state_of_a_quarantined_service_can_be_saved() {
    let folder = Folder::new();
    folder.counter();
    // The damage is between the snapshots, the oldest of which is the initial state.
    folder.damage(".segment", b"{\"add\":3}");
    let newest = folder.files().into_keys().rfind(|name| name.ends_with(".snapshot")).expect("one");
    std::fs::remove_file(folder.path("data").join(newest)).expect("removed");

    let services = folder.output("services", &[]);
    assert!(services.exits(1).contains("quarantined: records from "), "{}", services.exits(1));
    assert!(services.exits(1).contains("journal damaged: segment 1"), "{}", services.exits(1));
    let run = folder.run_with(&["--service", "counter"]).output();
    assert_eq!(run.exits(1), "");
    assert!(run.stderr.contains(" counter --out FILE saves the state that can be trusted"), "{}", run.stderr);
    let journal = folder.output("journal", &["counter"]);
    // The second start may be in the damaged frame.
    assert!((4..=5).contains(&journal.exits(1).lines().count()), "{}", journal.exits(1));
    assert!(journal.stderr.contains("quarantined: records from "), "{}", journal.stderr);
    let verify = folder.output("verify", &[]);
    assert!(verify.exits(1).contains("counter: quarantined: records from "), "{}", verify.exits(1));
    assert!(verify.exits(1).contains("from transaction 0 to 2: 2 transactions replayed, 1 snapshot compared"));

    let query = folder.output("query", &["counter", TOTAL]);
    assert_eq!(query.exits(1), "3\n");
    let trusted = "its state after transaction 2, the last that can be trusted; later transactions, if there are any,";
    assert!(query.stderr.contains(trusted), "{}", query.stderr);
    assert!(verify.exits(1).contains("counter: its state after transaction 2 is the last that can be trusted\n"));
    assert_eq!(folder.output("query", &["--at", "1", "counter", TOTAL]).exits(0), "1\n");
    folder.output("query", &["--at", "3", "counter", TOTAL]).exits_with_one_line(2, &["0 to 2"]);
    let resume = folder.output("accept-divergence", &["counter", "--at", "2"]);
    resume.exits_with_one_line(2, &["quarantined", "does not repair"]);

    let file = folder.path("rest");
    let snapshot = folder.command("snapshot", &["counter", "--out"]).arg(&file).output();
    snapshot.exits(1);
    assert!(snapshot.stderr.contains(trusted), "{}", snapshot.stderr);
    folder.command("restore", &["--name", "saved"]).arg(&file).output().exits(0);
    // The directory stays damaged.
    assert_eq!(folder.run_with(&["--service", "saved"]).input("{\"add\":1}\n").output().exits(1), "4\n");
    // The damaged service is unchanged.
    assert!(folder.output("services", &[]).exits(1).contains("quarantined: records from "));
}

#[test]
fn a_snapshot_behind_lost_records_is_still_the_newest_state() {
    let folder = Folder::new();
    folder.counter();
    folder.damage(".segment", b"{\"add\":3}");
    let query = folder.output("query", &["counter", TOTAL]);
    assert_eq!(query.exits(1), "6\n");
    assert!(query.stderr.contains("its state after transaction 4,"), "{}", query.stderr);
    let verify = folder.output("verify", &[]);
    assert!(verify.exits(1).contains("counter: its state after transaction 4 is the last that can be trusted\n"));
    assert_eq!(folder.output("query", &["--at", "4", "counter", TOTAL]).exits(0), "6\n");
    assert_eq!(folder.output("query", &["--at", "2", "counter", TOTAL]).exits(0), "3\n");
    folder
        .output("query", &["--at", "3", "counter", TOTAL])
        .exits_with_one_line(2, &["transaction 3", "one of 0 to 2, 4;"]);
}

#[test]
fn every_command_reports_a_damaged_journal_even_if_a_snapshot_covers_it() {
    let folder = Folder::new();
    folder.counter();
    // The frame with the first record. Both snapshots are newer.
    folder.send("counter", &prebuilt("counter"), &[add(4)]).exits(0);
    let first = folder.files().into_keys().find(|name| name.ends_with(".segment")).expect("one");
    let path = folder.path("data").join(first);
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[8_300..8_302].copy_from_slice(&[0x5a, 0xa5]);
    std::fs::write(&path, bytes).expect("writable");

    let damaged = "journal damaged: segment 1, position ";
    let services = folder.output("services", &[]);
    assert!(services.exits(1).contains(damaged) && services.exits(1).contains("intact"), "{}", services.exits(1));
    let journal = folder.output("journal", &["counter"]);
    assert!(journal.exits(1).starts_with("       2  "), "{}", journal.exits(1));
    assert!(journal.stderr.contains(&format!("lifeboat: {damaged}")), "{}", journal.stderr);
    assert!(journal.stderr.contains("the history of service 'counter' begins with record 2:"), "{}", journal.stderr);
    folder.output("journal", &["--json", "--after", "4", "counter"]).exits(1);
    folder.output("verify", &[]).exits(1);
    let run = folder.run_with(&["--service", "counter"]).input("{\"add\":1}\n").output();
    assert_eq!(run.exits(1), "11\n");
    assert!(run.stderr.contains("Journal damaged: segment 1, position "), "{}", run.stderr);
}

#[test]
fn a_start_falls_back_to_the_snapshot_before_a_damaged_one() {
    let folder = Folder::new();
    folder.counter();
    let newest = folder.files().into_keys().rfind(|name| name.ends_with(".snapshot")).expect("one");
    let path = folder.path("data").join(&newest);
    let mut bytes = std::fs::read(&path).expect("there");
    *bytes.last_mut().expect("a body") ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let verify = folder.output("verify", &[]);
    assert!(verify.exits(1).contains(&format!("counter: snapshot damaged: snapshot '{newest}' is damaged")));
    assert!(folder.output("services", &[]).exits(1).contains("counter: snapshot damaged"));
    let output = folder.send("counter", &prebuilt("counter"), &[add(1)]);
    assert_eq!(output.exits(0), "7\n");
    assert!(output.stderr.contains("Snapshot damaged: counter"), "{}", output.stderr);
    folder.output("verify", &[]).exits(0);
}

#[test]
fn a_service_whose_workload_is_damaged_or_missing_waits_until_it_is_given_again() {
    let folder = Folder::new();
    folder.counter();
    let workload = folder.files().into_keys().find(|name| name.ends_with(".workload")).expect("one");
    for (word, is_there) in [("damaged", true), ("missing", false)] {
        if is_there {
            folder.damage(".workload", b"\0asm");
        } else {
            std::fs::remove_file(folder.path("data").join(&workload)).expect("removed");
        }
        let reason = format!("'{workload}' is {word}");
        let services = folder.output("services", &[]);
        assert!(services.exits(1).contains(&format!("quarantined: {reason}")), "{}", services.exits(1));
        let verify = folder.output("verify", &[]);
        assert_eq!(verify.exits(1).matches(&reason).count(), 1, "{}", verify.exits(1));
        folder.output("query", &["counter", TOTAL]).exits_with_one_line(1, &[&reason, "put the workload's file there"]);
        let snapshot = folder.command("snapshot", &["counter", "--out"]).arg(folder.path("out")).output();
        snapshot.exits_with_one_line(1, &[&reason, "put the workload's file there again"]);
        let run = folder.run_with(&["--service", "counter"]).output();
        assert_eq!(run.exits(1), "");
        assert!(run.stderr.contains(&reason) && !run.stderr.contains("lifeboat data snapshot"), "{}", run.stderr);
        let output = folder.send("counter", &prebuilt("counter"), &[json!({"query": true, "json": "total"})]);
        assert_eq!(output.exits(0), "6\n");
        folder.output("verify", &[]).exits(0);
    }
}

// How the commands are named.

#[test]
fn the_forms_from_before_the_group_still_work() {
    let folder = Folder::new();
    folder.counter();
    let (data, out) = (folder.path("data"), folder.path("out"));
    let old = |command: &str, arguments: &[&str]| lifeboat([command, "--data"]).arg(&data).args(arguments).output();
    let same: [(&str, &[&str]); 4] =
        [("services", &[]), ("journal", &["counter"]), ("verify", &["--json"]), ("query", &["counter", TOTAL])];
    for (command, arguments) in same {
        assert_eq!(old(command, arguments).exits(0), folder.output(command, arguments).exits(0), "{command}");
    }
    old("snapshot", &["counter", "--out", out.to_str().expect("plain")]).exits(0);
    old("restore", &["--name", "copy", out.to_str().expect("plain")]).exits(0);
    old("resume", &["copy", "--accept-divergence-at", "1"]).exits_with_one_line(2, &["'copy' does not diverge"]);
    old("remove", &["copy", "--yes"]).exits_with_one_line(0, &["copy: removed"]);
}

#[test]
fn the_variable_names_the_directory_of_every_command_of_the_group() {
    let folder = Folder::new();
    folder.counter();
    let with = |arguments: &[&str]| lifeboat(arguments).env("LIFEBOAT_DATA", folder.path("data")).output();
    assert_eq!(with(&["data", "services"]).exits(0), folder.output("services", &[]).exits(0));
    assert_eq!(with(&["data", "query", "counter", TOTAL]).exits(0), "6\n");
    // An old form that a server does not have.
    with(&["verify"]).exits(0);
}

#[test]
fn the_variable_turns_no_command_of_a_server_into_one_on_a_directory() {
    let folder = Folder::new();
    folder.counter();
    let before = folder.files();
    let commands: [(&str, &[&str]); 2] = [("services", &[]), ("query", &["counter", TOTAL])];
    for (command, arguments) in commands {
        let output = lifeboat([command])
            .args(arguments)
            .env("LIFEBOAT_DATA", folder.path("data"))
            .env("LIFEBOAT_PROFILE", "/nowhere")
            .output();
        let remedy = format!("for a data directory, run lifeboat data {command} --data DIR");
        output.exits_with_one_line(5, &["you are not logged in", &remedy]);
    }
    // It did remove from the directory in earlier releases: whoever relied on that would remove from the server now.
    let remove = lifeboat(["remove", "counter", "--yes"]).env("LIFEBOAT_DATA", folder.path("data")).output();
    remove.exits_with_one_line(2, &["LIFEBOAT_DATA names a data directory", "lifeboat data remove counter"]);
    assert_eq!(folder.files(), before);
}

// Directories that cannot be used.

/// Every command, with arguments that would be valid.
const COMMANDS: [&[&str]; 6] = [
    &["services"],
    &["journal", "counter"],
    &["verify"],
    &["query", "counter", TOTAL],
    &["snapshot", "counter", "--out", "out"],
    &["accept-divergence", "counter", "--at", "1"],
];

#[test]
fn a_directory_that_a_host_has_is_refused() {
    let folder = Folder::new();
    folder.counter();
    let file = folder.path("file");
    folder.command("snapshot", &["counter", "--out"]).arg(&file).output().exits(0);
    let mut running = folder.run("counter", &prebuilt("counter")).start();
    running.send(&add(1).to_string());
    assert_eq!(running.line().as_deref(), Some(&b"7\n"[..]));
    for arguments in COMMANDS {
        let output = folder.command(arguments[0], &arguments[1..]).within(folder.0.path()).output();
        output.exits_with_one_line(2, &["in use by another lifeboat"]);
    }
    folder.command("restore", &["--name", "new"]).arg(&file).output().exits_with_one_line(2, &["in use"]);
    assert_eq!(running.finish().exits(0), "");
    folder.output("verify", &[]).exits(0);
}

#[test]
fn wrong_directories_are_refused_with_one_line_without_a_change() {
    let folder = Folder::new();
    let every = |code: i32, words: &[&str]| {
        for arguments in COMMANDS {
            let output = folder.command(arguments[0], &arguments[1..]).within(folder.0.path()).output();
            output.exits_with_one_line(code, words);
        }
    };
    every(2, &["data directory", "there is no such directory; name one that"]);
    std::fs::write(folder.path("data"), "").expect("a file");
    every(2, &["it is not a directory"]);
    std::fs::remove_file(folder.path("data")).expect("removed");
    std::fs::create_dir(folder.path("data")).expect("a directory");
    every(2, &["the directory is empty"]);
    std::fs::write(folder.path("data/letter.txt"), "dear").expect("a file");
    every(2, &["contains other files, such as 'letter.txt'"]);
    assert_eq!(folder.files().into_keys().collect::<Vec<_>>(), ["letter.txt"]);
}

#[test]
fn a_run_does_not_create_the_parent_of_its_data_directory() {
    let folder = Folder::new();
    let run = lifeboat(["run", "--data"]).arg(folder.path("no/data")).arg(prebuilt("counter")).output();
    run.exits_with_one_line(2, &["its parent directory does not exist; create that first"]);
}

#[test]
fn a_command_on_a_directory_needs_the_option_that_names_it() {
    let without = lifeboat(["data", "journal", "bank"]).output();
    assert_eq!(without.exits(2), "");
    assert!(without.stderr.contains("--data <DIR>"), "{}", without.stderr);
}

#[test]
fn a_directory_of_a_newer_host_is_refused_as_such() {
    let folder = Folder::new();
    folder.counter();
    let segment = folder.path("data/0000000001.segment");
    let mut bytes = std::fs::read(&segment).expect("there");
    // Both copies of the header: the version, and then the matching hash.
    for copy in [0, 4096] {
        bytes[copy + 8] = 2;
        let hash = blake3::hash(&bytes[copy..copy + 4064]);
        bytes[copy + 4064..copy + 4096].copy_from_slice(hash.as_bytes());
    }
    std::fs::write(&segment, bytes).expect("writable");
    folder.output("services", &[]).exits_with_one_line(4, &["format version 2", "use a newer host"]);
    folder.output("verify", &[]).exits_with_one_line(4, &["format version 2", "use a newer host"]);
}

#[test]
fn a_damaged_or_missing_catalog_is_reported_without_a_change() {
    let folder = Folder::new();
    folder.counter();
    let catalog = folder.path("data").join("catalog.redb");
    let found = |words: &[&str]| {
        let before = folder.files();
        let verify = folder.output("verify", &[]);
        assert!(verify.exits(1).starts_with("directory damaged: "), "{}", verify.exits(1));
        for word in words {
            assert!(verify.exits(1).contains(word), "{}", verify.exits(1));
        }
        folder.output("services", &[]).exits_with_one_line(1, words);
        folder.run("counter", &prebuilt("counter")).output().exits_with_one_line(1, words);
        assert!(folder.files() == before);
    };
    let remedy = "from the newest copy of the directory";
    folder.damage("catalog.redb", b"counter");
    found(&["'catalog.redb' is damaged: ", remedy, "the journal is unchanged"]);
    std::fs::write(&catalog, "dear").expect("writable");
    found(&[
        "'catalog.redb' is not a catalog: it does not begin as a catalog does; restore it",
        remedy,
        "the journal is unchanged",
    ]);
    std::fs::remove_file(&catalog).expect("removed");
    found(&[
        "it is a data directory, with files such as '",
        "but its catalog.redb is missing or is not a file",
        remedy,
        "nothing was changed",
    ]);
}

#[cfg(unix)]
#[test]
fn a_directory_that_may_not_be_written_is_reported_as_such() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    folder.counter();
    let data = folder.path("data");
    let lock = data.join("lock");
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o444)).expect("changed");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o555)).expect("changed");
    let output = folder.output("services", &[]);
    // Root may open it all the same.
    if std::fs::File::options().write(true).open(&lock).is_err() {
        output.exits_with_one_line(4, &["Permission denied"]);
    } else {
        output.exits(0);
    }
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).expect("changed");
}

#[test]
fn a_service_is_removed_for_good_once_that_is_confirmed() {
    let folder = Folder::new();
    folder.counter();
    folder.send("other", &prebuilt("counter"), &[add(1)]).exits(0);
    let refused = folder.output("remove", &["counter"]);
    refused.exits_with_one_line(2, &["its state after transaction 4, and its history", "--yes"]);
    folder.output("query", &["counter", TOTAL]).exits(0);
    folder.output("remove", &["counter", "--yes"]).exits_with_one_line(0, &["counter: removed"]);
    folder.output("remove", &["counter", "--yes"]).exits_with_one_line(2, &["there is no service 'counter'"]);
    assert!(!folder.files().keys().any(|file| file.starts_with("counter.")));
    // The other service has the same workload, which stays. The name is free, and the new service has none of the old
    // history.
    folder.send("other", &prebuilt("counter"), &[add(1)]).exits(0);
    folder.send("counter", &prebuilt("counter"), &[add(5)]).exits(0);
    assert_eq!(folder.output("query", &["counter", TOTAL]).exits(0).trim(), "5");
    folder.output("verify", &[]).exits(0);
}

// A catalog that is older than the journal.

#[test]
fn a_service_that_an_older_catalog_lacks_comes_back_with_the_right_one() {
    let folder = Folder::new();
    folder.send("other", &prebuilt("counter"), &[add(1)]).exits(0);
    let catalog = folder.path("data").join("catalog.redb");
    let old = std::fs::read(&catalog).expect("readable");
    folder.counter();
    let file = folder.path("portable");
    folder.command("snapshot", &["counter", "--out"]).arg(&file).output().exits(0);
    // The copy has only the snapshot that it was restored from.
    folder.command("restore", &["--name", "copy"]).arg(&file).output().exits(0);
    let right = std::fs::read(&catalog).expect("readable");
    std::fs::write(&catalog, &old).expect("writable");

    let words =
        ["catalog.redb does not contain it", "restore the newest copy of catalog.redb", "lifeboat data remove --data"];
    let names = ["copy", "counter"];
    for command in ["services", "verify"] {
        let output = folder.output(command, &[]);
        let text = output.exits(1).split_whitespace().collect::<Vec<_>>().join(" ");
        for name in names {
            assert!(
                text.contains(&format!("{name}: quarantined: catalog.redb does not contain it, but there are")),
                "{text}"
            );
        }
        assert!(words.iter().all(|words| text.contains(words)), "{text}");
    }
    let json =
        |command: &str| -> Value { serde_json::from_str(folder.output(command, &["--json"]).exits(1)).expect("JSON") };
    let services = json("services");
    assert_eq!((&services["orphans"], &services["ending"]), (&json!(names), &json!([])));
    let shown = json("verify")["orphans"].as_array().expect("a list").clone();
    assert!(shown.iter().map(|orphan| orphan["name"].as_str().expect("text")).eq(names), "{shown:?}");
    folder.output("verify", &["other"]).exits(0);
    for (command, arguments) in
        [("verify", &["counter"][..]), ("journal", &["counter"]), ("query", &["counter", TOTAL])]
    {
        folder.output(command, arguments).exits_with_one_line(1, &words);
    }

    // Whatever is started meanwhile, no service takes its name.
    for _ in 0..2 {
        folder.send("other", &prebuilt("counter"), &[add(1)]).exits(0);
        let run = folder.send("counter", &prebuilt("counter"), &[add(100)]);
        run.exits(1);
        assert!(
            run.stderr.contains("service 'counter' is quarantined: catalog.redb does not contain it"),
            "{}",
            run.stderr
        );
        let restored = folder.command("restore", &["--name", "counter"]).arg(&file).output();
        restored.exits(1);
        assert!(restored.stderr.contains("service 'counter' is quarantined"), "{}", restored.stderr);
    }
    std::fs::write(&catalog, &right).expect("writable");
    for name in names {
        assert_eq!(folder.output("query", &[name, TOTAL]).exits(0).trim(), "6");
    }
    folder.output("verify", &[]).exits(0);

    std::fs::write(&catalog, &old).expect("writable");
    folder
        .output("remove", &["counter"])
        .exits_with_one_line(2, &["catalog.redb does not contain it: there are records", "--yes"]);
    folder.output("remove", &["counter", "--yes"]).exits_with_one_line(0, &["counter: removed"]);
    folder.output("remove", &["counter", "--yes"]).exits_with_one_line(2, &["there is no service 'counter'"]);
    let services = json("services");
    assert_eq!((&services["orphans"], &services["ending"]), (&json!(["copy"]), &json!(["counter"])));
    folder.send("counter", &prebuilt("counter"), &[add(5)]).exits(0);
    assert_eq!(folder.output("query", &["counter", TOTAL]).exits(0).trim(), "5");
}
