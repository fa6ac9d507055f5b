//! `lifeboat events` and `logs`: print what happens to the services of the server.

use super::remote::{Waiting, with_server};
use super::{exit, is_pipe_open, output};
use clap::Args;
use futures::StreamExt;
use lifeboat_api::lines;
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_client::{Event, EventFilter};
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Continue with new events; after a broken connection the command connects again, and the server sends all events
    /// that it retains and reports the others as a gap
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Show only the events of this service
    #[arg(long, value_name = "NAME")]
    service: Option<Name>,
    /// Print every event as JSON, one object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Continue with new lines
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Print every line as JSON, with its time
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

impl Events {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let service = self.service.map(|service| service.to_string());
        print_all(EventFilter { service, kind: None, follow: self.follow }, self.waiting, self.json)
    }
}

impl Logs {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (service, kind) = (Some(self.service.to_string()), Some("log".into()));
        print_all(EventFilter { service, kind, follow: self.follow }, self.waiting, self.json)
    }
}

fn print_all(filter: EventFilter, waiting: Waiting, json: bool) -> anyhow::Result<ExitCode> {
    // The bytes of a guest are printed unchanged.
    let is_folded = !json && filter.kind.is_none();
    with_server(async |client| {
        let backoff = waiting.backoff(filter.follow);
        let mut events = client.events(filter, None, backoff);
        while let Some(event) = events.next().await {
            let line = shown(&event?, json);
            let line = if is_folded { output::fitting(line) } else { line };
            let mut out = io::stdout().lock();
            if !is_pipe_open(out.write_all(line.as_bytes()).and_then(|()| out.flush()))? {
                break;
            }
        }
        Ok(())
    })?;
    Ok(ExitCode::from(exit::OK))
}

fn shown(event: &Event, json: bool) -> String {
    let Event { id, kind, data } = event;
    if json {
        let mut data = data.clone();
        if let Value::Object(fields) = &mut data {
            fields.insert("id".into(), Value::from(&**id));
        }
        return lines::json_line(&data).expect("it was JSON");
    }
    let field = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let text = match field("text") {
        "" => kind,
        text => text,
    };
    format!("{} {}\n", Printable(field("time")), Printable(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_lines_with_their_time() {
        let data = json!({ "event": "movable", "time": "2026-03-01T12:00:00Z", "text": "Movable: \u{1b}[2J" });
        let event = Event { id: "5-7".into(), kind: "movable".into(), data };
        assert_eq!(shown(&event, false), "2026-03-01T12:00:00Z Movable: \\u{1b}[2J\n");
        let line: Value = serde_json::from_str(&shown(&event, true)).expect("JSON");
        assert_eq!((&line["id"], &line["event"]), (&json!("5-7"), &json!("movable")));
    }
}
