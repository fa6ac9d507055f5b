//! The output of `lifeboat profile`: its tables, JSON, folded stacks and flame graph. The parts that need no guest are
//! tested in `host/profile`.

use crate::util::{guest, lifeboat, prebuilt, root, transactions};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

struct Profiled {
    json: Value,
    folded: String,
    svg: String,
}

/// Profiles a workload, and reads what that has written.
fn profiled(folder: &Path, more: &[&str], transactions: &Path, workload: &Path) -> Profiled {
    let (folded, svg) = (folder.join("folded"), folder.join("svg"));
    let arguments = ["profile", "--json", "--top", "1000", "--transactions"];
    let run = lifeboat(arguments).arg(transactions).args(more);
    let run = run.args(["--folded"]).arg(&folded).args(["--svg"]).arg(&svg).arg(workload).output();
    let json = serde_json::from_str(run.exits(0)).expect("JSON");
    let read = |file: &Path| std::fs::read_to_string(file).expect("it was written");
    Profiled { json, folded: read(&folded), svg: read(&svg) }
}

/// Adds the names of all fields of a JSON value, also of those within it.
fn add_fields(value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                fields.insert(name.clone());
                add_fields(value, fields);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| add_fields(value, fields)),
        _ => {}
    }
}

/// Returns the sum of the numbers at the ends of folded stacks.
fn sum_of(folded: &str) -> u64 {
    folded.lines().map(|line| line.rsplit_once(' ').expect("two parts").1.parse::<u64>().expect("a number")).sum()
}

/// Returns the fuel of all requests of `lifeboat run`.
fn fuel_of_run(transactions: &Path, workload: &Path) -> u64 {
    let run = lifeboat(["run", "--json", "--size", "huge", "--transactions"]).arg(transactions).arg(workload);
    let output = run.output();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.map(|line| line["fuel_used"].as_u64().expect("a number")).sum()
}

/// Checks that each tag of an XML text is closed in its turn, and that nothing but entities begins with an ampersand.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>') || !open.is_empty(), "{text}");
        for entity in part.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{entity}");
        }
        let name = tag.trim_start_matches('/').split([' ', '/']).next().expect("a name");
        if tag.starts_with('?') || tag.ends_with('/') {
            continue;
        } else if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else {
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("a file");
    file
}

#[test]
fn the_hottest_function_is_first_and_all_numbers_add_up() {
    let folder = tempfile::tempdir().expect("a folder");
    // The first file has every checkpoint, and the second one is so long that parts of it are looked at.
    for (rounds, is_exact) in [("1000", true), ("4000000", false)] {
        let file = write(folder.path(), "transactions", &format!("{rounds}\nrefuse\n{rounds}\n5\n"));
        let work = guest("work.wat");
        let Profiled { json, folded, svg } = profiled(folder.path(), &["--query", "q"], &file, &work);
        assert_eq!(json["exact"], is_exact);
        let fuel = json["fuel"].as_u64().expect("a number");
        assert_eq!(json["transactions"]["fuel"]["total"], fuel_of_run(&file, &work));
        assert_eq!(sum_of(&folded), fuel);
        let functions = json["functions"].as_array().expect("a list");
        let own = |function: &Value| function["own"].as_u64().expect("a number");
        assert_eq!((&functions[0]["name"], functions.iter().map(own).sum::<u64>()), (&"work".into(), fuel));
        assert!(own(&functions[0]) * 100 > fuel * 90, "{json}");
        let not_sampled = functions.iter().find(|function| function["name"] == "(not sampled)").map_or(0, own);
        assert!(not_sampled * 1_000 < fuel, "{not_sampled} of {fuel}");
        assert_eq!((&json["transactions"]["outcomes"]["refused"], &json["queries"]["count"]), (&1.into(), &1.into()));
        assert_well_formed(&svg);
        assert!(svg.contains("<title>work: "), "{svg}");
        let again = profiled(folder.path(), &["--query", "q"], &file, &work);
        assert_eq!((again.json, again.folded, again.svg), (json, folded, svg), "two profiles are equal");
    }
}

#[test]
fn a_profile_of_a_guest_that_calls_the_host_and_fails_has_the_fuel_of_its_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, is_exact) in [("notes", true), ("crunch", false)] {
        let (file, workload) = (transactions(name), prebuilt(name));
        let Profiled { json, folded, svg } = profiled(folder.path(), &["--size", "huge"], &file, &workload);
        assert_eq!(json["transactions"]["fuel"]["total"], fuel_of_run(&file, &workload), "{name}");
        assert_eq!((sum_of(&folded), &json["exact"]), (json["fuel"].as_u64().expect("a number"), &is_exact.into()));
        assert!(json["peak"]["memory_bytes"].as_u64().expect("a number") >= 1 << 20, "{json}");
        assert_well_formed(&svg);
    }
    let file = write(folder.path(), "transactions", "10\nboom\n20\n");
    let (work, of_run) = (guest("work.wat"), fuel_of_run(&file, &guest("work.wat")));
    let Profiled { json, folded, .. } = profiled(folder.path(), &[], &file, &work);
    assert_eq!((sum_of(&folded), &json["transactions"]["outcomes"]["failed"]), (of_run, &1.into()));
}

#[test]
fn functions_with_equal_names_have_rows_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(guest("work.wat")).expect("a guest");
    // The name section calls another function `work`, too. It runs first.
    let twice = text.replace("(func $is (param", "(func $is (@name \"work\") (param");
    assert_ne!(twice, text);
    let (file, twice) = (write(folder.path(), "transactions", "1000\n"), write(folder.path(), "twice.wat", &twice));
    let Profiled { json, .. } = profiled(folder.path(), &[], &file, &twice);
    let functions = json["functions"].as_array().expect("a list");
    let names: Vec<&str> = functions.iter().map(|function| function["name"].as_str().expect("a name")).collect();
    assert!(names[0].starts_with("work (func[") && names[1..].contains(&"work"), "{names:?}");
}

#[test]
fn charges_of_calls_that_wait_or_run_the_allocator_count_for_their_callers() {
    let folder = tempfile::tempdir().expect("a folder");
    let guest = folder.path().join("call.wasm");
    std::fs::write(&guest, &*crate::calls::GUEST).expect("a file");
    let file = write(folder.path(), "transactions", "1Aone\n2Atwo\n0Afour\n");
    let Profiled { json, folded, .. } = profiled(folder.path(), &[], &file, &guest);
    assert_eq!((&json["network"]["calls"], &json["transactions"]["outcomes"]["ok"]), (&3.into(), &3.into()));
    assert!(folded.lines().any(|line| line.contains(";wait;(host) ")), "{folded}");
    assert!(!folded.contains("(yields)"), "it burns less than between two yields: {folded}");

    // Its responses are lists, for which the host calls its allocator.
    let posts = std::fs::read_to_string(transactions("courier")).expect("the sample");
    let posts: Vec<&str> = posts.lines().filter(|line| line.starts_with("{\"post\":")).take(10).collect();
    let file = write(folder.path(), "posts", &posts.join("\n"));
    let Profiled { json, folded, .. } = profiled(folder.path(), &[], &file, &prebuilt("courier"));
    let fuel_max = json["transactions"]["fuel"]["max"].as_u64().expect("a number");
    assert!(json["network"]["calls"].as_u64() >= Some(5) && fuel_max < 100_000, "{json}");
    assert!(folded.contains(";(host) ") && !folded.contains("(yields)"), "{folded}");
}

#[test]
fn a_program_is_profiled_run_by_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "transactions", "one two\nthree\n");
    let wordcount = prebuilt("wordcount");
    let Profiled { json, folded, .. } = profiled(folder.path(), &[], &file, &wordcount);
    // Its environment has other values than in `lifeboat run`, so it burns about as much.
    let of_run = fuel_of_run(&file, &wordcount);
    assert_eq!(sum_of(&folded), json["fuel"].as_u64().expect("a number"));
    assert!(sum_of(&folded).abs_diff(of_run) < of_run / 50, "{folded}");
    assert_eq!((&json["transactions"]["count"], &json["exact"]), (&2.into(), &true.into()));
}

#[test]
fn the_tables_fit_80_columns() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = lifeboat(["profile", "--top", "5", "--query", r#""summary""#, "--transactions"]);
    let output = run.arg(transactions("crunch")).arg(prebuilt("crunch")).output();
    let text = output.exits(0);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.starts_with("       own fuel") && text.contains("\ntransactions "), "{text}");
    assert!(text.contains("more functions; --top COUNT shows them") && text.contains("\npeak memory "), "{text}");
    assert_eq!(output.stderr, "");
    let nowhere = folder.path().join("none/svg");
    let run = lifeboat(["profile", "--svg"]).arg(&nowhere).arg("--transactions").arg(transactions("counter"));
    run.arg(prebuilt("counter")).output().exits_with_one_line(2, &["svg: cannot be written: ", "name a file"]);
}

#[test]
fn the_outcomes_show_that_a_file_is_for_another_workload() {
    let outcomes = |name: &str| {
        let run = lifeboat(["profile", "--transactions"]).arg(transactions(name)).arg(prebuilt("notes")).output();
        run.exits(0).lines().find(|line| line.contains(" transactions: ")).expect("a line").to_owned()
    };
    assert_eq!(outcomes("ledger"), "150 transactions: 0 ok, 150 refused, 0 failed");
    assert!(!outcomes("notes").contains(" 0 ok"));
}

#[test]
fn every_field_of_the_json_is_documented() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "transactions", "10\n");
    let mut fields = BTreeSet::new();
    add_fields(&profiled(folder.path(), &[], &file, &guest("work.wat")).json, &mut fields);
    let document = std::fs::read_to_string(root().join("docs/profile.md")).expect("the page");
    assert!(fields.contains("calls_max"), "{fields:?}");
    for field in fields {
        assert!(document.contains(&format!("`{field}`")), "docs/profile.md lacks {field}");
    }
}

#[test]
fn bytes_have_the_units_of_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(guest("work.wat")).expect("a guest");
    // 40 pages are two and a half MiB.
    let large = text.replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 40)");
    assert_ne!(large, text);
    let (file, large) = (write(folder.path(), "transactions", "10\n"), write(folder.path(), "large.wat", &large));
    let run = |command: &str| {
        let run = lifeboat([command, "--transactions"]).arg(&file).arg(&large).output();
        run.exits(0).to_owned() + &run.stderr
    };
    let profile = run("profile");
    assert!(profile.contains("\npeak memory 2.5 MiB, peak disk 0 B, no calls to the network\n"), "{profile}");
    let usage = run("run");
    assert!(usage.contains(" 2.5 MiB of 16 MiB\n"), "{usage}");
}

#[test]
fn the_files_of_a_profile_are_neither_its_inputs_nor_one_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, work) = (write(folder.path(), "transactions", "10\n"), folder.path().join("work.wat"));
    std::fs::copy(guest("work.wat"), &work).expect("copied");
    let out = folder.path().join("out");
    for (folded, svg) in [(&file, &out), (&out, &work), (&out, &out)] {
        let run = lifeboat(["profile", "--folded"]).arg(folded).arg("--svg").arg(svg);
        let output = run.arg("--transactions").arg(&file).arg(&work).output();
        output.exits_with_one_line(2, &["cannot be written: it is the same file as '", "name another file"]);
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "10\n");
    assert_eq!(std::fs::read(&work).expect("it is there"), std::fs::read(guest("work.wat")).expect("a guest"));
}
