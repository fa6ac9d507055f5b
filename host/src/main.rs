//! The `lifeboat` command: parse, run, exit code.

mod cli;

use mimalloc::MiMalloc;
use std::process::ExitCode;

/// What a request is made of is allocated by one thread and freed by another, which glibc's allocator answers with locks.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::parse() {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(&error),
    };
    match cli.execute() {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
