//! Redis, driven by its own `redis-benchmark`.
//!
//! Every change is written to the append-only file and synced before a reply is sent: `appendfsync always`. A transfer
//! is one `EVALSHA` of a script, and so one round trip. Both keys are random. Once in a thousand times they are the
//! same, and the unit is withdrawn and deposited again. Clients connect over loopback, like those of a Lifeboat server.

use crate::server::{Server, command, free_port, run};
use crate::{ACCOUNTS, BALANCE, TOTAL, WARM_UP};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const VERSION_MIN: u32 = 7;

const PROGRAMS: [&str; 3] = ["redis-server", "redis-cli", "redis-benchmark"];

/// The script of a transfer. `redis-benchmark` stops at an error.
const TRANSFER: &str = "
if redis.call('DECR', KEYS[1]) < 0 then
    redis.call('INCR', KEYS[1])
    return redis.error_reply('insufficient funds')
end
return redis.call('INCR', KEYS[2])
";

/// The script that opens the accounts. The keys are those of `redis-benchmark`: twelve digits in place of
/// `__rand_int__`.
const OPEN: &str = "
for account = 0, ARGV[1] - 1 do
    redis.call('SET', string.format('%012d', account), ARGV[2])
end
";

const SUM: &str = "
local total = 0
for account = 0, ARGV[1] - 1 do
    total = total + redis.call('GET', string.format('%012d', account))
end
return total
";

/// Finds the programs, or reports the packages to install.
pub(crate) fn version() -> Result<String> {
    let install = || {
        format!(
            "Redis {VERSION_MIN} or newer is not there ({}): install the Debian package `redis-server`, with `redis-tools`",
            PROGRAMS.join(", ")
        )
    };
    for program in PROGRAMS {
        run(Command::new(program).arg("--version")).with_context(install)?;
    }
    let (printed, _) = run(Command::new("redis-server").arg("--version"))?;
    let exact = printed.split_whitespace().find_map(|word| word.strip_prefix("v=")).with_context(install)?;
    let version: u32 = exact.split('.').next().and_then(|major| major.parse().ok()).with_context(install)?;
    ensure!(version >= VERSION_MIN, "{}; this is {exact}", install());
    Ok(format!("{exact}, appendfsync always"))
}

/// Serves a database in `directory` while `redis-benchmark` makes as many transfers as take about `duration`. It counts
/// requests, not time, so their number is estimated from the rate of the warm-up.
pub(crate) fn transfers_per_second(directory: &Path, clients: usize, duration: Duration) -> Result<f64> {
    let database = Database::start(directory, clients)?;
    let mut rate = database.transfer(clients, 16 * clients)?;
    for next in [WARM_UP, duration] {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of requests")]
        let requests = (rate * next.as_secs_f64()) as usize;
        rate = database.transfer(clients, requests.max(clients))?;
    }
    let total: u64 = database.evaluate(SUM)?.trim().parse().context("the sum is not a number")?;
    ensure!(total == TOTAL, "the balances sum to {total}, paid in were {TOTAL}");
    let accounts: u16 = run(database.client().arg("DBSIZE"))?.0.trim().parse().context("DBSIZE is not a number")?;
    ensure!(accounts == ACCOUNTS, "there are {accounts} accounts, there were {ACCOUNTS}");
    Ok(rate)
}

/// A server with the accounts.
struct Database {
    _server: Server,
    port: u16,
    /// The SHA-1 of [`TRANSFER`], by which the server identifies the script.
    transfer: String,
}

impl Database {
    fn start(directory: &Path, clients: usize) -> Result<Self> {
        let port = free_port()?;
        let mut redis = command("redis-server", None, "TERM");
        redis.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(directory);
        redis.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        redis.args(["--maxclients", &(clients + 16).to_string()]);
        let mut stop = client(port);
        stop.args(["SHUTDOWN", "NOSAVE"]);
        let is_ready = || run(client(port).arg("PING")).is_ok_and(|(said, _)| said.trim() == "PONG");
        let server = Server::start(redis, directory.join("redis.log"), Some(stop), is_ready)?;

        let mut database = Self { _server: server, port, transfer: String::new() };
        database.evaluate(OPEN)?;
        database.transfer = run(database.client().args(["SCRIPT", "LOAD", TRANSFER]))?.0.trim().to_owned();
        Ok(database)
    }

    fn client(&self) -> Command {
        client(self.port)
    }

    /// Runs `script` with the number of accounts and the initial balance of each.
    fn evaluate(&self, script: &str) -> Result<String> {
        let arguments = [ACCOUNTS.to_string(), BALANCE.to_string()];
        Ok(run(self.client().args(["EVAL", script, "0"]).args(arguments))?.0)
    }

    /// Makes `requests` transfers with `redis-benchmark` and returns their number per second.
    fn transfer(&self, clients: usize, requests: usize) -> Result<f64> {
        let mut benchmark = command("redis-benchmark", None, "TERM");
        benchmark.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        benchmark.args(["--csv", "-r", &ACCOUNTS.to_string()]);
        benchmark.args(["-c", &clients.to_string(), "-n", &requests.to_string()]);
        benchmark.args(["EVALSHA", &self.transfer, "2", "__rand_int__", "__rand_int__"]);
        let (printed, _) = run(&mut benchmark)?;
        // The columns are "test","rps","avg_latency_ms",...
        let rate = printed.lines().last().and_then(|line| line.split("\",\"").nth(1));
        rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("redis-benchmark printed {printed}"))
    }
}

/// Returns a command for a client of the server on `port`, which fails if the server answers with an error.
fn client(port: u16) -> Command {
    let mut client = command("redis-cli", None, "TERM");
    client.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-e"]);
    client
}
