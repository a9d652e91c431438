//! What the end of a connection means: to who called, and to the link that it carried.
//!
//! Pure.

use std::net::SocketAddr;

use mlxcel_transport::core::hello::HelloError;
use mlxcel_transport::{ConnectError, PeerLoss};
use quinn::{ConnectionError, TransportErrorCode};

use crate::books::GOODBYE;

/// What whoever called `address` is told when the connection ended before the peer had answered.
pub(crate) fn of_call(address: SocketAddr, error: &ConnectionError) -> ConnectError {
    let address = address.to_string();
    match error {
        ConnectionError::TransportError(ours) if is_crypto(ours.code) => {
            ConnectError::Untrusted { address, detail: ours.reason.clone() }
        }
        ConnectionError::ConnectionClosed(theirs) if is_crypto(theirs.error_code) => {
            let reason = String::from_utf8_lossy(&theirs.reason);
            ConnectError::Untrusted { address, detail: format!("it refused this host: {reason}") }
        }
        other => ConnectError::Unreachable { address, detail: other.to_string() },
    }
}

/// What whoever called `address` is told when the first words there are not understood.
pub(crate) fn of_words(address: SocketAddr, error: HelloError) -> ConnectError {
    match error {
        HelloError::Version { theirs, ours } => ConnectError::Version { ours, theirs },
        other => ConnectError::Untrusted { address: address.to_string(), detail: other.to_string() },
    }
}

/// How a peer counts as lost whose connection ended.
pub(crate) fn of_link(error: &ConnectionError) -> PeerLoss {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == GOODBYE => PeerLoss::Closed,
        ConnectionError::TimedOut => PeerLoss::Silent,
        _ => PeerLoss::Broken,
    }
}

/// Whether the TLS handshake is what failed: its alerts have codes of their own.
fn is_crypto(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

#[cfg(test)]
mod tests {
    use quinn::{ApplicationClose, VarInt};

    use super::*;

    #[test]
    fn only_a_good_bye_is_one() {
        let closed = |code: VarInt| {
            let close = ApplicationClose { error_code: code, reason: bytes::Bytes::new() };
            of_link(&ConnectionError::ApplicationClosed(close))
        };
        assert_eq!(closed(GOODBYE), PeerLoss::Closed);
        assert_eq!(closed(crate::books::GAVE_UP), PeerLoss::Broken);
        assert_eq!(of_link(&ConnectionError::TimedOut), PeerLoss::Silent);
        assert_eq!(of_link(&ConnectionError::Reset), PeerLoss::Broken);
    }
}
