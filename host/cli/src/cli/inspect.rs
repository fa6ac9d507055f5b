//! `lifeboat inspect`: prints what the loader finds in a workload.

use super::{arguments, code_cache, exit, help, is_pipe_open, load_workload};
use clap::Args;
use lifeboat_api::size::{Bytes, Size, grouped};
use lifeboat_api::sla::THRESHOLD_DEFAULT;
use lifeboat_host::failover::HEADROOM_POINTS;
use lifeboat_vm::engine::{Engine, PoolLimits};
use lifeboat_vm::instance::is_granted;
use lifeboat_vm::workload::{Form, Kind, Wasi, Workload};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// The column at which a value that is too long for the terminal continues: below its beginning.
const HANGING: usize = 14;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Also check that a VM with this much linear memory could hold the workload [bytes; 64MiB, 10M, ...]
    #[arg(long, value_name = "SIZE", value_parser = arguments::memory, allow_negative_numbers = true)]
    memory: Option<u64>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    /// The workload: a component, a core module, or either as text
    #[arg(value_name = "WORKLOAD")]
    workload: PathBuf,
}

impl Inspect {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (workload, _) = load_workload(&self.workload)?;
        if let Some(memory_bytes) = self.memory {
            let level = THRESHOLD_DEFAULT.less_points(HEADROOM_POINTS).whole_points();
            workload.check_size("--memory", memory_bytes, level)?;
        }
        let fitting: Vec<String> = Size::built_in()
            .iter()
            .filter(|size| {
                let level = THRESHOLD_DEFAULT.less_points(HEADROOM_POINTS).whole_points();
                workload.check_size(&size.name, size.memory_bytes, level).is_ok()
            })
            .map(|size| size.name.clone())
            .collect();
        // Compiling and linking find errors that validation cannot: an import whose type differs from the host's.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let largest_bytes = Size::built_in().iter().map(|size| size.memory_bytes).max().unwrap_or_default();
        let memory_bytes = workload.initial_memory_bytes.max(self.memory.unwrap_or_default()).max(largest_bytes);
        // Nothing runs, so nothing is reserved.
        let engine = Engine::new(PoolLimits { stores: 0, memories: 0, memory_bytes })?;
        let engine = Arc::new(engine.with_cache(code_cache::of_user()?));
        runtime.block_on(engine.compile(workload.clone()))?;

        let text = if self.json { json(&workload, &fitting)? } else { lines(&workload, &fitting) };
        is_pipe_open(io::stdout().write_all(text.as_bytes()))?;
        Ok(ExitCode::from(exit::OK))
    }
}

fn json(workload: &Workload, sizes: &[String]) -> anyhow::Result<String> {
    let mut report = serde_json::to_value(workload)?;
    if let Some(report) = report.as_object_mut() {
        report.insert("fits_sizes".into(), sizes.into());
        report.insert("allowed_by_allow_net".into(), allowed_by_allow_net(workload).into());
    }
    Ok(lifeboat_api::lines::json_lines(&report)?)
}

/// Returns the denied imports that `run --allow-net` grants to a program that runs once.
fn allowed_by_allow_net(workload: &Workload) -> Vec<String> {
    workload.denied.iter().filter(|import| workload.is_program() && is_granted(import)).cloned().collect()
}

fn kind(workload: &Workload) -> &'static str {
    match workload.kind {
        Kind::World => "workload of the world lifeboat:vm/vm",
        Kind::Program => "program: each transaction is a run, and its files are the state",
    }
}

fn form(workload: &Workload) -> String {
    let form = match (workload.form, workload.kind) {
        (Form::Component, _) => "component",
        (Form::WitModule, _) => "core module with its WIT (SDK or wit-bindgen)",
        (Form::PlainModule, Kind::World) => "plain core module with canonical names",
        (Form::PlainModule, Kind::Program) => "plain core module",
    };
    let text = if workload.text { ", as text" } else { "" };
    let wasi = match workload.wasi {
        Some(Wasi::Preview1) => ", WASI preview 1 (adapted)",
        Some(Wasi::Preview2) => ", WASI preview 2",
        None => ", no WASI",
    };
    format!("{form}{text}{wasi}")
}

fn lines(workload: &Workload, sizes: &[String]) -> String {
    let memory_max = match workload.memory_max {
        Some(bytes) => format!("at most {}, as it declares", Bytes(bytes)),
        None => "no declared maximum".into(),
    };
    let list = |items: &[String]| if items.is_empty() { "none".into() } else { items.join("\n              ") };
    let granted = allowed_by_allow_net(workload);
    let mark = |import: &String| if granted.contains(import) { format!("{import} *") } else { import.clone() };
    let mut denied: Vec<String> = workload.denied.iter().map(mark).collect();
    if !granted.is_empty() {
        denied.push("* not denied to a run with --allow-net".into());
    }
    let rows = [
        ("workload", workload.name.escape_debug().to_string()),
        ("hash", workload.hash.to_string()),
        ("kind", kind(workload).into()),
        ("form", form(workload)),
        (
            "bytes",
            format!("{} read, {} as a component", grouped(workload.input_bytes), grouped(workload.component_bytes)),
        ),
        ("memory", format!("{} at the start, {memory_max}", Bytes(workload.initial_memory_bytes))),
        ("start", if workload.has_start { "has a start function" } else { "no start function" }.into()),
        ("exports", list(&workload.exports)),
        ("imports", list(&workload.imports)),
        ("denied", list(&denied)),
        ("fits sizes", if sizes.is_empty() { "none of the built-in ones".into() } else { sizes.join(", ") }),
    ];
    let text = rows.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect();
    help::fitting(text, help::output_columns(), HANGING)
}
