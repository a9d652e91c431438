//! Memory that a device may reach.

use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::Device;
use super::abi::{self, Mr};

/// What peers may do with registered memory; its own host may always use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rights {
    /// Peers may read.
    pub(crate) read: bool,
    /// Peers may write.
    pub(crate) write: bool,
}

/// Memory that a device may reach until this is dropped.
pub(crate) struct Registration {
    mr: NonNull<Mr>,
    device: Arc<Device>,
}

// SAFETY: the structure is not written to after it has been made.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers `len` bytes from `start` on.
    ///
    /// # Safety
    /// They stay valid until this is dropped, and are not borrowed by anybody while the device may write to them.
    pub(crate) unsafe fn new(
        device: &Arc<Device>,
        start: NonNull<u8>,
        len: usize,
        rights: Rights,
    ) -> io::Result<Self> {
        let mut access: c_int = abi::ACCESS_LOCAL_WRITE;
        if rights.read {
            access |= abi::ACCESS_REMOTE_READ;
        }
        if rights.write {
            access |= abi::ACCESS_REMOTE_WRITE;
        }
        // SAFETY: the protection domain is the open device's; the memory as this function requires.
        let mr = unsafe { (device.verbs.reg_mr)(device.pd.as_ptr(), start.as_ptr().cast(), len, access) };
        let mr = NonNull::new(mr).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { mr, device: Arc::clone(device) })
    }

    /// What this host names it by.
    pub(crate) fn local_key(&self) -> u32 {
        // SAFETY: valid until it is given back.
        unsafe { self.mr.as_ref() }.lkey
    }

    /// What peers name it by.
    pub(crate) fn remote_key(&self) -> u32 {
        // SAFETY: valid until it is given back.
        unsafe { self.mr.as_ref() }.rkey
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered once, and given back once.
        unsafe { (self.device.verbs.dereg_mr)(self.mr.as_ptr()) };
    }
}
