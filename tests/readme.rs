//! The promises of README.md and the pages of docs/, and the links between them. `toolchain.rs` builds README.md's
//! guest example, and `tutorial.rs` follows docs/tutorial.md.

use crate::util::{blocks, lifeboat, readme_blocks, root, shell};
use std::path::Path;
use tempfile::TempDir;

/// The maximum length of a sentence in README.md, in words.
const SENTENCE_WORDS_MAX: usize = 30;

/// Returns the text of a file, by its path from the folder of the workspace.
#[track_caller]
fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the commands of one of a document's blocks.
#[track_caller]
fn commands(document: &str, block: usize) -> Vec<String> {
    let blocks = blocks(document, "sh");
    let block = blocks.get(block).unwrap_or_else(|| panic!("{document} has {} blocks of commands", blocks.len()));
    block.lines().map(str::to_owned).collect()
}

/// Creates a folder for the output of commands, with the sample workloads in it.
fn folder_with_workloads() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(root().join("workloads"), folder.path().join("workloads")).expect("a link");
    folder
}

#[test]
fn two_commands_are_all_the_set_up() {
    assert_eq!(commands("README.md", 0), ["cargo run --release -- simulate", "cargo test --release --workspace"]);
}

#[test]
fn simulate_command_loses_nothing() {
    let commands = commands("README.md", 0);
    // It does not run cargo, which would wait for the build that runs this test.
    let arguments = commands[0].strip_prefix("cargo run --release -- ").expect("the first command runs lifeboat");
    let output = lifeboat(arguments.split(' ')).output();
    let report = output.exits(0);
    assert!(report.contains("lost 0, duplicated 0"), "{report}");
}

#[test]
fn quick_start_prints_what_stands_below_it() {
    let commands = commands("README.md", 1);
    let (install, others) = commands.split_first().expect("a command");
    assert_eq!(install, "cargo install --locked --path host/cli");
    let folder = folder_with_workloads();
    let output = shell(&format!("set -e\n{}", others.join("\n"))).within(folder.path()).output();

    let shown = readme_blocks("text").into_iter().next().expect("README.md has a block of output");
    let (events, replies): (Vec<_>, Vec<_>) =
        shown.lines().partition(|line| line.starts_with("SLA failure: ") || line.starts_with("Trigger "));
    assert!(events.len() >= 2 && replies.len() >= 2, "{shown}");
    let mut printed = output.exits(0).lines();
    for reply in replies {
        assert!(printed.any(|line| line == reply), "no `{reply}`, or not in this order:\n{}", output.exits(0));
    }
    let mut logged = output.stderr.lines().map(before_the_pause);
    for event in events {
        let is_logged = logged.any(|line| line == before_the_pause(event));
        assert!(is_logged, "no `{event}`, or not in this order:\n{}", output.stderr);
    }
}

/// Returns the part of an event's line that is the same in every run.
fn before_the_pause(line: &str) -> &str {
    line.split_once(", pause ").map_or(line, |(before, _)| before)
}

/// Returns the commands that run or inspect a workload.
fn workload_commands() -> [String; 3] {
    commands("README.md", 2).try_into().expect("three commands")
}

#[test]
fn run_command_answers_its_line() {
    let [echo, _, _] = workload_commands();
    assert_eq!(shell(&echo).output().exits(0), "1\n");
}

#[test]
fn ledger_command_fails_over_without_a_difference_in_its_replies() {
    let [_, ledger, _] = workload_commands();
    let tight = shell(&ledger).output();
    let roomy = shell(&ledger.replace("--fuel 200000", "--size huge")).output();
    assert_eq!(tight.exits(1), roomy.exits(1));
    assert!(tight.stderr.contains("Trigger process failover: triggered: "), "{}", tight.stderr);
    assert!(!roomy.stderr.contains("failover:"), "{}", roomy.stderr);
}

#[test]
fn inspect_command_names_its_workload() {
    let [_, _, inspect] = workload_commands();
    assert!(shell(&inspect).output().exits(0).contains("notes.wasm"));
}

#[test]
fn repetition_is_answered_again() {
    let script = commands("docs/transactions.md", 0).join("\n");
    assert_eq!(shell(&script).output().exits(0), "5\n5\n5\n");
}

#[test]
fn commands_for_a_data_directory_print_what_the_document_says() {
    let folder = folder_with_workloads();
    let mut outputs = Vec::new();
    for command in commands("docs/data-directory.md", 0) {
        let output = shell(&command).within(folder.path()).output();
        outputs.push((output.exits(0).to_owned(), command));
    }
    let [create, go_on, services, journal, verify, query, ..] = &outputs[..] else { panic!("others: {outputs:?}") };
    assert_eq!((&*create.0, &*go_on.0, &*query.0), ("40\n", "42\n", "40\n"));
    assert!(services.0.contains("intact") && journal.0.contains("{\"add\":2} -> ok 42"), "{outputs:?}");
    assert!(verify.0.contains("bank: proven from transaction 0 to 2"), "{}", verify.0);
}

#[test]
fn whole_counter_is_under_15_lines() {
    let example = readme_blocks("rust").into_iter().next().expect("README.md has a block of Rust");
    let lines = example.lines().filter(|line| !line.is_empty()).count();
    assert!(example.contains("#[workload]") && lines < 15, "{lines} lines: {example}");
}

#[test]
fn whole_counter_is_the_one_of_the_guest_crate() {
    let example = readme_blocks("rust").into_iter().next().expect("README.md has a block of Rust");
    let tested = text("guest/tests/pass/counter.rs");
    let (workload, _) = tested.split_once("\nfn main").expect("the workload comes first");
    assert_eq!(example.trim_end(), workload.trim_end(), "guest/tests/pass/counter.rs runs another one");
    let documented: String = text("guest/src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.trim_start_matches(' ')))
        .collect();
    let unindented = |text: &str| text.lines().map(|line| format!("{}\n", line.trim_start())).collect::<String>();
    let manifest = readme_blocks("toml").into_iter().find(|block| block.contains("[lib]")).expect("its Cargo.toml");
    for block in [&example, &manifest] {
        assert!(documented.contains(&unindented(block)), "guest/src/lib.rs shows another one than\n{block}");
    }
    assert!(example.contains("checked_add") && manifest.contains("overflow-checks = true"));
}

/// Returns the lines of a document outside of its fenced blocks.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    document.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_fence && !is_code
    })
}

/// Returns the paragraphs of a document. Each heading, list item and table cell is a separate one.
fn paragraphs(document: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in prose(document).map(str::trim) {
        let is_whole = line.is_empty() || line.starts_with('#') || line.starts_with('|');
        if is_whole || line.starts_with("- ") {
            paragraphs.push(String::new());
        }
        if line.starts_with('|') {
            paragraphs.extend(line.split('|').map(str::to_owned));
        } else if let Some(paragraph) = paragraphs.last_mut() {
            paragraph.push_str(line);
            paragraph.push(' ');
        }
        if is_whole {
            paragraphs.push(String::new());
        }
    }
    paragraphs
}

/// Returns the sentences of a document that are too long, with their number of words.
fn long_sentences(document: &str) -> Vec<String> {
    let ends_sentence = |word: &&str| word.trim_end_matches([')', '"', '*']).ends_with(['.', '!', '?']);
    let mut long = Vec::new();
    for paragraph in paragraphs(document) {
        let words: Vec<&str> =
            paragraph.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).collect();
        for sentence in words.split_inclusive(ends_sentence) {
            if sentence.len() > SENTENCE_WORDS_MAX {
                long.push(format!("{} words: {}", sentence.len(), sentence.join(" ")));
            }
        }
    }
    long
}

#[test]
fn no_sentence_of_readme_is_longer_than_30_words() {
    let long = long_sentences(&text("README.md"));
    assert!(long.is_empty(), "at most {SENTENCE_WORDS_MAX} words, split these:\n{}", long.join("\n"));
}

#[test]
fn a_long_sentence_is_noticed_wherever_it_stands() {
    let [short, long] = [SENTENCE_WORDS_MAX, SENTENCE_WORDS_MAX + 1].map(|count| vec!["word"; count].join(" "));
    for (document, expected) in [
        (format!("{short}. {short}.\n"), 0),
        (format!("({short}.) {short}\n\n{short}\n"), 0),
        (format!("# {short}\n{short}\n"), 0),
        (format!("- {short}\n- {short}\n"), 0),
        (format!("| {short} | {short} |\n|---|---|\n"), 0),
        (format!("```sh\n{long}\n```\n"), 0),
        (format!("{long}.\n"), 1),
        (format!("{short}\nword.\n"), 1),
        (format!("- {short}\n  word\n- {long}\n"), 2),
        (format!("| word | {long} |\n"), 1),
        (format!("```sh\n```\n{long}\n"), 1),
    ] {
        assert_eq!(long_sentences(&document).len(), expected, "{document}");
    }
}

/// Returns the names of the pages of docs/.
fn pages() -> Vec<String> {
    let folder = std::fs::read_dir(root().join("docs")).expect("docs/");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8"));
    let mut pages: Vec<String> =
        names.filter(|name| Path::new(name).extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    pages
}

/// Returns the documents whose links are checked.
fn documents() -> Vec<String> {
    let pages = pages().into_iter().map(|page| format!("docs/{page}"));
    ["README.md", "ARCHITECTURE.md"].map(str::to_owned).into_iter().chain(pages).collect()
}

/// Returns the targets of the links of a document.
fn links(document: &str) -> Vec<String> {
    let prose = prose(document).collect::<Vec<_>>().join("\n");
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// Returns the anchor of each heading of a document, as links write it after `#`.
fn anchors(document: &str) -> Vec<String> {
    let headings = prose(document).filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|it| it.is_alphanumeric() || matches!(it, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

/// Returns the links of a document to missing files and headings.
fn broken_links(path: &Path, document: &str) -> Vec<String> {
    let leads_somewhere = |link: &str| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let has_anchor = |text: &str| anchor.is_empty() || anchors(text).iter().any(|it| it == anchor);
        let target = path.with_file_name("").join(file);
        match file {
            "" => has_anchor(document),
            _ if target.is_dir() => anchor.is_empty(),
            _ => std::fs::read_to_string(&target).is_ok_and(|text| has_anchor(&text)),
        }
    };
    links(document).into_iter().filter(|link| !link.contains("://") && !leads_somewhere(link)).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let links = broken_links(&root().join(&document), &text(&document));
        broken.extend(links.into_iter().map(|link| format!("{document}: {link}")));
    }
    assert!(broken.is_empty(), "links to what is not there:\n{}", broken.join("\n"));
}

#[test]
fn a_broken_link_is_noticed() {
    let page = root().join("docs/limits.md");
    for (link, is_right) in [
        ("https://example.org/nowhere.md", true),
        ("limits.md", true),
        ("../README.md", true),
        ("../docs", true),
        ("#a-page-of-hostcli", true),
        ("configuration.md#servertls", true),
        ("README.md.md", false),
        ("docs/limits.md", false),
        ("#a-heading-that-is-none", false),
        ("configuration.md#a-heading-that-is-none", false),
    ] {
        let document = format!("# A page (of `host/cli`)\n\nSee [this]({link}).\n");
        assert_eq!(broken_links(&page, &document).is_empty(), is_right, "{link}");
    }
}

#[test]
fn index_of_the_documentation_links_every_page() {
    let linked = links(&text("docs/README.md"));
    let missing: Vec<_> = pages().into_iter().filter(|page| page != "README.md" && !linked.contains(page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not link {missing:?}");
}

#[test]
fn every_command_is_in_the_list_of_commands() {
    let output = lifeboat(["--help"]).output();
    let (_, help) = output.exits(0).split_once("\nUsage: ").expect("a list of commands");
    let (help, _) = help.split_once("\nOptions:\n").expect("its end");
    let mut names = commands_of(help);
    assert!(names.len() > 20, "{names:?}");
    let of_data = lifeboat(["data", "--help"]).output();
    let (_, of_data) = of_data.exits(0).split_once("\nCommands:\n").expect("a list of commands");
    let of_data = commands_of(of_data.split("\n\n").next().expect("its end"));
    assert!(of_data.len() == 11, "ten and help: {of_data:?}");
    names.extend(of_data.iter().filter(|name| *name != "help").map(|name| format!("data {name}")));
    let list = text("docs/commands.md");
    let is_listed = |name: &String| list.contains(&format!("`{name}`")) || list.contains(&format!("`{name} "));
    let missing: Vec<_> = names.into_iter().filter(|name| !is_listed(name)).collect();
    assert!(missing.is_empty(), "docs/commands.md does not list {missing:?}");
}

/// Returns the commands of a list in a help text.
fn commands_of(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn install_commands_name_a_folder_with_a_command() {
    for document in documents() {
        for line in text(&document).lines().filter(|line| line.contains("cargo install ")) {
            let (_, path) = line.split_once("--path ").unwrap_or_else(|| panic!("{document}: {line}"));
            let path = path.split([' ', '`', ',', '.']).next().unwrap_or_default();
            let manifest = text(&format!("{path}/Cargo.toml"));
            assert!(manifest.contains("[[bin]]\nname = \"lifeboat\"\n"), "{document}: {line}");
        }
    }
}
