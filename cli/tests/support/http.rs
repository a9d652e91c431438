//! As much of HTTP/1.1 and of server-sent events as the tests need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::PATIENCE;

/// The `host:port` in a line that names an address as a URL.
pub(crate) fn address_in(line: &str) -> String {
    let rest = line.split("http://").nth(1).expect("the line names a URL");
    rest.split(['/', ' ', ',']).next().expect("the URL has a host").to_owned()
}

/// Sends one request and returns status and body; the body is read to its end.
pub(crate) fn request(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = open(address, method, path, body);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the answer is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("headers end");
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (status_in(head), if chunked { unchunk(body) } else { body.to_owned() })
}

/// Sends one request whose answer, of any status, is JSON.
pub(crate) fn json(address: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = request(address, method, path, &body.to_string());
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}, not JSON: {text}")))
}

/// A streamed answer, event by event. Dropping it hangs up.
pub(crate) struct Events {
    lines: std::io::Lines<BufReader<TcpStream>>,
    pub(crate) status: u16,
}

/// How a streamed answer ended.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    /// With `[DONE]`, after this text.
    Done(String),
    /// With an error event and nothing after it, after this text.
    Error(String, Value),
    /// The connection broke off.
    Broken(String),
}

impl End {
    /// Whether any text came before it.
    pub(crate) fn has_text(&self) -> bool {
        let (Self::Done(text) | Self::Error(text, _) | Self::Broken(text)) = self;
        !text.is_empty()
    }
}

impl Events {
    /// Posts a request with `"stream": true` and waits for the beginning of its answer.
    pub(crate) fn post(address: &str, path: &str, body: &Value) -> Self {
        let stream = open(address, "POST", path, &body.to_string());
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().expect("an answer").expect("the answer is text");
        Self { lines, status: status_in(&first) }
    }

    /// The next event's data; none at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.ok()?;
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    /// Waits for the next piece of text.
    pub(crate) fn next_text(&mut self) -> String {
        loop {
            let data = self.next().expect("text comes before the end");
            let text = text_of(&serde_json::from_str(&data).expect("an event is JSON"));
            if !text.is_empty() {
                return text;
            }
        }
    }

    /// The next piece of text, or none at the end, which must be in good order.
    pub(crate) fn text(&mut self) -> Option<String> {
        loop {
            let data = self.next().expect("[DONE] comes before the end");
            if data == "[DONE]" {
                return None;
            }
            let text = text_of(&serde_json::from_str(&data).expect("an event is JSON"));
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// Reads to the end.
    pub(crate) fn end(mut self) -> End {
        let mut text = String::new();
        while let Some(data) = self.next() {
            if data == "[DONE]" {
                assert_eq!(self.next(), None, "nothing follows [DONE]");
                return End::Done(text);
            }
            let event: Value = serde_json::from_str(&data).expect("an event is JSON");
            if let Some(error) = event.get("error") {
                assert_eq!(self.next(), None, "nothing follows an error");
                return End::Error(text, error.clone());
            }
            text.push_str(&text_of(&event));
        }
        End::Broken(text)
    }
}

fn text_of(event: &Value) -> String {
    let choice = &event["choices"][0];
    choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default().to_owned()
}

fn status_in(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
}

/// Sends one request and leaves the answer to be read.
pub(crate) fn open(address: &str, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeouts can be set");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the request is sent");
    stream
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or("");
    }
    text
}
