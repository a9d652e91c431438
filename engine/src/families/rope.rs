//! Rotary embeddings from config.json: plain, linear, Llama 3 and YaRN frequencies.
//!
//! Turns `rope_theta` with `rope_scaling` (or `rope_parameters`, which newer writers use for
//! both) into one list of inverse frequencies. Frequencies that change with the length of the
//! sequence (dynamic NTK, LongRoPE) do not fit a list and are refused by name.

use std::f64::consts::PI;

use super::config::Config;
use super::error::FamilyError;
use crate::decoder::Rope;

/// Scaling kinds that fit a list of frequencies.
const SUPPORTED: &str = "default, linear, llama3, yarn";

/// The rotary embedding of every layer; `default_theta` is the family's.
pub(super) fn rope(config: Config<'_>, head_dim: usize, default_theta: f64) -> Result<Rope, FamilyError> {
    if !head_dim.is_multiple_of(2) {
        return Err(config.wrong("head_dim", "an even number"));
    }
    let parameters = config.section("rope_parameters", "rope_parameters.")?;
    let scaling = config.section("rope_scaling", "rope_scaling.")?.or(parameters);
    let theta = match (config.optional_number("rope_theta")?, parameters) {
        (Some(theta), _) => theta,
        (None, Some(parameters)) => parameters.optional_number("rope_theta")?.unwrap_or(default_theta),
        (None, None) => default_theta,
    };
    for source in [Some(config), parameters, scaling].into_iter().flatten() {
        if source.optional_number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(source.unsupported("partial_rotary_factor", "1"));
        }
    }
    let periods: Vec<f64> = (0..head_dim / 2).map(|i| theta.powf(2.0 * i as f64 / head_dim as f64)).collect();
    let (periods, magnitude) = match scaling {
        None => (periods, 1.0),
        Some(scaling) => scaled(scaling, Unscaled { periods, theta, head_dim })?,
    };
    Ok(Rope {
        dims: head_dim,
        traditional: config.flag("rope_traditional", false)?,
        inverse_frequencies: periods.iter().map(|period| (1.0 / period) as f32).collect(),
        magnitude: magnitude as f32,
    })
}

struct Unscaled {
    /// Positions for one radian, by pair.
    periods: Vec<f64>,
    theta: f64,
    head_dim: usize,
}

fn scaled(scaling: Config<'_>, unscaled: Unscaled) -> Result<(Vec<f64>, f64), FamilyError> {
    let key = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    match scaling.text(key)?.unwrap_or("default") {
        "default" => {
            // Layers with rotary embeddings of their own nest one object per layer type.
            match ["full_attention", "sliding_attention"].into_iter().find(|key| scaling.get(key).is_some()) {
                Some(key) => Err(scaling.unsupported(key, "one rotary embedding for all layers")),
                None => Ok((unscaled.periods, 1.0)),
            }
        }
        "linear" => {
            let factor = scaling.number("factor")?;
            Ok((unscaled.periods.into_iter().map(|period| period * factor).collect(), 1.0))
        }
        "llama3" => Ok((llama3(scaling, unscaled.periods)?, 1.0)),
        "yarn" => yarn(scaling, &unscaled),
        _ => Err(scaling.unsupported(key, SUPPORTED)),
    }
}

/// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
fn llama3(scaling: Config<'_>, periods: Vec<f64>) -> Result<Vec<f64>, FamilyError> {
    let factor = scaling.number("factor")?;
    let low = scaling.optional_number("low_freq_factor")?.unwrap_or(1.0);
    let high = scaling.optional_number("high_freq_factor")?.unwrap_or(4.0);
    let context = scaling.number("original_max_position_embeddings")?;
    if high <= low {
        return Err(scaling.wrong("high_freq_factor", "a number above low_freq_factor"));
    }
    let stretch = |period: f64| {
        let wavelength = 2.0 * PI * period;
        if wavelength > context / low {
            period * factor
        } else if wavelength > context / high {
            let smooth = (context / wavelength - low) / (high - low);
            period / ((1.0 - smooth) / factor + smooth)
        } else {
            period
        }
    };
    Ok(periods.into_iter().map(stretch).collect())
}

/// YaRN (<https://arxiv.org/abs/2309.00071>): frequencies are interpolated by parts, and the
/// rotated vectors grow with the logarithm of the factor.
fn yarn(scaling: Config<'_>, unscaled: &Unscaled) -> Result<(Vec<f64>, f64), FamilyError> {
    let factor = scaling.number("factor")?;
    let context = scaling.number("original_max_position_embeddings")?;
    let dims = unscaled.head_dim as f64;
    // The pair that turns this many times over the original context.
    let pair_of = |turns: f64| dims * (context / (turns * 2.0 * PI)).ln() / (2.0 * unscaled.theta.ln());
    let mut low = pair_of(scaling.optional_number("beta_fast")?.unwrap_or(32.0));
    let mut high = pair_of(scaling.optional_number("beta_slow")?.unwrap_or(1.0));
    if scaling.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    let low = low.max(0.0);
    let mut high = high.min(dims - 1.0);
    if high == low {
        high += 0.001;
    }
    let blend = |(pair, &period): (usize, &f64)| {
        let interpolated = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / (interpolated / (period * factor) + (1.0 - interpolated) / period)
    };
    let periods = unscaled.periods.iter().enumerate().map(blend).collect();
    Ok((periods, yarn_magnitude(scaling, factor)?))
}

fn yarn_magnitude(scaling: Config<'_>, factor: f64) -> Result<f64, FamilyError> {
    if let Some(given) = scaling.optional_number("attention_factor")? {
        return Ok(given);
    }
    let grown = |slope: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * slope * factor.ln() + 1.0 }
    };
    let slope = scaling.optional_non_negative("mscale")?.unwrap_or(1.0);
    let slope_all = scaling.optional_non_negative("mscale_all_dim")?.unwrap_or(0.0);
    Ok(grown(slope) / grown(slope_all))
}
