//! `lifeboat data disk`: the files of a service of a data directory.

use crate::util::{Output, lifeboat, prebuilt};
use serde_json::Value;
use std::path::PathBuf;

/// A folder with a data directory of the archive, deleted at the end of the test.
struct Folder(tempfile::TempDir);

impl Folder {
    /// Runs these transactions, one per line.
    fn with(transactions: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        let input: String = transactions.iter().map(|line| format!("{line}\n")).collect();
        let run = lifeboat(["run", "--service", "vault", "--data"]).arg(folder.path("data"));
        run.arg(prebuilt("archive")).input(input).output().exits(0);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn disk(&self, command: &str, arguments: &[&str]) -> Output {
        let run = lifeboat(["data", "disk", command, "--data"]).arg(self.path("data"));
        run.arg("vault").args(arguments).output()
    }
}

const TWO: [&str; 3] = [
    r#"{"put":{"name":"b.txt","text":"the second"}}"#,
    r#"{"put":{"name":"a.txt","text":"the first"}}"#,
    r#"{"append":{"name":"a.txt","text":", longer"}}"#,
];

#[test]
fn a_directory_is_listed_by_name() {
    let folder = Folder::with(&TWO);
    let root = folder.disk("ls", &[]);
    let root = root.exits(0);
    assert!(root.starts_with("directory  -  20") && root.ends_with("documents\n"), "{root}");
    let listed = folder.disk("ls", &["/documents"]);
    let names: Vec<(&str, &str)> = listed
        .exits(0)
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1], words[words.len() - 1])
        })
        .collect();
    assert_eq!(names, [("17", "a.txt"), ("10", "b.txt")]);
    assert!(listed.stderr.contains("2 entries; the disk of 'vault' uses "), "{}", listed.stderr);
    let lines: Vec<Value> = folder
        .disk("ls", &["--json", "documents/"])
        .exits(0)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!((lines.len(), &lines[0]["name"], &lines[0]["type"]), (2, &"a.txt".into(), &"file".into()));
    assert_eq!(lines[1]["bytes"], 10);
}

#[test]
fn a_file_is_printed_as_it_is_and_as_it_was() {
    let folder = Folder::with(&TWO);
    assert_eq!(folder.disk("cat", &["/documents/a.txt"]).exits(0), "the first, longer");
    assert_eq!(folder.disk("cat", &["--at", "2", "/documents/a.txt"]).exits(0), "the first");
    let words = [
        "'/documents/a.txt' on the disk of 'vault': there is no such file or directory, or a link leads to none; lifeboat",
    ];
    folder.disk("cat", &["--at", "1", "/documents/a.txt"]).exits_with_one_line(2, &words);
    folder.disk("cat", &["/documents"]).exits_with_one_line(2, &["'/documents' on the disk of 'vault': "]);
    folder.disk("cat", &["../../etc/passwd"]).exits_with_one_line(2, &["'../../etc/passwd' on the disk of 'vault': "]);
    folder.disk("cat", &["--at", "9", "/documents/a.txt"]).exits_with_one_line(2, &["transaction 9 is not retained"]);
}

#[test]
fn files_are_copied_into_a_new_directory() {
    let folder = Folder::with(&TWO);
    let out = folder.path("out");
    let copied = folder.disk("export", &["--out", out.to_str().expect("UTF-8")]);
    copied.exits(0);
    assert!(copied.stderr.contains("out' has 2 files with 27 B"), "{}", copied.stderr);
    let read = |path: &str| std::fs::read_to_string(out.join(path)).expect("it was copied");
    assert_eq!((read("documents/a.txt"), read("documents/b.txt")), ("the first, longer".into(), "the second".into()));
    let again = folder.disk("export", &["--out", out.to_str().expect("UTF-8")]);
    again.exits_with_one_line(2, &["exists already; name a new directory"]);
    let nowhere = folder.path("no/where");
    let refused = folder.disk("export", &["--out", nowhere.to_str().expect("UTF-8")]);
    refused.exits_with_one_line(2, &["cannot create ", "name a new directory in one that is there"]);
    let one = folder.path("one");
    folder.disk("export", &["/documents/b.txt", "--out", one.to_str().expect("UTF-8")]).exits(0);
    assert_eq!(std::fs::read_to_string(one.join("b.txt")).expect("it was copied"), "the second");
}
