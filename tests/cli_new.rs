//! `lifeboat new`: what it writes and prints, and what it does not overwrite. The suites `toolchain` and `languages`
//! build the templates.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::util::{blocks, lifeboat, root};

const LANGUAGES: [&str; 7] = ["rust", "js", "python", "assemblyscript", "c", "go", "zig"];

/// Returns the paths of all files below `folder`.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(folder).expect("it is below the folder");
                found.insert(path.to_str().expect("names are UTF-8").to_owned());
            }
        }
    }
    found
}

#[test]
fn new_writes_every_file_of_a_template() {
    for language in LANGUAGES {
        let parent = tempfile::tempdir().expect("a folder");
        lifeboat(["new", language, "my-tally"]).within(parent.path()).output().exits(0);
        let mut expected = files(&root().join("host/cli/templates").join(language));
        assert!(expected.remove("gitignore"), "{language}");
        expected.extend([".gitignore", "transactions.jsonl"].map(str::to_owned));
        if ["js", "python"].contains(&language) {
            expected.insert("wit/vm.wit".to_owned());
        }
        let folder = parent.path().join("my-tally");
        assert_eq!(files(&folder), expected, "{language}");
        for file in expected {
            let text = fs::read_to_string(folder.join(&file)).expect("files are text");
            assert!(!text.contains("{{name}}") && !text.contains("{{sdk}}"), "{language}: {file}");
        }
    }
}

#[test]
fn new_prints_commands_from_the_folder_to_a_run() {
    for language in LANGUAGES {
        let parent = tempfile::tempdir().expect("a folder");
        let output = lifeboat(["new", language, "my-tally"]).within(parent.path()).output();
        let commands: Vec<&str> = output.exits(0).lines().collect();
        assert_eq!(commands[0], "cd my-tally", "{language}");
        let run = commands.last().expect("there are commands");
        assert!(run.starts_with("lifeboat run --fuel ") && run.ends_with("tally.wasm"), "{run}");
        let notes = "wrote my-tally; now test, build and run it:\n\
            while you change it: lifeboat dev builds and serves it anew at each change\n";
        assert_eq!(output.stderr, notes);
    }
}

#[test]
fn guide_shows_the_commands_of_every_language() {
    let shown = blocks("docs/guests.md", "sh");
    let expected = LANGUAGES.map(|language| {
        let parent = tempfile::tempdir().expect("a folder");
        let output = lifeboat(["new", language, "tally"]).within(parent.path()).output();
        format!("lifeboat new {language} tally\n{}", output.exits(0))
    });
    assert_eq!(shown, expected);
}

#[test]
fn new_overwrites_nothing() {
    let parent = tempfile::tempdir().expect("a folder");
    let new = || lifeboat(["new", "c", "tally"]).within(parent.path()).output();
    let folder = parent.path().join("tally");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("counter.c"), "mine").expect("a file");
    new().exits_with_one_line(2, &["'tally' already exists", "choose another name"]);
    assert_eq!(fs::read_to_string(folder.join("counter.c")).expect("the file"), "mine");
    assert_eq!(files(&folder).len(), 1);

    fs::remove_file(folder.join("counter.c")).expect("the file");
    new().exits(0);
    new().exits_with_one_line(2, &["'tally' already exists"]);

    fs::write(parent.path().join("file"), "mine").expect("a file");
    lifeboat(["new", "c", "file"]).within(parent.path()).output().exits_with_one_line(2, &["'file' already exists"]);
}

#[test]
fn new_takes_names_of_packages_alone() {
    let parent = tempfile::tempdir().expect("a folder");
    for name in ["Tally", "9lives", "a_b", "a/b", "../up", ".", "é", &"a".repeat(65)] {
        let output = lifeboat(["new", "c", name]).within(parent.path()).output();
        output.exits_with_one_line(2, &["NAME: '", "is not a name for a workload", "begin with a letter"]);
    }
    lifeboat(["new", "cobol", "tally"])
        .within(parent.path())
        .output()
        .exits_with_one_line(2, &["'cobol' is not one of rust, js, python, assemblyscript, c, go, zig"]);
    assert_eq!(files(parent.path()).len(), 0);
}

#[test]
fn new_finds_the_sdk_or_asks_for_it() {
    let parent = tempfile::tempdir().expect("a folder");
    let new = |arguments: &[&str]| lifeboat(["new"]).args(arguments).within(parent.path()).output();
    new(&["rust", "tally", "--sdk", "."]).exits_with_one_line(2, &["is not the folder guest/", "--sdk DIR"]);
    new(&["c", "tally", "--sdk", "."]).exits_with_one_line(2, &["--sdk is for a workload in Rust"]);
    assert_eq!(files(parent.path()).len(), 0);

    new(&["rust", "tally"]).exits(0);
    let manifest = fs::read_to_string(parent.path().join("tally/Cargo.toml")).expect("the manifest");
    let manifest: toml::Table = manifest.parse().expect("it is TOML");
    let path = manifest["dependencies"]["lifeboat-guest"]["path"].as_str().expect("a path");
    assert_eq!(Path::new(path), fs::canonicalize(root().join("guest")).expect("the SDK"));
    assert_eq!(manifest["profile"]["release"]["overflow-checks"].as_bool(), Some(true));
}
