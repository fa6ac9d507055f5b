//! The stacks of a run, as a tree in which stacks with the same beginning share it.

use crate::{CUT, OTHERS};
use std::borrow::Cow;
use std::collections::HashMap;

/// The most functions of a stack. Of a deeper one the innermost are kept, below a function `(cut)`.
pub const DEPTH_MAX: usize = 256;

/// The most different stacks, and beginnings of stacks, of a profile. Further ones count for `(others)`.
pub const STACKS_MAX: usize = 100_000;

/// The most characters of the name of a function. Of a longer one both ends are kept.
pub const LABEL_CHARS_MAX: usize = 200;

/// A stack, by its place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

/// A stack: a function, called by those of its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The stack of the caller. The root, which stands for no function, has none.
    pub parent: Option<NodeId>,
    /// The index of the function's name.
    label: usize,
    /// The fuel that was burnt in this function itself, called in this way.
    pub fuel: u64,
}

/// A tree of stacks.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
    children: HashMap<(NodeId, usize), NodeId>,
    labels: Vec<String>,
    label_indices: HashMap<String, usize>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { parent: None, label: 0, fuel: 0 };
        Self { nodes: vec![root], children: HashMap::new(), labels: vec![String::new()], label_indices: HashMap::new() }
    }
}

impl Tree {
    /// The root, which stands for no function.
    pub const ROOT: NodeId = NodeId(0);

    /// Returns what stands above the innermost [`DEPTH_MAX`] functions of a stack of this depth.
    pub fn above(&mut self, depth: usize) -> NodeId {
        if depth > DEPTH_MAX { self.child(Self::ROOT, CUT) } else { Self::ROOT }
    }

    /// Returns the stack of `functions`, the outermost first.
    #[cfg(test)]
    pub(crate) fn stack<'a>(&mut self, functions: impl ExactSizeIterator<Item = &'a str>) -> NodeId {
        let depth = functions.len();
        let above = self.above(depth);
        let kept = functions.skip(depth.saturating_sub(DEPTH_MAX));
        kept.fold(above, |caller, function| self.child(caller, function))
    }

    /// Returns the stack in which the function of `caller` has called another one.
    pub fn child(&mut self, caller: NodeId, function: &str) -> NodeId {
        let label = self.label(function);
        if let Some(&known) = self.children.get(&(caller, label)) {
            return known;
        }
        if self.nodes.len() >= STACKS_MAX && function != OTHERS {
            return match self.child(Self::ROOT, OTHERS) {
                // What `(others)` calls is itself.
                others if others == caller => caller,
                others => others,
            };
        }
        let node = NodeId(self.nodes.len());
        self.nodes.push(Node { parent: Some(caller), label, fuel: 0 });
        self.children.insert((caller, label), node);
        node
    }

    fn label(&mut self, function: &str) -> usize {
        let short = shortened(function, LABEL_CHARS_MAX);
        if let Some(&known) = self.label_indices.get(&*short) {
            return known;
        }
        // Every stack that is kept has at most one new name, but those beyond the limit must not add any.
        if self.nodes.len() >= STACKS_MAX && function != OTHERS {
            return usize::MAX;
        }
        let label = self.labels.len();
        self.labels.push(short.clone().into_owned());
        self.label_indices.insert(short.into_owned(), label);
        label
    }

    /// Adds fuel that was burnt in a stack.
    pub fn add(&mut self, stack: NodeId, fuel: u64) {
        let own = &mut self.nodes[stack.0].fuel;
        *own = own.saturating_add(fuel);
    }

    /// Returns the stacks, each after that of its caller. The first is the root.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index), node))
    }

    /// Returns the number of stacks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether nothing was burnt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// Returns the fuel that was burnt in the function of a stack itself.
    #[must_use]
    pub fn fuel(&self, stack: NodeId) -> u64 {
        self.nodes[stack.0].fuel
    }

    /// Returns the name of the function of a stack.
    #[must_use]
    pub fn name(&self, stack: NodeId) -> &str {
        &self.labels[self.nodes[stack.0].label]
    }

    /// Returns the names of the functions of a stack, the outermost first.
    #[must_use]
    pub fn names(&self, stack: NodeId) -> Vec<&str> {
        let mut names = Vec::new();
        let mut next = stack;
        while let Some(parent) = self.nodes[next.0].parent {
            names.push(self.name(next));
            next = parent;
        }
        names.reverse();
        names
    }

    /// Returns the fuel of all stacks.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.nodes.iter().map(|node| node.fuel).fold(0, u64::saturating_add)
    }

    /// Returns the fuel of each stack with everything that it called, in the order of [`Tree::nodes`].
    #[must_use]
    pub fn totals(&self) -> Vec<u64> {
        let mut totals: Vec<u64> = self.nodes.iter().map(|node| node.fuel).collect();
        for index in (1..self.nodes.len()).rev() {
            if let Some(parent) = self.nodes[index].parent {
                totals[parent.0] = totals[parent.0].saturating_add(totals[index]);
            }
        }
        totals
    }

    /// Returns what the function of each stack has called, by name. The stacks are in the order of [`Tree::nodes`].
    pub(crate) fn callees(&self) -> Vec<Vec<NodeId>> {
        let mut callees = vec![Vec::new(); self.nodes.len()];
        for (stack, node) in self.nodes() {
            if let Some(caller) = node.parent {
                callees[caller.0].push(stack);
            }
        }
        for of_one in &mut callees {
            of_one.sort_by_key(|callee| self.name(*callee));
        }
        callees
    }

    pub(crate) fn index(stack: NodeId) -> usize {
        stack.0
    }
}

/// Returns a name of at most `chars_max` characters, 2 or more. Of a longer one both ends are kept: names of generic
/// functions differ at their ends as often as at their beginnings.
#[must_use]
pub fn shortened(name: &str, chars_max: usize) -> Cow<'_, str> {
    // No character is shorter than a byte.
    if name.len() <= chars_max {
        return name.into();
    }
    let length = name.chars().count();
    if length <= chars_max {
        return name.into();
    }
    let kept = chars_max.saturating_sub(2);
    let half = kept / 2;
    let end = name.chars().skip(length - (kept - half));
    name.chars().take(half).chain("..".chars()).chain(end).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_share_their_beginnings_and_have_the_fuel_below_them() {
        let mut tree = Tree::default();
        let (ab, ac) = (tree.stack(["a", "b"].into_iter()), tree.stack(["a", "c"].into_iter()));
        assert_eq!(tree.stack(["a", "b"].into_iter()), ab);
        tree.add(ab, 5);
        tree.add(ac, 7);
        tree.add(ab, 1);
        assert_eq!((tree.len(), tree.total()), (4, 13));
        assert_eq!(tree.totals(), [13, 13, 6, 7]);
        assert_eq!(tree.names(ac), ["a", "c"]);
    }

    #[test]
    fn a_deep_stack_is_cut_at_its_outer_end() {
        let mut tree = Tree::default();
        let names: Vec<String> = (0..DEPTH_MAX + 3).map(|index| format!("f{index}")).collect();
        let whole = tree.stack(names[3..].iter().map(String::as_str));
        assert_eq!(tree.names(whole)[0], "f3", "it is not too deep");
        let stack = tree.stack(names.iter().map(String::as_str));
        let kept = tree.names(stack);
        assert_eq!((kept.len(), kept[0], kept[1]), (DEPTH_MAX + 1, CUT, "f3"));
    }

    #[test]
    fn stacks_beyond_the_limit_are_others() {
        let mut tree = Tree::default();
        for index in 0..STACKS_MAX + 50 {
            let stack = tree.stack(["main", &format!("f{index}"), "leaf"].into_iter());
            tree.add(stack, 1);
        }
        assert!(tree.len() <= STACKS_MAX + 1, "{}", tree.len());
        let others = tree.child(Tree::ROOT, OTHERS);
        assert_eq!(tree.names(others), [OTHERS]);
        assert_eq!(tree.total(), STACKS_MAX as u64 + 50);
        assert!(tree.totals()[others.0] > 50);
    }

    #[test]
    fn a_long_name_is_cut() {
        let mut tree = Tree::default();
        let stack = tree.stack(["é".repeat(1_000).as_str()].into_iter());
        assert_eq!(tree.name(stack).chars().count(), LABEL_CHARS_MAX);
        let generic = |argument: &str| format!("core::<{}>::call::<{argument}>", "x".repeat(1_000));
        let (one, other) = (tree.child(Tree::ROOT, &generic("u8")), tree.child(Tree::ROOT, &generic("u16")));
        assert!(one != other && tree.name(one).starts_with("core::<x") && tree.name(one).ends_with("::call::<u8>"));
        assert_eq!(tree.child(Tree::ROOT, &generic("u8")), one);
    }
}
