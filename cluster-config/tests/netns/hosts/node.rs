//! The node's side: `Claim` and `VisibilityWatch` with real sockets.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::mpsc::Sender;
use std::time::Instant;

use mlxcel_cluster_config::address::{local_interfaces, reachable_at};
use mlxcel_cluster_config::claim::{Claim, Decision, Hello, decide};
use mlxcel_cluster_config::discovery::{Discovery, DiscoveryEvent, Role};
use mlxcel_cluster_config::tls::{Expect, accept, connect_any, server_config};
use mlxcel_cluster_config::watch::{ProbeOutcome, VisibilityWatch, WatchAction, WatchConfig, WatchEvent};
use mlxcel_cluster_config::{ConnectError, Fingerprint, Identity, LinkCause};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::{Seen, Settings};
use crate::link::Lines;

enum Message {
    Event(WatchEvent),
    Hello(Fingerprint, Value, oneshot::Sender<Result<(), LinkCause>>),
}

struct Shell {
    settings: Settings,
    discovery: Discovery,
    claim: Claim,
    watch: VisibilityWatch,
    tell: Sender<Seen>,
    post: mpsc::UnboundedSender<Message>,
    tasks: JoinSet<()>,
}

pub(super) async fn run(settings: Settings, tell: Sender<Seen>, mut stop: oneshot::Receiver<()>) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, settings.port)).await.expect("port");
    let discovery = Discovery::start(settings.announcement(Role::Node, None)).expect("multicast DNS");
    let mut heard = discovery.events();
    let (post, mut inbox) = mpsc::unbounded_channel();
    let mut shell = Shell {
        watch: VisibilityWatch::new(WatchConfig { cluster: None, protocol_version: settings.version }),
        settings,
        discovery,
        claim: Claim::Unclaimed,
        tell,
        post,
        tasks: JoinSet::new(),
    };
    loop {
        let due = shell.watch.next_deadline();
        tokio::select! {
            _ = &mut stop => break,
            Some(event) = heard.recv() => shell.discovered(event),
            Some(message) = inbox.recv() => shell.receive(message),
            Ok((stream, _)) = listener.accept() => shell.answer(stream),
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                let actions = shell.watch.tick(Instant::now());
                shell.act(actions);
            }
        }
    }
    shell.discovery.shutdown().await;
}

impl Shell {
    fn discovered(&mut self, event: DiscoveryEvent) {
        self.handle(match event {
            DiscoveryEvent::Found(peer) | DiscoveryEvent::Updated(peer) => WatchEvent::PeerFound(peer),
            DiscoveryEvent::Lost(id) => WatchEvent::PeerLost(id),
        });
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                if let WatchEvent::RouterDisconnected(id) = &event {
                    let _ = self.tell.send(Seen::Disconnected(*id));
                }
                self.handle(event);
            }
            Message::Hello(caller, hello, reply) => {
                let _ = reply.send(self.introduced(caller, &hello));
            }
        }
    }

    fn introduced(&mut self, caller: Fingerprint, hello: &Value) -> Result<(), LinkCause> {
        let name = hello["name"].as_str().unwrap_or("");
        let proof: Vec<u8> = serde_json::from_value(hello["proof"].clone()).unwrap_or_default();
        let said = Hello {
            caller,
            cluster: hello["cluster"].as_str().unwrap_or(""),
            cluster_name: name,
            token_proof: &proof,
        };
        let own = self.settings.identity.fingerprint();
        match decide(&self.claim, self.settings.token, &said, own) {
            Decision::Accept => {}
            Decision::ClaimAndAccept(claim) => {
                self.handle(WatchEvent::ClaimChanged(claim.cluster()));
                let announcement = self.settings.announcement(Role::Node, claim.cluster());
                self.discovery.update(&announcement).expect("announced");
                self.claim = claim;
            }
            Decision::Refuse(reason) => {
                let cause = LinkCause::from(reason);
                self.handle(WatchEvent::RouterRefused {
                    id: caller,
                    name: name.to_owned(),
                    cause: cause.clone(),
                });
                return Err(cause);
            }
        }
        let _ = self.tell.send(Seen::Connected(caller));
        self.handle(WatchEvent::RouterConnected(caller));
        Ok(())
    }

    fn handle(&mut self, event: WatchEvent) {
        let actions = self.watch.handle(event, Instant::now());
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<WatchAction>) {
        for action in actions {
            match action {
                WatchAction::Report(report) => {
                    let _ = self.tell.send(Seen::Report(report.to_string()));
                }
                WatchAction::ProbeRouter { id, addresses, .. } => {
                    let request = json!({
                        "name": self.settings.name,
                        "version": self.settings.version,
                        "addresses": reachable_at(
                            self.settings.port,
                            &local_interfaces().expect("interfaces"),
                        ),
                    });
                    let (identity, post) = (self.settings.identity.clone(), self.post.clone());
                    self.tasks.spawn(async move {
                        let outcome = probe(id, addresses, &identity, &request).await;
                        let event = WatchEvent::ProbeFinished { id, outcome };
                        let _ = post.send(Message::Event(event));
                    });
                }
            }
        }
    }

    fn answer(&mut self, stream: TcpStream) {
        let config = server_config(&self.settings.identity);
        let post = self.post.clone();
        self.tasks.spawn(async move {
            let Ok((stream, caller)) = accept(stream, config).await else {
                return;
            };
            let mut lines = Lines::new(stream);
            let Some(hello) = lines.hear().await else {
                return;
            };
            let (reply, decision) = oneshot::channel();
            let _ = post.send(Message::Hello(caller, hello, reply));
            match decision.await {
                Ok(Ok(())) => {
                    lines.say(&json!({"ok": true})).await;
                    lines.keep_alive().await;
                    let event = WatchEvent::RouterDisconnected(caller);
                    let _ = post.send(Message::Event(event));
                }
                Ok(Err(cause)) => {
                    let cause: Value = serde_json::from_slice(&cause.to_wire()).expect("a cause is JSON");
                    lines.say(&json!({"refused": cause})).await;
                }
                Err(_) => {}
            }
        });
    }
}

async fn probe(
    id: Fingerprint,
    addresses: Vec<SocketAddr>,
    identity: &Identity,
    request: &Value,
) -> ProbeOutcome {
    let stream = match connect_any(&addresses, identity, Expect::Exactly(id)).await {
        Ok((stream, _)) => stream,
        Err(error) => return ProbeOutcome::Failed(error),
    };
    let mut lines = Lines::new(stream);
    lines.say(request).await;
    let reply = lines.hear().await.unwrap_or_default();
    match reply["status"].as_str() {
        Some("connected") => ProbeOutcome::Connected,
        Some("connecting") => ProbeOutcome::Connecting,
        Some("failed") => {
            ProbeOutcome::RouterCannotConnect(reply["reason"].as_str().unwrap_or_default().to_owned())
        }
        _ => ProbeOutcome::Failed(ConnectError {
            address: addresses.first().copied(),
            cause: LinkCause::CallFailed { detail: "the router did not answer".into() },
        }),
    }
}
