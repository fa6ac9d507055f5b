//! The check that the answers to the clients match what happened: the clients' records are executed again.
//!
//! Nothing here comes from the host's journal. Every acknowledged transaction is executed again, in order of sequence,
//! in one roomy VM that never fails over. Its answers, and the answers to the queries at the end, must equal those that
//! the clients received. If they differ, a search looks for the one transaction whose omission (it was lost) or
//! doubling (it was duplicated) explains every answer.
//!
//! The parcels of `courier` are also compared with the requests that its webhook got: see `reconcile/parcels.rs`. The
//! roomy VM asks the webhook once more, under the keys of these requests, and the webhook does not count that.

pub(super) mod parcels;

use crate::model::{Expected, Model};
use crate::webhook::Webhook;
use bytes::Bytes;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::name::Name;
use lifeboat_api::size::DISK_BYTES_MAX;
use lifeboat_api::transaction::Answer;
use lifeboat_disk::Disk;
use lifeboat_vm::engine::{Program, slot_bytes};
use lifeboat_vm::instance::{Attempt, Call, Instance};
use lifeboat_vm::network::{Landing, LiveNetwork, Network, RuntimeTime, Timeline};
use lifeboat_vm::rehydrate::{MAINTENANCE_DEADLINE, MAINTENANCE_FUEL};
use lifeboat_vm::store::{Allowance, Inputs};
use serde::Serialize;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The cost limit of the search for an explanation, in fuel: some ten seconds. Beyond it a divergence stays
/// unexplained.
pub const SEARCH_FUEL_MAX: u64 = 10_000_000_000;

/// The cost of a call besides its fuel, in fuel.
const CALL_OVERHEAD_FUEL: u64 = 10_000;

/// The longest part of an answer that a finding quotes, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// A client's record of an acknowledged transaction, or of an answered query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientRecord {
    pub(super) user: Name,
    pub(super) id: String,
    pub(super) body: Bytes,
    pub(super) sequence: Sequence,
    pub(super) timestamp: Timestamp,
    /// `ok` or `refused`.
    pub(super) answer: Answer,
}

impl ClientRecord {
    fn call(&self) -> Call<'_> {
        Call {
            id: &self.id,
            user: &self.user,
            sequence: self.sequence,
            timestamp: self.timestamp,
            epoch: Epoch::default(),
            body: &self.body,
        }
    }
}

/// The kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// A transaction was acknowledged, but is missing from the service's state.
    Lost,
    /// A transaction took effect twice.
    Duplicated,
    /// Answers differ, and no single transaction explains it.
    Diverged,
}

/// A way in which the clients' records differ from what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind of the finding.
    pub kind: FindingKind,
    /// The name of the service.
    pub service: Name,
    /// The id of the transaction or query, if the finding names one.
    pub transaction: Option<String>,
    /// The sequence number of that transaction.
    pub sequence: Option<Sequence>,
    /// The rest of the sentence, after the names.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.transaction, self.sequence) {
            (Some(id), Some(sequence)) => {
                write!(f, "{} transaction '{}' at sequence {sequence} {}", self.service, id.escape_debug(), self.text)
            }
            _ => write!(f, "{} {}", self.service, self.text),
        }
    }
}

/// The result of the reconciliation of one service.
#[derive(Debug, Clone, Default)]
pub(super) struct Reconciled {
    /// The number of acknowledged transactions that were executed again.
    pub(super) records: u64,
    /// The number of queries whose answers were compared.
    pub(super) queries: u64,
    /// Whether a model in plain Rust agreed as well. `None` if there is no model, or if it was skipped.
    pub(super) model: Option<bool>,
    pub(super) findings: Vec<Finding>,
}

/// An executor of transactions that starts from an empty state.
pub(super) trait Replica {
    /// Starts again with an empty state.
    async fn renew(&mut self) -> Result<(), String>;
    async fn execute(&mut self, call: Call<'_>) -> Attempt;
    async fn query(&mut self, call: Call<'_>) -> Attempt;
}

/// One VM with room for every state.
pub(super) struct RoomyVm {
    pub(super) program: Arc<Program>,
    pub(super) secret: [u8; 32],
    pub(super) allowance: Allowance,
    /// The server that its requests reach.
    pub(super) webhook: Option<Arc<Webhook>>,
    pub(super) instance: Option<Instance>,
}

impl RoomyVm {
    /// Returns a VM for a host whose largest size has `memory_bytes` of memory.
    pub(super) fn new(
        program: Arc<Program>,
        secret: [u8; 32],
        memory_bytes: u64,
        webhook: Option<Arc<Webhook>>,
    ) -> Self {
        let allowance = Allowance {
            fuel: MAINTENANCE_FUEL,
            memory_bytes: slot_bytes(memory_bytes),
            disk_bytes: DISK_BYTES_MAX,
            inputs: Inputs::Live { deadline: MAINTENANCE_DEADLINE },
        };
        Self { program, secret, allowance, webhook, instance: None }
    }

    fn instance(&mut self) -> &mut Instance {
        self.instance.as_mut().expect("a replica is renewed before it is used")
    }
}

impl Replica for RoomyVm {
    async fn renew(&mut self) -> Result<(), String> {
        // The old instance is dropped first: it may hold the last slot of the pool.
        self.instance = None;
        let instance = Instance::create(&self.program, self.secret, self.allowance, Disk::new(0)).await;
        self.instance = Some(instance.map_err(|error| error.to_string())?);
        Ok(())
    }

    async fn execute(&mut self, call: Call<'_>) -> Attempt {
        let allowance = self.allowance;
        let attempt = match self.webhook.clone() {
            None => self.instance().execute(call, allowance, Network::None).await,
            Some(webhook) => execute_with(&webhook, self.instance(), call, allowance).await,
        };
        self.instance().take_log();
        attempt
    }

    async fn query(&mut self, call: Call<'_>) -> Attempt {
        let allowance = self.allowance;
        let attempt = self.instance().query(call, allowance).await;
        self.instance().take_log();
        attempt
    }
}

/// Executes a transaction whose requests `webhook` answers once more.
async fn execute_with(webhook: &Webhook, instance: &mut Instance, call: Call<'_>, allowance: Allowance) -> Attempt {
    let (sender, mut wishes) = mpsc::unbounded_channel();
    let timeline = Arc::new(Timeline::new(Arc::new(RuntimeTime::default())));
    let live = LiveNetwork { known: Arc::default(), wishes: sender, timeline: Arc::clone(&timeline) };
    let mut executing = pin!(instance.execute(call, allowance, Network::Live(live)));
    loop {
        tokio::select! {
            biased;
            Some(wish) = wishes.recv() => {
                // A guest that has dropped the response needs none.
                let _ = wish.landing.send(Landing { seen: timeline.read(), result: webhook.ask_again(&wish.request) });
            }
            attempt = &mut executing => return attempt,
        }
    }
}

/// Compares the answers to the clients of `service` with those of `replica`, and with those of `model` if there is one.
/// `of_parcels` are the findings about its parcels.
pub(super) async fn reconcile(
    service: &Name,
    acknowledged: Vec<ClientRecord>,
    queries: &[ClientRecord],
    of_parcels: Vec<Finding>,
    replica: &mut impl Replica,
    model: Option<Model>,
) -> Reconciled {
    // A lost or duplicated parcel also changes answers, which do not name it.
    let is_explained = !of_parcels.is_empty();
    let mut findings = of_parcels;
    let records = in_order(service, acknowledged, &mut findings);
    let mut case = Case { service, records: &records, queries, replica, fuel_left: SEARCH_FUEL_MAX };
    match case.first_difference().await {
        Ok(None) => {}
        Ok(Some(_)) if is_explained => {}
        Ok(Some(difference)) => findings.push(case.explain(difference).await),
        Err(reason) => {
            findings
                .push(case.diverged(format!("cannot be executed again: the roomy VM could not be created: {reason}")));
        }
    }
    // The model would only repeat a finding about a lost or duplicated transaction.
    let model = match model {
        Some(model) if findings.is_empty() => {
            let differs = differs_from_model(service, model, &records, queries);
            let agrees = differs.is_none();
            findings.extend(differs);
            Some(agrees)
        }
        _ => None,
    };
    Reconciled { records: records.len() as u64, queries: queries.len() as u64, model, findings }
}

/// Returns the answer that a replica gives to `next` after these records. None if the replica cannot be created.
pub(super) async fn answer_after(
    service: &Name,
    replica: &mut impl Replica,
    records: &[ClientRecord],
    next: &ClientRecord,
) -> Option<Answer> {
    replica.renew().await.ok()?;
    for record in in_order(service, records.to_vec(), &mut Vec::new()) {
        replica.execute(record.call()).await;
    }
    Some(replica.execute(next.call()).await.answer)
}

/// Sorts by sequence and discards repetitions. An id with two sequences, or a sequence with two ids, is a finding.
fn in_order(service: &Name, mut records: Vec<ClientRecord>, findings: &mut Vec<Finding>) -> Vec<ClientRecord> {
    records.sort_by_key(|record| record.sequence);
    let mut by_id: HashMap<(Name, String), usize> = HashMap::with_capacity(records.len());
    let mut kept: Vec<ClientRecord> = Vec::with_capacity(records.len());
    for record in records {
        let finding = |kind, text| Finding {
            kind,
            service: service.clone(),
            transaction: Some(record.id.clone()),
            sequence: Some(record.sequence),
            text,
        };
        match by_id.entry((record.user.clone(), record.id.clone())) {
            Entry::Occupied(first) => {
                let first = &kept[*first.get()];
                if first.sequence != record.sequence {
                    let text = format!("was executed at sequence {} before", first.sequence);
                    findings.push(finding(FindingKind::Duplicated, text));
                } else if first.answer != record.answer {
                    let text = format!(
                        "was answered {}, and its repetition was answered {}",
                        quoted(&first.answer),
                        quoted(&record.answer)
                    );
                    findings.push(finding(FindingKind::Diverged, text));
                }
            }
            Entry::Vacant(entry) => {
                if let Some(last) = kept.last().filter(|last| last.sequence == record.sequence) {
                    let text = format!("has the sequence of '{}'", last.id.escape_debug());
                    findings.push(finding(FindingKind::Duplicated, text));
                }
                entry.insert(kept.len());
                kept.push(record);
            }
        }
    }
    kept
}

/// The first answer of the replica that differs from the service's answer.
struct Difference {
    /// The index of the record, or the number of records if all agree and a query differs.
    at: usize,
    text: String,
}

/// The assumed fault of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assumption {
    Omitted,
    Doubled,
}

struct Case<'a, R> {
    service: &'a Name,
    records: &'a [ClientRecord],
    queries: &'a [ClientRecord],
    replica: &'a mut R,
    /// The fuel left for the search.
    fuel_left: u64,
}

impl<R: Replica> Case<'_, R> {
    async fn first_difference(&mut self) -> Result<Option<Difference>, String> {
        self.replica.renew().await?;
        for (at, record) in self.records.iter().enumerate() {
            let answer = self.replica.execute(record.call()).await.answer;
            if answer != record.answer {
                let text =
                    format!("was answered {}, and the roomy VM answers {}", quoted(&record.answer), quoted(&answer));
                return Ok(Some(Difference { at, text }));
            }
        }
        for query in self.queries {
            let answer = self.replica.query(query.call()).await.answer;
            if answer != query.answer {
                let text = format!(
                    "query '{}' was answered {}, and the roomy VM answers {}",
                    shortened(&String::from_utf8_lossy(&query.body)),
                    quoted(&query.answer),
                    quoted(&answer)
                );
                return Ok(Some(Difference { at: self.records.len(), text }));
            }
        }
        Ok(None)
    }

    /// Searches backwards from the difference for the transaction that explains it.
    async fn explain(&mut self, difference: Difference) -> Finding {
        let last = difference.at.min(self.records.len().saturating_sub(1));
        for at in (0..=last).rev() {
            for assumption in [Assumption::Omitted, Assumption::Doubled] {
                // A transaction whose answer equals the roomy VM's may have been lost after it was answered, but not
                // before.
                if assumption == Assumption::Omitted && at == difference.at {
                    continue;
                }
                if self.agrees(at, assumption).await {
                    return self.explained(at, assumption);
                }
            }
            if self.fuel_left == 0 {
                break;
            }
        }
        let no_explanation = "no single lost or duplicated transaction was found to explain it";
        match self.records.get(difference.at) {
            Some(record) => Finding {
                transaction: Some(record.id.clone()),
                sequence: Some(record.sequence),
                ..self.diverged(format!("{}; {no_explanation}", difference.text))
            },
            None => self.diverged(format!("{}; {no_explanation}", difference.text)),
        }
    }

    fn explained(&self, at: usize, assumption: Assumption) -> Finding {
        let (kind, text) = match assumption {
            Assumption::Omitted => (FindingKind::Lost, "was acknowledged, and the service continued without it"),
            Assumption::Doubled => (FindingKind::Duplicated, "was acknowledged once, and took effect twice"),
        };
        Finding {
            transaction: Some(self.records[at].id.clone()),
            sequence: Some(self.records[at].sequence),
            kind,
            ..self.diverged(text.to_owned())
        }
    }

    fn diverged(&self, text: String) -> Finding {
        Finding { kind: FindingKind::Diverged, service: self.service.clone(), transaction: None, sequence: None, text }
    }

    /// Returns whether the replica gives every recorded answer if the record at `suspect` suffered the assumed fault.
    async fn agrees(&mut self, suspect: usize, assumption: Assumption) -> bool {
        if self.replica.renew().await.is_err() {
            return false;
        }
        for (at, record) in self.records.iter().enumerate() {
            if at == suspect && assumption == Assumption::Omitted {
                continue;
            }
            let attempt = self.replica.execute(record.call()).await;
            self.pay_for(&attempt);
            let mut agrees = attempt.answer == record.answer;
            if at == suspect {
                let again = Call { sequence: record.sequence.next(), ..record.call() };
                let attempt = self.replica.execute(again).await;
                self.pay_for(&attempt);
                // The client may have received either of the two answers.
                agrees |= attempt.answer == record.answer;
            }
            if !agrees || self.fuel_left == 0 {
                return false;
            }
        }
        for query in self.queries {
            let attempt = self.replica.query(query.call()).await;
            self.pay_for(&attempt);
            if attempt.answer != query.answer || self.fuel_left == 0 {
                return false;
            }
        }
        true
    }

    fn pay_for(&mut self, attempt: &Attempt) {
        self.fuel_left = self.fuel_left.saturating_sub(attempt.fuel_used.saturating_add(CALL_OVERHEAD_FUEL));
    }
}

/// Returns a finding for the first answer that differs from the model's.
fn differs_from_model(
    service: &Name,
    mut model: Model,
    records: &[ClientRecord],
    queries: &[ClientRecord],
) -> Option<Finding> {
    let differs = |record: &ClientRecord, what: String, expected: Expected| Finding {
        kind: FindingKind::Diverged,
        service: service.clone(),
        transaction: None,
        sequence: None,
        text: format!(
            "{what} was answered {}, but the model expects {}",
            quoted(&record.answer),
            expectation(&expected)
        ),
    };
    for record in records {
        let expected = model.execute(&record.body);
        if !is_as_expected(&record.answer, &expected) {
            let what = format!("transaction '{}' at sequence {}", record.id.escape_debug(), record.sequence);
            return Some(differs(record, what, expected));
        }
    }
    for query in queries {
        let expected = model.query(&query.body);
        if !is_as_expected(&query.answer, &expected) {
            let what = format!("query '{}'", shortened(&String::from_utf8_lossy(&query.body)));
            return Some(differs(query, what, expected));
        }
    }
    None
}

fn is_as_expected(answer: &Answer, expected: &Expected) -> bool {
    match (answer, expected) {
        (Answer::Ok(reply), Expected::Ok(value)) => {
            serde_json::from_slice::<serde_json::Value>(reply).is_ok_and(|reply| reply == *value)
        }
        (Answer::Refused(text), Expected::Refused(reason)) => text == reason,
        (Answer::Refused(_), Expected::Undecodable) => true,
        _ => false,
    }
}

fn expectation(expected: &Expected) -> String {
    match expected {
        Expected::Ok(value) => format!("ok '{}'", shortened(&value.to_string())),
        Expected::Refused(reason) => format!("refused '{}'", shortened(reason)),
        Expected::Undecodable => "a refusal of what it cannot decode".into(),
        Expected::Failed => "a failure".into(),
    }
}

fn quoted(answer: &Answer) -> String {
    match answer {
        Answer::Ok(reply) => format!("ok '{}'", shortened(&String::from_utf8_lossy(reply))),
        Answer::Refused(text) => format!("refused '{}'", shortened(text)),
        Answer::Failed(cause) => format!("failed '{}'", shortened(&cause.to_string())),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    // Quotation marks are not replaced: answers are mostly JSON.
    short.chars().map(|c| if lifeboat_api::text::is_deceptive(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
