//! Reads the file of a workload, and no more of it than the loader would accept.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

use super::MODULE_BYTES_MAX;
use super::error::{LoadError, one_line};

/// An error from reading the file of a workload.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The operating system refused to open or read the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file exceeds [`MODULE_BYTES_MAX`].
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Reads the workload in `file`.
///
/// # Errors
/// [`ReadError`]. The error for a file that is too large contains its length; the file is not read.
pub fn read(file: &Path) -> Result<Vec<u8>, ReadError> {
    let open = File::open(file)?;
    let length = open.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
    let too_large = |what, bytes| {
        let file = one_line(&file.display().to_string());
        Err(LoadError::TooLarge { file, what, bytes, limit_bytes: MODULE_BYTES_MAX }.into())
    };
    if let Some(length) = length.filter(|length| *length > MODULE_BYTES_MAX) {
        return too_large("the file", length);
    }
    let mut bytes = Vec::new();
    open.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    // The length of a pipe is known only at its end, which may never come.
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        return too_large("what was read of it", bytes.len() as u64);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_reported_with_its_own_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.wasm");
        File::create(&path).and_then(|file| file.set_len(200_000_000)).expect("a sparse file");
        let line = read(&path).expect_err("too large").to_string();
        assert!(line.contains("the file is 200000000 bytes, limit is 134217728 bytes"), "{line}");
        let endless = read(Path::new("/dev/zero")).expect_err("endless").to_string();
        assert!(endless.contains("what was read of it is 134217729 bytes"), "{endless}");
        std::fs::write(&path, b"(module)").expect("written");
        assert_eq!(read(&path).expect("small"), b"(module)");
        assert!(matches!(read(&folder.path().join("none")), Err(ReadError::Io(_))));
    }
}
