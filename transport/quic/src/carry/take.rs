//! Frames with payload of the peer: each stream is read by a task of its own, straight into place.
//!
//! Once the head of a frame has been admitted, its bytes are copied from the datagrams to the region in whatever order
//! they come. Each copy is made under the lock that ends operations, after asking whether it is still wanted: nothing is
//! placed after an operation was ended by its link.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use mlxcel_transport::core::{HEADER_BYTES, Header, Link, ProtocolError};
use quinn::{Chunk, ReadError, ReadExactError, RecvStream};
use smallvec::SmallVec;
use tokio::task::JoinSet;

use super::frame::{Incoming, Wanted, opening};
use super::layout::TOO_LONG;
use super::{Ended, Way};
use crate::books::UNWANTED;

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
    let (header, further) = read_head(&mut stream).await?;
    let begin = |link: &mut Link| Incoming::begin(header, &further, link, Instant::now());
    let mut frame = way.shared.ask(way.name, begin)??;
    let (mut wanted, mut buffered) = (frame.wanted(), None);
    while wanted == Wanted::Pieces {
        let chunks = read(&mut stream).await?;
        let pieces = chunks.iter().map(|chunk| (chunk.offset, &chunk.bytes[..]));
        wanted = way.shared.ask(way.name, |link| frame.place(pieces, link, Instant::now()))??;
    }
    if let Wanted::Whole(len) = wanted {
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).await.map_err(cut_short)?;
        buffered = Some(Bytes::from(bytes));
    }
    way.shared.ask(way.name, |link| frame.end(buffered, link, Instant::now()))??;
    if wanted != Wanted::Neither {
        return read_end(&mut stream).await;
    }
    // That it has ended already saves the peer as much.
    let _ = stream.stop(UNWANTED);
    Ok(())
}

async fn read_head(stream: &mut RecvStream) -> Result<(Header, SmallVec<[u8; 256]>), Ended> {
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).await.map_err(cut_short)?;
    let header = opening(&bytes)?;
    let mut further = SmallVec::from_elem(0, header.runs_bytes());
    stream.read_exact(&mut further).await.map_err(cut_short)?;
    Ok((header, further))
}

/// A stream is one frame and nothing else.
async fn read_end(stream: &mut RecvStream) -> Result<(), Ended> {
    match stream.read_chunk(1, false).await.map_err(broken)? {
        None => Ok(()),
        Some(_) => Err(TOO_LONG.into()),
    }
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
