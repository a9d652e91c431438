use std::net::SocketAddr;

use super::*;
use crate::contract::{Address, Kind, PeerId};

fn ready(kind: Kind, encrypted: bool, rails: usize) -> Way {
    let socket: SocketAddr = ([127, 0, 0, 1], 7000).into();
    Way::Ready { kind, addresses: vec![Address { kind, socket }], encrypted, rails }
}

fn missing(kind: Kind, reason: &str) -> Way {
    Way::Missing { kind, reason: reason.into() }
}

fn offer(ways: &[Way]) -> Offer {
    Offer { peer: PeerId::random(), ways: ways.to_vec() }
}

fn chosen(ours: &Offer, theirs: &Offer, policy: Policy) -> String {
    choose(ours, theirs, policy, |_| None).to_string()
}

#[test]
fn the_best_way_that_both_have_is_chosen_and_says_why() {
    let ours =
        offer(&[missing(Kind::Rdma, "no device"), ready(Kind::Tcp, true, 3), ready(Kind::Quic, true, 1)]);
    let theirs = offer(&[ready(Kind::Rdma, false, 1), ready(Kind::Tcp, true, 4), ready(Kind::Quic, true, 1)]);
    let everything = Policy::default();
    assert_eq!(chosen(&ours, &theirs, everything), "rdma: no device; tcp: 3 rails; quic: 1 rail; chosen tcp");
    assert_eq!(
        chosen(&theirs, &ours, everything),
        "rdma: no device at the peer; tcp: 3 rails; quic: 1 rail; chosen tcp"
    );
}

#[test]
fn a_policy_rules_ways_out() {
    let both = offer(&[ready(Kind::Rdma, false, 1), ready(Kind::Tcp, true, 2), ready(Kind::Quic, true, 1)]);
    let encrypted = Policy { encrypted: true, only: None };
    assert_eq!(
        chosen(&both, &both, encrypted),
        "rdma: it does not encrypt; tcp: 2 rails; quic: 1 rail; chosen tcp"
    );
    let only = Policy { encrypted: true, only: Some(Kind::Rdma) };
    assert_eq!(
        chosen(&both, &both, only),
        "rdma: it does not encrypt; tcp: another was asked for; quic: another was asked for; none is left"
    );
}

#[test]
fn what_failed_is_tried_last() {
    let both = offer(&[ready(Kind::Tcp, true, 2), ready(Kind::Quic, true, 1)]);
    let failed = |kind| (kind == Kind::Tcp).then(|| "it has been silent for too long".to_owned());
    let choice = choose(&both, &both, Policy::default(), failed);
    let order: Vec<Kind> = choice.order.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(order, [Kind::Quic, Kind::Tcp]);
    assert_eq!(
        choice.to_string(),
        "tcp: failed (it has been silent for too long); quic: 1 rail; chosen quic"
    );
}

#[test]
fn a_peer_without_a_common_way_is_not_connected_to() {
    let ours = offer(&[ready(Kind::Tcp, true, 2)]);
    let theirs = offer(&[ready(Kind::Quic, true, 2)]);
    let choice = choose(&ours, &theirs, Policy::default(), |_| None);
    assert!(choice.order.is_empty());
    assert_eq!(choice.to_string(), "tcp: not known at the peer; quic: not known; none is left");
}
