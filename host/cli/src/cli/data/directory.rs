//! The data directory on the command line: `--data DIR`, and its errors.

use super::super::{DATA_VARIABLE, FindingError, UsageError, code_cache, output, random, with_need};
use anyhow::Context;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::id::Sequence;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::name::Name;
use lifeboat_api::text::is_deceptive;
use lifeboat_host::auth::{Accounts, argon2id};
use lifeboat_host::catalog::CatalogError;
use lifeboat_host::data::{Contents, DataError, FoundService, Locked, Orphan};
use lifeboat_host::scratch::{ProgramError, Scratch, StateError, stored_workload};
use lifeboat_journal::frame::DirectoryId;
use lifeboat_journal::recovery::{OpenError, Recovery};
use lifeboat_journal::segments::SEGMENT_BYTES;
use lifeboat_journal::storage::{DiskStorage, Storage};
use lifeboat_server::config::{CONFIG_FILE, DATA, TOKEN_LIFETIME};
use lifeboat_vm::engine::Program;
use lifeboat_vm::rehydrate::RehydrateError;
use lifeboat_vm::workload::Workload;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// The least bytes of a data directory with a service, without workloads and snapshots: a segment of the journal, and
/// the catalog with its reserve.
pub(crate) const DATA_BYTES_MIN: u64 = SEGMENT_BYTES + 4 * 1024 * 1024;

/// Which data directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Directory {
    /// The data directory; no host may have it open at the same time
    #[arg(long = "data", value_name = "DIR", env = DATA_VARIABLE)]
    path: PathBuf,
}

impl Directory {
    /// Opens the existing directory for reading.
    pub(crate) fn open_read_only(&self) -> anyhow::Result<Locked> {
        let storage = opened(&self.path, false, DiskStorage::open_to_look(&self.path))?;
        let locked = taken(&self.path, Locked::open_read_only(Arc::clone(&storage) as _))?;
        if storage.is_read_only() {
            let named = named(&self.path);
            let text = "is not writable: it is only read, and a server that opens it meanwhile may change it";
            output::note(&format!("lifeboat: data directory {named} {text}"));
        }
        Ok(locked)
    }

    /// Opens the existing directory for writing.
    pub(crate) fn open(&self) -> anyhow::Result<Locked> {
        open(&self.path, false)
    }

    /// Opens the directory for writing. A missing or empty one becomes a data directory.
    pub(crate) fn open_or_create(&self) -> anyhow::Result<Locked> {
        open(&self.path, true)
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Explains why a service that is missing from the catalog does not run, and what to do.
    pub(crate) fn reason(&self, orphan: &Orphan) -> String {
        completed(&orphan.reason(), &self.path)
    }

    /// Explains what an operator may do about a replay that diverges.
    pub(crate) fn way_on(&self, service: &Name, sequence: Sequence) -> String {
        let option = self.option();
        format!(
            "to continue with the state of the replay, run lifeboat data accept-divergence {option} {service} --at \
             {sequence}"
        )
    }

    /// Returns the option as the user must pass it to a shell.
    pub(crate) fn option(&self) -> String {
        option(&self.path)
    }

    /// Finds the service of this name, with all of its records in the journal.
    pub(crate) fn find(&self, locked: &Locked, service: &Name) -> anyhow::Result<FoundService> {
        Ok(self.find_with_journal(locked, service)?.0)
    }

    /// Finds the service as [`find`](Self::find) does, and returns also the recovery of the whole journal.
    pub(crate) fn find_with_journal(
        &self,
        locked: &Locked,
        service: &Name,
    ) -> anyhow::Result<(FoundService, Recovery)> {
        let Contents { services, recovery, orphans, .. } = read(locked, Some(service))?;
        let found = services.into_iter().find(|found| found.name == *service);
        Ok((found.ok_or_else(|| self.no_service(service, &orphans))?, recovery))
    }

    /// Returns the error for a service that does not exist, or that is missing from the catalog.
    pub(crate) fn no_service(&self, service: &Name, orphans: &[Orphan]) -> anyhow::Error {
        if let Some(orphan) = orphans.iter().find(|orphan| orphan.name == *service) {
            let reason = self.reason(orphan);
            return graded(DataError::Orphan { service: service.clone(), reason });
        }
        let error = DataError::NoService { service: service.clone() };
        UsageError(format!("{error}; lifeboat data services {} lists the services", self.option())).into()
    }

    /// Converts the error of an unavailable state to the type that determines its exit code.
    pub(crate) fn no_state(&self, service: &Name, error: StateError) -> anyhow::Error {
        match error {
            StateError::Rehydrate(RehydrateError::Diverged { sequence, .. }) => {
                FindingError(format!("{error}; {}", self.way_on(service, sequence))).into()
            }
            StateError::Data(DataError::Snapshot(ref damage)) if damage.is_damage() => {
                let option = self.option();
                FindingError(format!(
                    "no state of '{service}' can be restored: {damage}; put the file back from a copy of the directory; \
                     lifeboat data verify {option} {service} reports details"
                ))
                .into()
            }
            StateError::Data(error) => graded(error),
            StateError::OutOfRange { ref service, .. } => {
                let option = self.option();
                UsageError(format!("{error}; lifeboat data journal {option} {service} lists them")).into()
            }
            StateError::Nothing { .. } => FindingError(error.to_string()).into(),
            StateError::Rehydrate(ref failure) if !failure.is_transient() => FindingError(error.to_string()).into(),
            error => error.into(),
        }
    }
}

/// Loads the users of a data directory that is open for writing.
pub(crate) fn accounts(locked: Locked) -> anyhow::Result<Accounts> {
    Accounts::load(Arc::new(locked), Arc::default(), argon2id(), TOKEN_LIFETIME, SystemClock.read())
        .context("cannot read the users of the data directory")
}

/// Returns the option that names `directory`, as a shell must receive it.
pub(crate) fn option(directory: &Path) -> String {
    format!("--data {}", quoted(directory))
}

/// Inserts the directory into a service's reason. Services do not know their directory.
pub(crate) fn completed(reason: &str, directory: &Path) -> String {
    let option = option(directory);
    reason.replace("--data DIR", &option).replace("lifeboat remove ", &format!("lifeboat data remove {option} "))
}

/// Quotes a path for a shell.
fn quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    match str::from_utf8(bytes) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&byte)) => {
            text.into()
        }
        Ok(text) if !text.contains(is_deceptive) => format!("'{}'", text.replace('\'', r"'\''")),
        // Characters that a terminal should not show are escaped in the notation of Bash and Zsh.
        _ => {
            let shown = |&byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", bytes.iter().map(shown).collect::<String>())
        }
    }
}

/// Opens a directory for reading, and checks that a server can use it, as far as possible without changes. Returns None
/// if another process has it.
///
/// # Errors
/// The same as those of a server.
pub(crate) fn look_as_server(path: &Path) -> anyhow::Result<Option<Locked>> {
    let locked = match Locked::open_read_only(storage(path, false)? as _) {
        Err(DataError::InUse) => return Ok(None),
        locked => taken(path, locked)?,
    };
    locked.check().map_err(graded).with_context(|| format!("data directory {}", named(path)))?;
    check_users(path, locked.catalog().users()?.len())?;
    Ok(Some(locked))
}

/// Checks that the directory, which has `users` users, has one who can log in.
pub(crate) fn check_users(path: &Path, users: usize) -> Result<(), UsageError> {
    if users > 0 {
        return Ok(());
    }
    Err(UsageError(format!(
        "data directory {} has no users, so nobody could log in; run lifeboat init FOLDER, with the folder of a \
         {CONFIG_FILE} that names this directory as its data, to add an admin",
        named(path)
    )))
}

/// Reads the contents of the directory, with every retained record of service `whole`.
pub(crate) fn read(locked: &Locked, whole: Option<&Name>) -> anyhow::Result<Contents> {
    locked.read(whole).map_err(graded).context("cannot read the data directory")
}

/// Converts the error to the type that determines its exit code.
pub(crate) fn graded(error: DataError) -> anyhow::Error {
    match error {
        DataError::CatalogMissing { .. }
        | DataError::Orphan { .. }
        | DataError::NotAFile { .. }
        | DataError::WorkloadMissing { .. }
        | DataError::WorkloadDamaged { .. }
        | DataError::Catalog(CatalogError::Damaged { .. } | CatalogError::NotACatalog { .. }) => {
            FindingError(error.to_string()).into()
        }
        DataError::Journal(OpenError::Missing) => {
            FindingError(format!("{error}; restore them from the newest copy of the directory")).into()
        }
        DataError::Journal(OpenError::OtherDirectory { .. } | OpenError::SegmentTooLong { .. }) => {
            FindingError(format!("{error}; restore the file from the newest copy of the directory")).into()
        }
        // The operator can correct these by naming another directory.
        DataError::InUse | DataError::NotOurs { .. } | DataError::Empty => UsageError(error.to_string()).into(),
        error => error.into(),
    }
}

/// Creates a scratch engine for one service, and compiles its program.
pub(crate) fn scratch(
    runtime: &Runtime,
    directory: &Directory,
    storage: &dyn Storage,
    found: &FoundService,
) -> anyhow::Result<(Scratch, Arc<Program>)> {
    let code_cache = code_cache::of_read_directory(directory.path())?;
    let run = || -> Result<_, ProgramError> {
        let workload = stored_workload(storage, &found.entry.workload)?;
        let sizes = &found.entry.settings.sizes;
        let scratch = Scratch::with_memories(workload.footprint.memories, sizes, code_cache)?;
        let program = runtime.block_on(scratch.compile(workload))?;
        Ok((scratch, program))
    };
    let run = run().map_err(|error| match error {
        ProgramError::Data(error) => graded(error),
        error => anyhow::Error::from(error),
    });
    run.with_context(|| format!("cannot run service '{}'", found.name))
}

/// Returns the most linear memories of any of a directory's workloads and a new one. A pool reserves address space for
/// each.
pub(crate) fn memories_max<'a>(
    storage: &dyn Storage,
    stored: impl Iterator<Item = &'a WorkloadHash>,
    new: Option<&Workload>,
) -> u64 {
    let stored: BTreeSet<&WorkloadHash> = stored.collect();
    // A workload that cannot be read or loaded does not run either. The code that needs it reports why.
    let stored = stored.iter().filter_map(|hash| stored_workload(storage, hash).ok());
    let memories = stored.map(|workload| workload.footprint.memories).max();
    memories.max(new.map(|workload| workload.footprint.memories)).unwrap_or(1)
}

/// Creates a runtime for guests, on which nothing else runs.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}

/// Notes that a quarantined service may have lost something after `sequence`. Returns whether it is quarantined; then
/// the exit code is not 0.
pub(crate) fn note_if_cut_off(found: &FoundService, sequence: Sequence) -> bool {
    let Err(reason) = &found.standing else { return false };
    let name = &found.name;
    output::note(&format!(
        "lifeboat: service '{name}' is quarantined: {reason}; this is its state after transaction {sequence}, the last \
         that can be trusted; later transactions, if there are any, are not part of it"
    ));
    true
}

/// Opens a data directory for writing. If `may_be_new`, an empty one becomes a data directory.
pub(crate) fn open(path: &Path, may_be_new: bool) -> anyhow::Result<Locked> {
    let storage = storage(path, may_be_new)?;
    let mut new = None;
    if may_be_new {
        let bytes: [u8; 32] = random()?;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        new = Some(DirectoryId(id));
    }
    taken(path, Locked::open(storage, new))
}

fn storage(path: &Path, may_be_new: bool) -> anyhow::Result<Arc<DiskStorage>> {
    let storage = if may_be_new { DiskStorage::create(path) } else { DiskStorage::open(path) };
    opened(path, may_be_new, storage)
}

/// Returns the storage, or an error that explains why the path cannot be used.
fn opened(path: &Path, may_be_new: bool, storage: io::Result<DiskStorage>) -> anyhow::Result<Arc<DiskStorage>> {
    let storage = storage.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound if may_be_new => {
                "its parent directory does not exist; create that first".to_owned()
            }
            io::ErrorKind::NotFound => {
                "there is no such directory; name one that lifeboat run or lifeboat init created".to_owned()
            }
            io::ErrorKind::NotADirectory => "it is not a directory; name one".to_owned(),
            _ => error.to_string(),
        };
        UsageError(format!("data directory {}: {why}", named(path)))
    })?;
    Ok(Arc::new(storage))
}

fn taken(path: &Path, taken: Result<Locked, DataError>) -> anyhow::Result<Locked> {
    let taken = taken.map_err(|error| {
        let within = path.join(DATA);
        let is_of_init = path.join(CONFIG_FILE).is_file() && within.is_dir();
        if is_of_init && matches!(error, DataError::NotOurs { .. } | DataError::Empty) {
            let option = option(&within);
            return UsageError(format!(
                "lifeboat init created this folder, which contains the data directory: use {option}"
            ))
            .into();
        }
        let is_new = matches!(error, DataError::Catalog(CatalogError::Storage { action: "create", .. }));
        let error = graded(error);
        if is_new { with_need(error, "a new data directory", DATA_BYTES_MIN) } else { error }
    });
    taken.with_context(|| format!("data directory {}", named(path)))
}

fn named(path: &Path) -> String {
    format!("'{}'", path.display().to_string().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_so_that_a_shell_takes_it_as_it_is() {
        for (path, shown) in [
            ("/srv/bank.data", "/srv/bank.data"),
            ("my data", "'my data'"),
            ("~/it's $1", r"'~/it'\''s $1'"),
            ("\u{e9}t\u{e9}", "'\u{e9}t\u{e9}'"),
            ("a\n\u{1b}[2J'\\", r"$'a\x0a\x1b[2J\'\\'"),
        ] {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }
}
