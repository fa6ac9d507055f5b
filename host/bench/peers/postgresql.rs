//! PostgreSQL, driven by its own `pgbench`.
//!
//! Its configuration is the one that `initdb` writes, in which `fsync` and `synchronous_commit` are on by default. It
//! is used as a careful user would use it: a transfer is one prepared statement, and so one round trip. Clients connect
//! over loopback, like those of a Lifeboat server.

use crate::server::{Server, User, command, free_port, is_root, password, run};
use crate::{ACCOUNTS, BALANCE, TOTAL, WARM_UP};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const VERSION_MIN: u32 = 15;

const PROGRAMS: [&str; 6] = ["initdb", "postgres", "pg_ctl", "pg_isready", "psql", "pgbench"];

/// A transfer in one round trip of a client, a quarter faster than a function with two updates. The payee is never the
/// payer. The index is scanned in the order of the ids, so two transfers cannot each wait for the other; `pgbench`
/// would report that.
const TRANSFER: &str = "\
\\set payer random(1, :accounts)
\\set distance random(1, :accounts - 1)
\\set payee (:payer - 1 + :distance) % :accounts + 1
update accounts set balance = balance + case id when :payer then -1 else 1 end where id in (:payer, :payee);
";

/// The directory in which Debian installs the programs of each version; elsewhere they are on the `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Finds the newest version, or reports the packages to install.
pub(crate) fn version() -> Result<String> {
    let (programs, version) = find()?;
    ensure!(!is_root() || user().is_some(), "it does not run as root, and there is no user `postgres` or `nobody`");
    let (printed, _) = run(Command::new(programs.join("postgres")).arg("--version"))?;
    let exact = printed.split_whitespace().nth(2).map_or(version.to_string(), str::to_owned);
    Ok(format!("{exact}, fsync=on, synchronous_commit=on"))
}

/// Serves a database in `directory` while `pgbench` runs, and counts the transfers from its reports.
///
/// The reports cover whole seconds, so `duration` must be whole seconds too. One run includes both the warm-up and the
/// measurement, because each connection is a process with its own caches.
pub(crate) fn transfers_per_second(directory: &Path, clients: usize, duration: Duration) -> Result<f64> {
    let database = Database::start(directory, clients)?;
    let end = WARM_UP + duration;
    let reports = database.transfer(clients, end + Duration::from_secs(1))?;
    let rate = rate_between(&reports, WARM_UP.as_secs_f64(), end.as_secs_f64())?;
    let sums =
        database.ask("select sum(balance), count(*), count(*) filter (where balance <> :balance) from accounts")?;
    let sums: Vec<u64> = sums.trim().split('|').filter_map(|sum| sum.parse().ok()).collect();
    let &[total, accounts, changed] = sums.as_slice() else { return Err(anyhow!("psql answered {sums:?}")) };
    ensure!(total == TOTAL, "the balances sum to {total}, paid in were {TOTAL}");
    ensure!(accounts == u64::from(ACCOUNTS), "there are {accounts} accounts, there were {ACCOUNTS}");
    ensure!(changed > 0, "no balance has changed");
    Ok(rate)
}

/// A server with the accounts. It stops before its directories are removed.
struct Database {
    _server: Server,
    programs: PathBuf,
    user: Option<User>,
    port: u16,
    password: String,
    script: PathBuf,
}

impl Database {
    fn start(directory: &Path, clients: usize) -> Result<Self> {
        let (programs, _) = find()?;
        let user = if is_root() { user() } else { None };
        let data = directory.join("data");
        let (password, password_file) = (password()?, directory.join("password"));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&password_file);
        file.and_then(|mut file| file.write_all(password.as_bytes())).context("failed to write a password")?;
        if let Some(User { uid, gid }) = user {
            for own in [directory, &*password_file] {
                chown(own, Some(uid), Some(gid)).with_context(|| format!("failed to give away `{}`", own.display()))?;
            }
        }
        let mut initdb = command(programs.join("initdb"), user, "INT");
        initdb
            .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&data);
        run(&mut initdb).with_context(|| match user {
            Some(User { uid, .. }) => format!("user {uid} has to be able to reach it, else choose another --directory"),
            None => "failed to create a database".to_owned(),
        })?;

        let mut postgres = command(programs.join("postgres"), user, "INT");
        let port = free_port()?;
        postgres.arg("-D").arg(&data).args(["-k", "", "-h", "127.0.0.1", "-p", &port.to_string()]);
        postgres.args(["-c", "fsync=on", "-c", "synchronous_commit=on"]);
        postgres.args(["-c", &format!("max_connections={}", clients + 16)]);
        let mut stop = command(programs.join("pg_ctl"), user, "INT");
        stop.args(["stop", "--mode=immediate", "--pgdata"]).arg(&data);
        let is_ready = || {
            command(programs.join("pg_isready"), user, "INT")
                .args(["-h", "127.0.0.1", "-p", &port.to_string()])
                .output()
                .is_ok_and(|is| is.status.success())
        };
        let server = Server::start(postgres, directory.join("postgresql.log"), Some(stop), is_ready)?;

        let script = directory.join("transfer.sql");
        std::fs::write(&script, TRANSFER).context("failed to write a script")?;
        let database = Self { _server: server, programs, user, port, password, script };
        database.ask(SCHEMA)?;
        Ok(database)
    }

    /// Returns a command for one of the client programs.
    fn client(&self, program: &str) -> Command {
        let mut client = command(self.programs.join(program), self.user, "INT");
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        client.env("PGPASSWORD", &self.password);
        client
    }

    /// Runs SQL, in which `:accounts` and `:balance` are replaced by their values, and returns the rows without
    /// decoration.
    fn ask(&self, sql: &str) -> Result<String> {
        // `psql` does not replace variables in an argument, so the text is passed in a file.
        let file = self.script.with_file_name("ask.sql");
        std::fs::write(&file, sql).context("failed to write a script")?;
        let mut psql = self.client("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        psql.args(["-v", &format!("accounts={ACCOUNTS}"), "-v", &format!("balance={BALANCE}")]);
        Ok(run(psql.arg("-f").arg(&file))?.0)
    }

    /// Makes transfers with `pgbench` and returns its reports.
    fn transfer(&self, clients: usize, duration: Duration) -> Result<Vec<Report>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(clients);
        let mut pgbench = self.client("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-P", "1", "--random-seed=7"]);
        pgbench.args(["-c", &clients.to_string(), "-j", &threads.to_string(), "-T", &duration.as_secs().to_string()]);
        pgbench.args(["-D", &format!("accounts={ACCOUNTS}")]);
        let (printed, progress) = run(pgbench.arg("-f").arg(&self.script).arg("postgres"))?;
        ensure!(printed.contains("number of failed transactions: 0 "), "transactions failed: {printed}");
        Ok(progress.lines().filter_map(Report::parse).collect())
    }
}

/// Pages have free space, so that a row's new version stays in its page and the index needs no change.
const SCHEMA: &str = "
create table accounts (id int primary key, balance bigint not null check (balance >= 0)) with (fillfactor = 50);
insert into accounts select id, :balance from generate_series(1, :accounts) id;
vacuum analyze accounts;
checkpoint;
";

/// A report that `pgbench` prints each second.
#[derive(Debug)]
struct Report {
    /// The time since its start, in seconds.
    at: f64,
    /// The number of transactions per second since the previous report.
    rate: f64,
}

impl Report {
    /// Parses `progress: 5.0 s, 1234.5 tps, lat 0.807 ms stddev 0.101, 0 failed`; returns `None` for other lines.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("progress: ")?.split(", ");
        let at = parts.next()?.strip_suffix(" s")?.parse().ok()?;
        let rate = parts.next()?.strip_suffix(" tps")?.parse().ok()?;
        Some(Self { at, rate })
    }
}

/// Returns the transfers per second from the reports between two times, accurate to half a second.
fn rate_between(reports: &[Report], from: f64, to: f64) -> Result<f64> {
    let mut seconds = 0.0;
    let mut transfers = 0.0;
    let mut before = 0.0;
    for report in reports {
        if before > from - 0.5 && report.at < to + 0.5 {
            seconds += report.at - before;
            transfers += report.rate * (report.at - before);
        }
        before = report.at;
    }
    ensure!(seconds > (to - from) / 2.0, "pgbench reported on {seconds} s of {} s", to - from);
    Ok(transfers / seconds)
}

/// Returns the user as whom PostgreSQL runs if this process runs as root.
fn user() -> Option<User> {
    User::named(&["postgres", "nobody"])
}

/// Returns the directory of the newest version's programs, and that version.
fn find() -> Result<(PathBuf, u32)> {
    let by_version = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let with_version = by_version.chain(std::env::split_paths(&on_path)).filter_map(|directory| {
        let is_complete = PROGRAMS.iter().all(|program| directory.join(program).is_file());
        let (printed, _) =
            run(Command::new(directory.join("postgres")).arg("--version")).ok().filter(|_| is_complete)?;
        let version = printed.split_whitespace().nth(2)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some((directory, version))
    });
    with_version.filter(|(_, version)| *version >= VERSION_MIN).max_by_key(|(_, version)| *version).with_context(|| {
        format!(
            "PostgreSQL {VERSION_MIN} or newer is not there ({}): install the Debian package `postgresql`, or `postgresql-{VERSION_MIN}`",
            PROGRAMS.join(", ")
        )
    })
}
