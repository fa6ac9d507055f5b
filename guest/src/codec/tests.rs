use serde::Deserialize;

use super::*;

fn refused<T: DeserializeOwned>(body: &[u8]) -> String {
    let decoded: Result<T, String> = Json::decode(body);
    decoded.err().expect("it is wrong")
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by serde alone")]
struct Age {
    #[serde(deserialize_with = "age")]
    age: u8,
}

fn age<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let age = u8::deserialize(deserializer)?;
    if age < 100 { Ok(age) } else { Err(serde::de::Error::custom("too old ".repeat(500))) }
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
#[expect(dead_code, reason = "read by serde alone")]
enum Tagged {
    Get { name: String },
}

#[test]
fn reason_for_wrong_json_ends_with_a_valid_body() {
    assert_eq!(
        refused::<Age>(b"{\"age\":-1}"),
        "line 1, column 9: the number -1 is given, a whole number from 0 to 255 is needed: \
         send a body such as {\"age\":1}"
    );
}

#[test]
fn long_reason_of_a_type_leaves_room_for_the_right_body() {
    let reason = refused::<Age>(b"{\"age\":100}");
    assert!(reason.starts_with("line 1, column 11: too old "), "{reason}");
    assert!(reason.ends_with("...: send a body such as {\"age\":1}") && reason.len() < 300, "{reason}");
}

#[test]
fn type_without_an_example_is_answered_with_a_remedy_too() {
    assert_eq!(
        refused::<Tagged>(b"{\"kind\":\"Get\"}"),
        "the field `name` is missing: send JSON of the form that the workload documents"
    );
}

#[test]
fn workload_without_queries_names_no_body() {
    assert_eq!(refused::<NoQuery>(b"{}"), NoQuery::REASON);
}
