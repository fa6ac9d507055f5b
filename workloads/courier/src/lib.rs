//! Parcels that are posted to webhooks, with their receipts in the state.
//!
//! - Transactions:
//!   - `{"post":{"to":"http://127.0.0.1:8080/in","parcel":"text"}}` posts a parcel. Reply:
//!     `{"receipt":{"to":"http://127.0.0.1:8080/in","status":200,"echo":"..."}}`, with the first [`ECHO_MAX_BYTES`] of
//!     the body of the response.
//!   - `{"post_all":[{"to":"http://127.0.0.1:8080/in","parcel":"text"}]}` posts up to [`PARCELS_MAX`] parcels at once.
//!     Reply: `{"receipts":[...]}`, in the order of the parcels.
//! - Queries:
//!   - `{"receipts":"id"}`. Answer: `{"receipts":[...]}`, those of the user's transaction with this id.
//!   - `"count"`. Answer: `{"receipts":2,"delivered":2}`: the receipts of all users in the state, and all parcels that
//!     were ever delivered.
//! - A webhook gets `{"id":"...","user":"...","parcel":"text"}`: the id and the user of the transaction, and the text.
//!   Each parcel of a `post_all` also has `"index"`, its place from 0. Together they identify the parcel.
//! - Refused without a change: no parcel, or over [`PARCELS_MAX`]; a text that is empty or over [`PARCEL_MAX_BYTES`];
//!   an address that is over [`TO_MAX_BYTES`] or cannot be requested. Nothing is posted then.
//! - Also refused without a change: a parcel that is denied, in doubt, or answered with a status outside of 200 to 299.
//!   Other parcels of the transaction may have been delivered, and the reason names those that were not.
//! - The state holds [`RECEIPTS_MAX`] receipts. Those of the oldest transactions make room for new ones.
//! - Limits it meets: the network. Its state has at most about 3 MB.
//!
//! **The id of the transaction identifies a parcel**, not the time and not a random number. A second attempt of the
//! transaction then makes the same requests, and gets the recorded responses. A webhook can recognise a parcel that a
//! user sends again under its id.

use std::collections::VecDeque;
use std::fmt;

use lifeboat_guest::http::{self, Error, Request, Response};
use lifeboat_guest::prelude::*;
use lifeboat_guest::{Encode, Json};

/// The most parcels of one transaction: as many as the host sends at once.
pub const PARCELS_MAX: usize = 16;

/// The longest text of a parcel, in bytes: 64 KiB.
pub const PARCEL_MAX_BYTES: usize = 64 * 1024;

/// The longest address, in bytes: 2 KiB.
pub const TO_MAX_BYTES: usize = 2 * 1024;

/// The longest part of a response's body in a receipt, in bytes.
pub const ECHO_MAX_BYTES: usize = 256;

/// The most receipts in the state.
pub const RECEIPTS_MAX: usize = 1_000;

/// The state: the receipts of the last deliveries.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Courier {
    /// The deliveries whose receipts are in the state, the oldest first.
    deliveries: VecDeque<Delivery>,
    /// The number of all parcels that were ever delivered.
    delivered: u64,
}

/// The receipts of one transaction.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Delivery {
    user: Box<str>,
    id: Box<str>,
    receipts: Vec<Receipt>,
}

/// A text, and the webhook that gets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    /// The URL of the webhook.
    pub to: String,
    /// The text.
    pub parcel: String,
}

/// A delivery of parcels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transaction {
    /// Posts one parcel.
    Post(Parcel),
    /// Posts several parcels at once.
    PostAll(Vec<Parcel>),
}

/// The proof of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The URL of the webhook.
    pub to: Box<str>,
    /// The status of its response.
    pub status: u16,
    /// The beginning of the body of its response, at most [`ECHO_MAX_BYTES`].
    pub echo: Box<str>,
}

/// The receipts of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The reply to `post`.
    Receipt(Receipt),
    /// The reply to `post_all`.
    Receipts(Vec<Receipt>),
}

/// A question about receipts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The receipts of the user's transaction with this id.
    Receipts(Box<str>),
    /// The number of receipts and of deliveries.
    Count,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The answer to `{"receipts":...}`.
    Receipts {
        /// The receipts, in the order of the parcels.
        receipts: Vec<Receipt>,
    },
    /// The answer to `"count"`.
    Count {
        /// The number of receipts in the state.
        receipts: u64,
        /// The number of all parcels that were ever delivered.
        delivered: u64,
    },
}

/// The reason for refusing a transaction or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no parcel, or there are too many.
    ParcelCount {
        /// The number of parcels.
        count: usize,
    },
    /// The text of a parcel is empty or too long.
    ParcelLength {
        /// The text's length, in bytes.
        bytes: usize,
    },
    /// The address of a parcel is too long.
    ToLength {
        /// The address's length, in bytes.
        bytes: usize,
    },
    /// A request is not valid. Nothing was posted.
    Request(Error),
    /// The only parcel was not delivered.
    Undelivered(Failure),
    /// At least one of the parcels was not delivered.
    SomeUndelivered {
        /// The number of delivered parcels.
        delivered: usize,
        /// The places of the others, from 0, and the reasons.
        failures: Vec<(usize, Failure)>,
    },
    /// The state has no receipts of this transaction.
    UnknownTransaction(Box<str>),
}

/// The reason why a parcel was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no response.
    Request(Error),
    /// The webhook did not take it.
    Status {
        /// The status of the response.
        status: u16,
        /// The beginning of its body, at most [`ECHO_MAX_BYTES`].
        echo: Box<str>,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ParcelCount { count } => write!(f, "there are {count} parcels, 1 to {PARCELS_MAX} are allowed"),
            Self::ParcelLength { bytes } => write!(f, "parcel is {bytes} bytes, 1 to {PARCEL_MAX_BYTES} are allowed"),
            Self::ToLength { bytes } => write!(f, "address is {bytes} bytes, the limit is {TO_MAX_BYTES} bytes"),
            Self::Request(error) => error.fmt(f),
            Self::Undelivered(failure) => write!(f, "parcel not delivered: {failure}"),
            Self::SomeUndelivered { delivered, failures } => {
                write!(f, "{delivered} of {} parcels delivered", delivered + failures.len())?;
                failures.iter().try_for_each(|(index, failure)| write!(f, "; parcel {index}: {failure}"))
            }
            Self::UnknownTransaction(id) => write!(f, "there are no receipts of a transaction {id:?} of yours"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Status { status, echo } => write!(f, "the webhook answered {status}: {echo:?}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The body of a request.
#[derive(Serialize)]
struct Posted<'a> {
    id: &'a str,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    parcel: &'a str,
}

#[workload]
impl Workload for Courier {
    type Transaction = Transaction;
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;
    type Error = Refusal;

    fn execute(&mut self, context: &Context, transaction: Transaction) -> Result<Reply, Refusal> {
        match transaction {
            Transaction::Post(parcel) => {
                let response = request(context, None, &parcel)?.send();
                let receipt = receipt(parcel.to, response).map_err(Refusal::Undelivered)?;
                self.keep(context, vec![receipt.clone()]);
                Ok(Reply::Receipt(receipt))
            }
            Transaction::PostAll(parcels) => {
                let receipts = post_all(context, parcels)?;
                self.keep(context, receipts.clone());
                Ok(Reply::Receipts(receipts))
            }
        }
    }

    fn query(&self, context: &Context, query: Query) -> Result<Answer, Refusal> {
        match query {
            Query::Receipts(id) => {
                let is_asked = |delivery: &&Delivery| *delivery.user == context.user && delivery.id == id;
                match self.deliveries.iter().rev().find(is_asked) {
                    Some(delivery) => Ok(Answer::Receipts { receipts: delivery.receipts.clone() }),
                    None => Err(Refusal::UnknownTransaction(id)),
                }
            }
            Query::Count => Ok(Answer::Count { receipts: self.receipts() as u64, delivered: self.delivered }),
        }
    }
}

impl Courier {
    /// Keeps the receipts of a transaction, and forgets the oldest ones that are too many.
    fn keep(&mut self, context: &Context, receipts: Vec<Receipt>) {
        self.delivered += receipts.len() as u64;
        self.deliveries.push_back(Delivery {
            user: context.user.as_str().into(),
            id: context.id.as_str().into(),
            receipts,
        });
        let mut count = self.receipts();
        while count > RECEIPTS_MAX {
            count -= self.deliveries.pop_front().map_or(count, |oldest| oldest.receipts.len());
        }
    }

    fn receipts(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.receipts.len()).sum()
    }
}

fn post_all(context: &Context, parcels: Vec<Parcel>) -> Result<Vec<Receipt>, Refusal> {
    if parcels.is_empty() || parcels.len() > PARCELS_MAX {
        return Err(Refusal::ParcelCount { count: parcels.len() });
    }
    // All are checked before the first one is posted.
    let requests = parcels.iter().enumerate().map(|(index, parcel)| request(context, Some(index), parcel));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let responses = http::all(requests.into_iter().map(Request::start).collect());

    let (mut receipts, mut failures) = (Vec::new(), Vec::new());
    for (index, (parcel, response)) in parcels.into_iter().zip(responses).enumerate() {
        match receipt(parcel.to, response) {
            Ok(receipt) => receipts.push(receipt),
            Err(failure) => failures.push((index, failure)),
        }
    }
    if failures.is_empty() {
        Ok(receipts)
    } else {
        Err(Refusal::SomeUndelivered { delivered: receipts.len(), failures })
    }
}

/// Returns the request for a parcel, if it can be sent.
fn request(context: &Context, index: Option<usize>, parcel: &Parcel) -> Result<Request, Refusal> {
    let Parcel { to, parcel } = parcel;
    if parcel.is_empty() || parcel.len() > PARCEL_MAX_BYTES {
        return Err(Refusal::ParcelLength { bytes: parcel.len() });
    }
    if to.len() > TO_MAX_BYTES {
        return Err(Refusal::ToLength { bytes: to.len() });
    }
    let posted = Posted { id: &context.id, user: &context.user, index, parcel };
    let body = Json::encode(&posted).expect("texts and numbers have a JSON");
    let request = Request::new("POST", to).header("content-type", "application/json").body(body);
    request.check().map_err(Refusal::Request)?;
    Ok(request)
}

/// Returns the receipt for the response of the webhook `to`.
fn receipt(to: String, response: Result<Response, Error>) -> Result<Receipt, Failure> {
    let response = response.map_err(Failure::Request)?;
    let (status, echo) = (response.status, echo(&response));
    if response.is_success() {
        Ok(Receipt { to: to.into(), status, echo })
    } else {
        Err(Failure::Status { status, echo })
    }
}

/// Returns the beginning of the body.
fn echo(response: &Response) -> Box<str> {
    // A character of up to 4 bytes that begins in the limit is whole. The rest of a long body is not converted.
    let begin = &response.body[..response.body.len().min(ECHO_MAX_BYTES + 3)];
    let text = String::from_utf8_lossy(begin);
    text[..text.floor_char_boundary(ECHO_MAX_BYTES)].into()
}

#[cfg(test)]
mod tests;
