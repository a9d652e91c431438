//! Probabilities as whole numbers, relative to the most likely token.
//!
//! Whole numbers add up the same in any order and on any machine, and so does an exponential made
//! of additions and multiplications only: a seeded draw is the same on every platform. Knows
//! nothing of filters.

/// The weight of the most likely token. Tokens less than 2^-31 times as likely weigh nothing;
/// 2^17 of them together would miss less than 0.01 % of the most likely token's share.
pub(super) const ONE: u32 = 1 << 30;

/// `ONE * exp(x)` for `x <= 0`, rounded; relative error of the exponential below 1e-6.
///
/// `2^y` is `2^n * 2^f` with `n` the nearest integer and `2^f` its Taylor polynomial of degree 6.
/// Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa, from where `n` is
/// shifted into the exponent; the same turns the result into an integer, in two parts of 22 and
/// 8 bits. Unlike a checked conversion, all of this is done for many tokens at a time.
#[inline]
pub(super) fn weight(x: f32) -> u32 {
    let high = exponential(x) * (ONE >> 8) as f32;
    let rounded = high + ROUND;
    let low = (high - (rounded - ROUND)) * 256.0 + ROUND;
    (rounded.to_bits().wrapping_sub(ROUND_BITS) << 8).wrapping_add(low.to_bits().wrapping_sub(ROUND_BITS))
}

/// `exp(x)` for `x <= 0`; below `2^-40` its value is that. Relative error below 1e-6.
#[inline]
pub(super) fn exponential(x: f32) -> f32 {
    // Below -31 a weight is 0 in any case.
    let y = x * std::f32::consts::LOG2_E;
    let y = if y > -40.0 { y } else { -40.0 };
    let shifted = y + ROUND;
    let f = (y - (shifted - ROUND)) * std::f32::consts::LN_2;
    let p = 1.0 / 120.0 + f * (1.0 / 720.0);
    let p = 1.0 / 24.0 + f * p;
    let p = 1.0 / 6.0 + f * p;
    let p = 0.5 + f * p;
    let p = 1.0 + f * (1.0 + f * p);
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

/// 1.5 * 2^23: floats near it are 1 apart.
const ROUND: f32 = 12_582_912.0;
const ROUND_BITS: u32 = ROUND.to_bits();

#[cfg(test)]
mod tests {
    use super::{ONE, weight};

    #[test]
    fn most_likely_token_weighs_one() {
        assert_eq!(weight(0.0), ONE);
    }

    #[test]
    fn weight_is_the_exponential() {
        for step in 0..40_000 {
            let x = -(step as f32) * 0.0006;
            let exact = f64::from(ONE) * f64::from(x).exp();
            let error = (f64::from(weight(x)) - exact).abs();
            assert!(error <= 1.0 + 1e-6 * exact, "exp({x}): {} for {exact}", weight(x));
        }
    }

    #[test]
    fn unlikely_tokens_weigh_nothing() {
        for x in [-22.0, -100.0, -1e30, f32::NEG_INFINITY] {
            assert_eq!(weight(x), 0, "{x}");
        }
    }
}
