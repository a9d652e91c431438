//! How the device reaches the memory of this process: registrations, kept with the memory they are of.

use std::any::Any;
use std::io;
use std::sync::Arc;

use mlxcel_transport::{Access, Attachment, Kind, MemoryKind, RailKey, RegionMemory, RegionSlice};

use crate::cache::{Cache, Span};
use crate::leases::Reached;
use crate::verbs::{Device, Local, Registration, Rights};

/// The registrations of one device.
pub(crate) struct Reach {
    device: Arc<Device>,
    cache: Cache<Rights, Registration>,
}

/// What the device holds of some memory.
struct Attached {
    registration: Arc<Registration>,
    rights: Rights,
    device: Arc<Device>,
}

impl Attachment for Attached {
    /// Says only that the memory is registered: peers are told where it is when they ask, and were let in.
    fn rail_key(&self) -> RailKey {
        RailKey { kind: Kind::Rdma, bytes: Vec::new() }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Reach {
    pub(crate) const fn new(device: Arc<Device>) -> Self {
        Self { device, cache: Cache::new() }
    }

    /// Registers memory for what peers may do with it, unless it is registered so.
    pub(crate) fn register(
        &self,
        memory: &Arc<RegionMemory>,
        access: Access,
    ) -> io::Result<Arc<Registration>> {
        let rights = Rights { read: access.read, write: access.write };
        if let Some(known) = self.known(memory, |attached| attached.rights == rights) {
            return Ok(known);
        }
        if memory.memory().kind() == MemoryKind::CudaDmabuf {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (start, len) = (memory.memory().start(), memory.memory().len());
        let span = Span { start: start.addr().get(), len, rights };
        // SAFETY: whoever uses the registration keeps the memory alive, as its attachment or beside it; regions are
        // reached through raw pointers only.
        let made = self.cache.get(span, || unsafe { Registration::new(&self.device, start, len, rights) })?;
        let device = Arc::clone(&self.device);
        memory.attach(Arc::new(Attached { registration: Arc::clone(&made), rights, device }));
        Ok(made)
    }

    /// Whether work requests may name this memory.
    pub(crate) fn is_local(&self, memory: &Arc<RegionMemory>) -> bool {
        self.registered(memory).is_ok()
    }

    /// Local bytes as a work request names them.
    pub(crate) fn local(&self, slice: &RegionSlice) -> io::Result<Local> {
        let registration = self.registered(slice.memory())?;
        let len = u32::try_from(slice.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Local { start: slice.as_ptr().addr() as u64, len, key: registration.local_key() })
    }

    /// How a peer reaches memory, if the device can register it.
    pub(crate) fn remote(&self, memory: &Arc<RegionMemory>, access: Access) -> Option<Reached> {
        let registration = match self.register(memory, access) {
            Ok(registration) => registration,
            Err(error) => {
                tracing::warn!(target: "mlxcel::transport::rdma", %error, "memory is not registered");
                return None;
            }
        };
        let start = memory.memory().start().addr().get() as u64;
        Some(Reached { start, key: registration.remote_key(), kept: registration })
    }

    /// Any registration of memory; what has none is registered for nobody else.
    fn registered(&self, memory: &Arc<RegionMemory>) -> io::Result<Arc<Registration>> {
        self.known(memory, |_| true).map_or_else(|| self.register(memory, Access::LOCAL), Ok)
    }

    fn known(&self, memory: &RegionMemory, fits: impl Fn(&Attached) -> bool) -> Option<Arc<Registration>> {
        let attachments = memory.attachments();
        let ours = attachments.iter().filter_map(|attachment| attachment.as_any().downcast_ref::<Attached>());
        let mut ours = ours.filter(|attached| Arc::ptr_eq(&attached.device, &self.device));
        ours.find(|attached| fits(attached)).map(|attached| Arc::clone(&attached.registration))
    }
}
