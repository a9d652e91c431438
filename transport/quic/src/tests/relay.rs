//! A stretch of network between two ends: it delays, loses, and may be cut.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What becomes of datagrams.
#[derive(Clone, Copy)]
pub(super) struct Conditions {
    pub(super) delay: Duration,
    /// Of a thousand, how many are lost.
    pub(super) lost: u32,
    /// Longer ones never get through.
    pub(super) largest: usize,
}

/// Passes datagrams of one caller to a destination, and back.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    cut: Arc<AtomicBool>,
    lost: Arc<AtomicU32>,
    closed: Arc<AtomicBool>,
}

impl Relay {
    pub(super) fn to(destination: SocketAddr, conditions: Conditions) -> Self {
        let (near, far) = (socket(), socket());
        let address = near.local_addr().expect("bound");
        let relay = Self { address, cut: Arc::default(), lost: Arc::default(), closed: Arc::default() };
        let caller = Arc::new(Mutex::new(None));
        relay.pass((&near, &far), conditions, (Arc::clone(&caller), true), destination);
        relay.pass((&far, &near), conditions, (caller, false), destination);
        relay
    }

    /// Loses everything from now on.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// How many datagrams were lost.
    pub(super) fn lost(&self) -> u32 {
        self.lost.load(Ordering::SeqCst)
    }

    fn pass(
        &self,
        (from, to): (&UdpSocket, &UdpSocket),
        conditions: Conditions,
        (caller, outbound): (Arc<Mutex<Option<SocketAddr>>>, bool),
        destination: SocketAddr,
    ) {
        let (queue, queued) = channel();
        let (from, to) = (from.try_clone().expect("duplicated"), to.try_clone().expect("duplicated"));
        let (cut, lost, closed) = (Arc::clone(&self.cut), Arc::clone(&self.lost), Arc::clone(&self.closed));
        let noted = Arc::clone(&caller);
        std::thread::spawn(move || {
            let note = |source| {
                if outbound {
                    *noted.lock() = Some(source);
                }
            };
            let mut luck = u64::from(outbound) + 7;
            let mut lose = move || {
                luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unlucky = ((luck >> 33) % 1000) < u64::from(conditions.lost);
                lost.fetch_add(u32::from(unlucky), Ordering::SeqCst);
                unlucky || cut.load(Ordering::SeqCst)
            };
            collect(&from, &closed, note, &mut lose, (&queue, conditions));
        });
        std::thread::spawn(move || {
            deliver(&queued, &to, || if outbound { Some(destination) } else { *caller.lock() });
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

type Datagram = (Instant, Vec<u8>);

fn collect(
    from: &UdpSocket,
    closed: &AtomicBool,
    mut note: impl FnMut(SocketAddr),
    lose: &mut impl FnMut() -> bool,
    (queue, Conditions { delay, largest, .. }): (&Sender<Datagram>, Conditions),
) {
    let mut buffer = vec![0; 65_536];
    while !closed.load(Ordering::SeqCst) {
        // Times out now and then, to look whether it is over; errors are of datagrams sent before.
        let Ok((count, source)) = from.recv_from(&mut buffer) else { continue };
        note(source);
        if count <= largest
            && !lose()
            && queue.send((Instant::now() + delay, buffer[..count].to_vec())).is_err()
        {
            return;
        }
    }
}

fn deliver(queued: &Receiver<Datagram>, to: &UdpSocket, destination: impl Fn() -> Option<SocketAddr>) {
    while let Ok((due, datagram)) = queued.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Some(destination) = destination() {
            // What cannot be sent is lost, as happens in networks.
            let _ = to.send_to(&datagram, destination);
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a valid time");
    socket
}
