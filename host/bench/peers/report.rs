//! The result, as a table or as a JSON object.

use crate::machine::Machine;
use crate::{ACCOUNTS, WARM_UP};
use serde_json::{Value, json};
use std::io::Write;

/// The result of a whole run.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The measured time of each turn, in seconds.
    pub(crate) seconds: u64,
    /// The names and versions, in the order of the columns.
    pub(crate) systems: Vec<(&'static str, String)>,
    /// The cells, row by row, and by column within a row.
    pub(crate) cells: Vec<Cell>,
}

/// The result of one system with one number of clients.
pub(crate) struct Cell {
    pub(crate) system: &'static str,
    pub(crate) clients: usize,
    /// The transfers per second of each turn.
    pub(crate) turns: Vec<f64>,
}

impl Report {
    /// Prints the description of the machine, and a row for each number of clients.
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

    /// Prints the whole result as one line of JSON.
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
    /// Returns the least value, the median and the greatest. For an even number, the median is the lower middle value.
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
    // A reader that closed the pipe needs no more output.
    let _ = writeln!(std::io::stdout(), "{line}");
}
