//! Whom a node obeys.

use mlxcel_cluster_config::{Identity, LinkCause};
use mlxcel_node::{Node, RunningNode};
use mlxcel_protocol::v1::{GenerateRequest, HelloRequest, WatchStateRequest};
use tonic::{Code, Status};

use crate::support::{Bench, Router};

fn key() -> Identity {
    Identity::generate().expect("a key")
}

async fn start_with_token(bench: &Bench) -> RunningNode {
    let mut options = bench.options();
    options.token = Some("secret".into());
    Node::start(options).await.expect("starts")
}

/// The cause a refusal carries.
fn cause(refused: Result<impl std::fmt::Debug, Status>, code: Code) -> LinkCause {
    let status = refused.expect_err("refused");
    assert_eq!(status.code(), code, "{status}");
    LinkCause::from_wire(status.details()).expect("a cause")
}

async fn hello(router: &mut Router, request: HelloRequest) -> Result<(), Status> {
    router.client.hello(request).await.map(|_| ())
}

#[tokio::test]
async fn the_first_router_claims_the_node_for_good() {
    let bench = Bench::new();
    let (own, other) = (key(), key());
    let node = bench.start().await;
    let mut router = Router::connect(&node, own.clone()).await;
    assert!(router.hello(None).await.expect("claims").newly_claimed);
    assert!(!router.hello(None).await.expect("known").newly_claimed);
    let reply = router.hello(None).await.expect("known");
    assert_eq!(reply.node.expect("described").id, node.id().to_string());
    drop(node);

    let node = bench.start().await;
    let mut router = Router::connect(&node, own.clone()).await;
    assert!(!router.hello(None).await.expect("remembered").newly_claimed);
    let mut stranger = Router::connect(&node, other.clone()).await;
    let refused = cause(stranger.hello(None).await, Code::Unauthenticated);
    let (owner, caller) = (own.fingerprint(), other.fingerprint());
    assert_eq!(refused, LinkCause::ClaimedByOther { owner, caller });
}

#[tokio::test]
async fn nothing_is_done_for_a_caller_that_is_not_the_cluster() {
    let bench = Bench::new();
    let node = bench.start().await;
    let mut early = Router::connect(&node, key()).await;
    let refused = early.client.watch_state(WatchStateRequest {}).await.expect_err("unclaimed");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("unclaimed"), "{refused}");

    let _owner = Router::claiming(&node).await;
    let refused = early.client.watch_state(WatchStateRequest {}).await.expect_err("stranger");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = early.client.generate(GenerateRequest::default()).await.expect_err("stranger");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("belongs to cluster"), "{refused}");
}

#[tokio::test]
async fn a_caller_cannot_speak_for_a_cluster_whose_key_it_does_not_hold() {
    let bench = Bench::new();
    let node = bench.start().await;
    let mut router = Router::connect(&node, key()).await;
    let cluster = key().fingerprint().to_string();
    let request = HelloRequest { cluster: cluster.clone(), ..router.introduction(None) };
    let refused = cause(hello(&mut router, request).await, Code::Unauthenticated);
    assert!(matches!(refused, LinkCause::NotTheClusterKey { claimed, .. } if claimed == cluster));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_by_number() {
    let bench = Bench::new();
    let node = bench.start().await;
    let mut router = Router::connect(&node, key()).await;
    let request = HelloRequest { protocol_version: 99, ..router.introduction(None) };
    let refused = cause(hello(&mut router, request).await, Code::FailedPrecondition);
    assert_eq!(refused, LinkCause::VersionMismatch { ours: 99, theirs: mlxcel_protocol::PROTOCOL_VERSION });
}

#[tokio::test]
async fn a_node_with_a_token_is_claimed_by_its_proof_only() {
    let bench = Bench::new();
    let node = start_with_token(&bench).await;
    let mut router = Router::connect(&node, key()).await;
    assert_eq!(cause(router.hello(None).await, Code::Unauthenticated), LinkCause::TokenRequired);
    let wrong = router.hello(Some("guess")).await;
    assert_eq!(cause(wrong, Code::Unauthenticated), LinkCause::TokenWrong);
    assert!(router.hello(Some("secret")).await.expect("proved").newly_claimed);
}

#[tokio::test]
async fn with_a_token_even_the_owner_proves_it_on_every_connection() {
    let bench = Bench::new();
    let node = start_with_token(&bench).await;
    let own = key();
    let mut first = Router::connect(&node, own.clone()).await;
    first.hello(Some("secret")).await.expect("claims");
    let mut second = Router::connect(&node, own).await;
    let refused = second.client.watch_state(WatchStateRequest {}).await.expect_err("no proof");
    assert!(refused.message().contains("token"), "{refused}");
    second.hello(Some("secret")).await.expect("proved");
    second.client.watch_state(WatchStateRequest {}).await.expect("admitted");
}
