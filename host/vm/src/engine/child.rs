//! Loads and compiles in a separate process with limits on its time and memory.
//!
//! The loader's libraries and the compiler use time and memory that grow faster than their input, at a rate that
//! depends on the input. A thread cannot be ended and its allocations cannot be reclaimed. A process can: it is killed
//! at its deadline, it fails beyond its memory limit, and the system reclaims everything that it used.
//!
//! The process runs the same executable with [`LOAD_COMMAND`] or [`COMPILE_COMMAND`]. It reads a file or a component
//! from its standard input. On its standard output it writes the workload or the compiled code and exits with code 0,
//! or it writes the reason for the failure. Its input stays open while a parent waits for the answer: when the parent
//! is killed, the input closes and the child ends. Only a program that handles the commands can be its own child, and
//! it declares that with [`work_in_children`]. Other programs that embed this crate load and compile in threads.

use super::{PoolLimits, config, one_line};
use crate::workload::{COMPONENT_BYTES_MAX, LoadError, LoadLimits, Workload, load as load_in_thread};
use lifeboat_api::size::Bytes;
use lifeboat_api::text::of_system;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use wasmtime::InstanceAllocationStrategy;

/// The argument that requests a load. The version, a deadline in seconds, the length of the input, and the workload's
/// name follow it.
const LOAD_COMMAND: &str = "__load";

/// The argument that requests a compilation. The version, a deadline in seconds, and the length of the input follow it.
const COMPILE_COMMAND: &str = "__compile";

/// The version that both ends of a pipe must share.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The address space that one loader or compiler may use: 2 GiB. A Python interpreter of 18 MB compiles within 1.5 GiB.
pub const CHILD_MEMORY_BYTES_MAX: u64 = 2 << 30;

/// The most bytes of compiled code that are accepted from a compiler.
pub const COMPILED_BYTES_MAX: u64 = 1 << 30;

/// The most bytes that are accepted from a loader: a component, and the names of its imports and exports, which are
/// part of it.
const LOADED_BYTES_MAX: u64 = 2 * COMPONENT_BYTES_MAX;

/// The longest reason that is accepted from a child, in bytes.
const REASON_BYTES_MAX: usize = 2_000;

/// The number of threads that compile in one child. The limit on its CPU time is this number of seconds for each second
/// of its deadline, in case no parent is left to end it.
pub const CHILD_THREADS_MAX: usize = 8;

/// The exit code of a child that could not start a thread.
const NO_THREAD_CODE: u8 = 75;

/// Signals that come from outside: a process does not end itself with them. They are SIGHUP, SIGINT, SIGQUIT, SIGKILL
/// and SIGTERM; the system also uses SIGKILL to reclaim memory. Their numbers are the same on every Unix.
const SIGNALS_OF_OTHERS: [i32; 5] = [1, 2, 3, 9, 15];

/// The stack of a thread that only reads or writes a pipe, in bytes.
const PIPE_STACK_BYTES: usize = 256 * 1024;

/// The `oom_score_adj` of a child on Linux: the highest value. When the machine runs out of memory, the child is ended
/// before the server, which tries again.
const OOM_SCORE: &str = "1000";

/// The environment variable that limits the threads of the compiler's pool.
const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";

/// The executable that this process runs, even if the file at its own path was replaced. Only Linux with `/proc` has it.
pub(super) const RUNNING: &str = "/proc/self/exe";

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// Makes this process load and compile in children of its own executable, which calls [`run_as_child`]. Returns
/// whether that is possible: without `/proc`, Linux does not report the path of the executable.
pub fn work_in_children() -> bool {
    let Some(executable) = own_executable(Path::new(RUNNING), std::env::current_exe()) else { return false };
    let _ = EXECUTABLE.set(executable);
    true
}

/// Returns the executable of this process: the running file, where the system has a name for it. The file at its path
/// may be another version by now, and is returned only otherwise.
fn own_executable(running: &Path, at_path: io::Result<PathBuf>) -> Option<PathBuf> {
    let at_path = || at_path.ok().filter(|path| path.exists());
    running.exists().then(|| running.to_owned()).or_else(at_path)
}

/// Returns whether workloads are loaded and compiled in separate processes.
#[must_use]
pub fn works_in_children() -> bool {
    executable().is_some()
}

/// Returns the program that loads and compiles, if there is one.
pub(super) fn executable() -> Option<&'static Path> {
    EXECUTABLE.get().map(PathBuf::as_path)
}

/// The reason why a child did not return a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The child was killed at its deadline.
    Deadline,
    /// The child reported this reason.
    Refused(String),
    /// The child ended without an answer, or its answer was too long: its input takes more resources than the limit.
    Exceeded(String),
    /// The child could not be started, had no thread, or was ended from outside: another attempt may succeed.
    Process(String),
}

/// Loads the workload in `bytes` in a child of `executable`, and waits for it until `deadline`.
pub(super) fn load(executable: &Path, name: &str, bytes: &[u8], deadline: Duration) -> Result<Workload, Failure> {
    let mut loader = child(executable, LOAD_COMMAND, bytes, deadline);
    let answer = ask(loader.arg(name), bytes, LOADED_BYTES_MAX, deadline, PIPE_STACK_BYTES)?;
    Workload::decode(&answer).ok_or_else(|| Failure::Process("the loader's answer cannot be read".into()))
}

/// Compiles `component` in a child of `executable`, and waits for it until `deadline`.
pub(super) fn compile(executable: &Path, component: &[u8], deadline: Duration) -> Result<Vec<u8>, Failure> {
    let mut compiler = child(executable, COMPILE_COMMAND, component, deadline);
    ask(&mut compiler, component, COMPILED_BYTES_MAX, deadline, PIPE_STACK_BYTES)
}

fn child(executable: &Path, command: &str, input: &[u8], deadline: Duration) -> Command {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(CHILD_THREADS_MAX);
    let mut child = Command::new(executable);
    // The child reads hostile bytes and needs no environment. The server, not the child, handles signals from the
    // terminal.
    child.env_clear().env(THREADS_VARIABLE, threads.to_string()).process_group(0);
    child.arg(command).arg(VERSION).arg(deadline.as_secs().max(1).to_string()).arg(input.len().to_string());
    child
}

fn ask(
    command: &mut Command,
    input: &[u8],
    answer_bytes_max: u64,
    deadline: Duration,
    pipe_stack_bytes: usize,
) -> Result<Vec<u8>, Failure> {
    let none = |what: &str, error: &io::Error| {
        Failure::Process(format!(
            "no {what} can be started for it: {}; try again when the machine is less busy",
            of_system(error)
        ))
    };
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|error| none("process", &error))?;
    let (mut stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (answered, answer) = mpsc::channel();
    let (begun, answer, status) = std::thread::scope(|scope| {
        let thread = || thread::Builder::new().stack_size(pipe_stack_bytes);
        let writing = thread().spawn_scoped(scope, || {
            // If the child has ended, its exit status gives the reason.
            let _ = stdin.write_all(input);
        });
        let begun = writing.and_then(|_| {
            thread().spawn_scoped(scope, move || {
                let mut bytes = Vec::new();
                let read = stdout.take(answer_bytes_max + 1).read_to_end(&mut bytes).map(|_| bytes);
                let _ = answered.send(read);
            })
        });
        let begun = begun.map(drop);
        // If the reading thread did not start, the channel has no sender, and this returns at once.
        let answer = answer.recv_timeout(deadline).ok();
        if answer.as_ref().is_none_or(|answer| !matches!(answer, Ok(bytes) if bytes.len() as u64 <= answer_bytes_max)) {
            // The child's pipes close with it, and the threads above end.
            let _ = child.kill();
        }
        (begun, answer, child.wait())
    });
    // The pipe had to stay open until now, because the child ends when it closes.
    drop(stdin);
    begun.map_err(|error| none("thread", &error))?;
    let lost = |error: io::Error| Failure::Process(format!("its process failed: {}; try again", of_system(&error)));
    let bytes = answer.ok_or(Failure::Deadline)?.map_err(lost)?;
    if bytes.len() as u64 > answer_bytes_max {
        let text = format!("its compiled form is longer than {}; make it smaller", Bytes(answer_bytes_max));
        return Err(Failure::Exceeded(text));
    }
    match status.map_err(lost)? {
        status if status.success() => Ok(bytes),
        status => Err(failure(status, &bytes)),
    }
}

/// Derives the failure from a child's exit status and its output.
fn failure(status: ExitStatus, said: &[u8]) -> Failure {
    if status.signal().is_some_and(|signal| SIGNALS_OF_OTHERS.contains(&signal)) {
        return Failure::Process(format!(
            "its process was killed ({status}); try again when the machine has more free memory"
        ));
    }
    if said.is_empty() || status.code().is_none() {
        return Failure::Exceeded(format!(
            "its process needed more than {} of memory, or failed ({status}); make it, or its functions, smaller",
            Bytes(CHILD_MEMORY_BYTES_MAX)
        ));
    }
    let reason = String::from_utf8_lossy(&said[..said.len().min(REASON_BYTES_MAX)]).into_owned();
    if status.code() == Some(NO_THREAD_CODE.into()) { Failure::Process(reason) } else { Failure::Refused(reason) }
}

/// The reason why a child refuses its task, and its exit code.
#[derive(Debug)]
struct Refusal {
    reason: String,
    code: ExitCode,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason, code: ExitCode::FAILURE }
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        let code = if error.may_pass() { ExitCode::from(NO_THREAD_CODE) } else { ExitCode::FAILURE };
        Self { reason: error.to_string(), code }
    }
}

/// Runs as a child if a program's `arguments`, without its name, request it: reads a file or a component, and answers.
pub fn run_as_child(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    let command = arguments.next()?;
    let work: fn(&OsStr, &[u8]) -> Result<Vec<u8>, Refusal> = match command.to_str()? {
        LOAD_COMMAND => load_here,
        COMPILE_COMMAND => |_, component| Ok(compile_here(component)?),
        _ => return None,
    };
    let (version, deadline) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let (length, name) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let done = check_version(&version)
        .and_then(|()| limit(number(&deadline)?).map_err(|error| error.to_string()))
        .and_then(|()| input(number(&length)?).map_err(|error| error.to_string()))
        .map_err(Refusal::from)
        .and_then(|input| end_with_parent().and_then(|()| work(&name, &input)));
    let (bytes, code) = match done {
        Ok(bytes) => (bytes, ExitCode::SUCCESS),
        Err(Refusal { reason, code }) => (reason.into_bytes(), code),
    };
    // The parent may have ended.
    Some(match io::stdout().lock().write_all(&bytes) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Refuses to work for a program of another version, because it may expect another format of the answer.
fn check_version(version: &OsStr) -> Result<(), String> {
    if version == VERSION {
        return Ok(());
    }
    let theirs = version.to_string_lossy();
    Err(format!("the executable of lifeboat {theirs} was replaced by version {VERSION}; start lifeboat again"))
}

/// Parses a deadline or the length of the input. A child with a wrong length would wait for bytes that nobody sends.
fn number(argument: &OsStr) -> Result<u64, String> {
    let number = argument.to_str().and_then(|text| text.parse().ok());
    let argument = argument.to_string_lossy();
    number.ok_or_else(|| {
        format!("'{}' is not a whole number below 2^64; lifeboat calls this command by itself", argument.escape_debug())
    })
}

/// Reads `length` bytes from standard input.
fn input(length: u64) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    match io::stdin().lock().take(length).read_to_end(&mut input)? as u64 == length {
        true => Ok(input),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Ends this process when its input closes after all of it was read: the parent has then ended, for whatever reason.
fn end_with_parent() -> Result<(), Refusal> {
    let watching = thread::Builder::new().stack_size(PIPE_STACK_BYTES).spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(1);
    });
    let lacking = |error: io::Error| {
        let reason = format!("no thread to watch: {}; try again when the machine is less busy", of_system(&error));
        Refusal { reason, code: NO_THREAD_CODE.into() }
    };
    watching.map(drop).map_err(lacking)
}

/// Limits the resources of this process, which has `seconds` until its deadline.
fn limit(seconds: u64) -> io::Result<()> {
    let cpu_seconds = seconds.saturating_mul(CHILD_THREADS_MAX as u64);
    let limits = [
        (rlimit::Resource::AS, CHILD_MEMORY_BYTES_MAX),
        (rlimit::Resource::CPU, cpu_seconds),
        (rlimit::Resource::CORE, 0),
    ];
    for (resource, limit) in limits {
        // The hard limit may already be lower.
        let limit = limit.min(resource.get_hard()?);
        resource.set(limit, limit)?;
    }
    // Other systems have no such file, and a sandbox may hide it.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    Ok(())
}

fn load_here(name: &OsStr, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    Ok(load_in_thread(&name.to_string_lossy(), bytes, &LoadLimits::default())?.encode()?)
}

fn compile_here(component: &[u8]) -> Result<Vec<u8>, String> {
    let mut config = config(PoolLimits { stores: 0, memories: 0, memory_bytes: 0 }, 0)?;
    // Nothing runs here, so no pool is needed. The allocation strategy does not affect the compiled code.
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    let engine = wasmtime::Engine::new(&config).map_err(|error| one_line(&error))?;
    engine.precompile_component(component).map_err(|error| one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::id::WorkloadHash;

    fn asked(shell: &str, deadline: Duration) -> Result<Vec<u8>, Failure> {
        ask(Command::new("sh").args(["-c", shell]), b"component", 20, deadline, PIPE_STACK_BYTES)
    }

    #[test]
    fn whatever_a_child_does_is_an_answer() {
        let long = Duration::from_secs(60);
        assert_eq!(asked("head -c 9", long), Ok(b"component".to_vec()));
        assert_eq!(asked("printf 'no such type'; exit 1", long), Err(Failure::Refused("no such type".into())));
        // This is how a child that ran out of memory ends, whatever it wrote before.
        for ends in ["kill -ABRT $$", "printf half; kill -SEGV $$", "exit 7", "exit 101"] {
            let Err(Failure::Exceeded(reason)) = asked(ends, long) else { panic!("{ends}") };
            assert!(reason.starts_with("its process needed more than 2 GiB of memory, or failed ("), "{reason}");
        }
        // This is how a child ends that the system killed for its memory, or that an operator killed.
        for ends in ["kill -9 $$", "printf half; kill -TERM $$"] {
            let Err(Failure::Process(reason)) = asked(ends, long) else { panic!("{ends}") };
            assert!(reason.starts_with("its process was killed (signal: "), "{reason}");
        }
        let lacks = asked(&format!("printf 'no thread'; exit {NO_THREAD_CODE}"), long);
        assert_eq!(lacks, Err(Failure::Process("no thread".into())));
        let Err(Failure::Exceeded(reason)) = asked("cat /dev/zero", long) else { panic!("endless") };
        assert!(reason.starts_with("its compiled form is longer than 20 B;"), "{reason}");
        let start = std::time::Instant::now();
        assert_eq!(asked("exec sleep 1000", Duration::from_millis(50)), Err(Failure::Deadline));
        assert!(start.elapsed() < Duration::from_secs(60), "it was killed");
        let none = compile(Path::new("/nowhere"), b"component", long);
        assert!(
            matches!(none, Err(Failure::Process(reason)) if reason.starts_with("no process can be started for it"))
        );
    }

    #[test]
    fn a_child_whose_pipes_nobody_can_serve_is_ended() {
        // Nobody reads its answer, so it would never end.
        let asked = ask(Command::new("cat").arg("/dev/zero"), b"", 20, Duration::from_secs(1000), usize::MAX / 2);
        let Err(Failure::Process(reason)) = asked else { panic!("{asked:?}") };
        assert!(reason.starts_with("no thread can be started for it: "), "{reason}");
    }

    #[test]
    fn a_child_runs_the_own_executable_or_else_the_file_at_its_path() {
        let (here, gone) = (Path::new("/dev/null"), Path::new("/nowhere"));
        let none = || Err(io::ErrorKind::NotFound.into());
        assert_eq!(own_executable(here, none()).as_deref(), Some(here));
        assert_eq!(own_executable(gone, Ok(here.into())).as_deref(), Some(here));
        assert_eq!(own_executable(gone, Ok(gone.into())), None);
        assert_eq!(own_executable(gone, none()), None);
    }

    #[test]
    fn a_child_of_another_version_refuses() {
        assert_eq!(check_version(OsStr::new(VERSION)), Ok(()));
        assert!(check_version(OsStr::new("0.0.1")).expect_err("another").contains("lifeboat 0.0.1 was replaced by"));
        assert_eq!(run_as_child([OsString::from("serve")]), None);
    }

    #[test]
    fn both_sides_see_the_same_result_of_the_loader() {
        let text = include_bytes!("../../../../tests/guests/count.wat");
        let answer = load_here(OsStr::new("count.wat"), text).expect("valid");
        let (sent, here) =
            (Workload::decode(&answer).expect("whole"), load_in_thread("count.wat", text, &LoadLimits::default()));
        let here = here.expect("valid");
        assert_eq!(
            (sent.hash, sent.footprint, &sent.component),
            (WorkloadHash::of(text), here.footprint, &here.component)
        );
        assert_eq!(format!("{sent:?}"), format!("{here:?}"));
        assert!(Workload::decode(&answer[..answer.len() - 1]).is_none());
        assert!(load_here(OsStr::new("x"), b"none").expect_err("refused").reason.starts_with("`x`: not WebAssembly"));
    }

    #[test]
    fn a_compiled_program_is_accepted_by_an_engine_of_any_pool() {
        let component = wat::parse_str("(component)").expect("valid text");
        let code = compile_here(&component).expect("compiled");
        for (stores, slot_bytes) in [(1, 1 << 20), (3, 256 << 20)] {
            let limits = PoolLimits { stores, memories: 1, memory_bytes: slot_bytes };
            let engine = wasmtime::Engine::new(&config(limits, slot_bytes).expect("valid")).expect("an engine");
            assert!(wasmtime::Engine::detect_precompiled(&code).is_some());
            #[expect(unsafe_code, reason = "as in `compile_in_child`")]
            // SAFETY: the bytes are those that this process has just compiled.
            let taken = unsafe { wasmtime::component::Component::deserialize(&engine, &code) };
            assert!(taken.is_ok(), "{:?}", taken.err());
        }
        assert!(compile_here(b"none").is_err());
    }
}
