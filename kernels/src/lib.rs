//! CPU kernels for the blocks of a transformer: linear layers over quantised or float weights, norms,
//! rotary embedding, gated activations, short convolutions and attention.
//!
//! Activations are `f32`, row-major and contiguous; weights are borrowed in the layout checkpoints have.
//! Knows no models, no checkpoints and no other array library: a caller passes slices and sizes. Every
//! function checks them first, returns [`ShapeError`] when they disagree, and shares its work over [`pool`]
//! with instructions chosen at run time ([`Level`]).
//!
//! ```
//! use mlxcel_kernels::{Weight, linear, quantize};
//!
//! let weight = quantize(&vec![0.5; 4 * 64], 4, 64, 4, 32)?;
//! let mut out = [0.0; 4];
//! linear(&[1.0; 64], 1, 64, &Weight::Affine(weight.as_affine()), 4, None, &mut out)?;
//! assert!((out[0] - 32.0).abs() < 1e-3);
//! # Ok::<(), mlxcel_kernels::ShapeError>(())
//! ```

mod argmax;
mod attention;
mod dequantize;
mod embed;
mod error;
mod gate;
mod linear;
mod memory;
mod microkernel;
mod norm;
mod pool;
mod quantize;
mod quantize_mxfp4;
mod rope;
mod short_conv;
mod simd;
mod weight;

pub use argmax::argmax;
pub use attention::{
    AttentionShape, KV_BLOCK_TOKENS, KvDtype, KvPool, KvShape, KvSide, KvSpan, SequenceKv, UnknownKvDtype,
    attention,
};
pub use dequantize::dequantize;
pub use embed::embed;
pub use error::ShapeError;
pub use gate::swiglu;
pub use linear::{FEW_ROWS, Projection, linear, linears};
pub use memory::Scratch;
pub use norm::{add, add_rms_norm, rms_norm};
pub use pool::{Pool, limit_threads, pool};
pub use quantize::{Quantized, quantize};
pub use quantize_mxfp4::{QuantizedMxfp4, quantize_mxfp4};
pub use rope::{Rope, rope};
pub use short_conv::{Gates, ShortConv, short_conv};
pub use simd::{Level, with_level};
pub use weight::{Affine, Floats, Mxfp4, Weight};
