//! A Llama of 1.2 GB with random weights, in a cache as the hub's client leaves it.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

use crate::support::checkpoint::tokenizer;

/// What requests call it.
pub(crate) const NAME: &str = "tests/big";

const VOCABULARY: usize = 8192;
const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 6144;
const LAYERS: usize = 12;
const HEADS: usize = 16;
const KV_HEADS: usize = 4;
const HEAD: usize = HIDDEN / HEADS;

/// The model's files.
pub(crate) struct Big {
    dir: TempDir,
}

impl Big {
    /// Writes them.
    pub(crate) fn new() -> Self {
        let big = Self { dir: TempDir::new().expect("a directory") };
        let repository = big.dir.path().join("hub/models--tests--big");
        let (revision, refs) = ("0123456789abcdef0123456789abcdef01234567", repository.join("refs"));
        let snapshot: PathBuf = repository.join("snapshots").join(revision);
        fs::create_dir_all(&snapshot).and_then(|()| fs::create_dir_all(&refs)).expect("directories");
        let write = |path: PathBuf, text: String| fs::write(path, text).expect("files can be written");
        write(refs.join("main"), revision.to_owned());
        write(snapshot.join("config.json"), config());
        write(snapshot.join("tokenizer.json"), tokenizer(VOCABULARY).to_string());
        write_weights(&snapshot.join("model.safetensors"));
        big
    }

    /// The directory that `HF_HOME` names.
    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }
}

fn config() -> String {
    let config = json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    });
    config.to_string()
}

fn write_weights(path: &Path) {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let named = |name: &str, shape: Vec<usize>| (format!("model.layers.{layer}.{name}.weight"), shape);
        shapes.extend([
            named("input_layernorm", vec![HIDDEN]),
            named("post_attention_layernorm", vec![HIDDEN]),
            named("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            named("self_attn.k_proj", vec![KV_HEADS * HEAD, HIDDEN]),
            named("self_attn.v_proj", vec![KV_HEADS * HEAD, HIDDEN]),
            named("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            named("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            named("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            named("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ]);
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product()).flat_map(|_| next(&mut state, shape.len() == 1));
            (name, shape.clone(), values.collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), values).expect("shape and bytes agree");
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, path).expect("weights can be written");
}

/// A bf16 between -1/32 and 1/32, or of a norm 1.
fn next(state: &mut u64, norm: bool) -> [u8; 2] {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let value = ((*state >> 40) as f32 / (1 << 23) as f32 - 1.0) / 32.0;
    let bits = if norm { 1.0_f32 } else { value }.to_bits() >> 16;
    (bits as u16).to_le_bytes()
}
