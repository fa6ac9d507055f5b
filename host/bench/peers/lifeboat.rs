//! The ledger workload as a durable service of a host in this process: authentication, queue, execution in Wasm,
//! journal, group commit. Clients send an id with every transfer, and wait until its answer is durable.

use crate::{ACCOUNTS, BALANCE, TOTAL, WARM_UP};
use anyhow::{Context, Result, bail, ensure};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Clock, SystemClock, Timestamp};
use lifeboat_api::id::Epoch;
use lifeboat_api::name::Name;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_api::transaction::{Answer, Kind, Reply, Request};
use lifeboat_client::uuid_v7;
use lifeboat_host::answers::DeduplicationWindow;
use lifeboat_host::catalog::ServiceSettings;
use lifeboat_host::command_line::ProgramSettings;
use lifeboat_host::credential::Token;
use lifeboat_host::data::{DataOptions, Locked};
use lifeboat_host::fleet::Machine;
use lifeboat_host::host::{Host, HostConfig, NewService};
use lifeboat_host::network::NetworkSettings;
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::storage::DiskStorage;
use lifeboat_vm::workload::{LoadLimits, load};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The prebuilt ledger workload.
pub(crate) const WORKLOAD: &[u8] = include_bytes!("../../../workloads/prebuilt/ledger.wasm");

/// The linear memory of its VM, in bytes: far more than the accounts take.
const MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// Returns the version of Lifeboat.
pub(crate) fn version() -> Result<String> {
    Ok(concat!("Lifeboat ", env!("CARGO_PKG_VERSION"), ", in this process").into())
}

/// Measures this [`crate::System`].
pub(crate) fn transfers_per_second(directory: &Path, clients: usize, duration: Duration) -> Result<f64> {
    // This runtime serves only the clients: guests and the journal have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let ledger = Ledger::open(directory).await?;
        let accounts: Vec<_> = (0..ACCOUNTS)
            .map(|account| format!(r#"{{"deposit":{{"account":"{account}","amount":{BALANCE}}}}}"#))
            .map(|deposit| ledger.transact(None, deposit))
            .collect();
        futures::future::try_join_all(accounts).await?;
        ledger.transfer(clients, WARM_UP).await?;
        let per_second = ledger.transfer(clients, duration).await?;
        ledger.check().await?;
        ledger.host.stop().await.context("the journal was not sealed")?;
        Ok(per_second)
    })
}

/// Returns an endless sequence of transfers for one client.
pub(crate) fn transfers(client: usize) -> impl FnMut() -> String {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(client as u64 + 1);
    move || {
        // This is Knuth's MMIX generator; its upper bits are random enough to choose accounts.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let from = (random >> 40) % u64::from(ACCOUNTS);
        let to = (from + 1 + (random >> 20) % u64::from(ACCOUNTS - 1)) % u64::from(ACCOUNTS);
        format!(r#"{{"transfer":{{"from":"{from}","to":"{to}","amount":1}}}}"#)
    }
}

struct Ledger {
    host: Host,
    token: Token,
}

impl Ledger {
    async fn open(directory: &Path) -> Result<Self> {
        let storage = Arc::new(DiskStorage::create(directory)?);
        let (data, contents) =
            Locked::open(storage, Some(DirectoryId([1; 16])))?.open_journal(&DataOptions::default())?;
        let config = HostConfig::new(Machine::pair(1, MEMORY_BYTES), MEMORY_BYTES);
        let host = Host::new(config, Arc::new(SystemClock), Arc::new(|_| {}))?.with_data(data);
        host.recover(contents, Epoch::default).await;
        let (name, user) = (Name::new("ledger").expect("a name"), Name::new("ada").expect("a name"));
        let size = Size {
            name: "bench".into(),
            fuel: u64::MAX / 4,
            memory_bytes: MEMORY_BYTES,
            disk_bytes: Size::disk_bytes_for(MEMORY_BYTES),
            network_calls: Size::network_for(MEMORY_BYTES).calls,
            network_bytes: Size::network_for(MEMORY_BYTES).bytes,
            deadline: Duration::from_secs(60),
        };
        host.create_durable_service(NewService {
            name: name.clone(),
            workload: load("ledger.wasm", WORKLOAD, &LoadLimits::default())?,
            workload_bytes: WORKLOAD.into(),
            settings: ServiceSettings {
                size: size.name.clone(),
                sizes: vec![size],
                thresholds: Thresholds::default(),
                deduplication_window: DeduplicationWindow::durable(),
                failover: FailoverMode::Auto,
                network: NetworkSettings::default(),
                program: ProgramSettings::default(),
            },
            secret: [7; 32],
            epoch: Epoch([1; 16]),
            disk: None,
        })
        .await?;
        let mut authority = host.authority();
        authority.add_user(&user);
        authority.grant(&user, &name, Grant::Transact);
        let token = authority.issue(&user, Timestamp(u64::MAX), [1; 32]).context("ada is known")?;
        drop(authority);
        Ok(Self { host, token })
    }

    async fn request(&self, kind: Kind, id: Option<String>, body: String) -> Result<Reply> {
        let request = Request { id, body: body.into(), kind };
        Ok(self.host.request(self.token.reveal(), "ledger", request).await?)
    }

    async fn transact(&self, id: Option<String>, body: String) -> Result<()> {
        match self.request(Kind::Transaction, id, body).await?.answer {
            Answer::Ok(_) => Ok(()),
            other => bail!("the ledger answered {other:?}"),
        }
    }

    /// Makes each client send one transfer after another, and returns the number of answers per second.
    async fn transfer(&self, clients: usize, duration: Duration) -> Result<f64> {
        let start = Instant::now();
        let client = |client: usize| async move {
            let mut next = transfers(client);
            let mut transfers = 0_u64;
            while start.elapsed() < duration {
                // Ids without a time would be retained for a minute, and these are too many.
                let mut random = [0; 10];
                random[..2].copy_from_slice(&u16::try_from(client)?.to_be_bytes());
                random[2..].copy_from_slice(&transfers.to_be_bytes());
                self.transact(Some(uuid_v7(SystemClock.now(), random)), next()).await?;
                transfers += 1;
            }
            anyhow::Ok(transfers)
        };
        let transfers: u64 = futures::future::try_join_all((0..clients).map(client)).await?.into_iter().sum();
        Ok(transfers as f64 / start.elapsed().as_secs_f64())
    }

    async fn check(&self) -> Result<()> {
        let Answer::Ok(answer) = self.request(Kind::Query, None, r#""total""#.into()).await?.answer else {
            bail!("the ledger does not tell its total")
        };
        let expected = format!(r#"{{"total":{TOTAL},"balances":{TOTAL}}}"#);
        ensure!(answer == expected.as_bytes(), "the ledger answered {answer:?} and not {expected}");
        Ok(())
    }
}
