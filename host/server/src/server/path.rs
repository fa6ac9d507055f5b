//! Parameters of paths: what each may be is described and checked here, for every route that has it.

use super::problem::Problem;
use lifeboat_api::access::Grant;
use lifeboat_api::name::{NAME_PATTERN, Name};
use lifeboat_api::transaction::ID_PATTERN;
use serde_json::{Value, json};

/// Describes a parameter by the name that it has in a path: what it means, and its schema.
pub(super) fn described(name: &str) -> (&'static str, Value) {
    match name {
        "grant" => ("what the user may do", json!({ "type": "string", "enum": Grant::ALL.map(Grant::word) })),
        "id" => ("the transaction's id", json!({ "type": "string", "pattern": ID_PATTERN })),
        "user" => ("the user's name", name_schema()),
        _ => ("the service's name", name_schema()),
    }
}

/// Checks a parameter against its schema.
///
/// # Errors
/// 400, with what it must be.
pub(super) fn check(name: &str, value: &str) -> Result<(), Problem> {
    match name {
        "grant" => grant(value).map(drop),
        // Earlier releases took other characters: where there is an answer it is told, else the service refuses the id.
        "id" => Ok(()),
        _ => Name::check(value).map_err(not_a_name),
    }
}

/// What a name is.
pub(super) fn name_schema() -> Value {
    json!({ "type": "string", "pattern": NAME_PATTERN })
}

/// A name.
pub(super) fn name(text: &str) -> Result<Name, Problem> {
    Name::new(text).map_err(not_a_name)
}

/// A grant, by its word.
pub(super) fn grant(word: &str) -> Result<Grant, Problem> {
    word.parse().map_err(|reason: String| Problem::bad_request("not_a_grant", reason))
}

fn not_a_name(reason: String) -> Problem {
    Problem::bad_request("not_a_name", reason)
}
