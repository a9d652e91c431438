//! The buffers of a connection that packets are sent from and received in.

use std::io;
use std::sync::Arc;

use mlxcel_transport::Memory;

use crate::verbs::{Device, Local, Registration, Rights};

/// Registered memory, as buffers of one size: those for what is received first, then those to send from.
pub(crate) struct Buffers {
    // The device lets go before the memory goes.
    registration: Registration,
    memory: Memory,
    free: Vec<u32>,
}

/// Bytes of a buffer: a packet at most.
pub(crate) const BUFFER_BYTES: usize = 4096;
/// Buffers that are posted for what the peer sends.
pub(crate) const RECEIVE_BUFFERS: u32 = 128;
/// Buffers to send from.
const SEND_BUFFERS: u32 = 64;

impl Buffers {
    pub(crate) fn new(device: &Arc<Device>) -> io::Result<Self> {
        let len = (RECEIVE_BUFFERS + SEND_BUFFERS) as usize * BUFFER_BYTES;
        let memory = Memory::zeroed(len).map_err(|error| io::Error::other(error.to_string()))?;
        let rights = Rights { read: false, write: false };
        // SAFETY: the memory is dropped after the registration, and reached as buffers are below.
        let registration = unsafe { Registration::new(device, memory.start(), len, rights) }?;
        Ok(Self { registration, memory, free: (RECEIVE_BUFFERS..RECEIVE_BUFFERS + SEND_BUFFERS).collect() })
    }

    /// A buffer to send from, until it is given back.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// The device has sent what was in it.
    pub(crate) fn give_back(&mut self, buffer: u32) {
        self.free.push(buffer);
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The first `len` bytes of a buffer, as a work request names them.
    pub(crate) fn local(&self, buffer: u32, len: usize) -> Local {
        let start = self.memory.start().addr().get() + buffer as usize * BUFFER_BYTES;
        Local { start: start as u64, len: len.min(BUFFER_BYTES) as u32, key: self.registration.local_key() }
    }

    /// The bytes of a buffer that the device does not use: received or taken, and not posted since.
    pub(crate) fn bytes(&mut self, buffer: u32) -> &mut [u8] {
        assert!(buffer < RECEIVE_BUFFERS + SEND_BUFFERS, "there is no buffer {buffer}");
        // SAFETY: within the memory, borrowed with it, and the device writes to no buffer that is not posted.
        unsafe {
            let start = self.memory.start().as_ptr().add(buffer as usize * BUFFER_BYTES);
            std::slice::from_raw_parts_mut(start, BUFFER_BYTES)
        }
    }
}
