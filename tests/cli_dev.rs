//! `lifeboat dev`: a session of builds and transactions. A build is a copy of a text, so no test needs a compiler.

use crate::util::{Lifeboat, Running, guest, lifeboat, prebuilt};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The sources of a guest: the text that its build copies.
struct Sources(TempDir);

impl Sources {
    fn new(guest: &str) -> Self {
        let sources = Self(tempfile::tempdir().expect("a folder"));
        sources.write(guest);
        sources
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Replaces the source, in one step as an editor does.
    fn write(&self, text: &str) {
        let aside = self.path().join(".aside");
        fs::write(&aside, text).expect("a file");
        fs::rename(aside, self.path().join("next.wat")).expect("renamed");
    }

    fn remove(&self) {
        fs::remove_file(self.path().join("next.wat")).expect("removed");
    }

    /// Creates a session whose build copies the source.
    fn dev(&self, options: &[&str]) -> Lifeboat {
        let of_build = ["dev", "--build", "cp next.wat out.wat", "--workload", "out.wat", "--service", "ant"];
        lifeboat(of_build).args(options).arg(self.path())
    }
}

fn text_of(name: &str) -> String {
    fs::read_to_string(guest(name)).expect("a guest")
}

/// Returns the guest `count.wat`, which answers each transaction with the count after it, with another step.
fn counting_by(step: u64) -> String {
    let text = text_of("count.wat");
    let other = text.replace(
        "(i64.add (global.get $count) (i64.const 1))",
        &format!("(i64.add (global.get $count) (i64.const {step}))"),
    );
    assert!(step == 1 || text != other);
    other
}

/// Creates the named pipe `begun`. Whoever opens it waits until the other end is open, too.
fn fifo_in(folder: &Path) -> PathBuf {
    let fifo = folder.join("begun");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo starts").success());
    fifo
}

/// Sends a line and returns the reply.
#[track_caller]
fn ask(running: &mut Running, line: &str) -> String {
    running.send(line);
    String::from_utf8(running.line().expect("a reply")).expect("text").trim_end().to_owned()
}

#[test]
fn lines_are_transactions_with_their_meters() {
    let sources = Sources::new(&counting_by(1));
    let output = sources.dev(&[]).input("a\nb\n").output();
    assert_eq!(output.exits(0), "1\n2\n");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines[0], "Build: cp next.wat out.wat");
    assert!(lines[1].starts_with("Serving: ant/1 of size small, from out.wat ("), "{}", output.stderr);
    for line in &lines[2..4] {
        assert!(line.contains(" fuel: ant/1 cpu 0.0%, ") && line.ends_with(" disk 0.0%"), "{line}");
    }
    assert_eq!(lines[4], "Ended: 2 requests (2 ok), 0 failovers, 0 reloads, 1 build (0 failed)");
    assert_eq!(lines.len(), 5, "{}", output.stderr);
}

#[test]
fn commands_begin_with_one_colon() {
    let sources = Sources::new(&counting_by(1));
    let output = sources.dev(&[]).input("::a\n:query b\n:meters\n:help\n:quit\nnever\n").output();
    assert_eq!(output.exits(0), "1\n1\n");
    for words in ["after 2 requests and 0 failovers", "  :fresh", "Ended: 2 requests (2 ok)"] {
        assert!(output.stderr.contains(words), "{words}: {}", output.stderr);
    }
    let output = sources.dev(&[]).input(":relaod\n").output();
    assert_eq!(output.exits(1), "");
    assert!(output.stderr.contains("Unknown command: :relaod; :help shows"), "{}", output.stderr);
}

#[test]
fn reload_keeps_the_state() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    sources.write(&counting_by(10));
    running.send(":reload");
    let line = running.tells("Reloaded: ");
    assert!(line.starts_with("Reloaded: ant/1 -> ant/2 (state 8 B, pause "), "{line}");
    assert_eq!(ask(&mut running, "a"), "11");
    let output = running.finish();
    output.exits(0);
    assert!(output.stderr.contains(", 1 reload, "), "{}", output.stderr);
    assert!(!output.stderr.contains("Replaced: "), "the reload is reported once: {}", output.stderr);
}

#[test]
fn lines_after_a_reload_wait_for_the_new_guest() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    sources.write(&counting_by(10));
    // The third line is sent before the build has ended.
    running.send(":reload\na");
    assert_eq!(running.line().as_deref(), Some(&b"11\n"[..]));
    running.finish().exits(0);
}

#[test]
fn change_is_built_and_reloaded_without_an_order() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    sources.write(&counting_by(10));
    running.tells("Changed: next.wat");
    running.tells("Build: ");
    running.tells("Reloaded: ant/1 -> ant/2");
    assert_eq!(ask(&mut running, "a"), "11");
    running.finish().exits(0);
}

#[test]
fn unchanged_module_is_not_reloaded() {
    let sources = Sources::new(&counting_by(1));
    let output = sources.dev(&[]).input("a\n:reload\na\n").output();
    assert_eq!(output.exits(0), "1\n2\n");
    assert!(output.stderr.contains("Unchanged: the module is the one that ant runs\n"), "{}", output.stderr);
    assert!(output.stderr.contains(", 0 reloads, 2 builds"), "{}", output.stderr);
}

#[test]
fn guest_that_refuses_the_state_leaves_the_old_one_and_begins_with_an_empty_state_when_asked() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    sources.write(&text_of("refuse-restore.wat"));
    running.send(":reload");
    let line = running.tells("Not reloaded: ");
    for words in ["does not accept the state", "restore returned an error", "goes on", ":fresh begins with an empty"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert_eq!(ask(&mut running, "a"), "2");
    running.send(":fresh");
    running.tells("Serving: ant/1 ");
    assert_eq!(ask(&mut running, "a"), "1");
    running.finish().exits(0);
}

#[test]
fn guest_goes_on_after_a_failed_build_whose_output_is_shown() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    sources.remove();
    running.send(":reload");
    running.tells("next.wat");
    running.tells("Build failed: exit code 1");
    running.tells("The guest of ant goes on");
    assert_eq!(ask(&mut running, "a"), "2");
    running.finish().exits(1);
}

#[test]
fn module_that_the_loader_refuses_is_a_failed_build() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    sources.write("(module)");
    running.send(":reload");
    running.tells("Build failed: ");
    assert_eq!(ask(&mut running, "a"), "2");
    running.finish().exits(1);
}

#[test]
fn session_whose_first_build_fails_waits_for_a_change() {
    let sources = Sources::new("(module");
    let mut running = sources.dev(&[]).start();
    running.tells("Build failed: ");
    running.tells("No guest runs; a change or :reload builds again");
    let denied: Value = serde_json::from_str(&ask(&mut running, "a")).expect("JSON");
    assert_eq!(denied["outcome"], json!("denied"));
    assert!(denied["cause"].as_str().is_some_and(|cause| cause.contains("no guest runs")), "{denied}");
    sources.write(&counting_by(1));
    running.tells("Serving: ant/1 ");
    assert_eq!(ask(&mut running, "a"), "1");
    running.finish().exits(1);
}

#[test]
fn failovers_are_shown_and_no_reply_shows_them() {
    let sources = Sources::new(&counting_by(1));
    let output = sources.dev(&["--fuel", "10000"]).input("a\n".repeat(200)).output();
    let expected: String = (1..=200).map(|count| format!("{count}\n")).collect();
    assert_eq!(output.exits(0), expected);
    for words in ["SLA failure: ant/1 cpu 9", "Trigger process failover: triggered: ant/1 on m1 -> ant/2 on m2"] {
        assert!(output.stderr.contains(words), "{words}: {}", output.stderr);
    }
    assert!(!output.stderr.contains(", 0 failovers"), "{}", output.stderr);
}

#[test]
fn failover_can_be_ordered() {
    let sources = Sources::new(&counting_by(1));
    let output = sources.dev(&[]).input("a\n:failover\na\n").output();
    assert_eq!(output.exits(0), "1\n2\n");
    assert!(output.stderr.contains("-> ant/2 on m2"), "{}", output.stderr);
    assert!(output.stderr.contains(" fuel: ant/2 cpu 0.0%"), "{}", output.stderr);
}

#[test]
fn nothing_that_was_answered_is_lost_in_a_session_of_everything() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&["--fuel", "10000", "--envelope"]).start();
    let mut total = 0;
    let mut id = 0;
    let mut count = |running: &mut Running, step: u64| {
        for _ in 0..30 {
            (total, id) = (total + step, id + 1);
            assert_eq!(ask(running, &format!("{{\"id\":\"{id}\",\"text\":\"a\"}}")), total.to_string());
        }
    };
    count(&mut running, 1);
    sources.write(&counting_by(10));
    running.send(":reload");
    running.tells("Reloaded: ");
    count(&mut running, 10);
    sources.write(&text_of("panic-restore.wat"));
    running.send(":reload");
    running.tells("Not reloaded: ");
    count(&mut running, 10);
    sources.remove();
    running.send(":reload");
    running.tells("Build failed: ");
    running.send(":failover");
    count(&mut running, 10);
    sources.write(&counting_by(100));
    running.send(":reload");
    running.tells("Reloaded: ");
    count(&mut running, 100);
    // A repetition is answered as it was, whoever runs now.
    assert_eq!(ask(&mut running, "{\"id\":\"1\",\"text\":\"a\"}"), "1");
    running.finish().exits(0);
}

#[test]
fn json_prints_one_object_per_line() {
    let sources = Sources::new(&counting_by(1));
    let output = sources.dev(&["--json"]).input("a\n:failover\n:reload\n:help\n").output();
    let replies = output.json_lines();
    assert_eq!((&replies[0]["outcome"], replies.len()), (&json!("ok"), 1));
    assert!(replies[0]["fuel_used"].as_u64().is_some_and(|fuel| fuel > 0), "{replies:?}");
    let events = output.events();
    let notices: Vec<&str> = events.iter().filter_map(|event| event["dev"].as_str()).collect();
    assert_eq!(notices, ["building", "serving", "building", "unchanged", "help", "ended"]);
    assert!(events.iter().any(|event| event["event"] == "failover"), "{events:?}");
    assert!(events.iter().any(|event| event["usage"]["vm"] == "ant/1"), "{events:?}");
    let ended = events.last().expect("the last one");
    assert_eq!((&ended["ok"], &ended["failovers"], &ended["builds"]), (&json!(1), &json!(1), &json!(2)));
    sources.remove();
    let failed = sources.dev(&["--json"]).output();
    failed.exits(1);
    let notice = failed.events().into_iter().find(|event| event["dev"] == "build_failed").expect("it is reported");
    assert_eq!(notice["reason"], json!("exit code 1"));
    assert!(notice["output"].as_str().is_some_and(|output| output.contains("next.wat")), "{notice}");
}

#[test]
fn interruption_ends_the_session_and_its_build() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = fifo_in(folder.path());
    // The inner shell reads the fifo as long as it runs.
    let running = lifeboat(["dev", "--build", "sh -c 'cat begun; true'; true"]).arg(folder.path()).start();
    let mut writer = fs::OpenOptions::new().write(true).open(&fifo).expect("the build opens it as well");
    running.signal("INT");
    let output = running.finish();
    output.exits(1);
    assert!(output.stderr.contains("Ended: 0 requests, "), "{}", output.stderr);
    assert!(writer.write_all(b"x").is_err(), "nobody reads it any more");
}

#[test]
fn interruption_names_the_lines_that_waited() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("out.wat"), counting_by(1)).expect("a file");
    let fifo = fifo_in(folder.path());
    // The second build reads the fifo until somebody ends it.
    let build = "mkdir one || cat begun";
    let mut running =
        lifeboat(["dev", "--build", build, "--workload", "out.wat", "--service", "ant"]).arg(folder.path()).start();
    running.tells("Serving: ant/1 ");
    running.send(":reload\na\nb");
    let _writer = fs::OpenOptions::new().write(true).open(&fifo).expect("the build opens it as well");
    running.signal("INT");
    let output = running.finish();
    assert_eq!(output.exits(1), "");
    for line in ["Not done: 2 lines that waited\n", "Ended: 0 requests, "] {
        assert!(output.stderr.contains(line), "{line}: {}", output.stderr);
    }
}

#[test]
fn interruption_leaves_the_outcome_of_a_request_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    // It accepts the call of the request, and never answers it.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = format!("http://{}", server.local_addr().expect("bound"));
    let dev =
        lifeboat(["dev", "--service", "ant", "--allow-net", target.as_str(), "--workload"]).arg(prebuilt("courier"));
    let mut running = dev.arg(folder.path()).start();
    running.send(&json!({ "post": { "to": format!("{target}/in"), "parcel": "text" } }).to_string());
    let _connection = server.accept().expect("the guest calls");
    running.signal("INT");
    let output = running.finish();
    assert_eq!(output.exits(1), "");
    assert!(output.stderr.contains("Ended: 1 request (1 of unknown outcome), "), "{}", output.stderr);
}

#[test]
fn order_during_a_build_reports_that_the_build_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("out.wat"), counting_by(1)).expect("a file");
    let fifo = fifo_in(folder.path());
    // The second build reads the fifo until somebody ends it.
    let build = "mkdir one || mkdir two || exit 0; test ! -e two || cat begun";
    let mut running =
        lifeboat(["dev", "--build", build, "--workload", "out.wat", "--service", "ant"]).arg(folder.path()).start();
    running.tells("Serving: ant/1 ");
    fs::write(folder.path().join("source"), "new").expect("a file");
    let _writer = fs::OpenOptions::new().write(true).open(&fifo).expect("the build opens it as well");
    running.send(":reload");
    assert_eq!(running.tells("Build ended: "), "Build ended: :reload begins it anew\n");
    running.tells("Unchanged: ");
    running.finish().exits(0);
}

#[test]
fn replies_that_nobody_reads_end_the_session() {
    let sources = Sources::new(&counting_by(1));
    let mut running = sources.dev(&[]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    running.hang_up();
    // The pipe breaks at one of the next replies, and the input stays open.
    running.send(&vec!["a"; 20_000].join("\n"));
    running.tells("Ended: ");
    running.finish();
}

#[test]
fn folder_without_a_build_is_refused_with_the_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = lifeboat(["dev"]).arg(folder.path()).output();
    output.exits_with_one_line(2, &["has no Cargo.toml, package.json or Makefile", "--build", "--workload"]);
    let output = lifeboat(["dev"]).arg(folder.path().join("missing")).output();
    output.exits_with_one_line(2, &["missing", "No such file or directory"]);
}

#[test]
fn folder_for_the_disk_is_checked_before_the_first_build_and_before_the_old_guest_ends() {
    let sources = Sources::new(&counting_by(1));
    let site = sources.path().join("site");
    let dir = format!("{}::/site", site.display());
    let output = sources.dev(&["--dir", &dir]).output();
    output.exits_with_one_line(2, &["--dir: ", "site' cannot be on a virtual disk: No such file"]);
    fs::create_dir(&site).expect("a folder");
    let mut running = sources.dev(&["--dir", &dir]).start();
    assert_eq!(ask(&mut running, "a"), "1");
    fs::remove_dir(&site).expect("removed");
    running.send(":fresh");
    let line = running.tells("Not reloaded: --dir: ");
    assert!(line.contains("the old guest of ant goes on; mend that, and send :fresh again"), "{line}");
    assert_eq!(ask(&mut running, "a"), "2");
    running.finish().exits(1);
}

#[test]
fn query_may_be_as_long_as_a_transaction() {
    let sources = Sources::new(&counting_by(1));
    let longest = "a".repeat(1024 * 1024);
    let output = sources.dev(&[]).input(format!("{longest}\n:query {longest}\n")).output();
    assert_eq!(output.exits(0), "1\n1\n");
}

#[test]
fn module_without_a_build_is_watched_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let module = folder.path().join("out.wat");
    fs::write(&module, counting_by(1)).expect("a file");
    let mut running = lifeboat(["dev", "--workload", "out.wat", "--service", "ant"]).arg(folder.path()).start();
    assert_eq!(ask(&mut running, "a"), "1");
    fs::write(&module, counting_by(10)).expect("a file");
    running.tells("Changed: out.wat");
    running.tells("Reloaded: ");
    assert_eq!(ask(&mut running, "a"), "11");
    let output = running.finish();
    output.exits(0);
    let ended = "\nEnded: 2 requests (2 ok), 0 failovers, 1 reload\n";
    assert!(output.stderr.ends_with(ended), "it counts no builds: {}", output.stderr);
}

#[test]
fn module_without_a_build_that_is_missing_or_invalid_is_not_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("bad.wat"), "(module").expect("a file");
    let dev = |module: &str| lifeboat(["dev", "--workload", module]).arg(folder.path()).output();
    let missing = dev("missing.wat");
    missing.exits(1);
    let expected = "Not loaded: there is no 'missing.wat'; name another file with --workload\n";
    assert!(missing.stderr.starts_with(expected), "{}", missing.stderr);
    assert!(missing.stderr.ends_with("\nEnded: 0 requests, 0 failovers, 0 reloads\n"), "{}", missing.stderr);
    let bad = dev("bad.wat");
    bad.exits(1);
    assert!(bad.stderr.starts_with("Not loaded: `bad.wat`: invalid WebAssembly text at line 1"), "{}", bad.stderr);
}

#[test]
fn makefile_and_the_name_of_the_folder_are_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let ant = folder.path().join("ant");
    fs::create_dir(&ant).expect("a folder");
    fs::copy(prebuilt("counter"), ant.join("counter.bin")).expect("copied");
    fs::write(ant.join("Makefile"), "ant.wasm: counter.bin\n\tcp counter.bin ant.wasm\n").expect("a file");
    let output = lifeboat(["dev"]).within(&ant).input("{\"add\":3}\n").output();
    assert_eq!(output.exits(0), "3\n");
    assert!(output.stderr.starts_with("Build: make\n"), "{}", output.stderr);
    assert!(output.stderr.contains("Serving: ant/1 of size small, from ant.wasm ("), "{}", output.stderr);
}
