//! What a transport can do beyond what all of them do.

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Ordinary memory of the host.
    Host,
    /// Memory of a CUDA device that its driver shares as a DMA buffer.
    CudaDmabuf,
    /// Memory that a Mac's CPU and GPU share.
    MetalShared,
}

/// Facts about a transport on this host, honest ones: what is not measured or not there is not claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Whether the hardware reads remote memory without the peer's processor; else a read is a request that the peer
    /// answers with writes.
    pub native_read: bool,
    /// Whether arrival is signalled by the hardware with the last write; else by a frame.
    pub native_immediate: bool,
    /// Whether late writes of a closed tag are kept from memory, and not only from being counted. Where hardware places
    /// bytes, a region that may still be written to is withdrawn by dropping it.
    pub fences_late_writes: bool,
    /// Memory that may be registered.
    pub memory: Vec<MemoryKind>,
    /// Most runs that one batch may have.
    pub runs_per_batch: usize,
    /// Most bytes that are sent along with the order to send them; 0 where nothing is.
    pub inline_bytes: usize,
    /// Whether bytes are encrypted on their way.
    pub encrypted: bool,
    /// Paths that a batch may be striped over.
    pub rails: usize,
}
