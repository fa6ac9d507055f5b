//! Targets for entries of the catalog, without the hashes before them.

use crate::Outcome;
use lifeboat_host::fuzzing;

pub(super) fn service(bytes: &[u8]) -> Outcome {
    Outcome::of(fuzzing::service_entry(bytes))
}

pub(super) fn user(bytes: &[u8]) -> Outcome {
    Outcome::of(fuzzing::user_entry(bytes))
}

pub(super) fn token(bytes: &[u8]) -> Outcome {
    Outcome::of(fuzzing::token_entry(bytes))
}
