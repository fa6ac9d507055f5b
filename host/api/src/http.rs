//! The bodies, headers and codes of the HTTP API, shared by the server and its clients.
//!
//! `docs/http-api.md` describes the API for people, `GET /openapi.json` for programs. A body that is not listed here is
//! the guest's input or output, byte for byte.

use crate::access::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use crate::call::DoubtReason;
use crate::name::{NAME_BYTES_MAX, NAME_PATTERN};
use crate::text::Printable;
use crate::transaction::ID_PATTERN;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

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
/// The response header with the length of a file, of which the body may be a part.
pub const FILE_BYTES_HEADER: &str = "lifeboat-file-bytes";
/// The request header with the transaction's id, after draft-ietf-httpapi-idempotency-key-header.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// The media type of JSON Lines.
pub const JSON_LINES: &str = "application/jsonl";
/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem that prevented a request, after RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` names the problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The meaning of the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The name of the problem, for programs. It never changes.
    pub code: String,
    /// The problem, its place, the value, the bound and the remedy, for people.
    pub detail: String,
    /// The outcome of the transaction or query, if the request was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// The credentials of a user who logs in.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogInRequest {
    /// The user's name.
    #[schemars(length(max = NAME_BYTES_MAX))]
    pub user: String,
    /// The password.
    #[schemars(length(max = PASSWORD_CHARS_MAX))]
    pub password: String,
}

/// A token. The server returns it only once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct LogInReply {
    /// The token, for `Authorization: Bearer`.
    pub token: String,
    /// The user of the token.
    pub user: String,
    /// Whether they may do everything.
    pub is_admin: bool,
    /// The time at which the token expires, RFC 3339.
    pub expires: String,
}

/// Grants by service: any of `transact`, `observe`, `operate`.
pub type Grants = BTreeMap<String, BTreeSet<String>>;

/// The user of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhoAmI {
    /// Their name.
    pub user: String,
    /// Whether they may do everything.
    pub is_admin: bool,
    /// The grants of the user. An admin needs none.
    pub grants: Grants,
    /// The time at which the token expires, RFC 3339.
    pub expires: String,
}

/// A new user.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Their name.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub user: String,
    /// The first password.
    #[schemars(length(min = PASSWORD_CHARS_MIN, max = PASSWORD_CHARS_MAX))]
    pub password: String,
    /// Whether they may do everything.
    #[serde(default)]
    pub is_admin: bool,
}

/// A new password.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The new password.
    #[schemars(length(min = PASSWORD_CHARS_MIN, max = PASSWORD_CHARS_MAX))]
    pub password: String,
    /// The present password. Users need it to change their own password, and so do admins. An admin does not need it
    /// for the password of another user.
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
    /// The grants of the user.
    pub grants: Grants,
}

/// All users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Users {
    /// The users, by name.
    pub users: Vec<User>,
}

/// The usage and the limit of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceUsage {
    /// The amount in use.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// The unit of both amounts: `fuel`, `bytes`, or `calls`. Of the network, the unit that is fuller.
    pub unit: String,
    /// The amount in use, in percent of the limit.
    pub utilisation_percent: f64,
}

/// The state of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// The service runs.
    Running,
    /// An operator stopped the service, or its state was lost while it ran.
    Stopped,
    /// The service could not be restored.
    Quarantined,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The BLAKE3 hash of the workload that it runs.
    pub workload: String,
    /// The state of the service.
    pub state: ServiceState,
    /// The reason why the service does not run, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The failover mode: `direct`, `shadow`, `auto`.
    pub failover: String,
    /// What the service may call. Only users who may observe the service see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<ServiceNetwork>,
    /// The number of waiting requests and operator commands, if the service runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<usize>,
    /// The VM, if the service runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
    /// What is wrong with the state of the workload, as a trial has found. Only the answer to a deployment has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What a service may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceNetwork {
    /// The addresses that it may call. It calls no other.
    pub allow: Vec<AllowedTarget>,
    /// What it does about calls in doubt: `ask`, `never`, `idempotent`.
    pub retry: String,
}

/// An entry of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllowedTarget {
    /// Scheme, host and port: `https://api.example.org`; or `https://*.example.org`, all names below one.
    pub target: String,
    /// Whether its name may resolve to addresses that are not public.
    pub private: bool,
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
    /// The usage by resource: `cpu`, `network`, `memory`, `disk`.
    pub resources: BTreeMap<String, ResourceUsage>,
    /// The reason why the service is degraded, if it is.
    pub degraded: Option<String>,
    /// The reason why the service is unmovable, if it is.
    pub unmovable: Option<String>,
    /// The fill level of its journal and the remedy, once the history since the last snapshot takes half of its limit.
    #[serde(default)]
    pub journal_filling: Option<String>,
    /// Whether the service denies transactions because its journal is full.
    #[serde(default)]
    pub journal_full: bool,
    /// The reason why the service is stopped, if its state could not be restored.
    pub stopped: Option<String>,
    /// The calls in doubt.
    #[serde(default)]
    pub calls_in_doubt: usize,
    /// What its current transaction waits for. The rest is as it was before that transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// A call to the network that a service waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// The address of the call: `https://api.example.org`.
    pub target: String,
    /// How long the service has been waiting, in milliseconds.
    pub waited_ms: u64,
}

impl fmt::Display for Waiting {
    /// Writes `waiting for https://api.example.org 1.2 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.waited_ms).as_secs_f64();
        write!(f, "waiting for {} {seconds:.1} s", Printable(&self.target))
    }
}

/// Services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Services {
    /// The services, by name.
    pub services: Vec<Service>,
}

/// The settings of a new service. The server's configuration supplies those that are omitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The name of the size of its first VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The fuel of each VM, instead of the size's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// The failover mode: `direct`, `shadow`, `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
    /// The addresses that the service may call, separated by spaces: `https://api.example.org`, or
    /// `https://*.example.org` for all names below one. With `,private` after it, a name may resolve to addresses that
    /// are not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_net: Option<String>,
    /// What the service does about calls in doubt: `ask`, `never`, `idempotent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// The arguments of a program, as a JSON array of texts: `["--verbose","/data"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// The environment of a program, as a JSON object of texts: `{"LANG":"C"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

/// The requests to drop from the queue of a service.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {
    /// The user who sent the requests.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub user: String,
    /// The id of the only request to drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = ID_PATTERN))]
    pub id: Option<String>,
}

/// The result of a drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropReply {
    /// The number of dropped requests. They were denied, and not executed.
    pub dropped: usize,
}

/// A call to the network of which the next attempt of its transaction does not know the outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doubt {
    /// The user who sent the transaction.
    pub user: String,
    /// The id of the transaction.
    pub id: String,
    /// The sequence number of the attempt.
    pub sequence: u64,
    /// The time of the attempt, in UTC.
    pub time: String,
    /// The place of the call among those of the transaction, from 0.
    pub index: u32,
    /// The method of its request.
    pub method: String,
    /// The address of its request: `https://api.example.org`.
    pub target: String,
    /// Why its outcome is unknown: `interrupted`, it was made or not; `too_large`, it was made, and its response is not
    /// kept.
    pub reason: DoubtReason,
}

/// The calls in doubt of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doubts {
    /// The calls, in the order of their transactions.
    pub doubts: Vec<Doubt>,
}

/// The longest body of the response with which an operator settles a call in doubt, in bytes.
pub const SETTLED_BODY_BYTES_MAX: usize = 16 * 1024;

/// What is known about a call in doubt.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleRequest {
    /// The user who sent the transaction. It may be omitted if no other user's transaction has the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub user: Option<String>,
    /// The id of the transaction.
    pub id: String,
    /// The place of the call among those of the transaction, from 0.
    pub index: u32,
    /// The response to the call. Without it, the call was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<SettledResponse>,
}

/// The response to a call, as an operator knows it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettledResponse {
    /// The status: `200`.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The body in Base64, of at most 16 KiB.
    #[serde(default)]
    pub body: String,
}

/// The usage and the counters of a service since the server started, or since its creation if that was later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The service.
    pub service: String,
    /// The time at which the server started and the counters began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Its VM, if the service runs.
    pub vm: Option<Vm>,
    /// The number of waiting requests.
    pub queue_length: usize,
    /// The number of requests by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The number of SLA failures by resource.
    pub sla_failures: BTreeMap<String, u64>,
    /// The number of failovers by cause.
    pub failovers: BTreeMap<String, u64>,
}

/// The usage of all services that the user may observe and, for an admin, of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllUsage {
    /// The time at which the server started and the counters began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last sample of the host, for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<serde_json::Value>,
    /// The services, by name.
    pub services: Vec<Usage>,
}

/// The type of an entry on a virtual disk. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

impl std::fmt::Display for EntryType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "link",
        })
    }
}

/// An entry of a directory on a virtual disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskEntry {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// The length of a file or of a link's target, in bytes. 0 for a directory.
    pub bytes: u64,
    /// The number of its inode. Entries with the same number are names of the same file.
    pub inode: u64,
    /// The number of entries that lead to it.
    pub links: u32,
    /// The time of the last change of its contents, RFC 3339.
    pub modified: String,
    /// The target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A directory on the virtual disk of a service, or one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskListing {
    /// The last transaction that the listing shows.
    pub sequence: u64,
    /// What the disk uses of its limit, in bytes.
    pub used_bytes: u64,
    /// `directory`, or `file` if the path leads to one.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// The entries of the directory in the order of their names' bytes, or the file as the only entry.
    pub entries: Vec<DiskEntry>,
    /// The last name, if entries come after it: continue with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The state of a transaction that has no answer, or none yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransactionState {
    /// `pending` or `unknown`.
    pub state: String,
    /// The meaning of the state, for people.
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
