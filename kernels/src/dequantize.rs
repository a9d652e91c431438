//! From stored weights to `f32` rows.
//!
//! The one place that reads every storage and number of bits; products of 4 and 8 bits with few rows do without
//! it. Knows nothing of what the rows are for: callers choose which, and where they go.

use std::ops::Range;

use crate::error::{ShapeError, expect_len};
use crate::simd::{Element, Kernel, Level, MAX_LANES, Simd, dispatch};
use crate::weight::{Affine, Floats, Mxfp4, Weight};

/// Writes rows `rows` of the `[n, k]` matrix `weight` to `out`, `[rows, k]`.
///
/// # Errors
/// [`ShapeError`] when `weight` is not `[n, k]`, `rows` are not all in it, or `out` has another length.
pub fn dequantize(
    weight: &Weight<'_>,
    n: usize,
    k: usize,
    rows: Range<usize>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    weight.check(n, k)?;
    if rows.start > rows.end || rows.end > n {
        return Err(ShapeError::Row { id: rows.end, rows: n });
    }
    expect_len("output", out.len(), &[rows.len(), k])?;
    let level = Level::current();
    for (row, out) in rows.zip(out.chunks_exact_mut(k.max(1))) {
        dispatch(level, Widen { weight: *weight, k, row, columns: 0..k, out });
    }
    Ok(())
}

/// Columns `columns` of row `row` of an `[n, k]` matrix that has passed its check, as `f32`.
/// The columns begin and end at multiples of the group.
pub(crate) struct Widen<'a, 'o> {
    pub(crate) weight: Weight<'a>,
    pub(crate) k: usize,
    pub(crate) row: usize,
    pub(crate) columns: Range<usize>,
    pub(crate) out: &'o mut [f32],
}

impl Kernel for Widen<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.out.len() >= self.columns.len(), "room for the columns");
        let from = self.row * self.k + self.columns.start;
        let range = from..from + self.columns.len();
        match self.weight {
            Weight::Dense(values) => widen(s, values, range, self.out),
            Weight::Affine(affine) => affine_values(s, &affine, range, self.out),
            Weight::Mxfp4(mxfp4) => mxfp4_values(s, &mxfp4, range, self.out),
        }
    }
}

/// Values `range` of `values` as `f32`, those that follow being wanted next.
pub(crate) struct WidenScales<'a, 'o> {
    pub(crate) values: Floats<'a>,
    pub(crate) range: Range<usize>,
    pub(crate) out: &'o mut [f32],
}

impl Kernel for WidenScales<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (start, size) = match self.values {
            Floats::F32(values) => (values.as_ptr().cast::<u8>(), 4),
            Floats::F16(values) => (values.as_ptr().cast(), 2),
            Floats::Bf16(values) => (values.as_ptr().cast(), 2),
        };
        prefetch_after(s, start, self.range.start * size..self.range.end * size);
        widen(s, self.values, self.range, self.out);
    }
}

/// Powers of two `range` of `powers`, divided by what `fp4_pairs` makes of 1; those that follow being wanted next.
pub(crate) struct WidenPowers<'a, 'o> {
    pub(crate) powers: &'a [u8],
    pub(crate) range: Range<usize>,
    pub(crate) out: &'o mut [f32],
}

impl Kernel for WidenPowers<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        prefetch_after(s, self.powers.as_ptr(), self.range.clone());
        let unit = s.splat(1.0 / S::FP4_ONE);
        let (powers, out) = (&self.powers[self.range], self.out);
        let full = powers.len() / S::LANES * S::LANES;
        assert!(out.len() >= powers.len(), "room for the scales");
        for at in (0..full).step_by(S::LANES) {
            // SAFETY: `at + LANES` is at most the length of both.
            unsafe {
                s.store(out.as_mut_ptr().add(at), s.mul(s.load_powers(powers.as_ptr().add(at)), unit));
            }
        }
        let mut rest = [0; MAX_LANES];
        rest[..powers.len() - full].copy_from_slice(&powers[full..]);
        // SAFETY: fewer than `LANES` are left, for which there is room.
        unsafe {
            let last = s.mul(s.load_powers(rest.as_ptr()), unit);
            s.store_first(out.as_mut_ptr().add(full), powers.len() - full, last);
        }
    }
}

/// Asks for what lies two ranges ahead: the time it takes to multiply with one is that of a read from memory.
#[inline(always)]
fn prefetch_after<S: Simd>(s: S, start: *const u8, bytes: Range<usize>) {
    for byte in (0..bytes.len()).step_by(64) {
        s.prefetch(start.wrapping_add(bytes.end + bytes.len() + byte));
    }
}

#[inline(always)]
fn widen<S: Simd>(s: S, values: Floats<'_>, range: Range<usize>, out: &mut [f32]) {
    match values {
        Floats::F32(values) => out[..range.len()].copy_from_slice(&values[range]),
        Floats::F16(values) => widen_slice(s, &values[range], out),
        Floats::Bf16(values) => widen_slice(s, &values[range], out),
    }
}

#[inline(always)]
fn widen_slice<S: Simd, T: Element>(s: S, values: &[T], out: &mut [f32]) {
    let (full, out) = (values.len() / S::LANES * S::LANES, &mut out[..values.len()]);
    for at in (0..full).step_by(S::LANES) {
        // SAFETY: `at + LANES` is at most the length of both.
        unsafe { s.store(out.as_mut_ptr().add(at), T::load(s, values.as_ptr().add(at))) };
    }
    if full < values.len() {
        let rest = values.len() - full;
        // SAFETY: `full + rest` is the length of both, and `rest < LANES`.
        unsafe {
            s.store_first(out.as_mut_ptr().add(full), rest, T::load_first(s, values.as_ptr().add(full), rest))
        };
    }
}

/// Values `range`, whole groups counted over the whole matrix.
#[inline(always)]
fn affine_values<S: Simd>(s: S, affine: &Affine<'_>, range: Range<usize>, out: &mut [f32]) {
    match affine.bits {
        2 => groups::<S, 2>(s, affine, range, out),
        3 => groups::<S, 3>(s, affine, range, out),
        4 => groups::<S, 4>(s, affine, range, out),
        5 => groups::<S, 5>(s, affine, range, out),
        6 => groups::<S, 6>(s, affine, range, out),
        _ => groups::<S, 8>(s, affine, range, out),
    }
}

/// The same for one number of bits, in blocks of the smallest group.
#[inline(always)]
fn groups<S: Simd, const BITS: usize>(s: S, affine: &Affine<'_>, range: Range<usize>, out: &mut [f32]) {
    let bytes: &[u8] = bytemuck::cast_slice(affine.packed);
    let bytes = &bytes[range.start * BITS / 8..range.end * BITS / 8];
    let groups = bytes.chunks_exact(affine.group * BITS / 8).zip(out.chunks_exact_mut(affine.group));
    for (index, (bytes, out)) in (range.start / affine.group..).zip(groups) {
        let (scale, bias) = (s.splat(affine.scales.at(index)), s.splat(affine.biases.at(index)));
        for (bytes, out) in bytes.chunks_exact(BLOCK * BITS / 8).zip(out.chunks_exact_mut(BLOCK)) {
            let unpacked = if matches!(BITS, 4 | 8) { [0; BLOCK] } else { unpack::<BITS>(bytes) };
            for at in (0..BLOCK).step_by(S::LANES) {
                // SAFETY: `bytes` holds `BLOCK` values of `BITS` bits, `unpacked` and `out` `BLOCK` values, and
                // LANES divides that.
                unsafe {
                    let q = match BITS {
                        4 => s.load_nibbles(bytes.as_ptr().add(at / 2)),
                        8 => s.load_bytes(bytes.as_ptr().add(at)),
                        _ => s.load_bytes(unpacked.as_ptr().add(at)),
                    };
                    s.store(out.as_mut_ptr().add(at), s.fma(q, scale, bias));
                }
            }
        }
    }
}

/// Values `range`, whole groups counted over the whole matrix.
#[inline(always)]
fn mxfp4_values<S: Simd>(s: S, mxfp4: &Mxfp4<'_>, range: Range<usize>, out: &mut [f32]) {
    let bytes: &[u8] = bytemuck::cast_slice(mxfp4.packed);
    let bytes = &bytes[range.start / 2..range.end / 2];
    let scales = &mxfp4.scales[range.start / BLOCK..range.end / BLOCK];
    let groups = bytes.chunks_exact(BLOCK / 2).zip(out.chunks_exact_mut(BLOCK));
    for (&scale, (bytes, out)) in scales.iter().zip(groups) {
        // SAFETY: as many bytes as there are lanes at most.
        let scale = unsafe { s.load_powers([scale; MAX_LANES].as_ptr()) };
        for at in (0..BLOCK).step_by(S::LANES) {
            // SAFETY: `bytes` holds `BLOCK` codes and `out` as many values, and LANES divides that.
            unsafe {
                let values = s.load_fp4(bytes.as_ptr().add(at / 2));
                s.store(out.as_mut_ptr().add(at), s.mul(values, scale));
            }
        }
    }
}

/// Splits a little-endian stream of values into bytes.
#[inline(always)]
fn unpack<const BITS: usize>(packed: &[u8]) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    for (packed, out) in packed.chunks_exact(BITS).zip(out.chunks_exact_mut(8)) {
        let mut bytes = [0; 8];
        bytes[..BITS].copy_from_slice(packed);
        let window = u64::from_le_bytes(bytes);
        for (i, value) in out.iter_mut().enumerate() {
            *value = (window >> (BITS * i)) as u8 & ((1u16 << BITS) - 1) as u8;
        }
    }
    out
}

/// The smallest group of affine layouts, and the only one of mxfp4.
const BLOCK: usize = 32;

const _: () = assert!(cfg!(target_endian = "little"), "packed words are read as bytes");
