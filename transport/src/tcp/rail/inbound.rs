//! The receiving half of a rail: from the bytes of a socket to frames that the link has been told of.
//!
//! Payloads go where the link says, read straight into the region as soon as their head has been admitted. The end of a
//! payload and the head of the next frame come with one call of the system: behind the payload the socket fills a small
//! staging buffer, which holds a whole small frame. Knows nothing of sockets and of what frames mean.

use std::time::Instant;

use super::body::Body;
use super::buffers::Scatter;
use crate::core::{HEADER_BYTES, Head, Header, Link, ProtocolError, RailId};

/// What comes in over one rail.
pub(in crate::tcp) struct Inbound {
    staging: Box<[u8; STAGING]>,
    /// Bytes of `staging` that have not been looked at.
    start: usize,
    end: usize,
    body: Option<Body>,
}

/// Whether there is more to do with what has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tcp) enum Step {
    /// The link was told of something; there may be more.
    Told,
    /// More bytes are needed.
    Starved,
}

impl Inbound {
    pub(in crate::tcp) fn new() -> Self {
        Self { staging: Box::new([0; STAGING]), start: 0, end: 0, body: None }
    }

    /// Whether the next bytes go to a region.
    #[cfg(target_os = "linux")]
    pub(in crate::tcp) fn is_at_region(&self) -> bool {
        self.body.as_ref().is_some_and(Body::is_for_region)
    }

    /// To be called before bytes are moved to a region: they go there only if they are still wanted.
    pub(in crate::tcp) fn reconsider(&mut self, link: &mut Link) -> Result<(), ProtocolError> {
        self.body.as_mut().map_or(Ok(()), |body| body.reconsider(link))
    }

    /// Lists where the next bytes go. Nothing else may be called until they are there (`filled`).
    pub(in crate::tcp) fn space(&mut self, list: &mut Scatter) {
        if self.body.as_mut().is_none_or(|body| body.space(list)) {
            // SAFETY: the staging buffer is on the heap, and untouched until `filled`.
            unsafe { list.buffer(&mut self.staging[self.end..]) };
        }
    }

    /// The socket gave `count` bytes, into the places listed.
    pub(in crate::tcp) fn filled(&mut self, count: usize) {
        let of_body = self.body.as_mut().map_or(0, |body| body.filled(count));
        self.end += count - of_body;
    }

    /// Takes bytes that came another way than through `space`; how many it had room for.
    pub(in crate::tcp) fn feed(&mut self, bytes: &[u8]) -> usize {
        if let Some(body) = &mut self.body
            && body.missing() > 0
        {
            return body.copy(bytes);
        }
        let count = bytes.len().min(STAGING - self.end);
        self.staging[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Tells the link of one thing that has come in.
    pub(in crate::tcp) fn step(
        &mut self,
        rail: RailId,
        link: &mut Link,
        now: Instant,
    ) -> Result<Step, ProtocolError> {
        if let Some(mut body) = self.body.take() {
            self.start += body.copy(&self.staging[self.start..self.end]);
            if body.missing() > 0 {
                self.body = Some(body);
                return Ok(self.starve());
            }
            let (placement, buffered) = body.finish();
            link.placed(rail, placement, buffered, now)?;
        } else if let Some(head) = self.head()? {
            self.body = Some(Body::new(link.receive(rail, &head, now)?));
        } else {
            return Ok(self.starve());
        }
        Ok(Step::Told)
    }

    /// The head of the next frame, once it is there whole.
    fn head(&mut self) -> Result<Option<Head>, ProtocolError> {
        let bytes = &self.staging[self.start..self.end];
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(header)?;
        let len = HEADER_BYTES + header.runs_bytes();
        let Some(runs) = bytes.get(HEADER_BYTES..len) else { return Ok(None) };
        let head = Head::parse(header, runs)?;
        self.start += len;
        Ok(Some(head))
    }

    /// Makes room behind what is incomplete.
    fn starve(&mut self) -> Step {
        self.staging.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        Step::Starved
    }
}

/// A head of most runs (64 + 63 x 24 bytes), and a small frame whole: 4 KiB and a head.
const STAGING: usize = 4096 + 2 * HEADER_BYTES;
