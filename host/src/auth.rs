//! Users, their tokens, and what they may do to which service.
//!
//! A token is 256 random bits, shown once. Only its BLAKE3 hash is kept: so many bits need no slow hash, and finding
//! the hash in a map tells nobody by its timing what a valid token looks like.

use crate::clock::Timestamp;
use crate::name::Name;
use crate::transaction::Denial;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// The first characters of every token, by which scanners for leaked secrets know it.
const TOKEN_PREFIX: &str = "lifeboat_";

/// What a user may do to a service.
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

impl fmt::Display for Grant {
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

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: Name,
}

#[derive(Debug, Default)]
struct User {
    grants: BTreeMap<Name, BTreeSet<Grant>>,
}

#[derive(Debug)]
struct Session {
    user: Name,
    expires: Timestamp,
}

/// Who may do what. In memory; storage keeps the same types.
#[derive(Debug, Default)]
pub struct Authority {
    users: HashMap<Name, User>,
    sessions: HashMap<[u8; 32], Session>,
}

impl Authority {
    /// Makes `user` known, with no grants. Nothing changes if they are known already.
    pub fn add_user(&mut self, user: &Name) {
        if !self.users.contains_key(user) {
            self.users.insert(user.clone(), User::default());
        }
    }

    /// Forgets `user`, their grants and their tokens. Returns whether they were known.
    pub fn remove_user(&mut self, user: &str) -> bool {
        self.sessions.retain(|_, session| &*session.user != user);
        self.users.remove(user).is_some()
    }

    /// Lets `user` do `grant` to `service`. Returns whether they are known.
    pub fn grant(&mut self, user: &str, service: &Name, grant: Grant) -> bool {
        let Some(user) = self.users.get_mut(user) else { return false };
        user.grants.entry(service.clone()).or_default().insert(grant);
        true
    }

    /// Takes a grant away. Returns whether they had it.
    pub fn revoke(&mut self, user: &str, service: &str, grant: Grant) -> bool {
        let grants = self.users.get_mut(user).and_then(|user| user.grants.get_mut(service));
        grants.is_some_and(|grants| grants.remove(&grant))
    }

    /// Issues a token for `user` that holds until `expires`, made of 256 random bits. None if they are not known.
    pub fn issue(&mut self, user: &str, expires: Timestamp, random: [u8; 32]) -> Option<Token> {
        let (user, _) = self.users.get_key_value(user)?;
        let token = Token::from_random(random);
        self.sessions.insert(hash(token.reveal()), Session { user: user.clone(), expires });
        Some(token)
    }

    /// Makes a token void. Returns whether it was valid.
    pub fn void(&mut self, token: &str) -> bool {
        self.sessions.remove(&hash(token)).is_some()
    }

    /// Forgets the tokens that have expired.
    pub fn forget_expired(&mut self, now: Timestamp) {
        self.sessions.retain(|_, session| now < session.expires);
    }

    /// Finds out whose token this is.
    ///
    /// # Errors
    /// [`Denial::NotAuthenticated`] if it is nobody's, void, or expired.
    pub fn authenticate(&self, token: &str, now: Timestamp) -> Result<Identity, Denial> {
        let session =
            self.sessions.get(&hash(token)).ok_or(Denial::NotAuthenticated { reason: "the token is unknown" })?;
        if now >= session.expires {
            return Err(Denial::NotAuthenticated { reason: "the token has expired" });
        }
        Ok(Identity { user: session.user.clone() })
    }

    /// Checks that `identity` may do `grant` to `service`.
    ///
    /// # Errors
    /// [`Denial::NotGranted`].
    pub fn authorise(&self, identity: &Identity, service: &str, grant: Grant) -> Result<(), Denial> {
        let grants = self.users.get(&identity.user).and_then(|user| user.grants.get(service));
        if grants.is_some_and(|grants| grants.contains(&grant)) {
            return Ok(());
        }
        Err(Denial::NotGranted { user: identity.user.to_string(), grant, service: service.into() })
    }
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn bank() -> (Authority, Token) {
        let mut authority = Authority::default();
        authority.add_user(&name("ada"));
        let token = authority.issue("ada", Timestamp(2_000), [7; 32]).expect("ada is known");
        (authority, token)
    }

    #[test]
    fn a_token_is_its_users_until_it_expires() {
        let (authority, token) = bank();
        assert_eq!(
            authority.authenticate(token.reveal(), NOW).map(|identity| identity.user.to_string()),
            Ok("ada".into())
        );
        let expired = authority.authenticate(token.reveal(), Timestamp(2_000));
        assert_eq!(expired, Err(Denial::NotAuthenticated { reason: "the token has expired" }));
    }

    #[test]
    fn unknown_void_and_removed_tokens_are_denied() {
        let (mut authority, token) = bank();
        assert!(authority.authenticate("", NOW).is_err());
        assert!(authority.authenticate(Token::from_random([8; 32]).reveal(), NOW).is_err());
        assert!(authority.void(token.reveal()));
        assert!(authority.authenticate(token.reveal(), NOW).is_err());
        let (mut authority, token) = bank();
        assert!(authority.remove_user("ada"));
        assert!(authority.authenticate(token.reveal(), NOW).is_err());
        assert!(authority.issue("ada", NOW, [1; 32]).is_none());
    }

    #[test]
    fn a_grant_is_for_one_service_and_one_right() {
        let (mut authority, token) = bank();
        let ada = authority.authenticate(token.reveal(), NOW).expect("valid");
        assert!(authority.authorise(&ada, "bank", Grant::Transact).is_err());
        assert!(authority.grant("ada", &name("bank"), Grant::Transact));
        assert!(authority.authorise(&ada, "bank", Grant::Transact).is_ok());
        assert!(authority.authorise(&ada, "bank", Grant::Operate).is_err());
        assert!(authority.authorise(&ada, "vault", Grant::Transact).is_err());
        assert!(authority.revoke("ada", "bank", Grant::Transact));
        assert!(authority.authorise(&ada, "bank", Grant::Transact).is_err());
        assert!(!authority.grant("bob", &name("bank"), Grant::Transact));
    }

    #[test]
    fn tokens_are_kept_as_hashes_and_never_printed() {
        let (authority, token) = bank();
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(!format!("{authority:?}").contains(&token.reveal()[TOKEN_PREFIX.len()..]));
    }
}
