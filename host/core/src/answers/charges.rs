//! The charges of many owners and the owner with the largest charge: a binary heap in which each owner knows its place.
//!
//! A changed charge moves its owner only as far as the order demands. An owner that is alone or far ahead of the others
//! does not move, where an ordered set would be changed twice.

/// The charges of owners, who are numbered from zero.
#[derive(Debug, Default)]
pub(super) struct Charges {
    owners: Vec<Owner>,
    /// The owners as a heap: none has a larger charge than its parent.
    heap: Vec<usize>,
    total: u64,
    /// The number of owners with a charge above zero.
    charged: u64,
}

#[derive(Debug)]
struct Owner {
    charge: u64,
    /// The index in the heap.
    place: usize,
}

impl Charges {
    /// Returns the sum of all charges.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the charge of `owner`.
    pub(super) fn of(&self, owner: usize) -> u64 {
        self.owners[owner].charge
    }

    /// Returns the number of owners with a charge above zero.
    pub(super) fn charged(&self) -> u64 {
        self.charged
    }

    /// Returns the owner with the largest charge, or none if all charges are zero.
    pub(super) fn largest(&self) -> Option<usize> {
        self.heap.first().copied().filter(|owner| self.owners[*owner].charge > 0)
    }

    /// Adds an owner with a charge of zero and the next number.
    pub(super) fn push(&mut self) {
        self.owners.push(Owner { charge: 0, place: self.heap.len() });
        self.heap.push(self.owners.len() - 1);
    }

    /// Removes an owner. The last owner gets their number.
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

    /// Increases the charge of an owner by `by`.
    pub(super) fn add(&mut self, owner: usize, by: u64) {
        let Owner { charge, place } = &mut self.owners[owner];
        self.charged += u64::from(*charge == 0 && by > 0);
        *charge = charge.saturating_add(by);
        self.total = self.total.saturating_add(by);
        let place = *place;
        self.rise(place);
    }

    /// Decreases the charge of an owner by `by`.
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
                        // Subtract at most the owner's charge.
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
