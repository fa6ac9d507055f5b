//! `lifeboat login`, `logout` and `whoami`: the profile and its token.

use super::remote::{self, Login as Found, Passwords, SERVER_DEFAULT, with_server};
use super::{UsageError, exit, output};
use anyhow::Context;
use clap::Args;
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_client::{ClientError, Profile, Server};
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The token is stored in a file that only its owner can read: $LIFEBOAT_PROFILE, or lifeboat/profile.toml in
$XDG_CONFIG_HOME or ~/.config. The variables LIFEBOAT_SERVER, LIFEBOAT_TOKEN and LIFEBOAT_CA override its contents. The
token of a profile is sent only to the server of that profile.

For a server whose certificate is not signed by an authority that the system trusts, name the certificate of that
authority, or the server's own, as PEM with --ca FILE. The profile stores the name of the file, which must stay where it
is.";

/// Arguments of `login`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Login {
    /// The server [default: $LIFEBOAT_SERVER, the server of the last log-in, or http://127.0.0.1:7098]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The user [default: that of the last log-in; otherwise the command asks]
    #[arg(long, value_name = "NAME")]
    user: Option<Name>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// Certificates (PEM) to trust in addition to those of the system [default: $LIFEBOAT_CA, or those of the last
    /// log-in there]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print the result as JSON, without the token
    #[arg(long)]
    json: bool,
}

impl Login {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let (place, before) = remote::profile()?;
        let url = match self.server.map_or_else(|| remote::variable("LIFEBOAT_SERVER"), |url| Ok(Some(url)))? {
            Some(url) => url,
            None => before.as_ref().map_or_else(|| SERVER_DEFAULT.into(), |profile| profile.url.clone()),
        };
        let before = before.filter(|profile| Server::is_same(&profile.url, &url));
        let is_ca_named = self.ca.is_some();
        let ca = match self.ca.or_else(remote::ca_variable) {
            // The path must be valid from any folder.
            Some(file) => Some(std::path::absolute(&file).context("cannot determine the current folder")?),
            None => before.as_ref().and_then(|profile| profile.ca.clone()),
        };
        let server = Server { url, ca };
        let client = remote::client(&server, None)?;
        let (url, ca) = (client.url().to_owned(), server.ca.clone());
        if is_ca_named && url.starts_with("http:") {
            let text = format!("--ca is for a server with TLS, and {url} has none: write https://, or leave --ca out");
            return Err(UsageError(text).into());
        }
        // The password is sent only to a Lifeboat server that answers.
        let asking = remote::client(&server, None)?;
        remote::block_on(async {
            match asking.who_am_i().await {
                Ok(_) | Err(ClientError::Problem { .. }) => Ok(()),
                Err(error) => Err(unreachable(error).into()),
            }
        })?;
        if client.is_in_the_clear() {
            output::note(&format!("lifeboat: {url} is not encrypted: others may read the password and the token"));
        }
        let user = match (self.user, before.and_then(|profile| profile.user)) {
            (Some(user), _) => String::from(user),
            (None, Some(user)) => user,
            (None, None) => String::from(ask_user()?),
        };
        let password =
            Passwords { from_stdin: self.password_stdin }.ask(&format!("Password of {}", Printable(&user)))?;
        let reply = remote::block_on(async {
            client.log_in(&user, &password).await.map_err(|error| unreachable(error).into())
        })?;
        let profile = Profile { url, user: Some(reply.user.clone()), token: Some(reply.token), ca };
        profile.write(&place)?;
        let shown = json!({
            "server": profile.url, "user": reply.user, "is_admin": reply.is_admin, "expires": reply.expires,
        });
        output::print(self.json, &shown, || {
            let role = if reply.is_admin { ", an admin," } else { "" };
            format!(
                "logged in at {} as {}{role} until {}",
                Printable(client.url()),
                Printable(&reply.user),
                Printable(&reply.expires)
            )
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// Returns the error of an unreachable server. A login that breaks off has no effect: at most it leaves a token that
/// nobody has.
fn unreachable(error: ClientError) -> ClientError {
    match error {
        ClientError::Interrupted { url, reason, .. } => ClientError::Unreachable { url, reason },
        error => error,
    }
}

fn ask_user() -> anyhow::Result<Name> {
    if !io::stdin().is_terminal() {
        return Err(UsageError("no user is named: use --user NAME".into()).into());
    }
    let mut err = io::stderr();
    write!(err, "User: ").and_then(|()| err.flush())?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(Name::new(line.trim()).map_err(UsageError)?)
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Logout {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let found = Found::find()?;
        let client = found.client()?;
        let logged_out = remote::block_on(async { Ok(client.log_out().await) })?;
        match logged_out {
            Ok(()) => {}
            // The token was void already.
            Err(ClientError::Problem { status: 401, .. }) => {}
            Err(error) => return Err(error).context("the token is still valid"),
        }
        let (place, profile) = remote::profile()?;
        if let Some(profile) = profile.filter(|profile| profile.token == found.token) {
            Profile { token: None, ..profile }.write(&place)?;
        }
        output::print(self.json, &json!({ "server": found.server.url }), || {
            format!("logged out at {}", Printable(client.url()))
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// Arguments of `whoami`.
#[derive(Debug, Args)]
pub(crate) struct WhoAmI {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl WhoAmI {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        with_server(async |client| {
            let me = client.who_am_i().await?;
            output::print(self.json, &me, || {
                let role = if me.is_admin { " (admin)" } else { "" };
                let (url, expires) = (Printable(client.url()), Printable(&me.expires));
                let mut text = format!("{}{role} at {url} until {expires}\n", Printable(&me.user));
                for (service, grants) in &me.grants {
                    let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
                    text += &format!("{}: {}\n", Printable(service), Printable(&grants.join(", ")));
                }
                text
            })
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}
