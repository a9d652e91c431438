//! NEON: 4 lanes.
//!
//! Every AArch64 CPU this runs on has it; `level` asks all the same.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::{FP4_DOUBLED, Kernel, SMALLEST_POWER, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// An intrinsic, in a method of the token that proves the CPU has it.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: a `Neon` exists only inside `enter`; pointers are as the method's caller promised.
        unsafe { $call }
    };
}

impl Simd for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const FP4_ONE: f32 = 512.0;
    type F = float32x4_t;
    type U = uint32x4_t;

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        isa!(vdupq_n_f32(value))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        isa!(vld1q_f32(from))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> float32x4_t {
        let mut padded = [0.0; 4];
        isa!({
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
            vld1q_f32(padded.as_ptr())
        })
    }
    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        isa!(asm!("prfm pldl1keep, [{}]", in(reg) from, options(nostack, readonly, preserves_flags)));
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: float32x4_t) {
        isa!(vst1q_f32(to, value))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, value: float32x4_t) {
        let mut all = [0.0; 4];
        isa!({
            vst1q_f32(all.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
        })
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> float32x4_t {
        // The intrinsic's type is not stable yet, the instruction is.
        let wide: float32x4_t;
        isa!({
            let narrow = vld1_u16(from.cast());
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) narrow, options(pure, nomem, nostack));
        });
        wide
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> float32x4_t {
        isa!(vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from.cast())))))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> float32x4_t {
        isa!({
            let four = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four))))
        })
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> float32x4_t {
        const SHIFTS: [i32; 4] = [0, -4, -8, -12];
        isa!({
            let bits = vdupq_n_u32(u32::from(from.cast::<u16>().read_unaligned()));
            let shifted = vshlq_u32(bits, vld1q_s32(SHIFTS.as_ptr()));
            vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(15)))
        })
    }
    #[inline(always)]
    unsafe fn load_fp4(self, from: *const u8) -> float32x4_t {
        const SHIFTS: [i32; 4] = [0, -4, -8, -12];
        isa!({
            let bits = vdupq_n_u32(u32::from(from.cast::<u16>().read_unaligned()));
            let shifted = vshlq_u32(bits, vld1q_s32(SHIFTS.as_ptr()));
            // The code in the highest byte, where it leaves a number 2^24 times as large; other bytes look up 0.
            let codes = vshlq_n_u32::<24>(vandq_u32(shifted, vdupq_n_u32(15)));
            let doubled = vqtbl1q_s8(vld1q_s8(FP4_DOUBLED.as_ptr()), vreinterpretq_u8_u32(codes));
            vcvtq_n_f32_s32::<25>(vreinterpretq_s32_s8(doubled))
        })
    }
    #[inline(always)]
    unsafe fn load_powers(self, from: *const u8) -> float32x4_t {
        isa!({
            let four = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            let powers = vshlq_n_u32::<23>(vmovl_u16(vget_low_u16(vmovl_u8(four))));
            vreinterpretq_f32_u32(vmaxq_u32(powers, vdupq_n_u32(SMALLEST_POWER)))
        })
    }
    #[inline(always)]
    unsafe fn pick(self, from: *const f32, places: uint32x4_t) -> float32x4_t {
        let mut at = [0; 4];
        isa!({
            vst1q_u32(at.as_mut_ptr(), places);
            let picked = at.map(|place| *from.add(place as usize));
            vld1q_f32(picked.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn store_columns(self, to: *mut f32, stride: usize, count: usize, rows: [float32x4_t; 4]) {
        isa!({
            let (even, odd) = (vtrn1q_f32(rows[0], rows[1]), vtrn2q_f32(rows[0], rows[1]));
            let (even2, odd2) = (vtrn1q_f32(rows[2], rows[3]), vtrn2q_f32(rows[2], rows[3]));
            let columns = [
                vcombine_f32(vget_low_f32(even), vget_low_f32(even2)),
                vcombine_f32(vget_low_f32(odd), vget_low_f32(odd2)),
                vcombine_f32(vget_high_f32(even), vget_high_f32(even2)),
                vcombine_f32(vget_high_f32(odd), vget_high_f32(odd2)),
            ];
            for (lane, &column) in columns.iter().enumerate() {
                if lane < count {
                    vst1q_f32(to.add(lane * stride), column);
                }
            }
        });
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        isa!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        isa!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        isa!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        isa!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        isa!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        isa!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        isa!(vbslq_f32(vcltq_f32(a, b), a, b))
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        isa!(vrndnq_f32(a))
    }
    #[inline(always)]
    fn power_of_two(self, a: float32x4_t) -> float32x4_t {
        isa!({
            let biased = vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }
    #[inline(always)]
    fn select_less(self, a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        isa!(vbslq_f32(vcltq_f32(a, b), yes, no))
    }
    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        isa!({
            let pairs = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(pairs) + vget_lane_f32::<1>(pairs)
        })
    }
    #[inline(always)]
    fn largest(self, a: float32x4_t) -> f32 {
        isa!(vmaxvq_f32(a))
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> uint32x4_t {
        isa!(vld1q_u32(from))
    }
    #[inline(always)]
    unsafe fn load_words_first(self, from: *const u32, count: usize) -> uint32x4_t {
        let mut padded = [0; 4];
        isa!({
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), count);
            vld1q_u32(padded.as_ptr())
        })
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> uint32x4_t {
        isa!(vdupq_n_u32(value))
    }
    #[inline(always)]
    fn and(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        isa!(vandq_u32(a, b))
    }
    #[inline(always)]
    fn shift_right(self, a: uint32x4_t, bits: u32) -> uint32x4_t {
        isa!(vshlq_u32(a, vdupq_n_s32(-bits.cast_signed())))
    }
    #[inline(always)]
    fn dot_pairs(self, a: uint32x4_t, b: uint32x4_t, sum: uint32x4_t) -> uint32x4_t {
        isa!({
            let (a, b) = (vreinterpretq_s16_u32(a), vreinterpretq_s16_u32(b));
            let products = vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
            vaddq_u32(sum, vreinterpretq_u32_s32(products))
        })
    }
    #[inline(always)]
    fn fp4_pairs(self, a: uint32x4_t, at: usize) -> uint32x4_t {
        isa!({
            // The table is of bytes: with the code in the upper byte of a half, and 0 in the lower, the half is 256
            // times the number, its sign included.
            let codes = match at {
                0 => vshlq_n_u32::<8>(a),
                1 => vshlq_n_u32::<4>(a),
                2 => a,
                _ => vshrq_n_u32::<4>(a),
            };
            let codes = vandq_u32(codes, vdupq_n_u32(0x0f00_0f00));
            let table = vld1q_s8(FP4_DOUBLED.as_ptr());
            vreinterpretq_u32_s8(vqtbl1q_s8(table, vreinterpretq_u8_u32(codes)))
        })
    }
    #[inline(always)]
    fn to_float(self, a: uint32x4_t) -> float32x4_t {
        isa!(vcvtq_f32_s32(vreinterpretq_s32_u32(a)))
    }
    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut i16, value: float32x4_t) {
        isa!(vst1_s16(to, vqmovn_s32(vcvtnq_s32_f32(value))));
    }
}
