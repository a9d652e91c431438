//! How large the parts of a model are, for whoever divides it. Reads headers and configuration only.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::decoder::{Attention, Decoder, Linear};
use crate::described::described;
use crate::serving::LoadError;

/// Sizes of a model's parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Decoder layers.
    pub layers: usize,
    /// Bytes of the largest layer, as stored.
    pub layer_bytes: u64,
    /// Multiplications and additions that a token takes in a layer's matrices.
    pub layer_flops: f64,
    /// Bytes of the embedding.
    pub embedding_bytes: u64,
    /// Bytes of the output head; those of the embedding where it is that.
    pub head_bytes: u64,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Bytes of keys and values a token takes in the layer where that is most, in half precision. Where layers of other kinds
    /// lie between them, that is more than their states take.
    pub kv_bytes: u64,
    /// Query heads: most ranks that can share a layer.
    pub heads: usize,
    /// Longest sequence the model was trained for, in tokens.
    pub max_context: usize,
    /// Bytes of all weights, as stored.
    pub weight_bytes: u64,
}

/// The sizes of the model in `path`.
///
/// # Errors
/// As of [`load`](crate::load), for everything that can be found wrong without reading the weights.
pub fn sizes(path: &Path) -> Result<Sizes, LoadError> {
    let (checkpoint, decoder) = described(path)?;
    let layers = decoder.layers.len();
    let layer = |at: usize| bytes_under(&checkpoint, &format!("model.layers.{at}."));
    let table = |linear: Option<&Linear>| {
        linear.map_or(0, |linear| bytes_under(&checkpoint, &format!("{}.", linear.name)))
    };
    let elements = decoder.elements() - table_elements(&decoder);
    Ok(Sizes {
        layers,
        layer_bytes: (0..layers).map(layer).max().unwrap_or(0),
        layer_flops: 2.0 * elements as f64 / layers as f64,
        embedding_bytes: table(decoder.embedding.as_ref()),
        head_bytes: table(decoder.output.as_ref().map(|output| &output.head)),
        hidden_size: decoder.hidden_size,
        kv_bytes: attentions(&decoder).map(kv_bytes).max().unwrap_or(0),
        heads: attentions(&decoder).map(|attention| attention.heads).min().unwrap_or(decoder.hidden_size),
        max_context: decoder.max_context,
        weight_bytes: checkpoint.total_bytes(),
    })
}

fn bytes_under(checkpoint: &Checkpoint, prefix: &str) -> u64 {
    let own = checkpoint.names().filter(|name| name.starts_with(prefix));
    own.filter_map(|name| checkpoint.info(name)).map(|info| info.size_bytes()).sum()
}

fn table_elements(decoder: &Decoder) -> usize {
    let tables = 1 + usize::from(decoder.output.as_ref().is_some_and(|output| !output.tied));
    tables * decoder.vocab_size * decoder.hidden_size
}

fn attentions(decoder: &Decoder) -> impl Iterator<Item = &Attention> {
    decoder.layers.iter().filter_map(|layer| layer.mixer.attention())
}

fn kv_bytes(attention: &Attention) -> u64 {
    (2 * attention.kv_heads * attention.head_dim * HALF_BYTES) as u64
}

const HALF_BYTES: usize = 2;

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn smollm2_is_as_large_as_its_tensors() {
        let path = std::env::var_os("MLXCEL_TEST_SMOLLM2");
        let path = path.expect("MLXCEL_TEST_SMOLLM2 names the default model's GGUF file; `./x test` sets it");
        let sizes = sizes(Path::new(&path)).expect("it is a model");
        assert_eq!((sizes.layers, sizes.heads, sizes.hidden_size, sizes.max_context), (30, 9, 576, 8192));
        // Three KV heads of 64, keys and values, two bytes each.
        assert_eq!(sizes.kv_bytes, 2 * 3 * 64 * 2);
        assert_eq!(sizes.layer_flops, 2.0 * (576.0 * (576.0 + 2.0 * 192.0 + 576.0 + 3.0 * 1536.0)));
        assert_eq!(sizes.head_bytes, sizes.embedding_bytes, "it is tied");
        let whole = Checkpoint::open(Path::new(&path)).expect("it is a model").total_bytes();
        let parts = sizes.layer_bytes * 30 + sizes.embedding_bytes;
        assert!(parts.abs_diff(whole) < whole / 100, "{parts} of {whole}");
    }
}
