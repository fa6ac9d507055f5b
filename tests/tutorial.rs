//! The commands of `docs/tutorial.md`, one by one, as a new user would run them.

use crate::serving::Serving;
use crate::util::{Output, blocks, root, shell};

#[test]
fn every_command_does_what_the_tutorial_says() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(root().join("workloads"), folder.path().join("workloads")).expect("a link");
    let home = folder.path().join("home");
    let blocks = blocks("docs/tutorial.md", "sh");
    let [set_up, serve, first, opening, ada, see, operate, files, prove] = &blocks[..] else { panic!("{blocks:?}") };
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
