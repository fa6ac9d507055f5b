//! The limits and the use of this process's control groups: Linux's cgroups, version 2 and version 1.
//!
//! The limits of a process's own group and of every group above it apply. So each resource is read at all levels, and
//! the tightest level counts. A level without a limit, or with a limit beyond the machine's total, does not count. A
//! file that is absent or cannot be parsed sets no limit. The machine's totals are used then.
//!
//! The parsers are functions of text. Only [`Cgroups`] reads files, below a root that it is given.

use lifeboat_api::meter::Usage;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The mount point of the cgroups.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// The file in which the kernel lists the groups of this process.
pub(super) const MEMBERSHIP: &str = "/proc/self/cgroup";

/// The groups of this process, from its own up to the topmost visible one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cgroups {
    cpu: Vec<CpuLevel>,
    memory: Vec<MemoryLevel>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CpuLevel {
    V2(PathBuf),
    /// Two controllers, which may be mounted apart: one has the quota, and the other its use.
    V1 {
        cpu: PathBuf,
        cpuacct: PathBuf,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum MemoryLevel {
    V2(PathBuf),
    V1(PathBuf),
}

/// The CPU use of the level with the smallest quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuReading {
    /// The index of the level. Uses can only be compared between readings of the same level.
    pub(super) level: usize,
    /// The quota of the level, in thousandths of a core.
    pub(super) limit_millicores: u64,
    /// The CPU time that was used since the group was created.
    pub(super) used: Duration,
}

impl Cgroups {
    /// Finds the groups of a process below `root`, the mount point. `membership` is the text of `/proc/PID/cgroup`.
    pub(super) fn find(root: &Path, membership: &str) -> Self {
        let memberships = Memberships::parse(membership);
        let v1 = |controller, marker| {
            let of = memberships.v1(controller)?;
            // `cpu` is usually a link to `cpu,cpuacct`, but is missing on some systems.
            let mounts = [root.join(controller), root.join(of.controllers)];
            let mount = mounts.into_iter().find(|mount| mount.is_dir())?;
            Some(levels(&mount, of.path, marker))
        };
        let v2 = |marker| {
            let mounts = [root.to_owned(), root.join("unified")];
            let mount = mounts.into_iter().find(|mount| mount.join("cgroup.controllers").is_file());
            mount.zip(memberships.v2).map(|(mount, path)| levels(&mount, path, marker)).unwrap_or_default()
        };
        let cpu = match v1("cpu", "cpu.cfs_quota_us").zip(v1("cpuacct", "cpuacct.usage")) {
            Some((cpu, cpuacct)) => {
                cpu.into_iter().zip(cpuacct).map(|(cpu, cpuacct)| CpuLevel::V1 { cpu, cpuacct }).collect()
            }
            None => v2("cpu.max").into_iter().map(CpuLevel::V2).collect(),
        };
        let memory = match v1("memory", "memory.limit_in_bytes") {
            Some(levels) => levels.into_iter().map(MemoryLevel::V1).collect(),
            None => v2("memory.max").into_iter().map(MemoryLevel::V2).collect(),
        };
        Self { cpu, memory }
    }

    /// Reads the level with the smallest quota, if that is smaller than `machine_millicores`.
    pub(super) fn cpu(&self, machine_millicores: u64) -> Option<CpuReading> {
        let limits = self.cpu.iter().enumerate().filter_map(|(level, group)| Some((group.limit_millicores()?, level)));
        let (limit_millicores, level) = limits.min().filter(|(limit, _)| *limit < machine_millicores)?;
        Some(CpuReading { level, limit_millicores, used: self.cpu[level].used()? })
    }

    /// Reads the memory of the fullest level among those with a limit below `machine_bytes`.
    pub(super) fn memory(&self, machine_bytes: u64) -> Option<Usage> {
        let usages = self.memory.iter().filter_map(MemoryLevel::usage).filter(|usage| usage.limit < machine_bytes);
        // This compares used / limit without a division.
        usages
            .max_by(|a, b| (u128::from(a.used) * u128::from(b.limit)).cmp(&(u128::from(b.used) * u128::from(a.limit))))
    }
}

impl CpuLevel {
    fn limit_millicores(&self) -> Option<u64> {
        match self {
            Self::V2(group) => cpu_max_millicores(&read(group, "cpu.max")?),
            Self::V1 { cpu, .. } => cfs_millicores(&read(cpu, "cpu.cfs_quota_us")?, &read(cpu, "cpu.cfs_period_us")?),
        }
    }

    fn used(&self) -> Option<Duration> {
        match self {
            Self::V2(group) => keyed(&read(group, "cpu.stat")?, "usage_usec").map(Duration::from_micros),
            Self::V1 { cpuacct, .. } => number(&read(cpuacct, "cpuacct.usage")?).map(Duration::from_nanos),
        }
    }
}

impl MemoryLevel {
    fn usage(&self) -> Option<Usage> {
        let (group, limit, current, [active, inactive]) = match self {
            Self::V2(group) => (group, "memory.max", "memory.current", ["active_file", "inactive_file"]),
            Self::V1(group) => {
                (group, "memory.limit_in_bytes", "memory.usage_in_bytes", ["total_active_file", "total_inactive_file"])
            }
        };
        let limit = number(&read(group, limit)?)?;
        let current = number(&read(group, current)?)?;
        let stat = read(group, "memory.stat").unwrap_or_default();
        // A group fills up with cached files, which the kernel reclaims before it refuses any memory. If they counted,
        // the writes to a journal would look like pressure.
        let cached = keyed(&stat, active).unwrap_or(0).saturating_add(keyed(&stat, inactive).unwrap_or(0));
        Some(Usage { used: current.saturating_sub(cached), limit })
    }
}

/// The groups of a process.
#[derive(Debug, PartialEq, Eq)]
struct Memberships<'a> {
    v1: Vec<Membership<'a>>,
    v2: Option<&'a str>,
}

/// A group of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership<'a> {
    /// The controllers of the group's hierarchy, separated by commas.
    controllers: &'a str,
    path: &'a str,
}

impl<'a> Memberships<'a> {
    /// Parses lines of `hierarchy:controllers:path`. The line of version 2 has no controllers. See cgroups(7).
    fn parse(text: &'a str) -> Self {
        let mut memberships = Self { v1: Vec::new(), v2: None };
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next(), fields.next()) {
                (Some(""), Some(path)) => memberships.v2 = Some(path),
                (Some(controllers), Some(path)) => memberships.v1.push(Membership { controllers, path }),
                _ => {}
            }
        }
        memberships
    }

    fn v1(&self, controller: &str) -> Option<Membership<'a>> {
        self.v1.iter().copied().find(|membership| membership.controllers.split(',').any(|name| name == controller))
    }
}

/// Returns the directories of the group `path` and of the groups above it, up to `mount`, that have the file `marker`.
/// In a container, `path` may be a path of the machine that is not visible inside. Then the mount point is the
/// container's group.
fn levels(mount: &Path, path: &str, marker: &str) -> Vec<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    let is_below = path.components().all(|component| matches!(component, Component::Normal(_)));
    let own = if is_below { mount.join(path) } else { mount.to_owned() };
    let groups = own.ancestors().take_while(|group| group.starts_with(mount));
    groups.filter(|group| group.join(marker).is_file()).map(Path::to_owned).collect()
}

fn read(group: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(group.join(file)).ok()
}

/// Parses a single number. `max` means no limit, and gives none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Returns the number of the line `key number`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').and_then(number))
}

/// Parses `cpu.max` of version 2: quota and period in microseconds, or `max` and the period.
fn cpu_max_millicores(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cfs_millicores(quota, period)
}

/// Parses quota and period of version 1, in microseconds. A quota of -1 means no limit, and gives none.
fn cfs_millicores(quota: &str, period: &str) -> Option<u64> {
    let (quota, period) = (number(quota)?, number(period)?);
    quota.checked_mul(1_000)?.checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn quotas_are_read_as_shares_of_a_core() {
        assert_eq!(cpu_max_millicores("150000 100000\n"), Some(1_500));
        assert_eq!(cpu_max_millicores("max 100000\n"), None);
        assert_eq!(cpu_max_millicores("50000 0\n"), None);
        assert_eq!(cpu_max_millicores(""), None);
        assert_eq!(cfs_millicores("200000\n", "100000\n"), Some(2_000));
        assert_eq!(cfs_millicores("-1\n", "100000\n"), None);
    }

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        let stat = "usage_usec 61734563\nuser_usec 42514023\nsystem_usec 19220540\nnr_periods 0\nnr_throttled 0\n";
        assert_eq!(keyed(stat, "usage_usec"), Some(61_734_563));
        assert_eq!(keyed(stat, "usage"), None);
        assert_eq!(keyed(stat, "burst_usec"), None);
        let stat = "cache 10895360\nactive_file 1675264\ninactive_file 135168\ntotal_active_file 7\n";
        assert_eq!(keyed(stat, "active_file"), Some(1_675_264));
        assert_eq!(number("9223372036854771712\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(number("max\n"), None);
        assert_eq!(number("-1\n"), None);
    }

    #[test]
    fn memberships_of_both_versions_are_distinguished() {
        let hybrid = "9:name=systemd:/\n5:cpu,cpuacct:/docker/3f\n4:memory:/a:b\n0::/user.slice\n";
        let memberships = Memberships::parse(hybrid);
        assert_eq!(memberships.v2, Some("/user.slice"));
        assert_eq!(memberships.v1("cpuacct"), Some(Membership { controllers: "cpu,cpuacct", path: "/docker/3f" }));
        assert_eq!(memberships.v1("memory").map(|of| of.path), Some("/a:b"));
        assert_eq!(memberships.v1("cpu,cpuacct"), None);
        assert_eq!(Memberships::parse("nonsense\n\n1:cpu\n"), Memberships { v1: Vec::new(), v2: None });
    }

    fn write(directory: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(directory).expect("a directory");
        for (name, text) in files {
            fs::write(directory.join(name), text).expect("written");
        }
    }

    #[test]
    fn of_version_2_the_tightest_level_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        write(root, &[("cgroup.controllers", "cpu memory\n"), ("cpu.stat", "usage_usec 9\n")]);
        write(
            &root.join("shop.slice"),
            &[
                ("cpu.max", "150000 100000\n"),
                ("cpu.stat", "usage_usec 7000000\nuser_usec 1\n"),
                ("memory.max", "1000000\n"),
                ("memory.current", "990000\n"),
                ("memory.stat", "anon 1\nactive_file 200000\ninactive_file 40000\n"),
            ],
        );
        write(
            &root.join("shop.slice/bank.service"),
            &[
                ("cpu.max", "max 100000\n"),
                ("cpu.stat", "usage_usec 5\n"),
                ("memory.max", "800000\n"),
                ("memory.current", "400000\n"),
                ("memory.stat", ""),
            ],
        );
        let groups = Cgroups::find(root, "0::/shop.slice/bank.service\n");
        let used = Duration::from_secs(7);
        assert_eq!(groups.cpu(4_000), Some(CpuReading { level: 1, limit_millicores: 1_500, used }));
        assert_eq!(groups.memory(1 << 30), Some(Usage { used: 750_000, limit: 1_000_000 }));
        assert_eq!(groups.memory(900_000), Some(Usage { used: 400_000, limit: 800_000 }));
        assert_eq!(groups.cpu(1_500), None, "the machine has no more");
        // A container sees the machine's path, but not its directories.
        assert_eq!(Cgroups::find(&root.join("shop.slice"), "0::/elsewhere\n"), Cgroups::default());
        write(&root.join("shop.slice"), &[("cgroup.controllers", "cpu memory\n")]);
        for path in ["/elsewhere", "/../..", "/"] {
            let groups = Cgroups::find(&root.join("shop.slice"), &format!("0::{path}\n"));
            assert_eq!(groups.cpu(4_000).map(|reading| reading.limit_millicores), Some(1_500), "{path}");
        }
    }

    #[test]
    fn of_version_1_each_controller_has_its_own_hierarchy() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let unlimited = [("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "7919714304\n")];
        write(&root.join("memory"), &unlimited);
        write(
            &root.join("memory/bank"),
            &[
                ("memory.limit_in_bytes", "536870912\n"),
                ("memory.usage_in_bytes", "104857600\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 4857600\ntotal_active_file 0\n"),
            ],
        );
        write(
            &root.join("cpu,cpuacct/bank"),
            &[
                ("cpu.cfs_quota_us", "50000\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("cpuacct.usage", "39352674033789\n"),
            ],
        );
        let groups = Cgroups::find(root, "4:memory:/bank\n2:cpu,cpuacct:/bank\n0::/\n");
        let used = Duration::from_nanos(39_352_674_033_789);
        assert_eq!(groups.cpu(2_000), Some(CpuReading { level: 0, limit_millicores: 500, used }));
        assert_eq!(groups.memory(25_276_502_016), Some(Usage { used: 100_000_000, limit: 536_870_912 }));
        let unlimited = Cgroups::find(root, "4:memory:/\n");
        assert_eq!((unlimited.cpu(2_000), unlimited.memory(25_276_502_016)), (None, None));
    }

    #[test]
    fn without_groups_there_is_no_limit() {
        let root = tempfile::tempdir().expect("a directory");
        let groups = Cgroups::find(root.path(), "0::/\n1:cpu:/\n");
        assert_eq!((groups.cpu(u64::MAX), groups.memory(u64::MAX)), (None, None));
    }
}
