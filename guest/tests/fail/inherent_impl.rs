use lifeboat_guest::workload;

struct Counter(i64);

#[workload]
impl Counter {
    fn execute(&mut self) {}
}

fn main() {}
