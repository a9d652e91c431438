//! One end of a measurement: a transport, its peer, and memory with a pattern that tells where a byte came from.
//!
//! Knows no cases and no clock but deadlines.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::tls::Trust;
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};
use mlxcel_transport::{Access, Domain, Memory, PeerId, Region, Transport, TransportExt};
#[cfg(feature = "quic-distributed")]
use mlxcel_transport_quic::{Quic, QuicConfig};

/// What moves the bytes.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Way {
    /// TCP as it is.
    Tcp,
    /// TCP with TLS 1.3.
    Tls,
    /// QUIC.
    #[cfg(feature = "quic-distributed")]
    Quic,
}

/// A transport that is connected to its peer.
pub(crate) struct End {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) peer: PeerId,
}

impl Way {
    /// As the command line writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            #[cfg(feature = "quic-distributed")]
            Self::Quic => "quic",
        }
    }

    /// The transport, listening on the loopback interface.
    pub(crate) fn start(self, rails: u16) -> Result<Arc<dyn Transport>> {
        let security = match self {
            Self::Tcp => Security::Plain,
            Self::Tls => {
                let (identity, trust) = one_identity()?;
                Security::Tls { identity, trust }
            }
            #[cfg(feature = "quic-distributed")]
            Self::Quic => {
                let (identity, trust) = one_identity()?;
                let config = QuicConfig::new(identity, trust).bound_to(Ipv4Addr::LOCALHOST.into());
                return Ok(Arc::new(Quic::new(&Domain::new(), &config)?));
            }
        };
        let config = TcpConfig { rails, ..TcpConfig::new(security) };
        Ok(Arc::new(Tcp::new(&Domain::new(), config.bound_to(Ipv4Addr::LOCALHOST.into()))?))
    }
}

/// Both ends are one host: one identity, kept where both find it.
fn one_identity() -> Result<(Identity, Trust)> {
    let identity = Identity::load_or_create(&std::env::temp_dir().join("mlxcel-transport-speed"))?;
    let trust = Trust::of([identity.fingerprint()]);
    Ok((identity, trust))
}

impl End {
    /// Registered memory with every page touched: one half for writes, one for reads.
    pub(crate) fn memory(&self, seed: u32, access: Access) -> Result<Region> {
        let region = self.transport.register(Memory::zeroed(2 * HALF)?, access)?;
        region.write_at(0, &pattern(seed, 0, 2 * HALF));
        Ok(region)
    }
}

/// `len` bytes of the pattern from `at` on, both multiples of four.
pub(crate) fn pattern(seed: u32, at: usize, len: usize) -> Vec<u8> {
    let words = at as u32 / 4..(at + len) as u32 / 4;
    words.flat_map(|word| word.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes()).collect()
}

/// The deadline of everything here: nothing takes as long unless it hangs.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Bytes of memory that are written, and again that are read.
pub(crate) const HALF: usize = 16 << 20;
/// The pattern of the end that measures.
pub(crate) const HERE: u32 = 1;
/// The pattern of the other.
pub(crate) const THERE: u32 = 2;
