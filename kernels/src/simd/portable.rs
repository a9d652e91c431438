//! Plain Rust over four lanes, which the compiler maps to whatever every CPU of the architecture has.
//!
//! The reference the other sets are read against, and the fallback for CPUs without them. Contains no intrinsic.

use half::{bf16, f16};

use super::{FP4_DOUBLED, SMALLEST_POWER, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[derive(Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Four<T>([T; 4]);

#[inline(always)]
fn lanes<T>(make: impl Fn(usize) -> T) -> Four<T> {
    Four(std::array::from_fn(make))
}

#[inline(always)]
fn each(make: impl Fn(usize) -> f32) -> Four<f32> {
    lanes(make)
}

impl Simd for Portable {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    const FP4_ONE: f32 = 2.0;
    type F = Four<f32>;
    type U = Four<u32>;

    #[inline(always)]
    fn splat(self, value: f32) -> Four<f32> {
        Four([value; 4])
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Four<f32> {
        // SAFETY: promised by the caller.
        Four(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Four<f32> {
        each(|i| {
            if i < count {
                // SAFETY: promised by the caller.
                unsafe { *from.add(i) }
            } else {
                0.0
            }
        })
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Four<f32>) {
        // SAFETY: promised by the caller.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(value.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, value: Four<f32>) {
        for (i, lane) in value.0.into_iter().enumerate().take(count) {
            // SAFETY: promised by the caller.
            unsafe { *to.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Four<f32> {
        // SAFETY: promised by the caller.
        each(|i| widen(unsafe { *from.add(i) }))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Four<f32> {
        // SAFETY: promised by the caller.
        each(|i| f32::from_bits(u32::from(unsafe { *from.add(i) }.to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Four<f32> {
        // SAFETY: promised by the caller.
        each(|i| f32::from(unsafe { *from.add(i) }))
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> Four<f32> {
        // SAFETY: promised by the caller.
        let bits = u16::from_le_bytes(unsafe { from.cast::<[u8; 2]>().read_unaligned() });
        each(|i| f32::from(bits >> (4 * i) & 15))
    }
    #[inline(always)]
    unsafe fn load_fp4(self, from: *const u8) -> Four<f32> {
        // SAFETY: promised by the caller.
        let bits = u16::from_le_bytes(unsafe { from.cast::<[u8; 2]>().read_unaligned() });
        each(|i| 0.5 * f32::from(FP4_DOUBLED[usize::from(bits >> (4 * i) & 15)]))
    }
    #[inline(always)]
    unsafe fn load_powers(self, from: *const u8) -> Four<f32> {
        // SAFETY: promised by the caller.
        each(|i| f32::from_bits((u32::from(unsafe { *from.add(i) }) << 23).max(SMALLEST_POWER)))
    }
    #[inline(always)]
    unsafe fn pick(self, from: *const f32, places: Four<u32>) -> Four<f32> {
        // SAFETY: promised by the caller.
        each(|i| unsafe { *from.add(places.0[i] as usize) })
    }
    #[inline(always)]
    unsafe fn store_columns(self, to: *mut f32, stride: usize, count: usize, rows: [Four<f32>; 4]) {
        for lane in 0..count.min(4) {
            let column = each(|i| rows[i].0[lane]);
            // SAFETY: promised by the caller.
            unsafe { self.store(to.add(lane * stride), column) };
        }
    }
    #[inline(always)]
    fn add(self, a: Four<f32>, b: Four<f32>) -> Four<f32> {
        each(|i| a.0[i] + b.0[i])
    }
    #[inline(always)]
    fn sub(self, a: Four<f32>, b: Four<f32>) -> Four<f32> {
        each(|i| a.0[i] - b.0[i])
    }
    #[inline(always)]
    fn mul(self, a: Four<f32>, b: Four<f32>) -> Four<f32> {
        each(|i| a.0[i] * b.0[i])
    }
    #[inline(always)]
    fn div(self, a: Four<f32>, b: Four<f32>) -> Four<f32> {
        each(|i| a.0[i] / b.0[i])
    }
    #[inline(always)]
    fn fma(self, a: Four<f32>, b: Four<f32>, c: Four<f32>) -> Four<f32> {
        // Not `mul_add`, which is a library call where the CPU has no such instruction.
        each(|i| a.0[i] * b.0[i] + c.0[i])
    }
    #[inline(always)]
    fn max(self, a: Four<f32>, b: Four<f32>) -> Four<f32> {
        each(|i| if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn min(self, a: Four<f32>, b: Four<f32>) -> Four<f32> {
        each(|i| if a.0[i] < b.0[i] { a.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn round(self, a: Four<f32>) -> Four<f32> {
        // Adding 1.5 * 2^23 leaves no room for a fraction; right for the magnitudes below 2^22 that occur here.
        each(|i| (a.0[i] + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    fn power_of_two(self, a: Four<f32>) -> Four<f32> {
        each(|i| f32::from_bits(((a.0[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn select_less(self, a: Four<f32>, b: Four<f32>, yes: Four<f32>, no: Four<f32>) -> Four<f32> {
        each(|i| if a.0[i] < b.0[i] { yes.0[i] } else { no.0[i] })
    }
    #[inline(always)]
    fn sum(self, a: Four<f32>) -> f32 {
        (a.0[0] + a.0[2]) + (a.0[1] + a.0[3])
    }
    #[inline(always)]
    fn largest(self, a: Four<f32>) -> f32 {
        a.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> Four<u32> {
        // SAFETY: promised by the caller.
        Four(unsafe { from.cast::<[u32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_words_first(self, from: *const u32, count: usize) -> Four<u32> {
        lanes(|i| {
            if i < count {
                // SAFETY: promised by the caller.
                unsafe { *from.add(i) }
            } else {
                0
            }
        })
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> Four<u32> {
        Four([value; 4])
    }
    #[inline(always)]
    fn and(self, a: Four<u32>, b: Four<u32>) -> Four<u32> {
        lanes(|i| a.0[i] & b.0[i])
    }
    #[inline(always)]
    fn shift_right(self, a: Four<u32>, bits: u32) -> Four<u32> {
        lanes(|i| a.0[i] >> bits)
    }
    #[inline(always)]
    fn dot_pairs(self, a: Four<u32>, b: Four<u32>, sum: Four<u32>) -> Four<u32> {
        let low = |word: u32| i32::from(word as i16);
        let high = |word: u32| word.cast_signed() >> 16;
        lanes(|i| {
            let products = low(a.0[i]) * low(b.0[i]) + high(a.0[i]) * high(b.0[i]);
            sum.0[i].wrapping_add(products.cast_unsigned())
        })
    }
    #[inline(always)]
    fn fp4_pairs(self, a: Four<u32>, at: usize) -> Four<u32> {
        let value = |bits: u32| u32::from(i16::from(FP4_DOUBLED[(bits & 15) as usize]).cast_unsigned());
        lanes(|i| {
            let bits = a.0[i] >> (4 * at);
            value(bits) | value(bits >> 16) << 16
        })
    }
    #[inline(always)]
    fn to_float(self, a: Four<u32>) -> Four<f32> {
        each(|i| a.0[i].cast_signed() as f32)
    }
    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut i16, value: Four<f32>) {
        for (i, value) in self.round(value).0.into_iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe { *to.add(i) = value as i16 };
        }
    }
}

/// An `f16` as `f32` without branches: the bits in place, then the exponent's bias by a multiplication,
/// which normalises subnormals too.
#[inline(always)]
pub(crate) fn widen(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((254 - 15) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use half::f16;

    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let wide = super::widen(value);
            assert!(
                wide.to_bits() == value.to_f32().to_bits() || (wide.is_nan() && value.is_nan()),
                "{bits:#x}: {wide}"
            );
        }
    }
}
