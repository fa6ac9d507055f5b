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
//! | [`PasswordHash`] | what is kept of a password |
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
pub(crate) use limits::network;
pub use limits::{
    ATTEMPTS_PER_ADDRESS, ATTEMPTS_PER_USER, ATTEMPTS_PER_USER_AND_ADDRESS, ATTEMPTS_PER_USER_FROM_FRESH, Attempts,
    FAILURE_REMEMBERED, LogInLimits, TRACKED_MAX, Trust,
};
pub use password::{
    HASH_ITERATIONS, HASH_LANES, HASH_MEMORY_KIB, HASHES_AT_ONCE_MAX, HASHES_WAITING_MAX, PASSWORD_BYTES_MAX,
    PASSWORD_CHARS_MIN, PasswordError, PasswordHash, PasswordScheme, SALT_BYTES, Salt, WAITING_RESERVED, argon2id,
    check as check_password,
};

use crate::clock::Timestamp;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The first characters of every token, by which scanners for leaked secrets know it.
const TOKEN_PREFIX: &str = "lifeboat_";

/// What a user may do to a service.
// Files hold the place of a grant in this list: add at the end, and remove none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// Send transactions and queries.
    Transact,
    /// See usage, events and logs.
    Observe,
    /// Force failovers and snapshots.
    Operate,
}

impl Grant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Transact, Self::Observe, Self::Operate];

    /// The one word by which files, addresses and command lines call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Transact => "transact",
            Self::Observe => "observe",
            Self::Operate => "operate",
        }
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|grant| grant.word() == text).ok_or_else(|| {
            let shown: String = text.chars().take(32).collect();
            format!("'{}' is not a grant: write 'transact', 'observe' or 'operate'", shown.escape_debug())
        })
    }
}

impl fmt::Display for Grant {
    /// As a sentence goes on with it: `no grant to transact with service ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Transact => "transact with",
            Self::Observe => "observe",
            Self::Operate => "operate",
        })
    }
}

/// A secret that stands for a user. Neither its `Debug` nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes a token of 256 bits that must come from a cryptographic source of randomness.
    #[must_use]
    pub fn from_random(bits: [u8; 32]) -> Self {
        let mut text = String::with_capacity(TOKEN_PREFIX.len() + 64);
        text.push_str(TOKEN_PREFIX);
        for byte in bits {
            text.push_str(&format!("{byte:02x}"));
        }
        Self(text)
    }

    /// The text to hand to the user, and to nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What is kept of a token: its BLAKE3 hash. It lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a token's text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(*blake3::hash(token.as_bytes()).as_bytes())
    }
}

impl fmt::Display for TokenHash {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // One hash has one text, so upper case is none.
        let hash = blake3::Hash::from_hex(text).ok().filter(|hash| hash.to_hex().as_str() == text);
        hash.map(|hash| Self(*hash.as_bytes())).ok_or_else(|| "it is no hash of a token".to_owned())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_have_a_word_each() {
        for grant in Grant::ALL {
            assert_eq!(grant.word().parse(), Ok(grant));
            assert_eq!(serde_json::to_value(grant).ok(), Some(grant.word().into()));
        }
        for wrong in ["", "transact with", "Observe", "admin"] {
            assert!(wrong.parse::<Grant>().is_err_and(|message| message.contains("'operate'")), "{wrong}");
        }
    }

    #[test]
    fn hashes_of_tokens_are_read_as_they_are_written() {
        let hash = TokenHash::of("lifeboat_07");
        assert_eq!(hash.to_string().len(), 64);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in [String::new(), "0".repeat(63), "g".repeat(64), hash.to_string().to_uppercase()] {
            assert!(wrong.parse::<TokenHash>().is_err(), "{wrong}");
        }
    }
}
