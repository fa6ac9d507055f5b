//! `wasi:sockets`: outgoing connections over TCP, for a program that is run once.
//!
//! A service never gets sockets, because a replay could not repeat what a peer sent (`denied.rs`). A program that is
//! run once is not replayed. It gets `network`, `instance-network`, `tcp-create-socket`, `tcp` and `ip-name-lookup` of
//! 0.2 if whoever runs it allows an address ([`TcpNetwork`]). The interfaces for UDP stay denied.
//!
//! | part | whose code | reason |
//! |---|---|---|
//! | sockets, their options and states | wasmtime-wasi | it is well kept, and never blocks a thread |
//! | the decision about an address (`Reach`) | this crate | it depends on the names that the host has resolved |
//! | bytes (`streams.rs`) | wasmtime-wasi, in a wrapper | every byte counts, by whichever function the guest moves it |
//! | names (`names.rs`) | this crate | wasmtime-wasi resolves every name, and does not bound its threads |
//!
//! `tcp.rs` is the door to the first part: it decides and counts, and then calls wasmtime-wasi. That decides once more
//! by the same `Reach`, so that a path that `tcp.rs` does not know stays closed.
//!
//! A wait for a peer is a wait of the guest's future, as one for a timer of the machine (`machine.rs`) is. So a poll
//! takes both, and the time limit of the run ends either.
//!
//! The network is metered ([`Meter`]). Each connection that is begun is a call, and so is each look-up of a name. Each
//! byte that the program writes or reads is a byte of the network. Beyond the allowance the host ends the run.

mod names;
mod streams;
mod tcp;

#[cfg(test)]
mod tests;

use super::{HasWasi, Wasi};
use crate::stop::Stop;
use futures::future::BoxFuture;
use lifeboat_api::meter::NetworkAmount;
use lifeboat_api::text::shortened;
use lifeboat_api::transaction::Cause;
use names::Resolved;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::p2::bindings::sockets::{instance_network, network, tcp as tcp_interface, tcp_create_socket};
use wasmtime_wasi::p2::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtx, WasiSocketsCtxView};
use wasmtime_wasi_io::streams::DynOutputStream;

#[allow(missing_docs, unreachable_pub, reason = "generated; the files in host/vm/wasi are the documentation")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wasi",
        world: "lifeboat:wasi/names",
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:sockets/network": wasmtime_wasi::p2::bindings::sockets::network,
            "wasi:sockets/ip-name-lookup.resolve-address-stream": super::names::LookUp,
        },
        imports: { default: trappable },
        require_store_data_send: true,
        trappable_error_type: {
            "wasi:sockets/network.error-code" => wasmtime_wasi::p2::SocketError,
        },
    });
}
use bindings::wasi::sockets::ip_name_lookup;

/// The interfaces that a program with a [`TcpNetwork`] is granted, of any release of WASI 0.2.
const GRANTED: [&str; 5] = ["network", "instance-network", "tcp-create-socket", "tcp", "ip-name-lookup"];

/// The most sockets that a program may have open at once. The next one is `new-socket-limit`.
pub const SOCKETS_MAX: usize = 128;

/// The most bytes of a socket that this process holds: what was written to it, and its peer has no room for. What is
/// received stays in the kernel until the program reads it.
pub const SOCKET_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The buffer of the kernel in each direction of a socket, and the largest one that a program may ask for. More is not
/// refused, but gives this much. A size that is set also keeps the kernel from choosing a larger one by itself.
pub const KERNEL_BUFFER_BYTES_MAX: u64 = 256 * 1024;

/// The most addresses of a name that a program may connect to: those that were resolved last.
pub const NAME_ADDRESSES_MAX: usize = 64;

/// The longest time that a name may take to be resolved. Then the look-up fails.
pub const NAME_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the end of a program waits for peers to take what the program has sent, as the kernel would for a process.
pub const LINGER_MAX: Duration = Duration::from_secs(5);

/// Returns whether `import` is an interface that a program gets if it may connect to an address. Only releases of WASI
/// count: a candidate for one may have other functions.
#[must_use]
pub fn is_granted(import: &str) -> bool {
    let interface = import.strip_prefix("wasi:sockets/").and_then(|name| name.split_once("@0.2."));
    interface.is_some_and(|(interface, patch)| {
        let is_release = !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit());
        is_release && GRANTED.contains(&interface)
    })
}

/// Links the interfaces for which [`is_granted`] holds.
///
/// # Errors
/// Fails only if a name is linked twice.
pub(crate) fn add_to_linker<D: HasWasi>(linker: &mut Linker<D>) -> Result<()> {
    type Own = HasSelf<Wasi>;
    let mut options = network::LinkOptions::default();
    options.network_error_code(true);
    network::add_to_linker::<D, Own>(linker, &options, D::wasi)?;
    instance_network::add_to_linker::<D, Own>(linker, D::wasi)?;
    tcp_create_socket::add_to_linker::<D, Own>(linker, D::wasi)?;
    tcp_interface::add_to_linker::<D, Own>(linker, D::wasi)?;
    ip_name_lookup::add_to_linker::<D, Own>(linker, D::wasi)
}

/// What a program that is run once reaches by TCP.
#[derive(Clone)]
pub struct TcpNetwork {
    /// The addresses.
    pub peers: Arc<dyn Peers>,
    /// The connections and look-ups of names that it may begin, and the bytes that it may write and read.
    pub allowance: NetworkAmount,
}

impl std::fmt::Debug for TcpNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpNetwork").field("allowance", &self.allowance).finish_non_exhaustive()
    }
}

/// The addresses that whoever runs a program lets it connect to.
pub trait Peers: Send + Sync {
    /// Returns whether this literal address is allowed.
    fn allows(&self, address: SocketAddr) -> bool;

    /// Returns what a guest means by `name`.
    fn find(&self, name: &str) -> Peer;

    /// Begins to resolve the name of a [`Peer::Name`]. The caller waits for at most [`NAME_TIME_MAX`], and makes one
    /// look-up of a name at a time.
    fn resolve(&self, name: &str) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>>;
}

/// What a guest means by a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Neither a name nor an address.
    Invalid,
    /// A name or an address that is not allowed.
    Denied,
    /// An address that is allowed.
    Literal(IpAddr),
    /// A name that is allowed, in the one form that all of its spellings have, and the allowed ports.
    Name {
        /// The name.
        name: String,
        /// The ports.
        ports: Vec<u16>,
    },
}

/// The addresses that a program may connect to at this time.
struct Reach {
    peers: Arc<dyn Peers>,
    /// The addresses that the host has resolved, by the name.
    resolved: Mutex<HashMap<String, Resolved>>,
}

impl Reach {
    fn allows(&self, address: SocketAddr) -> bool {
        // With a zone it is an address of one interface of this machine, and neither an option nor a name has one.
        if matches!(address, SocketAddr::V6(address) if address.scope_id() != 0) {
            return false;
        }
        if self.peers.allows(address) {
            return true;
        }
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.values().any(|resolved| resolved.allows(address))
    }

    /// Returns whether wasmtime-wasi may use an address.
    fn permits(&self, address: SocketAddr, address_use: SocketAddrUse) -> bool {
        match address_use {
            SocketAddrUse::TcpConnect => self.allows(address),
            // Any other address would show which ones this machine has.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            _ => false,
        }
    }
}

/// The use of a network by one program.
#[derive(Debug)]
struct Meter {
    allowance: NetworkAmount,
    calls: AtomicU64,
    bytes: AtomicU64,
    /// The fuel for bytes since the host last collected it.
    owed_fuel: AtomicU64,
}

impl Meter {
    fn new(allowance: NetworkAmount) -> Self {
        Self { allowance, calls: AtomicU64::new(0), bytes: AtomicU64::new(0), owed_fuel: AtomicU64::new(0) }
    }

    fn used(&self) -> NetworkAmount {
        let [calls, bytes] = [&self.calls, &self.bytes].map(|used| used.load(Ordering::Relaxed));
        // The byte beyond the allowance, which ends the run, was not used by the program.
        NetworkAmount { calls, bytes: bytes.min(self.allowance.bytes) }
    }

    fn bytes_left(&self) -> u64 {
        self.allowance.bytes.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// Returns the error that ends the run.
    fn used_up(&self) -> wasmtime::Error {
        let NetworkAmount { calls: limit_calls, bytes: limit_bytes } = self.allowance;
        wasmtime::Error::new(Stop(Cause::Network { limit_calls, limit_bytes }))
    }

    /// Checks that the allowance has one more call.
    fn check_call(&self) -> Result<()> {
        if self.calls.load(Ordering::Relaxed) >= self.allowance.calls { Err(self.used_up()) } else { Ok(()) }
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks that the allowance has these bytes.
    fn check_bytes(&self, count: usize) -> Result<()> {
        if count as u64 > self.bytes_left() { Err(self.used_up()) } else { Ok(()) }
    }

    fn count_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.owed_fuel.fetch_add(count as u64 / super::process::BYTES_PER_FUEL, Ordering::Relaxed);
    }
}

/// The characters that are shown of an address or a name that the program may not reach.
const DENIED_CHARS_MAX: usize = 100;

/// The sockets of a program.
pub(super) struct Sockets {
    /// What wasmtime-wasi permits.
    permitted: WasiSocketsCtx,
    reach: Arc<Reach>,
    meter: Arc<Meter>,
    /// The number of sockets that the program has open.
    open: usize,
    /// The streams that write to a socket, by their numbers in the resource table.
    outputs: Vec<u32>,
    /// The first address or name that the program asked for and may not reach.
    denied: Option<String>,
}

impl Sockets {
    pub(super) fn new(TcpNetwork { peers, allowance }: TcpNetwork) -> Self {
        let reach = Arc::new(Reach { peers, resolved: Mutex::default() });
        let decides = Arc::clone(&reach);
        let permitted = WasiCtxBuilder::new()
            .allow_tcp(true)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .socket_addr_check(move |address, address_use| {
                let is_permitted = decides.permits(address, address_use);
                Box::pin(async move { is_permitted })
            })
            .build()
            .sockets()
            .clone();
        Self { permitted, reach, meter: Arc::new(Meter::new(allowance)), open: 0, outputs: Vec::new(), denied: None }
    }

    /// Notes what the program may not reach. Returns the error for it.
    fn deny(&mut self, what: impl fmt::Display) -> ErrorCode {
        self.denied.get_or_insert_with(|| shortened(&what.to_string(), DENIED_CHARS_MAX));
        ErrorCode::AccessDenied
    }

    /// Notes that the guest has dropped a stream.
    pub(super) fn close(&mut self, rep: u32) {
        self.outputs.retain(|output| *output != rep);
    }

    /// Returns and resets the fuel that the guest owes for bytes.
    pub(super) fn take_fuel(&self) -> u64 {
        self.meter.owed_fuel.swap(0, Ordering::Relaxed)
    }
}

impl Wasi {
    /// Gives a program that is run once a network.
    pub(crate) fn set_network(&mut self, network: TcpNetwork) {
        self.sockets = Some(Box::new(Sockets::new(network)));
    }

    /// Returns what the program has used of its network.
    pub(crate) fn network_used(&self) -> NetworkAmount {
        self.sockets.as_ref().map(|sockets| sockets.meter.used()).unwrap_or_default()
    }

    /// Returns the first address or name that the program asked for and may not reach, printable.
    pub(crate) fn denied_peer(&self) -> Option<String> {
        self.sockets.as_ref().and_then(|sockets| sockets.denied.clone())
    }

    /// Waits until the peers have room for what the program has written, for at most `time`. Returns whether they had.
    /// A peer that takes longer loses the rest.
    pub(crate) async fn linger(&mut self, time: Duration) -> bool {
        let outputs = self.sockets.as_mut().map(|sockets| std::mem::take(&mut sockets.outputs)).unwrap_or_default();
        let taken = async {
            for rep in outputs {
                if let Ok(output) = self.table.get_mut(&Resource::<DynOutputStream>::new_borrow(rep)) {
                    output.cancel().await;
                }
            }
        };
        tokio::time::timeout(time, taken).await.is_ok()
    }

    /// Returns the sockets.
    ///
    /// # Errors
    /// `access-denied` if the program has no network.
    fn sockets(&mut self) -> SocketResult<&mut Sockets> {
        self.sockets.as_deref_mut().ok_or_else(|| ErrorCode::AccessDenied.into())
    }

    /// Returns what the functions of wasmtime-wasi work on.
    ///
    /// # Errors
    /// `access-denied` if the program has no network.
    fn stock(&mut self) -> SocketResult<WasiSocketsCtxView<'_>> {
        let Some(sockets) = self.sockets.as_deref_mut() else { return Err(ErrorCode::AccessDenied.into()) };
        Ok(WasiSocketsCtxView { ctx: &mut sockets.permitted, table: &mut self.table })
    }
}

/// Returns the trap that `error` is, or one for an error of a function that has none.
fn trap(error: SocketError) -> wasmtime::Error {
    match error.downcast() {
        Ok(code) => Stop::trap(format!("denied: {code}: the program has no network")),
        Err(trap) => trap,
    }
}
