//! The machine on which the figures were measured.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine, in its state before the first turn.
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    load_average: String,
    /// The directory of the data.
    directory: PathBuf,
    device: String,
    /// The type of the file system, such as `ext4`.
    pub(crate) file_system: String,
    commit: String,
    date: String,
}

impl Machine {
    /// Examines the machine and the disk of `directory`.
    pub(crate) fn look(directory: &Path) -> Result<Self> {
        let directory = directory.canonicalize().with_context(|| format!("cannot use `{}`", directory.display()))?;
        let (device, file_system) = mount(&directory).context("failed to read /proc/self/mounts")?;
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Ok(Self {
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: first_word("/proc/sys/kernel/osrelease"),
            load_average: first_word("/proc/loadavg"),
            directory,
            device,
            file_system,
            commit: said("git", &["describe", "--always", "--dirty"]),
            date: said("date", &["-u", "+%F"]),
        })
    }

    /// Returns the description as lines for people.
    pub(crate) fn lines(&self) -> [String; 5] {
        let Self { cpu, cores, kernel, load_average, device, file_system, commit, date, .. } = self;
        [
            format!("machine: {cores} cores, {cpu}, Linux {kernel}"),
            format!("disk: {}, {file_system} on {device}", self.directory.display()),
            format!("load average before: {load_average}"),
            format!("commit: {commit}"),
            format!("date: {date}"),
        ]
    }

    /// Returns the description as an object for machines.
    pub(crate) fn json(&self) -> Value {
        let Self { cpu, cores, kernel, load_average, directory, device, file_system, commit, date } = self;
        json!({
            "cpu": cpu, "cores": cores, "kernel": kernel, "load_average": load_average,
            "directory": directory.to_string_lossy(), "device": device, "file_system": file_system,
            "commit": commit, "date": date,
        })
    }
}

/// Returns the device and the type of the file system that holds `directory`. It is the last mounted one with the
/// longest matching path.
fn mount(directory: &Path) -> Option<(String, String)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let (device, _, kind) =
        fields.filter(|(_, path, _)| directory.starts_with(path)).max_by_key(|(_, path, _)| path.len())?;
    Some((device.to_owned(), kind.to_owned()))
}

fn first_word(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Returns the first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
