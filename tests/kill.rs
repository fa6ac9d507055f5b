//! `kill -9` at random points. The client of a durable ledger records every answer that it sees, and repeats
//! transactions without one. No answer that it saw may be lost, nothing may be executed twice, and the total of the
//! money must be right.
//!
//! `LIFEBOAT_KILLS=10000 cargo test --release kill` runs for a night.

use crate::util::{Running, copy_directory, lifeboat, prebuilt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// The default number of kills.
const KILLS: u64 = 200;

/// The number of kills of the hosts of one directory. A long run uses several directories: a growing history makes
/// every start slower, and each directory has a seed of its own.
const KILLS_PER_DIRECTORY: u64 = 500;

/// The number of requests that are sent at once. They fit into a pipe, so that sending never blocks.
const BATCH: u64 = 120;

const ACCOUNTS: u64 = 20;

/// The opening balance of each account. It is enough for every transfer.
const BALANCE: u64 = 1_000_000_000;

/// The state of the client.
#[derive(Default)]
struct Client {
    /// The transactions by number, which is also their id.
    bodies: Vec<Value>,
    /// The answers that were seen.
    seen: BTreeMap<u64, String>,
    random: u64,
}

impl Client {
    /// Returns a random number below `bound`.
    fn random(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX generator; only its upper bits are sufficiently random.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Generates `count` more transactions.
    fn think(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.bodies.len() as u64;
            let body = if number < ACCOUNTS {
                json!({"deposit": {"account": format!("a{number}"), "amount": BALANCE}})
            } else {
                let from = self.random(ACCOUNTS);
                let to = (from + 1 + self.random(ACCOUNTS - 1)) % ACCOUNTS;
                let amount = 1 + self.random(100);
                json!({"transfer": {"from": format!("a{from}"), "to": format!("a{to}"), "amount": amount}})
            };
            self.bodies.push(body);
        }
    }

    fn send(&self, run: &mut Running, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            let index = usize::try_from(number).expect("few");
            run.send(&json!({"id": number.to_string(), "json": self.bodies[index]}).to_string());
        }
    }

    /// Records an answer. A repeated answer must be the same.
    fn note(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line).into_owned();
        let reply: Value = serde_json::from_str(&text).map_err(|error| format!("{text}: {error}"))?;
        let id = reply["id"].as_str().and_then(|id| id.parse().ok()).ok_or_else(|| format!("no id: {text}"))?;
        if reply["outcome"] != "ok" {
            return Err(format!("not ok: {text}"));
        }
        match self.seen.insert(id, text.clone()) {
            Some(before) if before != text => {
                Err(format!("'{}' was answered before, and now '{}'", before.trim(), text.trim()))
            }
            _ => Ok(()),
        }
    }

    fn unseen(&self) -> Vec<u64> {
        (0..self.bodies.len() as u64).filter(|number| !self.seen.contains_key(number)).collect()
    }

    /// Returns the balances, if each transfer was executed once.
    fn balances(&self) -> BTreeMap<String, i128> {
        let mut balances = BTreeMap::new();
        for body in &self.bodies {
            let amount =
                i128::from(body["transfer"]["amount"].as_u64().or(body["deposit"]["amount"].as_u64()).unwrap_or(0));
            let account = |value: &Value| value.as_str().map(str::to_owned);
            for (name, change) in [
                (account(&body["deposit"]["account"]), amount),
                (account(&body["transfer"]["from"]), -amount),
                (account(&body["transfer"]["to"]), amount),
            ] {
                if let Some(name) = name {
                    *balances.entry(name).or_default() += change;
                }
            }
        }
        balances
    }
}

fn start(directory: &Path) -> Running {
    lifeboat(["run", "--envelope", "--json", "--service", "bank", "--fuel", "2000000", "--data"])
        .arg(directory)
        .arg(prebuilt("ledger"))
        .start()
}

/// Kills a host `kills` times, and returns an error that names what was lost or doubled. `puts_back` replaces the
/// directory once by a copy from before the last kill, so that answers are lost.
fn drive(kills: u64, seed: u64, puts_back: bool) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("data");
    let mut client = Client { random: seed, ..Client::default() };
    for kill in 0..kills {
        let mut run = start(&directory);
        let unseen = client.unseen();
        let before = client.bodies.len() as u64;
        client.think(BATCH.saturating_sub(unseen.len() as u64));
        let after = client.bodies.len() as u64;
        client.send(&mut run, unseen.into_iter().chain(before..after));
        let wanted = client.random(BATCH);
        for _ in 0..wanted {
            let Some(line) = run.line() else { break };
            client.note(&line).map_err(|error| format!("after {kill} kills: {error}"))?;
        }
        // What it wrote until then counts, whether or not the client has read it yet.
        for line in run.kill() {
            client.note(&line).map_err(|error| format!("after {kill} kills: {error}"))?;
        }
        let copy = folder.path().join("copy");
        if puts_back && kill == kills / 2 {
            copy_directory(&directory, &copy);
        }
        if puts_back && kill == kills / 2 + 1 {
            std::fs::remove_dir_all(&directory).expect("removed");
            copy_directory(&copy, &directory);
        }
    }
    // Sends everything once more: each answer must be the one that was seen.
    let mut run = start(&directory);
    let all = client.bodies.len() as u64;
    for first in (0..all).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(all);
        let count = batch.end - batch.start;
        client.send(&mut run, batch);
        for _ in 0..count {
            let line = run.line().ok_or("the host ended")?;
            client.note(&line)?;
        }
    }
    for (account, balance) in client.balances() {
        run.send(&json!({"query": true, "json": {"balance": account}}).to_string());
        let line = run.line().ok_or("the host ended")?;
        let reply: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        if reply["json"]["balance"] != json!(i64::try_from(balance).map_err(|error| error.to_string())?) {
            return Err(format!("{account} has {reply} and should have {balance}"));
        }
    }
    let output = run.finish();
    if output.code != 0 {
        return Err(format!("exit code {}: {}", output.code, output.stderr));
    }
    Ok(())
}

#[test]
fn kill_9_preserves_every_acknowledged_transaction_once() {
    let kills = std::env::var("LIFEBOAT_KILLS").ok().map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let runs = kills.div_ceil(KILLS_PER_DIRECTORY);
    for run in 0..runs {
        let kills = KILLS_PER_DIRECTORY.min(kills - run * KILLS_PER_DIRECTORY);
        drive(kills, 7 + run, false).unwrap_or_else(|error| panic!("with seed {}: {error}", 7 + run));
        if runs > 1 {
            // This takes an hour. A run with --nocapture shows the progress.
            let _ = writeln!(io::stdout(), "{kills} kills with seed {}: nothing lost, nothing doubled", 7 + run);
        }
    }
}

/// The check of [`drive`] is one that can fail.
#[test]
fn answers_that_are_no_longer_in_the_directory_are_noticed() {
    let noticed = (0..3).any(|seed| drive(10, seed, true).is_err());
    assert!(noticed, "an older copy of the directory was put back, and no answer was missed");
}
