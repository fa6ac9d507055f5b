use super::*;
use crate::monitor::Network;
use crate::service::{Counts, JournalStatus};
use lifeboat_api::event::{Failover, HostPressure, JournalFill, SlaFailure};
use lifeboat_api::id::{Sequence, VmId};
use lifeboat_api::meter::{HostResource, Levels, Meter, Percent, Unit, Usage};
use lifeboat_api::size::Size;
use std::collections::BTreeSet;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn vm(service: &str, number: u64) -> VmId {
    VmId { service: name(service), number }
}

fn sla_failure(service: &str) -> Event {
    Event::SlaFailure(SlaFailure {
        vm: vm(service, 1),
        resource: Resource::Cpu,
        usage: Usage { used: 98, limit: 100 },
        unit: Unit::Fuel,
        threshold_percent: Percent::whole(98),
        transaction: "t".into(),
        sequence: Sequence(1),
        timestamp: None,
    })
}

fn failover(service: &str, cause: FailoverCause, pause: Duration) -> Event {
    Event::Failover(Failover {
        cause,
        from: vm(service, 1),
        from_machine: name("m1"),
        to: vm(service, 2),
        to_machine: name("m2"),
        size: "small".into(),
        sequence: Sequence(1),
        disk_bytes: 0,
        snapshot_bytes: 0,
        replayed_transactions: 0,
        fuel_used: 98,
        pause,
        forced_by: None,
        timestamp: None,
    })
}

fn status(service: &str) -> Status {
    let used = Levels { memory_bytes: 4 << 20, disk_bytes: 3 << 20 };
    let (network, levels) = (Size::built_in()[0].network(), Levels { memory_bytes: 16 << 20, disk_bytes: 64 << 20 });
    let mut meter = Meter::new(50_000_000, network, levels, used);
    meter.charge(12_500_000, used);
    meter.charge_network(100, 32 << 20);
    Status {
        vm: vm(service, 1),
        machine: name("m1"),
        size: "small".into(),
        meter,
        sequence: Sequence(9),
        snapshot_sequence: Sequence(0),
        degraded: Some("no larger size has enough".into()),
        unmovable: None,
        journal: Some(JournalStatus {
            fill: JournalFill { vm: vm(service, 1), bytes: 9, limit_bytes: 10, reason: None },
            is_full: false,
        }),
        stopped: None,
        counts: Counts { snapshots: 3, fuel_rolled_back: 7, ..Counts::default() },
        doubts: 2,
        waiting: None,
    }
}

fn host_load() -> HostLoad {
    HostLoad {
        sampled_at: lifeboat_api::clock::Timestamp::default(),
        cpu_millicores: Some(Usage { used: 1_500, limit: 2_000 }),
        memory_bytes: Some(Usage { used: 1 << 30, limit: 4 << 30 }),
        disk_bytes: None,
        network: Some(Network { received_bytes_per_second: 11, sent_bytes_per_second: 12 }),
        under_pressure: vec![HostResource::Memory],
    }
}

fn full_scrape() -> Scrape {
    let mut commit_times = Spread::default();
    commit_times.buckets[1] = 4;
    commit_times.sum = Duration::from_micros(400);
    Scrape {
        host: Some(host_load()),
        statuses: BTreeMap::from([(name("bank"), status("bank"))]),
        idle: BTreeMap::from([(name("lost"), true), (name("resting"), false)]),
        queue_lengths: BTreeMap::from([(name("bank"), 5)]),
        journal: Some(JournalMetrics {
            totals: Totals { frames: 4, frame_bytes: 16_384 },
            commit_times,
            is_stalled: true,
        }),
    }
}

#[track_caller]
fn assert_shows(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no line '{line}' in\n{text}");
    }
}

#[test]
fn events_and_answers_are_counted_for_their_service() {
    let metrics = Metrics::default();
    let bank = metrics.service(&name("bank"));
    bank.answered(Outcome::Ok, Duration::from_micros(900));
    metrics.answered("bank", Outcome::Ok, Duration::from_millis(2));
    metrics.answered("bank", Outcome::Denied, Duration::from_secs(60));
    metrics.observe(&sla_failure("bank"));
    metrics.observe(&failover("bank", FailoverCause::Cpu, Duration::from_micros(900)));
    metrics.observe(&failover("bank", FailoverCause::Forced, Duration::from_millis(30)));
    let text = metrics.encode(full_scrape());
    let version = format!("lifeboat_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    assert_shows(
        &text,
        &[
            &version,
            r#"lifeboat_transactions_total{service="bank",outcome="ok"} 2"#,
            r#"lifeboat_transactions_total{service="bank",outcome="refused"} 0"#,
            r#"lifeboat_transactions_total{service="bank",outcome="denied"} 1"#,
            r#"lifeboat_service_condition{service="bank",condition="quarantined"} 0"#,
            r#"lifeboat_service_condition{service="lost",condition="quarantined"} 1"#,
            r#"lifeboat_service_condition{service="resting",condition="quarantined"} 0"#,
            r#"lifeboat_service_condition{service="resting",condition="stopped"} 1"#,
            r#"lifeboat_service_condition{service="lost",condition="stopped"} 0"#,
            r#"lifeboat_transaction_seconds_bucket{le="0.001",service="bank"} 1"#,
            r#"lifeboat_transaction_seconds_bucket{le="+Inf",service="bank"} 3"#,
            r#"lifeboat_transaction_seconds_count{service="bank"} 3"#,
            r#"lifeboat_sla_failures_total{service="bank",resource="cpu"} 1"#,
            r#"lifeboat_sla_failures_total{service="bank",resource="memory"} 0"#,
            r#"lifeboat_failovers_total{service="bank",cause="cpu"} 1"#,
            r#"lifeboat_failovers_total{service="bank",cause="forced"} 1"#,
            r#"lifeboat_failover_pause_seconds_sum{service="bank"} 0.0309"#,
            r#"lifeboat_resource_utilisation_ratio{service="bank",resource="cpu"} 0.25"#,
            r#"lifeboat_resource_used{service="bank",resource="cpu",unit="fuel"} 12500000"#,
            r#"lifeboat_resource_utilisation_ratio{service="bank",resource="network"} 0.5"#,
            r#"lifeboat_resource_used{service="bank",resource="network",unit="calls"} 100"#,
            r#"lifeboat_resource_limit{service="bank",resource="network",unit="calls"} 1000"#,
            r#"lifeboat_resource_used{service="bank",resource="network",unit="bytes"} 33554432"#,
            r#"lifeboat_sla_failures_total{service="bank",resource="network"} 0"#,
            r#"lifeboat_failovers_total{service="bank",cause="network"} 0"#,
            r#"lifeboat_resource_limit{service="bank",resource="memory",unit="bytes"} 16777216"#,
            r#"lifeboat_queue_length{service="bank"} 5"#,
            r#"lifeboat_service_condition{service="bank",condition="degraded"} 1"#,
            r#"lifeboat_service_condition{service="bank",condition="stopped"} 0"#,
            r#"lifeboat_service_condition{service="bank",condition="journal_filling"} 1"#,
            r#"lifeboat_service_condition{service="bank",condition="journal_full"} 0"#,
            r#"lifeboat_calls_in_doubt{service="bank"} 2"#,
            r#"lifeboat_snapshots_total{service="bank"} 3"#,
            r#"lifeboat_burnt_fuel_total{service="bank",purpose="rolled_back"} 7"#,
        ],
    );
    assert!(text.ends_with("# EOF\n"));
    let series = text.lines().filter(|line| !line.starts_with('#') && line.contains("service=\"bank\"")).count();
    let documented = include_str!("../../../../docs/monitoring.md");
    assert!(documented.contains(&format!("the number of services: {series} each")), "{series}");
}

#[test]
fn metrics_of_the_host_have_no_service() {
    let text = Metrics::default().encode(full_scrape());
    assert_shows(
        &text,
        &[
            "lifeboat_journal_frames_total 4",
            "lifeboat_journal_written_bytes_total 16384",
            "lifeboat_journal_stalled 1",
            "lifeboat_commit_seconds_count 4",
            r#"lifeboat_commit_seconds_bucket{le="0.0001"} 4"#,
            r#"lifeboat_host_utilisation_ratio{resource="cpu"} 0.75"#,
            r#"lifeboat_host_under_pressure{resource="memory"} 1"#,
            r#"lifeboat_host_under_pressure{resource="disk"} 0"#,
            "lifeboat_host_cpu_used_cores 1.5",
            "lifeboat_host_memory_limit_bytes 4294967296",
            "lifeboat_host_network_sent_bytes_per_second 12",
        ],
    );
}

#[test]
fn an_unknown_value_is_not_shown_as_zero() {
    let text = Metrics::default().encode(full_scrape());
    assert!(!text.contains("\nlifeboat_host_disk_used_bytes"));
}

#[test]
fn a_removed_service_leaves_no_series() {
    let metrics = Metrics::default();
    let empty = metrics.encode(Scrape::default());
    metrics.observe(&sla_failure("bank"));
    assert_ne!(metrics.encode(Scrape::default()), empty);
    metrics.forget("bank");
    // These are late answers, and answers to strangers that request arbitrary names.
    metrics.answered("bank", Outcome::Denied, Duration::ZERO);
    metrics.answered("nobody", Outcome::Denied, Duration::ZERO);
    metrics.observe(&Event::HostPressure(HostPressure {
        resource: HostResource::Cpu,
        usage: Usage { used: 1, limit: 1 },
        threshold_percent: Percent::whole(98),
    }));
    assert_eq!(metrics.encode(Scrape::default()), empty);
    assert_eq!(metrics.service(&name("bank")).sla_failures(Resource::Cpu), 0, "it begins at zero");
}

/// Returns a scrape with every family.
fn every_family() -> String {
    let metrics = Metrics::default();
    metrics.observe(&sla_failure("bank"));
    metrics.encode(full_scrape())
}

/// Returns what the lines that begin with `keyword` say of each family.
fn described<'a>(text: &'a str, keyword: &str) -> BTreeMap<&'a str, &'a str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(keyword)?.split_once(' '));
    let found: Vec<_> = lines.collect();
    let unique: BTreeMap<_, _> = found.iter().copied().collect();
    assert_eq!(found.len(), unique.len(), "{keyword}: one line for each family");
    unique
}

#[test]
fn every_family_is_described_once() {
    let text = every_family();
    let (helps, types) = (described(&text, "# HELP "), described(&text, "# TYPE "));
    assert_eq!(helps.keys().collect::<BTreeSet<_>>(), types.keys().collect());
}

#[test]
fn every_family_ends_with_its_unit() {
    /// Families that count what their name says, and families whose unit is a label.
    const WITHOUT_UNIT: [&str; 16] = [
        "build",
        "transactions",
        "sla_failures",
        "failovers",
        "resource_used",
        "resource_limit",
        "queue_length",
        "service_condition",
        "calls_in_doubt",
        "snapshots",
        "rollbacks",
        "log_lines_dropped",
        "replayed_transactions",
        "journal_frames",
        "journal_stalled",
        "host_under_pressure",
    ];
    let text = every_family();
    let units = described(&text, "# UNIT ");
    for family in described(&text, "# TYPE ").keys() {
        let short = family.strip_prefix("lifeboat_").expect("the prefix");
        match units.get(family) {
            Some(unit) => assert!(family.ends_with(unit), "{family}: {unit}"),
            None => assert!(WITHOUT_UNIT.contains(&short), "{family} has no unit"),
        }
    }
}

#[test]
fn every_family_is_documented() {
    let documented = include_str!("../../../../docs/monitoring.md");
    let text = every_family();
    for (family, kind) in described(&text, "# TYPE ") {
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(documented.contains(&format!("`{family}{suffix}")), "{family}{suffix} is not documented");
    }
}

#[test]
fn every_sample_belongs_to_a_family() {
    let text = every_family();
    let types = described(&text, "# TYPE ");
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = sample.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{sample}");
        let metric = series.split('{').next().expect("a name");
        let family = ["_total", "_info", "_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end));
        assert!(types.contains_key(metric) || family.is_some_and(|family| types.contains_key(family)), "{sample}");
    }
}
