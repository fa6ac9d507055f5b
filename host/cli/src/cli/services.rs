//! `lifeboat services`: lists the services of the server.

use super::remote::with_server_or_data;
use super::table::terminal_table;
use super::{exit, output};
use clap::Args;
use lifeboat_api::http::{Service, ServiceState, Vm};
use lifeboat_api::meter::Resource;
use lifeboat_api::size::grouped;
use lifeboat_api::text::Printable;
use serde::Serialize;
use serde_json::{Value, json};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The command lists the services on which you have a grant. Lines below the table report why a service does not run, and
the remedy. `lifeboat data services` lists the services of a data directory.";

/// Arguments of `services`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Services {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Services {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let is_sound = with_server_or_data("services", async |client| {
            let services = client.services().await?;
            if services.is_empty() && !self.json {
                output::note(
                    "there is no service, or none on which you have a grant; an admin can create one: lifeboat deploy \
                     SERVICE WORKLOAD",
                );
            }
            output::print(self.json, &json!({ "services": services }), || services_table(&services))?;
            Ok(services.iter().all(is_well))
        })?;
        Ok(ExitCode::from(if is_sound { exit::OK } else { exit::SOME_NOT_OK }))
    }
}

fn services_table(services: &[Service]) -> String {
    let head = ["name", "state", "vm", "machine", "size", "failover", "last", "snapshot"].map(str::to_owned);
    let resources = Resource::ALL.map(|resource| resource.to_string());
    let mut rows = vec![head.into_iter().chain(resources.clone()).collect::<Vec<_>>()];
    rows.extend(services.iter().map(|service| {
        let of_vm = |part: &dyn Fn(&Vm) -> String| service.vm.as_ref().map_or("-".into(), part);
        let percent = |name: &str| {
            of_vm(&|vm| vm.resources.get(name).map_or("-".into(), |used| format!("{:.1}%", used.utilisation_percent)))
        };
        let of_service = [
            Printable(&service.name).to_string(),
            word(&service.state),
            of_vm(&|vm| Printable(&vm.id).to_string()),
            of_vm(&|vm| Printable(&vm.machine).to_string()),
            of_vm(&|vm| Printable(&vm.size).to_string()),
            Printable(&service.failover).to_string(),
            of_vm(&|vm| grouped(vm.sequence)),
            of_vm(&|vm| grouped(vm.snapshot_sequence)),
        ];
        of_service.into_iter().chain(resources.iter().map(|resource| percent(resource))).collect()
    }));
    let mut text = terminal_table(&rows);
    for service in services {
        text += &conditions(service);
    }
    text
}

/// Returns one line about a service.
pub(crate) fn service_line(service: &Service) -> String {
    let state = word(&service.state);
    let place = service.vm.as_ref().map_or_else(
        || service.reason.as_ref().map_or(String::new(), |reason| format!(": {}", Printable(reason))),
        |vm| {
            let Vm { id, machine, size, sequence, .. } = vm;
            let (id, machine, size) = (Printable(id), Printable(machine), Printable(size));
            format!(": {id} on {machine} ({size}), transaction {}", grouped(*sequence))
        },
    );
    let mut text = format!("{}: {state}{place}\n", Printable(&service.name));
    if service.vm.is_some() {
        text += &conditions(service);
    }
    text
}

/// Returns whether a service can serve, or an operator has stopped it.
pub(crate) fn is_well(service: &Service) -> bool {
    service.state != ServiceState::Quarantined && service.vm.as_ref().is_none_or(|vm| vm.stopped.is_none())
}

/// Returns the conditions of a service, a line each.
fn conditions(service: &Service) -> String {
    let vm = service.vm.as_ref();
    let journal = vm.and_then(|vm| {
        let condition = if vm.journal_full { "journal full" } else { "journal filling" };
        vm.journal_filling.as_ref().map(|text| format!("{condition}: {text}"))
    });
    let waiting = vm.and_then(|vm| vm.waiting.as_ref()).map(ToString::to_string);
    let doubts = vm
        .filter(|vm| vm.calls_in_doubt > 0)
        .map(|vm| format!("calls in doubt: {}; lifeboat doubts {} lists them", vm.calls_in_doubt, service.name));
    let of_state = if service.state == ServiceState::Quarantined { "quarantined: " } else { "" };
    let conditions = [
        (of_state, &service.reason),
        ("degraded: ", vm.map_or(&None, |vm| &vm.degraded)),
        ("unmovable: ", vm.map_or(&None, |vm| &vm.unmovable)),
        ("", &journal),
        ("", &doubts),
        ("", &waiting),
    ];
    let mut text = String::new();
    for (condition, reason) in conditions {
        if let Some(reason) = reason {
            text += &format!("{}: {condition}{}\n", Printable(&service.name), Printable(reason));
        }
    }
    text
}

/// Returns a value that is one word in JSON.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_server_cannot_drive_a_terminal() {
        let evil = "\u{1b}[2J\u{9b}2J\n";
        let service: Service = serde_json::from_value(serde_json::json!({
            "name": evil, "workload": evil, "state": "running", "failover": evil, "reason": evil,
            "vm": {
                "id": evil, "machine": evil, "size": evil, "sequence": 1, "snapshot_sequence": 1, "resources": {},
                "degraded": evil, "unmovable": evil, "stopped": evil,
            },
        }))
        .expect("a service");
        let stopped = Service { vm: None, ..service.clone() };
        for text in [service_line(&service), service_line(&stopped), services_table(&[service, stopped])] {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }

    #[test]
    fn a_journal_that_fills_up_is_shown_with_its_service() {
        let mut service: Service = serde_json::from_value(serde_json::json!({
            "name": "bank", "workload": "", "state": "running", "failover": "auto",
            "vm": {
                "id": "bank/1", "machine": "m1", "size": "small", "sequence": 1, "snapshot_sequence": 0, "resources": {},
                "degraded": null, "unmovable": null, "stopped": null, "journal_filling": "half", "journal_full": false,
            },
        }))
        .expect("a service");
        assert!(service_line(&service).ends_with("\nbank: journal filling: half\n"));
        service.vm.as_mut().expect("it serves").journal_full = true;
        assert!(services_table(&[service]).ends_with("\nbank: journal full: half\n"));
    }
}
