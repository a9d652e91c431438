//! The numbers that QUIC is run with, and why they are these.
//!
//! Knows no peers and no sockets.

use std::sync::Arc;
use std::time::Duration;

use mlxcel_cluster_config::tls::DataPlane;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};

/// How connections are opened and answered.
pub(crate) struct Tuned {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) client: ClientConfig,
    pub(crate) server: ServerConfig,
}

/// The configurations of a host with these keys, whose links take peers for lost after this silence.
pub(crate) fn tuned(plane: &DataPlane, silence_limit: Duration) -> Tuned {
    let transport = Arc::new(transport(silence_limit));
    let crypto = QuicClientConfig::try_from(Arc::clone(&plane.client));
    let mut client = ClientConfig::new(Arc::new(crypto.expect("the data plane has AES-128-GCM")));
    client.transport_config(Arc::clone(&transport));
    let crypto = QuicServerConfig::try_from(Arc::clone(&plane.server));
    let mut server = ServerConfig::with_crypto(Arc::new(crypto.expect("the data plane has AES-128-GCM")));
    server.transport_config(transport).migration(true);
    let mut endpoint = EndpointConfig::default();
    endpoint.max_udp_payload_size(LARGEST_DATAGRAM).expect("it is allowed by the protocol");
    Tuned { endpoint, client, server }
}

fn transport(silence_limit: Duration) -> TransportConfig {
    // Links have heartbeats of their own, and end sooner than this.
    let idle = IdleTimeout::try_from(3 * silence_limit).unwrap_or(VarInt::MAX.into());
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(LARGEST_DATAGRAM);
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(ACKNOWLEDGED_TOGETHER));
    let mut config = TransportConfig::default();
    config
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acknowledgements))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        // A slice that is whole is of use, ten halves are not.
        .send_fairness(false)
        .initial_rtt(FIRST_GUESS)
        .max_idle_timeout(Some(idle))
        .datagram_receive_buffer_size(None);
    config
}

/// The most a datagram carries. Ten of them go to the system at once, as segments of one, which may not be longer than
/// 65,507 bytes: what is longer is refused with an error that quinn does not see. Paths that carry less are found out
/// by probing.
pub(crate) const LARGEST_DATAGRAM: u16 = 6500;
/// What one slice may have on its way: more than a slice, so that none waits for the peer.
const STREAM_WINDOW: u32 = 16 << 20;
/// What all slices may have on their way: 10 Gbit/s over a continent, 25 ms.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Slices that may be on their way at once.
const STREAMS: u32 = 1024;
/// Packets that are acknowledged by one, which costs the sender as much as a packet.
const ACKNOWLEDGED_TOGETHER: u32 = 10;
/// Hosts of a cluster are near: a handshake that was lost is repeated after three times this.
const FIRST_GUESS: Duration = Duration::from_millis(60);
