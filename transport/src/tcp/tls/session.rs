//! An established TLS connection as two buffers: what came from the socket and what goes to it.
//!
//! Nothing is resumed, and no tickets are sent; an alert of any kind ends the connection. The peer's key updates are
//! followed, and our own made in time.

use std::io::IoSlice;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets};

use super::record::{Content, HEADER, MAX_PLAINTEXT, MAX_RECORD, OVERHEAD, Protection, record_len};

/// What ended a TLS connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::tcp) enum TlsError {
    /// rustls refused.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// The peer gave a reason.
    #[error("the peer ended the connection: {0:?}")]
    Alert(AlertDescription),
    /// Bytes were changed on their way.
    #[error("a record was not made by the peer")]
    Forged,
    /// The peer does not keep to the protocol.
    #[error("the peer sent {0}")]
    Protocol(&'static str),
}

/// Where keys come from after the handshake.
pub(super) enum Keys {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// An established connection.
pub(in crate::tcp) struct Session {
    keys: Keys,
    seal: Protection,
    open: Protection,
    incoming: Incoming,
    outgoing: Vec<u8>,
    sent: usize,
}

/// What came from the socket: opened plaintext first, then records that are still closed.
struct Incoming {
    bytes: Box<[u8]>,
    /// Plaintext not taken yet.
    plain: std::ops::Range<usize>,
    /// Where closed records begin and end.
    closed: std::ops::Range<usize>,
}

impl Session {
    /// Takes over from a handshake: `plain` came with it already opened, `closed` still closed.
    pub(super) fn new(
        keys: Keys,
        secrets: ExtractedSecrets,
        plain: &[u8],
        closed: &[u8],
    ) -> Result<Self, TlsError> {
        let mut bytes = vec![0; INCOMING.max(plain.len() + closed.len() + MAX_RECORD)].into_boxed_slice();
        bytes[..plain.len()].copy_from_slice(plain);
        let end = plain.len() + closed.len();
        bytes[plain.len()..end].copy_from_slice(closed);
        Ok(Self {
            keys,
            seal: Protection::new(secrets.tx)?,
            open: Protection::new(secrets.rx)?,
            incoming: Incoming { bytes, plain: 0..plain.len(), closed: plain.len()..end },
            outgoing: Vec::with_capacity(OUTGOING + MAX_RECORD),
            sent: 0,
        })
    }

    #[cfg(fuzzing)]
    pub(super) fn begin_anew(&mut self, open: Protection) {
        self.open = open;
        (self.incoming.plain, self.incoming.closed) = (0..0, 0..0);
        self.outgoing.clear();
        self.sent = 0;
    }

    /// Where bytes from the socket go; never empty when `plain` has been taken until there was none.
    pub(in crate::tcp) fn space(&mut self) -> &mut [u8] {
        let incoming = &mut self.incoming;
        if incoming.plain.start == incoming.plain.end {
            let Incoming { bytes, closed, .. } = incoming;
            if closed.start == closed.end {
                *closed = 0..0;
            } else if bytes.len() - closed.end < MAX_RECORD {
                bytes.copy_within(closed.clone(), 0);
                *closed = 0..closed.len();
            }
        }
        &mut incoming.bytes[incoming.closed.end..]
    }

    /// The socket gave `count` bytes.
    pub(in crate::tcp) fn filled(&mut self, count: usize) {
        self.incoming.closed.end += count;
    }

    /// Plaintext to be taken; empty when more has to come from the socket first.
    pub(in crate::tcp) fn plain(&mut self) -> Result<&[u8], TlsError> {
        while self.incoming.plain.start == self.incoming.plain.end && self.open_next()? {}
        Ok(&self.incoming.bytes[self.incoming.plain.clone()])
    }

    /// The first `count` bytes of `plain` have been taken.
    pub(in crate::tcp) fn take(&mut self, count: usize) {
        self.incoming.plain.start += count;
    }

    fn open_next(&mut self) -> Result<bool, TlsError> {
        let Incoming { bytes, plain, closed } = &mut self.incoming;
        let Some(len) = record_len(&bytes[closed.clone()])? else { return Ok(false) };
        if len > closed.len() {
            return Ok(false);
        }
        let record = closed.start..closed.start + len;
        closed.start = record.end;
        let (content, len) = self.open.open(&mut bytes[record.clone()])?;
        let opened = record.start + HEADER..record.start + HEADER + len;
        match content {
            Content::Data => *plain = opened,
            Content::Alert => {
                return Err(TlsError::Alert(AlertDescription::from(
                    bytes[opened].get(1).copied().unwrap_or(0),
                )));
            }
            Content::Handshake => self.follow(opened)?,
        }
        Ok(true)
    }

    /// The peer's messages after the handshake: only renewed keys are expected.
    fn follow(&mut self, message: std::ops::Range<usize>) -> Result<(), TlsError> {
        match self.incoming.bytes[message] {
            [KEY_UPDATE, 0, 0, 1, requested] if requested <= 1 => {
                self.open = Protection::new(self.keys.renew_open()?)?;
                if requested == 1 { self.renew_seal() } else { Ok(()) }
            }
            _ => Err(TlsError::Protocol("an unexpected message after the handshake")),
        }
    }

    fn renew_seal(&mut self) -> Result<(), TlsError> {
        let message = [KEY_UPDATE, 0, 0, 1, 0];
        let fill = |to: &mut [u8]| to.copy_from_slice(&message);
        self.seal.seal(&mut self.outgoing, Content::Handshake, message.len(), fill)?;
        self.seal = Protection::new(self.keys.renew_seal()?)?;
        Ok(())
    }

    /// Seals as much of `parts` as there is room for; how many bytes that is.
    pub(in crate::tcp) fn seal(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, TlsError> {
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        let (mut part, mut offset, mut sealed) = (0, 0, 0);
        while left > 0 && self.outgoing.len() + OVERHEAD < OUTGOING {
            if self.seal.is_worn() {
                self.renew_seal()?;
            }
            let len = left.min(MAX_PLAINTEXT);
            self.seal.seal(&mut self.outgoing, Content::Data, len, |mut to| {
                while !to.is_empty() {
                    let from = &parts[part][offset..];
                    let count = from.len().min(to.len());
                    to[..count].copy_from_slice(&from[..count]);
                    to = &mut to[count..];
                    offset += count;
                    if offset == parts[part].len() {
                        (part, offset) = (part + 1, 0);
                    }
                }
            })?;
            left -= len;
            sealed += len;
        }
        Ok(sealed)
    }

    /// What the socket is to be given.
    pub(in crate::tcp) fn sealed(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// The socket took `count` bytes.
    pub(in crate::tcp) fn drained(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        }
    }
}

impl Keys {
    fn renew_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
    }

    fn renew_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        }
    }
}

#[cfg(test)]
impl Session {
    /// Makes the next record renew the key.
    pub(super) fn wear_out(&mut self) {
        self.seal.wear_out();
    }
}

/// Sixteen records: few calls of the system, and they stay in a core's cache until they have been opened.
const INCOMING: usize = 16 * MAX_RECORD;
/// Enough to keep a socket busy while the next is sealed.
const OUTGOING: usize = 16 * MAX_RECORD;
const KEY_UPDATE: u8 = 24;
