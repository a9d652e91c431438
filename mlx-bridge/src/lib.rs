//! Rust bindings of MLX: arrays, operations, devices, and host operations written in Rust.
//!
//! A call either returns arrays or a typed [`Error`] with the operation, its operands' shapes
//! and MLX's own words; no C++ exception and no Rust panic crosses the boundary. It knows no
//! models: which operations make a model is the engine's to say. Arrays are lazy nodes of a
//! graph, confined to the thread that made them by their types.
//!
//! # Linking
//!
//! MLX is a shared library outside the system's folders, and link arguments do not reach
//! dependent crates. A crate with binaries or tests depends on this one directly (cargo hands
//! `DEP_MLX_*` to direct dependents only) and has this build script:
//!
//! ```text
//! fn main() {
//!     println!("cargo::rerun-if-changed=build.rs");
//!     for arg in std::env::var("DEP_MLX_LINK_ARGS").unwrap_or_default().split(';').filter(|a| !a.is_empty()) {
//!         println!("cargo::rustc-link-arg={arg}");
//!     }
//! }
//! ```
//!
//! At run time the CUDA build of MLX looks for NVIDIA's libraries in `nvidia/*/lib` beside its
//! unpacked wheel, then in `LD_LIBRARY_PATH`; on Windows the DLLs lie beside the program.

mod array;
pub mod cuda;
mod device;
pub mod distributed;
mod dtype;
mod error;
mod evaluation;
pub mod fast;
mod ffi;
mod host;
pub mod memory;
mod ops;
mod owner;
pub mod random;

pub use array::Array;
pub use device::{
    Device, DeviceInfo, DeviceKind, Stream, cpu_library, default_device, set_default_device, version,
};
pub use dtype::{Dtype, Element};
pub use error::{Error, ErrorKind, Result};
pub use evaluation::{async_eval, eval, synchronize};
pub use host::{FailureWatch, HostInput, HostOutput, host_op, host_op_single};
pub use ops::quantized::{Quantized, QuantizedLayout, QuantizedMode};
