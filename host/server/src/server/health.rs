//! Health and metrics of the server, for its operators.

use super::problem::Problem;
use super::{Phase, Shared, lists, services};
use axum::Extension;
use axum::extract::State;
use axum::http::header::{ACCEPT, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use lifeboat_host::auth::Identity;
use lifeboat_host::metrics::{Format, JournalMetrics, Scrape};
use std::sync::Arc;

/// The memory of a service's metrics while they are made, in entries of other lists.
const ENTRIES_OF_SERVICE: usize = 4;

/// Answers that the server is alive.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Answers whether the server is ready. Without its journal, it accepts no transactions.
///
/// A journal that lacks room recovers by itself. After a failed write, only a start recovers it.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Problem> {
    let committer = shared.host.data().map(|directory| directory.committer());
    match shared.phase() {
        Phase::Serving => match committer.map(|committer| (committer.failure(), committer.stall())) {
            Some((Some(failure), _)) => Err(Problem::storage(&failure)),
            Some((None, Some(stall))) if stall.denies => {
                Err(Problem::later("storage", format!("the journal {}", stall.reason)))
            }
            _ => Ok("ready\n"),
        },
        Phase::Starting => Err(Problem::later("starting", "services are being restored")),
        Phase::Draining => Err(Problem::later("draining", "the server is stopping")),
    }
}

pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
    identity: Option<Extension<Identity>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let format = Format::of_accept(&accept);
    let audience = lists::audience(&shared, identity.as_ref().map(|Extension(identity)| identity));
    let services = shared.host.queue_lengths().len() + shared.host.idle_services().len();
    let text = async {
        let scrape = Scrape {
            host: shared.load(),
            statuses: services::statuses(&shared).await,
            idle: shared.host.idle_services(),
            queue_lengths: shared.host.queue_lengths(),
            journal: shared.host.data().map(|directory| JournalMetrics::from(directory.committer())),
        };
        Ok(shared.metrics.encode_as(scrape, format).into_bytes())
    };
    // The host's own metrics take one entry.
    let entries = (1 + services).saturating_mul(ENTRIES_OF_SERVICE);
    let mut response = lists::made(&shared.long_lists, &audience, entries, format.content_type(), text).await?;
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}
