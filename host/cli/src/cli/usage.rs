//! `lifeboat usage`: prints how full the VMs of the server are, and what their services did.

use super::remote::{Waiting, with_server};
use super::{exit, help, output, table};
use clap::Args;
use lifeboat_api::http::{AllUsage, ResourceUsage, Usage as ServiceUsage};
use lifeboat_api::lines;
use lifeboat_api::meter::Resource;
use lifeboat_api::name::Name;
use lifeboat_api::size::grouped;
use lifeboat_api::text::Printable;
use lifeboat_client::{Client, ClientError};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

/// The interval at which a watched table is drawn.
const PERIOD: Duration = Duration::from_secs(1);

/// The length of a bar, in characters.
const BAR_CHARS: usize = 10;

/// The number of columns about the VMs. Those after them show the queue, and the counts since the start of the server.
const VM_COLUMNS: usize = 3 + Resource::ALL.len();

const AFTER_HELP: &str = "\
Outcomes and failovers are counted since the start of the server, which the last line shows. The columns cpu, network,
memory and disk show the VM that serves now; network is the fuller of its calls and its bytes.";

/// Arguments of `usage`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Usage {
    /// Print again each second, also after the server restarts: on a terminal in place, elsewhere below
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Show only this service [default: all that you may observe]
    #[arg(value_name = "SERVICE")]
    service: Option<Name>,
}

impl Usage {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let backoff = self.waiting.backoff(self.watch);
        with_server(async |client| {
            let client = client.with_patience(backoff);
            let is_terminal = output::is_terminal() && !self.json;
            let columns = || if is_terminal { help::output_columns() } else { None };
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let usage = client.ask_until_answered(async || self.ask(&client).await, &backoff).await?;
                let mut text = if self.json { lines::json_line(&usage)? } else { shown(&usage, columns()) };
                if self.watch && is_terminal {
                    // The table is drawn over the previous one, so that it does not flicker.
                    text = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
                }
                let mut out = io::stdout().lock();
                let is_read = super::is_pipe_open(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
                if !self.watch || !is_read {
                    return Ok(());
                }
            }
        })?;
        Ok(ExitCode::from(exit::OK))
    }

    async fn ask(&self, client: &Client) -> Result<AllUsage, ClientError> {
        match &self.service {
            None => client.all_usage().await,
            Some(service) => {
                let usage = client.usage(service).await?;
                Ok(AllUsage { since: usage.since.clone(), host: None, services: vec![usage] })
            }
        }
    }
}

/// Returns the usage as text for a terminal of `columns`, or for a pipe.
fn shown(usage: &AllUsage, columns: Option<usize>) -> String {
    let mut text = tables(&usage.services, columns);
    for vm in usage.services.iter().filter_map(|service| service.vm.as_ref()) {
        if let Some(waiting) = &vm.waiting {
            text += &format!("{}: {waiting}\n", Printable(&vm.id));
        }
    }
    let resources = usage.host.as_ref().and_then(|host| host["resources"].as_object());
    for (resource, load) in resources.into_iter().flatten() {
        if let Some(percent) = load["utilisation_percent"].as_f64() {
            text += &format!("host {:<6} {}\n", Printable(resource).to_string(), gauge(percent, columns.is_some()));
        }
    }
    if let Some(since) = &usage.since {
        text += &format!("counted since {}, when the server started\n", Printable(since));
    }
    text
}

/// Returns a table of the services. On a terminal that is too narrow for it, it has no bars. If it is still too wide, as
/// always for a pipe, it is two tables: how full the VMs are, and what the services did.
fn tables(services: &[ServiceUsage], columns: Option<usize>) -> String {
    let rows = |has_bars| -> Vec<_> {
        std::iter::once(head()).chain(services.iter().map(|service| row(service, has_bars))).collect()
    };
    if let Some(columns) = columns {
        let whole = [true, false].into_iter().map(|has_bars| table::table(&rows(has_bars)));
        if let Some(whole) = whole.into_iter().find(|table| table::fits(table, columns)) {
            return whole;
        }
    }
    let part = |columns_of: fn(&[String]) -> Vec<String>| {
        let part: Vec<_> = rows(false).iter().map(|row| columns_of(row)).collect();
        columns.map_or_else(|| table::table(&part), |columns| table::folded_table(&part, columns))
    };
    let of_vms = part(|row| row[..VM_COLUMNS].to_vec());
    let counted = part(|row| [&row[..1], &row[VM_COLUMNS..]].concat());
    format!("{of_vms}\n{counted}")
}

fn head() -> Vec<String> {
    let resources = Resource::ALL.map(|resource| resource.to_string());
    let of_service = ["service", "vm", "machine"].map(str::to_owned);
    let counted = ["queue", "ok", "refused", "failed", "denied", "failovers"].map(str::to_owned);
    of_service.into_iter().chain(resources).chain(counted).collect()
}

fn row(usage: &ServiceUsage, has_bars: bool) -> Vec<String> {
    let resource = |resource: Resource| {
        let used = usage.vm.as_ref().and_then(|vm| vm.resources.get(&resource.to_string()));
        used.map_or("-".into(), |ResourceUsage { utilisation_percent, .. }| gauge(*utilisation_percent, has_bars))
    };
    let outcome = |name: &str| grouped(usage.outcomes.get(name).copied().unwrap_or(0));
    let of_vm = |part: fn(&lifeboat_api::http::Vm) -> &String| {
        usage.vm.as_ref().map_or("-".into(), |vm| Printable(part(vm)).to_string())
    };
    let of_service = [Printable(&usage.service).to_string(), of_vm(|vm| &vm.id), of_vm(|vm| &vm.machine)];
    let counted = [
        grouped(usage.queue_length as u64),
        outcome("ok"),
        outcome("refused"),
        outcome("failed"),
        outcome("denied"),
        grouped(usage.failovers.values().sum()),
    ];
    of_service.into_iter().chain(Resource::ALL.map(resource)).chain(counted).collect()
}

/// Formats a percentage, with a bar before it if it `has_bar`.
fn gauge(percent: f64, has_bar: bool) -> String {
    if !has_bar {
        return format!("{percent:.1}%");
    }
    // A bar is between empty and full, whatever the server reports.
    let full = (percent.clamp(0.0, 100.0) / 100.0 * BAR_CHARS as f64).round() as usize;
    format!("{}{} {percent:>5.1}%", "#".repeat(full), ".".repeat(BAR_CHARS - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_shown_only_if_it_is_in_the_answer() {
        let load = serde_json::json!({ "used": 1, "limit": 2, "unit": "bytes", "utilisation_percent": 50.0 });
        let host = Some(serde_json::json!({ "resources": { "disk": load }, "under_pressure": [] }));
        let all = AllUsage { since: Some("2026-03-01T12:00:00Z".into()), host, services: Vec::new() };
        let text = shown(&all, None);
        let end = "\nhost disk   50.0%\ncounted since 2026-03-01T12:00:00Z, when the server started\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!(shown(&AllUsage { host: None, ..all }, None).lines().count(), 4);
    }

    /// Returns the usage of a service that has a VM, if `has_vm`.
    fn service(name: &str, has_vm: bool) -> ServiceUsage {
        let resource = serde_json::json!({ "used": 99, "limit": 100, "unit": "bytes", "utilisation_percent": 99.0 });
        let vm = serde_json::json!({
            "id": format!("{name}/1234"), "machine": "machine-west", "size": "small", "sequence": 1,
            "snapshot_sequence": 0,
            "resources": { "cpu": resource, "network": resource, "memory": resource, "disk": resource },
            "degraded": null, "unmovable": null, "journal_filling": null, "journal_full": false, "stopped": null,
        });
        let usage = serde_json::json!({
            "service": name, "since": "2026-03-01T12:00:00Z", "vm": if has_vm { vm } else { serde_json::Value::Null },
            "queue_length": 64, "outcomes": { "ok": 123_456_789, "refused": 1_234, "failed": 56, "denied": 7_890 },
            "sla_failures": {}, "failovers": { "cpu": 1_233 },
        });
        serde_json::from_value(usage).expect("as a server sends it")
    }

    #[test]
    fn a_pipe_gets_two_tables_of_80_columns_with_every_value() {
        let services = [service("abcdefghijkl", true), service("bank", false)];
        let text = tables(&services, None);
        assert!(table::fits(&text, 80), "{text}");
        let expected = "\
service       vm                 machine       cpu    network  memory  disk
abcdefghijkl  abcdefghijkl/1234  machine-west  99.0%  99.0%    99.0%   99.0%
bank          -                  -             -      -        -       -

service       queue  ok           refused  failed  denied  failovers
abcdefghijkl  64     123,456,789  1,234    56      7,890   1,233
bank          64     123,456,789  1,234    56      7,890   1,233
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_narrow_terminal_loses_the_bars_first_and_no_value() {
        let services = [service("abcdefghijkl", true)];
        let whole = tables(&services, Some(300));
        assert!(whole.contains("##########  99.0%") && whole.lines().count() == 2, "{whole}");
        let width = whole.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let narrower = tables(&services, Some(width - 1));
        assert!(!narrower.contains('#') && narrower.lines().count() == 2, "{narrower}");
        assert_eq!(tables(&services, Some(80)), tables(&services, None));
        let folded = tables(&services, Some(40));
        assert!(table::fits(&folded, 40), "{folded}");
        let values = |text: &str| {
            let words = text.split_whitespace().filter(|word| word.contains(|it: char| it.is_ascii_digit()));
            words.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(values(&folded), values(&tables(&services, None)));
    }

    #[test]
    fn bars_are_as_full_as_what_they_show() {
        assert_eq!(gauge(0.0, true), "..........   0.0%");
        assert_eq!(gauge(54.99, true), "#####.....  55.0%");
        assert_eq!(gauge(250.0, true), "########## 250.0%");
        assert_eq!(gauge(f64::NAN, true), "..........   NaN%");
        assert_eq!(gauge(98.25, false), "98.2%");
    }
}
