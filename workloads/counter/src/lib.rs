//! A single number.
//!
//! - Transaction: `{"add": n}`, `n` a signed integer of 64 bits. Reply: the new total, as a JSON number.
//! - Query: `"total"`. Answer: the total.
//! - Refused: any other body. An object with further fields is refused too, since they are probably a mistake.
//! - Failed: an addition that overflows. It panics, so the total does not change.
//! - Limits it meets: it uses a constant amount of memory (its state is at most 10 bytes) and, for each transaction, a
//!   small and nearly constant amount of fuel. Its VM runs out of fuel and of network, never of memory.

use lifeboat_guest::prelude::*;

/// The state: the sum of all numbers that were added.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    total: i64,
}

/// The only transaction.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// The number to add; a negative one is subtracted.
    pub add: i64,
}

/// The only query.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The sum of all numbers that were added.
    Total,
}

#[workload]
impl Workload for Counter {
    type Transaction = Add;
    type Reply = i64;
    type Query = Query;
    type Answer = i64;

    fn execute(&mut self, _: &Context, Add { add }: Add) -> Result<i64, String> {
        // A panic is `failed`: no change is retained.
        self.total = self.total.checked_add(add).expect("the total stays within 64 bits");
        Ok(self.total)
    }

    fn query(&self, _: &Context, Query::Total: Query) -> Result<i64, String> {
        Ok(self.total)
    }
}

#[cfg(test)]
mod tests;
