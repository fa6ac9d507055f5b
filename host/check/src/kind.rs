//! The kinds of bugs: what each means, and its remedy.

use serde::{Serialize, Serializer};
use std::fmt;

/// A kind of bug of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A restore replaces state that the export lacks.
    FieldMissing,
    /// A reply depends on memory that no restore touches.
    BesideState,
    /// After a failover the guest answers as if some of its state were gone, for an unknown reason.
    StateLost,
    /// An answer has the order of a hashed collection.
    HashOrder,
    /// An export has the order of a hashed collection.
    ExportOrder,
    /// An export changes the state.
    SnapshotChangesState,
    /// `snapshot` traps.
    SnapshotTraps,
    /// `snapshot` returns an error.
    SnapshotRefuses,
    /// `restore` does not take what `snapshot` wrote.
    RestoreRefuses,
    /// `restore` takes a version that it does not know.
    AnyVersion,
    /// `state-version` does not always return the same number.
    VersionChanges,
    /// `restore` depends on how many bytes `state.read` returns at once.
    ChunkBorders,
    /// An export grows the memory by its own length.
    ExportNotStreamed,
    /// An export or a restore of a larger state would exceed its fuel.
    ExportTooCostly,
    /// A query changes what later requests see.
    QueryChangesState,
    /// A query answers by something that is not part of the state.
    QueryBeyondState,
    /// A refused transaction changed the state.
    RefusalChangesState,
    /// The guest traps on input that it could refuse.
    TrapsOnInput,
    /// A reply is longer than the host takes, or becomes so.
    ReplyTooLong,
    /// The guest keeps a time from before a failover, or takes one at its creation.
    TimeKept,
    /// The guest keeps a random number from before a failover, or draws one at its creation.
    RandomKept,
    /// The guest waits for a clock that stands still.
    WaitsForClock,
    /// A transaction sleeps for most of its deadline.
    Sleeps,
    /// A restored guest has as much memory as before, although its state is small.
    CompactionFreesNothing,
    /// Memory grows under equal transactions, and the state does not.
    MemoryLeak,
    /// Entries on the disk grow under equal transactions, and the state does not.
    DiskLitter,
    /// The guest uses a descriptor that an earlier call opened.
    StaleDescriptor,
    /// `snapshot` writes to the disk.
    WritesInSnapshot,
    /// Each start of an instance writes something else to the disk.
    WritesAtStart,
    /// After a failover, what the guest knows of its files is gone.
    DiskDisagrees,
    /// The guest takes sequence numbers for gapless.
    GaplessSequences,
    /// The cost of a transaction grows with the state.
    CostGrows,
    /// The guest needs more memory than a fresh VM of its first size may use.
    SizeTooSmall,
    /// Log lines are lost.
    LogLost,
    /// An older snapshot is not taken.
    OlderSnapshot,
    /// The guest exits.
    Exits,
    /// A program reads its input on and on after the end.
    ReadsAfterEnd,
    /// A program wants a terminal.
    WantsTerminal,
    /// A transaction has the same reply and leaves the same state although its calls failed.
    IgnoresCalls,
    /// A query makes a request to the network.
    CallInQuery,
    /// A second attempt of a transaction makes another request.
    RequestDiffers,
    /// A transaction is refused after it has made a call that a server may act upon.
    CallBeforeRefusal,
}

/// The text about a kind.
struct About {
    kind: Kind,
    /// Its numbers in `docs/check.md`.
    number: &'static str,
    name: &'static str,
    is_warning: bool,
    remedy: &'static str,
}

const fn about(kind: Kind, number: &'static str, name: &'static str, is_warning: bool, remedy: &'static str) -> About {
    About { kind, number, name, is_warning, remedy }
}

/// All kinds, in the order of `docs/check.md`.
const ALL: [About; 42] = [
    about(
        Kind::FieldMissing,
        "1, 3",
        "field-missing",
        false,
        "export every field of the state that answers depend on, or let restore rebuild it if it is a cache",
    ),
    about(
        Kind::BesideState,
        "1-3",
        "beside-state",
        false,
        "keep in the exported state what answers depend on, and not in a static or thread-local; let restore set every \
         field, and clear or rebuild every cache",
    ),
    about(
        Kind::StateLost,
        "1-3",
        "state-lost",
        false,
        "export everything that answers depend on: no field left out, no static or thread-local beside the state, no \
         cache that restore does not rebuild",
    ),
    about(
        Kind::HashOrder,
        "4",
        "hash-order",
        false,
        "use ordered collections (BTreeMap), or sort, wherever the order of a hashed one reaches an answer",
    ),
    about(
        Kind::ExportOrder,
        "5",
        "export-order",
        true,
        "export ordered collections, so that equal states have equal snapshots",
    ),
    about(
        Kind::SnapshotChangesState,
        "6",
        "snapshot-changes-state",
        false,
        "write the state from a shared reference, and take nothing out of it",
    ),
    about(
        Kind::SnapshotTraps,
        "7",
        "snapshot-traps",
        false,
        "make snapshot end well for every state; a service that cannot export is unmovable",
    ),
    about(
        Kind::SnapshotRefuses,
        "8",
        "snapshot-refuses",
        false,
        "make snapshot succeed for every state; a service that cannot export is unmovable",
    ),
    about(
        Kind::RestoreRefuses,
        "9",
        "restore-refuses",
        false,
        "make restore read whatever snapshot of this version writes, to its last byte",
    ),
    about(
        Kind::AnyVersion,
        "10",
        "any-version",
        false,
        "compare the version in restore, and return an error for one that it does not know",
    ),
    about(
        Kind::VersionChanges,
        "11",
        "version-changes",
        false,
        "return a constant from state-version, and change it with the format alone",
    ),
    about(
        Kind::ChunkBorders,
        "12",
        "chunk-borders",
        false,
        "read in a loop until state.read returns nothing: it returns 1 to max bytes",
    ),
    about(
        Kind::ExportNotStreamed,
        "13",
        "export-not-streamed",
        true,
        "write the state in chunks as it is encoded, and not as one buffer",
    ),
    about(
        Kind::ExportTooCostly,
        "14",
        "export-too-costly",
        true,
        "make the fuel of an export and a restore proportional to the state",
    ),
    about(
        Kind::QueryChangesState,
        "15",
        "query-changes-state",
        false,
        "change nothing in a query: a failover loses the change, and another order of queries gives other answers",
    ),
    about(
        Kind::QueryBeyondState,
        "16",
        "query-beyond-state",
        false,
        "answer queries from the exported state alone, or export what they answer",
    ),
    about(
        Kind::RefusalChangesState,
        "17",
        "refusal-changes-state",
        false,
        "check first and change afterwards: what was changed before an error is kept",
    ),
    about(
        Kind::TrapsOnInput,
        "18",
        "traps-on-input",
        false,
        "return an error for a body that is not valid, and bound its length or depth before a library recurses; a trap \
         costs a rollback, and tells the user nothing",
    ),
    about(Kind::ReplyTooLong, "19", "reply-too-long", false, "bound the reply, and answer in parts"),
    about(
        Kind::TimeKept,
        "20",
        "time-kept",
        false,
        "take the time from the transaction's context, and keep in the state what later answers need of it",
    ),
    about(
        Kind::RandomKept,
        "21",
        "random-kept",
        false,
        "draw random numbers in the transaction that uses them, and keep in the state what later answers need of them; \
         use no hashed collection whose order matters",
    ),
    about(
        Kind::WaitsForClock,
        "22",
        "waits-for-clock",
        false,
        "sleep instead of reading the clock in a loop: it moves only while the guest sleeps or waits",
    ),
    about(Kind::Sleeps, "23", "sleeps", false, "sleep less: sleeps count towards the deadline of the transaction"),
    about(
        Kind::CompactionFreesNothing,
        "24",
        "compaction-frees-nothing",
        true,
        "let restore allocate in proportion to the state, so that a fresh VM has room again",
    ),
    about(
        Kind::MemoryLeak,
        "25",
        "memory-leak",
        true,
        "free what a transaction allocates; each failover hides the leak for a while only",
    ),
    about(Kind::DiskLitter, "26", "disk-litter", true, "remove temporary files in the transaction that made them"),
    about(
        Kind::StaleDescriptor,
        "27",
        "stale-descriptor",
        false,
        "open files in each transaction anew: descriptors end with their call",
    ),
    about(
        Kind::WritesInSnapshot,
        "28",
        "writes-in-snapshot",
        false,
        "write files in transactions: the disk is read-only in a snapshot",
    ),
    about(
        Kind::WritesAtStart,
        "28",
        "writes-at-start",
        false,
        "let the start write only what is missing: what it writes again is dropped after the first start",
    ),
    about(
        Kind::DiskDisagrees,
        "29",
        "disk-disagrees",
        false,
        "export what the memory knows of the files (an index, a count), or read it from the files again in restore",
    ),
    about(
        Kind::GaplessSequences,
        "30",
        "gapless-sequences",
        false,
        "expect gaps between the sequence numbers: a failed transaction uses one up",
    ),
    about(Kind::CostGrows, "31", "cost-grows", true, "look entries up instead of walking through all of them"),
    about(
        Kind::SizeTooSmall,
        "32",
        "size-too-small",
        true,
        "deploy the workload with a larger first size, or use less memory",
    ),
    about(Kind::LogLost, "33", "log-lost", true, "log less in one call"),
    about(Kind::OlderSnapshot, "34", "older-snapshot", false, "let restore read the versions of all deployed releases"),
    about(Kind::Exits, "35", "exits", false, "return a reply or an error from execute: a workload must not exit"),
    about(
        Kind::ReadsAfterEnd,
        "35",
        "reads-after-end",
        false,
        "end at the end of standard input: it is the body of one transaction, and nothing comes after it",
    ),
    about(
        Kind::WantsTerminal,
        "35",
        "wants-terminal",
        false,
        "read standard input whatever it is: it is the body of a transaction, and never a terminal",
    ),
    about(
        Kind::IgnoresCalls,
        "36",
        "ignores-calls",
        false,
        "look at the outcome of each call, and refuse, answer otherwise or note it in the state if it failed",
    ),
    about(Kind::CallInQuery, "37", "call-in-query", false, "make requests in transactions: a query has no network"),
    about(
        Kind::RequestDiffers,
        "38",
        "request-differs",
        false,
        "make requests from the transaction's body, id and user alone, without time, sequence or random numbers: a \
         second attempt must make the same request",
    ),
    about(
        Kind::CallBeforeRefusal,
        "39",
        "call-before-refusal",
        false,
        "check before the call: a refusal does not take it back",
    ),
];

impl Kind {
    /// Returns all kinds, in the order of `docs/check.md`.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().map(|about| about.kind)
    }

    fn about(self) -> &'static About {
        ALL.iter().find(|about| about.kind == self).expect("the table has every kind")
    }

    /// Returns its name, as tables and JSON have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// Returns the kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.name() == name)
    }

    /// Returns its number in `docs/check.md`, or the range of its numbers.
    #[must_use]
    pub fn number(self) -> &'static str {
        self.about().number
    }

    /// Returns whether it is a warning: the service works, but not for ever, or not well.
    #[must_use]
    pub fn is_warning(self) -> bool {
        self.about().is_warning
    }

    /// Returns what to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        self.about().remedy
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_is_documented() {
        let document = include_str!("../../../docs/check.md");
        let names: BTreeSet<&str> = Kind::all().map(Kind::name).collect();
        assert_eq!(names.len(), ALL.len());
        for kind in Kind::all() {
            let warning = if kind.is_warning() { " (w)" } else { "" };
            let row = format!("| {}{warning} | `{kind}` | ", kind.number());
            assert_eq!(Kind::named(kind.name()), Some(kind));
            assert!(document.contains(&row), "docs/check.md lacks a row that begins with {row}");
        }
    }
}
