//! The terms of a service level agreement: thresholds, and how a service fails over.

use crate::meter::{Percent, Resource};
use crate::text::{SHOWN_CHARS_MAX, shortened};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The default threshold of every resource.
pub const THRESHOLD_DEFAULT: Percent = Percent::whole(98);

/// The lowest threshold. A lower one would leave too little of a level under the headroom that a failover must make.
pub const THRESHOLD_MIN: Percent = Percent::whole(20);

/// Converts `percent` to a threshold.
///
/// # Errors
/// A sentence with the bounds.
pub fn threshold(percent: f64) -> Result<Percent, String> {
    match Percent::try_from(percent) {
        Ok(threshold) if threshold >= THRESHOLD_MIN => Ok(threshold),
        _ => {
            let fault = if percent > 100.0 { "high" } else { "low" };
            Err(format!("a threshold of {percent}% is too {fault}: it must lie between {THRESHOLD_MIN} and 100%"))
        }
    }
}

/// Parses a threshold: `98`, `97.5`, `98%`.
///
/// # Errors
/// As [`threshold`], or that the text is not a number.
pub fn parse_threshold(text: &str) -> Result<Percent, String> {
    let number = text.trim().trim_end_matches('%').parse().ok().filter(|number: &f64| !number.is_nan());
    let shown = || shortened(text, SHOWN_CHARS_MAX);
    let number =
        number.ok_or_else(|| format!("'{}' is not a percentage: write a number such as 98 or 97.5", shown()))?;
    threshold(number)
}

/// Deserialises a threshold that a configuration states as a number.
///
/// # Errors
/// As [`threshold`], or that the value is not a number.
pub fn deserialize_threshold<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
    threshold(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The utilisation at which each resource fails its SLA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// The threshold of the tank.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub cpu: Percent,
    /// The threshold of linear memory.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub memory: Percent,
    /// The threshold of the virtual disk.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub disk: Percent,
    /// The threshold of the network: of its calls, and of its bytes.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub network: Percent,
}

impl Thresholds {
    /// Returns the same threshold for every resource.
    #[must_use]
    pub fn all(threshold: Percent) -> Self {
        Self { cpu: threshold, memory: threshold, disk: threshold, network: threshold }
    }

    /// Returns the threshold of `resource`.
    #[must_use]
    pub fn of(&self, resource: Resource) -> Percent {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
            Resource::Network => self.network,
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::all(THRESHOLD_DEFAULT)
    }
}

/// The distance below its threshold at which a resource is relieved, in percentage points. Without it, a resource that
/// stays at its threshold would be reported again and again.
pub const HYSTERESIS_POINTS: u16 = 5;

/// The way in which a service moves into a fresh VM.
// Files store the index of a mode in this list: append new modes, and remove none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailoverMode {
    /// The service pauses until its state is in the fresh VM.
    Direct,
    /// The fresh VM is built beside the serving one, as its shadow, and takes over when it has caught up.
    Shadow,
    /// The one of the two modes that suits the size of the state.
    #[default]
    Auto,
}

impl fmt::Display for FailoverMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Shadow => "shadow",
            Self::Auto => "auto",
        })
    }
}

impl FromStr for FailoverMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Direct, Self::Shadow, Self::Auto].into_iter().find(|mode| mode.to_string() == text).ok_or_else(|| {
            format!("'{}' is not a failover mode: write 'direct', 'shadow' or 'auto'", text.escape_debug())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_that_are_left_out_are_the_default() {
        let text = r#"{"cpu":90.0,"memory":80.0,"disk":70.0}"#;
        let earlier: Thresholds = serde_json::from_str(text).expect("it is read");
        assert_eq!(Resource::ALL.map(|it| earlier.of(it)), [90, 98, 80, 70].map(Percent::whole));
        let network = Thresholds { network: Percent::whole(50), ..earlier };
        assert_eq!(network.of(Resource::Network), Percent::whole(50));
        assert!(serde_json::from_str::<Thresholds>(r#"{"network":19.0}"#).is_err());
    }

    #[test]
    fn modes_are_read_as_they_are_printed() {
        for mode in [FailoverMode::Direct, FailoverMode::Shadow, FailoverMode::default()] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(serde_json::to_string(&mode).ok(), Some(format!("\"{mode}\"")));
        }
        assert!("Auto".parse::<FailoverMode>().is_err());
    }
}
