//! Limits of log-in attempts.
//!
//! The limits are pure: time is an argument, and the caller reports how an attempt ended.

use lifeboat_api::clock::Timestamp;
use lifeboat_api::name::Name;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// A token bucket of attempts: a burst, and one more attempt after each refill time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// The number of attempts that are allowed at once.
    pub burst: u32,
    /// The time until one more attempt is allowed.
    pub refill: Duration,
}

/// The limit for one user from one address. Successful attempts do not count.
pub const ATTEMPTS_PER_USER_AND_ADDRESS: Attempts = Attempts { burst: 5, refill: Duration::from_secs(30) };

/// The limit for one address, for any user and any outcome: each attempt costs a hash. It allows a company behind one
/// address to log in.
pub const ATTEMPTS_PER_ADDRESS: Attempts = Attempts { burst: 100, refill: Duration::from_secs(1) };

/// The limit for one user from all addresses that have failed lately and from which they have not logged in. Successful
/// attempts do not count.
pub const ATTEMPTS_PER_USER: Attempts = Attempts { burst: 50, refill: Duration::from_secs(5) };

/// The limit for one user from all addresses without a failure in [`FAILURE_REMEMBERED`]. An attacker with many
/// addresses has one such attempt from each.
pub const ATTEMPTS_PER_USER_FROM_FRESH: Attempts = Attempts { burst: 200, refill: Duration::from_secs(1) };

/// How long a failure counts against its address.
pub const FAILURE_REMEMBERED: Duration = Duration::from_secs(600);

/// The maximum number of retained buckets, and of retained addresses of users who have logged in. The least recently
/// used one is discarded, which makes its bucket full again.
pub const TRACKED_MAX: usize = 10_000;

/// The limits of log-ins for each user name and each address. An attempt is counted before the password is checked, so
/// that concurrent attempts count as well. Names that exist and names that do not are treated alike.
///
/// | who | limited by |
/// |---|---|
/// | one address that guesses one user's password | [`ATTEMPTS_PER_USER_AND_ADDRESS`]: about 2,900 a day |
/// | one address that tries few passwords on many users, or keeps the host busy with hashing | [`ATTEMPTS_PER_ADDRESS`] |
/// | many addresses that guess one user's password | [`ATTEMPTS_PER_USER`], [`ATTEMPTS_PER_USER_FROM_FRESH`]: about 100,000 a day together |
///
/// The last row alone would let many addresses lock a user out. So its limits do not apply to an address from which the
/// user has logged in, while that address is remembered. An attempt from a new address does not compete with addresses
/// that have failed. Issued tokens are never affected. The limits do not stop an attacker with ten thousand addresses,
/// who can displace the remembered ones. Against such an attacker, only a long password protects a user.
///
/// An address is an IPv4 address, or the first 64 bits of an IPv6 address, which belong to one customer. Behind a proxy
/// all users have the proxy's address.
#[derive(Debug, Default)]
pub struct LogInLimits {
    buckets: Recent<Key, Bucket>,
    /// The addresses from which users have logged in.
    known: Recent<(Name, IpAddr), ()>,
    /// The time of the last attempt from each address with a failure that is remembered.
    failed: Recent<IpAddr, Timestamp>,
}

/// How much an attempt is trusted. The more it is trusted, the sooner is its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Attempts from the address have failed lately.
    Failed,
    /// Nothing is known of the user at the address.
    Fresh,
    /// The user has logged in from the address.
    Known,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    UserAt(Name, IpAddr),
    User(Name),
    UserFromFresh(Name),
}

impl Key {
    fn attempts(&self) -> Attempts {
        match self {
            Self::Address(_) => ATTEMPTS_PER_ADDRESS,
            Self::UserAt(..) => ATTEMPTS_PER_USER_AND_ADDRESS,
            Self::User(_) => ATTEMPTS_PER_USER,
            Self::UserFromFresh(_) => ATTEMPTS_PER_USER_FROM_FRESH,
        }
    }
}

impl LogInLimits {
    /// Returns the trust of an attempt that is about to be made.
    pub fn trust(&mut self, user: &Name, address: IpAddr, now: Timestamp) -> Trust {
        let address = network(address);
        if self.known.contains(&(user.clone(), address)) {
            return Trust::Known;
        }
        let failed = self.failed.get_mut(&address).map(|failed| {
            // After the clock was set back, a failure must not count for long.
            *failed = (*failed).min(now);
            *failed
        });
        match failed {
            Some(failed) if failed.plus(FAILURE_REMEMBERED) > now => Trust::Failed,
            _ => Trust::Fresh,
        }
    }

    /// Counts an attempt to log in as `user` from `address`. Until it succeeds it counts as a failure of the address,
    /// unless the user has logged in from there. A success does not erase earlier failures.
    ///
    /// # Errors
    /// How long to wait, if the attempt may not be made now. Nothing is counted then: a refused call costs nothing.
    pub fn attempt(&mut self, user: &Name, address: IpAddr, now: Timestamp) -> Result<(), Duration> {
        let trust = self.trust(user, address, now);
        let keys = Self::keys(user, address, trust);
        let mut wait = Duration::ZERO;
        for key in &keys {
            if let Some(bucket) = self.buckets.get_mut(key) {
                bucket.correct(key.attempts(), now);
                wait = wait.max(bucket.wait(key.attempts(), now));
            }
        }
        if wait > Duration::ZERO {
            return Err(wait);
        }
        for key in keys {
            let attempts = key.attempts();
            self.buckets.entry(key).take(attempts, now);
        }
        if trust != Trust::Known {
            *self.failed.entry(network(address)) = now;
        }
        Ok(())
    }

    /// Records that an attempt succeeded, so that it does not count against the user.
    pub fn succeeded(&mut self, user: &Name, address: IpAddr, trust: Trust) {
        self.give_back(user, address, trust, false);
        self.known.entry((user.clone(), network(address)));
    }

    /// Records that an attempt was not made after all, because there was no turn to hash or the user's entry could not
    /// be read.
    pub(crate) fn not_made(&mut self, user: &Name, address: IpAddr, trust: Trust) {
        self.give_back(user, address, trust, true);
    }

    /// Removes an attempt from the counts. `trust` is the trust before the attempt.
    fn give_back(&mut self, user: &Name, address: IpAddr, trust: Trust, to_address: bool) {
        for key in Self::keys(user, address, trust) {
            if to_address || !matches!(key, Key::Address(_)) {
                let attempts = key.attempts();
                self.buckets.entry(key).give_back(attempts);
            }
        }
        // Before a fresh attempt, the address had no failure that counted.
        if trust == Trust::Fresh {
            self.failed.remove(&network(address));
        }
    }

    fn keys(user: &Name, address: IpAddr, trust: Trust) -> Vec<Key> {
        let address = network(address);
        let mut keys = vec![Key::Address(address), Key::UserAt(user.clone(), address)];
        match trust {
            Trust::Known => {}
            Trust::Fresh => keys.push(Key::UserFromFresh(user.clone())),
            Trust::Failed => keys.push(Key::User(user.clone())),
        }
        keys
    }
}

/// Returns the part of an address that counts as one address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// A token bucket, stored as the time at which it will be full (the generic cell rate algorithm).
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    full_at: Timestamp,
}

impl Bucket {
    /// Corrects the bucket after the clock was set back, which must not lock a user out: no bucket is emptier than
    /// empty now.
    fn correct(&mut self, attempts: Attempts, now: Timestamp) {
        self.full_at = self.full_at.min(now.plus(attempts.refill * attempts.burst));
    }

    /// Returns how long until an attempt is allowed.
    fn wait(self, attempts: Attempts, now: Timestamp) -> Duration {
        let full_at = self.full_at.max(now).plus(attempts.refill);
        let latest = now.plus(attempts.refill * attempts.burst);
        Duration::from_nanos(full_at.0.saturating_sub(latest.0))
    }

    fn take(&mut self, attempts: Attempts, now: Timestamp) {
        self.full_at = self.full_at.max(now).plus(attempts.refill);
    }

    fn give_back(&mut self, attempts: Attempts) {
        let refill = u64::try_from(attempts.refill.as_nanos()).unwrap_or(u64::MAX);
        self.full_at = Timestamp(self.full_at.0.saturating_sub(refill));
    }
}

/// A map of the [`TRACKED_MAX`] most recently used keys.
#[derive(Debug)]
struct Recent<K, V> {
    values: HashMap<K, (u64, V)>,
    /// The keys in the order of their last use.
    order: BTreeMap<u64, K>,
    uses: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Default> Recent<K, V> {
    /// Returns the value of `key`, without counting this as a use.
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.values.get_mut(key).map(|(_, value)| value)
    }

    fn remove(&mut self, key: &K) {
        if let Some((used, _)) = self.values.remove(key) {
            self.order.remove(&used);
        }
    }

    fn contains(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    /// Returns the value of `key`, or a new one if it has none.
    fn entry(&mut self, key: K) -> &mut V {
        if !self.values.contains_key(&key)
            && self.values.len() >= TRACKED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.uses += 1;
        let (used, value) = self.values.entry(key.clone()).or_default();
        self.order.remove(used);
        *used = self.uses;
        self.order.insert(self.uses, key);
        value
    }
}

#[cfg(test)]
mod tests;
