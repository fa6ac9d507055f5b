//! What a guest sees of WASI: a clock that stands still, reproducible random numbers, a log, and nothing else.

use crate::rig::{MIB, Rig, cause, ok, size};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::event::Event;
use lifeboat_api::size::Size;
use lifeboat_api::transaction::Answer;
use std::sync::Arc;
use std::time::Duration;

const NOW_NS: u64 = 1_700_000_000_000_000_000;

async fn started() -> Rig {
    let rig = Rig::new();
    rig.start("guest", "wasi.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    rig
}

#[tokio::test]
async fn clocks_of_a_guest_show_the_time_of_the_transaction() {
    let rig = started().await;
    assert_eq!(ok(&rig.send("guest", "time").await), NOW_NS.to_string());
    rig.clock.advance(Duration::from_millis(5));
    assert_eq!(ok(&rig.send("guest", "time").await), (NOW_NS + 5_000_000).to_string());
}

#[tokio::test]
async fn a_sleep_moves_the_clock_for_its_transaction_alone() {
    let rig = started().await;
    assert_eq!(ok(&rig.send("guest", "sleep").await), (NOW_NS + 1_000_000_000).to_string());
    let next = (NOW_NS + 1).to_string();
    assert_eq!(ok(&rig.send("guest", "nap").await), next, "a time that is past is not waited for");
    assert_eq!(ok(&rig.send("guest", "time").await), (NOW_NS + 2).to_string());
}

/// Returns the lines that the service logged, and the number of reports that the clock is behind.
fn logged(rig: &Rig) -> (Vec<String>, usize) {
    let (mut lines, mut behind) = (Vec::new(), 0);
    for event in rig.events() {
        match event {
            Event::Log { line, .. } => lines.push(line),
            Event::ClockBehind { .. } => behind += 1,
            _ => {}
        }
    }
    (lines, behind)
}

#[tokio::test]
async fn a_clock_that_was_a_year_ahead_stops_neither_time_nor_the_log() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let rig = started().await;
    assert_eq!(ok(&rig.send("guest", "time").await), NOW_NS.to_string());
    let ahead = Timestamp(NOW_NS).plus(YEAR);
    rig.clock.set(ahead);
    assert_eq!(ok(&rig.send("guest", "time").await), ahead.0.to_string());
    // The log's rate limit uses another clock, for which this line is not in the future.
    rig.send("guest", "log").await.expect("kept");
    rig.clock.set(Timestamp(NOW_NS));
    for step in 2..=4 {
        assert_eq!(ok(&rig.send("guest", "time").await), (ahead.0 + step).to_string());
    }
    assert_eq!(logged(&rig).1, 1, "it is reported once");
    // This is more than the rate limit allows: most lines are dropped and counted.
    for _ in 0..3_000 {
        rig.send("guest", "log").await.expect("kept");
    }
    let (lines, _) = logged(&rig);
    let passed = lines.iter().filter(|line| *line == "hello").count();
    let dropped = rig.status("guest").await.counts.log_lines_dropped;
    assert_eq!(
        (passed + usize::try_from(dropped).expect("few"), lines.len()),
        (3_001, passed + 1),
        "{:?}",
        lines.last()
    );
    assert!(dropped > 500 && lines[passed].starts_with("(1 line dropped: "), "{dropped}, {}", lines[passed]);
    // An hour later by the monotonic clock, there is room again.
    rig.clock.advance(Duration::from_secs(3_600));
    rig.send("guest", "log").await.expect("kept");
    let (lines, _) = logged(&rig);
    assert!(lines[passed + 1].starts_with(&format!("({} lines dropped: ", dropped - 1)), "{}", lines[passed + 1]);
    assert_eq!(lines[passed + 2], "hello");
    // A replay sees the recorded times.
    assert!(cause(&rig.send("guest", "boom").await).starts_with("trap: "));
    assert_eq!(rig.status("guest").await.stopped, None);
    // The clock has caught up, and falls behind again.
    rig.clock.set(ahead.plus(Duration::from_secs(3_600)));
    rig.send("guest", "time").await.expect("kept");
    rig.clock.set(ahead);
    rig.send("guest", "time").await.expect("kept");
    assert_eq!(logged(&rig).1, 2);
}

#[tokio::test]
async fn a_sleep_is_charged_to_the_deadline() {
    let rig = Rig::new();
    let hasty = Size {
        name: "s".into(),
        fuel: 50_000_000,
        memory_bytes: 8 * MIB,
        disk_bytes: MIB,
        network_calls: 1_000,
        network_bytes: MIB,
        deadline: Duration::from_millis(999),
    };
    rig.start("guest", "wasi.wat", &[Arc::new(hasty)]).await;
    let slept = rig.send("guest", "sleep").await;
    assert!(cause(&slept).starts_with("deadline: not finished within 999 ms"), "{slept:?}");
    assert_eq!(ok(&rig.send("guest", "x").await), "1");
}

#[tokio::test]
async fn random_numbers_come_again_in_a_replay_alone() {
    let rig = started().await;
    let first = rig.send_as("guest", "r", "random").await;
    let second = rig.send("guest", "random").await;
    assert_ne!(ok(&first), ok(&second), "each transaction has its own");
    // The trap causes a rollback: both transactions are replayed and compared.
    assert!(cause(&rig.send("guest", "boom").await).starts_with("trap: "));
    let status = rig.status("guest").await;
    assert_eq!((status.stopped, status.counts.replayed_transactions), (None, 2));
}

#[tokio::test]
async fn services_with_different_secrets_see_different_random_numbers() {
    let rig = started().await;
    rig.try_start("other", "wasi.wat", &[size("s", 50_000_000, 8 * MIB)], |spec| spec.secret = [8; 32])
        .await
        .expect("starts");
    assert_ne!(ok(&rig.send("other", "random").await), ok(&rig.send("guest", "random").await));
}

#[tokio::test]
async fn standard_output_is_logged_once_despite_a_replay() {
    let rig = started().await;
    assert_eq!(ok(&rig.send("guest", "log").await), "6");
    assert!(cause(&rig.send("guest", "boom").await).starts_with("trap: "));
    rig.status("guest").await;
    let lines: Vec<String> = rig
        .events()
        .into_iter()
        .filter_map(|event| if let Event::Log { line, .. } = event { Some(line) } else { None })
        .collect();
    // The function that traps has no name, so there is nothing to say about it.
    assert_eq!(lines, ["hello"]);
}

#[tokio::test]
async fn lines_of_the_instantiation_are_logged_before_any_transaction() {
    let rig = Rig::new();
    let text = String::from_utf8(crate::rig::guest_bytes("wasi.wat")).expect("text");
    let start = "(func (export \"_initialize\")
        (i32.store (i32.const 272) (i32.const 224))
        (i32.store (i32.const 276) (i32.const 6))
        (drop (call $fd_write (i32.const 2) (i32.const 272) (i32.const 1) (i32.const 280))))";
    let text = text.replacen("  (global $heap", &format!("  {start}\n  (global $heap"), 1);
    rig.start_bytes("guest", text.as_bytes(), &[size("s", 50_000_000, 8 * MIB)]).await;
    assert_eq!(logged(&rig).0, ["hello"]);
    // A fresh VM repeats it, and says nothing new.
    rig.fail_over("guest").await;
    assert_eq!(ok(&rig.send("guest", "x").await), "1");
    assert_eq!(logged(&rig).0, ["hello"]);

    let text = text.replacen("(i32.const 280))))", "(i32.const 280))) unreachable)", 1);
    let refused = rig.launch("other", "inline", text.as_bytes(), &[size("s", 50_000_000, 8 * MIB)], |_| {}).await;
    let refused = refused.expect_err("its start function traps").to_string();
    assert!(refused.contains("trap: wasm `unreachable` instruction executed; it said: hello"), "{refused}");
}

/// As Go's runtime does, this guest looks at the clock in `_initialize`, and none of its exports works before.
#[tokio::test]
async fn a_guest_of_go_may_use_wasi_before_its_allocator_works() {
    let rig = Rig::new();
    let text = String::from_utf8(crate::rig::guest_bytes("wasi.wat")).expect("text");
    let initialize = "(global $is_ready (mut i32) (i32.const 0))
      (func (export \"_initialize\")
        (if (call $clock (i32.const 1) (i64.const 1) (i32.const 256)) (then unreachable))
        (if (i64.eqz (i64.load (i32.const 256))) (then unreachable))
        (global.set $is_ready (i32.const 1)))";
    let with = |text: String, old: &str, new: &str| {
        assert!(text.contains(old), "no {old}");
        text.replacen(old, new, 1)
    };
    let text = with(text, "  (global $heap", &format!("  {initialize}\n  (global $heap"));
    let begin = "(local $start i32)\n    (local.set $start";
    let check =
        "(local $start i32)\n    (if (i32.eqz (global.get $is_ready)) (then unreachable))\n    (local.set $start";
    let text = with(text, begin, check);
    let shared = rig.launch("shared", "inline", text.as_bytes(), &[size("s", 50_000_000, 8 * MIB)], |_| {}).await;
    assert!(shared.expect_err("its allocator does not work yet").to_string().contains("unreachable"));

    let text = with(text, "(module", "(module (@custom \"go:buildid\" \"1\")");
    rig.start_bytes("guest", text.as_bytes(), &[size("s", 50_000_000, 8 * MIB)]).await;
    for expected in 1..=20 {
        assert_eq!(ok(&rig.send("guest", "x").await), expected.to_string());
        rig.fail_over("guest").await;
    }
    let now: u64 = ok(&rig.send("guest", "time").await).parse().expect("nanoseconds");
    assert!(now >= 1_700_000_000_000_000_000, "{now}");
    ok(&rig.send("guest", "random").await);
    ok(&rig.send("guest", "log").await);
    assert_eq!(logged(&rig).0, ["hello"]);
    assert!(cause(&rig.send("guest", "boom").await).contains("unreachable"));
    let refused = rig.send("guest", "refuse").await.expect("it is answered").answer;
    assert!(matches!(&refused, Answer::Refused(text) if text == "refused on request"), "{refused:?}");
    assert_eq!(ok(&rig.send("guest", "x").await), "21");
}

#[tokio::test]
async fn an_exit_fails_its_transaction_alone() {
    let rig = started().await;
    assert_eq!(ok(&rig.send("guest", "x").await), "1");
    let exited = rig.send("guest", "exit").await;
    assert!(cause(&exited).starts_with("exit: the guest called exit with "), "{exited:?}");
    assert_eq!(ok(&rig.send("guest", "x").await), "2");
}

#[tokio::test]
async fn a_guest_that_floods_the_host_with_calls_ends_at_its_deadline() {
    let rig = Rig::new();
    let endless = |name: &str| {
        Arc::new(Size {
            name: name.into(),
            fuel: u64::MAX / 4,
            memory_bytes: 8 * MIB,
            disk_bytes: MIB,
            network_calls: 1_000,
            network_bytes: MIB,
            deadline: Duration::from_millis(500),
        })
    };
    rig.start("neighbour", "count.wat", &[size("s", 50_000_000, 8 * MIB)]).await;
    let floods = ["flood-1", "flood-2", "flood-3", "flood-4"];
    for name in floods {
        rig.start(name, "wasi.wat", &[endless(name)]).await;
    }
    let flooding = futures::future::join_all(floods.iter().map(|name| rig.send(name, "flood")));
    let counting = async {
        for expected in 1..=20 {
            assert_eq!(ok(&rig.send("neighbour", "x").await), expected.to_string());
        }
    };
    let (flooded, ()) = tokio::join!(flooding, counting);
    for reply in &flooded {
        assert!(cause(reply).starts_with("deadline: not finished within 500 ms"), "{reply:?}");
    }
    assert_eq!(ok(&rig.send("flood-1", "x").await), "1");
}
