//! A persistent B+ tree: a sorted map whose copies share their nodes.
//!
//! A copy costs one reference count, whatever the size. A change copies the nodes between the root and the entry that
//! other copies share, and no others.
//!
//! ```text
//!   root: branch [a ..][m ..]          a copy shares the root
//!                  |      \
//!        leaf [a b c d]   leaf [m n]   a change of `m` copies the root and the right leaf
//! ```
//!
//! All leaves are at the same depth, no node is empty, and no node has more than [`FANOUT`] entries. A node that a
//! removal shrinks below [`SMALL`] takes entries from its neighbour, or becomes a part of it. Comer, "The Ubiquitous
//! B-Tree" (1979) describes the structure. Here a leaf that an append splits stays full, because files grow at their
//! ends.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// The most entries of a node.
const FANOUT: usize = 32;

/// The number of entries below which a node is joined with a neighbour, or takes some of its entries.
const SMALL: usize = 12;

/// A sorted map. See the module's documentation.
pub struct Tree<K, V> {
    root: Option<Arc<Node<K, V>>>,
}

enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Branch(Branch<K, V>),
}

struct Branch<K, V> {
    children: Vec<Child<K, V>>,
    /// The number of entries in all leaves below.
    len: usize,
}

struct Child<K, V> {
    /// No key in `node` is less, and every key in the child before it is. (The key itself may have been removed.)
    first: K,
    node: Arc<Node<K, V>>,
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<K: fmt::Debug + Ord, V: fmt::Debug> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(entries) => Self::Leaf(entries.clone()),
            Self::Branch(branch) => Self::Branch(Branch { children: branch.children.clone(), len: branch.len }),
        }
    }
}

impl<K: Clone, V> Clone for Child<K, V> {
    fn clone(&self) -> Self {
        Self { first: self.first.clone(), node: Arc::clone(&self.node) }
    }
}

impl<K, V> Tree<K, V> {
    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.len())
    }

    /// Returns whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Returns whether `other` is an unchanged copy of this tree. Two trees with equal entries need not be.
    #[must_use]
    pub fn is_copy_of(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(root), Some(other)) => Arc::ptr_eq(root, other),
            (root, other) => root.is_none() && other.is_none(),
        }
    }
}

impl<K: Ord, V> Tree<K, V> {
    /// Returns the value of `key`.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Branch(branch) => node = &branch.children[branch.index(key)].node,
                Node::Leaf(entries) => {
                    let index = entries.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
                    return entries.get(index).map(|(_, value)| value);
                }
            }
        }
    }

    /// Returns the entries in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::new(self.root.as_deref(), |_| 0, |_| 0)
    }

    /// Returns the entries from `from` on, in order.
    #[must_use]
    pub fn iter_from<Q: Ord + ?Sized>(&self, from: Bound<&Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let key = match from {
            Bound::Unbounded => return self.iter(),
            Bound::Included(key) | Bound::Excluded(key) => key,
        };
        let is_before = |other: &Q| if matches!(from, Bound::Excluded(_)) { other <= key } else { other < key };
        Iter::new(
            self.root.as_deref(),
            |branch| branch.index(key),
            |entries| entries.partition_point(|(other, _)| is_before(other.borrow())),
        )
    }

    /// Returns the last entry.
    #[must_use]
    pub fn last(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Branch(branch) => node = &branch.children.last()?.node,
                Node::Leaf(entries) => return entries.last().map(|(key, value)| (key, value)),
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// Returns the value of `key` for a change, after which it is no longer shared with copies of the tree.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        // A search for a missing key must copy nothing.
        self.get(key)?;
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Branch(branch) => {
                    let index = branch.index(key);
                    node = Arc::make_mut(&mut branch.children[index].node);
                }
                Node::Leaf(entries) => {
                    let index = entries.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
                    return entries.get_mut(index).map(|(_, value)| value);
                }
            }
        }
    }

    /// Sets the value of `key`, and returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![(key, value)])));
            return None;
        };
        let (former, split) = Node::insert(root, key, value);
        if let Some(right) = split {
            let left = Arc::clone(root);
            let children = vec![Child { first: left.first().clone(), node: left }, right];
            *root = Arc::new(Node::Branch(Branch::of(children)));
        }
        former
    }

    /// Removes `key`, and returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        let removed = Node::remove(self.root.as_mut()?, key);
        self.lower_root();
        removed
    }

    /// Removes the entries from `key` on, and returns them as a tree. The work does not depend on their number.
    #[must_use]
    pub fn split_off<Q: Ord + ?Sized>(&mut self, key: &Q) -> Self
    where
        K: Borrow<Q>,
    {
        let Some(root) = &mut self.root else { return Self::default() };
        let mut right = Self { root: Node::split_off(root, key) };
        self.lower_root();
        right.lower_root();
        right
    }

    /// Removes levels that lead to one child alone, and a root without entries.
    fn lower_root(&mut self) {
        while let Some(root) = &self.root {
            match &**root {
                Node::Leaf(entries) if entries.is_empty() => self.root = None,
                Node::Branch(branch) if branch.children.len() < 2 => {
                    self.root = branch.children.first().map(|child| Arc::clone(&child.node));
                }
                _ => return,
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Tree<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut tree = Self::default();
        for (key, value) in entries {
            tree.insert(key, value);
        }
        tree
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Tree<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K, V> Node<K, V> {
    /// Returns the number of entries in all leaves below.
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(branch) => branch.len,
        }
    }

    /// Returns the number of entries or children of this node alone.
    fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }

    /// Returns a key that no key of the node is less than. The node is not empty.
    fn first(&self) -> &K {
        match self {
            Self::Leaf(entries) => &entries[0].0,
            Self::Branch(branch) => &branch.children[0].first,
        }
    }
}

impl<K: Ord, V> Branch<K, V> {
    /// Returns the index of the child that has `key`, if any has it.
    fn index<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.children.partition_point(|child| child.first.borrow() <= key).saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// Inserts an entry. Returns the former value, and the right part of the node if it was split.
    fn insert(node: &mut Arc<Self>, key: K, value: V) -> (Option<V>, Option<Child<K, V>>) {
        let right = match Arc::make_mut(node) {
            Self::Leaf(entries) => match entries.binary_search_by(|(other, _)| other.cmp(&key)) {
                Ok(index) => return (Some(std::mem::replace(&mut entries[index].1, value)), None),
                Err(index) => {
                    entries.insert(index, (key, value));
                    overflow(entries, index).map(Self::Leaf)
                }
            },
            Self::Branch(branch) => {
                let index = branch.index(&key);
                if key < branch.children[index].first {
                    branch.children[index].first = key.clone();
                }
                let (former, split) = Self::insert(&mut branch.children[index].node, key, value);
                branch.len += usize::from(former.is_none());
                let Some(child) = split else { return (former, None) };
                branch.children.insert(index + 1, child);
                let right = overflow(&mut branch.children, index + 1).map(Branch::of);
                branch.len -= right.as_ref().map_or(0, |right| right.len);
                right.map(Self::Branch)
            }
        };
        (None, right.map(|node| Child { first: node.first().clone(), node: Arc::new(node) }))
    }

    /// Removes an entry that is there. The node may be empty afterwards.
    fn remove<Q: Ord + ?Sized>(node: &mut Arc<Self>, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match Arc::make_mut(node) {
            Self::Leaf(entries) => {
                let index = entries.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
                Some(entries.remove(index).1)
            }
            Self::Branch(branch) => {
                let index = branch.index(key);
                let removed = Self::remove(&mut branch.children[index].node, key)?;
                branch.len -= 1;
                branch.mend(index);
                Some(removed)
            }
        }
    }

    /// Removes the entries from `key` on, and returns them as a node of the same depth. The node may be empty
    /// afterwards.
    fn split_off<Q: Ord + ?Sized>(node: &mut Arc<Self>, key: &Q) -> Option<Arc<Self>>
    where
        K: Borrow<Q>,
    {
        match Arc::make_mut(node) {
            Self::Leaf(entries) => {
                let right = entries.split_off(entries.partition_point(|(other, _)| other.borrow() < key));
                (!right.is_empty()).then(|| Arc::new(Self::Leaf(right)))
            }
            Self::Branch(branch) => {
                let index = branch.index(key);
                let mut right = branch.children.split_off(index + 1);
                let child = &mut branch.children[index];
                if let Some(node) = Self::split_off(&mut child.node, key) {
                    right.insert(0, Child { first: node.first().clone(), node });
                }
                if child.node.width() == 0 {
                    branch.children.pop();
                }
                let right = Branch::of(right);
                branch.len = branch.children.iter().map(|child| child.node.len()).sum();
                (!right.children.is_empty()).then(|| Arc::new(Self::Branch(right)))
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Branch<K, V> {
    fn of(children: Vec<Child<K, V>>) -> Self {
        let len = children.iter().map(|child| child.node.len()).sum();
        Self { children, len }
    }

    /// Removes child `index` if it is empty. If it is small, joins it with a neighbour, or gives it a part of the
    /// neighbour's entries.
    fn mend(&mut self, index: usize) {
        let width = self.children[index].node.width();
        if width == 0 {
            self.children.remove(index);
            return;
        }
        if width >= SMALL || self.children.len() < 2 {
            return;
        }
        let left = index.saturating_sub(1);
        let right = Arc::unwrap_or_clone(self.children.remove(left + 1).node);
        let rest = match (Arc::make_mut(&mut self.children[left].node), right) {
            (Node::Leaf(entries), Node::Leaf(more)) => joined(entries, more).map(Node::Leaf),
            (Node::Branch(branch), Node::Branch(more)) => {
                let rest = joined(&mut branch.children, more.children);
                *branch = Self::of(std::mem::take(&mut branch.children));
                rest.map(|children| Node::Branch(Self::of(children)))
            }
            _ => unreachable!("all leaves are at the same depth"),
        };
        if let Some(node) = rest {
            self.children.insert(left + 1, Child { first: node.first().clone(), node: Arc::new(node) });
        }
    }
}

/// Splits the items of a node that has become too wide by the one at `added`. Returns the right part.
fn overflow<T>(items: &mut Vec<T>, added: usize) -> Option<Vec<T>> {
    if items.len() <= FANOUT {
        return None;
    }
    let is_append = added + 1 == items.len();
    let right = items.split_off(if is_append { FANOUT } else { items.len() / 2 });
    items.shrink_to(FANOUT);
    Some(right)
}

/// Appends `more` to `items`. If that is too much for a node, returns the second half.
fn joined<T>(items: &mut Vec<T>, more: Vec<T>) -> Option<Vec<T>> {
    items.extend(more);
    let rest = (items.len() > FANOUT).then(|| items.split_off(items.len() / 2));
    items.shrink_to(FANOUT);
    rest
}

/// The entries of a [`Tree`], in order.
pub struct Iter<'a, K, V> {
    /// The children that follow at each level, the lowest level last.
    branches: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<K, V> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<'a, K, V> Iter<'a, K, V> {
    /// Begins below `root`, in each node at the index that the functions return.
    fn new(
        root: Option<&'a Node<K, V>>,
        in_branch: impl Fn(&Branch<K, V>) -> usize,
        in_leaf: impl Fn(&[(K, V)]) -> usize,
    ) -> Self {
        let mut iter = Self { branches: Vec::new(), leaf: [].iter() };
        let mut node = root;
        while let Some(found) = node {
            node = None;
            match found {
                Node::Leaf(entries) => iter.leaf = entries[in_leaf(entries)..].iter(),
                Node::Branch(branch) => {
                    let mut children = branch.children[in_branch(branch)..].iter();
                    node = children.next().map(|child| &*child.node);
                    iter.branches.push(children);
                }
            }
        }
        iter
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            let depth = self.branches.len();
            let mut node = loop {
                let children = self.branches.last_mut()?;
                match children.next() {
                    Some(child) => break &*child.node,
                    None => drop(self.branches.pop()),
                }
            };
            while let Node::Branch(branch) = node {
                let mut children = branch.children.iter();
                node = &children.next()?.node;
                self.branches.push(children);
            }
            debug_assert_eq!(self.branches.len(), depth, "all leaves are at the same depth");
            if let Node::Leaf(entries) = node {
                self.leaf = entries.iter();
            }
        }
    }
}

#[cfg(test)]
mod tests;
