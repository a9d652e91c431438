//! Asking a router to connect, where multicast does not pass.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mlxcel_cluster_config::{Fingerprint, Identity, tls};
use mlxcel_node::{Node, StartError};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::membership_server::{Membership, MembershipServer};
use mlxcel_protocol::v1::{JoinReply, JoinRequest, LinkStatus};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status};

use crate::support::{Bench, LONG};

/// A router that only notes who asks.
struct NotingRouter {
    caller: Fingerprint,
    asked: mpsc::UnboundedSender<(Fingerprint, JoinRequest)>,
}

#[tonic::async_trait]
impl Membership for NotingRouter {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        self.asked.send((self.caller, request.into_inner())).expect("the test listens");
        Ok(Response::new(JoinReply {
            protocol_version: PROTOCOL_VERSION,
            status: LinkStatus::Connecting.into(),
            ..JoinReply::default()
        }))
    }
}

async fn serve(listener: TcpListener, asked: mpsc::UnboundedSender<(Fingerprint, JoinRequest)>) {
    let config = tls::server_config(&Identity::generate().expect("a key"));
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        let accepted = tls::accept(stream, Arc::clone(&config)).await;
        let (stream, caller) = accepted.expect("handshake");
        let router = NotingRouter { caller, asked: asked.clone() };
        let service = TowerToHyperService::new(MembershipServer::new(router));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

#[tokio::test]
async fn a_router_that_comes_late_is_asked_all_the_same() {
    let bench = Bench::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let router = free.local_addr().expect("bound");
    drop(free);
    let mut options = bench.options();
    options.listen = "0.0.0.0:0".parse().expect("an address");
    options.join = vec![router.to_string()];
    let node = Node::start(options).await.expect("starts");
    sleep(Duration::from_millis(300)).await;

    let (asked, mut heard) = mpsc::unbounded_channel();
    let listener = TcpListener::bind(router).await.expect("still free");
    tokio::spawn(serve(listener, asked));
    let (caller, request) = timeout(LONG, heard.recv()).await.expect("in time").expect("asks");
    assert_eq!(caller, node.id());
    assert_eq!(request.node_id, node.id().to_string());
    let expected = SocketAddr::from(([127, 0, 0, 1], node.local_addr().port()));
    assert_eq!(request.addresses, [expected.to_string()]);
    // It goes on asking: the router has not connected.
    timeout(LONG, heard.recv()).await.expect("in time").expect("asks again");
}

#[tokio::test]
async fn an_address_without_a_port_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.join = vec!["router".into()];
    let error = Node::start(options).await.expect_err("no port");
    assert!(matches!(error, StartError::Join(_)));
    assert_eq!(error.to_string(), "an address to join must be host:port, got `router`");
}
