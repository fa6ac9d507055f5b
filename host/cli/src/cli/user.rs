//! `lifeboat user`: manages who may do what on the server.

use super::remote::{Passwords, with_server};
use super::{UsageError, data, exit, output, random_salt, table};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use lifeboat_api::http::{Grants, User as Account};
use lifeboat_api::name::Name;
use lifeboat_api::text::Printable;
use lifeboat_client::ClientError;
use lifeboat_host::auth::check_password;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `user`.
#[derive(Debug, Args)]
pub(crate) struct User {
    #[command(subcommand)]
    command: Command,
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all users, and what they may do.
    List,
    /// Add a user.
    Add {
        /// The user's name
        #[arg(value_name = "NAME")]
        user: Name,
        /// Make the user an admin, who may do everything
        #[arg(long)]
        admin: bool,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Change your own password or, as an admin, that of any user; all tokens of the user become void.
    Passwd {
        /// Change the password in this data directory, which no server has open: for an admin who forgot the password
        #[arg(long, value_name = "DIR", requires = "user")]
        data: Option<PathBuf>,
        /// The user's name [default: your own]
        #[arg(value_name = "NAME")]
        user: Option<Name>,
        /// Read passwords from standard input, one per line: for your own, first the old one, then the new one
        #[arg(long)]
        password_stdin: bool,
    },
    /// Grant a user access to a service, which may be deployed later.
    Grant(GrantOf),
    /// Revoke a grant.
    Revoke(GrantOf),
    /// Remove a user.
    Remove {
        /// The user's name
        #[arg(value_name = "NAME")]
        user: Name,
    },
}

#[derive(Debug, Args)]
struct GrantOf {
    /// The user's name
    #[arg(value_name = "NAME")]
    user: Name,
    /// The service
    #[arg(value_name = "SERVICE")]
    service: Name,
    /// The access: send transactions and queries; see usage and events; fail over, stop and start
    #[arg(value_name = "GRANT", required = true)]
    grants: Vec<GrantWord>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GrantWord {
    Transact,
    Observe,
    Operate,
}

impl GrantWord {
    fn word(self) -> &'static str {
        match self {
            Self::Transact => "transact",
            Self::Observe => "observe",
            Self::Operate => "operate",
        }
    }
}

impl User {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let json = self.json;
        if let Command::Passwd { data: Some(directory), user: Some(user), password_stdin } = &self.command {
            set_password(directory, user, Passwords { from_stdin: *password_stdin })?;
            output::print(json, &json!({ "user": user }), || format!("the password of {user} is changed"))?;
            return Ok(ExitCode::from(exit::OK));
        }
        with_server(async |client| match self.command {
            Command::List => {
                let users = client.users().await?;
                output::print(json, &json!({ "users": users }), || list(&users))
            }
            Command::Add { user, admin, password_stdin } => {
                let password = Passwords { from_stdin: password_stdin }.choose(&format!("Password for {user}"))?;
                let added = client.add_user(&user, &password, admin).await?;
                let role = if admin { "an admin" } else { "without a grant: lifeboat user grant gives some" };
                output::print(json, &added, || format!("added {user}, {role}"))
            }
            Command::Passwd { user, password_stdin, data: _ } => {
                let me = client.who_am_i().await?.user;
                let user = user.map_or_else(|| me.clone(), String::from);
                let passwords = Passwords { from_stdin: password_stdin };
                let old = if user == me { Some(passwords.ask("Old password")?) } else { None };
                let new = passwords.choose(&format!("New password of {}", Printable(&user)))?;
                client.set_password(&user, &new, old.as_deref()).await?;
                let again = if user == me { "; log in again: lifeboat login" } else { "" };
                output::print(json, &json!({ "user": user }), || format!("the password of {user} is changed{again}"))
            }
            Command::Grant(GrantOf { user, service, grants }) => {
                for grant in &grants {
                    client.grant(&user, &service, grant.word()).await?;
                }
                let words = words(&grants);
                // A grant may precede its service. Only the admin can judge whether that is a mistake. The grants stay,
                // whatever this request returns.
                let is_there = match client.service(&service).await {
                    Ok(_) => Some(true),
                    Err(ClientError::Problem { code, .. }) if code == "not_found" => Some(false),
                    Err(_) => None,
                };
                let shown = json!({ "user": user, "service": service, "granted": words, "service_exists": is_there });
                output::print(json, &shown, || {
                    let missing = if is_there == Some(false) {
                        format!("; there is no service '{service}' yet")
                    } else {
                        String::new()
                    };
                    format!("{user} may now {} {service}{missing}", words.join(", "))
                })
            }
            Command::Revoke(GrantOf { user, service, grants }) => {
                for grant in &grants {
                    client.revoke(&user, &service, grant.word()).await?;
                }
                let words = words(&grants);
                let shown = json!({ "user": user, "service": service, "revoked": words });
                output::print(json, &shown, || format!("{user} may no longer {} {service}", words.join(", ")))
            }
            Command::Remove { user } => {
                client.remove_user(&user).await?;
                output::print(json, &json!({ "user": user }), || format!("removed {user}"))
            }
        })?;
        Ok(ExitCode::from(exit::OK))
    }
}

/// Gives a user of a data directory a new password.
fn set_password(directory: &Path, user: &Name, passwords: Passwords) -> anyhow::Result<()> {
    let accounts = data::accounts(data::open(directory, false)?)?;
    if accounts.account(user).is_none() {
        let known: Vec<String> = accounts.list().into_iter().map(|account| account.user.to_string()).collect();
        let remedy = if known.is_empty() {
            "there are no users: run lifeboat init FOLDER, with the folder of this data directory, to add an admin"
                .into()
        } else {
            format!("the users are: {}", known.join(", "))
        };
        return Err(UsageError(format!("there is no user '{user}'; {remedy}")).into());
    }
    let password = passwords.choose(&format!("New password of {user}"))?;
    check_password(&password).map_err(|error| UsageError(error.to_string()))?;
    accounts.set_password(user, &password, &random_salt()?).context("cannot change the password")
}

fn words(grants: &[GrantWord]) -> Vec<&'static str> {
    grants.iter().map(|grant| grant.word()).collect()
}

fn list(users: &[Account]) -> String {
    let mut rows = vec![vec!["user".to_owned(), "role".into(), "grants".into()]];
    rows.extend(users.iter().map(|user| {
        let role = if user.is_admin { "admin" } else { "user" };
        vec![Printable(&user.user).to_string(), role.into(), grants(&user.grants)]
    }));
    table::terminal_table(&rows)
}

/// Formats grants: `bank: observe, transact; ledger: operate`.
fn grants(grants: &Grants) -> String {
    let of = |(service, words): (&String, &std::collections::BTreeSet<String>)| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Printable(&format!("{service}: {}", words.join(", "))).to_string()
    };
    grants.iter().map(of).collect::<Vec<_>>().join("; ")
}
