//! libibverbs, opened when it is first asked for: a program starts where there is none.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use super::abi::{CompChannel, Context, Cq, Device, DeviceAttr, Mr, Pd, PortAttr, Qp, QpAttr, QpInitAttr};

/// Declares the functions that are looked up, and looks them up.
macro_rules! functions {
    ($($field:ident: $symbol:literal = fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of libibverbs that are called by name.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _library: libloading::Library,
        }

        impl Library {
            fn open() -> Result<Self, libloading::Error> {
                // SAFETY: initialising libibverbs has no preconditions.
                let library = unsafe { libloading::Library::new(NAME) }?;
                Ok(Self {
                    // SAFETY: the signatures are those of libibverbs' header, and the library outlives the pointers.
                    $($field: *unsafe { library.get($symbol) }?,)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    get_device_list: b"ibv_get_device_list\0" = fn(*mut c_int) -> *mut *mut Device;
    free_device_list: b"ibv_free_device_list\0" = fn(*mut *mut Device);
    get_device_name: b"ibv_get_device_name\0" = fn(*mut Device) -> *const c_char;
    open_device: b"ibv_open_device\0" = fn(*mut Device) -> *mut Context;
    close_device: b"ibv_close_device\0" = fn(*mut Context) -> c_int;
    query_device: b"ibv_query_device\0" = fn(*mut Context, *mut DeviceAttr) -> c_int;
    query_port: b"ibv_query_port\0" = fn(*mut Context, u8, *mut PortAttr) -> c_int;
    query_gid: b"ibv_query_gid\0" = fn(*mut Context, u8, c_int, *mut [u64; 2]) -> c_int;
    alloc_pd: b"ibv_alloc_pd\0" = fn(*mut Context) -> *mut Pd;
    dealloc_pd: b"ibv_dealloc_pd\0" = fn(*mut Pd) -> c_int;
    reg_mr: b"ibv_reg_mr\0" = fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
    dereg_mr: b"ibv_dereg_mr\0" = fn(*mut Mr) -> c_int;
    create_comp_channel: b"ibv_create_comp_channel\0" = fn(*mut Context) -> *mut CompChannel;
    destroy_comp_channel: b"ibv_destroy_comp_channel\0" = fn(*mut CompChannel) -> c_int;
    create_cq: b"ibv_create_cq\0" = fn(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq;
    destroy_cq: b"ibv_destroy_cq\0" = fn(*mut Cq) -> c_int;
    get_cq_event: b"ibv_get_cq_event\0" = fn(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
    ack_cq_events: b"ibv_ack_cq_events\0" = fn(*mut Cq, c_uint);
    create_qp: b"ibv_create_qp\0" = fn(*mut Pd, *mut QpInitAttr) -> *mut Qp;
    modify_qp: b"ibv_modify_qp\0" = fn(*mut Qp, *mut QpAttr, c_int) -> c_int;
    destroy_qp: b"ibv_destroy_qp\0" = fn(*mut Qp) -> c_int;
    wc_status_str: b"ibv_wc_status_str\0" = fn(c_uint) -> *const c_char;
}

/// libibverbs, if this host has it; else what the system said.
pub(super) fn library() -> Result<&'static Library, &'static str> {
    // Never closed: its threads and drivers would not survive that.
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| Library::open().map_err(|error| error.to_string()));
    library.as_ref().map_err(String::as_str)
}

/// What a completion's status means.
pub(super) fn status_text(status: c_uint) -> String {
    let Ok(library) = library() else { return format!("status {status}") };
    // SAFETY: it returns a constant string for any number.
    let text = unsafe { CStr::from_ptr((library.wc_status_str)(status)) };
    text.to_string_lossy().into_owned()
}

const NAME: &str = "libibverbs.so.1";
