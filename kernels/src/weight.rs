//! Weight matrices as checkpoints store them.
//!
//! Borrowed, never copied or repacked: the memory may be a mapped file or another library's array.
//! What a matrix means, and who owns it, is the caller's business.

use half::{bf16, f16};

use crate::error::{ShapeError, expect_len, expect_multiple};
use crate::simd::widen;

/// A slice of floats of one of the stored types.
#[derive(Debug, Clone, Copy)]
pub enum Floats<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
}

impl Floats<'_> {
    /// Values held.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `index`, which is in bounds.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::F16(values) => widen(values[index]),
            Self::Bf16(values) => f32::from_bits(u32::from(values[index].to_bits()) << 16),
        }
    }
}

/// A matrix `[n, k]` in MLX's affine layout: value `i` of a row is `scale * q + bias`, with `q` of `bits`
/// bits, and one `scale` and `bias` a `group` of consecutive values.
///
/// A row of `packed` is a little-endian stream of bits, first value lowest, so 4-bit values lie eight to a
/// word, lowest nibble first. `k` is a multiple of `group`.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// `[n, k * bits / 32]`.
    pub packed: &'a [u32],
    /// `[n, k / group]`.
    pub scales: Floats<'a>,
    /// `[n, k / group]`.
    pub biases: Floats<'a>,
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: u32,
    /// 32, 64 or 128.
    pub group: usize,
}

/// A matrix `[n, k]` of 4-bit floats (E2M1) with a power of two (E8M0) for each 32 of a row: MXFP4 of the Open Compute
/// Project's "Microscaling Formats (MX) Specification", version 1.0, as MLX packs it.
///
/// The value of a code is 0, 0.5, 1, 1.5, 2, 3, 4 or 6 by its three lower bits, negative where the fourth is set; a scale
/// `e` is worth `2^(e - 127)`, and 255 makes its values numbers no more. Codes lie as those of [`Affine`] with 4 bits.
/// `k` is a multiple of 32.
#[derive(Debug, Clone, Copy)]
pub struct Mxfp4<'a> {
    /// `[n, k / 8]`.
    pub packed: &'a [u32],
    /// `[n, k / 32]`.
    pub scales: &'a [u8],
}

/// A weight matrix `[n, k]`, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Quantised to integers with a scale and a bias a group.
    Affine(Affine<'a>),
    /// Quantised to 4-bit floats with a power of two a group.
    Mxfp4(Mxfp4<'a>),
    /// One float a value.
    Dense(Floats<'a>),
}

impl Weight<'_> {
    /// Checks that this is a matrix of `n` rows of `k` values.
    ///
    /// # Errors
    /// [`ShapeError`] naming the part that does not fit.
    pub fn check(&self, n: usize, k: usize) -> Result<(), ShapeError> {
        match self {
            Self::Affine(affine) => affine.check(n, k),
            Self::Mxfp4(mxfp4) => mxfp4.check(n, k),
            Self::Dense(values) => expect_len("weight", values.len(), &[n, k]),
        }
    }
}

impl Affine<'_> {
    fn check(&self, n: usize, k: usize) -> Result<(), ShapeError> {
        check_layout(self.bits, self.group)?;
        expect_multiple("the width of an affine weight", k, self.group)?;
        expect_len("packed weight", self.packed.len(), &[n, self.words(k)])?;
        expect_len("scales", self.scales.len(), &[n, k / self.group])?;
        expect_len("biases", self.biases.len(), &[n, k / self.group])
    }

    /// Words of `k` packed values; `k` is a multiple of the group.
    pub(crate) fn words(&self, k: usize) -> usize {
        k / 32 * self.bits as usize
    }
}

impl Mxfp4<'_> {
    /// Values that share a scale.
    pub(crate) const GROUP: usize = 32;

    fn check(&self, n: usize, k: usize) -> Result<(), ShapeError> {
        expect_multiple("the width of an mxfp4 weight", k, Self::GROUP)?;
        expect_len("packed weight", self.packed.len(), &[n, k / 8])?;
        expect_len("scales", self.scales.len(), &[n, k / Self::GROUP])
    }
}

/// Checks that affine layouts with these numbers exist.
pub(crate) fn check_layout(bits: u32, group: usize) -> Result<(), ShapeError> {
    if !matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) {
        return Err(ShapeError::Bits(bits));
    }
    if !matches!(group, 32 | 64 | 128) {
        return Err(ShapeError::Group(group));
    }
    Ok(())
}
