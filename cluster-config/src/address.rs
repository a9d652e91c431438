//! Which of a peer's addresses to dial first.
//!
//! Pure ordering over what the peer announced and what interfaces this host has; only
//! [`local_interfaces`] asks the system. Knows nothing of reachability: `tls` finds that out.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// One address of one interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The system's name for the interface, such as `eth0`.
    pub name: String,
    /// The system's number for the interface, 0 when unknown: the scope of link-local IPv6.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the network prefix, bits.
    pub prefix_len: u8,
}

/// The addresses of this host's interfaces, loopback included.
///
/// # Errors
/// The system does not list its interfaces.
pub fn local_interfaces() -> io::Result<Vec<Interface>> {
    let listed = if_addrs::get_if_addrs()?;
    Ok(listed.into_iter().map(Interface::from).collect())
}

/// Orders a peer's addresses, most useful first, and leaves out those that cannot lead there.
///
/// Loopback comes first when the peer is this host and is left out otherwise; then addresses on
/// a network this host shares, IPv4 before IPv6 before link-local IPv6; then the rest; then
/// those on container and virtual-machine bridges. An address that a bridge of this host has as
/// well (every Docker host has 172.17.0.1) would lead back here and is left out, unless the peer
/// is this host.
#[must_use]
pub fn order(candidates: &[SocketAddr], local: &[Interface]) -> Vec<SocketAddr> {
    let same_host = on_this_host(candidates, local);
    let mut ranked: Vec<(Rank, SocketAddr)> = candidates
        .iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|address| Some((rank(*address, local, same_host)?, *address)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// The addresses under which other hosts may reach `port` here: what a node gives a router when it
/// asks to be joined. Loopback only when there is nothing else; link-local addresses never, since
/// their scope means nothing elsewhere.
#[must_use]
pub fn reachable_at(port: u16, local: &[Interface]) -> Vec<SocketAddr> {
    let outside = |near: &&Interface| !near.ip.is_loopback() && !is_link_local(near.ip);
    let mut chosen: Vec<_> = local.iter().filter(outside).collect();
    if chosen.is_empty() {
        chosen = local.iter().filter(|near| near.ip.is_loopback()).collect();
    }
    chosen.sort_by_key(|near| (near.is_bridge(), near.ip.is_ipv6()));
    chosen.into_iter().map(|near| SocketAddr::new(near.ip, port)).collect()
}

/// Whether this host has an interface on the network of `address`.
#[must_use]
pub fn shares_network(address: SocketAddr, local: &[Interface]) -> bool {
    address.ip().is_loopback() || local.iter().any(|interface| interface.reaches(address))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Loopback,
    SharedV4,
    SharedV6,
    LinkLocal,
    OtherV4,
    OtherV6,
    Bridge,
}

fn rank(address: SocketAddr, local: &[Interface], same_host: bool) -> Option<Rank> {
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return None;
    }
    if ip.is_loopback() {
        return same_host.then_some(Rank::Loopback);
    }
    if !same_host && local.iter().any(|interface| interface.ip == ip) {
        return None;
    }
    if is_link_local(ip) {
        let dialable = match address {
            SocketAddr::V4(_) => shares_network(address, local),
            SocketAddr::V6(v6) => v6.scope_id() != 0,
        };
        return dialable.then_some(Rank::LinkLocal);
    }
    let mut reaching = local.iter().filter(|near| near.reaches(address)).peekable();
    let shared = reaching.peek().is_some();
    if shared && reaching.all(Interface::is_bridge) {
        return Some(Rank::Bridge);
    }
    Some(match (shared, ip.is_ipv4()) {
        (true, true) => Rank::SharedV4,
        (true, false) => Rank::SharedV6,
        (false, true) => Rank::OtherV4,
        (false, false) => Rank::OtherV6,
    })
}

/// A peer is on this host when it has an address that only this host has, or when it announces
/// nothing but loopback, which is heard on loopback only.
fn on_this_host(candidates: &[SocketAddr], local: &[Interface]) -> bool {
    let own = |ip: IpAddr| local.iter().any(|near| near.ip == ip && !near.is_bridge());
    let mut outside = candidates.iter().map(SocketAddr::ip).filter(|ip| !ip.is_loopback()).peekable();
    outside.peek().is_none() || outside.any(own)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

impl Interface {
    /// Whether the interface belongs to a container or virtual-machine network of this host,
    /// judged by the names that Docker, Podman, libvirt, CNI, LXD, VMware, VirtualBox and
    /// Hyper-V give.
    fn is_bridge(&self) -> bool {
        BRIDGE_NAMES.iter().any(|prefix| self.name.starts_with(prefix))
    }

    fn reaches(&self, address: SocketAddr) -> bool {
        match (self.ip, address) {
            (IpAddr::V4(own), SocketAddr::V4(to)) => {
                same_prefix(u32::from(own).into(), u32::from(*to.ip()).into(), self.prefix_len, 32)
            }
            (IpAddr::V6(own), SocketAddr::V6(to)) => {
                let on_link = !own.is_unicast_link_local() || to.scope_id() == self.index;
                on_link && same_prefix(own.into(), Ipv6Addr::into(*to.ip()), self.prefix_len, 128)
            }
            _ => false,
        }
    }
}

impl From<if_addrs::Interface> for Interface {
    fn from(listed: if_addrs::Interface) -> Self {
        let prefix_len = match &listed.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        };
        Self { ip: listed.ip(), index: listed.index.unwrap_or(0), name: listed.name, prefix_len }
    }
}

/// Whether two addresses of `width` bits agree in their first `prefix_len` bits. A prefix of the
/// whole width names one host, not a network.
fn same_prefix(one: u128, other: u128, prefix_len: u8, width: u8) -> bool {
    if prefix_len == 0 || prefix_len > width {
        return false;
    }
    (one ^ other) >> (width - prefix_len) == 0
}

const BRIDGE_NAMES: &[&str] =
    &["docker", "br-", "veth", "podman", "cni", "virbr", "lxdbr", "lxcbr", "vmnet", "vboxnet", "vEthernet"];

#[cfg(test)]
mod tests;
