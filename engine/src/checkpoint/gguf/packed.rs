//! One GGUF tensor as the MLX tensors it becomes, made on demand.
//!
//! A quantised weight becomes two or three tensors (codes, scales, perhaps biases); a float stays one. Rows
//! of rotated projections are put back in Hugging Face's order on the way.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::block::{Affine, BlockType};
use crate::checkpoint::mapped::MappedFile;
use crate::checkpoint::tensor::{TensorBytes, TensorDtype, TensorInfo};

/// Which MLX tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Part {
    /// A float tensor, or the packed integers of a quantised one.
    Weight,
    Scales,
    Biases,
}

/// Rows and their order.
#[derive(Clone)]
pub(in crate::checkpoint) struct Rows {
    pub(super) file: Arc<MappedFile>,
    pub(super) range: Range<usize>,
    pub(super) block: BlockType,
    pub(super) shape: Vec<usize>,
    /// Width of the heads whose rows are interleaved, for rotated projections.
    pub(super) interleaved_heads: Option<usize>,
}

impl Rows {
    pub(in crate::checkpoint) fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// Shape and type of a part; scales are F32 instead of F16 where a bias overflows F16, which
    /// only `produce` can tell.
    pub(in crate::checkpoint) fn info(&self, part: Part) -> TensorInfo {
        let mut shape = self.shape.clone();
        let dtype = match (self.block, part) {
            (BlockType::Float(dtype), _) => dtype,
            (_, Part::Weight) => TensorDtype::U32,
            (BlockType::Mxfp4, _) => TensorDtype::U8,
            (_, Part::Scales | Part::Biases) => TensorDtype::F16,
        };
        if let (Some(quantization), Some(columns)) = (self.block.quantization(), shape.last_mut()) {
            *columns = match part {
                Part::Weight => *columns * quantization.bits() as usize / 32,
                Part::Scales | Part::Biases => *columns / quantization.group_size() as usize,
            };
        }
        TensorInfo { dtype, shape }
    }

    /// The tensor; floats in their stored order are not copied.
    pub(in crate::checkpoint) fn produce(&self, part: Part) -> (TensorDtype, TensorBytes) {
        let dtype = self.info(part).dtype;
        match (self.block, part) {
            (BlockType::Float(_), _) if self.interleaved_heads.is_none() => {
                (dtype, TensorBytes::mapped(self.file.clone(), self.range.clone()))
            }
            (_, Part::Weight) => {
                let mut packed = Vec::with_capacity(self.range.len());
                self.for_each_row(|row| self.block.pack_row(row, &mut packed));
                (dtype, packed.into())
            }
            (BlockType::Mxfp4, _) => {
                let mut powers = Vec::new();
                self.for_each_row(|row| self.block.powers_row(row, &mut powers));
                (dtype, powers.into())
            }
            (_, Part::Scales | Part::Biases) => {
                let mut affine = Affine { scales: Vec::new(), biases: Vec::new() };
                self.for_each_row(|row| self.block.affine_row(row, &mut affine));
                let dtype = affine.dtype();
                let values = if part == Part::Scales { affine.scales } else { affine.biases };
                (dtype, float_bytes(&values, dtype).into())
            }
        }
    }

    fn for_each_row(&self, mut visit: impl FnMut(&[u8])) {
        let bytes = &self.file.bytes()[self.range.clone()];
        // A vector is one row, unless its elements are to be reordered like rows.
        let rows = match (self.shape.as_slice(), self.interleaved_heads) {
            ([_], None) => 1,
            (shape, _) => shape[0],
        };
        let row_bytes = bytes.len() / rows;
        for row in 0..rows {
            let source = self.interleaved_heads.map_or(row, |head_dim| interleaved(row, head_dim));
            visit(&bytes[source * row_bytes..][..row_bytes]);
        }
    }
}

/// Where llama.cpp put Hugging Face's row: it interleaves the two halves of every head, since
/// it rotates neighbours where Hugging Face rotates halves.
fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

fn float_bytes(values: &[f32], dtype: TensorDtype) -> Vec<u8> {
    match dtype {
        TensorDtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
    }
}
