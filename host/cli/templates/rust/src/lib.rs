//! A counter. A transaction is a number to add, and its reply is the total.

use lifeboat_guest::prelude::*;

/// The state: all that a failover moves, beside the files of the virtual disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counter {
    total: i64,
}

/// A question, which changes nothing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Query {
    Total,
}

#[workload]
impl Workload for Counter {
    type Transaction = i64;
    type Reply = i64;
    type Query = Query;
    type Answer = i64;

    fn execute(&mut self, _: &Context, add: i64) -> Result<i64, String> {
        self.total = self.total.checked_add(add).ok_or("the total would not fit in 64 bits")?;
        Ok(self.total)
    }

    fn query(&self, _: &Context, Query::Total: Query) -> Result<i64, String> {
        Ok(self.total)
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_guest::testing::{self, Service};

    use super::*;

    #[test]
    fn numbers_are_added() {
        let mut service = Service::<Counter>::new();
        assert_eq!(service.execute("5"), Ok("5".to_owned()));
        assert_eq!(service.execute("-2"), Ok("3".to_owned()));
        assert_eq!(service.query("\"total\""), Ok("3".to_owned()));
    }

    #[test]
    fn overflow_is_refused() {
        let mut service = Service::<Counter>::new();
        assert_eq!(service.execute("1"), Ok("1".to_owned()));
        assert!(service.execute(i64::MAX.to_string()).is_err());
        assert_eq!(service.execute("1"), Ok("2".to_owned()));
    }

    #[test]
    fn failovers_are_invisible() {
        testing::assert_failovers_are_invisible::<Counter>(&["5", "\"five\"", "-2"], &["\"total\""]);
    }

    #[test]
    fn shape_of_the_state_is_that_of_version_1() {
        assert_eq!(testing::shape::<Counter>(), "{total:i64}", "raise STATE_VERSION and implement `migrate`");
    }
}
