//! End-to-end tests, one binary. Which test goes where:
//!
//! - `cli_run`, `cli_inspect`, `cli_simulate`: what a user of that subcommand of the built binary sees; `cli_data`: of
//!   those that work on a data directory; `cli_init`: of those that set a server up; `cli_messages`: of all, about what
//!   is wrong.
//! - `failover`: what a service does about its meters; `model`: random histories against a plain model; `wasi`: what a
//!   guest sees of WASI.
//! - `edges`: what is just within every limit, live and brought back.
//! - `verify`: proofs and portable snapshots, on a disk that rots and loses power.
//! - `durable`: durable services on a disk that forgets and fails; `kill`: the built binary under `kill -9`;
//!   `kill_server`: the same of a server over HTTP.
//! - `children`: the processes in which it loads and compiles, when they or it are killed.
//! - `orders`: what operators order of services on a storage that fails, against what the disk has then.
//! - `orphans`: directories whose catalog is older than their journal.
//! - `hostile`: guests that misbehave, and what the host and their neighbours make of it.
//! - `yields`: guests that keep a thread busy, by whatever they call.
//! - `limits`: that docs/limits.md says what the constants are.
//! - `old_data`: directories that earlier releases wrote.
//! - `prebuilt`: that the committed workloads are those of the sources.
//! - `readme`, `tutorial`: that the commands of README.md, docs/tutorial.md and other pages do what these say; that links
//!   lead somewhere, and no sentence of README.md is long.
//! - `client`: the client commands of the built binary, against a server of it.
//! - `server`: the HTTP API of a server in this process, which `site` starts; `operators`: what its operators are told, and
//!   of `lifeboat serve` itself.
//! - `serving` runs `lifeboat serve`, `util` any other command of the built binary, `rig` a host in this process; `world`
//!   puts guests together from text.
//!
//! What one module does is tested beside it, in `src`. What needs a Rust toolchain for Wasm is a binary of its own,
//! `toolchain.rs`. Guests are in `tests/guests` and `workloads/prebuilt`, tiny variations of them in the tests.
//!
//! README.md promises that its two commands build every dependency once. They do while no dev-dependency turns on a
//! feature of a dependency that they share: `cargo test --release --workspace --no-run -v` after a `cargo build
//! --release` compiles nothing of Wasmtime.

mod children;
mod cli_data;
mod cli_init;
mod cli_inspect;
mod cli_messages;
mod cli_run;
mod cli_simulate;
mod client;
mod durable;
mod edges;
mod failover;
mod full;
mod hostile;
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
mod queries;
mod queue;
mod readme;
mod rig;
mod server;
mod serving;
mod site;
mod tutorial;
mod util;
mod verify;
mod wasi;
mod world;
mod yields;
