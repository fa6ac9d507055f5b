//! A list of parts: a stored value that can grow without a new version of its format.
//!
//! A value is a list of (kind, required or optional, bytes), encoded by postcard. The bytes of a part are the postcard
//! encoding of its value. The layout of a kind never changes: another layout needs another kind. A reader skips an
//! optional part of an unknown kind. It refuses a value with a required part of an unknown kind: a newer host wrote the
//! value, and its meaning depends on that part. `docs/format.md` lists the kinds.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use thiserror::Error;

/// The kind of a part, unique within the format that it belongs to.
pub(crate) type PartKind = u16;

/// A part of a stored value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    kind: PartKind,
    /// Whether a host that does not know the kind must refuse the value.
    is_required: bool,
    bytes: Vec<u8>,
}

impl fmt::Debug for Part {
    /// Formats the part without its bytes, because they may contain a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, is_required, bytes } = self;
        f.debug_struct("Part").field("kind", kind).field("is_required", is_required).field("len", &bytes.len()).finish()
    }
}

/// The parts of a value, in the order in which they are stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts(Vec<Part>);

/// The reason why a list of parts cannot be read.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum PartsError {
    /// A newer host wrote the list: it has a required part of this unknown kind.
    #[error("it has a part of kind {0}, which this host does not know; use a newer host")]
    Unknown(PartKind),
    /// No host writes such a list.
    #[error("{0}")]
    Malformed(String),
}

impl Parts {
    /// Adds a part that every reader must know.
    ///
    /// # Panics
    /// If postcard cannot encode the type of `value`. Only types of this crate are used.
    #[must_use]
    pub(crate) fn with(mut self, kind: PartKind, value: &impl Serialize) -> Self {
        let bytes = postcard::to_stdvec(value).expect("postcard knows the types of all parts");
        self.0.push(Part { kind, is_required: true, bytes });
        self
    }

    /// Appends the encoded list to `bytes`.
    ///
    /// # Panics
    /// If memory runs out.
    pub(crate) fn append_to(&self, bytes: Vec<u8>) -> Vec<u8> {
        postcard::to_extend(&self.0, bytes).expect("postcard knows lists of parts, and memory does not run out")
    }

    /// Decodes a list whose required parts are all of the `known` kinds.
    ///
    /// # Errors
    /// [`PartsError::Unknown`]; [`PartsError::Malformed`] if `bytes` are not exactly one list, or a kind is in it
    /// twice.
    pub(crate) fn read(bytes: &[u8], known: &[PartKind]) -> Result<Self, PartsError> {
        let parts: Vec<Part> = exactly(bytes)?;
        let mut kinds: BTreeSet<PartKind> = BTreeSet::new();
        for part in &parts {
            if part.is_required && !known.contains(&part.kind) {
                return Err(PartsError::Unknown(part.kind));
            }
            // Otherwise each reader could choose another one of the two.
            if !kinds.insert(part.kind) {
                return Err(PartsError::Malformed(format!("it has two parts of kind {}", part.kind)));
            }
        }
        Ok(Self(parts))
    }

    /// Decodes the part of this kind, if there is one.
    ///
    /// # Errors
    /// [`PartsError::Malformed`] if its bytes are not exactly one `T`.
    pub(crate) fn find<T: DeserializeOwned>(&self, kind: PartKind) -> Result<Option<T>, PartsError> {
        let part = self.0.iter().find(|part| part.kind == kind);
        let in_part = |error| PartsError::Malformed(format!("its part of kind {kind}: {error}"));
        part.map(|part| exactly(&part.bytes).map_err(in_part)).transpose()
    }

    /// Decodes the part of this kind.
    ///
    /// # Errors
    /// [`PartsError::Malformed`] if there is none, or its bytes are not exactly one `T`.
    pub(crate) fn get<T: DeserializeOwned>(&self, kind: PartKind) -> Result<T, PartsError> {
        self.find(kind)?.ok_or_else(|| PartsError::Malformed(format!("it has no part of kind {kind}")))
    }
}

/// Decodes a value from all of `bytes`.
///
/// # Errors
/// [`PartsError::Malformed`].
pub(crate) fn exactly<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PartsError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(PartsError::Malformed(format!("{} bytes follow its end", rest.len()))),
        Err(error) => Err(PartsError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
impl Parts {
    /// Removes the part of this kind, as if an earlier release had written the list.
    #[must_use]
    pub(crate) fn without(mut self, kind: PartKind) -> Self {
        self.0.retain(|part| part.kind != kind);
        self
    }

    /// Adds a part that a reader may skip. No format has such a part yet.
    #[must_use]
    pub(crate) fn with_optional(self, kind: PartKind, value: &impl Serialize) -> Self {
        let mut parts = self.with(kind, value);
        if let Some(last) = parts.0.last_mut() {
            last.is_required = false;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [PartKind; 2] = [1, 2];

    fn read(parts: &Parts) -> Result<Parts, PartsError> {
        Parts::read(&parts.append_to(Vec::new()), &KNOWN)
    }

    #[test]
    fn parts_are_found_by_their_kind() {
        let parts = read(&Parts::default().with(2, &"two").with(1, &1_u64)).expect("readable");
        assert_eq!((parts.get(1), parts.get(2)), (Ok(1_u64), Ok("two".to_owned())));
        assert_eq!(parts.find::<u64>(3), Ok(None));
        assert_eq!(parts.get::<u64>(3), Err(PartsError::Malformed("it has no part of kind 3".into())));
    }

    #[test]
    fn an_unknown_optional_part_is_skipped() {
        let known = Parts::default().with(1, &1_u64);
        assert!(read(&known.with_optional(9, &"new")).is_ok());
    }

    #[test]
    fn an_unknown_required_part_is_refused() {
        let known = Parts::default().with(1, &1_u64);
        assert_eq!(read(&known.with(9, &"new")), Err(PartsError::Unknown(9)));
    }

    #[test]
    fn parts_that_no_host_writes_are_malformed() {
        let malformed = |result: Result<Parts, PartsError>| matches!(result, Err(PartsError::Malformed(_)));
        let twice = Parts::default().with(1, &1_u64).with(1, &2_u64);
        assert!(malformed(read(&twice)));
        let bytes = Parts::default().with(1, &1_u64).append_to(Vec::new());
        assert!(malformed(Parts::read(&[&bytes[..], &[0]].concat(), &KNOWN)));
        assert!((0..bytes.len()).all(|end| malformed(Parts::read(&bytes[..end], &KNOWN))));
        // A list that claims more parts than it has.
        assert!(malformed(Parts::read(&[0xff, 0xff, 0xff, 0xff, 0x0f], &KNOWN)));
        let long = read(&Parts::default().with(1, &(1_u64, 2_u64))).expect("readable");
        assert_eq!(long.get::<u64>(1), Err(PartsError::Malformed("its part of kind 1: 1 bytes follow its end".into())));
    }
}
