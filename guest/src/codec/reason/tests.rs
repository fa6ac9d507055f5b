use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by serde alone")]
struct Add {
    add: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code, reason = "read by serde alone")]
enum Request {
    Stop,
    Set { to: u8, by: Option<bool> },
    Pair(u8, u8),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[track_caller]
fn of<T: DeserializeOwned + std::fmt::Debug>(body: &[u8]) -> String {
    reason(&serde_json::from_slice::<T>(body).expect_err("it is wrong"), body)
}

#[test]
fn value_of_another_type_is_named_with_what_is_needed() {
    let whole = "a whole number from -9223372036854775808 to 9223372036854775807 is needed";
    for (value, given) in [
        (r#""x""#, "the text \"x\""),
        ("1.5", "the number 1.5"),
        ("9223372036854775808", "the number 9223372036854775808"),
        ("true", "true"),
        ("null", "null"),
    ] {
        let reason = of::<Add>(format!("{{\"add\":{value}}}").as_bytes());
        assert_eq!(reason, format!("line 1, column {}: {given} is given, {whole}", 7 + value.len()), "{value}");
    }
    assert_eq!(of::<Add>(b"{\"add\":[]}"), format!("line 1, column 8: a list is given, {whole}"));
    assert_eq!(of::<Add>(b"{\"add\":\n {}}"), format!("line 2, column 2: an object is given, {whole}"));
    assert_eq!(of::<Add>(b"5"), "line 1, column 1: the number 5 is given, an object is needed");
}

#[test]
fn range_of_every_integer_is_that_of_its_type() {
    macro_rules! check {
        ($($type:ident)*) => {$(
            let range = format!("a whole number from {} to {} is needed", $type::MIN, $type::MAX);
            let reason = of::<$type>(b"null");
            assert!(reason.ends_with(&range), "{reason}");
        )*};
    }
    check!(i8 i16 i32 i64 u8 u16 u32 u64);
    let reason = of::<std::num::NonZeroU8>(b"0");
    assert_eq!(reason, "line 1, column 1: the number 0 is given, a whole number from 0 to 255 except 0 is needed");
}

#[test]
fn types_are_called_what_a_user_writes() {
    assert_eq!(of::<String>(b"5"), "line 1, column 1: the number 5 is given, a text is needed");
    assert_eq!(of::<char>(b"\"ab\""), "line 1, column 4: the text \"ab\" is given, a text of one character is needed");
    assert_eq!(of::<bool>(b"1"), "line 1, column 1: the number 1 is given, `true` or `false` is needed");
    assert_eq!(of::<f32>(b"\"\""), "line 1, column 2: the text \"\" is given, a number is needed");
    assert_eq!(of::<()>(b"0"), "line 1, column 1: the number 0 is given, `null` is needed");
    assert_eq!(of::<Vec<u8>>(b"{}"), "line 1, column 1: an object is given, a list is needed");
    assert_eq!(of::<(u8, u8)>(b"[1]"), "line 1, column 3: a list of 1 is given, a list of 2 is needed");
    assert_eq!(of::<[u8; 2]>(b"5"), "line 1, column 1: the number 5 is given, a list of 2 is needed");
}

#[test]
fn fields_that_are_unknown_missing_or_there_twice_are_named() {
    assert_eq!(of::<Add>(b"{\"ad\":1}"), "line 1, column 5: there is no field `ad`, only `add`");
    assert_eq!(of::<Add>(b"{}"), "line 1, column 2: the field `add` is missing");
    assert_eq!(of::<Add>(b"{\"add\":1,\"add\":2}"), "line 1, column 14: the field `add` is there twice");
    let set = of::<Request>(b"{\"set\":{\"to\":1,\"at\":3}}");
    assert_eq!(set, "line 1, column 19: there is no field `at`, only `to` or `by`");
    assert_eq!(of::<Nothing>(b"{\"a\":1}"), "line 1, column 4: there is no field `a`");
}

#[test]
fn unknown_name_is_answered_with_the_known_ones() {
    for (body, column) in [("\"go\"", 4), ("{\"go\":1}", 5)] {
        let reason = of::<Request>(body.as_bytes());
        assert_eq!(reason, format!("line 1, column {column}: there is no `go`, only `stop`, `set`, `pair`"));
    }
}

#[test]
fn value_that_is_no_enum_is_answered_with_the_forms_of_one() {
    for (body, reason) in [
        ("5", "line 1, column 1: a number is given, an object or a text is needed"),
        ("[]", "line 1, column 1: a list is given, an object or a text is needed"),
        ("null", "line 1, column 1: an object or a text is needed"),
        ("\"set\"", "a name alone is given, an object is needed"),
        ("\"pair\"", "a name alone is given, an object is needed"),
        ("{\"stop\":1}", "line 1, column 9: the number 1 is given, `null` is needed"),
        ("{\"pair\":{}}", "line 1, column 9: an object is given, a list is needed"),
        ("{\"stop\":null,\"x\":1}", "line 1, column 12: nothing more may follow"),
        ("{}", "line 1, column 2: `}` is not allowed here"),
    ] {
        assert_eq!(of::<Request>(body.as_bytes()), reason, "{body}");
    }
}

#[test]
fn body_that_is_no_json_is_answered_with_the_place_where_it_stops_being() {
    for (body, reason) in [
        (&b""[..], "the body is empty"),
        (b" \n", "the body is empty"),
        (b"x", "line 1, column 1: `x` is not allowed here"),
        (b"\xff", "line 1, column 1: no value begins here"),
        (b"{", "line 1, column 1: the body ends before its JSON does"),
        (b"{\"add\" 1}", "line 1, column 8: `:` is needed"),
        (b"{\"add\":1 1}", "line 1, column 10: `,` or `}` is needed"),
        (b"{\"add\":1,}", "line 1, column 10: nothing follows the comma"),
        (b"{1:2}", "line 1, column 2: a name in quotes is needed"),
        (b"{\"add\":1} 2", "line 1, column 11: nothing more may follow"),
        (b"{\"add\":1e400}", "line 1, column 12: the number is too large"),
    ] {
        assert_eq!(of::<Add>(body), reason, "{}", body.escape_ascii());
    }
    assert_eq!(of::<String>(b"\"\xff\""), "line 1, column 2: the text is not UTF-8");
    let nested = of::<serde_json::Value>("[".repeat(1000).as_bytes());
    assert_eq!(nested, "line 1, column 128: the values are nested too deeply");
}

#[test]
fn long_quotations_are_cut_before_the_expectation() {
    let long = "é".repeat(1000);
    let text = of::<Add>(format!("{{\"add\":\"{long}, expected \"}}").as_bytes());
    assert!(
        text.ends_with("é...\" is given, a whole number from -9223372036854775808 to 9223372036854775807 is needed")
    );
    let field = of::<Add>(format!("{{\"{long}\":1}}").as_bytes());
    assert!(field.ends_with("é...`, only `add`"), "{field}");
}

#[test]
fn line_is_found_by_its_beginning_alone() {
    let body = format!("[1,\n2,{}\n[3", " ".repeat(1_000_000));
    // The argument of `line_start` is all that it can read.
    assert_eq!(line_start(&body.as_bytes()[..4], 2), Some(4));
    assert_eq!(around(body.as_bytes(), 2, 1), *b"2,");
    assert_eq!(around(body.as_bytes(), 3, 1), [0; 2], "it begins too far behind");
    let one_line = format!("{}[", " ".repeat(1_000_000));
    assert_eq!(around(one_line.as_bytes(), 1, 1_000_001), *b"[\0", "no line is searched for");
    assert_eq!(around(b"1\n", 2, 0), *b"\n\0");
}

#[test]
fn place_in_a_line_far_behind_is_answered_without_what_is_there() {
    let lines = "\n".repeat(LINES_WITHIN_BYTES);
    assert_eq!(of::<Request>(format!("{}5", &lines[1..]).as_bytes()), {
        let line = LINES_WITHIN_BYTES;
        format!("line {line}, column 1: a number is given, an object or a text is needed")
    });
    assert_eq!(of::<Request>(format!("{lines}\n5").as_bytes()), {
        let line = LINES_WITHIN_BYTES + 2;
        format!("line {line}, column 1: another value is needed")
    });
}

#[test]
fn long_whitespace_is_answered_as_an_end_without_a_search() {
    assert_eq!(of::<Add>(" ".repeat(EMPTY_WITHIN_BYTES).as_bytes()), "the body is empty");
    let longer = of::<Add>(" ".repeat(EMPTY_WITHIN_BYTES + 1).as_bytes());
    assert!(longer.ends_with(": the body ends before its JSON does"), "{longer}");
}

#[test]
fn parts_of_an_error_are_searched_for_at_its_end_alone() {
    let long = "a".repeat(PARTS_WITHIN_BYTES);
    assert_eq!(halves(&format!("{long}, b"), ", "), Some((&*long, "b")));
    assert_eq!(halves(&format!("b, {long}"), ", "), None);
    let unknown = of::<Nothing>(format!("{{\"{long}\":1}}").as_bytes());
    assert!(unknown.contains(": there is no field `aaaa") && unknown.ends_with("a...`"), "{unknown}");
}

#[test]
fn reason_of_a_type_of_its_own_is_passed_on() {
    let reason = reason(&serde::de::Error::custom("13 is unlucky"), b"13");
    assert_eq!(reason, "13 is unlucky");
}

proptest::proptest! {
    #[test]
    fn noise_is_answered_in_few_words(body in r#"[\{\}\[\]",:0-9.e\\a-z é\n-]{0,40}|\{"(set|pair|stop)":[\{\[]"(to|by|é)":.{0,20}"#) {
        if let Err(error) = serde_json::from_str::<Request>(&body) {
            let reason = reason(&error, body.as_bytes());
            assert!(!reason.is_empty() && reason.chars().count() < 250, "{reason}");
        }
    }
}
