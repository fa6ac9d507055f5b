//! Named texts that are created, extended and removed.
//!
//! - Transactions:
//!   - `{"put":{"name":"n","text":"..."}}` writes a note, or overwrites it.
//!   - `{"append":{"name":"n","text":"..."}}` appends to a note, which must exist.
//!   - `{"delete":{"name":"n"}}` removes a note, which must exist.
//!   - Reply to each: `{"notes":1,"bytes":3}`, the number of notes and the bytes of all their texts.
//! - Queries: `{"get":"n"}`, with the answer `{"text":"..."}`; `"summary"`, with the same answer as a transaction.
//! - Refused without a change: an unknown note, a name that is empty or over [`NAME_MAX_BYTES`], a note that would
//!   exceed [`TEXT_MAX_BYTES`].
//! - Limits it meets: memory. Linear memory never shrinks, and texts of all lengths leave holes of all lengths. Its VM
//!   therefore exhausts its memory while `bytes` is far lower; restoring its snapshot into a fresh instance reclaims
//!   the holes. If the notes keep growing, only a larger size helps.

use std::collections::BTreeMap;
use std::fmt;

use lifeboat_guest::prelude::*;

/// The longest name of a note, in bytes.
pub const NAME_MAX_BYTES: usize = 256;

/// The longest text of a note, in bytes: 1 MiB.
pub const TEXT_MAX_BYTES: usize = 1024 * 1024;

/// The state: all notes by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The bytes of all texts.
    bytes: u64,
    notes: BTreeMap<String, String>,
}

/// A change of one note.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transaction {
    /// Writes a note, replacing any note of that name.
    Put {
        /// The note's name.
        name: String,
        /// The complete text.
        text: String,
    },
    /// Appends to a note.
    Append {
        /// The note's name.
        name: String,
        /// The text to append.
        text: String,
    },
    /// Removes a note.
    Delete {
        /// The note's name.
        name: String,
    },
}

/// A question about notes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The text of one note.
    Get(String),
    /// The number and size of all notes.
    Summary,
}

/// The number and size of all notes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of notes.
    pub notes: u64,
    /// The bytes of all their texts, without names.
    pub bytes: u64,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The answer to `{"get":...}`.
    Text {
        /// The complete text of the note.
        text: String,
    },
    /// The answer to `"summary"`.
    Summary(Summary),
}

/// The reason for refusing a transaction or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No note has that name.
    UnknownNote(String),
    /// The name is empty or too long.
    BadName {
        /// The name's length, in bytes.
        bytes: usize,
    },
    /// The note would be too long.
    TooLong {
        /// The note's name.
        name: String,
        /// The length that it would have, in bytes.
        bytes: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNote(name) => write!(f, "unknown note {name:?}"),
            Self::BadName { bytes } => write!(f, "name is {bytes} bytes, 1 to {NAME_MAX_BYTES} are allowed"),
            Self::TooLong { name, bytes } => {
                write!(f, "note {name:?} would be {bytes} bytes, the limit is {TEXT_MAX_BYTES} bytes")
            }
        }
    }
}

impl std::error::Error for Refusal {}

#[workload]
impl Workload for Notes {
    type Transaction = Transaction;
    type Reply = Summary;
    type Query = Query;
    type Answer = Answer;
    type Error = Refusal;

    fn execute(&mut self, _: &Context, transaction: Transaction) -> Result<Summary, Refusal> {
        match transaction {
            Transaction::Put { name, text } => self.put(name, text)?,
            Transaction::Append { name, text } => self.append(name, &text)?,
            Transaction::Delete { name } => self.delete(name)?,
        }
        Ok(self.summary())
    }

    fn query(&self, _: &Context, query: Query) -> Result<Answer, Refusal> {
        match query {
            Query::Get(name) => match self.notes.get(&name) {
                Some(text) => Ok(Answer::Text { text: text.clone() }),
                None => Err(Refusal::UnknownNote(name)),
            },
            Query::Summary => Ok(Answer::Summary(self.summary())),
        }
    }
}

impl Notes {
    fn put(&mut self, name: String, text: String) -> Result<(), Refusal> {
        if name.is_empty() || name.len() > NAME_MAX_BYTES {
            return Err(Refusal::BadName { bytes: name.len() });
        }
        let name = check_length(name, text.len())?;

        self.bytes += text.len() as u64;
        if let Some(old) = self.notes.insert(name, text) {
            self.bytes -= old.len() as u64;
        }
        Ok(())
    }

    fn append(&mut self, name: String, text: &str) -> Result<(), Refusal> {
        let Some(note) = self.notes.get_mut(&name) else {
            return Err(Refusal::UnknownNote(name));
        };
        check_length(name, note.len().saturating_add(text.len()))?;

        note.push_str(text);
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn delete(&mut self, name: String) -> Result<(), Refusal> {
        match self.notes.remove(&name) {
            Some(text) => {
                self.bytes -= text.len() as u64;
                Ok(())
            }
            None => Err(Refusal::UnknownNote(name)),
        }
    }

    fn summary(&self) -> Summary {
        Summary { notes: self.notes.len() as u64, bytes: self.bytes }
    }
}

fn check_length(name: String, bytes: usize) -> Result<String, Refusal> {
    if bytes > TEXT_MAX_BYTES { Err(Refusal::TooLong { name, bytes }) } else { Ok(name) }
}

#[cfg(test)]
mod tests;
