//! The load of the host itself, sampled independently of all other work, and the host's SLA.
//!
//! A [`Monitor`] is one thread. Every [`SAMPLE_INTERVAL`] it samples CPU, memory, disk and network (`sampler.rs`), and
//! no other thread waits for it. If the process runs in a control group with limits, the group's limits and use count
//! (`cgroup.rs`). Otherwise those of the machine count.
//!
//! A resource is *under pressure* when its mean utilisation over [`WINDOW`] reaches its threshold (`pressure.rs`). That
//! is an SLA failure of the host. During pressure the host admits no new work (`admission.rs`), but its services
//! continue, fail over and recover.

mod admission;
mod cgroup;
mod pressure;
mod sampler;

pub use admission::{Admission, Starting, UnderPressure};
pub use pressure::{Crossing, Pressure, WINDOW};

use lifeboat_api::clock::{Clock, Timestamp, Utc};
use lifeboat_api::event::{Event, EventSink};
use lifeboat_api::meter::{HostResource, Percent, Usage};
use lifeboat_api::sla::{THRESHOLD_DEFAULT, deserialize_threshold};
use sampler::{Reading, Sampler};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time between two samples of the host.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The mean utilisation at which each resource of the host is under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostThresholds {
    /// The threshold of CPU time.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub cpu: Percent,
    /// The threshold of memory.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub memory: Percent,
    /// The threshold of the data directory's file system.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub disk: Percent,
}

impl HostThresholds {
    /// Returns the same threshold for every resource.
    #[must_use]
    pub fn all(threshold: Percent) -> Self {
        Self { cpu: threshold, memory: threshold, disk: threshold }
    }

    /// Returns the threshold of `resource`.
    #[must_use]
    pub fn of(&self, resource: HostResource) -> Percent {
        match resource {
            HostResource::Cpu => self.cpu,
            HostResource::Memory => self.memory,
            HostResource::Disk => self.disk,
        }
    }
}

impl Default for HostThresholds {
    fn default() -> Self {
        Self::all(THRESHOLD_DEFAULT)
    }
}

/// The traffic over the network, without the loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Received bytes per second since the sample before.
    pub received_bytes_per_second: u64,
    /// Sent bytes per second since the sample before.
    pub sent_bytes_per_second: u64,
}

/// One sample of the host. A value is none if it could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLoad {
    /// The time of the sample.
    pub sampled_at: Timestamp,
    /// CPU time since the sample before, in thousandths of a core.
    pub cpu_millicores: Option<Usage>,
    /// Memory that cannot be given to another program at once, in bytes. Cached files can, so they do not count.
    pub memory_bytes: Option<Usage>,
    /// Space on the file system of the data directory, in bytes. Space that only the superuser may use counts as used.
    pub disk_bytes: Option<Usage>,
    /// The network traffic.
    pub network: Option<Network>,
    /// The resources that are under pressure.
    pub under_pressure: Vec<HostResource>,
}

impl HostLoad {
    /// Returns the usage of `resource`.
    #[must_use]
    pub fn usage(&self, resource: HostResource) -> Option<Usage> {
        match resource {
            HostResource::Cpu => self.cpu_millicores,
            HostResource::Memory => self.memory_bytes,
            HostResource::Disk => self.disk_bytes,
        }
    }
}

/// Writes `{"sampled_at", "resources": {"cpu": {"used", "limit", "unit", "utilisation_percent"}, ...}, "network",
/// "under_pressure"}`. A value that could not be read is `null`.
impl Serialize for HostLoad {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            #[serde(flatten)]
            usage: Usage,
            unit: &'static str,
            utilisation_percent: f64,
        }
        struct Resources<'a>(&'a HostLoad);
        impl Serialize for Resources<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(HostResource::ALL.into_iter().map(|resource| {
                    let shown = self.0.usage(resource).map(|usage| Shown {
                        usage,
                        unit: resource.unit(),
                        utilisation_percent: usage.utilisation_percent(),
                    });
                    (resource, shown)
                }))
            }
        }
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("sampled_at", &Utc(self.sampled_at).to_string())?;
        map.serialize_entry("resources", &Resources(self))?;
        map.serialize_entry("network", &self.network)?;
        map.serialize_entry("under_pressure", &self.under_pressure)?;
        map.end()
    }
}

/// Why the host cannot be monitored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The operating system does not report the load.
    #[error("the load of the host cannot be read: {0}")]
    System(String),
    /// No thread could be started.
    #[error("the load of the host cannot be watched: no thread: {0}")]
    Thread(std::io::Error),
}

/// Samples the host until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    latest: Arc<RwLock<Option<HostLoad>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts to sample the host, with the disk of `data_directory`. Pressure is reported to `events` and to
    /// `admission`. Samples get their time from `clock`.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub fn start(
        data_directory: &Path,
        thresholds: HostThresholds,
        admission: Admission,
        clock: Arc<dyn Clock>,
        events: EventSink,
    ) -> Result<Self, MonitorError> {
        let mut sampler = Sampler::new(data_directory).map_err(|error| MonitorError::System(error.to_string()))?;
        let latest = Arc::new(RwLock::new(None));
        let (stop, stopped) = mpsc::channel();
        let mut watch = Watch { pressure: Pressure::new(thresholds), admission };
        let shown = Arc::clone(&latest);
        let thread = std::thread::Builder::new().name("monitor".into()).spawn(move || {
            let start = Instant::now();
            loop {
                let at = start.elapsed();
                let (load, message) = watch.observe(at, sampler.sample(at), clock.now());
                *shown.write().unwrap_or_else(PoisonError::into_inner) = Some(load);
                for event in message {
                    events(&event);
                }
                if stopped.recv_timeout(SAMPLE_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        });
        Ok(Self { latest, stop: Some(stop), thread: Some(thread.map_err(MonitorError::Thread)?) })
    }

    /// Returns the last sample, or none before the first one, which is taken at once.
    #[must_use]
    pub fn load(&self) -> Option<HostLoad> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed already, and there is nothing to return.
            let _ = thread.join();
        }
    }
}

/// Turns samples into loads and events, without I/O.
struct Watch {
    pressure: Pressure,
    admission: Admission,
}

impl Watch {
    fn observe(&mut self, at: Duration, reading: Reading, sampled_at: Timestamp) -> (HostLoad, Vec<Event>) {
        // The CPU time of the host's own start is not a load that users cause.
        let is_counted = |resource| resource != HostResource::Cpu || !self.admission.is_starting();
        let crossings = self.pressure.observe(at, |resource| reading.of(resource).filter(|_| is_counted(resource)));
        let current: Vec<_> = self.pressure.current().collect();
        let under_pressure = current.iter().map(|pressure| pressure.resource).collect();
        self.admission.set(current);
        let Reading { cpu_millicores, memory_bytes, disk_bytes, network } = reading;
        let load = HostLoad { sampled_at, cpu_millicores, memory_bytes, disk_bytes, network, under_pressure };
        let message = crossings.into_iter().map(|crossing| match crossing {
            Crossing::Begins(pressure) => Event::HostPressure(pressure),
            Crossing::Ends(pressure) => Event::HostRelieved(pressure),
        });
        (load, message.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::clock::SystemClock;

    #[test]
    fn new_work_waits_exactly_while_the_host_is_under_pressure() {
        let admission = Admission::default();
        let mut watch = Watch { pressure: Pressure::new(HostThresholds::default()), admission: admission.clone() };
        let mut message = Vec::new();
        for second in 0..200 {
            let used = if second < 100 { 15_776_000_000 } else { 1_000_000_000 };
            let memory_bytes = Some(Usage { used, limit: 16_000_000_000 });
            let reading = Reading { memory_bytes, ..Reading::default() };
            let at = Duration::from_secs(second);
            let (load, events) = watch.observe(at, reading, Timestamp::default());
            assert_eq!(admission.check().is_err(), load.under_pressure == [HostResource::Memory], "{second}");
            message.extend(events.iter().map(|event| (second, event.to_string())));
        }
        let text = "SLA failure: host memory 98.6% (15.8 GB of 16.0 GB, threshold 98%, relieved below 93%); new \
                    services and scratch work wait, failovers continue";
        assert_eq!(message[0], (60, text.to_owned()));
        assert!(message[1].1.starts_with("Relieved: host memory 9"), "{message:?}");
        assert_eq!(message.len(), 2, "{message:?}");
        assert_eq!(admission.check(), Ok(()));
    }

    #[test]
    fn the_cpu_time_of_a_start_is_no_pressure() {
        let admission = Admission::default();
        let mut watch = Watch { pressure: Pressure::new(HostThresholds::default()), admission: admission.clone() };
        let mut start = Some(admission.begin_start());
        for second in 0..300 {
            if second == 100 {
                drop(start.take());
            }
            let cpu_millicores = Some(Usage { used: 2_000, limit: 2_000 });
            let reading = Reading { cpu_millicores, ..Reading::default() };
            let (load, _) = watch.observe(Duration::from_secs(second), reading, Timestamp::default());
            assert_eq!(load.cpu_millicores, cpu_millicores, "it is shown all the same");
            assert_eq!(admission.check().is_err(), second >= 160, "{second}");
        }
    }

    #[test]
    fn the_json_of_a_load_states_its_units() {
        let load = HostLoad {
            sampled_at: Timestamp(1_772_366_400_000_000_000),
            cpu_millicores: Some(Usage { used: 1_000, limit: 2_000 }),
            memory_bytes: Some(Usage { used: 1 << 30, limit: 4 << 30 }),
            disk_bytes: None,
            network: Some(Network { received_bytes_per_second: 5, sent_bytes_per_second: 6 }),
            under_pressure: vec![HostResource::Cpu],
        };
        assert_eq!(
            serde_json::to_value(load).expect("written"),
            serde_json::json!({
                "sampled_at": "2026-03-01T12:00:00.000Z",
                "resources": {
                    "cpu": {"used": 1_000, "limit": 2_000, "unit": "millicores", "utilisation_percent": 50.0},
                    "memory": {"used": 1 << 30, "limit": 4_u64 << 30, "unit": "bytes", "utilisation_percent": 25.0},
                    "disk": null,
                },
                "network": {"received_bytes_per_second": 5, "sent_bytes_per_second": 6},
                "under_pressure": ["cpu"],
            })
        );
    }

    fn read_thresholds(text: &str) -> Result<HostThresholds, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn thresholds_are_read_within_their_bounds() {
        let disk = HostThresholds { disk: Percent::whole(90), ..HostThresholds::default() };
        assert_eq!(read_thresholds("disk = 90"), Ok(disk));
        assert!(read_thresholds("disk = 10").is_err_and(|error| error.contains("too low")));
    }

    #[test]
    fn an_unknown_threshold_is_refused() {
        assert!(read_thresholds("network = 90").is_err());
    }

    /// Returns what a monitor that was started and dropped at once leaves: the sink of its events and its latest
    /// sample.
    fn dropped_monitor() -> (EventSink, Arc<RwLock<Option<HostLoad>>>) {
        let directory = tempfile::tempdir().expect("a directory");
        let events: EventSink = Arc::new(|_| {});
        let (clock, sink) = (Arc::new(SystemClock), Arc::clone(&events));
        let monitor = Monitor::start(directory.path(), HostThresholds::default(), Admission::default(), clock, sink);
        let latest = Arc::clone(&monitor.expect("started").latest);
        (events, latest)
    }

    #[test]
    fn a_monitor_samples_at_once() {
        let (_, latest) = dropped_monitor();
        let load = latest.read().unwrap_or_else(PoisonError::into_inner).clone().expect("a sample");
        assert!(load.memory_bytes.is_some_and(|memory| memory.used > 0) && load.under_pressure.is_empty());
    }

    #[test]
    fn the_thread_of_a_dropped_monitor_has_ended() {
        let (events, latest) = dropped_monitor();
        assert_eq!((Arc::strong_count(&events), Arc::strong_count(&latest)), (1, 1));
    }
}
