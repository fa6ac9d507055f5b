//! The `lifeboat` command: parses the command line, runs the subcommand, and returns the exit code.

mod cli;

use lifeboat_vm::engine::{run_as_child, work_in_children};
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// The allocator. One thread allocates the parts of a request and another frees them. glibc's allocator takes locks for
/// that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = run_as_child(std::env::args_os().skip(1)) {
        return code;
    }
    // Where that is impossible, threads load and compile workloads, and `serve` warns about it.
    let _ = work_in_children();
    let cli = match cli::Cli::parse() {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(&error),
    };
    match cli.execute() {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
