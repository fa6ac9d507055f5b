//! The expected answers of the embedded workloads, implemented independently in plain Rust.
//!
//! The models follow the contracts at the top of the workloads' sources and share no code with them: a mistake would
//! have to be made twice. A model sees the acknowledged transactions in order; failed ones changed nothing.

pub(crate) mod courier;
mod sha256;

use crate::scenario::BuiltIn;
use courier::Deliveries;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The expected result of a transaction or query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expected {
    /// `ok`, with this JSON value.
    Ok(Value),
    /// `refused`, with this reason.
    Refused(String),
    /// `refused`, with a reason that the model does not know: that of a decoder, or about an address.
    Undecodable,
    /// `failed`, so it cannot be acknowledged.
    Failed,
}

/// The state of one embedded workload.
#[derive(Debug)]
pub(crate) enum Model {
    Counter(i64),
    Ledger(Accounts),
    Notes(Texts),
    Crunch {
        jobs: u64,
        digest: [u8; 32],
    },
    /// The documents, by name.
    Archive(BTreeMap<String, String>),
    Courier(Deliveries),
}

impl Model {
    /// Creates the model of a new service with this workload.
    pub(crate) fn new(workload: BuiltIn) -> Self {
        match workload {
            BuiltIn::Counter => Self::Counter(0),
            BuiltIn::Ledger => Self::Ledger(Accounts::default()),
            BuiltIn::Notes => Self::Notes(Texts::default()),
            BuiltIn::Crunch => Self::Crunch { jobs: 0, digest: [0; 32] },
            BuiltIn::Archive => Self::Archive(BTreeMap::new()),
            BuiltIn::Courier => Self::Courier(Deliveries::default()),
        }
    }

    pub(crate) fn execute(&mut self, body: &[u8]) -> Expected {
        match self {
            Self::Counter(total) => decoded(body, |add| count(total, &add)),
            Self::Ledger(accounts) => decoded(body, |payment| accounts.pay(payment).into()),
            Self::Notes(texts) => decoded(body, |edit| texts.edit(edit).into()),
            Self::Crunch { jobs, digest } => decoded(body, |job| {
                let reply = crunch(&job);
                if let Ok(reply) = &reply {
                    let mut bytes = digest.to_vec();
                    bytes.extend(reply.to_string().into_bytes());
                    *digest = sha256::hash(bytes);
                    *jobs += 1;
                }
                reply.into()
            }),
            Self::Archive(documents) => decoded(body, |filing| file(documents, filing).into()),
            Self::Courier(deliveries) => decoded(body, |delivery| deliveries.post(delivery)),
        }
    }

    pub(crate) fn query(&self, body: &[u8]) -> Expected {
        decoded(body, |query| {
            Expected::Ok(match (self, query) {
                (Self::Counter(total), Query::Total) => json!(total),
                (Self::Ledger(Accounts { balances, total }), Query::Total) => {
                    json!({ "total": total, "balances": balances.values().sum::<u64>() })
                }
                (Self::Ledger(accounts), Query::Accounts) => json!({ "accounts": accounts.balances.len() }),
                (Self::Ledger(accounts), Query::Balance(account)) => match accounts.balances.get(&account) {
                    Some(balance) => json!({ "balance": balance }),
                    None => return Expected::Refused(format!("unknown account {account:?}")),
                },
                (Self::Notes(texts), Query::Summary) => texts.summary(),
                (Self::Notes(texts), Query::Get(name)) => match texts.notes.get(&name) {
                    Some(text) => json!({ "text": text }),
                    None => return Expected::Refused(format!("unknown note {name:?}")),
                },
                (Self::Archive(documents), Query::Get(name)) => match documents.get(&name) {
                    Some(text) => json!({ "text": text }),
                    None => return Expected::Refused(format!("unknown document {name:?}")),
                },
                (Self::Archive(documents), Query::Find(prefix)) => {
                    let names = documents.keys().filter(|name| name.starts_with(&prefix));
                    json!({ "names": names.take(FOUND_NAMES_MAX).collect::<Vec<_>>() })
                }
                (Self::Archive(documents), Query::Stats) => {
                    let bytes = documents.values().map(String::len).sum::<usize>();
                    json!({ "documents": documents.len(), "bytes": bytes, "disk_bytes": bytes })
                }
                (Self::Courier(deliveries), Query::Count) => deliveries.count(),
                // The user who asks posts nothing.
                (Self::Courier(_), Query::Receipts(id)) => {
                    return Expected::Refused(format!("there are no receipts of a transaction {id:?} of yours"));
                }
                (Self::Crunch { jobs, digest }, Query::Summary) => json!({ "jobs": jobs, "digest": hex(digest) }),
                _ => return Expected::Undecodable,
            })
        })
    }
}

impl From<Result<Value, String>> for Expected {
    fn from(result: Result<Value, String>) -> Self {
        result.map_or_else(Self::Refused, Self::Ok)
    }
}

fn decoded<'de, T: Deserialize<'de>>(body: &'de [u8], apply: impl FnOnce(T) -> Expected) -> Expected {
    serde_json::from_slice(body).map_or(Expected::Undecodable, apply)
}

/// The queries of all models; each model answers its own.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Query {
    Total,
    Accounts,
    Summary,
    Stats,
    Count,
    Balance(String),
    Get(String),
    Find(String),
    Receipts(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    add: i64,
}

fn count(total: &mut i64, Add { add }: &Add) -> Expected {
    match total.checked_add(*add) {
        Some(sum) => {
            *total = sum;
            Expected::Ok(json!(sum))
        }
        None => Expected::Failed,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Payment {
    Deposit { account: String, amount: u64 },
    Withdraw { account: String, amount: u64 },
    Transfer { from: String, to: String, amount: u64 },
}

/// The longest account name, in bytes.
const ACCOUNT_BYTES_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Accounts {
    balances: BTreeMap<String, u64>,
    total: u64,
}

impl Accounts {
    fn pay(&mut self, payment: Payment) -> Result<Value, String> {
        let Self { balances, total } = self;
        let (Payment::Deposit { amount, .. } | Payment::Withdraw { amount, .. } | Payment::Transfer { amount, .. }) =
            payment;
        if amount == 0 {
            return Err("amount is 0, at least 1 is needed".into());
        }
        let open = |account: &str| balances.get(account).copied().ok_or_else(|| format!("unknown account {account:?}"));
        let rest = |account: &str, balance: u64| {
            balance
                .checked_sub(amount)
                .ok_or_else(|| format!("insufficient funds: account {account:?} has {balance}, {amount} is needed"))
        };
        match payment {
            Payment::Deposit { account, .. } => {
                if account.is_empty() || account.len() > ACCOUNT_BYTES_MAX {
                    let bytes = account.len();
                    return Err(format!("account name is {bytes} bytes, 1 to {ACCOUNT_BYTES_MAX} are allowed"));
                }
                let Some(sum) = total.checked_add(amount) else {
                    return Err(format!("total is {total}, a deposit of {amount} would take it over {}", u64::MAX));
                };
                let balance = open(&account).unwrap_or(0) + amount;
                balances.insert(account, balance);
                *total = sum;
                Ok(json!({ "balance": balance }))
            }
            Payment::Withdraw { account, .. } => {
                let balance = rest(&account, open(&account)?)?;
                balances.insert(account, balance);
                *total -= amount;
                Ok(json!({ "balance": balance }))
            }
            Payment::Transfer { from, to, .. } => {
                if from == to {
                    return Err(format!("account {from:?} cannot transfer to itself"));
                }
                let paid_from = rest(&from, open(&from)?)?;
                let paid_to = open(&to)? + amount;
                balances.insert(from, paid_from);
                balances.insert(to, paid_to);
                Ok(json!({ "from": paid_from, "to": paid_to }))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Edit {
    Put { name: String, text: String },
    Append { name: String, text: String },
    Delete { name: String },
}

/// The longest name of a note, in bytes.
const NOTE_NAME_BYTES_MAX: usize = 256;

/// The longest text of a note, in bytes.
const NOTE_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Texts {
    notes: BTreeMap<String, String>,
    bytes: usize,
}

impl Texts {
    fn edit(&mut self, edit: Edit) -> Result<Value, String> {
        let Self { notes, bytes } = self;
        let unknown = |name: &str| format!("unknown note {name:?}");
        let fits = |name: &str, length: usize| {
            if length <= NOTE_BYTES_MAX {
                return Ok(());
            }
            Err(format!("note {name:?} would be {length} bytes, the limit is {NOTE_BYTES_MAX} bytes"))
        };
        match edit {
            Edit::Put { name, text } => {
                if name.is_empty() || name.len() > NOTE_NAME_BYTES_MAX {
                    return Err(format!("name is {} bytes, 1 to {NOTE_NAME_BYTES_MAX} are allowed", name.len()));
                }
                fits(&name, text.len())?;
                *bytes += text.len();
                *bytes -= notes.insert(name, text).map_or(0, |old| old.len());
            }
            Edit::Append { name, text } => {
                let note = notes.get_mut(&name).ok_or_else(|| unknown(&name))?;
                fits(&name, note.len() + text.len())?;
                note.push_str(&text);
                *bytes += text.len();
            }
            Edit::Delete { name } => *bytes -= notes.remove(&name).ok_or_else(|| unknown(&name))?.len(),
        }
        Ok(self.summary())
    }

    fn summary(&self) -> Value {
        json!({ "notes": self.notes.len(), "bytes": self.bytes })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Filing {
    Put { name: String, text: String },
    Append { name: String, text: String },
    Delete(String),
}

/// The longest name of a document, in bytes.
const DOCUMENT_NAME_BYTES_MAX: usize = 64;

/// The longest text of one transaction, in bytes.
const FILED_BYTES_MAX: usize = 64 * 1024;

/// The longest document, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// The most names in an answer to `find`.
const FOUND_NAMES_MAX: usize = 100;

fn file(documents: &mut BTreeMap<String, String>, filing: Filing) -> Result<Value, String> {
    let check_text = |text: &str| {
        if (1..=FILED_BYTES_MAX).contains(&text.len()) {
            return Ok(());
        }
        Err(format!("text is {} bytes, 1 to {FILED_BYTES_MAX} are allowed", text.len()))
    };
    let unknown = |name: &str| format!("unknown document {name:?}");
    let bytes = match filing {
        Filing::Put { name, text } => {
            check_document_name(&name)?;
            check_text(&text)?;
            let bytes = text.len();
            documents.insert(name, text);
            bytes
        }
        Filing::Append { name, text } => {
            check_text(&text)?;
            let document = documents.get_mut(&name).ok_or_else(|| unknown(&name))?;
            let bytes = document.len() + text.len();
            if bytes > DOCUMENT_BYTES_MAX {
                return Err(format!(
                    "document {name:?} would be {bytes} bytes, the limit is {DOCUMENT_BYTES_MAX} bytes"
                ));
            }
            document.push_str(&text);
            bytes
        }
        Filing::Delete(name) => {
            documents.remove(&name).ok_or_else(|| unknown(&name))?;
            return Ok(json!({ "documents": documents.len() }));
        }
    };
    Ok(json!({ "bytes": bytes, "documents": documents.len() }))
}

fn check_document_name(name: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || name.len() > DOCUMENT_NAME_BYTES_MAX {
        let bytes = name.len();
        return Err(format!("document name is {bytes} bytes, 1 to {DOCUMENT_NAME_BYTES_MAX} are allowed"));
    }
    if let Some(other) = name.chars().find(|c| !is_allowed(*c)) {
        return Err(format!("document name {name:?} contains {other:?}, only a-z, 0-9, '-', '_' and '.' are allowed"));
    }
    if name.chars().all(|c| c == '.') {
        return Err(format!("document name {name:?} has only dots, at least one other character is needed"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Job {
    Primes { below: u32 },
    Sha256 { bytes: u32 },
    Json { records: u32 },
}

fn crunch(job: &Job) -> Result<Value, String> {
    let bound = |name: &str, value: u32, bound: u32| {
        if value <= bound { Ok(value) } else { Err(format!("{name} is {value}, limit is {bound}")) }
    };
    match *job {
        Job::Primes { below } => Ok(json!({ "primes": primes_below(bound("below", below, 10_000_000)?) })),
        Job::Sha256 { bytes } => {
            let pattern = (0..=250_u8).cycle().take(bound("bytes", bytes, 64 * 1024 * 1024)? as usize);
            Ok(json!({ "sha256": hex(&sha256::hash(pattern.collect())) }))
        }
        Job::Json { records } => {
            Ok(json!({ "json": hex(&records_checksum(bound("records", records, 20_000)?).to_be_bytes()) }))
        }
    }
}

/// Counts primes with a sieve over all numbers, including even ones.
fn primes_below(below: u32) -> usize {
    let below = below as usize;
    let mut is_composite = vec![false; below];
    let mut count = 0;
    for number in 2..below {
        if !is_composite[number] {
            count += 1;
            (number * number..below).step_by(number).for_each(|multiple| is_composite[multiple] = true);
        }
    }
    count
}

/// Hashes the contents of the records directly: writing them as JSON and parsing that changes nothing.
fn records_checksum(records: u32) -> u64 {
    let mut bytes = Vec::new();
    for index in 0..records {
        bytes.extend(index.to_le_bytes());
        bytes.extend(format!("record \"{index}\"t{}lifeboat", index % 7).into_bytes());
        bytes.extend(((i64::from(index) - 1_000) * 7_919).to_le_bytes());
        bytes.push(u8::from(index % 2 == 0));
    }
    // FNV-1a, 64 bits.
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_answer_what_the_contracts_say() {
        let mut counter = Model::new(BuiltIn::Counter);
        assert_eq!(counter.execute(br#"{"add":5}"#), Expected::Ok(json!(5)));
        assert_eq!(counter.execute(br#"{"add":9223372036854775807}"#), Expected::Failed);
        assert_eq!(counter.execute(br#"{"sub":5}"#), Expected::Undecodable);
        assert_eq!(counter.query(br#""total""#), Expected::Ok(json!(5)));
        let mut ledger = Model::new(BuiltIn::Ledger);
        assert_eq!(ledger.execute(br#"{"deposit":{"account":"a","amount":5}}"#), Expected::Ok(json!({ "balance": 5 })));
        let refused = Expected::Refused(r#"insufficient funds: account "a" has 5, 6 is needed"#.into());
        assert_eq!(ledger.execute(br#"{"withdraw":{"account":"a","amount":6}}"#), refused);
        let mut archive = Model::new(BuiltIn::Archive);
        let put = |name: &str| format!(r#"{{"put":{{"name":"{name}","text":"abc"}}}}"#).into_bytes();
        assert_eq!(archive.execute(&put("a")), Expected::Ok(json!({ "bytes": 3, "documents": 1 })));
        assert_eq!(
            archive.execute(br#"{"append":{"name":"a","text":"d"}}"#),
            Expected::Ok(json!({ "bytes": 4, "documents": 1 }))
        );
        let refused = "document name \"../a\" contains '/', only a-z, 0-9, '-', '_' and '.' are allowed";
        assert_eq!(archive.execute(&put("../a")), Expected::Refused(refused.into()));
        assert_eq!(archive.query(br#""stats""#), Expected::Ok(json!({ "documents": 1, "bytes": 4, "disk_bytes": 4 })));
        assert_eq!(archive.query(br#"{"find":"a"}"#), Expected::Ok(json!({ "names": ["a"] })));
        assert_eq!(archive.execute(br#"{"delete":"a"}"#), Expected::Ok(json!({ "documents": 0 })));
        let mut crunch = Model::new(BuiltIn::Crunch);
        assert_eq!(crunch.execute(br#"{"primes":{"below":1000}}"#), Expected::Ok(json!({ "primes": 168 })));
    }
}
