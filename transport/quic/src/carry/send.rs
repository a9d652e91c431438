//! Frames with payload, each over a stream of its own.
//!
//! Large runs are sent from where they lie; small ones are put together first, since every piece costs as much as some
//! thousand bytes. Streams are filled one after the other: the connection's window decides how many are on their way.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use mlxcel_transport::RegionSlice;
use mlxcel_transport::core::{Frame, Payload};
use quinn::WriteError;
use smallvec::SmallVec;

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
        send_one(&way, frame).await?;
        way.shared.ask_quietly(way.name, |link| link.sent(RAIL, bytes, Instant::now()))?;
    }
}

async fn send_one(way: &Way, frame: Frame) -> Result<(), Ended> {
    let mut stream = way.connection.open_uni().await?;
    let small = frame.len() <= SMALL_FRAME;
    // Streams of this end that are not open are a broken invariant of quinn's, which the next call reports.
    let _ = stream.set_priority(if small { SOON } else { LATER });
    match stream.write_all_chunks(&mut pieces(frame)).await {
        // The peer has no use for it any more, and has said so.
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(error.into()),
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => return Err(Ended::Forgotten),
    }
    let _ = stream.finish();
    Ok(())
}

/// A frame as the pieces that go to its stream.
fn pieces(frame: Frame) -> SmallVec<[Bytes; 4]> {
    let mut pieces = SmallVec::new();
    let mut together = frame.head.to_vec();
    match frame.payload {
        Payload::None => {}
        Payload::Bytes(bytes) => {
            pieces.push(std::mem::take(&mut together).into());
            pieces.push(bytes);
        }
        Payload::Regions(slices) => {
            for slice in slices {
                if slice.len() < WORTH_A_PIECE {
                    let before = together.len();
                    together.resize(before + slice.len(), 0);
                    slice.copy_to(&mut together[before..]);
                } else {
                    pieces.push(std::mem::take(&mut together).into());
                    pieces.push(Bytes::from_owner(Shown(slice)));
                }
            }
        }
    }
    if !together.is_empty() {
        pieces.push(together.into());
    }
    pieces.retain(|piece: &mut Bytes| !piece.is_empty());
    pieces
}

/// Bytes of a region, kept alive until the peer has them.
struct Shown(RegionSlice);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the slice is valid for as many bytes while `self` lives. They do not change before the operation has
        // ended, as the contract demands of its user. Of one that ended early, by its deadline or by being cancelled, the
        // peer counts nothing after it is told; of one that ended well, quinn may read a part again for a datagram whose
        // acknowledgement is missing, which the peer then has already and drops.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

/// Frames that large ones do not hold up.
const SMALL_FRAME: usize = 64 << 10;
const SOON: i32 = 1;
const LATER: i32 = 0;
/// From how many bytes on a run is not copied.
const WORTH_A_PIECE: usize = 4096;
