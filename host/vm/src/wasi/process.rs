//! `wasi:cli`: the command line, the environment, the standard streams, and the end of a guest.
//!
//! | guest | arguments, environment | standard input | standard output | standard error | exit |
//! |---|---|---|---|---|---|
//! | a workload of the world | empty | at its end | log | log | ends the call as failed |
//! | a program in a service | of the service, and of the call | the body | the reply | log | the outcome |
//! | a program that is run once | of its caller | streams of the caller | | | the exit code |

use super::streams::{Stream, stand_in_for_input, stand_in_for_output};
use super::{LogStream, Wasi};
use crate::stop::{ClosedPipe, Stop};
use bytes::Bytes;
use lifeboat_api::transaction::{Cause, REPLY_BYTES_MAX};
use lifeboat_disk::READ_BYTES_MAX;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi::cli::{StdinStream, StdoutStream};
use wasmtime_wasi::p2::bindings::cli;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError, StreamResult,
};

/// The most bytes of a program's standard error that a refusal shows.
pub const ERRORS_BYTES_MAX: usize = 4 * 1024;

/// The bytes of standard input or output that a program in a service moves for one unit of fuel, and those of a socket.
pub(super) const BYTES_PER_FUEL: u64 = 8;

/// The fuel of each argument, and of each name and value of the environment, that a guest asks for.
const FUEL_PER_TEXT: u64 = 20;

/// The working directory of a program.
const WORKING_DIRECTORY: &str = "/";

/// What a guest sees of `wasi:cli` during a call.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) streams: StandardStreams,
    /// The code with which the guest has called `exit`.
    pub(crate) exit: Option<u8>,
}

/// The standard streams of a guest.
#[derive(Default)]
pub(crate) enum StandardStreams {
    /// Those of a workload of the world: no input, and all output is logged.
    #[default]
    Logged,
    /// Those of a program in a service.
    Call(CallStreams),
    /// Those of a program that is run once.
    Own(OwnStreams),
}

/// The standard streams of a program during one transaction or query.
#[derive(Default)]
pub(crate) struct CallStreams {
    /// What standard input has left of the body.
    pub(crate) body: Bytes,
    /// What was written to standard output: at most [`REPLY_BYTES_MAX`].
    pub(crate) reply: Vec<u8>,
    /// The first bytes of standard error: at most [`ERRORS_BYTES_MAX`].
    pub(crate) errors: Vec<u8>,
    /// Whether the program is told that these streams are terminals, which they never are.
    pub(crate) has_terminals: bool,
}

/// The standard streams that a program gets from whoever runs it once.
pub struct OwnStreams {
    /// Standard input.
    pub stdin: Box<dyn StdinStream>,
    /// Standard output.
    pub stdout: Box<dyn StdoutStream>,
    /// Standard error.
    pub stderr: Box<dyn StdoutStream>,
}

impl std::fmt::Debug for OwnStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnStreams").finish_non_exhaustive()
    }
}

/// One of the two streams of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Wasi {
    /// Reads from the body of a call.
    pub(super) fn read_stdin(&mut self, len: u64) -> StreamResult<Vec<u8>> {
        let StandardStreams::Call(CallStreams { body, .. }) = &mut self.process.streams else {
            return Err(StreamError::Closed);
        };
        self.observed.stdin_reads += 1;
        if body.is_empty() {
            self.observed.reads_at_end += 1;
            return Err(StreamError::Closed);
        }
        let taken = body.len().min(READ_BYTES_MAX).min(usize::try_from(len).unwrap_or(usize::MAX));
        let bytes = body.split_to(taken).to_vec();
        self.owed_fuel += taken as u64 / BYTES_PER_FUEL;
        Ok(bytes)
    }

    /// Writes to the reply or to the log.
    pub(super) fn write_stdio(&mut self, output: Output, bytes: &[u8]) -> StreamResult<()> {
        let StandardStreams::Call(CallStreams { reply, errors, .. }) = &mut self.process.streams else {
            return Err(StreamError::Closed);
        };
        match output {
            Output::Stdout => {
                self.owed_fuel += bytes.len() as u64 / BYTES_PER_FUEL;
                if reply.len().saturating_add(bytes.len()) > REPLY_BYTES_MAX {
                    let limit_bytes = REPLY_BYTES_MAX as u64;
                    return Err(StreamError::Trap(wasmtime::Error::new(Stop(Cause::ReplyBytes { limit_bytes }))));
                }
                reply.extend_from_slice(bytes);
            }
            Output::Stderr => {
                let kept = bytes.len().min(ERRORS_BYTES_MAX - errors.len());
                errors.extend_from_slice(&bytes[..kept]);
                self.owed_log_fuel.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.write(bytes);
                log.write_error(bytes);
            }
        }
        Ok(())
    }

    /// Charges for texts that are copied for the guest.
    fn charge_texts<'a>(&mut self, texts: impl Iterator<Item = &'a String>) {
        self.owed_fuel += texts.map(|text| FUEL_PER_TEXT + text.len() as u64 / BYTES_PER_FUEL).sum::<u64>();
    }

    fn output(&mut self, output: Output) -> Result<Resource<DynOutputStream>> {
        let stream: DynOutputStream = match &self.process.streams {
            StandardStreams::Logged => {
                let (buffer, owed_fuel) = (Arc::clone(&self.log), Arc::clone(&self.owed_log_fuel));
                Box::new(LogStream { buffer, is_error: output == Output::Stderr, owed_fuel })
            }
            StandardStreams::Call(_) => {
                let stream = self.table.push(stand_in_for_output())?;
                self.streams.insert(stream.rep(), Stream::Output(output));
                return Ok(stream);
            }
            StandardStreams::Own(streams) => Box::new(Piped(match output {
                Output::Stdout => streams.stdout.p2_stream(),
                Output::Stderr => streams.stderr.p2_stream(),
            })),
        };
        Ok(self.table.push(stream)?)
    }

    fn is_terminal(&mut self, of: impl FnOnce(&OwnStreams) -> bool) -> bool {
        match &self.process.streams {
            StandardStreams::Logged => false,
            StandardStreams::Call(streams) => {
                self.observed.terminal_questions += 1;
                streams.has_terminals
            }
            StandardStreams::Own(streams) => of(streams),
        }
    }

    fn terminal_output(
        &mut self,
        of: impl FnOnce(&OwnStreams) -> bool,
    ) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        if !self.is_terminal(of) {
            return Ok(None);
        }
        Ok(Some(self.table.push(cli::terminal_output::TerminalOutput)?))
    }
}

/// A stream of output that ends its program when nobody reads it any more, as a closed pipe ends a process on Unix. A
/// program that ignores errors would otherwise write to its end, and `yes` has none.
struct Piped(Box<dyn OutputStream>);

impl Piped {
    fn checked<T>(result: StreamResult<T>) -> StreamResult<T> {
        result.map_err(|error| match error {
            StreamError::Closed => StreamError::Trap(wasmtime::Error::new(ClosedPipe)),
            error => error,
        })
    }
}

#[async_trait]
impl Pollable for Piped {
    async fn ready(&mut self) {
        self.0.ready().await;
    }
}

#[async_trait]
impl OutputStream for Piped {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        Self::checked(self.0.write(bytes))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Self::checked(self.0.flush())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Self::checked(self.0.check_write())
    }
}

impl cli::environment::Host for Wasi {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        let environment = self.process.environment.clone();
        self.charge_texts(environment.iter().flat_map(|(name, value)| [name, value]));
        Ok(environment)
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        let arguments = self.process.arguments.clone();
        self.charge_texts(arguments.iter());
        Ok(arguments)
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        Ok(match self.process.streams {
            StandardStreams::Logged => None,
            StandardStreams::Call(_) | StandardStreams::Own(_) => Some(WORKING_DIRECTORY.to_owned()),
        })
    }
}

impl cli::exit::Host for Wasi {
    fn exit(&mut self, status: Result<(), ()>) -> Result<()> {
        self.process.exit = Some(u8::from(status.is_err()));
        let status = if status.is_ok() { "success" } else { "failure" };
        Err(wasmtime::Error::new(Stop(Cause::Exit { status: status.into() })))
    }

    fn exit_with_code(&mut self, code: u8) -> Result<()> {
        self.process.exit = Some(code);
        Err(wasmtime::Error::new(Stop(Cause::Exit { status: format!("code {code}") })))
    }
}

impl cli::stdin::Host for Wasi {
    fn get_stdin(&mut self) -> Result<Resource<DynInputStream>> {
        let stream: DynInputStream = match &self.process.streams {
            StandardStreams::Logged => Box::new(Closed),
            StandardStreams::Call(_) => {
                let stream = self.table.push(stand_in_for_input())?;
                self.streams.insert(stream.rep(), Stream::Input);
                return Ok(stream);
            }
            StandardStreams::Own(streams) => streams.stdin.p2_stream(),
        };
        Ok(self.table.push(stream)?)
    }
}

impl cli::stdout::Host for Wasi {
    fn get_stdout(&mut self) -> Result<Resource<DynOutputStream>> {
        self.output(Output::Stdout)
    }
}

impl cli::stderr::Host for Wasi {
    fn get_stderr(&mut self) -> Result<Resource<DynOutputStream>> {
        self.output(Output::Stderr)
    }
}

impl cli::terminal_input::Host for Wasi {}
impl cli::terminal_input::HostTerminalInput for Wasi {
    fn drop(&mut self, terminal: Resource<cli::terminal_input::TerminalInput>) -> Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}
impl cli::terminal_output::Host for Wasi {}
impl cli::terminal_output::HostTerminalOutput for Wasi {
    fn drop(&mut self, terminal: Resource<cli::terminal_output::TerminalOutput>) -> Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}
impl cli::terminal_stdin::Host for Wasi {
    fn get_terminal_stdin(&mut self) -> Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        if !self.is_terminal(|streams| streams.stdin.is_terminal()) {
            return Ok(None);
        }
        Ok(Some(self.table.push(cli::terminal_input::TerminalInput)?))
    }
}
impl cli::terminal_stdout::Host for Wasi {
    fn get_terminal_stdout(&mut self) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        self.terminal_output(|streams| streams.stdout.is_terminal())
    }
}
impl cli::terminal_stderr::Host for Wasi {
    fn get_terminal_stderr(&mut self) -> Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        self.terminal_output(|streams| streams.stderr.is_terminal())
    }
}

/// Standard input, which is at its end from the start.
struct Closed;

#[async_trait]
impl Pollable for Closed {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for Closed {
    fn read(&mut self, _size: usize) -> StreamResult<Bytes> {
        Err(StreamError::Closed)
    }
}
