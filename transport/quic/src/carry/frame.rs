//! What a peer's streams say, bytes in and places out: no stream is read here.
//!
//! Frames without payload come one after the other and are cut anywhere (`Control`). Each of the others has a stream of
//! its own, a head and then bytes in whatever order they come (`Incoming`). Who reads them is `control` and `take`.

use std::time::Instant;

use bytes::Bytes;
use mlxcel_transport::core::{HEADER_BYTES, Head, Header, Link, Placement, ProtocolError, Target};

use super::layout::Layout;
use crate::meet::RAIL;

/// The stream of the frames without payload.
pub(crate) struct Control {
    buffer: [u8; HEADER_BYTES * 64],
    filled: usize,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self { buffer: [0; _], filled: 0 }
    }

    /// Where the bytes that come next go; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes have come: feeds the link with what is whole.
    pub(crate) fn hear(&mut self, count: usize, link: &mut Link, now: Instant) -> Result<(), ProtocolError> {
        self.filled += count;
        let (frames, _) = self.buffer[..self.filled].as_chunks::<HEADER_BYTES>();
        for frame in frames {
            let header = Header::parse(frame)?;
            if header.verb.has_payload() {
                return Err(ProtocolError("a frame with payload has no stream of its own"));
            }
            let placement = link.receive(RAIL, &Head::parse(header, &[])?, now)?;
            link.placed(RAIL, placement, None, now)?;
        }
        let heard = frames.len() * HEADER_BYTES;
        self.buffer.copy_within(heard..self.filled, 0);
        self.filled -= heard;
        Ok(())
    }
}

/// How the head of a frame with payload begins.
pub(crate) fn opening(bytes: &[u8; HEADER_BYTES]) -> Result<Header, ProtocolError> {
    let header = Header::parse(bytes)?;
    if !header.verb.has_payload() {
        return Err(ProtocolError("a frame without payload has a stream of its own"));
    }
    Ok(header)
}

/// A frame with payload whose head has come.
pub(crate) struct Incoming {
    placement: Placement,
    head_bytes: usize,
    payload: usize,
    placed: usize,
}

/// What is to be read of a frame behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its end.
    Nothing,
    /// This many bytes in order.
    Whole(usize),
    /// Bytes in whatever order, for [`Incoming::place`].
    Pieces,
    /// Nothing: the rest is of no use.
    Neither,
}

impl Incoming {
    /// A frame begins with `header` and these bytes.
    pub(crate) fn begin(
        header: Header,
        further: &[u8],
        link: &mut Link,
        now: Instant,
    ) -> Result<Self, ProtocolError> {
        let head = Head::parse(header, further)?;
        let placement = link.receive(RAIL, &head, now)?;
        let head_bytes = HEADER_BYTES + further.len();
        Ok(Self { placement, head_bytes, payload: header.payload as usize, placed: 0 })
    }

    pub(crate) fn wanted(&self) -> Wanted {
        match &self.placement.target {
            Target::Nothing => Wanted::Nothing,
            Target::Discard(_) => Wanted::Neither,
            Target::Buffer(len) => Wanted::Whole(*len),
            Target::Regions(_) if self.placed == self.payload => Wanted::Nothing,
            Target::Regions(_) => Wanted::Pieces,
        }
    }

    /// Places bytes, each with its offset in the stream, unless the frame is of no use any more. None comes twice.
    pub(crate) fn place<'a>(
        &mut self,
        pieces: impl IntoIterator<Item = (u64, &'a [u8])>,
        link: &mut Link,
        now: Instant,
    ) -> Result<Wanted, ProtocolError> {
        link.heard(RAIL, now);
        let Target::Regions(places) = &self.placement.target else { return Ok(self.wanted()) };
        if !link.wants(&self.placement)? {
            return Ok(Wanted::Neither);
        }
        let layout = Layout { places, head_bytes: self.head_bytes, payload: self.payload };
        for (offset, bytes) in pieces {
            self.placed += layout.copy(offset, bytes)?;
        }
        Ok(self.wanted())
    }

    /// What was wanted is there; `buffered` is what was wanted whole.
    pub(crate) fn end(
        self,
        buffered: Option<Bytes>,
        link: &mut Link,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        link.placed(RAIL, self.placement, buffered, now)
    }
}
