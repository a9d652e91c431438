//! Accepting connections: TCP, then TLS, then one session each.
//!
//! Turns away who cannot prove a key, in any number, without slowing those who can. Whether a key
//! may do anything is the session's business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use mlxcel_cluster_config::{Identity, tls};
use mlxcel_protocol::v1::node_server::NodeServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Session;
use crate::host::{CallerId, Host};
use crate::trust::Trust;

/// What every connection shares.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) host: Arc<Host>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) connections: TaskTracker,
    /// Ends accepting, and every connection once its requests have ended.
    pub(crate) stopping: CancellationToken,
}

impl Server {
    pub(crate) fn new(host: Arc<Host>, trust: Arc<Trust>, identity: &Identity) -> Self {
        Self {
            host,
            trust,
            tls: tls::server_config(identity),
            connections: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Serves until `stopping`.
    pub(crate) async fn run(self, listener: TcpListener) {
        let mut next_id: CallerId = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, from)) => {
                    self.connections.spawn(self.clone().connection(stream, from, next_id));
                    next_id += 1;
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    // Out of descriptors, most likely; accepting again at once would spin.
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, from: SocketAddr, id: CallerId) {
        let (stream, caller) = match tls::accept(stream, Arc::clone(&self.tls)).await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%from, %error, "connection turned away");
                return;
            }
        };
        let session = Session {
            host: self.host,
            trust: self.trust,
            caller,
            id,
            introduced: AtomicBool::new(false),
            stopping: self.stopping.clone(),
        };
        let service = NodeServer::new(session).max_decoding_message_size(LONGEST_REQUEST_BYTES);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
        builder.max_concurrent_streams(MAX_STREAMS);
        let service = TowerToHyperService::new(service);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%from, %error, "connection ended");
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A router that stays silent this long, twice, is gone; its requests are cancelled.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Prompts of a million tokens fit; a frame to a worker holds more.
const LONGEST_REQUEST_BYTES: usize = 32 << 20;
/// Requests of one router at a time; beyond the default of 200 they would wait without a word.
const MAX_STREAMS: u32 = 4096;
