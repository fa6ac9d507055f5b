//! Lists, metrics and whatever else a `GET` tells: counted until its client has read it, beside answers to transactions.
//!
//! What grows with the services or users of a host takes room before it is made, for as much as it takes while it is made,
//! and keeps what it is long. One that takes more than the largest answer waits until no other such list is made or read.
//! The rest is short: it is counted once it is there.

use super::Shared;
use super::problem::Problem;
use crate::auth::Identity;
use crate::budget::{self, ANSWER_BYTES_MAX, Account, LIST_ENTRY_BYTES, ROOM_WAIT_MAX, UNCOUNTED_BYTES_MAX};
use crate::size::Bytes as ByteCount;
use axum::body::{Body, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The turn to have a list made that takes more than the largest answer, until its client has read it.
#[derive(Clone)]
pub(super) struct LongLists(Arc<Semaphore>);

impl Default for LongLists {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

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
    long_lists: &LongLists,
    account: &Arc<Account>,
    entries: usize,
    make: impl Future<Output = Result<T, Problem>>,
) -> Result<Response, Problem> {
    let make = async { Ok(serde_json::to_vec(&make.await?).expect("texts and numbers are JSON")) };
    made(long_lists, account, entries, "application/json", make).await
}

/// The same of any type.
pub(super) async fn made(
    long_lists: &LongLists,
    account: &Arc<Account>,
    entries: usize,
    content_type: &'static str,
    make: impl Future<Output = Result<Vec<u8>, Problem>>,
) -> Result<Response, Problem> {
    let bytes = entries.saturating_mul(LIST_ENTRY_BYTES);
    // Of these nobody knows how much they take. There is one at a time.
    let turn = if bytes > ANSWER_BYTES_MAX {
        let turn = Arc::clone(&long_lists.0).acquire_owned();
        Some(tokio::time::timeout(ROOM_WAIT_MAX, turn).await.ok().and_then(Result::ok).ok_or_else(no_turn)?)
    } else {
        None
    };
    let mut permit = account.take_within(bytes.min(ANSWER_BYTES_MAX), ROOM_WAIT_MAX).await.ok_or_else(no_room)?;
    // Without what a buffer has beyond its end, since that is not counted.
    let body = make.await?.into_boxed_slice();
    if !permit.resize(body.len().min(ANSWER_BYTES_MAX)) {
        return Err(no_room());
    }
    let mut response = Response::new(Body::from(budget::held(body.into(), (permit, turn))));
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

fn no_turn() -> Problem {
    let bytes = ByteCount(ANSWER_BYTES_MAX as u64);
    let text = format!(
        "the answer may take more than {bytes}, and another such list or scrape is being made or read; try again when it \
         is read"
    );
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
        let (budgets, long_lists) = (Budgets::of_lists(), LongLists::default());
        let ada = account(&budgets);
        let response = list(&long_lists, &ada, 100, async {
            assert_eq!(budgets.taken(), 100 * LIST_ENTRY_BYTES, "before it is made");
            Ok("x".repeat(50_000))
        });
        let response = response.await.expect("there is room");
        assert_eq!(budgets.taken(), 50_002);
        let response = counted(response, || panic!("it is counted once"));
        let longer = list(&long_lists, &ada, 1, async { Ok("x".repeat(60_000)) }).await.expect("there is room");
        assert_eq!(budgets.taken(), 50_002 + 60_002, "of more than was thought");
        let full = ada.take(ANSWER_BYTES_MAX - 200_000).expect("there is room");
        let denied = list::<()>(&long_lists, &ada, 100, async { panic!("it is made without room") }).await;
        assert!(denied.is_err_and(|problem| problem.is_unavailable()));
        drop((response, longer, full));
        assert_eq!(budgets.taken(), 0);
    }

    #[tokio::test]
    async fn a_list_that_may_take_more_than_an_answer_waits_until_no_other_is_read() {
        const LONG: usize = ANSWER_BYTES_MAX / LIST_ENTRY_BYTES + 1;
        let (budgets, long_lists) = (Budgets::of_lists(), LongLists::default());
        let account = |user| budgets.account(&budgets.connection(), &Name::new(user).expect("a name"));
        let (ada, bob) = (account("ada"), account("bob"));
        let first = list(&long_lists, &ada, LONG, async { Ok("long") }).await.expect("it is the only one");
        let second = list::<()>(&long_lists, &bob, LONG, async { panic!("it is made beside another") });
        assert!(second.now_or_never().is_none(), "it waits");
        list(&long_lists, &bob, LONG - 1, async { Ok("short") }).await.expect("short ones do not wait");
        drop(first);
        list(&long_lists, &bob, LONG, async { Ok("long") }).await.expect("the other is read");
    }
}
