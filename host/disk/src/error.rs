//! Why an operation on a disk fails.

/// Why an operation on a disk fails. Nothing was changed.
///
/// The names are those of `error-code` in `wasi:filesystem`. Each operation gives the error that Linux, below Wasmtime,
/// gives for the same state of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The inode does not exist: its descriptor was not held open.
    #[error("bad descriptor")]
    BadDescriptor,
    /// A rename of, or to, a path that ends in `.` or `..`.
    #[error("device or resource busy")]
    Busy,
    /// There is already an entry of this name.
    #[error("file exists")]
    Exist,
    /// The quota of the disk does not suffice.
    #[error("disk full: {wanted_bytes} bytes wanted, the limit is {limit_bytes}")]
    Full {
        /// The bytes that the disk would use.
        wanted_bytes: u64,
        /// The bytes that the call allows.
        limit_bytes: u64,
    },
    /// An argument is not allowed: a NUL in a path, an offset above [`i64::MAX`], a directory moved into itself.
    #[error("invalid argument")]
    Invalid,
    /// A directory, where something else is needed.
    #[error("is a directory")]
    IsDirectory,
    /// More than [`LINKS_PER_PATH_MAX`](crate::LINKS_PER_PATH_MAX) symbolic links in a path, or one where it is not
    /// to be followed.
    #[error("too many levels of symbolic links")]
    Loop,
    /// A name or path is longer than [`NAME_BYTES_MAX`](crate::NAME_BYTES_MAX) or
    /// [`PATH_BYTES_MAX`](crate::PATH_BYTES_MAX).
    #[error("file name too long")]
    NameTooLong,
    /// There is no entry of this name.
    #[error("no such file or directory")]
    NoEntry,
    /// The inode numbers up to [`NEXT_INO_MAX`](crate::NEXT_INO_MAX) are used up.
    #[error("no free inode number")]
    NoInode,
    /// Something else, where a directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The path leads out of the directory that it starts at, or the operation is not for directories.
    #[error("operation not permitted")]
    NotPermitted,
    /// The call may not change the disk.
    #[error("read-only disk")]
    ReadOnly,
    /// The file has [`HARD_LINKS_MAX`](crate::HARD_LINKS_MAX) entries already.
    #[error("too many links")]
    TooManyLinks,
}

/// The result of an operation on a disk.
pub type Result<T> = std::result::Result<T, Error>;
