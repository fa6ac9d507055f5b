use std::fs;
use std::path::PathBuf;

use lifeboat_guest::{StateReader, dispatch, snapshot, testing};
use tempfile::TempDir;

use super::*;

/// An archive whose files are in a temporary directory.
struct Site {
    archive: Archive,
    disk: TempDir,
}

impl Site {
    fn new() -> Self {
        let disk = tempfile::tempdir().expect("a temporary directory");
        let files = Files::at(disk.path().join("documents"));
        Self { archive: Archive { files, ..Archive::default() }, disk }
    }

    /// Returns an archive that has document `a`, with the text `one`.
    fn with_a() -> Self {
        let mut site = Self::new();
        assert_eq!(site.run(r#"{"put":{"name":"a","text":"one"}}"#), r#"{"bytes":3,"documents":1}"#);
        site
    }

    fn run(&mut self, transaction: &str) -> String {
        text(dispatch::execute(&mut self.archive, &Context::default(), transaction.as_bytes()))
    }

    fn ask(&self, query: &str) -> String {
        text(dispatch::query(&self.archive, &Context::default(), query.as_bytes()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join("documents").join(name)
    }

    /// Returns the exported state.
    fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        snapshot::save(&self.archive, &mut state).expect("it has an encoding");
        state
    }

    /// Replaces the archive by its exported state, over the same directory.
    fn move_state(&mut self) {
        let mut moved: Archive =
            snapshot::restore(Archive::STATE_VERSION, StateReader::from(self.state())).expect("it is whole");
        moved.files = Files::at(self.disk.path().join("documents"));
        assert_eq!(moved, self.archive);
        self.archive = moved;
    }

    /// Returns the text of every file, by name.
    fn texts(&self) -> BTreeMap<Box<str>, String> {
        let Ok(entries) = fs::read_dir(self.path("")) else { return BTreeMap::new() };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .map(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
                (name.into(), fs::read_to_string(&path).expect("a text"))
            })
            .collect()
    }

    fn assert_agreement(&self, after: &str) {
        let texts = self.texts();
        let files: BTreeMap<_, _> = texts.iter().map(|(name, text)| (name.clone(), text.len() as u64)).collect();
        assert_eq!(files, self.archive.documents, "after {after}");
        let (documents, bytes) = (files.len(), files.values().sum::<u64>());
        let stats = format!(r#"{{"documents":{documents},"bytes":{bytes},"disk_bytes":{bytes}}}"#);
        assert_eq!(self.ask(r#""stats""#), stats, "after {after}");
        for (name, text) in texts {
            let answer = serde_json::json!({ "text": text }).to_string();
            assert_eq!(self.ask(&format!(r#"{{"get":"{name}"}}"#)), answer, "after {after}");
        }
    }
}

fn text(outcome: Result<Vec<u8>, String>) -> String {
    match outcome {
        Ok(bytes) => String::from_utf8(bytes).expect("JSON is UTF-8"),
        Err(reason) => format!("refused: {reason}"),
    }
}

#[test]
fn files_follow_every_change_to_the_documents() {
    let mut site = Site::new();
    assert_eq!(site.ask(r#""stats""#), r#"{"documents":0,"bytes":0,"disk_bytes":0}"#);
    assert_eq!(site.run(r#"{"put":{"name":"a","text":"one"}}"#), r#"{"bytes":3,"documents":1}"#);
    assert_eq!(site.run(r#"{"append":{"name":"a","text":" two"}}"#), r#"{"bytes":7,"documents":1}"#);
    assert_eq!(site.ask(r#"{"get":"a"}"#), r#"{"text":"one two"}"#);
    assert_eq!(site.run(r#"{"put":{"name":"b.txt","text":"é"}}"#), r#"{"bytes":2,"documents":2}"#);
    assert_eq!(site.ask(r#""stats""#), r#"{"documents":2,"bytes":9,"disk_bytes":9}"#);
    assert_eq!(site.run(r#"{"put":{"name":"a","text":"3"}}"#), r#"{"bytes":1,"documents":2}"#);
    assert_eq!(fs::read_to_string(site.path("a")).expect("a file"), "3");
    assert_eq!(site.run(r#"{"delete":"a"}"#), r#"{"documents":1}"#);
    assert_eq!(site.ask(r#"{"get":"a"}"#), r#"refused: unknown document "a""#);
    assert_eq!(site.run(r#"{"delete":"b.txt"}"#), r#"{"documents":0}"#);
    assert_eq!(site.run(r#"{"put":{"name":"a","text":"new"}}"#), r#"{"bytes":3,"documents":1}"#);
    site.assert_agreement("the last transaction");
}

#[test]
fn find_returns_sorted_names_with_the_prefix() {
    let mut site = Site::new();
    for name in ["b-2", "a", "c", "b-10", "b", "b-1"] {
        site.run(&format!(r#"{{"put":{{"name":"{name}","text":"t"}}}}"#));
    }
    assert_eq!(site.ask(r#"{"find":"b-"}"#), r#"{"names":["b-1","b-10","b-2"]}"#);
    assert_eq!(site.ask(r#"{"find":""}"#), r#"{"names":["a","b","b-1","b-10","b-2","c"]}"#);
    assert_eq!(site.ask(r#"{"find":"d"}"#), r#"{"names":[]}"#);
}

#[test]
fn find_returns_the_first_hundred_names() {
    let mut site = Site::new();
    for number in 0..150 {
        site.run(&format!(r#"{{"put":{{"name":"n-{number:03}","text":"t"}}}}"#));
    }
    let first: Vec<Box<str>> = (0..100).map(|number| format!("n-{number:03}").into()).collect();
    assert_eq!(site.archive.find("n-"), first);
    assert_eq!(site.archive.find("n-1").len(), 50);
}

#[test]
fn refused_transactions_change_nothing() {
    let mut site = Site::with_a();
    let (documents, texts) = (site.archive.documents.clone(), site.texts());
    let put = |name: &str, text: &str| serde_json::json!({ "put": { "name": name, "text": text } }).to_string();
    let append = |name: &str, text: &str| serde_json::json!({ "append": { "name": name, "text": text } }).to_string();
    let allowed = "only a-z, 0-9, '-', '_' and '.' are allowed";
    for (transaction, reason) in [
        (put("", "one"), "document name is 0 bytes, 1 to 64 are allowed".to_owned()),
        (put(&"n".repeat(65), "one"), "document name is 65 bytes, 1 to 64 are allowed".to_owned()),
        (put("Aa", "one"), format!(r#"document name "Aa" contains 'A', {allowed}"#)),
        (put("../a", "one"), format!(r#"document name "../a" contains '/', {allowed}"#)),
        (put("a\0", "one"), format!(r#"document name "a\0" contains '\0', {allowed}"#)),
        (put("é", "one"), format!(r#"document name "é" contains 'é', {allowed}"#)),
        (put("a b", "one"), format!(r#"document name "a b" contains ' ', {allowed}"#)),
        (put(".", "one"), r#"document name "." has only dots, at least one other character is needed"#.to_owned()),
        (put("..", "one"), r#"document name ".." has only dots, at least one other character is needed"#.to_owned()),
        (put("...", "one"), r#"document name "..." has only dots, at least one other character is needed"#.to_owned()),
        (put("a", ""), "text is 0 bytes, 1 to 65536 are allowed".to_owned()),
        (put("a", &"t".repeat(65_537)), "text is 65537 bytes, 1 to 65536 are allowed".to_owned()),
        (append("a", ""), "text is 0 bytes, 1 to 65536 are allowed".to_owned()),
        (append("a", &"t".repeat(65_537)), "text is 65537 bytes, 1 to 65536 are allowed".to_owned()),
        (append("b", "one"), r#"unknown document "b""#.to_owned()),
        (append("..", "one"), r#"unknown document "..""#.to_owned()),
        (r#"{"delete":"b"}"#.to_owned(), r#"unknown document "b""#.to_owned()),
    ] {
        assert_eq!(site.run(&transaction), format!("refused: {reason}"));
        assert_eq!((&site.archive.documents, site.texts()), (&documents, texts.clone()));
    }
    assert_eq!(site.ask(r#"{"get":"b"}"#), r#"refused: unknown document "b""#);
}

#[test]
fn bodies_of_another_form_are_refused() {
    let mut site = Site::with_a();
    for body in [
        r#"{"put":{"name":"a","text":"t","mode":1}}"#,
        r#"{"put":{"name":"a"}}"#,
        r#"{"delete":{"name":"a"}}"#,
        r#"{"rename":{"name":"a","to":"b"}}"#,
        r#""stats""#,
    ] {
        let reply = site.run(body);
        assert!(reply.starts_with("refused: cannot decode the transaction"), "{body}: {reply}");
        assert_eq!(site.texts().into_values().collect::<Vec<_>>(), ["one"], "{body}");
    }
}

#[test]
fn names_of_every_allowed_form_have_a_file() {
    let mut site = Site::new();
    let longest = "n".repeat(NAME_MAX_BYTES);
    for name in ["a", "0", "-", "_", ".a", "a.", "..a", "a..b", "report-2026_07.txt", &longest] {
        site.run(&format!(r#"{{"put":{{"name":"{name}","text":"of {name}"}}}}"#));
        assert_eq!(site.ask(&format!(r#"{{"get":"{name}"}}"#)), format!(r#"{{"text":"of {name}"}}"#));
    }
    site.assert_agreement("all names");
}

#[test]
fn document_grows_to_its_limit_and_no_further() {
    let mut site = Site::new();
    let text = "é".repeat(TEXT_MAX_BYTES / 2);
    let bytes = |count: usize| format!(r#"{{"bytes":{},"documents":1}}"#, count * TEXT_MAX_BYTES);
    assert_eq!(site.run(&format!(r#"{{"put":{{"name":"long","text":"{text}"}}}}"#)), bytes(1));
    for count in 2..=16 {
        assert_eq!(site.run(&format!(r#"{{"append":{{"name":"long","text":"{text}"}}}}"#)), bytes(count));
    }
    assert_eq!(
        site.run(r#"{"append":{"name":"long","text":"t"}}"#),
        r#"refused: document "long" would be 1048577 bytes, the limit is 1048576 bytes"#
    );
    site.assert_agreement("the longest document");
}

#[test]
fn state_is_the_index_alone() {
    assert_eq!(testing::shape::<Archive>(), "{documents:[text:u64]}");
    // One entry: a name of one byte, and three bytes.
    assert!(Site::with_a().state().ends_with(&[1, 1, b'a', 3]));
}

#[test]
fn new_and_restored_archives_have_their_files_in_the_same_directory() {
    assert_eq!(Archive::default().files, Files::at("/documents"));
    let state = StateReader::from(Site::with_a().state());
    let restored: Archive = snapshot::restore(Archive::STATE_VERSION, state).expect("it is whole");
    assert_eq!(restored.files, Files::at("/documents"));
}

#[test]
fn stats_show_a_file_that_the_index_lacks() {
    let site = Site::with_a();
    fs::write(site.path("b"), "four").expect("a file");
    assert_eq!(site.ask(r#""stats""#), r#"{"documents":1,"bytes":3,"disk_bytes":7}"#);
}

#[test]
fn stats_show_a_missing_file() {
    let site = Site::with_a();
    fs::remove_file(site.path("a")).expect("a file");
    assert_eq!(site.ask(r#""stats""#), r#"{"documents":1,"bytes":3,"disk_bytes":0}"#);
}

/// Returns the message of the panic that `call` ends with.
fn panic_of(call: impl FnOnce() -> String) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).expect_err("memory and disk disagree");
    *panic.downcast::<String>().expect("a formatted message")
}

#[test]
fn every_use_of_a_missing_file_panics() {
    for (operation, transaction) in [
        ("replace", r#"{"put":{"name":"a","text":"two"}}"#),
        ("open", r#"{"append":{"name":"a","text":"two"}}"#),
        ("remove", r#"{"delete":"a"}"#),
    ] {
        let mut site = Site::with_a();
        fs::remove_file(site.path("a")).expect("a file");
        let message = panic_of(|| site.run(transaction));
        let expected = format!(r#"memory and disk disagree: cannot {operation} the file of document "a": "#);
        assert!(message.starts_with(&expected), "{message}");
    }
    let site = Site::with_a();
    fs::remove_file(site.path("a")).expect("a file");
    let message = panic_of(|| site.ask(r#"{"get":"a"}"#));
    assert!(message.starts_with(r#"memory and disk disagree: cannot read the file of document "a": "#), "{message}");
}

#[test]
fn new_document_panics_if_its_file_exists() {
    let mut site = Site::with_a();
    fs::write(site.path("b"), "four").expect("a file");
    let message = panic_of(|| site.run(r#"{"put":{"name":"b","text":"t"}}"#));
    assert!(message.starts_with(r#"memory and disk disagree: cannot create the file of document "b": "#), "{message}");
    assert_eq!(fs::read_to_string(site.path("b")).expect("a file"), "four");
}

#[test]
fn file_of_another_length_panics() {
    let mut site = Site::with_a();
    fs::write(site.path("a"), "four").expect("a file");
    let expected = r#"memory and disk disagree: the file of document "a" is 4 bytes, the index has 3"#;
    assert_eq!(panic_of(|| site.ask(r#"{"get":"a"}"#)), expected);
    assert_eq!(panic_of(|| site.run(r#"{"append":{"name":"a","text":"t"}}"#)), expected);
}

#[test]
fn sample_keeps_index_and_files_in_agreement() {
    let mut site = Site::new();
    let mut refused = 0;
    for line in include_str!("../../archive.transactions.jsonl").lines() {
        refused += u32::from(site.run(line).starts_with("refused"));
        site.assert_agreement(line);
    }
    assert!(refused > 5 && !site.archive.documents.is_empty());
}

#[test]
fn sample_survives_a_move_after_every_line() {
    let (mut moving, mut staying) = (Site::new(), Site::new());
    for line in include_str!("../../archive.transactions.jsonl").lines() {
        assert_eq!(moving.run(line), staying.run(line), "{line}");
        moving.move_state();
        moving.assert_agreement(line);
    }
    assert_eq!(moving.texts(), staying.texts());
}
