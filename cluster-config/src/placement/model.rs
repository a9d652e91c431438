//! What is to be placed: how large a model is, and what it is wanted for.

/// Sizes of a model. Layers are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelSize {
    /// Decoder layers.
    pub layers: usize,
    /// Bytes of one layer's weights.
    pub layer_bytes: u64,
    /// Multiplications and additions that a token takes in one layer.
    pub layer_flops: f64,
    /// Bytes of the embedding.
    pub embedding_bytes: u64,
    /// Bytes of the output head; where it is the embedding, those again, since another stage may hold it.
    pub head_bytes: u64,
    /// Bytes of a token's hidden state between stages.
    pub hidden_bytes: u64,
    /// Bytes of keys and values a token takes in one layer.
    pub kv_bytes: u64,
    /// Most ranks that can share a layer.
    pub most_ranks: usize,
}

/// What a model is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens of each.
    pub context: usize,
}

impl ModelSize {
    /// Bytes of all weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.layers as u64 * self.layer_bytes + self.embedding_bytes + self.head_bytes
    }

    /// Bytes of keys and values of everything that is wanted.
    #[must_use]
    pub fn cache_bytes(&self, demand: Demand) -> u64 {
        self.layers as u64 * self.layer_cache(demand)
    }

    /// The same of one layer.
    pub(super) fn layer_cache(&self, demand: Demand) -> u64 {
        self.kv_bytes * (demand.sequences * demand.context) as u64
    }
}
