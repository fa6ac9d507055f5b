//! The `lifeboat` command: parse, run, exit code.

mod cli;

use lifeboat_vm::engine::{run_as_child, work_in_children};
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// What a request is made of is allocated by one thread and freed by another, which glibc's allocator answers with locks.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = run_as_child(std::env::args_os().skip(1)) {
        return code;
    }
    // Where that cannot be, workloads are loaded and compiled in threads; `serve` warns of it.
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
