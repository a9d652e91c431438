//! The handshake: rustls's state machine between two byte vectors.
//!
//! Ends in a `Session` and the key that the other end has shown; a refusal leaves the alert that tells the peer why in
//! what is to be sent.

use std::sync::Arc;

use mlxcel_cluster_config::Fingerprint;
use mlxcel_cluster_config::tls::{DataPlane, peer_fingerprint, server_name};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use super::session::Keys;
use super::{Session, TlsError};

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tcp) enum Progress {
    /// Bytes of the peer are needed.
    Waiting,
    /// Both ends have shown their keys.
    Done,
}

/// A handshake in progress.
pub(in crate::tcp) struct Handshake {
    end: End,
    incoming: Vec<u8>,
    /// Plaintext that came with the end of the handshake.
    early: Vec<u8>,
    /// To be sent, in order; whoever sends it removes it.
    pub(in crate::tcp) outgoing: Vec<u8>,
}

enum End {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Handshake {
    /// Of a connection we opened.
    pub(in crate::tcp) fn client(plane: &DataPlane) -> Result<Self, TlsError> {
        Ok(Self::new(End::Client(UnbufferedClientConnection::new(Arc::clone(&plane.client), server_name())?)))
    }

    /// Of a connection a peer opened.
    pub(in crate::tcp) fn server(plane: &DataPlane) -> Result<Self, TlsError> {
        Ok(Self::new(End::Server(UnbufferedServerConnection::new(Arc::clone(&plane.server))?)))
    }

    fn new(end: End) -> Self {
        Self { end, incoming: Vec::new(), early: Vec::new(), outgoing: Vec::new() }
    }

    /// Bytes of the peer. `step` tells what became of them.
    pub(in crate::tcp) fn received(&mut self, bytes: &[u8]) {
        self.incoming.extend(bytes);
    }

    /// Goes as far as the bytes received allow.
    pub(in crate::tcp) fn step(&mut self) -> Result<Progress, TlsError> {
        let Self { end, incoming, early, outgoing } = self;
        let stepped = match end {
            End::Client(client) => {
                drive(incoming, early, outgoing, |bytes, io| io.turn(client.process_tls_records(bytes)))
            }
            End::Server(server) => {
                drive(incoming, early, outgoing, |bytes, io| io.turn(server.process_tls_records(bytes)))
            }
        };
        let handshaking = match &self.end {
            End::Client(client) => client.is_handshaking(),
            End::Server(server) => server.is_handshaking(),
        };
        stepped.map(|()| if handshaking { Progress::Waiting } else { Progress::Done })
    }

    /// The connection and the peer's key, after `Done` and when all is sent.
    pub(in crate::tcp) fn finish(self) -> Result<(Session, Fingerprint), TlsError> {
        let nobody = TlsError::Protocol("no certificate");
        let (keys, secrets, peer) = match self.end {
            End::Client(client) => {
                let peer = peer_fingerprint(&client).ok_or(nobody)?;
                let (secrets, keys) = client.dangerous_into_kernel_connection()?;
                (Keys::Client(Box::new(keys)), secrets, peer)
            }
            End::Server(server) => {
                let peer = peer_fingerprint(&server).ok_or(nobody)?;
                let (secrets, keys) = server.dangerous_into_kernel_connection()?;
                (Keys::Server(Box::new(keys)), secrets, peer)
            }
        };
        Ok((Session::new(keys, secrets, &self.early, &self.incoming)?, peer))
    }
}

/// Where a turn of the state machine leaves what it makes.
struct Output<'a> {
    early: &'a mut Vec<u8>,
    outgoing: &'a mut Vec<u8>,
}

/// What a turn came to: bytes to drop from the front of the incoming ones, and whether there is more to do.
type Turn = (usize, Result<bool, TlsError>);

fn drive(
    incoming: &mut Vec<u8>,
    early: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
    mut turn: impl FnMut(&mut [u8], &mut Output<'_>) -> Turn,
) -> Result<(), TlsError> {
    loop {
        let mut output = Output { early, outgoing };
        let (used, more) = turn(incoming, &mut output);
        incoming.drain(..used);
        match more {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                // rustls has an alert for the peer; what comes after it is of no interest. It must see the bytes that it
                // has not discarded again: it keeps places in them.
                let _ = turn(incoming, &mut output);
                return Err(error);
            }
        }
    }
}

impl Output<'_> {
    fn turn<Data: Side>(&mut self, status: UnbufferedStatus<'_, '_, Data>) -> Turn {
        let UnbufferedStatus { discard, state } = status;
        let more = match state {
            Err(error) => Err(error.into()),
            Ok(ConnectionState::EncodeTlsData(encode)) => self.encode(encode).map(|()| true),
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                Ok(true)
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => self.early.extend(record.payload),
                    Some(Err(error)) => break Err(error.into()),
                    None => break Ok(true),
                }
            },
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(false),
            Ok(_) => Err(TlsError::Protocol("the end of the connection")),
        };
        (discard, more)
    }

    fn encode<Data: Side>(&mut self, mut encode: EncodeTlsData<'_, Data>) -> Result<(), TlsError> {
        let start = self.outgoing.len();
        let mut room = 4096;
        loop {
            self.outgoing.resize(start + room, 0);
            match encode.encode(&mut self.outgoing[start..]) {
                Ok(len) => {
                    self.outgoing.truncate(start + len);
                    return Ok(());
                }
                Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
                Err(EncodeError::AlreadyEncoded) => return Err(TlsError::Protocol("a flight twice")),
            }
        }
    }
}

/// Either end of a connection.
trait Side {}
impl Side for ClientConnectionData {}
impl Side for ServerConnectionData {}
