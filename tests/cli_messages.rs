//! The error messages of every command: one line with the place, the value, the bound and the remedy, in words for
//! operators.

use crate::util::{Lifeboat, Output, Unprivileged, guest, lifeboat, prebuilt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Text that no message may contain, since it is about the program's internals.
const RUST: [&str; 24] = [
    "os error",
    "invalid digit",
    "non-zero type",
    "target type",
    "expected u",
    "expected i",
    "invalid type",
    "unknown variant",
    "unknown field",
    "missing field",
    "KeyMismatch",
    "ParseIntError",
    "Utf8Error",
    "unwrap",
    "panicked",
    "Some(",
    "Err(",
    "Error {",
    "::",
    "stream did not contain",
    "I/O error",
    "no items found",
    "redb database",
    "magic number",
];

/// Creates a command in a folder with some files, without a logged-in user.
fn command(folder: &Path, arguments: &[&str]) -> Lifeboat {
    let command = lifeboat(arguments).within(folder).env("LIFEBOAT_PROFILE", folder.join("no/profile.toml"));
    ["LIFEBOAT_DATA", "LIFEBOAT_SERVER", "LIFEBOAT_TOKEN", "LIFEBOAT_CONFIG", "LIFEBOAT_LISTEN", "LIFEBOAT_CA"]
        .into_iter()
        .fold(command, |command, name| command.env(name, ""))
}

/// Returns the first line that is not a message of the program, or that contains internals.
fn rust_of(output: &Output) -> Option<String> {
    let is_wrong = |line: &&str| !line.starts_with("lifeboat: ") || RUST.iter().any(|words| line.contains(words));
    output.stderr.lines().find(is_wrong).map(str::to_owned)
}

/// Creates a folder with the files that the commands below name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("writable");
    std::fs::copy(prebuilt("counter"), folder.path().join("counter.wasm")).expect("copied");
    std::fs::copy(guest("refused/alias-chain-150.wat"), folder.path().join("chain.wat")).expect("copied");
    write("bad.wasm", b"garbage");
    write("bad.wat", b"(module");
    write("binary", b"\xff\xfe\x00");
    write("empty", b"");
    write("bodies", b"{\"add\":1}\n");
    write("wrong.toml", b"[server]\nlisten = 7098\n");
    write("torn.toml", b"[server\n");
    write("scenario.toml", b"machine = [{ name = \"m1\", slots = -1, memory = \"64MiB\" }]\nservice = [{ name = \"s\", workload = \"counter\" }]\n\
          user = [{ name = \"ada\", services = [\"s\"] }]\ntraffic = [{ service = \"s\", count = 1, bodies = [\"1\"] }]\n");
    std::fs::create_dir(folder.path().join("torn")).expect("a folder");
    write("torn/catalog.redb", b"garbage");
    let run = command(folder.path(), &["run", "--data", "data", "counter.wasm"]).input("{\"add\":1}\n");
    run.output().exits(0);
    folder
}

#[test]
fn every_wrong_command_line_is_explained_on_one_line() {
    let folder = folder();
    let cases: &[(&str, u8, &str)] = &[
        ("nosuch", 2, "there is no command 'nosuch' of lifeboat; lifeboat --help lists them all"),
        ("verfy", 2, "there is no command 'verfy' of lifeboat; did you mean data verify?"),
        // Numbers, sizes and words, with their bounds.
        (
            "run --fuel 0 counter.wasm",
            2,
            "--fuel: '0' is not a whole number between 10,000 and 18,446,744,073,709,551,615",
        ),
        ("run --fuel abc counter.wasm", 2, "--fuel: 'abc' is not a whole number between 10,000 and"),
        ("run --fuel -1 counter.wasm", 2, "--fuel: '-1' is not a whole number between 10,000 and"),
        ("run --memory 1X counter.wasm", 2, "--memory: '1X' is not a size between 64 KiB and 4032 MiB; write"),
        ("run --threshold -5 counter.wasm", 2, "--threshold: '-5' is not a percentage between 20 and 100; write"),
        ("run --failover fast counter.wasm", 2, "--failover: 'fast' is not a failover mode: write 'direct', 'shadow'"),
        ("run --size tiny counter.wasm", 2, "there is no size 'tiny': use one of small, medium, large, huge"),
        ("run --user a/b counter.wasm", 2, "--user: 'a/b' is not a name: use 1 to 64 letters"),
        ("run --json=3 counter.wasm", 2, "--json takes no value, and has '3'; write it alone"),
        ("run --size", 2, "--size needs a value: --size <NAME>"),
        ("run --fule 3 counter.wasm", 2, "there is no option '--fule' of lifeboat run; did you mean --fuel?"),
        ("run --nosuch", 2, "there is no option '--nosuch' of lifeboat run; lifeboat run --help lists"),
        ("inspect --memory 99GiB counter.wasm", 2, "--memory: '99GiB' is not a size between 64 KiB and 4032 MiB"),
        ("simulate --seed x", 2, "--seed: 'x' is not a whole number between 0 and"),
        ("simulate --pace 0", 2, "--pace: '0' is not a whole number between 1 and 1,000,000 transactions a second"),
        ("data journal --data data --after x counter", 2, "--after: 'x' is not a whole number between 0 and"),
        ("data journal --data data --limit -1 counter", 2, "--limit: '-1' is not a whole number between 0 and"),
        ("data query --data data --at x counter 1", 2, "--at: 'x' is not a whole number between 0 and"),
        ("query --attempts 0 counter 1", 2, "--attempts: '0' is not a whole number between 1 and 4,294,967,295"),
        ("tx --attempts 99999999999 counter 1", 2, "--attempts: '99999999999' is not a whole number between 1 and"),
        ("data accept-divergence --data data --at x counter", 2, "--at: 'x' is not a whole number"),
        ("serve --listen here", 2, "--listen: 'here' is not an address to listen on: write an IP address and a port"),
        ("user grant ada bank fly", 2, "GRANT: 'fly' is not one of transact, observe, operate"),
        ("stop a/b", 2, "SERVICE: 'a/b' is not a name"),
        // Too few, too many, or conflicting arguments.
        ("inspect", 2, "inspect needs <WORKLOAD>; write: lifeboat inspect <WORKLOAD>"),
        (
            "data journal",
            2,
            "data journal needs --data <DIR> and <SERVICE>; write: lifeboat data journal --data <DIR> <SERVICE>",
        ),
        ("deploy", 2, "deploy needs <SERVICE> and <WORKLOAD>; write: lifeboat deploy <SERVICE> <WORKLOAD>"),
        ("usage x y", 2, "'y' is an extra argument; write: lifeboat usage [OPTIONS] [SERVICE]"),
        (
            "run counter.wasm bodies",
            2,
            "'bodies' is an extra argument: a workload takes none, and --transactions FILE names",
        ),
        ("tx --look-up --id 3 bank 1", 2, "--look-up and BODY exclude each other; leave one of them out"),
        (
            "query --at 3 counter 1",
            2,
            "--at and --user are options for a data directory: use them with lifeboat data query",
        ),
        ("run", 2, "name a workload; or, with --data, an existing --service: lifeboat run --help"),
        // Files.
        ("run nosuch.wasm", 3, "nosuch.wasm: cannot be read: No such file or directory; name a .wasm or .wat file"),
        ("inspect .", 3, ".: cannot be read: Is a directory; name a .wasm or .wat file"),
        ("run .", 3, ".: cannot be read: Is a directory; name a .wasm or .wat file"),
        ("run bad.wasm", 3, "`bad.wasm`: not WebAssembly: the file starts with"),
        ("inspect chain.wat", 3, "`chain.wat`: a library that parses it fails, so it is refused: build or copy"),
        (
            "run bad.wat",
            3,
            "`bad.wat`: invalid WebAssembly text at line 1, column 8: expected `)`: correct the text there",
        ),
        ("inspect empty", 3, "`empty`: not WebAssembly"),
        (
            "run --transactions nosuch counter.wasm",
            2,
            "nosuch: cannot be read: No such file or directory; name a file of",
        ),
        ("run --transactions . counter.wasm", 2, ".: cannot be read: Is a directory; name a file of transactions"),
        ("tx bank @nosuch", 2, "'nosuch': cannot be read: No such file or directory; name a body, -, or @FILE"),
        ("simulate nosuch", 2, "nosuch: cannot be read: No such file or directory; name a scenario file"),
        ("simulate binary", 2, "binary: not a scenario: it is not UTF-8 text; write TOML"),
        ("simulate scenario.toml", 2, "scenario.toml: line 1: slots is -1; it must be "),
        ("config check nosuch", 2, "nosuch: there is no such file; lifeboat init writes one"),
        ("config check binary", 2, "binary: not a configuration: it is not UTF-8 text; write TOML"),
        ("config check .", 2, ".: cannot be read: Is a directory; name a configuration file"),
        ("config check wrong.toml", 2, "wrong.toml:2:10: listen is 7098; it must be a text in quotes"),
        ("config check torn.toml", 2, "torn.toml:1:8: this is not TOML: "),
        ("serve --config wrong.toml", 2, "wrong.toml:2:10: listen is 7098; it must be a text in quotes"),
        (
            "data restore --data data --name x nosuch",
            2,
            "cannot open 'nosuch': No such file or directory; name a file that",
        ),
        (
            "data restore --data data --name x empty",
            2,
            "'empty' is not a snapshot; name a file that lifeboat data snapshot wrote",
        ),
        // Data directories.
        (
            "data services --data nosuch",
            2,
            "data directory 'nosuch': there is no such directory; name one that lifeboat run",
        ),
        ("data verify --data empty", 2, "data directory 'empty': it is not a directory; name one"),
        ("data verify --data .", 2, "data directory '.': the directory contains other files, such as '"),
        (
            "data journal --data data nosuch",
            2,
            "there is no service 'nosuch' in the data directory; lifeboat data services --data data lists",
        ),
        ("data query --data data --at 99 counter 1", 2, "; lifeboat data journal --data data counter lists them"),
        (
            "data accept-divergence --data data --at 1 counter",
            2,
            "service 'counter' does not diverge: its replay gives",
        ),
        ("data remove --data data counter", 2, "'counter' would be removed permanently: "),
        ("data snapshot --data data --out empty counter", 2, "'empty' exists already"),
        ("data snapshot --data data --out no/such counter", 2, "name a file in a writable directory"),
        ("user passwd --data data ada", 2, "there is no user 'ada'; "),
        ("init --admin a/b", 2, "--admin: 'a/b' is not a name"),
        (
            "data services --data torn",
            1,
            "'catalog.redb' is not a catalog: it does not begin as a catalog does; restore it from the",
        ),
        // Servers.
        (
            "services",
            5,
            "you are not logged in, and no server is named: run lifeboat login --server URL, or set LIFEBOAT_SERVER",
        ),
        (
            "login --server x",
            2,
            "server 'x': it does not begin with http:// or https://; write it as http://127.0.0.1:7098",
        ),
        ("login --server ftp://x", 2, "server 'ftp://x': it is neither http nor https; write it as"),
        (
            "login --server http://127.0.0.1:1 --ca empty",
            2,
            "--ca is for a server with TLS, and http://127.0.0.1:1 has none",
        ),
        ("login --server https://127.0.0.1:1 --ca nosuch", 2, "nosuch"),
        ("login --server https://127.0.0.1:1 --ca empty", 2, "empty"),
    ];
    let mut wrong = Vec::new();
    for (arguments, code, expected) in cases {
        let output = command(folder.path(), &arguments.split(' ').collect::<Vec<_>>()).output();
        let Output { code: found, stderr, .. } = &output;
        if *found != i32::from(*code) || !stderr.contains(expected) || stderr.lines().count() != 1 || stderr.len() > 400
        {
            wrong.push(format!("{arguments}: {code} {expected}\n    {found} {stderr}"));
        }
        wrong.extend(rust_of(&output).map(|line| format!("{arguments}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_this_user_may_not_use_is_one_code_with_a_remedy_in_every_command() {
    let folder = folder();
    // Only root can read a folder of root without permissions for others.
    let locked = folder.path().join("locked");
    let inside = |name: &str| locked.join(name).display().to_string();
    std::fs::create_dir(&locked).expect("a folder");
    for name in ["counter.wasm", "bodies", "wrong.toml"] {
        std::fs::copy(folder.path().join(name), locked.join(name)).expect("copied");
    }
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(&locked, mode(0)).expect("it is ours");
    std::fs::set_permissions(folder.path(), mode(0o755)).expect("it is ours");
    let unprivileged = Unprivileged::new();
    let (workload, bodies, config) = (inside("counter.wasm"), inside("bodies"), inside("wrong.toml"));
    let data = inside("data");
    let commands: &[&[&str]] = &[
        &["run", &workload],
        &["run", "--transactions", &bodies, "counter.wasm"],
        &["run", "--data", &data, "counter.wasm"],
        &["run", "--data", "made-here", "counter.wasm"],
        &["inspect", &workload],
        &["simulate", &config],
        &["data", "services", "--data", &data],
        &["data", "journal", "--data", &data, "counter"],
        &["data", "verify", "--data", &data],
        &["data", "snapshot", "--data", &data, "--out", "file", "counter"],
        &["data", "restore", "--data", &data, "--name", "x", &bodies],
        &["data", "query", "--data", &data, "counter", "1"],
        &["data", "accept-divergence", "--data", &data, "--at", "1", "counter"],
        &["data", "remove", "--data", &data, "counter"],
        &["user", "passwd", "--data", &data, "ada"],
        &["init", "--admin-password-stdin", &inside("new")],
        &["config", "check", &config],
        &["serve", "--config", &config],
        &["deploy", "bank", &workload],
        &["tx", "bank", &format!("@{bodies}")],
        &["batch", "bank", &bodies],
        &["login", "--server", "https://127.0.0.1:1", "--ca", &bodies],
    ];
    let mut wrong = Vec::new();
    for arguments in commands {
        let command = command(folder.path(), arguments).env("LIFEBOAT_TOKEN", "lifeboat_x");
        let command = command.env("LIFEBOAT_SERVER", "http://127.0.0.1:1").input("correct horse battery staple\n");
        let output = unprivileged.of(command).output();
        let Output { code, stderr, .. } = &output;
        let is_right =
            stderr.contains("Permission denied") && stderr.contains("; run the command as the owner, or change");
        if *code != 2 || !is_right || stderr.lines().count() != 1 {
            wrong.push(format!("{}: {code} {stderr}", arguments.join(" ")));
        }
        wrong.extend(rust_of(&output).map(|line| format!("{}: {line}", arguments.join(" "))));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let profile = command(folder.path(), &["whoami"]).env("LIFEBOAT_PROFILE", inside("profile.toml"));
    unprivileged
        .of(profile)
        .output()
        .exits_with_one_line(2, &["profile", "Permission denied", "run the command as the owner"]);
    std::fs::set_permissions(&locked, mode(0o755)).expect("it is ours");
}

#[test]
fn text_that_is_not_utf_8_is_named_with_a_remedy() {
    let folder = folder();
    let profile = folder.path().join("profile.toml");
    std::fs::write(&profile, b"url = \"\xff\"\n").expect("writable");
    std::fs::set_permissions(&profile, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let whoami = command(folder.path(), &["whoami"]).env("LIFEBOAT_PROFILE", &profile).output();
    whoami.exits_with_one_line(2, &["profile.toml' is not UTF-8 text; remove it and run lifeboat login"]);
    let add = command(folder.path(), &["user", "add", "ada", "--password-stdin"]);
    let add = add.env("LIFEBOAT_SERVER", "http://127.0.0.1:1").env("LIFEBOAT_TOKEN", "lifeboat_x");
    let add = add.input(b"\xff\xfe\n".to_vec()).output();
    add.exits_with_one_line(2, &["'Password for ada'", "is not UTF-8 text; write the password in UTF-8"]);
}

#[test]
fn the_remedy_for_a_profile_that_is_a_directory_is_another_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let whoami = command(folder.path(), &["whoami"]).env("LIFEBOAT_PROFILE", folder.path());
    let output = whoami.output();
    output.exits_with_one_line(2, &["profile '", "' is a directory, not a file; name a new file, "]);
    assert!(!output.stderr.contains("chmod"), "{}", output.stderr);
}
