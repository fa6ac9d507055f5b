use super::*;
use crate::workload::{LoadLimits, load};

/// Returns `tests/guests/count.wat` with `more` in its module.
fn count_with(more: &str) -> Workload {
    let text = include_str!("../../../../tests/guests/count.wat");
    let text = text.replacen("  (global $heap", &format!("  {more}\n  (global $heap"), 1);
    load("count.wat", text.as_bytes(), &LoadLimits::default()).unwrap()
}

fn compile(limits: PoolLimits, workload: Workload) -> (Arc<Engine>, Arc<Program>) {
    let engine = Arc::new(Engine::new(limits).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let program = runtime.block_on(engine.compile(workload)).unwrap();
    (engine, program)
}

#[test]
fn an_engine_without_a_slot_compiles() {
    compile(PoolLimits { stores: 0, memories: MEMORIES_MAX, memory_bytes: 1 << 20 }, count_with(""));
}

#[test]
fn a_guest_with_everything_that_the_loader_takes_is_run() {
    let memories = MEMORIES_MAX;
    let more = "(memory 1)".repeat(memories as usize - 1) + &"(table 1 funcref)".repeat(TABLES_MAX as usize);
    let (_engine, program) = compile(PoolLimits { stores: 1, memories, memory_bytes: 1 << 20 }, count_with(&more));
    let allowance = crate::store::Allowance {
        fuel: 1_000_000,
        memory_bytes: 1 << 20,
        disk_bytes: 0,
        inputs: crate::store::Inputs::Replay,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let instance = runtime
        .block_on(crate::instance::Instance::create(&program, [7; 32], allowance, lifeboat_disk::Disk::new(0)))
        .unwrap();
    assert_eq!(instance.memory_bytes(), memories * 65536);
}

#[tokio::test]
async fn the_monotonic_clock_of_a_start_function_is_not_zero() {
    let text = include_str!("../../../../tests/guests/count.wat");
    let import = "(module (import \"wasi_snapshot_preview1\" \"clock_time_get\"
        (func $clock (param i32 i64 i32) (result i32)))\n";
    let initialize = "(func (export \"_initialize\")
        (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 512)))
        (if (i64.eqz (i64.load (i32.const 512))) (then unreachable)))
        (global $heap";
    let text = text.replacen("(module\n", import, 1).replacen("(global $heap", initialize, 1);
    let workload = load("count.wat", text.as_bytes(), &LoadLimits::default()).unwrap();
    let engine = Arc::new(Engine::new(PoolLimits { stores: 1, memories: 1, memory_bytes: 1 << 20 }).unwrap());
    let program = engine.compile(workload).await.unwrap();
    let inputs = crate::store::Inputs::Replay;
    let allowance = crate::store::Allowance { fuel: 1_000_000, memory_bytes: 1 << 20, disk_bytes: 0, inputs };
    crate::instance::Instance::create(&program, [7; 32], allowance, lifeboat_disk::Disk::new(0)).await.unwrap();
}

#[tokio::test]
async fn loads_at_once_are_bounded_however_slow_one_is() {
    const LARGE: u64 = SMALL_BYTES_MAX + 1;
    let limits = PoolLimits { stores: 0, memories: 0, memory_bytes: 1 << 20 };
    let engine = Arc::new(Engine::new(limits).unwrap());
    let workload = count_with("");
    let begun = Arc::new(AtomicU64::new(0));
    let load = |file_bytes: u64, gate: Option<std::sync::mpsc::Receiver<()>>| {
        let (engine, workload, begun) = (Arc::clone(&engine), workload.clone(), Arc::clone(&begun));
        let of_load = Arc::clone(&engine);
        let load = move || {
            begun.fetch_add(1, Ordering::SeqCst);
            let waiting = begun.load(Ordering::SeqCst) - of_load.compiled();
            if let Some(gate) = gate {
                let _ = gate.recv();
            }
            // The next one begins only after an earlier one has been compiled.
            assert!(waiting <= (LARGE_AT_ONCE_MAX + SMALL_AT_ONCE_MAX) as u64, "{waiting} are loaded");
            Ok::<_, EngineError>(Workload { input_bytes: file_bytes, ..workload })
        };
        tokio::spawn(async move { engine.load_and_compile(file_bytes, load).await.map(drop) })
    };
    let (go, gate) = std::sync::mpsc::channel();
    let slow = load(LARGE, Some(gate));
    for loaded in futures::future::join_all((0..8).map(|_| load(LARGE, None))).await {
        loaded.unwrap().unwrap();
    }
    let (go_as_well, gate) = std::sync::mpsc::channel();
    let slow_as_well = load(LARGE, Some(gate));
    for loaded in futures::future::join_all((0..8).map(|_| load(1, None))).await {
        loaded.unwrap().unwrap();
    }
    // A failed load, or one that nobody waits for, passes its turn to the next.
    drop((go, go_as_well));
    slow.await.unwrap().unwrap();
    slow_as_well.await.unwrap().unwrap();
    let refuse = || Err(EngineError::Compile { name: "x".into(), reason: "no".into() });
    assert!(engine.load_and_compile(LARGE, refuse).await.is_err());
    for file_bytes in [1, LARGE, LARGE, LARGE] {
        drop(futures::FutureExt::now_or_never(engine.load_and_compile(file_bytes, refuse)));
    }
    load(LARGE, None).await.unwrap().unwrap();
    load(1, None).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_small_one_that_is_deployed_is_loaded_while_large_ones_are() {
    let engine = Engine::new(PoolLimits { stores: 0, memories: 0, memory_bytes: 1 << 20 }).unwrap();
    let count = bytes::Bytes::from_static(include_bytes!("../../../../tests/guests/count.wat"));
    let spaces = " ".repeat(SMALL_BYTES_MAX as usize);
    let large = bytes::Bytes::from([&count[..], spaces.as_bytes()].concat());
    let turns = [engine.turn(large.len() as u64).await, engine.turn(large.len() as u64).await];
    let mut waits = Box::pin(engine.load_deployed("large", large));
    assert!(futures::FutureExt::now_or_never(&mut waits).is_none());
    assert_eq!(engine.load_deployed("small", count).await.unwrap().name, "small");
    assert!(futures::FutureExt::now_or_never(&mut waits).is_none());
    drop(turns);
    assert_eq!(waits.await.unwrap().name, "large");
}

#[tokio::test]
async fn the_smallest_waiting_workload_is_compiled_next() {
    let engine = Engine::new(PoolLimits { stores: 0, memories: 0, memory_bytes: 1 << 20 }).unwrap();
    for at_most in [SMALL_BYTES_MAX, MODULE_BYTES_MAX] {
        let held = [engine.turn(at_most).await, engine.turn(at_most).await];
        let mut waiting: Vec<_> = (0..3).map(|index| Box::pin(engine.turn(at_most - index * 60_000))).collect();
        for turn in &mut waiting {
            assert!(futures::FutureExt::now_or_never(turn).is_none());
        }
        let [first, second] = held;
        drop(first);
        let are_next: Vec<_> = waiting.iter_mut().map(futures::FutureExt::now_or_never).collect();
        assert_eq!(are_next.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true], "{at_most}");
        drop((are_next, second));
    }
}

#[test]
fn a_failed_reservation_is_reported_with_the_reason_of_the_system() {
    let of_library = "failed to create memory pool mapping: mmap failed to reserve 0x60e bytes: Cannot allocate memory";
    assert_eq!(without_mapping(of_library.into()), "Cannot allocate memory");
    assert_eq!(without_mapping("a: b".into()), "a: b");
}

#[test]
fn an_engine_that_cannot_be_created_names_a_remedy() {
    let reason = "Cannot allocate memory (os error 12)";
    let error = |stores, limit_bytes| EngineError::SetUp {
        limits: PoolLimits { stores, memories: 1, memory_bytes: 1 << 20 },
        is_configured: false,
        limit_bytes,
        reason: reason.into(),
    };
    let of_six = "failed to set up the engine for 6 VMs and stores of maintenance, with 24 GiB of address space for \
                  their memories";
    let printed = format!(
        "{of_six} under a limit of 16 GiB: {reason}; raise the limit of address space to 26 GiB (ulimit -v 27262976)"
    );
    assert_eq!(error(6, Some(16 << 30)).to_string(), printed);
    let configured = error(6, Some(16 << 30)).of_configuration().to_string();
    assert_eq!(configured, format!("{printed}, or configure fewer slots or services"));
    // Where no slots can be configured, the message does not mention them.
    assert_eq!(
        error(0, Some(200_000 << 10)).to_string(),
        format!(
            "failed to set up the engine for compiling under a limit of 200000 KiB: {reason}; raise the limit of \
             address space to 1 GiB (ulimit -v 1048576)"
        )
    );
    // In these cases the limit is high enough.
    for limit_bytes in [None, Some(64 << 30)] {
        let printed = error(6, limit_bytes).to_string();
        assert!(printed.ends_with("; free memory and threads of the host"), "{printed}");
    }
}
