//! Serves the two completion endpoints: reads the request, runs it, sends the answer whole or as
//! server-sent events.
//!
//! A streamed answer's headers are sent with its first token, not before: until then another node
//! may still take over unseen, and a refusal still has its own status.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::Stream;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::answer::{Endpoint, Heading, unix_seconds};
use super::chat_request::{self, Parsed};
use super::choices::{Gathered, Streamed};
use super::completion_request;
use super::error::{ApiError, Envelope};
use super::{App, BODY_LIMIT_BYTES, Caller};
use crate::core::refusal::Refusal;
use crate::metrics::Metrics;
use crate::nodes::roster::now;
use crate::relay::{Piece, Run};

type Body = Result<Bytes, BytesRejection>;

/// `POST /v1/chat/completions`
pub(super) async fn chat(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    serve(app, caller, (headers, body), Endpoint::Chat, chat_request::parse).await
}

/// `POST /v1/completions`
pub(super) async fn text(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    serve(app, caller, (headers, body), Endpoint::Text, completion_request::parse).await
}

async fn serve(
    app: App,
    caller: Caller,
    (headers, body): (HeaderMap, Body),
    endpoint: Endpoint,
    parse: fn(&[u8]) -> Result<Parsed, ApiError>,
) -> Response {
    let metrics = app.relay.metrics.clone();
    let parsed = body.map_err(unreadable).and_then(|body| Ok((parse(&body)?, timeout(&headers)?)));
    let answer = match parsed {
        Ok((mut parsed, timeout)) => {
            if let Caller(Some(key)) = caller {
                // Shares are between keys: whoever has one may name as many users as he likes.
                parsed.generate.client = format!("key {key}");
            }
            answer(app, endpoint, parsed, timeout).await
        }
        Err(error) => Err(error),
    };
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    metrics.answered(endpoint.name(), response.status().as_u16());
    response
}

fn unreadable(rejection: BytesRejection) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(BODY_LIMIT_BYTES),
        _ => ApiError::bad_request(rejection.body_text()),
    }
}

/// How long the client gives, from now on.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match millis.filter(|millis| (1..=MOST_TIMEOUT_MILLIS).contains(millis)) {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => {
            let rule = format!("a whole number of milliseconds between 1 and {MOST_TIMEOUT_MILLIS}");
            Err(ApiError::invalid_header(TIMEOUT_HEADER, &rule, value))
        }
    }
}

async fn answer(
    app: App,
    endpoint: Endpoint,
    parsed: Parsed,
    timeout: Option<Duration>,
) -> Result<Response, ApiError> {
    let Parsed { mut generate, streaming } = parsed;
    generate.request_id = app.new_id(endpoint.id_prefix());
    let heading = Heading {
        endpoint,
        id: generate.request_id.clone(),
        model: generate.model.clone(),
        created: unix_seconds(),
        choices: generate.choices,
        logprobs: generate.logprobs.is_some(),
        include_usage: streaming.include_usage,
    };
    let mut answering = Answering {
        heading,
        began: now(),
        metrics: app.relay.metrics.clone(),
        run: Run::new(app.relay, generate, timeout),
        seen_token: false,
    };
    if streaming.on {
        let first = answering.next().await?;
        Ok(stream(answering, first))
    } else {
        whole(answering).await
    }
}

/// A request being answered.
struct Answering {
    heading: Heading,
    began: Instant,
    metrics: Metrics,
    run: Run,
    seen_token: bool,
}

impl Answering {
    async fn next(&mut self) -> Result<Piece, Refusal> {
        let piece = self.run.next().await?;
        let model = &self.heading.model;
        if matches!(piece, Piece::Output(_)) && !std::mem::replace(&mut self.seen_token, true) {
            let took = now().saturating_duration_since(self.began);
            self.metrics.first_token(model, took);
        }
        if let Piece::Finished(finished) = &piece {
            let (prompt, completion) = (finished.prompt_tokens, finished.completion_tokens);
            self.metrics.tokens(model, prompt, completion);
        }
        Ok(piece)
    }
}

async fn whole(mut answering: Answering) -> Result<Response, ApiError> {
    let mut choices = Gathered::default();
    loop {
        match answering.next().await? {
            Piece::Output(deltas) => choices.add(deltas),
            Piece::Finished(finished) => {
                let heading = &answering.heading;
                let choices = choices.finish(heading, &finished);
                let mut response = Json(heading.whole(choices, &finished)).into_response();
                tell_route(&answering.run, &mut response);
                return Ok(response);
            }
        }
    }
}

/// Says which node answers, where the prompt was computed, and why there.
fn tell_route(run: &Run, response: &mut Response) {
    // It is made of names and numbers.
    if let Some(Ok(value)) = run.route().map(http::HeaderValue::from_str) {
        response.headers_mut().insert(ROUTE_HEADER, value);
    }
}

fn stream(answering: Answering, first: Piece) -> Response {
    let choices = answering.heading.choices;
    let openings = (0..choices).filter_map(|index| answering.heading.opening(index));
    let mut events: Vec<Event> = openings.map(|opening| event(&opening)).collect();
    let mut route = Response::default();
    tell_route(&answering.run, &mut route);
    let mut streamed = Streamed::new(choices);
    let going = Going {
        over: part(&answering, &mut streamed, Ok(first), &mut events),
        answering,
        streamed,
        // In the order they are taken from the end.
        ready: events.into_iter().rev().collect(),
    };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(going.into_stream()).keep_alive(keep_alive).into_response();
    // Proxies that gather responses would hold tokens back.
    let no = http::HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", no);
    response.headers_mut().extend(route.into_parts().0.headers);
    response
}

struct Going {
    answering: Answering,
    streamed: Streamed,
    ready: Vec<Event>,
    over: bool,
}

impl Going {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut going| async move {
            loop {
                if let Some(event) = going.ready.pop() {
                    return Some((Ok(event), going));
                }
                if going.over {
                    return None;
                }
                let piece = going.answering.next().await;
                going.over = part(&going.answering, &mut going.streamed, piece, &mut going.ready);
                going.ready.reverse();
            }
        })
    }
}

/// Appends the events of one part of the answer; true when it is the last.
fn part(
    answering: &Answering,
    streamed: &mut Streamed,
    piece: Result<Piece, Refusal>,
    events: &mut Vec<Event>,
) -> bool {
    let heading = &answering.heading;
    match piece {
        Ok(Piece::Output(deltas)) => {
            events.extend(streamed.chunks(heading, &deltas).iter().map(event));
            false
        }
        Ok(Piece::Finished(finished)) => {
            events.extend(streamed.endings(heading, &finished).iter().map(event));
            events.extend(heading.usage(&finished).as_ref().map(event));
            events.push(Event::default().data("[DONE]"));
            true
        }
        Err(refusal) => {
            tracing::warn!(request = %heading.id, %refusal, "answer broken off");
            answering.metrics.broke_off();
            let error = ApiError::from(refusal).body;
            let envelope = serde_json::to_value(Envelope { error: &error });
            events.extend(envelope.ok().as_ref().map(event));
            true
        }
    }
}

fn event(json: &Value) -> Event {
    // JSON escapes line breaks, so this is always one line.
    Event::default().data(json.to_string())
}

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";
const ROUTE_HEADER: &str = "x-mlxcel-route";

/// A day.
const MOST_TIMEOUT_MILLIS: u64 = 86_400_000;

/// Proxies commonly drop connections that are silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
