//! The table, in Markdown, and the description of the machine.

use crate::pairs::{Measure, Pairs};
use std::io::Write;
use std::process::Command;

/// One line of the table.
pub(crate) struct Row {
    /// The subject of the ratio, and the unit of work of its times.
    pub(crate) name: &'static str,
    /// The strategy in the numerator.
    pub(crate) a: &'static str,
    /// The strategy in the denominator.
    pub(crate) b: &'static str,
    /// The measured values.
    pub(crate) pairs: Pairs,
    /// The highest acceptable ratio, or `None` if the ratio is only informative.
    pub(crate) target: Option<f64>,
}

impl Row {
    pub(crate) fn print(&self) {
        let (least, greatest) = self.pairs.range();
        let ratio = format!("{:.2}", self.pairs.ratio());
        let range = format!("{least:.2}..{greatest:.2}");
        let pairs = match self.pairs.counts() {
            (kept, all) if kept == all => all.to_string(),
            (kept, all) => format!("{kept} of {all}"),
        };
        let quantity = match self.pairs.measure {
            Measure::Nanoseconds => time,
            Measure::Bytes => size,
        };
        let target = self.target.map_or("-".into(), |target| format!("<= {target:.2}"));
        print_line([
            self.name,
            self.a,
            self.b,
            &quantity(self.pairs.a()),
            &quantity(self.pairs.b()),
            &ratio,
            &range,
            &pairs,
            &target,
        ]);
    }
}

/// Prints the description of the machine, and the head of the table.
pub(crate) fn print_header() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    print(&format!("machine: {cores} cores, {}", model.unwrap_or("unknown CPU")));
    print(&format!("load average before: {}", load.split(' ').next().unwrap_or("unknown")));
    print(&format!("commit: {}", said("git", &["describe", "--always", "--dirty"])));
    print(&format!("date: {}\n", said("date", &["-u", "+%F"])));
    print_line(["ratio", "A", "B", "A, median", "B, median", "A / B", "min..max", "pairs", "target"]);
    print_line(["---"; 9].map(|dashes| dashes));
}

fn print_line(cells: [&str; 9]) {
    let [name, a, b, a_time, b_time, ratio, range, pairs, target] = cells;
    print(&format!(
        "| {name:<38} | {a:<34} | {b:<34} | {a_time:>9} | {b_time:>9} | {ratio:>5} | {range:>11} | {pairs:>8} | {target:>7} |"
    ));
}

pub(crate) fn print(line: &str) {
    // A reader that closed the pipe needs no more output.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Formats a time with about three digits.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

/// Formats a number of bytes with one digit behind the point.
fn size(bytes: f64) -> String {
    match bytes / 1024.0 {
        kib if kib < 1024.0 => format!("{kib:.1} KiB"),
        kib => format!("{:.1} MiB", kib / 1024.0),
    }
}

/// Returns the first line that a program prints, for the header.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
