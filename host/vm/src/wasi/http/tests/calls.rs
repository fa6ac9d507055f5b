//! Calls: when they are sent, what a guest sees of them, and that a replay shows it the same.

use super::super::super::{clocks, io};
use super::*;
use futures::future::BoxFuture;
use lifeboat_api::call::CALLS_PER_TRANSACTION_MAX;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

const START_NS: u64 = 1_000_000_000;

/// A host whose time passes only while everything waits.
#[derive(Debug, Default)]
struct FakeTime {
    now: Mutex<Duration>,
    /// The times that somebody waits for.
    awaited: Mutex<Vec<Duration>>,
}

impl FakeTime {
    fn pass_to(&self, when: Duration) {
        let mut now = self.now.lock().expect("no panic");
        *now = when.max(*now);
    }
}

#[derive(Debug)]
struct Fake(Arc<FakeTime>);

impl HostTime for Fake {
    fn now(&self) -> Duration {
        *self.0.now.lock().expect("no panic")
    }

    fn reaches(&self, when: Duration) -> BoxFuture<'static, ()> {
        let time = Arc::clone(&self.0);
        Box::pin(poll_fn(move |_| {
            if Fake(Arc::clone(&time)).now() >= when {
                return Poll::Ready(());
            }
            time.awaited.lock().expect("no panic").push(when);
            Poll::Pending
        }))
    }
}

/// A network that answers each request after a delay.
struct Server {
    wishes: mpsc::UnboundedReceiver<Wish>,
    timeline: Arc<Timeline>,
    time: Arc<FakeTime>,
    delays: Box<dyn Iterator<Item = Duration>>,
    due: Vec<(Duration, Wish)>,
    /// How long after an event the guest runs again. More events may happen until then.
    late: Duration,
}

impl Server {
    fn begin(known: Vec<CallRecord>, delays: impl Iterator<Item = Duration> + 'static) -> (Wasi, Self) {
        let time = Arc::new(FakeTime::default());
        let Live { wasi, wishes, timeline } = Live::at(known, Arc::new(Fake(Arc::clone(&time))));
        (wasi, Self { wishes, timeline, time, delays: Box::new(delays), due: Vec::new(), late: Duration::ZERO })
    }

    fn now(&self) -> Duration {
        *self.time.now.lock().expect("no panic")
    }

    /// Lets the host's time pass until `until`, and answers what is due meanwhile. Returns whether anything was.
    fn pass(&mut self, until: Duration) -> bool {
        let mut has_answered = false;
        let now = self.now();
        while let Ok(wish) = self.wishes.try_recv() {
            self.due.push((now + self.delays.next().unwrap_or_default(), wish));
        }
        self.due.sort_by_key(|(when, wish)| (*when, wish.index));
        while self.due.first().is_some_and(|(when, _)| *when <= until) {
            let (when, wish) = self.due.remove(0);
            self.time.pass_to(when);
            let status = 200 + u16::try_from(wish.index).unwrap_or_default();
            land(&self.timeline, wish, Ok(Arc::new(whole(status))));
            has_answered = true;
        }
        self.time.pass_to(until);
        has_answered
    }

    /// Runs what a guest does. Time passes while it waits.
    fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            self.time.awaited.lock().expect("no panic").clear();
            if let Poll::Ready(value) = work.as_mut().poll(&mut context) {
                return value;
            }
            if self.pass(self.now()) {
                continue;
            }
            let first = self.due.first().map(|(when, _)| *when);
            let next = self.time.awaited.lock().expect("no panic").iter().copied().chain(first).min();
            self.pass(next.expect("it waits for something") + self.late);
        }
    }
}

fn pollable(wasi: &mut Wasi, future: &Resource<FutureIncomingResponse>) -> Resource<DynPollable> {
    HostFutureIncomingResponse::subscribe(wasi, again(future)).expect("a future")
}

fn timer(wasi: &mut Wasi, after: Duration) -> Resource<DynPollable> {
    let after_ns = u64::try_from(after.as_nanos()).expect("short");
    clocks::monotonic_clock::Host::subscribe_duration(wasi, after_ns).expect("a timer")
}

#[test]
fn requests_are_sent_at_the_first_look_in_the_order_of_their_handles() {
    let mut live = Live::new(Vec::new());
    let _first = handled(&mut live.wasi, "/first");
    let second = handled(&mut live.wasi, "/second");
    assert!(live.wishes.try_recv().is_err(), "nobody waits for one");
    assert_eq!(get(&mut live.wasi, &second), Got::Nothing);
    for (index, path) in [(0, "/first"), (1, "/second")] {
        let wish = live.wishes.try_recv().expect("a wish");
        assert_eq!((wish.index, wish.request.path_with_query.as_str()), (index, path));
        assert_eq!(wish.hash, wish.request.hash());
    }
    assert_eq!(get(&mut live.wasi, &second), Got::Nothing);
    assert!(live.wishes.try_recv().is_err(), "each is sent once");
}

#[test]
fn a_request_that_is_dropped_before_a_look_is_never_sent() {
    let mut live = Live::new(Vec::new());
    let dropped = handled(&mut live.wasi, "/dropped");
    let kept = handled(&mut live.wasi, "/kept");
    HostFutureIncomingResponse::drop(&mut live.wasi, dropped).expect("a future");
    assert_eq!(get(&mut live.wasi, &kept), Got::Nothing);
    assert_eq!(live.wishes.try_recv().expect("a wish").request.path_with_query, "/kept");
    assert!(live.wishes.try_recv().is_err());
}

#[test]
fn a_guest_that_waits_for_an_unfinished_request_traps() {
    let mut live = Live::new(Vec::new());
    let (request, body, stream) = written(&mut live.wasi);
    live.wasi.set_authority(again(&request), Some("example.org".into())).expect("a request").expect("an authority");
    let unfinished = live.wasi.handle(request, None).expect("there is a network");
    let other = handled(&mut live.wasi, "/other");
    assert_eq!(get(&mut live.wasi, &other), Got::Nothing);
    assert_eq!(live.wishes.try_recv().expect("a wish").request.path_with_query, "/other");
    let waited = HostFutureIncomingResponse::get(&mut live.wasi, again(&unfinished));
    assert!(waited.is_err_and(|error| is_trap(&error, "whose body it has not finished")));

    write(&mut live.wasi, &stream, 5).expect("room");
    close(&mut live.wasi, stream);
    HostOutgoingBody::finish(&mut live.wasi, body, None).expect("whole");
    assert_eq!(get(&mut live.wasi, &unfinished), Got::Nothing);
    assert_eq!(live.wishes.try_recv().expect("a wish").request.body, b"xxxxx"[..]);
}

#[test]
fn a_look_that_misses_moves_the_clock() {
    let mut live = Live::new(Vec::new());
    let future = handled(&mut live.wasi, "/");
    assert_eq!(live.wasi.now_ns, START_NS);
    assert_eq!(get(&mut live.wasi, &future), Got::Nothing);
    assert_eq!(live.wasi.now_ns, START_NS + 1_000);
    live.land(Ok(Arc::new(whole(204))));
    assert_eq!(get(&mut live.wasi, &future), Got::Status(204));
    assert_eq!(live.wasi.now_ns, START_NS + 1_000);
    let [call] = &live.wasi.leave_network()[..] else { panic!("one call") };
    assert_eq!(call.seen, Timestamp(START_NS + 1_000));
}

#[test]
fn a_wait_takes_the_time_of_the_host_and_ends_at_the_earliest_timer() {
    let (mut wasi, mut server) = Server::begin(Vec::new(), [40, 90].map(Duration::from_millis).into_iter());
    let futures = [handled(&mut wasi, "/0"), handled(&mut wasi, "/1")];
    let pollables = futures.each_ref().map(|future| pollable(&mut wasi, future));
    let timer = timer(&mut wasi, Duration::from_millis(70));
    let all = vec![again(&pollables[0]), again(&pollables[1]), again(&timer)];
    assert_eq!(server.run(wasi.poll(all)).expect("ready"), [0]);
    // The look has found the other one missing.
    assert_eq!(wasi.now_ns, START_NS + 40_001_000);
    assert_eq!(get(&mut wasi, &futures[0]), Got::Status(200));
    assert_eq!(server.run(wasi.poll(vec![again(&pollables[1]), again(&timer)])).expect("ready"), [1]);
    assert_eq!(wasi.now_ns, START_NS + 70_001_000);
    server.run(io::poll::HostPollable::block(&mut wasi, again(&pollables[1]))).expect("ready");
    assert_eq!((wasi.now_ns, server.now()), (START_NS + 90_002_000, Duration::from_millis(90)));
}

#[test]
fn a_known_call_is_served_without_a_wish() {
    let mut first = Live::new(Vec::new());
    let future = handled(&mut first.wasi, "/");
    assert_eq!(get(&mut first.wasi, &future), Got::Nothing);
    first.land(Ok(Arc::new(whole(204))));
    assert_eq!(get(&mut first.wasi, &future), Got::Status(204));
    let known = first.wasi.leave_network();

    let mut again = Live::new(known.clone());
    let (same, new) = (handled(&mut again.wasi, "/"), handled(&mut again.wasi, "/new"));
    assert_eq!(get(&mut again.wasi, &same), Got::Nothing, "it is seen at the same time");
    assert_eq!(get(&mut again.wasi, &same), Got::Status(204));
    assert_eq!(again.wishes.try_recv().expect("a wish").index, 1);
    assert_eq!(get(&mut again.wasi, &new), Got::Nothing);
    assert_eq!(again.wasi.leave_network()[..1], known);
}

#[test]
fn a_call_of_unknown_outcome_and_another_request_are_in_doubt() {
    let mut first = Live::new(Vec::new());
    let future = handled(&mut first.wasi, "/");
    assert_eq!(get(&mut first.wasi, &future), Got::Nothing);
    let known = first.wasi.leave_network();
    for (path, words) in [("/", "may or may not have arrived"), ("/other", "make the same requests")] {
        let mut again = Live::new(known.clone());
        let future = handled(&mut again.wasi, path);
        let Got::Failed(text) = get(&mut again.wasi, &future) else { panic!("no answer") };
        assert!(text.contains("\"in doubt: ") && text.contains(words), "{text}");
        assert!(again.wishes.try_recv().is_err(), "it is not sent");
        // The guest has seen it, so a replay shows it the same.
        let mut replay = replayed(&again.wasi.leave_network());
        let future = handled(&mut replay, path);
        assert_eq!(get(&mut replay, &future), Got::Failed(text));
    }
}

#[test]
fn a_replay_with_another_request_traps() {
    let mut first = Live::new(Vec::new());
    let future = handled(&mut first.wasi, "/");
    assert_eq!(get(&mut first.wasi, &future), Got::Nothing);
    let calls = first.wasi.leave_network();
    for (calls, path, words) in [(&calls[..], "/other", "has another request"), (&[], "/", "has no such call")] {
        let mut replay = replayed(calls);
        let future = handled(&mut replay, path);
        let got = HostFutureIncomingResponse::get(&mut replay, future);
        assert!(got.is_err_and(|error| is_trap(&error, words)), "{path}");
    }
    // One that the guest never saw stays unknown.
    let mut replay = replayed(&calls);
    let future = handled(&mut replay, "/");
    assert_eq!(get(&mut replay, &future), Got::Nothing);
    let pollable = pollable(&mut replay, &future);
    let waited = replay.poll(vec![pollable]).now_or_never().expect("a replay waits for nothing");
    assert!(waited.is_err_and(|error| is_trap(&error, "never happens")));
}

#[test]
fn calls_and_their_bytes_are_bounded() {
    let mut live = Live::new(Vec::new());
    let futures: Vec<_> = (0..=CALLS_PER_TRANSACTION_MAX).map(|_| handled(&mut live.wasi, "/")).collect();
    let Got::Failed(text) = get(&mut live.wasi, &futures[CALLS_PER_TRANSACTION_MAX]) else { panic!("it is sent") };
    assert!(text.contains("limit reached: a transaction may make 64 calls"), "{text}");
    let wishes = std::iter::from_fn(|| live.wishes.try_recv().ok()).count();
    assert_eq!(wishes, CALLS_PER_TRANSACTION_MAX);

    let mut live = Live::new(Vec::new());
    for _ in 0..4 {
        let future = handled(&mut live.wasi, "/");
        assert_eq!(get(&mut live.wasi, &future), Got::Nothing);
        let body = vec![0; HTTP_BODY_BYTES_MAX].into();
        live.land(Ok(Arc::new(CallResponse { body, ..whole(200) })));
        assert_eq!(get(&mut live.wasi, &future), Got::Status(200));
    }
    let future = handled(&mut live.wasi, "/");
    let Got::Failed(text) = get(&mut live.wasi, &future) else { panic!("it is sent") };
    assert!(text.contains("may send and receive 16 MiB"), "{text}");
}

#[test]
fn a_response_that_was_not_taken_is_an_error_in_the_next_call() {
    let mut live = Live::new(Vec::new());
    let (landed, flying, unsent) =
        (handled(&mut live.wasi, "/0"), handled(&mut live.wasi, "/1"), written(&mut live.wasi));
    assert_eq!(get(&mut live.wasi, &landed), Got::Nothing);
    live.land(Ok(Arc::new(whole(200))));
    let unsent = live.wasi.handle(unsent.0, None).expect("there is a network");
    live.wasi.leave(true);
    assert_eq!(live.wasi.leave_network().len(), 2);
    enter(&mut live.wasi, Phase::Execute, 2);
    for future in [landed, flying, unsent] {
        let Got::Failed(text) = get(&mut live.wasi, &future) else { panic!("it is there") };
        assert!(text.contains("an earlier call of the guest"), "{text}");
        HostFutureIncomingResponse::drop(&mut live.wasi, future).expect("a future");
    }
}

/// A step of a guest with requests, or of its host.
#[derive(Debug, Clone)]
enum Step {
    Handle,
    Get(usize),
    Ready(usize),
    /// Polls some of the responses, with or without a timer.
    Poll(Vec<usize>, Option<u64>),
    Sleep(u64),
    Drop(usize),
    /// The host's time goes on while the guest computes.
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || 0..6_usize;
    prop::collection::vec(
        prop_oneof![
            3 => Just(Step::Handle),
            3 => place().prop_map(Step::Get),
            2 => place().prop_map(Step::Ready),
            3 => (prop::collection::vec(place(), 1..4), prop::option::of(0..60_u64))
                .prop_map(|(places, timer)| Step::Poll(places, timer)),
            1 => (0..60_u64).prop_map(Step::Sleep),
            1 => place().prop_map(Step::Drop),
            2 => (0..60_u64).prop_map(Step::Pass),
        ],
        1..40,
    )
}

/// What is outside of a guest.
trait Outside {
    /// Runs what a guest does.
    fn run<T>(&mut self, work: impl Future<Output = T>) -> T;
    /// Lets the host's time pass.
    fn pass(&mut self, time: Duration);
}

impl Outside for Server {
    fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        Self::run(self, work)
    }

    fn pass(&mut self, time: Duration) {
        Self::pass(self, self.now() + time);
    }
}

/// Nothing arrives, and nothing may wait.
struct Nowhere;

impl Outside for Nowhere {
    fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        work.now_or_never().expect("it waits for nothing")
    }

    fn pass(&mut self, _: Duration) {}
}

/// Takes the steps. Returns what the guest sees, with its clock after each step.
fn walk(wasi: &mut Wasi, steps: &[Step], server: &mut impl Outside) -> Vec<(String, u64)> {
    let mut futures: Vec<Option<(Resource<FutureIncomingResponse>, Resource<DynPollable>)>> = Vec::new();
    let mut seen = Vec::new();
    for step in steps {
        let what = match step {
            Step::Handle => {
                let future = handled(wasi, &format!("/{}", futures.len()));
                let pollable = pollable(wasi, &future);
                futures.push(Some((future, pollable)));
                String::new()
            }
            Step::Get(place) => match futures.get(*place) {
                Some(Some((future, _))) => format!("{:?}", get(wasi, future)),
                _ => String::new(),
            },
            Step::Ready(place) => match futures.get(*place) {
                Some(Some((_, pollable))) => {
                    let ready = server.run(io::poll::HostPollable::ready(wasi, again(pollable)));
                    format!("{}", ready.expect("a pollable"))
                }
                _ => String::new(),
            },
            Step::Poll(places, after_ms) => {
                let held = places.iter().filter_map(|place| futures.get(*place).and_then(Option::as_ref));
                let mut pollables: Vec<_> = held.map(|(_, pollable)| again(pollable)).collect();
                let timer = after_ms.map(|after_ms| timer(wasi, Duration::from_millis(after_ms)));
                pollables.extend(timer.as_ref().map(again));
                let ready = match pollables.is_empty() {
                    true => Vec::new(),
                    false => server.run(wasi.poll(pollables)).expect("it ends"),
                };
                if let Some(timer) = timer {
                    io::poll::HostPollable::drop(wasi, timer).expect("a timer");
                }
                format!("{ready:?}")
            }
            Step::Sleep(ms) => {
                let timer = timer(wasi, Duration::from_millis(*ms));
                server.run(io::poll::HostPollable::block(wasi, again(&timer))).expect("it ends");
                io::poll::HostPollable::drop(wasi, timer).expect("a timer");
                String::new()
            }
            Step::Drop(place) => {
                if let Some((future, pollable)) = futures.get_mut(*place).and_then(Option::take) {
                    io::poll::HostPollable::drop(wasi, pollable).expect("a pollable");
                    HostFutureIncomingResponse::drop(wasi, future).expect("a future");
                }
                String::new()
            }
            Step::Pass(ms) => {
                server.pass(Duration::from_millis(*ms));
                String::new()
            }
        };
        seen.push((what, wasi.now_ns));
    }
    seen
}

proptest! {
    /// Whatever the network does meanwhile, a replay shows a guest the same, sends nothing and waits for nothing. So does
    /// a second attempt, if the host's time does not pass meanwhile.
    #[test]
    fn a_replay_shows_what_the_guest_saw(
        steps in steps(),
        delays in prop::collection::vec(0..80_u64, 8),
        late in 0..30_u64,
    ) {
        let delays = delays.into_iter().map(Duration::from_millis).cycle();
        let (mut wasi, mut server) = Server::begin(Vec::new(), delays);
        server.late = Duration::from_millis(late);
        let seen = walk(&mut wasi, &steps, &mut server);
        let calls = wasi.leave_network();

        let mut replay = replayed(&calls);
        prop_assert_eq!(walk(&mut replay, &steps, &mut Nowhere), seen.clone());
        prop_assert_eq!(&replay.leave_network(), &calls);

        // The calls whose outcome is known are served. If all are, nothing is left to wait for.
        if calls.iter().all(|call| call.seen < NEVER_SEEN) {
            let Live { mut wasi, mut wishes, .. } = Live::new(calls.clone());
            prop_assert_eq!(walk(&mut wasi, &steps, &mut Nowhere), seen);
            prop_assert!(wishes.try_recv().is_err());
            prop_assert_eq!(wasi.leave_network(), calls);
        }
    }
}
