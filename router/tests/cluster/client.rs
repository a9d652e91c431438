//! A small HTTP client: one connection a request, so that dropping it hangs up.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::node::LIMIT;

/// An answer whose body may still be coming. Dropping it closes the connection.
pub(crate) struct Answer {
    pub(crate) status: u16,
    response: Response<Incoming>,
    buffer: String,
    _connection: JoinSet<()>,
}

/// One server-sent event's data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sent {
    Json(Value),
    Done,
}

pub(crate) async fn send(at: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(at).await.expect("router listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.expect("an answer");
    Answer { status: response.status().as_u16(), response, buffer: String::new(), _connection: tasks }
}

pub(crate) async fn get(at: SocketAddr, path: &str) -> Answer {
    call(at, "GET", path, "").await
}

pub(crate) async fn post(at: SocketAddr, path: &str, body: &Value) -> Answer {
    call(at, "POST", path, &body.to_string()).await
}

pub(crate) async fn call(at: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    call_with(at, (method, path), &[], body).await
}

/// Posts a chat request with more headers.
pub(crate) async fn post_with(at: SocketAddr, headers: &[(&str, &str)], body: &Value) -> Answer {
    call_with(at, ("POST", "/v1/chat/completions"), headers, &body.to_string()).await
}

async fn call_with(
    at: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "router")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("well-formed");
    timeout(LIMIT * 2, send(at, request)).await.expect("an answer in time")
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.response.headers().get(name);
        value.map_or("", |v| v.to_str().expect("text"))
    }

    pub(crate) async fn text(self) -> String {
        let body = timeout(LIMIT, self.response.into_body().collect());
        let bytes = body.await.expect("a body in time").expect("a body").to_bytes();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    pub(crate) async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The next server-sent event; none at the end.
    pub(crate) async fn event(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data = event.strip_prefix("data: ").map(str::to_owned);
                self.buffer = rest.to_owned();
                match data.as_deref() {
                    None => continue,
                    Some("[DONE]") => return Some(Sent::Done),
                    Some(json) => {
                        return Some(Sent::Json(serde_json::from_str(json).expect("JSON")));
                    }
                }
            }
            let frame = timeout(LIMIT, self.response.body_mut().frame());
            let frame = frame.await.expect("an event in time")?.expect("a whole body");
            if let Ok(data) = frame.into_data() {
                self.buffer += std::str::from_utf8(&data).expect("text");
            }
        }
    }

    /// The next event, which must be a chunk.
    pub(crate) async fn chunk(&mut self) -> Value {
        match self.event().await {
            Some(Sent::Json(value)) => value,
            other => panic!("expected a chunk, got {other:?}"),
        }
    }

    /// Every event to the end.
    pub(crate) async fn events(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Some(event) = self.event().await {
            all.push(event);
        }
        all
    }
}

/// The text of a streamed chat answer.
pub(crate) fn content(events: &[Sent]) -> String {
    let text = |event: &Sent| match event {
        Sent::Json(chunk) => chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_owned(),
        Sent::Done => String::new(),
    };
    events.iter().map(text).collect()
}

/// The error that a stream ended with.
pub(crate) fn error(events: &[Sent]) -> Option<&Value> {
    match events.last() {
        Some(Sent::Json(last)) => last.get("error"),
        _ => None,
    }
}
