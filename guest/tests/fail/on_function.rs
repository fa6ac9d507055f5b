use lifeboat_guest::workload;

#[workload]
fn counter() {}

fn main() {}
