//! In a crate without tests, nothing but the attribute uses the workload.
#![deny(warnings)]

use lifeboat_guest::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Counter(i64);

#[workload]
impl Workload for Counter {
    type Transaction = i64;
    type Reply = i64;
    fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
        self.0 = self.0.checked_add(add).ok_or("the total would not fit in 64 bits")?;
        Ok(self.0)
    }
}

fn main() {}
