//! Which driver a transport gets, and its start.

use std::env;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use mlxcel_cluster_config::tls::DataPlane;

use super::config::MAX_RAILS;
use super::endpoint::Endpoint;
use super::links::{Command, Links, Settings};
use super::listen::{Listening, listen};
use super::reception::Reception;
use super::{Driver, Security, TcpConfig, TcpError, poll};
use crate::{Address, Domain, PeerId};

/// A transport that works.
pub(super) struct Started {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) addresses: Vec<Address>,
    pub(super) driver: Driver,
    pub(super) thread: JoinHandle<()>,
}

/// Listens and starts the thread.
pub(super) fn start(domain: &Arc<Domain>, config: &TcpConfig) -> Result<Started, TcpError> {
    if !(1..=MAX_RAILS).contains(&config.rails) {
        return Err(TcpError::Rails(config.rails));
    }
    let chosen = choose(config.driver)?;
    let Listening { socket, addresses } =
        listen(config.bind, config.port).map_err(|(address, cause)| TcpError::Listen { address, cause })?;
    let plane = match &config.security {
        Security::Tls { identity, trust } => Some(DataPlane::new(identity, trust, ALPN)),
        Security::Plain => None,
    };
    let system = |what| move |cause| TcpError::System { what, cause };
    let (reception, waker) = Reception::new(socket, plane).map_err(system("a queue of sockets"))?;
    let myself: Arc<OnceLock<Weak<Endpoint>>> = Arc::default();
    let known = Arc::clone(&myself);
    let kick = move |peer: PeerId| {
        if let Some(endpoint) = known.get().and_then(Weak::upgrade) {
            endpoint.submit(Command::Credit(peer));
        }
    };
    let mut links = Links::new(domain, Settings::of(config), Arc::new(kick));
    links.blocked_want_thread = chosen.driver() == Driver::IoUring;
    let endpoint = Arc::new(Endpoint::new(Arc::clone(domain), links, waker));
    myself.set(Arc::downgrade(&endpoint)).expect("set once");
    let driver = chosen.driver();
    let thread = std::thread::Builder::new().name("tcp".into());
    let thread = {
        let endpoint = Arc::clone(&endpoint);
        thread.spawn(move || chosen.run(endpoint, reception)).map_err(system("a thread"))?
    };
    Ok(Started { endpoint, addresses, driver, thread })
}

/// What a driver needs that may not be had.
enum Chosen {
    Poll,
    #[cfg(target_os = "linux")]
    IoUring(Box<super::uring::Ring>),
}

impl Chosen {
    const fn driver(&self) -> Driver {
        match self {
            Self::Poll => Driver::Poll,
            #[cfg(target_os = "linux")]
            Self::IoUring(_) => Driver::IoUring,
        }
    }

    fn run(self, endpoint: Arc<Endpoint>, reception: Reception) {
        match self {
            Self::Poll => poll::Driver::new(endpoint, reception).run(),
            #[cfg(target_os = "linux")]
            Self::IoUring(ring) => super::uring::Driver::new(endpoint, reception, *ring).run(),
        }
    }
}

fn choose(wanted: Driver) -> Result<Chosen, TcpError> {
    let wanted = match (wanted, env::var(VARIABLE)) {
        (Driver::Auto, Ok(named)) => named_driver(&named)?,
        (wanted, _) => wanted,
    };
    match wanted {
        Driver::Poll => Ok(Chosen::Poll),
        Driver::IoUring => io_uring().map_err(TcpError::NoIoUring),
        Driver::Auto => Ok(io_uring().unwrap_or_else(|error| {
            tracing::debug!(target: "mlxcel::transport::tcp", %error, "no io_uring");
            Chosen::Poll
        })),
    }
}

fn named_driver(name: &str) -> Result<Driver, TcpError> {
    match name {
        "io-uring" => Ok(Driver::IoUring),
        "poll" => Ok(Driver::Poll),
        other => Err(TcpError::UnknownDriver(other.to_owned())),
    }
}

#[cfg(target_os = "linux")]
fn io_uring() -> std::io::Result<Chosen> {
    super::uring::Ring::new().map(|ring| Chosen::IoUring(Box::new(ring)))
}

#[cfg(not(target_os = "linux"))]
fn io_uring() -> std::io::Result<Chosen> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Names this protocol in TLS handshakes.
const ALPN: &[u8] = b"mlxcel-tcp/1";
const VARIABLE: &str = "MLXCEL_TCP_DRIVER";
