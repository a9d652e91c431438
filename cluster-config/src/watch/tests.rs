use super::*;
use crate::CONNECT_TIMEOUT;

const VERSION: u32 = 3;

fn print(name: &str) -> Fingerprint {
    Fingerprint::of_public_key(name.as_bytes())
}

fn router(name: &str) -> Peer {
    Peer {
        id: print(name),
        role: Role::Router,
        cluster: Some(print(name)),
        protocol_version: VERSION,
        software_version: "0.1.0".into(),
        hostname: name.into(),
        addresses: vec!["10.0.0.1:7410".parse().expect("address")],
    }
}

fn unreachable(cause: LinkCause) -> ProbeOutcome {
    ProbeOutcome::Failed(ConnectError { address: Some("10.0.0.1:7410".parse().expect("address")), cause })
}

/// A node in virtual time.
struct Node {
    watch: VisibilityWatch,
    now: Instant,
    began: Instant,
    probes: Vec<Fingerprint>,
    reports: Vec<Report>,
}

impl Node {
    fn owned_by(cluster: Option<&str>) -> Self {
        let now = Instant::now();
        Self {
            watch: VisibilityWatch::new(WatchConfig {
                cluster: cluster.map(print),
                protocol_version: VERSION,
            }),
            now,
            began: now,
            probes: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn unclaimed() -> Self {
        Self::owned_by(None)
    }

    fn take(&mut self, actions: Vec<WatchAction>) {
        for action in actions {
            match action {
                WatchAction::ProbeRouter { id, .. } => self.probes.push(id),
                WatchAction::Report(report) => self.reports.push(report),
            }
        }
    }

    fn handle(&mut self, event: WatchEvent) {
        let actions = self.watch.handle(event, self.now);
        self.take(actions);
    }

    fn found(&mut self, peer: Peer) {
        self.handle(WatchEvent::PeerFound(peer));
    }

    fn probed(&mut self, outcome: ProbeOutcome) {
        let id = self.probes.pop().expect("a probe is under way");
        self.handle(WatchEvent::ProbeFinished { id, outcome });
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.watch.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let actions = self.watch.tick(self.now);
            self.take(actions);
        }
        self.now = end;
    }

    fn said(&self) -> Vec<String> {
        self.reports.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn router_that_connects_in_time_is_not_probed() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.wait(Duration::from_secs(2));
    node.handle(WatchEvent::ClaimChanged(Some(print("r"))));
    node.handle(WatchEvent::RouterConnected(print("r")));
    node.wait(Duration::from_secs(600));
    assert!(node.probes.is_empty());
    assert!(node.reports.is_empty());
}

#[test]
fn silent_router_is_probed_early_enough_to_name_the_cause_in_ten_seconds() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.wait(PROBE_AFTER);
    assert_eq!(node.probes, [print("r")]);
    node.wait(CONNECT_TIMEOUT);
    node.probed(unreachable(LinkCause::TimedOut));
    assert!(node.now - node.began <= Duration::from_secs(10));
    let said = node.said();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("no link to router r ("), "{said:?}");
    assert!(said[0].contains("at 10.0.0.1:7410") && said[0].contains("firewall"));
}

#[test]
fn router_that_cannot_connect_back_is_quoted() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.wait(PROBE_AFTER);
    node.probed(ProbeOutcome::RouterCannotConnect("no answer".into()));
    assert_eq!(node.reports[0].cause(), Some(&LinkCause::ReportedByPeer { reason: "no answer".into() }));
}

#[test]
fn router_that_is_still_trying_is_asked_again_soon() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.wait(PROBE_AFTER);
    node.probed(ProbeOutcome::Connecting);
    assert!(node.reports.is_empty());
    node.wait(Duration::from_secs(1));
    assert_eq!(node.probes, [print("r")]);
}

#[test]
fn cause_is_reported_once_until_the_link_worked() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    for _ in 0..4 {
        node.wait(Duration::from_secs(20));
        node.probed(unreachable(LinkCause::Refused));
    }
    assert_eq!(node.reports.len(), 1);
    node.handle(WatchEvent::RouterConnected(print("r")));
    assert_eq!(node.reports[1].kind, ReportKind::Recovered);
    node.handle(WatchEvent::RouterDisconnected(print("r")));
    node.wait(PROBE_AFTER);
    node.probed(unreachable(LinkCause::Refused));
    assert_eq!(node.reports.len(), 3);
}

#[test]
fn router_with_another_version_is_reported_at_once_and_not_probed() {
    let mut node = Node::unclaimed();
    node.found(Peer { protocol_version: VERSION - 1, ..router("r") });
    assert_eq!(node.reports[0].cause(), Some(&LinkCause::VersionMismatch { ours: 3, theirs: 2 }));
    node.wait(Duration::from_secs(60));
    assert!(node.probes.is_empty());
}

#[test]
fn router_updated_to_our_version_gets_its_time_to_connect() {
    let mut node = Node::unclaimed();
    node.found(Peer { protocol_version: VERSION - 1, ..router("r") });
    node.found(router("r"));
    node.wait(PROBE_AFTER);
    assert_eq!(node.probes, [print("r")]);
}

#[test]
fn claimed_node_names_the_key_when_only_another_cluster_is_there() {
    let mut node = Node::owned_by(Some("mine"));
    node.found(router("other"));
    node.wait(Duration::from_secs(10));
    assert!(node.probes.is_empty());
    assert_eq!(
        node.reports[0].cause(),
        Some(&LinkCause::ClaimedByOther { owner: print("mine"), caller: print("other") })
    );
}

#[test]
fn connected_node_does_not_mind_another_cluster() {
    let mut node = Node::owned_by(Some("mine"));
    node.found(router("mine"));
    node.handle(WatchEvent::RouterConnected(print("mine")));
    node.found(router("other"));
    node.wait(Duration::from_secs(60));
    assert!(node.reports.is_empty());
}

#[test]
fn router_without_the_token_is_reported_when_refused() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.handle(WatchEvent::RouterRefused {
        id: print("r"),
        name: "home".into(),
        cause: LinkCause::TokenRequired,
    });
    assert!(node.said()[0].contains("--token"));
}

#[test]
fn refused_router_that_is_not_visible_is_reported_by_the_name_it_gave() {
    let mut node = Node::unclaimed();
    node.handle(WatchEvent::RouterRefused {
        id: print("r"),
        name: "home".into(),
        cause: LinkCause::TokenWrong,
    });
    assert!(node.said()[0].contains("router home"));
}

#[test]
fn router_that_left_is_not_probed() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.handle(WatchEvent::PeerLost(print("r")));
    node.wait(Duration::from_secs(60));
    assert!(node.probes.is_empty());
}

#[test]
fn other_nodes_are_not_watched() {
    let mut node = Node::unclaimed();
    node.found(Peer { role: Role::Node, ..router("n") });
    assert_eq!(node.watch.next_deadline(), None);
}

#[test]
fn probe_is_not_repeated_while_one_is_under_way() {
    let mut node = Node::unclaimed();
    node.found(router("r"));
    node.wait(PROBE_AFTER);
    node.found(Peer { hostname: "renamed".into(), ..router("r") });
    node.wait(Duration::from_secs(60));
    assert_eq!(node.probes, [print("r")]);
}
