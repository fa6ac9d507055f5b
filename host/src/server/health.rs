//! Whether the server is well, for those who run it.

use super::problem::Problem;
use super::{Phase, Shared, services};
use crate::metrics::{Format, JournalMetrics, Scrape};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// It answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// It serves, and can: without its journal it takes no transactions. A journal that is short of room goes on by itself;
/// after a failed write only a start brings it back.
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
        Phase::Starting => Err(Problem::later("starting", "services are being brought back")),
        Phase::Draining => Err(Problem::later("draining", "the server is being stopped")),
    }
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let format = Format::of_accept(&accept);
    let scrape = Scrape {
        host: shared.load(),
        statuses: services::statuses(&shared).await,
        idle: shared.host.idle_services(),
        queue_lengths: shared.host.queue_lengths(),
        journal: shared.host.data().map(|directory| JournalMetrics::from(directory.committer())),
    };
    let headers = [(CONTENT_TYPE, format.content_type()), (VARY, "Accept")];
    (headers, shared.metrics.encode_as(scrape, format)).into_response()
}
