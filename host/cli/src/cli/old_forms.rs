//! The forms that commands had before `lifeboat data`. They still work: each is rewritten to the new form before the
//! command line is parsed, so help and messages name only the new ones.

use std::ffi::OsString;

/// Commands that always work on a data directory, `lifeboat verify --data DIR`, and their names today.
const DIRECTORY_ONLY: [(&str, &str); 5] = [
    ("journal", "journal"),
    ("verify", "verify"),
    ("snapshot", "snapshot"),
    ("restore", "restore"),
    ("resume", "accept-divergence"),
];

/// Commands of a server that also worked on a data directory with `--data`.
const EITHER: [&str; 3] = ["services", "query", "remove"];

/// Rewrites an old form to the new one. The first argument is the program.
///
/// A command that a server also has works on a directory only if `--data` is among its arguments. No environment
/// variable changes that.
pub(crate) fn renewed(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_name = |argument: &OsString| !argument.as_encoded_bytes().starts_with(b"-") && argument != "help";
    let Some(at) = (1..arguments.len()).find(|at| is_name(&arguments[*at])) else { return arguments };
    let names_directory = || {
        let mut options = arguments[at + 1..].iter().take_while(|argument| *argument != "--");
        options.any(|argument| argument == "--data" || argument.as_encoded_bytes().starts_with(b"--data="))
    };
    let directory_only = DIRECTORY_ONLY.iter().find(|(old, _)| arguments[at] == *old).map(|(_, new)| *new);
    let either = || EITHER.into_iter().find(|name| arguments[at] == *name && names_directory());
    if let Some(new) = directory_only.or_else(either) {
        if new == "accept-divergence" {
            arguments[at + 1..].iter_mut().for_each(rename_sequence);
        }
        arguments[at] = new.into();
        arguments.insert(at, "data".into());
    }
    arguments
}

/// Renames the option of `resume` that has the sequence of the divergence.
fn rename_sequence(argument: &mut OsString) {
    const OLD: &str = "--accept-divergence-at";
    match argument.to_str().and_then(|text| text.strip_prefix(OLD)) {
        Some("") => *argument = "--at".into(),
        Some(value) if value.starts_with('=') => *argument = format!("--at{value}").into(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn renewed_line(line: &str) -> String {
        let words = renewed(line.split(' ').map(OsString::from));
        words.join(OsStr::new(" ")).into_string().expect("text")
    }

    #[test]
    fn a_command_of_directories_alone_becomes_one_of_the_group() {
        for (old, new) in [
            ("lifeboat verify --data d", "lifeboat data verify --data d"),
            ("lifeboat verify", "lifeboat data verify"),
            ("lifeboat journal --help", "lifeboat data journal --help"),
            ("lifeboat help snapshot", "lifeboat help data snapshot"),
            ("lifeboat restore f --name x", "lifeboat data restore f --name x"),
            ("lifeboat resume s --accept-divergence-at 2", "lifeboat data accept-divergence s --at 2"),
            ("lifeboat resume --accept-divergence-at=2 s", "lifeboat data accept-divergence --at=2 s"),
        ] {
            assert_eq!(renewed_line(old), new);
        }
    }

    #[test]
    fn a_command_of_servers_becomes_one_of_the_group_by_its_option_alone() {
        for (old, new) in [
            ("lifeboat services --data d", "lifeboat data services --data d"),
            ("lifeboat query s 1 --data=d", "lifeboat data query s 1 --data=d"),
            ("lifeboat remove --yes --data d s", "lifeboat data remove --yes --data d s"),
            ("lifeboat services", "lifeboat services"),
            ("lifeboat services --database d", "lifeboat services --database d"),
            ("lifeboat query s -- --data", "lifeboat query s -- --data"),
        ] {
            assert_eq!(renewed_line(old), new);
        }
    }

    #[test]
    fn every_other_command_line_stays_as_it_is() {
        for line in [
            "lifeboat",
            "lifeboat --help",
            "lifeboat data verify --data d",
            "lifeboat data services --data d",
            "lifeboat run --data d verify",
            "lifeboat user passwd ada --data d",
            "lifeboat tx verify x",
        ] {
            assert_eq!(renewed_line(line), line);
        }
    }
}
