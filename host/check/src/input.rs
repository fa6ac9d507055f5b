//! The transactions and queries of a check.

use crate::kind::Kind as Bug;
use bytes::Bytes;
use lifeboat_api::lines::{ENVELOPE_BYTES_MAX, Line, parse_envelope, plain};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{BODY_BYTES_MAX, Kind, Request};
use std::collections::BTreeSet;
use thiserror::Error;

/// A transaction of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The number of its line, from 1.
    pub line: u64,
    /// Its id.
    pub id: String,
    /// The user who sends it.
    pub user: Name,
    /// What the guest receives.
    pub body: Bytes,
}

/// The transactions and queries of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// The transactions, in order. No two have the same user and id.
    pub transactions: Vec<Transaction>,
    /// The queries, with their users. Each is asked at each boundary between two transactions.
    pub queries: Vec<(Name, Bytes)>,
    /// The kinds of bugs that are no findings of this workload.
    pub allowed: BTreeSet<Bug>,
}

/// A line that is neither a transaction nor a query.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InputError(String);

impl Input {
    /// Reads lines as `lifeboat run` does: each is the body of a transaction, or, with `is_envelope`, an envelope.
    /// `user` sends what names no user. A repetition of an id is left out, as the host answers it without the guest. A
    /// query in an envelope is asked at each boundary.
    ///
    /// # Errors
    /// A line is too long or is not an envelope.
    pub fn read(text: &[u8], is_envelope: bool, user: &Name) -> Result<Self, InputError> {
        let mut input = Self::default();
        let mut seen = BTreeSet::new();
        let bytes_max = if is_envelope { ENVELOPE_BYTES_MAX } else { BODY_BYTES_MAX };
        let mut lines = text.split(|byte| *byte == b'\n').collect::<Vec<_>>();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        for (number, bytes) in (1..).zip(lines) {
            let bytes = if bytes.len() > bytes_max { Err(bytes.len()) } else { Ok(bytes.to_vec()) };
            let line = Line { number, bytes };
            let parsed = if is_envelope { parse_envelope(line, user) } else { plain(line, user) };
            let (user, Request { id, body, kind }) = parsed.map_err(|(_, denied)| InputError(denied.to_string()))?;
            match kind {
                Kind::Query => input.add_query(user, body),
                Kind::Transaction => {
                    let id = id.unwrap_or_else(|| format!("line-{number}"));
                    if seen.insert((user.clone(), id.clone())) {
                        input.transactions.push(Transaction { line: number, id, user, body });
                    }
                }
            }
        }
        Ok(input)
    }

    /// Returns transactions with these bodies, for tests.
    #[must_use]
    pub fn of_bodies<B: AsRef<[u8]>>(bodies: impl IntoIterator<Item = B>) -> Self {
        let transaction = |(line, body): (u64, B)| Transaction {
            line,
            id: format!("line-{line}"),
            user: default_user(),
            body: Bytes::copy_from_slice(body.as_ref()),
        };
        Self { transactions: (1..).zip(bodies).map(transaction).collect(), ..Self::default() }
    }

    /// Adds queries with these bodies.
    #[must_use]
    pub fn with_queries<B: AsRef<[u8]>>(mut self, bodies: impl IntoIterator<Item = B>) -> Self {
        for body in bodies {
            self.add_query(default_user(), Bytes::copy_from_slice(body.as_ref()));
        }
        self
    }

    /// Allows kinds of bugs: the report has them apart from the findings.
    #[must_use]
    pub fn allowing(mut self, kinds: impl IntoIterator<Item = Bug>) -> Self {
        self.allowed.extend(kinds);
        self
    }

    /// Adds a query, unless there is the same already.
    pub fn add_query(&mut self, user: Name, body: Bytes) {
        let query = (user, body);
        if !self.queries.contains(&query) {
            self.queries.push(query);
        }
    }
}

/// Returns the user of what names no user.
#[must_use]
pub fn default_user() -> Name {
    Name::new("operator").expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_read_as_run_reads_them() {
        let text = br#"{"id":"a","json":1}
{"query":true,"text":"q"}
{"id":"a","json":2}
{"user":"bob","id":"a","json":3}
{"text":"x"}
{"query":true,"text":"q"}"#;
        let input = Input::read(text, true, &default_user()).expect("valid");
        let found: Vec<_> = input.transactions.iter().map(|it| (it.line, it.id.as_str(), &it.body[..])).collect();
        assert_eq!(found, [(1, "a", &b"1"[..]), (4, "a", b"3"), (5, "line-5", b"x")]);
        assert_eq!(input.queries, [(default_user(), Bytes::from_static(b"q"))]);
        let error = Input::read(b"{}\n", true, &default_user()).expect_err("no envelope");
        assert!(error.to_string().starts_with("line 1 is not an envelope"), "{error}");
    }

    #[test]
    fn lines_are_bodies_byte_for_byte() {
        let input = Input::read(b"a\n\n\xff", false, &default_user()).expect("valid");
        let bodies: Vec<&[u8]> = input.transactions.iter().map(|it| &it.body[..]).collect();
        assert_eq!(bodies, [&b"a"[..], b"", b"\xff"]);
    }
}
