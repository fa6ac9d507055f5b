//! What each of many owners is charged, and who is charged most: a binary heap in which each owner knows its place.
//!
//! A charge that changes moves its owner as far as the order demands: nowhere for one that is alone or far ahead of the
//! others, where an ordered set would be changed twice.

/// The charges of owners, who are numbered from zero.
#[derive(Debug, Default)]
pub(super) struct Charges {
    owners: Vec<Owner>,
    /// The owners; none is charged more than the one at its parent's place.
    heap: Vec<usize>,
    total: u64,
    /// How many are charged anything.
    charged: u64,
}

#[derive(Debug)]
struct Owner {
    charge: u64,
    /// Its place in the heap.
    place: usize,
}

impl Charges {
    /// What all are charged.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What `owner` is charged.
    pub(super) fn of(&self, owner: usize) -> u64 {
        self.owners[owner].charge
    }

    /// How many are charged anything.
    pub(super) fn charged(&self) -> u64 {
        self.charged
    }

    /// Who is charged most. None if nobody is charged anything.
    pub(super) fn largest(&self) -> Option<usize> {
        self.heap.first().copied().filter(|owner| self.owners[*owner].charge > 0)
    }

    /// Adds an owner who is charged nothing, with the next number.
    pub(super) fn push(&mut self) {
        self.owners.push(Owner { charge: 0, place: self.heap.len() });
        self.heap.push(self.owners.len() - 1);
    }

    /// Removes an owner. The last one gets their number.
    pub(super) fn swap_remove(&mut self, owner: usize) {
        self.subtract(owner, self.owners[owner].charge);
        let (place, last) = (self.owners[owner].place, self.heap.len() - 1);
        self.swap(place, last);
        self.heap.pop();
        self.owners.swap_remove(owner);
        if let Some(renumbered) = self.owners.get(owner) {
            self.heap[renumbered.place] = owner;
        }
        if place < last {
            self.rise(place);
        }
    }

    /// Charges an owner so much more.
    pub(super) fn add(&mut self, owner: usize, by: u64) {
        let Owner { charge, place } = &mut self.owners[owner];
        self.charged += u64::from(*charge == 0 && by > 0);
        *charge = charge.saturating_add(by);
        self.total = self.total.saturating_add(by);
        let place = *place;
        self.rise(place);
    }

    /// Charges an owner so much less.
    pub(super) fn subtract(&mut self, owner: usize, by: u64) {
        let Owner { charge, place } = &mut self.owners[owner];
        self.charged -= u64::from(*charge > 0 && *charge <= by);
        *charge = charge.saturating_sub(by);
        self.total = self.total.saturating_sub(by);
        let place = *place;
        self.sink(place);
    }

    fn charge_at(&self, place: usize) -> u64 {
        self.owners[self.heap[place]].charge
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for place in [one, other] {
            self.owners[self.heap[place]].place = place;
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.charge_at(place) > self.charge_at((place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..self.heap.len().min(2 * place + 3);
            let Some(largest) = children.max_by_key(|child| self.charge_at(*child)) else { return };
            if self.charge_at(largest) <= self.charge_at(place) {
                return;
            }
            self.swap(place, largest);
            place = largest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Remove(prop::sample::Index),
        Add(prop::sample::Index, u64),
        Subtract(prop::sample::Index, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let index = any::<prop::sample::Index>;
        let step = prop_oneof![
            2 => Just(Step::Push),
            1 => index().prop_map(Step::Remove),
            6 => (index(), 0..10_u64).prop_map(|(owner, by)| Step::Add(owner, by)),
            6 => (index(), 0..12_u64).prop_map(|(owner, by)| Step::Subtract(owner, by)),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn the_largest_is_known_whatever_is_charged(steps in steps()) {
            let (mut charges, mut model) = (Charges::default(), Vec::<u64>::new());
            for step in steps {
                match step {
                    Step::Push => {
                        charges.push();
                        model.push(0);
                    }
                    _ if model.is_empty() => {}
                    Step::Remove(index) => {
                        charges.swap_remove(index.index(model.len()));
                        model.swap_remove(index.index(model.len()));
                    }
                    Step::Add(index, by) => {
                        charges.add(index.index(model.len()), by);
                        let owner = index.index(model.len());
                        model[owner] += by;
                    }
                    Step::Subtract(index, by) => {
                        let owner = index.index(model.len());
                        // Never more than it is charged.
                        let by = by.min(model[owner]);
                        charges.subtract(owner, by);
                        model[owner] -= by;
                    }
                }
                prop_assert_eq!(charges.total(), model.iter().sum::<u64>());
                prop_assert_eq!(charges.charged(), model.iter().filter(|charge| **charge > 0).count() as u64);
                prop_assert!((0..model.len()).all(|owner| charges.of(owner) == model[owner]));
                let largest = charges.largest().map(|owner| model[owner]);
                prop_assert_eq!(largest, model.iter().copied().max().filter(|charge| *charge > 0));
            }
        }
    }
}
