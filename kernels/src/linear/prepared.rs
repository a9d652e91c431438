//! Activations as integer products want them: rounded to 16 bits, and in the order of the packed weights.
//!
//! Doing so once is cheap, and saves converting and reordering every weight. Knows no weights but their bits and
//! group; `few` decides when to prepare, `rows` reads the result.

use crate::memory::{Disjoint, Scratch};
use crate::pool::pool;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

use super::Product;

/// Rounded activations, their scales, and the sum of those of each group.
///
/// A row is cut into chunks of the values of `LANES` packed words. With `v` values to a word, lane `l` of vector
/// `j < v / 2` of a chunk holds values `v l + j` (low half) and `v l + v / 2 + j` (high half): those that are left
/// of the words after a shift by `j` values, under a mask of two fields. Where a row does not end with a chunk, one
/// more covers its last values, with 0 for those that the chunk before it has, or pads a row shorter than a chunk.
pub(super) struct Prepared {
    buffer: Scratch,
    layout: Layout,
    rows: usize,
}

/// Sizes of a prepared row.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    k: usize,
    pub(super) bits: u32,
    pub(super) group: usize,
    lanes: usize,
}

impl Layout {
    /// Groups in a row.
    pub(super) fn groups(self) -> usize {
        self.k / self.group
    }

    /// Values in a word.
    fn per_word(self) -> usize {
        32 / self.bits as usize
    }

    /// Values in a chunk.
    fn chunk(self) -> usize {
        self.lanes * self.per_word()
    }

    fn chunks(self) -> usize {
        self.k.div_ceil(self.chunk())
    }

    /// Words of a prepared row: half as many as values.
    pub(super) fn stride(self) -> usize {
        self.chunks() * self.chunk() / 2
    }

    /// Scales of a prepared row: one for each lane of each chunk.
    pub(super) fn scale_stride(self) -> usize {
        self.chunks() * self.lanes
    }

    /// Which of the groups of a chunk each lane's values belong to.
    pub(super) fn places(self) -> [u32; MAX_LANES] {
        let last = self.groups().saturating_sub(1);
        std::array::from_fn(|lane| (lane * self.per_word() / self.group).min(last) as u32)
    }

    fn row(self) -> usize {
        self.stride() + self.scale_stride() + self.groups()
    }
}

impl Prepared {
    /// Prepares the activations of `product` for weights of `bits` (2, 4 or 8) bits in groups of `group`.
    pub(super) fn new(product: &Product<'_>, bits: u32, group: usize) -> Self {
        let Product { level, x, rows, k } = *product;
        let layout = Layout { k, bits, group, lanes: dispatch(level, Lanes) };
        let mut buffer = Scratch::new(rows * layout.row());
        let (pairs, rest) = buffer.split_at_mut(rows * layout.stride());
        let (scales, sums) = rest.split_at_mut(rows * layout.scale_stride());
        let parts = [Disjoint::new(pairs), Disjoint::new(scales), Disjoint::new(sums)];
        let lengths = [layout.stride(), layout.scale_stride(), layout.groups()];
        let per_task = (VALUES_PER_TASK / k.max(1)).max(1);
        pool().parallel_for(rows.div_ceil(per_task), |task| {
            for row in task * per_task..rows.min((task + 1) * per_task) {
                let part = |at: usize| {
                    // SAFETY: each row is prepared by one task.
                    unsafe { parts[at].part(row * lengths[at]..(row + 1) * lengths[at]) }
                };
                let x = &x[row * k..(row + 1) * k];
                dispatch(level, PrepareRow { layout, x, pairs: part(0), scales: part(1), sums: part(2) });
            }
        });
        Self { buffer, layout, rows }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The rounded activations, `[rows, stride]`.
    pub(super) fn pairs(&self) -> *const u32 {
        self.buffer.as_ptr().cast()
    }

    /// What one step of each lane's activations is worth, `[rows, scale_stride]`.
    pub(super) fn scales(&self) -> *const f32 {
        self.buffer[self.rows * self.layout.stride()..].as_ptr()
    }

    /// The sums, `[rows, groups]`.
    pub(super) fn sums(&self) -> *const f32 {
        self.buffer[self.rows * (self.layout.stride() + self.layout.scale_stride())..].as_ptr()
    }
}

/// How many lanes a level has.
struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

struct PrepareRow<'a> {
    layout: Layout,
    x: &'a [f32],
    pairs: &'a mut [f32],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for PrepareRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Layout { k, group, .. } = self.layout;
        let groups = self.layout.groups();
        let mut rounded = Scratch::new(k.div_ceil(2) + groups);
        let (rounded, steps) = rounded.split_at_mut(k.div_ceil(2));
        let rounded: &mut [i16] = bytemuck::cast_slice_mut(rounded);
        for (index, x) in self.x.chunks_exact(group).enumerate() {
            (steps[index], self.sums[index]) = round_group(s, x, &mut rounded[index * group..][..group]);
        }
        let pairs: &mut [u32] = bytemuck::cast_slice_mut(self.pairs);
        match self.layout.bits {
            2 => order::<S, 16>(self.layout, rounded, pairs),
            4 => order::<S, 8>(self.layout, rounded, pairs),
            _ => order::<S, 4>(self.layout, rounded, pairs),
        }
        let (chunk, per_word) = (self.layout.chunk(), self.layout.per_word());
        for (c, scales) in self.scales.chunks_exact_mut(S::LANES).enumerate() {
            let first = (c * chunk).min(k.saturating_sub(chunk));
            for (lane, scale) in scales.iter_mut().enumerate() {
                *scale = steps[((first + lane * per_word) / group).min(groups - 1)];
            }
        }
    }
}

/// Rounds one group; what a step is worth, and the sum of the rounded values.
#[inline(always)]
fn round_group<S: Simd>(s: S, x: &[f32], rounded: &mut [i16]) -> (f32, f32) {
    let (mut largest, mut poison) = (s.splat(0.0), s.splat(0.0));
    for part in x.chunks_exact(S::LANES) {
        // SAFETY: `part` holds `LANES` values, which divides every group size.
        let part = unsafe { s.load(part.as_ptr()) };
        largest = s.max(s.max(part, s.sub(s.splat(0.0), part)), largest);
        poison = s.fma(part, s.splat(0.0), poison);
    }
    let largest = s.largest(largest);
    // Groups of no normal number are 0, as the inverse of a step would be infinite.
    let per_step = if largest >= f32::MIN_POSITIVE * STEPS { STEPS / largest } else { 0.0 };
    let mut sum = s.splat(0.0);
    for (part, rounded) in x.chunks_exact(S::LANES).zip(rounded.chunks_exact_mut(S::LANES)) {
        // SAFETY: both hold `LANES` values.
        let steps = unsafe { s.mul(s.load(part.as_ptr()), s.splat(per_step)) };
        // SAFETY: as above.
        unsafe { s.store_rounded(rounded.as_mut_ptr(), steps) };
        // Integers below 2^22: the sum is exact.
        sum = s.add(sum, s.round(steps));
    }
    // What is not a number stays one, which integers could not say: 0 times it is not 0.
    let step = largest / STEPS + s.sum(poison);
    (step, s.sum(sum) * step)
}

/// Puts rounded values in the order of [`Prepared`], `PER_WORD` values to a word.
#[inline(always)]
fn order<S: Simd, const PER_WORD: usize>(layout: Layout, rounded: &[i16], pairs: &mut [u32]) {
    let chunk = layout.chunk();
    for (c, pairs) in pairs.chunks_exact_mut(chunk / 2).enumerate() {
        let first = (c * chunk).min(layout.k.saturating_sub(chunk));
        let handled = (c * chunk - first) / PER_WORD;
        let words = rounded[first..layout.k.min(first + chunk)].chunks_exact(PER_WORD);
        let mut lanes = [[0; MAX_LANES]; 8];
        for (l, word) in words.enumerate().skip(handled) {
            for j in 0..PER_WORD / 2 {
                let (low, high) = (word[j].cast_unsigned(), word[PER_WORD / 2 + j].cast_unsigned());
                lanes[j][l] = u32::from(low) | u32::from(high) << 16;
            }
        }
        for (pairs, lanes) in pairs.chunks_exact_mut(S::LANES).zip(&lanes) {
            pairs.copy_from_slice(&lanes[..S::LANES]);
        }
    }
}

/// The largest activation of a group in steps.
const STEPS: f32 = 32767.0;
/// Less than this one thread does faster than two can share.
const VALUES_PER_TASK: usize = 8192;
