//! What has been done: completion queues, and the channel that wakes who sleeps until something is.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi::{self, CompChannel, Cq, Wc};
use super::{Device, checked};
use crate::verbs::library;

/// Becomes readable when a queue that was armed has something.
pub(crate) struct Channel {
    channel: NonNull<CompChannel>,
    device: Arc<Device>,
}

// SAFETY: verbs may be called from any thread.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// A channel whose descriptor does not block.
    pub(crate) fn new(device: &Arc<Device>) -> io::Result<Self> {
        // SAFETY: the context is open.
        let channel = unsafe { (device.verbs.create_comp_channel)(device.context.as_ptr()) };
        let channel = NonNull::new(channel).ok_or_else(io::Error::last_os_error)?;
        let made = Self { channel, device: Arc::clone(device) };
        // SAFETY: the descriptor is the channel's, which is open.
        let flags = unsafe { libc::fcntl(made.as_raw_fd(), libc::F_GETFL) };
        // SAFETY: as above.
        if flags < 0 || unsafe { libc::fcntl(made.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(made)
    }

    /// Takes all events there are. Queues must be armed again to cause more.
    pub(crate) fn drain(&self) {
        loop {
            let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel is open, and the results have room.
            let code = unsafe {
                (self.device.verbs.get_cq_event)(self.channel.as_ptr(), &raw mut cq, &raw mut context)
            };
            if code != 0 {
                return;
            }
            // SAFETY: the queue that the event is of waits for this before it is destroyed.
            unsafe { (self.device.verbs.ack_cq_events)(cq, 1) };
        }
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        // SAFETY: the channel is open.
        unsafe { self.channel.as_ref() }.fd
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: queues of it held it, and are gone.
        unsafe { (self.device.verbs.destroy_comp_channel)(self.channel.as_ptr()) };
    }
}

/// Where both queues of a queue pair say what they have done.
pub(crate) struct CompletionQueue {
    pub(super) cq: NonNull<Cq>,
    channel: Arc<Channel>,
}

// SAFETY: verbs may be called from any thread.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// A work request that has been done, or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    /// The number it was posted with.
    pub(crate) id: u64,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well: so many bytes, and the number that came with a write, of receives.
    Done {
        /// Bytes that were received.
        bytes: u32,
        /// The number that came with a write.
        immediate: Option<u32>,
    },
    /// The device's status; nothing that was posted behind it is done either.
    Failed(u32),
}

impl CompletionQueue {
    /// A queue for so many completions.
    pub(crate) fn new(channel: &Arc<Channel>, room: u32) -> io::Result<Self> {
        let device = &channel.device;
        let room = i32::try_from(room).unwrap_or(i32::MAX);
        // SAFETY: context and channel are open and of one device.
        let cq = unsafe {
            let (context, channel) = (device.context.as_ptr(), channel.channel.as_ptr());
            (device.verbs.create_cq)(context, room, std::ptr::null_mut(), channel, 0)
        };
        let cq = NonNull::new(cq).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { cq, channel: Arc::clone(channel) })
    }

    /// Has the next completion cause an event. What is there already causes none: poll after this.
    pub(crate) fn arm(&self) -> io::Result<()> {
        // SAFETY: the queue and its context are open.
        let code = unsafe {
            let context = self.cq.as_ref().context;
            let arm = (*context).ops.req_notify_cq.ok_or(io::ErrorKind::Unsupported)?;
            arm(self.cq.as_ptr(), 0)
        };
        checked(code)
    }

    /// Takes up to so many completions.
    pub(crate) fn poll(&self, into: &mut Vec<Completed>) -> io::Result<()> {
        let mut done = [Wc::default(); TOGETHER];
        // SAFETY: the queue and its context are open, and `done` has room for as many.
        let count = unsafe {
            let context = self.cq.as_ref().context;
            let poll = (*context).ops.poll_cq.ok_or(io::ErrorKind::Unsupported)?;
            poll(self.cq.as_ptr(), TOGETHER as i32, done.as_mut_ptr())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::other("the completion queue is broken"))?;
        into.extend(done[..count].iter().map(Completed::from));
        Ok(())
    }
}

impl From<&Wc> for Completed {
    fn from(done: &Wc) -> Self {
        let immediate = (done.opcode == abi::WC_RECV_RDMA_WITH_IMM).then(|| u32::from_be(done.imm_data));
        let outcome = if done.status == abi::WC_SUCCESS {
            Outcome::Done { bytes: done.byte_len, immediate }
        } else {
            Outcome::Failed(done.status)
        };
        Self { id: done.wr_id, outcome }
    }
}

impl Outcome {
    /// What a failure means, for people.
    pub(crate) fn describe(status: u32) -> String {
        library::status_text(status)
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // Whose events are not taken is not destroyed.
        self.channel.drain();
        // SAFETY: the queue pair that used it held it, and is gone.
        unsafe { (self.channel.device.verbs.destroy_cq)(self.cq.as_ptr()) };
    }
}

const TOGETHER: usize = 32;
