//! Frames with payload of the peer: each stream is read by a task of its own, straight into place.
//!
//! Once the head of a frame has been admitted, its bytes are copied from the datagrams to the region in whatever order
//! they come. Each copy is made under the lock that ends operations, after asking whether it is still wanted: nothing is
//! placed after an operation was ended by its link.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use mlxcel_transport::core::{HEADER_BYTES, Head, Header, Link, Placement, ProtocolError, Target};
use quinn::{Chunk, ReadError, ReadExactError, RecvStream};
use smallvec::SmallVec;
use tokio::task::JoinSet;

use super::layout::{Layout, TOO_LONG};
use super::{Ended, Way};
use crate::books::UNWANTED;
use crate::meet::RAIL;

/// Takes them as they come.
pub(super) async fn accept(way: Way) -> Result<Infallible, Ended> {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = way.connection.accept_uni() => {
                let stream = stream?;
                streams.spawn(take(way.clone(), stream));
            }
            Some(taken) = streams.join_next(), if !streams.is_empty() => {
                taken.unwrap_or(Err(Ended::Forgotten))?;
            }
        }
    }
}

async fn take(way: Way, mut stream: RecvStream) -> Result<(), Ended> {
    let (head, head_bytes) = read_head(&mut stream).await?;
    let payload = head.header.payload as usize;
    let placement = way.shared.ask(way.name, |link| link.receive(RAIL, &head, Instant::now()))??;
    let (mut whole, mut buffered) = (true, None);
    match &placement.target {
        Target::Nothing => {}
        Target::Discard(_) => whole = false,
        Target::Buffer(_) => {
            let mut bytes = vec![0; payload];
            stream.read_exact(&mut bytes).await.map_err(cut_short)?;
            buffered = Some(Bytes::from(bytes));
        }
        Target::Regions(places) => {
            let layout = Layout { places, head_bytes, payload };
            whole = place(&way, &mut stream, &placement, layout).await?;
        }
    }
    way.shared.ask(way.name, |link| link.placed(RAIL, placement, buffered, Instant::now()))??;
    if whole {
        return read_end(&mut stream).await;
    }
    // That it has ended already saves the peer as much.
    let _ = stream.stop(UNWANTED);
    Ok(())
}

async fn read_head(stream: &mut RecvStream) -> Result<(Head, usize), Ended> {
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).await.map_err(cut_short)?;
    let header = Header::parse(&bytes)?;
    if !header.verb.has_payload() {
        return Err(ProtocolError("a frame without payload has a stream of its own").into());
    }
    let mut further: SmallVec<[u8; 256]> = SmallVec::from_elem(0, header.runs_bytes());
    stream.read_exact(&mut further).await.map_err(cut_short)?;
    Ok((Head::parse(header, &further)?, HEADER_BYTES + further.len()))
}

/// A stream is one frame and nothing else.
async fn read_end(stream: &mut RecvStream) -> Result<(), Ended> {
    match stream.read_chunk(1, false).await.map_err(broken)? {
        None => Ok(()),
        Some(_) => Err(TOO_LONG.into()),
    }
}

/// Reads a payload into place; whether it was wanted to the end.
async fn place(
    way: &Way,
    stream: &mut RecvStream,
    placement: &Placement,
    layout: Layout<'_>,
) -> Result<bool, Ended> {
    let mut placed = 0;
    while placed < layout.payload {
        let chunks = read(stream).await?;
        let copy = |link: &mut Link| -> Result<bool, ProtocolError> {
            link.heard(RAIL, Instant::now());
            let wanted = link.wants(placement)?;
            if wanted {
                for chunk in &chunks {
                    placed += layout.copy(chunk.offset, &chunk.bytes)?;
                }
            }
            Ok(wanted)
        };
        if !way.shared.ask(way.name, copy)?? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What has come, at least something.
async fn read(stream: &mut RecvStream) -> Result<SmallVec<[Chunk; TOGETHER]>, Ended> {
    let mut chunks = SmallVec::new();
    let first = stream.read_chunk(usize::MAX, false).await.map_err(broken)?;
    chunks.push(first.ok_or(Ended::Protocol(CUT_SHORT))?);
    while chunks.len() < TOGETHER
        && let Some(Ok(Some(chunk))) = stream.read_chunk(usize::MAX, false).now_or_never()
    {
        chunks.push(chunk);
    }
    Ok(chunks)
}

fn cut_short(error: ReadExactError) -> Ended {
    match error {
        ReadExactError::ReadError(error) => broken(error),
        ReadExactError::FinishedEarly(_) => Ended::Protocol(CUT_SHORT),
    }
}

fn broken(error: ReadError) -> Ended {
    match error {
        ReadError::ConnectionLost(error) => Ended::Connection(error),
        _ => Ended::Protocol(CUT_SHORT),
    }
}

const CUT_SHORT: ProtocolError = ProtocolError("a frame is cut short");
/// Datagrams that are placed under one lock: some ten microseconds.
const TOGETHER: usize = 16;
