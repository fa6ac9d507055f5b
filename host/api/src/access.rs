//! The parts of access control that clients and servers share: grants, and the bounds of passwords.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An operation that a user may perform on a service.
// Files store the index of a grant in this list: append new grants, and remove none.
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
    /// All grants.
    pub const ALL: [Self; 3] = [Self::Transact, Self::Observe, Self::Operate];

    /// Returns the word for the grant in files, addresses and command lines.
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
    /// Writes the grant as the continuation of a sentence: `no grant to transact with service ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Transact => "transact with",
            Self::Observe => "observe",
            Self::Operate => "operate",
        })
    }
}

/// The shortest password, in characters (NIST SP 800-63B, 5.1.1.2).
pub const PASSWORD_CHARS_MIN: usize = 8;

/// The longest password, in characters.
pub const PASSWORD_CHARS_MAX: usize = 1024;

/// The longest password, in bytes: it has room for [`PASSWORD_CHARS_MAX`] characters of any kind, each of up to four.
pub const PASSWORD_BYTES_MAX: usize = 4 * PASSWORD_CHARS_MAX;

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
}
