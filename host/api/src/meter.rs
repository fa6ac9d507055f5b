//! The usage of a VM, compared with its limits.
//!
//! A [`Meter`] belongs to one VM for its whole life. Only [`Meter::charge`] consumes fuel, and only work whose state is
//! kept is charged. Only [`Meter::charge_network`] consumes network, when a call is made, whether its transaction is
//! kept or not. Neither is ever returned: a full tank and a full allowance come only with a fresh VM, and so with a
//! failover.

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
    /// Calls to the network and their bytes for the VM's life: a consumable. A fresh VM has a full allowance.
    Network,
}

impl Resource {
    /// Every resource, in the order of reports and of decisions: what a failover certainly cures comes first.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Network, Self::Memory, Self::Disk];

    /// Returns the unit of this resource's usage, or none for the network, which has two: [`Meter::unit`] returns the
    /// one that counts.
    #[must_use]
    pub fn unit(self) -> Option<Unit> {
        match self {
            Self::Cpu => Some(Unit::Fuel),
            Self::Memory | Self::Disk => Some(Unit::Bytes),
            Self::Network => None,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
        })
    }
}

/// The unit of a usage.
// Files store the index of a unit in this list: append new units, and remove none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Calls to the network.
    Calls,
    /// Bytes.
    Bytes,
    /// Fuel.
    Fuel,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Calls => "calls",
            Self::Bytes => "bytes",
            Self::Fuel => "fuel",
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
            Resource::Cpu | Resource::Network => None,
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

/// An amount of network in each of its units: what a VM has used, or may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAmount {
    /// Calls.
    pub calls: u64,
    /// Bytes of requests and responses.
    pub bytes: u64,
}

impl NetworkAmount {
    /// Returns the sum with `other`.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { calls: self.calls.saturating_add(other.calls), bytes: self.bytes.saturating_add(other.bytes) }
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

    /// Returns whether the utilisation is higher than that of `other`. Exact: no rounding decides a failover.
    #[must_use]
    pub fn is_fuller_than(self, other: Self) -> bool {
        // A usage without a limit to reach is full.
        let share = |usage: Self| if usage.limit == 0 { (1, 1) } else { (usage.used.into(), usage.limit.into()) };
        let ((used, limit), (of_other, other_limit)): ((u128, u128), (u128, u128)) = (share(self), share(other));
        used * other_limit > of_other * limit
    }
}

/// The usage of the network. It has two units, and the fuller one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUsage {
    /// Calls that were made, and the VM's allowance of calls.
    pub calls: Usage,
    /// Bytes of requests and responses, and the VM's allowance of bytes.
    pub bytes: Usage,
}

impl NetworkUsage {
    /// Returns the usage of a VM that may use `limits` and has used nothing.
    #[must_use]
    pub fn new(limits: NetworkAmount) -> Self {
        let unused = |limit| Usage { used: 0, limit };
        Self { calls: unused(limits.calls), bytes: unused(limits.bytes) }
    }

    /// Returns the amount that was used.
    #[must_use]
    pub fn used(self) -> NetworkAmount {
        NetworkAmount { calls: self.calls.used, bytes: self.bytes.used }
    }

    /// Returns the amount that is left up to the limits.
    #[must_use]
    pub fn remaining(self) -> NetworkAmount {
        NetworkAmount { calls: self.calls.remaining(), bytes: self.bytes.remaining() }
    }

    /// Returns the usage of both units.
    #[must_use]
    pub fn units(self) -> [(Unit, Usage); 2] {
        [(Unit::Calls, self.calls), (Unit::Bytes, self.bytes)]
    }

    /// Returns the unit with the higher utilisation and its usage. If both are equally full, these are the calls.
    #[must_use]
    pub fn fuller(self) -> (Unit, Usage) {
        let [calls, bytes] = self.units();
        if bytes.1.is_fuller_than(calls.1) { bytes } else { calls }
    }
}

impl Default for NetworkUsage {
    /// Returns the usage in meters from before the network was metered: nothing was used, and nothing limited it.
    fn default() -> Self {
        Self::new(NetworkAmount { calls: u64::MAX, bytes: u64::MAX })
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
    /// Calls to the network and their bytes, of kept transactions and of others, and the VM's allowance of both.
    #[serde(default)]
    pub network: NetworkUsage,
}

impl Meter {
    /// Returns the meter of a fresh VM: a full tank, a full allowance of network, and the levels that its store starts
    /// with.
    #[must_use]
    pub fn new(fuel_limit: u64, network_limits: NetworkAmount, limits: Levels, used: Levels) -> Self {
        Self {
            cpu: Usage { used: 0, limit: fuel_limit },
            memory: Usage { used: used.memory_bytes, limit: limits.memory_bytes },
            memory_peak_bytes: used.memory_bytes,
            disk: Usage { used: used.disk_bytes, limit: limits.disk_bytes },
            disk_peak_bytes: used.disk_bytes,
            network: NetworkUsage::new(network_limits),
        }
    }

    /// Takes the fuel of kept work out of the tank, and records the levels after it.
    pub fn charge(&mut self, fuel_used: u64, used: Levels) {
        self.cpu.used = self.cpu.used.saturating_add(fuel_used);
        self.observe(used);
    }

    /// Takes calls to the network and their bytes out of the allowance. A call is charged when it is made, whether its
    /// transaction is kept or not.
    pub fn charge_network(&mut self, calls: u64, bytes: u64) {
        let NetworkUsage { calls: of_calls, bytes: of_bytes } = &mut self.network;
        of_calls.used = of_calls.used.saturating_add(calls);
        of_bytes.used = of_bytes.used.saturating_add(bytes);
    }

    /// Records the levels after the VM's store was replaced. Fuel and network are unchanged.
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

    /// Returns the usage of `resource`: of the network, that of the fuller unit.
    #[must_use]
    pub fn usage(&self, resource: Resource) -> Usage {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
            Resource::Network => self.network.fuller().1,
        }
    }

    /// Returns the unit of [`usage`](Self::usage).
    #[must_use]
    pub fn unit(&self, resource: Resource) -> Unit {
        resource.unit().unwrap_or_else(|| self.network.fuller().0)
    }

    /// Returns the usage of `resource` in each of its units.
    pub fn usages(&self, resource: Resource) -> impl Iterator<Item = (Unit, Usage)> + use<> {
        let [first, second] = match resource.unit() {
            Some(unit) => [Some((unit, self.usage(resource))), None],
            None => self.network.units().map(Some),
        };
        first.into_iter().chain(second)
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

    fn meter(network: NetworkAmount) -> Meter {
        Meter::new(1_000, network, Levels { memory_bytes: 1_000, disk_bytes: 1_000 }, Levels::default())
    }

    #[test]
    fn the_network_is_as_full_as_its_fuller_unit() {
        let mut meter = meter(NetworkAmount { calls: 1_000, bytes: 10_000 });
        assert_eq!((meter.unit(Resource::Network), meter.usage(Resource::Network).used), (Unit::Calls, 0));
        meter.charge_network(10, 101);
        assert_eq!(meter.usage(Resource::Network), Usage { used: 101, limit: 10_000 });
        assert_eq!(meter.unit(Resource::Network), Unit::Bytes);
        meter.charge_network(1, 9);
        assert_eq!(meter.usage(Resource::Network), Usage { used: 11, limit: 1_000 });
        assert_eq!(meter.unit(Resource::Network), Unit::Calls, "both are equally full");
        assert_eq!(meter.network.remaining(), NetworkAmount { calls: 989, bytes: 9_890 });
        meter.charge_network(u64::MAX, u64::MAX);
        assert_eq!(meter.network.used(), NetworkAmount { calls: u64::MAX, bytes: u64::MAX });
        assert_eq!(meter.network.remaining(), NetworkAmount::default());
        assert_eq!(meter.unit(Resource::Network), Unit::Calls);
    }

    #[test]
    fn every_resource_is_metered_in_its_units() {
        let meter = meter(NetworkAmount { calls: 3, bytes: 4 });
        let units = |resource| meter.usages(resource).map(|(unit, usage)| (unit.to_string(), usage.limit));
        assert_eq!(units(Resource::Cpu).collect::<Vec<_>>(), [("fuel".to_owned(), 1_000)]);
        assert_eq!(units(Resource::Disk).collect::<Vec<_>>(), [("bytes".to_owned(), 1_000)]);
        assert_eq!(units(Resource::Network).collect::<Vec<_>>(), [("calls".to_owned(), 3), ("bytes".to_owned(), 4)]);
        for resource in Resource::ALL {
            let shown = (meter.unit(resource), meter.usage(resource));
            assert!(meter.usages(resource).any(|usage| usage == shown), "{resource}");
        }
    }

    #[test]
    fn decisions_and_files_have_their_own_order_of_resources() {
        assert_eq!(Resource::ALL.map(|it| it.to_string()), ["cpu", "network", "memory", "disk"]);
        assert_eq!(Resource::ALL.map(|it| it as usize), [0, 3, 1, 2]);
        assert_eq!([Unit::Calls, Unit::Bytes, Unit::Fuel].map(|it| it as usize), [0, 1, 2]);
    }

    #[test]
    fn a_meter_from_before_the_network_was_metered_is_read() {
        let meter = meter(NetworkAmount { calls: 3, bytes: 4 });
        let mut value = serde_json::to_value(meter).expect("JSON");
        assert_eq!(value["network"]["calls"]["limit"], 3);
        assert_eq!(serde_json::from_value::<Meter>(value.clone()).expect("it is read"), meter);
        value.as_object_mut().expect("an object").remove("network");
        let earlier: Meter = serde_json::from_value(value).expect("it is read");
        assert_eq!((earlier.cpu, earlier.usage(Resource::Network).used), (meter.cpu, 0));
        assert!(!Percent::whole(1).reached(0, earlier.usage(Resource::Network).limit));
    }

    proptest! {
        /// The fuller unit decides, at any threshold, exactly as both of them together would.
        #[test]
        fn the_network_reaches_a_threshold_if_one_of_its_units_does(
            used in (prop_oneof![0u64..200, any::<u64>()], prop_oneof![0u64..200, any::<u64>()]),
            limits in (prop_oneof![0u64..200, any::<u64>()], prop_oneof![0u64..200, any::<u64>()]),
            percent in 0u16..=100,
        ) {
            let mut meter = meter(NetworkAmount { calls: limits.0, bytes: limits.1 });
            meter.charge_network(used.0, used.1);
            let NetworkUsage { calls, bytes } = meter.network;
            let fuller = meter.usage(Resource::Network);
            prop_assert!(!calls.is_fuller_than(fuller) && !bytes.is_fuller_than(fuller));
            prop_assert_eq!(fuller, if meter.unit(Resource::Network) == Unit::Calls { calls } else { bytes });
            let reached = |usage: Usage| Percent::whole(percent).reached(usage.used, usage.limit);
            prop_assert_eq!(reached(fuller), reached(calls) || reached(bytes));
        }

        #[test]
        fn one_usage_at_most_is_fuller_than_the_other(a in (0u64..9, 0u64..9), b in (0u64..9, 0u64..9)) {
            let [x, y] = [a, b].map(|(used, limit)| Usage { used, limit });
            prop_assert!(!x.is_fuller_than(x));
            prop_assert!(!x.is_fuller_than(y) || !y.is_fuller_than(x));
            if x.limit > 0 && y.limit > 0 {
                prop_assert_eq!(x.is_fuller_than(y), x.used * y.limit > y.used * x.limit);
            }
        }

        #[test]
        fn a_meter_counts_every_charge(
            charges in prop::collection::vec((0u64..1_000_000, 0u64..1_000_000, 0u64..1_000_000), 0..50),
        ) {
            let limits = Levels { memory_bytes: 1_000_000, disk_bytes: 1_000_000 };
            let before = Levels { memory_bytes: 65_536, disk_bytes: 0 };
            let mut meter = Meter::new(10_000_000, NetworkAmount { calls: 7, bytes: 8 }, limits, before);
            let (mut sum, mut peak) = (0, meter.levels());
            for (fuel, memory_bytes, disk_bytes) in charges {
                sum += fuel;
                let used = Levels { memory_bytes, disk_bytes };
                meter.charge(fuel, used);
                peak.memory_bytes = peak.memory_bytes.max(memory_bytes);
                peak.disk_bytes = peak.disk_bytes.max(disk_bytes);
                prop_assert_eq!(meter.cpu.used, sum);
                prop_assert_eq!(meter.levels(), used);
                prop_assert_eq!(meter.network.used(), NetworkAmount::default());
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
