//! From a fresh socket to a rail: connecting, the TLS handshake, and who is who.
//!
//! Never blocks: whoever owns the sockets calls `proceed` when one may have got further. Whether a caller is welcome is
//! decided by `links`; when to dial, by `dial`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use mio::net::TcpStream;
use mlxcel_cluster_config::Fingerprint;
use mlxcel_cluster_config::tls::DataPlane;

use super::links::{Met, Reply};
use super::rail::Wire;
use super::tls::{Handshake, Progress, Session, TlsError};
use crate::ConnectError;
use crate::core::hello::{ANSWER_BYTES, Answer, HELLO_BYTES, Hello, HelloError};

/// Why a connection did not become a rail.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    /// The system says no.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The ends do not trust each other.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The other end is none of ours, or of another release.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// It took too long.
    #[error("the handshake did not end in time")]
    Late,
    /// The caller is not welcome, and has been told why.
    #[error("it was refused")]
    Refused,
}

/// How far a greeting has come.
#[derive(Debug)]
pub(super) enum Greeted {
    /// The other end, or the network, is awaited.
    Waiting,
    /// A caller said who it is; it is to be answered.
    Asked(Hello),
    /// A caller was told that it is welcome, by our end of this name.
    Told(Hello, u64),
    /// The peer we called answered.
    Answered(Reply),
}

/// A connection that may become a rail.
pub(super) struct Greeting {
    pub(super) socket: TcpStream,
    pub(super) deadline: Instant,
    /// What we called with, and where; `None` where we were called.
    pub(super) called: Option<(Hello, SocketAddr)>,
    /// The key the other end has shown.
    pub(super) key: Option<Fingerprint>,
    stage: Stage,
    received: Vec<u8>,
    outgoing: Vec<u8>,
}

enum Stage {
    /// The network is asked.
    Connecting(Option<DataPlane>),
    /// TLS is agreed on.
    Shaking(Box<Handshake>),
    /// A hello is on its way, in one direction or the other.
    Speaking(Wire),
    /// A caller has said hello and is being answered.
    Answering(Wire, Hello, Answer),
    /// The caller is refused: once it has read why, it hangs up.
    Parting(Option<GreetError>),
}

impl Greeting {
    /// Of a connection we open, to `hello.to`.
    pub(super) fn call(
        address: SocketAddr,
        hello: Hello,
        plane: Option<DataPlane>,
        deadline: Instant,
    ) -> Result<Self, GreetError> {
        let socket = TcpStream::connect(address)?;
        Ok(Self::new(socket, Stage::Connecting(plane), Some((hello, address)), deadline))
    }

    /// Of a connection that was opened to us.
    pub(super) fn answer_to(
        socket: TcpStream,
        plane: Option<&DataPlane>,
        deadline: Instant,
    ) -> Result<Self, GreetError> {
        // Small frames must not wait for the acknowledgement of the last one; a socket that cannot be told works.
        let _ = socket.set_nodelay(true);
        let stage = match plane {
            Some(plane) => Stage::Shaking(Box::new(Handshake::server(plane)?)),
            None => Stage::Speaking(Wire::Plain),
        };
        Ok(Self::new(socket, stage, None, deadline))
    }

    fn new(socket: TcpStream, stage: Stage, called: Option<(Hello, SocketAddr)>, deadline: Instant) -> Self {
        let (received, outgoing) = (Vec::new(), Vec::new());
        Self { socket, deadline, called, key: None, stage, received, outgoing }
    }

    /// Goes as far as the socket allows.
    pub(super) fn proceed(&mut self) -> Result<Greeted, GreetError> {
        match self.advance() {
            // With bytes of the caller unread, closing now would throw away what tells it why.
            Err(error @ GreetError::Tls(_)) if self.called.is_none() => self.part(error),
            other => other,
        }
    }

    /// Answers a caller.
    pub(super) fn answer(&mut self, answer: Answer) -> Result<Greeted, GreetError> {
        self.say(&answer.to_bytes())?;
        match std::mem::replace(&mut self.stage, Stage::Parting(None)) {
            Stage::Speaking(wire) => {
                let hello = Hello::parse(self.received.first_chunk().expect("a caller is answered"))?;
                self.stage = Stage::Answering(wire, hello, answer);
            }
            other => self.stage = other,
        }
        self.proceed()
    }

    /// What a rail is made of, after the answer.
    pub(super) fn into_met(self) -> Met {
        match self.stage {
            Stage::Speaking(wire) | Stage::Answering(wire, ..) => {
                Met { socket: self.socket, wire, key: self.key }
            }
            _ => unreachable!("a rail begins after the answer"),
        }
    }

    fn advance(&mut self) -> Result<Greeted, GreetError> {
        if let Stage::Connecting(plane) = &mut self.stage {
            if !is_connected(&self.socket)? {
                return Ok(Greeted::Waiting);
            }
            let _ = self.socket.set_nodelay(true);
            match plane.take() {
                Some(plane) => self.stage = Stage::Shaking(Box::new(Handshake::client(&plane)?)),
                None => self.open(Wire::Plain)?,
            }
        }
        if matches!(self.stage, Stage::Shaking(_)) && !self.shake()? {
            return Ok(Greeted::Waiting);
        }
        if !self.flush()? {
            return Ok(Greeted::Waiting);
        }
        match &mut self.stage {
            Stage::Answering(_, hello, Answer::Accepted { incarnation, .. }) => {
                Ok(Greeted::Told(*hello, *incarnation))
            }
            Stage::Answering(..) => self.part(GreetError::Refused),
            Stage::Parting(why) => match receive(&mut self.socket, &mut [0; 1024]) {
                Ok(_) => Ok(Greeted::Waiting),
                Err(_) => Err(why.take().unwrap_or(GreetError::Refused)),
            },
            _ => self.listen(),
        }
    }

    /// The connection is open: who opened it says hello.
    fn open(&mut self, wire: Wire) -> Result<(), GreetError> {
        self.stage = Stage::Speaking(wire);
        if let Some((hello, _)) = self.called {
            self.say(&hello.to_bytes())?;
        }
        Ok(())
    }

    fn part(&mut self, why: GreetError) -> Result<Greeted, GreetError> {
        // What cannot be sent now is not worth waiting for.
        let _ = flush(&mut self.socket, &mut self.outgoing);
        self.outgoing.clear();
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return Err(why);
        }
        self.stage = Stage::Parting(Some(why));
        Ok(Greeted::Waiting)
    }

    /// The TLS handshake; whether it is over.
    fn shake(&mut self) -> Result<bool, GreetError> {
        let Stage::Shaking(handshake) = &mut self.stage else { return Ok(true) };
        let mut progress = handshake.step();
        let mut buffer = [0; 4096];
        loop {
            self.outgoing.append(&mut handshake.outgoing);
            let flushed = flush(&mut self.socket, &mut self.outgoing);
            match progress? {
                Progress::Done => break,
                Progress::Waiting => flushed?,
            };
            let Some(count) = receive(&mut self.socket, &mut buffer)? else { return Ok(false) };
            handshake.received(&buffer[..count]);
            progress = handshake.step();
        }
        let Stage::Shaking(handshake) = std::mem::replace(&mut self.stage, Stage::Speaking(Wire::Plain))
        else {
            unreachable!("matched above");
        };
        let (session, key) = handshake.finish()?;
        self.key = Some(key);
        self.open(Wire::Tls(Box::new(session)))?;
        Ok(true)
    }

    /// Waits for a hello, or for the answer to ours.
    fn listen(&mut self) -> Result<Greeted, GreetError> {
        let wanted = if self.called.is_some() { ANSWER_BYTES } else { HELLO_BYTES };
        if !self.hear(wanted)? {
            return Ok(Greeted::Waiting);
        }
        if let Some((hello, address)) = self.called {
            let answer = Answer::parse(self.received.first_chunk().expect("an answer has come"))?;
            return Ok(Greeted::Answered(Reply { hello, address, answer }));
        }
        let hello = Hello::parse(self.received.first_chunk().expect("a hello has come"))?;
        Ok(Greeted::Asked(hello))
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), GreetError> {
        match &mut self.stage {
            Stage::Speaking(Wire::Tls(session)) => {
                session.seal(&[io::IoSlice::new(bytes)])?;
                self.outgoing.extend(session.sealed());
                let count = session.sealed().len();
                session.drained(count);
            }
            _ => self.outgoing.extend(bytes),
        }
        Ok(())
    }

    /// Reads until there are `wanted` bytes and not one more; whether they are there.
    fn hear(&mut self, wanted: usize) -> Result<bool, GreetError> {
        while self.received.len() < wanted {
            let missing = wanted - self.received.len();
            let came = match &mut self.stage {
                Stage::Speaking(Wire::Tls(session)) => {
                    hear_sealed(session, &mut self.socket, &mut self.received, missing)?
                }
                _ => {
                    let mut buffer = [0; 256];
                    let most = missing.min(buffer.len());
                    let came = receive(&mut self.socket, &mut buffer[..most])?;
                    self.received.extend(&buffer[..came.unwrap_or(0)]);
                    came.is_some()
                }
            };
            if !came {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<bool, GreetError> {
        flush(&mut self.socket, &mut self.outgoing)?;
        Ok(self.outgoing.is_empty())
    }
}

impl GreetError {
    /// Whether nobody listens there.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Socket(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// As whoever called is told.
    pub(super) fn of_call(self, address: SocketAddr) -> ConnectError {
        let address = address.to_string();
        match self {
            Self::Socket(error) => ConnectError::Unreachable { address, detail: error.to_string() },
            Self::Tls(error) => ConnectError::Untrusted { address, detail: error.to_string() },
            Self::Hello(HelloError::Version { theirs, ours }) => ConnectError::Version { ours, theirs },
            Self::Hello(error) => ConnectError::Untrusted { address, detail: error.to_string() },
            Self::Late | Self::Refused => ConnectError::Unreachable { address, detail: self.to_string() },
        }
    }
}

fn hear_sealed(
    session: &mut Session,
    socket: &mut TcpStream,
    received: &mut Vec<u8>,
    missing: usize,
) -> Result<bool, GreetError> {
    let plain = session.plain()?;
    if plain.is_empty() {
        let Some(count) = receive(socket, session.space())? else { return Ok(false) };
        session.filled(count);
    } else {
        let count = plain.len().min(missing);
        received.extend(&plain[..count]);
        session.take(count);
    }
    Ok(true)
}

/// Whether a connection that was being opened is open.
fn is_connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if is_pending(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_pending(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::WouldBlock)
}

/// What the socket has; `None` when it has nothing now.
fn receive(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match socket.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Gives the socket as much as it takes.
fn flush(socket: &mut TcpStream, outgoing: &mut Vec<u8>) -> io::Result<()> {
    while !outgoing.is_empty() {
        match socket.write(outgoing) {
            Ok(count) => drop(outgoing.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
