//! Input that is not valid: a guest refuses it, and does not trap.

use super::Check;
use crate::input::Transaction;
use crate::kind::Kind;
use crate::lab::{Setting, is_exit, is_trap};
use crate::report::Finding;
use crate::trace::Trace;
use bytes::Bytes;
use lifeboat_api::transaction::{Answer, Outcome};
use lifeboat_vm::instance::MoveError;
use lifeboat_vm::snapshot::Snapshot;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The length of the longest input that is tried.
const LONG_BODY_BYTES: usize = 1 << 20;

/// The levels of the deepest input that is tried.
const BODY_LEVELS: usize = 10_000;

/// The most transactions from which wrong ones are made.
const SAMPLES_MAX: usize = 4;

/// The most bodies that are made by leaving out a field.
const FIELDS_LEFT_OUT_MAX: usize = 64;

impl Check<'_> {
    /// Sends wrong bodies to the guest in the last state of a run.
    pub(super) async fn check_inputs(
        &mut self,
        plain: &Trace,
        place: usize,
        last: &Arc<Snapshot>,
    ) -> Result<(), MoveError> {
        let (samples, user) = self.samples(plain);
        let wrong = wrong_bodies(&samples);
        let count = wrong.len();
        let mut instance = self.lab().restored(last).await?;
        if let Some(sample) = samples.first() {
            let sample = Transaction { line: 0, id: "right".into(), user: user.clone(), body: sample.clone() };
            let attempt = self.lab().execute(&mut instance, Setting::default(), place + 1, &sample).await;
            if !attempt.answer.is_kept() {
                self.report
                    .unchecked
                    .push("wrong input: in the last state, a transaction fails that was ok before".into());
                return Ok(());
            }
        }
        for (index, (what, body)) in wrong.into_iter().enumerate() {
            self.progress("wrong input", index, count);
            for is_query in [false, true] {
                let lab = self.lab();
                let answer = if is_query {
                    lab.query(&mut instance, Setting::default(), place, (&user, &body)).await.answer
                } else {
                    let id = format!("wrong-{index}");
                    let transaction = Transaction { line: 0, id, user: user.clone(), body: body.clone() };
                    lab.execute(&mut instance, Setting::default(), place + 1, &transaction).await.answer
                };
                instance.take_log();
                if is_trap(&answer)
                    && let Answer::Failed(cause) = &answer
                {
                    let call = if is_query { "query" } else { "transaction" };
                    let text = format!("a {call} of {what} ends with {}", cause.detailed());
                    let kind = if is_exit(cause) { Kind::Exits } else { Kind::TrapsOnInput };
                    self.report.add(Finding::new(kind, text));
                    return Ok(());
                }
                if instance.is_dead() {
                    instance = self.lab().restored(last).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns the bodies of transactions that were answered, no two alike in their shape, and the user of the first.
    fn samples(&self, plain: &Trace) -> (Vec<Bytes>, lifeboat_api::name::Name) {
        let mut shapes = BTreeSet::new();
        let mut samples = Vec::new();
        let mut user = crate::input::default_user();
        for (place, ran) in plain.all() {
            let transaction = &self.session.input.transactions[place - 1];
            if ran.seen.outcome == Outcome::Ok && samples.len() < SAMPLES_MAX && shapes.insert(shape(&transaction.body))
            {
                if samples.is_empty() {
                    user = transaction.user.clone();
                }
                samples.push(transaction.body.clone());
            }
        }
        (samples, user)
    }
}

/// Returns the first key of a JSON object, or an empty text.
fn shape(body: &[u8]) -> String {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

/// Returns wrong bodies, and what each is.
fn wrong_bodies(samples: &[Bytes]) -> Vec<(String, Bytes)> {
    let mut wrong = vec![
        ("no bytes".to_owned(), Bytes::new()),
        ("bytes that are not UTF-8".to_owned(), Bytes::from_static(b"\xff\xfe\x00\x80")),
        ("1 MiB of the letter a".to_owned(), vec![b'a'; LONG_BODY_BYTES].into()),
        ("10,000 opening brackets".to_owned(), vec![b'['; BODY_LEVELS].into()),
    ];
    for sample in samples {
        if sample.len() > 1 {
            wrong.push(("a body that is cut off".to_owned(), sample.slice(..sample.len() / 2)));
        }
        if let Ok(value) = serde_json::from_slice::<Value>(sample) {
            let mut without = Vec::new();
            leave_out(&value, &mut Vec::new(), &mut without);
            for (field, value) in without.into_iter().take(FIELDS_LEFT_OUT_MAX) {
                if let Ok(body) = serde_json::to_vec(&value) {
                    wrong.push((format!("a body without its field {field}"), body.into()));
                }
            }
        }
    }
    wrong
}

/// Adds `root` once without each field of the object at `path`, and of those in it.
fn leave_out(root: &Value, path: &mut Vec<String>, without: &mut Vec<(String, Value)>) {
    let pointer = path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect::<String>();
    let Some(Value::Object(object)) = root.pointer(&pointer) else { return };
    for key in object.keys() {
        if without.len() >= FIELDS_LEFT_OUT_MAX {
            return;
        }
        let mut copy = root.clone();
        if let Some(Value::Object(object)) = copy.pointer_mut(&pointer) {
            object.remove(key);
        }
        without.push((format!("\"{}\"", key.escape_debug()), copy));
        path.push(key.clone());
        leave_out(root, path, without);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_left_out_once() {
        let sample = Bytes::from_static(br#"{"put":{"name":"a","a/b":1}}"#);
        let bodies: Vec<String> =
            wrong_bodies(&[sample]).into_iter().map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).collect();
        let expected = [r#"{"put":{"name""#, "{}", r#"{"put":{"name":"a"}}"#, r#"{"put":{"a/b":1}}"#];
        assert_eq!(bodies[4..], expected);
    }
}
