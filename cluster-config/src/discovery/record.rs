//! Announcements as DNS records, and back.
//!
//! Knows the form only; what is heard is judged elsewhere.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mdns_sd::{ResolvedService, ScopedIp, ServiceInfo};
use sha2::{Digest, Sha256};

use super::{Announcement, DiscoveryError, Peer, Role};

pub(super) const SERVICE_TYPE: &str = "_mlxcel._udp.local.";

pub(super) fn to_service(announcement: &Announcement) -> Result<ServiceInfo, DiscoveryError> {
    let instance = instance_name(announcement);
    let cluster = announcement.cluster.map(|key| key.to_string());
    let properties = [
        ("id", announcement.id.to_string()),
        ("role", announcement.role.to_string()),
        ("cluster", cluster.unwrap_or_default()),
        ("proto", announcement.protocol_version.to_string()),
        ("ver", clip(&announcement.software_version)),
        ("host", clip(&announcement.hostname)),
    ];
    let mut service = ServiceInfo::new(
        SERVICE_TYPE,
        &instance,
        // Address records hang on this name, and two hosts may share a host name.
        &format!("{instance}.local."),
        announcement.addresses.as_slice(),
        announcement.port,
        &properties[..],
    )
    .map_err(|e| DiscoveryError::Announce(e.to_string()))?;
    // The name holds the key: asking whether it is taken would only delay the announcement.
    service.set_requires_probe(false);
    Ok(if announcement.addresses.is_empty() { service.enable_addr_auto() } else { service })
}

/// The peer as announced, addresses unordered; else what is wrong.
pub(super) fn from_service(service: &ResolvedService) -> Result<Peer, &'static str> {
    let text = |key| service.get_property_val_str(key).unwrap_or("");
    let cluster = match text("cluster") {
        "" => None,
        key => Some(key.parse().map_err(|_| "malformed cluster")?),
    };
    Ok(Peer {
        id: text("id").parse().map_err(|_| "malformed id")?,
        role: match text("role") {
            "node" => Role::Node,
            "router" => Role::Router,
            _ => return Err("unknown role"),
        },
        cluster,
        protocol_version: text("proto").parse().map_err(|_| "malformed proto")?,
        software_version: printable(text("ver")),
        hostname: printable(text("host")),
        addresses: addresses(service),
    })
}

/// Unique on the network: several nodes may run on a host, and several routers share a key.
fn instance_name(announcement: &Announcement) -> String {
    let place = format!("{}:{}", announcement.hostname, announcement.port);
    let place = hex::encode(&Sha256::digest(place)[..4]);
    let key = hex::encode(&announcement.id.as_bytes()[..10]);
    format!("{}-{key}-{place}", announcement.role)
}

fn addresses(service: &ResolvedService) -> Vec<SocketAddr> {
    let port = service.get_port();
    service
        .get_addresses()
        .iter()
        .map(|ip| match ip {
            // A link-local address means nothing without the interface it was heard on.
            ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
                SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index).into()
            }
            other => SocketAddr::new(other.to_ip_addr(), port),
        })
        .filter(|address| !matches!(address.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()))
        .collect()
}

/// At most 200 bytes: a DNS string holds 255, its key included.
fn clip(text: &str) -> String {
    let mut clipped = String::new();
    for character in text.chars() {
        if clipped.len() + character.len_utf8() > 200 {
            break;
        }
        clipped.push(character);
    }
    clipped
}

/// Anyone on the network can send this text, and it goes to the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fingerprint;

    fn announcement() -> Announcement {
        Announcement {
            id: Fingerprint::of_public_key(b"node"),
            role: Role::Node,
            cluster: Some(Fingerprint::of_public_key(b"cluster")),
            protocol_version: 7,
            software_version: "0.1.0".into(),
            hostname: "alpha".into(),
            port: 7411,
            addresses: vec!["10.0.0.2".parse().expect("address")],
        }
    }

    fn heard(announcement: &Announcement) -> Result<Peer, &'static str> {
        let service = to_service(announcement).expect("valid");
        from_service(&service.as_resolved_service())
    }

    #[test]
    fn what_is_announced_is_what_is_heard() {
        let said = announcement();
        assert_eq!(
            heard(&said),
            Ok(Peer {
                id: said.id,
                role: Role::Node,
                cluster: said.cluster,
                protocol_version: 7,
                software_version: "0.1.0".into(),
                hostname: "alpha".into(),
                addresses: vec!["10.0.0.2:7411".parse().expect("address")],
            })
        );
    }

    #[test]
    fn unclaimed_node_announces_no_cluster() {
        let said = Announcement { cluster: None, ..announcement() };
        assert_eq!(heard(&said).expect("valid").cluster, None);
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let said = Announcement { hostname: "al\u{1b}[31mpha\n".into(), ..announcement() };
        assert_eq!(heard(&said).expect("valid").hostname, "al[31mpha");
    }

    #[test]
    fn long_names_are_clipped_not_refused() {
        let said = Announcement { hostname: "ä".repeat(300), ..announcement() };
        assert_eq!(heard(&said).expect("valid").hostname, "ä".repeat(64));
    }

    #[test]
    fn instances_differ_by_key_place_and_role() {
        let said = announcement();
        let name = |change: fn(&mut Announcement)| {
            let mut other = announcement();
            change(&mut other);
            instance_name(&other)
        };
        let names = [
            instance_name(&said),
            name(|a| a.port += 1),
            name(|a| a.hostname = "beta".into()),
            name(|a| a.id = Fingerprint::of_public_key(b"other")),
            name(|a| a.role = Role::Router),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
    }

    #[test]
    fn claim_does_not_change_the_instance() {
        let mut said = announcement();
        let before = instance_name(&said);
        said.cluster = None;
        assert_eq!(instance_name(&said), before);
    }

    #[test]
    fn foreign_records_are_refused_not_misread() {
        let cases: [(&[(&str, &str)], _); 3] = [
            (&[("id", "abc")], "malformed id"),
            (&[("cluster", "abc")], "malformed cluster"),
            (&[], "malformed id"),
        ];
        for (properties, expected) in cases {
            let service =
                ServiceInfo::new(SERVICE_TYPE, "stranger", "stranger.local.", "10.0.0.9", 1, properties)
                    .expect("valid DNS")
                    .as_resolved_service();
            assert_eq!(from_service(&service), Err(expected));
        }
    }
}
