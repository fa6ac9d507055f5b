//! `lifeboat doubts`: the calls in doubt of a service of the server, and what an operator knows about them.

use super::remote::with_server;
use super::table::terminal_table;
use super::{UsageError, exit, output};
use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{ArgGroup, Args};
use lifeboat_api::http::{Doubt, SETTLED_BODY_BYTES_MAX, SettleRequest, SettledResponse};
use lifeboat_api::name::Name;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_api::text::{Printable, SHOWN_CHARS_MAX, shortened};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

/// Arguments of `doubts`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("known").args(["not_sent", "answered"]).requires("settle"))]
pub(crate) struct Doubts {
    /// Settle the call INDEX of the transaction ID: say with --not-sent or --answered what is known about it
    #[arg(long, value_name = "ID/INDEX", requires = "known")]
    settle: Option<Call>,
    /// The call was not made: the next attempt of the transaction makes it
    #[arg(long)]
    not_sent: bool,
    /// The call was made, and this is the status of its response; FILE has its body, of at most 16 KiB
    #[arg(long, num_args = 1..=2, value_names = ["STATUS", "FILE"])]
    answered: Vec<String>,
    /// The user who sent the transaction, if transactions of several users have the id
    #[arg(long, value_name = "NAME", requires = "settle")]
    user: Option<Name>,
    /// Print the calls in doubt as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
}

/// A call, as `doubts` takes it: `ID/INDEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    id: String,
    index: u32,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An id may have a slash.
        let parts = text.rsplit_once('/').and_then(|(id, index)| Some((id, index.parse().ok()?)));
        match parts {
            Some((id, index)) if !id.is_empty() => Ok(Self { id: id.to_owned(), index }),
            _ => {
                let shown = shortened(text, SHOWN_CHARS_MAX);
                Err(format!("'{shown}' is not a call: write the id of its transaction and its index, such as t-1/0"))
            }
        }
    }
}

impl Doubts {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let request = self.request()?;
        with_server(async |client| {
            let doubts = match &request {
                Some(request) => client.settle(&self.service, request).await?,
                None => client.doubts(&self.service).await?,
            };
            if let Some(Call { id, index }) = &self.settle {
                output::note(&format!("call {index} of transaction '{}' is settled", Printable(id)));
            }
            if doubts.is_empty() && !self.json {
                output::note(&format!("no call of {} is in doubt", self.service));
            }
            output::print(self.json, &json!({ "doubts": doubts }), || shown(&doubts))
        })?;
        Ok(ExitCode::from(exit::OK))
    }

    fn request(&self) -> anyhow::Result<Option<SettleRequest>> {
        let Some(Call { id, index }) = self.settle.clone() else { return Ok(None) };
        let answered = match &self.answered[..] {
            [] => None,
            [status, rest @ ..] => {
                let number = status.parse().ok().filter(|status| (100..600).contains(status));
                let shown = shortened(status, SHOWN_CHARS_MAX);
                let status = number.ok_or_else(|| {
                    UsageError(format!("'{shown}' is no status of a response; write a number from 100 to 599"))
                })?;
                let body = rest.first().map(|file| read(Path::new(file))).transpose()?.unwrap_or_default();
                Some(SettledResponse { status, body: BASE64_STANDARD.encode(body) })
            }
        };
        let user = self.user.as_ref().map(ToString::to_string);
        Ok(Some(SettleRequest { user, id, index, answered }))
    }
}

/// Reads the body of a response.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("the body `{}`", path.display().to_string().escape_debug());
    let mut body = Vec::new();
    let file = File::open(path).with_context(context)?;
    file.take(SETTLED_BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body).with_context(context)?;
    if body.len() > SETTLED_BODY_BYTES_MAX {
        let max = ByteCount(SETTLED_BODY_BYTES_MAX as u64);
        return Err(UsageError(format!("{} has more than {max}; shorten it", context())).into());
    }
    Ok(body)
}

fn shown(doubts: &[Doubt]) -> String {
    if doubts.is_empty() {
        return String::new();
    }
    let head = ["call", "user", "time", "method", "target"].map(str::to_owned).to_vec();
    let row = |doubt: &Doubt| {
        vec![
            format!("{}/{}", Printable(&doubt.id), doubt.index),
            Printable(&doubt.user).to_string(),
            Printable(&doubt.time).to_string(),
            Printable(&doubt.method).to_string(),
            Printable(&doubt.target).to_string(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(doubts.iter().map(row)).collect();
    terminal_table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_an_id_and_an_index() {
        let call = |id: &str, index| Ok(Call { id: id.into(), index });
        for (text, expected) in [("t-1/0", call("t-1", 0)), ("a/b/12", call("a/b", 12))] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", "/", "/1", "t", "t/", "t/x", "t/-1", "t/4294967296"] {
            let error = text.parse::<Call>().expect_err(text);
            assert!(error.contains("such as t-1/0"), "{error}");
        }
    }
}
