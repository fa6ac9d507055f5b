//! The bodies, headers and codes of the HTTP API, shared by the server and its clients.
//!
//! `docs/http-api.md` describes the API for people, `GET /openapi.json` for programs. A body that is not listed here is
//! the guest's input or output, byte for byte.

use crate::access::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use crate::name::{NAME_BYTES_MAX, NAME_PATTERN};
use crate::transaction::ID_PATTERN;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The response header with the outcome: `ok`, `refused`, `failed`, `denied`.
pub const OUTCOME_HEADER: &str = "lifeboat-outcome";
/// The response header with the VM that answered.
pub const VM_HEADER: &str = "lifeboat-vm";
/// The response header with the transaction's number in the history.
pub const SEQUENCE_HEADER: &str = "lifeboat-sequence";
/// The response header with the fuel that the answer took.
pub const FUEL_USED_HEADER: &str = "lifeboat-fuel-used";
/// The response header with the transaction's id, percent-encoded where it is not plain.
pub const TRANSACTION_ID_HEADER: &str = "lifeboat-transaction-id";
/// The response header of a repeated answer: `true`.
pub const REPEATED_HEADER: &str = "lifeboat-repeated";
/// The response header of a request that caused a failover: the line that operators see.
pub const FAILOVER_HEADER: &str = "lifeboat-failover";
/// The request header with the transaction's id, after draft-ietf-httpapi-idempotency-key-header.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// The media type of JSON Lines.
pub const JSON_LINES: &str = "application/jsonl";
/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not done, after RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`: the code says which it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the status stands for.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Which problem it is, for programs: it never changes.
    pub code: String,
    /// What, where, the value, the bound and the remedy, for people.
    pub detail: String,
    /// How the transaction or query ended, if the request was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// Who wants in.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogInRequest {
    /// The user's name.
    #[schemars(length(max = NAME_BYTES_MAX))]
    pub user: String,
    /// Their password.
    #[schemars(length(max = PASSWORD_CHARS_MAX))]
    pub password: String,
}

/// A token, which is shown once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct LogInReply {
    /// For `Authorization: Bearer`.
    pub token: String,
    /// Whose it is.
    pub user: String,
    /// Whether they may do everything.
    pub is_admin: bool,
    /// Until when it holds, RFC 3339.
    pub expires: String,
}

/// Grants by service: any of `transact`, `observe`, `operate`.
pub type Grants = BTreeMap<String, BTreeSet<String>>;

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoAmI {
    /// Their name.
    pub user: String,
    /// Whether they may do everything.
    pub is_admin: bool,
    /// What they may do. An admin needs no grants.
    pub grants: Grants,
    /// Until when the token holds, RFC 3339.
    pub expires: String,
}

/// A user who is to be added.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Their name.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub user: String,
    /// Their first password.
    #[schemars(length(min = PASSWORD_CHARS_MIN, max = PASSWORD_CHARS_MAX))]
    pub password: String,
    /// Whether they may do everything.
    #[serde(default)]
    pub is_admin: bool,
}

/// Another password.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The new one.
    #[schemars(length(min = PASSWORD_CHARS_MIN, max = PASSWORD_CHARS_MAX))]
    pub password: String,
    /// The one that holds until now: needed for one's own, also an admin's; not for another's, as an admin.
    #[serde(default)]
    #[schemars(length(max = PASSWORD_CHARS_MAX))]
    pub old: Option<String>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// Their name.
    pub user: String,
    /// Whether they may do everything.
    pub is_admin: bool,
    /// What they may do.
    pub grants: Grants,
}

/// All users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Users {
    /// By name.
    pub users: Vec<User>,
}

/// What was used of a resource, and its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceUsage {
    /// Used.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// What both are counted in.
    pub unit: String,
    /// Used by limit.
    pub utilisation_percent: f64,
}

/// How a service is in life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// It serves.
    Running,
    /// It was stopped by an operator, or its state was lost while it ran.
    Stopped,
    /// It could not be brought back.
    Quarantined,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The BLAKE3 hash of the workload that it runs.
    pub workload: String,
    /// Whether it serves.
    pub state: ServiceState,
    /// Why it does not, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it fails over: `direct`, `shadow`, `auto`.
    pub failover: String,
    /// Requests and orders that wait, if it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<usize>,
    /// The rest, if it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
}

/// The VM of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// Its name, `bank/3`.
    pub id: String,
    /// Its machine.
    pub machine: String,
    /// The name of its size.
    pub size: String,
    /// The last transaction.
    pub sequence: u64,
    /// The last transaction of the newest snapshot that is on the disk.
    pub snapshot_sequence: u64,
    /// By resource: `cpu`, `memory`.
    pub resources: BTreeMap<String, ResourceUsage>,
    /// Why it is degraded, if it is.
    pub degraded: Option<String>,
    /// Why it is unmovable, if it is.
    pub unmovable: Option<String>,
    /// How full its journal is and what helps, once its history since the last snapshot takes half of what it may.
    #[serde(default)]
    pub journal_filling: Option<String>,
    /// Whether it denies transactions since its journal is full.
    #[serde(default)]
    pub journal_full: bool,
    /// Why it is stopped, if its state could not be brought back.
    pub stopped: Option<String>,
}

/// Services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Services {
    /// By name.
    pub services: Vec<Service>,
}

/// How a service is to run. What is left out is as the server's configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The name of the size of its first VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Fuel of each VM, in the place of the size's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// `direct`, `shadow`, `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
}

/// Whose requests are to be dropped from the queue of a service.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {
    /// The user who sent them.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub user: String,
    /// Those with this id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = ID_PATTERN))]
    pub id: Option<String>,
}

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropReply {
    /// How many requests: they were denied, and not executed.
    pub dropped: usize,
}

/// What a service used and did since the server started, or since it was created if that was later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The service.
    pub service: String,
    /// When the server started, which is when it began to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Its VM, if it serves.
    pub vm: Option<Vm>,
    /// Requests that wait.
    pub queue_length: usize,
    /// Requests by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// SLA failures by resource.
    pub sla_failures: BTreeMap<String, u64>,
    /// Failovers by cause.
    pub failovers: BTreeMap<String, u64>,
}

/// What all services that a user may observe used, and for an admin the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllUsage {
    /// When the server started, which is when it began to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last sample of the host, for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<serde_json::Value>,
    /// By name.
    pub services: Vec<Usage>,
}

/// What became of a transaction that is not answered yet, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransactionState {
    /// `pending` or `unknown`.
    pub state: String,
    /// What that means, for people.
    pub detail: String,
}

macro_rules! hides_secrets {
    ($($type:ident),*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).field("user", &self.user).finish_non_exhaustive()
            }
        }
    )*};
}
hides_secrets!(LogInRequest, LogInReply, NewUser);

impl std::fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewPassword(..)")
    }
}
