//! The ring: what the kernel is asked to do for rails, and what it has done.
//!
//! Asks and answers are named by rail and direction, of which each rail has at most one in flight. Knows nothing of
//! what the bytes are.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use mio::Poll;

use crate::tcp::rail::Rail;

/// What the kernel has done.
pub(super) struct Done {
    pub(super) what: What,
    pub(super) result: io::Result<usize>,
}

/// What it was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A receive on a rail.
    Received(usize),
    /// A send on a rail.
    Sent(usize),
    /// To say when the queue of the reception has something.
    Queue,
    /// To end a receive.
    Cancelled,
}

/// A ring of the transport's own thread.
pub(in crate::tcp) struct Ring {
    ring: IoUring,
    /// Message headers by rail: the kernel reads them when it takes a submission.
    #[expect(clippy::vec_box, reason = "submissions point to them while the list grows")]
    headers: Vec<Box<Headers>>,
}

struct Headers {
    receive: libc::msghdr,
    send: libc::msghdr,
}

// SAFETY: the headers point to lists that the rails own; they are used by the thread that has the ring only.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring, if the system allows one with all that is needed. It works for the thread that calls `enable`.
    pub(in crate::tcp) fn new() -> io::Result<Self> {
        let mut deferred = IoUring::builder();
        // Completions are handled when we wait, not whenever they come (Linux 6.1).
        deferred.setup_single_issuer().setup_defer_taskrun().setup_r_disabled();
        let mut plain = IoUring::builder();
        plain.setup_r_disabled();
        let ring = deferred.build(ENTRIES).or_else(|_| plain.build(ENTRIES))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let codes =
            [opcode::RecvMsg::CODE, opcode::SendMsg::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];
        let complete = codes.into_iter().all(|code| probe.is_supported(code));
        let params = ring.params();
        if !complete || !params.is_feature_ext_arg() || !params.is_feature_submit_stable() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self { ring, headers: Vec::new() })
    }

    /// Begins to work, for the calling thread.
    pub(super) fn enable(&self) {
        // Refused only to a ring that is enabled already.
        let enabled = self.ring.submitter().register_enable_rings();
        debug_assert!(enabled.is_ok(), "a ring is enabled once");
    }

    /// Fills a rail's `scatter`; says when its socket has something, if that is empty.
    pub(super) fn receive(&mut self, key: usize, rail: &mut Rail) {
        rail.reading = true;
        let socket = Fd(rail.socket.as_raw_fd());
        let list = rail.scatter.list();
        if list.is_empty() {
            self.push(opcode::PollAdd::new(socket, READABLE).build(), What::Received(key));
            return;
        }
        let header = &mut self.headers(key).receive;
        header.msg_iov = list.as_mut_ptr().cast();
        header.msg_iovlen = list.len();
        let entry = opcode::RecvMsg::new(socket, header).build();
        self.push(entry, What::Received(key));
    }

    /// Empties a rail's `gather`.
    pub(super) fn send(&mut self, key: usize, rail: &mut Rail) {
        rail.writing = true;
        let socket = Fd(rail.socket.as_raw_fd());
        let list = rail.gather.list();
        let header = &mut self.headers(key).send;
        header.msg_iov = list.as_ptr().cast_mut().cast();
        header.msg_iovlen = list.len();
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).cast_unsigned();
        let entry = opcode::SendMsg::new(socket, header).flags(flags).build();
        self.push(entry, What::Sent(key));
    }

    /// Says when a queue has something.
    pub(super) fn watch(&mut self, queue: &Poll) {
        let entry = opcode::PollAdd::new(Fd(queue.as_raw_fd()), READABLE).build();
        self.push(entry, What::Queue);
    }

    /// Ends a rail's receive.
    pub(super) fn cancel_receive(&mut self, key: usize) {
        let entry = opcode::AsyncCancel::new(What::Received(key).encode()).build();
        self.push(entry, What::Cancelled);
    }

    /// Hands over what was asked for and waits until something is done, at most until `until`.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let left = until.map(|until| Timespec::from(until.saturating_duration_since(Instant::now())));
        let args = match &left {
            Some(left) => SubmitArgs::new().timespec(left),
            None => SubmitArgs::new(),
        };
        let Err(error) = self.ring.submitter().submit_with_args(1, &args) else { return };
        // The time has passed, a signal came, or completions wait to be taken: as if something had been done.
        let passing = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
        if !error.raw_os_error().is_some_and(|code| passing.contains(&code)) {
            tracing::error!(target: "mlxcel::transport::tcp", %error, "cannot wait for the ring");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The next thing that is done.
    pub(super) fn next_done(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        let result = usize::try_from(entry.result())
            .map_err(|_| io::Error::from_raw_os_error(entry.result().wrapping_neg()));
        Some(Done { what: What::decode(entry.user_data()), result })
    }

    fn headers(&mut self, key: usize) -> &mut Headers {
        while self.headers.len() <= key {
            // SAFETY: a message header of zeros is an empty one.
            self.headers.push(Box::new(unsafe { std::mem::zeroed() }));
        }
        &mut self.headers[key]
    }

    fn push(&mut self, entry: squeue::Entry, what: What) {
        let entry = entry.user_data(what.encode());
        // SAFETY: what the entry points to is owned by the rail, which is not dropped and does not touch it before the
        // operation has ended (`Rail::is_in_use`), or by `headers`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Full: what is in it goes first.
            let _ = self.ring.submit();
        }
    }
}

impl What {
    fn encode(self) -> u64 {
        match self {
            Self::Received(key) => (key as u64) << 2,
            Self::Sent(key) => (key as u64) << 2 | 1,
            Self::Queue => 2,
            Self::Cancelled => 3,
        }
    }

    fn decode(code: u64) -> Self {
        let key = (code >> 2) as usize;
        match code & 3 {
            0 => Self::Received(key),
            1 => Self::Sent(key),
            2 => Self::Queue,
            _ => Self::Cancelled,
        }
    }
}

const READABLE: u32 = libc::POLLIN as u32;
/// Rails are few; what does not fit is handed over in parts.
const ENTRIES: u32 = 256;
