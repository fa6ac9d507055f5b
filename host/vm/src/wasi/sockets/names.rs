//! `ip-name-lookup`: the addresses of the names that are allowed.
//!
//! The host makes one look-up of a name at a time, and all streams that a guest opens for that name meanwhile share it.
//! So the look-ups that are under way are bounded by the list of allowed names. Each is a task of the runtime, and ends
//! also if no stream waits for it. What the host has resolved is what the guest may connect to.

use super::{NAME_ADDRESSES_MAX, NAME_TIME_MAX, Peer, Reach, ip_name_lookup};
use crate::wasi::Wasi;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, ready};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, Weak};
use tokio::task::AbortHandle;
use wasmtime::Result;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{SocketError, SocketResult};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// What a look-up has found.
type Found = Result<Arc<[IpAddr]>, ErrorCode>;

/// A look-up that several streams share.
type Addresses = Shared<BoxFuture<'static, Found>>;

/// A part of the error of a name server that did not answer, for which the standard library has no kind.
const TEMPORARY: &str = "Temporary failure in name resolution";

/// What the host knows about an allowed name.
pub(super) struct Resolved {
    ports: Vec<u16>,
    /// The addresses, those that were resolved last at the end.
    addresses: VecDeque<IpAddr>,
    /// The last look-up, and its task, which may be under way.
    look_up: Option<(AbortHandle, Addresses)>,
}

impl Resolved {
    fn new(ports: Vec<u16>) -> Self {
        Self { ports, addresses: VecDeque::new(), look_up: None }
    }

    pub(super) fn allows(&self, address: SocketAddr) -> bool {
        self.ports.contains(&address.port()) && self.addresses.contains(&address.ip())
    }

    fn add(&mut self, addresses: &[IpAddr]) {
        self.addresses.retain(|known| !addresses.contains(known));
        self.addresses.extend(addresses);
        let surplus = self.addresses.len().saturating_sub(NAME_ADDRESSES_MAX);
        self.addresses.drain(..surplus);
    }
}

impl Reach {
    /// Returns the look-up of an allowed name that is under way, or begins one.
    pub(super) fn look_up(self: &Arc<Self>, name: String, ports: Vec<u16>) -> Addresses {
        let mut all = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let resolved = all.entry(name.clone()).or_insert_with(|| Resolved::new(ports));
        if let Some((_, look_up)) = resolved.look_up.as_ref().filter(|(task, _)| !task.is_finished()) {
            return look_up.clone();
        }
        // A look-up must not keep the addresses of a run that has ended.
        let task = tokio::spawn(find(Arc::downgrade(self), name.clone(), self.peers.resolve(&name)));
        let running = task.abort_handle();
        let found = task.map(|found| found.unwrap_or(Err(ErrorCode::PermanentResolverFailure)));
        let look_up = found.boxed().shared();
        resolved.look_up = Some((running, look_up.clone()));
        look_up
    }
}

/// Waits for the addresses of `name`, and notes them.
async fn find(reach: Weak<Reach>, name: String, finding: BoxFuture<'static, io::Result<Vec<IpAddr>>>) -> Found {
    let found = tokio::time::timeout(NAME_TIME_MAX, finding).await;
    let Ok(found) = found else { return Err(ErrorCode::TemporaryResolverFailure) };
    let found = found.map_err(|error| code_of(&error))?;
    let mut addresses: Vec<IpAddr> = found.into_iter().map(|address| address.to_canonical()).collect();
    addresses.truncate(NAME_ADDRESSES_MAX);
    if addresses.is_empty() {
        return Err(ErrorCode::NameUnresolvable);
    }
    if let Some(reach) = reach.upgrade()
        && let Some(resolved) = reach.resolved.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&name)
    {
        resolved.add(&addresses);
    }
    Ok(addresses.into())
}

/// Returns what an error of the resolver is for the guest.
pub(super) fn code_of(error: &io::Error) -> ErrorCode {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => ErrorCode::TemporaryResolverFailure,
        _ if error.to_string().contains(TEMPORARY) => ErrorCode::TemporaryResolverFailure,
        _ => ErrorCode::NameUnresolvable,
    }
}

/// A stream of the addresses of a name.
#[expect(unreachable_pub, reason = "the generated module exports it again")]
pub struct LookUp {
    addresses: Addresses,
    /// The number of addresses that the guest has taken.
    taken: usize,
}

#[async_trait]
impl Pollable for LookUp {
    async fn ready(&mut self) {
        drop(self.addresses.clone().await);
    }
}

impl ip_name_lookup::Host for Wasi {
    fn resolve_addresses(&mut self, network: Resource<Network>, name: String) -> SocketResult<Resource<LookUp>> {
        self.table.get(&network)?;
        self.owed_fuel = self.owed_fuel.saturating_add(name.len() as u64);
        let sockets = self.sockets()?;
        let addresses = match sockets.reach.peers.find(&name) {
            Peer::Invalid => return Err(ErrorCode::InvalidArgument.into()),
            Peer::Denied => return Err(sockets.deny(&name).into()),
            Peer::Literal(address) => ready(Ok(Arc::from([address]))).boxed().shared(),
            Peer::Name { name, ports } => {
                sockets.meter.check_call().map_err(SocketError::trap)?;
                sockets.meter.count_call();
                sockets.reach.look_up(name, ports)
            }
        };
        Ok(self.table.push(LookUp { addresses, taken: 0 })?)
    }
}

impl ip_name_lookup::HostResolveAddressStream for Wasi {
    fn resolve_next_address(&mut self, stream: Resource<LookUp>) -> SocketResult<Option<IpAddress>> {
        let look_up = self.table.get_mut(&stream)?;
        let Some(result) = look_up.addresses.clone().now_or_never() else { return Err(ErrorCode::WouldBlock.into()) };
        let next = result?.get(look_up.taken).copied();
        look_up.taken += usize::from(next.is_some());
        Ok(next.map(IpAddress::from))
    }

    fn subscribe(&mut self, stream: Resource<LookUp>) -> Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn drop(&mut self, stream: Resource<LookUp>) -> Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}
