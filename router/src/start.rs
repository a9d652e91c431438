//! Starts a router from its options.
//!
//! Wires the parts together; what each does is its own business. `running` ends what is started here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use mlxcel_cluster_config::Identity;
use mlxcel_cluster_config::discovery::{Announcement, Discovery, Role, hostname};
use mlxcel_protocol::PROTOCOL_VERSION;
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::api::answer::unix_seconds;
use crate::api::{self, App};
use crate::core::queue;
use crate::metrics::Metrics;
use crate::nodes::link::Introduction;
use crate::nodes::members::Members;
use crate::nodes::roster::Roster;
use crate::nodes::{control, dial};
use crate::options::{RouterOptions, StartError, check};
use crate::relay::{Prefills, Relay};
use crate::running::RunningRouter;

/// Starts routers.
#[derive(Debug, Clone, Copy)]
pub struct Router;

impl Router {
    /// Starts a router: when this returns, it listens. Call inside a tokio runtime.
    ///
    /// # Errors
    /// One line naming what is wrong and, where known, its mend.
    pub async fn start(options: RouterOptions) -> Result<RunningRouter, StartError> {
        check(&options)?;
        let identity = Identity::load_or_create(&options.state_dir.join("cluster"))?;
        let cluster = identity.fingerprint();
        tracing::info!(%cluster, name = %options.name, "cluster key");
        let (http, local_addr) = listen(options.listen, "the HTTP API").await?;
        let (control, control_addr) = listen(options.control_listen, "the control port").await?;
        let metrics = Metrics::new().map_err(|e| StartError::Metrics(e.to_string()))?;

        let stop_nodes = CancellationToken::new();
        let introduction = Introduction {
            identity: identity.clone(),
            name: options.name.clone(),
            token: options.token.clone(),
        };
        let roster = Roster::new(queue::Limits {
            requests: options.queue,
            of_model: options.queue_per_model,
            bytes: QUEUE_BYTES,
        });
        roster.set_layout(options.layout.clone());
        let members = Members::new(introduction, roster.clone(), stop_nodes.clone());
        members.spawn(roster.clone().watch_silence());
        members.spawn(control::serve(members.clone(), control));
        members.spawn(keep_up(metrics.clone()));
        for address in &options.join {
            members.spawn(dial::keep_dialling(members.clone(), address.clone()));
        }
        let announcement = announcement(&identity, control_addr);
        let discovery = options.mdns.then(|| discover(announcement, &members)).flatten();

        let stopping = CancellationToken::new();
        let relay = Relay {
            roster,
            metrics,
            stopping: stopping.clone(),
            patience: options.patience,
            prefills: Prefills::default(),
        };
        let app = app(&options, cluster.to_string(), relay, members.clone());
        let draining = CancellationToken::new();
        let http = tokio::spawn(serve_http(http, app, draining.clone()));
        tracing::info!(%local_addr, %control_addr, "router listens");
        Ok(RunningRouter {
            local_addr,
            control_addr,
            draining,
            stopping,
            members,
            discovery,
            http,
            stop_nodes,
        })
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let cannot = |cause| StartError::listen(address, purpose, cause);
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    Ok((listener, bound))
}

fn announcement(identity: &Identity, control: SocketAddr) -> Announcement {
    let everywhere = |ip: &IpAddr| !ip.is_unspecified();
    Announcement {
        id: identity.fingerprint(),
        role: Role::Router,
        cluster: Some(identity.fingerprint()),
        protocol_version: PROTOCOL_VERSION,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: hostname(),
        port: control.port(),
        addresses: Some(control.ip()).filter(everywhere).into_iter().collect(),
    }
}

/// Without multicast the router still serves nodes given by address or asking to be joined.
fn discover(announcement: Announcement, members: &Members) -> Option<Discovery> {
    match Discovery::start(announcement) {
        Ok(discovery) => {
            members.spawn(members.clone().listen(discovery.events()));
            Some(discovery)
        }
        Err(error) => {
            tracing::error!("{error}");
            None
        }
    }
}

fn app(options: &RouterOptions, cluster: String, relay: Relay, members: Members) -> App {
    let started_at = unix_seconds();
    App {
        relay,
        members,
        // Routers of one cluster differ by process, runs of one router by time.
        id_stem: format!("{:x}{started_at:x}", std::process::id()).into(),
        cluster: cluster.into(),
        api_keys: options.api_keys.iter().map(|key| Arc::from(key.as_str())).collect(),
        started_at,
        ids: Arc::default(),
    }
}

async fn serve_http(listener: TcpListener, app: App, draining: CancellationToken) {
    let listener = listener.tap_io(|stream| {
        // A token must not wait for the acknowledgement of the last one.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let served =
        axum::serve(listener, api::routes(app)).with_graceful_shutdown(draining.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn keep_up(metrics: Metrics) {
    let mut tick = interval(METRICS_UPKEEP);
    loop {
        tick.tick().await;
        metrics.upkeep();
    }
}

/// Bytes of requests that wait.
const QUEUE_BYTES: usize = 256 << 20;
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
