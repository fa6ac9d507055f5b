//! Sizes: the resources that a VM is created with.

use crate::meter::{Levels, NetworkAmount};
use crate::text::{SHOWN_CHARS_MAX, shortened};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// One mebibyte, for constants.
const MIB: u64 = 1024 * 1024;

/// The smallest disk of a size, in bytes.
pub const DISK_BYTES_MIN: u64 = 64 * 1024;

/// The largest disk of a size, in bytes.
pub const DISK_BYTES_MAX: u64 = 2 * 1024 * MIB;

/// The fewest calls to the network in the allowance of a size.
pub const NETWORK_CALLS_MIN: u64 = 1;

/// The fewest bytes in the allowance of network of a size. With less, hardly a response would fit.
pub const NETWORK_BYTES_MIN: u64 = 64 * 1024;

/// The longest deadline that a server accepts.
pub const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The least fuel that a tank may hold. The sample workloads take 3,000 to 8,000 to decode and answer their smallest
/// transaction. With less than that a VM would only fail.
pub const FUEL_MIN: u64 = 10_000;

/// The resources that a VM is created with. After a failover, the fresh VM has the same size or a larger one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// The name of the size, as operators write it.
    pub name: String,
    /// Fuel for the VM's life. One unit is about one Wasm instruction, and about a nanosecond.
    pub fuel: u64,
    /// The most bytes of linear memory, summed over all memories of the workload.
    #[serde(rename = "memory", with = "byte_size")]
    pub memory_bytes: u64,
    /// The most bytes on the virtual disk: of files, of the targets of links, and of the entries of directories.
    #[serde(rename = "disk", with = "byte_size")]
    pub disk_bytes: u64,
    /// Calls to the network for the VM's life.
    pub network_calls: u64,
    /// Bytes of requests to the network and of their responses for the VM's life.
    #[serde(with = "byte_size")]
    pub network_bytes: u64,
    /// The longest wall-clock time of one transaction or query. It also bounds the virtual time that one may sleep,
    /// which takes no wall-clock time.
    #[serde(rename = "deadline_ms", with = "milliseconds")]
    pub deadline: Duration,
}

impl Size {
    /// Returns the sizes that exist unless a host's configuration defines its own, smallest first.
    #[must_use]
    pub fn built_in() -> Vec<Self> {
        let size = |name: &str, fuel, memory_mib: u64, disk_mib: u64, network: u64, deadline_s| Self {
            name: name.into(),
            fuel,
            memory_bytes: memory_mib * MIB,
            disk_bytes: disk_mib * MIB,
            network_calls: network * 1_000,
            network_bytes: network * 64 * MIB,
            deadline: Duration::from_secs(deadline_s),
        };
        vec![
            size("small", 50_000_000, 16, 64, 1, 5),
            size("medium", 500_000_000, 64, 256, 10, 10),
            size("large", 5_000_000_000, 256, 1024, 100, 30),
            size("huge", 20_000_000_000, 1024, 2048, 1_000, 60),
        ]
    }

    /// Returns the disk of a size whose definition does not give one: that of the smallest built-in size with at least
    /// as much memory, or else of the largest.
    #[must_use]
    pub fn disk_bytes_for(memory_bytes: u64) -> u64 {
        Self::built_in_for(memory_bytes).map_or(0, |size| size.disk_bytes)
    }

    /// Returns the allowance of network of a size whose definition does not give one: that of the same built-in size as
    /// for [`disk_bytes_for`](Self::disk_bytes_for).
    #[must_use]
    pub fn network_for(memory_bytes: u64) -> NetworkAmount {
        Self::built_in_for(memory_bytes).map_or_else(NetworkAmount::default, |size| size.network())
    }

    /// Returns the smallest built-in size with at least as much memory, or else the largest.
    fn built_in_for(memory_bytes: u64) -> Option<Self> {
        let mut built_in = Self::built_in();
        let next = built_in.iter().position(|size| size.memory_bytes >= memory_bytes);
        match next {
            Some(next) => Some(built_in.swap_remove(next)),
            None => built_in.pop(),
        }
    }

    /// Returns the limits of the levels.
    #[must_use]
    pub fn levels(&self) -> Levels {
        Levels { memory_bytes: self.memory_bytes, disk_bytes: self.disk_bytes }
    }

    /// Returns the allowance of network.
    #[must_use]
    pub fn network(&self) -> NetworkAmount {
        NetworkAmount { calls: self.network_calls, bytes: self.network_bytes }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} fuel, {} memory, {} disk, {} calls and {} network, deadline {} ms)",
            self.name,
            grouped(self.fuel),
            Bytes(self.memory_bytes),
            Bytes(self.disk_bytes),
            grouped(self.network_calls),
            Bytes(self.network_bytes),
            self.deadline.as_millis()
        )
    }
}

/// Formats `number` with commas between groups of three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Checks that `fuel` is enough for a full tank, and returns it.
///
/// # Errors
/// A sentence with the minimum, if `fuel` is less than [`FUEL_MIN`].
pub fn check_fuel(fuel: u64) -> Result<u64, String> {
    if fuel < FUEL_MIN {
        let (found, least) = (grouped(fuel), grouped(FUEL_MIN));
        return Err(format!("a tank of {found} fuel is too small for any transaction; it must hold at least {least}"));
    }
    Ok(fuel)
}

/// Parses a number of bytes as people write it: `64MiB`, `10M`, `1_000_000`.
///
/// Suffixes `K`, `M`, `G` (with or without `B`) are powers of 1000; `Ki`, `Mi`, `Gi` (with or without `B`) of 1024.
///
/// # Errors
/// A sentence that quotes the text, if it is not such a number or exceeds 2^64 - 1 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits_end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(trimmed.len());
    let (digits, suffix) = trimmed.split_at(digits_end);
    let shown = || shortened(text, SHOWN_CHARS_MAX);
    let explain = || format!("'{}' is not a size in bytes: write a whole number such as 65536, 10M or 64MiB", shown());
    let number: u64 = digits.replace('_', "").parse().map_err(|_| explain())?;
    let suffix = suffix.trim().to_ascii_lowercase();
    let factor: u64 = match suffix.strip_suffix('b').unwrap_or(&suffix) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        _ => return Err(explain()),
    };
    number.checked_mul(factor).ok_or_else(|| format!("'{}' exceeds 2^64 - 1 bytes", shown()))
}

/// Prints a number of bytes for people: in binary units if that is exact (`64 MiB`), else in decimal units (`22.8 kB`).
/// With `{:#}` it is always decimal, for measured values.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(
    /// The number of bytes.
    pub u64,
);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if !f.alternate() && self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", self.0 as f64 / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", self.0 as f64 / 1e6),
            _ => write!(f, "{:.1} GB", self.0 as f64 / 1e9),
        }
    }
}

/// Prints a number of bytes beside a bound, in binary units if the bound is printed in those. It has as many decimals
/// as the two need to look different.
#[derive(Debug, Clone, Copy)]
pub struct BytesBeside {
    /// The number of bytes.
    pub bytes: u64,
    /// The bound that the same sentence prints as [`Bytes`].
    pub bound: u64,
}

impl fmt::Display for BytesBeside {
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMALS_MAX: usize = 6;
        let Self { bytes, bound } = *self;
        let is_binary = |bytes: u64| bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10);
        let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, shift)| bytes >= 1 << shift);
        let Some((unit, shift)) = unit.filter(|(_, shift)| is_binary(bound) && !bytes.is_multiple_of(1 << shift))
        else {
            return Bytes(bytes).fmt(f);
        };
        let whole = |bytes: u64| bytes as f64 / (1_u64 << shift) as f64;
        let shown = |decimals: usize| format!("{:.decimals$}", whole(bytes));
        let decimals = (1..DECIMALS_MAX).find(|&decimals| {
            // A number that differs from the bound must not look the same.
            bytes == bound || shown(decimals) != format!("{:.decimals$}", whole(bound))
        });
        write!(f, "{} {unit}", shown(decimals.unwrap_or(DECIMALS_MAX)))
    }
}

/// Deserialises bytes from a number or a text such as `64MiB`; serialises them as a number.
pub mod byte_size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number of bytes, or a text such as \"64MiB\"")]
    enum NumberOrText {
        Number(u64),
        Text(String),
    }

    /// Deserialises a number of bytes, or a text such as `64 MiB`.
    ///
    /// # Errors
    /// The input is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(bytes),
            NumberOrText::Text(text) => super::parse_bytes(&text).map_err(D::Error::custom),
        }
    }

    /// Serialises a number of bytes.
    ///
    /// # Errors
    /// The errors of the format.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*bytes)
    }
}

/// Durations as whole milliseconds.
mod milliseconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_bytes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("10M", 10_000_000),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1_000", 1_000),
            ("2Gi", 2 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "M", "-1", "1.5M", "10X", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_invalid_size_is_shown_as_a_short_escaped_quotation() {
        let refused = parse_bytes(&"\u{1b}".repeat(100)).expect_err("it is none");
        assert!(refused.starts_with("'\\u{1b}\\u{1b}") && refused.contains("...' is not a size"), "{refused}");
        let refused = parse_bytes(&format!("{}{}KiB", "0".repeat(100), u64::MAX)).expect_err("it is too large");
        assert!(refused.starts_with("'000") && refused.ends_with("0...' exceeds 2^64 - 1 bytes"), "{refused}");
    }

    #[test]
    fn bytes_are_printed_as_people_read_them() {
        for (bytes, text) in [(0, "0 B"), (64 << 20, "64 MiB"), (22_800, "22.8 kB"), (1 << 30, "1 GiB"), (999, "999 B")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("{:#}", Bytes(16_000_000_000)), "16.0 GB");
        assert_eq!(grouped(49_150_221), "49,150,221");
        assert_eq!(grouped(7), "7");
    }

    #[test]
    fn bytes_beside_a_bound_are_in_its_units() {
        for (bytes, bound, text) in [
            (264_100_000, 256 << 20, "251.9 MiB"),
            (264_100_000, 250_000_001, "264.1 MB"),
            (32 << 20, 64 << 20, "32 MiB"),
            (192 << 10, 64 << 20, "192 KiB"),
            (999, 1 << 20, "999 B"),
            (3_000_000_000, 4 << 30, "2.8 GiB"),
        ] {
            assert_eq!(BytesBeside { bytes, bound }.to_string(), text);
        }
    }

    #[test]
    fn bytes_beside_a_bound_look_equal_to_it_only_if_they_are() {
        for (bytes, bound, text) in [
            (65_535, 64 << 10, "63.999 KiB"),
            ((64 << 20) + 100, 64 << 20, "64.0001 MiB"),
            ((64 << 20) + 1, 64 << 20, "64.000001 MiB"),
            (1_048_577, 1 << 20, "1.000001 MiB"),
            (64 << 20, 64 << 20, "64 MiB"),
        ] {
            assert_eq!(BytesBeside { bytes, bound }.to_string(), text);
        }
    }

    #[test]
    fn a_tank_too_small_for_any_transaction_is_refused() {
        assert_eq!(check_fuel(FUEL_MIN), Ok(FUEL_MIN));
        let refused = check_fuel(FUEL_MIN - 1).expect_err("it is too small");
        assert_eq!(refused, "a tank of 9,999 fuel is too small for any transaction; it must hold at least 10,000");
        assert!(Size::built_in().iter().all(|size| check_fuel(size.fuel).is_ok()));
    }

    #[test]
    fn built_in_sizes_grow() {
        for pair in Size::built_in().windows(2) {
            assert!(pair[1].levels().exceed(pair[0].levels()) && pair[0].fuel < pair[1].fuel);
            assert!(pair[0].disk_bytes < pair[1].disk_bytes && pair[1].disk_bytes <= DISK_BYTES_MAX);
            assert_eq!(pair[1].network_calls, pair[0].network_calls * 10);
            assert_eq!(pair[1].network_bytes, pair[0].network_bytes * 10);
        }
        let small = &Size::built_in()[0];
        assert_eq!(small.network(), NetworkAmount { calls: 1_000, bytes: 64 * MIB });
        assert!(small.network_calls >= NETWORK_CALLS_MIN && small.network_bytes >= NETWORK_BYTES_MIN);
    }

    #[test]
    fn a_size_is_printed_with_all_of_its_limits() {
        let expected = "small (50,000,000 fuel, 16 MiB memory, 64 MiB disk, 1,000 calls and 64 MiB network, deadline \
                        5000 ms)";
        assert_eq!(Size::built_in()[0].to_string(), expected);
    }

    #[test]
    fn a_size_without_network_gets_that_of_the_next_larger_memory() {
        for (memory_bytes, times) in [(0, 1), (16 * MIB, 1), (16 * MIB + 1, 10), (256 * MIB, 100), (u64::MAX, 1_000)] {
            let expected = NetworkAmount { calls: times * 1_000, bytes: times * 64 * MIB };
            assert_eq!(Size::network_for(memory_bytes), expected, "{memory_bytes}");
        }
    }

    #[test]
    fn a_size_without_a_disk_gets_that_of_the_next_larger_memory() {
        for (memory_bytes, disk_bytes) in
            [(0, 64 * MIB), (16 * MIB, 64 * MIB), (16 * MIB + 1, 256 * MIB), (u64::MAX, 2048 * MIB)]
        {
            assert_eq!(Size::disk_bytes_for(memory_bytes), disk_bytes, "{memory_bytes}");
        }
    }
}
