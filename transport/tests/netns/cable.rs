//! A cable between two TUN devices: packets come out at the other end later, in order, some never.
//!
//! A rate, a queue that overflows, a delay and independent losses: what `tc netem` does, in a thread for each direction
//! that reads and one that writes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a cable does to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// The share of packets that are lost.
    pub(crate) loss: f64,
    /// How long each is on its way, in each direction.
    pub(crate) delay: Duration,
    /// How many bits enter the cable in a second.
    pub(crate) bits_per_second: f64,
}

pub(crate) struct Cable {
    is_cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

/// Packets on their way, with the time each comes out.
#[derive(Default)]
struct Way {
    packets: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    more: Condvar,
}

impl Cable {
    /// Joins two devices.
    pub(crate) fn new(ends: [File; 2], quality: Quality) -> Self {
        let cable = Self { is_cut: Arc::default(), ended: Arc::default() };
        for (from, to, seed) in [(0, 1, 11), (1, 0, 12)] {
            let way = Arc::new(Way::default());
            let [from, to] =
                [from, to].map(|end: usize| ends[end].try_clone().expect("there are descriptors"));
            let (is_cut, ended) = (Arc::clone(&cable.is_cut), Arc::clone(&cable.ended));
            let entering = Arc::clone(&way);
            std::thread::spawn(move || enter(from, &entering, quality, StdRng::seed_from_u64(seed), &is_cut));
            std::thread::spawn(move || leave(to, &way, &ended));
        }
        cable
    }

    /// Cuts it, or mends it.
    pub(crate) fn cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::SeqCst);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// Ends with the device, which goes with its namespace.
fn enter(mut from: File, way: &Way, quality: Quality, mut chance: StdRng, is_cut: &AtomicBool) {
    let mut free = Instant::now();
    let mut packet = [0; 65536];
    while let Ok(len) = from.read(&mut packet) {
        let now = Instant::now();
        let lost = is_cut.load(Ordering::SeqCst) || chance.random_bool(quality.loss);
        if lost || free > now + LONGEST_QUEUE {
            continue;
        }
        free = free.max(now) + Duration::from_secs_f64(len as f64 * 8.0 / quality.bits_per_second);
        let packets = &mut way.packets.lock().expect("nobody panics");
        packets.push_back((free + quality.delay, packet[..len].to_vec()));
        way.more.notify_one();
    }
}

fn leave(mut to: File, way: &Way, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        let mut packets = way.packets.lock().expect("nobody panics");
        let Some((at, _)) = packets.front() else {
            drop(way.more.wait_timeout(packets, Duration::from_millis(50)).expect("nobody panics"));
            continue;
        };
        let wait = at.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            let (_, packet) = packets.pop_front().expect("there is a first");
            drop(packets);
            // A full device loses packets, as devices do.
            let _ = to.write(&packet);
        } else {
            drop(packets);
            std::thread::sleep(wait);
        }
    }
}

/// A TUN device in the namespace of the calling thread.
pub(crate) fn tun(name: &str) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: zeros are a valid request; its union is written before it is read.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request outlives the call, which reads and writes it alone.
    let refused = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if refused < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
}

/// As much as routers keep.
const LONGEST_QUEUE: Duration = Duration::from_millis(100);
