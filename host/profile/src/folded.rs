//! Folded stacks, one a line: the text format that tools for flame graphs read.

use crate::tree::Tree;
use std::fmt::Write;

/// Returns the stacks with fuel of their own, one a line and sorted: the functions, the outermost first and separated by
/// semicolons, a space, and the fuel. A semicolon in a name becomes a colon.
#[must_use]
pub fn folded(tree: &Tree) -> String {
    let mut lines = Vec::new();
    for (stack, node) in tree.nodes().filter(|(_, node)| node.fuel > 0) {
        let names: Vec<String> =
            tree.names(stack).into_iter().map(|name| name.replace(';', ":").replace(['\n', '\r'], " ")).collect();
        let names = if names.is_empty() { "(unknown)".to_owned() } else { names.join(";") };
        let mut line = names;
        write!(line, " {}", node.fuel).expect("a string takes everything");
        lines.push(line + "\n");
    }
    lines.sort_unstable();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted_and_names_cannot_break_them() {
        let mut tree = Tree::default();
        for (names, fuel) in [(&["z"][..], 3), (&["a", "<[u8; 4]>::f"], 5), (&["a", "none"], 0)] {
            let stack = tree.stack(names.iter().copied());
            tree.add(stack, fuel);
        }
        assert_eq!(folded(&tree), "a;<[u8: 4]>::f 5\nz 3\n");
    }
}
