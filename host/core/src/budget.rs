//! Budgets that limit how much of the host's memory requests and their answers may take.
//!
//! Three budgets apply at once: those of the connection, the user and the host. A request is executed only if its
//! largest possible answer fits all three. Once the answer is known, the permit shrinks to the answer's size. The
//! permit is held until the client has the bytes or is gone. Incoming bodies and lines hold permits as well.
//!
//! ```text
//!   body read          executed                     committed        written to the socket
//!   take(length) ----> reserve(ANSWER_BYTES_MAX) -> shrink(size) --> permit dropped with the last byte
//! ```
//!
//! A user may take an eighth of what the host has left, so a few users always leave room for the next one. Received
//! bytes may take three quarters of each budget. The rest is for answers, which release the received bytes.

use lifeboat_api::name::Name;
use lifeboat_api::transaction::REPLY_BYTES_MAX;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

/// The bytes that every batch takes of the budgets: for short bodies and answers, and for the lines that are being read
/// and written.
pub const BATCH_BASE_BYTES: usize = 1024 * 1024;

/// The most bytes of requests and answers that the host holds for its clients.
pub const HOST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most bytes of one user. A user may also have no more than one part in [`USER_SHARE`] of what the host has left,
/// or of this, whichever is larger.
pub const USER_BYTES_MAX: usize = USER_SHARE * ANSWER_BYTES_MAX;

/// A user may have one part in this many of what the host has left.
pub const USER_SHARE: usize = 8;

/// The most bytes of one connection.
pub const CONNECTION_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most bytes of lists, metrics and the like, of all clients, while they are made or wait for their clients. They
/// are counted apart from other answers, so that users see the host's status even if many answers are not read. One
/// user may have one part in [`USER_SHARE`] of what is left.
pub const LISTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The bytes of [`LISTS_BYTES_MAX`] that only admins may take, so that they see the host's status even if many lists
/// are not read.
pub const LISTS_RESERVED_BYTES: usize = ANSWER_BYTES_MAX;

/// The bytes that a list takes for an entry while it is made, on average: the entry's data and its JSON.
pub const LIST_ENTRY_BYTES: usize = 4 * 1024;

/// The longest answer or body, in bytes, that takes nothing of the budgets: a connection itself takes more.
pub const UNCOUNTED_BYTES_MAX: usize = 1024;

/// The bytes of the largest answer, with the data around it.
pub const ANSWER_BYTES_MAX: usize = REPLY_BYTES_MAX + 64 * 1024;

/// The bytes that a JSON answer takes beside its content where the content is escaped. A long one is made a piece at a
/// time.
pub const ESCAPES_BYTES_MAX: usize = 96 * 1024;

/// How long a request waits for room in the budgets before it is denied.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

/// How soon a waiting caller looks for room again without a notification.
const ROOM_RETRY: Duration = Duration::from_millis(50);

/// The number of users whose budgets are retained while they take nothing.
const IDLE_USERS_MAX: usize = 4_096;

/// The bytes that are taken of one budget.
#[derive(Debug)]
struct Level {
    max: usize,
    taken: AtomicUsize,
    /// The received bytes among them: requests that wait, and hold their bytes until they are answered.
    received: AtomicUsize,
}

impl Level {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0), received: AtomicUsize::new(0) })
    }

    /// Takes `bytes` if at most `max` bytes are taken afterwards. Received bytes leave a quarter of `max`, and room for
    /// one answer. Otherwise callers that hold received bytes would wait for themselves.
    fn take(&self, bytes: usize, max: usize, is_received: bool) -> bool {
        let of_answers = (max / 4).max(ANSWER_BYTES_MAX.min(max / 2));
        let max = if is_received { max - of_answers } else { max };
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= max);
        let is_taken = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok();
        if is_taken && is_received {
            self.received.fetch_add(bytes, Ordering::SeqCst);
        }
        is_taken
    }

    fn release(&self, bytes: usize, is_received: bool) {
        if is_received {
            self.received.fetch_sub(bytes, Ordering::SeqCst);
        }
        self.taken.fetch_sub(bytes, Ordering::SeqCst);
    }

    fn left(&self) -> usize {
        self.max.saturating_sub(self.taken.load(Ordering::SeqCst))
    }
}

/// The host's budget, and the callers that wait for room in any budget.
#[derive(Debug)]
struct HostLevel {
    level: Arc<Level>,
    waiting: AtomicUsize,
    released: Notify,
}

/// The budgets of a host and its users. Clones share them.
#[derive(Debug, Clone)]
pub struct Budgets {
    host: Arc<HostLevel>,
    users: Arc<RwLock<HashMap<Name, Arc<Level>>>>,
    /// The shared budget of all requests that need no token.
    nobody: Arc<Level>,
    user_bytes_max: usize,
    connection_bytes_max: usize,
    /// The bytes of the host's budget that only admins may take.
    reserved_bytes: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(HOST_BYTES_MAX, USER_BYTES_MAX, CONNECTION_BYTES_MAX)
    }
}

impl Budgets {
    /// Returns the budgets of lists, metrics and the like.
    #[must_use]
    pub fn of_lists() -> Self {
        let budgets = Self::new(LISTS_BYTES_MAX, USER_BYTES_MAX, CONNECTION_BYTES_MAX);
        Self { reserved_bytes: LISTS_RESERVED_BYTES, ..budgets }
    }

    /// Returns budgets of these bytes for the host, for each user, and for each connection.
    #[must_use]
    pub fn new(host_bytes_max: usize, user_bytes_max: usize, connection_bytes_max: usize) -> Self {
        let level = Level::new(host_bytes_max);
        let host = Arc::new(HostLevel { level, waiting: AtomicUsize::new(0), released: Notify::new() });
        let nobody = Level::new(user_bytes_max);
        Self { host, users: Arc::default(), nobody, user_bytes_max, connection_bytes_max, reserved_bytes: 0 }
    }

    /// Returns the budget of a new connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionBudget {
        ConnectionBudget(Level::new(self.connection_bytes_max))
    }

    /// Returns the account of a request of `user` on `connection`.
    #[must_use]
    pub fn account(&self, connection: &ConnectionBudget, user: &Name) -> Arc<Account> {
        self.account_at(connection, self.user(user), self.reserved_bytes)
    }

    /// Returns the account of an admin's request, which may take the reserved bytes.
    #[must_use]
    pub fn account_of_admin(&self, connection: &ConnectionBudget, user: &Name) -> Arc<Account> {
        self.account_at(connection, self.user(user), 0)
    }

    /// Returns the account of a request that needs no token. All of those share one user's budget.
    #[must_use]
    pub fn account_of_nobody(&self, connection: &ConnectionBudget) -> Arc<Account> {
        self.account_at(connection, Arc::clone(&self.nobody), self.reserved_bytes)
    }

    fn account_at(&self, connection: &ConnectionBudget, user: Arc<Level>, reserved_bytes: usize) -> Arc<Account> {
        Arc::new(Account {
            connection: Arc::clone(&connection.0),
            user,
            host: Arc::clone(&self.host),
            host_bytes_max: self.host.level.max - reserved_bytes,
            is_blocked: AtomicBool::new(false),
        })
    }

    /// Returns the bytes that are taken of the host's budget.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.host.level.taken.load(Ordering::SeqCst)
    }

    fn user(&self, name: &Name) -> Arc<Level> {
        if let Some(user) = self.users.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(user);
        }
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= IDLE_USERS_MAX {
            users.retain(|_, user| Arc::strong_count(user) > 1);
        }
        Arc::clone(users.entry(name.clone()).or_insert_with(|| Level::new(self.user_bytes_max)))
    }
}

/// The budget that all requests of a connection share.
#[derive(Debug, Clone)]
pub struct ConnectionBudget(Arc<Level>);

/// The account of a request: the budgets of its connection, its user and its host.
#[derive(Debug)]
pub struct Account {
    connection: Arc<Level>,
    user: Arc<Level>,
    host: Arc<HostLevel>,
    /// The most bytes of the host's budget that may be taken in total once this account has taken some.
    host_bytes_max: usize,
    /// Whether a request of this account found no room. Later requests are not executed before it.
    is_blocked: AtomicBool,
}

impl Account {
    /// Takes `bytes` of all three budgets for an answer, if there is room.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_of_all(bytes, false)
    }

    /// Takes `bytes` of all three budgets for received bytes, if there is room.
    #[must_use]
    pub fn take_received(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_of_all(bytes, true)
    }

    fn take_of_all(self: &Arc<Self>, bytes: usize, is_received: bool) -> Option<Permit> {
        if !self.connection.take(bytes, self.connection.max, is_received) {
            return None;
        }
        // One answer may always be tried, however little the host has left. Bytes that were received while the host had
        // more do not count against the answers. Otherwise users would wait for one another's requests, none of which
        // is executed.
        let mut share = (self.host.level.left() / USER_SHARE).max(self.user.max / USER_SHARE);
        if !is_received {
            share = share.max(self.user.received.load(Ordering::SeqCst).saturating_add(ANSWER_BYTES_MAX));
        }
        if !self.user.take(bytes, self.user.max.min(share), is_received) {
            self.connection.release(bytes, is_received);
            return None;
        }
        if !self.host.level.take(bytes, self.host_bytes_max, is_received) {
            self.user.release(bytes, is_received);
            self.connection.release(bytes, is_received);
            return None;
        }
        Some(Permit { account: Arc::clone(self), bytes, is_received })
    }

    /// Takes `bytes` for an answer as soon as there is room. Returns none if there is no room within `wait_max`.
    pub async fn take_within(self: &Arc<Self>, bytes: usize, wait_max: Duration) -> Option<Permit> {
        tokio::time::timeout(wait_max, self.wait(bytes, false)).await.ok()
    }

    /// Takes `bytes` for received bytes as soon as there is room. Returns none if there is no room within `wait_max`.
    pub async fn take_received_within(self: &Arc<Self>, bytes: usize, wait_max: Duration) -> Option<Permit> {
        tokio::time::timeout(wait_max, self.wait(bytes, true)).await.ok()
    }

    /// Takes `bytes` for received bytes as soon as there is room.
    pub async fn take_received_when_free(self: &Arc<Self>, bytes: usize) -> Permit {
        self.wait(bytes, true).await
    }

    /// Waits for room for the largest answer. Another account may take the room meanwhile.
    pub async fn has_room(self: &Arc<Self>) {
        self.has_room_for(ANSWER_BYTES_MAX, false).await;
    }

    /// Waits for room for `bytes`. Another account may take the room meanwhile.
    pub async fn has_room_for(self: &Arc<Self>, bytes: usize, is_received: bool) {
        drop(self.wait(bytes, is_received).await);
    }

    async fn wait(self: &Arc<Self>, bytes: usize, is_received: bool) -> Permit {
        let _waiting = Waiting::new(&self.host);
        loop {
            let released = self.host.released.notified();
            let mut released = std::pin::pin!(released);
            // Registered before the attempt, so that a release after the attempt is noticed.
            released.as_mut().enable();
            if let Some(permit) = self.take_of_all(bytes, is_received) {
                return permit;
            }
            // There is no notification when another account takes bytes and returns them at once, because it found no
            // room in another budget.
            let _ = tokio::time::timeout(ROOM_RETRY, released).await;
        }
    }

    /// Takes room for the largest answer, for a request that is about to be executed. Without room this account is
    /// blocked until [`Account::unblock`]: its later requests get no room either, so their order holds.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Permit> {
        if self.is_blocked.load(Ordering::Acquire) {
            return None;
        }
        let permit = self.take(ANSWER_BYTES_MAX);
        if permit.is_none() {
            self.is_blocked.store(true, Ordering::Release);
        }
        permit
    }

    /// Lets requests be executed again, once no request without room is in progress.
    pub fn unblock(&self) {
        self.is_blocked.store(false, Ordering::Release);
    }
}

impl HostLevel {
    fn notify(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.released.notify_waiters();
        }
    }
}

/// A caller that waits for room. Without any, no notification is sent.
struct Waiting<'a>(&'a HostLevel);

impl<'a> Waiting<'a> {
    fn new(host: &'a HostLevel) -> Self {
        host.waiting.fetch_add(1, Ordering::SeqCst);
        Self(host)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bytes of all three budgets, released when this is dropped.
#[derive(Debug)]
pub struct Permit {
    account: Arc<Account>,
    bytes: usize,
    is_received: bool,
}

impl Permit {
    /// Releases all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.account.release(less, self.is_received);
    }

    /// Changes the permit to `bytes`. Returns false, and changes nothing, if that is more and there is no room for the
    /// rest.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            let Some(mut rest) = self.account.take_of_all(bytes - self.bytes, self.is_received) else { return false };
            self.bytes += std::mem::take(&mut rest.bytes);
        }
        self.shrink(bytes);
        true
    }

    /// Returns the bytes that the permit holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Account {
    fn release(&self, bytes: usize, is_received: bool) {
        if bytes > 0 {
            self.connection.release(bytes, is_received);
            self.user.release(bytes, is_received);
            self.host.level.release(bytes, is_received);
            self.host.notify();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.release(self.bytes, self.is_received);
    }
}

/// Returns `bytes` that hold a permit, or several, until the last part of them is dropped. A socket drops the bytes
/// that it has written.
pub fn held<P: Send + 'static>(bytes: bytes::Bytes, permit: P) -> bytes::Bytes {
    struct Owner<P> {
        bytes: bytes::Bytes,
        _permit: P,
    }
    impl<P> AsRef<[u8]> for Owner<P> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    bytes::Bytes::from_owner(Owner { bytes, _permit: permit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn whatever_is_received_leaves_room_for_one_answer_of_each_connection() {
        const PIECE: usize = 64 * 1024;
        let budgets = Budgets::default();
        let mut received = Vec::new();
        let mut accounts = Vec::new();
        // There are more users than the host has room for, each with as much as a connection may take.
        for user in 0..40 {
            let account = budgets.account(&budgets.connection(), &name(&format!("user-{user}")));
            while let Some(permit) = account.take_received(PIECE) {
                received.push(permit);
            }
            accounts.push(account);
        }
        assert!(budgets.taken() > HOST_BYTES_MAX / 2, "{}", budgets.taken());
        for account in &accounts {
            let answer = account.reserve().expect("room for one answer");
            assert!(answer.bytes() >= ANSWER_BYTES_MAX);
        }
    }

    #[test]
    fn an_admin_has_room_for_a_list_whatever_others_do_not_read() {
        let budgets = Budgets::of_lists();
        let connection = || budgets.connection();
        let mut unread: Vec<_> = budgets.account_of_nobody(&connection()).take(ANSWER_BYTES_MAX).into_iter().collect();
        for user in 0..40 {
            let account = budgets.account(&connection(), &name(&format!("user-{user}")));
            while let Some(permit) = account.take(ANSWER_BYTES_MAX).or_else(|| account.take(LIST_ENTRY_BYTES)) {
                unread.push(permit);
            }
        }
        assert!(budgets.account_of_admin(&connection(), &name("admin")).take(ANSWER_BYTES_MAX).is_some());
    }

    #[test]
    fn open_batches_of_one_user_leave_room_for_those_of_others() {
        let budgets = Budgets::default();
        let mut open = Vec::new();
        let mut batches = |user: usize| {
            let user = name(&format!("user-{user}"));
            let before = open.len();
            while let Some(batch) = budgets.account(&budgets.connection(), &user).take_received(BATCH_BASE_BYTES) {
                open.push(batch);
            }
            open.len() - before
        };
        assert_eq!(batches(0), 22);
        let of_others: Vec<usize> = (1..12).map(&mut batches).collect();
        assert!(of_others.iter().all(|count| *count >= 2), "{of_others:?}");
    }

    #[test]
    fn a_permit_holds_until_the_last_of_its_bytes_is_dropped() {
        let budgets = Budgets::new(4_000, 400, 300);
        let account = budgets.account(&budgets.connection(), &name("ada"));
        let mut permit = account.take(300).expect("room");
        assert!(account.take(1).is_none(), "the connection has no more");
        permit.shrink(100);
        let mut bytes = held(bytes::Bytes::from(vec![7; 100]), permit);
        let half = bytes.split_to(50);
        drop(bytes);
        assert_eq!(budgets.taken(), 100);
        drop(half);
        assert_eq!(budgets.taken(), 0);
    }

    #[test]
    fn a_few_users_leave_room_for_the_next_one() {
        let budgets = Budgets::default();
        let mut permits = Vec::new();
        for number in 0..24 {
            let user = name(&format!("user-{number}"));
            let account = || budgets.account(&budgets.connection(), &user);
            assert!(account().take(ANSWER_BYTES_MAX).is_some(), "user {number} finds no room");
            // Each user opens as many connections as it needs.
            while let Some(permit) = account().take(1024 * 1024) {
                permits.push(permit);
            }
        }
    }

    #[test]
    fn requests_behind_one_without_room_are_not_executed_before_it() {
        let budgets = Budgets::new(HOST_BYTES_MAX, USER_BYTES_MAX, ANSWER_BYTES_MAX);
        let account = budgets.account(&budgets.connection(), &name("ada"));
        let first = account.reserve().expect("room");
        assert!(account.reserve().is_none());
        drop(first);
        assert!(account.reserve().is_none(), "there is room, and one that had none is before it");
        account.unblock();
        assert!(account.reserve().is_some());
    }

    #[tokio::test]
    async fn a_waiter_gets_room_once_it_is_released() {
        let budgets = Budgets::new(1_000, 100, 100);
        let account = budgets.account(&budgets.connection(), &name("ada"));
        let permit = account.take(100).expect("room");
        assert!(account.take_within(1, Duration::ZERO).await.is_none());
        let waiting = tokio::spawn({
            let account = Arc::clone(&account);
            async move { account.wait(60, false).await.bytes() }
        });
        tokio::task::yield_now().await;
        drop(permit);
        assert_eq!(waiting.await.expect("it gets room"), 60);
    }

    proptest! {
        /// No budget is ever exceeded and nothing is lost, whatever the order in which bytes are taken, shrunk and
        /// dropped.
        #[test]
        fn no_sequence_of_permits_exceeds_a_budget_or_leaks_bytes(
            steps in prop::collection::vec((0usize..3, 0usize..4, 0usize..200, any::<bool>()), 0..200),
        ) {
            let budgets = Budgets::new(500, 200, 120);
            let connections: Vec<_> = (0..4).map(|_| budgets.connection()).collect();
            let mut permits: Vec<(usize, usize, Permit)> = Vec::new();
            for (user, connection, bytes, is_taken) in steps {
                if is_taken {
                    let account = budgets.account(&connections[connection], &name(&format!("user-{user}")));
                    permits.extend(account.take(bytes).map(|permit| (user, connection, permit)));
                } else if !permits.is_empty() {
                    let at = bytes % permits.len();
                    if bytes % 3 == 0 { permits[at].2.shrink(bytes); } else { permits.swap_remove(at); }
                }
                let sum = |is_counted: &dyn Fn(&(usize, usize, Permit)) -> bool| {
                    permits.iter().filter(|permit| is_counted(permit)).map(|permit| permit.2.bytes()).sum::<usize>()
                };
                prop_assert!((0..3).all(|user| sum(&|permit| permit.0 == user) <= 200));
                prop_assert!((0..4).all(|connection| sum(&|permit| permit.1 == connection) <= 120));
                prop_assert!(sum(&|_| true) <= 500);
                prop_assert_eq!(budgets.taken(), sum(&|_| true));
            }
            permits.clear();
            prop_assert_eq!(budgets.taken(), 0);
        }
    }
}
