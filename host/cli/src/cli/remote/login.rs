//! The server and the user of a command, from the profile and the variables that override it.

use super::super::UsageError;
use super::client;
use lifeboat_api::text::Printable;
use lifeboat_client::{Client, Profile, ProfileError, Server};
use std::path::PathBuf;
use thiserror::Error;

/// The error that nobody is logged in.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct NotLoggedIn(pub(super) String);

/// Returns the path of the profile.
fn profile_place() -> anyhow::Result<PathBuf> {
    Profile::place(|name| std::env::var_os(name)).map_err(|error| UsageError(error.to_string()).into())
}

/// Reads the profile, and returns it with its path.
pub(crate) fn profile() -> anyhow::Result<(PathBuf, Option<Profile>)> {
    let place = profile_place()?;
    let profile = Profile::read(&place).map_err(|error| match error {
        error @ ProfileError::Io { .. } => anyhow::Error::from(error),
        error => UsageError(error.to_string()).into(),
    })?;
    Ok((place, profile))
}

/// Reads an environment variable. An empty one counts as unset.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    let Some(value) = super::super::variable(name) else { return Ok(None) };
    let value = value.into_string();
    value.map(Some).map_err(|_| UsageError(format!("the variable {name} is not UTF-8 text")).into())
}

/// The environment variable that replaces `--ca`.
pub(crate) const CA_VARIABLE: &str = "LIFEBOAT_CA";

/// Returns the file of certificates that the environment names.
pub(crate) fn ca_variable() -> Option<PathBuf> {
    super::super::variable(CA_VARIABLE).map(PathBuf::from)
}

/// The server of a command, and its token, if there is one.
pub(crate) struct Login {
    pub(crate) server: Server,
    pub(crate) token: Option<String>,
}

impl Login {
    /// Reads the login from the environment, and otherwise from the profile. A profile's token is used only for the
    /// profile's server.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let (url, token) = (variable("LIFEBOAT_SERVER")?, variable("LIFEBOAT_TOKEN")?);
        // With both variables set, no profile is needed.
        let profile = if url.is_some() && token.is_some() { None } else { profile()?.1 };
        let Some(url) = url.or_else(|| profile.as_ref().map(|profile| profile.url.clone())) else {
            let text = "you are not logged in, and no server is named: run lifeboat login --server URL, or set \
                        LIFEBOAT_SERVER and LIFEBOAT_TOKEN";
            return Err(NotLoggedIn(text.into()).into());
        };
        let of_profile = profile.filter(|profile| Server::is_same(&profile.url, &url));
        let ca = ca_variable().or_else(|| of_profile.as_ref().and_then(|profile| profile.ca.clone()));
        let token = token.or_else(|| of_profile.and_then(|profile| profile.token));
        Ok(Self { server: Server { url, ca }, token })
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let Some(token) = &self.token else {
            // An invalid URL is reported before a missing login.
            client(&self.server, None)?;
            let url = Printable(&self.server.url);
            return Err(
                NotLoggedIn(format!("you are not logged in at {url}: run lifeboat login --server {url}")).into()
            );
        };
        client(&self.server, Some(token))
    }
}
