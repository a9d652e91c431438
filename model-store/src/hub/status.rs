//! What a hub's refusals mean.
//!
//! Maps statuses and the hub's error headers to typed errors; decides nothing about retries
//! beyond whether one could help.

use std::error::Error;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};

use crate::error::ResolveError;
use crate::reference::HubRef;

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: ResolveError,
    /// Whether the same question may be answered later.
    pub(crate) may_pass: bool,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn fatal(error: ResolveError) -> Self {
        Self { error, may_pass: false, retry_after: None }
    }

    pub(crate) fn passing(error: ResolveError) -> Self {
        Self { error, may_pass: true, retry_after: None }
    }
}

/// The failure behind a response that is no success.
pub(crate) fn refusal(response: &Response, want: &HubRef, endpoint: &str) -> Failure {
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let repo = want.repo.clone();
    let status = response.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::fatal(ResolveError::Unauthorized {
            repo,
            status: status.as_u16(),
            note: match header("x-error-message") {
                Some(message) => format!("; the hub says: {message}"),
                None => String::new(),
            },
        }),
        StatusCode::NOT_FOUND => Failure::fatal(match header("x-error-code") {
            Some("RevisionNotFound") => {
                ResolveError::NoSuchRevision { repo, revision: want.revision_or_main().to_owned() }
            }
            Some("EntryNotFound") => ResolveError::Protocol {
                url: response.url().to_string(),
                what: "a file of its own listing is missing".to_owned(),
            },
            _ => ResolveError::NoSuchRepo { repo, endpoint: endpoint.to_owned() },
        }),
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds = header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            Failure {
                error: ResolveError::RateLimited { endpoint: endpoint.to_owned(), retry_after },
                may_pass: true,
                retry_after,
            }
        }
        other => Failure {
            error: ResolveError::Status { url: response.url().to_string(), status: other.as_u16() },
            may_pass: other.is_server_error() || other == StatusCode::REQUEST_TIMEOUT,
            retry_after: None,
        },
    }
}

/// The failure of a request that got no response.
pub(crate) fn unreachable(cause: String, want: &HubRef, endpoint: &str) -> Failure {
    Failure::passing(ResolveError::Unreachable {
        repo: want.repo.clone(),
        endpoint: endpoint.to_owned(),
        cause,
    })
}

/// The innermost reason of an HTTP client error, which is the one a person can act on.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}
