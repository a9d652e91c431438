//! The listening socket, and the greetings of connections that are not rails yet.
//!
//! Waits with the system's readiness queue (epoll, kqueue, or its like on Windows), whatever moves the bytes of rails
//! afterwards; the poll driver has its rails wait in the same queue. Who is welcome is decided by `links`.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use mlxcel_cluster_config::tls::DataPlane;
use slab::Slab;

use super::greet::{GreetError, Greeted, Greeting};
use super::links::Links;
use crate::core::hello::Hello;

/// Listens, greets and waits.
pub(super) struct Reception {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    plane: Option<DataPlane>,
    greetings: Slab<Greeting>,
    /// The listener may have more connections.
    crowded: bool,
}

impl Reception {
    /// Listens; the waker ends a wait.
    pub(super) fn new(socket: std::net::TcpListener, plane: Option<DataPlane>) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::from_std(socket);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let events = Events::with_capacity(EVENTS);
        let greetings = Slab::new();
        Ok((Self { poll, events, listener, plane, greetings, crowded: false }, waker))
    }

    /// Waits until something happens, at most until `until`.
    pub(super) fn wait(&mut self, until: Option<Instant>) {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Interrupted by a signal: as if nothing had happened.
        if let Err(error) = self.poll.poll(&mut self.events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(target: "mlxcel::transport::tcp", %error, "cannot wait for sockets");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Attends to what has happened; events of rails are passed on.
    pub(super) fn attend(
        &mut self,
        links: &mut Links,
        now: Instant,
        mut of_rail: impl FnMut(&mut Links, usize, &Event),
    ) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                LISTENER => self.crowded = true,
                WAKER => {}
                Token(number) if number % 2 == 1 => of_rail(links, number / 2, event),
                Token(number) => self.proceed(number / 2, links, now),
            }
        }
        self.events = events;
        if self.crowded {
            self.accept(links, now);
        }
        self.expire(links, now);
        for (address, hello) in links.take_calls(now) {
            self.call(address, hello, links, now);
        }
    }

    /// When a greeting has taken too long.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.greetings.iter().map(|(_, greeting)| greeting.deadline).min()
    }

    /// Has a rail's socket wait in the same queue.
    pub(super) fn watch(&self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().reregister(socket, Token(key * 2 + 1), interest)
    }

    /// Leaves a rail's socket to somebody else.
    #[cfg(target_os = "linux")]
    pub(super) fn release(&self, socket: &mut TcpStream) -> io::Result<()> {
        self.poll.registry().deregister(socket)
    }

    /// The queue itself, to be waited for.
    #[cfg(target_os = "linux")]
    pub(super) const fn queue(&self) -> &Poll {
        &self.poll
    }

    fn accept(&mut self, links: &mut Links, now: Instant) {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) if self.greetings.len() < MOST_GREETINGS => {
                    match Greeting::answer_to(socket, self.plane.as_ref(), now + PATIENCE) {
                        Ok(greeting) => self.begin(greeting, links, now),
                        Err(error) => {
                            tracing::debug!(target: "mlxcel::transport::tcp", %error, "cannot greet")
                        }
                    }
                }
                Ok((refused, from)) => {
                    tracing::warn!(target: "mlxcel::transport::tcp", %from, "too many connections wait to be greeted");
                    drop(refused);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.crowded = false;
                    return;
                }
                Err(error) if is_of_the_caller(&error) => {}
                Err(error) => {
                    // Out of descriptors, say: the connection waits, and so do we.
                    tracing::warn!(target: "mlxcel::transport::tcp", %error, "cannot accept a connection");
                    return;
                }
            }
        }
    }

    fn call(&mut self, address: SocketAddr, hello: Hello, links: &mut Links, now: Instant) {
        match Greeting::call(address, hello, self.plane.clone(), now + PATIENCE) {
            Ok(greeting) => self.begin(greeting, links, now),
            Err(error) => links.call_failed(&hello, error.of_call(address), now),
        }
    }

    fn begin(&mut self, mut greeting: Greeting, links: &mut Links, now: Instant) {
        let entry = self.greetings.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut greeting.socket, Token(key * 2), interest) {
            Ok(()) => {
                entry.insert(greeting);
                self.proceed(key, links, now);
            }
            Err(error) => give_up(greeting, error.into(), links, now),
        }
    }

    fn proceed(&mut self, key: usize, links: &mut Links, now: Instant) {
        let Some(greeting) = self.greetings.get_mut(key) else { return };
        let mut greeted = greeting.proceed();
        if let Ok(Greeted::Asked(hello)) = greeted {
            let answer = links.judge(&hello, greeting.key, now);
            greeted = greeting.answer(answer);
        }
        match greeted {
            Ok(Greeted::Waiting | Greeted::Asked(_)) => {}
            Ok(Greeted::Told(hello, incarnation)) => {
                let met = self.greetings.remove(key).into_met();
                links.welcome(&hello, incarnation, met, now);
            }
            Ok(Greeted::Answered(reply)) => {
                let met = self.greetings.remove(key).into_met();
                links.answered(reply, met, now);
            }
            Err(error) => give_up(self.greetings.remove(key), error, links, now),
        }
    }

    fn expire(&mut self, links: &mut Links, now: Instant) {
        let late: Vec<usize> = self
            .greetings
            .iter()
            .filter(|(_, greeting)| greeting.deadline <= now)
            .map(|(key, _)| key)
            .collect();
        for key in late {
            give_up(self.greetings.remove(key), GreetError::Late, links, now);
        }
    }
}

fn give_up(greeting: Greeting, error: GreetError, links: &mut Links, now: Instant) {
    match greeting.called {
        Some((hello, address)) => {
            if error.is_refusal() {
                links.gone(&hello, now);
            }
            links.call_failed(&hello, error.of_call(address), now);
        }
        None => tracing::debug!(target: "mlxcel::transport::tcp", %error, "a caller was turned away"),
    }
}

/// Whether a connection was gone before it was accepted.
fn is_of_the_caller(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const EVENTS: usize = 256;
/// How many connections may be greeted at a time: whoever reaches the port can begin one.
const MOST_GREETINGS: usize = 256;
/// How long a greeting may take.
const PATIENCE: Duration = Duration::from_secs(3);
