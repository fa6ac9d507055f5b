//! Programs that the run starts, and that do not outlive it.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The time limit for a server to answer, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The interval between checks of whether it has.
const INTERVAL: Duration = Duration::from_millis(20);

/// A user as whom a program can run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Finds the first of `names` that exists on the machine.
    pub(crate) fn named(names: &[&str]) -> Option<Self> {
        let known = std::fs::read_to_string("/etc/passwd").ok()?;
        let find = |name: &&str| {
            let line = known.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let mut fields = line.split(':').skip(1);
            Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        names.iter().find_map(find)
    }
}

/// Returns whether this process runs as root, which some servers refuse.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Returns a free port of loopback, for a server that does not choose one itself.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("failed to find a free port")?;
    Ok(listener.local_addr().context("failed to find a free port")?.port())
}

/// Draws a random password, for a server that every user of the machine could reach.
pub(crate) fn password() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).context("failed to draw a password")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns a command for `program`, as `user` if there is one, with only `PATH` in its environment.
///
/// The program receives `signal` if this process ends before it, even if a signal ends this process.
pub(crate) fn command(program: impl AsRef<Path>, user: Option<User>, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    if let Some(User { uid, gid }) = user {
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
    }
    command.arg(program.as_ref()).stdin(Stdio::null());
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("LC_ALL", "C");
    command
}

/// Runs `command` to its end and returns its standard output and its standard error.
///
/// # Errors
/// The command cannot be started, or its exit status reports a failure: the error contains its output.
pub(crate) fn run(command: &mut Command) -> Result<(String, String)> {
    let output = command.output().with_context(|| format!("failed to start `{}`", line(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let (out, err) = (stdout.trim(), stderr.trim());
    ensure!(output.status.success(), "`{}` failed, {}:\n{out}\n{err}", line(command), output.status);
    Ok((stdout, stderr))
}

/// Returns the command line, for messages.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}

/// A running server, which stops when this is dropped.
pub(crate) struct Server {
    child: Child,
    /// The file with its output.
    log: PathBuf,
    /// The command that stops it, or SIGTERM if there is none. If it does not stop, it is killed.
    stop: Option<Command>,
}

impl Server {
    /// Starts `command`, which must stay in the foreground, and waits until `is_ready`.
    pub(crate) fn start(
        mut command: Command,
        log: PathBuf,
        stop: Option<Command>,
        is_ready: impl Fn() -> bool,
    ) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("failed to create `{}`", log.display()))?;
        let errors = file.try_clone().context("failed to share a log")?;
        let child = command.stdout(file).stderr(errors).spawn();
        let child = child.with_context(|| format!("failed to start `{}`", line(&command)))?;
        let mut server = Self { child, log, stop };
        let start = Instant::now();
        while !is_ready() {
            if !server.is_running() || start.elapsed() > PATIENCE {
                let printed = std::fs::read_to_string(&server.log).unwrap_or_default();
                bail!("`{}` does not answer; it printed:\n{}", line(&command), printed.trim());
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(server)
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running() {
            let pid = self.child.id().to_string();
            let asked = match &mut self.stop {
                Some(stop) => stop.output(),
                None => Command::new("sh").args(["-c", r#"kill -TERM "$1""#, "sh", &pid]).output(),
            };
            let start = Instant::now();
            while asked.is_ok() && self.is_running() && start.elapsed() < PATIENCE {
                std::thread::sleep(INTERVAL);
            }
        }
        // Both calls fail if it has already stopped, and then they are not needed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
