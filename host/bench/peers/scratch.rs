//! Directories that are gone after the run, however it ends.

use anyhow::{Context, Result};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Waits for the end of its input, which comes when whoever holds the other end drops it or is killed; tries again
/// while a server that is about to stop still writes.
const BROOM: &str = r#"trap "" INT TERM HUP; read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 1; done"#;

/// A directory, until it is dropped, or until this process is killed.
pub(crate) struct Scratch {
    directory: TempDir,
    /// Does what dropping `directory` cannot do in a process that has been killed.
    broom: Child,
}

impl Scratch {
    /// Creates one in `parent`. Others may read it: a server that refuses to run as root must find its way through.
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

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.broom.stdin.take());
        // It removes the directory, or fails to; then the drop of `directory` tries once more.
        let _ = self.broom.wait();
    }
}
