//! Log-ins, users and grants.

use super::connections::{Connection, UNAUTHENTICATED_IDLE_MAX};
use super::problem::Problem;
use super::{Shared, body, input, lists, path};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use lifeboat_api::access::{Grant, PASSWORD_CHARS_MAX};
use lifeboat_api::clock::Utc;
use lifeboat_api::http::{Grants, LogInReply, LogInRequest, NewPassword, NewUser, User, Users, WhoAmI};
use lifeboat_host::auth::{Account, Identity, Salt};
use lifeboat_vm::engine::joined;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// The maximum length of the body of a request about users, in bytes. It has room for two of the longest passwords,
/// even if all their characters are escaped.
pub const USER_BODY_BYTES_MAX: usize = 32 * 1024;

/// The maximum length of the body of a log-in, in bytes, which anyone can send. It has room for one of the longest
/// passwords.
pub const LOG_IN_BODY_BYTES_MAX: usize = 16 * 1024;

/// The maximum length of an escaped character in JSON, in bytes: `\ud83d\ude00`.
const ESCAPED_CHAR_BYTES_MAX: usize = 12;

const _: () = {
    let password_bytes_max = ESCAPED_CHAR_BYTES_MAX * PASSWORD_CHARS_MAX;
    // The rest is for a name and for the names of the fields.
    assert!(password_bytes_max + 1024 <= LOG_IN_BODY_BYTES_MAX);
    assert!(2 * password_bytes_max + 1024 <= USER_BODY_BYTES_MAX);
};

/// The number of services with grants whose data takes as much as one entry of a list. The entry of a service, its
/// name, and both as JSON take up to 1 KiB.
const GRANTS_PER_ENTRY: usize = 4;

pub(super) async fn log_in(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Arc<Connection>>,
    body: Body,
) -> Result<Json<LogInReply>, Problem> {
    // This is the only limit that applies before the user is known.
    let time_max = shared.config.server.limits.body_deadline.min(UNAUTHENTICATED_IDLE_MAX);
    let LogInRequest { user, password } = json_within(&connection, body, LOG_IN_BODY_BYTES_MAX, time_max).await?;
    let random = random()?;
    let logged_in = blocking(&shared, move |shared| {
        shared.accounts.log_in(&user, &password, connection.address.ip(), shared.clock.read(), random)
    });
    let logged_in = logged_in.await?;
    let Identity { user, is_admin, expires, .. } = logged_in.identity;
    Ok(Json(LogInReply {
        token: logged_in.token.reveal().to_owned(),
        user: user.to_string(),
        is_admin,
        expires: format!("{:.0}", Utc(expires)),
    }))
}

pub(super) async fn log_out(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
) -> Result<StatusCode, Problem> {
    blocking(&shared, move |shared| shared.accounts.log_out(&identity.token)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn who_am_i(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<WhoAmI>, Problem> {
    let account = shared.accounts.account(&identity.user);
    Ok(Json(WhoAmI {
        user: identity.user.to_string(),
        is_admin: identity.is_admin,
        grants: account.map(|account| grants(&account)).unwrap_or_default(),
        expires: format!("{:.0}", Utc(identity.expires)),
    }))
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, Problem> {
    let user = |account: Account| User {
        user: account.user.to_string(),
        is_admin: account.is_admin,
        grants: grants(&account),
    };
    let list = async { Ok(Users { users: shared.accounts.list().into_iter().map(user).collect() }) };
    let entries = shared.accounts.users() + shared.accounts.granted_services().div_ceil(GRANTS_PER_ENTRY);
    lists::list(&shared.long_lists, &lists::audience(&shared, Some(&identity)), entries, list).await
}

pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    body: Body,
) -> Result<(StatusCode, Json<User>), Problem> {
    let NewUser { user, password, is_admin } = json(&shared, &connection, body).await?;
    // The body may have taken a minute, in which the token may have become void.
    shared.host.authorise_admin(&identity)?;
    let name = path::name(&user)?;
    let salt = salt()?;
    blocking(&shared, move |shared| shared.accounts.add_user(&name, &password, is_admin, shared.clock.now(), &salt))
        .await?;
    Ok((StatusCode::CREATED, Json(User { user, is_admin, grants: Grants::new() })))
}

/// Changes a password: the user's own, with the old one; or, as an admin, that of any other user.
pub(super) async fn set_password(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    Path(user): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let is_own = *identity.user == *user;
    // Checked before the body is read, and again afterwards, since the token may have become void meanwhile.
    let may = || match is_own {
        true => shared.host.authenticate_hash(&identity.token).map(drop),
        false => shared.host.authorise_admin(&identity),
    };
    may()?;
    let NewPassword { password, old } = json(&shared, &connection, body).await?;
    may()?;
    // Checked even where the old password is not used.
    if old.as_deref().is_some_and(|old| old.chars().count() > PASSWORD_CHARS_MAX) {
        let text = format!(
            "\"old\" has more than {PASSWORD_CHARS_MAX} characters, which no password has; send the present password"
        );
        return Err(Problem::bad_request("old_password", text));
    }
    let salt = salt()?;
    if !is_own {
        blocking(&shared, move |shared| shared.accounts.set_password(&user, &password, &salt)).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let old = old.ok_or_else(|| {
        let text = "a change of your own password needs the old one; send it as \"old\"";
        Problem::new(StatusCode::FORBIDDEN, "old_password", text)
    })?;
    blocking(&shared, move |shared| {
        let now = shared.clock.read();
        shared.accounts.change_password(&identity.user, &old, &password, connection.address.ip(), now, &salt)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn grant(
    State(shared): State<Arc<Shared>>,
    Path((user, service, grant)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let (service, grant) = (path::name(&service)?, path::grant(&grant)?);
    blocking(&shared, move |shared| shared.accounts.grant(&user, &service, grant)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    Path((user, service, grant)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let grant = path::grant(&grant)?;
    blocking(&shared, move |shared| shared.accounts.revoke(&user, &service, grant)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(State(shared): State<Arc<Shared>>, Path(user): Path<String>) -> Result<StatusCode, Problem> {
    blocking(&shared, move |shared| shared.accounts.remove_user(&user)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn grants(account: &Account) -> Grants {
    let words =
        |grants: &std::collections::BTreeSet<Grant>| grants.iter().map(|grant| grant.word().to_owned()).collect();
    account.grants.iter().map(|(service, grants)| (service.to_string(), words(grants))).collect()
}

/// Reads a short JSON body. The connection may be replaced meanwhile, like an idle one.
pub(super) async fn json<T: DeserializeOwned + JsonSchema>(
    shared: &Shared,
    connection: &Connection,
    body: Body,
) -> Result<T, Problem> {
    json_within(connection, body, USER_BODY_BYTES_MAX, shared.config.server.limits.body_deadline).await
}

async fn json_within<T: DeserializeOwned + JsonSchema>(
    connection: &Connection,
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<T, Problem> {
    let receiving = connection.receiving();
    let bytes = body::read(body, bytes_max, time_max).await?;
    drop(receiving);
    input::json(&bytes)
}

/// Runs `work` on a thread that may block: it hashes passwords and writes the catalog.
async fn blocking<T: Send + 'static, E: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let shared = Arc::clone(shared);
    joined(tokio::task::spawn_blocking(move || work(&shared))).await
}

fn random() -> Result<[u8; 32], Problem> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Problem::later("no_randomness", format!("no random numbers are available: {error}")))?;
    Ok(bytes)
}

fn salt() -> Result<Salt, Problem> {
    let mut salt = Salt::default();
    let length = salt.len();
    salt.copy_from_slice(&random()?[..length]);
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::connections::Connections;
    use futures::{FutureExt, stream};
    use lifeboat_host::budget::Budgets;
    use std::net::SocketAddr;

    #[tokio::test]
    async fn a_connection_whose_short_body_does_not_come_keeps_nobody_out() {
        let connections = Connections::new(1, 1, Budgets::default());
        let address = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let place = connections.take(address(1)).expect("free");
        let _busy = place.connection.busy();
        assert!(connections.take(address(2)).is_none(), "a request is under way");
        let body = Body::from_stream(stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        let mut read = Box::pin(json_within::<LogInRequest>(&place.connection, body, 1, Duration::from_secs(60)));
        assert!(read.as_mut().now_or_never().is_none(), "it does not come");
        assert!(connections.take(address(2)).is_some());
    }
}
