//! Quantised matrices as our kernels read them: tiles of 16 rows and chunks of 64 inputs.
//!
//! Made once, when a model is loaded, by `kernels/tile.cuh`, which takes the place of MLX's layout: the
//! bytes are the same, in another order.

use mlxcel_mlx_bridge::cuda::Launch;
use mlxcel_mlx_bridge::{Array, Dtype, Quantized, QuantizedMode, Result};

use super::library::{Instance, Kernels, defect, is_supported, tag};
use crate::decoder::length;

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// Inputs of a chunk.
pub(super) const CHUNK_INPUTS: usize = 64;

/// A matrix `[outputs, inputs]` of affine groups, in tiles.
#[derive(Clone)]
pub(crate) struct TiledMatrix {
    /// U32 `[tiles, chunks, lanes * words]`.
    pub(super) weights: Array,
    /// Scales and biases, `[tiles, groups, 32]`.
    pub(super) groups: Array,
    pub(super) layout: Layout,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

/// What a kernel must be an instance for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) bits: i32,
    pub(super) group: i32,
    /// Of scales, biases and activations.
    pub(super) dtype: Dtype,
}

impl Layout {
    /// Part of the name of kernels for it.
    pub(super) fn name(self) -> String {
        format!("{}_{}_{}", tag(self.dtype), self.bits, self.group)
    }
}

impl TiledMatrix {
    /// The tiles of `matrix`, computed now; nothing where our kernels cannot take it with activations of
    /// `dtype`.
    pub(crate) fn new(kernels: &Kernels, matrix: &Quantized, dtype: Dtype) -> Result<Option<Self>> {
        let Some((layout, outputs, inputs)) = shape(matrix, dtype) else { return Ok(None) };
        let Some(biases) = &matrix.biases else { return Ok(None) };
        let (tiles, chunks) = (outputs / TILE_ROWS, inputs / CHUNK_INPUTS);
        let groups = inputs / layout.group as usize;
        let words = length(CHUNK_INPUTS * TILE_ROWS * layout.bits as usize / 32);
        let bits = layout.bits;
        let weights = kernels.launch_one(
            &format!("tile_weights_{bits}"),
            || Instance {
                name: format!("tile_weights_{bits}"),
                inputs: &["packed"],
                outputs: &["out"],
                dtype,
                shared_bytes: 0,
                body: format!(
                    "mlxcel::tile_weights<{bits}>(packed, reinterpret_cast<uint4*>(out), packed_shape[0] / 16, \
                     packed_shape[1] * 32 / {bits});"
                ),
            },
            (&[&matrix.weight], (&[length(tiles), length(chunks), words], Dtype::Uint32)),
            Launch::linear((tiles * chunks).div_ceil(8), 256),
        )?;
        let name = format!("tile_groups_{}", tag(dtype));
        let groups_made = kernels.launch_one(
            &name,
            || Instance {
                name: name.clone(),
                inputs: &["scales", "biases"],
                outputs: &["out"],
                dtype,
                shared_bytes: 0,
                body: "mlxcel::tile_groups<T>(scales, biases, out, scales_shape[0] / 16, scales_shape[1]);"
                    .to_owned(),
            },
            (&[&matrix.scales, biases], (&[length(tiles), length(groups), 32], dtype)),
            Launch::linear((tiles * groups * 8).div_ceil(256), 256),
        )?;
        // Evaluated one by one, so that no more than one matrix is in memory twice.
        mlxcel_mlx_bridge::eval(&[&weights, &groups_made])?;
        Ok(Some(Self { weights, groups: groups_made, layout, outputs, inputs }))
    }

    /// Both arrays.
    pub(crate) fn arrays(&self) -> [&Array; 2] {
        [&self.weights, &self.groups]
    }

    /// Rows `ids`, u32 `[count]`, of the matrix: `[count, inputs]`.
    pub(super) fn take(&self, kernels: &Kernels, ids: &Array) -> Result<Array> {
        let count = ids.size();
        if count == 0 {
            return Err(defect("no rows were asked for"));
        }
        let Layout { bits, group, dtype } = self.layout;
        let name = format!("take_rows_{}", self.layout.name());
        kernels.launch_one(
            &name,
            || Instance {
                name: name.clone(),
                inputs: &["w", "s", "ids"],
                outputs: &["out"],
                dtype,
                shared_bytes: 0,
                body: format!(
                    "const mlxcel::Tiled<T> matrix = {{reinterpret_cast<const uint4*>(w), reinterpret_cast<const uint2*>(s)}};\n\
                     mlxcel::take_rows<T, {bits}, {group}>(matrix, ids, out, w_shape[1] * 64);"
                ),
            },
            (&[&self.weights, &self.groups, ids], (&[length(count), length(self.inputs)], dtype)),
            Launch::linear(count, 128),
        )
    }
}

/// Layout, outputs and inputs of a matrix our kernels can take.
fn shape(matrix: &Quantized, dtype: Dtype) -> Option<(Layout, usize, usize)> {
    let layout = matrix.layout;
    let known = layout.mode == QuantizedMode::Affine
        && matches!(layout.bits, 4 | 8)
        && matches!(layout.group_size, 32 | 64 | 128)
        && is_supported(dtype);
    let &[rows, groups] = matrix.scales.shape() else { return None };
    let (outputs, inputs) = (rows as usize, groups as usize * layout.group_size as usize);
    let numbers = matrix.biases.as_ref().is_some_and(|biases| biases.dtype() == dtype)
        && matrix.scales.dtype() == dtype;
    let whole =
        outputs.is_multiple_of(TILE_ROWS) && inputs.is_multiple_of(CHUNK_INPUTS) && outputs > 0 && inputs > 0;
    (known && numbers && whole).then_some((
        Layout { bits: layout.bits, group: layout.group_size, dtype },
        outputs,
        inputs,
    ))
}

#[cfg(test)]
mod tests {
    use mlxcel_mlx_bridge::QuantizedLayout;

    use super::*;

    fn quantized(shape: [i32; 2], bits: i32, group: i32, dtype: Dtype) -> Quantized {
        let w = Array::ones(&shape, dtype).expect("ones");
        Quantized::quantize(&w, QuantizedLayout::affine(bits, group)).expect("it quantises")
    }

    #[test]
    fn whole_tiles_of_known_layouts_are_taken_and_nothing_else() {
        let taken = |shape_of, bits, group, dtype, activations| {
            shape(&quantized(shape_of, bits, group, dtype), activations).is_some()
        };
        let (bf16, f16) = (Dtype::Bfloat16, Dtype::Float16);
        assert!(taken([32, 128], 4, 64, bf16, bf16));
        assert!(taken([16, 64], 8, 32, f16, f16));
        assert!(!taken([24, 128], 4, 64, bf16, bf16), "rows that are no whole tile");
        assert!(!taken([32, 96], 4, 32, bf16, bf16), "inputs that are no whole chunk");
        assert!(!taken([32, 128], 3, 64, bf16, bf16), "three bits");
        assert!(!taken([32, 128], 4, 64, bf16, f16), "scales of another dtype");
        assert!(!taken([32, 128], 4, 64, Dtype::Float32, Dtype::Float32), "f32 activations");
    }
}
