//! Which instruction set runs.
//!
//! Detects what the CPU has, once. Does not read the environment: a test or a measurement forces a
//! level with [`with_level`] on its own thread, everyone else gets the best.

use std::cell::Cell;
use std::sync::OnceLock;

use super::Kernel;
use super::portable::Portable;

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// What every CPU of the architecture has.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-VNNI besides.
    Avx2Vnni,
    /// x86-64 with AVX2, FMA, F16C and AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64 with AVX-512 VNNI besides.
    Avx512Vnni,
    /// AArch64.
    Neon,
}

impl Level {
    /// The levels this CPU can run, slowest first.
    pub fn available() -> &'static [Level] {
        static AVAILABLE: OnceLock<Vec<Level>> = OnceLock::new();
        AVAILABLE.get_or_init(detect)
    }

    /// The fastest level this CPU can run, or the one forced by [`with_level`].
    pub fn current() -> Level {
        let best = || Self::available().last().copied().unwrap_or(Level::Portable);
        FORCED.get().unwrap_or_else(best)
    }
}

/// Runs `body` with every kernel called on this thread using `level`; `None`, and `body` is not
/// run, when this CPU does not have it. For tests and measurements.
pub fn with_level<R>(level: Level, body: impl FnOnce() -> R) -> Option<R> {
    struct Restore(Option<Level>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    if !Level::available().contains(&level) {
        return None;
    }
    let _restore = Restore(FORCED.replace(Some(level)));
    Some(body())
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

/// Runs `kernel` with the instructions of `level`.
#[inline]
pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        // SAFETY: a `Level` other than `Portable` reaches a kernel only through `Level::current`, which
        // returns those of `Level::available` alone.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => unsafe { super::avx512::enter(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx2Vnni => unsafe { super::avx2::enter(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { super::neon::enter(kernel) },
        _ => kernel.run(Portable),
    }
}

/// Runs `kernel`, which is mostly products of integers, with the instructions of `level` for those too. The other
/// kernels do without, and so without a copy of theirs for each.
#[inline]
pub(crate) fn dispatch_products<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        // SAFETY: as in `dispatch`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { super::avx512::enter_vnni(kernel) },
        // SAFETY: as in `dispatch`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2Vnni => unsafe { super::avx2::enter_vnni(kernel) },
        _ => dispatch(level, kernel),
    }
}

fn detect() -> Vec<Level> {
    let mut found = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let levels = [
            (Level::Avx2, avx2),
            (Level::Avx2Vnni, avx2 && is_x86_feature_detected!("avxvnni")),
            (Level::Avx512, avx2 && avx512),
            (Level::Avx512Vnni, avx2 && avx512 && is_x86_feature_detected!("avx512vnni")),
        ];
        found.extend(levels.into_iter().filter(|(_, has)| *has).map(|(level, _)| level));
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        found.push(Level::Neon);
    }
    found
}
