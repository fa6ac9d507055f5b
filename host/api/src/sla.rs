//! What a service level agreement sets: thresholds, and how a service fails over.

use crate::meter::{Percent, Resource};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The threshold of every resource unless configured otherwise.
pub const THRESHOLD_DEFAULT: Percent = Percent::whole(98);

/// The lowest threshold. Below it too little of a level would be left under the headroom that a failover must make.
pub const THRESHOLD_MIN: Percent = Percent::whole(20);

/// Takes `percent` as a threshold.
///
/// # Errors
/// A sentence that names the bounds.
pub fn threshold(percent: f64) -> Result<Percent, String> {
    match Percent::try_from(percent) {
        Ok(threshold) if threshold >= THRESHOLD_MIN => Ok(threshold),
        _ => {
            let fault = if percent > 100.0 { "high" } else { "low" };
            Err(format!("a threshold of {percent}% is too {fault}: it must lie between {THRESHOLD_MIN} and 100%"))
        }
    }
}

/// Reads a threshold: `98`, `97.5`, `98%`.
///
/// # Errors
/// As [`threshold`], or that it is no number.
pub fn parse_threshold(text: &str) -> Result<Percent, String> {
    let number = text.trim().trim_end_matches('%').parse().ok().filter(|number: &f64| !number.is_nan());
    let number = number.ok_or_else(|| format!("'{text}' is not a percentage: write a number such as 98 or 97.5"))?;
    threshold(number)
}

/// Reads a threshold that a configuration states as a number.
///
/// # Errors
/// As [`threshold`], or that it is no number.
pub fn deserialize_threshold<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
    threshold(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The utilisation at which each resource fails its SLA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Of the tank.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub cpu: Percent,
    /// Of linear memory.
    #[serde(deserialize_with = "deserialize_threshold")]
    pub memory: Percent,
}

impl Thresholds {
    /// The same threshold for every resource.
    #[must_use]
    pub fn all(threshold: Percent) -> Self {
        Self { cpu: threshold, memory: threshold }
    }

    /// The threshold of `resource`.
    #[must_use]
    pub fn of(&self, resource: Resource) -> Percent {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::all(THRESHOLD_DEFAULT)
    }
}

/// How far below its threshold a resource must come to be free again, in percentage points: else one that stays at its
/// threshold would be reported again and again.
pub const HYSTERESIS_POINTS: u16 = 5;

/// How a service moves into a fresh VM.
// Files hold the place of a mode in this list: add at the end, and remove none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailoverMode {
    /// The service pauses until its state is in the fresh VM.
    Direct,
    /// The fresh VM is brought up beside the one that serves, as its shadow, and takes over when it has caught up.
    Shadow,
    /// Whichever of the two suits the size of the state.
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
    fn modes_are_read_as_they_are_printed() {
        for mode in [FailoverMode::Direct, FailoverMode::Shadow, FailoverMode::default()] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(serde_json::to_string(&mode).ok(), Some(format!("\"{mode}\"")));
        }
        assert!("Auto".parse::<FailoverMode>().is_err());
    }
}
