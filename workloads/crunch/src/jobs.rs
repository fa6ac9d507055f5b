//! The jobs themselves: functions of a size, which they do not bound.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Counts the prime numbers below `below`, with a sieve of Eratosthenes over the odd numbers.
pub fn primes_below(below: u32) -> u32 {
    if below <= 2 {
        return 0;
    }
    // Bit `i` stands for the odd number 2i + 1 and is set once that number is known to have a divisor.
    let odd_count = (below / 2) as usize;
    let mut composite = vec![0u64; odd_count.div_ceil(64)];
    let mut count = 1;
    for i in 1..odd_count {
        if composite[i / 64] & (1 << (i % 64)) != 0 {
            continue;
        }
        count += 1;
        let prime = 2 * i + 1;
        // Multiples start at the square of the prime; a step of `prime` bits is one of `2 * prime`.
        let mut multiple = i.saturating_mul(prime + 1);
        while multiple < odd_count {
            composite[multiple / 64] |= 1 << (multiple % 64);
            multiple += prime;
        }
    }
    count
}

/// Hashes `bytes` bytes, where byte `i` is `i mod 251`.
pub fn sha256_of_pattern(bytes: u32) -> [u8; 32] {
    const PERIOD: usize = 251;
    let block: Vec<u8> = (0..PERIOD as u8).cycle().take(16 * PERIOD).collect();
    let mut hasher = Sha256::new();
    let mut missing = bytes as usize;
    while missing > 0 {
        let some = missing.min(block.len());
        hasher.update(&block[..some]);
        missing -= some;
    }
    hasher.finalize().into()
}

/// A record that a `json` job writes and parses.
#[derive(Serialize, Deserialize)]
struct Record {
    index: u32,
    name: String,
    tags: Vec<String>,
    weight: i64,
    even: bool,
}

impl Record {
    fn new(index: u32) -> Self {
        Self {
            index,
            name: format!("record \"{index}\""),
            tags: vec![format!("t{}", index % 7), "lifeboat".to_owned()],
            weight: (i64::from(index) - 1000) * 7919,
            even: index.is_multiple_of(2),
        }
    }

    fn hash_into(&self, hash: &mut Fnv) {
        hash.update(&self.index.to_le_bytes());
        hash.update(self.name.as_bytes());
        self.tags.iter().for_each(|tag| hash.update(tag.as_bytes()));
        hash.update(&self.weight.to_le_bytes());
        hash.update(&[u8::from(self.even)]);
    }
}

/// Builds `records` records, writes them as JSON, parses that, and hashes the result.
pub fn json_checksum(records: u32) -> u64 {
    let written = (0..records).map(Record::new).collect::<Vec<_>>();
    let text = serde_json::to_string(&written).expect("records have string keys");
    drop(written);
    let parsed: Vec<Record> = serde_json::from_str(&text).expect("it was written a moment ago");
    let mut hash = Fnv::default();
    parsed.iter().for_each(|record| record.hash_into(&mut hash));
    hash.0
}

/// The FNV-1a hash of 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
