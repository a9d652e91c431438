//! Activations in the order the few-row loops want them.
//!
//! Reordering them once is cheap, and saves reordering every weight. Knows no weights but their bits and group;
//! `few` decides when to prepare, `rows` reads the result.

use crate::memory::Scratch;
use crate::simd::{Kernel, Simd};

/// `[rows, k]` activations, and their sum over each group of the weights.
pub(super) struct Prepared {
    buffer: Scratch,
    /// Floats from one row of `x` to the next.
    pub(super) stride: usize,
    /// Groups in a row.
    pub(super) groups: usize,
    rows: usize,
}

impl Prepared {
    /// The rows themselves, `[rows, stride]`.
    pub(super) fn x(&self) -> *const f32 {
        self.buffer.as_ptr()
    }

    /// The sums, `[rows, groups]`.
    pub(super) fn sums(&self) -> *const f32 {
        self.buffer[self.rows * self.stride..].as_ptr()
    }
}

/// Prepares activations for weights of `bits` (4 or 8) bits in groups of `group`.
///
/// For 4 bits, eight vectors at a time are transposed: lane `l` of vector `j` is value `8 l + j`, which is what
/// the `j`th nibbles of `LANES` consecutive words multiply. Where a row does not end with a chunk, one more
/// covers its last values, with 0 for those that the chunk before it has, or pads a row shorter than a chunk.
pub(super) struct Prepare<'a> {
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) bits: u32,
    pub(super) group: usize,
}

impl Kernel for Prepare<'_> {
    type Output = Prepared;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Prepared {
        let chunk = if self.bits == 4 { 8 * S::LANES } else { 1 };
        let (stride, groups) = (self.k.next_multiple_of(chunk), self.k / self.group);
        let mut buffer = Scratch::new(self.rows * (stride + groups));
        let (ordered, sums) = buffer.split_at_mut(self.rows * stride);
        for row in 0..self.rows {
            let x = &self.x[row * self.k..(row + 1) * self.k];
            for (sum, group) in sums[row * groups..].iter_mut().zip(x.chunks_exact(self.group)) {
                *sum = sum_of(s, group);
            }
            let ordered = &mut ordered[row * stride..(row + 1) * stride];
            if self.bits != 4 {
                ordered.copy_from_slice(x);
                continue;
            }
            let (whole, rest) = (self.k / chunk * chunk, self.k % chunk);
            order(S::LANES, &x[..whole], ordered);
            if rest > 0 {
                let last = &mut ordered[whole..];
                let handled = if whole > 0 { chunk - rest } else { 0 };
                last.fill(0.0);
                order(S::LANES, &x[whole - handled..], last);
                for line in last.chunks_exact_mut(S::LANES) {
                    line[..handled / 8].fill(0.0);
                }
            }
        }
        Prepared { buffer, stride, groups, rows: self.rows }
    }
}

/// Transposes `x`, whole eights, chunk by chunk.
#[inline(always)]
fn order(lanes: usize, x: &[f32], ordered: &mut [f32]) {
    for (ordered, x) in ordered.chunks_exact_mut(8 * lanes).zip(x.chunks(8 * lanes)) {
        for (lane, eight) in x.chunks_exact(8).enumerate() {
            for (j, &value) in eight.iter().enumerate() {
                ordered[j * lanes + lane] = value;
            }
        }
    }
}

#[inline(always)]
fn sum_of<S: Simd>(s: S, values: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for part in values.chunks_exact(S::LANES) {
        // SAFETY: `part` holds `LANES` values, which divides every group size.
        sum = s.add(sum, unsafe { s.load(part.as_ptr()) });
    }
    s.sum(sum)
}
