//! What `/metrics` shows, in the OpenMetrics text format that Prometheus reads, or in its own.
//!
//! Events and answers are counted as they come, in a [`ServiceMetrics`] for each service. What has a state of its own
//! (meters, queues, the journal, the host's load) is not followed but handed in when somebody asks: a [`Scrape`]. There
//! is no registry of series to keep in step, so a service that is forgotten leaves none behind, and the number of series
//! is bounded by the number of services.
//!
//! `docs/monitoring.md` lists every metric; a test compares.

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

/// Counts what happens on a host, from any thread.
#[derive(Debug, Default)]
pub struct Metrics {
    services: RwLock<HashMap<Name, Arc<ServiceMetrics>>>,
}

/// Counts what happens to one service. Whoever answers for it may keep this, and need not look it up.
#[derive(Debug, Default)]
pub struct ServiceMetrics {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    latency: Distribution,
    sla_failures: [AtomicU64; Resource::ALL.len()],
    failovers: [AtomicU64; FailoverCause::ALL.len()],
    pause: Distribution,
}

/// What is as it is when somebody asks.
#[derive(Debug, Default)]
pub struct Scrape {
    /// The last sample of the host.
    pub host: Option<HostLoad>,
    /// The services that told how they are. One that is too busy to tell in time is left out, and only its counters show.
    pub statuses: BTreeMap<Name, Status>,
    /// The services that do not run, and whether each is quarantined.
    pub idle: BTreeMap<Name, bool>,
    /// Requests and orders that wait, by service.
    pub queue_lengths: BTreeMap<Name, usize>,
    /// Of a host with a data directory.
    pub journal: Option<JournalMetrics>,
}

/// What was committed to the journal since the host started.
#[derive(Debug, Clone, Copy)]
pub struct JournalMetrics {
    /// Frames and their bytes.
    pub totals: Totals,
    /// How long they took.
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
    /// The counters of a service, which begin at zero when it is first named. Only for services that exist: each takes
    /// its place until it is forgotten.
    #[must_use]
    pub fn service(&self, name: &Name) -> Arc<ServiceMetrics> {
        if let Some(service) = self.get(name) {
            return service;
        }
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(services.entry(name.clone()).or_default())
    }

    /// The counters of a service that was named before.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<Arc<ServiceMetrics>> {
        self.get(name)
    }

    /// Counts the answer to a request, and how long the client waited for it. A service that nobody named before is not
    /// counted: strangers may ask for any name.
    pub fn answered(&self, service: &str, outcome: Outcome, latency: Duration) {
        if let Some(service) = self.services.read().unwrap_or_else(PoisonError::into_inner).get(service) {
            service.answered(outcome, latency);
        }
    }

    /// Counts an event. It does not block but for a moment: fit for an [`EventSink`](lifeboat_api::event::EventSink).
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

    /// Drops the series of a service that was removed. Its task must have ended: an event that comes later would bring
    /// them back.
    pub fn forget(&self, service: &str) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).remove(service);
    }

    /// Everything that was counted, and what `scrape` says, as text of this format.
    #[must_use]
    pub fn encode_as(&self, scrape: Scrape, format: Format) -> String {
        let text = self.encode(scrape);
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => format::to_prometheus(&text),
        }
    }

    /// The same as text of [`CONTENT_TYPE`].
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

    /// How many requests had an outcome.
    #[must_use]
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// How often a resource reached its threshold.
    #[must_use]
    pub fn sla_failures(&self, resource: Resource) -> u64 {
        self.sla_failures[resource as usize].load(Ordering::Relaxed)
    }

    /// How many failovers had a cause.
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
