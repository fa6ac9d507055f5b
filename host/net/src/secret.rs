//! The secrets of a service, put into header values at sending.
//!
//! The guest writes `{{secret:NAME}}`. Its own request keeps the placeholder, and so does everything that is recorded.

use bytes::Bytes;
use http::HeaderValue;
use lifeboat_api::text::{SHOWN_CHARS_MAX, shortened};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// The most secrets of a service.
pub const SECRETS_MAX: usize = 64;

/// The most bytes of a secret's name.
pub const SECRET_NAME_BYTES_MAX: usize = 64;

/// The most bytes of a secret's value.
pub const SECRET_BYTES_MAX: usize = 8 * 1024;

const BEGINNING: &[u8] = b"{{secret:";
const END: &[u8] = b"}}";

/// A secret that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The name is empty, too long, or has other characters.
    #[error(
        "cannot name a secret '{name}': write up to {SECRET_NAME_BYTES_MAX} letters, digits, '_', '-' and '.'",
        name = shortened(.0, SHOWN_CHARS_MAX)
    )]
    Name(String),
    /// The value is no value of a header.
    #[error(
        "the value of the secret '{0}' cannot be sent in a header: it has a control character or a line end; \
         remove it, also at the end of a file"
    )]
    Value(String),
    /// The value is too long.
    #[error("the value of the secret '{name}' is {bytes} bytes long; write at most {SECRET_BYTES_MAX}")]
    TooLong {
        /// The name of the secret.
        name: String,
        /// The bytes of the value.
        bytes: usize,
    },
    /// There are too many secrets.
    #[error("cannot add the secret '{0}': a service has at most {SECRETS_MAX}; remove another one")]
    TooMany(String),
}

/// The secrets of a service, by name. Values are not shown by `Debug`.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, HeaderValue>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Adds a secret, or replaces the one of that name.
    ///
    /// # Errors
    /// [`SecretError`] if the name, the value or the number of secrets is out of bounds. No error shows the value.
    pub fn insert(&mut self, name: &str, value: &[u8]) -> Result<(), SecretError> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > SECRET_NAME_BYTES_MAX || !name.bytes().all(is_valid) {
            return Err(SecretError::Name(name.to_owned()));
        }
        if value.len() > SECRET_BYTES_MAX {
            return Err(SecretError::TooLong { name: name.to_owned(), bytes: value.len() });
        }
        if self.0.len() == SECRETS_MAX && !self.0.contains_key(name) {
            return Err(SecretError::TooMany(name.to_owned()));
        }
        let mut value = HeaderValue::from_bytes(value).map_err(|_| SecretError::Value(name.to_owned()))?;
        value.set_sensitive(true);
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// Returns the names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Replaces the placeholders in a header value, or returns `None` if it has none. A secret's own text is not
    /// searched for placeholders. The error is the reason.
    pub(crate) fn fill(&self, value: &[u8]) -> Result<Option<Bytes>, String> {
        let mut filled = Vec::new();
        let mut rest = value;
        while let Some(start) = find(rest, BEGINNING) {
            let name = &rest[start + BEGINNING.len()..];
            let end = find(name, END).ok_or("'{{secret:' is not closed; write {{secret:NAME}}")?;
            let (name, after) = (String::from_utf8_lossy(&name[..end]), &name[end + END.len()..]);
            let secret = self.0.get(name.as_ref()).ok_or_else(|| {
                let name = shortened(&name, SHOWN_CHARS_MAX);
                format!("the service has no secret '{name}'; add it to the service's configuration")
            })?;
            filled.extend_from_slice(&rest[..start]);
            filled.extend_from_slice(secret.as_bytes());
            rest = after;
        }
        if rest.len() == value.len() {
            return Ok(None);
        }
        filled.extend_from_slice(rest);
        Ok(Some(filled.into()))
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        secrets.insert("KEY", b"v4lue").expect("valid");
        secrets.insert("other.key-1", b"{{secret:KEY}}").expect("valid");
        secrets
    }

    #[test]
    fn placeholders_are_replaced_once() {
        let fill = |text: &str| secrets().fill(text.as_bytes()).map(|filled| filled.map(|bytes| bytes.to_vec()));
        let cases = [
            ("Bearer {{secret:KEY}}", "Bearer v4lue"),
            ("{{secret:KEY}}{{secret:KEY}}!", "v4luev4lue!"),
            ("{{secret:other.key-1}}", "{{secret:KEY}}"),
            ("{{{{secret:KEY}}}}", "{{v4lue}}"),
        ];
        for (text, expected) in cases {
            assert_eq!(fill(text), Ok(Some(expected.into())), "{text}");
        }
        for text in ["", "KEY", "{{KEY}}", "{{ secret:KEY}}", "{{Secret:KEY}}", "{secret:KEY}"] {
            assert_eq!(fill(text), Ok(None), "{text}");
        }
        let unknown = fill("{{secret:KEYS}}").expect_err("unknown");
        assert_eq!(unknown, "the service has no secret 'KEYS'; add it to the service's configuration");
        assert!(fill("{{secret:{{secret:KEY}}").is_err_and(|reason| reason.contains("no secret '{{secret:KEY'")));
        assert!(fill("{{secret:KEY}").is_err_and(|reason| reason.contains("not closed")));
    }

    #[test]
    fn values_are_never_shown() {
        assert_eq!(format!("{:?}", secrets()), r#"{"KEY", "other.key-1"}"#);
        let mut secrets = secrets();
        for value in ["v4lue\n", "v4\0lue", "v4lue\r"] {
            let error = secrets.insert("NEW", value.as_bytes()).expect_err("no header value");
            assert!(error.to_string().contains("'NEW'") && !format!("{error} {error:?}").contains("v4"), "{error}");
        }
    }

    #[test]
    fn secrets_out_of_bounds_are_refused() {
        let mut secrets = Secrets::default();
        for name in ["", "a b", "a}}", "ä", &"a".repeat(SECRET_NAME_BYTES_MAX + 1)] {
            assert!(matches!(secrets.insert(name, b"x"), Err(SecretError::Name(_))), "{name}");
        }
        let long = vec![b'x'; SECRET_BYTES_MAX + 1];
        assert!(secrets.insert("a", &long[1..]).is_ok());
        assert!(matches!(secrets.insert("a", &long), Err(SecretError::TooLong { bytes: 8193, .. })));
        for index in 1..SECRETS_MAX {
            secrets.insert(&format!("a{index}"), b"x").expect("there is room");
        }
        assert_eq!(secrets.insert("b", b"x"), Err(SecretError::TooMany("b".into())));
        assert_eq!((secrets.insert("a", b"y"), secrets.names().count()), (Ok(()), SECRETS_MAX));
    }
}
