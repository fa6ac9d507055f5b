//! The settings of generators: which transactions are made up for an embedded workload, and how often each kind.

use super::{BuiltIn, KEYS_MAX, TEXT_BYTES_MAX};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;

/// Makes up transactions for an embedded workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generator {
    /// `generator = { counter = { up_to = 100 } }`
    Counter(CounterTraffic),
    /// `generator = { ledger = { accounts = 40, amount_up_to = 1000, deposit = 5, withdraw = 3, transfer = 4 } }`
    Ledger(LedgerTraffic),
    /// `generator = { notes = { notes = 40, text_bytes = 2000, put = 5, append = 3, delete = 2 } }`
    Notes(NotesTraffic),
    /// `generator = { crunch = { primes_below = 20000, sha256_bytes = 4000, json_records = 100, primes = 1, sha256 = 1, json = 1 } }`
    Crunch(CrunchTraffic),
}

impl Generator {
    /// With the usual settings.
    #[must_use]
    pub fn of(workload: BuiltIn) -> Self {
        match workload {
            BuiltIn::Counter => Self::Counter(CounterTraffic::default()),
            BuiltIn::Ledger => Self::Ledger(LedgerTraffic::default()),
            BuiltIn::Notes => Self::Notes(NotesTraffic::default()),
            BuiltIn::Crunch => Self::Crunch(CrunchTraffic::default()),
        }
    }

    /// The workload that understands what it makes up.
    #[must_use]
    pub fn workload(&self) -> BuiltIn {
        match self {
            Self::Counter(_) => BuiltIn::Counter,
            Self::Ledger(_) => BuiltIn::Ledger,
            Self::Notes(_) => BuiltIn::Notes,
            Self::Crunch(_) => BuiltIn::Crunch,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: u32, bound: u32| {
            if (1..=bound).contains(&value) {
                Ok(())
            } else {
                Err(format!("{key} is {value}, it must be 1 to {bound}"))
            }
        };
        let any = |weights: [u32; 3]| {
            if weights.iter().all(|weight| *weight == 0) { Err("all weights are 0".to_owned()) } else { Ok(()) }
        };
        match self {
            Self::Counter(CounterTraffic { up_to }) => within("up_to", *up_to, u32::MAX),
            Self::Ledger(LedgerTraffic { accounts, amount_up_to, deposit, withdraw, transfer }) => {
                within("accounts", *accounts, KEYS_MAX)?;
                within("amount_up_to", *amount_up_to, u32::MAX)?;
                any([*deposit, *withdraw, *transfer])
            }
            Self::Notes(NotesTraffic { notes, text_bytes, put, append, delete }) => {
                within("notes", *notes, KEYS_MAX)?;
                within("text_bytes", *text_bytes, TEXT_BYTES_MAX)?;
                any([*put, *append, *delete])
            }
            Self::Crunch(CrunchTraffic { primes_below, sha256_bytes, json_records, primes, sha256, json }) => {
                within("primes_below", *primes_below, u32::MAX)?;
                within("sha256_bytes", *sha256_bytes, u32::MAX)?;
                within("json_records", *json_records, u32::MAX)?;
                any([*primes, *sha256, *json])
            }
        }
    }
}

impl<'de> Deserialize<'de> for Generator {
    /// From a name, or a table with one key.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Table {
            Counter(CounterTraffic),
            Ledger(LedgerTraffic),
            Notes(NotesTraffic),
            Crunch(CrunchTraffic),
        }

        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Generator;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"counter\", \"ledger\", \"notes\", \"crunch\", or a table such as { ledger = { accounts = 9 } }",
                )
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Generator, E> {
                let workload = BuiltIn::ALL.into_iter().find(|workload| workload.name() == name);
                workload.map(Generator::of).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Generator, A::Error> {
                Ok(match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table::Counter(counter) => Generator::Counter(counter),
                    Table::Ledger(ledger) => Generator::Ledger(ledger),
                    Table::Notes(notes) => Generator::Notes(notes),
                    Table::Crunch(crunch) => Generator::Crunch(crunch),
                })
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

/// Additions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CounterTraffic {
    /// What is added is 1 to this.
    pub up_to: u32,
}

impl Default for CounterTraffic {
    fn default() -> Self {
        Self { up_to: 100 }
    }
}

/// Deposits, withdrawals and transfers, by weight. Some are refused: for want of funds, or of the account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerTraffic {
    /// How many accounts there are in the end, at the most.
    pub accounts: u32,
    /// Amounts are 1 to this.
    pub amount_up_to: u32,
    /// The weight of deposits.
    pub deposit: u32,
    /// The weight of withdrawals.
    pub withdraw: u32,
    /// The weight of transfers.
    pub transfer: u32,
}

impl Default for LedgerTraffic {
    fn default() -> Self {
        Self { accounts: 40, amount_up_to: 1_000, deposit: 5, withdraw: 3, transfer: 4 }
    }
}

/// Texts that come, grow and go, by weight. Some are refused: there is no such note.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotesTraffic {
    /// How many notes there are in the end, at the most.
    pub notes: u32,
    /// Texts are 1 to this many bytes long.
    pub text_bytes: u32,
    /// The weight of notes that are written, or written anew.
    pub put: u32,
    /// The weight of texts that are added to a note.
    pub append: u32,
    /// The weight of notes that are removed.
    pub delete: u32,
}

impl Default for NotesTraffic {
    fn default() -> Self {
        Self { notes: 40, text_bytes: 2_000, put: 5, append: 3, delete: 2 }
    }
}

/// Jobs, by weight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrunchTraffic {
    /// Primes are counted below 1 to this.
    pub primes_below: u32,
    /// 1 to this many bytes are hashed.
    pub sha256_bytes: u32,
    /// 1 to this many records are written and parsed.
    pub json_records: u32,
    /// The weight of prime counting.
    pub primes: u32,
    /// The weight of hashing.
    pub sha256: u32,
    /// The weight of writing and parsing.
    pub json: u32,
}

impl Default for CrunchTraffic {
    fn default() -> Self {
        Self { primes_below: 20_000, sha256_bytes: 4_000, json_records: 100, primes: 1, sha256: 1, json: 1 }
    }
}
