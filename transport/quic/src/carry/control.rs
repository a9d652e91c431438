//! Frames without payload, in order over one stream that goes ahead of all others.

use std::convert::Infallible;
use std::time::Instant;

use mlxcel_transport::core::{HEADER_BYTES, Link, ProtocolError};
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use super::frame::Control;
use super::{Ended, Way};
use crate::meet::RAIL;

/// Sends them as they come up, after `bytes`.
pub(super) async fn speak(way: Way, mut stream: SendStream, mut bytes: Vec<u8>) -> Result<Infallible, Ended> {
    // A stream that is closed already says so when it is written to.
    let _ = stream.set_priority(AHEAD);
    write(&mut stream, &bytes).await?;
    loop {
        bytes.clear();
        let gather = |link: &mut Link| {
            let now = Instant::now();
            while bytes.len() < TOGETHER
                && let Some(frame) = link.next_control(RAIL, now)
            {
                bytes.extend_from_slice(&frame.head);
            }
        };
        way.shared.ask_quietly(way.name, gather)?;
        if bytes.is_empty() {
            way.wakes.control.notified().await;
            continue;
        }
        write(&mut stream, &bytes).await?;
        let sent = bytes.len();
        way.shared.ask_quietly(way.name, |link| link.sent(RAIL, sent, Instant::now()))?;
    }
}

async fn write(stream: &mut SendStream, bytes: &[u8]) -> Result<(), Ended> {
    stream.write_all(bytes).await.map_err(|error| match error {
        WriteError::ConnectionLost(error) => Ended::Connection(error),
        _ => Ended::Protocol(ProtocolError("it stopped reading what has no payload")),
    })
}

/// Feeds the link with those of the peer.
pub(super) async fn listen(way: Way, mut stream: RecvStream) -> Result<Infallible, Ended> {
    let mut control = Control::new();
    loop {
        let count = match stream.read(control.space()).await {
            Ok(Some(count)) => count,
            Err(ReadError::ConnectionLost(error)) => return Err(error.into()),
            Ok(None) | Err(_) => return Err(ProtocolError("it ended what has no payload").into()),
        };
        way.shared.ask(way.name, |link| control.hear(count, link, Instant::now()))??;
    }
}

/// Before all payload, whatever its priority.
const AHEAD: i32 = 2;
/// How many bytes go to the stream at once.
const TOGETHER: usize = 64 * HEADER_BYTES;
