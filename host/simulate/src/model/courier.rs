//! The expected answers of `courier`, whose parcels go to the webhook of the simulation.

use super::Expected;
use crate::webhook::{CLOSED_PATH, CUT_PATH, WEBHOOK};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// The most parcels of one transaction.
const PARCELS_MAX: usize = 16;

/// The longest text of a parcel, in bytes.
const PARCEL_BYTES_MAX: usize = 64 * 1024;

/// The longest address, in bytes.
const TO_BYTES_MAX: usize = 2 * 1024;

/// The most receipts in the state.
const RECEIPTS_MAX: usize = 1_000;

/// A transaction of the workload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Delivery {
    Post(Parcel),
    PostAll(Vec<Parcel>),
}

impl Delivery {
    /// Returns its parcels with their places, if the webhook is told their places.
    pub(crate) fn parcels(self) -> Vec<(Option<usize>, Parcel)> {
        match self {
            Self::Post(parcel) => vec![(None, parcel)],
            Self::PostAll(parcels) => {
                parcels.into_iter().enumerate().map(|(index, parcel)| (Some(index), parcel)).collect()
            }
        }
    }
}

/// A text and its address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parcel {
    pub(crate) to: String,
    pub(crate) parcel: String,
}

/// The deliveries in the state.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// The number of receipts of each transaction in the state, the oldest first.
    receipts: VecDeque<usize>,
    delivered: usize,
}

impl Deliveries {
    pub(super) fn post(&mut self, delivery: Delivery) -> Expected {
        let is_single = matches!(delivery, Delivery::Post(_));
        let parcels = delivery.parcels();
        if parcels.is_empty() || parcels.len() > PARCELS_MAX {
            let count = parcels.len();
            return Expected::Refused(format!("there are {count} parcels, 1 to {PARCELS_MAX} are allowed"));
        }
        let mut receipts = Vec::with_capacity(parcels.len());
        let mut failures = Vec::new();
        let mut is_elsewhere = false;
        for (index, Parcel { to, parcel }) in &parcels {
            if parcel.is_empty() || parcel.len() > PARCEL_BYTES_MAX {
                let bytes = parcel.len();
                return match is_elsewhere {
                    // The address of an earlier parcel may be the reason.
                    true => Expected::Undecodable,
                    false => Expected::Refused(format!("parcel is {bytes} bytes, 1 to {PARCEL_BYTES_MAX} are allowed")),
                };
            }
            match outcome(to) {
                Outcome::Delivered => {
                    let echo = format!("got {} bytes", parcel.len());
                    receipts.push(json!({ "to": to, "status": 200, "echo": echo }));
                }
                Outcome::Closed => failures.push((index, r#"the webhook answered 503: "closed""#)),
                Outcome::Cut => {
                    failures.push((index, "connection failed: it was closed before the response was complete"));
                }
                Outcome::Elsewhere => is_elsewhere = true,
            }
        }
        if is_elsewhere {
            return Expected::Undecodable;
        }
        if let [(None, reason)] = failures[..] {
            return Expected::Refused(format!("parcel not delivered: {reason}"));
        }
        if !failures.is_empty() {
            let mut text = format!("{} of {} parcels delivered", receipts.len(), parcels.len());
            for (index, reason) in failures {
                text += &format!("; parcel {}: {reason}", index.unwrap_or_default());
            }
            return Expected::Refused(text);
        }
        self.keep(receipts.len());
        Expected::Ok(match is_single {
            true => json!({ "receipt": receipts[0] }),
            false => json!({ "receipts": receipts }),
        })
    }

    fn keep(&mut self, receipts: usize) {
        self.delivered += receipts;
        self.receipts.push_back(receipts);
        while self.receipts.iter().sum::<usize>() > RECEIPTS_MAX {
            self.receipts.pop_front();
        }
    }

    pub(super) fn count(&self) -> Value {
        json!({ "receipts": self.receipts.iter().sum::<usize>(), "delivered": self.delivered })
    }
}

/// The fate of a parcel.
enum Outcome {
    Delivered,
    Closed,
    Cut,
    /// It is refused for a reason that the model does not know.
    Elsewhere,
}

/// Returns the fate of a parcel by its address.
fn outcome(to: &str) -> Outcome {
    let Some(rest) = to.strip_prefix("http://").filter(|_| to.len() <= TO_BYTES_MAX) else {
        return Outcome::Elsewhere;
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let is_webhook = format!("http://{}", host.strip_suffix('.').unwrap_or(host)).eq_ignore_ascii_case(WEBHOOK);
    if !is_webhook || port.parse() != Ok(80_u16) || !is_path(path) {
        return Outcome::Elsewhere;
    }
    match path.split('?').next().unwrap_or_default() {
        CLOSED_PATH => Outcome::Closed,
        CUT_PATH => Outcome::Cut,
        _ => Outcome::Delivered,
    }
}

/// Returns whether a path with its query can be sent.
fn is_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte);
    let mut parts = path.split('%');
    parts.next().unwrap_or_default().bytes().all(is_plain)
        && parts.all(|part| {
            let (digits, rest) = part.as_bytes().split_at(part.len().min(2));
            digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit) && rest.iter().copied().all(is_plain)
        })
}
