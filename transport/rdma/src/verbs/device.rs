//! RDMA devices of this host, and the port that is used.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi::{self, Context, DeviceAttr, Pd, PortAttr};
use super::checked;
use super::library::{Library, library};
use crate::Unavailable;
use crate::gid::{self, Gid};

/// An open device, with a protection domain that everything on it is in.
pub(crate) struct Device {
    pub(super) verbs: &'static Library,
    pub(super) context: NonNull<Context>,
    pub(super) pd: NonNull<Pd>,
    name: String,
}

// SAFETY: verbs may be called from any thread, on the same objects too.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// A port of a device that has a link, and this host's address on it.
pub(crate) struct Port {
    pub(crate) device: Arc<Device>,
    pub(crate) number: u8,
    pub(crate) gid: Gid,
    /// The port's address within its subnet: of InfiniBand only.
    pub(crate) lid: u16,
    /// The largest packet, as verbs encode it: 1 for 256 bytes, 5 for 4096.
    pub(crate) mtu: u8,
    /// Whether packets are addressed by GID, as RoCE's are.
    pub(crate) ethernet: bool,
    /// Reads that may be on their way at once, in either direction.
    pub(crate) reads: u8,
    /// Completions that a queue may hold.
    pub(crate) max_completions: u32,
    /// Work requests that a queue may hold.
    pub(crate) max_requests: u32,
}

/// The first port with a link, of this device or any.
pub(crate) fn find_port(wanted: Option<&str>) -> Result<Port, Unavailable> {
    let library = library().map_err(|detail| Unavailable::NoLibrary { detail: detail.to_owned() })?;
    let mut count: c_int = 0;
    // SAFETY: the list has `count` entries, and is given back when all have been looked at.
    let list = unsafe { (library.get_device_list)(&raw mut count) };
    if list.is_null() {
        return Err(Unavailable::NoDevice);
    }
    let mut found = Err(Unavailable::NoDevice);
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: within the list.
        let device = unsafe { *list.add(at) };
        // SAFETY: a device of the list has a name.
        let name =
            unsafe { CStr::from_ptr((library.get_device_name)(device)) }.to_string_lossy().into_owned();
        if wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        // SAFETY: a device of the list.
        found = unsafe { Device::open(library, device, name) }.and_then(Port::of);
        if found.is_ok() {
            break;
        }
    }
    // SAFETY: got above; open devices do not need it.
    unsafe { (library.free_device_list)(list) };
    found
}

impl Device {
    /// # Safety
    /// `device` is one of a list that has not been given back.
    unsafe fn open(
        library: &'static Library,
        device: *mut abi::Device,
        name: String,
    ) -> Result<Arc<Self>, Unavailable> {
        let refused =
            |name: &str| Unavailable::Device { name: name.to_owned(), cause: io::Error::last_os_error() };
        // SAFETY: as this function requires.
        let context = NonNull::new(unsafe { (library.open_device)(device) }).ok_or_else(|| refused(&name))?;
        // SAFETY: the context is open.
        let Some(pd) = NonNull::new(unsafe { (library.alloc_pd)(context.as_ptr()) }) else {
            let error = refused(&name);
            // SAFETY: opened above, and not used any more.
            unsafe { (library.close_device)(context.as_ptr()) };
            return Err(error);
        };
        Ok(Arc::new(Self { verbs: library, context, pd, name }))
    }

    /// The system's name for it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn attributes(&self) -> io::Result<DeviceAttr> {
        let mut attributes = MaybeUninit::<DeviceAttr>::zeroed();
        // SAFETY: the context is open, and the structure is as large as the header's.
        checked(unsafe { (self.verbs.query_device)(self.context.as_ptr(), attributes.as_mut_ptr()) })?;
        // SAFETY: all zeros is a value of it, and it has been filled in.
        Ok(unsafe { attributes.assume_init() })
    }

    fn port(&self, number: u8) -> io::Result<PortAttr> {
        let mut port = PortAttr::default();
        // SAFETY: as above.
        checked(unsafe { (self.verbs.query_port)(self.context.as_ptr(), number, &raw mut port) })?;
        Ok(port)
    }

    /// The port's addresses, by their index.
    fn gids(&self, port: u8, count: c_int) -> Vec<Gid> {
        let at = |index: c_int| {
            let mut raw = [0_u64; 2];
            // SAFETY: a GID has sixteen bytes, and this is aligned as the header's is.
            let code = unsafe { (self.verbs.query_gid)(self.context.as_ptr(), port, index, &raw mut raw) };
            checked(code).ok()?;
            let [high, low] = raw.map(u64::to_ne_bytes);
            let bytes = std::array::from_fn(|at| if at < 8 { high[at] } else { low[at - 8] });
            Gid::read(&self.name, port, u8::try_from(index).ok()?, bytes)
        };
        (0..count).filter_map(at).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: everything made on the device held it, and is gone.
        unsafe {
            (self.verbs.dealloc_pd)(self.pd.as_ptr());
            (self.verbs.close_device)(self.context.as_ptr());
        }
    }
}

impl Port {
    /// The first port of a device that has a link.
    fn of(device: Arc<Device>) -> Result<Self, Unavailable> {
        let refused = |cause| Unavailable::Device { name: device.name.clone(), cause };
        let attributes = device.attributes().map_err(refused)?;
        for number in 1..=attributes.phys_port_cnt {
            let port = device.port(number).map_err(refused)?;
            if port.state != abi::PORT_ACTIVE {
                continue;
            }
            let ethernet = port.link_layer == abi::LINK_LAYER_ETHERNET;
            let Some(gid) = gid::best(device.gids(number, port.gid_tbl_len)) else { continue };
            let least = attributes.max_qp_rd_atom.min(attributes.max_qp_init_rd_atom);
            return Ok(Self {
                number,
                gid,
                lid: port.lid,
                mtu: u8::try_from(port.active_mtu).unwrap_or(1).clamp(1, 5),
                ethernet,
                reads: u8::try_from(least.clamp(0, MAX_READS)).unwrap_or(0),
                max_completions: u32::try_from(attributes.max_cqe).unwrap_or(0),
                max_requests: u32::try_from(attributes.max_qp_wr).unwrap_or(0),
                device,
            });
        }
        Err(Unavailable::NoPort { device: device.name.clone() })
    }
}

/// More reads at once gain nothing.
const MAX_READS: c_int = 16;
