//! The addresses of a port (GIDs), and which of them is used.
//!
//! What kind an entry is, the kernel says in its file system. Of RoCE's, version 2 is routed as UDP and its entries are
//! the addresses of the network interface: the one that is IPv4 comes first.

use std::net::{IpAddr, Ipv6Addr};

/// An entry of a port's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gid {
    /// Where in the table it is.
    pub(crate) index: u8,
    /// The address.
    pub(crate) bytes: [u8; 16],
    /// How packets with it travel.
    pub(crate) kind: GidKind,
}

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GidKind {
    /// Within UDP.
    RoceV2,
    /// In Ethernet frames of their own, which routers do not pass on.
    RoceV1,
    /// On an InfiniBand network.
    InfiniBand,
}

impl Gid {
    /// An entry, if it is in use.
    pub(crate) fn read(device: &str, port: u8, index: u8, bytes: [u8; 16]) -> Option<Self> {
        let path = format!("/sys/class/infiniband/{device}/ports/{port}/gid_attrs/types/{index}");
        // Entries that are not in use cannot be read.
        let kind = GidKind::parse(&std::fs::read_to_string(path).ok()?)?;
        (bytes != [0; 16]).then_some(Self { index, bytes, kind })
    }

    /// The address of the network interface, of RoCE version 2.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        let ip = Ipv6Addr::from(self.bytes);
        (self.kind == GidKind::RoceV2).then(|| ip.to_canonical())
    }

    /// The larger the better.
    fn rank(&self) -> u8 {
        match (self.kind, self.ip()) {
            (_, Some(IpAddr::V4(_))) => 4,
            (GidKind::InfiniBand, _) => 3,
            (_, Some(IpAddr::V6(ip))) if !ip.is_unicast_link_local() => 2,
            (_, Some(_)) => 1,
            _ => 0,
        }
    }
}

impl GidKind {
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "RoCE v2" => Some(Self::RoceV2),
            // The kernel has one name for both; which it is, the port's link layer says.
            "IB/RoCE v1" => Some(Self::InfiniBand),
            "RoCE v1" => Some(Self::RoceV1),
            _ => None,
        }
    }
}

/// The entry that peers are given.
pub(crate) fn best(gids: Vec<Gid>) -> Option<Gid> {
    gids.into_iter().max_by_key(|gid| (gid.rank(), std::cmp::Reverse(gid.index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u8, ip: &str, kind: GidKind) -> Gid {
        let ip: IpAddr = ip.parse().expect("an address");
        let bytes = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Gid { index, bytes, kind }
    }

    #[test]
    fn the_ipv4_address_of_roce_version_2_comes_first() {
        let gids = vec![
            gid(0, "fe80::1", GidKind::RoceV1),
            gid(1, "fe80::1", GidKind::RoceV2),
            gid(2, "10.0.0.7", GidKind::RoceV1),
            gid(3, "10.0.0.7", GidKind::RoceV2),
            gid(4, "10.0.0.8", GidKind::RoceV2),
            gid(5, "2001:db8::7", GidKind::RoceV2),
        ];
        let chosen = best(gids).expect("there are some");
        assert_eq!((chosen.index, chosen.ip()), (3, Some("10.0.0.7".parse().expect("an address"))));
    }

    #[test]
    fn an_infiniband_port_has_no_ip_address() {
        let chosen = best(vec![gid(0, "fe80::2", GidKind::InfiniBand)]).expect("there is one");
        assert_eq!(chosen.ip(), None);
    }

    #[test]
    fn kinds_are_read_as_the_kernel_writes_them() {
        assert_eq!(GidKind::parse("RoCE v2\n"), Some(GidKind::RoceV2));
        assert_eq!(GidKind::parse("IB/RoCE v1\n"), Some(GidKind::InfiniBand));
        assert_eq!(GidKind::parse("\n"), None);
    }
}
