//! The settings of generators: the transactions that they make for an embedded workload, and the share of each kind.

use super::{ARCHIVE_TEXT_BYTES_MAX, BuiltIn, COURIER_PARCELS_MAX, COURIER_TEXT_BYTES_MAX, KEYS_MAX, TEXT_BYTES_MAX};
use lifeboat_document::{Table, Value};
use std::ops::RangeInclusive;

/// A generator of transactions for an embedded workload.
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
    /// `generator = { archive = { documents = 40, text_bytes = 2000, put = 5, append = 3, delete = 2 } }`
    Archive(ArchiveTraffic),
    /// `generator = { courier = { text_bytes = 500, parcels = 4, post = 6, post_all = 3, refused = 1 } }`
    Courier(CourierTraffic),
}

impl Generator {
    /// Creates the generator with the default settings.
    #[must_use]
    pub fn of(workload: BuiltIn) -> Self {
        match workload {
            BuiltIn::Counter => Self::Counter(CounterTraffic::default()),
            BuiltIn::Ledger => Self::Ledger(LedgerTraffic::default()),
            BuiltIn::Notes => Self::Notes(NotesTraffic::default()),
            BuiltIn::Crunch => Self::Crunch(CrunchTraffic::default()),
            BuiltIn::Archive => Self::Archive(ArchiveTraffic::default()),
            BuiltIn::Courier => Self::Courier(CourierTraffic::default()),
        }
    }

    /// Returns the workload for which it generates transactions.
    #[must_use]
    pub fn workload(&self) -> BuiltIn {
        match self {
            Self::Counter(_) => BuiltIn::Counter,
            Self::Ledger(_) => BuiltIn::Ledger,
            Self::Notes(_) => BuiltIn::Notes,
            Self::Crunch(_) => BuiltIn::Crunch,
            Self::Archive(_) => BuiltIn::Archive,
            Self::Courier(_) => BuiltIn::Courier,
        }
    }

    /// Reads a generator from a name, or from a table with one key.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        if value.is_text() {
            let words = BuiltIn::ALL.map(|built_in| (built_in.name(), built_in));
            return value.word(&words).map(|workload| Self::of(workload.value));
        }
        let table = value.table()?;
        let mut read = BuiltIn::ALL.into_iter().filter_map(|workload| {
            let settings = table.get(workload.name())?.table()?;
            Some(Self::settings(workload, settings))
        });
        let (first, second) = (read.next(), read.next());
        drop(read);
        if first.is_none() || second.is_some() {
            table.wrong::<()>(format!("{} needs one table, such as {{ ledger = {{ accounts = 9 }} }}", value.key()));
        }
        table.finish();
        first
    }

    /// Reads the table of a workload, with the default for every setting that is absent or invalid.
    fn settings(workload: BuiltIn, table: Table<'_>) -> Self {
        let set = |key, field: &mut u32, range: RangeInclusive<u32>| {
            let range = u64::from(*range.start())..=u64::from(*range.end());
            if let Some(number) = table.get(key).and_then(|value| value.whole(range)) {
                *field = u32::try_from(number.value).unwrap_or(u32::MAX);
            }
        };
        let count = |key, field: &mut u32, most| set(key, field, 1..=most);
        let weight = |key, field: &mut u32| {
            set(key, field, 0..=u32::MAX);
            *field
        };
        let mut generator = Self::of(workload);
        let weights = match &mut generator {
            Self::Counter(CounterTraffic { up_to }) => {
                count("up_to", up_to, u32::MAX);
                [1, 0, 0]
            }
            Self::Ledger(LedgerTraffic { accounts, amount_up_to, deposit, withdraw, transfer }) => {
                count("accounts", accounts, KEYS_MAX);
                count("amount_up_to", amount_up_to, u32::MAX);
                [weight("deposit", deposit), weight("withdraw", withdraw), weight("transfer", transfer)]
            }
            Self::Notes(NotesTraffic { notes, text_bytes, put, append, delete }) => {
                count("notes", notes, KEYS_MAX);
                count("text_bytes", text_bytes, TEXT_BYTES_MAX);
                [weight("put", put), weight("append", append), weight("delete", delete)]
            }
            Self::Crunch(CrunchTraffic { primes_below, sha256_bytes, json_records, primes, sha256, json }) => {
                count("primes_below", primes_below, u32::MAX);
                count("sha256_bytes", sha256_bytes, u32::MAX);
                count("json_records", json_records, u32::MAX);
                [weight("primes", primes), weight("sha256", sha256), weight("json", json)]
            }
            Self::Archive(ArchiveTraffic { documents, text_bytes, put, append, delete }) => {
                count("documents", documents, KEYS_MAX);
                count("text_bytes", text_bytes, ARCHIVE_TEXT_BYTES_MAX);
                [weight("put", put), weight("append", append), weight("delete", delete)]
            }
            Self::Courier(CourierTraffic { text_bytes, parcels, post, post_all, refused }) => {
                count("text_bytes", text_bytes, COURIER_TEXT_BYTES_MAX);
                count("parcels", parcels, COURIER_PARCELS_MAX);
                [weight("post", post), weight("post_all", post_all), weight("refused", refused)]
            }
        };
        if weights == [0; 3] {
            table.wrong::<()>("all weights are 0; give one of them at least 1");
        }
        table.finish();
        generator
    }
}

/// The settings for additions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterTraffic {
    /// The largest number that is added; the smallest is 1.
    pub up_to: u32,
}

impl Default for CounterTraffic {
    fn default() -> Self {
        Self { up_to: 100 }
    }
}

/// Deposits, withdrawals and transfers, by weight. Some are refused for insufficient funds or an unknown account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerTraffic {
    /// The most accounts at the end.
    pub accounts: u32,
    /// The largest amount; the smallest is 1.
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

/// Writes, additions and removals of texts, by weight. Some are refused for an unknown note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotesTraffic {
    /// The most notes at the end.
    pub notes: u32,
    /// The longest text, in bytes; the shortest is 1 byte long.
    pub text_bytes: u32,
    /// The weight of notes that are written or overwritten.
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

/// Writes, additions and removals of documents, by weight. Some are refused for an unknown document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveTraffic {
    /// The most documents at the end.
    pub documents: u32,
    /// The longest text, in bytes; the shortest is 1 byte long.
    pub text_bytes: u32,
    /// The weight of documents that are written or overwritten.
    pub put: u32,
    /// The weight of texts that are added to a document.
    pub append: u32,
    /// The weight of documents that are removed.
    pub delete: u32,
}

impl Default for ArchiveTraffic {
    fn default() -> Self {
        Self { documents: 40, text_bytes: 2_000, put: 5, append: 3, delete: 2 }
    }
}

/// Parcels for the webhook of the simulation, by weight. It refuses some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CourierTraffic {
    /// The longest text of a parcel, in bytes; the shortest is 1 byte long.
    pub text_bytes: u32,
    /// The most parcels that are posted at once.
    pub parcels: u32,
    /// The weight of single parcels.
    pub post: u32,
    /// The weight of several parcels at once.
    pub post_all: u32,
    /// The weight of single parcels that the webhook refuses, or for which it closes the connection.
    pub refused: u32,
}

impl Default for CourierTraffic {
    fn default() -> Self {
        Self { text_bytes: 500, parcels: 4, post: 6, post_all: 3, refused: 1 }
    }
}

/// Jobs, by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrunchTraffic {
    /// The largest bound below which primes are counted; the smallest is 1.
    pub primes_below: u32,
    /// The largest number of bytes that are hashed; the smallest is 1.
    pub sha256_bytes: u32,
    /// The largest number of records that are written and parsed; the smallest is 1.
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
