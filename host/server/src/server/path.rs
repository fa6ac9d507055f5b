//! Path parameters. They are described here for all routes, and checked, except ids, which the services check.

use super::problem::Problem;
use lifeboat_api::access::Grant;
use lifeboat_api::name::{NAME_PATTERN, Name};
use lifeboat_api::transaction::ID_PATTERN;
use serde_json::{Value, json};

/// Returns the meaning and the schema of the path parameter `name`.
pub(super) fn described(name: &str) -> (&'static str, Value) {
    match name {
        "grant" => ("the access that the user gets", json!({ "type": "string", "enum": Grant::ALL.map(Grant::word) })),
        "id" => ("the transaction's id", json!({ "type": "string", "pattern": ID_PATTERN })),
        "user" => ("the user's name", name_schema()),
        _ => ("the service's name", name_schema()),
    }
}

/// Checks a path parameter other than an id against its schema.
///
/// # Errors
/// 400, with a description of a valid value.
pub(super) fn check(name: &str, value: &str) -> Result<(), Problem> {
    match name {
        "grant" => grant(value).map(drop),
        // Earlier releases accepted other characters. An existing answer is returned; otherwise the service rejects the
        // id.
        "id" => Ok(()),
        _ => Name::check(value).map_err(not_a_name),
    }
}

/// Returns the schema of a name.
pub(super) fn name_schema() -> Value {
    json!({ "type": "string", "pattern": NAME_PATTERN })
}

pub(super) fn name(text: &str) -> Result<Name, Problem> {
    Name::new(text).map_err(not_a_name)
}

/// Parses a grant from its word.
pub(super) fn grant(word: &str) -> Result<Grant, Problem> {
    word.parse().map_err(|reason: String| Problem::bad_request("not_a_grant", reason))
}

fn not_a_name(reason: String) -> Problem {
    Problem::bad_request("not_a_name", reason)
}
