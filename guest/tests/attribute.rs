//! The inputs that `#[workload]` accepts, and its error messages for the rest.
//!
//! Only the attribute's own messages are pinned, since they do not change with the compiler. After a change of wording,
//! run `TRYBUILD=overwrite cargo test -p lifeboat-guest --test attribute`, then read the difference.

#[test]
fn attribute_completes_or_explains() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}

#[test]
fn counter_is_under_fifteen_lines() {
    let counter = include_str!("pass/counter.rs");
    let (workload, _) = counter.split_once("\nfn main").expect("the workload comes first");
    assert!(workload.trim_end().lines().count() < 15, "{workload}");
}
