//! Where the commands keep compiled workloads.

use super::{UsageError, variable};
use lifeboat_api::text::of_system;
use lifeboat_vm::engine::CodeCache;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The environment variable that turns the caches off.
const CACHE_VARIABLE: &str = "LIFEBOAT_CACHE";

/// Its only value.
const OFF: &str = "off";

/// The folder of a data directory with compiled workloads.
const CODE: &str = "code";

/// Returns the cache of this user, for commands without a data directory.
pub(crate) fn of_user() -> Result<Option<Arc<CodeCache>>, UsageError> {
    if !is_on()? {
        return Ok(None);
    }
    Ok(users_folder(variable).map(|folder| Arc::new(CodeCache::of_user(&folder))))
}

/// Returns the cache of a data directory that is open for writing.
pub(crate) fn of_directory(directory: &Path) -> Result<Option<Arc<CodeCache>>, UsageError> {
    Ok(is_on()?.then(|| Arc::new(CodeCache::new(directory.join(CODE)))))
}

/// Returns the cache of a data directory that a command only reads.
pub(crate) fn of_read_directory(directory: &Path) -> Result<Option<Arc<CodeCache>>, UsageError> {
    Ok(is_on()?.then(|| Arc::new(CodeCache::new(directory.join(CODE)).read_only())))
}

/// Returns the cache of the data directory of a server, which notes the first failure to write to it.
pub(crate) fn of_served_directory(
    directory: &Path,
    note: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Option<Arc<CodeCache>>, UsageError> {
    let cache = CodeCache::new(directory.join(CODE)).with_report(move |folder, error| {
        note(&format!(
            "compiled code is not kept in '{}': {}; workloads are compiled at each start until the folder can be \
             written to",
            folder.display().to_string().escape_debug(),
            of_system(error)
        ));
    });
    Ok(is_on()?.then(|| Arc::new(cache)))
}

fn is_on() -> Result<bool, UsageError> {
    match variable(CACHE_VARIABLE) {
        None => Ok(true),
        Some(value) if value == OFF => Ok(false),
        Some(value) => Err(UsageError(format!(
            "{CACHE_VARIABLE} is '{}': set it to {OFF} to keep no compiled code, or unset it",
            value.to_string_lossy().escape_debug()
        ))),
    }
}

/// Returns the folder for caches of this user: `$XDG_CACHE_HOME`, or `~/.cache`.
fn users_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The XDG specification requires that relative paths are ignored.
    let set = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_folder_is_that_of_the_xdg_specification() {
        let folder = |set: &[(&str, &str)]| {
            users_folder(|name| set.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into()))
        };
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x".into()));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Some("/h/.cache".into()));
        assert_eq!(folder(&[("HOME", "h")]), None);
        assert_eq!(folder(&[]), None);
    }
}
