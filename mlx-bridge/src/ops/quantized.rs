//! Matrices quantised in groups along the input dimension, by MLX's own functions.

use crate::array::{Array, optional, returned, returned_list};
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::mlx as ffi;

/// How a matrix is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantizedLayout {
    /// Bits of a weight: 2, 3, 4, 5, 6 or 8 in the affine mode.
    pub bits: i32,
    /// Weights that share a scale: 32, 64 or 128 in the affine mode.
    pub group_size: i32,
    /// The kind of scale.
    pub mode: QuantizedMode,
}

/// What a group's scale is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QuantizedMode {
    /// `scale * q + bias`, both floats.
    #[default]
    Affine,
    /// 4-bit floats with a power of two for each 32.
    Mxfp4,
    /// 8-bit floats with a power of two for each 32.
    Mxfp8,
    /// 4-bit floats with an 8-bit float for each 16.
    Nvfp4,
}

impl QuantizedLayout {
    /// The affine layout.
    pub fn affine(bits: i32, group_size: i32) -> Self {
        Self { bits, group_size, mode: QuantizedMode::Affine }
    }

    fn ffi(self) -> ffi::QuantizedLayout<'static> {
        let mode = match self.mode {
            QuantizedMode::Affine => "affine",
            QuantizedMode::Mxfp4 => "mxfp4",
            QuantizedMode::Mxfp8 => "mxfp8",
            QuantizedMode::Nvfp4 => "nvfp4",
        };
        ffi::QuantizedLayout { bits: self.bits, group_size: self.group_size, mode }
    }
}

/// A quantised matrix `[out, in]` (or a stack of them): packed u32 `[out, in * bits / 32]`,
/// scales and biases `[out, in / group_size]`.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The packed weights.
    pub weight: Array,
    /// One a group.
    pub scales: Array,
    /// One a group, in the affine mode.
    pub biases: Option<Array>,
    /// How to read them.
    pub layout: QuantizedLayout,
}

impl Quantized {
    /// Quantises a float matrix along its last axis.
    ///
    /// # Errors
    /// When the layout is unknown or the last axis is not whole groups.
    pub fn quantize(w: &Array, layout: QuantizedLayout) -> Result<Self> {
        const OP: &str = "quantize";
        let mut parts = returned_list(OP, &[w], ffi::quantize(w.raw(), &layout.ffi()))?.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(weight), Some(scales), biases) => Ok(Self { weight, scales, biases, layout }),
            _ => Err(Error::new(OP, ErrorKind::Other, &[w], "MLX must return weights and scales")),
        }
    }

    /// The matrix in floats, in the dtype of the scales.
    ///
    /// # Errors
    /// When the parts do not fit each other.
    pub fn dequantize(&self) -> Result<Array> {
        let (weight, scales) = (self.weight.raw(), self.scales.raw());
        // SAFETY: `biases` is null or borrowed for the call.
        let result =
            unsafe { ffi::dequantize(weight, scales, optional(self.biases.as_ref()), &self.layout.ffi()) };
        returned("dequantize", &[&self.weight, &self.scales], result)
    }

    /// `x @ w^T` when `transpose`, else `x @ w`.
    ///
    /// # Errors
    /// When the inner sizes differ.
    pub fn matmul(&self, x: &Array, transpose: bool) -> Result<Array> {
        let (weight, scales, biases) = (self.weight.raw(), self.scales.raw(), optional(self.biases.as_ref()));
        // SAFETY: `biases` is null or borrowed for the call.
        let result =
            unsafe { ffi::quantized_matmul(x.raw(), weight, scales, biases, transpose, &self.layout.ffi()) };
        returned("quantized_matmul", &[x, &self.weight, &self.scales], result)
    }

    /// `x @ w[experts[i]]^T` for each row, of a stack of matrices; see [`Array::gather_mm`].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gather_matmul(&self, x: &Array, experts: &Array) -> Result<Array> {
        let (weight, scales, biases) = (self.weight.raw(), self.scales.raw(), optional(self.biases.as_ref()));
        // SAFETY: `biases` is null or borrowed for the call.
        let result =
            unsafe { ffi::gather_qmm(x.raw(), weight, scales, biases, experts.raw(), &self.layout.ffi()) };
        returned("gather_qmm", &[x, &self.weight, experts], result)
    }
}
