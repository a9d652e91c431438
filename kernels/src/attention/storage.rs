//! How keys and values are stored: as floats, or as small numbers with scales.
//!
//! The unit is one token's values of one head, so that what is stored for a token depends on nothing else, and a token
//! can be written, written over or shared alone. Small numbers count steps from the least value of a group of
//! channels: `value = least + step * code`. Knows no blocks and no sequences; `cache` places the rows.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::simd::{Element, Simd};

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// 32-bit floats: exact.
    F32,
    /// 16-bit floats with 11 significant bits.
    F16,
    /// 8-bit numbers with a step and a least value for every 32 channels of a token's head.
    Int8,
    /// 4-bit numbers, likewise.
    Int4,
}

/// A name that is none of [`KvDtype::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("keys and values are stored as f32, f16, int8 or int4, got {0:?}")]
pub struct UnknownKvDtype(pub String);

/// Channels that share a step and a least value, where they divide the head; else the whole head does.
const GROUP: usize = 32;
/// The share by which the range of a group is widened, so that its ends stay inside when step and least value are
/// rounded to `bf16`.
const SLACK: f32 = 1.0 / 256.0;
/// The least step: keeps the division by it finite where all values are the same.
const LEAST_STEP: f32 = 1e-30;

impl KvDtype {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// Its name: `f32`, `f16`, `int8` or `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bits of a code; `None` for floats.
    pub fn code_bits(self) -> Option<u32> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Int8 => Some(8),
            Self::Int4 => Some(4),
        }
    }

    /// Channels of a head of `head_dim` that share a step and a least value.
    pub fn group(head_dim: usize) -> usize {
        if head_dim.is_multiple_of(GROUP) { GROUP } else { head_dim }
    }

    /// Bytes of one token's keys, or values, of one head.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        self.value_bytes(head_dim) + 2 * self.scales(head_dim)
    }

    /// Those of the numbers alone.
    pub fn value_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => 4 * head_dim,
            Self::F16 => 2 * head_dim,
            Self::Int8 => head_dim,
            Self::Int4 => head_dim.div_ceil(2),
        }
    }

    /// Steps and least values of a row, `bf16` each.
    pub(super) fn scales(self, head_dim: usize) -> usize {
        match self {
            Self::Int8 | Self::Int4 if head_dim > 0 => 2 * (head_dim / Self::group(head_dim)),
            _ => 0,
        }
    }

    /// Stores a row: `bytes` are its `value_bytes`, `scales` its steps and least values.
    pub(super) fn encode(self, values: &[f32], bytes: &mut [u8], scales: &mut [u16]) {
        match self {
            Self::F32 => bytes.copy_from_slice(bytemuck::cast_slice(values)),
            Self::F16 => {
                for (&value, bytes) in values.iter().zip(bytes.chunks_exact_mut(2)) {
                    let most = f32::from(f16::MAX);
                    // NaN stays NaN: a bound hides no defect, it keeps large values finite.
                    bytes.copy_from_slice(&f16::from_f32(value.clamp(-most, most)).to_ne_bytes());
                }
            }
            Self::Int8 => each_group::<8>(values, bytes, scales),
            Self::Int4 => each_group::<4>(values, bytes, scales),
        }
    }

    /// The values of rows, `[rows, head_dim]`, in whole vectors where there are any; not for `F32`, which needs none
    /// of this.
    #[inline(always)]
    pub(super) fn decode<S: Simd>(self, s: S, rows: Rows<'_>, head_dim: usize, out: &mut [f32]) {
        match self {
            Self::F32 => debug_assert!(false, "floats of 32 bits are read where they are"),
            Self::F16 => decode_halves(s, rows.bytes, out),
            Self::Int8 => decode_codes::<S, 8>(s, rows, head_dim, out),
            Self::Int4 => decode_codes::<S, 4>(s, rows, head_dim, out),
        }
    }
}

/// Consecutive rows as they are stored.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[rows, value_bytes]`.
    pub(super) bytes: &'a [u8],
    /// `[rows, groups, 2]`: step, least value.
    pub(super) scales: &'a [u16],
}

/// Stores a row's groups one by one.
fn each_group<const BITS: usize>(values: &[f32], bytes: &mut [u8], scales: &mut [u16]) {
    let group = KvDtype::group(values.len()).max(1);
    let groups = values.chunks_exact(group).zip(bytes.chunks_mut((group * BITS).div_ceil(8)));
    for ((values, bytes), scales) in groups.zip(scales.chunks_exact_mut(2)) {
        let (step, least) = encode_group::<BITS>(values, bytes);
        scales.copy_from_slice(&[step.to_bits(), least.to_bits()]);
    }
}

/// The codes of a group; its step and least value.
fn encode_group<const BITS: usize>(values: &[f32], bytes: &mut [u8]) -> (bf16, bf16) {
    let steps = ((1u32 << BITS) - 1) as f32;
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = bf16::from_f32(low - low.abs() * SLACK);
    let step = bf16::from_f32(((high - least.to_f32()) * ((1.0 + SLACK) / steps)).max(LEAST_STEP));
    let (from, by) = (least.to_f32(), step.to_f32());
    // Not below 0 but for a rounding that truncation forgives.
    let code = |value: f32| ((value - from) / by + 0.5).min(steps) as u8;
    if BITS == 8 {
        values.iter().zip(bytes).for_each(|(&value, byte)| *byte = code(value));
    } else {
        for (pair, byte) in values.chunks(2).zip(bytes) {
            *byte = code(pair[0]) | pair.get(1).map_or(0, |&value| code(value) << 4);
        }
    }
    (step, least)
}

#[inline(always)]
fn decode_halves<S: Simd>(s: S, bytes: &[u8], out: &mut [f32]) {
    let from = bytes.as_ptr().cast::<f16>();
    let full = out.len() / S::LANES * S::LANES;
    // SAFETY: `bytes` holds two bytes for each value of `out`, and a side begins where words do.
    unsafe {
        for at in (0..full).step_by(S::LANES) {
            s.store(out.as_mut_ptr().add(at), s.load_f16(from.add(at)));
        }
        if out.len() > full {
            let (count, rest) = (out.len() - full, out.as_mut_ptr().add(full));
            s.store_first(rest, count, f16::load_first(s, from.add(full), count));
        }
    }
}

#[inline(always)]
fn decode_codes<S: Simd, const BITS: usize>(s: S, rows: Rows<'_>, head_dim: usize, out: &mut [f32]) {
    let group = KvDtype::group(head_dim);
    let (width, per_row) = ((head_dim * BITS).div_ceil(8), 2 * (head_dim / group));
    let stored = rows.bytes.chunks_exact(width).zip(rows.scales.chunks_exact(per_row));
    for ((bytes, scales), out) in stored.zip(out.chunks_exact_mut(head_dim)) {
        let groups = bytes.chunks((group * BITS).div_ceil(8)).zip(scales.chunks_exact(2));
        for ((bytes, scales), out) in groups.zip(out.chunks_exact_mut(group)) {
            let [step, least] = [scales[0], scales[1]].map(|bits| f32::from_bits(u32::from(bits) << 16));
            let full = group / S::LANES * S::LANES;
            for at in (0..full).step_by(S::LANES) {
                // SAFETY: `bytes` holds `BITS` bits for each of the group's values, and LANES of them follow `at`.
                unsafe {
                    let from = bytes.as_ptr().add(at * BITS / 8);
                    let codes = if BITS == 8 { s.load_bytes(from) } else { s.load_nibbles(from) };
                    let values = s.fma(codes, s.splat(step), s.splat(least));
                    s.store(out.as_mut_ptr().add(at), values);
                }
            }
            for at in full..group {
                let code = if BITS == 8 { bytes[at] } else { bytes[at / 2] >> (4 * (at % 2)) & 15 };
                out[at] = f32::from(code) * step + least;
            }
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvDtype {
    type Err = UnknownKvDtype;
    fn from_str(text: &str) -> Result<Self, UnknownKvDtype> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| UnknownKvDtype(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst error of a row after storing, in the range of its values.
    fn worst(dtype: KvDtype, values: &[f32]) -> f32 {
        let d = values.len();
        let (mut bytes, mut scales) = (vec![0; dtype.value_bytes(d)], vec![0; dtype.scales(d)]);
        dtype.encode(values, &mut bytes, &mut scales);
        let mut out = vec![f32::NAN; d];
        let rows = Rows { bytes: &bytes, scales: &scales };
        crate::simd::dispatch(crate::Level::current(), Decode { dtype, rows, out: &mut out });
        values.iter().zip(&out).map(|(value, out)| (value - out).abs()).fold(0.0, f32::max)
    }

    struct Decode<'a> {
        dtype: KvDtype,
        rows: Rows<'a>,
        out: &'a mut [f32],
    }

    impl crate::simd::Kernel for Decode<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let head_dim = self.out.len();
            self.dtype.decode(s, self.rows, head_dim, self.out);
        }
    }

    #[test]
    fn codes_are_off_by_little_more_than_half_a_step() {
        for (dtype, steps) in [(KvDtype::Int8, 255.0), (KvDtype::Int4, 15.0)] {
            for head_dim in [1, 2, 20, 32, 33, 64, 80, 128] {
                let values: Vec<f32> =
                    (0..head_dim).map(|at| ((at * 37 % 101) as f32).sin() * 3.0 - 1.0).collect();
                let half_step = 6.0 / steps / 2.0;
                let found = worst(dtype, &values);
                assert!(
                    found < 1.03 * half_step,
                    "{dtype}, {head_dim}: off by {found}, a half is {half_step}"
                );
            }
        }
    }

    #[test]
    fn what_is_all_the_same_is_stored_without_a_step() {
        for dtype in [KvDtype::Int8, KvDtype::Int4] {
            assert_eq!(worst(dtype, &[0.0; 64]), 0.0);
            assert!(worst(dtype, &[-7.3; 64]) < 0.005);
            assert!(worst(dtype, &[1e-38; 64]) < 1e-30);
        }
    }

    #[test]
    fn halves_stay_finite() {
        assert_eq!(worst(KvDtype::F16, &[1e6, -1e6, 0.25]), 1e6 - 65504.0);
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for dtype in KvDtype::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        let error = "fp8".parse::<KvDtype>().expect_err("not one of ours");
        assert_eq!(error.to_string(), "keys and values are stored as f32, f16, int8 or int4, got \"fp8\"");
    }

    #[test]
    fn rows_take_the_bytes_they_say() {
        let bytes = KvDtype::ALL.map(|dtype| dtype.row_bytes(64));
        assert_eq!(bytes, [256, 128, 72, 40]);
    }
}
