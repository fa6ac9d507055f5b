//! Lists, metrics and other results of a `GET`. Their memory is counted until the client has read them, separately from
//! answers to transactions.
//!
//! A list that grows with the services or users of a host reserves room before it is made, for the memory that this
//! takes. It then retains room for its length. A list that may take more than the largest answer waits for its turn;
//! one that turns out longer is counted in full in a separate budget ([`LongLists`]). All other results are short and
//! are counted once they are made.

use super::Shared;
use super::long_lists::{LONG_LISTS_BYTES_MAX, LongLists, Reader};
use super::problem::Problem;
use axum::body::{Body, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use lifeboat_api::size::Bytes as ByteCount;
use lifeboat_host::auth::Identity;
use lifeboat_host::budget::{self, ANSWER_BYTES_MAX, Account, LIST_ENTRY_BYTES, ROOM_WAIT_MAX, UNCOUNTED_BYTES_MAX};
use serde::Serialize;
use std::sync::Arc;

/// The reader of a list, and the account of its short lists.
pub(super) struct Audience {
    account: Arc<Account>,
    reader: Reader,
}

/// Marks a response that needs no more room. Either it is a list that has its room, or it is the answer to a
/// transaction or query. The latter was executed, so its answer is sent whatever room the budgets have.
#[derive(Clone, Copy)]
pub(super) struct IsCounted;

/// Returns the account of a user's answers that only report state. If no token is needed, the account belongs to
/// nobody.
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

/// Returns the audience of a list for a user.
pub(super) fn audience(shared: &Shared, identity: Option<&Identity>) -> Audience {
    let (user, is_admin) = (identity.map(|identity| identity.user.clone()), identity.is_some_and(|it| it.is_admin));
    Audience { account: account(shared, identity), reader: Reader { user, is_admin } }
}

/// Returns the result of `make` as JSON, once there is room for a list of `entries`.
///
/// # Errors
/// The problem of `make`; or there is no room or no turn within [`ROOM_WAIT_MAX`], and `make` does not run; or the
/// result is longer than there is room for.
pub(super) async fn list<T: Serialize>(
    long_lists: &LongLists,
    audience: &Audience,
    entries: usize,
    make: impl Future<Output = Result<T, Problem>>,
) -> Result<Response, Problem> {
    let make = async { Ok(serde_json::to_vec(&make.await?).expect("texts and numbers are JSON")) };
    made(long_lists, audience, entries, "application/json", make).await
}

/// Does the same as [`list`] for any media type.
pub(super) async fn made(
    long_lists: &LongLists,
    audience: &Audience,
    entries: usize,
    content_type: &'static str,
    make: impl Future<Output = Result<Vec<u8>, Problem>>,
) -> Result<Response, Problem> {
    let Audience { account, reader } = audience;
    let bytes = entries.saturating_mul(LIST_ENTRY_BYTES);
    let mut permit = account.take_within(bytes.min(ANSWER_BYTES_MAX), ROOM_WAIT_MAX).await.ok_or_else(no_room)?;
    // The memory that making these takes is unknown, so they are made one at a time. The turn ends when the list is
    // made, so a slow reader delays nobody.
    let turn = match bytes > ANSWER_BYTES_MAX {
        true => Some(tokio::time::timeout(ROOM_WAIT_MAX, long_lists.turn(reader)).await.map_err(|_| no_turn())?),
        false => None,
    };
    // The spare capacity of a buffer would not be counted.
    let body = make.await?.into_boxed_slice();
    drop(turn);
    let length = body.len();
    let body = if length > ANSWER_BYTES_MAX {
        drop(permit);
        budget::held(body.into(), long_lists.take(reader, length).ok_or_else(|| no_room_for_long(length))?)
    } else if permit.resize(length) {
        budget::held(body.into(), permit)
    } else {
        return Err(no_room());
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.extensions_mut().insert(IsCounted);
    Ok(response)
}

/// Counts a complete response until its client has read it. Without room for it, the response is not sent. This is only
/// for requests that change nothing and can be repeated.
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
    let text = "no memory for the answer: unread answers take all the memory that you or the host may use for them; \
                read the earlier answers, and try again";
    Problem::later("answers_unread", text)
}

fn no_turn() -> Problem {
    let bytes = ByteCount(ANSWER_BYTES_MAX as u64);
    let text = format!(
        "the answer may take more than {bytes}, and other such lists or scrapes are under way; try again when they are \
         done"
    );
    Problem::later("answers_unread", text)
}

fn no_room_for_long(length: usize) -> Problem {
    let (bytes, bytes_max) = (ByteCount(length as u64), ByteCount(LONG_LISTS_BYTES_MAX as u64));
    let text = format!(
        "no memory for the answer of {bytes}: unread long lists and scrapes take all the memory that you or the host \
         may use for them, of {bytes_max} in total; read the earlier ones, and try again"
    );
    Problem::later("answers_unread", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use lifeboat_api::name::Name;
    use lifeboat_host::budget::Budgets;

    /// The number of entries of a list that may take more than an answer.
    const LONG: usize = ANSWER_BYTES_MAX / LIST_ENTRY_BYTES + 1;

    fn user(budgets: &Budgets, user: &str) -> Audience {
        let user = Name::new(user).expect("a name");
        let account = budgets.account(&budgets.connection(), &user);
        Audience { account, reader: Reader { user: Some(user), is_admin: false } }
    }

    fn admin(budgets: &Budgets, user: &str) -> Audience {
        let user = Name::new(user).expect("a name");
        let account = budgets.account_of_admin(&budgets.connection(), &user);
        Audience { account, reader: Reader { user: Some(user), is_admin: true } }
    }

    #[tokio::test]
    async fn an_answer_without_room_is_refused_unless_its_request_was_executed() {
        const LENGTH: usize = 100_000;
        let budgets = Budgets::new(5 * LENGTH, 2 * LENGTH, LENGTH);
        let ada = user(&budgets, "ada").account;
        let printed = || Response::new(Body::from(vec![b'x'; LENGTH]));
        let response = counted(printed(), || Arc::clone(&ada));
        assert_eq!((response.status(), budgets.taken()), (StatusCode::OK, LENGTH));
        assert_eq!(counted(printed(), || Arc::clone(&ada)).status(), StatusCode::SERVICE_UNAVAILABLE);
        let mut executed = printed();
        executed.extensions_mut().insert(IsCounted);
        assert_eq!(counted(executed, || Arc::clone(&ada)).status(), StatusCode::OK, "that it was executed is reported");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("whole");
        assert_eq!(body.len(), LENGTH);
        drop(body);
        assert_eq!(budgets.taken(), 0);
    }

    #[tokio::test]
    async fn a_list_reserves_an_estimate_that_becomes_its_length() {
        let (budgets, long_lists) = (Budgets::of_lists(), LongLists::default());
        let ada = user(&budgets, "ada");
        let response = list(&long_lists, &ada, 100, async {
            assert_eq!(budgets.taken(), 100 * LIST_ENTRY_BYTES, "before it is made");
            Ok("x".repeat(50_000))
        });
        let response = response.await.expect("there is room");
        assert_eq!(budgets.taken(), 50_002);
        let response = counted(response, || panic!("it is counted once"));
        let longer = list(&long_lists, &ada, 1, async { Ok("x".repeat(60_000)) }).await.expect("there is room");
        assert_eq!(budgets.taken(), 50_002 + 60_002, "of more than was thought");
        let full = ada.account.take(ANSWER_BYTES_MAX - 200_000).expect("there is room");
        let denied = list::<()>(&long_lists, &ada, 100, async { panic!("it is made without room") }).await;
        assert!(denied.is_err_and(|problem| problem.is_unavailable()));
        drop((response, longer, full));
        assert_eq!(budgets.taken(), 0);
    }

    #[tokio::test]
    async fn a_list_that_may_take_more_than_an_answer_waits_until_no_other_is_made() {
        let (budgets, long_lists) = (Budgets::of_lists(), LongLists::default());
        let (ada, bob, eve) = (admin(&budgets, "ada"), admin(&budgets, "bob"), user(&budgets, "eve"));
        let mut first = std::pin::pin!(list::<()>(&long_lists, &ada, LONG, std::future::pending()));
        assert!(first.as_mut().now_or_never().is_none(), "it is being made");
        let second = list::<()>(&long_lists, &bob, LONG, async { panic!("it is made beside another") });
        assert!(second.now_or_never().is_none(), "it waits");
        list(&long_lists, &bob, LONG - 1, async { Ok("short") }).await.expect("short ones do not wait");
        list(&long_lists, &eve, LONG, async { Ok("long") }).await.expect("those of others do not wait for admins'");
    }

    #[tokio::test]
    async fn an_admin_who_leaves_a_long_list_unread_excludes_no_other() {
        const LENGTH: usize = 25 * 1024 * 1024;
        let (budgets, long_lists) = (Budgets::of_lists(), LongLists::default());
        let (ada, bob) = (admin(&budgets, "ada"), admin(&budgets, "bob"));
        let long = async || Ok("x".repeat(LENGTH));
        let unread = list(&long_lists, &ada, LONG, long()).await.expect("it is the only one");
        assert_eq!((long_lists.taken(), budgets.taken()), (LENGTH + 2, 0), "it is counted in full");
        let counted = counted(unread, || panic!("it is counted once"));
        let of_bob = list(&long_lists, &bob, LONG, long()).await.expect("the turn ends when the list is made");
        let denied = list(&long_lists, &ada, LONG, long()).await;
        assert!(denied.is_err_and(|problem| problem.is_unavailable()), "she has one, and half the room");
        list(&long_lists, &ada, LONG, async { Ok("short") }).await.expect("one that turns out to be short is sent");
        drop((counted, of_bob));
        assert_eq!((long_lists.taken(), budgets.taken()), (0, 0));
    }

    #[tokio::test]
    async fn a_list_of_few_entries_that_turns_out_to_be_long_is_counted_in_full() {
        let (budgets, long_lists) = (Budgets::of_lists(), LongLists::default());
        let ada = admin(&budgets, "ada");
        let unread = list(&long_lists, &ada, 1, async { Ok("x".repeat(2 * ANSWER_BYTES_MAX)) });
        let unread = unread.await.expect("there is room");
        assert_eq!(long_lists.taken(), 2 * ANSWER_BYTES_MAX + 2);
        drop(unread);
    }
}
