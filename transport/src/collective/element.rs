//! What is reduced, and how: element by element, over bytes of any alignment.

use half::{bf16, f16};

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 16-bit floats; sums of two are computed in 32 bits and rounded.
    F16,
    /// 16-bit brain floats, as above.
    Bf16,
}

/// How elements of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// The largest.
    Max,
}

impl Element {
    /// How many bytes an element has.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Reduces `other` into `into`, which is as long.
    pub(super) fn reduce(self, reduction: Reduction, into: &mut [u8], other: &[u8]) {
        debug_assert_eq!(into.len(), other.len());
        match (self, reduction) {
            (Self::F32, Reduction::Sum) => each::<4>(into, other, |a, b| (f32s(a) + f32s(b)).to_ne_bytes()),
            (Self::F32, Reduction::Max) => each::<4>(into, other, |a, b| f32s(a).max(f32s(b)).to_ne_bytes()),
            (Self::F16, Reduction::Sum) => {
                each::<2>(into, other, |a, b| f16::from_f32(f16s(a) + f16s(b)).to_ne_bytes())
            }
            (Self::F16, Reduction::Max) => {
                each::<2>(into, other, |a, b| f16::from_f32(f16s(a).max(f16s(b))).to_ne_bytes())
            }
            (Self::Bf16, Reduction::Sum) => {
                each::<2>(into, other, |a, b| bf16::from_f32(bf16s(a) + bf16s(b)).to_ne_bytes())
            }
            (Self::Bf16, Reduction::Max) => {
                each::<2>(into, other, |a, b| bf16::from_f32(bf16s(a).max(bf16s(b))).to_ne_bytes())
            }
        }
    }
}

/// The compiler makes vectors of this for each of its uses.
#[inline(always)]
fn each<const N: usize>(into: &mut [u8], other: &[u8], reduce: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    let (into, _) = into.as_chunks_mut::<N>();
    let (other, _) = other.as_chunks::<N>();
    for (into, other) in into.iter_mut().zip(other) {
        *into = reduce(*into, *other);
    }
}

fn f32s(bytes: [u8; 4]) -> f32 {
    f32::from_ne_bytes(bytes)
}

fn f16s(bytes: [u8; 2]) -> f32 {
    f16::from_ne_bytes(bytes).to_f32()
}

fn bf16s(bytes: [u8; 2]) -> f32 {
    bf16::from_ne_bytes(bytes).to_f32()
}
