use lifeboat_guest::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Counter(i64);

#[workload]
impl Workload for Counter {
    type Transaction = i64;
    type Reply = i64;
    fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
        self.0 += add;
        Ok(self.0)
    }
}

fn main() {
    let mut counter = Counter::default();
    assert_eq!(counter.execute(&Context::default(), 5), Ok(5));
    assert_eq!(Counter::STATE_VERSION, 1);
}
