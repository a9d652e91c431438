//! Products with tiled matrices: few rows by a kernel that reads the weights once, many through a plain
//! copy of the matrix and MLX's own product. A few rows can be normed on the way.
//!
//! Which shape of block is launched follows from the shapes alone; the figures are from one H200
//! (bench/results), where they are within 1.2 to 2.2 times the time of reading the weights.

use mlxcel_mlx_bridge::cuda::Launch;
use mlxcel_mlx_bridge::{Array, Error, ErrorKind, Result};

use super::library::{Instance, Kernels, defect};
use super::pointwise;
use super::rows::Rows;
use super::tiles::{Layout, TILE_ROWS, TiledMatrix};
use crate::decoder::length;
use crate::decoder::residual::Residual;
use crate::decoder::weights::NormWeights;

/// Rows beyond which a plain copy of the matrix pays: it costs what 30 more rows do.
const FEW_ROWS: usize = 64;

/// What the products become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// Side by side: `[rows, sum of outputs]`.
    Plain,
    /// `silu(first) * second`: `[rows, outputs]`.
    Gated,
}

/// `x W^T` for each of up to three matrices of one layout and width: `x` is `[rows, ...]` of `inputs` elements a row.
pub(super) fn multiply(
    kernels: &Kernels,
    x: &Array,
    matrices: &[&TiledMatrix],
    epilogue: Epilogue,
) -> Result<Array> {
    let rows = check(x, matrices, epilogue)?;
    if rows <= FEW_ROWS {
        let mut made = few_rows(kernels, &Rows::plain(x), matrices, epilogue)?;
        return made.pop().ok_or_else(|| defect("a product returned none"));
    }
    let plain = dequantize(kernels, matrices)?;
    let x = if x.ndim() == 2 { x.clone() } else { x.reshape(&[length(rows), length(matrices[0].inputs)])? };
    let products = x.matmul(&plain.transpose(&[1, 0])?)?;
    match epilogue {
        Epilogue::Plain => Ok(products),
        Epilogue::Gated => pointwise::silu_multiply_halves(kernels, &products),
    }
}

/// As `multiply`, of the residual stream's rows under `norm`: adds what is pending to the stream. Nothing where the
/// rows are better normed by themselves.
pub(super) fn multiply_normed(
    kernels: &Kernels,
    residual: &mut Residual,
    norm: &NormWeights,
    matrices: &[&TiledMatrix],
    epilogue: Epilogue,
) -> Result<Option<Array>> {
    let rows = check(&residual.hidden, matrices, epilogue)?;
    let Some(source) = Rows::normed(residual, norm, rows) else { return Ok(None) };
    let mut made = few_rows(kernels, &source, matrices, epilogue)?;
    if made.len() > 1 {
        residual.hidden = made.pop().ok_or_else(|| defect("a product returned no sum"))?;
        residual.delta = None;
    }
    Ok(made.pop())
}

impl Epilogue {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "Plain",
            Self::Gated => "Gated",
        }
    }
}

/// Whether matrices can share a launch.
pub(super) fn alike(matrices: &[&TiledMatrix]) -> bool {
    matrices.windows(2).all(|pair| pair[0].layout == pair[1].layout && pair[0].inputs == pair[1].inputs)
}

fn check(x: &Array, matrices: &[&TiledMatrix], epilogue: Epilogue) -> Result<usize> {
    let refused = |message: String| Error {
        op: "tiled_product",
        kind: ErrorKind::Argument,
        operands: format!(" of {x:?}"),
        message,
    };
    let Some(first) = matrices.first().filter(|_| matrices.len() <= 3 && alike(matrices)) else {
        return Err(refused(format!(
            "one to three matrices of one layout and width are needed, got {}",
            matrices.len()
        )));
    };
    if epilogue == Epilogue::Gated && (matrices.len() != 2 || matrices[1].outputs != first.outputs) {
        return Err(refused("a gated product takes two matrices of one shape".to_owned()));
    }
    let rows = x.shape().first().map_or(0, |&rows| rows as usize);
    if rows == 0 || x.size() != rows * first.inputs || x.dtype() != first.layout.dtype {
        return Err(refused(format!("rows must have {} elements of {}", first.inputs, first.layout.dtype)));
    }
    Ok(rows)
}

/// How a launch divides the work; see `qmm` in kernels/qmm.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BlockShape {
    /// Tiles of a warp.
    tiles: usize,
    /// Eights of rows of x.
    eights: usize,
    /// Warps of a block, which share the inputs.
    warps: usize,
    /// Chunks read ahead.
    ahead: usize,
    /// There is one row of x.
    one: bool,
}

impl BlockShape {
    fn choose(rows: usize, tiles: usize, inputs: usize, epilogue: Epilogue) -> Self {
        let one = rows == 1;
        let shape = |tiles, eights, warps, ahead| Self { tiles, eights, warps, ahead, one };
        match (epilogue, rows) {
            (Epilogue::Gated, ..=8) => shape(2, 1, 4, 4),
            (Epilogue::Gated, _) => shape(2, 2, 8, 2),
            // So many tiles that blocks need not be small to fill the device.
            (Epilogue::Plain, ..=8) if tiles >= 2048 => shape(2, 1, 8, 2),
            // Few tiles and much to read for each: many warps on one.
            (Epilogue::Plain, ..=8) if tiles <= 264 && inputs >= 2048 => shape(1, 1, 16, 2),
            (Epilogue::Plain, ..=8) => shape(1, 1, 8, 2),
            (Epilogue::Plain, _) if tiles <= 384 => shape(1, 2, 8, 2),
            (Epilogue::Plain, _) => shape(2, 2, 8, 2),
        }
    }
}

/// The product, and, where the source sums, the sum.
fn few_rows(
    kernels: &Kernels,
    source: &Rows<'_>,
    matrices: &[&TiledMatrix],
    epilogue: Epilogue,
) -> Result<Vec<Array>> {
    let (first, rows) = (matrices[0], source.x().shape()[0] as usize);
    let outputs: usize = match epilogue {
        Epilogue::Plain => matrices.iter().map(|matrix| matrix.outputs).sum(),
        Epilogue::Gated => first.outputs,
    };
    let shape = BlockShape::choose(rows, outputs / TILE_ROWS, first.inputs, epilogue);
    let per_block = if epilogue == Epilogue::Gated { shape.tiles / 2 } else { shape.tiles };
    let launch = Launch {
        grid: [(outputs / TILE_ROWS).div_ceil(per_block) as u32, rows.div_ceil(8 * shape.eights) as u32, 1],
        block: [shape.warps as u32 * 32, 1, 1],
        fill: None,
    };
    let name = name(source, shape, first.layout, (epilogue, matrices.len()));
    let inputs: Vec<&Array> =
        source.arrays().chain(matrices.iter().flat_map(|matrix| matrix.arrays())).collect();
    let names = [source.names(), &MATRICES[..2 * matrices.len()]].concat();
    let dtype = first.layout.dtype;
    let instance = || Instance {
        name: name.clone(),
        inputs: &names,
        outputs: if source.sums() { &["out", "sum"] } else { &["out"] },
        dtype,
        shared_bytes: source.shared_bytes(),
        body: body(source, shape, first.layout, (epilogue, matrices.len())),
    };
    let product = ([length(rows), length(outputs)], source.x().shape());
    let made = [(&product.0[..], dtype), (product.1, dtype)];
    let made = if source.sums() { &made[..] } else { &made[..1] };
    kernels.launch(&name, instance, (&inputs, made), launch)
}

fn name(
    source: &Rows<'_>,
    shape: BlockShape,
    layout: Layout,
    (epilogue, count): (Epilogue, usize),
) -> String {
    let BlockShape { tiles, eights, warps, ahead, one } = shape;
    let (layout, one, kind, source) = (layout.name(), u8::from(one), epilogue.name(), source.name());
    format!("qmm_{layout}_{tiles}_{eights}_{warps}_{ahead}_{one}_{kind}_{count}{source}")
}

fn body(
    source: &Rows<'_>,
    shape: BlockShape,
    layout: Layout,
    (epilogue, count): (Epilogue, usize),
) -> String {
    let BlockShape { tiles, eights, warps, ahead, one } = shape;
    let Layout { bits, group, .. } = layout;
    format!(
        "{}{}mlxcel::qmm<T, {bits}, {group}, {tiles}, {eights}, 1, {warps}, {ahead}, {one}, \
         mlxcel::Epilogue::k{}, {count}>(rows, matrices, tiles, out, x_shape[0], w0_shape[1] * 64);",
        declarations(count),
        source.declaration(warps * 32),
        epilogue.name(),
    )
}

/// The matrices under each other, as plain numbers: `[sum of outputs, inputs]`.
pub(super) fn dequantize(kernels: &Kernels, matrices: &[&TiledMatrix]) -> Result<Array> {
    let first = matrices[0];
    let outputs: usize = matrices.iter().map(|matrix| matrix.outputs).sum();
    let count = matrices.len();
    let Layout { bits, group, dtype } = first.layout;
    let name = format!("dequantize_{}_{count}", first.layout.name());
    let inputs: Vec<&Array> = matrices.iter().flat_map(|matrix| matrix.arrays()).collect();
    let instance = || Instance {
        name: name.clone(),
        inputs: &MATRICES[..inputs.len()],
        outputs: &["out"],
        dtype,
        shared_bytes: 0,
        body: format!(
            "{}mlxcel::dequantize<T, {bits}, {group}, {count}>(matrices, tiles, out, w0_shape[1] * 64);",
            declarations(count)
        ),
    };
    let warps = outputs / TILE_ROWS * (first.inputs / super::tiles::CHUNK_INPUTS);
    let launch = Launch::linear(warps.div_ceil(8), 256);
    kernels.launch_one(&name, instance, (&inputs, (&[length(outputs), length(first.inputs)], dtype)), launch)
}

/// The names of up to three matrices.
const MATRICES: [&str; 6] = ["w0", "s0", "w1", "s1", "w2", "s2"];

/// `matrices` and `tiles` as the templates take them.
fn declarations(count: usize) -> String {
    let each = |text: &dyn Fn(usize) -> String| (0..count).map(text).collect::<Vec<_>>().join(", ");
    let matrices =
        each(&|i| format!("{{reinterpret_cast<const uint4*>(w{i}), reinterpret_cast<const uint2*>(s{i})}}"));
    let tiles = each(&|i| format!("w{i}_shape[0]"));
    format!("const mlxcel::Tiled<T> matrices[] = {{{matrices}}};\nconst int tiles[] = {{{tiles}}};\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_block_follows_the_rows_and_the_matrix() {
        let plain = |rows, tiles, inputs| BlockShape::choose(rows, tiles, inputs, Epilogue::Plain);
        assert_eq!(plain(1, 256, 4096), BlockShape { tiles: 1, eights: 1, warps: 16, ahead: 2, one: true });
        assert_eq!(plain(8, 384, 4096), BlockShape { tiles: 1, eights: 1, warps: 8, ahead: 2, one: false });
        assert_eq!(plain(2, 8016, 4096).tiles, 2);
        assert_eq!(plain(64, 256, 4096).eights, 2);
        assert_eq!(BlockShape::choose(1, 896, 4096, Epilogue::Gated).tiles % 2, 0);
    }

    #[test]
    fn declarations_name_every_matrix() {
        let text = declarations(2);
        assert!(text.contains("(w1)") && text.contains("w1_shape[0]") && !text.contains("w2"));
    }
}
