//! Tables that fit a terminal.

use super::help;

/// The indent of the columns below a row.
const BELOW: &str = "    ";

/// Returns a table whose columns are as wide as their widest cells.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Returns a table for a terminal. Columns that do not fit are below each row, with their names.
pub(crate) fn terminal_table(rows: &[Vec<String>]) -> String {
    help::output_columns().map_or_else(|| table(rows), |columns| folded_table(rows, columns))
}

/// Returns whether no line of `text` is longer than `columns`.
pub(crate) fn fits(text: &str, columns: usize) -> bool {
    text.lines().all(|line| line.chars().count() <= columns)
}

/// Returns a table of at most `columns` characters, if its cells allow it.
pub(crate) fn folded_table(rows: &[Vec<String>], columns: usize) -> String {
    let whole = table(rows);
    if fits(&whole, columns) {
        return whole;
    }
    let Some((head, _)) = rows.split_first() else { return whole };
    let is_short = |count: usize| {
        let part: Vec<Vec<String>> = rows.iter().map(|row| row.iter().take(count).cloned().collect()).collect();
        fits(&table(&part), columns)
    };
    let kept = (1..=head.len()).rev().find(|count| is_short(*count)).unwrap_or(1);
    let part: Vec<Vec<String>> = rows.iter().map(|row| row.iter().take(kept).cloned().collect()).collect();
    let mut text = String::new();
    for (index, line) in table(&part).lines().enumerate() {
        text += line;
        text.push('\n');
        if index == 0 {
            continue;
        }
        let mut below = String::new();
        for (name, cell) in head.iter().zip(&rows[index]).skip(kept) {
            let item = format!("{name} {cell}");
            if !below.is_empty() && below.chars().count() + 2 + item.chars().count() > columns {
                text += &below;
                text.push('\n');
                below.clear();
            }
            below += if below.is_empty() { BELOW } else { "  " };
            below += &item;
        }
        text += &help::broken(&below, columns);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_folds_into_its_columns_without_losing_a_cell() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["name", "vm", "cpu", "state"]),
            row(["bank", "bank/17", "98.3%", "running"]),
            row(["ledger", "-", "-", "quarantined: its journal is damaged, see verify"]),
        ];
        assert_eq!(folded_table(&rows, 200), table(&rows));
        let expected = "\
name    vm       cpu
bank    bank/17  98.3%
    state running
ledger  -        -
    state quarantined: its
    journal is damaged, see
    verify
";
        assert_eq!(folded_table(&rows, 28), expected);
        let expected = "\
name  vm       cpu
bank  bank/17  98.3%
    state running
";
        assert_eq!(folded_table(&rows[..2], 20), expected);
        assert_eq!(folded_table(&[], 10), "");
    }
}
