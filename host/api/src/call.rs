//! Calls of a service to the network: a request, and its response or the reason why there is none.
//!
//! A call is whole: the request before it is sent, the response before the guest sees it.

use crate::clock::Timestamp;
use crate::size::Bytes as ByteCount;
use crate::text::{SHOWN_CHARS_MAX, shortened};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The most bytes of the body of one request or response.
pub const CALL_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most bytes of the names and values of the headers, or of the trailers, of one request or response.
pub const CALL_FIELDS_BYTES_MAX: usize = 128 * 1024;

/// The most calls of one transaction.
pub const CALLS_PER_TRANSACTION_MAX: usize = 64;

/// The most bytes that the calls of one transaction may send and receive.
pub const CALL_BYTES_PER_TRANSACTION_MAX: u64 = 16 * 1024 * 1024;

/// The protocol of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP over TCP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// Returns the port of an address that names none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// The first 128 bits of the BLAKE3 hash of a request. By it a later attempt of a transaction, or a replay, recognises
/// the call that it makes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestHash(pub [u8; 16]);

/// The header by which a server recognises a request that it has seen. Hashes of requests do not include it.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The names of the headers and trailers that a guest may not set, in lower case: those of the connection, which belongs
/// to the host, and `Host`, which is the address. They are those that wasmtime-wasi-http 48 forbids.
pub const FORBIDDEN_HEADERS: [&str; 9] = [
    "connection",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// A header or a trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: Bytes,
}

impl Field {
    /// Returns the bytes of its name and its value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.name.len() + self.value.len()) as u64
    }
}

/// A request of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    /// The method, in the form in which it is sent: `GET`.
    pub method: String,
    /// The protocol.
    pub scheme: Scheme,
    /// Host and port as the guest wrote them: `api.example.org`, `127.0.0.1:8080`.
    pub authority: String,
    /// The path and the query. Empty for `/`.
    pub path_with_query: String,
    /// The headers, in order.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Bytes,
}

impl CallRequest {
    /// Returns the bytes that the request counts for: those of its line, its headers and its body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let line = self.method.len() + self.authority.len() + self.path_with_query.len();
        (line + self.body.len()) as u64 + self.headers.iter().map(Field::bytes).sum::<u64>()
    }

    /// Returns the hash of everything in the request but [`IDEMPOTENCY_KEY`].
    #[must_use]
    pub fn hash(&self) -> RequestHash {
        let mut hasher = blake3::Hasher::new();
        // Each part has its length before it, so that no two requests have the same bytes.
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        };
        add(self.method.as_bytes());
        add(self.scheme.to_string().as_bytes());
        add(self.authority.as_bytes());
        add(self.path_with_query.as_bytes());
        for Field { name, value } in self.headers.iter().filter(|field| field.name != IDEMPOTENCY_KEY) {
            add(name.as_bytes());
            add(value);
        }
        add(&self.body);
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        RequestHash(half)
    }

    /// Returns the address in the form of an entry of an allow-list: `https://api.example.org`.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

/// A response, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResponse {
    /// The status: `200`.
    pub status: u16,
    /// The headers, in order.
    pub headers: Vec<Field>,
    /// The body.
    pub body: Bytes,
    /// The trailers, in order.
    pub trailers: Vec<Field>,
}

impl CallResponse {
    /// Returns the bytes that the response counts for: those of its headers, its body and its trailers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.body.len() as u64 + self.headers.iter().chain(&self.trailers).map(Field::bytes).sum::<u64>()
    }
}

/// The reason why a call has no response. Journals hold it, so variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The service may not call this address, or has no network in this phase.
    #[error("denied: the service may not call {target}; allow it with --allow-net {target}")]
    Denied {
        /// The address in the form of an entry of the allow-list: `https://api.example.org`.
        target: String,
    },
    /// The request cannot be sent as it is.
    #[error("invalid request: {reason}")]
    InvalidRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// The name could not be resolved in time.
    #[error("resolution timed out: {host} was not resolved within {limit_ms} ms")]
    DnsTimeout {
        /// The name.
        host: String,
        /// The bound, in milliseconds.
        limit_ms: u64,
    },
    /// The name could not be resolved.
    #[error("resolution failed: {host}: {reason}")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's reason.
        reason: String,
    },
    /// The name resolves to an address that the service may not call.
    #[error(
        "address denied: {host} resolves to {address}, which is not public; allow that with ,private after the address in \
         --allow-net, or with private = true in the configuration"
    )]
    AddressDenied {
        /// The name.
        host: String,
        /// The address.
        address: String,
    },
    /// Nothing listens there.
    #[error("connection refused: {address}")]
    ConnectionRefused {
        /// The address.
        address: String,
    },
    /// The connection was not made in time.
    #[error("connection timed out: {address} did not answer within {limit_ms} ms")]
    ConnectionTimeout {
        /// The address.
        address: String,
        /// The bound, in milliseconds.
        limit_ms: u64,
    },
    /// The connection broke before the response was whole.
    #[error("connection terminated: {reason}")]
    ConnectionTerminated {
        /// The reason.
        reason: String,
    },
    /// The server's certificate is not valid for its name.
    #[error("certificate refused: {reason}")]
    TlsCertificate {
        /// The reason.
        reason: String,
    },
    /// The two sides do not agree on TLS.
    #[error("TLS failed: {reason}")]
    TlsProtocol {
        /// The reason.
        reason: String,
    },
    /// The response was not whole in time. The server may have processed the request.
    #[error("response timed out: it was not whole within {limit_ms} ms")]
    ResponseTimeout {
        /// The bound, in milliseconds.
        limit_ms: u64,
    },
    /// The response ended before its announced length.
    #[error("response incomplete: {reason}")]
    ResponseIncomplete {
        /// The reason.
        reason: String,
    },
    /// The headers or trailers of the response are too long.
    #[error("response too large: over {} of headers", ByteCount(*limit_bytes))]
    ResponseHeaders {
        /// The bound, in bytes.
        limit_bytes: u64,
    },
    /// The body of the response is too long.
    #[error("response too large: over {} in its body", ByteCount(*limit_bytes))]
    ResponseBody {
        /// The bound, in bytes.
        limit_bytes: u64,
    },
    /// The server does not speak HTTP/1.1.
    #[error("protocol error: {reason}")]
    Protocol {
        /// The reason.
        reason: String,
    },
    /// A bound of the transaction or of its service is reached.
    #[error("limit reached: {reason}")]
    Limit {
        /// The bound.
        reason: String,
    },
    /// The call may have been made by an earlier attempt, and its outcome is unknown.
    #[error("in doubt: {reason}")]
    InDoubt {
        /// The call, and the remedy.
        reason: String,
    },
    /// The host failed.
    #[error("host error: {reason}")]
    Internal {
        /// The reason.
        reason: String,
    },
}

/// The outcome of a call.
pub type CallResult = Result<Arc<CallResponse>, CallError>;

/// A call as the history of a service holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// Its place among the calls of the transaction, from 0.
    pub index: u32,
    /// The hash of its request.
    pub hash: RequestHash,
    /// The method of its request.
    pub method: String,
    /// The address of its request, as of [`CallRequest::target`].
    pub target: String,
    /// The guest's time from which on it sees the outcome. [`NEVER_SEEN`] if the transaction ended before.
    pub seen: Timestamp,
    /// The outcome, or none if it is unknown.
    pub result: Option<CallResult>,
}

/// What a service does about a call in doubt when its transaction is attempted again. Catalogs hold it, so variants are
/// only ever appended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// It does not make the call. The guest learns that it is in doubt.
    Never,
    /// It makes the call again, under the same idempotency key.
    Idempotent,
    /// It denies the transaction until an operator settles the call.
    #[default]
    Ask,
}

impl Retry {
    /// All modes, the default first.
    pub const ALL: [Self; 3] = [Self::Ask, Self::Never, Self::Idempotent];
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ask => "ask",
            Self::Never => "never",
            Self::Idempotent => "idempotent",
        })
    }
}

impl FromStr for Retry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|retry| retry.to_string() == text).ok_or_else(|| {
            let shown = shortened(text, SHOWN_CHARS_MAX);
            format!("'{shown}' is not a mode of retries: write 'ask', 'never' or 'idempotent'")
        })
    }
}

/// The reason why the outcome of a call is unknown to the next attempt of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DoubtReason {
    /// The host stopped before it recorded the outcome. The call may or may not have been made.
    Interrupted,
    /// The call was made. Its response is not kept, because the calls of a failed transaction had too much.
    TooLarge,
}

impl fmt::Display for DoubtReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Interrupted => "the host stopped before its outcome was recorded",
            Self::TooLarge => "it was made, and its response was too large to be kept",
        })
    }
}

/// The time at which a guest sees what it never sees.
pub const NEVER_SEEN: Timestamp = Timestamp(u64::MAX);

impl CallRecord {
    /// Returns why the outcome is unknown, or none if it is known.
    #[must_use]
    pub fn doubt(&self) -> Option<DoubtReason> {
        match (&self.result, self.seen) {
            (Some(_), _) => None,
            (None, NEVER_SEEN) => Some(DoubtReason::Interrupted),
            (None, _) => Some(DoubtReason::TooLarge),
        }
    }

    /// Returns the approximate size of the record in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let response = match &self.result {
            Some(Ok(response)) => response.bytes(),
            Some(Err(_)) | None => 0,
        };
        CALL_RECORD_BYTES + (self.method.len() + self.target.len()) as u64 + response
    }
}

/// The approximate size of a [`CallRecord`] without its texts and its response, in bytes.
const CALL_RECORD_BYTES: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(parts: &[String], body: &[u8]) -> CallRequest {
        CallRequest {
            method: parts[0].clone(),
            scheme: Scheme::Https,
            authority: parts[1].clone(),
            path_with_query: parts[2].clone(),
            headers: vec![Field { name: parts[3].clone(), value: Bytes::from(parts[4].clone()) }],
            body: Bytes::copy_from_slice(body),
        }
    }

    proptest! {
        #[test]
        fn requests_with_different_parts_have_different_hashes(
            a in prop::collection::vec("[a-b]{0,2}", 5), b in prop::collection::vec("[a-b]{0,2}", 5),
            x in "[a-b]{0,2}", y in "[a-b]{0,2}",
        ) {
            let (one, other) = (request(&a, x.as_bytes()), request(&b, y.as_bytes()));
            prop_assert_eq!(one.hash() == other.hash(), one == other);
        }
    }

    #[test]
    fn retries_are_read_as_they_are_printed() {
        for retry in Retry::ALL {
            assert_eq!(retry.to_string().parse(), Ok(retry));
            assert_eq!(serde_json::to_string(&retry).ok(), Some(format!("\"{retry}\"")));
        }
        let error = "always".parse::<Retry>().expect_err("another word");
        assert_eq!(error, "'always' is not a mode of retries: write 'ask', 'never' or 'idempotent'");
    }

    #[test]
    fn the_idempotency_key_is_not_hashed() {
        let mut with = request(&["POST", "h", "/", "a", "b"].map(str::to_owned), b"x");
        let without = with.clone();
        with.headers.push(Field { name: IDEMPOTENCY_KEY.into(), value: Bytes::from_static(b"k") });
        assert_eq!(with.hash(), without.hash());
    }

    /// The SDK depends on no crate of the host, so it has a list of its own.
    #[test]
    fn sdk_refuses_the_headers_that_the_host_forbids() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/src/http/message.rs");
        let source = std::fs::read_to_string(path).expect("the SDK is in this repository");
        let (_, list) = source.split_once("const CONNECTION_HEADERS").expect("the list of the SDK");
        let (list, _) = list.split_once("];").expect("its end");
        let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, FORBIDDEN_HEADERS);
    }
}
