//! How to choose tokens, as flags.

use std::collections::BTreeMap;

use clap::Args;
use mlxcel_engine::SamplingParams;

/// Sampling flags, with llama.cpp's names.
#[derive(Debug, Clone, Args)]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always takes the most likely token.
    #[arg(long, alias = "temperature", default_value_t = 0.0)]
    pub(crate) temp: f32,
    /// Keep only the K most likely tokens; 0 keeps all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches P.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(crate) top_p: f32,
    /// Drop tokens less likely than P times the most likely one.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) min_p: f32,
    /// Makes sampling repeatable.
    #[arg(short, long)]
    pub(crate) seed: Option<u64>,
    /// Weakens tokens seen lately; 1 does nothing.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repeat_penalty: f32,
    /// How many of the latest tokens the repeat penalty looks at.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) repeat_last_n: u32,
    /// Subtracted from a token's logit for every earlier occurrence in the output.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    pub(crate) frequency_penalty: f32,
    /// Subtracted from the logit of every token already in the output.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    pub(crate) presence_penalty: f32,
    /// Added to a token's logit: ID+BIAS or ID-BIAS; may be given several times.
    #[arg(long, value_name = "ID(+/-)BIAS", value_parser = parse_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
}

impl SamplingArgs {
    pub(crate) fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            repetition_penalty: self.repeat_penalty,
            repetition_window: self.repeat_last_n,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: self.logit_bias.iter().copied().collect::<BTreeMap<_, _>>(),
        }
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let rule = || "a logit bias is ID+BIAS or ID-BIAS, such as 15043+1.5".to_owned();
    let at = text.find(['+', '-']).ok_or_else(rule)?;
    let (id, bias) = text.split_at(at);
    Ok((id.parse().map_err(|_| rule())?, bias.parse().map_err(|_| rule())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logit_bias_names_a_token_and_a_signed_number() {
        assert_eq!(parse_bias("15+1.5"), Ok((15, 1.5)));
        assert_eq!(parse_bias("7-2"), Ok((7, -2.0)));
        assert!(parse_bias("x+1").is_err());
        assert!(parse_bias("15").is_err());
    }
}
