//! Multicast DNS on this machine's own network: what one process says, another hears.

use std::time::Duration;

use mlxcel_cluster_config::discovery::{Announcement, Discovery, DiscoveryEvent, Peer, Role};
use mlxcel_cluster_config::{Fingerprint, Identity};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

fn announcement(role: Role, hostname: &str, port: u16) -> Announcement {
    Announcement {
        id: Identity::generate().expect("identity").fingerprint(),
        role,
        cluster: None,
        protocol_version: 1,
        software_version: "0.1.0".into(),
        hostname: hostname.into(),
        port,
        addresses: Vec::new(),
    }
}

/// The next event about `id`; other mlxcel hosts may be on this network.
async fn next(events: &mut UnboundedReceiver<DiscoveryEvent>, id: Fingerprint) -> DiscoveryEvent {
    let about = async {
        loop {
            let event = events.recv().await.expect("discovery runs");
            let subject = match &event {
                DiscoveryEvent::Found(peer) | DiscoveryEvent::Updated(peer) => peer.id,
                DiscoveryEvent::Lost(id) => *id,
            };
            if subject == id {
                return event;
            }
        }
    };
    timeout(Duration::from_secs(5), about).await.expect("an event within five seconds")
}

/// Waits until what is heard of `id` has this property: addresses arrive one after the other.
async fn until(
    events: &mut UnboundedReceiver<DiscoveryEvent>,
    id: Fingerprint,
    wanted: impl Fn(&Peer) -> bool,
) -> Peer {
    loop {
        match next(events, id).await {
            DiscoveryEvent::Found(peer) | DiscoveryEvent::Updated(peer) if wanted(&peer) => {
                return peer;
            }
            DiscoveryEvent::Lost(_) => panic!("lost while waiting"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_is_found_updated_and_lost() {
    let said = announcement(Role::Node, "alpha", 17411);
    let listener = Discovery::start(announcement(Role::Router, "beta", 17410)).expect("started");
    let mut events = listener.events();
    let speaker = Discovery::start(said.clone()).expect("started");

    let found = until(&mut events, said.id, |_| true).await;
    assert_eq!((found.role, found.cluster), (Role::Node, None));
    assert_eq!(found.hostname, "alpha");
    let first = found.addresses.first().expect("an address");
    assert_eq!(first.port(), 17411);

    let cluster = Some(Identity::generate().expect("identity").fingerprint());
    let claimed = Announcement { cluster, ..said.clone() };
    speaker.update(&claimed).expect("announced");
    until(&mut events, said.id, |peer| peer.cluster == cluster).await;

    speaker.shutdown().await;
    loop {
        if next(&mut events, said.id).await == DiscoveryEvent::Lost(said.id) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_subscriber_hears_of_hosts_found_before() {
    let said = announcement(Role::Node, "alpha", 17421);
    let listener = Discovery::start(announcement(Role::Router, "beta", 17420)).expect("started");
    let _speaker = Discovery::start(said.clone()).expect("started");
    until(&mut listener.events(), said.id, |_| true).await;
    until(&mut listener.events(), said.id, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_bound_to_loopback_announces_loopback_only() {
    let loopback = "127.0.0.1".parse().expect("address");
    let said = Announcement { addresses: vec![loopback], ..announcement(Role::Node, "alpha", 17431) };
    let listener = Discovery::start(announcement(Role::Router, "beta", 17430)).expect("started");
    let mut events = listener.events();
    let _speaker = Discovery::start(said.clone()).expect("started");
    let found = until(&mut events, said.id, |_| true).await;
    assert_eq!(found.addresses, [(loopback, 17431).into()]);
}

#[tokio::test]
async fn update_that_would_make_it_another_host_is_refused() {
    let said = announcement(Role::Node, "alpha", 17441);
    let speaker = Discovery::start(said.clone()).expect("started");
    let moved = Announcement { port: 17442, ..said };
    let refused = speaker.update(&moved).expect_err("another port").to_string();
    assert!(refused.contains("must keep key, host name and port"), "{refused}");
}
