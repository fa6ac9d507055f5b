//! The settings of generators: which transactions are made up for an embedded workload, and how often each kind.

use super::{BuiltIn, KEYS_MAX, TEXT_BYTES_MAX};
use lifeboat_document::{Table, Value};
use std::ops::RangeInclusive;

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

    /// Reads a name, or a table with one key.
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

    /// What the table of a workload says, with the usual settings for the rest and for what is wrong.
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
        };
        if weights == [0; 3] {
            table.wrong::<()>("all weights are 0; give one of them at least 1");
        }
        table.finish();
        generator
    }
}

/// Additions.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
