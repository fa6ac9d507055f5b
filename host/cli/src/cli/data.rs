//! Data directories on the command line: what opens one, and the commands that work on one.

mod directory;

pub(crate) mod accept_divergence;
pub(crate) mod journal;
pub(crate) mod query;
pub(crate) mod remove;
pub(crate) mod restore;
pub(crate) mod services;
pub(crate) mod snapshot;
pub(crate) mod verify;

pub(crate) use directory::{
    DATA_BYTES_MIN, accounts, check_users, completed, graded, look_as_server, memories_max, open, option,
};
