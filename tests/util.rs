//! The built binary, run as a user would: arguments and lines in, replies, events and an exit code out.
//!
//! Nothing here waits without an end: a run that hangs is killed after [`PATIENCE`] and fails its test. A run that
//! panics fails its test too, whatever that test looked at.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a run may take before it counts as hung. Far longer than any takes, on a machine that does other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The sample workloads.
pub(crate) const WORKLOADS: [&str; 4] = ["counter", "crunch", "ledger", "notes"];

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_owned()
}

/// A prebuilt workload.
pub(crate) fn prebuilt(name: &str) -> PathBuf {
    root().join("workloads/prebuilt").join(name).with_extension("wasm")
}

/// The sample transactions of a workload.
pub(crate) fn transactions(name: &str) -> PathBuf {
    root().join("workloads").join(format!("{name}.transactions.jsonl"))
}

/// A guest of `tests/guests`.
pub(crate) fn guest(file: &str) -> PathBuf {
    root().join("tests/guests").join(file)
}

/// The contents of README.md's fenced blocks of one language, in their order.
#[track_caller]
pub(crate) fn readme_blocks(language: &str) -> Vec<String> {
    blocks("README.md", language)
}

/// The contents of a document's fenced blocks of one language, in their order.
#[track_caller]
pub(crate) fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).expect("the document can be read");
    let fence = format!("```{language}");
    let mut lines = text.lines();
    let mut blocks = Vec::new();
    while lines.any(|line| line == fence) {
        blocks.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
    }
    blocks
}

/// The built binary with these arguments; `lifeboat(["inspect", "--json"]).arg(path)` goes on with others.
pub(crate) fn lifeboat<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Lifeboat {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(arguments);
    Lifeboat { command, input: Vec::new() }
}

/// A shell with a script, in the folder of the workspace, with the built binary on its path.
pub(crate) fn shell(script: &str) -> Lifeboat {
    let binary = Path::new(env!("CARGO_BIN_EXE_lifeboat"));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = binary.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&inherited));
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(root());
    command.env("PATH", std::env::join_paths(folders).expect("no folder here has a colon in its name"));
    Lifeboat { command, input: Vec::new() }
}

/// A run to be started.
pub(crate) struct Lifeboat {
    command: Command,
    input: Vec<u8>,
}

impl Lifeboat {
    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds several arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs in this folder instead of the test's.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs as somebody who is nobody's owner, if these tests may do that: who runs them may do everything then. `folder` is one
    /// that everybody may enter, as that of the build need not be: it gets a copy of the binary.
    pub(crate) fn by_nobody(mut self, folder: &Path) -> Self {
        const NOBODY: u32 = 65_534;
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if is_root {
            let binary = folder.join("lifeboat");
            if !binary.exists() {
                // By another process: what is forked here meanwhile would have the copy open for writing, and keep it from
                // being run.
                let copied = Command::new("cp").arg(self.command.get_program()).arg(&binary).status();
                assert!(copied.expect("there is a cp").success(), "the binary is copied");
            }
            let mut command = Command::new(binary);
            command.args(self.command.get_args()).uid(NOBODY).gid(NOBODY);
            self.command = command;
        }
        self
    }

    /// What [`output`](Self::output) gives to standard input.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs to the end.
    #[track_caller]
    pub(crate) fn output(mut self) -> Output {
        let input = std::mem::take(&mut self.input);
        let mut running = self.start();
        let mut stdin = running.stdin.take().expect("it was just started");
        // On a thread, since a pipe holds little. A run that ends before it has read all is no failure.
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = running.finish();
        feeder.join().expect("the feeder does not panic");
        output
    }

    /// Starts it, with standard input left open.
    #[track_caller]
    pub(crate) fn start(mut self) -> Running {
        let command = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the built binary starts");
        let stdin = child.stdin.take();
        let (sender, stdout) = channel();
        let mut reader = BufReader::new(child.stdout.take().expect("it is piped"));
        // Ends, and with it the pipe, when the run ends or nobody wants its lines any more.
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let mut reader = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, stderr) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).expect("a pipe can be read") > 0 {
                // Fails if the test has given up on this run, which may still write.
                let _ = sender.send(std::mem::take(&mut line));
                line.clear();
            }
        });
        let (told, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        Running { child, stdin, stdout: Some(stdout), stderr, told, deadline }
    }
}

/// Commands as a user who may not do everything: the one who runs the tests, unless that is root.
pub(crate) struct Unprivileged {
    /// The built binary where that user can find it, if it has to be another one.
    binary: Option<(tempfile::TempDir, PathBuf)>,
}

impl Unprivileged {
    /// `nobody`, on every system that the tests run on.
    const USER: u32 = 65_534;

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if std::fs::metadata(folder.path()).expect("it is there").uid() != 0 {
            return Self { binary: None };
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let binary = folder.path().join("lifeboat");
        std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &binary).expect("the binary can be copied");
        Self { binary: Some((folder, binary)) }
    }

    /// The same run of the built binary as that user.
    pub(crate) fn of(&self, run: Lifeboat) -> Lifeboat {
        let Some((_, binary)) = &self.binary else { return run };
        let mut command = Command::new(binary);
        command.args(run.command.get_args()).uid(Self::USER).gid(Self::USER);
        for (name, value) in run.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = run.command.get_current_dir() {
            command.current_dir(folder);
        }
        Lifeboat { command, input: run.input }
    }
}

/// A run under way.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Receiver<Vec<u8>>>,
    stderr: Receiver<Vec<u8>>,
    /// What was taken from there.
    told: Vec<u8>,
    deadline: Instant,
}

impl Running {
    /// Writes a line to its standard input.
    #[track_caller]
    pub(crate) fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        if let Err(error) = stdin.write_all(format!("{line}\n").as_bytes()) {
            let code = self.child.wait().expect("a child can be waited for").code();
            self.told.extend(self.stderr.iter().flatten());
            panic!("the run reads no more ({error}), exit code {code:?}: {}", String::from_utf8_lossy(&self.told));
        }
    }

    /// Waits for the next line of its standard output, which is returned with its end; none at the end of all.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<Vec<u8>> {
        let line = self.stdout.as_ref().expect("standard output is open").recv_timeout(self.left());
        self.in_time(line)
    }

    /// Waits for a line of its standard error with these words, which is returned.
    #[track_caller]
    pub(crate) fn tells(&mut self, words: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(self.left());
            let line = self.in_time(line).unwrap_or_else(|| {
                panic!("it does not say '{words}': {}", String::from_utf8_lossy(&self.told));
            });
            self.told.extend_from_slice(&line);
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(words) {
                return line;
            }
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What a channel from one of the readers gave, or none if that reader has come to its end.
    #[track_caller]
    fn in_time<T>(&mut self, received: Result<T, RecvTimeoutError>) -> Option<T> {
        if matches!(received, Err(RecvTimeoutError::Timeout)) {
            self.child.kill().expect("a child can be killed");
            panic!("the run hung: it neither wrote nor ended within {} s", PATIENCE.as_secs());
        }
        received.ok()
    }

    /// Sends it a signal, `INT` or `TERM`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(killed.expect("a shell starts").success(), "SIG{name} cannot be sent");
    }

    /// Reads no more of its standard output: the pipe breaks at one of the next lines.
    pub(crate) fn hang_up(&mut self) {
        self.stdout = None;
    }

    /// Closes its standard input and waits for its end. `stdout` of the result is what nobody read before.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Output {
        drop(self.stdin.take());
        let mut stdout = Vec::new();
        while self.stdout.is_some() {
            match self.line() {
                Some(line) => stdout.extend(line),
                None => self.stdout = None,
            }
        }
        // It is closed when the run has ended, and no earlier.
        loop {
            let line = self.stderr.recv_timeout(self.left());
            let Some(line) = self.in_time(line) else { break };
            self.told.extend(line);
        }
        let stderr = String::from_utf8(self.told).expect("events are UTF-8");
        let code = self.child.wait().expect("a child can be waited for").code();
        // Guests may panic, and say so behind the name of their service.
        let is_panic = stderr.lines().any(|line| line.starts_with("thread '")) || code.is_none_or(|code| code == 101);
        assert!(!is_panic, "the host panicked (exit code {code:?}): {stderr}");
        Output { stdout, stderr, code: code.expect("it was not killed") }
    }
}

impl Running {
    /// Kills it with SIGKILL, as a crash would, and returns the whole lines that it had written and nobody has read.
    #[track_caller]
    pub(crate) fn kill(mut self) -> Vec<Vec<u8>> {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        let mut lines = Vec::new();
        while let Some(line) = self.line() {
            if line.ends_with(b"\n") {
                lines.push(line);
            }
        }
        lines
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Output {
    /// Asserts the exit code and returns standard output.
    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &str {
        let text = std::str::from_utf8(&self.stdout).expect("replies are UTF-8");
        assert_eq!(self.code, code, "stderr: {}\nstdout: {text}", self.stderr);
        text
    }

    /// Asserts the exit code, an empty standard output and one line on standard error that says each of `words`.
    #[track_caller]
    pub(crate) fn exits_with_one_line(&self, code: i32, words: &[&str]) -> &str {
        assert_eq!(self.exits(code), "", "standard output is for replies");
        let line = self.stderr.strip_suffix('\n').expect("the line ends");
        assert!(!line.contains('\n'), "more than one line: {line}");
        for word in words {
            assert!(line.contains(word), "`{word}` is not in: {line}");
        }
        line
    }

    /// The lines of standard output as JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        json_lines(std::str::from_utf8(&self.stdout).expect("replies are UTF-8"))
    }

    /// The lines of standard error as JSON.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        json_lines(&self.stderr)
    }
}

#[track_caller]
fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}
