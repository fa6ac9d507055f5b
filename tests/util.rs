//! Runs of the built binary as a user would start them: arguments and lines in, replies, events and an exit code out.
//!
//! No wait is unbounded: a run that hangs is killed after [`PATIENCE`] and fails its test. A run that panics fails its
//! test too, whatever the test checks.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The time after which a run counts as hung. Runs take far less, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The folder for caches of all runs. The user's own one is left as it is.
pub(crate) const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/cache");

/// The names of the sample workloads.
pub(crate) const WORKLOADS: [&str; 6] = ["archive", "counter", "courier", "crunch", "ledger", "notes"];

/// The names of the sample programs.
pub(crate) const PROGRAMS: [&str; 2] = ["sql", "wordcount"];

/// Returns the folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_owned()
}

/// Returns the path of a prebuilt workload.
pub(crate) fn prebuilt(name: &str) -> PathBuf {
    root().join("workloads/prebuilt").join(name).with_extension("wasm")
}

/// Returns the path of a workload's sample transactions.
pub(crate) fn transactions(name: &str) -> PathBuf {
    root().join("workloads").join(format!("{name}.transactions.jsonl"))
}

/// Returns the path of a guest in `tests/guests`.
pub(crate) fn guest(file: &str) -> PathBuf {
    root().join("tests/guests").join(file)
}

/// Copies the files of a directory into a new one. Only their owner can read them.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("readable");
        // Nobody misses compiled code.
        if entry.file_type().expect("known").is_dir() {
            continue;
        }
        let target = to.join(entry.file_name());
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&target).expect("a new file");
        std::io::copy(&mut std::fs::File::open(entry.path()).expect("readable"), &mut file).expect("copied");
    }
}

/// Returns the contents of README.md's fenced blocks of one language, in order.
#[track_caller]
pub(crate) fn readme_blocks(language: &str) -> Vec<String> {
    blocks("README.md", language)
}

/// Returns the contents of a document's fenced blocks of one language, in order.
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

/// Creates a run of the built binary with these arguments. `lifeboat(["inspect", "--json"]).arg(path)` adds more.
pub(crate) fn lifeboat<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Lifeboat {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(arguments).env("XDG_CACHE_HOME", CACHE);
    Lifeboat { command, input: Vec::new() }
}

/// Creates a run of a shell script, in the folder of the workspace, with the built binary on its path.
pub(crate) fn shell(script: &str) -> Lifeboat {
    let binary = Path::new(env!("CARGO_BIN_EXE_lifeboat"));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = binary.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&inherited));
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(root()).env("XDG_CACHE_HOME", CACHE);
    command.env("PATH", std::env::join_paths(folders).expect("no folder here has a colon in its name"));
    Lifeboat { command, input: Vec::new() }
}

/// A run that has not started.
pub(crate) struct Lifeboat {
    command: Command,
    input: Vec<u8>,
}

impl Lifeboat {
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs in this folder instead of the test's.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Listens to SIGHUP even if the tests themselves run under `nohup`, which has its children ignore it.
    pub(crate) fn listening_to_hangups(mut self) -> Self {
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(self.command.get_program()).args(self.command.get_args());
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.command = command;
        self
    }

    /// Sets the standard input for [`output`](Self::output).
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs to the end and returns the output.
    #[track_caller]
    pub(crate) fn output(mut self) -> Output {
        let input = std::mem::take(&mut self.input);
        let mut running = self.start();
        let mut stdin = running.stdin.take().expect("it was just started");
        // A thread writes the input, since a pipe holds little. A run that ends before it has read everything is no
        // failure.
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = running.finish();
        feeder.join().expect("the feeder does not panic");
        output
    }

    /// Starts the run, with standard input left open.
    #[track_caller]
    pub(crate) fn start(mut self) -> Running {
        let command = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the built binary starts");
        let stdin = child.stdin.take();
        let (sender, stdout) = channel();
        let mut reader = BufReader::new(child.stdout.take().expect("it is piped"));
        // The thread ends, and the pipe with it, when the run ends or the lines are not needed any more.
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
                // This fails if the test has abandoned the run, which may still write.
                let _ = sender.send(std::mem::take(&mut line));
                line.clear();
            }
        });
        let (printed, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        Running { child, stdin, stdout: Some(stdout), stderr, printed, deadline }
    }
}

/// Runs commands as a user with limited permissions: the user of the tests, or `nobody` if that is root.
pub(crate) struct Unprivileged {
    /// A copy of the built binary where that user can access it, if one is necessary.
    binary: Option<(tempfile::TempDir, PathBuf)>,
}

impl Unprivileged {
    /// The id of the user `nobody` on all systems that the tests run on.
    const USER: u32 = 65_534;

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if std::fs::metadata(folder.path()).expect("it is there").uid() != 0 {
            return Self { binary: None };
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let binary = folder.path().join("lifeboat");
        // Another process makes the copy: a fork of this process would hold the copy open for writing, and the copy
        // could not be run.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_lifeboat")).arg(&binary).status();
        assert!(copied.expect("there is a cp").success(), "the binary is copied");
        Self { binary: Some((folder, binary)) }
    }

    /// Returns the same run as that user.
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

/// A run that has started.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Receiver<Vec<u8>>>,
    stderr: Receiver<Vec<u8>>,
    /// The bytes of standard error that were read so far.
    printed: Vec<u8>,
    deadline: Instant,
}

impl Running {
    /// Writes a line to standard input.
    #[track_caller]
    pub(crate) fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Writes bytes to standard input.
    #[track_caller]
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        if let Err(error) = stdin.write_all(bytes) {
            let code = self.child.wait().expect("a child can be waited for").code();
            self.printed.extend(self.stderr.iter().flatten());
            panic!("the run reads no more ({error}), exit code {code:?}: {}", String::from_utf8_lossy(&self.printed));
        }
    }

    /// Waits for the next line of standard output and returns it with its end, or `None` at the end of the output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<Vec<u8>> {
        let line = self.stdout.as_ref().expect("standard output is open").recv_timeout(self.left());
        self.in_time(line)
    }

    /// Waits for a line of standard error with these words and returns it.
    #[track_caller]
    pub(crate) fn tells(&mut self, words: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(self.left());
            let line = self.in_time(line).unwrap_or_else(|| {
                panic!("it does not say '{words}': {}", String::from_utf8_lossy(&self.printed));
            });
            self.printed.extend_from_slice(&line);
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(words) {
                return line;
            }
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns what a reader's channel delivered, or `None` if the reader has ended.
    #[track_caller]
    fn in_time<T>(&mut self, received: Result<T, RecvTimeoutError>) -> Option<T> {
        if matches!(received, Err(RecvTimeoutError::Timeout)) {
            self.child.kill().expect("a child can be killed");
            panic!("the run hung: it neither wrote nor ended within {} s", PATIENCE.as_secs());
        }
        received.ok()
    }

    /// Sends the signal `INT` or `TERM`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(killed.expect("a shell starts").success(), "SIG{name} cannot be sent");
    }

    /// Closes standard input.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Closes the pipe of standard output. It breaks at one of the next lines.
    pub(crate) fn hang_up(&mut self) {
        self.stdout = None;
    }

    /// Closes standard input and waits for the end. `stdout` of the result has only what was not read before.
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
        // Standard error is closed when the run has ended, and no earlier.
        loop {
            let line = self.stderr.recv_timeout(self.left());
            let Some(line) = self.in_time(line) else { break };
            self.printed.extend(line);
        }
        let stderr = String::from_utf8(self.printed).expect("events are UTF-8");
        let code = self.child.wait().expect("a child can be waited for").code();
        // Guests may panic. Their messages follow the name of their service.
        let is_panic = stderr.lines().any(|line| line.starts_with("thread '")) || code.is_none_or(|code| code == 101);
        assert!(!is_panic, "the host panicked (exit code {code:?}): {stderr}");
        Output { stdout, stderr, code: code.expect("it was not killed") }
    }
}

impl Running {
    /// Kills the run with SIGKILL, as a crash would. Returns the complete lines that it wrote and that were not read.
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

/// The output of a run.
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

    /// Asserts the exit code, an empty standard output, and one line on standard error that contains each of `words`.
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

    /// Parses the lines of standard output as JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        json_lines(std::str::from_utf8(&self.stdout).expect("replies are UTF-8"))
    }

    /// Parses the lines of standard error as JSON.
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
