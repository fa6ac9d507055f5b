//! The contents of `/metrics`, in the OpenMetrics text format that Prometheus reads, or in Prometheus' own format.
//!
//! Events and answers are counted as they occur, in a [`ServiceMetrics`] for each service. State that exists elsewhere
//! (meters, queues, the journal, the host's load) is not tracked here, but passed in with each request as a [`Scrape`].
//! There is no registry of series to keep in step. So a forgotten service leaves no series behind, and the number of
//! services bounds the number of series.
//!
//! `docs/monitoring.md` lists every metric. A test compares the two.

mod exposition;
mod format;

pub use format::Format;

use crate::monitor::HostLoad;
use crate::service::Status;
use exposition::Exposition;
use lifeboat_api::distribution::{Distribution, Spread};
use lifeboat_api::event::{Event, FailoverCause};
use lifeboat_api::meter::Resource;
use lifeboat_api::name::Name;
use lifeboat_api::transaction::Outcome;
use lifeboat_journal::commit::{Committer, Totals};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The media type of OpenMetrics text, which [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts the events and answers of a host, from any thread.
#[derive(Debug, Default)]
pub struct Metrics {
    services: RwLock<HashMap<Name, Arc<ServiceMetrics>>>,
}

/// Counts the events and answers of one service. Code that answers for the service may hold this, to avoid lookups.
#[derive(Debug, Default)]
pub struct ServiceMetrics {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    latency: Distribution,
    sla_failures: [AtomicU64; Resource::ALL.len()],
    failovers: [AtomicU64; FailoverCause::ALL.len()],
    pause: Distribution,
}

/// The state of a host at the time of a request for metrics.
#[derive(Debug, Default)]
pub struct Scrape {
    /// The last sample of the host's load.
    pub host: Option<HostLoad>,
    /// The statuses of the services that reported in time. A service that is too busy is left out, and shows only its
    /// counters.
    pub statuses: BTreeMap<Name, Status>,
    /// The services that do not run, and whether each is quarantined.
    pub idle: BTreeMap<Name, bool>,
    /// The number of waiting requests and orders of each service.
    pub queue_lengths: BTreeMap<Name, usize>,
    /// The journal's metrics, if the host has a data directory.
    pub journal: Option<JournalMetrics>,
}

/// What was committed to the journal since the host started.
#[derive(Debug, Clone, Copy)]
pub struct JournalMetrics {
    /// The number of frames, and their bytes.
    pub totals: Totals,
    /// The times that the commits took.
    pub commit_times: Spread,
    /// Whether the next segment cannot be begun for now.
    pub is_stalled: bool,
}

impl From<&Committer> for JournalMetrics {
    fn from(committer: &Committer) -> Self {
        Self {
            totals: committer.totals(),
            commit_times: committer.commit_times(),
            is_stalled: committer.stall().is_some(),
        }
    }
}

impl Metrics {
    /// Returns the counters of a service, and creates them at zero if there are none. Use this only for services that
    /// exist: the counters take memory until the service is forgotten.
    #[must_use]
    pub fn service(&self, name: &Name) -> Arc<ServiceMetrics> {
        if let Some(service) = self.get(name) {
            return service;
        }
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(services.entry(name.clone()).or_default())
    }

    /// Returns the counters of a service, if it has any.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<Arc<ServiceMetrics>> {
        self.get(name)
    }

    /// Counts the answer to a request, and how long the client waited for it. Does nothing for a service without
    /// counters, because strangers may request any name.
    pub fn answered(&self, service: &str, outcome: Outcome, latency: Duration) {
        if let Some(service) = self.services.read().unwrap_or_else(PoisonError::into_inner).get(service) {
            service.answered(outcome, latency);
        }
    }

    /// Counts an event. This blocks for a moment at most, so it can serve as an
    /// [`EventSink`](lifeboat_api::event::EventSink).
    pub fn observe(&self, event: &Event) {
        match event {
            Event::SlaFailure(failure) => {
                count(&self.service(&failure.vm.service).sla_failures[failure.resource as usize]);
            }
            Event::Failover(failover) => {
                let service = self.service(&failover.to.service);
                count(&service.failovers[failover.cause as usize]);
                service.pause.add(failover.pause);
            }
            Event::Created { vm, .. } | Event::Restored { vm, .. } => drop(self.service(&vm.service)),
            _ => {}
        }
    }

    /// Drops the counters of a removed service. The service's task must have ended, because a later event would create
    /// new counters.
    pub fn forget(&self, service: &str) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).remove(service);
    }

    /// Returns all counters and the values of `scrape` as text of the given format.
    #[must_use]
    pub fn encode_as(&self, scrape: Scrape, format: Format) -> String {
        let text = self.encode(scrape);
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => format::to_prometheus(&text),
        }
    }

    /// Returns all counters and the values of `scrape` as text of [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self, scrape: Scrape) -> String {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let services = services.iter().map(|(name, service)| (name.clone(), Arc::clone(service))).collect();
        let mut registry = Registry::with_prefix("lifeboat");
        registry.register_collector(Box::new(Exposition { services, scrape }));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes any text");
        text
    }

    fn get(&self, service: &str) -> Option<Arc<ServiceMetrics>> {
        self.services.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }
}

impl ServiceMetrics {
    /// Counts the answer to a request, and how long the client waited for it.
    pub fn answered(&self, outcome: Outcome, latency: Duration) {
        count(&self.outcomes[outcome as usize]);
        self.latency.add(latency);
    }

    /// Returns how many requests had this outcome.
    #[must_use]
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// Returns how often a resource reached its threshold.
    #[must_use]
    pub fn sla_failures(&self, resource: Resource) -> u64 {
        self.sla_failures[resource as usize].load(Ordering::Relaxed)
    }

    /// Returns how many failovers had this cause.
    #[must_use]
    pub fn failovers(&self, cause: FailoverCause) -> u64 {
        self.failovers[cause as usize].load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
