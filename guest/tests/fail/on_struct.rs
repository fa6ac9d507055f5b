use lifeboat_guest::workload;

#[workload]
struct Counter(i64);

fn main() {}
