//! The rules of sampling parameters.
//!
//! Only what makes no sense is refused; narrower ranges, such as OpenAI's, are the API's business.

use super::SamplingError;
use crate::SamplingParams;

type Rule = (&'static str, f32, &'static str, fn(f32) -> bool);

pub(super) fn check(params: &SamplingParams, vocab_size: usize) -> Result<(), SamplingError> {
    let rules: [Rule; 6] = [
        ("temperature", params.temperature, "finite and at least 0", |v| v.is_finite() && v >= 0.0),
        ("top_p", params.top_p, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0),
        ("min_p", params.min_p, "from 0 to 1", |v| (0.0..=1.0).contains(&v)),
        ("repetition_penalty", params.repetition_penalty, "finite and above 0", |v| v.is_finite() && v > 0.0),
        ("frequency_penalty", params.frequency_penalty, "finite", f32::is_finite),
        ("presence_penalty", params.presence_penalty, "finite", f32::is_finite),
    ];
    for (field, value, rule, holds) in rules {
        if !holds(value) {
            return Err(SamplingError::Parameter { field, rule, value });
        }
    }
    for (&id, &value) in &params.logit_bias {
        if id as usize >= vocab_size {
            return Err(SamplingError::BiasToken { id, vocab_size });
        }
        if !value.is_finite() {
            return Err(SamplingError::BiasValue { id, value });
        }
    }
    Ok(())
}
