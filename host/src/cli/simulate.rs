use clap::Args;
use std::process::ExitCode;
#[derive(Debug, Args)]
pub(crate) struct Simulate {}
impl Simulate {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        unreachable!()
    }
}
