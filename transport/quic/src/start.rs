//! The start of a transport, and its thread: a runtime that answers callers until it is closed.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mlxcel_cluster_config::tls::DataPlane;
use mlxcel_transport::{Address, Domain};
use quinn::{Endpoint, TokioRuntime};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::books::{Books, GOODBYE};
use crate::listen::{Listening, listen};
use crate::shared::Shared;
use crate::tuning::{Tuned, tuned};
use crate::{QuicConfig, QuicError, greet};

/// A transport that works.
pub(crate) struct Started {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) thread: JoinHandle<()>,
}

/// Listens and starts the thread.
pub(crate) fn start(domain: &Arc<Domain>, config: &QuicConfig) -> Result<Started, QuicError> {
    let Listening { socket, addresses } =
        listen(config.bind, config.port).map_err(|(address, cause)| QuicError::Listen { address, cause })?;
    let system = |what| move |cause| QuicError::System { what, cause };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(system("a runtime"))?;
    let plane = DataPlane::new(&config.identity, &config.trust, ALPN);
    let Tuned { endpoint, client, server } = tuned(&plane, config.silence_limit);
    let endpoint = {
        let _runtime = runtime.enter();
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new(endpoint, Some(server), socket, runtime).map_err(system("a socket"))?
    };
    let books = Books::new(domain, config.silence_limit);
    let shared = Arc::new(Shared::new(books, endpoint, client, runtime.handle().clone()));
    let thread = std::thread::Builder::new().name("quic".into());
    let thread = {
        let shared = Arc::clone(&shared);
        thread.spawn(move || run(&runtime, &shared)).map_err(system("a thread"))?
    };
    Ok(Started { shared, addresses, thread })
}

fn run(runtime: &Runtime, shared: &Arc<Shared>) {
    runtime.block_on(async {
        tokio::select! {
            () = receive(shared) => {}
            () = shared.closing.notified() => {}
        }
        let peers: Vec<_> = shared.books().peers.keys().copied().collect();
        for peer in peers {
            shared.books().part_from(peer);
        }
        shared.endpoint.close(GOODBYE, b"");
        // Good-byes are sent by tasks of the runtime.
        let _ = timeout(PARTING, shared.endpoint.wait_idle()).await;
    });
}

/// Answers whoever calls.
async fn receive(shared: &Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        shared.runtime.spawn(greet::answer(Arc::clone(shared), incoming));
    }
}

/// Names this protocol in TLS handshakes.
pub(crate) const ALPN: &[u8] = b"mlxcel-quic/1";
/// How long the good-byes may take.
const PARTING: Duration = Duration::from_millis(50);
