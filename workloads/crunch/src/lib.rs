//! Arithmetic that burns fuel and stores almost nothing.
//!
//! - Transactions:
//!   - `{"primes":{"below":n}}` counts the primes below `n`, up to [`BELOW_MAX`], with a sieve. Reply: `{"primes":168}`.
//!   - `{"sha256":{"bytes":n}}` hashes `n` bytes, up to [`BYTES_MAX`]; byte `i` is `i mod 251`. Reply:
//!     `{"sha256":"..."}`, 64 hexadecimal digits.
//!   - `{"json":{"records":n}}` builds `n` records, up to [`RECORDS_MAX`], writes them as JSON and parses that. Reply:
//!     `{"json":"..."}`, a checksum (FNV-1a of 64 bits) of the parsed records, 16 hexadecimal digits.
//! - Query: `"summary"`. Answer: `{"jobs":2,"digest":"..."}`. These are the number of jobs done, and the SHA-256 of the
//!   digest before the last job followed by its reply. It begins as 64 zeros.
//! - Refused without a change: a size over its bound.
//! - Limits it meets: fuel, roughly in proportion to `n`, and the deadline of a transaction. Memory stays below 32 MiB;
//!   its state is at most 42 bytes.

mod jobs;

use std::fmt;

use lifeboat_guest::prelude::*;
use sha2::{Digest, Sha256};

pub use jobs::{json_checksum, primes_below, sha256_of_pattern};

/// The largest `below` of a `primes` job. The sieve uses one bit for every odd number: 625 kB.
pub const BELOW_MAX: u32 = 10_000_000;

/// The largest `bytes` of a `sha256` job: 64 MiB. They are hashed in small blocks and never held together.
pub const BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The largest `records` of a `json` job. A record is about 90 bytes of JSON.
pub const RECORDS_MAX: u32 = 20_000;

/// The state: the number of jobs done, and a digest of all replies.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crunch {
    jobs: u64,
    digest: [u8; 32],
}

/// A job and its size.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transaction {
    /// Counts prime numbers.
    Primes {
        /// The bound below which primes are counted, at most [`BELOW_MAX`].
        below: u32,
    },
    /// Hashes a pattern.
    Sha256 {
        /// The length of the pattern in bytes, at most [`BYTES_MAX`].
        bytes: u32,
    },
    /// Writes and parses records.
    Json {
        /// The number of records, at most [`RECORDS_MAX`].
        records: u32,
    },
}

/// The answer to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The number of primes.
    Primes(u32),
    /// The hash, in hexadecimal digits.
    Sha256(String),
    /// The checksum, in hexadecimal digits.
    Json(String),
}

/// The only query.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// A summary of the jobs done so far.
    Summary,
}

/// A summary of the jobs done so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of jobs.
    pub jobs: u64,
    /// The digest of all replies, in hexadecimal digits.
    pub digest: String,
}

/// A size over its bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The size's name in the transaction.
    pub name: &'static str,
    /// The value in the transaction.
    pub value: u32,
    /// The largest valid value.
    pub bound: u32,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, limit is {}", self.name, self.value, self.bound)
    }
}

impl std::error::Error for TooLarge {}

#[workload]
impl Workload for Crunch {
    type Transaction = Transaction;
    type Reply = Reply;
    type Query = Query;
    type Answer = Summary;
    type Error = TooLarge;

    fn execute(&mut self, _: &Context, transaction: Transaction) -> Result<Reply, TooLarge> {
        let reply = match transaction {
            Transaction::Primes { below } => Reply::Primes(primes_below(check("below", below, BELOW_MAX)?)),
            Transaction::Sha256 { bytes } => Reply::Sha256(hex(&sha256_of_pattern(check("bytes", bytes, BYTES_MAX)?))),
            Transaction::Json { records } => {
                Reply::Json(hex(&json_checksum(check("records", records, RECORDS_MAX)?).to_be_bytes()))
            }
        };

        let mut hasher = Sha256::new_with_prefix(self.digest);
        hasher.update(serde_json::to_vec(&reply).expect("a reply is a number or a string"));
        self.digest = hasher.finalize().into();
        self.jobs += 1;
        Ok(reply)
    }

    fn query(&self, _: &Context, Query::Summary: Query) -> Result<Summary, TooLarge> {
        Ok(Summary { jobs: self.jobs, digest: hex(&self.digest) })
    }
}

fn check(name: &'static str, value: u32, bound: u32) -> Result<u32, TooLarge> {
    if value > bound { Err(TooLarge { name, value, bound }) } else { Ok(value) }
}

fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(digits[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests;
