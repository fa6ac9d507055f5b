//! The work of the exports on bytes: decode, call, encode.
//!
//! The exports of a component are these functions around one state. Tests of a workload, and models on the host that
//! check a service's answers, call them natively and get the same bytes.

use crate::codec::reason::shortened;
use crate::codec::{Decode, Encode};
use crate::{Context, Workload};

/// The longest reason that is returned for undecodable bytes, in characters.
const REASON_MAX_CHARS: usize = 600;

/// Applies one transaction, with bytes in and bytes out.
///
/// # Errors
/// The transaction is refused: by the workload, or because it cannot be decoded. In the second case the state is
/// unchanged.
///
/// # Panics
/// If the workload panics, or if its reply cannot be encoded: the state has changed by then, and only a failed
/// transaction undoes that. After a panic the state must not be used again.
pub fn execute<W: Workload>(state: &mut W, context: &Context, transaction: &[u8]) -> Result<Vec<u8>, String> {
    let transaction = <W::Codec as Decode<W::Transaction>>::decode(transaction)
        .map_err(|reason| format!("cannot decode the transaction: {}", one_line(reason)))?;
    let reply = state.execute(context, transaction).map_err(|error| error.to_string())?;
    match <W::Codec as Encode<W::Reply>>::encode(&reply) {
        Ok(bytes) => Ok(bytes),
        Err(reason) => panic!("cannot encode the reply: {reason}"),
    }
}

/// Answers one query, with bytes in and bytes out.
///
/// # Errors
/// The query is refused: by the workload, or because the query cannot be decoded or its answer cannot be encoded.
///
/// # Panics
/// If the workload panics.
pub fn query<W: Workload>(state: &W, context: &Context, query: &[u8]) -> Result<Vec<u8>, String> {
    let query = <W::Codec as Decode<W::Query>>::decode(query)
        .map_err(|reason| format!("cannot decode the query: {}", one_line(reason)))?;
    let answer = state.query(context, query).map_err(|error| error.to_string())?;
    <W::Codec as Encode<W::Answer>>::encode(&answer).map_err(|reason| format!("cannot encode the answer: {reason}"))
}

/// Makes `reason` fit for a log: a decoder may quote the user's bytes, of any content and length.
fn one_line(reason: String) -> String {
    // Nearly all reasons are fit already. Going through their characters would burn more fuel than decoding.
    if reason.len() <= REASON_MAX_CHARS && reason.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return reason;
    }
    let reason = shortened(&reason, REASON_MAX_CHARS, "...");
    reason.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests;
