//! The stored form of a password: its Argon2id hash as a PHC string.
//!
//! A hash deliberately takes some ten milliseconds of a core and [`HASH_MEMORY_KIB`] of memory. So callers hash where
//! they may block. [`Gate`] bounds how many passwords are hashed at once and how many wait.
//!
//! [`argon2id`] is the only scheme of a host. It is behind a trait so that tests of accounts need not take ten
//! milliseconds for each password.

use super::limits::Trust;
use crate::credential::PasswordHash;
use lifeboat_api::access::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// The memory of a hash, in KiB. This, [`HASH_ITERATIONS`] and [`HASH_LANES`] are the first choice of the OWASP
/// Password Storage Cheat Sheet for Argon2id.
pub const HASH_MEMORY_KIB: u32 = 19 * 1024;

/// The number of passes over that memory.
pub const HASH_ITERATIONS: u32 = 2;

/// The number of lanes of that memory.
pub const HASH_LANES: u32 = 1;

/// The length of the salt of each hash, in bytes.
pub const SALT_BYTES: usize = 16;

/// The number of passwords that are hashed at once. With two, hashing never takes more than 38 MiB and two cores.
pub const HASHES_AT_ONCE_MAX: usize = 2;

/// The number of passwords that wait to be hashed. Beyond it, attempts are refused at once.
pub const HASHES_WAITING_MAX: usize = 32;

/// The number of waiting places reserved for users who have not failed lately, and of further places reserved for users
/// who have logged in from the same address before.
pub const WAITING_RESERVED: usize = 8;

/// The random bytes for one hash, from a cryptographic source.
pub type Salt = [u8; SALT_BYTES];

/// A password that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// The password is too easy to guess.
    #[error(
        "the password has {chars} character{}, it must have at least {PASSWORD_CHARS_MIN}; choose a longer one",
        if *chars == 1 { "" } else { "s" }
    )]
    TooShort {
        /// The length of the password, in characters.
        chars: usize,
    },
    /// The password is too long: hashing it would cost too much.
    #[error("the password has {chars} characters, the limit is {PASSWORD_CHARS_MAX} characters; choose a shorter one")]
    TooLong {
        /// The length of the password, in characters.
        chars: usize,
    },
}

/// A scheme to hash passwords.
pub trait PasswordScheme: fmt::Debug + Send + Sync {
    /// Hashes a password that is within the bounds. Blocks while it hashes.
    fn hash(&self, password: &str, salt: &Salt) -> PasswordHash;

    /// Returns whether `hash` is a hash of `password`. Blocks while it hashes.
    fn is_of(&self, hash: &PasswordHash, password: &str) -> bool;

    /// Returns a hash that matches no password. A comparison with it takes as long as with any other hash.
    fn of_nobody(&self) -> PasswordHash;
}

/// Returns the scheme of every host: Argon2id.
#[must_use]
pub fn argon2id() -> Box<dyn PasswordScheme> {
    Box::new(argon2id::Argon2id)
}

mod argon2id {
    use super::{HASH_ITERATIONS, HASH_LANES, HASH_MEMORY_KIB, PasswordScheme, Salt};
    use crate::credential::PasswordHash;
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

    #[derive(Debug)]
    pub(super) struct Argon2id;

    impl PasswordScheme for Argon2id {
        fn hash(&self, password: &str, salt: &Salt) -> PasswordHash {
            let hash = argon2().hash_password_with_salt(password.as_bytes(), salt);
            phc(hash.expect("passwords and salts within our bounds are valid").to_string())
        }

        fn is_of(&self, hash: &PasswordHash, password: &str) -> bool {
            argon2().verify_password(password.as_bytes(), hash.as_phc()).is_ok()
        }

        fn of_nobody(&self) -> PasswordHash {
            // Zeros, in base64.
            let (salt, hash) = ("A".repeat(22), "A".repeat(43));
            let parameters = format!("m={HASH_MEMORY_KIB},t={HASH_ITERATIONS},p={HASH_LANES}");
            phc(format!("$argon2id$v=19${parameters}${salt}${hash}"))
        }
    }

    fn phc(text: String) -> PasswordHash {
        PasswordHash::from_phc(text).expect("Argon2 writes PHC strings")
    }

    fn argon2() -> Argon2<'static> {
        let params = Params::new(HASH_MEMORY_KIB, HASH_ITERATIONS, HASH_LANES, None).expect("the constants are valid");
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use argon2::password_hash::Error;

        const SCHEME: Argon2id = Argon2id;

        #[test]
        fn a_password_is_known_by_its_hash_alone() {
            let hash = SCHEME.hash("correct horse", &[7; 16]);
            assert!(SCHEME.is_of(&hash, "correct horse"));
            assert!(!SCHEME.is_of(&hash, "correct horsf"));
            assert!(!SCHEME.is_of(&hash, ""));
            assert_ne!(hash, SCHEME.hash("correct horse", &[8; 16]));
            assert_eq!(PasswordHash::from_phc(hash.as_phc().to_owned()).as_ref(), Ok(&hash));
        }

        #[test]
        fn hashes_have_the_parameters_that_owasp_recommends() {
            let hash = SCHEME.hash("correct horse", &[7; 16]);
            assert!(hash.as_phc().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_phc());
            assert_eq!(hash.as_phc().len(), 97);
        }

        #[test]
        fn the_hash_of_nobody_is_compared_like_any_other() {
            let nobody = SCHEME.of_nobody();
            let shape = |hash: &PasswordHash| hash.as_phc().split('$').map(str::len).collect::<Vec<_>>();
            assert_eq!(shape(&nobody), shape(&SCHEME.hash("correct horse", &[7; 16])));
            for password in ["", "correct horse"] {
                assert_eq!(argon2().verify_password(password.as_bytes(), nobody.as_phc()), Err(Error::PasswordInvalid));
            }
        }
    }
}

/// Checks that `password` is allowed as a new password.
///
/// # Errors
/// [`PasswordError`].
pub fn check(password: &str) -> Result<(), PasswordError> {
    match password.chars().count() {
        chars @ ..PASSWORD_CHARS_MIN => Err(PasswordError::TooShort { chars }),
        chars if chars > PASSWORD_CHARS_MAX => Err(PasswordError::TooLong { chars }),
        _ => Ok(()),
    }
}

/// A gate that bounds how many passwords are hashed at once, and how many wait for that. A more trusted attempt has its
/// turn first. Attempts from addresses that have failed lately may not take all places.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    is_free: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    hashing: usize,
    /// The number of waiting attempts, by trust.
    waiting: [usize; 3],
}

impl GateState {
    fn must_wait(&self, trust: Trust) -> bool {
        self.hashing >= HASHES_AT_ONCE_MAX || self.waiting[trust as usize + 1..].iter().any(|waiting| *waiting > 0)
    }

    fn has_place(&self, trust: Trust) -> bool {
        let waiting: usize = self.waiting.iter().sum();
        waiting < HASHES_WAITING_MAX - WAITING_RESERVED * (Trust::Known as usize - trust as usize)
    }
}

impl Gate {
    /// Waits until a password may be hashed. Returns none if too many attempts wait already.
    pub(super) fn enter(&self, trust: Trust) -> Option<Entered<'_>> {
        let mut state = self.state();
        if state.must_wait(trust) {
            if !state.has_place(trust) {
                return None;
            }
            state.waiting[trust as usize] += 1;
            let waited = self.is_free.wait_while(state, |state| state.must_wait(trust));
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting[trust as usize] -= 1;
            // Less trusted attempts may have waited for this one as well.
            self.is_free.notify_all();
        }
        state.hashing += 1;
        Some(Entered(self))
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to hash one password, released when dropped.
#[derive(Debug)]
pub(super) struct Entered<'a>(&'a Gate);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.state().hashing -= 1;
        self.0.is_free.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn passwords_have_bounds() {
        assert_eq!(check("seven77"), Err(PasswordError::TooShort { chars: 7 }));
        let text = |chars| PasswordError::TooShort { chars }.to_string();
        assert!(text(1).starts_with("the password has 1 character, it must"), "{}", text(1));
        assert!(text(0).starts_with("the password has 0 characters, it must"), "{}", text(0));
        // The bound counts characters, not bytes.
        assert_eq!(check("ééééééé"), Err(PasswordError::TooShort { chars: 7 }));
        assert_eq!(check("éééééééé"), Ok(()));
        assert_eq!(check(&"x".repeat(1024)), Ok(()));
        assert_eq!(check(&"x".repeat(1025)), Err(PasswordError::TooLong { chars: 1025 }));
        assert_eq!(check(&"😀".repeat(1024)), Ok(()));
        assert_eq!(check(&"😀".repeat(1025)), Err(PasswordError::TooLong { chars: 1025 }));
    }

    #[test]
    fn the_gate_bounds_attempts_that_hash_or_wait() {
        let gate = Gate::default();
        let (inside, most, entered) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let held: Vec<_> =
                (0..HASHES_AT_ONCE_MAX).map(|_| gate.enter(Trust::Known).expect("there is room")).collect();
            for _ in 0..HASHES_WAITING_MAX {
                scope.spawn(|| {
                    let _held = gate.enter(Trust::Known).expect("there is room to wait");
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    entered.fetch_add(1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while gate.state().waiting[Trust::Known as usize] < HASHES_WAITING_MAX {
                std::thread::yield_now();
            }
            assert!(gate.enter(Trust::Known).is_none());
            drop(held);
        });
        assert_eq!(entered.into_inner(), HASHES_WAITING_MAX);
        assert!(most.into_inner() <= HASHES_AT_ONCE_MAX);
        assert!(gate.enter(Trust::Known).is_some());
    }

    #[test]
    fn attempts_after_a_failure_yield_places_to_others() {
        let gate = Gate::default();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let held: Vec<_> =
                (0..HASHES_AT_ONCE_MAX).map(|_| gate.enter(Trust::Known).expect("there is room")).collect();
            let wait = |trust: Trust, number: usize| {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _held = gate.enter(trust).expect("there is room to wait");
                    order.lock().expect("nobody panics").push(trust);
                });
                while gate.state().waiting[trust as usize] < number {
                    std::thread::yield_now();
                }
            };
            (1..=HASHES_WAITING_MAX - 2 * WAITING_RESERVED).for_each(|number| wait(Trust::Failed, number));
            assert!(gate.enter(Trust::Failed).is_none());
            (1..=WAITING_RESERVED).for_each(|number| wait(Trust::Fresh, number));
            assert!(gate.enter(Trust::Fresh).is_none());
            (1..=WAITING_RESERVED).for_each(|number| wait(Trust::Known, number));
            assert!(gate.enter(Trust::Known).is_none());
            drop(held);
        });
        let order = order.into_inner().expect("nobody panics");
        // As many attempts as hash at once may overtake one another.
        let last_failed = order.iter().position(|trust| *trust == Trust::Failed).expect("some");
        assert!(last_failed + HASHES_AT_ONCE_MAX >= 2 * WAITING_RESERVED, "{order:?}");
    }
}
