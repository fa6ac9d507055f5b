//! The options for the limits of a guest that no configuration describes.

use super::arguments;
use clap::Args;
use lifeboat_api::meter::Percent;
use lifeboat_api::size::Size;
use lifeboat_api::sla::FailoverMode;

/// The options for the size of the first VM, and for failovers.
#[derive(Debug, Args)]
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
    use super::*;
    use clap::{Command, FromArgMatches};

    fn sizes(arguments: &[&str]) -> Vec<Size> {
        let command = LimitArguments::augment_args(Command::new("limits").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).expect("a command line");
        LimitArguments::from_arg_matches(&matches).expect("its arguments").sizes().expect("sizes")
    }

    #[test]
    fn allowance_of_the_user_applies_to_every_size() {
        let built_in = Size::built_in();
        let given = sizes(&["--network-calls", "7"]);
        assert_eq!((given.len(), &*given[0].name), (4, "small"));
        for (size, built_in) in given.iter().zip(&built_in) {
            assert_eq!(*size, Size { network_calls: 7, ..built_in.clone() });
        }
        let given = sizes(&["--network-bytes", "1MiB", "--size", "huge"]);
        assert_eq!(given, [Size { network_bytes: 1 << 20, ..built_in[3].clone() }]);
        assert_eq!(sizes(&["--memory", "17MiB"])[0].network(), built_in[1].network());
        assert_eq!(sizes(&[]), built_in);
    }
}
