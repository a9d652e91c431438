use std::time::Duration;

use proptest::prelude::*;

use super::*;

const VERSION: u32 = 3;

fn print(name: &str) -> Fingerprint {
    Fingerprint::of_public_key(name.as_bytes())
}

fn node(name: &str) -> Peer {
    Peer {
        id: print(name),
        role: Role::Node,
        cluster: None,
        protocol_version: VERSION,
        software_version: "0.1.0".into(),
        hostname: name.into(),
        addresses: vec!["10.0.0.2:7411".parse().expect("address")],
    }
}

fn failure(cause: LinkCause) -> ConnectError {
    ConnectError { address: Some("10.0.0.2:7411".parse().expect("address")), cause }
}

/// A router in virtual time.
struct Router {
    membership: Membership,
    now: Instant,
    reports: Vec<String>,
    /// Attempts made and not answered yet.
    connecting: Vec<Fingerprint>,
}

impl Router {
    fn new() -> Self {
        Self {
            membership: Membership::new(MembershipConfig {
                cluster: print("cluster"),
                protocol_version: VERSION,
            }),
            now: Instant::now(),
            reports: Vec::new(),
            connecting: Vec::new(),
        }
    }

    fn take(&mut self, actions: Vec<MembershipAction>) {
        for action in actions {
            match action {
                MembershipAction::Connect { id, .. } => self.connecting.push(id),
                MembershipAction::Report(report) => self.reports.push(report.to_string()),
            }
        }
    }

    fn handle(&mut self, event: MembershipEvent) {
        let actions = self.membership.handle(event, self.now);
        self.take(actions);
    }

    fn found(&mut self, peer: Peer) {
        self.handle(MembershipEvent::PeerFound(peer));
    }

    fn answer(&mut self, result: Result<(), LinkCause>) {
        let id = self.connecting.pop().expect("an attempt is under way");
        self.handle(match result {
            Ok(()) => MembershipEvent::ConnectSucceeded { id },
            Err(cause) => MembershipEvent::ConnectFailed { id, error: failure(cause) },
        });
    }

    fn disconnected(&mut self, name: &str) {
        self.handle(MembershipEvent::Disconnected { id: print(name) });
    }

    /// Lets time pass up to the next deadline within `most`; whether there was one.
    fn step(&mut self, most: Duration) -> bool {
        let Some(due) = self.membership.next_deadline() else {
            return false;
        };
        if due > self.now + most {
            return false;
        }
        self.now = self.now.max(due);
        let actions = self.membership.tick(self.now);
        self.take(actions);
        true
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end - self.now) {}
        self.now = end;
    }

    fn link(&self, name: &str) -> Option<LinkState> {
        self.membership.link(&print(name)).cloned()
    }
}

#[test]
fn node_is_connected_to_as_soon_as_it_is_found() {
    let mut router = Router::new();
    router.found(node("a"));
    assert_eq!(router.connecting, [print("a")]);
    router.answer(Ok(()));
    assert_eq!(router.link("a"), Some(LinkState::Connected));
    assert!(router.reports.is_empty());
}

#[test]
fn routers_are_not_connected_to() {
    let mut router = Router::new();
    router.found(Peer { role: Role::Router, ..node("other router") });
    assert!(router.connecting.is_empty());
}

#[test]
fn connected_node_is_not_connected_to_again_by_an_update() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Ok(()));
    router.found(Peer { cluster: Some(print("cluster")), ..node("a") });
    assert!(router.connecting.is_empty());
}

#[test]
fn first_failure_is_reported_at_once_and_its_repetition_never() {
    let mut router = Router::new();
    router.found(node("a"));
    for _ in 0..5 {
        router.answer(Err(LinkCause::TimedOut));
        assert!(router.step(Duration::from_secs(60)), "tried again");
    }
    assert_eq!(router.reports.len(), 1, "{:?}", router.reports);
    assert!(router.reports[0].starts_with("no link to node a ("));
    assert!(router.reports[0].contains("10.0.0.2:7411"));
    assert!(router.reports[0].contains("firewall"));
}

#[test]
fn another_cause_is_reported_too_and_so_is_recovery() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Err(LinkCause::TimedOut));
    router.step(Duration::from_secs(60));
    router.answer(Err(LinkCause::Refused));
    router.step(Duration::from_secs(60));
    router.answer(Ok(()));
    assert_eq!(router.reports.len(), 3, "{:?}", router.reports);
    assert!(router.reports[2].ends_with("works again"));
}

#[test]
fn waits_between_attempts_grow_to_five_seconds_while_announced() {
    let mut router = Router::new();
    router.found(node("a"));
    let waits: Vec<u128> = (0..6)
        .map(|_| {
            router.answer(Err(LinkCause::Refused));
            let before = router.now;
            assert!(router.step(Duration::from_secs(60)));
            (router.now - before).as_millis()
        })
        .collect();
    assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
}

#[test]
fn lasting_link_that_breaks_is_tried_again_at_once() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Ok(()));
    router.wait(Duration::from_secs(20));
    router.disconnected("a");
    assert_eq!(router.connecting, [print("a")]);
}

#[test]
fn link_that_breaks_at_once_is_not_tried_in_a_tight_loop() {
    let mut router = Router::new();
    router.found(node("a"));
    let began = router.now;
    for _ in 0..6 {
        router.answer(Ok(()));
        router.disconnected("a");
        assert!(router.connecting.is_empty());
        assert!(router.step(Duration::from_secs(60)));
    }
    assert!(router.now - began > Duration::from_secs(10));
}

#[test]
fn node_that_was_cut_off_is_tried_every_second_and_at_once_when_it_says_so() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Ok(()));
    router.wait(Duration::from_secs(60));
    router.disconnected("a");
    router.handle(MembershipEvent::PeerLost(print("a")));
    // It need not say so itself: it is tried every second, for some minutes.
    for _ in 0..500 {
        router.answer(Err(LinkCause::TimedOut));
        assert!(router.step(Duration::from_secs(1)));
    }
    router.answer(Err(LinkCause::TimedOut));
    router.wait(Duration::from_millis(600));
    assert!(router.connecting.is_empty());
    router.found(node("a"));
    assert_eq!(router.connecting, [print("a")]);
}

#[test]
fn node_that_is_lost_is_still_tried_for_ten_minutes_and_then_forgotten() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Err(LinkCause::TimedOut));
    router.handle(MembershipEvent::PeerLost(print("a")));
    let mut attempts = 0;
    while router.step(Duration::from_secs(3600)) {
        while !router.connecting.is_empty() {
            attempts += 1;
            router.answer(Err(LinkCause::TimedOut));
        }
    }
    assert!(attempts > 15, "{attempts}");
    assert_eq!(router.link("a"), None);
}

#[test]
fn node_that_says_goodbye_is_not_reported_as_a_fault() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Ok(()));
    router.wait(Duration::from_secs(60));
    router.handle(MembershipEvent::PeerLost(print("a")));
    router.disconnected("a");
    router.answer(Err(LinkCause::Refused));
    assert!(router.reports.is_empty(), "{:?}", router.reports);
}

#[test]
fn other_protocol_version_is_reported_without_an_attempt() {
    let mut router = Router::new();
    router.found(Peer { protocol_version: VERSION + 1, ..node("a") });
    router.wait(Duration::from_secs(60));
    assert!(router.connecting.is_empty());
    assert_eq!(router.reports.len(), 1);
    assert!(router.reports[0].contains("protocol version 4 there, 3 here"), "{}", router.reports[0]);
}

#[test]
fn updated_node_is_connected_to_once_it_speaks_our_version() {
    let mut router = Router::new();
    router.found(Peer { protocol_version: VERSION + 1, ..node("a") });
    router.found(node("a"));
    assert_eq!(router.connecting, [print("a")]);
}

#[test]
fn node_of_another_cluster_is_reported_and_left_alone_until_released() {
    let mut router = Router::new();
    router.found(Peer { cluster: Some(print("other")), ..node("a") });
    router.wait(Duration::from_secs(600));
    assert!(router.connecting.is_empty());
    assert_eq!(router.reports.len(), 1);
    assert!(router.reports[0].contains("--forget-cluster"));
    router.found(node("a"));
    assert_eq!(router.connecting, [print("a")]);
}

#[test]
fn cause_that_needs_someone_is_tried_rarely() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Err(LinkCause::TokenRequired));
    router.wait(Duration::from_secs(29));
    assert!(router.connecting.is_empty());
    router.wait(Duration::from_secs(2));
    assert_eq!(router.connecting, [print("a")]);
}

#[test]
fn joining_node_is_connected_to_at_the_addresses_it_gave() {
    let mut membership = Router::new().membership;
    let actions = membership.handle(MembershipEvent::JoinRequested(node("a")), Instant::now());
    assert_eq!(
        actions,
        [MembershipAction::Connect { id: print("a"), hostname: "a".into(), addresses: node("a").addresses }]
    );
}

#[test]
fn join_in_vain_still_tells_why_the_last_attempt_failed() {
    let mut router = Router::new();
    router.found(node("a"));
    router.answer(Err(LinkCause::TimedOut));
    router.wait(Duration::from_millis(499));
    router.now += Duration::from_secs(1);
    router.handle(MembershipEvent::JoinRequested(node("a")));
    assert_eq!(router.connecting, [print("a")]);
    assert_eq!(router.link("a"), Some(LinkState::Connecting { last: Some(failure(LinkCause::TimedOut)) }));
}

#[test]
fn node_whose_useful_address_comes_late_is_not_a_fault() {
    let mut router = Router::new();
    router.found(Peer { addresses: Vec::new(), ..node("a") });
    router.wait(Duration::from_secs(1));
    assert!(router.connecting.is_empty());
    router.found(node("a"));
    router.answer(Ok(()));
    assert!(router.reports.is_empty());
}

#[test]
fn node_that_never_announces_a_useful_address_is_tried_and_so_reported() {
    let mut router = Router::new();
    router.found(Peer { addresses: Vec::new(), ..node("a") });
    router.wait(Duration::from_secs(3));
    assert_eq!(router.connecting, [print("a")]);
}

#[test]
fn flood_of_announcements_is_not_a_flood_of_attempts() {
    let mut router = Router::new();
    let mut attempts = 0;
    for port in 1..=1000 {
        router.found(Peer { addresses: vec![([10, 0, 0, 2], port).into()], ..node("a") });
        router.wait(Duration::from_millis(10));
        while !router.connecting.is_empty() {
            attempts += 1;
            router.answer(Err(LinkCause::Refused));
        }
    }
    assert!(attempts <= 21, "{attempts} attempts in ten seconds");
}

#[derive(Debug, Clone)]
enum Happening {
    Found(u8, u32),
    Join(u8),
    Lost(u8),
    Answer(bool),
    Disconnected(u8),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0_u8..3, VERSION..VERSION + 2).prop_map(|(who, v)| Happening::Found(who, v)),
        (0_u8..3).prop_map(Happening::Join),
        (0_u8..3).prop_map(Happening::Lost),
        any::<bool>().prop_map(Happening::Answer),
        (0_u8..3).prop_map(Happening::Disconnected),
        (0_u64..20_000).prop_map(Happening::Pass),
    ]
}

proptest! {
    /// Whatever happens: at most one attempt per node at a time, and a node that is announced
    /// with our version is connected, being connected to, or due to be within half a minute.
    #[test]
    fn no_node_is_tried_twice_at_once_or_left_behind(
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let mut router = Router::new();
        let name = |who: u8| ["a", "b", "c"][usize::from(who)];
        let mut announced = BTreeMap::new();
        for happening in happenings {
            match happening {
                Happening::Found(who, protocol_version) => {
                    announced.insert(print(name(who)), protocol_version);
                    router.found(Peer { protocol_version, ..node(name(who)) });
                }
                Happening::Join(who) => {
                    router.handle(MembershipEvent::JoinRequested(node(name(who))));
                }
                Happening::Lost(who) => {
                    announced.remove(&print(name(who)));
                    router.handle(MembershipEvent::PeerLost(print(name(who))));
                }
                Happening::Answer(_) if router.connecting.is_empty() => {}
                Happening::Answer(well) => {
                    router.answer(if well { Ok(()) } else { Err(LinkCause::TimedOut) });
                }
                Happening::Disconnected(who) => router.disconnected(name(who)),
                Happening::Pass(millis) => router.wait(Duration::from_millis(millis)),
            }
            let mut once = router.connecting.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), router.connecting.len());
        }
        let waiting = router.connecting.clone();
        router.wait(Duration::from_secs(30));
        for (id, _) in announced.iter().filter(|(_, version)| **version == VERSION) {
            let link = router.membership.link(id);
            prop_assert!(
                link == Some(&LinkState::Connected)
                    || waiting.contains(id)
                    || router.connecting.contains(id),
                "{:?}", link
            );
        }
    }
}
