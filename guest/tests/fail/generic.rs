use lifeboat_guest::prelude::*;

struct Counter<T>(T);

#[workload]
impl<T> Workload for Counter<T> {
    type Transaction = i64;
    type Reply = i64;

    fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
        Ok(add)
    }
}

fn main() {}
