//! RDMA among other ways.

use mlxcel_transport::PeerLoss;
use mlxcel_transport::selection::{Policy, Selected, Way};
use mlxcel_transport::tcp::{Tcp, TcpConfig};

use super::*;

/// A host with RDMA and TCP.
fn host() -> Selected {
    let domain = Domain::new();
    let rdma = Rdma::new(&domain, &RdmaConfig::new(Security::Plain)).expect("there is a device");
    let tcp = TcpConfig::new(Security::Plain).bound_to(Ipv4Addr::LOCALHOST.into());
    let tcp = Tcp::new(&domain, tcp).expect("it starts on loopback");
    Selected::new(vec![Arc::new(tcp), Arc::new(rdma)], Vec::new(), Policy::default())
}

/// Writes something, and finds it there.
fn write(one: &Selected, other: &Selected, tag: Tag) {
    let (source, target) = (Memory::zeroed(50_000), Memory::zeroed(50_000));
    let source = one.register(source.expect("there is memory"), Access::LOCAL).expect("host memory");
    let target = other.register(target.expect("there is memory"), Access::WRITE).expect("host memory");
    source.write_at(0, &pattern(50_000, 4));
    let counter = other.domain().expect(tag, &[one.domain().id()]).expect("the tag is free");
    let batch = Batch::single((&source, 0), (&target.key(), 0), 50_000).expect("it fits");
    assert_eq!(block_on(one.write(&batch, tag, soon())), Ok(()));
    assert_eq!(counter.count(), 1);
    assert!(contents(&target) == pattern(50_000, 4));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn rdma_is_chosen_where_both_have_it_and_tcp_when_it_was_lost() {
    let (one, other) = (host(), host());
    let choice = block_on(one.connect_offered(&other.offer(), soon())).expect("they have two ways");
    assert_eq!(choice.to_string(), "rdma: 1 rail; tcp: 2 rails; chosen rdma");
    write(&one, &other, Tag::new(1));
    let other_id = other.domain().id();
    one.disconnect(other_id);
    eventually("the loss", || other.domain().peers().is_empty());
    let choice = block_on(one.connect_offered(&other.offer(), soon())).expect("a way is left");
    let why = PeerLoss::Closed;
    assert_eq!(choice.to_string(), format!("rdma: failed ({why}); tcp: 2 rails; chosen tcp"));
    write(&one, &other, Tag::new(2));
}

#[test]
#[ignore = "needs an RDMA device: ./x test --only rdma"]
fn tcp_is_the_way_that_is_left_when_queue_pairs_cannot_be_agreed_on() {
    let (one, other) = (host(), host());
    let mut offer = other.offer();
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    for way in &mut offer.ways {
        if let Way::Ready { kind: Kind::Rdma, addresses, .. } = way {
            *addresses = vec![Address { kind: Kind::Rdma, socket: closed }];
        }
    }
    let choice = block_on(one.connect_offered(&offer, soon())).expect("a way is left");
    assert!(choice.to_string().ends_with("chosen tcp"), "{choice}");
    write(&one, &other, Tag::new(1));
}
