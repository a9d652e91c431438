//! How nodes and the router come together without multicast, and what is said when they cannot.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use mlxcel_cluster_config::tls::{self, Expect};
use mlxcel_cluster_config::{Identity, LinkCause};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::membership_client::MembershipClient;
use mlxcel_protocol::v1::{JoinReply, JoinRequest, LinkStatus};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;

use super::client;
use super::node::{FakeNode, state};
use super::rig::Rig;

async fn join(
    control: SocketAddr,
    as_node: &Identity,
    request: JoinRequest,
) -> Result<JoinReply, tonic::Status> {
    let (stream, _) = tls::connect(control, as_node, Expect::Any).await.expect("TLS");
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: hyper::Uri| {
        let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
        std::future::ready(stream.map_err(std::io::Error::from))
    });
    let channel =
        Endpoint::from_static("http://router").connect_with_connector(connector).await.expect("HTTP/2");
    let reply = MembershipClient::new(channel).join(request).await?;
    Ok(reply.into_inner())
}

fn request(node: &Identity, address: &str) -> JoinRequest {
    JoinRequest {
        protocol_version: PROTOCOL_VERSION,
        software_version: "0".into(),
        node_id: node.fingerprint().to_string(),
        addresses: vec![address.to_owned()],
    }
}

/// Asks until the router has something final to say.
async fn settled(rig: &Rig, node: &Identity, request: JoinRequest) -> JoinReply {
    let control = rig.router.control_addr();
    for _ in 0..200 {
        let reply = join(control, node, request.clone()).await.expect("answered");
        if reply.status() != LinkStatus::Connecting {
            return reply;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the router never settles")
}

#[tokio::test]
async fn introduction_names_cluster_version_and_proves_the_token() {
    let (node, mut hellos) = FakeNode::start(state(&["m"]), None).await;
    let join = vec![node.address.to_string()];
    let rig = Rig::start(|options| {
        options.join = join;
        options.name = "lab".into();
        options.token = Some("secret".into());
    })
    .await;
    let hello = hellos.recv().await.expect("introduced");
    assert_eq!((hello.protocol_version, hello.cluster_name.as_str()), (PROTOCOL_VERSION, "lab"));
    let cluster = hello.cluster.parse().expect("fingerprint");
    let id = node.id.parse().expect("fingerprint");
    assert!(mlxcel_cluster_config::token::verify_token_proof("secret", cluster, id, &hello.token_proof));
    rig.until_connected(1).await;
}

#[tokio::test]
async fn node_that_refuses_is_listed_with_its_cause() {
    let node = FakeNode::refusing(LinkCause::TokenRequired).await;
    let join = vec![node.address.to_string()];
    let rig = Rig::start(|options| options.join = join).await;
    let listed = |h: &serde_json::Value| !h["unreachable"][0].is_null();
    let health = rig.until(listed).await;
    let unreachable = &health["unreachable"][0];
    assert_eq!(unreachable["id"], node.id.as_str());
    assert_eq!(unreachable["cause"], LinkCause::TokenRequired.to_string());
    assert_eq!(client::get(rig.at, "/health").await.status, 503);
}

#[tokio::test]
async fn address_where_nobody_listens_is_listed_with_its_cause() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let join = vec![address.clone()];
    let rig = Rig::start(|options| options.join = join).await;
    let health = rig.until(|h| !h["unreachable"][0].is_null()).await;
    assert_eq!(health["unreachable"][0]["address"], address);
    let cause = LinkCause::Refused.to_string();
    assert_eq!(health["unreachable"][0]["cause"], cause);
}

#[tokio::test]
async fn node_that_starts_late_is_connected() {
    let place = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = place.local_addr().expect("bound");
    drop(place);
    let rig = Rig::start(|options| options.join = vec![address.to_string()]).await;
    rig.until(|h| !h["unreachable"][0].is_null()).await;
    let place = TcpListener::bind(address).await.expect("still free");
    let (_node, _hellos) = FakeNode::start_at(place, state(&["m"]), None);
    let health = rig.until(|h| h["nodes"].as_array().map(Vec::len) == Some(1)).await;
    assert_eq!(health["unreachable"], serde_json::json!([]));
}

#[tokio::test]
async fn node_that_dies_is_listed_and_its_successor_connected() {
    let mut node = FakeNode::with(&["m"]).await;
    let rig = Rig::with(&[&node]).await;
    node.kill().await;
    let health = rig.until(|h| !h["unreachable"][0].is_null()).await;
    assert_eq!(health["unreachable"][0]["id"], node.id.as_str());
    assert_eq!(health["nodes"], serde_json::json!([]));
    // Another key at the same address, as after a reinstallation.
    let place = TcpListener::bind(node.address).await.expect("free again");
    let (successor, _hellos) = FakeNode::start_at(place, state(&["m"]), None);
    let health = rig.until(|h| h["nodes"].as_array().map(Vec::len) == Some(1)).await;
    assert_eq!(health["nodes"][0]["id"], successor.id.as_str());
}

#[tokio::test]
async fn router_tells_a_node_it_cannot_reach_why() {
    let rig = Rig::start(|_| {}).await;
    let node = Identity::generate().expect("identity");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let reply = settled(&rig, &node, request(&node, &address)).await;
    assert_eq!(reply.status(), LinkStatus::Failed);
    assert!(reply.reason.contains("connection refused"), "{}", reply.reason);
    assert!(reply.reason.contains(&address), "{}", reply.reason);
}

#[tokio::test]
async fn node_of_another_version_is_told_so() {
    let rig = Rig::start(|_| {}).await;
    let node = Identity::generate().expect("identity");
    let mut request = request(&node, "127.0.0.1:9");
    request.protocol_version = PROTOCOL_VERSION + 1;
    let reply = settled(&rig, &node, request).await;
    assert_eq!(reply.status(), LinkStatus::Failed);
    assert!(reply.reason.contains("protocol version"), "{}", reply.reason);
}

#[tokio::test]
async fn joining_for_another_key_is_refused() {
    let rig = Rig::start(|_| {}).await;
    let node = Identity::generate().expect("identity");
    let other = Identity::generate().expect("identity");
    let refused = join(rig.router.control_addr(), &node, request(&other, "127.0.0.1:9")).await;
    assert_eq!(refused.expect_err("not its key").code(), tonic::Code::InvalidArgument);
}
