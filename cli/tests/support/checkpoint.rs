//! A tiny sound checkpoint, for tests that damage one part of it.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

const VOCABULARY: usize = 64;
const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 128;
const KV: usize = 32;

/// A Llama of one layer with random-looking weights, in a directory of its own.
pub(crate) struct Tiny {
    dir: TempDir,
}

impl Tiny {
    /// Writes it.
    pub(crate) fn new() -> Self {
        let tiny = Self { dir: TempDir::new().expect("a directory") };
        tiny.write("config.json", &config().to_string());
        tiny.write("tokenizer.json", &tokenizer(VOCABULARY).to_string());
        write_weights(&tiny.file("model.safetensors"));
        tiny
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts text in the place of a file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).expect("files can be written");
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.file(name)).expect("files can be removed");
    }

    /// Changes the configuration.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut config = config();
        change(&mut config);
        self.write("config.json", &config.to_string());
    }

    /// Leaves only the first part of a file.
    pub(crate) fn truncate(&self, name: &str, missing_bytes: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(self.file(name)).expect("the file opens");
        let length = file.metadata().expect("it has a length").len();
        file.set_len(length - missing_bytes).expect("it can be cut");
    }
}

/// A tokenizer of so many one-word tokens.
pub(crate) fn tokenizer(tokens: usize) -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        (0..tokens).map(|id| (format!("w{id}"), json!(id))).collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    })
}

fn config() -> Value {
    json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": HIDDEN / KV,
        "num_key_value_heads": 1,
        "head_dim": KV,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
    })
}

fn write_weights(path: &Path) {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let shapes = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        (layer("input_layernorm"), vec![HIDDEN]),
        (layer("post_attention_layernorm"), vec![HIDDEN]),
        (layer("self_attn.q_proj"), vec![HIDDEN, HIDDEN]),
        (layer("self_attn.k_proj"), vec![KV, HIDDEN]),
        (layer("self_attn.v_proj"), vec![KV, HIDDEN]),
        (layer("self_attn.o_proj"), vec![HIDDEN, HIDDEN]),
        (layer("mlp.gate_proj"), vec![INTERMEDIATE, HIDDEN]),
        (layer("mlp.up_proj"), vec![INTERMEDIATE, HIDDEN]),
        (layer("mlp.down_proj"), vec![HIDDEN, INTERMEDIATE]),
    ];
    let mut seed = 1_u32;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product()).flat_map(|_| next(&mut seed).to_le_bytes()).collect();
            (name, shape, values)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), values).expect("shape and bytes agree");
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, path).expect("weights can be written");
}

/// A number between -0.5 and 0.5, from a linear congruential generator.
fn next(seed: &mut u32) -> f32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*seed >> 8) as f32 / (1 << 24) as f32 - 0.5
}
