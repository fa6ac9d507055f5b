use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Checks the structure, and returns the depth.
fn check<K: Ord + Clone + fmt::Debug, V: Clone>(tree: &Tree<K, V>) -> usize {
    tree.root.as_deref().map_or(0, |root| check_node(root, None, None))
}

fn check_node<K: Ord + fmt::Debug, V>(node: &Node<K, V>, from: Option<&K>, to: Option<&K>) -> usize {
    assert!((1..=FANOUT).contains(&node.width()), "{} entries", node.width());
    match node {
        Node::Leaf(entries) => {
            assert!(entries.is_sorted_by(|(one, _), (two, _)| one < two));
            let is_within = |key: &K| from.is_none_or(|from| from <= key) && to.is_none_or(|to| key < to);
            assert!(entries.iter().all(|(key, _)| is_within(key)));
            1
        }
        Node::Branch(branch) => {
            assert_eq!(branch.len, branch.children.iter().map(|child| child.node.len()).sum::<usize>());
            let ends = branch.children.iter().skip(1).map(|child| Some(&child.first)).chain([to]);
            let depths =
                branch.children.iter().zip(ends).map(|(child, end)| check_node(&child.node, Some(&child.first), end));
            let depths: Vec<usize> = depths.collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]), "leaves at depths {depths:?}");
            depths[0] + 1
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u16, u32),
    Append(u8),
    Remove(u16),
    RemoveRun(u16, u8),
    Change(u16, u32),
    SplitOff(u16),
    Copy,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..2_000u16;
    prop::collection::vec(
        prop_oneof![
            8 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => (1..200u8).prop_map(Step::Append),
            4 => key.clone().prop_map(Step::Remove),
            2 => (key.clone(), 1..120u8).prop_map(|(key, count)| Step::RemoveRun(key, count)),
            2 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
            1 => key.prop_map(Step::SplitOff),
            1 => Just(Step::Copy),
            1 => Just(Step::Restore),
        ],
        1..80,
    )
}

proptest! {
    #[test]
    fn a_tree_and_its_copies_are_as_sorted_maps(steps in steps(), from in 0..2_100u16) {
        let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
        let mut copy = (tree.clone(), model.clone());
        for step in steps {
            match step {
                Step::Insert(key, value) => prop_assert_eq!(tree.insert(key, value), model.insert(key, value)),
                Step::Append(count) => {
                    let next = model.last_key_value().map_or(0, |(key, _)| key + 1);
                    for key in next..next.saturating_add(count.into()) {
                        prop_assert_eq!(tree.insert(key, 0), model.insert(key, 0));
                    }
                }
                Step::Remove(key) => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                Step::RemoveRun(key, count) => {
                    for key in key..key + u16::from(count) {
                        prop_assert_eq!(tree.remove(&key), model.remove(&key));
                    }
                }
                Step::Change(key, value) => {
                    let (found, expected) = (tree.get_mut(&key), model.get_mut(&key));
                    prop_assert_eq!(&found, &expected);
                    if let (Some(found), Some(expected)) = (found, expected) {
                        (*found, *expected) = (value, value);
                    }
                }
                Step::SplitOff(key) => {
                    let (right, expected) = (tree.split_off(&key), model.split_off(&key));
                    prop_assert!(right.iter().eq(&expected));
                    prop_assert_eq!(right.len(), expected.len());
                    check(&right);
                }
                Step::Copy => copy = (tree.clone(), model.clone()),
                Step::Restore => (tree, model) = copy.clone(),
            }
            check(&tree);
            prop_assert_eq!(tree.len(), model.len());
            prop_assert_eq!(tree.is_empty(), model.is_empty());
        }
        for (tree, model) in [(&tree, &model), (&copy.0, &copy.1)] {
            prop_assert!(tree.iter().eq(model));
            prop_assert_eq!(tree.last(), model.last_key_value());
            prop_assert_eq!(tree.get(&from), model.get(&from));
            prop_assert!(tree.iter_from(Bound::Included(&from)).eq(model.range(from..)));
            let after = (Bound::Excluded(from), Bound::Unbounded);
            prop_assert!(tree.iter_from(Bound::Excluded(&from)).eq(model.range(after)));
        }
    }
}

#[test]
fn appended_entries_fill_their_leaves() {
    let tree: Tree<u32, ()> = (0..FANOUT.pow(3)).map(|key| (u32::try_from(key).expect("small"), ())).collect();
    assert_eq!(check(&tree), 3);
}

#[test]
fn a_change_leaves_the_other_leaves_shared() {
    let tree: Tree<u32, u32> = (0..2_000).map(|key| (key, key)).collect();
    let mut copy = tree.clone();
    assert!(copy.is_copy_of(&tree));
    *copy.get_mut(&1_000).expect("it is there") = 0;
    assert!(!copy.is_copy_of(&tree));
    let leaves = |tree: &Tree<u32, u32>| {
        let mut found = Vec::new();
        let mut nodes: Vec<_> = tree.root.iter().cloned().collect();
        while let Some(node) = nodes.pop() {
            match &*node {
                Node::Leaf(_) => found.push(Arc::as_ptr(&node).addr()),
                Node::Branch(branch) => nodes.extend(branch.children.iter().map(|child| Arc::clone(&child.node))),
            }
        }
        found
    };
    let (before, after) = (leaves(&tree), leaves(&copy));
    assert_eq!(after.iter().filter(|leaf| !before.contains(leaf)).count(), 1);
    assert_eq!((tree.get(&1_000), copy.get(&1_000)), (Some(&1_000), Some(&0)));
}

#[test]
fn a_search_for_a_missing_key_copies_nothing() {
    let tree: Tree<u32, u32> = (0..100).map(|key| (key, key)).collect();
    let mut copy = tree.clone();
    assert_eq!(copy.get_mut(&200), None);
    assert_eq!(copy.remove(&200), None);
    assert!(copy.is_copy_of(&tree));
}

#[test]
fn a_tree_that_loses_every_entry_has_no_nodes() {
    let mut tree: Tree<u32, u32> = (0..5_000).map(|key| (key, key)).collect();
    for key in (0..5_000).step_by(2).chain((1..5_000).step_by(2)) {
        assert_eq!(tree.remove(&key), Some(key));
        check(&tree);
    }
    assert!(tree.is_empty());
}
