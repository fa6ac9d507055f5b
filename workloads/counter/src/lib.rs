//! One number.
//!
//! - Transaction: `{"add": n}`, `n` an integer of 64 bits with sign. Reply: the new total, as a JSON number.
//! - Query: `"total"`. Answer: the total.
//! - Refused: whatever is not such an object. Other fields in it are refused too, since they are likely a mistake.
//! - Failed: an addition that overflows. It panics, so the total stays as it was.
//! - Limits it meets: a constant amount of memory (its state is at most 10 bytes) and, for each transaction, a small
//!   and nearly constant amount of fuel. Its VM runs out of fuel and of network, never of memory.

use lifeboat_guest::prelude::*;

/// The state: the sum of all that was added.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    total: i64,
}

/// The only transaction.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// What to add; negative to take away.
    pub add: i64,
}

/// The only query.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The sum of all that was added.
    Total,
}

#[workload]
impl Workload for Counter {
    type Transaction = Add;
    type Reply = i64;
    type Query = Query;
    type Answer = i64;

    fn execute(&mut self, _: &Context, Add { add }: Add) -> Result<i64, String> {
        // A panic is `failed`: nothing is kept.
        self.total = self.total.checked_add(add).expect("the total stays within 64 bits");
        Ok(self.total)
    }

    fn query(&self, _: &Context, Query::Total: Query) -> Result<i64, String> {
        Ok(self.total)
    }
}

#[cfg(test)]
mod tests;
