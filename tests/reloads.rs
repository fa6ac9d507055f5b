//! A change of a template of `lifeboat new` in a session of `lifeboat dev`, for the suites that build templates.

use crate::util::Lifeboat;
use std::fs;
use std::path::Path;

/// Starts `dev`, a session of `lifeboat dev` for the counter in `folder`, and changes its source: `from` becomes `to`,
/// which adds 100 more in each transaction. The new guest goes on with the total of the old one.
#[track_caller]
pub(crate) fn assert_reloads_with_its_state(dev: Lifeboat, folder: &Path, source: &str, (from, to): (&str, &str)) {
    let mut running = dev.start();
    running.send("5");
    assert_eq!(running.line().as_deref(), Some(&b"5\n"[..]));
    let source = folder.join(source);
    let text = fs::read_to_string(&source).expect("a source");
    assert_eq!(text.matches(from).count(), 1, "{from}");
    fs::write(&source, text.replace(from, to)).expect("a source");
    running.tells("Reloaded: ");
    running.send("2");
    assert_eq!(running.line().as_deref(), Some(&b"107\n"[..]));
    let output = running.finish();
    output.exits(0);
    assert!(output.stderr.contains("Ended: 2 requests (2 ok), 0 failovers, 1 reload, "), "{}", output.stderr);
}
