//! The ledger workload behind `lifeboat serve`: a separate process on loopback, like PostgreSQL and Redis.
//!
//! There are two systems. One sends a request for each transfer, over one connection for each client. The other sends a
//! line for each transfer over one request, with four times as many in flight. Both load generators are one thread
//! without an HTTP library.

#[path = "../shared/http.rs"]
mod connection;

use crate::lifeboat::{WORKLOAD, transfers};
use crate::server::{Server, command, run};
use crate::{ACCOUNTS, BALANCE, TOTAL, WARM_UP};
use anyhow::{Context, Result, bail, ensure};
use connection::Connection;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_client::uuid_v7;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lifeboat");

const PASSWORD: &str = "correct horse";

/// The number of lines in flight for each client: a batch sends lines without waiting for answers.
const LINES_PER_CLIENT: usize = 4;

/// More fuel than any measurement burns.
const FUEL: u64 = u64::MAX / 4;

/// Returns the version of the server.
pub(crate) fn version() -> Result<String> {
    let (printed, _) = run(command(PROGRAM, None, "TERM").arg("--version"))?;
    Ok(format!("{}, a process of its own", printed.trim()))
}

/// Measures [`crate::System`] where each client has a connection and one request in flight.
pub(crate) fn by_request(directory: &Path, clients: usize, duration: Duration) -> Result<f64> {
    measure(directory, async |ledger: &Ledger, name, duration| ledger.transfer(clients, name, duration).await, duration)
}

/// Measures [`crate::System`] with one request and [`LINES_PER_CLIENT`] lines in flight for each client.
pub(crate) fn by_batch(directory: &Path, clients: usize, duration: Duration) -> Result<f64> {
    measure(directory, async |ledger: &Ledger, _, duration| ledger.batch(clients, duration).await, duration)
}

fn measure(
    directory: &Path,
    transfer: impl AsyncFn(&Ledger, &'static str, Duration) -> Result<f64>,
    duration: Duration,
) -> Result<f64> {
    let server = start(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let per_second = runtime.block_on(async {
        let ledger = Ledger::open(address(directory)?).await?;
        transfer(&ledger, "warm-up", WARM_UP).await?;
        let per_second = transfer(&ledger, "measured", duration).await?;
        ledger.check().await?;
        anyhow::Ok(per_second)
    })?;
    // Dropping the runtime closes the connections, so the server has none to wait for.
    drop(runtime);
    drop(server);
    let log = log(directory)?;
    ensure!(log.contains("the journal is sealed"), "the server did not end well:\n{log}");
    Ok(per_second)
}

/// Sets up a server in `directory`, and starts it on a free port.
fn start(directory: &Path) -> Result<Server> {
    let password = directory.join("password");
    std::fs::write(&password, PASSWORD).context("failed to write a password")?;
    let mut init = command(PROGRAM, None, "TERM");
    init.args(["init", "--admin-password-stdin"]).arg(directory);
    run(init.stdin(File::open(&password).context("failed to open a password")?))?;

    let mut serve = command(PROGRAM, None, "TERM");
    serve.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(directory.join("lifeboat.toml"));
    let is_ready = || log(directory).is_ok_and(|log| log.contains("lifeboat: serving "));
    Server::start(serve, directory.join("server.log"), None, is_ready)
}

fn log(directory: &Path) -> Result<String> {
    std::fs::read_to_string(directory.join("server.log")).context("failed to read the server's log")
}

/// Returns the address on which the server in `directory` listens.
fn address(directory: &Path) -> Result<SocketAddr> {
    let log = log(directory)?;
    // The text follows the time in its line.
    let shown = log.lines().find_map(|line| line.split_once("lifeboat: listening on http://"));
    shown
        .and_then(|(_, address)| address.parse().ok())
        .with_context(|| format!("the server does not tell its port:\n{log}"))
}

/// The ledger of a running server.
struct Ledger {
    address: SocketAddr,
    /// The lines of every request's head that contain the server and the user.
    common: String,
    /// The same lines after the request line of a transaction.
    head: String,
}

impl Ledger {
    /// Deploys the ledger, and opens the accounts.
    async fn open(address: SocketAddr) -> Result<Self> {
        let mut connection = Connection::open(address).await?;
        let host = format!("Host: {address}\r\n");
        let credentials = format!(r#"{{"user":"admin","password":"{PASSWORD}"}}"#);
        let head = format_args!("POST /v1/login HTTP/1.1\r\n{host}Content-Type: application/json\r\n");
        let answer: Value =
            serde_json::from_slice(expect(200, connection.exchange(head, credentials.as_bytes()).await?)?)?;
        let token = answer["token"].as_str().context("the answer to a log-in has no token")?;
        let common = format!("{host}Authorization: Bearer {token}\r\n");

        let deploy = format_args!("PUT /v1/services/ledger?size=medium&fuel={FUEL} HTTP/1.1\r\n{common}");
        expect(201, connection.exchange(deploy, WORKLOAD).await?)?;

        let head = format!("POST /v1/services/ledger/transactions HTTP/1.1\r\n{common}");
        for account in 0..ACCOUNTS {
            let deposit = format!(r#"{{"deposit":{{"account":"{account}","amount":{BALANCE}}}}}"#);
            expect(200, connection.exchange(format_args!("{head}"), deposit.as_bytes()).await?)?;
        }
        Ok(Self { address, common, head })
    }

    /// Makes each client send one transfer after another, and returns the number of answers per second.
    async fn transfer(&self, clients: usize, name: &str, duration: Duration) -> Result<f64> {
        let connections = (0..clients).map(|_| Connection::open(self.address));
        let connections = futures::future::try_join_all(connections).await?;
        let start = Instant::now();
        let client = |(client, mut connection): (usize, Connection)| async move {
            let mut next = transfers(client);
            let mut transfers = 0_u64;
            while start.elapsed() < duration {
                let head = format_args!("{}Idempotency-Key: \"{name}-{client}-{transfers}\"\r\n", self.head);
                expect(200, connection.exchange(head, next().as_bytes()).await?)?;
                transfers += 1;
            }
            anyhow::Ok(transfers)
        };
        let clients = connections.into_iter().enumerate().map(client);
        let transfers: u64 = futures::future::try_join_all(clients).await?.into_iter().sum();
        Ok(transfers as f64 / start.elapsed().as_secs_f64())
    }

    /// Measures the same over one request: for each answered line, another one is sent.
    async fn batch(&self, clients: usize, duration: Duration) -> Result<f64> {
        let mut batch = Batch::open(self.address, &self.common).await?;
        let mut next = transfers(0);
        let mut sent = 0_usize;
        let mut lines = |count: usize| {
            let mut text = String::new();
            for _ in 0..count {
                // Lines are named as in `lifeboat batch`: ids without a time would be retained for a minute, and these
                // are too many.
                let mut random = [0; 10];
                random[..8].copy_from_slice(&(sent as u64).to_be_bytes());
                let id = uuid_v7(SystemClock.now(), random);
                let _ = writeln!(text, r#"{{"id":"{id}","json":{}}}"#, next());
                sent += 1;
            }
            text
        };
        let start = Instant::now();
        let mut in_flight = clients * LINES_PER_CLIENT;
        batch.send(&lines(in_flight)).await?;
        let mut answered = 0_usize;
        while in_flight > 0 {
            let count = batch.answers().await?;
            answered += count;
            in_flight -= count;
            if count > 0 && start.elapsed() < duration {
                batch.send(&lines(count)).await?;
                in_flight += count;
            }
        }
        let elapsed = start.elapsed();
        batch.end().await?;
        Ok(answered as f64 / elapsed.as_secs_f64())
    }

    async fn check(&self) -> Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let head = format_args!("POST /v1/services/ledger/query HTTP/1.1\r\n{}", self.common);
        let answer = expect(200, connection.exchange(head, br#""total""#).await?)?;
        let expected = format!(r#"{{"total":{TOTAL},"balances":{TOTAL}}}"#);
        ensure!(answer == expected.as_bytes(), "the ledger answered {} and not {expected}", text(answer));
        Ok(())
    }
}

/// Returns the body of an answer, which must have the expected status.
fn expect(expected: u16, (status, body): (u16, &[u8])) -> Result<&[u8]> {
    ensure!(status == expected, "the server answered {status} and not {expected}: {}", text(body));
    Ok(body)
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A running batch: chunks of lines in both directions.
struct Batch {
    stream: TcpStream,
    /// The received bytes that are not parsed yet.
    received: Vec<u8>,
    /// The received part of the last line.
    line: Vec<u8>,
}

impl Batch {
    async fn open(address: SocketAddr, common: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /v1/services/ledger/transactions:batch HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut batch = Self { stream, received: Vec::new(), line: Vec::new() };
        let end = loop {
            if let Some(end) = position(&batch.received, b"\r\n\r\n") {
                break end;
            }
            batch.read().await?;
        };
        let head = text(&batch.received[..end]).to_ascii_lowercase();
        let is_batch = head.starts_with("http/1.1 200 ") && head.contains("\r\ntransfer-encoding: chunked");
        ensure!(is_batch, "the server answered {}", text(&batch.received));
        batch.received.drain(..end + 4);
        Ok(batch)
    }

    async fn read(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the server closed the connection");
        Ok(())
    }

    /// Sends `lines` as a chunk.
    async fn send(&mut self, lines: &str) -> Result<()> {
        let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
        Ok(self.stream.write_all(chunk.as_bytes()).await?)
    }

    /// Waits for more input, and returns the number of lines completed by it. All of them must be `ok`.
    async fn answers(&mut self) -> Result<usize> {
        self.read().await?;
        let mut lines = 0;
        while let Some(chunk) = self.chunk()? {
            ensure!(chunk.len() > END.len(), "the server ended the batch");
            for byte in self.received.drain(..chunk.end).skip(chunk.start).take(chunk.len() - END.len()) {
                if byte != b'\n' {
                    self.line.push(byte);
                    continue;
                }
                if position(&self.line, br#""outcome":"ok""#).is_none() {
                    bail!("the ledger answered {}", text(&self.line));
                }
                self.line.clear();
                lines += 1;
            }
        }
        Ok(lines)
    }

    /// Returns the range of the next received chunk with its end, or `None` before it is complete.
    fn chunk(&self) -> Result<Option<std::ops::Range<usize>>> {
        let Some(start) = position(&self.received, END) else { return Ok(None) };
        let length = std::str::from_utf8(&self.received[..start]).ok();
        let length = length.and_then(|length| usize::from_str_radix(length, 16).ok());
        let length = length.with_context(|| format!("not a chunk: {}", text(&self.received)))?;
        let chunk = start + END.len()..start + END.len() + length + END.len();
        Ok((self.received.len() >= chunk.end).then_some(chunk))
    }

    /// Ends the request, and waits for the end of its answer.
    async fn end(mut self) -> Result<()> {
        self.stream.write_all(b"0\r\n\r\n").await?;
        while self.received.len() < b"0\r\n\r\n".len() {
            self.read().await?;
        }
        ensure!(self.received == b"0\r\n\r\n", "the batch ended with {}", text(&self.received));
        Ok(())
    }
}

/// The end of a chunk, and of its length.
const END: &[u8] = b"\r\n";

fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
