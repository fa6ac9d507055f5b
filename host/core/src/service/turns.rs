//! The order of requests: the users of a service take turns, weighted by the cost of their requests.
//!
//! Every user has a separate line, in order. The next turn belongs to the waiting user with the least virtual time,
//! which grows by the cost of the user's turns (start-time fair queueing). A user who comes back starts at the virtual
//! time of the last turn, so idle time earns nothing. A user who has waited all the time keeps its claim.
//! When nobody waits, all virtual times are reset, because there was room for all.
//!
//! A user may have as many requests in line as there is room left for others. One user alone fills a half, two fill a
//! third each. So there is room for a newcomer, however many requests the others send. The same holds for bytes.
//!
//! This is a pure state machine without a clock or a lock.

use lifeboat_api::name::Name;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// The number of lines at which users without waiting requests are forgotten.
const IDLE_USERS_MAX: usize = 1024;

/// The number of lines that stay when nobody waits. So a client that sends one request after another allocates none
/// each time.
const LINES_KEPT: usize = 16;

/// A request in a line, or in the turn of its user.
#[derive(Debug)]
pub(super) struct Waiting<R> {
    pub(super) request: R,
    bytes: usize,
    arrival: u64,
}

#[derive(Debug)]
struct Line<R> {
    waiting: VecDeque<Waiting<R>>,
    bytes: usize,
    virtual_time: u64,
    /// The rank among lines of the same virtual time: the arrival of the line's first request.
    order: u64,
}

impl<R> Line<R> {
    fn key(&self, user: &Name) -> (u64, u64, Name) {
        (self.virtual_time, self.order, user.clone())
    }
}

/// The lines of all users.
#[derive(Debug)]
pub(super) struct Turns<R> {
    lines: HashMap<Name, Line<R>>,
    /// The lines that wait for their turn: virtual time, order, user.
    ready: BTreeSet<(u64, u64, Name)>,
    /// The user whose turn it is.
    running: Option<Name>,
    /// The virtual time of the last turn.
    floor: u64,
    arrivals: u64,
    count: usize,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl<R> Turns<R> {
    /// Returns empty lines for at most `count_max` requests of `bytes_max` bytes altogether.
    pub(super) fn new(count_max: usize, bytes_max: usize) -> Self {
        Self {
            lines: HashMap::new(),
            ready: BTreeSet::new(),
            running: None,
            floor: 0,
            arrivals: 0,
            count: 0,
            bytes: 0,
            count_max,
            bytes_max,
        }
    }

    /// Returns the user whose turn it is.
    pub(super) fn running(&self) -> Option<&Name> {
        self.running.as_ref()
    }

    /// Returns how many requests wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns an arrival number for something else that arrives among the requests.
    pub(super) fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Returns the arrival of the request that has waited longest.
    pub(super) fn earliest(&self) -> Option<u64> {
        self.lines.values().filter_map(|line| Some(line.waiting.front()?.arrival)).min()
    }

    /// Returns whether `user` has room to spare for a few more requests.
    pub(super) fn has_room(&self, user: &Name) -> bool {
        let (count, bytes) = self.lines.get(user).map_or((0, 0), |line| (line.waiting.len(), line.bytes));
        let (free, free_bytes) = self.free();
        count * 4 < free * 3 && bytes * 2 < free_bytes
    }

    /// Returns the free room in requests and bytes. The rest of a turn comes back even if others have taken its room
    /// meanwhile, so the lines may exceed the bounds.
    fn free(&self) -> (usize, usize) {
        (self.count_max.saturating_sub(self.count), self.bytes_max.saturating_sub(self.bytes))
    }

    /// Puts a request in line, if the user has room for it.
    pub(super) fn push(&mut self, user: &Name, bytes: usize, request: R) -> Result<(), R> {
        let (free, free_bytes) = self.free();
        let fits = |own: usize, own_bytes: usize| {
            // The first request of a user needs only room, not a share of it.
            let own_bytes = if own == 0 { 0 } else { own_bytes };
            own < free && own_bytes.saturating_add(bytes) <= free_bytes
        };
        let line = match self.lines.get_mut(user) {
            Some(line) if fits(line.waiting.len(), line.bytes) => line,
            None if fits(0, 0) => {
                self.forget_idle();
                let line = Line { waiting: VecDeque::new(), bytes: 0, virtual_time: 0, order: 0 };
                self.lines.entry(user.clone()).or_insert(line)
            }
            _ => return Err(request),
        };
        self.arrivals += 1;
        let arrival = self.arrivals;
        line.waiting.push_back(Waiting { request, bytes, arrival });
        line.bytes += bytes;
        (self.count, self.bytes) = (self.count + 1, self.bytes + bytes);
        if line.waiting.len() == 1 && self.running.as_ref() != Some(user) {
            line.virtual_time = line.virtual_time.max(self.floor);
            line.order = arrival;
            self.ready.insert(line.key(user));
        }
        Ok(())
    }

    /// Forgets users without waiting requests, if there are many. First forgets those whose virtual time is not ahead.
    fn forget_idle(&mut self) {
        if self.lines.len() < IDLE_USERS_MAX {
            return;
        }
        let (floor, running) = (self.floor, self.running.clone());
        let is_busy = |user: &Name, line: &Line<R>| !line.waiting.is_empty() || running.as_ref() == Some(user);
        self.lines.retain(|user, line| is_busy(user, line) || line.virtual_time > floor);
        if self.lines.len() >= IDLE_USERS_MAX {
            self.lines.retain(|user, line| is_busy(user, line));
        }
    }

    /// Begins the turn of the next user. Takes at most `count_max` of its requests, of at most `bytes_max` bytes except
    /// for the first. Takes none that arrived after number `until`, unless the first did. Returns `None` if nobody
    /// waits.
    ///
    /// # Panics
    /// The last turn was not ended.
    pub(super) fn begin_turn(
        &mut self,
        count_max: usize,
        bytes_max: usize,
        until: Option<u64>,
        taken: &mut VecDeque<Waiting<R>>,
    ) -> Option<Name> {
        assert!(self.running.is_none(), "one turn at a time");
        let (virtual_time, _, user) = self.ready.pop_first()?;
        self.floor = virtual_time;
        let line = self.lines.get_mut(&user).expect("who is ready has a line");
        let mut bytes = 0;
        let mut is_first_before = false;
        while let Some(next) = line.waiting.front() {
            let is_before = until.is_none_or(|until| next.arrival < until);
            let is_first = taken.is_empty();
            is_first_before |= is_first && is_before;
            if !is_first
                && (taken.len() >= count_max || bytes + next.bytes > bytes_max || is_first_before && !is_before)
            {
                break;
            }
            bytes += next.bytes;
            taken.extend(line.waiting.pop_front());
        }
        line.bytes -= bytes;
        (self.count, self.bytes) = (self.count - taken.len(), self.bytes - bytes);
        self.running = Some(user.clone());
        Some(user)
    }

    /// Ends the turn, which has cost `cost`. The remaining requests return to the front of the user's line.
    pub(super) fn end_turn(&mut self, cost: u64, left: &mut VecDeque<Waiting<R>>) {
        let Some(user) = self.running.take() else { return };
        let line = self.lines.get_mut(&user).expect("whose turn it is has a line");
        while let Some(waiting) = left.pop_back() {
            line.bytes += waiting.bytes;
            (self.count, self.bytes) = (self.count + 1, self.bytes + waiting.bytes);
            line.waiting.push_front(waiting);
        }
        line.virtual_time = line.virtual_time.saturating_add(cost);
        if let Some(first) = line.waiting.front() {
            line.order = first.arrival;
            self.ready.insert(line.key(&user));
        }
        if self.count == 0 {
            self.floor = 0;
            if self.lines.len() > LINES_KEPT {
                self.lines.clear();
            }
            self.lines.values_mut().for_each(|line| line.virtual_time = 0);
        }
    }

    /// Removes requests of `user` from the line.
    pub(super) fn remove(&mut self, user: &Name, mut is_meant: impl FnMut(&R) -> bool) -> Vec<R> {
        let Some(line) = self.lines.get_mut(user) else { return Vec::new() };
        let is_ready = self.ready.remove(&line.key(user));
        let mut removed = Vec::new();
        for waiting in std::mem::take(&mut line.waiting) {
            if is_meant(&waiting.request) {
                line.bytes -= waiting.bytes;
                (self.count, self.bytes) = (self.count - 1, self.bytes - waiting.bytes);
                removed.push(waiting.request);
            } else {
                line.waiting.push_back(waiting);
            }
        }
        if is_ready && !line.waiting.is_empty() {
            self.ready.insert(line.key(user));
        }
        removed
    }

    /// Removes all waiting requests.
    pub(super) fn take_all(&mut self) -> Vec<R> {
        self.ready.clear();
        (self.count, self.bytes) = (0, 0);
        self.lines.drain().flat_map(|(_, line)| line.waiting).map(|waiting| waiting.request).collect()
    }
}

#[cfg(test)]
mod tests;
