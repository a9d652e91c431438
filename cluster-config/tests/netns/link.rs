//! The least protocol that exercises a link: one JSON line each way, then empty lines to show
//! that both ends live. Stands in for gRPC, which `node` and `router` speak.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{interval, timeout};

/// Silence after which a link counts as broken.
const SILENCE: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_millis(200);

pub(crate) struct Lines<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lines<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) async fn say(&mut self, value: &Value) {
        let _ = self.stream.write_all(format!("{value}\n").as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    /// The next line; `None` when the other end is silent, gone, or makes no sense.
    pub(crate) async fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        match timeout(3 * SILENCE, read).await {
            Ok(Ok(1..)) => serde_json::from_str(&line).ok(),
            _ => None,
        }
    }

    /// Returns when the link is broken.
    pub(crate) async fn keep_alive(mut self) {
        let mut beat = interval(BEAT);
        let mut last_heard = tokio::time::Instant::now();
        let mut line = String::new();
        while last_heard.elapsed() < SILENCE {
            tokio::select! {
                _ = beat.tick() => {
                    // A full send buffer must not stop the count of silence.
                    let _ = timeout(BEAT, self.stream.write_all(b"\n")).await;
                    let _ = timeout(BEAT, self.stream.flush()).await;
                }
                read = self.stream.read_line(&mut line) => match read {
                    Ok(1..) => last_heard = tokio::time::Instant::now(),
                    Ok(0) | Err(_) => return,
                },
            }
            line.clear();
        }
    }
}
