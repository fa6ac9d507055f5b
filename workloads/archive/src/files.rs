//! The files of the documents: one directory, with one file for each document.
//!
//! The index lists the files that exist and their lengths. A file that differs from the index means that memory and
//! disk disagree. Every function here panics in that case: its transaction fails, and the state and the disk remain as
//! they were. A full disk is not such an error: a service never sees one.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result, Write as _};
use std::path::PathBuf;

use crate::DIRECTORY;

/// The directory of the files. It is the only way of this workload to the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    directory: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self::at(DIRECTORY)
    }
}

impl Files {
    /// Returns the files in `directory`, which need not exist yet. Native tests use a temporary one.
    pub(crate) fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Creates the file of a new document.
    pub(crate) fn create(&self, name: &str, text: &str) {
        let path = self.path(name);
        let created = File::create_new(&path).or_else(|error| match error.kind() {
            // The first document of a service creates the directory.
            ErrorKind::NotFound => fs::create_dir(&self.directory).and_then(|()| File::create_new(&path)),
            _ => Err(error),
        });
        expect(created.and_then(|mut file| file.write_all(text.as_bytes())), "create", name);
    }

    /// Replaces the contents of a document's file. The file is not created: the index has it.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let opened = OpenOptions::new().write(true).truncate(true).open(self.path(name));
        expect(opened.and_then(|mut file| file.write_all(text.as_bytes())), "replace", name);
    }

    /// Appends to a document's file, which has `bytes` bytes by the index.
    pub(crate) fn append(&self, name: &str, bytes: u64, text: &str) {
        let mut file = expect(OpenOptions::new().append(true).open(self.path(name)), "open", name);
        expect_bytes(expect(file.metadata(), "measure", name).len(), bytes, name);
        expect(file.write_all(text.as_bytes()), "append to", name);
    }

    /// Removes a document's file.
    pub(crate) fn remove(&self, name: &str) {
        expect(fs::remove_file(self.path(name)), "remove", name);
    }

    /// Returns the text of a document, which has `bytes` bytes by the index.
    pub(crate) fn read(&self, name: &str, bytes: u64) -> String {
        let text = expect(fs::read_to_string(self.path(name)), "read", name);
        expect_bytes(text.len() as u64, bytes, name);
        text
    }

    /// Returns the sum of the lengths of all files in the directory, whether the index has them or not.
    pub(crate) fn total_bytes(&self) -> u64 {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return 0,
            Err(error) => panic!("cannot list {}: {error}", self.directory.display()),
        };
        let lengths = entries.map(|entry| Ok(entry?.metadata()?.len()));
        lengths
            .sum::<Result<u64>>()
            .unwrap_or_else(|error| panic!("cannot measure the files in {}: {error}", self.directory.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Returns the result of an operation that cannot fail while memory and disk agree.
fn expect<T>(result: Result<T>, operation: &str, name: &str) -> T {
    result.unwrap_or_else(|error| disagree(format_args!("cannot {operation} the file of document {name:?}: {error}")))
}

fn expect_bytes(actual: u64, expected: u64, name: &str) {
    if actual != expected {
        disagree(format_args!("the file of document {name:?} is {actual} bytes, the index has {expected}"));
    }
}

#[cold]
fn disagree(reason: impl Display) -> ! {
    panic!("memory and disk disagree: {reason}")
}
