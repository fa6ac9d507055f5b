//! Programs that are started here, and do not outlive the run.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to answer, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const INTERVAL: Duration = Duration::from_millis(20);

/// Someone a program can run as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Finds the first of `names` that the machine knows.
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

/// Whether this process runs as root, which some servers refuse to.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A port of loopback that nobody has, for a server that does not choose one itself.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("failed to find a free port")?;
    Ok(listener.local_addr().context("failed to find a free port")?.port())
}

/// What nobody else on this machine knows, for a server that any of them could reach.
pub(crate) fn password() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).context("failed to draw a password")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A command for `program`, as `user` if there is one, with an environment that says nothing but `PATH`.
///
/// The program is asked to stop by `signal` if this process ends before it, be it by a signal too.
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

/// Runs `command` to its end and returns what it printed to its standard output and to its standard error.
///
/// # Errors
/// If it cannot be started, or says that it failed: with what it printed.
pub(crate) fn run(command: &mut Command) -> Result<(String, String)> {
    let output = command.output().with_context(|| format!("failed to start `{}`", line(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let (out, err) = (stdout.trim(), stderr.trim());
    ensure!(output.status.success(), "`{}` failed, {}:\n{out}\n{err}", line(command), output.status);
    Ok((stdout, stderr))
}

/// The command line, for messages.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}

/// A server, until it is dropped.
pub(crate) struct Server {
    child: Child,
    /// What it prints.
    log: PathBuf,
    /// What asks it to stop; otherwise SIGTERM does. If it does not, it is killed.
    stop: Option<Command>,
}

impl Server {
    /// Starts `command`, which stays in the foreground, and waits until `is_ready`.
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
        // Both fail where it has stopped already, which is all they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
