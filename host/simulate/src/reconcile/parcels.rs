//! The comparison of the parcels that clients sent with those that the webhook got.

use super::{ClientRecord, Finding, FindingKind};
use crate::model::courier::Delivery;
use crate::webhook::Parcel;
use bytes::Bytes;
use lifeboat_api::id::Sequence;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Answer;
use std::collections::{BTreeMap, BTreeSet};

/// A transaction that was failed or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unacknowledged {
    pub(crate) user: Name,
    pub(crate) id: String,
    pub(crate) body: Bytes,
}

/// A transaction that a client sent.
struct Sent {
    sequence: Option<Sequence>,
    /// Whether it was answered with ok, so that its parcels were delivered.
    is_delivered: bool,
    parcels: BTreeSet<Parcel>,
}

impl Sent {
    fn new(user: &str, id: &str, body: &[u8], acknowledged: Option<&ClientRecord>) -> Self {
        // What the guest cannot decode has no parcels.
        let delivery: Option<Delivery> = serde_json::from_slice(body).ok();
        let parcels = delivery.into_iter().flat_map(Delivery::parcels);
        let parcels =
            parcels.map(|(index, parcel)| Parcel { user: user.into(), id: id.into(), index, text: parcel.parcel });
        Self {
            sequence: acknowledged.map(|record| record.sequence),
            is_delivered: acknowledged.is_some_and(|record| matches!(record.answer, Answer::Ok(_))),
            parcels: parcels.collect(),
        }
    }
}

/// Compares the transactions of a service with the number of requests for each parcel. A transaction that was answered
/// with ok was delivered once. The parcels of any other were delivered at most once. There is one finding at most for
/// each transaction.
pub(crate) fn compare(
    service: &Name,
    acknowledged: &[ClientRecord],
    unacknowledged: &[Unacknowledged],
    counts: &BTreeMap<Parcel, u64>,
) -> Vec<Finding> {
    let mut sent = BTreeMap::new();
    for Unacknowledged { user, id, body } in unacknowledged {
        sent.insert((&**user, &**id), Sent::new(user, id, body, None));
    }
    // A transaction that failed may have been sent again.
    for record in acknowledged {
        let ClientRecord { user, id, body, .. } = record;
        sent.insert((&**user, &**id), Sent::new(user, id, body, Some(record)));
    }
    let mut findings = BTreeMap::new();
    let mut find = |kind, user: &str, id: &str, sequence, text| {
        let finding = Finding { kind, service: service.clone(), transaction: Some(id.to_owned()), sequence, text };
        findings.entry((user.to_owned(), id.to_owned())).or_insert(finding);
    };
    for ((user, id), Sent { sequence, is_delivered, parcels }) in &sent {
        if let Some(lost) = parcels.iter().find(|parcel| *is_delivered && !counts.contains_key(parcel)) {
            let text = format!("was acknowledged, and the webhook did not get its parcel{}", place(lost));
            find(FindingKind::Lost, user, id, *sequence, text);
        }
    }
    for (parcel @ Parcel { user, id, .. }, count) in counts {
        let quoted = id.escape_debug();
        match sent.get(&(&**user, &**id)) {
            None => {
                let text = format!("posted a parcel of transaction '{quoted}' of {user}, that no client sent");
                find(FindingKind::Duplicated, user, id, None, text);
            }
            Some(Sent { sequence, parcels, .. }) if !parcels.contains(parcel) => {
                let text = format!("posted a parcel{} that it did not have", place(parcel));
                find(FindingKind::Diverged, user, id, *sequence, text);
            }
            Some(Sent { sequence, .. }) if *count > 1 => {
                let text = format!("posted its parcel{} {count} times", place(parcel));
                find(FindingKind::Duplicated, user, id, *sequence, text);
            }
            Some(_) => {}
        }
    }
    findings.into_values().collect()
}

fn place(parcel: &Parcel) -> String {
    parcel.index.map_or_else(String::new, |index| format!(" {index}"))
}

#[cfg(test)]
mod tests;
