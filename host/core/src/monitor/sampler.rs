//! Reads the use and the limits of the host's resources. Only this part of the monitor queries the operating system.

use super::Network;
use super::cgroup::{self, Cgroups, CpuReading};
use lifeboat_api::meter::{HostResource, Usage};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use sysinfo::{CpuRefreshKind, DiskRefreshKind, Disks, MemoryRefreshKind, Networks, System};

/// The values of one sample. CPU and network are rates, so the first sample has none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Reading {
    pub(super) cpu_millicores: Option<Usage>,
    pub(super) memory_bytes: Option<Usage>,
    pub(super) disk_bytes: Option<Usage>,
    pub(super) network: Option<Network>,
}

impl Reading {
    pub(super) fn of(&self, resource: HostResource) -> Option<Usage> {
        match resource {
            HostResource::Cpu => self.cpu_millicores,
            HostResource::Memory => self.memory_bytes,
            HostResource::Disk => self.disk_bytes,
        }
    }
}

/// Takes samples, and keeps the earlier counters that rates need.
pub(super) struct Sampler {
    system: System,
    networks: Networks,
    /// Only the file system of the data directory, if it can be queried.
    disks: Disks,
    disk: Option<usize>,
    cgroups: Cgroups,
    /// The cores that this process may run on, if they are known.
    allowed: Option<BTreeSet<usize>>,
    /// The time of the last sample, and the control group's counter at that time.
    last: Option<(Duration, Option<CpuReading>)>,
}

impl Sampler {
    /// Prepares to sample this machine, and the file system of `data_directory`.
    pub(super) fn new(data_directory: &Path) -> Result<Self, sysinfo::Error> {
        let membership = std::fs::read_to_string(cgroup::MEMBERSHIP).unwrap_or_default();
        let mut disks = Disks::new()?;
        // This queries no file system, because one of them might hang.
        disks.refresh_specifics(true, DiskRefreshKind::nothing());
        let disk = disk_of(data_directory, &disks);
        Ok(Self {
            system: System::new()?,
            networks: Networks::new()?,
            disks,
            disk,
            cgroups: Cgroups::find(Path::new(cgroup::ROOT), &membership),
            allowed: allowed_cores(),
            last: None,
        })
    }

    /// Takes a sample. `at` is the time since any fixed point.
    pub(super) fn sample(&mut self, at: Duration) -> Reading {
        let took = self.last.map(|(last, _)| at.saturating_sub(last)).filter(|took| !took.is_zero());
        let cpu_millicores = self.cpu(at, took);
        Reading { cpu_millicores, memory_bytes: self.memory(), disk_bytes: self.disk(), network: self.network(took) }
    }

    /// Returns the use since the last sample: of the control group's quota if there is one, else of the machine.
    fn cpu(&mut self, at: Duration, took: Option<Duration>) -> Option<Usage> {
        self.system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        let cores: Vec<(&str, f32)> = self.system.cpus().iter().map(|cpu| (cpu.name(), cpu.usage())).collect();
        let ours = ours(&cores, self.allowed.as_ref());
        let machine_millicores = ours.len() as u64 * 1_000;
        let reading = self.cgroups.cpu(machine_millicores);
        let last = self.last.replace((at, reading)).and_then(|(_, reading)| reading);
        let took = took?;
        let Some(reading) = reading else {
            return machine_cpu(&ours);
        };
        let last = last.filter(|last| last.level == reading.level)?;
        let used = reading.used.saturating_sub(last.used);
        Some(Usage { used: millicores(used, took), limit: reading.limit_millicores })
    }

    /// Returns the memory that cannot be given to another program at once: of the control group's limit if there is
    /// one, else of the machine.
    fn memory(&mut self) -> Option<Usage> {
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let machine_bytes = self.system.total_memory();
        let machine =
            Usage { used: machine_bytes.saturating_sub(self.system.available_memory()), limit: machine_bytes };
        self.cgroups.memory(machine_bytes).or(Some(machine)).filter(|usage| usage.limit > 0)
    }

    /// Returns the space that this user can no longer write, and the total space.
    fn disk(&mut self) -> Option<Usage> {
        let disk = &mut self.disks[self.disk?];
        disk.refresh_specifics(DiskRefreshKind::nothing().with_storage());
        let limit = disk.total_space();
        Some(Usage { used: limit.saturating_sub(disk.available_space()), limit }).filter(|usage| usage.limit > 0)
    }

    /// Returns the traffic over all interfaces except the loopback.
    fn network(&mut self, took: Option<Duration>) -> Option<Network> {
        self.networks.refresh(true);
        let took = took?;
        let (mut received_bytes, mut sent_bytes) = (0_u64, 0_u64);
        for (_, interface) in self.networks.iter().filter(|(name, _)| *name != "lo" && *name != "lo0") {
            received_bytes = received_bytes.saturating_add(interface.received());
            sent_bytes = sent_bytes.saturating_add(interface.transmitted());
        }
        Some(Network {
            received_bytes_per_second: per_second(received_bytes, took),
            sent_bytes_per_second: per_second(sent_bytes, took),
        })
    }
}

/// Returns the numbers of the cores that this process may run on. A container may be pinned to a few of many cores.
#[cfg(target_os = "linux")]
fn allowed_cores() -> Option<BTreeSet<usize>> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    Some((0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Returns none, because other systems do not report the cores.
#[cfg(not(target_os = "linux"))]
fn allowed_cores() -> Option<BTreeSet<usize>> {
    None
}

/// Returns the index in `disks` of the file system of `directory`, which its device number identifies.
fn disk_of(directory: &Path, disks: &Disks) -> Option<usize> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(directory).ok()?.dev();
    disks.iter().position(|disk| disk.id() == Some(device))
}

/// Returns how busy the cores are that the process may run on: those of `cores`, pairs of name and usage, whose numbers
/// are in `allowed`. Returns all of `cores` if some allowed ones are not among them, as in a container with renamed
/// cores.
fn ours(cores: &[(&str, f32)], allowed: Option<&BTreeSet<usize>>) -> Vec<f32> {
    // A core that is switched off has a number too, so the number is not the index in the list.
    let number = |name: &str| name.strip_prefix("cpu").and_then(|number| number.parse().ok());
    let is_ours = |name: &str| number(name).is_some_and(|number| allowed.is_some_and(|set| set.contains(&number)));
    let ours: Vec<f32> = cores.iter().filter(|(name, _)| is_ours(name)).map(|(_, usage)| *usage).collect();
    let are_found = allowed.is_some_and(|set| set.len() == ours.len());
    if are_found { ours } else { cores.iter().map(|(_, usage)| *usage).collect() }
}

/// Adds up the usage of the cores, each in percent. Returns none if no core is known.
fn machine_cpu(percents: &[f32]) -> Option<Usage> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 1,000")]
    let used = percents.iter().map(|percent| (percent.clamp(0.0, 100.0) * 10.0).round() as u64).sum();
    Some(Usage { used, limit: percents.len() as u64 * 1_000 }).filter(|cpu| cpu.limit > 0)
}

/// Returns the CPU time `used` within `took`, in thousandths of a core.
fn millicores(used: Duration, took: Duration) -> u64 {
    u64::try_from(used.as_nanos() * 1_000 / took.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn per_second(amount: u64, took: Duration) -> u64 {
    u64::try_from(u128::from(amount) * 1_000_000_000 / took.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn rates_are_amounts_by_time() {
        assert_eq!(millicores(Duration::from_millis(1_500), Duration::from_secs(1)), 1_500);
        assert_eq!(millicores(Duration::from_millis(100), Duration::from_millis(400)), 250);
        assert_eq!(per_second(3_000, Duration::from_millis(1_500)), 2_000);
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), u64::MAX);
        assert_eq!(machine_cpu(&[98.5, 100.0, 200.0, 0.04]), Some(Usage { used: 2_985, limit: 4_000 }));
        assert_eq!(machine_cpu(&[f32::NAN, -1.0]), Some(Usage { used: 0, limit: 2_000 }));
        assert_eq!(machine_cpu(&[]), None);
    }

    #[test]
    fn the_cores_of_a_pinned_process_count_if_they_can_be_found() {
        let cores = [("cpu0", 1.0), ("cpu2", 2.0), ("cpu3", 3.0)];
        let of = |allowed: &[usize]| ours(&cores, Some(&allowed.iter().copied().collect()));
        assert_eq!(ours(&cores, None), [1.0, 2.0, 3.0]);
        assert_eq!((of(&[0, 2, 3]), of(&[2, 3]), of(&[2])), (vec![1.0, 2.0, 3.0], vec![2.0, 3.0], vec![2.0]));
        // A container may see its cores as the first ones.
        assert_eq!((of(&[4, 5, 6]), of(&[2, 5])), (vec![1.0, 2.0, 3.0], vec![1.0, 2.0, 3.0]));
    }

    #[test]
    fn this_machine_is_sampled_plausibly() {
        let start = Instant::now();
        let directory = tempfile::tempdir().expect("a directory");
        let mut sampler = Sampler::new(directory.path()).expect("a system that is known");
        let first = sampler.sample(start.elapsed());
        assert_eq!((first.cpu_millicores, first.network), (None, None), "rates need two samples");
        // The CPU's counters move in steps, so this thread works until they have moved.
        while start.elapsed() < 2 * sysinfo::MINIMUM_CPU_UPDATE_INTERVAL {
            std::hint::spin_loop();
        }
        let reading = sampler.sample(start.elapsed());
        let cpu = reading.cpu_millicores.expect("cores");
        assert!(cpu.limit > 0 && cpu.used >= cpu.limit.min(1_000) / 20, "{cpu:?}: this thread has a core to itself");
        let memory = reading.memory_bytes.expect("memory");
        assert!(memory.used > 1 << 20 && memory.used <= memory.limit && memory.limit < 1 << 50, "{memory:?}");
        if let Some(disk) = reading.disk_bytes {
            assert!(disk.used <= disk.limit && disk.limit > 1 << 20, "{disk:?}");
        }
        assert!(reading.network.is_some());
        let allowed = allowed_cores().map_or(u64::MAX, |cores| cores.len() as u64 * 1_000);
        assert!(cpu.limit <= allowed, "{cpu:?} of {allowed}");
    }
}
