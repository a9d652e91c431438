//! Llama 3's rotary scaling, recovered from the factors llama.cpp stores in `rope_freqs.weight`.
//!
//! Only factors that follow Llama 3.1's published rule are accepted, because config.json can
//! express no others. The rotary embedding itself is `families`' business.

use serde_json::{Value, json};

use super::block::BlockType;
use super::container::{Entry, Refusal};
use crate::checkpoint::tensor::TensorDtype;

/// What the factors were computed from.
pub(super) struct Table {
    pub(super) theta: f64,
    pub(super) head_dim: u64,
    /// Context the model was first trained for, in tokens, where the file says.
    pub(super) context: Option<u64>,
}

const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// The `rope_scaling` object with the factors of `entry`.
pub(super) fn llama3(entry: &Entry, file: &[u8], table: &Table) -> Result<Value, Refusal> {
    let refuse =
        |what: &str| Refusal::Unsupported(format!("holds rope_freqs.weight {what}, which is not supported"));
    if entry.block != BlockType::Float(TensorDtype::F32) || entry.shape != [table.head_dim as usize / 2] {
        return Err(refuse("that is not one f32 a pair of dimensions"));
    }
    let stored: Vec<f64> = file[entry.range.clone()]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into())
        .collect();
    let factor = stored.iter().copied().fold(1.0, f64::max);
    let contexts = table.context.map_or(vec![8192, 4096, 2048, 16384, 32768], |context| vec![context]);
    let fits = |context: &u64| {
        let expected = (0..stored.len()).map(|pair| expected_factor(table, pair, factor, *context as f64));
        stored.iter().zip(expected).all(|(stored, expected)| (stored / expected - 1.0).abs() < 1e-4)
    };
    match contexts.into_iter().find(fits) {
        Some(context) => Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": context,
        })),
        None => Err(refuse("with factors that do not follow Llama 3.1's rule")),
    }
}

fn expected_factor(table: &Table, pair: usize, factor: f64, context: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI * table.theta.powf(2.0 * pair as f64 / table.head_dim as f64);
    if wavelength < context / HIGH {
        1.0
    } else if wavelength > context / LOW {
        factor
    } else {
        let smooth = (context / wavelength - LOW) / (HIGH - LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
