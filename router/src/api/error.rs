//! Errors as OpenAI's API words them: a status and a body `{"error": {message, type, param, code}}`.
//!
//! Translates refusals and bad requests; decides nothing about either.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::core::refusal::Refusal;

/// One error, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
    /// When to try again, in seconds.
    pub(crate) retry_after: Option<u64>,
}

/// What the `error` key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The request's field at fault.
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

/// The whole body.
#[derive(Debug, Serialize)]
pub(crate) struct Envelope<'a> {
    pub(crate) error: &'a ErrorBody,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const LIMIT: &str = "rate_limit_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let body = ErrorBody { message: message.into(), kind, param: None, code: None };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { status, body, retry_after }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.body.code = Some(code);
        self
    }

    fn param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// A header whose value is not allowed.
    pub(crate) fn invalid_header(name: &str, rule: &str, value: &http::HeaderValue) -> Self {
        let got = String::from_utf8_lossy(value.as_bytes());
        Self::bad_request(format!("the header '{name}' must be {rule}, got '{got}'")).code("invalid_value")
    }

    /// A request that is wrong as a whole, such as one that is not JSON.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// A field whose value is not allowed.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::bad_request(message).param(param).code("invalid_value")
    }

    /// A field this server knows of and cannot do as asked.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::bad_request(message).param(param).code("unsupported_parameter")
    }

    /// A field this server does not know.
    pub(crate) fn unknown(param: &str) -> Self {
        Self::bad_request(format!("unknown parameter: '{param}'")).param(param).code("unknown_parameter")
    }

    /// A required field is missing.
    pub(crate) fn missing(param: &str) -> Self {
        Self::bad_request(format!("missing required parameter: '{param}'"))
            .param(param)
            .code("missing_required_parameter")
    }

    /// A body larger than the router reads.
    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            INVALID,
            format!("the request body is larger than {} MiB", limit_bytes / (1024 * 1024)),
        )
        .code("request_too_large")
    }

    /// No such path.
    pub(crate) fn no_route(method: &http::Method, path: &str) -> Self {
        let message = format!("no such path: {method} {path}");
        Self::new(StatusCode::NOT_FOUND, INVALID, message).code("unknown_url")
    }

    /// The path exists and takes another method.
    pub(crate) fn wrong_method(method: &http::Method, path: &str) -> Self {
        let message = format!("method {method} is not allowed for {path}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, message).code("method_not_allowed")
    }

    /// No API key, or a wrong one.
    pub(crate) fn unauthorized() -> Self {
        let message = "a valid API key is required; send it as 'Authorization: Bearer KEY'";
        Self::new(StatusCode::UNAUTHORIZED, INVALID, message).code("invalid_api_key")
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Invalid(_) => Self::bad_request(message),
            Refusal::UnknownModel { .. } => {
                Self::new(StatusCode::NOT_FOUND, INVALID, message).param("model").code("model_not_found")
            }
            Refusal::NoNode { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message).code("no_node")
            }
            Refusal::DeadlineExceeded(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, message).code("deadline_exceeded")
            }
            Refusal::Overloaded(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message).code("overloaded")
            }
            Refusal::Full { retry_after, .. } => {
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, LIMIT, message).code("queue_full");
                Self { retry_after: Some(retry_after), ..error }
            }
            Refusal::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message).code("shutting_down")
            }
            Refusal::LoadFailed { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message)
                .param("model")
                .code("model_load_failed"),
            Refusal::Crashes { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message).code("worker_crashed")
            }
            Refusal::Internal(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Envelope { error: &self.body })).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
