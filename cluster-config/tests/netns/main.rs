//! Hosts in network namespaces on a bridge: they find each other, are cut off, return, and say
//! why when they cannot connect.
//!
//! Needs root and iproute2; real time, one laboratory at a time.
#![cfg(target_os = "linux")]

mod hosts;
mod lab;
mod link;

use std::time::Duration;

use hosts::{Node, Router, Seen};
use lab::Lab;

/// How soon a cause has to be named.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(8);

#[test]
fn three_hosts_find_each_other_and_one_that_was_cut_off_comes_back() {
    let mut lab = Lab::new();
    let router = Router::new("router").start(&lab.host("r", 1));
    let alpha = Node::new("alpha").start(&lab.host("a", 2));
    let beta = Node::new("beta").start(&lab.host("b", 3));
    for node in [&alpha, &beta] {
        router.expect(SOON, &Seen::Connected(node.id()));
        node.expect(SOON, &Seen::Connected(router.id()));
    }

    lab.cut("b");
    router.expect(SOON, &Seen::Disconnected(beta.id()));
    router.expect_report(NAMED_WITHIN, "no link to node beta");
    router.forget();

    lab.restore("b");
    router.expect(NAMED_WITHIN, &Seen::Connected(beta.id()));
    assert!(!router.saw(&Seen::Disconnected(alpha.id())), "the other node was disturbed");
}

#[test]
fn router_and_two_nodes_on_one_host_without_a_network_find_each_other() {
    let mut lab = Lab::new();
    let place = lab.lone_host("solo");
    let router = Router::new("router").start(&place);
    let first = Node::new("first").start(&place);
    let second = Node::new("second").port(7421).start(&place);
    for node in [&first, &second] {
        router.expect(SOON, &Seen::Connected(node.id()));
    }
    second.stop();
    router.expect(SOON, &Seen::Lost(second.id()));
}

#[test]
fn node_behind_a_firewall_is_named_on_both_sides() {
    let mut lab = Lab::new();
    let place = lab.host("a", 2);
    lab.drop_tcp("a", hosts::NODE_PORT);
    let router = Router::new("router").start(&lab.host("r", 1));
    let node = Node::new("alpha").start(&place);
    router.expect_report(NAMED_WITHIN, "a firewall on one of the hosts drops TCP");
    node.expect_report(NAMED_WITHIN, "the other side says: ");
    node.expect_report(NAMED_WITHIN, "a firewall on one of the hosts drops TCP");

    lab.allow_tcp("a");
    router.expect(NAMED_WITHIN, &Seen::Connected(node.id()));
    router.expect_report(SOON, "works again");
}

#[test]
fn firewalls_on_both_hosts_are_named_on_both_sides() {
    let mut lab = Lab::new();
    let (r, a) = (lab.host("r", 1), lab.host("a", 2));
    lab.drop_tcp("a", hosts::NODE_PORT);
    lab.drop_tcp("r", hosts::ROUTER_PORT);
    let router = Router::new("router").start(&r);
    let node = Node::new("alpha").start(&a);
    router.expect_report(NAMED_WITHIN, "drops TCP");
    node.expect_report(NAMED_WITHIN, "drops TCP");
}

#[test]
fn other_protocol_version_is_named_on_both_sides() {
    let mut lab = Lab::new();
    let router = Router::new("router").start(&lab.host("r", 1));
    let node = Node::new("alpha").version(2).start(&lab.host("a", 2));
    router.expect_report(SOON, "protocol version 2 there, 1 here");
    node.expect_report(SOON, "protocol version 1 there, 2 here");
}

#[test]
fn node_of_another_cluster_is_named_on_both_sides() {
    let mut lab = Lab::new();
    let first = Router::new("first").start(&lab.host("r", 1));
    let node = Node::new("alpha").start(&lab.host("a", 2));
    first.expect(SOON, &Seen::Connected(node.id()));
    first.stop();
    let second = Router::new("second").start(&lab.host("s", 3));
    let keys = format!("belongs to cluster {}, the router to {}", first.id(), second.id());
    second.expect_report(NAMED_WITHIN, &keys);
    node.expect_report(NAMED_WITHIN, &keys);
}

#[test]
fn token_is_required_and_a_router_that_has_it_is_let_in() {
    let mut lab = Lab::new();
    let node = Node::new("alpha").token("secret").start(&lab.host("a", 2));
    let bare = Router::new("bare").start(&lab.host("r", 1));
    bare.expect_report(NAMED_WITHIN, "requires a token");
    node.expect_report(NAMED_WITHIN, "requires a token");
    let holder = Router::new("holder").token("secret").start(&lab.host("s", 3));
    holder.expect(SOON, &Seen::Connected(node.id()));
}

#[test]
fn hosts_on_different_subnets_of_one_wire_say_that_there_is_no_way() {
    let mut lab = Lab::new();
    let (r, a) = (lab.host("r", 1), lab.host("a", 2));
    lab.move_to_other_subnet("a", 2);
    let router = Router::new("router").start(&r);
    let node = Node::new("alpha").start(&a);
    router.expect_report(NAMED_WITHIN, "no link to node alpha");
    node.expect_report(NAMED_WITHIN, "no link to router router");
}
