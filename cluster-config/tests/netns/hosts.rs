//! A router and a node reduced to their links, each on a thread inside a namespace.
//!
//! The thin shells that `router` and `node` have as well: they own sockets and clock, feed the
//! state machines and carry out their actions.

mod node;
mod router;

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlxcel_cluster_config::discovery::{Announcement, Role};
use mlxcel_cluster_config::{Fingerprint, Identity};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::lab::Place;

pub(crate) const ROUTER_PORT: u16 = 7410;
pub(crate) const NODE_PORT: u16 = 7411;

/// What a host noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Connected(Fingerprint),
    Disconnected(Fingerprint),
    Lost(Fingerprint),
    Report(String),
}

pub(crate) struct Router(Settings);
pub(crate) struct Node(Settings);

struct Settings {
    identity: Identity,
    name: &'static str,
    port: u16,
    version: u32,
    token: Option<&'static str>,
}

impl Router {
    pub(crate) fn new(name: &'static str) -> Self {
        Self(Settings::new(name, ROUTER_PORT))
    }

    pub(crate) fn token(mut self, token: &'static str) -> Self {
        self.0.token = Some(token);
        self
    }

    pub(crate) fn start(self, place: &Place) -> Host {
        Host::start(self.0, place, router::run)
    }
}

impl Node {
    pub(crate) fn new(name: &'static str) -> Self {
        Self(Settings::new(name, NODE_PORT))
    }

    pub(crate) fn port(mut self, port: u16) -> Self {
        self.0.port = port;
        self
    }

    pub(crate) fn version(mut self, version: u32) -> Self {
        self.0.version = version;
        self
    }

    pub(crate) fn token(mut self, token: &'static str) -> Self {
        self.0.token = Some(token);
        self
    }

    pub(crate) fn start(self, place: &Place) -> Host {
        Host::start(self.0, place, node::run)
    }
}

impl Settings {
    fn new(name: &'static str, port: u16) -> Self {
        Self { identity: Identity::generate().expect("identity"), name, port, version: 1, token: None }
    }

    fn announcement(&self, role: Role, cluster: Option<Fingerprint>) -> Announcement {
        Announcement {
            id: self.identity.fingerprint(),
            role,
            cluster,
            protocol_version: self.version,
            software_version: "test".into(),
            hostname: self.name.into(),
            port: self.port,
            addresses: Vec::new(),
        }
    }
}

/// A running host; stops, with a goodbye, when dropped.
pub(crate) struct Host {
    id: Fingerprint,
    name: &'static str,
    news: Receiver<Seen>,
    history: RefCell<Vec<Seen>>,
    stop: RefCell<Option<oneshot::Sender<()>>>,
    thread: RefCell<Option<JoinHandle<()>>>,
}

impl Host {
    fn start<F: Future<Output = ()>>(
        settings: Settings,
        place: &Place,
        run: impl FnOnce(Settings, Sender<Seen>, oneshot::Receiver<()>) -> F + Send + 'static,
    ) -> Self {
        let (id, name) = (settings.identity.fingerprint(), settings.name);
        let (tell, news) = channel();
        let (stop, stopped) = oneshot::channel();
        let namespace = format!("/var/run/netns/{}", place.0);
        let thread = std::thread::spawn(move || {
            // A namespace belongs to a thread, and threads started from it inherit it: the
            // runtime must stay on this one, and multicast DNS starts its own from here.
            let namespace = File::open(namespace).expect("namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("entered the namespace");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime")
                .block_on(run(settings, tell, stopped));
        });
        Self {
            id,
            name,
            news,
            history: RefCell::default(),
            stop: RefCell::new(Some(stop)),
            thread: RefCell::new(Some(thread)),
        }
    }

    pub(crate) fn id(&self) -> Fingerprint {
        self.id
    }

    /// Waits until the host has noticed this.
    pub(crate) fn expect(&self, within: Duration, wanted: &Seen) {
        self.wait(within, &format_args!("{wanted:?}"), |seen| seen == wanted);
    }

    /// Waits until the host has reported a line with this in it.
    pub(crate) fn expect_report(&self, within: Duration, part: &str) {
        self.wait(within, &part, |seen| matches!(seen, Seen::Report(line) if line.contains(part)));
    }

    /// Whether the host has noticed this since the start or [`Self::forget`].
    pub(crate) fn saw(&self, wanted: &Seen) -> bool {
        self.history.borrow_mut().extend(self.news.try_iter());
        self.history.borrow().contains(wanted)
    }

    /// Forgets what was noticed so far.
    pub(crate) fn forget(&self) {
        for _ in self.news.try_iter() {}
        self.history.borrow_mut().clear();
    }

    /// Stops the host, with a goodbye.
    pub(crate) fn stop(&self) {
        drop(self.stop.borrow_mut().take());
        let ended = self.thread.borrow_mut().take().map(JoinHandle::join);
        if ended.is_some_and(|ended| ended.is_err()) && !std::thread::panicking() {
            panic!("{} panicked", self.name);
        }
    }

    fn wait(&self, within: Duration, what: &dyn Display, wanted: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + within;
        if self.history.borrow().iter().any(&wanted) {
            return;
        }
        while let Ok(seen) = self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let found = wanted(&seen);
            self.history.borrow_mut().push(seen);
            if found {
                return;
            }
        }
        panic!(
            "{} did not notice `{what}` within {within:?}; it noticed {:#?}",
            self.name,
            self.history.borrow()
        );
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}
