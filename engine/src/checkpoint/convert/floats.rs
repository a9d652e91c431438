//! Weights between F16, BF16, F32 and bytes.
//!
//! Rounds to nearest, ties to even. Bytes may be unaligned, as they are in mapped files.

use half::{bf16, f16};

use crate::checkpoint::TensorDtype;

/// Little-endian floats of `dtype` as f32; other types than F16 and BF16 are read as F32.
pub(super) fn widen(bytes: &[u8], dtype: TensorDtype) -> Vec<f32> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match dtype {
        TensorDtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(pair(b)).to_f32()).collect(),
        TensorDtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(pair(b)).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// The values as little-endian floats of `dtype`.
pub(super) fn narrow(values: &[f32], dtype: TensorDtype) -> Vec<u8> {
    match dtype {
        TensorDtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        TensorDtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}
