//! Frames with payload, each over a stream of its own.
//!
//! A frame is copied whole when its turn has come (`pieces`); once it is, it is sent to the end. Streams are filled one
//! after the other: the connection's window decides how many are on their way.

use std::convert::Infallible;
use std::time::Instant;

use quinn::WriteError;

use super::pieces::Pieces;
use super::{Ended, Way};
use crate::meet::RAIL;

/// Sends them as they come up.
pub(super) async fn send(way: Way) -> Result<Infallible, Ended> {
    loop {
        let frame = way.shared.ask_quietly(way.name, |link| link.next_load(RAIL, Instant::now()))?;
        let Some(frame) = frame else {
            // Looking may have given something up, of which the peer is to be told.
            way.wakes.control.notify_one();
            way.wakes.load.notified().await;
            continue;
        };
        let bytes = frame.len();
        // A frame of a write that has ended is not sent at all: the link tells the peer, and waits for no answer.
        if let Some(pieces) = way.shared.pool.pieces(frame) {
            send_one(&way, pieces, bytes).await?;
        }
        way.shared.ask_quietly(way.name, |link| link.sent(RAIL, bytes, Instant::now()))?;
    }
}

async fn send_one(way: &Way, mut pieces: Pieces, bytes: usize) -> Result<(), Ended> {
    let mut stream = way.connection.open_uni().await?;
    // Streams of this end that are not open are a broken invariant of quinn's, which the next call reports.
    let _ = stream.set_priority(if bytes <= SMALL_FRAME { SOON } else { LATER });
    match stream.write_all_chunks(&mut pieces).await {
        // The peer has no use for it any more, and has said so.
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => return Err(Ended::Forgotten),
    }
    let _ = stream.finish();
    Ok(())
}

/// Frames that large ones do not hold up.
const SMALL_FRAME: usize = 64 << 10;
const SOON: i32 = 1;
const LATER: i32 = 0;
