//! `kill -9` of a server with sixteen clients over HTTP. Every transaction whose answer was seen must be there once.
//!
//! `LIFEBOAT_KILLS=1000` runs for some minutes.

use crate::rig::guest_bytes;
use crate::serving::{PASSWORD, Serving, set_up};
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CLIENTS: usize = 16;

/// The default number of kills.
const KILLS: usize = 8;

/// The number of transactions between two kills.
const TRANSACTIONS: usize = 400;

/// The fuel of each VM: a failover every few hundred transactions.
const FUEL: u64 = 2_000_000;

/// The longest wait for an answer. The client may not notice that the server was killed while it took a connection from
/// its pool, and would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// The client's view of an answer.
enum Seen {
    /// The count after the transaction.
    Answered(u64),
    /// The outcome of the transaction is unknown.
    Unknown,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_over_the_network() {
    let kills = std::env::var("LIFEBOAT_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    set_up(folder.path());
    // Connections of a killed server are of no use for the next one.
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(CLIENTS).timeout(PATIENCE);
    let client = client.build().expect("a client");
    let mut token = String::new();
    let mut answered: BTreeMap<String, u64> = BTreeMap::new();
    let mut unknown: Vec<String> = Vec::new();
    let mut failovers = 0;
    for round in 0..=kills {
        let serving = Serving::start(folder.path());
        let address = serving.address;
        until_ready(&client, address).await;
        if token.is_empty() {
            token = log_in(&client, address).await;
            let deploy = client.put(format!("http://{address}/v1/services/bank?size=small&fuel={FUEL}"));
            let deploy = deploy.bearer_auth(&token).body(guest_bytes("work.wat"));
            assert_eq!(deploy.send().await.expect("answered").status(), 201);
        }
        // Transactions with unknown outcomes are looked up first and then sent again. Some with known answers are
        // repeated as well.
        let mut ids: Vec<String> = std::mem::take(&mut unknown);
        ids.extend(answered.keys().step_by(97).cloned());
        let is_last = round == kills;
        if !is_last {
            ids.extend((0..TRANSACTIONS).map(|index| format!("t{round}-{index}")));
        }
        let kill_at = if is_last { usize::MAX } else { TRANSACTIONS / 4 + round * 37 % (TRANSACTIONS / 2) };
        let (serving, done) = (Mutex::new(Some(serving)), AtomicUsize::new(0));
        let (client, token, serving, done) = (&client, &token, &serving, &done);
        let seen: Vec<(String, Seen, bool)> = stream::iter(ids)
            .map(|id| async move {
                let (seen, has_failed_over) = transact(client, address, token, &id).await;
                if done.fetch_add(1, Ordering::Relaxed) + 1 == kill_at {
                    serving.lock().expect("nobody panics").take().expect("it is killed once").kill();
                }
                (id, seen, has_failed_over)
            })
            .buffer_unordered(CLIENTS)
            .collect()
            .await;
        for (id, seen, has_failed_over) in seen {
            failovers += usize::from(has_failed_over);
            match seen {
                Seen::Unknown => unknown.push(id),
                Seen::Answered(count) => {
                    let first = *answered.entry(id.clone()).or_insert(count);
                    assert_eq!(first, count, "'{id}' was answered in two ways");
                }
            }
        }
        if is_last {
            assert!(unknown.is_empty(), "{unknown:?}");
            let total: Value = query(client, address, token).await;
            assert_eq!(total.as_u64(), Some(answered.len() as u64), "each was executed once");
            let mut counts: Vec<u64> = answered.values().copied().collect();
            counts.sort_unstable();
            assert!(counts.iter().copied().eq(1..=answered.len() as u64), "no count was printed twice");
            assert_eq!(answered.len(), kills * TRANSACTIONS);
            assert!(failovers > kills, "{failovers} failovers");
            let serving = serving.lock().expect("nobody panics").take().expect("it was not killed");
            assert_eq!(serving.terminate(), Some(0), "a clean stop");
        }
    }
    let data = folder.path().join("data");
    crate::util::lifeboat(["data", "verify", "--data"]).arg(data).output().exits(0);
}

/// Sends a transaction, or looks up its answer if there may be one.
async fn transact(client: &reqwest::Client, address: SocketAddr, token: &str, id: &str) -> (Seen, bool) {
    let request = client
        .post(format!("http://{address}/v1/services/bank/transactions"))
        .bearer_auth(token)
        .header("Idempotency-Key", format!("\"{id}\""))
        .body("2000");
    let Ok(response) = request.send().await else { return (Seen::Unknown, false) };
    let status = response.status().as_u16();
    // The only failure allowed is that the server is stopping or not available yet.
    assert!(status == 200 || status == 503, "{status} for '{id}'");
    let has_failed_over = response.headers().contains_key("lifeboat-failover");
    let Ok(body) = response.text().await else { return (Seen::Unknown, has_failed_over) };
    match (status, body.parse()) {
        (200, Ok(count)) => (Seen::Answered(count), has_failed_over),
        _ => (Seen::Unknown, has_failed_over),
    }
}

async fn query(client: &reqwest::Client, address: SocketAddr, token: &str) -> Value {
    let request = client.post(format!("http://{address}/v1/services/bank/query")).bearer_auth(token);
    request.send().await.expect("answered").json().await.expect("a number")
}

async fn log_in(client: &reqwest::Client, address: SocketAddr) -> String {
    let body = json!({"user": "admin", "password": PASSWORD}).to_string();
    let answer = client.post(format!("http://{address}/v1/login")).body(body).send().await.expect("answered");
    let answer: Value = answer.json().await.expect("an object");
    answer["token"].as_str().expect("a token").to_owned()
}

async fn until_ready(client: &reqwest::Client, address: SocketAddr) {
    let ready = async {
        while client.get(format!("http://{address}/readyz")).send().await.expect("answered").status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), ready).await.expect("it comes up");
}
