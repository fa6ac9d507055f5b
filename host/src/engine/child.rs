//! Compiles in a process of its own, which is held to its time and memory and is gone afterwards.
//!
//! What the compiler takes grows faster than the code that it is given, by how much depends on the code, and neither a
//! thread nor an allocation of it can be taken back. A process can: at its deadline it is killed, beyond its memory it
//! ends by itself, and all that it used is returned to the system.
//!
//! The process is the same executable, called with [`COMPILE_COMMAND`] and the deadline. It takes a component on its
//! standard input and answers on its standard output: with exit code 0 the compiled code, else why there is none. Only a
//! program that knows the command can be its own compiler, and says so with [`compile_in_children`]; another, such as
//! one that embeds this crate, compiles in threads.

use super::{PoolLimits, config, one_line};
use crate::size::Bytes;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;
use wasmtime::InstanceAllocationStrategy;

/// The argument with which a program is asked to compile.
pub const COMPILE_COMMAND: &str = "__compile";

/// Address space that one compiler may take: 2 GiB. A Python interpreter of 18 MB is compiled in 1.5 GiB, too.
pub const COMPILE_MEMORY_BYTES_MAX: u64 = 2 << 30;

/// The most compiled code that is taken from a compiler.
pub const COMPILED_BYTES_MAX: u64 = 1 << 30;

/// The longest reason that is taken from a compiler.
const REASON_BYTES_MAX: usize = 2_000;

/// CPU time that a compiler may take for each second of its deadline, should nobody be there to end it.
const CORES_MAX: u64 = 8;

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// Has the engines of this process compile in children of `executable`, which calls [`compile_as_child`] when it is
/// called with [`COMPILE_COMMAND`]. It must be this very program: code that another one compiled is not trusted.
///
/// It cannot be changed afterwards.
pub fn compile_in_children(executable: PathBuf) {
    let _ = EXECUTABLE.set(executable);
}

/// The program that compiles, if there is one.
pub(super) fn executable() -> Option<&'static Path> {
    EXECUTABLE.get().map(PathBuf::as_path)
}

/// Why a compiler did not compile.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was killed.
    Deadline,
    /// It ended by itself, for this reason.
    Reason(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Reason(format!("no process to compile it in: {error}; try again when the machine is less busy"))
    }
}

/// Compiles `component` in a child of `executable`, and waits for it until `deadline`.
pub(super) fn compile(executable: &Path, component: &[u8], deadline: Duration) -> Result<Vec<u8>, Failure> {
    let seconds = deadline.as_secs().max(1).to_string();
    let mut compiler = Command::new(executable);
    // It reads hostile bytes, and needs nothing of the environment. A signal of the terminal is the server's to answer.
    compiler.arg(COMPILE_COMMAND).arg(seconds).env_clear().process_group(0);
    ask(&mut compiler, component, deadline)
}

fn ask(compiler: &mut Command, component: &[u8], deadline: Duration) -> Result<Vec<u8>, Failure> {
    let mut child = compiler.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (mut input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (answered, answer) = mpsc::channel();
    let (answer, status) = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A compiler that has ended says why with its exit status.
            let _ = input.write_all(component);
        });
        scope.spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(COMPILED_BYTES_MAX + 1).read_to_end(&mut bytes).map(|_| bytes);
            let _ = answered.send(read);
        });
        let answer = answer.recv_timeout(deadline).ok();
        if answer.as_ref().is_none_or(|answer| !matches!(answer, Ok(bytes) if bytes.len() as u64 <= COMPILED_BYTES_MAX))
        {
            // Its pipes close with it, and the threads above end.
            let _ = child.kill();
        }
        (answer, child.wait())
    });
    let bytes = answer.ok_or(Failure::Deadline)??;
    if bytes.len() as u64 > COMPILED_BYTES_MAX {
        return Err(Failure::Reason(format!("its code is more than {}; make it smaller", Bytes(COMPILED_BYTES_MAX))));
    }
    match status? {
        status if status.success() => Ok(bytes),
        status => Err(Failure::Reason(reason(status, &bytes))),
    }
}

/// Why a compiler ended as it did.
fn reason(status: ExitStatus, said: &[u8]) -> String {
    if said.is_empty() || status.code().is_none() {
        return format!(
            "the compiler needed more than {} of memory, or failed ({status}); make its functions smaller",
            Bytes(COMPILE_MEMORY_BYTES_MAX)
        );
    }
    String::from_utf8_lossy(&said[..said.len().min(REASON_BYTES_MAX)]).into_owned()
}

/// Is the compiler: reads a component, and answers with its code. For the `main` of a program that was called with
/// [`COMPILE_COMMAND`]; `deadline` is the argument after it.
pub fn compile_as_child(deadline: Option<&OsStr>) -> ExitCode {
    let mut input = Vec::new();
    let compiled = limit(deadline)
        .and_then(|()| io::stdin().lock().read_to_end(&mut input))
        .map_err(|error| error.to_string())
        .and_then(|_| compile_here(&input));
    let (bytes, code) = match compiled {
        Ok(code) => (code, ExitCode::SUCCESS),
        Err(reason) => (reason.into_bytes(), ExitCode::FAILURE),
    };
    // Whoever asked may be gone.
    match io::stdout().lock().write_all(&bytes) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Limits what this process may take.
fn limit(deadline: Option<&OsStr>) -> io::Result<()> {
    let seconds: u64 = deadline.and_then(OsStr::to_str).and_then(|text| text.parse().ok()).unwrap_or(1);
    let cpu_seconds = seconds.saturating_mul(CORES_MAX);
    let limits = [
        (rlimit::Resource::AS, COMPILE_MEMORY_BYTES_MAX),
        (rlimit::Resource::CPU, cpu_seconds),
        (rlimit::Resource::CORE, 0),
    ];
    for (resource, limit) in limits {
        // It may be limited more already.
        let limit = limit.min(resource.get_hard()?);
        resource.set(limit, limit)?;
    }
    Ok(())
}

fn compile_here(component: &[u8]) -> Result<Vec<u8>, String> {
    let mut config = config(PoolLimits { stores: 0, memories: 0, memory_bytes: 0 }, 0)?;
    // Nothing runs here, so it needs no pool. The strategy is no part of the compiled code.
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    let engine = wasmtime::Engine::new(&config).map_err(|error| one_line(&error))?;
    engine.precompile_component(component).map_err(|error| one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(shell: &str, deadline: Duration) -> Result<Vec<u8>, Failure> {
        ask(Command::new("sh").args(["-c", shell]), b"component", deadline)
    }

    #[test]
    fn whatever_a_compiler_does_is_an_answer() {
        let long = Duration::from_secs(60);
        assert_eq!(asked("cat", long), Ok(b"component".to_vec()));
        assert_eq!(asked("printf 'no such type'; exit 1", long), Err(Failure::Reason("no such type".into())));
        // As one that ran out of memory, whatever it wrote before.
        for ends in ["kill -9 $$", "printf half; kill -ABRT $$", "exit 7"] {
            let Err(Failure::Reason(reason)) = asked(ends, long) else { panic!("{ends}") };
            assert!(reason.starts_with("the compiler needed more than 2 GiB of memory, or failed ("), "{reason}");
        }
        let start = std::time::Instant::now();
        assert_eq!(asked("exec sleep 1000", Duration::from_millis(50)), Err(Failure::Deadline));
        assert!(start.elapsed() < Duration::from_secs(60), "it was killed");
        let none = compile(Path::new("/nowhere"), b"component", long);
        assert!(matches!(none, Err(Failure::Reason(reason)) if reason.starts_with("no process to compile it in")));
    }

    #[test]
    fn what_a_compiler_makes_is_taken_by_an_engine_of_any_pool() {
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
