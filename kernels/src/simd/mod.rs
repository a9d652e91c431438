//! Vectors of `f32`, one implementation an instruction set, and the choice between them.
//!
//! A kernel is written once over [`Simd`] and compiled for every set; [`dispatch`] enters the copy for a
//! [`Level`]. Knows no kernel; the machine decides the level, unless a test does.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod element;
mod exp;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod tanh;

pub(crate) use element::Element;
pub(crate) use exp::exp;
pub use level::{Level, with_level};
pub(crate) use level::{dispatch, dispatch_products};
pub(crate) use portable::{Portable, widen};
pub(crate) use tanh::tanh;

/// Most lanes any set has.
pub(crate) const MAX_LANES: usize = 16;

/// The 4-bit floats (E2M1) by their codes, times 2.
const FP4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The bits of `2^-127`, the power of two (E8M0) that is no normal float.
const SMALLEST_POWER: u32 = 1 << 22;

/// An instruction set. A value proves that this CPU has it, so only memory access is unsafe.
///
/// All implementations and all kernels over them are `#[inline(always)]`: they must end up inside the
/// function of [`dispatch`] that enables the instructions. For the same reason kernels loop over their
/// vectors rather than map closures over them: a closure is a function of its own, without the instructions.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// `f32` lanes of a vector.
    const LANES: usize;
    /// Vector registers.
    const REGISTERS: usize;
    /// What `fp4_pairs` makes of 1: a power of two.
    const FP4_ONE: f32;
    /// `LANES` `f32` values.
    type F: Copy;
    /// `LANES` `u32` values.
    type U: Copy;

    fn splat(self, value: f32) -> Self::F;
    /// # Safety
    /// `LANES` values can be read.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// The first `count < LANES` lanes, the others 0.
    ///
    /// # Safety
    /// `count` values can be read.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F;
    /// Asks for a cache line that will be read soon; any address will do.
    fn prefetch(self, from: *const u8);
    /// # Safety
    /// `LANES` values can be written.
    unsafe fn store(self, to: *mut f32, value: Self::F);
    /// # Safety
    /// `count < LANES` values can be written.
    unsafe fn store_first(self, to: *mut f32, count: usize, value: Self::F);
    /// # Safety
    /// `LANES` values can be read.
    unsafe fn load_f16(self, from: *const half::f16) -> Self::F;
    /// # Safety
    /// `LANES` values can be read.
    unsafe fn load_bf16(self, from: *const half::bf16) -> Self::F;
    /// One value a byte.
    ///
    /// # Safety
    /// `LANES` bytes can be read.
    unsafe fn load_bytes(self, from: *const u8) -> Self::F;
    /// Two values a byte, the lower half first.
    ///
    /// # Safety
    /// `LANES / 2` bytes can be read.
    unsafe fn load_nibbles(self, from: *const u8) -> Self::F;
    /// Two 4-bit floats (E2M1) a byte, the lower half first.
    ///
    /// # Safety
    /// `LANES / 2` bytes can be read.
    unsafe fn load_fp4(self, from: *const u8) -> Self::F;
    /// One power of two (E8M0) a byte; infinity for 255.
    ///
    /// # Safety
    /// `LANES` bytes can be read.
    unsafe fn load_powers(self, from: *const u8) -> Self::F;
    /// Lane `i` is value `places[i]`, which is below 8.
    ///
    /// # Safety
    /// 8 values can be read.
    unsafe fn pick(self, from: *const f32, places: Self::U) -> Self::F;

    /// Stores across: the first `count` lanes `l` of the four vectors become four consecutive values at
    /// `to + l * stride`.
    ///
    /// # Safety
    /// Those values can be written.
    unsafe fn store_columns(self, to: *mut f32, stride: usize, count: usize, rows: [Self::F; 4]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^a` for integers from -126 to 127.
    fn power_of_two(self, a: Self::F) -> Self::F;
    /// `yes` where `a < b`, else `no`.
    fn select_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// The sum of the lanes: within each four of them first, `(a0 + a2) + (a1 + a3)`.
    fn sum(self, a: Self::F) -> f32;
    /// The sum of each, to the same bit.
    #[inline(always)]
    fn sum_four(self, a: [Self::F; 4]) -> [f32; 4] {
        [self.sum(a[0]), self.sum(a[1]), self.sum(a[2]), self.sum(a[3])]
    }
    fn largest(self, a: Self::F) -> f32;

    /// # Safety
    /// `LANES` values can be read.
    unsafe fn load_words(self, from: *const u32) -> Self::U;
    /// The first `count < LANES` lanes, the others 0.
    ///
    /// # Safety
    /// `count` values can be read.
    unsafe fn load_words_first(self, from: *const u32, count: usize) -> Self::U;
    fn splat_word(self, value: u32) -> Self::U;
    fn and(self, a: Self::U, b: Self::U) -> Self::U;
    fn shift_right(self, a: Self::U, bits: u32) -> Self::U;
    /// `sum + low(a) low(b) + high(a) high(b)` in each lane, with its halves as signed numbers. The sum does not
    /// overflow; no product of two halves is `2^30`.
    fn dot_pairs(self, a: Self::U, b: Self::U, sum: Self::U) -> Self::U;
    /// The 4-bit floats (E2M1) at bits `4 * at` of both halves of each lane, `at` being below 4, as signed numbers in the
    /// halves: `FP4_ONE` for 1.
    fn fp4_pairs(self, a: Self::U, at: usize) -> Self::U;
    /// Each lane, a signed number, as a float.
    fn to_float(self, a: Self::U) -> Self::F;
    /// Each lane rounded to an integer, within the range of `i16`.
    ///
    /// # Safety
    /// `LANES` values can be written.
    unsafe fn store_rounded(self, to: *mut i16, value: Self::F);
}

/// Code generic over the instruction set; implementations of `run` are `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Runs with the instructions of `S`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
