//! Documents in files, with their index in the state.
//!
//! - Transactions:
//!   - `{"put":{"name":"a","text":"..."}}` writes a document, or replaces it. Reply: `{"bytes":3,"documents":1}`, the
//!     bytes of the document and the number of all documents.
//!   - `{"append":{"name":"a","text":"..."}}` appends to a document, which must exist. Reply: the same.
//!   - `{"delete":"a"}` removes a document, which must exist. Reply: `{"documents":0}`.
//! - Queries:
//!   - `{"get":"a"}`. Answer: `{"text":"..."}`, read from the document's file.
//!   - `{"find":"prefix"}`. Answer: `{"names":["prefix-a"]}`, the first [`FIND_MAX_NAMES`] names that begin with the
//!     prefix, sorted.
//!   - `"stats"`. Answer: `{"documents":1,"bytes":3,"disk_bytes":3}`: the number and the bytes of the documents by the
//!     index, and the sum of the lengths of all files. Both numbers of bytes are equal unless memory and disk disagree.
//!     Its time is proportional to the number of documents.
//! - Refused without a change: an unknown document; a name that is empty, over [`NAME_MAX_BYTES`], only dots, or with a
//!   character other than `a-z`, `0-9`, `-`, `_` and `.`; a text that is empty or over [`TEXT_MAX_BYTES`]; a document
//!   that would exceed [`DOCUMENT_MAX_BYTES`].
//! - The file of document `a` is `/documents/a`. A file that differs from the index fails the transaction: memory and
//!   disk disagree.
//! - Limits it meets: disk. A document takes its bytes, its name and 1 KiB there, and about 60 bytes of memory with a
//!   short name. A full disk is not refused: the host runs the transaction again on a larger size. Answers are limited
//!   too: a `get` of more than about 700,000 control characters fails, since JSON has six bytes for each.

mod files;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use lifeboat_guest::prelude::*;

use files::Files;

/// The directory of the documents on the virtual disk.
pub const DIRECTORY: &str = "/documents";

/// The longest name of a document, in bytes.
pub const NAME_MAX_BYTES: usize = 64;

/// The longest text of one transaction, in bytes: 64 KiB.
pub const TEXT_MAX_BYTES: usize = 64 * 1024;

/// The longest document, in bytes: 1 MiB.
pub const DOCUMENT_MAX_BYTES: u64 = 1024 * 1024;

/// The most names in an answer to `find`.
pub const FIND_MAX_NAMES: usize = 100;

/// The state: the index of the documents. Their texts are in files, which move together with the state.
///
/// The default has its files in [`DIRECTORY`], in a native build too. Native tests here use a temporary directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The bytes of each document, by name.
    documents: BTreeMap<Box<str>, u64>,
    /// Not exported: a restored archive has the default, as a new one has.
    #[serde(skip)]
    files: Files,
}

/// A change of one document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transaction {
    /// Writes a document, replacing any document of that name.
    Put {
        /// The document's name.
        name: Box<str>,
        /// The complete text.
        text: String,
    },
    /// Appends to a document.
    Append {
        /// The document's name.
        name: Box<str>,
        /// The text to append.
        text: String,
    },
    /// Removes the document of this name.
    Delete(Box<str>),
}

/// The number of documents after a transaction, and the size of the one that it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// The reply to `put` and to `append`.
    Written {
        /// The bytes of the document.
        bytes: u64,
        /// The number of all documents.
        documents: u64,
    },
    /// The reply to `delete`.
    Deleted {
        /// The number of remaining documents.
        documents: u64,
    },
}

/// A question about documents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The text of one document.
    Get(Box<str>),
    /// The names that begin with a prefix.
    Find(Box<str>),
    /// The number and size of all documents, by the index and on the disk.
    Stats,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The answer to `{"get":...}`.
    Text {
        /// The complete text of the document.
        text: String,
    },
    /// The answer to `{"find":...}`.
    Names {
        /// The names, sorted, at most [`FIND_MAX_NAMES`].
        names: Vec<Box<str>>,
    },
    /// The answer to `"stats"`.
    Stats {
        /// The number of documents.
        documents: u64,
        /// The bytes of all documents by the index.
        bytes: u64,
        /// The sum of the lengths of all files.
        disk_bytes: u64,
    },
}

/// The reason for refusing a transaction or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No document has that name.
    UnknownDocument(Box<str>),
    /// The name is empty or too long.
    NameLength {
        /// The name's length, in bytes.
        bytes: usize,
    },
    /// The name has a character that is not allowed.
    NameCharacter {
        /// The name.
        name: Box<str>,
        /// The first such character.
        character: char,
    },
    /// The name has no character but dots. Some of these names mean directories.
    NameOfDots(Box<str>),
    /// The text is empty or too long.
    TextLength {
        /// The text's length, in bytes.
        bytes: usize,
    },
    /// The document would be too long.
    DocumentLength {
        /// The document's name.
        name: Box<str>,
        /// The length that it would have, in bytes.
        bytes: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDocument(name) => write!(f, "unknown document {name:?}"),
            Self::NameLength { bytes } => {
                write!(f, "document name is {bytes} bytes, 1 to {NAME_MAX_BYTES} are allowed")
            }
            Self::NameCharacter { name, character } => {
                write!(f, "document name {name:?} contains {character:?}, only a-z, 0-9, '-', '_' and '.' are allowed")
            }
            Self::NameOfDots(name) => {
                write!(f, "document name {name:?} has only dots, at least one other character is needed")
            }
            Self::TextLength { bytes } => write!(f, "text is {bytes} bytes, 1 to {TEXT_MAX_BYTES} are allowed"),
            Self::DocumentLength { name, bytes } => {
                write!(f, "document {name:?} would be {bytes} bytes, the limit is {DOCUMENT_MAX_BYTES} bytes")
            }
        }
    }
}

impl std::error::Error for Refusal {}

#[workload]
impl Workload for Archive {
    type Transaction = Transaction;
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;
    type Error = Refusal;

    fn execute(&mut self, _: &Context, transaction: Transaction) -> Result<Reply, Refusal> {
        match transaction {
            Transaction::Put { name, text } => self.put(name, &text),
            Transaction::Append { name, text } => self.append(name, &text),
            Transaction::Delete(name) => self.delete(name),
        }
    }

    fn query(&self, _: &Context, query: Query) -> Result<Answer, Refusal> {
        match query {
            Query::Get(name) => match self.documents.get(&name) {
                Some(bytes) => Ok(Answer::Text { text: self.files.read(&name, *bytes) }),
                None => Err(Refusal::UnknownDocument(name)),
            },
            Query::Find(prefix) => Ok(Answer::Names { names: self.find(&prefix) }),
            Query::Stats => Ok(Answer::Stats {
                documents: self.documents.len() as u64,
                bytes: self.documents.values().sum(),
                disk_bytes: self.files.total_bytes(),
            }),
        }
    }
}

impl Archive {
    fn put(&mut self, name: Box<str>, text: &str) -> Result<Reply, Refusal> {
        check_name(&name)?;
        check_text(text)?;

        if self.documents.contains_key(&name) {
            self.files.replace(&name, text);
        } else {
            self.files.create(&name, text);
        }
        let bytes = text.len() as u64;
        self.documents.insert(name, bytes);
        Ok(self.written(bytes))
    }

    fn append(&mut self, name: Box<str>, text: &str) -> Result<Reply, Refusal> {
        check_text(text)?;
        let Some(bytes) = self.documents.get_mut(&name) else {
            return Err(Refusal::UnknownDocument(name));
        };
        let sum = *bytes + text.len() as u64;
        if sum > DOCUMENT_MAX_BYTES {
            return Err(Refusal::DocumentLength { name, bytes: sum });
        }

        self.files.append(&name, *bytes, text);
        *bytes = sum;
        Ok(self.written(sum))
    }

    fn delete(&mut self, name: Box<str>) -> Result<Reply, Refusal> {
        if self.documents.remove(&name).is_none() {
            return Err(Refusal::UnknownDocument(name));
        }
        self.files.remove(&name);
        Ok(Reply::Deleted { documents: self.documents.len() as u64 })
    }

    fn find(&self, prefix: &str) -> Vec<Box<str>> {
        let from_prefix = self.documents.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let names = from_prefix.map(|(name, _)| name).take_while(|name| name.starts_with(prefix));
        names.take(FIND_MAX_NAMES).cloned().collect()
    }

    fn written(&self, bytes: u64) -> Reply {
        Reply::Written { bytes, documents: self.documents.len() as u64 }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err(Refusal::NameLength { bytes: name.len() });
    }
    if let Some(character) =
        name.chars().find(|character| !matches!(character, 'a'..='z' | '0'..='9' | '-' | '_' | '.'))
    {
        return Err(Refusal::NameCharacter { name: name.into(), character });
    }
    if name.bytes().all(|byte| byte == b'.') {
        return Err(Refusal::NameOfDots(name.into()));
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > TEXT_MAX_BYTES {
        return Err(Refusal::TextLength { bytes: text.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
