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
        // `--help` and `--version` are errors to clap too; only a failed write of theirs is lost here.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cli::exit::USAGE } else { cli::exit::OK });
        }
    };
    match cli.execute() {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
