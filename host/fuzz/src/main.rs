//! `cargo run --release -p lifeboat-fuzz -- TARGET`: runs mutants for as long as wanted, or inputs from files.

use anyhow::{Context, Result, bail};
use clap::Parser;
use lifeboat_fuzz::{Outcome, Plan, TARGETS, Target, fuzz, replay, target};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Feeds a decoder with mutants of its corpus until it breaks a promise.
///
/// Without a bound it goes on until it is interrupted. It exits with 1 if a promise was broken, and prints the file of
/// the input and how to repeat it.
#[derive(Parser)]
struct Arguments {
    /// The decoder, or 'all' for one after another
    target: String,
    /// Inputs to run instead of mutants
    files: Vec<PathBuf>,
    /// How long to go on with each target
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// How many mutants to run of each target
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// What the mutants are drawn from
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let targets = match &*arguments.target {
        "all" => TARGETS.iter().collect(),
        name => vec![target(name).with_context(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            format!("there is no target '{}'; write 'all' or one of {}", name.escape_debug(), names.join(", "))
        })?],
    };
    if arguments.target == "all" && !arguments.files.is_empty() {
        bail!("files are inputs of one target; name it");
    }
    if arguments.target == "all" && arguments.seconds.is_none() && arguments.rounds.is_none() {
        bail!("'all' targets need an end; write --seconds or --rounds");
    }
    for target in targets {
        let is_kept =
            if arguments.files.is_empty() { run(target, &arguments)? } else { files(target, &arguments.files)? };
        if !is_kept {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run(target: &Target, arguments: &Arguments) -> Result<bool> {
    let plan = Plan {
        seed: arguments.seed,
        rounds: arguments.rounds.unwrap_or(u64::MAX),
        time: arguments.seconds.map_or(Duration::MAX, Duration::from_secs),
    };
    let mut out = io::stdout();
    match fuzz(target, plan) {
        Ok(report) => {
            writeln!(out, "{}: {report}", target.name)?;
            for refusal in &report.refusals {
                writeln!(out, "    {}", refusal.escape_debug())?;
            }
            Ok(true)
        }
        Err(failure) => {
            writeln!(out, "{failure}")?;
            Ok(false)
        }
    }
}

fn files(target: &Target, files: &[PathBuf]) -> Result<bool> {
    let mut out = io::stdout();
    let mut is_kept = true;
    for file in files {
        let input = std::fs::read(file).with_context(|| format!("cannot read '{}'", file.display()))?;
        match replay(target, &input) {
            Ok(Outcome::Accepted(bytes)) => writeln!(out, "{}: accepted, {} bytes", file.display(), bytes.len())?,
            Ok(Outcome::Refused(message)) => writeln!(out, "{}: refused: {message}", file.display())?,
            Err(failure) => {
                writeln!(out, "{}: {failure}", file.display())?;
                is_kept = false;
            }
        }
    }
    Ok(is_kept)
}
