use lifeboat_guest::prelude::*;

struct Counter(i64);

#[workload]
impl Workload for Counter {
    type Transaction = i64;
    type Reply = i64;
}

fn main() {}
