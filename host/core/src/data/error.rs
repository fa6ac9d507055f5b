//! The errors of a data directory.

use crate::catalog::{CATALOG_FILE, CatalogError};
use crate::snapshot_file::SnapshotFileError;
use lifeboat_api::name::Name;
use lifeboat_journal::commit::CommitError;
use lifeboat_journal::recovery::OpenError;
use std::io;
use thiserror::Error;

/// The reason why a directory cannot be used, or cannot be used any longer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// Another process has the directory.
    #[error("the data directory is in use by another lifeboat; stop that one first")]
    InUse,
    /// The directory contains other files.
    #[error(
        "the directory contains other files, such as '{file}', and no catalog.redb; name a new or an empty directory"
    )]
    NotOurs {
        /// One of the files.
        file: String,
    },
    /// The directory is a data directory whose catalog is missing.
    #[error(
        "it is a data directory, with files such as '{file}', but its {CATALOG_FILE} is missing or is not a file \
         (check with ls -l): restore it from the newest copy of the directory; nothing was changed"
    )]
    CatalogMissing {
        /// One of its files.
        file: String,
    },
    /// The directory is empty.
    #[error("the directory is empty: no service was ever created in it; name the directory that a host used")]
    Empty,
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The journal as a whole failed. [`Contents`](super::Contents) reports damage to parts of it.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The journal ended, or failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A snapshot's file failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotFileError),
    /// There is a directory in the place of a file.
    #[error("'{file}' is a directory, not a file: move it away, and restore the file from a copy if there is one")]
    NotAFile {
        /// The name of the file.
        file: String,
    },
    /// A workload's file is missing.
    #[error(
        "'{file}' is missing; put the workload's file there again, or name it once more to lifeboat run while no \
         server has the directory"
    )]
    WorkloadMissing {
        /// The name of the file.
        file: String,
    },
    /// The contents of a workload's file are not those that were written.
    #[error(
        "'{file}' is damaged: its hash is not its name; put the workload's file there again, or name it once more to \
         lifeboat run"
    )]
    WorkloadDamaged {
        /// The name of the file.
        file: String,
    },
    /// There is no such service.
    #[error("there is no service '{service}' in the data directory")]
    NoService {
        /// The name in the request.
        service: Name,
    },
    /// There is already such a service.
    #[error("the data directory already has a service '{service}'; choose another name")]
    Exists {
        /// The name in the request.
        service: Name,
    },
    /// The service exists, but the catalog does not have it.
    #[error("service '{service}' is quarantined: {reason}")]
    Orphan {
        /// The name in the request.
        service: Name,
        /// The reason, as returned by [`Orphan::reason`](super::Orphan::reason).
        reason: String,
    },
    /// The catalog failed in the last step of an order, and the outcome is unknown.
    #[error(
        "service '{service}' may or may not be {order}, and does not run until it is started or removed, or the host \
         is restarted"
    )]
    OutcomeUnknown {
        /// The service.
        service: Name,
        /// The state that the service may have.
        order: &'static str,
        /// The failure of the catalog.
        source: CatalogError,
    },
    /// The catalog failed in the last step of a removal, while no host had the directory.
    #[error("service '{service}' may or may not be removed; check the disk, and remove it again")]
    RemovalUnknown {
        /// The service.
        service: Name,
        /// The failure of the catalog.
        source: CatalogError,
    },
    /// The catalog failed in the last step of a restore, while no host had the directory.
    #[error(
        "service '{service}' may or may not be restored; check the disk, and restore it again, which fails if the \
         service exists already"
    )]
    RestoreUnknown {
        /// The service.
        service: Name,
        /// The failure of the catalog.
        source: CatalogError,
    },
    /// The host is stopping, and no longer begins or ends single services.
    #[error("the host is being stopped; try again when it is back")]
    Stopping,
    /// The storage failed.
    #[error("cannot {action}")]
    Storage {
        /// The action that failed.
        action: String,
        /// The cause of the failure.
        source: io::Error,
    },
}

impl DataError {
    pub(crate) fn storage(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Storage { action, source }
    }

    /// Returns a function for `map_err`: the catalog failed to store an order that would make `service` be `order`.
    pub(super) fn of_order(service: &Name, order: &'static str) -> impl FnOnce(CatalogError) -> Self {
        move |error| match error {
            source @ CatalogError::OutcomeUnknown { .. } => {
                Self::OutcomeUnknown { service: service.clone(), order, source }
            }
            error => error.into(),
        }
    }
}
