//! The server: a configuration, TLS, and a host with its accounts behind an HTTP API.
//!
//! | module | contents |
//! |---|---|
//! | [`compose`](compose()) | the only function that builds a server |
//! | [`config`] | the configuration file of a server; all its errors are reported at once |
//! | [`tls`] | certificates and keys |
//! | `server` | routes, connection limits, streams, and the mapping of errors to HTTP |

mod compose;
pub mod config;
mod server;
pub mod tls;

pub use compose::{ComposeError, Ground, compose, host};
pub use server::{
    ADDRESS_SHARE, BATCH_IN_FLIGHT_MAX, DEPLOY_WAIT_MAX, DESCRIPTORS_RESERVED, DETAIL_BYTES_MAX, DISK_WAIT_MAX,
    DRAINED_BYTES_MAX, DRAINED_SILENCE_MAX, DRAINED_TIME_MAX, EVENTS_KEPT_MAX, EventLog, KEEP_ALIVE,
    LOG_IN_BODY_BYTES_MAX, LOGS_KEPT_BYTES_MAX, LOGS_KEPT_MAX, LOGS_KEPT_PER_SERVICE_MAX, LONG_LINE_BYTES,
    LONG_LISTS_BYTES_MAX, LONG_LISTS_RESERVED_BYTES, LOOK_UP_MAX, Listener, ListenerError, READ_RATE_MIN,
    REPLACED_IDLE_MIN, STATUS_MAX, STREAMS_MAX, STREAMS_PER_USER_MAX, STREAMS_RESERVED, Server, TRIAL_WAIT_MAX,
    UNAUTHENTICATED_IDLE_MAX, UNSENT_BYTES_MAX, UPLOAD_TIME_MAX, UPLOADS_MAX, USER_BODY_BYTES_MAX, connections_max,
};
