//! The places for connections, and the choice of the connection that a new one replaces.
//!
//! A connection without an authenticated request has a short idle timeout. If all places are taken, a new connection
//! replaces one that waits for its client. The first choice is an unauthenticated connection from the address with the
//! most of them; the second is a connection that has waited for long. Therefore clients that send nothing exclude
//! nobody, however many there are.

use lifeboat_host::auth::network;
use lifeboat_host::budget::{Budgets, ConnectionBudget};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The longest time that a connection may be idle without an authenticated request. Also the longest time in which the
/// body of a log-in must arrive.
pub const UNAUTHENTICATED_IDLE_MAX: Duration = Duration::from_secs(15);

/// The time that an authenticated connection must have waited for its client before a new one may replace it.
pub const REPLACED_IDLE_MIN: Duration = Duration::from_secs(15);

/// The interval between searches for a place while requests in flight occupy all of them.
const PLACE_RETRY: Duration = Duration::from_millis(50);

/// The value of `receiving_since` while no body is awaited.
const NOT_RECEIVING: u64 = u64::MAX;

/// A connection, as its requests see it.
#[derive(Debug)]
pub(super) struct Connection {
    /// The address of the client.
    pub(super) address: SocketAddr,
    /// The memory budget of all requests of the connection together.
    pub(super) budget: ConnectionBudget,
    is_authenticated: AtomicBool,
    under_way: AtomicUsize,
    start: Instant,
    /// When the connection became idle, in milliseconds after `start`.
    idle_since: AtomicU64,
    /// When the wait for the body of the current request began, in milliseconds after `start`; or [`NOT_RECEIVING`].
    receiving_since: AtomicU64,
    closing: Notify,
}

/// A request in flight. Its connection is not idle until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Connection>);

/// A wait for the body of a request, until this is dropped.
#[derive(Debug)]
pub(super) struct Receiving<'a>(&'a Connection);

impl Connection {
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// Notes that a request on this connection had a valid token.
    pub(super) fn authenticated(&self) {
        if !self.is_authenticated.load(Ordering::Relaxed) {
            self.is_authenticated.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the current request waits for its client to send the body.
    pub(super) fn receiving(&self) -> Receiving<'_> {
        self.receiving_since.store(self.now(), Ordering::Release);
        Receiving(self)
    }

    /// Returns the time in milliseconds after `start`.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns how long the connection has been idle, or `None` while a request is in flight.
    fn idle(&self) -> Option<Duration> {
        if self.under_way.load(Ordering::Acquire) > 0 {
            return None;
        }
        let since = Duration::from_millis(self.idle_since.load(Ordering::Acquire));
        Some(self.start.elapsed().saturating_sub(since))
    }

    /// Returns how long the connection has waited for its client to send a request or a body, or `None` while the
    /// server works.
    fn waiting(&self) -> Option<Duration> {
        match self.receiving_since.load(Ordering::Acquire) {
            NOT_RECEIVING => self.idle(),
            since => Some(self.start.elapsed().saturating_sub(Duration::from_millis(since))),
        }
    }

    fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// Waits until the connection must be closed: another connection received its place, or nobody authenticated in
    /// time.
    pub(super) async fn closed(&self) {
        loop {
            let left = match self.idle() {
                _ if self.is_authenticated() => return self.closing.notified().await,
                Some(idle) if idle >= UNAUTHENTICATED_IDLE_MAX => return,
                Some(idle) => UNAUTHENTICATED_IDLE_MAX - idle,
                None => UNAUTHENTICATED_IDLE_MAX,
            };
            tokio::select! {
                () = self.closing.notified() => return,
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.receiving_since.store(NOT_RECEIVING, Ordering::Release);
    }
}

/// The places for connections. Clones share the same places.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    max: usize,
    of_address_max: usize,
    budgets: Budgets,
    table: Arc<Mutex<Table>>,
    released: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    count: usize,
    last_number: u64,
    /// The connections of each address, in the order of their arrival.
    by_address: HashMap<IpAddr, BTreeMap<u64, Arc<Connection>>>,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    address: IpAddr,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

impl Connections {
    pub(super) fn new(max: usize, of_address_max: usize, budgets: Budgets) -> Self {
        Self { max: max.max(1), of_address_max, budgets, table: Arc::default(), released: Arc::default() }
    }

    /// Waits until there is a place for a new connection.
    pub(super) async fn room(&self) {
        loop {
            let released = self.released.notified();
            {
                let table = self.table();
                if table.count < self.max || table.replaceable().is_some() {
                    return;
                }
            }
            // No notification announces that a connection becomes idle.
            let _ = tokio::time::timeout(PLACE_RETRY, released).await;
        }
    }

    /// Returns a place for a connection from `address`, or `None` if the address has reached its limit or no place is
    /// free.
    pub(super) fn take(&self, address: SocketAddr) -> Option<Place> {
        let of = network(address.ip());
        let mut table = self.table();
        if table.by_address.get(&of).is_some_and(|theirs| theirs.len() >= self.of_address_max) {
            return None;
        }
        if table.count >= self.max {
            let (address, number) = table.replaceable()?;
            if let Some(replaced) = table.remove(address, number) {
                replaced.closing.notify_one();
            }
        }
        let connection = Arc::new(Connection {
            address,
            budget: self.budgets.connection(),
            is_authenticated: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            start: Instant::now(),
            idle_since: AtomicU64::new(0),
            receiving_since: AtomicU64::new(NOT_RECEIVING),
            closing: Notify::new(),
        });
        table.last_number += 1;
        table.count += 1;
        let number = table.last_number;
        table.by_address.entry(of).or_default().insert(number, Arc::clone(&connection));
        drop(table);
        Some(Place { connections: self.clone(), address: of, number, connection })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Returns the connection that a new one replaces.
    fn replaceable(&self) -> Option<(IpAddr, u64)> {
        let mut addresses: Vec<(usize, IpAddr)> =
            self.by_address.iter().map(|(address, theirs)| (theirs.len(), *address)).collect();
        addresses.sort_unstable_by(|one, other| other.cmp(one));
        let first = |is_replaced: &dyn Fn(&Connection) -> bool| {
            addresses.iter().find_map(|(_, address)| {
                let theirs = &self.by_address[address];
                let (number, _) = theirs.iter().find(|(_, connection)| is_replaced(connection))?;
                Some((*address, *number))
            })
        };
        let unauthenticated =
            |connection: &Connection| !connection.is_authenticated() && connection.waiting().is_some();
        let waiting_long =
            |connection: &Connection| connection.waiting().is_some_and(|waiting| waiting >= REPLACED_IDLE_MIN);
        first(&unauthenticated).or_else(|| first(&waiting_long))
    }

    fn remove(&mut self, address: IpAddr, number: u64) -> Option<Arc<Connection>> {
        let theirs = self.by_address.get_mut(&address)?;
        let removed = theirs.remove(&number)?;
        if theirs.is_empty() {
            self.by_address.remove(&address);
        }
        self.count -= 1;
        Some(removed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Another connection may have received the place.
        if self.connections.table().remove(self.address, self.number).is_some() {
            self.connections.released.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 1))
    }

    fn places(max: usize) -> Connections {
        Connections::new(max, max, Budgets::default())
    }

    #[test]
    fn a_new_connection_gets_the_place_of_an_idle_one_of_whoever_has_the_most() {
        let connections = places(6);
        let mut held: Vec<Place> =
            [1, 2, 2, 2, 3, 3].map(|number| connections.take(address(number)).expect("free")).into();
        held[1].connection.authenticated();
        let busy = held[2].connection.busy();
        let new = connections.take(address(4)).expect("the place of the third of address 2");
        assert_eq!(connections.table().by_address[&address(2).ip()].len(), 2);
        assert!(connections.table().by_address[&address(2).ip()].contains_key(&2), "the authenticated one stays");
        assert!(connections.table().by_address[&address(2).ip()].contains_key(&3), "the busy one stays");
        drop(busy);
        // A replaced connection releases nothing when it ends.
        drop(held.remove(3));
        assert_eq!(connections.table().count, 6);
        drop((held, new));
        assert_eq!(connections.table().count, 0);
        assert!(connections.table().by_address.is_empty());
    }

    #[test]
    fn a_connection_in_use_is_not_replaced() {
        let connections = places(2);
        let one = connections.take(address(1)).expect("free");
        let other = connections.take(address(2)).expect("free");
        let _busy = one.connection.busy();
        other.connection.authenticated();
        assert!(connections.take(address(3)).is_none());
        drop(one);
        assert!(connections.take(address(3)).is_some());
    }

    #[test]
    fn a_request_whose_body_does_not_come_keeps_nobody_out() {
        let connections = places(1);
        let sending = connections.take(address(1)).expect("free");
        let _busy = sending.connection.busy();
        let _receiving = sending.connection.receiving();
        let new = connections.take(address(2)).expect("the place of the one that sends nothing");
        let _busy = new.connection.busy();
        drop(new.connection.receiving());
        assert!(connections.take(address(3)).is_none(), "its body has come");
        new.connection.authenticated();
        let _receiving = new.connection.receiving();
        assert!(connections.take(address(3)).is_none(), "it has not waited for long");
    }

    #[test]
    fn an_address_has_a_share() {
        let connections = Connections::new(4, 2, Budgets::default());
        let held = [1, 1, 1].map(|number| connections.take(address(number)));
        assert!(held[0].is_some() && held[1].is_some() && held[2].is_none());
    }

    #[tokio::test]
    async fn a_replaced_connection_is_closed() {
        let connections = places(1);
        let old = connections.take(address(1)).expect("free");
        let _new = connections.take(address(2)).expect("the place of the old one");
        old.connection.closed().await;
    }
}
