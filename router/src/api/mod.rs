//! The HTTP API: routes, authorisation and what is told to whoever asks for something else.
//!
//! OpenAI's API as far as it is served, strictly: what is not is refused by name. Requests are
//! carried out by `relay`.

pub(crate) mod answer;
mod chat_request;
mod choices;
mod complete;
mod completion_request;
pub(crate) mod error;
mod fields;
mod inspect;
mod logprobs;
mod sampling;
mod structured;
#[cfg(test)]
mod tests;
mod tools;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, Method, Uri, header};

use crate::nodes::members::Members;
use crate::relay::Relay;
use error::ApiError;

/// What handlers share.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) relay: Relay,
    pub(crate) members: Members,
    /// Fingerprint of the cluster's key.
    pub(crate) cluster: Arc<str>,
    pub(crate) api_keys: Arc<[Arc<str>]>,
    /// When the router started, in seconds since 1970.
    pub(crate) started_at: u64,
    /// Tells this router's request ids from those of other routers and of earlier runs.
    pub(crate) id_stem: Arc<str>,
    pub(crate) ids: Arc<AtomicU64>,
}

impl App {
    fn new_id(&self, prefix: &str) -> String {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{}{count:06x}", self.id_stem)
    }
}

/// The whole API.
pub(crate) fn routes(app: App) -> axum::Router {
    let openai = axum::Router::new()
        .route("/v1/chat/completions", post(complete::chat))
        .route("/v1/completions", post(complete::text))
        .route("/v1/models", get(inspect::models))
        .route("/v1/models/{*id}", get(inspect::model))
        .route_layer(middleware::from_fn_with_state(app.clone(), relieve))
        .route_layer(middleware::from_fn_with_state(app.clone(), authorize));
    axum::Router::new()
        .route("/health", get(inspect::health))
        .route("/metrics", get(inspect::metrics))
        .merge(openai)
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(middleware::from_fn(limit))
        .with_state(app)
}

/// Refuses what announces its excess rather than reading up to it.
async fn limit(request: Request, next: Next) -> Response {
    match request.body().size_hint().exact() {
        Some(bytes) if bytes > BODY_LIMIT_BYTES as u64 => {
            ApiError::too_large(BODY_LIMIT_BYTES).into_response()
        }
        _ => next.run(request).await,
    }
}

/// Refuses what could not even wait before it is read.
async fn relieve(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.relay.roster.full().filter(|_| request.method() == Method::POST) {
        Some(refusal) => ApiError::from(refusal).into_response(),
        None => next.run(request).await,
    }
}

/// Whose request it is: the place of its key among the router's, where there are several.
#[derive(Debug, Clone, Copy)]
struct Caller(Option<usize>);

async fn authorize(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let keys = &app.api_keys;
    let key = keys.iter().position(|key| carries(request.headers(), key));
    if key.is_none() && !keys.is_empty() {
        return ApiError::unauthorized().into_response();
    }
    request.extensions_mut().insert(Caller(key.filter(|_| keys.len() > 1)));
    next.run(request).await
}

fn carries(headers: &HeaderMap, key: &str) -> bool {
    let given =
        headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| same(given.trim_ascii(), key.as_bytes()))
}

/// Compares in a time that tells nothing about where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    ApiError::no_route(&method, uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::wrong_method(&method, uri.path())
}

/// Room for long conversations and prompts of token ids, and a little less than nodes read at once (32 MiB).
pub(crate) const BODY_LIMIT_BYTES: usize = 31 * 1024 * 1024;
