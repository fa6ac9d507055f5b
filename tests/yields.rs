//! Guests that keep a thread busy in every possible way. They yield within the interval, whatever they call and however
//! often, and their deadlines end them.
//!
//! The number of yields is counted in polls of a guest's call: no test here measures time.

use crate::rig::{MIB, Rig, cause, guest_bytes, ok, size};
use crate::world::WORLD;
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Answer, Cause};
use lifeboat_disk::Disk;
use lifeboat_vm::engine::{Engine, PoolLimits, Program};
use lifeboat_vm::instance::{Attempt, Call, Instance, MoveError};
use lifeboat_vm::network::Network;
use lifeboat_vm::snapshot::Snapshot;
use lifeboat_vm::store::{Allowance, FUEL_YIELD_INTERVAL, Inputs};
use lifeboat_vm::workload::{LoadLimits, WASI_IMPORTS, load};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wit_parser::WorldItem;

/// A tank of five and a half intervals.
const TANK_FUEL: u64 = 5 * FUEL_YIELD_INTERVAL + FUEL_YIELD_INTERVAL / 2;

/// An allowance without a deadline, like that of a replay.
const REPLAY: Allowance =
    Allowance { fuel: TANK_FUEL, memory_bytes: 64 * MIB, disk_bytes: MIB, inputs: Inputs::Replay };

fn engine(memory_bytes: u64) -> Arc<Engine> {
    Arc::new(Engine::new(PoolLimits { stores: 2, memories: 1, memory_bytes }).expect("an engine"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

async fn compile(engine: &Arc<Engine>, name: &str, bytes: &[u8]) -> Arc<Program> {
    let workload = load(name, bytes, &LoadLimits::default()).unwrap_or_else(|error| panic!("{error}"));
    engine.compile(workload).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn create(program: &Program) -> Instance {
    Instance::create(program, [7; 32], REPLAY, Disk::new(0)).await.expect("it instantiates")
}

async fn execute(instance: &mut Instance, body: &str, allowance: Allowance) -> Attempt {
    let call = Call {
        id: "t",
        user: "ada",
        sequence: Sequence(1),
        timestamp: Timestamp(1_700_000_000_000_000_000),
        epoch: Epoch::default(),
        body: body.as_bytes(),
    };
    instance.execute(call, allowance, Network::None).await
}

/// Waits for `future` and counts how often it yielded.
async fn counted<T>(future: impl Future<Output = T>) -> (T, u64) {
    let mut yields = 0;
    let mut future = pin!(future);
    let output = poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        yields += u64::from(polled.is_pending());
        polled
    })
    .await;
    (output, yields)
}

/// The variable parts of a guest. They find handles in `$input-stream`, `$output-stream`, `$pollable`, `$fields`,
/// `$outgoing-request` and `$request-options` while the guest executes.
#[derive(Default)]
struct Guest {
    /// Imports, and functions of the guest's own.
    imports: String,
    functions: String,
    start: String,
    execute: String,
    snapshot: String,
    restore: String,
}

impl Guest {
    fn component(&self) -> Vec<u8> {
        let Self { imports, functions, start, execute, snapshot, restore } = self;
        WORLD.component(&format!(
            r#"(module
            {imports}
            (import "wasi:cli/stdin@0.2.0" "get-stdin" (func $get-stdin (result i32)))
            (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $get-stdout (result i32)))
            (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
            (import "wasi:http/types@0.2.0" "[constructor]fields" (func $new-fields (result i32)))
            (import "wasi:http/types@0.2.0" "[constructor]outgoing-request"
              (func $new-request (param i32) (result i32)))
            (import "wasi:http/types@0.2.0" "[constructor]request-options" (func $new-options (result i32)))
            (memory (export "memory") 16)
            (table $table 1000 funcref)
            (elem $elements funcref (ref.func $get-stdin) (ref.func $get-stdout))
            (data $bytes "some bytes")
            (global $input-stream (mut i32) (i32.const 0))
            (global $output-stream (mut i32) (i32.const 0))
            (global $pollable (mut i32) (i32.const 0))
            (global $fields (mut i32) (i32.const 0))
            (global $outgoing-request (mut i32) (i32.const 0))
            (global $request-options (mut i32) (i32.const 0))
            {functions}
            (func $start {start})
            (start $start)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
            (func (export "lifeboat:vm/workload@0.1.0#execute")
              (param i32 i32 i32 i32 i64 i64) (param $body i32) (param $length i32) (result i32)
              (global.set $input-stream (call $get-stdin))
              (global.set $output-stream (call $get-stdout))
              (global.set $pollable (call $subscribe (i64.const 0)))
              (i32.store (i32.const 2048) (global.get $pollable))
              (global.set $fields (call $new-fields))
              (global.set $outgoing-request (call $new-request (call $new-fields)))
              (global.set $request-options (call $new-options))
              {execute}
              (i32.const 16))
            (func (export "lifeboat:vm/workload@0.1.0#query")
              (param i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 16))
            (func (export "lifeboat:vm/workload@0.1.0#state-version") (result i32) (i32.const 1))
            (func (export "lifeboat:vm/workload@0.1.0#snapshot") (result i32) {snapshot} (i32.const 16))
            (func (export "lifeboat:vm/workload@0.1.0#restore") (param i32) (result i32) {restore} (i32.const 16)))"#
        ))
    }
}

/// The number of repetitions of a step in a guest without a loop.
const STRAIGHT: usize = 4_000;

/// Returns a guest that repeats `step`. Depending on its body, it does so forever, `1`, `2` or `3` times per round of a
/// loop, or `straight` times in a row.
fn busy(imports: &str, functions: &str, step: &str, straight: usize) -> Vec<u8> {
    let mut execute = String::new();
    for count in 1..=3 {
        let (digit, steps) = (u32::from(b'0') + count, step.repeat(count as usize));
        writeln!(
            execute,
            "(if (i32.eq (i32.load8_u (local.get $body)) (i32.const {digit}))
               (then (loop $again {steps} (br $again))))"
        )
        .expect("a string takes all");
    }
    execute += &step.repeat(straight);
    Guest { imports: imports.into(), functions: functions.into(), execute, ..Guest::default() }.component()
}

/// Runs `guest` on a tank of five intervals in each of its ways: it must yield at least every second interval.
async fn yields_throughout(engine: &Arc<Engine>, name: &str, guest: &[u8]) {
    let program = compile(engine, name, guest).await;
    for body in ["1", "2", "3", "x"] {
        let (attempt, yields) = counted(execute(&mut create(&program).await, body, REPLAY)).await;
        match &attempt.answer {
            // A guest whose call ends at once need not yield.
            Answer::Failed(Cause::Exit { .. } | Cause::Trap { .. } | Cause::Explained { .. })
                if attempt.fuel_used < 10_000 => {}
            Answer::Ok(_) if body == "x" => {}
            Answer::Failed(Cause::Fuel { .. }) => {}
            other => panic!("{name}, {body}: {other:?}"),
        }
        let least = (attempt.fuel_used / FUEL_YIELD_INTERVAL).div_ceil(2);
        assert!(yields >= least, "{name}, {body}: {yields} yields in {} fuel, {:?}", attempt.fuel_used, attempt.answer);
    }
}

#[test]
fn the_functions_called_here_are_those_of_the_world() {
    let names = WORLD.resolve.worlds[WORLD.id].imports.values().filter_map(|item| match item {
        WorldItem::Interface { id, .. } => WORLD.interface(*id).strip_suffix("@0.2.0").map(str::to_owned),
        _ => None,
    });
    let allowed: BTreeSet<String> = WASI_IMPORTS.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), allowed);
}

#[test]
fn a_guest_yields_whatever_it_calls_in_a_loop() {
    let engine = engine(64 * MIB);
    block_on(async {
        for (index, function) in WORLD.functions().into_iter().enumerate() {
            let (imports, call) = WORLD.call(index, function);
            let name = format!("{} {}", WORLD.interface(function.0), function.1.name);
            yields_throughout(&engine, &name, &busy(&imports, "", &call, STRAIGHT)).await;
        }
    });
}

/// The operations of a guest on memory and tables without a host function.
const STEPS: [&str; 8] = [
    "(drop (memory.grow (i32.const 0)))",
    "(drop (table.grow $table (ref.null func) (i32.const 0)))",
    "(memory.fill (i32.const 131072) (i32.const 1) (i32.const 65536))",
    "(memory.copy (i32.const 262144) (i32.const 131072) (i32.const 65536))",
    "(memory.init $bytes (i32.const 131072) (i32.const 0) (i32.const 10))",
    "(table.fill $table (i32.const 0) (ref.null func) (i32.const 1000))",
    "(table.copy $table $table (i32.const 0) (i32.const 500) (i32.const 500))",
    "(table.init $table $elements (i32.const 0) (i32.const 0) (i32.const 2))",
];

#[test]
fn a_guest_yields_during_operations_on_memory_or_tables() {
    let engine = engine(64 * MIB);
    block_on(async {
        for step in STEPS {
            yields_throughout(&engine, step, &busy("", "", step, STRAIGHT)).await;
        }
    });
}

/// Returns a guest that executes all of them in turn.
fn mixed() -> Vec<u8> {
    let (mut imports, mut all) = (String::new(), String::new());
    for (index, function) in WORLD.functions().into_iter().enumerate() {
        if !["lifeboat:vm/state@0.1.0", "wasi:cli/exit@0.2.0"].contains(&&*WORLD.interface(function.0)) {
            let (import, call) = WORLD.call(index, function);
            imports += &import;
            all += &call;
        }
    }
    all += &STEPS.concat();
    busy(&imports, &format!("(func $all {all})"), "(call $all)", STRAIGHT / 100)
}

#[test]
fn a_guest_yields_in_any_mix_of_these() {
    let engine = engine(64 * MIB);
    block_on(yields_throughout(&engine, "all of them", &mixed()));
}

/// Reads the clock twice in a row in an endless loop.
const NOW_TWICE: &str = "(loop $again (drop (call $now)) (drop (call $now)) (br $again))";

fn imports_now() -> String {
    "(import \"wasi:clocks/monotonic-clock@0.2.0\" \"now\" (func $now (result i64)))".into()
}

#[test]
fn a_guest_yields_in_its_start_function() {
    let engine = engine(64 * MIB);
    let straight = "(drop (call $now))".repeat(STRAIGHT);
    block_on(async {
        for start in [NOW_TWICE, &straight] {
            let guest = Guest { imports: imports_now(), start: start.into(), ..Guest::default() };
            let program = compile(&engine, "start", &guest.component()).await;
            let (created, yields) = counted(Instance::create(&program, [7; 32], REPLAY, Disk::new(0))).await;
            if start == NOW_TWICE {
                assert!(matches!(created, Err(MoveError::Instantiate(_))), "{created:?}");
            }
            assert!(yields >= 2, "{yields}");
        }
    });
}

const STATE_IMPORTS: &str = "(import \"lifeboat:vm/state@0.1.0\" \"write\" (func $write (param i32 i32)))
        (import \"lifeboat:vm/state@0.1.0\" \"read\" (func $read (param i32 i32)))";
const WRITE: &str = "(call $write (i32.const 0) (i32.const 1))";

/// Returns an endless loop that takes this step so often in each round.
fn looped(step: &str, times: usize) -> String {
    format!("(loop $again {} (br $again))", step.repeat(times))
}

#[test]
fn a_guest_yields_while_it_writes_its_state() {
    let engine = engine(64 * MIB);
    block_on(async {
        for times in 1..=3 {
            let guest = Guest { imports: STATE_IMPORTS.into(), snapshot: looped(WRITE, times), ..Guest::default() };
            let program = compile(&engine, "snapshot", &guest.component()).await;
            let (written, yields) = counted(snapshot(&mut create(&program).await)).await;
            assert!(matches!(written, Err(MoveError::Failed { cause: Cause::Fuel { .. }, .. })), "{written:?}");
            assert!(yields >= 2, "{yields}");
        }
    });
}

#[test]
fn a_guest_yields_while_it_reads_its_state_back() {
    let engine = engine(64 * MIB);
    // A read of zero bytes never reaches the end.
    let read = "(call $read (i32.const 0) (i32.const 4096))";
    block_on(async {
        for times in 1..=3 {
            let (snapshot_once, restore) = (WRITE.to_owned(), looped(read, times));
            let guest = Guest { imports: STATE_IMPORTS.into(), snapshot: snapshot_once, restore, ..Guest::default() };
            let program = compile(&engine, "restore", &guest.component()).await;
            let (written, _) = snapshot(&mut create(&program).await).await.expect("a snapshot");
            let written = Arc::new(written);
            let (read, yields) = counted(create(&program).await.restore(&written, REPLAY)).await;
            assert!(matches!(read, Err(MoveError::Failed { cause: Cause::Fuel { .. }, .. })), "{read:?}");
            assert!(yields >= 2, "{yields}");
        }
    });
}

async fn snapshot(instance: &mut Instance) -> Result<(Snapshot, u64), MoveError> {
    instance.snapshot(Sequence(1), Timestamp(1), REPLAY).await
}

/// A tank that no deadline of a test exhausts.
const ENDLESS: u64 = u64::MAX / 4;

#[test]
fn a_deadline_ends_a_guest_whatever_it_calls() {
    let engine = engine(64 * MIB);
    let deadline = Duration::from_millis(20);
    let allowance = Allowance { fuel: ENDLESS, inputs: Inputs::Live { deadline }, ..REPLAY };
    block_on(async {
        let now = |count: usize| busy(&imports_now(), "", &"(drop (call $now))".repeat(count), 0);
        let mut guests = vec![("now", now(1)), ("now twice", now(2)), ("all of them", mixed())];
        guests.extend(STEPS.map(|step| (step, busy("", "", step, 0))));
        for (name, guest) in guests {
            let program = compile(&engine, name, &guest).await;
            for body in ["1", "2", "3"] {
                let attempt = execute(&mut create(&program).await, body, allowance).await;
                assert_eq!(attempt.answer, Answer::Failed(Cause::Deadline { deadline }), "{name}, {body}");
            }
        }
    });
}

#[test]
fn a_neighbour_on_the_same_thread_makes_progress() {
    let engine = engine(64 * MIB);
    block_on(async {
        let hostile = compile(&engine, "all of them", &mixed()).await;
        let neighbour = compile(&engine, "count.wat", &guest_bytes("count.wat")).await;
        let (mut hostile, mut neighbour) = (create(&hostile).await, create(&neighbour).await);
        let allowance = Allowance { inputs: Inputs::Live { deadline: Duration::from_secs(60) }, ..REPLAY };
        let is_over = AtomicBool::new(false);
        let flood = async {
            let attempt = execute(&mut hostile, "2", allowance).await;
            is_over.store(true, Ordering::Relaxed);
            attempt
        };
        let counting = async {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                let attempt = execute(&mut neighbour, "x", REPLAY).await;
                assert!(matches!(attempt.answer, Answer::Ok(_)), "{attempt:?}");
                count += 1;
                tokio::task::yield_now().await;
            }
            count
        };
        let (flooded, count) = tokio::join!(flood, counting);
        assert!(matches!(flooded.answer, Answer::Failed(Cause::Fuel { .. })), "{flooded:?}");
        assert!(count >= 3, "{count} transactions of the neighbour");
    });
}

#[test]
fn a_neighbour_makes_progress_while_a_guest_fills_its_memory() {
    const FILLED: u64 = 512 * MIB;
    let engine = engine(FILLED + 2 * MIB);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
    let execute_once = format!(
        "(drop (memory.grow (i32.const {pages})))
         (memory.fill (i32.const 1048576) (i32.const 1) (i32.const {FILLED}))",
        pages = FILLED / 65536
    );
    let guest = Guest { execute: execute_once, ..Guest::default() }.component();
    let (is_over, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let neighbour = {
        let (is_over, turns) = (Arc::clone(&is_over), Arc::clone(&turns));
        runtime.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };
    let filling = runtime.spawn(async move {
        let program = compile(&engine, "fill", &guest).await;
        let mut instance = create(&program).await;
        let before = turns.load(Ordering::Relaxed);
        let allowance = Allowance { fuel: ENDLESS, memory_bytes: FILLED + MIB, ..REPLAY };
        let attempt = execute(&mut instance, "x", allowance).await;
        let during = turns.load(Ordering::Relaxed) - before;
        is_over.store(true, Ordering::Relaxed);
        (attempt, during)
    });
    let (attempt, during) = runtime.block_on(filling).expect("no panic");
    runtime.block_on(neighbour).expect("no panic");
    assert!(matches!(attempt.answer, Answer::Ok(_)), "{attempt:?}");
    assert!(attempt.fuel_used > FILLED, "each byte burns one unit");
    // A few turns were before and after the fill, on the thread that executed it.
    assert!(during > 20, "{during} turns of the neighbour");
}

#[test]
fn a_deadline_ends_a_guest_before_its_next_operation_on_memory() {
    const FILLED: u64 = 64 * MIB;
    let execute_once = format!(
        "(drop (memory.grow (i32.const {pages})))
         (loop $again (memory.fill (i32.const 1048576) (i32.const 1) (i32.const {FILLED})) (br $again))",
        pages = FILLED / 65536
    );
    let guest = Guest { execute: execute_once, ..Guest::default() }.component();
    block_on(async {
        let engine = engine(FILLED + 2 * MIB);
        let program = compile(&engine, "fill", &guest).await;
        let mut instance = create(&program).await;
        // The deadline is shorter than the first fill.
        let inputs = Inputs::Live { deadline: Duration::from_micros(200) };
        let attempt =
            execute(&mut instance, "x", Allowance { fuel: ENDLESS, memory_bytes: FILLED + MIB, inputs, ..REPLAY })
                .await;
        assert!(matches!(attempt.answer, Answer::Failed(Cause::Deadline { .. })), "{attempt:?}");
        // The second fill was charged, but did not begin.
        assert!(attempt.fuel_used < 3 * FILLED, "{attempt:?}");
    });
}

#[tokio::test]
async fn pairs_of_host_calls_end_at_the_deadline_without_delaying_a_neighbour() {
    let rig = Rig::new();
    let endless = Size {
        name: "s".into(),
        fuel: ENDLESS,
        memory_bytes: 8 * MIB,
        disk_bytes: MIB,
        network_calls: 1_000,
        network_bytes: MIB,
        deadline: Duration::from_millis(100),
    };
    let floods = ["flood-1", "flood-2", "flood-3", "flood-4"];
    for name in floods {
        rig.start(name, "two-host-calls.wat", &[Arc::new(endless.clone())]).await;
    }
    rig.start("neighbour", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let flooding = futures::future::join_all(floods.iter().map(|name| rig.send(name, "boom")));
    let counting = async {
        for expected in 1..=20 {
            assert_eq!(ok(&rig.send("neighbour", "x").await), expected.to_string());
        }
    };
    let (flooded, ()) = tokio::join!(flooding, counting);
    for reply in &flooded {
        assert!(cause(reply).starts_with("deadline: not finished within 100 ms"), "{reply:?}");
    }
    assert_eq!(ok(&rig.send("flood-1", "x").await), "1");
}
