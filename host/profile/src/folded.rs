//! Folded stacks, one a line: the text format that tools for flame graphs read.

use crate::UNKNOWN;
use crate::tree::Tree;
use std::io::{self, Write};

/// Writes the stacks with fuel of their own, one a line, callers first and siblings by name: the functions, the
/// outermost first and separated by semicolons, a space, and the fuel. A semicolon in a name becomes a colon.
///
/// # Errors
/// Those of `out`.
pub fn folded(tree: &Tree, out: &mut impl Write) -> io::Result<()> {
    let callees = tree.callees();
    let mut open = vec![Tree::ROOT];
    while let Some(stack) = open.pop() {
        let own = tree.fuel(stack);
        if own > 0 {
            let names: Vec<String> =
                tree.names(stack).into_iter().map(|name| name.replace(';', ":").replace(['\n', '\r'], " ")).collect();
            let names = if names.is_empty() { UNKNOWN.to_owned() } else { names.join(";") };
            writeln!(out, "{names} {own}")?;
        }
        // The last one is the next.
        open.extend(callees[Tree::index(stack)].iter().rev());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted_and_names_cannot_break_them() {
        let mut tree = Tree::default();
        for (names, fuel) in [(&["z"][..], 3), (&["a", "<[u8; 4]>::f"], 5), (&["a", "none"], 0), (&["a"], 2), (&[], 1)]
        {
            let stack = tree.stack(names.iter().copied());
            tree.add(stack, fuel);
        }
        let mut lines = Vec::new();
        folded(&tree, &mut lines).expect("memory takes everything");
        assert_eq!(String::from_utf8(lines).expect("text"), "(unknown) 1\na 2\na;<[u8: 4]>::f 5\nz 3\n");
    }
}
