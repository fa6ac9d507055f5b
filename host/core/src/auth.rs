//! Users, their tokens, and their rights on services.
//!
//! A token is 256 random bits and is shown once. Only its BLAKE3 hash is stored: so many bits need no slow hash. A
//! look-up of the hash in a map reveals nothing about valid tokens by its timing. Passwords have fewer bits: they are
//! stored as Argon2id hashes, and the rate of guesses is limited.
//!
//! | type | what it is |
//! |---|---|
//! | [`Authority`] | the rights of all users, in memory: every request is checked against it |
//! | [`Accounts`] | the same on the disk: log-ins, and every change of users, grants and tokens |
//! | [`PasswordHash`](crate::credential::PasswordHash) | the stored hash of a password |
//! | [`LogInLimits`] | the limits of log-in attempts |
//!
//! A change of [`Accounts`] is on the disk before it reaches the [`Authority`]. A host without a data directory has
//! only an [`Authority`].

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

/// An authenticated user, as of the check of their token. [`Authority::authorise`] checks their current rights, and
/// whether the token is still valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: Name,
    /// Which of the successive users of that name: 0 for users from before incarnations were counted.
    pub incarnation: u64,
    /// Whether the user has every right.
    pub is_admin: bool,
    /// When the user's token expires.
    pub expires: Timestamp,
    /// The hash of the user's token.
    pub token: TokenHash,
}
