//! The result: a table, or an object.

use crate::machine::Machine;
use crate::{ACCOUNTS, WARM_UP};
use serde_json::{Value, json};
use std::io::Write;

/// A whole run.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// How long each turn was measured.
    pub(crate) seconds: u64,
    /// Names and versions, in the order of the columns.
    pub(crate) systems: Vec<(&'static str, String)>,
    /// Line by line, and column by column within it.
    pub(crate) cells: Vec<Cell>,
}

/// One system with so many clients.
pub(crate) struct Cell {
    pub(crate) system: &'static str,
    pub(crate) clients: usize,
    /// Transfers per second, turn by turn.
    pub(crate) turns: Vec<f64>,
}

impl Report {
    /// Prints what it was measured on, and a line for each number of clients.
    pub(crate) fn print_table(&self) {
        self.machine.lines().iter().for_each(|line| print(line));
        for (name, version) in &self.systems {
            print(&format!("{name}: {version}"));
        }
        let turns = self.cells.first().map_or(0, |cell| cell.turns.len());
        print(&format!(
            "\nledger transfers per second, {ACCOUNTS} accounts, each durable before its answer: median of {turns} turns \
             (least..greatest)\nof {} s after {} s of warm-up; a client has one request in flight\n",
            self.seconds,
            WARM_UP.as_secs()
        ));
        print_line("clients", self.systems.iter().map(|(name, _)| (*name).to_owned()));
        for line in self.cells.chunks(self.systems.len()) {
            let clients = line.first().map_or(0, |cell| cell.clients);
            print_line(&clients.to_string(), line.iter().map(Cell::text));
        }
    }

    /// Prints all of it as one line of JSON.
    pub(crate) fn print_json(&self) {
        let systems: Vec<Value> =
            self.systems.iter().map(|(name, version)| json!({"name": name, "version": version})).collect();
        let cells: Vec<Value> = self.cells.iter().map(Cell::json).collect();
        let (accounts, warm_up) = (ACCOUNTS, WARM_UP.as_secs());
        print(
            &json!({
                "machine": self.machine.json(), "accounts": accounts, "warm_up_seconds": warm_up,
                "seconds": self.seconds, "systems": systems, "cells": cells,
            })
            .to_string(),
        );
    }
}

impl Cell {
    /// The least, the median and the greatest. Of an even number, the median is the lower of the two in the middle.
    fn range(&self) -> (f64, f64, f64) {
        let mut sorted = self.turns.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        (at(0), at(last / 2), at(last))
    }

    fn text(&self) -> String {
        let (least, median, greatest) = self.range();
        format!("{median:.0} ({least:.0}..{greatest:.0})")
    }

    fn json(&self) -> Value {
        let (least, median, greatest) = self.range();
        json!({
            "system": self.system, "clients": self.clients, "transfers_per_second": median,
            "least": least, "greatest": greatest, "turns": self.turns,
        })
    }
}

fn print_line(clients: &str, cells: impl Iterator<Item = String>) {
    let cells: String = cells.map(|cell| format!("  {cell:>28}")).collect();
    print(&format!("{clients:>7}{cells}"));
}

fn print(line: &str) {
    // Who closed the pipe has seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}
