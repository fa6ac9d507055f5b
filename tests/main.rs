//! End-to-end tests, in one binary. This list states which test belongs where:
//!
//! - `cli_run`, `cli_check`, `cli_dev`, `cli_inspect`, `cli_new`, `cli_profile`, `cli_simulate`: the output of that
//!   subcommand of the built binary. `cli_data`: the subcommands that work on a data directory. `cli_init`: those that
//!   set up a server. `cli_messages`: the error messages of all subcommands.
//! - `replace`: another workload for a running service. `failover`: the reactions of a service to its meters. `model`:
//!   random histories against a simple model. `wasi`: what a guest sees of WASI. `disk`: what it sees of its virtual
//!   disk. `http`: what it sees of HTTP.
//! - `sockets`: TCP of a program that runs once. `calls`: calls of services to the network. `doubts`: those in doubt.
//! - `allow_lists`: which addresses an operator lets a service call. No call is made.
//! - `edges`: transactions just within each limit, live and after a recovery.
//! - `verify`: proofs and portable snapshots, on a disk that corrupts data and loses power.
//! - `durable`: durable services on a disk that loses data and fails. `kill`: the built binary under `kill -9`.
//!   `kill_server`: the same for a server over HTTP.
//! - `children`: the processes in which a server loads and compiles, when they or the server are killed.
//! - `code_cache`: starts that find compiled code, damaged code, or none.
//! - `orders`: operators' orders on a storage that fails, compared with what the disk has afterwards.
//! - `orphans`: directories whose catalog is older than their journal.
//! - `hostile`: guests that misbehave, and the effects on the host and other services.
//! - `yields`: guests that keep a thread busy with any of the functions they can call.
//! - `limits`: docs/limits.md against the values of the constants.
//! - `old_data`: directories that earlier releases wrote.
//! - `prebuilt`: the committed workloads against their sources.
//! - `readme`, `tutorial`: the commands of README.md, docs/tutorial.md and other pages, their links, and the length of
//!   sentences in README.md.
//! - `client`: the client commands of the built binary, against a server of it.
//! - `server`, `server_disk`: the HTTP API of a server in this process, which `site` starts. `operators`: what operators
//!   see of it and of `lifeboat serve` itself.
//! - `serving` runs `lifeboat serve`, `util` any other command of the built binary, and `rig` a host in this process.
//!   `world` generates guests as text.
//!
//! Tests of a single module are beside it, in `src`. What `lifeboat check` finds is tested in `host/check/tests`. Tests
//! that need a Rust toolchain for Wasm are a binary of their own, `toolchain.rs`, and `languages.rs` is one for compilers
//! of other languages. Guests are in `tests/guests` and `workloads/prebuilt`; small variations of them are in the tests.
//!
//! README.md promises that its two commands build every dependency once. This holds as long as no dev-dependency
//! enables a feature of a shared dependency. To check it, run `cargo test --release --workspace --no-run -v` after
//! `cargo build --release`: it must compile nothing of Wasmtime.

mod allow_lists;
mod calls;
mod children;
mod cli_check;
mod cli_data;
mod cli_dev;
mod cli_disk;
mod cli_init;
mod cli_inspect;
mod cli_messages;
mod cli_new;
mod cli_profile;
mod cli_run;
mod cli_simulate;
mod client;
mod code_cache;
mod disk;
mod doubts;
mod durable;
mod edges;
mod failover;
mod faulty_log;
mod files;
mod full;
mod hostile;
mod http;
mod ids;
mod kill;
mod kill_server;
mod limits;
mod memory;
mod model;
mod odd_servers;
mod old_data;
mod operators;
mod orders;
mod orphans;
mod prebuilt;
mod programs;
mod queries;
mod queue;
mod readme;
mod replace;
mod rig;
mod server;
mod server_disk;
mod serving;
mod site;
mod sockets;
mod tutorial;
mod util;
mod verify;
mod wasi;
mod webhook;
mod world;
mod yields;
