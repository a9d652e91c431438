//! The transport's thread: sleeps until a device has completed something, somebody calls, a peer dies or time passes.
//!
//! While a caller drives, the thread leaves completions to it and looks after the rest.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::books::Name;
use crate::meet;
use crate::shared::{DRIVEN_FOR, Shared};

/// Runs until the transport is closed.
pub(crate) fn run(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.closing.load(Ordering::Acquire) {
        let (sockets, timeout) = work(shared);
        let channel = shared.adapter.channel.as_raw_fd();
        let fixed = [shared.wake.descriptor(), listener.as_raw_fd(), channel];
        let ready = wait(&fixed, &sockets, timeout);
        shared.wake.silence();
        if ready.contains(&listener.as_raw_fd()) {
            answer_callers(shared, listener);
        }
        let mut books = shared.books();
        if ready.contains(&channel) {
            shared.adapter.channel.drain();
        }
        let now = Instant::now();
        // What a peer sent before it died is read first.
        books.work(now);
        for (_, name) in sockets.iter().filter(|(socket, _)| ready.contains(socket)) {
            books.socket_closed(*name, now);
        }
    }
    part(shared);
}

/// Does what there is to do, and has devices say when there is more: what else to wait for, and how long.
fn work(shared: &Shared) -> (Vec<(RawFd, Name)>, Duration) {
    let mut books = shared.books();
    let now = Instant::now();
    let next = books.handle_timeouts(now);
    let timeout = next.map_or(LONG, |next| next.saturating_duration_since(now).min(LONG));
    if shared.is_driven() {
        return (books.sockets(), timeout.min(DRIVEN_FOR));
    }
    books.arm(now);
    // What was completed before that causes no event. There may be more than this takes.
    let more = books.work(now);
    (books.sockets(), if more { Duration::ZERO } else { timeout })
}

/// Says good-bye to all peers.
fn part(shared: &Shared) {
    let now = Instant::now();
    let peers: Vec<_> = shared.books().peers.keys().copied().collect();
    for peer in peers {
        shared.books().part_from(peer, now);
    }
    loop {
        let mut books = shared.books();
        books.work(Instant::now());
        if books.is_empty() {
            break;
        }
        drop(books);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Which descriptors are readable, after a while at the latest.
fn wait(fixed: &[RawFd], sockets: &[(RawFd, Name)], timeout: Duration) -> Vec<RawFd> {
    let all = fixed.iter().copied().chain(sockets.iter().map(|(socket, _)| *socket));
    let mut polled: Vec<libc::pollfd> =
        all.map(|fd| libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 }).collect();
    let millis = timeout.as_micros().div_ceil(1000);
    let millis = i32::try_from(millis).unwrap_or(i32::MAX);
    // SAFETY: the list is as long as it is said to be.
    let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    if count <= 0 {
        return Vec::new();
    }
    polled.iter().filter(|polled| polled.revents != 0).map(|polled| polled.fd).collect()
}

fn answer_callers(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if shared.greetings.fetch_add(1, Ordering::AcqRel) >= GREETINGS {
            shared.greetings.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let greeting = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("rdma-greeting".into()).spawn(move || {
            let blocking = stream.set_nonblocking(false).map_err(Into::into);
            match blocking.and_then(|()| meet::answer(&greeting, stream, Instant::now() + meet::PATIENCE)) {
                Ok(met) => greeting.link_up(met),
                Err(error) => {
                    tracing::debug!(target: "mlxcel::transport::rdma", %error, "a caller did not become a peer");
                }
            }
            greeting.greetings.fetch_sub(1, Ordering::AcqRel);
        });
        if thread.is_err() {
            shared.greetings.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// How many callers may be saying who they are at once.
const GREETINGS: usize = 64;
/// Without any link, there is nothing to look at but what wakes the thread.
const LONG: Duration = Duration::from_secs(3600);
