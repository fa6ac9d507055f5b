//! The `lifeboat` command: parse, run, exit code.

mod cli;

use lifeboat::engine::{COMPILE_COMMAND, compile_as_child, compile_in_children};
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// What a request is made of is allocated by one thread and freed by another, which glibc's allocator answers with locks.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|command| command == COMPILE_COMMAND) {
        return compile_as_child(arguments.next().as_deref());
    }
    // The executable may have been replaced by another version since this process started.
    let this = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    if let Ok(this) = this {
        compile_in_children(this);
    }
    let cli = match cli::Cli::parse() {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(&error),
    };
    match cli.execute() {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
