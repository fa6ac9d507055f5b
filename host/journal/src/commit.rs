//! Group commit: one thread owns the [`Log`], and the records that arrive during a sync form its next frame.
//!
//! Services submit records and get a [`Ticket`] for each. The writer takes all submitted records, writes them as one
//! frame, completes the tickets, and begins the next frame at once. It uses no timers: a lone client waits for one
//! sync, and many clients share one.
//!
//! A reclaim is done in steps of at most a frame. Between two steps the writer commits the records that arrived
//! meanwhile. So no record waits for more than one step, however much there is to relocate.
//!
//! Backpressure comes before the work: a service awaits [`Committer::room`] before it executes a transaction. The
//! record of an executed transaction is always accepted, because it must be journalled. So the queue exceeds its bound
//! at most by the amount by which each service underestimated its records.
//!
//! Records are *held* while there is no room for them because no segment can be begun. The writer retries by itself,
//! and stages no other records meanwhile ([`Committer::stall`]). The file of the next segment is made ahead. So the
//! writer detects the lack of room while the active segment still has room for the records of executed transactions. No
//! transaction is executed while the journal is short of room.
//!
//! After [`HELD_MAX`], callers that wait for held records are notified that the outcome is unknown. Orders are carried
//! out as far as they need little room. A reclaim truncates segments that no service needs, and relocates what takes
//! little of the remaining room, which is too small for the held records. That may end the stall.
//!
//! After a failure all tickets, waiting and later ones, get the first cause. A ticket whose writer ended without an
//! outcome gets [`CommitError::Closed`].
//!
//! Concurrency: one lock guards the queue. It is held for a push or a swap, never during disk I/O.

use super::frame::{Position, RECORD_LENGTH_BYTES, RecordNumber, RunKind};
use super::location_feed::LocationFeed;
use super::reader::Reader;
use super::recovery::Seal;
use super::segments::{Committed, Failure, Log, LogError, Moved, Reclaim, Reclaimed, Step};
pub use super::ticket::CommitError;
use super::ticket::{Completion, Ticket, ticket};
use crate::adaptive_spin::AdaptiveSpin;
use lifeboat_api::distribution::{Distribution, Spread};
use lifeboat_api::name::Name;
use lifeboat_api::text::of_system;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// The default bound of the records that wait to be written, in bytes.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The first delay until the writer retries to prepare the file of the next segment.
pub const SEGMENT_RETRY_FIRST: Duration = Duration::from_millis(50);

/// The longest delay until the writer retries that. Each attempt may fill the disk for a moment.
pub const SEGMENT_RETRY_MAX: Duration = Duration::from_secs(2);

/// How long the records of executed transactions wait for room until the callers that wait for answers are notified
/// that the outcome is unknown. The records are still committed once there is room.
pub const HELD_MAX: Duration = Duration::from_secs(2);

/// How often the writer checks, while it commits records, whether this process still owns the directory.
pub const LOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a record for which nobody waits is held back, so that it shares the frame of a later one.
pub const PATIENCE_MAX: Duration = Duration::from_millis(1);

/// The cost of a record in the queue beside its own bytes.
const RECORD_BYTES: usize = 128;

/// A change to a service's journal, as the service submits it.
#[derive(Debug)]
pub struct Entry {
    /// The service that the change belongs to.
    pub service: Name,
    /// The change.
    pub change: Change,
}

/// A kind of change to a service's journal.
#[derive(Debug)]
pub enum Change {
    /// Appends the next record.
    Continue {
        /// The number of the record: the one after the last.
        number: RecordNumber,
        /// The bytes of the record.
        record: Vec<u8>,
    },
    /// Begins the service with a record. Earlier records under its name no longer count.
    Begin {
        /// The number of the record: 1, or the number at which the service continues.
        number: RecordNumber,
        /// The bytes of the record.
        record: Vec<u8>,
    },
    /// Removes the service.
    End,
}

impl Change {
    fn number(&self) -> Option<RecordNumber> {
        match self {
            Self::Continue { number, .. } | Self::Begin { number, .. } => Some(*number),
            Self::End => None,
        }
    }
}

impl Change {
    /// Returns the bytes that the change's record takes in a frame's body.
    fn bytes(&self) -> usize {
        match self {
            Self::Continue { record, .. } | Self::Begin { record, .. } => record.len() + RECORD_LENGTH_BYTES,
            Self::End => 0,
        }
    }
}

/// Reserved room for a record in the queue, released when this is dropped.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Room {
    /// Releases what a record of `bytes` does not need.
    pub fn shrink(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.saturating_add(RECORD_BYTES));
        drop(self.0.split(surplus));
    }
}

/// A handle to the writer thread. Clones refer to the same thread.
#[derive(Debug, Clone)]
pub struct Committer {
    shared: Arc<Shared>,
    reader: Reader,
    end: Arc<AtomicU64>,
}

/// The writer thread, which ends with [`Writer::stop`]. If this is dropped instead, the thread writes the submitted
/// records and leaves the journal unsealed.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Seal, CommitError>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Whether there is new work since the writer last emptied the queue.
    has_work: AtomicBool,
    room: Arc<Semaphore>,
    room_bytes: usize,
    location_feeds: Mutex<BTreeMap<Name, Arc<LocationFeed>>>,
    /// Only the writer thread writes this field and the next.
    frames: AtomicU64,
    frame_bytes: AtomicU64,
    commit_times: Distribution,
    failed: watch::Sender<Option<CommitError>>,
    stall: watch::Sender<Option<Stall>>,
    /// Whether there is a stall that denies transactions. Services check this before each transaction.
    denies: AtomicBool,
}

/// A stall: the journal cannot begin its next segment. The writer retries until that succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// What is missing.
    pub reason: Arc<str>,
    /// Whether transactions are denied. Until then the active segment has room for them.
    pub denies: bool,
}

/// When to retry a failed operation, when to report held records, and when to check the lock. The delay doubles after
/// each failure, up to [`SEGMENT_RETRY_MAX`].
#[derive(Debug, Default)]
struct Retry {
    lock_checked: Option<Instant>,
    /// The time of the next attempt after a failure, and the delay before it.
    waiting: Option<(Instant, Duration)>,
    /// The time at which the callers that wait for the batch are notified. It is set when the first frame of the batch
    /// is held.
    report_at: Option<Instant>,
}

impl Retry {
    fn failed(&mut self, now: Instant) {
        let delay = self.waiting.map_or(SEGMENT_RETRY_FIRST, |(_, delay)| (2 * delay).min(SEGMENT_RETRY_MAX));
        self.waiting = Some((now + delay, delay));
    }

    fn succeeded(&mut self) {
        self.waiting = None;
    }

    /// Returns the time of the next attempt, or none if nothing failed.
    fn due(&self) -> Option<Instant> {
        self.waiting.map(|(due, _)| due)
    }

    /// Returns whether it is time to check the lock again. If so, records the check.
    fn checks_lock(&mut self, now: Instant) -> bool {
        let is_time = self.lock_checked.is_none_or(|checked| now.duration_since(checked) >= LOCK_CHECK_INTERVAL);
        if is_time {
            self.lock_checked = Some(now);
        }
        is_time
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_none_or(|due| due <= now)
    }
}

/// The totals of the submitted records that a writer wrote. Frames that the writer adds itself, such as those with
/// relocated records, are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Frames since the writer was started: each is one write and one sync.
    pub frames: u64,
    /// Bytes of these frames, including the padding of their last blocks.
    pub frame_bytes: u64,
}

#[derive(Debug, Default)]
struct Queue {
    submitted: VecDeque<Submitted>,
    orders: Vec<Order>,
    /// The number of submitted records for which nobody waits, and when the first of them is due.
    patient: usize,
    patient_until: Option<Instant>,
    /// The reason why submitted records are held, once others have waited for [`HELD_MAX`].
    held: Option<CommitError>,
    is_closed: bool,
    is_sealing: bool,
    is_writer_asleep: bool,
    /// Set by the writer when the log fails or the writer ends.
    failure: Option<CommitError>,
}

#[derive(Debug)]
struct Submitted {
    entry: Entry,
    completion: Completion,
    room: Option<Room>,
}

/// A task for the writer between two frames.
#[derive(Debug)]
enum Order {
    Reclaim { needed: BTreeMap<Name, RecordNumber>, answer: oneshot::Sender<Result<Reclaimed, CommitError>> },
    Settle { answer: oneshot::Sender<Result<(), CommitError>> },
}

/// Starts a writer for `log`, whose queue holds about `queue_bytes`.
///
/// # Errors
/// The thread cannot be started.
pub fn start(log: Log, queue_bytes: usize) -> io::Result<(Writer, Committer)> {
    let room_bytes = queue_bytes.clamp(RECORD_BYTES, u32::MAX as usize);
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue::default()),
        arrived: Condvar::new(),
        has_work: AtomicBool::new(false),
        room: Arc::new(Semaphore::new(room_bytes)),
        room_bytes,
        location_feeds: Mutex::default(),
        frames: AtomicU64::new(0),
        frame_bytes: AtomicU64::new(0),
        commit_times: Distribution::default(),
        failed: watch::Sender::new(None),
        stall: watch::Sender::new(None),
        denies: AtomicBool::new(false),
    });
    let (reader, end) = (log.reader(), log.end());
    let of_thread = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("journal".into()).spawn(move || write(log, &of_thread))?;
    let committer = Committer { shared: Arc::clone(&shared), reader, end };
    Ok((Writer { shared, thread: Some(thread) }, committer))
}

impl Committer {
    /// Waits until the queue has room for a record of `bytes`. A record longer than the whole queue waits until it can
    /// have all of the queue.
    ///
    /// # Errors
    /// [`CommitError::Stalled`], [`CommitError::Closed`], or the failure of the log.
    pub async fn room(&self, bytes: usize) -> Result<Room, CommitError> {
        let mut stall = self.shared.stall.subscribe();
        let room = Arc::clone(&self.shared.room).acquire_many_owned(self.room_of(bytes));
        tokio::select! {
            biased;
            Some(stalled) = denying(&mut stall) => Err(CommitError::Stalled(stalled.reason)),
            room = room => {
                room.map(Room).map_err(|_| self.shared.queue().failure.clone().unwrap_or(CommitError::Closed))
            }
        }
    }

    /// Returns the current stall, if the next segment cannot be begun.
    #[must_use]
    pub fn stall(&self) -> Option<Stall> {
        self.shared.stall.borrow().clone()
    }

    /// Returns a receiver of every [`Committer::stall`] from now on, and of its end.
    #[must_use]
    pub fn stalls(&self) -> watch::Receiver<Option<Stall>> {
        self.shared.stall.subscribe()
    }

    /// Returns whether transactions must not be executed because the journal is short of room for their records.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.shared.denies.load(Ordering::Acquire)
    }

    /// Reserves room for a record of `bytes`, if the queue has it now.
    #[must_use]
    pub fn room_now(&self, bytes: usize) -> Option<Room> {
        if self.denies() {
            return None;
        }
        let bytes = self.room_of(bytes);
        Arc::clone(&self.shared.room).try_acquire_many_owned(bytes).ok().map(Room)
    }

    /// Returns the room that a record of `bytes` takes, at most all of the queue.
    fn room_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.saturating_add(RECORD_BYTES).min(self.shared.room_bytes)).unwrap_or(u32::MAX)
    }

    /// Submits a record and waits until it is durable, or until the journal stalls. It is for commands, which report
    /// what is missing instead of waiting for it.
    ///
    /// # Errors
    /// As [`Ticket::committed`]. After [`CommitError::Stalled`] the record waits in the queue. It is committed once
    /// there is room, or refused when the writer stops.
    ///
    /// # Panics
    /// Within an asynchronous task.
    pub fn commit_unless_stalled(&self, entry: Entry) -> Result<(), CommitError> {
        let mut stall = self.shared.stall.subscribe();
        let ticket = self.submit(entry, None)?;
        futures::executor::block_on(async {
            tokio::select! {
                biased;
                committed = ticket.committed() => committed.map(drop),
                Some(stalled) = denying(&mut stall) => Err(CommitError::Stalled(stalled.reason)),
            }
        })
    }

    /// Submits a record. It never blocks on the disk. A service must submit its records in order.
    ///
    /// # Errors
    /// [`CommitError::Closed`], or the failure of the log. The ticket reports records that the log refuses.
    pub fn submit(&self, entry: Entry, room: Option<Room>) -> Result<Ticket, CommitError> {
        self.submit_within(entry, room, None)
    }

    /// Submits a record for which nobody waits. It shares the next frame with other records, and begins one of its own
    /// only after [`PATIENCE_MAX`].
    ///
    /// # Errors
    /// As [`Committer::submit`].
    pub fn submit_patiently(&self, entry: Entry, room: Option<Room>) -> Result<Ticket, CommitError> {
        self.submit_within(entry, room, Some(PATIENCE_MAX))
    }

    fn submit_within(
        &self,
        entry: Entry,
        room: Option<Room>,
        patience: Option<Duration>,
    ) -> Result<Ticket, CommitError> {
        let (completion, ticket) = ticket();
        let mut queue = self.shared.queue();
        queue.check()?;
        if let Some(held) = &queue.held {
            // No callback waits for the record yet.
            completion.hold(held);
        }
        queue.submitted.push_back(Submitted { entry, completion, room });
        match patience {
            None => self.shared.wake(queue),
            Some(patience) => {
                queue.patient += 1;
                // A writer that sleeps must know when to wake up. One that is awake sees the record before it sleeps.
                if queue.patient_until.is_none() {
                    queue.patient_until = Some(Instant::now() + patience);
                    self.shared.wake_sleeper(queue);
                }
            }
        }
        Ok(ticket)
    }

    /// Truncates segments that no service needs, step by step between the frames of services. See
    /// [`Log::begin_reclaim`]. Dropping the future cancels the reclaim. The location feeds have the records that were
    /// relocated until then.
    ///
    /// # Errors
    /// [`CommitError::Closed`], also if the writer is stopped before the end of the reclaim; or the failure of the log.
    pub async fn reclaim(&self, needed: BTreeMap<Name, RecordNumber>) -> Result<Reclaimed, CommitError> {
        let (answer, reclaimed) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            queue.check()?;
            queue.orders.push(Order::Reclaim { needed, answer });
            self.shared.wake(queue);
        }
        reclaimed.await.unwrap_or(Err(CommitError::Closed))
    }

    /// Waits until the records submitted before are written, a running reclaim has ended, and the location feeds have
    /// its relocated records. After a failure of the log, or after its end, it returns at once.
    ///
    /// # Errors
    /// [`CommitError::Stalled`] if records submitted before wait for room.
    pub async fn settle(&self) -> Result<(), CommitError> {
        let (answer, settled) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.check().is_err() {
                return Ok(());
            }
            queue.orders.push(Order::Settle { answer });
            self.shared.wake(queue);
        }
        // A writer that ended relocates no more records.
        settled.await.unwrap_or(Ok(()))
    }

    /// Adds the locations of a service's records to `location_feed` from now on.
    pub fn register(&self, service: &Name, location_feed: Arc<LocationFeed>) {
        self.shared.location_feeds().insert(service.clone(), location_feed);
    }

    /// Removes the location feed of a service that has ended.
    pub fn unregister(&self, service: &Name) {
        self.shared.location_feeds().remove(service);
    }

    /// Returns the totals so far. They include the record of every completed ticket.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            frames: self.shared.frames.load(Ordering::Acquire),
            frame_bytes: self.shared.frame_bytes.load(Ordering::Acquire),
        }
    }

    /// Returns the durations of the frames of [`Committer::totals`], each from the staged records to the end of the
    /// sync.
    #[must_use]
    pub fn commit_times(&self) -> Spread {
        self.shared.commit_times.read()
    }

    /// Returns the reason why nothing is committed any more, if the log has failed.
    #[must_use]
    pub fn failure(&self) -> Option<CommitError> {
        self.shared.failed.borrow().clone()
    }

    /// Waits until the log fails, possibly forever.
    pub async fn failed(&self) -> CommitError {
        let mut failed = self.shared.failed.subscribe();
        let failed = failed.wait_for(Option::is_some).await.ok().and_then(|failed| failed.clone());
        match failed {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Returns the end of the journal: after every frame whose tickets are complete, and never after a frame that is
    /// written later.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.end.load(Ordering::Acquire))
    }

    /// Returns a reader of single records.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }
}

/// Waits for a stall that denies transactions.
async fn denying(stall: &mut watch::Receiver<Option<Stall>>) -> Option<Stall> {
    let denies = |stall: &Option<Stall>| stall.as_ref().is_some_and(|stall| stall.denies);
    stall.wait_for(denies).await.ok().and_then(|stall| stall.clone())
}

impl Writer {
    /// Writes the submitted records, seals the journal, and ends the thread. Later submissions are refused.
    ///
    /// # Errors
    /// The failure of the log. In that case the journal is not sealed.
    pub fn stop(mut self) -> Result<Seal, CommitError> {
        self.shared.close(true);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(seal)) => seal,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(CommitError::Closed),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close(false);
        if let Some(thread) = self.thread.take() {
            // All waiters were notified of a panic of the writer.
            let _ = thread.join();
        }
    }
}

impl Queue {
    /// Returns the number of submitted records for which somebody may wait.
    fn awaited(&self) -> usize {
        self.submitted.len().saturating_sub(self.patient)
    }

    fn check(&self) -> Result<(), CommitError> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None if self.is_closed => Err(CommitError::Closed),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn location_feeds(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<LocationFeed>>> {
        self.location_feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the new locations of relocated records to the location feeds.
    fn feed_locations(&self, moved: Vec<Moved>) {
        let location_feeds = self.location_feeds();
        for moved in moved {
            if let Some(location_feed) = location_feeds.get(&moved.service) {
                location_feed.move_to(moved);
            }
        }
    }

    /// Refuses later submissions. This comes before the notifications, or a notified caller could still submit.
    fn fail(&self, error: &LogError) -> LogError {
        self.queue().failure.get_or_insert(error.clone().into());
        self.room.close();
        self.report_failure(error.clone().into());
        error.clone()
    }

    /// Notifies the observers of the log's failure, once.
    fn report_failure(&self, error: CommitError) {
        self.failed.send_if_modified(|failed| failed.is_none() && failed.replace(error).is_none());
    }

    /// Records a stall, or its end.
    fn set_stall(&self, stall: Option<Stall>) {
        self.denies.store(stall.as_ref().is_some_and(|stall| stall.denies), Ordering::Release);
        self.stall.send_if_modified(|current| {
            let is_new = *current != stall;
            *current = stall;
            is_new
        });
    }

    /// Waits until `due`, an order, or the closing of the queue, and takes what has arrived.
    fn hold_until(&self, due: Instant) -> Arrived {
        let mut queue = self.queue();
        queue.is_writer_asleep = true;
        let left = due.saturating_duration_since(Instant::now());
        let (mut queue, _) = self
            .arrived
            .wait_timeout_while(queue, left, |queue| queue.orders.is_empty() && !queue.is_closed)
            .unwrap_or_else(PoisonError::into_inner);
        queue.is_writer_asleep = false;
        self.take_from(queue)
    }

    fn close(&self, is_sealing: bool) {
        let mut queue = self.queue();
        queue.is_closed = true;
        queue.is_sealing |= is_sealing;
        self.wake(queue);
    }

    /// Wakes the writer, because there is work for it.
    fn wake(&self, queue: MutexGuard<'_, Queue>) {
        self.has_work.store(true, Ordering::Release);
        self.wake_sleeper(queue);
    }

    /// Wakes the writer if it sleeps, which takes a system call.
    fn wake_sleeper(&self, queue: MutexGuard<'_, Queue>) {
        let is_asleep = queue.is_writer_asleep;
        drop(queue);
        if is_asleep {
            self.arrived.notify_one();
        }
    }

    /// Waits for work until `due`, if that is given, and takes all of it. Once the queue is closed, it does not wait.
    fn wait(&self, spin: &mut AdaptiveSpin, due: Option<Instant>) -> Arrived {
        let start = Instant::now();
        while spin.should_spin(start.elapsed()) && !self.has_work.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let mut queue = self.queue();
        while queue.awaited() == 0 && queue.orders.is_empty() && !queue.is_closed {
            let due = due.into_iter().chain(queue.patient_until).min();
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            queue.is_writer_asleep = true;
            queue = match left {
                None => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            queue.is_writer_asleep = false;
        }
        // Several clients prepare their next records meanwhile, and need the core more.
        let is_alone = queue.awaited() <= 1;
        spin.waited(if is_alone { start.elapsed() } else { Duration::MAX });
        self.take_from(queue)
    }

    fn take(&self) -> Arrived {
        self.take_from(self.queue())
    }

    fn take_from(&self, mut queue: MutexGuard<'_, Queue>) -> Arrived {
        self.has_work.store(false, Ordering::Relaxed);
        (queue.patient, queue.patient_until) = (0, None);
        let (submitted, orders) = (std::mem::take(&mut queue.submitted), std::mem::take(&mut queue.orders));
        Arrived { submitted, orders, is_closed: queue.is_closed }
    }
}

/// The contents of the queue, as the writer took them.
struct Arrived {
    submitted: VecDeque<Submitted>,
    orders: Vec<Order>,
    is_closed: bool,
}

/// A guard that refuses all work when the writer ends, for whatever reason.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.report_failure(CommitError::Closed);
        }
        let mut queue = self.0.queue();
        let failure = queue.failure.get_or_insert(CommitError::Closed).clone();
        let (submitted, orders) = (std::mem::take(&mut queue.submitted), std::mem::take(&mut queue.orders));
        drop(queue);
        for submitted in submitted {
            submitted.completion.complete(Err(failure.clone()));
        }
        for order in orders {
            order.refuse(&failure);
        }
        self.0.room.close();
    }
}

impl Order {
    fn refuse(self, error: &CommitError) {
        match self {
            Self::Reclaim { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Settle { answer } => {
                let is_held = matches!(error, CommitError::Stalled(_));
                drop(answer.send(if is_held { Err(error.clone()) } else { Ok(()) }));
            }
        }
    }
}

/// Unfinished orders, in the order of their arrival.
#[derive(Default)]
struct Orders {
    waiting: VecDeque<Order>,
    /// The state of the first order, if that is a reclaim.
    reclaim: Option<Reclaim>,
}

impl Orders {
    /// Continues the first order, by one step if it is a reclaim. A reclaim whose caller is gone is abandoned. While
    /// records are `held`, all other orders are refused.
    fn go_on(&mut self, log: &mut Log, shared: &Shared, held: Option<&CommitError>) -> Result<(), LogError> {
        let over = match self.waiting.front_mut() {
            Some(Order::Reclaim { needed, answer }) if !answer.is_closed() => {
                let reclaim = self.reclaim.get_or_insert_with(|| log.begin_reclaim(std::mem::take(needed)));
                let step = if held.is_some() { log.step_while_held(reclaim) } else { log.step(reclaim) };
                match step {
                    Ok(Step::Going(moved)) => {
                        shared.feed_locations(moved);
                        return Ok(());
                    }
                    Ok(Step::Over(reclaimed)) => Some(Ok(reclaimed)),
                    // The journal is intact, but longer. The next reclaim tries again.
                    Err(error @ LogError::NotBegun(_)) => Some(Err(error.into())),
                    Err(error) => return Err(shared.fail(&error)),
                }
            }
            _ => None,
        };
        self.reclaim = None;
        match (self.waiting.pop_front(), over) {
            (Some(Order::Reclaim { answer, .. }), Some(reclaimed)) => drop(answer.send(reclaimed)),
            (Some(order), _) => order.refuse(held.unwrap_or(&CommitError::Closed)),
            (None, _) => {}
        }
        Ok(())
    }

    fn refuse(&mut self, error: &CommitError) {
        self.waiting.drain(..).for_each(|order| order.refuse(error));
    }
}

/// Runs the writer thread.
fn write(mut log: Log, shared: &Shared) -> Result<Seal, CommitError> {
    let _ended = Ended(shared);
    let mut spin = AdaptiveSpin::default();
    let mut orders = Orders::default();
    let mut retry = Retry::default();
    loop {
        let is_idle = orders.waiting.is_empty();
        let arrived = if is_idle { shared.wait(&mut spin, retry.due()) } else { shared.take() };
        let is_over = arrived.is_closed && arrived.submitted.is_empty() && arrived.orders.is_empty();
        orders.waiting.extend(arrived.orders);
        if is_over {
            // The next start discards the steps of an unfinished reclaim.
            orders.refuse(&CommitError::Closed);
            break;
        }
        let result = write_batch(&mut log, arrived.submitted, shared, &mut retry, &mut orders);
        let result = result.and_then(|()| prepare(&mut log, shared, &mut retry));
        if let Err(error) = result.and_then(|()| orders.go_on(&mut log, shared, None)) {
            orders.refuse(&error.clone().into());
            return Err(error.into());
        }
    }
    if shared.queue().is_sealing { Ok(log.seal()?) } else { Err(CommitError::Closed) }
}

/// Prepares the file of the next segment when it is time, and records whether that succeeds.
fn prepare(log: &mut Log, shared: &Shared, retry: &mut Retry) -> Result<(), LogError> {
    if !log.wants_next() {
        if retry.due().is_some() {
            retry.succeeded();
            shared.set_stall(None);
        }
        return Ok(());
    }
    let now = Instant::now();
    if !retry.is_due(now) {
        // Records that were committed since the last attempt may have used up the room.
        if log.is_short() && !shared.denies.load(Ordering::Acquire) {
            let stall = shared.stall.borrow().clone();
            shared.set_stall(stall.map(|stall| Stall { denies: true, ..stall }));
        }
        return Ok(());
    }
    match log.prepare_next() {
        Ok(()) => {
            retry.succeeded();
            shared.set_stall(None);
        }
        Err(LogError::NotBegun(failure)) => {
            retry.failed(now);
            shared.set_stall(Some(Stall { reason: missing(&failure), denies: log.is_short() }));
        }
        Err(error) => return Err(shared.fail(&error)),
    }
    Ok(())
}

/// Returns what is missing to begin a segment, and a remedy.
fn missing(failure: &Failure) -> Arc<str> {
    let remedy = match failure.error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its disk",
        _ => "check its disk and the limit of open files",
    };
    format!("cannot {}: {}; {remedy}, and it continues by itself", failure.action, of_system(&failure.error)).into()
}

/// Commits the staged records. While no segment can be begun, waits and retries until the queue is closed.
fn commit_in_time(
    log: &mut Log,
    staged: &[StagedRecord],
    batch: &mut VecDeque<Submitted>,
    shared: &Shared,
    retry: &mut Retry,
    orders: &mut Orders,
) -> Result<Option<Committed>, LogError> {
    if retry.checks_lock(Instant::now()) {
        log.check_places()?;
    }
    let mut hold: Option<Hold> = None;
    let result = loop {
        match log.commit() {
            Err(LogError::NotBegun(failure)) if hold.as_ref().is_none_or(|hold| !hold.is_closed) => {
                let now = Instant::now();
                retry.failed(now);
                let reason = missing(&failure);
                shared.set_stall(Some(Stall { reason: Arc::clone(&reason), denies: true }));
                let report_at = *retry.report_at.get_or_insert(now + HELD_MAX);
                let is_reported = hold.as_ref().is_some_and(|hold| hold.is_reported);
                let due = retry.due().unwrap_or(now);
                let hold = hold.insert(Hold {
                    error: CommitError::Stalled(reason),
                    due,
                    report_at,
                    is_reported,
                    is_closed: false,
                });
                hold.wait(log, staged, batch, shared, orders)?;
            }
            result => break result,
        }
    };
    if hold.is_some_and(|hold| hold.is_reported) {
        shared.queue().held = None;
    }
    result
}

/// Staged records for which there is no room.
struct Hold {
    error: CommitError,
    /// The time of the next attempt.
    due: Instant,
    /// The time at which the callers that wait for answers are notified.
    report_at: Instant,
    is_reported: bool,
    /// Whether the queue was closed meanwhile. Then there is one more attempt.
    is_closed: bool,
}

impl Hold {
    /// Waits until the next attempt: until it is due, a segment was truncated, or the queue is closed. Records that
    /// arrive meanwhile are added to the `batch`.
    fn wait(
        &mut self,
        log: &mut Log,
        staged: &[StagedRecord],
        batch: &mut VecDeque<Submitted>,
        shared: &Shared,
        orders: &mut Orders,
    ) -> Result<(), LogError> {
        loop {
            let until = if self.is_reported { self.due } else { self.due.min(self.report_at) };
            // Do not wait between two steps of a reclaim.
            let arrived = shared.hold_until(if orders.waiting.is_empty() { until } else { Instant::now() });
            self.is_closed = arrived.is_closed;
            batch.extend(arrived.submitted);
            if !self.is_reported && Instant::now() >= self.report_at {
                self.is_reported = true;
                let since = {
                    let mut queue = shared.queue();
                    queue.held = Some(self.error.clone());
                    std::mem::take(&mut queue.submitted)
                };
                batch.extend(since);
                let waiting = staged.iter().map(|staged| &staged.completion);
                waiting.chain(batch.iter().map(|submitted| &submitted.completion)).for_each(|it| it.hold(&self.error));
            }
            let ended = batch.iter().filter(|submitted| matches!(submitted.entry.change, Change::End));
            ended.for_each(|submitted| log.forget(&submitted.entry.service));
            orders.waiting.extend(arrived.orders);
            let segments = log.segment_count();
            orders.go_on(log, shared, Some(&self.error))?;
            if log.segment_count() != segments || self.is_closed || Instant::now() >= self.due {
                return Ok(());
            }
        }
    }
}

/// Writes a batch as one frame, or as more if it is longer than the longest frame.
fn write_batch(
    log: &mut Log,
    mut batch: VecDeque<Submitted>,
    shared: &Shared,
    retry: &mut Retry,
    orders: &mut Orders,
) -> Result<(), LogError> {
    let mut staged = Vec::with_capacity(batch.len());
    retry.report_at = None;
    loop {
        stage(log, &mut batch, &mut staged);
        if let Err(error) = commit(log, &mut staged, &mut batch, shared, retry, orders) {
            refuse(batch, &error);
            return Err(error);
        }
        // The frame was full, or more records arrived while it was held.
        if batch.is_empty() {
            return Ok(());
        }
    }
}

/// Stages records of a batch until the frame is full or the batch is empty.
fn stage(log: &mut Log, batch: &mut VecDeque<Submitted>, staged: &mut Vec<StagedRecord>) {
    while let Some(submitted) = batch.pop_front() {
        let Entry { service, change } = &submitted.entry;
        let place = match change {
            Change::Continue { number, record } => log.stage(RunKind::Continue, service, *number, record).map(Some),
            Change::Begin { number, record } => log.stage(RunKind::Begin, service, *number, record).map(Some),
            Change::End => log.stage_end(service).map(|()| None),
        };
        match place {
            Ok(place) => {
                let Submitted { entry, completion, room } = submitted;
                let record_bytes = entry.change.bytes();
                let record = place.zip(entry.change.number()).map(|(place, number)| (entry.service, number, place));
                staged.push(StagedRecord { record, record_bytes, completion, _room: room });
            }
            Err(LogError::FrameFull) => return batch.push_front(submitted),
            // The mistake of one caller does not affect the records of others.
            Err(error) => submitted.completion.complete(Err(error.into())),
        }
    }
}

/// A record in the frame under construction.
struct StagedRecord {
    record: Option<(Name, RecordNumber, super::frame::Staged)>,
    /// The bytes that the record takes in the frame's body.
    record_bytes: usize,
    completion: Completion,
    _room: Option<Room>,
}

/// Writes a frame and completes its tickets.
fn commit(
    log: &mut Log,
    staged: &mut Vec<StagedRecord>,
    batch: &mut VecDeque<Submitted>,
    shared: &Shared,
    retry: &mut Retry,
    orders: &mut Orders,
) -> Result<(), LogError> {
    let start = Instant::now();
    let result = commit_in_time(log, staged, batch, shared, retry, orders).map_err(|error| shared.fail(&error));
    if let Ok(Some(committed)) = &result {
        shared.commit_times.add(start.elapsed());
        shared.frames.fetch_add(1, Ordering::Release);
        shared.frame_bytes.fetch_add(committed.frame_bytes() as u64, Ordering::Release);
        // A record counts its own bytes, and an equal share of the frame's header and padding.
        let records_bytes: usize = staged.iter().map(|staged| staged.record_bytes).sum();
        let overhead_bytes = committed.frame_bytes().saturating_sub(records_bytes) / staged.len().max(1);
        let location_feeds = shared.location_feeds();
        for StagedRecord { record, record_bytes, .. } in staged.iter() {
            if let Some((service, number, place)) = record
                && let Some(location_feed) = location_feeds.get(service)
            {
                location_feed.add(*number, committed.location(*place), (record_bytes + overhead_bytes) as u64);
            }
        }
    }
    for StagedRecord { record, completion, .. } in staged.drain(..) {
        let printed = match &result {
            Ok(committed) => {
                Ok(committed.as_ref().zip(record).map(|(committed, (.., place))| committed.location(place)))
            }
            Err(error) => Err(error.clone().into()),
        };
        completion.complete(printed);
    }
    result.map(drop)
}

fn refuse(batch: VecDeque<Submitted>, error: &LogError) {
    for submitted in batch {
        submitted.completion.complete(Err(error.clone().into()));
    }
}

#[cfg(test)]
mod tests;
