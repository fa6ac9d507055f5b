//! Who is connected: places for connections, and whose place is taken when there is no other.
//!
//! A connection on which nobody has authenticated has a short deadline. When all places are taken, a new connection gets
//! that of one that waits for its client: of one that nobody authenticated on, from the address that has the most of them;
//! else of one that has waited for long. So clients that send nothing keep nobody out, however many there are.

use lifeboat_host::auth::network;
use lifeboat_host::budget::{Budgets, ConnectionBudget};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a connection may be idle on which nobody has authenticated; and how long a log-in may take to be sent.
pub const UNAUTHENTICATED_IDLE_MAX: Duration = Duration::from_secs(15);

/// How long an authenticated connection must have waited for its client before a new one may get its place.
pub const REPLACED_IDLE_MIN: Duration = Duration::from_secs(15);

/// How soon to look again for a place when all are taken by requests under way.
const PLACE_RETRY: Duration = Duration::from_millis(50);

/// No body is awaited.
const NOT_RECEIVING: u64 = u64::MAX;

/// A connection, as its requests see it.
#[derive(Debug)]
pub(super) struct Connection {
    /// The client's.
    pub(super) address: SocketAddr,
    /// What all its requests may take together.
    pub(super) budget: ConnectionBudget,
    is_authenticated: AtomicBool,
    under_way: AtomicUsize,
    start: Instant,
    /// Since when no request is under way, in milliseconds after `start`.
    idle_since: AtomicU64,
    /// Since when the body of the request under way is awaited, so counted; [`NOT_RECEIVING`] if it is not.
    receiving_since: AtomicU64,
    closing: Notify,
}

/// A request under way: its connection is not idle until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Connection>);

/// The body of a request is awaited until this is dropped.
#[derive(Debug)]
pub(super) struct Receiving<'a>(&'a Connection);

impl Connection {
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// Somebody's token was good on it.
    pub(super) fn authenticated(&self) {
        if !self.is_authenticated.load(Ordering::Relaxed) {
            self.is_authenticated.store(true, Ordering::Relaxed);
        }
    }

    /// Its request under way waits for its client to send the body.
    pub(super) fn receiving(&self) -> Receiving<'_> {
        self.receiving_since.store(self.now(), Ordering::Release);
        Receiving(self)
    }

    /// In milliseconds after `start`.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long it has been idle; none while a request is under way.
    fn idle(&self) -> Option<Duration> {
        if self.under_way.load(Ordering::Acquire) > 0 {
            return None;
        }
        let since = Duration::from_millis(self.idle_since.load(Ordering::Acquire));
        Some(self.start.elapsed().saturating_sub(since))
    }

    /// How long it has waited for its client to send a request, or the body of one; none while the server is at work.
    fn waiting(&self) -> Option<Duration> {
        match self.receiving_since.load(Ordering::Acquire) {
            NOT_RECEIVING => self.idle(),
            since => Some(self.start.elapsed().saturating_sub(Duration::from_millis(since))),
        }
    }

    fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// Waits until the connection is to be closed: its place is another's, or nobody authenticated in time.
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

/// Places for connections. Clones are the same ones.
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
    /// In the order in which they came.
    by_address: HashMap<IpAddr, BTreeMap<u64, Arc<Connection>>>,
}

/// A connection's place, until it is dropped.
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

    /// Waits until a connection that is accepted now finds a place.
    pub(super) async fn room(&self) {
        loop {
            let released = self.released.notified();
            {
                let table = self.table();
                if table.count < self.max || table.replaceable().is_some() {
                    return;
                }
            }
            // A connection becomes idle without a word.
            let _ = tokio::time::timeout(PLACE_RETRY, released).await;
        }
    }

    /// A place for a connection from `address`; none if that address has all that it may, or there is none.
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
    /// The connection whose place a new one gets.
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
        // It may have been given to another.
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
        // What was replaced gives back nothing when it ends.
        drop(held.remove(3));
        assert_eq!(connections.table().count, 6);
        drop((held, new));
        assert_eq!(connections.table().count, 0);
        assert!(connections.table().by_address.is_empty());
    }

    #[test]
    fn requests_under_way_and_authenticated_connections_that_were_just_used_stay() {
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
