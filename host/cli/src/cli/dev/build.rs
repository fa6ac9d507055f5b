//! How a guest is built: the command that its files show, the process that runs it, and the module that it leaves.
//!
//! A build runs in a process group of its own, without standard input. When its first process or the session ends, so
//! does all that it has started in that group.

use super::super::UsageError;
use super::super::run::lines::LineReader;
use super::watch::Watched;
use lifeboat_api::text::{Printable, of_system};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest message of cargo that is read, in bytes. A longer one names no module.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The most that is kept of a build's output for `--json`, in bytes: the end of it.
pub(super) const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// The longest package.json that is read, in bytes.
const PACKAGE_BYTES_MAX: u64 = 1024 * 1024;

/// The time that a build has to end after SIGTERM. Then it is killed.
const BUILD_GRACE: Duration = Duration::from_secs(2);

/// The most modules that a message lists.
const LISTED_MAX: usize = 5;

/// The command of a build.
#[derive(Debug, PartialEq, Eq)]
enum Recipe {
    /// Of a package in Rust. Its messages name the module.
    Cargo,
    Npm,
    Make,
    /// What `--build` names, for a shell.
    Shell(String),
    /// Somebody else builds the file.
    Nothing,
}

/// How a guest is built, and where its module is then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    directory: PathBuf,
    recipe: Recipe,
    /// What `--workload` names.
    module: Option<PathBuf>,
}

impl Plan {
    /// Finds out how the guest in `directory` is built.
    ///
    /// # Errors
    /// [`UsageError`] if nothing shows it.
    pub(super) fn find(directory: &Path, command: Option<&str>, module: Option<&Path>) -> Result<Self, UsageError> {
        let shown = Printable(&directory.to_string_lossy()).to_string();
        let directory = fs::canonicalize(directory)
            .and_then(|path| if path.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) })
            .map_err(|error| UsageError(format!("'{shown}': {}; name the folder of a guest", of_system(&error))))?;
        let has = |file: &str| directory.join(file).is_file();
        let recipe = match command {
            Some(command) => Recipe::Shell(command.to_owned()),
            None if has("Cargo.toml") => Recipe::Cargo,
            None if has("package.json") => Recipe::Npm,
            None if has("Makefile") || has("makefile") || has("GNUmakefile") => Recipe::Make,
            None if module.is_some() => Recipe::Nothing,
            None => {
                return Err(UsageError(format!(
                    "'{shown}' has no Cargo.toml, package.json or Makefile; name another folder, its command with \
                     --build, or its module with --workload"
                )));
            }
        };
        let module = module.map(|module| directory.join(module));
        Ok(Self { directory, recipe, module })
    }

    /// Returns the folder of the guest.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of a file as it is shown: within the folder of the guest, if it is there.
    pub(super) fn shown(&self, file: &Path) -> String {
        Printable(&file.strip_prefix(&self.directory).unwrap_or(file).to_string_lossy()).to_string()
    }

    /// Returns whether there is no command, because somebody else builds the module.
    pub(super) fn is_module_alone(&self) -> bool {
        self.recipe == Recipe::Nothing
    }

    /// Returns the command as a user would type it. None if there is nothing to run.
    pub(super) fn command_line(&self) -> Option<String> {
        match &self.recipe {
            Recipe::Shell(command) => Some(command.clone()),
            recipe => {
                let words = recipe.words();
                (!words.is_empty()).then(|| words.join(" "))
            }
        }
    }

    /// Returns what is watched for changes.
    pub(super) fn watched(&self) -> Watched {
        match (&self.recipe, &self.module) {
            (Recipe::Nothing, Some(module)) => {
                Watched { root: module.clone(), output: None, are_modules_outputs: false }
            }
            (_, module) => {
                Watched { root: self.directory.clone(), output: module.clone(), are_modules_outputs: module.is_none() }
            }
        }
    }

    /// Returns the module after a successful build, or without one. Cargo's messages named `of_cargo`.
    fn built(&self, of_cargo: &BTreeSet<PathBuf>) -> Result<PathBuf, String> {
        if let Some(module) = &self.module {
            if module.is_file() {
                return Ok(module.clone());
            }
            let (shown, after) = (self.shown(module), if self.is_module_alone() { "" } else { " after it" });
            return Err(format!("there is no '{shown}'{after}; name another file with --workload"));
        }
        let found: Vec<PathBuf> = match self.recipe {
            Recipe::Cargo => of_cargo.iter().cloned().collect(),
            _ => modules(&self.directory),
        };
        match &found[..] {
            [module] => return Ok(module.clone()),
            [] if self.recipe == Recipe::Cargo => {
                return Err(
                    "it made no module: Cargo.toml needs crate-type = [\"cdylib\"] in [lib], or a program".into()
                );
            }
            [] => return Err("it left no .wasm file in the folder; name its module with --workload".into()),
            _ => {}
        }
        if self.recipe == Recipe::Npm
            && let Some(named) = package_module(&self.directory).filter(|named| found.contains(named))
        {
            return Ok(named);
        }
        let names = found.iter().take(LISTED_MAX).map(|path| name(path)).collect::<Vec<_>>().join(", ");
        let more = if found.len() > LISTED_MAX { ", ..." } else { "" };
        Err(format!("there is more than one module: {names}{more}; name one with --workload"))
    }
}

impl Recipe {
    /// Returns the program and its arguments.
    fn words(&self) -> &[&str] {
        match self {
            Self::Cargo => &[
                "cargo",
                "build",
                "--release",
                "--target",
                "wasm32-wasip1",
                "--message-format",
                "json-render-diagnostics",
            ],
            Self::Npm => &["npm", "run", "build"],
            Self::Make => &["make"],
            Self::Shell(_) => &["sh"],
            Self::Nothing => &[],
        }
    }

    fn remedy_if_missing(&self) -> &'static str {
        match self {
            Self::Cargo => "install Rust",
            Self::Npm => "install Node.js",
            _ => "install it",
        }
    }
}

/// Returns the modules that are directly in a folder.
fn modules(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_module = |path: &PathBuf| path.extension().is_some_and(|it| it == "wasm") && path.is_file();
    let mut found: Vec<PathBuf> = entries.filter(is_module).collect();
    found.sort_unstable();
    found
}

/// Returns the module with the name of an npm package.
fn package_module(directory: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let mut text = String::new();
    fs::File::open(directory.join("package.json")).ok()?.take(PACKAGE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let Package { name } = serde_json::from_str(&text).ok()?;
    Some(directory.join(format!("{name}.wasm")))
}

fn name(path: &Path) -> String {
    Printable(&path.file_name().unwrap_or_default().to_string_lossy()).to_string()
}

/// A message of cargo, as far as it matters.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Reads cargo's messages to their end. Returns the modules of packages in `directory`.
fn modules_of_cargo(messages: impl Read, directory: &Path) -> BTreeSet<PathBuf> {
    let mut messages = LineReader::new(BufReader::new(messages), MESSAGE_BYTES_MAX);
    let mut found = BTreeSet::new();
    while let Ok(Some(line)) = messages.read_line() {
        let Some(message) = line.ok().and_then(|line| serde_json::from_slice::<Message>(&line).ok()) else { continue };
        // Dependencies are elsewhere, as a rule, and their modules are not the guest.
        if message.reason == "compiler-artifact" && message.manifest_path.starts_with(directory) {
            let is_module = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm");
            found.extend(message.filenames.into_iter().filter(is_module));
        }
    }
    found
}

/// Why a build has no module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) reason: String,
    /// The end of its output, if that was kept.
    pub(super) output: Option<String>,
}

/// The process group of a build.
#[derive(Debug, Default)]
struct Group {
    /// Its number, from the start of its first process to the end of that.
    pid: Option<Pid>,
    /// Whether the build was asked to end, also if no process had started by then.
    is_ended: bool,
}

/// A build that has begun. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Build {
    group: Arc<Mutex<Group>>,
    ended: oneshot::Receiver<Result<PathBuf, Failed>>,
}

impl Build {
    /// Begins a build. Its output goes to standard error, or is kept with `keeps_output`.
    pub(super) fn begin(plan: &Arc<Plan>, keeps_output: bool) -> Self {
        let (sender, ended) = oneshot::channel();
        let group = Arc::new(Mutex::new(Group::default()));
        let (plan, of_thread) = (Arc::clone(plan), Arc::clone(&group));
        std::thread::spawn(move || drop(sender.send(run(&plan, keeps_output, &of_thread))));
        Self { group, ended }
    }

    /// Waits for the end. Dropping the future loses nothing.
    pub(super) async fn ended(&mut self) -> Result<PathBuf, Failed> {
        let gone = || Failed { reason: "its process was lost".into(), output: None };
        (&mut self.ended).await.unwrap_or_else(|_| Err(gone()))
    }

    /// Asks the build to end, and kills it if it does not.
    pub(super) async fn end(mut self) {
        self.signal(Signal::TERM);
        let _ = tokio::time::timeout(BUILD_GRACE, self.ended()).await;
    }

    fn signal(&self, signal: Signal) {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        group.is_ended = true;
        if let Some(pid) = group.pid {
            // The group may have no process any more.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a build to its end.
fn run(plan: &Plan, keeps_output: bool, group: &Mutex<Group>) -> Result<PathBuf, Failed> {
    let failed = |reason: String| Failed { reason, output: None };
    let Some((program, arguments)) = plan.recipe.words().split_first() else {
        return plan.built(&BTreeSet::new()).map_err(failed);
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&plan.directory).stdin(Stdio::null()).process_group(0);
    if let Recipe::Shell(text) = &plan.recipe {
        command.arg("-c").arg(text);
    }
    let kept = direct(&mut command, keeps_output);
    let kept = kept.map_err(|error| failed(format!("it has no output: {}", of_system(&error))))?;
    if plan.recipe == Recipe::Cargo {
        command.stdout(Stdio::piped());
    }
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(format!(
            "there is no {program}: {}, or name a command with --build",
            plan.recipe.remedy_if_missing()
        )),
        _ => failed(format!("{program}: {}", of_system(&error))),
    })?;
    // The pipe ends with its writers, and the command holds some of them.
    drop(command);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    {
        let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
        group.pid = pid;
        // It was asked to end while the process started, and nobody asks again.
        if let Some(pid) = pid.filter(|_| group.is_ended) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    let kept = kept.map(|reader| std::thread::spawn(move || end_of(reader)));
    let directory = plan.directory.clone();
    let messages = child.stdout.take();
    let of_cargo = messages.map(|messages| std::thread::spawn(move || modules_of_cargo(messages, &directory)));
    let status = reap(&mut child, pid, group);
    // What the build has left running would hold the pipes open, and has been killed by now.
    let of_cargo = of_cargo.map(|reader| reader.join().unwrap_or_default());
    let output = kept.map(|reader| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned());
    match status {
        Ok(status) if status.success() => {
            plan.built(&of_cargo.unwrap_or_default()).map_err(|reason| Failed { reason, output })
        }
        Ok(status) => {
            let code = status.code().map_or("a signal ended it".into(), |code| format!("exit code {code}"));
            Err(Failed { reason: code, output })
        }
        Err(error) => Err(Failed { reason: of_system(&error), output }),
    }
}

/// Directs the output of a command to standard error, or to the pipe that is returned.
fn direct(command: &mut Command, keeps_output: bool) -> io::Result<Option<PipeReader>> {
    if !keeps_output {
        command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        return Ok(None);
    }
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    Ok(Some(reader))
}

/// Reads to the end, and returns the last bytes.
fn end_of(mut reader: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut part = [0; 8 * 1024];
    loop {
        match reader.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return kept,
            Ok(read) => {
                kept.extend_from_slice(&part[..read]);
                let surplus = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
                kept.drain(..surplus);
            }
        }
    }
}

/// Waits for the first process of a build, and kills what is left of its group. The number may belong to another group
/// once the process is reaped, so that comes last.
fn reap(child: &mut Child, pid: Option<Pid>, group: &Mutex<Group>) -> io::Result<std::process::ExitStatus> {
    let has_ended = pid.is_some_and(|pid| {
        loop {
            match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                ended => return ended.is_ok(),
            }
        }
    });
    let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pid) = group.pid.take().filter(|_| has_ended) {
        // The process itself has ended, and keeps its status.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    drop(group);
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, content) in files {
            fs::write(folder.path().join(file), content).expect("a file");
        }
        folder
    }

    fn plan(folder: &tempfile::TempDir, command: Option<&str>, module: Option<&str>) -> Plan {
        Plan::find(folder.path(), command, module.map(Path::new)).expect("a plan")
    }

    fn built(plan: Plan) -> Result<String, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let built = runtime.block_on(Build::begin(&Arc::new(plan), true).ended());
        built.map(|module| name(&module))
    }

    #[test]
    fn files_show_the_command() {
        let commands = |files: &[(&str, &str)]| plan(&folder(files), None, None).command_line();
        let cargo = "cargo build --release --target wasm32-wasip1 --message-format json-render-diagnostics";
        assert_eq!(commands(&[("Cargo.toml", ""), ("Makefile", "")]).as_deref(), Some(cargo));
        assert_eq!(commands(&[("package.json", ""), ("Makefile", "")]).as_deref(), Some("npm run build"));
        assert_eq!(commands(&[("Makefile", "")]).as_deref(), Some("make"));
        let of_files = folder(&[("Cargo.toml", "")]);
        assert_eq!(plan(&of_files, Some("./build.sh now"), None).command_line().as_deref(), Some("./build.sh now"));
        assert_eq!(plan(&folder(&[]), None, Some("a.wat")).command_line(), None);
    }

    #[test]
    fn folder_that_shows_no_command_is_refused_with_the_options() {
        let nothing = folder(&[]);
        let error = Plan::find(nothing.path(), None, None).expect_err("nothing to build").to_string();
        assert!(error.contains("--build") && error.contains("--workload"), "{error}");
        let missing = nothing.path().join("missing");
        let error = Plan::find(&missing, None, None).expect_err("no folder").to_string();
        assert!(error.ends_with("missing': No such file or directory; name the folder of a guest"), "{error}");
    }

    #[test]
    fn module_of_a_build_is_the_one_in_its_folder() {
        let two = folder(&[("a.wasm", ""), ("b.wasm", ""), ("package.json", "{\"name\": \"b\"}")]);
        let error = built(plan(&two, Some("true"), None)).expect_err("two").reason;
        assert_eq!(error, "there is more than one module: a.wasm, b.wasm; name one with --workload");
        let of_npm = plan(&two, None, None).built(&BTreeSet::new());
        assert_eq!(of_npm, Ok(fs::canonicalize(two.path()).expect("a path").join("b.wasm")));
        assert_eq!(built(plan(&two, Some("true"), Some("a.wasm"))), Ok("a.wasm".into()));
        let none = folder(&[("b.txt", "")]);
        assert_eq!(built(plan(&none, Some("cp b.txt b.wasm"), None)), Ok("b.wasm".into()));
        fs::remove_file(none.path().join("b.wasm")).expect("removed");
        let error = built(plan(&none, Some("true"), None)).expect_err("none").reason;
        assert!(error.starts_with("it left no .wasm file"), "{error}");
        let error = built(plan(&none, Some("true"), Some("c.wasm"))).expect_err("none").reason;
        assert_eq!(error, "there is no 'c.wasm' after it; name another file with --workload");
        let error = built(plan(&none, None, Some("c.wasm"))).expect_err("none").reason;
        assert_eq!(error, "there is no 'c.wasm'; name another file with --workload", "nothing was built");
    }

    #[test]
    fn messages_of_cargo_name_the_module_of_the_guest() {
        let messages = br#"{"reason":"compiler-artifact","manifest_path":"/d/Cargo.toml","filenames":["/t/d.wasm"]}
not json
{"reason":"compiler-artifact","manifest_path":"/g/Cargo.toml","filenames":["/t/g.rlib","/t/g.wasm"]}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(modules_of_cargo(&messages[..], Path::new("/g")), BTreeSet::from(["/t/g.wasm".into()]));
    }

    #[test]
    fn failed_build_reports_its_code_and_its_output() {
        let failed = built(plan(&folder(&[]), Some("echo one; echo two >&2; exit 3"), None)).expect_err("it fails");
        assert_eq!(failed, Failed { reason: "exit code 3".into(), output: Some("one\ntwo\n".into()) });
        let failed = built(plan(&folder(&[]), Some("kill -KILL $$"), None)).expect_err("it fails");
        assert_eq!(failed.reason, "a signal ended it");
    }

    #[test]
    fn end_of_a_long_output_is_kept() {
        let output = [vec![b'a'; OUTPUT_BYTES_MAX], vec![b'b'; 10]].concat();
        let kept = end_of(&output[..]);
        assert_eq!((kept.len(), &kept[kept.len() - 11..]), (OUTPUT_BYTES_MAX, &b"abbbbbbbbbb"[..]));
    }

    #[test]
    fn build_leaves_nothing_running_at_its_end() {
        let folder = folder(&[("next.wat", "")]);
        let fifo = folder.path().join("begun");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo starts").success());
        // The process in the background has the fifo and the output open as long as it runs.
        let command = "exec 3> begun; tail -f /dev/null & cp next.wat out.wat";
        let plan = plan(&folder, Some(command), Some("out.wat"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut build = Build::begin(&Arc::new(plan), true);
        let mut reader = fs::File::open(&fifo).expect("the build opens it as well");
        assert_eq!(runtime.block_on(build.ended()).map(|module| name(&module)), Ok("out.wat".into()));
        assert_eq!(reader.read(&mut [0; 1]).expect("readable"), 0, "no writer is left");
    }

    #[test]
    fn build_that_is_ended_before_its_process_starts_is_killed() {
        let folder = folder(&[]);
        let plan = plan(&folder, Some("exec tail -f /dev/null"), Some("out.wat"));
        let group = Mutex::new(Group { pid: None, is_ended: true });
        let failed = run(&plan, true, &group).expect_err("it is killed");
        assert_eq!(failed.reason, "a signal ended it");
    }

    #[test]
    fn build_that_is_ended_ends_with_what_it_started() {
        let folder = folder(&[]);
        let fifo = folder.path().join("begun");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo starts").success());
        // The inner process holds the fifo open as long as it runs.
        let begun = plan(&folder, Some("sh -c 'echo begun; exec tail -f /dev/null' > begun; true"), None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let build = Build::begin(&Arc::new(begun), true);
            let mut reader = fs::File::open(&fifo).expect("the build opens it as well");
            let mut text = [0; 6];
            reader.read_exact(&mut text).expect("it has begun");
            build.end().await;
            assert_eq!(reader.read(&mut text).expect("readable"), 0, "no writer is left");
        });
    }
}
