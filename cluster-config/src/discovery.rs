//! Hosts that announce themselves by multicast DNS.
//!
//! Announces this host as an instance of `_mlxcel._udp.local.` on every interface, loopback
//! included, and tells what others announce. Nothing heard is trusted: a peer is who it says
//! only once TLS has proved it. Knows nothing of connections; `membership` and `watch` decide.

mod record;
mod table;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mdns_sd::{Receiver, ServiceDaemon, ServiceEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::Fingerprint;
use crate::address::local_interfaces;
use table::Table;

/// What a host is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It runs models.
    Node,
    /// It takes requests and connects to nodes.
    Router,
}

/// What this host says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Its key: the node's, or the router's cluster key.
    pub id: Fingerprint,
    /// What it is.
    pub role: Role,
    /// The cluster it belongs to; `None` for an unclaimed node.
    pub cluster: Option<Fingerprint>,
    /// The protocol it speaks.
    pub protocol_version: u32,
    /// Its release, for people.
    pub software_version: String,
    /// Its name, for people; need not be unique.
    pub hostname: String,
    /// TCP port of its gRPC service.
    pub port: u16,
    /// The addresses it listens on; empty for every address of every interface.
    pub addresses: Vec<IpAddr>,
}

/// What another host says about itself. Unproven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The key it says it holds.
    pub id: Fingerprint,
    /// What it is.
    pub role: Role,
    /// The cluster it says it belongs to; `None` for an unclaimed node.
    pub cluster: Option<Fingerprint>,
    /// The protocol it speaks.
    pub protocol_version: u32,
    /// Its release, for people.
    pub software_version: String,
    /// Its name, for people.
    pub hostname: String,
    /// Where its gRPC service listens, most useful first (see [`crate::address::order`]).
    pub addresses: Vec<SocketAddr>,
}

/// A change in what is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// A host appeared.
    Found(Peer),
    /// A known host says something else than before.
    Updated(Peer),
    /// A host said goodbye, or was silent until its records ran out (two minutes).
    Lost(Fingerprint),
}

/// Why this host cannot announce itself or listen.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The multicast socket could not be opened.
    #[error("cannot start multicast DNS: {0}; check UDP port 5353, or use --join host:port instead")]
    Start(String),
    /// The announcement is not valid as DNS records.
    #[error("cannot announce this host by multicast DNS: {0}")]
    Announce(String),
}

/// Announces this host and listens to others until dropped.
pub struct Discovery {
    daemon: ServiceDaemon,
    shared: Arc<Mutex<Shared>>,
    _listener: JoinSet<()>,
}

/// What the listening task and the owner share.
struct Shared {
    table: Table,
    instance: String,
    subscribers: Vec<mpsc::UnboundedSender<DiscoveryEvent>>,
}

impl Discovery {
    /// Announces this host and starts to listen. Call inside a tokio runtime.
    ///
    /// # Errors
    /// Multicast DNS cannot be used here.
    pub fn start(announcement: Announcement) -> Result<Self, DiscoveryError> {
        let start_error = |e: mdns_sd::Error| DiscoveryError::Start(e.to_string());
        let record = record::to_service(&announcement)?;
        let instance = record.get_fullname().to_owned();
        let daemon = ServiceDaemon::new().map_err(start_error)?;
        daemon.set_ip_check_interval(INTERFACE_CHECK_SECS).map_err(start_error)?;
        daemon.register(record).map_err(start_error)?;
        let events = daemon.browse(record::SERVICE_TYPE).map_err(start_error)?;
        let shared = Arc::new(Mutex::new(Shared {
            table: Table::new(announcement.id),
            instance,
            subscribers: Vec::new(),
        }));
        let mut listener = JoinSet::new();
        listener.spawn(listen(daemon.clone(), events, Arc::clone(&shared)));
        Ok(Self { daemon, shared, _listener: listener })
    }

    /// Every change from now on, after one [`DiscoveryEvent::Found`] for each host known now.
    #[must_use]
    pub fn events(&self) -> mpsc::UnboundedReceiver<DiscoveryEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut shared = lock(&self.shared);
        for peer in shared.table.peers() {
            // Cannot fail: the receiver is in scope.
            let _ = sender.send(DiscoveryEvent::Found(peer.clone()));
        }
        shared.subscribers.push(sender);
        receiver
    }

    /// Says something else from now on, as after a claim. The key and port must stay the same.
    ///
    /// # Errors
    /// The announcement is not valid, or multicast DNS has ended.
    pub fn update(&self, announcement: &Announcement) -> Result<(), DiscoveryError> {
        let record = record::to_service(announcement)?;
        let known = lock(&self.shared).instance.clone();
        if record.get_fullname() != known {
            return Err(DiscoveryError::Announce(format!(
                "an update must keep key, host name and port, got {} for {known}",
                record.get_fullname()
            )));
        }
        self.daemon.register(record).map_err(|e| DiscoveryError::Announce(e.to_string()))
    }

    /// Says goodbye, so that others drop this host at once, and stops.
    pub async fn shutdown(self) {
        let instance = lock(&self.shared).instance.clone();
        if let Ok(done) = self.daemon.unregister(&instance) {
            // Late or lost goodbyes are covered by the records' lifetime.
            let _ = timeout(GOODBYE_TIMEOUT, done.recv_async()).await;
            sleep(GOODBYE_REPEAT).await;
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        let instance = lock(&self.shared).instance.clone();
        // The daemon's thread works these off on its own; where it has ended already there is
        // nothing to do.
        let _ = self.daemon.unregister(&instance);
        let _ = self.daemon.shutdown();
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = lock(&self.shared).instance.clone();
        f.debug_struct("Discovery").field("instance", &instance).finish_non_exhaustive()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Router => "router",
        })
    }
}

/// This host's name for people, `unnamed` where the system has none.
#[must_use]
pub fn hostname() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    let name = name.trim_end_matches(".local").trim();
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}

/// Feeds the table until the daemon ends. Asks anew now and then: the daemon's own questions
/// become rare (up to an hour apart), and a host that was cut off elsewhere in the network does
/// not know that it should announce itself again.
async fn listen(daemon: ServiceDaemon, mut events: Receiver<ServiceEvent>, shared: Arc<Mutex<Shared>>) {
    let mut ask = interval(ASK_AGAIN);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ask.tick().await;
    loop {
        let reopen = tokio::select! {
            event = events.recv_async() => match event {
                Ok(event) => {
                    take(event, &shared);
                    false
                }
                // The daemon drops a listener that falls behind.
                Err(_) => true,
            },
            _ = ask.tick() => true,
        };
        if reopen {
            match daemon.browse(record::SERVICE_TYPE) {
                Ok(fresh) => events = fresh,
                Err(mdns_sd::Error::Again) => ask.reset_after(ASK_RETRY),
                Err(ended) => {
                    tracing::debug!(%ended, "multicast DNS has ended");
                    return;
                }
            }
        }
    }
}

fn take(event: ServiceEvent, shared: &Mutex<Shared>) {
    match event {
        ServiceEvent::ServiceResolved(service) => match record::from_service(&service) {
            Ok(peer) => {
                let local = local_interfaces().unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot list network interfaces");
                    Vec::new()
                });
                lock(shared).tell(|table| table.heard(service.get_fullname(), peer, &local));
            }
            Err(reason) => {
                tracing::debug!(instance = service.get_fullname(), reason, "announcement ignored");
            }
        },
        ServiceEvent::ServiceRemoved(_, instance) => {
            lock(shared).tell(|table| table.gone(&instance));
        }
        _ => {}
    }
}

impl Shared {
    /// Changes the table and tells the subscribers, in one step: one who subscribes meanwhile
    /// hears of it once.
    fn tell(&mut self, change: impl FnOnce(&mut Table) -> Option<DiscoveryEvent>) {
        let Some(change) = change(&mut self.table) else {
            return;
        };
        tracing::debug!(?change, "discovery");
        self.subscribers.retain(|subscriber| subscriber.send(change.clone()).is_ok());
    }
}

/// The shared state stays whole even if a holder panicked: every change to it is one call.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

const INTERFACE_CHECK_SECS: u32 = 2;
const ASK_AGAIN: Duration = Duration::from_secs(30);
const ASK_RETRY: Duration = Duration::from_secs(1);
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// The daemon says goodbye a second time after 120 ms, in case a peer missed the first.
const GOODBYE_REPEAT: Duration = Duration::from_millis(150);
