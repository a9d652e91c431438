//! Frames out of the packets of a connection, in the order they were sent.
//!
//! No device in sight: bytes in, calls of the link out. Frames are cut wherever packets end; what a frame carries is
//! copied to its place as it comes, unless the peer's device writes it there.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mlxcel_transport::RegionSlice;
use mlxcel_transport::core::{
    HEADER_BYTES, Head, Header, Link, Placement, ProtocolError, RUN_BYTES, Target, Verb,
};
use smallvec::SmallVec;

use super::RAIL;

/// How far the frame has come that is arriving.
#[derive(Default)]
pub(crate) struct Inbound {
    head: SmallVec<[u8; HEADER_BYTES + 2 * RUN_BYTES]>,
    payload: Option<Arriving>,
    /// A frame whose payload the peer's device writes.
    written: Option<Placement>,
}

/// A payload that comes through packets.
struct Arriving {
    placement: Placement,
    at: usize,
    len: usize,
    buffered: BytesMut,
    /// The batch has been dropped: the rest is read and forgotten.
    unwanted: bool,
}

impl Inbound {
    /// Takes a piece of the stream. `written` says that the payload of the last frame in it is written by the device.
    pub(crate) fn take(
        &mut self,
        link: &mut Link,
        mut stream: &[u8],
        written: bool,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        if self.written.is_some() {
            return Err(ProtocolError("a packet came before the bytes that were announced"));
        }
        while !stream.is_empty() {
            if let Some(arriving) = &mut self.payload {
                stream = arriving.take(link, stream)?;
                if arriving.at == arriving.len {
                    let arrived = self.payload.take().expect("it was there a moment ago");
                    arrived.finish(link, now)?;
                }
                continue;
            }
            let Some(head) = self.take_head(&mut stream)? else { continue };
            let placement = link.receive(RAIL, &head, now)?;
            if written && stream.is_empty() && head.header.verb == Verb::Data {
                self.written = Some(placement);
                return Ok(());
            }
            match head.header.payload as usize {
                0 => link.placed(RAIL, placement, None, now)?,
                len => self.payload = Some(Arriving::new(placement, len)),
            }
        }
        let whole = !written;
        whole.then_some(()).ok_or(ProtocolError("a packet announces bytes of no frame"))
    }

    /// The device has written what was announced.
    pub(crate) fn written(&mut self, link: &mut Link, now: Instant) -> Result<(), ProtocolError> {
        let placement = self.written.take().ok_or(ProtocolError("bytes came that were not announced"))?;
        link.heard(RAIL, now);
        if link.wants(&placement)? { link.placed(RAIL, placement, None, now) } else { Ok(()) }
    }

    /// The head of a frame, if all of it is there.
    fn take_head(&mut self, stream: &mut &[u8]) -> Result<Option<Head>, ProtocolError> {
        self.gather(stream, HEADER_BYTES);
        let Some(header) = self.head.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(header)?;
        let whole = HEADER_BYTES + header.runs_bytes();
        self.gather(stream, whole);
        if self.head.len() < whole {
            return Ok(None);
        }
        let head = Head::parse(header, &self.head[HEADER_BYTES..])?;
        self.head.clear();
        Ok(Some(head))
    }

    /// Moves bytes to the head until it has so many.
    fn gather(&mut self, stream: &mut &[u8], len: usize) {
        let missing = len.saturating_sub(self.head.len()).min(stream.len());
        let (taken, rest) = stream.split_at(missing);
        self.head.extend_from_slice(taken);
        *stream = rest;
    }
}

impl Arriving {
    fn new(placement: Placement, len: usize) -> Self {
        Self { placement, at: 0, len, buffered: BytesMut::new(), unwanted: false }
    }

    /// Puts bytes into place; what is left of the stream.
    fn take<'a>(&mut self, link: &mut Link, stream: &'a [u8]) -> Result<&'a [u8], ProtocolError> {
        let (here, rest) = stream.split_at(stream.len().min(self.len - self.at));
        match &self.placement.target {
            Target::Regions(places) => {
                self.unwanted = self.unwanted || !link.wants(&self.placement)?;
                if !self.unwanted {
                    place(places, self.at, here);
                }
            }
            Target::Buffer(_) => self.buffered.extend_from_slice(here),
            Target::Discard(_) | Target::Nothing => {}
        }
        self.at += here.len();
        Ok(rest)
    }

    fn finish(self, link: &mut Link, now: Instant) -> Result<(), ProtocolError> {
        let buffered: Option<Bytes> =
            matches!(self.placement.target, Target::Buffer(_)).then(|| self.buffered.freeze());
        if self.unwanted {
            link.heard(RAIL, now);
            return Ok(());
        }
        link.placed(RAIL, self.placement, buffered, now)
    }
}

/// Copies bytes to where they belong, `at` bytes into the places.
fn place(places: &[RegionSlice], mut at: usize, mut bytes: &[u8]) {
    for place in places {
        if at >= place.len() {
            at -= place.len();
            continue;
        }
        let (here, rest) = bytes.split_at(bytes.len().min(place.len() - at));
        place.part(at..at + here.len()).fill_from(here);
        (bytes, at) = (rest, 0);
        if bytes.is_empty() {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
