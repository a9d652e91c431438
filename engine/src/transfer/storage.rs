//! How a row, one token's keys or values of one head, is stored in a cache: bytes to values and back.

use half::bf16;
use mlxcel_kernels::KvDtype;
use mlxcel_mlx_bridge::Dtype;
use serde::{Deserialize, Serialize};

/// How the rows of a cache are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RowStorage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 11 significant bits.
    F16,
    /// 16-bit floats with 8 significant bits.
    Bf16,
    /// 8-bit codes with scales, as [`KvDtype::Int8`].
    Int8,
    /// 4-bit codes with scales, as [`KvDtype::Int4`].
    Int4,
}

impl RowStorage {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int4];

    /// Bytes of a row's numbers.
    pub fn number_bytes(self, head_dim: usize) -> usize {
        self.kv_dtype().map_or(2 * head_dim, |dtype| dtype.value_bytes(head_dim))
    }

    /// Bytes of its scales; none for floats.
    pub fn scale_bytes(self, head_dim: usize) -> usize {
        self.kv_dtype().map_or(0, |dtype| dtype.scale_bytes(head_dim))
    }

    /// Bytes of both.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        self.number_bytes(head_dim) + self.scale_bytes(head_dim)
    }

    /// Stores a row's values, rounded to the nearest that can be stored.
    ///
    /// # Panics
    /// When a length is not what this storage takes: layouts say how long rows are.
    pub(super) fn encode(self, values: &[f32], numbers: &mut [u8], scales: &mut [u8]) {
        match self.kv_dtype() {
            Some(dtype) => {
                dtype.encode_row(values, numbers, scales).expect("a layout's rows have the length they say");
            }
            None => {
                for (value, bytes) in values.iter().zip(numbers.chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&bf16::from_f32(*value).to_ne_bytes());
                }
            }
        }
    }

    /// The values of a row.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub(super) fn decode(self, numbers: &[u8], scales: &[u8], values: &mut [f32]) {
        match self.kv_dtype() {
            Some(dtype) => {
                dtype.decode_row(numbers, scales, values).expect("a layout's rows have the length they say");
            }
            None => {
                for (value, bytes) in values.iter_mut().zip(numbers.chunks_exact(2)) {
                    *value = bf16::from_ne_bytes([bytes[0], bytes[1]]).to_f32();
                }
            }
        }
    }

    fn kv_dtype(self) -> Option<KvDtype> {
        match self {
            Self::F32 => Some(KvDtype::F32),
            Self::F16 => Some(KvDtype::F16),
            Self::Bf16 => None,
            Self::Int8 => Some(KvDtype::Int8),
            Self::Int4 => Some(KvDtype::Int4),
        }
    }

    /// How rows of MLX arrays of `dtype` are stored; none where it is no float of at most 32 bits.
    pub(crate) fn of_floats(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::Float32 => Some(Self::F32),
            Dtype::Float16 => Some(Self::F16),
            Dtype::Bfloat16 => Some(Self::Bf16),
            _ => None,
        }
    }
}

impl From<KvDtype> for RowStorage {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::F32,
            KvDtype::F16 => Self::F16,
            KvDtype::Int8 => Self::Int8,
            KvDtype::Int4 => Self::Int4,
        }
    }
}
