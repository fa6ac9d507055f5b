//! The conversion of users' bytes to transactions, and of replies to bytes.
//!
//! [`Json`] serves every type that derives `Deserialize` or `Serialize`. [`Raw`] passes bytes through. A workload with
//! another format implements [`Decode`] and [`Encode`] on its own type and names that type as its `Codec`.
//!
//! A codec knows nothing about state: [`dispatch`](crate::dispatch) decides what follows from an undecodable
//! transaction.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::NoQuery;

mod example;
pub(crate) mod reason;

/// The longest reason for rejecting a JSON body, without the examples, in characters.
const JSON_REASON_MAX_CHARS: usize = 250;

/// Converts a user's bytes to a `T`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot decode `{T}`",
    note = "for JSON, derive `serde::Deserialize` on `{T}`; for bytes as they are, write `type Codec = Raw;` and take `Vec<u8>` or `String`"
)]
pub trait Decode<T> {
    /// Decodes all of `bytes` as one `T`.
    ///
    /// # Errors
    /// The reason. The user sees it after "cannot decode the transaction: ", on one line and shortened.
    fn decode(bytes: &[u8]) -> Result<T, String>;
}

/// Converts a `T` to bytes for a user.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot encode `{T}`",
    note = "for JSON, derive `serde::Serialize` on `{T}`; for bytes as they are, write `type Codec = Raw;` and answer `Vec<u8>` or `String`"
)]
pub trait Encode<T> {
    /// Encodes all of `value`.
    ///
    /// # Errors
    /// The reason. A reply that cannot be encoded fails its transaction, since the state has changed by then.
    fn encode(value: &T) -> Result<Vec<u8>, String>;
}

/// JSON in both directions, by `serde_json` without settings: unknown fields are ignored unless a type denies them.
///
/// For a wrong body, the user reads the error, its place, and a valid body such as `{"add":1}`. The example is
/// generated from the type. These have no example:
///
/// - types that do not request a specific value: untagged or internally tagged enums, structs with a flattened field,
///   and variants of adjacently tagged enums with fields or several values;
/// - types that refuse the samples `1`, `1.5`, `true`, `"a"` and `"text"`, such as a date in a text;
/// - maps whose keys JSON cannot represent, such as pairs;
/// - bodies longer than 300 bytes, or more than 8 lists and objects deep, and values inside more than 8 newtypes;
/// - structs with more than 8 aliases of fields.
///
/// If nothing in the body names a variant of an enum, the first 16 variants are shown, as far as they fit in 300 bytes.
/// For an adjacently tagged enum that is itself renamed (`rename` on the enum), only the first variant is shown.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(bytes: &[u8]) -> Result<T, String> {
        serde_json::from_slice(bytes).map_err(|error| wrong_body::<T>(&error, bytes))
    }
}

impl<T: Serialize> Encode<T> for Json {
    fn encode(value: &T) -> Result<Vec<u8>, String> {
        serde_json::to_vec(value).map_err(|error| error.to_string())
    }
}

/// Returns the error of a body, with examples of valid bodies.
#[cold]
fn wrong_body<T: DeserializeOwned>(error: &serde_json::Error, body: &[u8]) -> String {
    explained(error, body, &example::examples::<T>(body))
}

fn explained(error: &serde_json::Error, body: &[u8], examples: &str) -> String {
    let reason = reason::shortened(&reason::reason(error, body), JSON_REASON_MAX_CHARS, "...");
    let (remedy, examples) = match examples {
        "" if reason == NoQuery::REASON => return reason,
        "" => (": send JSON of the form that the workload documents", ""),
        _ => (": send a body such as ", examples),
    };
    reason::joined(&[&reason, remedy, examples])
}

/// Unchanged bytes in both directions, as `Vec<u8>` or as UTF-8 `String`.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Decode<Vec<u8>> for Raw {
    fn decode(bytes: &[u8]) -> Result<Vec<u8>, String> {
        Ok(bytes.to_vec())
    }
}

impl Decode<String> for Raw {
    fn decode(bytes: &[u8]) -> Result<String, String> {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| format!("byte {} is not UTF-8: send text in UTF-8", error.valid_up_to() + 1))
    }
}

impl Decode<NoQuery> for Raw {
    fn decode(_: &[u8]) -> Result<NoQuery, String> {
        Err(NoQuery::REASON.to_owned())
    }
}

impl Encode<Vec<u8>> for Raw {
    fn encode(value: &Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(value.clone())
    }
}

impl Encode<String> for Raw {
    fn encode(value: &String) -> Result<Vec<u8>, String> {
        Ok(value.as_bytes().to_vec())
    }
}

impl Encode<NoQuery> for Raw {
    fn encode(value: &NoQuery) -> Result<Vec<u8>, String> {
        match *value {}
    }
}

#[cfg(test)]
mod tests;
