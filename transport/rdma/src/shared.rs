//! What callers and the threads of a transport share: the books behind one lock, and the device.
//!
//! Whoever holds the lock gives the device work and takes what it has completed: a caller that writes, or drives, on its
//! own thread; else the transport's.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mlxcel_transport::PeerId;
use parking_lot::{Mutex, MutexGuard};

use crate::books::Books;
use crate::connection::Adapter;
use crate::socket::Protection;

pub(crate) struct Shared {
    pub(crate) adapter: Arc<Adapter>,
    pub(crate) protection: Protection,
    pub(crate) wake: Wake,
    pub(crate) closing: AtomicBool,
    /// Callers that are being answered.
    pub(crate) greetings: AtomicUsize,
    begun: Instant,
    /// When a caller last drove, in microseconds since `begun`; 0 when nobody does.
    driven: AtomicU64,
    books: Mutex<Books>,
    turns: Mutex<HashMap<PeerId, Weak<Mutex<()>>>>,
}

impl Shared {
    pub(crate) fn new(adapter: Arc<Adapter>, protection: Protection, books: Books) -> io::Result<Self> {
        Ok(Self {
            adapter,
            protection,
            wake: Wake::new()?,
            closing: AtomicBool::new(false),
            greetings: AtomicUsize::new(0),
            begun: Instant::now(),
            driven: AtomicU64::new(0),
            books: Mutex::new(books),
            turns: Mutex::default(),
        })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    /// Works on the caller's thread, unless another does; whether there was anything.
    pub(crate) fn drive(&self) -> bool {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.driven.store(now.max(1), Ordering::Relaxed);
        self.books.try_lock().is_some_and(|mut books| books.work(Instant::now()))
    }

    /// Nobody drives any more.
    pub(crate) fn stop_driving(&self) {
        if self.driven.swap(0, Ordering::Relaxed) != 0 {
            self.wake.ring();
        }
    }

    /// Whether a caller drives, so that nobody else need be woken.
    pub(crate) fn is_driven(&self) -> bool {
        let driven = self.driven.load(Ordering::Relaxed);
        let since = self.begun.elapsed().saturating_sub(Duration::from_micros(driven));
        driven != 0 && since < DRIVEN_FOR
    }

    /// One call to a peer at a time: the lock to hold meanwhile.
    pub(crate) fn turn(&self, peer: PeerId) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(&peer).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(peer, Arc::downgrade(&turn));
        turn
    }
}

/// Wakes the transport's thread.
pub(crate) struct Wake(File);

impl Wake {
    fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened above, and has no other owner.
        Ok(Self(unsafe { File::from_raw_fd(descriptor) }))
    }

    pub(crate) fn ring(&self) {
        // One that rings already need not be rung.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    pub(crate) fn silence(&self) {
        // One that does not ring need not be silenced.
        let _ = (&self.0).read(&mut [0; 8]);
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Who drives, and has not for this long, has stopped.
pub(crate) const DRIVEN_FOR: Duration = Duration::from_millis(1);
