//! Lists, metrics and whatever else a `GET` tells: counted until its client has read it, beside answers to transactions.
//!
//! What grows with the services or users of a host takes room before it is made, for as much as it takes while it is made,
//! and keeps what it is long. The rest is short: it is counted once it is there.

use super::Shared;
use super::problem::Problem;
use crate::auth::Identity;
use crate::budget::{self, ANSWER_BYTES_MAX, Account, LIST_ENTRY_BYTES, ROOM_WAIT_MAX, UNCOUNTED_BYTES_MAX};
use axum::body::{Body, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use serde::Serialize;
use std::sync::Arc;

/// Marks a response that needs no more room: a list that has it; or the answer to a transaction or query, which was
/// executed, so it is sent whatever the budgets have room for.
#[derive(Clone, Copy)]
pub(super) struct IsCounted;

/// What the answers to a user are counted in that only tell how all is; of nobody, if no token is needed.
pub(super) fn account(shared: &Shared, identity: Option<&Identity>) -> Arc<Account> {
    let lists = &shared.lists;
    // A connection has one answer at a time.
    let connection = lists.connection();
    match identity {
        Some(identity) if identity.is_admin => lists.account_of_admin(&connection, &identity.user),
        Some(identity) => lists.account(&connection, &identity.user),
        None => lists.account_of_nobody(&connection),
    }
}

/// The JSON that `make` makes, once there is room for a list of so many entries.
///
/// # Errors
/// That of `make`; or there is no room within [`ROOM_WAIT_MAX`], and nothing is made.
pub(super) async fn list<T: Serialize>(
    account: &Arc<Account>,
    entries: usize,
    make: impl Future<Output = Result<T, Problem>>,
) -> Result<Response, Problem> {
    let make = async { Ok(serde_json::to_vec(&make.await?).expect("texts and numbers are JSON")) };
    made(account, entries, "application/json", make).await
}

/// The same of any type.
pub(super) async fn made(
    account: &Arc<Account>,
    entries: usize,
    content_type: &'static str,
    make: impl Future<Output = Result<Vec<u8>, Problem>>,
) -> Result<Response, Problem> {
    // The list of all users may be longer than any answer, and is for admins alone.
    let bytes = entries.saturating_mul(LIST_ENTRY_BYTES).min(ANSWER_BYTES_MAX);
    let mut permit = account.take_within(bytes, ROOM_WAIT_MAX).await.ok_or_else(no_room)?;
    // Without what a buffer has beyond its end, since that is not counted.
    let body = make.await?.into_boxed_slice();
    if !permit.resize(body.len().min(ANSWER_BYTES_MAX)) {
        return Err(no_room());
    }
    let mut response = Response::new(Body::from(budget::held(body.into(), permit)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.extensions_mut().insert(IsCounted);
    Ok(response)
}

/// Has a response that is there as a whole counted until its client has read it. Without room for it, it is not sent: that
/// is only for what changes nothing, and can be asked for again.
pub(super) fn counted(response: Response, account: impl FnOnce() -> Arc<Account>) -> Response {
    let bytes = response.body().size_hint().exact().map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if bytes <= UNCOUNTED_BYTES_MAX || response.extensions().get::<IsCounted>().is_some() {
        return response;
    }
    let Some(permit) = account().take(bytes.min(ANSWER_BYTES_MAX)) else { return no_room().into_response() };
    let (parts, body) = response.into_parts();
    match axum::body::to_bytes(body, usize::MAX).now_or_never() {
        Some(Ok(bytes)) => Response::from_parts(parts, Body::from(budget::held(bytes, permit))),
        _ => Problem::internal().into_response(),
    }
}

fn no_room() -> Problem {
    let text = "no room for the answer: what is answered and not read takes all the memory that you or the host may \
                take for it; read the answers that came before, and try again";
    Problem::later("answers_unread", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budgets;
    use crate::name::Name;
    use axum::http::StatusCode;

    fn account(budgets: &Budgets) -> Arc<Account> {
        budgets.account(&budgets.connection(), &Name::new("ada").expect("a name"))
    }

    #[tokio::test]
    async fn what_only_tells_is_counted_and_not_sent_without_room() {
        const LENGTH: usize = 100_000;
        let budgets = Budgets::new(5 * LENGTH, 2 * LENGTH, LENGTH);
        let ada = account(&budgets);
        let told = || Response::new(Body::from(vec![b'x'; LENGTH]));
        let response = counted(told(), || Arc::clone(&ada));
        assert_eq!((response.status(), budgets.taken()), (StatusCode::OK, LENGTH));
        assert_eq!(counted(told(), || Arc::clone(&ada)).status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut executed = told();
        executed.extensions_mut().insert(IsCounted);
        assert_eq!(counted(executed, || Arc::clone(&ada)).status(), StatusCode::OK, "that it was executed is told");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("whole");
        assert_eq!(body.len(), LENGTH);
        drop(body);
        assert_eq!(budgets.taken(), 0);
    }

    #[tokio::test]
    async fn a_list_is_made_when_there_is_room_for_it_and_keeps_what_it_is_long() {
        let budgets = Budgets::of_lists();
        let ada = account(&budgets);
        let response = list(&ada, 100, async {
            assert_eq!(budgets.taken(), 100 * LIST_ENTRY_BYTES, "before it is made");
            Ok("x".repeat(50_000))
        });
        let response = response.await.expect("there is room");
        assert_eq!(budgets.taken(), 50_002);
        let response = counted(response, || panic!("it is counted once"));
        let longer = list(&ada, 1, async { Ok("x".repeat(60_000)) }).await.expect("there is room");
        assert_eq!(budgets.taken(), 50_002 + 60_002, "of more than was thought");
        let full = ada.take(ANSWER_BYTES_MAX - 200_000).expect("there is room");
        let denied = list::<()>(&ada, 100, async { panic!("it is made without room") }).await;
        assert!(denied.is_err_and(|problem| problem.is_unavailable()));
        drop((response, longer, full));
        assert_eq!(budgets.taken(), 0);
    }
}
