//! The UDP socket of a transport, and under which addresses peers find it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use mlxcel_cluster_config::address::{local_interfaces, reachable_at};
use mlxcel_transport::{Address, Kind};
use socket2::{Domain as Family, Protocol, Socket, Type};

/// A bound socket, and how peers reach it.
pub(crate) struct Listening {
    pub(crate) socket: UdpSocket,
    pub(crate) addresses: Vec<Address>,
}

/// Binds to this address, or to all of the host's: both families where the host has both.
pub(crate) fn listen(bind: Option<IpAddr>, port: u16) -> Result<Listening, (SocketAddr, io::Error)> {
    let Some(ip) = bind else { return listen_everywhere(port) };
    let wanted = SocketAddr::new(ip, port);
    let socket = bound(wanted).map_err(|cause| (wanted, cause))?;
    let address = socket.local_addr().map_err(|cause| (wanted, cause))?;
    let addresses = if ip.is_unspecified() {
        let mut all = outside(address.port());
        all.retain(|found| found.socket.is_ipv4() == ip.is_ipv4());
        all
    } else {
        vec![Address { kind: Kind::Quic, socket: address }]
    };
    Ok(Listening { socket, addresses })
}

fn listen_everywhere(port: u16) -> Result<Listening, (SocketAddr, io::Error)> {
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    // A host without IPv6 refuses this.
    if let Ok(socket) = bound(both)
        && let Ok(address) = socket.local_addr()
    {
        return Ok(Listening { socket, addresses: outside(address.port()) });
    }
    listen(Some(Ipv4Addr::UNSPECIFIED.into()), port)
}

fn bound(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Family::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Bursts are longer than what systems keep by default; one that keeps less loses datagrams, which are sent again.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Where other hosts may reach this port; none of the interfaces that lead nowhere from there.
fn outside(port: u16) -> Vec<Address> {
    let interfaces = local_interfaces().unwrap_or_default();
    let sockets = reachable_at(port, &interfaces).into_iter();
    sockets.map(|socket| Address { kind: Kind::Quic, socket }).collect()
}

const BUFFER: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_asked_for_is_the_only_one() {
        let listening = listen(Some(Ipv4Addr::LOCALHOST.into()), 0).expect("loopback has a free port");
        let sockets: Vec<_> = listening.addresses.iter().map(|address| address.socket).collect();
        assert_eq!(sockets, [listening.socket.local_addr().expect("it is bound")]);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let first = listen(Some(Ipv4Addr::LOCALHOST.into()), 0).expect("loopback has a free port");
        let address = first.addresses[0].socket;
        let (named, _) = listen(Some(address.ip()), address.port()).map(|_| ()).expect_err("it is taken");
        assert_eq!(named, address);
    }
}
