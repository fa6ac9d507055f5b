//! Whether the server is well, for those who run it.

use super::problem::Problem;
use super::{Phase, Shared, services};
use crate::metrics::{CONTENT_TYPE as METRICS_TYPE, JournalMetrics, Scrape};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// It answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// It serves, and can: without its journal it takes no transactions, and only a start brings that back.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Problem> {
    let failure = shared.host.data().and_then(|directory| directory.committer().failure());
    match shared.phase() {
        Phase::Serving => failure.map_or(Ok("ready\n"), |error| Err(Problem::storage(&error))),
        Phase::Starting => Err(Problem::later("starting", "services are being brought back")),
        Phase::Draining => Err(Problem::later("draining", "the server is being stopped")),
    }
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let scrape = Scrape {
        host: shared.load(),
        statuses: services::statuses(&shared).await,
        idle: shared.host.idle_services(),
        queue_lengths: shared.host.queue_lengths(),
        journal: shared.host.data().map(|directory| JournalMetrics::from(directory.committer())),
    };
    ([(CONTENT_TYPE, METRICS_TYPE)], shared.metrics.encode(scrape)).into_response()
}
