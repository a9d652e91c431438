use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

fn interface(name: &str, index: u32, ip: &str, prefix_len: u8) -> Interface {
    Interface { name: name.into(), index, ip: ip.parse().expect("address"), prefix_len }
}

/// A host with one network card, and Docker.
fn host() -> Vec<Interface> {
    vec![
        interface("lo", 1, "127.0.0.1", 8),
        interface("lo", 1, "::1", 128),
        interface("eth0", 2, "192.168.1.10", 24),
        interface("eth0", 2, "fd00::10", 64),
        interface("eth0", 2, "fe80::10", 64),
        interface("docker0", 3, "172.17.0.1", 16),
    ]
}

fn ordered(candidates: &[&str]) -> Vec<String> {
    let candidates: Vec<SocketAddr> =
        candidates.iter().map(|text| text.parse().expect("socket address")).collect();
    order(&candidates, &host()).iter().map(ToString::to_string).collect()
}

#[test]
fn shared_network_comes_first_and_v4_before_v6_before_link_local() {
    assert_eq!(
        ordered(&["[2001:db8::1]:7", "10.9.0.1:7", "[fe80::20%2]:7", "[fd00::20]:7", "192.168.1.20:7",]),
        ["192.168.1.20:7", "[fd00::20]:7", "[fe80::20%2]:7", "10.9.0.1:7", "[2001:db8::1]:7",]
    );
}

#[test]
fn peer_on_this_host_is_dialled_over_loopback() {
    assert_eq!(
        ordered(&["192.168.1.10:7", "127.0.0.1:7", "172.17.0.1:7"]),
        ["127.0.0.1:7", "192.168.1.10:7", "172.17.0.1:7"]
    );
}

#[test]
fn peer_that_announces_only_loopback_is_on_this_host() {
    assert_eq!(ordered(&["[::1]:7", "127.0.0.1:7"]), ["127.0.0.1:7", "[::1]:7"]);
}

#[test]
fn loopback_of_another_host_is_left_out() {
    assert_eq!(ordered(&["127.0.0.1:7", "192.168.1.20:7"]), ["192.168.1.20:7"]);
}

#[test]
fn docker_bridge_that_every_host_has_is_left_out() {
    assert_eq!(ordered(&["172.17.0.1:7", "192.168.1.20:7"]), ["192.168.1.20:7"]);
}

#[test]
fn peer_inside_a_container_is_reached_last() {
    assert_eq!(ordered(&["172.17.0.5:7", "10.9.0.1:7"]), ["10.9.0.1:7", "172.17.0.5:7"]);
}

#[test]
fn addresses_that_cannot_be_dialled_are_left_out() {
    assert_eq!(
        ordered(&["0.0.0.0:7", "224.0.0.251:7", "192.168.1.20:0", "[fe80::20]:7"]),
        Vec::<String>::new()
    );
}

#[test]
fn link_local_v6_needs_the_right_interface() {
    let local = host();
    let on = |scope| {
        SocketAddr::from(std::net::SocketAddrV6::new(
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x20),
            7,
            0,
            scope,
        ))
    };
    assert!(shares_network(on(2), &local));
    assert!(!shares_network(on(3), &local));
}

#[test]
fn host_route_is_not_a_network() {
    let tunnel = [interface("tun0", 4, "10.8.0.2", 32)];
    let address = "10.8.0.3:7".parse().expect("socket address");
    assert!(!shares_network(address, &tunnel));
}

#[test]
fn joining_node_gives_addresses_that_mean_something_elsewhere() {
    let given = |local: &[Interface]| -> Vec<String> {
        let given = reachable_at(7, local);
        given.iter().map(ToString::to_string).collect()
    };
    assert_eq!(given(&host()), ["192.168.1.10:7", "[fd00::10]:7", "172.17.0.1:7"]);
    assert_eq!(given(&host()[..2]), ["127.0.0.1:7", "[::1]:7"]);
}

proptest! {
    #[test]
    fn order_keeps_a_subset_without_duplicates_whatever_the_order_heard(
        parts in proptest::collection::vec((any::<[u8; 4]>(), 1_u16..4), 0..12),
    ) {
        let candidates: Vec<SocketAddr> = parts.into_iter().map(SocketAddr::from).collect();
        let mut backwards = candidates.clone();
        backwards.reverse();
        let kept = order(&candidates, &host());
        prop_assert!(kept.iter().all(|address| candidates.contains(address)));
        let distinct: BTreeSet<_> = kept.iter().collect();
        prop_assert_eq!(distinct.len(), kept.len());
        prop_assert_eq!(kept, order(&backwards, &host()));
    }
}
