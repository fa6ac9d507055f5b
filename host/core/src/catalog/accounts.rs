//! Users and tokens in the catalog, and their encoding.
//!
//! The encoding is a version and a list of parts (`parts.rs`). The layout of a part never changes: if a type in this
//! module changes, its part gets another kind. Entries of version 1, in which postcard encoded the fields in their
//! order, are still read.

use super::entry::{EntryError, versioned};
use super::{
    BOUNDS, Catalog, CatalogError, INCARNATIONS, LAST_INCARNATION, Room, TOKENS, USERS, put, put_meta, unreadable,
    without_hash,
};
use crate::credential::{PasswordHash, TokenHash};
use crate::parts::{Parts, exactly};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::name::Name;
use redb::{ReadableTable, WriteTransaction};
use std::collections::{BTreeMap, BTreeSet};

/// The version of a user's entry that this host writes, and the newest that it reads.
pub const USER_VERSION: u8 = 2;

/// The version of a token's entry that this host writes, and the newest that it reads.
pub const TOKEN_VERSION: u8 = 2;

/// The kinds of the parts of a user's entry.
mod user_part {
    pub(super) const PASSWORD: u16 = 1;
    pub(super) const IS_ADMIN: u16 = 2;
    pub(super) const CREATED: u16 = 3;
    pub(super) const GRANTS: u16 = 4;
    pub(super) const KNOWN: [u16; 4] = [PASSWORD, IS_ADMIN, CREATED, GRANTS];
}

/// The kinds of the parts of a token's entry.
mod token_part {
    pub(super) const USER: u16 = 1;
    pub(super) const ISSUED: u16 = 2;
    pub(super) const EXPIRES: u16 = 3;
    pub(super) const KNOWN: [u16; 3] = [USER, ISSUED, EXPIRES];
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// The hash of the user's password.
    pub password: PasswordHash,
    /// Whether the user has every right.
    pub is_admin: bool,
    /// When the user was added.
    pub created: Timestamp,
    /// The user's grants on each service.
    pub grants: BTreeMap<Name, BTreeSet<Grant>>,
}

/// A token, of which only the hash is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// The user of the token.
    pub user: Name,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
}

/// A change of users and tokens, all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountsChange {
    /// The users to remove with all their tokens, if they exist. They are removed first: a user of the same name in
    /// `put_users` is a different one.
    pub remove_users: BTreeSet<Name>,
    /// The tokens to remove, before others are added.
    pub remove_tokens: BTreeSet<TokenHash>,
    /// The users to add or to replace, by name.
    pub put_users: BTreeMap<Name, UserEntry>,
    /// The tokens to add.
    pub put_tokens: BTreeMap<TokenHash, TokenEntry>,
    /// The bounds of tokens to set or to remove, as returned by [`Catalog::token_bounds`].
    pub bounds: BTreeMap<TokenHash, Option<Timestamp>>,
}

impl AccountsChange {
    /// Returns whether the change is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Catalog {
    /// Returns all users.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`], [`CatalogError::FutureVersion`].
    pub fn users(&self) -> Result<BTreeMap<Name, UserEntry>, CatalogError> {
        let mut users = BTreeMap::new();
        let Some(table) = self.read_if_there(USERS)? else { return Ok(users) };
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            let name = Name::new(key.value()).map_err(|reason| unreadable(USERS, key.value(), &reason))?;
            let entry = decode_user(&name, value.value())?;
            users.insert(name, entry);
        }
        Ok(users)
    }

    /// Returns the user of this name, if there is one.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`], [`CatalogError::FutureVersion`].
    pub fn user(&self, name: &Name) -> Result<Option<UserEntry>, CatalogError> {
        let Some(table) = self.read_if_there(USERS)? else { return Ok(None) };
        let value = table.get(&**name).map_err(CatalogError::redb("read"))?;
        value.map(|value| decode_user(name, value.value())).transpose()
    }

    /// Returns the incarnations of users: each is a number that no other user of this catalog ever had. Omitted users
    /// were added before incarnations were counted, and have 0.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`].
    pub fn incarnations(&self) -> Result<BTreeMap<Name, u64>, CatalogError> {
        let mut incarnations = BTreeMap::new();
        let Some(table) = self.read_if_there(INCARNATIONS)? else { return Ok(incarnations) };
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            let name = Name::new(key.value()).map_err(|reason| unreadable(INCARNATIONS, key.value(), &reason))?;
            let number = without_hash(INCARNATIONS, &name, value.value())?;
            let number = number.try_into().map_err(|_| unreadable(INCARNATIONS, &name, "it is not 8 bytes long"))?;
            incarnations.insert(name, u64::from_le_bytes(number));
        }
        Ok(incarnations)
    }

    /// Makes the catalog look as it did before incarnations were counted.
    #[cfg(test)]
    pub(crate) fn forget_incarnations(&self) -> Result<(), CatalogError> {
        self.change("write", Room::Reserve, |transaction| {
            transaction.delete_table(INCARNATIONS)?;
            transaction.open_table(super::META)?.remove(LAST_INCARNATION)?;
            Ok(())
        })
    }

    /// Returns all tokens, including expired ones.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`], [`CatalogError::FutureVersion`].
    pub fn tokens(&self) -> Result<BTreeMap<TokenHash, TokenEntry>, CatalogError> {
        let mut tokens = BTreeMap::new();
        let Some(table) = self.read_if_there(TOKENS)? else { return Ok(tokens) };
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            let key = key.value();
            let hash: TokenHash = key.parse().map_err(|reason: String| unreadable(TOKENS, key, &reason))?;
            let bytes = without_hash(TOKENS, key, value.value())?;
            let entry = TokenEntry::from_bytes(bytes)
                .map_err(|error| error.of(TOKENS, key, "an entry of a token".into(), TOKEN_VERSION))?;
            tokens.insert(hash, entry);
        }
        Ok(tokens)
    }

    /// Returns the latest times at which tokens become void, for tokens whose issue a start found to be in its future.
    /// A bound may belong to a token that no longer exists.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`], [`CatalogError::Storage`].
    pub fn token_bounds(&self) -> Result<BTreeMap<TokenHash, Timestamp>, CatalogError> {
        let mut bounds = BTreeMap::new();
        let Some(table) = self.read_if_there(BOUNDS)? else { return Ok(bounds) };
        for row in table.iter().map_err(CatalogError::redb("read"))? {
            let (key, value) = row.map_err(CatalogError::redb("read"))?;
            let key = key.value();
            let hash: TokenHash = key.parse().map_err(|reason: String| unreadable(BOUNDS, key, &reason))?;
            let time = without_hash(BOUNDS, key, value.value())?;
            let time = time.try_into().map_err(|_| unreadable(BOUNDS, key, "it is not 8 bytes long"))?;
            bounds.insert(hash, Timestamp(u64::from_le_bytes(time)));
        }
        Ok(bounds)
    }

    /// Changes users and tokens. The caller bounds the number of users and tokens, and chooses the room that the change
    /// may take.
    ///
    /// # Errors
    /// [`CatalogError::NoRoom`], and the errors of [`Catalog::set_seal`].
    pub fn change_accounts(&self, change: &AccountsChange, room: Room) -> Result<(), CatalogError> {
        if change.is_empty() {
            return Ok(());
        }
        // Otherwise this could reuse a number from a change with an unknown outcome.
        self.mend(room)?;
        let mut last = self.meta_array(LAST_INCARNATION)?.map_or(0, u64::from_le_bytes);
        let mut remove_tokens = change.remove_tokens.clone();
        if !change.remove_users.is_empty() {
            // Read the tokens from the disk: the caller may have forgotten them already.
            let theirs = self.tokens()?.into_iter().filter(|(_, entry)| change.remove_users.contains(&entry.user));
            remove_tokens.extend(theirs.map(|(hash, _)| hash));
        }
        self.change("write", room, |transaction| {
            if !change.remove_users.is_empty() {
                let mut users = transaction.open_table(USERS)?;
                let mut incarnations = transaction.open_table(INCARNATIONS)?;
                for name in &change.remove_users {
                    users.remove(&**name)?;
                    incarnations.remove(&**name)?;
                }
            }
            if !remove_tokens.is_empty() {
                let mut tokens = transaction.open_table(TOKENS)?;
                for hash in &remove_tokens {
                    tokens.remove(hash.to_string().as_str())?;
                }
            }
            for (name, entry) in &change.put_users {
                let is_new = transaction.open_table(USERS)?.get(&**name)?.is_none();
                if is_new {
                    last += 1;
                    put(transaction, INCARNATIONS, name, &last.to_le_bytes())?;
                    put_meta(transaction, LAST_INCARNATION, &last.to_le_bytes())?;
                }
                put_user(transaction, name, entry)?;
            }
            for (hash, entry) in &change.put_tokens {
                put(transaction, TOKENS, &hash.to_string(), &entry.to_bytes())?;
            }
            for (hash, bound) in &change.bounds {
                match bound {
                    Some(bound) => put(transaction, BOUNDS, &hash.to_string(), &bound.0.to_le_bytes())?,
                    None => drop(transaction.open_table(BOUNDS)?.remove(hash.to_string().as_str())?),
                }
            }
            Ok(())
        })
    }
}

pub(super) fn put_user(transaction: &WriteTransaction, name: &Name, entry: &UserEntry) -> Result<(), redb::Error> {
    put(transaction, USERS, name, &entry.to_bytes())
}

fn decode_user(name: &Name, value: &[u8]) -> Result<UserEntry, CatalogError> {
    UserEntry::from_bytes(without_hash(USERS, name, value)?)
        .map_err(|error| error.of(USERS, name, format!("an entry of user '{name}'"), USER_VERSION))
}

impl UserEntry {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self { password, is_admin, created, grants } = self;
        Parts::default()
            .with(user_part::PASSWORD, &password.as_phc())
            .with(user_part::IS_ADMIN, is_admin)
            .with(user_part::CREATED, created)
            .with(user_part::GRANTS, grants)
            .append_to(vec![USER_VERSION])
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let (version, rest) = versioned(bytes, USER_VERSION)?;
        let (phc, is_admin, created, grants) = if version == 1 {
            exactly(rest)?
        } else {
            let parts = Parts::read(rest, &user_part::KNOWN)?;
            (
                parts.get(user_part::PASSWORD)?,
                parts.get(user_part::IS_ADMIN)?,
                parts.get(user_part::CREATED)?,
                parts.get(user_part::GRANTS)?,
            )
        };
        let password = PasswordHash::from_phc(phc).map_err(EntryError::Unreadable)?;
        Ok(Self { password, is_admin, created, grants })
    }

    /// Encodes the entry as an earlier release would have stored it.
    #[cfg(test)]
    pub(super) fn to_bytes_of_version_1(&self) -> Vec<u8> {
        let fields = (self.password.as_phc(), self.is_admin, self.created, &self.grants);
        postcard::to_extend(&fields, vec![1]).expect("encoded")
    }
}

impl TokenEntry {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self { user, issued, expires } = self;
        Parts::default()
            .with(token_part::USER, user)
            .with(token_part::ISSUED, issued)
            .with(token_part::EXPIRES, expires)
            .append_to(vec![TOKEN_VERSION])
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let (version, rest) = versioned(bytes, TOKEN_VERSION)?;
        let (user, issued, expires) = if version == 1 {
            exactly(rest)?
        } else {
            let parts = Parts::read(rest, &token_part::KNOWN)?;
            (parts.get(token_part::USER)?, parts.get(token_part::ISSUED)?, parts.get(token_part::EXPIRES)?)
        };
        Ok(Self { user, issued, expires })
    }

    /// Encodes the entry as an earlier release would have stored it.
    #[cfg(test)]
    pub(super) fn to_bytes_of_version_1(&self) -> Vec<u8> {
        postcard::to_extend(&(&self.user, self.issued, self.expires), vec![1]).expect("encoded")
    }
}
