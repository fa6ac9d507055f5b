//! Lifeboat runs stateful WebAssembly programs in metered virtual machines under a service level agreement.
//!
//! It meters the resources of every VM, and authenticates users before it dispatches their transactions. When a VM
//! reaches 98 % of a resource, Lifeboat records an SLA failure and moves the service's state to a fresh VM with fresh
//! resources. It loses no transaction. `ARCHITECTURE.md` describes the nouns and the flows.
//!
//! ```text
//!   request -> host (token, grant) -> service (queue, history, conditions) -> vm (store, meter) -> reply
//!                                        |                  |
//!                                     journal            failover: a snapshot, or a shadow, in a fresh VM
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`host`], [`service`] | a host and its services: requests, orders, states |
//! | [`failover`], [`answers`] | the rules: when a service moves, and for how long an answer is retained |
//! | [`fleet`], [`monitor`], [`budget`], [`locks`] | machines, load, and shares of what users compete for |
//! | [`auth`], [`credential`] | users, tokens and grants |
//! | [`journal`], [`data`], [`catalog`], [`snapshot_file`] | records, the data directory, its catalog and snapshots |
//! | [`scratch`], [`verify`], [`portable`] | tools on a directory: an earlier state, a proof, a service as one file |
//! | [`network`] | what a service may call, and who makes its calls |
//! | [`command_line`] | the arguments and the environment of a program |
//! | [`files`] | what users see of a virtual disk, and give to a new one |
//! | [`metrics`] | the figures of a host in the OpenMetrics format |
//!
//! # Example
//!
//! A host in memory with one service. `Host::with_data` makes services durable.
//!
//! ```no_run
//! use lifeboat_api::access::Grant;
//! use lifeboat_api::clock::{SystemClock, Timestamp};
//! use lifeboat_api::id::Epoch;
//! use lifeboat_api::name::Name;
//! use lifeboat_api::sla::{FailoverMode, Thresholds};
//! use lifeboat_api::transaction::{Kind, Request};
//! use lifeboat_host::command_line::ProgramSettings;
//! use lifeboat_host::{DeduplicationWindow, Host, HostConfig, Machine, NetworkSettings, ServiceSettings, ServiceSpec};
//! use std::sync::Arc;
//!
//! # async fn example(random: [u8; 32], size: lifeboat_api::size::Size) -> Result<(), Box<dyn std::error::Error>> {
//! let config = HostConfig::new(Machine::pair(8, 1 << 30), 128 << 20);
//! let host = Host::new(config, Arc::new(SystemClock), Arc::new(|event| println!("{event}")))?;
//!
//! let (ada, bank) = (Name::new("ada")?, Name::new("bank")?);
//! let workload = lifeboat_vm::engine::load("counter.wasm", &std::fs::read("counter.wasm")?)?;
//! let program = host.compile(workload).await?;
//! let settings = ServiceSettings {
//!     size: size.name.clone(),
//!     sizes: vec![size],
//!     thresholds: Thresholds::default(),
//!     deduplication_window: DeduplicationWindow::default(),
//!     failover: FailoverMode::Direct,
//!     network: NetworkSettings::default(),
//!     program: ProgramSettings::default(),
//! };
//! host.create_service(ServiceSpec::new(bank.clone(), program, &settings, random, Epoch::default())).await?;
//!
//! let token = {
//!     let mut authority = host.authority();
//!     authority.add_user(&ada);
//!     authority.grant(&ada, &bank, Grant::Transact);
//!     authority.issue(&ada, Timestamp(u64::MAX), random).ok_or("no such user")?
//! };
//! let request = Request { id: Some("1".into()), body: "add".into(), kind: Kind::Transaction };
//! let reply = host.request(token.reveal(), "bank", request).await?;
//! println!("{:?}", reply.answer);
//! # Ok(())
//! # }
//! ```

pub mod answers;
pub mod auth;
pub mod budget;
pub mod catalog;
pub mod command_line;
pub mod credential;
pub mod data;
pub mod failover;
pub mod files;
pub mod fleet;
#[doc(hidden)]
pub mod fuzzing;
mod history;
pub mod host;
pub mod journal;
pub mod locks;
pub mod metrics;
pub mod monitor;
pub mod network;
mod parts;
pub mod portable;
pub mod scratch;
pub mod service;
pub mod snapshot_file;
pub mod verify;
mod vm;

pub use answers::DeduplicationWindow;
pub use auth::{Accounts, Identity};
pub use catalog::ServiceSettings;
pub use data::{DataDirectory, DataOptions, Locked};
pub use fleet::Machine;
pub use host::{Host, HostConfig, NewService};
pub use network::NetworkSettings;
pub use service::{LaunchError, ServiceSpec, Status};
