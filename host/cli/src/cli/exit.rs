//! The exit codes of every command. The end of every help text and `docs/exit-codes.md` are made from one table.

/// Everything succeeded.
pub(crate) const OK: u8 = 0;
/// Some transaction was refused, failed or denied, or not sent because of an interruption. In a simulation, a
/// transaction was lost or duplicated. In a data directory, something is damaged or quarantined, or diverges.
pub(crate) const SOME_NOT_OK: u8 = 1;
/// The command line or a file that it names is wrong, or this user may not use the file.
pub(crate) const USAGE: u8 = 2;
/// The loader refused the workload.
pub(crate) const WORKLOAD: u8 = 3;
/// The host or the server failed.
pub(crate) const HOST: u8 = 4;
/// The server cannot be reached, or nobody is logged in.
pub(crate) const UNREACHABLE: u8 = 5;

/// The host ended a program that ran once: a trap, or a limit. A shell reports the same for a process that aborted.
pub(crate) const ENDED_BY_HOST: u8 = 134;
/// The code of a command that a signal ended, without the number of the signal, as a shell reports it.
pub(crate) const SIGNAL: i32 = 128;
/// Nobody reads the output of a program that ran once. A shell reports the same for a process that SIGPIPE ended.
pub(crate) const OUTPUT_CLOSED: u8 = 141;

type Codes = &'static [(u8, &'static str)];

const FILE_WRONG: (u8, &str) =
    (USAGE, "the command line, or a file or directory that it names, is wrong, or this user may not use it");
const SERVICE_OR_FILE_WRONG: (u8, &str) = (
    USAGE,
    "the command line, or a file or directory that it names, is wrong, this user may not use it, or there is no such \
     service",
);
const SERVICE_WRONG: (u8, &str) = (USAGE, "the command line is wrong, or there is no such service");
const WORKLOAD_REFUSED: (u8, &str) = (WORKLOAD, "the loader refused the workload, or it cannot be read");
const HOST_FAILED: (u8, &str) = (HOST, "the host failed");
const SERVER_FAILED: (u8, &str) = (HOST, "the server failed");
const EITHER_FAILED: (u8, &str) = (HOST, "the host or the server failed");
const NOT_REACHED: (u8, &str) = (UNREACHABLE, "the server cannot be reached, or nobody is logged in");
const DENIED: (u8, &str) = (SOME_NOT_OK, "the server denied it");

/// The codes of `data disk` and its commands.
const DISK: Codes = &[
    (OK, "the files are shown or copied"),
    (
        SOME_NOT_OK,
        "the state cannot be restored, or a link leads out of the exported directory; or the service is quarantined, and \
         its later transactions are not part of what is shown",
    ),
    (
        USAGE,
        "the command line or the directory is wrong, this user may not use it, or there is no such service, file or \
         retained transaction",
    ),
    HOST_FAILED,
];

/// The codes of `disk` and its commands.
const DISK_OF_SERVER: Codes = &[
    (OK, "the files are shown or copied"),
    (
        SOME_NOT_OK,
        "the server denied it, or a file changed while it was read; export: a link leads out of the exported directory, or \
         the service went on, so that the copied files are of different states",
    ),
    (
        USAGE,
        "the command line, or the directory that it names, is wrong, this user may not use it, or there is no such service \
         or file",
    ),
    SERVER_FAILED,
    NOT_REACHED,
];

/// The codes of all commands together.
const ALL: Codes = &[
    (OK, "success"),
    (
        SOME_NOT_OK,
        "some transaction was refused, failed or denied, or not sent because run or batch was interrupted; simulate: \
         one was lost or duplicated; with a data directory: a requested item is damaged or quarantined, or diverges; \
         with a server: it denied the request; check: something was found",
    ),
    FILE_WRONG,
    WORKLOAD_REFUSED,
    (HOST, "the host or the server failed, or the answers of batch could not be written"),
    NOT_REACHED,
];

/// The codes of each command.
const COMMANDS: &[(&str, Codes)] = &[
    (
        "run",
        &[
            (OK, "every transaction was ok"),
            (
                SOME_NOT_OK,
                "some transaction was refused, failed or denied, or not sent because the run was interrupted; or replies \
                 were not read; or the \
                 data directory is damaged (except for a snapshot that the start replaces), or the service is \
                 quarantined",
            ),
            FILE_WRONG,
            WORKLOAD_REFUSED,
            (
                HOST,
                "the host failed, or the replies cannot be written, or --save did not copy all files of a program whose \
                 own code is 0",
            ),
            (ENDED_BY_HOST, "a program that runs once: the host ended it, for a trap or a limit"),
            (OUTPUT_CLOSED, "a program that runs once: nobody reads its output any more; any other code is its own"),
        ],
    ),
    (
        "simulate",
        &[
            (
                OK,
                "nothing was lost or duplicated (transactions may have been refused, failed or denied: a scenario may want \
                 that)",
            ),
            (SOME_NOT_OK, "a transaction was lost or duplicated, or answers differ for another reason"),
            (USAGE, "the command line or the scenario is wrong, or this user may not read a file of it"),
            (WORKLOAD, "the loader refused a workload"),
            HOST_FAILED,
        ],
    ),
    ("inspect", &[(OK, "the loader accepts the workload"), LINE_WRONG_OR_DENIED, WORKLOAD_REFUSED, HOST_FAILED]),
    (
        "new",
        &[
            (OK, "the workload is written"),
            (
                USAGE,
                "the command line is wrong, the folder exists, or this user may not create it; nothing was overwritten",
            ),
            HOST_FAILED,
        ],
    ),
    (
        "dev",
        &[
            (OK, "every transaction was ok, and the last build runs"),
            (
                SOME_NOT_OK,
                "some transaction was refused, failed or denied, or the last build failed or does not run, or a command \
                 was unknown, or lines waited at a signal",
            ),
            FILE_WRONG,
            (HOST, "the host failed, or the replies cannot be written"),
        ],
    ),
    (
        "check",
        &[
            (OK, "nothing was found, except for warnings without --strict, and for kinds that --allow names"),
            (
                SOME_NOT_OK,
                "something was found; or a warning, with --strict; or no transaction was ok; or the file of --from is \
                 damaged",
            ),
            FILE_WRONG,
            (WORKLOAD, "the loader refused the workload, or it cannot be read or started"),
            HOST_FAILED,
        ],
    ),
    (
        "profile",
        &[
            (OK, "the profile is printed, also if transactions were refused or failed"),
            FILE_WRONG,
            (WORKLOAD, "the loader refused the workload, or it cannot be read or started"),
            HOST_FAILED,
        ],
    ),
    (
        "data",
        &[
            (OK, "success"),
            (SOME_NOT_OK, "a requested item is damaged or quarantined, or diverges"),
            SERVICE_OR_FILE_WRONG,
            (WORKLOAD, "restore: the loader refused the workload in the file"),
            HOST_FAILED,
        ],
    ),
    (
        "data services",
        &[
            (OK, "every service is intact; only verify reads the contents of virtual disks"),
            (SOME_NOT_OK, "some service is quarantined, or the directory is damaged"),
            FILE_WRONG,
            HOST_FAILED,
        ],
    ),
    (
        "data journal",
        &[
            (OK, "the history is printed"),
            (SOME_NOT_OK, "the service is quarantined, or the directory is damaged"),
            SERVICE_OR_FILE_WRONG,
            HOST_FAILED,
        ],
    ),
    (
        "data verify",
        &[
            (OK, "everything was proven"),
            (SOME_NOT_OK, "something is damaged or quarantined, or diverges; each finding is reported"),
            SERVICE_OR_FILE_WRONG,
            (HOST, "the host failed: there is no proof, for or against"),
        ],
    ),
    (
        "data query",
        &[
            (OK, "the guest answered"),
            (
                SOME_NOT_OK,
                "the guest refused or failed, or the state cannot be restored; or the service is quarantined, and its \
                 later transactions are not part of the answer",
            ),
            (
                USAGE,
                "the command line or the directory is wrong, this user may not use it, there is no such service, or the \
                 transaction is not retained",
            ),
            HOST_FAILED,
        ],
    ),
    ("data disk", DISK),
    ("data disk ls", DISK),
    ("data disk cat", DISK),
    ("data disk export", DISK),
    (
        "data doubts",
        &[
            (OK, "the calls in doubt are listed, or the call is settled"),
            (SOME_NOT_OK, "the service is quarantined, or the directory is damaged"),
            (
                USAGE,
                "the command line or the directory is wrong, this user may not use it, or there is no such service or \
                 call in doubt; nothing was changed",
            ),
            HOST_FAILED,
        ],
    ),
    (
        "data snapshot",
        &[
            (OK, "the file is written"),
            (
                SOME_NOT_OK,
                "the service is quarantined, and the file contains the state that can be trusted; or its state cannot \
                 be exported, and there is no file",
            ),
            SERVICE_OR_FILE_WRONG,
            HOST_FAILED,
        ],
    ),
    (
        "data restore",
        &[
            (OK, "the service is created"),
            (SOME_NOT_OK, "the file or the directory is damaged, or the state cannot be restored"),
            FILE_WRONG,
            (WORKLOAD, "the loader refused the workload in the file"),
            HOST_FAILED,
        ],
    ),
    (
        "data remove",
        &[
            (OK, "the service is removed"),
            (SOME_NOT_OK, "the directory is damaged"),
            (
                USAGE,
                "--yes is missing, the command line or the directory is wrong, this user may not use it, or there is no \
                 such service",
            ),
            HOST_FAILED,
        ],
    ),
    (
        "data accept-divergence",
        &[
            (OK, "accepted, and the replay reaches its end"),
            (SOME_NOT_OK, "accepted, but there is another divergence after it; or the directory is damaged"),
            (
                USAGE,
                "there is no divergence at SEQ, or another before it; or the command line or the directory is wrong, or \
                 this user may not use it; nothing was changed",
            ),
            HOST_FAILED,
        ],
    ),
    (
        "init",
        &[
            (OK, "a server can be started"),
            (SOME_NOT_OK, "the existing data directory is damaged"),
            (USAGE, "the command line, the folder or the password is wrong, or this user may not use the folder"),
            HOST_FAILED,
        ],
    ),
    ("config", &[(OK, "the file is valid"), CONFIG_DATA_DAMAGED, CONFIG_WRONG, HOST_FAILED]),
    ("config check", &[(OK, "the file is valid"), CONFIG_DATA_DAMAGED, CONFIG_WRONG, HOST_FAILED]),
    (
        "serve",
        &[
            (OK, "the server was stopped, and the journal is sealed"),
            (SOME_NOT_OK, "the data directory is damaged, and nothing was served"),
            (
                USAGE,
                "the command line, the configuration, or what it names is wrong, or this user may not use it; nothing was \
                 served",
            ),
            (
                HOST,
                "the host failed, or did not stop within shutdown_deadline_ms, or was asked to stop twice; nothing that was \
                 acknowledged is lost",
            ),
        ],
    ),
    (
        "login",
        &[
            (OK, "the token is stored"),
            (SOME_NOT_OK, "the server denied it: the password is wrong"),
            FILE_WRONG,
            SERVER_FAILED,
            (UNREACHABLE, "the server cannot be reached"),
        ],
    ),
    ("logout", &[(OK, "the token is void"), DENIED, FILE_WRONG, SERVER_FAILED, NOT_REACHED]),
    ("whoami", &[(OK, "the user is shown"), DENIED, FILE_WRONG, SERVER_FAILED, NOT_REACHED]),
    (
        "deploy",
        &[
            (OK, "the service runs"),
            (SOME_NOT_OK, "the server denied it, or has a service of that name"),
            FILE_WRONG,
            WORKLOAD_REFUSED,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    (
        "services",
        &[
            (OK, "no service is quarantined, although some may be stopped"),
            (SOME_NOT_OK, "some service is quarantined, or cannot serve"),
            FILE_WRONG,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    (
        "tx",
        &[
            (OK, "the guest answered"),
            (
                SOME_NOT_OK,
                "the transaction was refused, failed or denied, or a signal ended the wait; --look-up: the same, or it \
                 is pending or unknown",
            ),
            SERVICE_OR_FILE_WRONG,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    (
        "batch",
        &[
            (OK, "every line is answered with ok"),
            (
                SOME_NOT_OK,
                "some lines were refused, failed or denied; or the batch was interrupted, or nobody read the answers, \
                 before the last one",
            ),
            SERVICE_OR_FILE_WRONG,
            (HOST, "the server failed, or the answers could not be written"),
            NOT_REACHED,
        ],
    ),
    (
        "query",
        &[
            (OK, "the guest answered"),
            (SOME_NOT_OK, "the guest refused or failed, or the server denied it"),
            SERVICE_OR_FILE_WRONG,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    ("disk", DISK_OF_SERVER),
    ("disk ls", DISK_OF_SERVER),
    ("disk cat", DISK_OF_SERVER),
    ("disk export", DISK_OF_SERVER),
    (
        "usage",
        &[
            (OK, "the usage is shown"),
            (SOME_NOT_OK, "the user has no grant"),
            SERVICE_WRONG,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    (
        "events",
        &[
            (OK, "the events are shown"),
            (SOME_NOT_OK, "the user has no grant"),
            SERVICE_WRONG,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    (
        "logs",
        &[
            (OK, "the lines are shown"),
            (SOME_NOT_OK, "the user has no grant"),
            SERVICE_WRONG,
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    ("drop", OPERATION),
    ("doubts", OPERATION),
    ("failover", OPERATION),
    ("stop", OPERATION),
    ("start", OPERATION),
    (
        "remove",
        &[
            (OK, "the service is removed"),
            DENIED,
            (USAGE, "--yes is missing, LIFEBOAT_DATA is set, the command line is wrong, or there is no such service"),
            SERVER_FAILED,
            NOT_REACHED,
        ],
    ),
    ("user", USER),
    ("user list", USER),
    ("user add", USER),
    ("user passwd", &[(OK, "the command succeeded"), DENIED, USER_WRONG_OR_DENIED, EITHER_FAILED, NOT_REACHED]),
    ("user grant", USER),
    ("user revoke", USER),
    ("user remove", USER),
];

const LINE_WRONG_OR_DENIED: (u8, &str) = (USAGE, "the command line is wrong, or this user may not read the file");
const CONFIG_DATA_DAMAGED: (u8, &str) = (SOME_NOT_OK, "the file is valid, but the data directory is damaged");
const CONFIG_WRONG: (u8, &str) = (
    USAGE,
    "the configuration is wrong, and a server would not start; each error is reported on a line with its place",
);
const USER_WRONG: (u8, &str) = (USAGE, "the command line is wrong, or there is no such user or grant");
const USER_WRONG_OR_DENIED: (u8, &str) =
    (USAGE, "the command line or the directory is wrong, this user may not use it, or there is no such user");
const OPERATION: Codes = &[
    (OK, "the command succeeded"),
    (SOME_NOT_OK, "the server denied it, or the service cannot serve"),
    SERVICE_WRONG,
    SERVER_FAILED,
    NOT_REACHED,
];
const USER: Codes = &[(OK, "the command succeeded"), DENIED, USER_WRONG, SERVER_FAILED, NOT_REACHED];

/// Returns the codes of a command, by its name and that of its subcommand: `config check`. The empty name means all.
fn of(command: &str) -> Codes {
    COMMANDS.iter().find(|(name, _)| *name == command).map_or(ALL, |(_, codes)| *codes)
}

/// Returns the last part of a command's help.
pub(crate) fn help(command: &str) -> String {
    let lines = of(command).iter().map(|(code, meaning)| format!("\n  {code}  {meaning}"));
    "Exit codes:".to_owned() + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, help as fitting};
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeMap;

    /// Returns `docs/exit-codes.md` from its first table on.
    fn document() -> String {
        let row = |name: &str, (code, meaning): &(u8, &str)| format!("| {name} | {code} | {meaning} |\n");
        let mut text = String::from("| command | code | meaning |\n|---|---|---|\n");
        text.extend(ALL.iter().map(|code| row("all together", code)));
        for (name, codes) in COMMANDS {
            text.extend(codes.iter().map(|code| row(&format!("`{name}`"), code)));
        }
        text
    }

    fn all(command: &clap::Command, path: &str, found: &mut BTreeMap<String, clap::Command>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = if path.is_empty() { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
            all(sub, &path, found);
            found.insert(path, sub.clone());
        }
    }

    /// Calls `check` with the path of each command and each of its help texts, for a terminal of `columns`.
    fn for_each_help_text(columns: usize, check: impl Fn(&str, &str)) {
        let command = fitting::fitted(Cli::command(), "", columns);
        let mut commands = BTreeMap::from([(String::new(), command.clone())]);
        all(&command, "", &mut commands);
        assert_eq!(commands.len(), COMMANDS.len() + 1, "every command has its codes");
        for (path, mut command) in commands {
            assert!(path.is_empty() || COMMANDS.iter().any(|(name, _)| *name == path), "{path}");
            check(&path, &command.render_help().to_string());
            check(&path, &command.render_long_help().to_string());
        }
    }

    #[test]
    fn every_help_text_ends_with_its_exit_codes() {
        for columns in [60, 80, 100] {
            for_each_help_text(columns, |path, text| {
                let end = fitting::wrapped(&help(path), columns);
                assert!(text.trim_end().ends_with(&end), "{path}: {text}");
                assert_eq!(text.matches("Exit codes:").count(), 1, "{path}: {text}");
            });
        }
    }

    #[test]
    fn every_help_text_fits_its_columns() {
        for columns in [80, 100] {
            for_each_help_text(columns, |path, text| {
                for line in text.lines() {
                    // A name longer than its column cannot be broken.
                    let is_broken = line.chars().count() <= columns || !line.trim().contains(' ');
                    assert!(is_broken, "{path}, {columns} columns: {line}");
                }
            });
        }
    }

    #[test]
    fn the_documentation_has_the_codes_of_every_command() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/exit-codes.md");
        let found = std::fs::read_to_string(file).expect("the document can be read");
        let expected = document();
        assert!(found.ends_with(&expected), "docs/exit-codes.md has to end with:\n{expected}");
    }
}
