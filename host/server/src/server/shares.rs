//! Limits of how many of something each key may hold at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The counts of what each key holds.
#[derive(Debug, Clone)]
pub(super) struct Shares<K> {
    counts: Arc<Mutex<HashMap<K, usize>>>,
    each_max: usize,
}

/// One unit that a key holds, until it is dropped.
#[derive(Debug)]
pub(super) struct Share<K: Eq + Hash> {
    counts: Arc<Mutex<HashMap<K, usize>>>,
    of: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Creates counts with a limit of `each_max` per key.
    pub(super) fn new(each_max: usize) -> Self {
        Self { counts: Arc::default(), each_max }
    }

    /// Takes one more for `of`. Returns `None` if it holds its limit, or would hold more than `max`.
    pub(super) fn take_up_to(&self, of: K, max: usize) -> Option<Share<K>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&of).copied().unwrap_or(0);
        if count >= self.each_max.min(max) {
            return None;
        }
        counts.insert(of.clone(), count + 1);
        Some(Share { counts: Arc::clone(&self.counts), of })
    }

    /// Returns how many `of` holds.
    pub(super) fn count(&self, of: &K) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(of).copied().unwrap_or(0)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_bounded_until_it_is_released() {
        let shares = Shares::new(2);
        let take = |of| shares.take_up_to(of, usize::MAX);
        let (first, second) = (take("ada"), take("ada"));
        assert!(first.is_some() && second.is_some() && take("ada").is_none());
        assert!(take("bob").is_some());
        drop(first);
        assert_eq!(shares.count(&"ada"), 1);
        assert!(shares.take_up_to("ada", 1).is_none());
        let again = take("ada");
        assert!(again.is_some() && take("ada").is_none());
        drop((second, again));
        assert!(shares.counts.lock().expect("nobody panics").is_empty(), "who has nothing takes no room");
    }
}
