//! What this node could load: the models in its store, and how large their parts are.

use mlxcel_engine::{Sizes, sizes};
use mlxcel_model_store::Store;
use mlxcel_protocol::v1::ModelSize;
use tracing::debug;

/// The models in a store.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Loadable {
    /// Their names.
    pub(crate) names: Vec<String>,
    /// Sizes of those that can be divided.
    pub(crate) sizes: Vec<ModelSize>,
    /// Bytes on disk of each name: what has changed is looked into again.
    bytes: Vec<u64>,
}

impl Loadable {
    /// What the store holds now. Reads headers of what is new there.
    pub(crate) fn renewed(&self, store: &Store) -> Self {
        let listed = store.list();
        let mut renewed = Self::default();
        for model in listed {
            let known = self.names.iter().position(|name| *name == model.name);
            let unchanged = known.filter(|at| self.bytes[*at] == model.size_bytes);
            let size = match unchanged {
                Some(_) => self.sizes.iter().find(|size| size.name == model.name).cloned(),
                None => sizes(&model.path)
                    .map(|sizes| of(&model.name, &sizes))
                    .inspect_err(|error| debug!(model = model.name, %error, "its parts have no sizes"))
                    .ok(),
            };
            renewed.sizes.extend(size);
            renewed.names.push(model.name);
            renewed.bytes.push(model.size_bytes);
        }
        renewed
    }
}

fn of(name: &str, sizes: &Sizes) -> ModelSize {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ModelSize {
        name: name.to_owned(),
        layers: number(sizes.layers),
        layer_bytes: sizes.layer_bytes,
        layer_operations: sizes.layer_flops,
        embedding_bytes: sizes.embedding_bytes,
        head_bytes: sizes.head_bytes,
        hidden_size: number(sizes.hidden_size),
        kv_bytes: sizes.kv_bytes,
        heads: number(sizes.heads),
        max_context: number(sizes.max_context),
        weight_bytes: sizes.weight_bytes,
    }
}
