//! Names of services, machines and users, as operators write them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// The regular expression of a name, for descriptions of interfaces.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

/// A name of 1 to [`NAME_BYTES_MAX`] ASCII letters, digits, `-`, `_` or `.`, the first of which is a letter or a digit.
/// So it is safe in a path, a command line, a log line and `bank/3`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Returns the name `text`.
    ///
    /// # Errors
    /// A sentence that describes a valid name.
    pub fn new(text: &str) -> Result<Self, String> {
        Self::check(text).map(|()| Self(text.into()))
    }

    /// Checks whether `text` is a valid name.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn check(text: &str) -> Result<(), String> {
        let is_valid = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.len() <= NAME_BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if is_valid {
            return Ok(());
        }
        let shown: String = text.chars().take(NAME_BYTES_MAX).collect();
        Err(format!(
            "'{}' is not a name: use 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', a letter or digit first",
            shown.escape_debug()
        ))
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_path_or_a_line() {
        assert_eq!(Name::new("bank-2.old_one").map(String::from), Ok("bank-2.old_one".into()));
        for wrong in ["", ".", "..", "-x", "a/b", "a b", "\u{1b}[2J", "é", &"x".repeat(65)] {
            assert!(Name::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
