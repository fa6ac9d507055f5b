//! Simulations: a fleet of services under the traffic of its users, from a seed, and the proof that nothing was lost.
//!
//! | module | what is in it |
//! |---|---|
//! | `run` | [`run`] plays a [`Scenario`] against a host, through the door that a server uses |
//! | [`scenario`] | what is played, and the TOML that says so |
//! | `traffic`, `model` | who sends what; what must come of it |
//! | `reconcile` | what clients were told beside what the services' records say |
//! | [`report`] | what came of it |

mod model;
mod reconcile;
pub mod report;
mod run;
pub mod scenario;
mod traffic;

pub use reconcile::{Finding, FindingKind, SEARCH_FUEL_MAX};
pub use report::Report;
pub use run::{Observer, Options, PACE_MAX, SEED_DEFAULT, SabotageKind, ServiceView, SimulateError, run};
pub use scenario::{Scenario, ScenarioError};
