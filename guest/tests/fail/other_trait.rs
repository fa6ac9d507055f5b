use lifeboat_guest::workload;

struct Counter(i64);

#[workload]
impl Default for Counter {
    fn default() -> Self {
        Self(0)
    }
}

fn main() {}
