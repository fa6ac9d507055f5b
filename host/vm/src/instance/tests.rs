//! Programs, as a service and as `lifeboat run` call them.

use super::*;
use crate::engine::{Engine, PoolLimits};
use crate::store::Inputs;
use crate::workload::{LoadLimits, load};
use bytes::BytesMut;
use lifeboat_disk::{Error as DiskError, Ino, OpenHow};
use std::io::ErrorKind;
use std::sync::Mutex;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

const PROGRAM: &str = include_str!("../../../../tests/guests/program.wat");

const SECRET: [u8; 32] = [7; 32];

const ALLOWANCE: Allowance =
    Allowance { fuel: 10_000_000, memory_bytes: 4 << 20, disk_bytes: 1 << 20, inputs: Inputs::Replay };

async fn compiled() -> Arc<Program> {
    let workload = load("program.wat", PROGRAM.as_bytes(), &LoadLimits::default()).unwrap();
    let engine = Arc::new(Engine::new(PoolLimits { stores: 1, memories: 2, memory_bytes: 4 << 20 }).unwrap());
    engine.compile(workload).await.unwrap()
}

async fn created(program: &Arc<Program>, disk: Disk) -> Instance {
    Instance::create(program, SECRET, ALLOWANCE, disk).await.unwrap()
}

fn call(sequence: u64, body: &[u8]) -> Call<'_> {
    let (sequence, timestamp) = (Sequence(sequence), Timestamp(1_000 + sequence));
    Call { id: "id-1", user: "ann", sequence, timestamp, epoch: Epoch::default(), body }
}

async fn executed(instance: &mut Instance, sequence: u64, body: &str) -> Answer {
    instance.execute(call(sequence, body.as_bytes()), ALLOWANCE, Network::None).await.answer
}

async fn queried(instance: &mut Instance, body: &str) -> Answer {
    instance.query(call(1, body.as_bytes()), ALLOWANCE).await.answer
}

fn ok(text: &str) -> Answer {
    Answer::Ok(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn a_run_reads_its_body_and_answers_its_output() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    assert_eq!(executed(&mut instance, 1, "ehello").await, ok("hello"));
    let long = "x".repeat(50_000);
    assert_eq!(executed(&mut instance, 2, &format!("e{long}")).await, ok(&long));
    assert!(!instance.is_dead() && instance.take_log().is_empty());
}

#[tokio::test]
async fn the_disk_is_what_lives_between_two_runs() {
    let program = compiled().await;
    let mut instance = created(&program, Disk::new(0)).await;
    assert_eq!(executed(&mut instance, 1, "aone").await, ok("one"));
    assert_eq!(executed(&mut instance, 2, "a two").await, ok("one two"));
    let (snapshot, fuel) = instance.snapshot(Sequence(2), Timestamp(9), ALLOWANCE).await.unwrap();
    assert_eq!(fuel, 0, "no guest is called");
    drop(instance);
    let mut restored = created(&program, Disk::new(0)).await;
    restored.restore(&Arc::new(snapshot), ALLOWANCE).await.unwrap();
    assert_eq!(executed(&mut restored, 3, "a three").await, ok("one two three"));
}

#[tokio::test]
async fn a_run_that_is_not_ok_leaves_the_disk_as_it_was() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    executed(&mut instance, 1, "aone").await;
    assert_eq!(executed(&mut instance, 2, "xbad\n").await, Answer::Refused("exit code 33: bad".into()));
    assert_eq!(instance.take_log(), ["bad"]);
    assert!(!instance.has_undone(), "a refusal is kept");
    let Answer::Failed(Cause::Explained { summary, details }) = executed(&mut instance, 3, "tboom").await else {
        panic!("no trap")
    };
    assert!(summary.starts_with("trap: ") && details.starts_with("in "), "{summary} {details}");
    assert!(instance.has_undone() && !instance.is_dead());
    assert_eq!(queried(&mut instance, "aquery").await, ok("onequery"));
    assert_eq!(queried(&mut instance, "r").await, ok("one"), "what a query writes is dropped");
    assert_eq!(executed(&mut instance, 4, "a four").await, ok("one four"));
    assert!(!instance.has_undone());
}

#[tokio::test]
async fn every_exit_code_but_zero_is_a_refusal() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    for (body, expected) in [
        (b"\x00", Answer::Ok(Bytes::new())),
        (b"\x01", Answer::Refused("exit code 1".into())),
        (b"\xff", Answer::Refused("exit code 255".into())),
    ] {
        assert_eq!(instance.execute(call(1, body), ALLOWANCE, Network::None).await.answer, expected, "{body:?}");
    }
}

#[tokio::test]
async fn a_run_sees_the_command_line_of_its_service_and_its_call() {
    let command_line = CommandLine {
        arguments: vec!["name".into(), "--flag".into()],
        environment: vec![("KEY".into(), "value".into())],
    };
    let program = compiled().await.with_command_line(command_line);
    let mut instance = created(&program, Disk::new(0)).await;
    let expected = "name\0--flag\0KEY=value\0LIFEBOAT_TRANSACTION=id-1\0LIFEBOAT_USER=ann\0LIFEBOAT_SEQUENCE=5\0\
                    LIFEBOAT_TIMESTAMP=1005\0LIFEBOAT_KIND=transaction\0";
    assert_eq!(executed(&mut instance, 5, "v").await, ok(expected));
    let Answer::Ok(reply) = queried(&mut instance, "v").await else { panic!("a query sees its kind as well") };
    assert!(reply.ends_with(b"LIFEBOAT_KIND=query\0"));
}

#[tokio::test]
async fn the_reads_of_a_run_are_counted_and_those_at_the_end_of_its_body() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    let reads = |instance: &Instance| {
        let Observed { stdin_reads, reads_at_end, .. } = instance.observed();
        (stdin_reads, reads_at_end)
    };
    assert_eq!(executed(&mut instance, 1, "ehello").await, ok("hello"));
    assert_eq!(reads(&instance), (2, 1));
    assert_eq!(queried(&mut instance, "").await, ok(""));
    assert_eq!(reads(&instance), (1, 1), "the last run counts alone");
}

#[tokio::test]
async fn the_level_of_memory_is_the_peak_of_the_last_kept_run() {
    let program = compiled().await;
    let mut instance = created(&program, Disk::new(0)).await;
    assert_eq!(instance.memory_bytes(), 0);
    executed(&mut instance, 1, "m").await;
    let (small, large) = (instance.memory_bytes() - (16 << 16), instance.memory_bytes());
    assert!(small >= 2 << 16);
    executed(&mut instance, 2, "tboom").await;
    queried(&mut instance, "eq").await;
    assert_eq!(instance.memory_bytes(), large, "neither a failure nor a query is kept");
    let (snapshot, _) = instance.snapshot(Sequence(1), Timestamp(9), ALLOWANCE).await.unwrap();
    drop(instance);
    let mut restored = created(&program, Disk::new(0)).await;
    restored.restore(&Arc::new(snapshot), ALLOWANCE).await.unwrap();
    assert_eq!(restored.memory_bytes(), large, "compaction does nothing");
    executed(&mut restored, 3, "e").await;
    assert_eq!(restored.memory_bytes(), small);
}

#[tokio::test]
async fn a_run_that_exhausts_something_leaves_nothing() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    executed(&mut instance, 1, "aone").await;
    let less = Allowance { memory_bytes: 3 << 16, ..ALLOWANCE };
    let attempt = instance.execute(call(2, b"m"), less, Network::None).await;
    assert!(matches!(attempt.answer, Answer::Failed(Cause::Memory { .. })), "{attempt:?}");
    let attempt = instance.execute(call(2, b"s"), ALLOWANCE, Network::None).await;
    assert_eq!(
        (attempt.answer, attempt.fuel_used),
        (Answer::Failed(Cause::Fuel { limit_fuel: 10_000_000 }), 10_000_000)
    );
    let less = Allowance { disk_bytes: instance.disk().used_bytes(), ..ALLOWANCE };
    let attempt = instance.execute(call(2, b"atwo"), less, Network::None).await;
    assert!(matches!(attempt.answer, Answer::Failed(Cause::Disk { .. })), "{attempt:?}");
    let attempt = instance.execute(call(2, b"y"), Allowance { fuel: u64::MAX / 2, ..ALLOWANCE }, Network::None).await;
    assert!(matches!(attempt.answer, Answer::Failed(Cause::ReplyBytes { .. })), "{:?}", attempt.answer);
    assert_eq!(executed(&mut instance, 2, "r").await, ok("one"));
}

#[tokio::test]
async fn an_interrupted_run_leaves_nothing() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    executed(&mut instance, 1, "aone").await;
    let endless = Allowance { fuel: u64::MAX / 2, ..ALLOWANCE };
    let mut running = Box::pin(instance.execute(call(2, b"s"), endless, Network::None));
    let first = poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await;
    assert!(first.is_pending());
    drop(running);
    assert!(instance.is_dead());
    let attempt = instance.interrupt(endless, Cause::Interrupted);
    assert_eq!(attempt.answer, Answer::Failed(Cause::Interrupted));
    assert!(attempt.fuel_used > 0 && attempt.fuel_used < 1_000_000_000, "{}", attempt.fuel_used);
    assert!(!instance.is_dead() && instance.has_undone());
    assert_eq!(executed(&mut instance, 2, "a two").await, ok("one two"));
}

#[tokio::test]
async fn the_same_calls_give_the_same_disk_and_replies() {
    let program = compiled().await;
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let mut instance = created(&program, Disk::new(0)).await;
        let mut replies = Vec::new();
        for (sequence, body) in (1..).zip(["aone", "c", "xno", "a two", "v"]) {
            replies.push(executed(&mut instance, sequence, body).await);
        }
        outcomes.push((replies, instance.disk().digest()));
    }
    let second = outcomes.pop().unwrap();
    assert_eq!(outcomes, [second]);
}

#[tokio::test]
async fn a_snapshot_that_is_not_of_a_program_is_refused() {
    let mut instance = created(&compiled().await, Disk::new(0)).await;
    let state = Section { kind: SectionKind::State, chunks: vec![Bytes::from_static(b"abc")] };
    let snapshot = Snapshot::new(Sequence(1), Timestamp(1), 7, vec![state], Disk::new(0));
    let refused = instance.restore(&Arc::new(snapshot), ALLOWANCE).await.unwrap_err().to_string();
    assert!(refused.contains("no state of a program") && refused.contains("version 7"), "{refused}");
}

// A run outside of any service.

/// Returns a run with `input`, and its two outputs.
fn run(input: &[u8]) -> (Run, MemoryOutputPipe, MemoryOutputPipe) {
    let (stdout, stderr) = (MemoryOutputPipe::new(1 << 20), MemoryOutputPipe::new(1 << 20));
    let stdin = MemoryInputPipe::new(Bytes::copy_from_slice(input));
    let streams =
        OwnStreams { stdin: Box::new(stdin), stdout: Box::new(stdout.clone()), stderr: Box::new(stderr.clone()) };
    let mut disk = Disk::new(0);
    disk.enter(lifeboat_disk::Call { now_ns: 1, mark: Default::default(), limit_bytes: 1 << 20, is_read_only: false });
    disk.create_directory_at(Ino::ROOT, "in").unwrap();
    let surroundings = Surroundings::Fixed { now: Timestamp(5), secret: SECRET };
    let command_line = CommandLine { arguments: vec!["p".into(), "-x".into()], environment: Vec::new() };
    let preopens = vec![("/in".to_owned(), "in".to_owned())];
    (Run { command_line, streams, disk, preopens, allowance: ALLOWANCE, surroundings }, stdout, stderr)
}

#[tokio::test]
async fn a_single_run_ends_with_its_own_code_and_writes_at_once() {
    let program = compiled().await;
    let (of_x, stdout, stderr) = run(b"xbad");
    let ran = run_once(&program, of_x).await.unwrap();
    assert_eq!(ran.end, RunEnd::Exit(33));
    assert_eq!((stdout.contents(), &*stderr.contents()), (Bytes::new(), &b"bad"[..]));
    assert!(ran.fuel_used > 0 && ran.levels.memory_bytes > 0 && ran.levels.disk_bytes > 0, "{ran:?}");
    let mut disk = ran.disk;
    let (ino, _) = disk.open_at(Ino::ROOT, "in/log", OpenHow::default()).unwrap();
    assert_eq!(disk.read(ino, 0, 100).unwrap(), b"bad", "the file is below the directory that the program found");
    let (of_v, stdout, _) = run(b"v");
    assert_eq!(run_once(&program, of_v).await.unwrap().end, RunEnd::Exit(0));
    assert_eq!(stdout.contents(), b"p\0-x\0"[..]);
}

#[tokio::test]
async fn a_single_run_gets_an_error_when_its_disk_is_full() {
    let (mut of_a, ..) = run(b"alonger than the disk");
    of_a.allowance.disk_bytes = of_a.disk.used_bytes() + 1_024 + 3;
    // 51 is `nospc` of preview 1, and the program adds 90 to it.
    let end = run_once(&*compiled().await, of_a).await.unwrap().end;
    assert_eq!(end, RunEnd::Exit(90 + 51));
}

#[tokio::test]
async fn a_single_run_finds_only_the_directories_that_it_is_given() {
    let (mut of_a, ..) = run(b"aone");
    of_a.preopens.clear();
    // 8 is `badf`.
    assert_eq!(run_once(&*compiled().await, of_a).await.unwrap().end, RunEnd::Exit(90 + 8));
    let (mut of_a, ..) = run(b"aone");
    of_a.preopens = vec![("/in".into(), "nowhere".into())];
    assert_eq!(run_once(&*compiled().await, of_a).await.unwrap_err(), DiskError::NoEntry);
}

#[tokio::test]
async fn a_single_run_ends_for_a_trap_and_for_its_deadline() {
    let program = compiled().await;
    let (of_t, ..) = run(b"tboom");
    let end = run_once(&program, of_t).await.unwrap().end;
    assert!(matches!(end, RunEnd::Failed(Cause::Explained { .. })), "{end:?}");
    let (mut of_s, ..) = run(b"s");
    let deadline = Duration::from_millis(20);
    of_s.allowance = Allowance { fuel: u64::MAX / 2, inputs: Inputs::Live { deadline }, ..ALLOWANCE };
    assert_eq!(run_once(&program, of_s).await.unwrap().end, RunEnd::Failed(Cause::Deadline { deadline }));
}

/// A machine whose clocks go on by one at each look.
#[derive(Default)]
struct Counting(u64);

impl Machine for Counting {
    fn wall_ns(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    fn monotonic_ns(&mut self) -> u64 {
        self.0 += 1;
        1_000_000 + self.0
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        bytes.fill(9);
        Ok(())
    }
}

#[tokio::test]
async fn a_single_run_may_have_the_clocks_of_the_machine() {
    let (mut of_c, stdout, _) = run(b"c");
    of_c.surroundings = Surroundings::Machine { machine: Box::new(Counting::default()), network: None };
    assert_eq!(run_once(&*compiled().await, of_c).await.unwrap().end, RunEnd::Exit(0));
    let output = stdout.contents();
    let [wall, monotonic] = [0, 8].map(|at| u64::from_le_bytes(output[at..at + 8].try_into().unwrap()));
    assert!(wall > 0 && wall < 1_000 && monotonic > 1_000_000 && monotonic < 1_001_000, "{wall} {monotonic}");
    assert_eq!(output[16..], [9; 8]);
}

/// Standard output whose reader is gone after some bytes.
#[derive(Clone, Default)]
struct Closing(Arc<Mutex<BytesMut>>);

impl wasmtime_wasi::cli::IsTerminal for Closing {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl wasmtime_wasi::cli::StdoutStream for Closing {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl tokio::io::AsyncWrite for Closing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut written = self.0.lock().unwrap();
        if written.len() >= 100 {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_single_run_ends_when_nobody_reads_its_output() {
    let (mut of_y, ..) = run(b"y");
    let output = Closing::default();
    of_y.streams.stdout = Box::new(output.clone());
    of_y.allowance.fuel = u64::MAX / 2;
    assert_eq!(run_once(&*compiled().await, of_y).await.unwrap().end, RunEnd::OutputClosed);
    assert!(output.0.lock().unwrap().starts_with(b"y\ny\n"));
}
