//! One connection to a peer: a socket, what protects it, and what goes over it in both directions.
//!
//! The same for every driver: a rail lists memory for the socket to fill or to empty, and is told how much was. Whether
//! that is done by calls that do not block (`direct`) or by the kernel while the caller does something else
//! (`uring`) is not known here. Frames mean nothing here either: `core::Link` knows.

mod body;
mod buffers;
pub(super) mod direct;
mod inbound;
mod outbound;

use std::io;
use std::time::Instant;

use mio::net::TcpStream;

use super::tls::{Session, TlsError};
use crate::PeerId;
use crate::core::{Link, ProtocolError, RailId};

pub(super) use buffers::{Gather, Scatter};
use inbound::Inbound;
pub(super) use inbound::Step;
use outbound::{Outbound, Torn};

/// What ended a rail.
#[derive(Debug, thiserror::Error)]
pub(super) enum RailError {
    /// The peer, or the system, closed it.
    #[error("the connection ended: {0}")]
    Socket(#[from] io::Error),
    /// Its protection failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer does not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A write ended while a frame of it was half on its way.
    #[error("a write ended while it was being sent")]
    Torn,
}

impl From<Torn> for RailError {
    fn from(_: Torn) -> Self {
        Self::Torn
    }
}

/// What protects a connection.
pub(super) enum Wire {
    Plain,
    Tls(Box<Session>),
}

/// One connection to a peer.
pub(super) struct Rail {
    pub(super) id: RailId,
    pub(super) peer: PeerId,
    /// Which of our links to the peer it belongs to.
    pub(super) incarnation: u64,
    pub(super) socket: TcpStream,
    /// A kernel operation fills `scatter`.
    pub(super) reading: bool,
    /// A kernel operation empties `gather`.
    pub(super) writing: bool,
    /// The socket took less than it was offered, and has not said since that it takes more.
    pub(super) blocked: bool,
    /// Nothing more is fed to the link.
    pub(super) closing: bool,
    wire: Wire,
    inbound: Inbound,
    outbound: Outbound,
    pub(super) scatter: Scatter,
    pub(super) gather: Gather,
}

impl Rail {
    pub(super) fn new((peer, incarnation, id): (PeerId, u64, RailId), socket: TcpStream, wire: Wire) -> Self {
        Self {
            id,
            peer,
            incarnation,
            socket,
            reading: false,
            writing: false,
            blocked: false,
            closing: false,
            wire,
            inbound: Inbound::new(),
            outbound: Outbound::default(),
            scatter: Scatter::default(),
            gather: Gather::default(),
        }
    }

    /// Whether the socket's next bytes go straight to a region.
    #[cfg(target_os = "linux")]
    pub(super) fn is_at_region(&self) -> bool {
        matches!(self.wire, Wire::Plain) && self.inbound.is_at_region()
    }

    /// Fills `scatter` with where bytes from the socket go.
    pub(super) fn list_space(&mut self) {
        self.scatter.clear();
        match &mut self.wire {
            Wire::Plain => self.inbound.space(&mut self.scatter),
            // SAFETY: the session's buffer is on the heap, and untouched until `filled`.
            Wire::Tls(session) => unsafe { self.scatter.buffer(session.space()) },
        }
    }

    /// The socket filled `count` bytes of `scatter`.
    pub(super) fn filled(&mut self, count: usize) {
        self.scatter.clear();
        match &mut self.wire {
            Wire::Plain => self.inbound.filled(count),
            Wire::Tls(session) => session.filled(count),
        }
    }

    /// Tells the link of one thing that has come in.
    pub(super) fn step(&mut self, link: &mut Link, now: Instant) -> Result<Step, RailError> {
        loop {
            if self.inbound.step(self.id, link, now)? == Step::Told {
                return Ok(Step::Told);
            }
            let Wire::Tls(session) = &mut self.wire else { return Ok(Step::Starved) };
            let plain = session.plain()?;
            if plain.is_empty() {
                return Ok(Step::Starved);
            }
            self.inbound.reconsider(link)?;
            let count = self.inbound.feed(plain);
            session.take(count);
        }
    }

    /// Fills `gather` with what the socket is to be given; whether there is anything.
    pub(super) fn list_contents(&mut self, link: &mut Link, now: Instant) -> Result<bool, RailError> {
        self.release();
        let dropped = self.outbound.drop_ended();
        if dropped > 0 {
            link.sent(self.id, dropped, now);
        }
        match &mut self.wire {
            Wire::Plain => {
                if !self.outbound.refill(self.id, link, now) {
                    return Ok(false);
                }
                self.outbound.contents(&mut self.gather)?;
            }
            Wire::Tls(session) => {
                if session.sealed().is_empty() && self.outbound.refill(self.id, link, now) {
                    self.outbound.contents(&mut self.gather)?;
                    let count = session.seal(self.gather.list())?;
                    self.outbound.drained(count);
                    self.gather.clear();
                }
                // SAFETY: the session's buffer is on the heap, and untouched until `drained`.
                unsafe { self.gather.buffer(session.sealed()) };
            }
        }
        Ok(self.gather.bytes() > 0)
    }

    /// The socket took `count` bytes of `gather`.
    pub(super) fn drained(&mut self, count: usize, link: &mut Link, now: Instant) {
        self.gather.clear();
        match &mut self.wire {
            Wire::Plain => self.outbound.drained(count),
            Wire::Tls(session) => session.drained(count),
        }
        link.sent(self.id, count, now);
    }

    /// The socket reads `gather` no more.
    pub(super) fn release(&mut self) {
        self.gather.clear();
        self.outbound.release();
    }

    /// Whether the kernel holds up a write that has ended.
    #[cfg(target_os = "linux")]
    pub(super) fn is_overdue(&self) -> bool {
        self.writing && self.outbound.is_overdue()
    }

    /// Whether the kernel may still use memory of this rail.
    pub(super) const fn is_in_use(&self) -> bool {
        self.reading || self.writing
    }
}
