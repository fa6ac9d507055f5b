//! Calls to servers that are scripted byte by byte. Nothing leaves loopback.
//!
//! ```text
//!   server.rs     scripted servers, with and without TLS, and names for them
//!   requests.rs   what is sent
//!   responses.rs  what arrives, whole or not
//!   stalls.rs     servers that stop in each phase
//!   tls.rs        certificates
//!   names.rs      the allow-list and the addresses of names
//! ```

mod names;
mod requests;
mod responses;
mod server;
mod stalls;
mod tls;
