//! What requests and their answers may take of the host's memory.
//!
//! Three budgets hold at once: of a connection, of a user, of the host. A request is executed only while its largest
//! possible answer fits all of them; once the answer is known, the permit shrinks to its size, and it is held until the
//! client has the bytes or is gone. Bodies and lines that are being received hold permits as well.
//!
//! ```text
//!   body read          executed                     committed        written to the socket
//!   take(length) ----> reserve(ANSWER_BYTES_MAX) -> shrink(size) --> permit dropped with the last byte
//! ```
//!
//! A user may take an eighth of what the host has left, so a few users never leave nothing for the next one. What is
//! received may take three quarters of each budget: the rest is for the answers that let go of it.

use lifeboat_api::name::Name;
use lifeboat_api::transaction::REPLY_BYTES_MAX;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

/// What every batch takes of the budgets: short bodies and answers, the line that is being read, the one that is being
/// written.
pub const BATCH_BASE_BYTES: usize = 1024 * 1024;

/// Bytes of requests and answers that the host holds for its clients.
pub const HOST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Those of one user, who may also have no more than one part in [`USER_SHARE`] of what the host has left, or of this.
pub const USER_BYTES_MAX: usize = USER_SHARE * ANSWER_BYTES_MAX;

/// A user may have one part in so many of what the host has left.
pub const USER_SHARE: usize = 8;

/// Those of one connection.
pub const CONNECTION_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Lists, metrics and the like that are made or wait for their clients, of all of them: beside the others, so that users
/// see how all is, however many answers nobody reads. One user may have one part in [`USER_SHARE`] of what is left.
pub const LISTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Those of them that only admins may take, so that they see how all is, however many lists nobody reads.
pub const LISTS_RESERVED_BYTES: usize = ANSWER_BYTES_MAX;

/// What a list takes of an entry while it is made, on average: what is known of it, and its JSON.
pub const LIST_ENTRY_BYTES: usize = 4 * 1024;

/// An answer, or a body, of up to so many bytes takes none of the budgets: a connection takes more for itself.
pub const UNCOUNTED_BYTES_MAX: usize = 1024;

/// The largest answer, with what is around it.
pub const ANSWER_BYTES_MAX: usize = REPLY_BYTES_MAX + 64 * 1024;

/// What an answer takes as JSON beside its content, where that is escaped: a long one is made a piece at a time.
pub const ESCAPES_BYTES_MAX: usize = 96 * 1024;

/// How long a request waits for room in the budgets before it is denied.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

/// How soon who waits for room looks for it again without being notified.
const ROOM_RETRY: Duration = Duration::from_millis(50);

/// Users whose budgets are remembered while they take nothing.
const IDLE_USERS_MAX: usize = 4_096;

/// Bytes that are taken of one budget.
#[derive(Debug)]
struct Level {
    max: usize,
    taken: AtomicUsize,
    /// Those of them that are received: requests that wait, and hold what they have until they are answered.
    received: AtomicUsize,
}

impl Level {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0), received: AtomicUsize::new(0) })
    }

    /// Takes so many bytes if no more than `max` are taken then. What is received leaves a quarter of that, and room for
    /// one answer: those who hold what was received would wait for themselves otherwise.
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

/// The host's budget, and those who wait for room in any.
#[derive(Debug)]
struct HostLevel {
    level: Arc<Level>,
    waiting: AtomicUsize,
    released: Notify,
}

/// The budgets of a host and its users. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Budgets {
    host: Arc<HostLevel>,
    users: Arc<RwLock<HashMap<Name, Arc<Level>>>>,
    /// All requests together that need no token.
    nobody: Arc<Level>,
    user_bytes_max: usize,
    connection_bytes_max: usize,
    /// Of the host's bytes, those that only admins may take.
    reserved_bytes: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self::new(HOST_BYTES_MAX, USER_BYTES_MAX, CONNECTION_BYTES_MAX)
    }
}

impl Budgets {
    /// Those of what only tells how all is.
    #[must_use]
    pub fn of_lists() -> Self {
        let budgets = Self::new(LISTS_BYTES_MAX, USER_BYTES_MAX, CONNECTION_BYTES_MAX);
        Self { reserved_bytes: LISTS_RESERVED_BYTES, ..budgets }
    }

    /// Budgets of these bytes: of the host, of each user, of each connection.
    #[must_use]
    pub fn new(host_bytes_max: usize, user_bytes_max: usize, connection_bytes_max: usize) -> Self {
        let level = Level::new(host_bytes_max);
        let host = Arc::new(HostLevel { level, waiting: AtomicUsize::new(0), released: Notify::new() });
        let nobody = Level::new(user_bytes_max);
        Self { host, users: Arc::default(), nobody, user_bytes_max, connection_bytes_max, reserved_bytes: 0 }
    }

    /// The budget of a new connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionBudget {
        ConnectionBudget(Level::new(self.connection_bytes_max))
    }

    /// What a request of `user` on `connection` is held to.
    #[must_use]
    pub fn account(&self, connection: &ConnectionBudget, user: &Name) -> Arc<Account> {
        self.account_at(connection, self.user(user), self.reserved_bytes)
    }

    /// The same for an admin, who may take what is reserved.
    #[must_use]
    pub fn account_of_admin(&self, connection: &ConnectionBudget, user: &Name) -> Arc<Account> {
        self.account_at(connection, self.user(user), 0)
    }

    /// The same for a request that needs no token: all of those are one user together.
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

    /// Bytes that are taken of the host's budget.
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

/// What all requests of a connection are held to together.
#[derive(Debug, Clone)]
pub struct ConnectionBudget(Arc<Level>);

/// What a request is held to: the budgets of its connection, its user and its host.
#[derive(Debug)]
pub struct Account {
    connection: Arc<Level>,
    user: Arc<Level>,
    host: Arc<HostLevel>,
    /// Of the host's bytes, those that it may take, and others beside it.
    host_bytes_max: usize,
    /// A request of this account found no room: those behind it are not executed before it.
    is_blocked: AtomicBool,
}

impl Account {
    /// Takes so many bytes of all three budgets for an answer, if they have them.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_of_all(bytes, false)
    }

    /// The same for what is received.
    #[must_use]
    pub fn take_received(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take_of_all(bytes, true)
    }

    fn take_of_all(self: &Arc<Self>, bytes: usize, is_received: bool) -> Option<Permit> {
        if !self.connection.take(bytes, self.connection.max, is_received) {
            return None;
        }
        // However little the host has left, one answer may be tried for. What was received while it had
        // more is not held against the answers: users would wait for one another's requests, none of which is executed.
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

    /// Takes so many bytes for an answer as soon as there is room; none if there is none within `wait_max`.
    pub async fn take_within(self: &Arc<Self>, bytes: usize, wait_max: Duration) -> Option<Permit> {
        tokio::time::timeout(wait_max, self.wait(bytes, false)).await.ok()
    }

    /// The same for what is received.
    pub async fn take_received_within(self: &Arc<Self>, bytes: usize, wait_max: Duration) -> Option<Permit> {
        tokio::time::timeout(wait_max, self.wait(bytes, true)).await.ok()
    }

    /// Takes so many bytes for what is received as soon as there is room.
    pub async fn take_received_when_free(self: &Arc<Self>, bytes: usize) -> Permit {
        self.wait(bytes, true).await
    }

    /// Waits for room for the largest answer, which another may take meanwhile.
    pub async fn has_room(self: &Arc<Self>) {
        self.has_room_for(ANSWER_BYTES_MAX, false).await;
    }

    /// Waits for so much room, which another may take meanwhile.
    pub async fn has_room_for(self: &Arc<Self>, bytes: usize, is_received: bool) {
        drop(self.wait(bytes, is_received).await);
    }

    async fn wait(self: &Arc<Self>, bytes: usize, is_received: bool) -> Permit {
        let _waiting = Waiting::new(&self.host);
        loop {
            let released = self.host.released.notified();
            let mut released = std::pin::pin!(released);
            // Before the look: a release after it is noticed.
            released.as_mut().enable();
            if let Some(permit) = self.take_of_all(bytes, is_received) {
                return permit;
            }
            // What another took for a moment and gave back, for it found no room elsewhere, is not notified.
            let _ = tokio::time::timeout(ROOM_RETRY, released).await;
        }
    }

    /// Takes room for the largest answer, for a request that is about to be executed. Without room this account is
    /// blocked: its later requests get none either, until [`Account::unblock`], so their order holds.
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

    /// Lets requests be executed again, once none of those is under way that found no room.
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

/// One who waits for room: without any, nobody is notified.
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

/// Bytes of all three budgets, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    account: Arc<Account>,
    bytes: usize,
    is_received: bool,
}

impl Permit {
    /// Gives back all but so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.account.release(less, self.is_received);
    }

    /// Has it stand for so many bytes; false, and nothing is changed, if they are more and there is no room for the rest.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            let Some(mut rest) = self.account.take_of_all(bytes - self.bytes, self.is_received) else { return false };
            self.bytes += std::mem::take(&mut rest.bytes);
        }
        self.shrink(bytes);
        true
    }

    /// The bytes that it stands for.
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

/// Bytes that keep a permit, or several, for as long as anybody has a part of them: what a socket has taken is dropped.
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
        // More users than the host has room for, each with as much as a connection takes.
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
            // With as many connections as it takes.
            while let Some(permit) = account().take(1024 * 1024) {
                permits.push(permit);
            }
        }
    }

    #[test]
    fn what_follows_a_request_without_room_is_not_executed_before_it() {
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
    async fn who_waits_for_room_gets_it_once_it_is_released() {
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
        /// Whatever is taken, shrunk and dropped, in whatever order: no budget is ever exceeded, and nothing is lost.
        #[test]
        fn no_budget_is_exceeded_and_all_is_given_back(
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
