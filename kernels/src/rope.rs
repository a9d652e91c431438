//! Rotary position embedding.
//!
//! Rotates pairs by given frequencies, and keeps the last table of angles, as all layers of a step share it. Knows
//! no variants (linear, Llama 3, YaRN): whoever computes the frequencies does.

use std::cell::RefCell;

use crate::error::{ShapeError, expect_len};
use crate::memory::Disjoint;
use crate::pool::pool;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// How queries and keys are rotated.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// Radians a position, one for each rotated pair: `[dims / 2]`.
    pub inverse_frequencies: &'a [f32],
    /// Values of a head that are rotated, even; the rest stays as it is.
    pub dims: usize,
    /// Pairs are neighbours `(2i, 2i + 1)`; otherwise `(i, i + dims / 2)`.
    pub traditional: bool,
    /// Factor on the rotated part (YaRN's attention scale; 1 where there is none).
    pub magnitude: f32,
}

/// Rotates `x`, `[tokens, heads, head_dim]`, in place; `positions` is `[tokens]`.
///
/// Angles are products in `f32`, as in MLX; their sine and cosine are exact to the last bit of `f32`.
///
/// # Errors
/// [`ShapeError`] when a length disagrees, or `dims` is odd or above `head_dim`.
pub fn rope(
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    positions: &[i32],
    rope: &Rope<'_>,
) -> Result<(), ShapeError> {
    expect_len("input", x.len(), &[positions.len(), heads, head_dim])?;
    if rope.dims > head_dim || !rope.dims.is_multiple_of(2) {
        return Err(ShapeError::Bounds {
            what: "even rotated dims",
            least: 0,
            most: head_dim,
            found: rope.dims,
        });
    }
    expect_len("inverse frequencies", rope.inverse_frequencies.len(), &[rope.dims / 2])?;
    let width = heads * head_dim;
    if width == 0 || rope.dims == 0 {
        return Ok(());
    }
    LAST_TABLE.with_borrow_mut(|table| {
        table.update(positions, rope);
        let (level, parts, half, table) = (Level::current(), Disjoint::new(x), rope.dims / 2, &table.turns);
        let per_task = (VALUES_PER_TASK / width).max(1);
        pool().parallel_for(positions.len().div_ceil(per_task), |task| {
            for token in task * per_task..positions.len().min((task + 1) * per_task) {
                // SAFETY: tokens do not overlap.
                let heads = unsafe { parts.part(token * width..(token + 1) * width) };
                let (cos, sin) = table[token * 2 * half..][..2 * half].split_at(half);
                dispatch(level, Rotate { heads, head_dim, cos, sin, traditional: rope.traditional });
            }
        });
    });
    Ok(())
}

/// Less than this one thread does faster than two can share.
const VALUES_PER_TASK: usize = 16_384;

thread_local! {
    /// All layers of a step rotate by the same angles, and sines cost more than the rotation.
    static LAST_TABLE: RefCell<Table> = const { RefCell::new(Table::empty()) };
}

/// Cosines and sines for some positions, and what they were made from.
struct Table {
    positions: Vec<i32>,
    inverse_frequencies: Vec<f32>,
    magnitude: f32,
    /// `[tokens, 2, dims / 2]`: cosines, then sines, both times the magnitude.
    turns: Vec<f32>,
}

impl Table {
    const fn empty() -> Self {
        Self { positions: Vec::new(), inverse_frequencies: Vec::new(), magnitude: 1.0, turns: Vec::new() }
    }

    fn update(&mut self, positions: &[i32], rope: &Rope<'_>) {
        let same = self.positions == positions
            && self.inverse_frequencies == rope.inverse_frequencies
            && self.magnitude == rope.magnitude;
        if same {
            return;
        }
        self.positions = positions.to_vec();
        self.inverse_frequencies = rope.inverse_frequencies.to_vec();
        self.magnitude = rope.magnitude;
        self.turns.clear();
        for &position in positions {
            let angles = rope.inverse_frequencies.iter().map(|f| f64::from(position as f32 * f));
            self.turns.extend(angles.clone().map(|angle| angle.cos() as f32 * rope.magnitude));
            self.turns.extend(angles.map(|angle| angle.sin() as f32 * rope.magnitude));
        }
    }
}

/// The heads of one token.
struct Rotate<'a> {
    heads: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    traditional: bool,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.cos.len();
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            let turns = self.cos.iter().zip(self.sin);
            if self.traditional {
                for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(turns) {
                    (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
                }
            } else {
                let (first, second) = head.split_at_mut(half);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}
