//! The commands of `docs/tutorial.md`, one by one, as a new user would run them.

use crate::serving::Serving;
use crate::util::{Output, blocks, root, shell};
use crate::webhook::Webhook;

/// The address of the webhook in the document.
const WEBHOOK: &str = "127.0.0.1:7099";

/// Returns the blocks of commands of the document.
fn commands() -> [String; 11] {
    blocks("docs/tutorial.md", "sh").try_into().unwrap_or_else(|blocks| panic!("{blocks:?}"))
}

#[test]
fn every_command_does_what_the_tutorial_says() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(root().join("workloads"), folder.path().join("workloads")).expect("a link");
    let home = folder.path().join("home");
    let [set_up, serve, first, opening, ada, see, operate, _, _, files, prove] = &commands();
    // Only the address of the server differs from the document.
    let run = |script: &str, server: Option<&Serving>| -> Output {
        let shell = shell(&format!("set -e\n{script}")).within(folder.path()).env("XDG_CONFIG_HOME", &home);
        match server {
            Some(server) => shell.env("LIFEBOAT_SERVER", format!("http://{}", server.address)).output(),
            None => shell.output(),
        }
    };
    assert!(run(set_up, None).exits(0).contains("lifeboat serve --config bank/lifeboat.toml"));
    assert_eq!(serve, "lifeboat serve --config bank/lifeboat.toml\n");
    let server = Serving::start(&folder.path().join("bank"));
    let to_server = |script: &str| run(script, Some(&server));
    assert!(to_server(first).exits(0).contains("admin"));
    let opened = to_server(opening);
    let answers: Vec<&str> = opened.exits(0).lines().collect();
    assert!(answers.len() == 2 && answers[0] == answers[1], "{answers:?}");
    let transferred = to_server(ada);
    transferred.exits(0);
    assert!(
        transferred.stderr.contains("Trigger process failover: triggered: bank/1 on m1 -> bank/2"),
        "{transferred:?}"
    );
    let total = transferred.exits(0).lines().last().expect("the total").to_owned();
    assert!(total.contains("total"), "{total}");
    let seen = to_server(see);
    for words in ["SLA failure: bank/1 cpu ", "Trigger process failover: triggered: bank/1 on m1 -> bank/2 on m2"] {
        assert!(seen.exits(0).contains(words), "no `{words}` in: {}", seen.exits(0));
    }
    to_server(operate).exits(0);
    let shown = to_server(files);
    assert!(shown.exits(0).contains("  second.txt\n"), "{}", shown.exits(0));
    assert!(shown.exits(0).ends_with("A lifeboat begins with documents as well.\n"), "{}", shown.exits(0));
    // As in a power cut.
    server.kill();
    let proven = run(prove, None);
    assert!(proven.exits(0).contains(&total), "{}", proven.exits(0));
}

/// The webhook of the document is a Python script. A [`Webhook`], which answers the same, is in its place.
#[tokio::test]
async fn parcels_are_posted_once_across_a_failover_of_the_network() {
    let [.., script, parcels, _, _] = commands();
    assert!(script.contains("(\"127.0.0.1\", 7099)") && script.contains("b\"thanks\""), "{script}");
    let document = std::fs::read_to_string(root().join("docs/tutorial.md")).expect("the document can be read");
    let webhook = Webhook::start().await;
    let at_webhook = |text: &str| text.replace(WEBHOOK, &webhook.authority());
    let run = shell(&at_webhook(&parcels));
    let posted = tokio::task::spawn_blocking(|| run.output()).await.expect("no panic");

    let shown = |start: &str| -> String {
        let mut lines = document.lines().filter_map(|line| line.strip_prefix("    "));
        at_webhook(lines.find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no line `{start}`")))
    };
    assert_eq!(posted.exits(0), format!("{}\n", shown("{\"receipt\":")));
    let failure = shown("SLA failure: courier/1 network ");
    // The size of the state depends on the port, and the pause on the machine.
    let failover = shown("Trigger process failover: triggered: courier/1 ");
    let failover = failover.split(" (state ").next().expect("a part");
    let mut logged = posted.stderr.lines();
    assert!(logged.any(|line| line == failure), "no `{failure}`: {}", posted.stderr);
    assert!(logged.any(|line| line.starts_with(failover)), "no `{failover}`: {}", posted.stderr);

    let (posts, counts) = (webhook.seen().len(), webhook.counts());
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert_eq!(format!("{posts} posts of {} parcels", counts.len()), shown("62 posts "));
}
