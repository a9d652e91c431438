//! QUIC among other ways.

use mlxcel_transport::selection::{Policy, Selected, Way};
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};

use super::*;

/// All ways of a host, under one trust.
fn host(trust: &Trust) -> Selected {
    let (identity, domain) = (Identity::generate().expect("generated"), Domain::new());
    trust.add(identity.fingerprint());
    let here = Ipv4Addr::LOCALHOST.into();
    let quic = QuicConfig::new(identity.clone(), trust.clone()).bound_to(here);
    let tcp = TcpConfig::new(Security::Tls { identity, trust: trust.clone() }).bound_to(here);
    let quic = Quic::new(&domain, &quic).expect("it starts on loopback");
    let tcp = Tcp::new(&domain, tcp).expect("it starts on loopback");
    Selected::new(vec![Arc::new(tcp), Arc::new(quic)], Vec::new(), Policy::default())
}

#[test]
fn quic_is_the_way_that_is_left_when_tcp_does_not_get_through() {
    let trust = Trust::default();
    let (one, other) = (host(&trust), host(&trust));
    let mut offer = other.offer();
    // A firewall lets TCP through to nobody: the port is one where nobody listens.
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    for way in &mut offer.ways {
        if let Way::Ready { kind: Kind::Tcp, addresses, .. } = way {
            *addresses = vec![Address { kind: Kind::Tcp, socket: closed }];
        }
    }
    let choice = block_on(one.connect_offered(&offer, soon())).expect("a way is left");
    assert!(choice.to_string().ends_with("chosen quic"), "{choice}");
    let (source, target) = (Memory::zeroed(5000), Memory::zeroed(5000));
    let source = one.register(source.expect("there is memory"), Access::LOCAL).expect("host memory");
    let target = other.register(target.expect("there is memory"), Access::WRITE).expect("host memory");
    source.write_at(0, &pattern(5000, 4));
    let counter = other.domain().expect(Tag::new(1), &[one.domain().id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), 5000).expect("it fits");
    assert_eq!(block_on(one.write(&batch, Tag::new(1), soon())), Ok(()));
    assert_eq!(counter.count(), 1);
    assert!(contents(&target) == pattern(5000, 4));
}
