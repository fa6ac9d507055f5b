//! Tokens, and the stored hashes of tokens and passwords.

use std::fmt;
use std::str::FromStr;

/// The first characters of every token, by which scanners for leaked secrets recognise it.
pub(crate) const TOKEN_PREFIX: &str = "lifeboat_";

/// The longest PHC string, in bytes. A string with the parameters of `auth/password.rs` has 97.
pub(crate) const PHC_BYTES_MAX: usize = 256;

/// A secret that authenticates a user. Neither its `Debug` nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes a token of 256 bits, which must come from a cryptographic source of randomness.
    #[must_use]
    pub fn from_random(bits: [u8; 32]) -> Self {
        let mut text = String::with_capacity(TOKEN_PREFIX.len() + 64);
        text.push_str(TOKEN_PREFIX);
        for byte in bits {
            text.push_str(&format!("{byte:02x}"));
        }
        Self(text)
    }

    /// Returns the token's text, which only its user may see.
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

/// The BLAKE3 hash of a token, which is stored in its place. It authenticates nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Returns the hash of a token's text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(*blake3::hash(token.as_bytes()).as_bytes())
    }
}

impl fmt::Display for TokenHash {
    /// Writes 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A hash has exactly one text, so upper-case digits are refused.
        let hash = blake3::Hash::from_hex(text).ok().filter(|hash| hash.to_hex().as_str() == text);
        hash.map(|hash| Self(*hash.as_bytes())).ok_or_else(|| "it is not the hash of a token".to_owned())
    }
}

/// The hash of a password, as a PHC string. Neither its `Debug` nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Accepts a PHC string. Whether the hash's scheme can parse it shows at the first comparison with a password.
    ///
    /// # Errors
    /// A sentence that says that the text is not a PHC string.
    pub fn from_phc(text: String) -> Result<Self, String> {
        let is_phc = text.starts_with('$') && text.len() <= PHC_BYTES_MAX && text.bytes().all(|c| c.is_ascii_graphic());
        if is_phc { Ok(Self(text)) } else { Err("it is not the hash of a password".into()) }
    }

    /// Returns the PHC string, to be stored.
    #[must_use]
    pub(crate) fn as_phc(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_tokens_are_read_as_they_are_written() {
        let hash = TokenHash::of("lifeboat_07");
        assert_eq!(hash.to_string().len(), 64);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in [String::new(), "0".repeat(63), "g".repeat(64), hash.to_string().to_uppercase()] {
            assert!(wrong.parse::<TokenHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_that_is_no_hash_of_a_password_is_refused() {
        for wrong in ["", "secret", "$a b$", &format!("$argon2id${}", "x".repeat(300))] {
            assert!(PasswordHash::from_phc(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hash_of_a_password_is_never_printed() {
        let hash = PasswordHash::from_phc("$argon2id$xyz".into());
        assert_eq!(format!("{hash:?}"), "Ok(PasswordHash(..))");
    }
}
