//! The rights of all users, in memory. Every request is checked here: one hash and one look-up find the user of a
//! token, and one more look-up finds their rights.

use super::{Identity, TokenHash};
use crate::credential::Token;
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{ClockReading, Timestamp};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Denial;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

#[derive(Debug, Default)]
struct User {
    is_admin: bool,
    incarnation: u64,
    grants: BTreeMap<Name, BTreeSet<Grant>>,
    /// The user's tokens, the oldest first.
    tokens: VecDeque<TokenHash>,
}

/// The state of a token.
#[derive(Debug)]
struct Session {
    user: Name,
    incarnation: u64,
    is_admin: bool,
    /// When the token expires by the wall clock, as stored.
    expires: Timestamp,
    /// When the token becomes permanently void by the monotonic clock, regardless of the wall clock.
    bound: Duration,
}

impl Session {
    fn is_void(&self, now: ClockReading) -> bool {
        now.monotonic >= self.bound
    }

    /// Returns when the session ends by the current wall clock.
    fn ends(&self, now: ClockReading) -> Timestamp {
        self.expires.min(now.wall.plus(self.bound.saturating_sub(now.monotonic)))
    }
}

/// A user and their rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's name.
    pub user: Name,
    /// Whether the user has every right on every service.
    pub is_admin: bool,
    /// The user's grants on each service. An admin needs none.
    pub grants: BTreeMap<Name, BTreeSet<Grant>>,
}

/// The rights of all users, and their sessions.
#[derive(Debug, Default)]
pub struct Authority {
    users: HashMap<Name, User>,
    sessions: HashMap<TokenHash, Session>,
    /// The number of users that were removed so far.
    removals: u64,
}

impl Authority {
    /// Adds `user` without grants. Does nothing if the user exists already.
    pub fn add_user(&mut self, user: &Name) {
        self.add(user, false, self.removals);
    }

    /// Adds `user` as an admin, who has every right. Does nothing if the user exists already.
    pub fn add_admin(&mut self, user: &Name) {
        self.add(user, true, self.removals);
    }

    /// Adds a user without grants, whose incarnation is stored elsewhere. Does nothing if the user exists already.
    pub fn add_user_as(&mut self, user: &Name, incarnation: u64) {
        self.add(user, false, incarnation);
    }

    pub(super) fn add(&mut self, user: &Name, is_admin: bool, incarnation: u64) {
        if !self.users.contains_key(user) {
            self.users.insert(user.clone(), User { is_admin, incarnation, ..User::default() });
        }
    }

    /// Removes `user`, their grants and their tokens. Returns whether the user existed.
    pub fn remove_user(&mut self, user: &str) -> bool {
        self.void_all(user);
        let was_known = self.users.remove(user).is_some();
        // The next user of this name is a different one.
        self.removals += u64::from(was_known);
        was_known
    }

    /// Grants `user` the right `grant` on `service`. Returns whether the user exists.
    pub fn grant(&mut self, user: &str, service: &Name, grant: Grant) -> bool {
        let Some(user) = self.users.get_mut(user) else { return false };
        user.grants.entry(service.clone()).or_default().insert(grant);
        true
    }

    /// Revokes a grant. Returns whether the user had it.
    pub fn revoke(&mut self, user: &str, service: &str, grant: Grant) -> bool {
        let Some(user) = self.users.get_mut(user) else { return false };
        let Some(grants) = user.grants.get_mut(service) else { return false };
        let had = grants.remove(&grant);
        if grants.is_empty() {
            user.grants.remove(service);
        }
        had
    }

    /// Revokes every grant of `user` that is not in `grants`.
    pub(super) fn keep_grants(&mut self, user: &str, grants: &BTreeMap<Name, BTreeSet<Grant>>) {
        let Some(user) = self.users.get_mut(user) else { return };
        user.grants.retain(|service, held| {
            held.retain(|grant| grants.get(service).is_some_and(|grants| grants.contains(grant)));
            !held.is_empty()
        });
    }

    /// Revokes the grants of all users on `service`.
    pub(crate) fn forget_service(&mut self, service: &str) {
        for user in self.users.values_mut() {
            user.grants.remove(service);
        }
    }

    /// Issues a token for `user`, made of 256 random bits. It is valid until `expires` by the wall clock alone. Returns
    /// none if the user does not exist.
    pub fn issue(&mut self, user: &str, expires: Timestamp, random: [u8; 32]) -> Option<Token> {
        let token = Token::from_random(random);
        self.accept(user, TokenHash::of(token.reveal()), expires, Duration::MAX).then_some(token)
    }

    /// Adds the token of this hash as the newest of `user`. It is valid until `expires` by the wall clock, but no
    /// longer than until `bound` by the monotonic one. Returns whether the user exists.
    pub(super) fn accept(&mut self, user: &str, token: TokenHash, expires: Timestamp, bound: Duration) -> bool {
        let Some((name, _)) = self.users.get_key_value(user) else { return false };
        let name = name.clone();
        self.void_hash(&token);
        let Some(user) = self.users.get_mut(&name) else { return false };
        user.tokens.push_back(token);
        let session = Session { is_admin: user.is_admin, incarnation: user.incarnation, user: name, expires, bound };
        self.sessions.insert(token, session);
        true
    }

    /// Voids a token. Returns whether it was valid.
    pub fn void(&mut self, token: &str) -> bool {
        self.void_hash(&TokenHash::of(token))
    }

    /// Voids the token of this hash. Returns whether it was valid.
    pub(crate) fn void_hash(&mut self, token: &TokenHash) -> bool {
        let Some(session) = self.sessions.remove(token) else { return false };
        if let Some(user) = self.users.get_mut(&session.user) {
            user.tokens.retain(|other| other != token);
        }
        true
    }

    /// Voids all tokens of `user`.
    pub(crate) fn void_all(&mut self, user: &str) {
        let Some(user) = self.users.get_mut(user) else { return };
        for token in user.tokens.drain(..) {
            self.sessions.remove(&token);
        }
    }

    /// Returns the user of a token.
    ///
    /// # Errors
    /// [`Denial::NotAuthenticated`] if the token is unknown, void, or expired.
    pub fn authenticate(&self, token: &str, now: ClockReading) -> Result<Identity, Denial> {
        self.authenticate_hash(&TokenHash::of(token), now)
    }

    /// Returns the user of a token whose hash is known already.
    ///
    /// # Errors
    /// As [`Authority::authenticate`].
    pub fn authenticate_hash(&self, token: &TokenHash, now: ClockReading) -> Result<Identity, Denial> {
        let (Session { user, incarnation, is_admin, .. }, expires) = self.session(token, now)?;
        Ok(Identity { user: user.clone(), incarnation: *incarnation, is_admin: *is_admin, expires, token: *token })
    }

    /// Returns the session of a valid token, and when it ends.
    fn session(&self, token: &TokenHash, now: ClockReading) -> Result<(&Session, Timestamp), Denial> {
        let session = self.sessions.get(token).ok_or(Denial::NotAuthenticated { reason: "the token is unknown" })?;
        // While the wall clock is ahead, the token is denied. It is valid again once the clock is correct.
        let expires = session.ends(now);
        if now.wall >= expires {
            return Err(Denial::NotAuthenticated { reason: "the token has expired" });
        }
        Ok((session, expires))
    }

    /// Checks that `identity` has the right `grant` on `service`.
    ///
    /// # Errors
    /// [`Denial::NotGranted`]; [`Denial::NotAuthenticated`] if the token was voided or has expired since it was
    /// checked: its request may have taken a minute to arrive.
    pub fn authorise(&self, identity: &Identity, service: &str, grant: Grant, now: ClockReading) -> Result<(), Denial> {
        self.session(&identity.token, now)?;
        let may = |user: &User| user.is_admin || user.grants.get(service).is_some_and(|held| held.contains(&grant));
        if self.users.get(&identity.user).is_some_and(may) {
            return Ok(());
        }
        Err(Denial::NotGranted { user: identity.user.to_string(), grant, service: service.into() })
    }

    /// Checks that `identity` is an admin.
    ///
    /// # Errors
    /// [`Denial::NotAdmin`]; [`Denial::NotAuthenticated`] as in [`Authority::authorise`].
    pub fn authorise_admin(&self, identity: &Identity, now: ClockReading) -> Result<(), Denial> {
        self.session(&identity.token, now)?;
        if self.users.get(&identity.user).is_some_and(|user| user.is_admin) {
            return Ok(());
        }
        Err(Denial::NotAdmin { user: identity.user.to_string() })
    }

    /// Returns the account of `user`.
    #[must_use]
    pub fn account(&self, user: &str) -> Option<Account> {
        self.users.get_key_value(user).map(|(name, user)| user.account(name))
    }

    /// Returns all accounts, by name.
    #[must_use]
    pub fn accounts(&self) -> Vec<Account> {
        let mut accounts: Vec<_> = self.users.iter().map(|(name, user)| user.account(name)).collect();
        accounts.sort_by(|one, other| one.user.cmp(&other.user));
        accounts
    }

    /// Returns the number of users.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Returns the number of services on which each user has grants, summed over all users.
    #[must_use]
    pub fn granted_services(&self) -> usize {
        self.users.values().map(|user| user.grants.len()).sum()
    }

    /// Returns the incarnation of `user`.
    pub(super) fn incarnation(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |user| user.incarnation)
    }

    /// Returns whether there is an admin other than `user`.
    pub(super) fn has_admin_beside(&self, user: &Name) -> bool {
        self.users.iter().any(|(name, other)| other.is_admin && name != user)
    }

    /// Returns whether a token of this hash is known, expired or not.
    pub(super) fn knows(&self, token: &TokenHash) -> bool {
        self.sessions.contains_key(token)
    }

    /// Returns the user of the token with this hash, expired or not.
    pub(super) fn user_of(&self, token: &TokenHash) -> Option<&Name> {
        self.sessions.get(token).map(|session| &session.user)
    }

    /// Returns the tokens of `user`, the oldest first.
    pub(super) fn tokens(&self, user: &str) -> Vec<TokenHash> {
        self.users.get(user).into_iter().flat_map(|user| &user.tokens).copied().collect()
    }

    /// Returns whether a token of this hash is valid.
    pub(super) fn holds(&self, token: &TokenHash, now: ClockReading) -> bool {
        self.sessions.get(token).is_some_and(|session| now.wall < session.ends(now))
    }

    /// Returns the tokens of all users that are permanently void because of their age.
    pub(super) fn void_tokens(&self, now: ClockReading) -> impl Iterator<Item = TokenHash> {
        self.sessions.iter().filter(move |(_, session)| session.is_void(now)).map(|(token, _)| *token)
    }
}

impl User {
    fn account(&self, name: &Name) -> Account {
        Account { user: name.clone(), is_admin: self.is_admin, grants: self.grants.clone() }
    }
}

#[cfg(test)]
mod tests;
