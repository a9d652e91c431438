//! Frames between a node and its workers: a 4-byte little-endian length, then that many bytes of
//! protobuf.
//!
//! Knows nothing of what a message means; `worker` and `supervisor` do. Bounds every length before
//! allocating, so that a stray byte in the stream is an error and not an allocation.

use std::io::{self, Read, Write};

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest message accepted, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length announced (or the message to send) is above the bound.
    #[error("a frame holds at most {MAX_FRAME_BYTES} bytes, got {0}")]
    TooLong(usize),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The bytes are not the message expected.
    #[error("a frame must hold one protobuf message: {0}")]
    Malformed(prost::DecodeError),
    /// Reading or writing failed.
    #[error("frame input or output failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// The bytes of one frame.
///
/// # Errors
/// [`FrameError::TooLong`] above [`MAX_FRAME_BYTES`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameError::TooLong(length))?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

/// Writes one frame; the caller flushes.
///
/// # Errors
/// [`FrameError::TooLong`], or [`FrameError::Io`] from `output`.
pub fn write<M: Message>(output: &mut impl Write, message: &M) -> Result<(), FrameError> {
    Ok(output.write_all(&encode(message)?)?)
}

/// Reads one frame; `None` at an end of stream between frames.
///
/// # Errors
/// Any [`FrameError`]; the stream is not usable afterwards.
pub fn read<M: Message + Default>(input: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        match input.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut body = vec![0; body_length(prefix)?];
    input.read_exact(&mut body)?;
    decode(&body)
}

/// Reads one frame without blocking the thread; `None` at an end of stream between frames.
///
/// # Errors
/// Any [`FrameError`]; the stream is not usable afterwards.
pub async fn read_async<M: Message + Default>(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<Option<M>, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        match input.read(&mut prefix[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            read => filled += read,
        }
    }
    let mut body = vec![0; body_length(prefix)?];
    input.read_exact(&mut body).await?;
    decode(&body)
}

fn body_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    Ok(length)
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<Option<M>, FrameError> {
    M::decode(body).map(Some).map_err(FrameError::Malformed)
}

const PREFIX_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use mlxcel_protocol::v1::{CancelRequest, WorkerCommand, worker_command};

    use super::*;

    fn cancel(id: &str) -> WorkerCommand {
        let request = CancelRequest { request_id: id.into() };
        WorkerCommand { kind: Some(worker_command::Kind::Cancel(request)) }
    }

    #[test]
    fn frames_come_back_in_order_and_the_end_is_none() {
        let mut bytes = Vec::new();
        for id in ["a", "b"] {
            write(&mut bytes, &cancel(id)).expect("writes");
        }
        let mut input = bytes.as_slice();
        for id in ["a", "b"] {
            assert_eq!(read::<WorkerCommand>(&mut input).expect("reads"), Some(cancel(id)));
        }
        assert_eq!(read::<WorkerCommand>(&mut input).expect("reads"), None);
    }

    #[test]
    fn a_stream_cut_at_any_byte_is_truncated() {
        let bytes = encode(&cancel("request")).expect("encodes");
        for cut in 1..bytes.len() {
            let result = read::<WorkerCommand>(&mut &bytes[..cut]);
            assert!(matches!(result, Err(FrameError::Truncated)), "cut at {cut}: {result:?}");
        }
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_allocating() {
        let result = read::<WorkerCommand>(&mut b"\xff\xff\xff\xffrest".as_slice());
        assert!(matches!(result, Err(FrameError::TooLong(length)) if length == u32::MAX as usize));
    }

    #[test]
    fn bytes_that_are_no_message_are_malformed() {
        let result = read::<WorkerCommand>(&mut b"\x03\0\0\0\xff\xff\xff".as_slice());
        assert!(matches!(result, Err(FrameError::Malformed(_))), "{result:?}");
    }

    #[tokio::test]
    async fn both_readers_agree() {
        let bytes = encode(&cancel("x")).expect("encodes");
        let mut input = bytes.as_slice();
        let first = read_async::<WorkerCommand>(&mut input).await.expect("reads");
        assert_eq!(first, Some(cancel("x")));
        assert_eq!(read_async::<WorkerCommand>(&mut input).await.expect("reads"), None);
        let cut = read_async::<WorkerCommand>(&mut &bytes[..5]).await;
        assert!(matches!(cut, Err(FrameError::Truncated)));
    }
}
