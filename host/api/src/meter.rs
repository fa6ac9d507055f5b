//! The usage of a VM, compared with its limits.
//!
//! A [`Meter`] belongs to one VM for its whole life. Only [`Meter::charge`] consumes fuel, and only work whose state is
//! kept is charged. Fuel is never returned to the tank: a full tank comes only with a fresh VM, and so with a failover.

use crate::size::{Bytes, grouped};
use crate::text::{SHOWN_CHARS_MAX, shortened};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A metered resource. Events, reports and configuration use its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Fuel for the VM's life: a consumable. A fresh VM has a full tank.
    Cpu,
    /// Bytes of linear memory: a level, which only compaction or a larger size lowers.
    Memory,
    /// Bytes on the virtual disk: a level, which only the guest or a larger size lowers.
    Disk,
}

impl Resource {
    /// Every resource, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Disk];

    /// Returns the unit of this resource's usage.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "fuel",
            Self::Memory | Self::Disk => "bytes",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

/// An amount of each resource that is a level, in bytes: what a VM uses, or may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Levels {
    /// Linear memory.
    pub memory_bytes: u64,
    /// The virtual disk.
    pub disk_bytes: u64,
}

impl Levels {
    /// The resources that are levels, in the order of reports.
    pub const ALL: [Resource; 2] = [Resource::Memory, Resource::Disk];

    /// Returns the amount of `resource`, or none if it is not a level.
    #[must_use]
    pub fn of(self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Cpu => None,
            Resource::Memory => Some(self.memory_bytes),
            Resource::Disk => Some(self.disk_bytes),
        }
    }

    /// Returns whether no level is above its `bounds`.
    #[must_use]
    pub fn fit(self, bounds: Self) -> bool {
        self.memory_bytes <= bounds.memory_bytes && self.disk_bytes <= bounds.disk_bytes
    }

    /// Returns whether some level is above that of `other`, and none below: a partial order.
    #[must_use]
    pub fn exceed(self, other: Self) -> bool {
        self != other && other.fit(self)
    }

    /// Returns the sums with `other`.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }

    /// Returns the differences to `other`, at least 0.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
        }
    }
}

/// A share of a whole, from 0 % to 100 %, exact to a hundredth of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent {
    basis_points: u16,
}

impl Percent {
    /// Returns `whole` percent. For constants.
    ///
    /// # Panics
    /// If `whole` exceeds 100.
    #[must_use]
    pub const fn whole(whole: u16) -> Self {
        assert!(whole <= 100, "a share is at most 100 percent");
        Self { basis_points: whole * 100 }
    }

    /// Returns the share that is `points` percentage points smaller, at least 0 %.
    #[must_use]
    pub const fn less_points(self, points: u16) -> Self {
        Self { basis_points: self.basis_points.saturating_sub(points * 100) }
    }

    /// Returns the share in whole percentage points, rounded down.
    #[must_use]
    pub fn whole_points(self) -> u8 {
        u8::try_from(self.basis_points / 100).unwrap_or(100)
    }

    /// Returns whether `used` is at least this share of `limit`. Exact: no rounding decides a failover.
    #[must_use]
    pub fn reached(self, used: u64, limit: u64) -> bool {
        u128::from(used) * 10_000 >= u128::from(limit) * u128::from(self.basis_points)
    }

    /// Returns this share of `whole`, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        u64::try_from(u128::from(whole) * u128::from(self.basis_points) / 10_000).unwrap_or(u64::MAX)
    }
}

impl TryFrom<f64> for Percent {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("{percent} is not a percentage: it must lie between 0 and 100"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0 to 10,000")]
        Ok(Self { basis_points: (percent * 100.0).round() as u16 })
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        f64::from(percent.basis_points) / 100.0
    }
}

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%');
        number
            .parse::<f64>()
            .map_err(|_| {
                let shown = shortened(text, SHOWN_CHARS_MAX);
                format!("'{shown}' is not a percentage: write a number such as 98 or 97.5")
            })?
            .try_into()
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(*self))
    }
}

/// The usage and the limit of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The amount in use, in the resource's unit.
    pub used: u64,
    /// The largest amount that may be in use, in the resource's unit.
    pub limit: u64,
}

impl Usage {
    /// Returns `used` / `limit` in percent. It exceeds 100 only for a level whose limit was lowered.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people to read; decisions use `Percent::reached`")]
    pub fn utilisation_percent(self) -> f64 {
        if self.limit == 0 { 100.0 } else { self.used as f64 / self.limit as f64 * 100.0 }
    }

    /// Returns the amount that is left up to the limit.
    #[must_use]
    pub fn remaining(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The usage of every resource of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Fuel burnt by kept transactions and answered queries, and the tank that the VM was created with.
    pub cpu: Usage,
    /// Linear memory of the VM's current store, and the limit of its size, in bytes.
    pub memory: Usage,
    /// The most linear memory that the VM had after a kept transaction or an answered query, in bytes.
    pub memory_peak_bytes: u64,
    /// The virtual disk after the last kept transaction, and the limit of the VM's size, in bytes.
    pub disk: Usage,
    /// The most bytes that were on the disk after a kept transaction of the VM.
    pub disk_peak_bytes: u64,
}

impl Meter {
    /// Returns the meter of a fresh VM: a full tank, and the levels that its store starts with.
    #[must_use]
    pub fn new(fuel_limit: u64, limits: Levels, used: Levels) -> Self {
        Self {
            cpu: Usage { used: 0, limit: fuel_limit },
            memory: Usage { used: used.memory_bytes, limit: limits.memory_bytes },
            memory_peak_bytes: used.memory_bytes,
            disk: Usage { used: used.disk_bytes, limit: limits.disk_bytes },
            disk_peak_bytes: used.disk_bytes,
        }
    }

    /// Takes the fuel of kept work out of the tank, and records the levels after it.
    pub fn charge(&mut self, fuel_used: u64, used: Levels) {
        self.cpu.used = self.cpu.used.saturating_add(fuel_used);
        self.observe(used);
    }

    /// Records the levels after the VM's store was replaced. The fuel is unchanged.
    pub fn observe(&mut self, used: Levels) {
        self.memory.used = used.memory_bytes;
        self.memory_peak_bytes = self.memory_peak_bytes.max(used.memory_bytes);
        self.disk.used = used.disk_bytes;
        self.disk_peak_bytes = self.disk_peak_bytes.max(used.disk_bytes);
    }

    /// Returns the levels in use.
    #[must_use]
    pub fn levels(&self) -> Levels {
        Levels { memory_bytes: self.memory.used, disk_bytes: self.disk.used }
    }

    /// Returns the highest level of `resource` in the VM's life, or none if it is not a level.
    #[must_use]
    pub fn peak(&self, resource: Resource) -> Option<u64> {
        Levels { memory_bytes: self.memory_peak_bytes, disk_bytes: self.disk_peak_bytes }.of(resource)
    }

    /// Returns the usage of `resource`.
    #[must_use]
    pub fn usage(&self, resource: Resource) -> Usage {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
        }
    }
}

/// A resource of the host that has a limit. Events, metrics and configuration use its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostResource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Space on the file system of the data directory.
    Disk,
}

impl HostResource {
    /// Every resource, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Disk];

    /// Returns the unit of this resource's usage.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "millicores",
            Self::Memory | Self::Disk => "bytes",
        }
    }

    /// Returns the usage and the limit in a form for people: `15.8 GB of 16.0 GB`.
    #[must_use]
    pub fn amounts(self, usage: Usage) -> String {
        let Usage { used, limit } = usage;
        match self {
            Self::Cpu => format!("{} of {} {}", grouped(used), grouped(limit), self.unit()),
            Self::Memory | Self::Disk => format!("{:#} of {:#}", Bytes(used), Bytes(limit)),
        }
    }
}

impl fmt::Display for HostResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_threshold_is_reached_exactly_at_its_share() {
        let threshold = Percent::whole(98);
        assert!(!threshold.reached(97, 100));
        assert!(threshold.reached(98, 100));
        assert!(!threshold.reached(u64::MAX / 100 * 97, u64::MAX));
        assert!(threshold.reached(u64::MAX, u64::MAX));
    }

    #[test]
    fn a_percentage_is_printed_with_its_sign() {
        assert_eq!("98".parse::<Percent>().map(|p| p.to_string()), Ok("98%".into()));
        assert_eq!("97.5%".parse::<Percent>().map(|p| p.to_string()), Ok("97.5%".into()));
    }

    #[test]
    fn text_that_is_no_percentage_is_refused() {
        for wrong in ["", "x", "-1", "100.1", "NaN", "inf"] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_meter_counts_every_charge(
            charges in prop::collection::vec((0u64..1_000_000, 0u64..1_000_000, 0u64..1_000_000), 0..50),
        ) {
            let limits = Levels { memory_bytes: 1_000_000, disk_bytes: 1_000_000 };
            let mut meter = Meter::new(10_000_000, limits, Levels { memory_bytes: 65_536, disk_bytes: 0 });
            let (mut sum, mut peak) = (0, meter.levels());
            for (fuel, memory_bytes, disk_bytes) in charges {
                sum += fuel;
                let used = Levels { memory_bytes, disk_bytes };
                meter.charge(fuel, used);
                peak.memory_bytes = peak.memory_bytes.max(memory_bytes);
                peak.disk_bytes = peak.disk_bytes.max(disk_bytes);
                prop_assert_eq!(meter.cpu.used, sum);
                prop_assert_eq!(meter.levels(), used);
                for level in Levels::ALL {
                    prop_assert_eq!(Some(meter.usage(level).used), used.of(level));
                    prop_assert_eq!(meter.peak(level), peak.of(level));
                }
            }
        }

        /// The order of levels is partial: no two exceed each other, and two that grow in opposite directions do not.
        #[test]
        fn levels_exceed_one_another_in_one_direction(a in (0u64..4, 0u64..4), b in (0u64..4, 0u64..4)) {
            let levels = |(memory_bytes, disk_bytes)| Levels { memory_bytes, disk_bytes };
            let (x, y) = (levels(a), levels(b));
            prop_assert!(!(x.exceed(y) && y.exceed(x)));
            prop_assert_eq!(x.exceed(y), a.0 >= b.0 && a.1 >= b.1 && a != b);
            prop_assert_eq!(x.plus(y).minus(y), x);
        }
    }
}
