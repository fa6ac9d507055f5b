//! Which server commands talk to, and as whom: the profile and the variables that stand for it.

use super::super::UsageError;
use super::client;
use lifeboat_api::text::Printable;
use lifeboat_client::{Client, Profile, ProfileError, Server};
use std::path::PathBuf;
use thiserror::Error;

/// Nobody is logged in.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct NotLoggedIn(pub(super) String);

/// Where the profile is.
fn profile_place() -> anyhow::Result<PathBuf> {
    Profile::place(|name| std::env::var_os(name)).map_err(|error| UsageError(error.to_string()).into())
}

/// The profile, and where it is.
pub(crate) fn profile() -> anyhow::Result<(PathBuf, Option<Profile>)> {
    let place = profile_place()?;
    let profile = Profile::read(&place).map_err(|error| match error {
        error @ ProfileError::Io { .. } => anyhow::Error::from(error),
        error => UsageError(error.to_string()).into(),
    })?;
    Ok((place, profile))
}

/// A variable of the environment; an empty one is one that is not set.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.into_string();
    value.map(Some).map_err(|_| UsageError(format!("the variable {name} is not UTF-8 text")).into())
}

/// The variable that stands for `--ca`.
pub(crate) const CA_VARIABLE: &str = "LIFEBOAT_CA";

/// The file of certificates that the environment names.
pub(crate) fn ca_variable() -> Option<PathBuf> {
    std::env::var_os(CA_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Which server, and with which token, if there is one.
pub(crate) struct Login {
    pub(crate) server: Server,
    pub(crate) token: Option<String>,
}

impl Login {
    /// As the environment says, and else the profile. A profile's token goes to the profile's server alone.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let (url, token) = (variable("LIFEBOAT_SERVER")?, variable("LIFEBOAT_TOKEN")?);
        // Who says everything needs no profile.
        let profile = if url.is_some() && token.is_some() { None } else { profile()?.1 };
        let Some(url) = url.or_else(|| profile.as_ref().map(|profile| profile.url.clone())) else {
            let text = "nobody is logged in, and no server is named: run lifeboat login --server URL, or set LIFEBOAT_SERVER \
                        and LIFEBOAT_TOKEN";
            return Err(NotLoggedIn(text.into()).into());
        };
        let of_profile = profile.filter(|profile| Server::is_same(&profile.url, &url));
        let ca = ca_variable().or_else(|| of_profile.as_ref().and_then(|profile| profile.ca.clone()));
        let token = token.or_else(|| of_profile.and_then(|profile| profile.token));
        Ok(Self { server: Server { url, ca }, token })
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let Some(token) = &self.token else {
            // What is no URL is the first thing to mend.
            client(&self.server, None)?;
            let url = Printable(&self.server.url);
            return Err(NotLoggedIn(format!("nobody is logged in at {url}: run lifeboat login --server {url}")).into());
        };
        client(&self.server, Some(token))
    }
}
