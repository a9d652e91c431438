//! Stored rows outside a pool: those that come from another process's, or go to one.
//!
//! The same bytes as in a pool, which need not be aligned: numbers, then the steps and least values of their groups.

use half::f16;

use super::storage::{KvDtype, Rows};
use crate::error::{ShapeError, expect_len};
use crate::simd::Portable;

impl KvDtype {
    /// Bytes of a row's steps and least values: a pair of `bf16` a group, none for floats.
    pub fn scale_bytes(self, head_dim: usize) -> usize {
        2 * self.scales(head_dim)
    }

    /// Stores a row's `values` as `numbers` and `scales`, native-endian.
    ///
    /// # Errors
    /// [`ShapeError`] when a length is not what this dtype takes for so many values.
    pub fn encode_row(self, values: &[f32], numbers: &mut [u8], scales: &mut [u8]) -> Result<(), ShapeError> {
        self.check_row(values.len(), numbers.len(), scales.len())?;
        let mut pairs = vec![0u16; self.scales(values.len())];
        self.encode(values, numbers, &mut pairs);
        scales.copy_from_slice(bytemuck::cast_slice(&pairs));
        Ok(())
    }

    /// The `values` of a row that is stored as `numbers` and `scales`.
    ///
    /// # Errors
    /// As [`encode_row`](Self::encode_row).
    pub fn decode_row(self, numbers: &[u8], scales: &[u8], values: &mut [f32]) -> Result<(), ShapeError> {
        let head_dim = values.len();
        self.check_row(head_dim, numbers.len(), scales.len())?;
        match self {
            Self::F32 => bytemuck::cast_slice_mut(values).copy_from_slice(numbers),
            Self::F16 => {
                for (value, bytes) in values.iter_mut().zip(numbers.chunks_exact(2)) {
                    *value = f16::from_ne_bytes([bytes[0], bytes[1]]).to_f32();
                }
            }
            Self::Int8 | Self::Int4 => {
                let pair = |bytes: &[u8]| u16::from_ne_bytes([bytes[0], bytes[1]]);
                let pairs: Vec<u16> = scales.chunks_exact(2).map(pair).collect();
                self.decode(Portable, Rows { bytes: numbers, scales: &pairs }, head_dim, values);
            }
        }
        Ok(())
    }

    fn check_row(self, head_dim: usize, numbers: usize, scales: usize) -> Result<(), ShapeError> {
        expect_len("numbers of a row", numbers, &[self.value_bytes(head_dim)])?;
        expect_len("scales of a row", scales, &[self.scale_bytes(head_dim)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::{KvShape, KvSide, KvSpan};
    use super::*;

    #[test]
    fn a_row_apart_has_the_bytes_it_has_in_a_pool() {
        let values: Vec<f32> = (0..64).map(|at| (at as f32 * 0.7).sin() * 2.0).collect();
        for dtype in KvDtype::ALL {
            let mut side = KvSide::new(KvShape { blocks: 1, kv_heads: 1, head_dim: 64 }, dtype);
            side.write(&values, KvSpan { blocks: &[0], start: 3 }).expect("there is room");
            let (mut numbers, mut scales) = (vec![0; dtype.value_bytes(64)], vec![0; dtype.scale_bytes(64)]);
            dtype.encode_row(&values, &mut numbers, &mut scales).expect("the lengths are right");
            let block = side.block(0).expect("it is there");
            assert_eq!(block[3 * numbers.len()..4 * numbers.len()], numbers);
            let from = 32 * numbers.len() + 3 * scales.len();
            assert_eq!(block[from..from + scales.len()], scales);
            let mut read = vec![0.0; 64];
            dtype.decode_row(&numbers, &scales, &mut read).expect("the lengths are right");
            assert_eq!(read, side.values(0, 0, 3).expect("it is there"));
        }
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        assert!(KvDtype::Int8.encode_row(&[0.0; 64], &mut [0; 63], &mut [0; 8]).is_err());
        assert!(KvDtype::Int8.decode_row(&[0; 64], &[0; 6], &mut [0.0; 64]).is_err());
        assert!(KvDtype::F16.decode_row(&[0; 64], &[], &mut [0.0; 64]).is_err());
    }
}
