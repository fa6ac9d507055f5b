//! Accounts on the disk: log-ins, and every change of users, grants and tokens.
//!
//! The catalog has the users, with the hashes of their passwords, and the tokens. Each request is checked against the
//! [`Authority`], which is filled from the catalog and otherwise changed only here. A change goes into the catalog
//! first, all or nothing, and takes effect once it is on the disk. So a crash undoes nothing that was reported to a
//! user. If a change fails, the authority stays as it is.
//!
//! If it is unknown whether a change is on the disk, the rights that it removes are removed, an old password too. The
//! rights that it adds are not added, and the error reports that. No user is authenticated by what the catalog shows
//! meanwhile: a log-in first finds out what the disk has. The disk may still have void tokens then. The next successful
//! change removes them. While the catalog accepts no changes, log-ins fail, and issued tokens stay valid.
//!
//! *The lifetime of a token.* A token is valid until `expires` by the wall clock, which is stored with it and never
//! changed. That clock may be wrong when the token is issued, and at any later time. So two bounds apply regardless of
//! the wall clock:
//!
//! - A token is permanently void after its lifetime and [`CLOCK_BEHIND_MAX`] by the monotonic clock, counted from when
//!   it was issued or read at a start.
//! - A token whose issue a start finds to be in the future is void once its lifetime has passed since the first such
//!   start. This bound is stored beside it.
//!
//! A wall clock that is wrong for a moment therefore ends no session, except in three cases:
//!
//! - A token that is issued while the clock is behind by more than a lifetime expires as soon as the clock is correct.
//!   For example, a machine without a battery begins in 1970. The user logs in again, and the next start removes the
//!   token.
//! - A start while the clock is ahead removes the tokens that have expired by it.
//! - A token is void if two starts find its issue to be in the future by clocks that are a lifetime or more apart.
//!
//! In the worst case, while the wall clock is wrong, a token can live for its lifetime and a minute in each start. From
//! the first start with a clock that is and stays correct, it can live for two lifetimes and a minute in all.
//!
//! Concurrency: several threads may call any function. The functions block on the disk and on hashing. Changes wait for
//! one another, and the authority's lock is not held meanwhile.

#[cfg(test)]
mod tests;

use super::Identity;
use super::authority::{Account, Authority};
use super::limits::{LogInLimits, Trust};
use super::password::{self, Entered, Gate, PasswordError, PasswordScheme, Salt};
use crate::catalog::{AccountsChange, Catalog, CatalogError, Room, TokenEntry, UserEntry, UsersGuard};
use crate::credential::{PasswordHash, Token, TokenHash};
use lifeboat_api::access::{Grant, PASSWORD_BYTES_MAX};
use lifeboat_api::clock::{CLOCK_BEHIND_MAX, ClockReading, Timestamp};
use lifeboat_api::name::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use thiserror::Error;

/// The maximum number of users of a data directory. With all their grants and tokens they take about half of the
/// longest catalog.
pub const USERS_MAX: usize = 4_096;

/// The maximum number of services on which one user has grants.
pub const GRANTED_SERVICES_MAX: usize = 256;

/// The maximum number of valid tokens of one user. The next log-in voids the oldest.
pub const TOKENS_PER_USER_MAX: usize = 32;

/// The maximum number of tokens of other users that a log-in removes from the disk because they have reached their
/// maximum age.
const VOID_REMOVED_MAX: usize = 64;

/// How long a caller waits when too many passwords are being hashed.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A successful log-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIn {
    /// The token, which is shown only once.
    pub token: Token,
    /// The user of the token, and when it expires.
    pub identity: Identity,
}

/// A failed log-in.
#[derive(Debug, Error)]
pub enum LogInError {
    /// There is no such user, or the password is wrong. The error does not distinguish the two.
    #[error("the user name or the password is wrong; check both, or have an admin set the password")]
    WrongCredentials,
    /// Too many attempts: for this user, from this address, or in total.
    #[error("too many attempts to log in; try again in {} s", retry_seconds(*retry_after))]
    TooMany {
        /// How long to wait until the next attempt.
        retry_after: Duration,
    },
    /// The catalog failed.
    #[error("the log-in cannot be stored")]
    Catalog(#[from] CatalogError),
}

/// A change of accounts that failed.
#[derive(Debug, Error)]
pub enum AccountError {
    /// There is already a user of this name.
    #[error("there is a user '{user}' already; choose another name")]
    Exists {
        /// The name.
        user: Name,
    },
    /// There is no user of this name.
    #[error("there is no user '{user}'; lifeboat user list shows all users")]
    Unknown {
        /// The name.
        user: String,
    },
    /// The user has no such grant.
    #[error("user '{user}' has no grant to {grant} service '{service}'; lifeboat user list shows the grants")]
    NotHeld {
        /// The user.
        user: Name,
        /// The grant.
        grant: Grant,
        /// The service.
        service: String,
    },
    /// The user is the last admin. Without an admin nobody could add one.
    #[error("'{user}' is the last admin; add another one first")]
    LastAdmin {
        /// The user.
        user: Name,
    },
    /// The number of users has reached [`USERS_MAX`].
    #[error("there are {USERS_MAX} users, which is the limit; remove one first")]
    TooManyUsers,
    /// The number of services on which the user has grants has reached [`GRANTED_SERVICES_MAX`].
    #[error("user '{user}' has grants on {GRANTED_SERVICES_MAX} services, which is the limit; revoke one first")]
    TooManyGrants {
        /// The user.
        user: Name,
    },
    /// The new password is not allowed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The old password is wrong, or there were too many attempts.
    #[error(transparent)]
    LogIn(LogInError),
    /// The catalog failed. Nothing was changed.
    #[error("the change cannot be stored")]
    Catalog(#[source] CatalogError),
    /// The catalog failed, and it is unknown whether the change is on the disk.
    #[error(
        "access that the change revokes is revoked now; access that it grants may be missing until the change is \
         repeated with success or the host is restarted"
    )]
    OutcomeUnknown(#[source] CatalogError),
}

impl From<CatalogError> for AccountError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::OutcomeUnknown { .. } => Self::OutcomeUnknown(error),
            error => Self::Catalog(error),
        }
    }
}

fn unknown(user: &str) -> AccountError {
    AccountError::Unknown { user: user.chars().take(lifeboat_api::name::NAME_BYTES_MAX).collect() }
}

fn retry_seconds(retry_after: Duration) -> u64 {
    // Rounded up, so that a caller that waits so long is not too early.
    retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0)
}

/// The users of a data directory.
pub struct Accounts {
    // Its owner keeps the directory's lock until the catalog is closed.
    catalog: Arc<dyn AsRef<Catalog> + Send + Sync>,
    authority: Arc<RwLock<Authority>>,
    scheme: Box<dyn PasswordScheme>,
    gate: Gate,
    limits: Mutex<LogInLimits>,
    /// The old passwords of users whose password change has an unknown outcome. They are not accepted. Only the last
    /// one of each user is needed, because the catalog's password is known once it is changed again.
    replaced: Mutex<BTreeMap<Name, PasswordHash>>,
    /// Whether the disk may have tokens that the authority does not know, because the outcome of a change is unknown.
    is_unsettled: AtomicBool,
    token_lifetime: Duration,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Loads the accounts in `catalog` into `authority`. From now on, `authority` is changed only through the returned
    /// [`Accounts`]. Tokens that have expired by `now` are dropped, on the disk too. New tokens live for
    /// `token_lifetime`. `now` must be read from the clock that calls to `authority` use.
    ///
    /// `catalog` is any owner of a catalog: a [`DataDirectory`](crate::data::DataDirectory), or a
    /// [`Locked`](crate::data::Locked).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn load(
        catalog: Arc<dyn AsRef<Catalog> + Send + Sync>,
        authority: Arc<RwLock<Authority>>,
        scheme: Box<dyn PasswordScheme>,
        token_lifetime: Duration,
        now: ClockReading,
    ) -> Result<Self, CatalogError> {
        let mut loaded = Authority::default();
        let stored = (*catalog).as_ref();
        let incarnations = stored.incarnations()?;
        for (name, entry) in stored.users()? {
            loaded.add(&name, entry.is_admin, incarnations.get(&name).copied().unwrap_or_default());
            for (service, grants) in &entry.grants {
                for grant in grants {
                    loaded.grant(&name, service, *grant);
                }
            }
        }
        let mut change = AccountsChange::default();
        let mut bounds = stored.token_bounds()?;
        let mut tokens: Vec<_> = stored.tokens()?.into_iter().collect();
        tokens.sort_by_key(|(_, entry)| entry.issued);
        for (hash, TokenEntry { user, issued, expires }) in tokens {
            let lifetime = Duration::from_nanos(expires.0.saturating_sub(issued.0));
            // The clock was ahead when the token was issued, or is behind now: either is possible. So the expiry stays
            // as it is, for when the clock is correct again. Until then the bound counts, also from one start to the
            // next.
            let is_ahead = issued > now.wall.plus(CLOCK_BEHIND_MAX);
            let known = bounds.remove(&hash);
            let latest = now.wall.plus(lifetime);
            let bound = is_ahead.then(|| known.map_or(latest, |known| known.min(latest)));
            if bound != known {
                change.bounds.insert(hash, bound);
            }
            let left = match bound {
                Some(bound) => Duration::from_nanos(bound.0.saturating_sub(now.wall.0)),
                // The remaining time by the wall clock may be too short, because that clock may be ahead.
                None => lifetime.saturating_add(CLOCK_BEHIND_MAX),
            };
            let has_expired = now.wall >= expires || left.is_zero();
            if has_expired || !loaded.accept(&user, hash, expires, now.monotonic.saturating_add(left)) {
                change.remove_tokens.insert(hash);
                change.bounds.remove(&hash);
                change.bounds.extend(known.map(|_| (hash, None)));
            }
        }
        // These bounds belong to tokens that no longer exist.
        change.bounds.extend(bounds.into_keys().map(|hash| (hash, None)));
        stored.change_accounts(&change, Room::Reserve)?;
        *authority.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(Self {
            catalog,
            authority,
            scheme,
            gate: Gate::default(),
            limits: Mutex::default(),
            replaced: Mutex::default(),
            is_unsettled: AtomicBool::new(false),
            token_lifetime,
        })
    }

    /// Authenticates a user by their password. Takes as long for a user that does not exist. `random` are 256 bits of a
    /// cryptographic source, from which the token is made.
    ///
    /// # Errors
    /// [`LogInError`]. With [`LogInError::Catalog`] the token may be on the disk, but no user has it.
    pub fn log_in(
        &self,
        user: &str,
        password: &str,
        address: IpAddr,
        now: ClockReading,
        random: [u8; 32],
    ) -> Result<LogIn, LogInError> {
        // A string that is no valid name belongs to no user. This is not a secret.
        let Ok(user) = Name::new(user) else { return Err(LogInError::WrongCredentials) };
        let verified = self.verify(&user, password, address, now)?;
        let _users = self.begin(self.room_to_log_in(&user))?;
        // Meanwhile the password may have been changed, or the user removed.
        let is_other = self.catalog().user(&user)?.is_none_or(|entry| !self.is_current(&user, &entry, &verified));
        // The catalog may still have a user whose removal has an unknown outcome.
        if is_other || self.authority().account(&user).is_none() {
            return Err(LogInError::WrongCredentials);
        }
        let token = Token::from_random(random);
        let hash = TokenHash::of(token.reveal());
        let expires = now.wall.plus(self.token_lifetime);
        let bound = now.monotonic.saturating_add(self.token_lifetime).saturating_add(CLOCK_BEHIND_MAX);
        let mut change = AccountsChange::default();
        {
            let authority = self.authority();
            // Those of other users are removed as well, or the next start would revive them.
            change.remove_tokens.extend(authority.void_tokens(now).take(VOID_REMOVED_MAX));
            let mut others = authority.tokens(&user);
            others.retain(|token| !change.remove_tokens.contains(token));
            // A token that has only expired is the first to make room, but it is not removed for that alone: the wall
            // clock may be ahead for a moment.
            others.sort_by_key(|token| authority.holds(token, now));
            let too_many = (others.len() + 1).saturating_sub(TOKENS_PER_USER_MAX);
            change.remove_tokens.extend(others.drain(..too_many));
        }
        change.put_tokens.insert(hash, TokenEntry { user: user.clone(), issued: now.wall, expires });
        self.change(change, self.room_to_log_in(&user))?;
        let mut authority = self.authority_mut();
        authority.accept(&user, hash, expires, bound);
        let is_admin = authority.account(&user).is_some_and(|account| account.is_admin);
        let incarnation = authority.incarnation(&user);
        Ok(LogIn { token, identity: Identity { user, incarnation, is_admin, expires, token: hash } })
    }

    /// Voids a token. Returns whether it was valid.
    ///
    /// # Errors
    /// [`AccountError::Catalog`]: the token is still valid. [`AccountError::OutcomeUnknown`]: it is void, but a start
    /// may revive it until another change is stored.
    pub fn log_out(&self, token: &TokenHash) -> Result<bool, AccountError> {
        // Any user with a token may call this repeatedly. During a pause only an admin makes the catalog reopen its
        // file.
        let user = self.authority().user_of(token).cloned();
        let _users = self.begin(user.map_or(Room::Ordinary, |user| self.room_to_log_in(&user)))?;
        let was_valid = self.authority().knows(token);
        if was_valid || self.is_unsettled.load(Ordering::Acquire) {
            let change = AccountsChange { remove_tokens: BTreeSet::from([*token]), ..AccountsChange::default() };
            self.change(change, Room::Reserve)?;
        }
        Ok(was_valid)
    }

    /// Adds a user without grants.
    ///
    /// # Errors
    /// [`AccountError::Exists`], [`AccountError::TooManyUsers`], [`AccountError::Password`], and the errors common to
    /// all changes.
    pub fn add_user(
        &self,
        user: &Name,
        password: &str,
        is_admin: bool,
        now: Timestamp,
        salt: &Salt,
    ) -> Result<(), AccountError> {
        // Check this also before the password is hashed, because hashing is expensive.
        self.check_new(user)?;
        let password = self.hash(password, salt)?;
        let _users = self.begin(Room::Ordinary)?;
        self.check_new(user)?;
        let entry = UserEntry { password, is_admin, created: now, grants: BTreeMap::new() };
        // The disk may have another user of this name, whose removal has an unknown outcome.
        let change = AccountsChange {
            remove_users: BTreeSet::from([user.clone()]),
            put_users: BTreeMap::from([(user.clone(), entry)]),
            ..AccountsChange::default()
        };
        self.change(change, Room::Ordinary)?;
        self.replaced().remove(user);
        let incarnation = self.catalog().incarnations()?.get(user).copied().unwrap_or_default();
        self.authority_mut().add(user, is_admin, incarnation);
        Ok(())
    }

    /// Returns whether a user may observe at least one service, whether the service exists or not.
    #[must_use]
    pub fn may_observe_any(&self, user: &str) -> bool {
        let account = self.authority().account(user);
        account.is_some_and(|account| account.grants.values().any(|grants| grants.contains(&Grant::Observe)))
    }

    /// Replaces the password of a user, and voids all their tokens.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::Password`], and the errors common to all changes.
    pub fn set_password(&self, user: &str, password: &str, salt: &Salt) -> Result<(), AccountError> {
        self.known(user)?;
        let password = self.hash(password, salt)?;
        let _users = self.begin(Room::Reserve)?;
        let (user, entry) = self.known(user)?;
        self.replace_password(&user, entry, password)
    }

    /// Replaces the password of a user who knows the old one, and voids all their tokens. Attempts count as log-ins.
    ///
    /// # Errors
    /// [`AccountError::LogIn`], and the errors of [`Accounts::set_password`].
    pub fn change_password(
        &self,
        user: &Name,
        old: &str,
        new: &str,
        address: IpAddr,
        now: ClockReading,
        salt: &Salt,
    ) -> Result<(), AccountError> {
        password::check(new)?;
        let verified = self.verify(user, old, address, now).map_err(AccountError::LogIn)?;
        let password = self.hash(new, salt)?;
        let _users = self.begin(Room::Reserve)?;
        let (user, entry) = self.known(user)?;
        if !self.is_current(&user, &entry, &verified) {
            return Err(AccountError::LogIn(LogInError::WrongCredentials));
        }
        self.replace_password(&user, entry, password)
    }

    /// Grants a user the right `grant` on `service`, whether the service exists or not.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::TooManyGrants`], and the errors common to all changes.
    pub fn grant(&self, user: &str, service: &Name, grant: Grant) -> Result<(), AccountError> {
        let _users = self.begin(Room::Ordinary)?;
        let (user, mut entry) = self.known(user)?;
        if !entry.grants.contains_key(service) && entry.grants.len() >= GRANTED_SERVICES_MAX {
            return Err(AccountError::TooManyGrants { user });
        }
        if entry.grants.entry(service.clone()).or_default().insert(grant) {
            self.put(&user, entry, BTreeSet::new(), Room::Ordinary)?;
        }
        // Do this also if the catalog has the grant already: it may come from a change with an unknown outcome.
        self.authority_mut().grant(&user, service, grant);
        Ok(())
    }

    /// Revokes a grant.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::NotHeld`], and the errors common to all changes.
    pub fn revoke(&self, user: &str, service: &str, grant: Grant) -> Result<(), AccountError> {
        let _users = self.begin(Room::Reserve)?;
        let (user, mut entry) = self.entry(user)?;
        let held = entry.grants.get_mut(service);
        if !held.is_some_and(|grants| grants.remove(&grant)) {
            // The catalog may have stored a revocation with an unknown outcome.
            self.authority_mut().revoke(&user, service, grant);
            return Err(AccountError::NotHeld { user, grant, service: service.to_owned() });
        }
        entry.grants.retain(|_, grants| !grants.is_empty());
        self.put(&user, entry, BTreeSet::new(), Room::Reserve)?;
        Ok(())
    }

    /// Removes a user, their grants and their tokens.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::LastAdmin`], and the errors common to all changes.
    pub fn remove_user(&self, user: &str) -> Result<(), AccountError> {
        let _users = self.begin(Room::Reserve)?;
        let found = self.entry(user);
        if matches!(found, Err(AccountError::Unknown { .. })) && self.authority_mut().remove_user(user) {
            // The catalog stored a removal with an unknown outcome.
            self.replaced().retain(|name, _| &**name != user);
            return Ok(());
        }
        let (user, entry) = found?;
        if entry.is_admin && !self.authority().has_admin_beside(&user) {
            return Err(AccountError::LastAdmin { user });
        }
        let change = AccountsChange { remove_users: BTreeSet::from([user.clone()]), ..AccountsChange::default() };
        self.change(change, Room::Reserve)?;
        self.replaced().remove(&user);
        Ok(())
    }

    /// Returns all users and their rights, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Account> {
        self.authority().accounts()
    }

    /// Returns the number of users.
    #[must_use]
    pub fn users(&self) -> usize {
        self.authority().users()
    }

    /// Returns the number of services on which each user has grants, summed over all users.
    #[must_use]
    pub fn granted_services(&self) -> usize {
        self.authority().granted_services()
    }

    /// Returns the account of one user.
    #[must_use]
    pub fn account(&self, user: &str) -> Option<Account> {
        self.authority().account(user)
    }

    /// Compares a password with that of a user, and counts this as a log-in attempt. Returns the hash that it was
    /// compared with.
    fn verify(
        &self,
        user: &Name,
        password: &str,
        address: IpAddr,
        now: ClockReading,
    ) -> Result<PasswordHash, LogInError> {
        // The monotonic clock: if a wall clock were set back or forward, log-ins would be refused for too long, or not
        // at all.
        let now = Timestamp(0).plus(now.monotonic);
        let trust = self.limits().trust(user, address, now);
        self.limits().attempt(user, address, now).map_err(|retry_after| LogInError::TooMany { retry_after })?;
        let _entered = self.enter(trust).inspect_err(|_| self.limits().not_made(user, address, trust))?;
        // First find out what the disk has of a change with an unknown outcome.
        let known = self.catalog().mend(self.room_to_log_in(user)).and_then(|()| self.catalog().user(user));
        // If that fails, no password was compared.
        let known = known.inspect_err(|_| self.limits().not_made(user, address, trust))?.map(|entry| entry.password);
        let hash = known.clone().unwrap_or_else(|| self.scheme.of_nobody());
        // The longest allowed password costs the same for every user. A longer one matches no user.
        let is_right = password.len() <= PASSWORD_BYTES_MAX && self.scheme.is_of(&hash, password);
        if !is_right || known.is_none() {
            return Err(LogInError::WrongCredentials);
        }
        self.limits().succeeded(user, address, trust);
        Ok(hash)
    }

    /// Returns the room that a log-in may take. An admin, who can make room, must be able to log in without any, and
    /// during a pause of the catalog. Admins have few tokens, and attempts on their names are limited.
    fn room_to_log_in(&self, user: &Name) -> Room {
        let is_admin = self.authority().account(user).is_some_and(|account| account.is_admin);
        if is_admin { Room::Reserve } else { Room::Ordinary }
    }

    fn hash(&self, password: &str, salt: &Salt) -> Result<PasswordHash, AccountError> {
        password::check(password)?;
        let _entered = self.enter(Trust::Known).map_err(AccountError::LogIn)?;
        Ok(self.scheme.hash(password, salt))
    }

    fn enter(&self, trust: Trust) -> Result<Entered<'_>, LogInError> {
        self.gate.enter(trust).ok_or(LogInError::TooMany { retry_after: BUSY_RETRY })
    }

    fn check_new(&self, user: &Name) -> Result<(), AccountError> {
        let authority = self.authority();
        if authority.account(user).is_some() {
            return Err(AccountError::Exists { user: user.clone() });
        }
        if authority.users() >= USERS_MAX { Err(AccountError::TooManyUsers) } else { Ok(()) }
    }

    fn replace_password(&self, user: &Name, entry: UserEntry, password: PasswordHash) -> Result<(), AccountError> {
        let old = entry.password.clone();
        // This removes the tokens, and takes no more room than before.
        let replaced = self.put(user, UserEntry { password, ..entry }, self.tokens(user), Room::Reserve);
        match &replaced {
            Ok(()) => drop(self.replaced().remove(user)),
            Err(CatalogError::OutcomeUnknown { .. }) => drop(self.replaced().insert(user.clone(), old)),
            Err(_) => {}
        }
        Ok(replaced?)
    }

    /// Returns whether a compared password is still the one that authenticates the user.
    fn is_current(&self, user: &Name, entry: &UserEntry, verified: &PasswordHash) -> bool {
        entry.password == *verified && self.replaced().get(user) != Some(verified)
    }

    /// Begins a change that may take `room`. A change must not rely on catalog contents whose presence on the disk is
    /// unknown.
    fn begin(&self, room: Room) -> Result<UsersGuard<'_>, CatalogError> {
        let users = self.catalog().hold_users();
        self.catalog().mend(room)?;
        Ok(users)
    }

    /// Stores a user's entry, and voids tokens.
    fn put(
        &self,
        user: &Name,
        entry: UserEntry,
        remove_tokens: BTreeSet<TokenHash>,
        room: Room,
    ) -> Result<(), CatalogError> {
        let put_users = BTreeMap::from([(user.clone(), entry)]);
        self.change(AccountsChange { put_users, remove_tokens, ..AccountsChange::default() }, room)
    }

    /// Stores a change, and removes from the authority the rights that it removes. A change with an unknown outcome
    /// does that as well. The next successful change removes the void tokens that it left on the disk.
    fn change(&self, mut change: AccountsChange, room: Room) -> Result<(), CatalogError> {
        if self.is_unsettled.load(Ordering::Acquire) {
            let stored = self.catalog().tokens()?;
            let authority = self.authority();
            change.remove_tokens.extend(stored.into_keys().filter(|token| !authority.knows(token)));
        }
        let changed = self.catalog().change_accounts(&change, room);
        let is_unknown = matches!(changed, Err(CatalogError::OutcomeUnknown { .. }));
        if changed.is_ok() || is_unknown {
            self.is_unsettled.store(is_unknown, Ordering::Release);
            let mut authority = self.authority_mut();
            for user in &change.remove_users {
                authority.remove_user(user);
            }
            for token in &change.remove_tokens {
                authority.void_hash(token);
            }
            for (user, entry) in &change.put_users {
                authority.keep_grants(user, &entry.grants);
            }
        }
        changed
    }

    /// Returns the catalog's entry of a user who may have rights. A user whose addition has an unknown outcome may not.
    fn known(&self, user: &str) -> Result<(Name, UserEntry), AccountError> {
        let (name, entry) = self.entry(user)?;
        let is_known = self.authority().account(&name).is_some();
        if is_known { Ok((name, entry)) } else { Err(unknown(user)) }
    }

    fn entry(&self, user: &str) -> Result<(Name, UserEntry), AccountError> {
        let name = Name::new(user).map_err(|_| unknown(user))?;
        let entry = self.catalog().user(&name)?.ok_or_else(|| unknown(user))?;
        Ok((name, entry))
    }

    fn tokens(&self, user: &str) -> BTreeSet<TokenHash> {
        self.authority().tokens(user).into_iter().collect()
    }

    fn catalog(&self) -> &Catalog {
        (*self.catalog).as_ref()
    }

    fn authority(&self) -> RwLockReadGuard<'_, Authority> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn authority_mut(&self) -> RwLockWriteGuard<'_, Authority> {
        self.authority.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, BTreeMap<Name, PasswordHash>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, LogInLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
