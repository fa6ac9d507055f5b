//! Text that fits the terminal: the help of every command with its exit codes, and lines of output.

use super::exit;
use clap::Command;
use std::io;
use terminal_size::{Width, terminal_size, terminal_size_of};

/// The columns of help without a terminal, and the most on a terminal: longer lines are hard to read.
const COLUMNS_MAX: usize = 100;

/// The fewest columns that text is wrapped at.
const COLUMNS_MIN: usize = 40;

/// The commands in the order and the groups of `lifeboat --help`.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Workloads and data directories:", &["run", "simulate", "inspect", "new", "dev", "check", "profile", "data"]),
    ("A server:", &["init", "config", "serve"]),
    ("Users of a server:", &["login", "logout", "whoami", "user"]),
    (
        "Services of a server:",
        &[
            "deploy", "services", "tx", "batch", "query", "disk", "usage", "events", "logs", "failover", "stop",
            "start", "drop", "doubts", "remove",
        ],
    ),
];

/// Returns the terminal's columns, within bounds that suit text.
pub(crate) fn columns() -> usize {
    let columns = terminal_size().map_or(COLUMNS_MAX, |(Width(columns), _)| usize::from(columns));
    columns.clamp(COLUMNS_MIN, COLUMNS_MAX)
}

/// Returns the columns of the terminal at standard output, if there is one.
pub(crate) fn output_columns() -> Option<usize> {
    terminal_size_of(io::stdout()).map(|(Width(columns), _)| usize::from(columns).max(COLUMNS_MIN))
}

/// Returns the columns of the terminal at standard error, if there is one.
pub(crate) fn error_columns() -> Option<usize> {
    terminal_size_of(io::stderr()).map(|(Width(columns), _)| usize::from(columns).max(COLUMNS_MIN))
}

/// Breaks lines that are too long for a terminal of `columns`. They continue at column `hanging`. Without a terminal,
/// lines stay whole.
pub(crate) fn fitting(text: String, columns: Option<usize>, hanging: usize) -> String {
    let Some(columns) = columns else { return text };
    text.lines().map(|line| broken_at(line, columns, hanging) + "\n").collect()
}

/// Returns the command with help that is `columns` wide. `path` is its name, preceded by that of its parent.
pub(crate) fn fitted(command: Command, path: &str, columns: usize) -> Command {
    let mut text = command.get_after_help().map(|help| wrapped(&help.to_string(), columns)).unwrap_or_default();
    if !text.is_empty() {
        text += "\n\n";
    }
    text += &wrapped(&exit::help(path), columns);
    let fit = |command: Command| {
        let path =
            if path.is_empty() { command.get_name().to_owned() } else { format!("{path} {}", command.get_name()) };
        fitted(command, &path, columns)
    };
    let mut command = command.term_width(columns).after_help(text);
    if path.is_empty() {
        let template = template(&command, columns);
        command = command.help_template(template);
    }
    command.mut_subcommands(fit)
}

/// Returns the help template of all commands together. Clap cannot list them in groups.
fn template(command: &Command, columns: usize) -> String {
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n\n");
    let width = GROUPS.iter().flat_map(|(_, names)| names.iter()).map(|name| name.len()).max().unwrap_or(0);
    for (heading, names) in GROUPS {
        text += heading;
        text.push('\n');
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map_or_else(String::new, ToString::to_string);
            text += &broken(&format!("  {name:<width$}  {about}"), columns);
            text.push('\n');
        }
        text.push('\n');
    }
    text + "Options:\n{options}{after-help}"
}

/// Joins the lines of each paragraph and breaks them anew. An indented line is not joined, and continues below its last
/// column: `  key  text`.
pub(crate) fn wrapped(text: &str, columns: usize) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let is_text = !line.is_empty() && !line.starts_with(' ');
        match paragraphs.last_mut() {
            Some(last) if is_open && is_text => {
                last.push(' ');
                last.push_str(line);
            }
            _ => paragraphs.push(line.to_owned()),
        }
        // A line that ends with a colon introduces the lines below it.
        is_open = is_text && !line.ends_with(':');
    }
    let broken: Vec<String> = paragraphs.iter().map(|paragraph| broken(paragraph, columns)).collect();
    broken.join("\n")
}

/// Breaks one line at spaces. An indented line continues below its last column.
pub(crate) fn broken(line: &str, columns: usize) -> String {
    broken_at(line, columns, hanging(line).min(columns / 2))
}

/// Breaks one line at spaces. It continues at column `hanging`.
fn broken_at(line: &str, columns: usize, hanging: usize) -> String {
    let length = |text: &str| text.chars().count();
    let indent: String = line.chars().take_while(|c| *c == ' ').collect();
    let mut text = String::new();
    let mut column = 0;
    // Spaces within the line are kept except where it is broken.
    for (index, word) in line[indent.len()..].split(' ').enumerate() {
        let (gap, width) = (if index == 0 { indent.as_str() } else { " " }, length(word));
        if index > 0 && column + 1 + width > columns && column > hanging {
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.push_str(&" ".repeat(hanging));
            column = hanging;
            if word.is_empty() {
                continue;
            }
        } else {
            text.push_str(gap);
            column += gap.len();
        }
        text.push_str(word);
        column += width;
    }
    text.truncate(text.trim_end().len());
    text
}

/// Returns the column at which a line continues: for an indented line, that of the last text after two spaces or more.
fn hanging(line: &str) -> usize {
    let indent = line.len() - line.trim_start().len();
    if indent == 0 {
        return 0;
    }
    let rest = &line[indent..];
    match rest.find("  ") {
        Some(at) => indent + rest[..at].chars().count() + (rest[at..].len() - rest[at..].trim_start().len()),
        None => indent,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_is_in_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let commands = Cli::command();
        let names: BTreeSet<&str> = commands.get_subcommands().map(Command::get_name).collect();
        assert_eq!(grouped.len(), names.len(), "{grouped:?}");
        assert_eq!(grouped.into_iter().collect::<BTreeSet<_>>(), names);
    }

    #[test]
    fn the_help_of_all_commands_lists_them_in_groups() {
        let text = fitted(Cli::command(), "", 80).render_long_help().to_string();
        let (_, list) = text.split_once("\nUsage: lifeboat <COMMAND>\n\n").expect("its usage");
        let (list, options) = list.split_once("\n\nOptions:\n").expect("its options");
        assert!(options.contains("-h, --help"), "{options}");
        let headings: Vec<&str> = list.lines().filter(|line| line.ends_with(':')).collect();
        assert_eq!(headings, GROUPS.map(|(heading, _)| heading));
        assert_eq!(list.matches("\n  data      Show").count(), 1, "{list}");
    }

    #[test]
    fn table_cells_hang_in_their_column() {
        let text = "One two three\nfour five.\n\nTable:\n  key  a text that is long\n  k2   short\nEnd of\nall.";
        let expected = "One two three\nfour five.\n\nTable:\n  key  a text\n       that is\n       long\n  k2   short\nEnd of all.";
        assert_eq!(wrapped(text, 14), expected);
    }

    #[test]
    fn lines_are_fitted_to_a_known_width_alone() {
        let lines = "one two three\n    4  five six\n";
        assert_eq!(fitting(lines.into(), Some(11), 2), "one two\n  three\n    4  five\n  six\n");
        assert_eq!(fitting(lines.into(), None, 2), lines);
    }

    #[test]
    fn paragraphs_are_broken_anew() {
        assert_eq!(wrapped("a\nb\n\nc", 80), "a b\n\nc");
        assert_eq!(broken("averylongwordthatfitsnowhere and more", 10), "averylongwordthatfitsnowhere\nand more");
    }
}
