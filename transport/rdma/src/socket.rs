//! The socket over which two ends meet, protected or not, with a time by which everything on it must be over.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_cluster_config::Fingerprint;
use mlxcel_cluster_config::tls::{DataPlane, peer_fingerprint, server_name};
use mlxcel_transport::tcp::Security;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// A connected socket.
pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    descriptor: RawFd,
    /// The key that the other end has shown, where ends show keys.
    pub(crate) key: Option<Fingerprint>,
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// How sockets are protected.
#[derive(Clone)]
pub(crate) enum Protection {
    Tls(DataPlane),
    Plain,
}

impl Protection {
    pub(crate) fn new(security: &Security) -> Self {
        match security {
            Security::Tls { identity, trust } => Self::Tls(DataPlane::new(identity, trust, ALPN)),
            Security::Plain => Self::Plain,
        }
    }

    /// Protects a socket that this end has connected.
    pub(crate) fn call(&self, socket: TcpStream, until: Instant) -> io::Result<Socket> {
        let timed = Timed { socket, until };
        let Self::Tls(plane) = self else { return Ok(Socket::plain(timed)) };
        let connection =
            ClientConnection::new(Arc::clone(&plane.client), server_name()).map_err(io::Error::other)?;
        let descriptor = timed.socket.as_raw_fd();
        let mut stream = StreamOwned::new(connection, timed);
        stream.conn.complete_io(&mut stream.sock)?;
        let (key, protocol) =
            (peer_fingerprint(&stream.conn), stream.conn.alpn_protocol().map(<[u8]>::to_vec));
        Socket::protected(stream, descriptor, key, protocol)
    }

    /// Protects a socket that a caller has connected.
    pub(crate) fn answer(&self, socket: TcpStream, until: Instant) -> io::Result<Socket> {
        let timed = Timed { socket, until };
        let Self::Tls(plane) = self else { return Ok(Socket::plain(timed)) };
        let connection = ServerConnection::new(Arc::clone(&plane.server)).map_err(io::Error::other)?;
        let descriptor = timed.socket.as_raw_fd();
        let mut stream = StreamOwned::new(connection, timed);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let (key, protocol) =
            (peer_fingerprint(&stream.conn), stream.conn.alpn_protocol().map(<[u8]>::to_vec));
        Socket::protected(stream, descriptor, key, protocol)
    }
}

impl Socket {
    fn plain(timed: Timed) -> Self {
        let descriptor = timed.socket.as_raw_fd();
        Self { stream: Box::new(timed), descriptor, key: None }
    }

    fn protected(
        stream: impl Stream + 'static,
        descriptor: RawFd,
        key: Option<Fingerprint>,
        protocol: Option<Vec<u8>>,
    ) -> io::Result<Self> {
        if key.is_none() || protocol.as_deref() != Some(ALPN) {
            return Err(io::Error::other("the other end does not speak this protocol"));
        }
        Ok(Self { stream: Box::new(stream), descriptor, key })
    }

    /// Sends these bytes.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Receives as many.
    pub(crate) fn hear<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Becomes readable when the other end has gone: once two ends have met, nothing is said here.
    pub(crate) const fn descriptor(&self) -> RawFd {
        self.descriptor
    }
}

/// A socket on which nothing is waited for beyond a time.
struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Names this protocol in TLS handshakes.
const ALPN: &[u8] = b"mlxcel-rdma/1";
