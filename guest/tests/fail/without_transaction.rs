use lifeboat_guest::prelude::*;

struct Counter(i64);

#[workload]
impl Workload for Counter {
    type Reply = i64;

    fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
        Ok(add)
    }
}

fn main() {}
