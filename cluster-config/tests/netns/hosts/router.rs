//! The router's side: `Membership` with real sockets.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::mpsc::Sender;
use std::time::Instant;

use mlxcel_cluster_config::address::{local_interfaces, order};
use mlxcel_cluster_config::discovery::{Discovery, DiscoveryEvent, Peer, Role};
use mlxcel_cluster_config::membership::{
    LinkState, Membership, MembershipAction, MembershipConfig, MembershipEvent,
};
use mlxcel_cluster_config::tls::{Expect, accept, connect_any, server_config};
use mlxcel_cluster_config::token::token_proof;
use mlxcel_cluster_config::{ConnectError, Fingerprint, Identity, LinkCause};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::{Seen, Settings};
use crate::link::Lines;

enum Message {
    Event(MembershipEvent),
    Join(Peer, oneshot::Sender<Value>),
}

struct Shell {
    settings: Settings,
    membership: Membership,
    tell: Sender<Seen>,
    post: mpsc::UnboundedSender<Message>,
    tasks: JoinSet<()>,
}

pub(super) async fn run(settings: Settings, tell: Sender<Seen>, mut stop: oneshot::Receiver<()>) {
    let id = settings.identity.fingerprint();
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, settings.port)).await.expect("port");
    let discovery = Discovery::start(settings.announcement(Role::Router, Some(id))).expect("multicast DNS");
    let mut heard = discovery.events();
    let (post, mut inbox) = mpsc::unbounded_channel();
    let mut shell = Shell {
        membership: Membership::new(MembershipConfig { cluster: id, protocol_version: settings.version }),
        settings,
        tell,
        post,
        tasks: JoinSet::new(),
    };
    loop {
        let due = shell.membership.next_deadline();
        tokio::select! {
            _ = &mut stop => break,
            Some(event) = heard.recv() => shell.discovered(event),
            Some(message) = inbox.recv() => shell.receive(message),
            Ok((stream, _)) = listener.accept() => shell.answer(stream),
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                let actions = shell.membership.tick(Instant::now());
                shell.act(actions);
            }
        }
    }
    discovery.shutdown().await;
}

impl Shell {
    fn discovered(&mut self, event: DiscoveryEvent) {
        self.handle(match event {
            DiscoveryEvent::Found(peer) | DiscoveryEvent::Updated(peer) => MembershipEvent::PeerFound(peer),
            DiscoveryEvent::Lost(id) => {
                let _ = self.tell.send(Seen::Lost(id));
                MembershipEvent::PeerLost(id)
            }
        });
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                let seen = match &event {
                    MembershipEvent::ConnectSucceeded { id } => Some(Seen::Connected(*id)),
                    MembershipEvent::Disconnected { id } => Some(Seen::Disconnected(*id)),
                    _ => None,
                };
                if let Some(seen) = seen {
                    let _ = self.tell.send(seen);
                }
                self.handle(event);
            }
            Message::Join(peer, reply) => {
                let id = peer.id;
                self.handle(MembershipEvent::JoinRequested(peer));
                let _ = reply.send(match self.membership.link(&id) {
                    Some(LinkState::Connected) => json!({"status": "connected"}),
                    Some(LinkState::Failed(error) | LinkState::Connecting { last: Some(error) }) => {
                        json!({"status": "failed", "reason": error.to_string()})
                    }
                    _ => json!({"status": "connecting"}),
                });
            }
        }
    }

    fn handle(&mut self, event: MembershipEvent) {
        let actions = self.membership.handle(event, Instant::now());
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<MembershipAction>) {
        for action in actions {
            match action {
                MembershipAction::Report(report) => {
                    let _ = self.tell.send(Seen::Report(report.to_string()));
                }
                MembershipAction::Connect { id, addresses, .. } => {
                    let hello = self.hello(id);
                    let (identity, post) = (self.settings.identity.clone(), self.post.clone());
                    self.tasks.spawn(serve_link(id, addresses, identity, hello, post));
                }
            }
        }
    }

    fn hello(&self, node: Fingerprint) -> Value {
        let own = self.settings.identity.fingerprint();
        let proof = self.settings.token.map(|token| token_proof(token, own, node));
        json!({
            "cluster": own.to_string(),
            "name": self.settings.name,
            "proof": proof.map_or_else(Vec::new, Vec::from),
        })
    }

    fn answer(&mut self, stream: TcpStream) {
        let config = server_config(&self.settings.identity);
        let post = self.post.clone();
        self.tasks.spawn(async move {
            let Ok((stream, id)) = accept(stream, config).await else {
                return;
            };
            let mut lines = Lines::new(stream);
            let Some(request) = lines.hear().await else {
                return;
            };
            let (reply, answer) = oneshot::channel();
            let _ = post.send(Message::Join(joining(id, &request), reply));
            if let Ok(answer) = answer.await {
                lines.say(&answer).await;
            }
        });
    }
}

fn joining(id: Fingerprint, request: &Value) -> Peer {
    let given: Vec<SocketAddr> = serde_json::from_value(request["addresses"].clone()).expect("addresses");
    Peer {
        id,
        role: Role::Node,
        cluster: None,
        protocol_version: serde_json::from_value(request["version"].clone()).expect("version"),
        software_version: "test".into(),
        hostname: request["name"].as_str().expect("name").to_owned(),
        addresses: order(&given, &local_interfaces().expect("interfaces")),
    }
}

async fn serve_link(
    id: Fingerprint,
    addresses: Vec<SocketAddr>,
    identity: Identity,
    hello: Value,
    post: mpsc::UnboundedSender<Message>,
) {
    let tell = |event| {
        let _ = post.send(Message::Event(event));
    };
    let (stream, _) = match connect_any(&addresses, &identity, Expect::Exactly(id)).await {
        Ok(opened) => opened,
        Err(error) => return tell(MembershipEvent::ConnectFailed { id, error }),
    };
    let address = stream.get_ref().0.peer_addr().ok();
    let mut lines = Lines::new(stream);
    lines.say(&hello).await;
    let cause = match lines.hear().await {
        Some(Value::Object(reply)) if reply.contains_key("ok") => {
            tell(MembershipEvent::ConnectSucceeded { id });
            lines.keep_alive().await;
            return tell(MembershipEvent::Disconnected { id });
        }
        Some(refusal) => LinkCause::from_wire(refusal["refused"].to_string().as_bytes()),
        None => None,
    };
    let cause =
        cause.unwrap_or(LinkCause::CallFailed { detail: "the node did not answer the introduction".into() });
    tell(MembershipEvent::ConnectFailed { id, error: ConnectError { address, cause } });
}
