//! The table, in Markdown, and what it was measured on.

use crate::pairs::{Measure, Pairs};
use std::io::Write;
use std::process::Command;

/// One line of the table.
pub(crate) struct Row {
    /// What the ratio is of, and the unit that the times are per.
    pub(crate) name: &'static str,
    /// The strategy above the line of the fraction.
    pub(crate) a: &'static str,
    /// The one below it.
    pub(crate) b: &'static str,
    /// What was measured.
    pub(crate) pairs: Pairs,
    /// What the ratio should be at most; none where it is for information.
    pub(crate) target: Option<f64>,
}

impl Row {
    /// Prints the line.
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
            Measure::Bytes => kib,
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

/// Prints what everything is measured on, and the head of the table.
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

/// Prints a line.
pub(crate) fn print(line: &str) {
    // Who closed the pipe has seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A time with three digits or so.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

/// The first line that a program prints, for the header.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
