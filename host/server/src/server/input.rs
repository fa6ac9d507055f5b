//! Query parameters and JSON from clients, with error messages in the terms of the API.

use super::problem::Problem;
use axum::extract::RawQuery;
use lifeboat_api::text::Printable;
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// The type that a handler extracts to read its [`parameters`].
pub(super) type Parameters = RawQuery;

/// Returns the query parameters. Each must be one of `names`, and may be present once.
pub(super) fn parameters(given: Parameters, names: &[&str]) -> Result<BTreeMap<String, String>, Problem> {
    let wrong = |reason: String| Problem::bad_request("query", reason);
    let RawQuery(given) = given;
    // As forms are encoded, but strictly: other text in place of bytes that are not UTF-8 could name another file.
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8().map(|text| text.into_owned());
        decoded
            .map_err(|_| wrong("the query has percent-encoded bytes that are not UTF-8; encode text as UTF-8".into()))
    };
    let mut parameters = BTreeMap::new();
    for pair in given.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if !names.contains(&&*name) {
            let (name, names) = (Printable(&name), names.join(", "));
            return Err(wrong(format!("there is no parameter '{name}'; the parameters are: {names}")));
        }
        if parameters.contains_key(&name) {
            return Err(wrong(format!("the parameter '{name}' is given more than once; give it once")));
        }
        parameters.insert(name, value);
    }
    Ok(parameters)
}

/// Creates the problem of a parameter with an invalid value.
pub(super) fn wrong_parameter(name: &str, value: &str, expected: impl std::fmt::Display) -> Problem {
    let value = Printable(value);
    Problem::bad_request("query", format!("the parameter '{name}' is '{value}'; it must be {expected}"))
}

/// Parses a JSON body of this type.
pub(super) fn json<T: DeserializeOwned + JsonSchema>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|_| Problem::bad_request("not_the_shape", reason::<T>(bytes)))
}

/// Returns why a body is not of this type. The text shows no values, since they may be passwords.
fn reason<T: JsonSchema>(bytes: &[u8]) -> String {
    let schema = schemars::schema_for!(T);
    let none = serde_json::Map::new();
    let fields = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let required: Vec<&str> = required.iter().filter_map(Value::as_str).collect();
    let described = fields.iter().map(|(name, schema)| {
        let may_lack = if required.contains(&&**name) { "" } else { ", may be left out" };
        format!("\"{name}\" ({}{may_lack})", expected(schema))
    });
    let remedy = format!("send a JSON object with {}", described.collect::<Vec<_>>().join(", "));
    let what = match serde_json::from_slice(bytes) {
        Err(_) if bytes.is_empty() => "is empty".into(),
        Err(error) if error.is_eof() => "is incomplete JSON: it ends too early".into(),
        Err(error) => format!("is not valid JSON from line {}, column {} on", error.line(), error.column()),
        Ok(Value::Object(given)) => {
            let unknown = given.keys().find(|name| !fields.contains_key(*name));
            let missing = required.iter().find(|name| !given.contains_key(**name));
            let wrong = given.iter().find_map(|(name, value)| {
                let schema = fields.get(name)?;
                (!may_be(schema, value)).then(|| (name, type_of(value), expected(schema)))
            });
            match (unknown, missing, wrong) {
                (Some(name), ..) => format!("has an unknown field '{}'", Printable(name)),
                (_, Some(name), _) => format!("lacks the field '{name}'"),
                (_, _, Some((name, found, expected))) => {
                    format!("has a field '{name}' of type {found}, which must be {expected}")
                }
                _ => match given.iter().find(|(_, value)| value.is_number()) {
                    Some((name, _)) => format!("has a number '{name}' that is out of range, or a field more than once"),
                    None => "has a field more than once".into(),
                },
            }
        }
        Ok(value) => format!("is JSON of type {}", type_of(&value)),
    };
    format!("the body {what}; {remedy}")
}

/// Returns the types that a schema allows.
fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Returns whether a value has a type that a schema allows. A schema without a type refers to another one, of an object.
fn may_be(schema: &Value, value: &Value) -> bool {
    let types = types(schema);
    let of_value = if value.is_u64() || value.is_i64() { "integer" } else { type_of(value) };
    match types.is_empty() {
        true => matches!(value, Value::Object(_) | Value::Null),
        false => types.contains(&of_value) || types.contains(&type_of(value)),
    }
}

fn expected(schema: &Value) -> &'static str {
    match types(schema) {
        types if types.contains(&"boolean") => "true or false",
        types if types.contains(&"integer") => "a whole number",
        types if types.is_empty() => "an object",
        _ => "a string",
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::http::{DropRequest, NewUser, SettleRequest};

    #[test]
    fn errors_in_a_body_are_put_in_words_of_the_api() {
        let of_drop = "; send a JSON object with \"id\" (a string, may be left out), \"user\" (a string)";
        for (body, what) in [
            ("", "is empty"),
            ("{\"user\":\"ada\"", "is incomplete JSON: it ends too early"),
            ("{user}", "is not valid JSON from line 1, column 2 on"),
            ("[1]", "is JSON of type array"),
            ("{\"user\":\"ada\",\"usr\":1}", "has an unknown field 'usr'"),
            ("{\"id\":\"1\"}", "lacks the field 'user'"),
            ("{\"user\":7}", "has a field 'user' of type number, which must be a string"),
            ("{\"user\":\"ada\",\"user\":\"bob\"}", "has a field more than once"),
        ] {
            assert_eq!(reason::<DropRequest>(body.as_bytes()), format!("the body {what}{of_drop}"));
        }
        for (body, what) in [
            ("{\"id\":\"t\",\"index\":\"0\"}", "has a field 'index' of type string, which must be a whole number"),
            ("{\"id\":\"t\",\"index\":-1}", "has a number 'index' that is out of range, or a field more than once"),
            (
                "{\"id\":\"t\",\"index\":0,\"answered\":200}",
                "has a field 'answered' of type number, which must be an object",
            ),
        ] {
            let printed = reason::<SettleRequest>(body.as_bytes());
            assert!(printed.starts_with(&format!("the body {what};")), "{printed}");
        }
        let printed = reason::<NewUser>(b"{\"user\":\"ada\",\"password\":\"secret\",\"is_admin\":1}");
        assert!(printed.contains("'is_admin' of type number, which must be true or false;"), "{printed}");
        assert!(!printed.contains("secret"));
    }

    fn given(query: &str) -> Result<BTreeMap<String, String>, Problem> {
        parameters(RawQuery(Some(query.to_owned())), &["size", "fuel"])
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_those_that_there_are() {
        assert_eq!(given("fuel=1").expect("right")["fuel"], "1");
        let refused = format!("{:?}", given("sice=s").expect_err("wrong"));
        assert!(refused.contains("there is no parameter 'sice'; the parameters are: size, fuel"), "{refused}");
    }

    #[test]
    fn a_parameter_that_is_given_twice_is_refused() {
        assert!(given("fuel=1&fuel=1").is_err());
    }

    #[test]
    fn parameters_are_decoded_as_those_of_forms() {
        let decoded = given("size=a+b%2Bc%3D%c3%a9=d&&fuel").expect("right");
        assert_eq!((&*decoded["size"], &*decoded["fuel"]), ("a b+c=\u{e9}=d", ""));
        assert!(parameters(RawQuery(None), &[]).expect("none").is_empty());
        for query in ["size=%ff", "size=a%c3", "%ff=a"] {
            let refused = format!("{:?}", given(query).expect_err("not UTF-8"));
            assert!(refused.contains("percent-encoded bytes that are not UTF-8"), "{refused}");
        }
    }
}
