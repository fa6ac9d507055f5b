//! The families of metrics, in the order in which they are written.
//!
//! A family's name ends with its unit, and a `UNIT` line repeats the unit. Families of counts have no unit other than
//! what they count. `resource_used` and `resource_limit` carry the unit of the resource as a label. They have a series
//! for each unit of the network, whose utilisation is that of the fuller one.

use super::{Scrape, ServiceMetrics};
use crate::service::{Counts, Status};
use lifeboat_api::distribution::{BOUNDS_US, Spread};
use lifeboat_api::event::FailoverCause;
use lifeboat_api::meter::{HostResource, Resource, Usage};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The condition of a service that could not be brought back.
const QUARANTINED: &str = "quarantined";

/// The condition of a service that lost its state, or that an operator stopped.
const STOPPED: &str = "stopped";

/// Everything that one text shows.
#[derive(Debug)]
pub(super) struct Exposition {
    pub(super) services: BTreeMap<Name, Arc<ServiceMetrics>>,
    pub(super) scrape: Scrape,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        families.info("build", "The running version", [("version", env!("CARGO_PKG_VERSION").into())])?;
        self.encode_counters(&mut families)?;
        self.encode_meters(&mut families)?;
        self.encode_conditions(&mut families)?;
        self.encode_doubts(&mut families)?;
        self.encode_counts(&mut families)?;
        self.encode_journal(&mut families)?;
        self.encode_host(&mut families)
    }
}

impl Exposition {
    /// Writes the counters of events and answers.
    fn encode_counters(&self, families: &mut Families) -> fmt::Result {
        families.counters(
            "transactions",
            None,
            "Transactions and queries that ended, by outcome",
            self.by_service(Outcome::ALL, |service, outcome| {
                ([("outcome", outcome.to_string())], service.outcomes(outcome))
            }),
        )?;
        families.histograms(
            "transaction",
            "Time from a transaction or query to its answer",
            self.services.iter().map(|(name, service)| ([named(name)], service.latency.read())),
        )?;
        families.counters(
            "sla_failures",
            None,
            "Times that the utilisation of a resource reached its threshold",
            self.by_service(Resource::ALL, |service, resource| {
                ([("resource", resource.to_string())], service.sla_failures(resource))
            }),
        )?;
        families.counters(
            "failovers",
            None,
            "Moves of a service to a fresh VM, by cause",
            self.by_service(FailoverCause::ALL, |service, cause| {
                ([("cause", cause.to_string())], service.failovers(cause))
            }),
        )?;
        families.histograms(
            "failover_pause",
            "Time for which a failover paused a service",
            self.services.iter().map(|(name, service)| ([named(name)], service.pause.read())),
        )
    }

    /// Writes the meters of the serving VMs.
    fn encode_meters(&self, families: &mut Families) -> fmt::Result {
        let usages = || {
            self.scrape.statuses.iter().flat_map(|(name, status)| {
                Resource::ALL.map(|resource| (named(name), resource, status.meter.usage(resource)))
            })
        };
        families.gauges(
            "resource_utilisation",
            Some("ratio"),
            "Used / limit of a resource of the serving VM",
            usages().map(|(service, resource, usage)| ([service, ("resource", resource.to_string())], ratio(usage))),
        )?;
        let amounts = |amount: fn(Usage) -> u64| {
            self.scrape.statuses.iter().flat_map(move |(name, status)| {
                let of = |resource| status.meter.usages(resource).map(move |(unit, usage)| (resource, unit, usage));
                Resource::ALL.into_iter().flat_map(of).map(move |(resource, unit, usage)| {
                    let labels = [named(name), ("resource", resource.to_string()), ("unit", unit.to_string())];
                    (labels, amount(usage))
                })
            })
        };
        families.gauges(
            "resource_used",
            None,
            "The amount of a resource that the serving VM has used",
            amounts(|usage| usage.used),
        )?;
        families.gauges(
            "resource_limit",
            None,
            "The amount of a resource that the serving VM may use",
            amounts(|usage| usage.limit),
        )
    }

    fn encode_conditions(&self, families: &mut Families) -> fmt::Result {
        families.gauges(
            "queue_length",
            None,
            "Requests and operator commands that wait for a service",
            self.scrape.queue_lengths.iter().map(|(name, length)| ([named(name)], *length as u64)),
        )?;
        let running = self.scrape.statuses.iter().flat_map(|(name, status)| {
            let Status { degraded, unmovable, journal, stopped, .. } = status;
            let conditions = [("degraded", degraded), ("unmovable", unmovable), (STOPPED, stopped)];
            let conditions = conditions.map(|(condition, why)| (name, condition, why.is_some()));
            let is_full = journal.as_ref().is_some_and(|journal| journal.is_full);
            let of_journal = [(name, "journal_filling", journal.is_some()), (name, "journal_full", is_full)];
            conditions.into_iter().chain(of_journal).chain([(name, QUARANTINED, false)])
        });
        // A service that was started while the scrape was collected is in both maps, but is shown once.
        let idle = self.scrape.idle.iter().filter(|(name, _)| !self.scrape.statuses.contains_key(*name));
        let idle = idle.flat_map(|(name, is_quarantined)| {
            [(name, QUARANTINED, *is_quarantined), (name, STOPPED, !is_quarantined)]
        });
        families.gauges(
            "service_condition",
            None,
            "1 if a service is in a condition, else 0",
            running
                .chain(idle)
                .map(|(name, condition, is_so)| ([named(name), ("condition", condition.to_owned())], u64::from(is_so))),
        )
    }

    fn encode_doubts(&self, families: &mut Families) -> fmt::Result {
        families.gauges(
            "calls_in_doubt",
            None,
            "Calls to the network whose outcome is unknown to the next attempt of their transaction",
            self.scrape.statuses.iter().map(|(name, status)| ([named(name)], status.doubts as u64)),
        )
    }

    /// Writes the counts that the services keep themselves.
    fn encode_counts(&self, families: &mut Families) -> fmt::Result {
        let counts = |count: fn(&Counts) -> u64| {
            self.scrape.statuses.iter().map(move |(name, status)| ([named(name)], count(&status.counts)))
        };
        let help = "Snapshots that were restored into the serving store";
        families.counters("snapshots", None, help, counts(|counts| counts.snapshots))?;
        let help = "Times that a VM was rolled back to its state before a transaction";
        families.counters("rollbacks", None, help, counts(|counts| counts.rollbacks))?;
        let help = "Lines of the guest's log that were dropped, because it logged too much";
        families.counters("log_lines_dropped", None, help, counts(|counts| counts.log_lines_dropped))?;
        let help = "Transactions that were executed again, for any reason";
        families.counters("replayed_transactions", None, help, counts(|counts| counts.replayed_transactions))?;
        families.counters(
            "burnt",
            Some("fuel"),
            "Fuel that was charged to tanks, burnt by calls that were rolled back, or burnt for maintenance",
            self.scrape.statuses.iter().flat_map(|(name, status)| {
                let Counts { fuel_charged, fuel_rolled_back, fuel_maintenance, .. } = status.counts;
                let purposes =
                    [("charged", fuel_charged), ("rolled_back", fuel_rolled_back), ("maintenance", fuel_maintenance)];
                purposes.map(|(purpose, fuel)| ([named(name), ("purpose", purpose.to_owned())], fuel))
            }),
        )
    }

    fn encode_journal(&self, families: &mut Families) -> fmt::Result {
        let journal = self.scrape.journal.as_ref();
        let help = "Group commits to the journal: each is one write and one sync";
        families.counters("journal_frames", None, help, journal.map(|journal| ([], journal.totals.frames)))?;
        let help = "Bytes of the group commits";
        let bytes = journal.map(|journal| ([], journal.totals.frame_bytes));
        families.counters("journal_written", Some("bytes"), help, bytes)?;
        let help =
            "Whether the journal cannot begin its next segment, and denies transactions once the last one is full";
        let stalled = journal.map(|journal| ([], u64::from(journal.is_stalled)));
        families.gauges("journal_stalled", None, help, stalled)?;
        let help = "Time to write and sync a group commit";
        families.histograms("commit", help, journal.map(|journal| ([], journal.commit_times)))
    }

    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 millicores")]
    fn encode_host(&self, families: &mut Families) -> fmt::Result {
        let host = self.scrape.host.as_ref();
        let usage = |resource| host.and_then(|host| host.usage(resource));
        families.gauges(
            "host_utilisation",
            Some("ratio"),
            "Used / limit of a resource of the host",
            HostResource::ALL
                .into_iter()
                .filter_map(|resource| Some(([("resource", resource.to_string())], ratio(usage(resource)?)))),
        )?;
        families.gauges(
            "host_under_pressure",
            None,
            "1 if a resource of the host is under pressure, else 0",
            host.into_iter().flat_map(|host| {
                HostResource::ALL.map(|resource| {
                    let is_pressed = host.under_pressure.contains(&resource);
                    ([("resource", resource.to_string())], u64::from(is_pressed))
                })
            }),
        )?;
        let cpu = usage(HostResource::Cpu).map(|Usage { used, limit }| (used as f64 / 1e3, limit as f64 / 1e3));
        families.gauge("host_cpu_used", "cores", "Processor cores that are in use", cpu.map(|(used, _)| used))?;
        families.gauge("host_cpu_limit", "cores", "Processor cores that may be used", cpu.map(|(_, limit)| limit))?;
        let memory = usage(HostResource::Memory);
        let help = "Memory in use, without cached files";
        families.gauge("host_memory_used", "bytes", help, memory.map(|memory| memory.used))?;
        families.gauge("host_memory_limit", "bytes", "Memory", memory.map(|memory| memory.limit))?;
        let help = "Memory of the chunks of all virtual disks, of which copies share what they do not change";
        families.gauge("virtual_disk_resident", "bytes", help, Some(lifeboat_disk::resident_bytes()))?;
        let disk = usage(HostResource::Disk);
        let help = "Space in use on the data directory's file system";
        families.gauge("host_disk_used", "bytes", help, disk.map(|disk| disk.used))?;
        let help = "Space on the data directory's file system";
        families.gauge("host_disk_limit", "bytes", help, disk.map(|disk| disk.limit))?;
        let network = host.and_then(|host| host.network);
        let (received, sent) = (
            network.map(|network| network.received_bytes_per_second),
            network.map(|network| network.sent_bytes_per_second),
        );
        families.gauge(
            "host_network_received",
            "bytes_per_second",
            "Bytes that the host receives per second",
            received,
        )?;
        families.gauge("host_network_sent", "bytes_per_second", "Bytes that the host sends per second", sent)
    }

    /// Returns the series of counters that have another label beside the service.
    fn by_service<K: Copy, const N: usize>(
        &self,
        keys: [K; N],
        read: impl Fn(&ServiceMetrics, K) -> ([Label; 1], u64),
    ) -> impl Iterator<Item = ([Label; 2], u64)> {
        self.services.iter().flat_map(move |(name, service)| {
            keys.map(|key| {
                let ([label], value) = read(service, key);
                ([named(name), label], value)
            })
        })
    }
}

type Label = (&'static str, String);

fn named(service: &Name) -> Label {
    ("service", service.to_string())
}

fn ratio(usage: Usage) -> f64 {
    usage.utilisation_percent() / 100.0
}

/// Writes one family after another.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn info<const N: usize>(&mut self, name: &str, help: &str, labels: [Label; N]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        unit: Option<&str>,
        help: &str,
        series: impl IntoIterator<Item = ([Label; N], u64)>,
    ) -> fmt::Result {
        self.family(name, unit, help, MetricType::Counter, series, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    fn gauges<V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<&str>,
        help: &str,
        series: impl IntoIterator<Item = ([Label; N], V)>,
    ) -> fmt::Result {
        self.family(name, unit, help, MetricType::Gauge, series, |encoder, value| encoder.encode_gauge(&value))
    }

    /// Writes a gauge of the host, if its value is known.
    fn gauge(&mut self, name: &str, unit: &str, help: &str, value: Option<impl EncodeGaugeValue>) -> fmt::Result {
        self.gauges(name, Some(unit), help, value.map(|value| ([], value)))
    }

    /// Writes a histogram of durations, in seconds.
    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([Label; N], Spread)>,
    ) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
        let bounds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        self.family(name, Some("seconds"), help, MetricType::Histogram, series, |encoder, spread| {
            let buckets: Vec<_> = bounds.clone().zip(spread.buckets).collect();
            encoder.encode_histogram::<NoLabelSet>(spread.sum.as_secs_f64(), spread.count(), &buckets, None)
        })
    }

    fn family<V, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<&str>,
        help: &str,
        kind: MetricType,
        series: impl IntoIterator<Item = ([Label; N], V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            if labels.is_empty() {
                write(&mut family, value)?;
            } else {
                write(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }
}
