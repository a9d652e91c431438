//! The control port: nodes that cannot be found by multicast ask here to be joined, and nodes that
//! wait in vain find out why.
//!
//! Speaks mutual TLS and believes the key TLS proved, not the one a request names. Whether and when
//! to connect is `members`' business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mlxcel_cluster_config::discovery::{Peer, Role};
use mlxcel_cluster_config::membership::LinkState;
use mlxcel_cluster_config::{Fingerprint, tls};
use mlxcel_protocol::PROTOCOL_VERSION;
use mlxcel_protocol::v1::membership_server::{Membership, MembershipServer};
use mlxcel_protocol::v1::{JoinReply, JoinRequest, LinkStatus};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};

use super::members::Members;

/// Answers nodes. Never ends.
pub(crate) async fn serve(members: Members, listener: TcpListener) {
    let config = tls::server_config(&members.introduction().identity);
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let answer = answer(members.clone(), Arc::clone(&config), stream, from);
                members.spawn(answer);
            }
            Err(error) => {
                // Out of descriptors, most likely; accepting again at once would spin.
                tracing::warn!(%error, "cannot accept on the control port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type TlsConfig = Arc<tokio_rustls::rustls::ServerConfig>;

async fn answer(members: Members, config: TlsConfig, stream: TcpStream, from: SocketAddr) {
    let (stream, caller) = match tls::accept(stream, config).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%from, %error, "control connection turned away");
            return;
        }
    };
    let service = MembershipServer::new(Answering { members, caller, from });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(%from, %error, "control connection ended");
    }
}

/// One caller's connection.
#[derive(Debug)]
struct Answering {
    members: Members,
    /// The key TLS proved.
    caller: Fingerprint,
    from: SocketAddr,
}

#[tonic::async_trait]
impl Membership for Answering {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let caller = self.caller.to_string();
        if request.node_id != caller {
            let message = format!("the caller holds key {caller}, not the one it names");
            return Err(Status::invalid_argument(message));
        }
        let link = self.members.join(self.peer(&request)?);
        let (status, reason) = match link {
            Some(LinkState::Connected) => (LinkStatus::Connected, String::new()),
            Some(LinkState::Connecting { last: None }) | None => (LinkStatus::Connecting, String::new()),
            Some(LinkState::Connecting { last: Some(error) } | LinkState::Failed(error)) => {
                (LinkStatus::Failed, error.to_string())
            }
        };
        Ok(Response::new(JoinReply {
            protocol_version: PROTOCOL_VERSION,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.members.introduction().identity.fingerprint().to_string(),
            status: status.into(),
            reason,
        }))
    }
}

impl Answering {
    fn peer(&self, request: &JoinRequest) -> Result<Peer, Status> {
        let mut addresses = Vec::new();
        for text in &request.addresses {
            let mut address: SocketAddr = text
                .parse()
                .map_err(|_| Status::invalid_argument(format!("addresses must be ip:port, got '{text}'")))?;
            if address.ip().is_unspecified() {
                // It listens everywhere, so also where this call comes from.
                address.set_ip(self.from.ip());
            }
            addresses.push(address);
        }
        Ok(Peer {
            id: self.caller,
            role: Role::Node,
            cluster: None,
            protocol_version: request.protocol_version,
            software_version: request.software_version.clone(),
            hostname: self.from.ip().to_string(),
            addresses,
        })
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
