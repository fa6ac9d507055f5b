//! What a log retains of its records, by their numbers.

use lifeboat_journal::frame::RecordNumber;
use std::collections::VecDeque;

/// The number of released places that are left among the others. More are removed once they are the majority.
const RELEASED_PLACES_MAX: usize = 1024;

/// Values by ascending record number. Each can be released, in any order.
#[derive(Debug)]
pub(super) struct Retained<T> {
    /// None replaces a released value. The first place is never a released one.
    places: VecDeque<(RecordNumber, Option<T>)>,
    /// The number of released places.
    released: usize,
    /// The index of the place that [`Retained::next_mut`] expects to return next.
    next: usize,
}

impl<T> Default for Retained<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), released: 0, next: 0 }
    }
}

impl<T> Retained<T> {
    /// Retains `value`, whose record number must be above all others.
    pub(super) fn push(&mut self, number: RecordNumber, value: T) {
        self.places.push_back((number, Some(value)));
    }

    pub(super) fn get(&self, number: RecordNumber) -> Option<&T> {
        let index = self.places.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.places[index].1.as_ref()
    }

    pub(super) fn first(&self) -> Option<(RecordNumber, &T)> {
        self.iter().next()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RecordNumber, &T)> {
        self.places.iter().filter_map(|(number, value)| Some((*number, value.as_ref()?)))
    }

    /// Returns the value of `number`. This is cheap if `number` follows that of the previous call.
    pub(super) fn next_mut(&mut self, number: RecordNumber) -> Option<&mut T> {
        if self.places.get(self.next).is_none_or(|(next, _)| *next != number) {
            self.next = self.places.partition_point(|(before, _)| *before < number);
        }
        let (_, value) = self.places.get_mut(self.next).filter(|(next, _)| *next == number)?;
        self.next += 1;
        value.as_mut()
    }

    /// Returns the values from the record number `first` on.
    pub(super) fn range_mut(&mut self, first: RecordNumber) -> impl Iterator<Item = (RecordNumber, &mut T)> {
        let index = self.places.partition_point(|(before, _)| *before < first);
        self.places.range_mut(index..).filter_map(|(number, value)| Some((*number, value.as_mut()?)))
    }

    /// Releases the value of `number`. Does nothing if there is none.
    pub(super) fn release(&mut self, number: RecordNumber) {
        let index = index_near_front(&self.places, |(before, _)| *before < number);
        let Some((_, value)) = self.places.get_mut(index).filter(|(found, _)| *found == number) else { return };
        self.released += usize::from(value.take().is_some());
        while self.places.pop_front_if(|(_, value)| value.is_none()).is_some() {
            self.released -= 1;
            self.next = self.next.saturating_sub(1);
        }
        if self.released > self.places.len() / 2 && self.released > RELEASED_PLACES_MAX {
            self.places.retain(|(_, value)| value.is_some());
            self.released = 0;
            // The next call searches for it.
            self.next = self.places.len();
        }
    }
}

/// Returns how many items at the front satisfy `is_before`. Usually there are none or few, and a binary search of a
/// long queue would touch memory all over it.
fn index_near_front<T>(queue: &VecDeque<T>, is_before: impl Fn(&T) -> bool) -> usize {
    let (mut start, mut step) = (0, 1);
    while queue.get(start + step - 1).is_some_and(&is_before) {
        start += step;
        step *= 2;
    }
    let end = queue.len().min(start + step);
    let (mut low, mut high) = (start, end);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(&queue[middle]) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone)]
    enum Action {
        /// Skips some numbers and retains the one after them.
        Push(u64),
        Release(u64),
        /// Writes to the values of this many numbers in order, from a number on.
        Next(u64, u64),
        FromOn(u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (1..4_u64).prop_map(Action::Push),
            4 => (0..40_u64).prop_map(Action::Release),
            2 => (0..40_u64, 1..6_u64).prop_map(|(first, count)| Action::Next(first, count)),
            1 => (0..40_u64).prop_map(Action::FromOn),
        ]
    }

    proptest! {
        #[test]
        fn retained_values_are_those_of_a_map(actions in prop::collection::vec(action(), 1..80)) {
            let (mut retained, mut model) = (Retained::default(), BTreeMap::new());
            let mut last = 0;
            for action in actions {
                match action {
                    Action::Push(step) => {
                        last += step;
                        retained.push(RecordNumber(last), 0);
                        model.insert(last, 0);
                    }
                    Action::Release(number) => {
                        retained.release(RecordNumber(number));
                        model.remove(&number);
                    }
                    Action::Next(first, count) => {
                        for number in first..first + count {
                            let value = retained.next_mut(RecordNumber(number));
                            prop_assert_eq!(value.as_deref().copied(), model.get(&number).copied());
                            if let Some((value, modelled)) = value.zip(model.get_mut(&number)) {
                                *value += 1;
                                *modelled += 1;
                            }
                        }
                    }
                    Action::FromOn(first) => {
                        let all = retained.range_mut(RecordNumber(first)).map(|(number, value)| (number.0, *value));
                        let modelled = model.range(first..).map(|(number, value)| (*number, *value));
                        prop_assert_eq!(all.collect::<Vec<_>>(), modelled.collect::<Vec<_>>());
                    }
                }
                let all = retained.iter().map(|(number, value)| (number.0, *value)).collect::<Vec<_>>();
                prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
                let first = model.first_key_value().map(|(number, value)| (RecordNumber(*number), value));
                prop_assert_eq!(retained.first(), first);
                for number in 0..=last + 1 {
                    prop_assert_eq!(retained.get(RecordNumber(number)), model.get(&number));
                }
                prop_assert!(retained.places.front().is_none_or(|(_, value)| value.is_some()));
            }
        }
    }

    #[test]
    fn released_places_do_not_outnumber_the_others() {
        let mut retained = Retained::default();
        let places = 4 * RELEASED_PLACES_MAX as u64;
        (0..places).for_each(|number| retained.push(RecordNumber(number), number));
        (1..places - 1).for_each(|number| retained.release(RecordNumber(number)));
        assert!(retained.places.len() <= RELEASED_PLACES_MAX + 2, "{}", retained.places.len());
        assert_eq!(retained.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [0, places - 1]);
        assert_eq!(retained.next_mut(RecordNumber(places - 1)).copied(), Some(places - 1));
    }

    #[test]
    fn an_item_is_found_from_the_front_wherever_it_is() {
        for length in 0..70 {
            let queue: VecDeque<u32> = (0..length).map(|item| 2 * item).collect();
            for bound in 0..150 {
                let expected = queue.partition_point(|item| *item < bound);
                assert_eq!(index_near_front(&queue, |item| *item < bound), expected, "{length}, {bound}");
            }
        }
    }
}
