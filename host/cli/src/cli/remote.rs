//! The server on the command line: how commands reach it, how long they wait for it, and the exit codes of its errors.

mod login;
mod passwords;
mod transactions;

pub(crate) use login::{Login, ca_variable, profile, variable};
pub(crate) use passwords::Passwords;
pub(crate) use transactions::print_answer;

use super::output::note;
use super::{arguments, exit};
use clap::Args;
use lifeboat_api::text::Printable;
use lifeboat_client::{Backoff, Client, ClientError, Notice, STARTING_BACKOFF, Server};
use login::NotLoggedIn;

/// The server of a login that names none.
pub(crate) const SERVER_DEFAULT: &str = "http://127.0.0.1:7098";

/// The attempts, for commands that a user waits for, at a server where nobody listens: about 3 s.
const PATIENCE: Backoff = Backoff { failures_max: 6, ..STARTING_BACKOFF };

/// The default attempts of requests: about half a minute, since a user may be watching.
const ATTEMPTS_DEFAULT: u32 = 12;

/// The default attempts of unattended commands: about two minutes, in which a restarted server comes back.
const ATTEMPTS_UNATTENDED: u32 = STARTING_BACKOFF.failures_max;

/// How long a server is waited for, of commands that let it be said.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Waiting {
    /// Try up to N times in a row while no server listens, it asks to retry later, or the connection breaks [default:
    /// 12, about half a minute; for batch, and with --follow or --watch, 30, about two minutes]. A starting server is
    /// waited for in any case, for about two minutes
    #[arg(long, value_name = "N", value_parser = arguments::attempts, allow_negative_numbers = true)]
    attempts: Option<u32>,
}

impl Waiting {
    pub(crate) fn backoff(self, is_unattended: bool) -> Backoff {
        let default = if is_unattended { ATTEMPTS_UNATTENDED } else { ATTEMPTS_DEFAULT };
        Backoff { failures_max: self.attempts.unwrap_or(default), ..STARTING_BACKOFF }
    }
}

/// Returns a client that waits briefly for a server where nobody listens, and notes on standard error what it waits
/// for.
pub(crate) fn client(server: &Server, token: Option<&str>) -> anyhow::Result<Client> {
    Ok(Client::new(server, token)?.with_patience(PATIENCE).with_notice(report_notice))
}

/// Notes that a command waits for the server, and why, or that the server is back.
pub(crate) fn report_notice(notice: Notice<'_>) {
    note(&match notice {
        // The interrupted request is sent again, or changes nothing.
        Notice::Waiting(ClientError::Interrupted { url, reason, .. }) => {
            format!("lifeboat: waiting for the server: the connection to {} broke: {reason}", Printable(url))
        }
        Notice::Waiting(error) => format!("lifeboat: waiting for the server: {error}"),
        Notice::Back => "lifeboat: the server answers again".into(),
        Notice::RunsAgain(answer) => {
            let cause = Printable(str::from_utf8(&answer.body).unwrap_or_default()).to_string();
            format!("lifeboat: the transaction failed, and will be sent again: {cause}")
        }
    });
}

/// Runs a future that communicates with a server.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A thread that reads standard input may never end.
    runtime.shutdown_background();
    result
}

/// Runs `work` with a client of the logged-in user.
pub(crate) fn with_server<T>(work: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let client = Login::find()?.client()?;
    block_on(work(client))
}

/// Returns the exit code for an error of the client.
pub(crate) fn code_of(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { .. } | ClientError::Refused { .. } | ClientError::Interrupted { .. } => {
            exit::UNREACHABLE
        }
        ClientError::Setup(_) | ClientError::Input(_) | ClientError::Ids(_) => exit::USAGE,
        ClientError::Problem { status: 401, code, .. } if code != "wrong_credentials" => exit::UNREACHABLE,
        ClientError::Problem { code, .. } if code == "workload_refused" => exit::WORKLOAD,
        // This holds also for a transaction, which is then denied: the command line names something that does not
        // exist.
        ClientError::Problem { code, .. } if matches!(&**code, "not_found" | "id_too_long" | "not_an_id") => {
            exit::USAGE
        }
        ClientError::Problem { outcome: Some(_), .. } => exit::SOME_NOT_OK,
        ClientError::Problem { status: 500.., .. } => exit::HOST,
        ClientError::Problem { status: 400 | 404 | 405, .. } => exit::USAGE,
        ClientError::Problem { .. } => exit::SOME_NOT_OK,
        _ => exit::HOST,
    }
}

/// Returns the exit code of an error about the server or the login, or None for other errors.
pub(crate) fn code_of_any(error: &anyhow::Error) -> Option<u8> {
    if error.is::<NotLoggedIn>() {
        return Some(exit::UNREACHABLE);
    }
    error.downcast_ref::<ClientError>().map(code_of)
}

/// Runs `work` as [`with_server`] does, for a command whose name `lifeboat data` also has.
pub(crate) fn with_server_or_data<T>(
    name: &str,
    work: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_server(work).map_err(|error| match error.downcast::<NotLoggedIn>() {
        Ok(NotLoggedIn(text)) => {
            NotLoggedIn(format!("{text}; for a data directory, run lifeboat data {name} --data DIR")).into()
        }
        Err(error) => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_api::transaction::Outcome;

    #[test]
    fn errors_of_the_client_have_their_exit_codes() {
        let problem = |status, code: &str, outcome| {
            code_of(&ClientError::Problem {
                status,
                code: code.into(),
                detail: String::new(),
                retry_after: None,
                outcome,
            })
        };
        assert_eq!(problem(401, "not_authenticated", Some(Outcome::Denied)), exit::UNREACHABLE);
        assert_eq!(problem(401, "wrong_credentials", None), exit::SOME_NOT_OK);
        assert_eq!(problem(403, "not_granted", Some(Outcome::Denied)), exit::SOME_NOT_OK);
        assert_eq!(problem(503, "stopped", Some(Outcome::Denied)), exit::SOME_NOT_OK);
        assert_eq!(problem(503, "storage", None), exit::HOST);
        assert_eq!(problem(404, "not_found", None), exit::USAGE);
        assert_eq!(problem(404, "not_found", Some(Outcome::Denied)), exit::USAGE);
        assert_eq!(problem(400, "id_too_long", Some(Outcome::Denied)), exit::USAGE);
        assert_eq!(problem(400, "not_an_id", None), exit::USAGE);
        assert_eq!(problem(400, "not_an_id", Some(Outcome::Denied)), exit::USAGE);
        assert_eq!(problem(422, "workload_refused", None), exit::WORKLOAD);
        assert_eq!(problem(409, "service_exists", None), exit::SOME_NOT_OK);
        let unreachable = ClientError::Unreachable { url: String::new(), reason: String::new() };
        assert_eq!(code_of_any(&anyhow::Error::from(unreachable).context("more")), Some(exit::UNREACHABLE));
        assert_eq!(code_of_any(&anyhow::anyhow!("else")), None);
    }
}
