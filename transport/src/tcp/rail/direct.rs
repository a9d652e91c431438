//! Moving bytes by calls that do not block.

use std::io::{self, Read, Write};
use std::time::Instant;

use super::{Rail, RailError};
use crate::core::Link;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tcp) enum Moved {
    /// As much as was asked for; there may be more.
    All,
    /// Less than was asked for, but something: for now the socket has, or takes, no more.
    Some,
    /// Nothing: the socket has, or takes, nothing now.
    Nothing,
}

impl Rail {
    /// Reads what the socket has, as far as one call takes it.
    pub(in crate::tcp) fn read_directly(&mut self, link: &mut Link) -> Result<Moved, RailError> {
        self.inbound.reconsider(link)?;
        self.list_space();
        let wanted = self.scatter.bytes();
        loop {
            return match self.socket.read_vectored(self.scatter.list()) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => {
                    self.filled(count);
                    Ok(if count == wanted { Moved::All } else { Moved::Some })
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Moved::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Writes what there is to be sent, as far as one call takes it.
    pub(in crate::tcp) fn write_directly(
        &mut self,
        link: &mut Link,
        now: Instant,
    ) -> Result<Moved, RailError> {
        if !self.list_contents(link, now)? {
            return Ok(Moved::Nothing);
        }
        let offered = self.gather.bytes();
        loop {
            return match self.socket.write_vectored(self.gather.list()) {
                Ok(count) => {
                    self.drained(count, link, now);
                    self.blocked = count < offered;
                    Ok(if count == offered { Moved::All } else { Moved::Some })
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.release();
                    self.blocked = true;
                    Ok(Moved::Nothing)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}
