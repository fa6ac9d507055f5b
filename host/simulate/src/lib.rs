//! Simulations: a seeded fleet of services under the traffic of its users, and the proof that nothing was lost.
//!
//! | module | contents |
//! |---|---|
//! | `run` | [`run`] plays a [`Scenario`] against a host, through the entry point that a server uses |
//! | [`scenario`] | the description of a simulation, and its TOML format |
//! | `traffic`, `model` | the requests of the users, and their expected results |
//! | `webhook` | the server that gets the parcels of `courier` |
//! | `reconcile` | the comparison of the clients' answers with the services' records |
//! | [`report`] | the results |

mod model;
mod reconcile;
pub mod report;
mod run;
pub mod scenario;
mod traffic;
mod webhook;

pub use reconcile::{Finding, FindingKind, SEARCH_FUEL_MAX};
pub use report::Report;
pub use run::{Fault, Observer, Options, PACE_MAX, SEED_DEFAULT, ServiceView, SimulateError, run};
pub use scenario::{Scenario, ScenarioError};
