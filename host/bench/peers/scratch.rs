//! Directories that are removed after the run, however it ends.

use anyhow::{Context, Result};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A script that waits until its input ends, because the process at the other end drops it or is killed. It then
/// removes the directory, with several attempts because a server that is stopping may still write.
const BROOM: &str = r#"trap "" INT TERM HUP; read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 1; done"#;

/// A directory that is removed when this is dropped, or when this process is killed.
pub(crate) struct Scratch {
    directory: TempDir,
    /// A process that removes `directory` if this process is killed before it can drop it.
    broom: Child,
}

impl Scratch {
    /// Creates a directory in `parent`. Other users may read it: a server that refuses to run as root must be able to
    /// enter it.
    pub(crate) fn create_in(parent: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("peers-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .with_context(|| format!("failed to create a directory in `{}`", parent.display()))?;
        let mut broom = Command::new("sh");
        broom.args(["-c", BROOM, "sh"]).arg(directory.path()).stdin(Stdio::piped());
        broom.stdout(Stdio::null()).stderr(Stdio::null());
        let broom = broom.spawn().context("failed to start sh")?;
        Ok(Self { directory, broom })
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.broom.stdin.take());
        // The process removes the directory, or fails to; then the drop of `directory` tries once more.
        let _ = self.broom.wait();
    }
}
