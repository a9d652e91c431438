//! AVX2 with FMA and F16C: 8 lanes.
//!
//! Every x86-64 server and desktop CPU of the last ten years has these. `VNNI` adds one instruction for products
//! of 16-bit numbers. Detection is in `level`.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{FP4_DOUBLED, Kernel, SMALLEST_POWER, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<false>(()))
}

/// # Safety
/// The CPU has AVX-VNNI besides.
#[target_feature(enable = "avx2,avxvnni,fma,f16c")]
pub(crate) unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<true>(()))
}

/// An intrinsic, in a method of the token that proves the CPU has it.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: an `Avx2` exists only inside its `enter`; pointers are as the method's caller promised.
        unsafe { $call }
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const FP4_ONE: f32 = 512.0;
    type F = __m256;
    type U = __m256i;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        isa!(_mm256_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        isa!(_mm256_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        isa!(_mm256_maskload_ps(from, first(count)))
    }
    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        isa!(_mm_prefetch::<_MM_HINT_T0>(from.cast()));
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m256) {
        isa!(_mm256_storeu_ps(to, value))
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, value: __m256) {
        isa!(_mm256_maskstore_ps(to, first(count), value))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        isa!(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
        isa!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(
            from.cast()
        )))))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m256 {
        isa!(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> __m256 {
        isa!({
            let word = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            let shifted = _mm256_srlv_epi32(word, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
            _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15)))
        })
    }
    #[inline(always)]
    unsafe fn load_fp4(self, from: *const u8) -> __m256 {
        isa!({
            let word = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            let codes = _mm256_srlv_epi32(word, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
            // The permutation looks at the three lowest bits; the fourth goes where the sign of a float is.
            let sizes = _mm256_permutevar8x32_ps(_mm256_setr_ps(0., 0.5, 1., 1.5, 2., 3., 4., 6.), codes);
            let signs = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
            _mm256_or_ps(sizes, _mm256_and_ps(signs, _mm256_set1_ps(-0.0)))
        })
    }
    #[inline(always)]
    unsafe fn load_powers(self, from: *const u8) -> __m256 {
        isa!({
            let powers = _mm256_slli_epi32::<23>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())));
            _mm256_castsi256_ps(_mm256_max_epi32(powers, _mm256_set1_epi32(SMALLEST_POWER.cast_signed())))
        })
    }
    #[inline(always)]
    unsafe fn pick(self, from: *const f32, places: __m256i) -> __m256 {
        isa!(_mm256_permutevar8x32_ps(_mm256_loadu_ps(from), places))
    }
    #[inline(always)]
    unsafe fn store_columns(self, to: *mut f32, stride: usize, count: usize, rows: [__m256; 4]) {
        isa!({
            let (low, high) = (_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[0], rows[1]));
            let (low2, high2) = (_mm256_unpacklo_ps(rows[2], rows[3]), _mm256_unpackhi_ps(rows[2], rows[3]));
            // A half `h` of column `j` belongs to lane `4 h + j`.
            let columns = [
                _mm256_shuffle_ps::<0x44>(low, low2),
                _mm256_shuffle_ps::<0xee>(low, low2),
                _mm256_shuffle_ps::<0x44>(high, high2),
                _mm256_shuffle_ps::<0xee>(high, high2),
            ];
            for (j, &column) in columns.iter().enumerate() {
                let halves = [_mm256_castps256_ps128(column), _mm256_extractf128_ps::<1>(column)];
                for (h, &half) in halves.iter().enumerate() {
                    if 4 * h + j < count {
                        _mm_storeu_ps(to.add((4 * h + j) * stride), half);
                    }
                }
            }
        });
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        isa!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        isa!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        isa!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        isa!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        isa!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        isa!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        isa!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        isa!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn power_of_two(self, a: __m256) -> __m256 {
        isa!({
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn select_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        isa!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        isa!({
            let pairs = _mm256_add_ps(a, _mm256_permute_ps::<0b01_00_11_10>(a));
            let fours = _mm256_add_ps(pairs, _mm256_permute_ps::<0b10_11_00_01>(pairs));
            let (low, high) = (_mm256_castps256_ps128(fours), _mm256_extractf128_ps::<1>(fours));
            _mm_cvtss_f32(_mm_add_ss(low, high))
        })
    }
    #[inline(always)]
    fn sum_four(self, a: [__m256; 4]) -> [f32; 4] {
        isa!({
            let low = _mm256_add_ps(_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]));
            let high = _mm256_add_ps(_mm256_unpacklo_ps(a[2], a[3]), _mm256_unpackhi_ps(a[2], a[3]));
            let even = _mm256_shuffle_ps::<0x44>(low, high);
            let fours = _mm256_add_ps(even, _mm256_shuffle_ps::<0xee>(low, high));
            let sum = _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps::<1>(fours));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sum);
            out
        })
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        isa!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> __m256i {
        isa!(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_words_first(self, from: *const u32, count: usize) -> __m256i {
        isa!(_mm256_maskload_epi32(from.cast(), first(count)))
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> __m256i {
        isa!(_mm256_set1_epi32(value.cast_signed()))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        isa!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn shift_right(self, a: __m256i, bits: u32) -> __m256i {
        isa!(_mm256_srl_epi32(a, _mm_cvtsi32_si128(bits.cast_signed())))
    }
    #[inline(always)]
    fn dot_pairs(self, a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
        if VNNI {
            return isa!(_mm256_dpwssd_avx_epi32(sum, a, b));
        }
        isa!(_mm256_add_epi32(sum, _mm256_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn fp4_pairs(self, a: __m256i, at: usize) -> __m256i {
        isa!({
            // The shuffle looks up bytes: with the code in the upper byte of a half, and 0 in the lower, the half is 256
            // times the number, its sign included.
            let codes = match at {
                0 => _mm256_slli_epi32::<8>(a),
                1 => _mm256_slli_epi32::<4>(a),
                2 => a,
                _ => _mm256_srli_epi32::<4>(a),
            };
            let codes = _mm256_and_si256(codes, _mm256_set1_epi32(0x0f00_0f00));
            let table = _mm_loadu_si128(FP4_DOUBLED.as_ptr().cast());
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
        })
    }
    #[inline(always)]
    fn to_float(self, a: __m256i) -> __m256 {
        isa!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut i16, value: __m256) {
        isa!({
            let words = _mm256_cvtps_epi32(value);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), _mm_packs_epi32(low, high));
        });
    }
}

/// All ones in the first `count < 8` lanes.
#[inline(always)]
fn first(count: usize) -> __m256i {
    // SAFETY: called by methods of `Avx2` alone, inside `enter`.
    unsafe {
        let numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), numbers)
    }
}
