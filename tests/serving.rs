//! `lifeboat serve` as a separate process, on a free port.

use crate::util::{PATIENCE, lifeboat};
use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// The password of every server's admin.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Sets up a server in `folder`, with an admin.
pub(crate) fn set_up(folder: &Path) {
    let init = lifeboat(["init", "--admin-password-stdin"]).arg(folder).input(format!("{PASSWORD}\n"));
    init.output().exits(0);
}

/// A running server. It is killed at the end of the test.
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The lines of standard error after the one with the address.
    lines: Receiver<String>,
    /// The lines that were read so far.
    seen: RefCell<Vec<String>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It is no failure here if the server has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    /// Starts a server, and waits for the line with its address.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_lifeboat")), folder)
    }

    /// Does the same with a limit on open files.
    pub(crate) fn start_with_descriptors(folder: &Path, descriptors: u32) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_lifeboat")]);
        Self::start_by(command, folder)
    }

    fn start_by(mut command: Command, folder: &Path) -> Self {
        // The process that runs the tests may itself write to systemd's journal.
        command.env_remove("JOURNAL_STREAM");
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(folder.join("lifeboat.toml"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the built binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut printed = String::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            printed = format!("{printed}{line}\n");
            // The text follows the time.
            let (_, url) = line.split_once(" lifeboat: listening on ")?;
            let (_, address) = url.split_once("://")?;
            address.parse().ok()
        });
        let address = address.unwrap_or_else(|| panic!("the server does not listen: {printed}"));
        // The lines are read even if no test needs them, since they would fill the pipe.
        let (sender, receiver) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { child, address, lines: receiver, seen: RefCell::default() }
    }

    /// Waits for a line of standard error with these words and returns it.
    #[track_caller]
    pub(crate) fn line(&self, words: &str) -> String {
        let mut seen = self.seen.borrow_mut();
        loop {
            if let Some(line) = seen.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => seen.push(line),
                Err(_) => panic!("it does not say '{words}': {seen:?}"),
            }
        }
    }

    /// Returns whether one of the lines that were read so far has these words.
    pub(crate) fn has_said(&self, words: &str) -> bool {
        self.seen.borrow().iter().any(|line| line.contains(words))
    }

    /// Returns how many of the lines that were read so far have these words.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.seen.borrow().iter().filter(|line| line.contains(words)).count()
    }

    /// Returns the id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by its name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name]).arg(self.child.id().to_string()).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Returns its exit code, once it has ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("a child can be looked at");
        status.map(|status| status.code().expect("no signal ends it"))
    }

    /// Stops it as an operator would, and returns the lines that it wrote until then.
    #[track_caller]
    pub(crate) fn last_lines(mut self) -> Vec<String> {
        assert_eq!(self.ended(), Some(0));
        self.lines.iter().collect()
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Stops it as an operator would, and returns its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.ended()
    }

    fn ended(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("a child can be waited for").code()
    }
}
