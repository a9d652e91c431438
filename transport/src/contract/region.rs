//! Memory that peers may reach.
//!
//! A `Region` is the right to be reached: dropping it withdraws that at once. The memory itself lives until the last
//! operation that uses it has drained. Who may reach which bytes is checked by `domain`; how a device reaches them is
//! an `Attachment` of its transport.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Key, MemoryKind, RailKey};
use crate::domain::Domain;

/// What peers may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Peers that hold the key may read.
    pub read: bool,
    /// Peers that hold the key may write.
    pub write: bool,
}

impl Access {
    /// For local use only, such as the source of writes.
    pub const LOCAL: Self = Self { read: false, write: false };
    /// Peers may read.
    pub const READ: Self = Self { read: true, write: false };
    /// Peers may write.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Peers may do both.
    pub const READ_WRITE: Self = Self { read: true, write: true };
}

/// Why memory could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Regions have at least a byte.
    #[error("a region must not be empty")]
    Empty,
    /// The system has not as much memory.
    #[error("cannot allocate a region of {0} bytes")]
    OutOfMemory(usize),
    /// The transport cannot reach memory of this kind.
    #[error("{transport} cannot register {kind:?} memory")]
    UnsupportedMemory {
        /// Which transport.
        transport: super::Kind,
        /// What it was asked to register.
        kind: MemoryKind,
    },
    /// A device refused.
    #[error("cannot register {len} bytes with {device}: {detail}")]
    Device {
        /// Which device.
        device: String,
        /// How much was to be registered.
        len: usize,
        /// What it said.
        detail: String,
    },
}

/// Memory to be registered, with whatever keeps it alive.
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
    kind: MemoryKind,
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory is reached through raw pointers only, and its owner is `Send`.
unsafe impl Send for Memory {}
// SAFETY: sharing a `Memory` shares a pointer; every access through it is the caller's to order (see `Region`).
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed host memory that begins on a page.
    ///
    /// # Errors
    /// When `len` is 0, or the system has not as much.
    pub fn zeroed(len: usize) -> Result<Self, RegisterError> {
        if len == 0 {
            return Err(RegisterError::Empty);
        }
        let layout = Layout::from_size_align(len, PAGE).map_err(|_| RegisterError::OutOfMemory(len))?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(RegisterError::OutOfMemory(len))?;
        Ok(Self { start, len, kind: MemoryKind::Host, _owner: Box::new(Pages { start, layout }) })
    }

    /// Memory that somebody else allocated.
    ///
    /// # Safety
    /// `len` bytes from `start` on must stay valid for reads and writes from any thread, or by the device that `kind`
    /// names, until `owner` is dropped.
    ///
    /// # Errors
    /// When `len` is 0.
    pub unsafe fn external(
        start: NonNull<u8>,
        len: usize,
        kind: MemoryKind,
        owner: impl Any + Send + Sync,
    ) -> Result<Self, RegisterError> {
        if len == 0 {
            return Err(RegisterError::Empty);
        }
        Ok(Self { start, len, kind, _owner: Box::new(owner) })
    }

    /// How many bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whose memory it is.
    #[must_use]
    pub const fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// Its first byte.
    #[must_use]
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What a transport's device holds of a region: dropped when the last operation that uses the memory has drained,
/// before the memory is given back.
pub trait Attachment: Any + Send + Sync {
    /// What peers need to reach the memory over this transport.
    fn rail_key(&self) -> RailKey;

    /// Itself, for the transport that made it.
    fn as_any(&self) -> &dyn Any;
}

/// The memory of a region, shared by the region and every operation in flight.
pub struct RegionMemory {
    // Dropped first: devices let go before the memory goes.
    attachments: Mutex<Vec<Arc<dyn Attachment>>>,
    memory: Memory,
}

impl RegionMemory {
    pub(crate) fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Self { attachments: Mutex::default(), memory })
    }

    /// What is registered.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Adds what a transport's device holds of it.
    pub fn attach(&self, attachment: Arc<dyn Attachment>) {
        self.attachments.lock().push(attachment);
    }

    /// What the devices of transports hold of it.
    #[must_use]
    pub fn attachments(&self) -> Vec<Arc<dyn Attachment>> {
        self.attachments.lock().clone()
    }
}

/// Memory that peers who hold its key may reach, until this is dropped.
///
/// What a peer is writing may be read torn: read bytes when their counter says that they have arrived, and write bytes
/// while no operation that reads them is in flight.
#[derive(Debug)]
pub struct Region {
    memory: Arc<RegionMemory>,
    access: Access,
    id: u32,
    capability: u64,
    domain: Weak<Domain>,
}

impl Region {
    pub(crate) const fn new(
        memory: Arc<RegionMemory>,
        access: Access,
        (id, capability): (u32, u64),
        domain: Weak<Domain>,
    ) -> Self {
        Self { memory, access, id, capability, domain }
    }

    /// How many bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.memory.memory.len
    }

    /// The memory, which outlives this region while operations use it.
    #[must_use]
    pub const fn memory(&self) -> &Arc<RegionMemory> {
        &self.memory
    }

    /// What a peer needs to reach it. Keys are secrets: whoever holds one may do what the region allows.
    ///
    /// # Panics
    /// When the domain that registered the region is gone, which only its transports' end brings about.
    #[must_use]
    pub fn key(&self) -> Key {
        let domain = self.domain.upgrade().expect("a region's domain outlives its use");
        Key {
            owner: domain.id(),
            region: self.id,
            access: self.access,
            len: self.len() as u64,
            capability: self.capability,
            rails: self.memory.attachments.lock().iter().map(|attachment| attachment.rail_key()).collect(),
        }
    }

    /// The bytes in `range`, kept alive.
    ///
    /// # Panics
    /// When `range` does not lie within the region.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> RegionSlice {
        RegionSlice::new(&self.memory, range)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// When they do not fit, or it is not host memory.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.slice(offset..offset + bytes.len()).fill_from(bytes);
    }

    /// Copies from `offset` to `bytes`.
    ///
    /// # Panics
    /// When the region has not as many, or it is not host memory.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        self.slice(offset..offset + bytes.len()).copy_to(bytes);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(domain) = self.domain.upgrade() {
            domain.withdraw(self.id);
        }
    }
}

/// Some bytes of a region's memory, kept alive.
#[derive(Clone, Debug)]
pub struct RegionSlice {
    memory: Arc<RegionMemory>,
    start: usize,
    len: usize,
}

impl RegionSlice {
    /// The bytes in `range`.
    ///
    /// # Panics
    /// When `range` does not lie within the memory: ranges from a peer are checked by `Domain::admit`.
    #[must_use]
    pub fn new(memory: &Arc<RegionMemory>, range: Range<usize>) -> Self {
        let whole = memory.memory.len;
        assert!(range.start <= range.end && range.end <= whole, "bytes {range:?} do not lie within {whole}");
        Self { memory: Arc::clone(memory), start: range.start, len: range.len() }
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first byte, valid for `len` bytes as long as this lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `start` was checked to lie within the memory, or at its end.
        unsafe { self.memory.memory.start.as_ptr().add(self.start) }
    }

    /// The memory they are in.
    #[must_use]
    pub const fn memory(&self) -> &Arc<RegionMemory> {
        &self.memory
    }

    /// Where in the memory they begin.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.start
    }

    /// The part in `range`, counted from this slice's first byte.
    ///
    /// # Panics
    /// When it does not lie within this slice.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.len, "bytes {range:?} do not lie within {}", self.len);
        Self::new(&self.memory, self.start + range.start..self.start + range.end)
    }

    /// Copies `bytes` here.
    ///
    /// # Panics
    /// When the lengths differ, or it is not host memory.
    pub fn fill_from(&self, bytes: &[u8]) {
        self.check_host(bytes.len());
        // SAFETY: the slice is as long as `bytes`, valid while `self` lives, and reached through raw pointers only.
        unsafe { self.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// Copies from here to `bytes`.
    ///
    /// # Panics
    /// When the lengths differ, or it is not host memory.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        self.check_host(bytes.len());
        // SAFETY: as in `fill_from`.
        unsafe { bytes.as_mut_ptr().copy_from(self.as_ptr(), bytes.len()) };
    }

    fn check_host(&self, len: usize) {
        assert_eq!(len, self.len, "as many bytes must be copied as the slice has");
        assert_ne!(self.memory.memory.kind, MemoryKind::CudaDmabuf, "a CPU cannot copy a device's memory");
    }
}

impl fmt::Debug for RegionMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.fmt(f)
    }
}

/// Pages from the allocator.
struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: nothing is reached through the pointer before it is freed.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

const PAGE: usize = 4096;
