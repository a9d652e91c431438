//! AVX-512: 16 lanes.
//!
//! Masks make the ends of rows cheap, and one permutation turns 4-bit values into floats. `VNNI` adds one
//! instruction for products of 16-bit numbers. Detection is in `level`.

use std::arch::asm;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{FP4_DOUBLED, Kernel, SMALLEST_POWER, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>(());

/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(crate) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// # Safety
/// The CPU has AVX-512 VNNI besides.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

/// An intrinsic, in a method of the token that proves the CPU has it.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: an `Avx512` exists only inside its `enter`; pointers are as the method's caller promised.
        unsafe { $call }
    };
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const FP4_ONE: f32 = 2.0;
    type F = __m512;
    type U = __m512i;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        isa!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        isa!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        isa!(_mm512_maskz_loadu_ps(first(count), from))
    }
    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        isa!(_mm_prefetch::<_MM_HINT_T0>(from.cast()));
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m512) {
        isa!(_mm512_storeu_ps(to, value))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, value: __m512) {
        isa!(_mm512_mask_storeu_ps(to, first(count), value))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        isa!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        isa!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
            from.cast()
        )))))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512 {
        isa!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> __m512 {
        isa!({
            let eight_each = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
            let words = _mm512_castsi128_si512(_mm_loadl_epi64(from.cast()));
            let shifted = _mm512_srlv_epi32(_mm512_permutexvar_epi32(eight_each, words), shifts);
            // The permutation looks at the four lowest bits of an index only, so it masks and converts at once.
            let numbers =
                _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
            _mm512_permutexvar_ps(shifted, numbers)
        })
    }
    #[inline(always)]
    unsafe fn load_fp4(self, from: *const u8) -> __m512 {
        isa!({
            let eight_each = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
            let words = _mm512_castsi128_si512(_mm_loadl_epi64(from.cast()));
            let codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(eight_each, words), shifts);
            let values =
                _mm512_setr_ps(0., 0.5, 1., 1.5, 2., 3., 4., 6., -0., -0.5, -1., -1.5, -2., -3., -4., -6.);
            _mm512_permutexvar_ps(codes, values)
        })
    }
    #[inline(always)]
    unsafe fn load_powers(self, from: *const u8) -> __m512 {
        isa!({
            let powers = _mm512_slli_epi32::<23>(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())));
            _mm512_castsi512_ps(_mm512_max_epi32(powers, _mm512_set1_epi32(SMALLEST_POWER.cast_signed())))
        })
    }
    #[inline(always)]
    unsafe fn pick(self, from: *const f32, places: __m512i) -> __m512 {
        isa!(_mm512_permutexvar_ps(places, _mm512_castps256_ps512(_mm256_loadu_ps(from))))
    }
    #[inline(always)]
    unsafe fn store_columns(self, to: *mut f32, stride: usize, count: usize, rows: [__m512; 4]) {
        isa!({
            let (low, high) = (_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1]));
            let (low2, high2) = (_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3]));
            // A quarter `q` of column `j` belongs to lane `4 q + j`.
            let columns = [
                _mm512_shuffle_ps::<0x44>(low, low2),
                _mm512_shuffle_ps::<0xee>(low, low2),
                _mm512_shuffle_ps::<0x44>(high, high2),
                _mm512_shuffle_ps::<0xee>(high, high2),
            ];
            for (j, &column) in columns.iter().enumerate() {
                let quarters = [
                    _mm512_castps512_ps128(column),
                    _mm512_extractf32x4_ps::<1>(column),
                    _mm512_extractf32x4_ps::<2>(column),
                    _mm512_extractf32x4_ps::<3>(column),
                ];
                for (q, &quarter) in quarters.iter().enumerate() {
                    if 4 * q + j < count {
                        _mm_storeu_ps(to.add((4 * q + j) * stride), quarter);
                    }
                }
            }
        });
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        isa!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        isa!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        isa!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn power_of_two(self, a: __m512) -> __m512 {
        isa!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        isa!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        isa!({
            let pairs = _mm512_add_ps(a, _mm512_permute_ps::<0b01_00_11_10>(a));
            let fours = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
            _mm_cvtss_f32(quarters(fours))
        })
    }
    #[inline(always)]
    fn sum_four(self, a: [__m512; 4]) -> [f32; 4] {
        isa!({
            let low = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
            let high = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
            let even = _mm512_shuffle_ps::<0x44>(low, high);
            let fours = _mm512_add_ps(even, _mm512_shuffle_ps::<0xee>(low, high));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), quarters(fours));
            out
        })
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        isa!({
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> __m512i {
        isa!(_mm512_loadu_si512(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_words_first(self, from: *const u32, count: usize) -> __m512i {
        isa!(_mm512_maskz_loadu_epi32(first(count), from.cast()))
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> __m512i {
        isa!(_mm512_set1_epi32(value.cast_signed()))
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        isa!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn shift_right(self, a: __m512i, bits: u32) -> __m512i {
        isa!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(bits.cast_signed())))
    }
    #[inline(always)]
    fn dot_pairs(self, a: __m512i, b: __m512i, sum: __m512i) -> __m512i {
        if VNNI {
            return isa!(dot_pairs_vnni(a, b, sum));
        }
        isa!(_mm512_add_epi32(sum, _mm512_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn fp4_pairs(self, a: __m512i, at: usize) -> __m512i {
        isa!({
            // The permutation looks at the five lowest bits of each half: with every number twice, the fifth, which
            // belongs to the next code, does not matter, and nothing has to be masked.
            let sixteen = _mm256_cvtepi8_epi16(_mm_loadu_si128(FP4_DOUBLED.as_ptr().cast()));
            let twice = _mm512_broadcast_i64x4(sixteen);
            _mm512_permutexvar_epi16(self.shift_right(a, 4 * at as u32), twice)
        })
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        isa!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut i16, value: __m512) {
        isa!(_mm256_storeu_si256(to.cast(), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(value))))
    }
}

/// One instruction, written out: the compiler splits every other `_mm512_dpwssd_epi32` of a sum in two for the sake
/// of latency, where only the number of instructions counts.
///
/// # Safety
/// The CPU has AVX-512 F and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot_pairs_vnni(a: __m512i, b: __m512i, mut sum: __m512i) -> __m512i {
    // SAFETY: computes on registers alone.
    unsafe {
        asm!(
            "vpdpwssd {0}, {1}, {2}", inout(zmm_reg) sum, in(zmm_reg) a, in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The sum of the four quarters.
#[inline(always)]
fn quarters(a: __m512) -> __m128 {
    // SAFETY: called by methods of `Avx512` alone, inside its `enter`.
    unsafe {
        let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight))
    }
}

/// The mask of the first `count < 16` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    (1 << count) - 1
}
