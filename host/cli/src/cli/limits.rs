//! The options for the limits of a service without a data directory.

use super::arguments;
use clap::Args;
use lifeboat_api::meter::Percent;
use lifeboat_api::size::Size;
use lifeboat_api::sla::FailoverMode;

/// The options for the size of the first VM, and for failovers. `lifeboat run` has the same, between others.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct LimitArguments {
    /// The size of the first VM [default: small]
    #[arg(long, value_name = "NAME")]
    pub(crate) size: Option<String>,
    /// Fuel in a full tank, instead of the size's [about one unit for each Wasm instruction]
    #[arg(long, value_name = "N", value_parser = arguments::fuel, allow_negative_numbers = true)]
    pub(crate) fuel: Option<u64>,
    /// Linear memory of the first VM, instead of the size's [bytes; 64MiB, 10M, ...]
    #[arg(long, value_name = "SIZE", value_parser = arguments::memory, allow_negative_numbers = true)]
    pub(crate) memory: Option<u64>,
    /// Virtual disk of the first VM, instead of the size's [bytes; 64MiB, 10M, ...]
    #[arg(long, value_name = "SIZE", value_parser = arguments::disk, allow_negative_numbers = true)]
    pub(crate) disk: Option<u64>,
    /// Calls to the network in a full allowance, instead of the size's
    #[arg(long, value_name = "N", value_parser = arguments::network_calls, allow_negative_numbers = true)]
    pub(crate) network_calls: Option<u64>,
    /// Bytes of calls to the network in a full allowance, instead of the size's [bytes; 64MiB, 10M, ...]
    #[arg(long, value_name = "SIZE", value_parser = arguments::network_bytes, allow_negative_numbers = true)]
    pub(crate) network_bytes: Option<u64>,
    /// Utilisation at which a resource fails its SLA [percent, 20 to 100; default: 98]
    #[arg(long, value_name = "PCT", value_parser = arguments::percent, allow_negative_numbers = true)]
    pub(crate) threshold: Option<Percent>,
    /// How the service fails over: direct pauses the service, shadow does not, auto is shadow for states above 1 MiB
    #[arg(long, value_name = "MODE")]
    pub(crate) failover: Option<FailoverMode>,
}

impl LimitArguments {
    /// Returns the size of the first VM, and the larger built-in ones.
    pub(crate) fn sizes(&self) -> anyhow::Result<Vec<Size>> {
        let built_in = Size::built_in();
        let named = arguments::built_in_size(self.size.as_deref().unwrap_or("small"))?;
        let mut first = named.clone();
        if let Some(memory_bytes) = self.memory {
            first.memory_bytes = memory_bytes;
            // A service with this option that an earlier release created has the same.
            let network = Size::network_for(memory_bytes);
            (first.network_calls, first.network_bytes) = (network.calls, network.bytes);
        }
        if let Some(disk_bytes) = self.disk {
            first.disk_bytes = disk_bytes;
        }
        if first.levels() != named.levels() {
            first.name = "custom".into();
        }
        let larger = built_in.iter().filter(|size| size.levels().exceed(first.levels())).cloned();
        let mut sizes: Vec<Size> = std::iter::once(first.clone()).chain(larger).collect();
        // A tank and an allowance set by the user apply to every size that the service may move to.
        for size in &mut sizes {
            size.fuel = self.fuel.unwrap_or(size.fuel);
            size.network_calls = self.network_calls.unwrap_or(size.network_calls);
            size.network_bytes = self.network_bytes.unwrap_or(size.network_bytes);
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn limits_of_other_commands_are_those_of_run() {
        let cli = Cli::command();
        let run = cli.find_subcommand("run").expect("it is a command");
        let limits = LimitArguments::augment_args(clap::Command::new("limits"));
        for argument in limits.get_arguments() {
            let id = argument.get_id();
            let of_run = run.get_arguments().find(|of_run| of_run.get_id() == id).expect("run has it");
            let text = |argument: &clap::Arg| {
                (argument.get_help().map(ToString::to_string), argument.get_value_names().map(<[_]>::to_vec))
            };
            assert_eq!(text(argument), text(of_run), "{id}");
            assert_eq!(argument.get_long(), of_run.get_long(), "{id}");
        }
    }
}
