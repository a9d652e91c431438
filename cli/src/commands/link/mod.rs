//! `mlxcel link`: which ways there are between two hosts, which one would be taken and why, and how fast each is.
//!
//! The two meet on a control connection, prove to each other that they hold the same token, tell what they offer,
//! and then go every way that both have, in turn. Decides nothing: `mlxcel_transport::selection` does.

mod measure;
mod report;
mod talk;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mlxcel_cluster_config::address::{local_interfaces, reachable_at};
use mlxcel_cluster_config::paths::{node_dir, state_dir};
use mlxcel_cluster_config::tls::{self, Expect};
use mlxcel_cluster_config::{Fingerprint, Identity};
use mlxcel_node::data_plane::DataPlane;
use mlxcel_transport::selection::{Offer, Policy, choose};
use mlxcel_transport::{Access, Kind, Memory, PeerId, PeerState, Tag, TransportExt};
use tokio::net::{TcpListener, TcpStream, lookup_host};

use crate::args::LinkArgs;
use crate::sys::Shutdown;
use measure::{LARGE_BYTES, TAG, measure};
use report::Report;
use talk::{Request, Talk};

pub(crate) async fn run(args: LinkArgs) -> Result<()> {
    let state = args.state_dir.clone().map_or_else(state_dir, Ok)?;
    let identity = Identity::load_or_create(&node_dir(&state))?;
    let ways = DataPlane::start(&identity).map_err(anyhow::Error::from_boxed)?;
    match &args.peer {
        Some(peer) => {
            let report = call(peer, &identity, &ways, &args).await?;
            if args.json { report.print_json() } else { report.print() }
        }
        None => wait(&identity, &ways, &args).await,
    }
}

/// Goes every way to `peer`.
async fn call(peer: &str, identity: &Identity, ways: &DataPlane, args: &LinkArgs) -> Result<Report> {
    let found = lookup_host(peer).await;
    let addresses: Vec<SocketAddr> =
        found.with_context(|| format!("{peer} is no HOST:PORT that can be found"))?.collect();
    let (stream, key) = tls::connect_any(&addresses, identity, Expect::Any).await?;
    let mut talk = Talk::new(stream);
    let own = identity.fingerprint();
    talk.introduce(&args.token, own, key, &ways.offer()).await?;
    let theirs = talk.meet(&args.token, key, own).await?;
    ways.trust().add(key);
    let mut report = Report::default();
    loop {
        let failed = |kind| report.failure(kind);
        let choice = choose(&ways.offer(), &theirs, Policy::default(), failed);
        let untried = choice.order.iter().find(|(kind, _)| !report.has(*kind));
        let Some((kind, addresses)) = untried.cloned() else {
            if !report.has_measured() {
                bail!("no way to {peer} works: {choice}");
            }
            talk.send(&Request::Done).await?;
            report.choice = Some(choice);
            return Ok(report);
        };
        let deadline = Instant::now() + PATIENCE;
        match ways.of(kind).connect(theirs.peer, &addresses, deadline).await {
            Err(error) => report.failed(kind, error.to_string()),
            Ok(()) => {
                let measured = go(kind, &theirs, ways, &mut talk, args.seconds).await;
                report.add(kind, measured.map_err(|error| format!("{error:#}")));
            }
        }
    }
}

/// Measures one way, which is connected.
async fn go(
    kind: Kind,
    theirs: &Offer,
    ways: &DataPlane,
    talk: &mut Talk<tls::ClientStream>,
    seconds: u16,
) -> Result<measure::Measured> {
    talk.send(&Request::Measure).await?;
    let key = talk.key().await?;
    let transport = ways.of(kind);
    let measured = {
        let transport = std::sync::Arc::clone(transport);
        let seconds = Duration::from_secs(seconds.into());
        tokio::task::spawn_blocking(move || measure(&*transport, &key, seconds))
            .await
            .context("measuring broke off")?
    };
    transport.disconnect(theirs.peer);
    talk.send(&Request::Left).await?;
    talk.acknowledged().await?;
    measured
}

/// Lets other hosts measure, until this one is told to stop.
async fn wait(identity: &Identity, ways: &DataPlane, args: &LinkArgs) -> Result<()> {
    let mut shutdown = Shutdown::watch()?;
    let listening = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], args.port))).await;
    let listener =
        listening.with_context(|| format!("cannot listen on port {}; choose another", args.port))?;
    let port = listener.local_addr()?.port();
    println!("waiting for other hosts; on one of them, with the same token:");
    for address in reachable_at(port, &local_interfaces()?) {
        println!("    mlxcel link {address}");
    }
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = shutdown.requested() => return Ok(()),
        };
        let served = tokio::select! {
            served = answer(stream, identity, ways, &args.token) => served,
            () = shutdown.requested() => return Ok(()),
        };
        match served {
            Ok(peer) => println!("measured with {}", peer.short()),
            Err(error) => eprintln!("error: {error:#}"),
        }
    }
}

/// Answers one host to its end.
async fn answer(
    stream: TcpStream,
    identity: &Identity,
    ways: &DataPlane,
    token: &str,
) -> Result<Fingerprint> {
    let (stream, key) = tls::accept(stream, tls::server_config(identity)).await?;
    let mut talk = Talk::new(stream);
    let own = identity.fingerprint();
    let theirs = talk.meet(token, key, own).await?;
    ways.trust().add(key);
    let done = serve(&mut talk, token, (own, key), &theirs, ways).await;
    ways.trust().remove(key);
    done.map(|()| key)
}

async fn serve(
    talk: &mut Talk<tls::ServerStream>,
    token: &str,
    (own, key): (Fingerprint, Fingerprint),
    theirs: &Offer,
    ways: &DataPlane,
) -> Result<()> {
    talk.introduce(token, own, key, &ways.offer()).await?;
    let domain = ways.domain();
    while let Request::Measure = talk.request().await? {
        let deadline = Instant::now() + PATIENCE;
        domain.connected(theirs.peer, deadline).await.context("the other host did not connect")?;
        let region = ways.any().register(Memory::zeroed(LARGE_BYTES)?, Access::WRITE)?;
        let counter = domain.expect(Tag::new(TAG), &[theirs.peer])?;
        talk.send(&region.key().to_bytes()).await?;
        let Request::Left = talk.request().await? else {
            bail!("the other host did not leave the way it took")
        };
        gone(ways, theirs.peer).await?;
        drop((counter, region));
        talk.acknowledge().await?;
    }
    Ok(())
}

/// Waits until a peer that leaves is known to have left: it comes back another way.
async fn gone(ways: &DataPlane, peer: PeerId) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while matches!(ways.domain().peer_state(peer), PeerState::Connected(_)) {
        if Instant::now() > deadline {
            bail!("the other host said that it left, and is still connected");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// For anything that should take no time.
const PATIENCE: Duration = Duration::from_secs(10);
