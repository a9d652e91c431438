//! A loaded model's cache and identity, as peers are told of them.

use sha2::{Digest, Sha256};

use super::door::{CacheDescription, ModelIdentity};
use super::{CacheLayout, LayerHeads, RowOrder, RowStorage};
use crate::api::Quantization;
use crate::blocks::BLOCK_TOKENS;
use crate::checkpoint::Checkpoint;
use crate::decoder::{Decoder, Execution, Mixer, Model};

impl ModelIdentity {
    /// Of a model's description, samples of its files' bytes, and what its weights are quantised to while loading.
    pub(crate) fn of(decoder: &Decoder, checkpoint: &Checkpoint, quantize: Option<Quantization>) -> Self {
        let mut digest = Sha256::new();
        digest.update(format!("{decoder:?} {quantize:?}"));
        checkpoint.sample(&mut |bytes| digest.update(bytes));
        Self(digest.finalize().into())
    }
}

impl CacheDescription {
    /// Of a whole model with its cache; none where a prefix is more than keys and values.
    pub(crate) fn of(model: &Model, identity: ModelIdentity) -> Option<Self> {
        let layers = model.description.layers.iter().map(|layer| match &layer.mixer {
            Mixer::Attention(attention) => {
                Some(LayerHeads { heads: 0..attention.kv_heads, head_dim: attention.head_dim })
            }
            Mixer::ShortConv(_) => None,
        });
        let (storage, order) = match (model.execution, model.kv_dtype) {
            (Execution::Host, dtype) => (dtype.map_or(RowStorage::F32, Into::into), RowOrder::HeadMajor),
            (_, Some(dtype)) => (dtype.into(), RowOrder::TokenMajor),
            (_, None) => (RowStorage::of_floats(model.dtype)?, RowOrder::TokenMajor),
        };
        let layout = CacheLayout {
            first_layer: 0,
            layers: layers.collect::<Option<_>>()?,
            block_tokens: BLOCK_TOKENS,
            storage,
            order,
        };
        layout.check().is_ok().then_some(Self { model: identity, layout })
    }
}
