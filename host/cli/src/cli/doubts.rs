//! `lifeboat doubts`: the calls in doubt of a service of the server, and what an operator knows about them.

use super::remote::with_server_or_data;
use super::services::word;
use super::table::terminal_table;
use super::{UsageError, exit, output};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{ArgGroup, Args};
use lifeboat_api::http::{Doubt, SETTLED_BODY_BYTES_MAX, SettleRequest, SettledResponse};
use lifeboat_api::name::Name;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_api::text::{Printable, SHOWN_CHARS_MAX, of_system, shortened};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

/// Arguments of `doubts`.
#[derive(Debug, Args)]
pub(crate) struct Doubts {
    #[command(flatten)]
    of: OfDoubts,
}

/// What `doubts` and `data doubts` have in common.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("known").args(["not_sent", "answered"]).requires("settle"))]
pub(crate) struct OfDoubts {
    /// Settle the call INDEX of the transaction ID: say with --not-sent or --answered what is known about it
    #[arg(long, value_name = "ID/INDEX", requires = "known")]
    pub(crate) settle: Option<Call>,
    /// The call was not made: the next attempt of the transaction makes it
    #[arg(long)]
    not_sent: bool,
    /// The call was made, and this is the status of its response
    #[arg(long, value_name = "STATUS", value_parser = status)]
    answered: Option<u16>,
    /// The body of the response, of at most 16 KiB [default: none]
    #[arg(long, value_name = "FILE", requires = "answered", conflicts_with = "not_sent")]
    body: Option<PathBuf>,
    /// The user who sent the transaction, if transactions of several users have the id
    #[arg(long, value_name = "NAME", requires = "settle")]
    pub(crate) user: Option<Name>,
    /// Print the calls in doubt as JSON
    #[arg(long)]
    json: bool,
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Name,
}

/// The response to a call, as an operator knows it.
pub(crate) struct Known {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A call, as `doubts` takes it: `ID/INDEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) index: u32,
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
        let Self { of } = self;
        let request = of.settle.clone().map(|Call { id, index }| {
            let answered = of
                .known()?
                .map(|Known { status, body }| SettledResponse { status, body: BASE64_STANDARD.encode(body) });
            Ok::<_, UsageError>(SettleRequest { user: of.user.as_ref().map(ToString::to_string), id, index, answered })
        });
        let request = request.transpose()?;
        with_server_or_data("doubts", async |client| {
            let doubts = match &request {
                Some(request) => client.settle(&of.service, request).await?,
                None => client.doubts(&of.service).await?,
            };
            of.print(&doubts)
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}

impl OfDoubts {
    /// Returns the response with which a call is settled. None if it was not made.
    ///
    /// # Errors
    /// Its body cannot be read, or is too long.
    pub(crate) fn known(&self) -> Result<Option<Known>, UsageError> {
        let Some(status) = self.answered else { return Ok(None) };
        Ok(Some(Known { status, body: self.body.as_deref().map(read).transpose()?.unwrap_or_default() }))
    }

    /// Prints what was settled, and the calls that are in doubt now.
    pub(crate) fn print(&self, doubts: &[Doubt]) -> anyhow::Result<()> {
        if let Some(Call { id, index }) = &self.settle {
            let then = if self.not_sent { "makes it" } else { "gets that response" };
            output::note(&format!(
                "call {index} of transaction '{}' is settled: the next attempt {then}; send the id again",
                Printable(id)
            ));
        }
        if doubts.is_empty() && !self.json {
            output::note(&format!("no call of {} is in doubt", self.service));
            return Ok(());
        }
        output::print(self.json, &json!({ "doubts": doubts }), || shown(doubts))
    }
}

/// Parses the status of a response.
fn status(text: &str) -> Result<u16, String> {
    let shown = shortened(text, SHOWN_CHARS_MAX);
    let wrong = || format!("'{shown}' is no status of a response; write a number from 200 to 599");
    text.parse().ok().filter(|status| (200..600).contains(status)).ok_or_else(wrong)
}

/// Reads the body of a response.
fn read(path: &Path) -> Result<Vec<u8>, UsageError> {
    let shown = path.display().to_string();
    let shown = Printable(&shown);
    let mut body = Vec::new();
    let opened = File::open(path).map(|file| file.take(SETTLED_BODY_BYTES_MAX as u64 + 1));
    opened.and_then(|mut file| file.read_to_end(&mut body)).map_err(|error| {
        UsageError(format!("the body '{shown}' cannot be read: {}; name a file with the body", of_system(&error)))
    })?;
    if body.len() > SETTLED_BODY_BYTES_MAX {
        let max = ByteCount(SETTLED_BODY_BYTES_MAX as u64);
        return Err(UsageError(format!("the body '{shown}' has more than {max}; shorten it")));
    }
    Ok(body)
}

fn shown(doubts: &[Doubt]) -> String {
    let head = ["call", "user", "time", "method", "target", "reason"].map(str::to_owned).to_vec();
    let row = |doubt: &Doubt| {
        vec![
            format!("{}/{}", Printable(&doubt.id), doubt.index),
            Printable(&doubt.user).to_string(),
            Printable(&doubt.time).to_string(),
            Printable(&doubt.method).to_string(),
            Printable(&doubt.target).to_string(),
            word(&doubt.reason),
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
