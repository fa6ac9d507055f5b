//! The control: the minimum cost of durable transfers on this disk.
//!
//! The clients are not even threads. All of them wait; one write then overwrites the next part of a preallocated file
//! with a record of each, and one `fdatasync` follows. All are answered and wait again. A system whose clients have one
//! request in flight could be faster only with a cheaper way to make bytes durable.

use crate::{ACCOUNTS, BALANCE, TOTAL, WARM_UP};
use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The size of the file in bytes. Once it is full, it is overwritten from its start.
const LOG_BYTES: usize = 64 * 1024 * 1024;

/// The length of a record: a journal's record of a transfer, with its ids and its checksum.
const RECORD_BYTES: usize = 200;

const SEED: u64 = 7;

/// Returns a description; the control needs no program.
pub(crate) fn version() -> Result<String> {
    Ok(format!("{RECORD_BYTES} bytes a transfer, one fdatasync for all clients"))
}

/// Overwrites the file `log` in `directory` for `duration`, and returns the transfers per second.
pub(crate) fn transfers_per_second(directory: &Path, clients: usize, duration: Duration) -> Result<f64> {
    let mut ledger = Ledger::open(&directory.join("log"))?;
    ledger.transfer(clients, WARM_UP)?;
    let rate = ledger.transfer(clients, duration)?;
    let total: u64 = ledger.balances.iter().sum();
    ensure!(total == TOTAL, "the balances sum to {total}, paid in were {TOTAL}");
    Ok(rate)
}

struct Ledger {
    log: File,
    /// The position of the next batch in the file.
    offset: usize,
    sequence: u64,
    balances: Vec<u64>,
    random: ChaCha8Rng,
}

impl Ledger {
    /// Preallocates the log by writing zeros. Otherwise the file system would have to record with each `fdatasync` that
    /// another part of the file is in use.
    fn open(path: &Path) -> Result<Self> {
        let log =
            File::options().read(true).write(true).create_new(true).open(path).context("failed to create a log")?;
        log.write_all_at(&vec![0; LOG_BYTES], 0).context("failed to preallocate the log")?;
        log.sync_all().context("failed to sync the log")?;
        let balances = vec![BALANCE; ACCOUNTS.into()];
        Ok(Self { log, offset: 0, sequence: 0, balances, random: ChaCha8Rng::seed_from_u64(SEED) })
    }

    /// Makes transfers for `duration`, checks the last batch in the file, and returns their number per second.
    fn transfer(&mut self, clients: usize, duration: Duration) -> Result<f64> {
        let mut batch = vec![0; clients * RECORD_BYTES];
        let mut transfers = 0_u32;
        let mut last = 0;
        let start = Instant::now();
        while start.elapsed() < duration {
            for record in batch.chunks_exact_mut(RECORD_BYTES) {
                self.transfer_one(record)?;
                transfers += 1;
            }
            if self.offset + batch.len() > LOG_BYTES {
                self.offset = 0;
            }
            self.log.write_all_at(&batch, self.offset as u64).context("failed to write to the log")?;
            self.log.sync_data().context("failed to sync the log")?;
            last = self.offset;
            self.offset += batch.len();
        }
        let elapsed = start.elapsed();
        let mut found = vec![0; batch.len()];
        self.log.read_exact_at(&mut found, last as u64).context("failed to read the log")?;
        ensure!(found == batch, "the log does not hold what was written last");
        Ok(f64::from(transfers) / elapsed.as_secs_f64())
    }

    /// Moves one unit and writes it to `record`: sequence, payer and payee, little-endian, then padding.
    fn transfer_one(&mut self, record: &mut [u8]) -> Result<()> {
        let accounts = u32::from(ACCOUNTS);
        let payer = self.random.next_u32() % accounts;
        let payee = (payer + 1 + self.random.next_u32() % (accounts - 1)) % accounts;
        let balance = &mut self.balances[payer as usize];
        *balance = balance.checked_sub(1).context("an account is empty")?;
        self.balances[payee as usize] += 1;
        self.sequence += 1;
        record[..8].copy_from_slice(&self.sequence.to_le_bytes());
        record[8..12].copy_from_slice(&payer.to_le_bytes());
        record[12..16].copy_from_slice(&payee.to_le_bytes());
        Ok(())
    }
}
