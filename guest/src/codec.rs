//! Users' bytes to transactions, and replies to bytes.
//!
//! [`Json`] serves every type that derives `Deserialize` or `Serialize`. [`Raw`] hands bytes through. A workload with
//! another format implements [`Decode`] and [`Encode`] on a type of its own and names it as its `Codec`.
//!
//! A codec knows nothing of state: what follows from an undecodable transaction is decided in
//! [`dispatch`](crate::dispatch).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::NoQuery;

mod example;
pub(crate) mod reason;

/// The longest reason why a body is no JSON of its type, without the examples, in characters.
const JSON_REASON_MAX_CHARS: usize = 250;

/// Turns bytes of a user into a `T`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot decode `{T}`",
    note = "for JSON, derive `serde::Deserialize` on `{T}`; for bytes as they are, write `type Codec = Raw;` and take `Vec<u8>` or `String`"
)]
pub trait Decode<T> {
    /// Reads the whole of `bytes` as one `T`.
    ///
    /// # Errors
    /// Why not. The user sees it behind "cannot decode the transaction: ", on one line and shortened.
    fn decode(bytes: &[u8]) -> Result<T, String>;
}

/// Turns a `T` into bytes for a user.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot encode `{T}`",
    note = "for JSON, derive `serde::Serialize` on `{T}`; for bytes as they are, write `type Codec = Raw;` and answer `Vec<u8>` or `String`"
)]
pub trait Encode<T> {
    /// Writes `value` whole.
    ///
    /// # Errors
    /// Why not. A reply that cannot be encoded fails its transaction, since the state has changed by then.
    fn encode(value: &T) -> Result<Vec<u8>, String>;
}

/// JSON both ways, by `serde_json`. Without settings: unknown fields are ignored unless a type denies them.
///
/// The user of a wrong body reads what is wrong, where, and a body that is right, such as `{"add":1}`. The example is made
/// from the type. These have none:
///
/// - types that do not say what they want: untagged or internally tagged enums, variants of adjacently tagged enums with
///   fields or several values, and structs with a flattened field;
/// - types that refuse the sample: `1`, `1.5`, `true`, `"a"` and `"text"`, such as a date in a text;
/// - maps whose keys JSON cannot write, such as pairs;
/// - bodies longer than 300 bytes, or more than 8 lists and objects deep, and values of more than 8 newtypes;
/// - structs with more than 8 aliases of fields.
///
/// Where nothing in the body names a variant of an enum, the first 16 variants are shown as far as 300 bytes have room. Of
/// an adjacently tagged enum that is itself renamed (`rename` on the enum), the first variant alone is shown.
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

/// What is wrong with a body, and what a right one looks like.
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

/// Bytes as they are, both ways, as `Vec<u8>` or as UTF-8 `String`.
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
