//! What `--quantize` and `--group-size` say together.
//!
//! Knows which words there are; which bits and groups exist the engine knows, and refuses the others.

use anyhow::{Result, bail};
use mlxcel_engine::Quantization;

/// What `--quantize` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantize {
    /// Bits of the affine layout.
    Bits(u32),
    /// 4-bit floats.
    Mxfp4,
}

/// Reads what `--quantize` takes.
pub(crate) fn parse_quantize(text: &str) -> Result<Quantize, String> {
    match (text, text.parse()) {
        ("mxfp4", _) => Ok(Quantize::Mxfp4),
        (_, Ok(bits)) => Ok(Quantize::Bits(bits)),
        _ => Err("it is a number of bits, or mxfp4".to_owned()),
    }
}

/// What weights are quantised to.
///
/// # Errors
/// When a group size is named that the layout does not have.
pub(crate) fn quantization(
    quantize: Option<Quantize>,
    group_size: Option<u32>,
) -> Result<Option<Quantization>> {
    match (quantize, group_size) {
        (None, _) => Ok(None),
        (Some(Quantize::Bits(bits)), group_size) => {
            Ok(Some(Quantization::Affine { bits, group_size: group_size.unwrap_or(AFFINE_GROUP) }))
        }
        (Some(Quantize::Mxfp4), None | Some(32)) => Ok(Some(Quantization::Mxfp4)),
        (Some(Quantize::Mxfp4), Some(group_size)) => {
            bail!("mxfp4 has groups of 32 weights, got --group-size {group_size}; leave it out")
        }
    }
}

const AFFINE_GROUP: u32 = 64;
