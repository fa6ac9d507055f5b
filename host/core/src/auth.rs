//! Users, their tokens, and what they may do to which service.
//!
//! A token is 256 random bits, shown once. Only its BLAKE3 hash is kept: so many bits need no slow hash, and finding
//! the hash in a map tells nobody by its timing what a valid token looks like. Passwords have few bits: of them an
//! Argon2id hash is kept, and how often they may be guessed is limited.
//!
//! | type | what it is |
//! |---|---|
//! | [`Authority`] | who may do what, in memory: what every request is checked against |
//! | [`Accounts`] | the same on the disk: log-ins, and every change of users, grants and tokens |
//! | [`PasswordHash`](crate::credential::PasswordHash) | what is kept of a password |
//! | [`LogInLimits`] | how often log-ins are tried |
//!
//! A change of [`Accounts`] is on the disk before the [`Authority`] learns of it. A host without a data directory has an
//! [`Authority`] alone.

mod accounts;
mod authority;
mod limits;
mod password;

pub use accounts::{AccountError, Accounts, GRANTED_SERVICES_MAX, LogIn, LogInError, TOKENS_PER_USER_MAX, USERS_MAX};
pub use authority::{Account, Authority};
pub use limits::network;
pub use limits::{
    ATTEMPTS_PER_ADDRESS, ATTEMPTS_PER_USER, ATTEMPTS_PER_USER_AND_ADDRESS, ATTEMPTS_PER_USER_FROM_FRESH, Attempts,
    FAILURE_REMEMBERED, LogInLimits, TRACKED_MAX, Trust,
};
pub use password::{
    HASH_ITERATIONS, HASH_LANES, HASH_MEMORY_KIB, HASHES_AT_ONCE_MAX, HASHES_WAITING_MAX, PasswordError,
    PasswordScheme, SALT_BYTES, Salt, WAITING_RESERVED, argon2id, check as check_password,
};

use crate::credential::TokenHash;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::name::Name;

/// An authenticated user, as they were when their token was looked at. [`Authority::authorise`] asks for what they may
/// do now, and whether the token still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: Name,
    /// Which of the users who had that name one after another: 0 for those who were there before this was counted.
    pub incarnation: u64,
    /// Whether they may do everything.
    pub is_admin: bool,
    /// When their token expires.
    pub expires: Timestamp,
    /// Their token.
    pub token: TokenHash,
}
