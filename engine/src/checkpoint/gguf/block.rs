//! GGML block types that MLX can hold without loss, and their repacking.
//!
//! Q4_0, Q4_1 and Q8_0 are groups of 32 weights, which MLX's affine layout can express exactly:
//! a scale, a bias and unsigned integers. MXFP4 is MLX's mxfp4 in another order. It repacks rows;
//! which rows, in which order, the caller decides.

use half::f16;

use crate::Quantization;
use crate::checkpoint::tensor::TensorDtype;

/// Weights that share a scale.
const GROUP: usize = 32;

/// How a tensor's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockType {
    Float(TensorDtype),
    /// `d * (q - 8)`, q of 4 bits.
    Q4_0,
    /// `d * q + m`, q of 4 bits.
    Q4_1,
    /// `d * q`, q a signed byte.
    Q8_0,
    /// `2^(e - 127)` times a 4-bit float.
    Mxfp4,
}

/// Scales and biases of a whole tensor, widened from f16.
pub(super) struct Affine {
    pub(super) scales: Vec<f32>,
    pub(super) biases: Vec<f32>,
}

impl BlockType {
    pub(super) const SUPPORTED: &str = "Q4_0, Q4_1, Q8_0, MXFP4, F16, BF16, F32";

    /// The type with this number, or the name of one that is not supported.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        match id {
            0 => Ok(Self::Float(TensorDtype::F32)),
            1 => Ok(Self::Float(TensorDtype::F16)),
            30 => Ok(Self::Float(TensorDtype::BF16)),
            2 => Ok(Self::Q4_0),
            3 => Ok(Self::Q4_1),
            8 => Ok(Self::Q8_0),
            39 => Ok(Self::Mxfp4),
            _ => Err(UNSUPPORTED
                .iter()
                .find(|(known, _)| *known == id)
                .map_or_else(|| format!("number {id}"), |(_, name)| (*name).to_owned())),
        }
    }

    /// Elements of one block.
    pub(super) fn elements(self) -> usize {
        match self {
            Self::Float(_) => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 | Self::Mxfp4 => GROUP,
        }
    }

    /// Bytes of one block.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.size_bytes(),
            Self::Q4_0 => 2 + GROUP / 2,
            Self::Q4_1 => 4 + GROUP / 2,
            Self::Q8_0 => 2 + GROUP,
            Self::Mxfp4 => 1 + GROUP / 2,
        }
    }

    /// The MLX quantisation that holds it, or `None` for floats.
    pub(super) fn quantization(self) -> Option<Quantization> {
        let bits = match self {
            Self::Float(_) => return None,
            Self::Q4_0 | Self::Q4_1 => 4,
            Self::Q8_0 => 8,
            Self::Mxfp4 => return Some(Quantization::Mxfp4),
        };
        Some(Quantization::Affine { bits, group_size: GROUP as u32 })
    }

    /// Appends the integers of the blocks of `row` as MLX packs them: little-endian u32 words,
    /// the first weight in the lowest bits.
    pub(super) fn pack_row(self, row: &[u8], packed: &mut Vec<u8>) {
        for block in row.chunks_exact(self.bytes()) {
            match self {
                Self::Float(_) => packed.extend_from_slice(block),
                Self::Q4_0 => pack_nibbles(&block[2..], packed),
                Self::Q4_1 => pack_nibbles(&block[4..], packed),
                Self::Mxfp4 => pack_nibbles(&block[1..], packed),
                // Adding 128 to a signed byte flips its highest bit.
                Self::Q8_0 => packed.extend(block[2..].iter().map(|q| q ^ 0x80)),
            }
        }
    }

    /// Appends the first byte of every block of `row`, which is the scale of MXFP4.
    pub(super) fn powers_row(self, row: &[u8], powers: &mut Vec<u8>) {
        powers.extend(row.chunks_exact(self.bytes()).map(|block| block[0]));
    }

    /// Appends scale and bias of every block of `row`, of types that have both.
    pub(super) fn affine_row(self, row: &[u8], affine: &mut Affine) {
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        for block in row.chunks_exact(self.bytes()) {
            let scale = half(block);
            affine.scales.push(scale);
            affine.biases.push(match self {
                Self::Float(_) | Self::Mxfp4 => 0.0,
                Self::Q4_0 => -8.0 * scale,
                Self::Q4_1 => half(&block[2..]),
                Self::Q8_0 => -128.0 * scale,
            });
        }
    }
}

/// GGML keeps weight j in the low and weight j + 16 in the high half of byte j; MLX keeps
/// neighbours together.
fn pack_nibbles(block: &[u8], packed: &mut Vec<u8>) {
    let low = |index: usize| block[index] & 0x0f;
    let high = |index: usize| block[index] >> 4;
    packed.extend((0..8).map(|pair| low(2 * pair) | low(2 * pair + 1) << 4));
    packed.extend((0..8).map(|pair| high(2 * pair) | high(2 * pair + 1) << 4));
}

impl Affine {
    /// F16, which holds every scale exactly, unless a bias would overflow it.
    pub(super) fn dtype(&self) -> TensorDtype {
        let overflows = |value: &f32| value.is_finite() && f16::from_f32(*value).is_infinite();
        if self.biases.iter().any(overflows) { TensorDtype::F32 } else { TensorDtype::F16 }
    }
}

/// Types that exist but have no lossless MLX layout (or none this program reads).
const UNSUPPORTED: &[(u32, &str)] = &[
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
];
