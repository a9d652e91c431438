//! TLS 1.3 for rails: rustls shakes hands, a record layer of our own carries the bytes.
//!
//! rustls keeps plaintext in buffers of its own; ours decrypts where the socket put the bytes and hands them on to be
//! placed in a region, and encrypts what it copies from a region where the socket takes it: one copy each way. Keys
//! are still rustls's affair, their renewal included. Knows nothing of frames, links and sockets.

#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod record;
mod session;

pub(super) use handshake::{Handshake, Progress};
pub(super) use session::{Session, TlsError};

#[cfg(test)]
mod tests;
