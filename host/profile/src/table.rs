//! Functions by their own fuel.

use crate::UNKNOWN;
use crate::tree::{NodeId, Tree};
use std::collections::BTreeMap;

/// A function of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its name.
    pub name: &'a str,
    /// The fuel that it burnt itself.
    pub own: u64,
    /// The fuel that it burnt with everything that it called. A recursive function counts once.
    pub total: u64,
}

/// Returns the functions with the most fuel of their own first; of equal ones, by name. Their own fuel adds up to that
/// of the tree.
#[must_use]
pub fn table(tree: &Tree) -> Vec<Row<'_>> {
    let totals = tree.totals();
    let mut rows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let of_root = tree.fuel(Tree::ROOT);
    rows.insert(UNKNOWN, (of_root, of_root));
    for (stack, node) in tree.nodes().skip(1) {
        let (own, total) = rows.entry(tree.name(stack)).or_default();
        *own = own.saturating_add(node.fuel);
        if !is_in_itself(tree, stack) {
            *total = total.saturating_add(totals[Tree::index(stack)]);
        }
    }
    let mut rows: Vec<Row<'_>> =
        rows.into_iter().map(|(name, (own, total))| Row { name, own, total }).filter(|row| row.total > 0).collect();
    rows.sort_by(|one, other| other.own.cmp(&one.own).then(one.name.cmp(other.name)));
    rows
}

/// Returns whether a function is among those that led to it.
fn is_in_itself(tree: &Tree, stack: NodeId) -> bool {
    let names = tree.names(stack);
    names.split_last().is_some_and(|(name, callers)| callers.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuel_without_a_known_stack_has_a_row() {
        let mut tree = Tree::default();
        let stack = tree.stack(["main"].into_iter());
        tree.add(stack, 1);
        tree.add(Tree::ROOT, 2);
        assert_eq!(table(&tree)[0], Row { name: "(unknown)", own: 2, total: 2 });
        assert_eq!(table(&tree).iter().map(|row| row.own).sum::<u64>(), tree.total());
    }

    #[test]
    fn the_hottest_function_is_first_and_recursion_counts_once() {
        let mut tree = Tree::default();
        for (names, fuel) in [(&["main"][..], 1), (&["main", "f"], 4), (&["main", "f", "f"], 6), (&["main", "g"], 3)] {
            let stack = tree.stack(names.iter().copied());
            tree.add(stack, fuel);
        }
        let rows: Vec<_> = table(&tree).into_iter().map(|row| (row.name, row.own, row.total)).collect();
        assert_eq!(rows, [("f", 10, 10), ("g", 3, 3), ("main", 1, 14)]);
    }
}
