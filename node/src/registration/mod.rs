//! How routers find this node: announced by multicast DNS, or by asking to be joined.
//!
//! Carries out what `cluster_config::watch` decides and logs one line for each cause of silence.
//! Knows nothing of requests or models.

mod join;

use std::sync::Arc;
use std::time::Instant;

use mlxcel_cluster_config::Report;
use mlxcel_cluster_config::discovery::{Announcement, Discovery, DiscoveryEvent};
use mlxcel_cluster_config::link::ReportKind;
use mlxcel_cluster_config::tls::Expect;
use mlxcel_cluster_config::watch::{VisibilityWatch, WatchAction, WatchConfig, WatchEvent};
use mlxcel_protocol::PROTOCOL_VERSION;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use join::JoinAddressError;
pub(crate) use join::{JoinAddress, Joiner};

/// The node's place among the hosts around it.
pub(crate) struct Registration {
    pub(crate) announcement: Announcement,
    /// Absent where multicast DNS is off or cannot be used.
    pub(crate) discovery: Option<Discovery>,
    pub(crate) joiner: Arc<Joiner>,
    /// What `trust` and the sessions tell.
    pub(crate) events: mpsc::UnboundedReceiver<WatchEvent>,
    pub(crate) stopping: CancellationToken,
}

impl Registration {
    /// Keeps the node findable until `stopping`, then says goodbye.
    pub(crate) async fn run(mut self) {
        let config = WatchConfig { cluster: self.announcement.cluster, protocol_version: PROTOCOL_VERSION };
        let mut watch = VisibilityWatch::new(config);
        let (probed, mut probes) = mpsc::unbounded_channel();
        let mut heard = self.discovery.as_ref().map(Discovery::events);
        loop {
            let due = watch.next_deadline();
            let actions = tokio::select! {
                () = self.stopping.cancelled() => break,
                Some(event) = next(&mut heard) => {
                    let event = match event {
                        DiscoveryEvent::Found(peer) | DiscoveryEvent::Updated(peer) => {
                            WatchEvent::PeerFound(peer)
                        }
                        DiscoveryEvent::Lost(id) => WatchEvent::PeerLost(id),
                    };
                    watch.handle(event, Instant::now())
                }
                Some(event) = self.events.recv() => {
                    if let WatchEvent::ClaimChanged(cluster) = event {
                        self.announcement.cluster = cluster;
                        self.announce();
                    }
                    watch.handle(event, Instant::now())
                }
                Some(event) = probes.recv() => watch.handle(event, Instant::now()),
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    watch.tick(Instant::now())
                }
            };
            for action in actions {
                self.act(action, &probed);
            }
        }
        if let Some(discovery) = self.discovery.take() {
            discovery.shutdown().await;
        }
    }

    fn announce(&self) {
        if let Some(discovery) = &self.discovery
            && let Err(error) = discovery.update(&self.announcement)
        {
            warn!("{error}");
        }
    }

    fn act(&self, action: WatchAction, probed: &mpsc::UnboundedSender<WatchEvent>) {
        match action {
            WatchAction::Report(report) => log(&report),
            WatchAction::ProbeRouter { id, hostname: _, addresses } => {
                let (joiner, probed) = (Arc::clone(&self.joiner), probed.clone());
                tokio::spawn(async move {
                    let outcome = joiner.probe(&addresses, Expect::Exactly(id)).await;
                    // Nobody listens once the node is ending.
                    let _ = probed.send(WatchEvent::ProbeFinished { id, outcome });
                });
            }
        }
    }
}

fn log(report: &Report) {
    match report.kind {
        ReportKind::Failed(_) => warn!("{report}"),
        ReportKind::Recovered => info!("{report}"),
    }
}

async fn next(events: &mut Option<mpsc::UnboundedReceiver<DiscoveryEvent>>) -> Option<DiscoveryEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
