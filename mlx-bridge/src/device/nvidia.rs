//! Versions of NVIDIA's driver, which MLX does not report.
//!
//! Asks the driver's own libraries where they can be loaded, and says nothing where they cannot.

use std::ffi::{CStr, c_char, c_int, c_uint};

use libloading::{Library, Symbol};

/// `driver_version` and `cuda_version`, as far as they are known.
pub(super) fn versions() -> Vec<(String, String)> {
    let driver = driver_version().map(|version| ("driver_version".to_owned(), version));
    let cuda = cuda_version().map(|version| ("cuda_version".to_owned(), version));
    driver.into_iter().chain(cuda).collect()
}

fn driver_version() -> Option<String> {
    let name = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };
    // SAFETY: loading NVIDIA's library runs its own initialisers only.
    let library = unsafe { Library::new(name) }.ok()?;
    // SAFETY: these are the functions' types in nvml.h.
    let (init, version, shutdown) = unsafe {
        let init: Symbol<unsafe extern "C" fn() -> c_int> = library.get(b"nvmlInit_v2\0").ok()?;
        let version: Symbol<unsafe extern "C" fn(*mut c_char, c_uint) -> c_int> =
            library.get(b"nvmlSystemGetDriverVersion\0").ok()?;
        let shutdown: Symbol<unsafe extern "C" fn() -> c_int> = library.get(b"nvmlShutdown\0").ok()?;
        (init, version, shutdown)
    };
    let mut text: [c_char; 96] = [0; 96];
    // SAFETY: NVML is initialised before it is asked and shut down after; the buffer has the length
    // passed, and NVML ends what it writes with a nul.
    let found = unsafe {
        if init() != 0 {
            return None;
        }
        let found = version(text.as_mut_ptr(), text.len() as c_uint) == 0;
        shutdown();
        found
    };
    // SAFETY: the last byte of the zeroed buffer stays nul, whatever was written before it.
    found.then(|| unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

fn cuda_version() -> Option<String> {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    // SAFETY: loading NVIDIA's library runs its own initialisers only.
    let library = unsafe { Library::new(name) }.ok()?;
    let mut version: c_int = 0;
    // SAFETY: this is the function's type in cuda.h; it needs no initialisation and writes one int.
    let done = unsafe {
        let ask: Symbol<unsafe extern "system" fn(*mut c_int) -> c_int> =
            library.get(b"cuDriverGetVersion\0").ok()?;
        ask(&raw mut version)
    };
    (done == 0).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
}
