//! A router that serves, and its end in good order.
//!
//! Handles no signals: whoever runs the process decides when to drain.

use std::net::SocketAddr;
use std::time::Duration;

use mlxcel_cluster_config::discovery::Discovery;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::nodes::members::Members;

/// A router that serves until it is drained. Dropping it stops it at once.
#[derive(Debug)]
pub struct RunningRouter {
    pub(crate) local_addr: SocketAddr,
    pub(crate) control_addr: SocketAddr,
    /// Take no new connections; end when the running requests have.
    pub(crate) draining: CancellationToken,
    /// End the running requests.
    pub(crate) stopping: CancellationToken,
    pub(crate) members: Members,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) http: JoinHandle<()>,
    pub(crate) stop_nodes: CancellationToken,
}

impl RunningRouter {
    /// Where the HTTP API listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where nodes call.
    #[must_use]
    pub const fn control_addr(&self) -> SocketAddr {
        self.control_addr
    }

    /// Takes no new requests, lets the running ones finish for as long as `patience`, ends what is
    /// left with an error of its own, and returns when everything has ended.
    pub async fn drain(mut self, patience: Duration) {
        tracing::info!("draining");
        self.draining.cancel();
        if let Some(discovery) = self.discovery.take() {
            discovery.shutdown().await;
        }
        if timeout(patience, &mut self.http).await.is_err() {
            tracing::warn!("requests still run; ending them");
            self.stopping.cancel();
            // What is left now are clients that do not read; nothing is owed to them.
            let _ = timeout(LAST_WORDS, &mut self.http).await;
        }
        // Gives the cancellations of what was just dropped their time on the wire.
        tokio::time::sleep(FAREWELL).await;
        self.stop_nodes.cancel();
        self.members.stopped().await;
        tracing::info!("router ended");
    }

    /// Returns when the HTTP server has ended, which it does not do on its own.
    pub async fn wait(&mut self) {
        // An abort or a panic ends it as well.
        let _ = (&mut self.http).await;
    }
}

impl Drop for RunningRouter {
    fn drop(&mut self) {
        self.draining.cancel();
        self.stopping.cancel();
        self.stop_nodes.cancel();
    }
}

const LAST_WORDS: Duration = Duration::from_secs(2);
const FAREWELL: Duration = Duration::from_millis(50);
