//! What the metadata says about the architecture, as the `config.json` Hugging Face would have.
//!
//! Translates keys; whether the values make a decoder is for `families` to say. Whatever it
//! cannot express there it refuses by name.

use serde_json::{Map, Value, json};

use super::container::{Container, Refusal};
use super::rope_factors;

const SUPPORTED: &str = "llama, qwen2, qwen3";

/// Keys of features none of our families have, which would change the model if ignored.
const REFUSED: &[&str] = &[
    "expert_count",
    "rope.scaling.yarn_log_multiplier",
    "attention.clamp_kqv",
    "attention.scale",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
];

/// What reading the tensors needs to know.
pub(super) struct Architecture {
    pub(super) config: Value,
    pub(super) head_dim: usize,
    /// Query and key rows are stored interleaved (only llama.cpp's `llama`).
    pub(super) interleaved: bool,
}

/// Reads the architecture; `file` are the container's bytes.
pub(super) fn read_architecture(container: &Container, file: &[u8]) -> Result<Architecture, Refusal> {
    let metadata = &container.metadata;
    if let Some(parts) = metadata.count("split.count")?.filter(|&parts| parts > 1) {
        let what = "parts of a model; merge them with llama-gguf-split --merge";
        return Err(Refusal::Unsupported(format!("is one of {parts} {what}")));
    }
    let Some(name) = metadata.text("general.architecture")? else {
        return Err(Refusal::Damaged("it has no general.architecture".into()));
    };
    if !matches!(name, "llama" | "qwen2" | "qwen3") {
        let what = format!("has architecture {name}, which is not supported as GGUF; supported: {SUPPORTED}");
        return Err(Refusal::Unsupported(what));
    }
    let reader = Reader { container, name };
    reader.refuse_features()?;
    let sizes = reader.sizes()?;
    let mut config = reader.config(&sizes)?;
    if let Some(scaling) = reader.rope_scaling(&sizes, file)? {
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(Architecture {
        config: Value::Object(config),
        head_dim: sizes.head_dim as usize,
        interleaved: name == "llama",
    })
}

struct Reader<'a> {
    container: &'a Container,
    name: &'a str,
}

struct Sizes {
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    theta: f64,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn count(&self, key: &str) -> Result<u64, String> {
        self.container.metadata.required_count(&self.key(key))
    }

    fn optional_count(&self, key: &str) -> Result<Option<u64>, String> {
        self.container.metadata.count(&self.key(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.container.metadata.number(&self.key(key))
    }

    fn has(&self, tensor: &str) -> bool {
        self.container.tensors.contains_key(tensor)
    }

    fn refuse_features(&self) -> Result<(), Refusal> {
        for feature in REFUSED {
            let key = self.key(feature);
            // Converters write some of them with the value that means "off".
            let is_off = matches!(self.container.metadata.count(&key), Ok(Some(0)))
                || matches!(self.container.metadata.number(&key), Ok(Some(0.0)));
            if self.container.metadata.contains(&key) && !is_off {
                return Err(Refusal::Unsupported(format!(
                    "sets {key}, which is not supported for {}",
                    self.name
                )));
            }
        }
        if self.name != "llama"
            && self.optional_count("attention.sliding_window")?.is_some_and(|window| window > 0)
        {
            let key = self.key("attention.sliding_window");
            return Err(Refusal::Unsupported(format!("sets {key}, which is supported for llama only")));
        }
        Ok(())
    }

    fn sizes(&self) -> Result<Sizes, String> {
        let hidden = self.count("embedding_length")?;
        let heads = self.count("attention.head_count")?;
        let derived = hidden.checked_div(heads).ok_or("it has no attention heads")?;
        let head_dim = self.optional_count("attention.key_length")?.unwrap_or(derived);
        if head_dim < 2 || !head_dim.is_multiple_of(2) || head_dim > 1 << 16 {
            return Err(format!("its heads are {head_dim} wide, expected an even number"));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.optional_count(key)?.filter(|&other| other != head_dim) {
                return Err(format!("{} is {other}, expected the width of a head {head_dim}", self.key(key)));
            }
        }
        let kv_heads = self.optional_count("attention.head_count_kv")?.unwrap_or(heads);
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        Ok(Sizes { hidden, heads, kv_heads, head_dim, theta })
    }

    fn config(&self, sizes: &Sizes) -> Result<Map<String, Value>, Refusal> {
        let window = self.optional_count("attention.sliding_window")?.filter(|&window| window > 0);
        // Every layer of llama.cpp's llama slides when a window is given, as Mistral's do.
        let model_type = if window.is_some() { "mistral" } else { self.name };
        let epsilon = self.number("attention.layer_norm_rms_epsilon")?;
        let epsilon =
            epsilon.ok_or_else(|| format!("it has no {}", self.key("attention.layer_norm_rms_epsilon")))?;
        let vocab = self.container.tensors.get("token_embd.weight").map(|entry| entry.shape[0]);
        let vocab = vocab.ok_or("it has no tensor token_embd.weight".to_owned())?;
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
        set("model_type", json!(model_type));
        set("hidden_size", json!(sizes.hidden));
        set("intermediate_size", json!(self.count("feed_forward_length")?));
        set("num_hidden_layers", json!(self.count("block_count")?));
        set("num_attention_heads", json!(sizes.heads));
        set("num_key_value_heads", json!(sizes.kv_heads));
        set("head_dim", json!(sizes.head_dim));
        set("vocab_size", json!(vocab));
        set("max_position_embeddings", json!(self.count("context_length")?));
        set("rms_norm_eps", json!(short(epsilon)));
        set("rope_theta", json!(short(sizes.theta)));
        set("hidden_act", json!("silu"));
        set("tie_word_embeddings", json!(!self.has("output.weight")));
        set("attention_bias", json!(self.attention_bias()?));
        set("mlp_bias", json!(self.has("blk.0.ffn_up.bias")));
        if let Some(window) = window {
            set("sliding_window", json!(window));
        }
        for (key, ours) in [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")] {
            if let Some(id) = self.container.metadata.count(&format!("tokenizer.ggml.{key}"))? {
                set(ours, json!(id));
            }
        }
        Ok(config)
    }

    /// Qwen 2 has query, key and value biases by definition; elsewhere all four go together.
    fn attention_bias(&self) -> Result<bool, Refusal> {
        let (query, output) = (self.has("blk.0.attn_q.bias"), self.has("blk.0.attn_output.bias"));
        if self.name != "qwen2" && query != output {
            let what = "has biases on some attention projections only, which is not supported for ";
            return Err(Refusal::Unsupported(format!("{what}{}", self.name)));
        }
        Ok(query && self.name != "qwen2")
    }

    fn rope_scaling(&self, sizes: &Sizes, file: &[u8]) -> Result<Option<Value>, Refusal> {
        let kind = self.container.metadata.text(&self.key("rope.scaling.type"))?;
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        if let Some(entry) = self.container.tensors.get("rope_freqs.weight") {
            let context = self.optional_count("rope.scaling.original_context_length")?;
            let table = rope_factors::Table { theta: sizes.theta, head_dim: sizes.head_dim, context };
            return rope_factors::llama3(entry, file, &table).map(Some);
        }
        match (kind, factor) {
            (Some("none"), _) | (None, None) => Ok(None),
            (Some("linear"), None) => Ok(None),
            (None, Some(factor)) | (Some("linear"), Some(factor)) => {
                Ok((factor != 1.0).then(|| json!({"rope_type": "linear", "factor": short(factor)})))
            }
            (Some("yarn"), Some(factor)) => self.yarn(factor).map(Some),
            (Some(kind), _) => Err(Refusal::Unsupported(format!(
                "uses rope scaling {kind}, which is not supported; supported: none, linear, yarn"
            ))),
        }
    }

    fn yarn(&self, factor: f64) -> Result<Value, Refusal> {
        let context = self.count("rope.scaling.original_context_length")?;
        let mut yarn = Map::new();
        yarn.insert("rope_type".into(), json!("yarn"));
        yarn.insert("factor".into(), json!(short(factor)));
        yarn.insert("original_max_position_embeddings".into(), json!(context));
        for (key, ours) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            if let Some(value) = self.number(&format!("rope.scaling.{key}"))? {
                yarn.insert(ours.into(), json!(short(value)));
            }
        }
        // llama.cpp multiplies YaRN's own magnitude; Hugging Face replaces it.
        let extra = match self.number("rope.scaling.attn_factor")? {
            Some(extra) => Some(extra),
            None => self.number("rope.scaling.yarn_attn_factor")?,
        };
        if let Some(extra) = extra.filter(|&extra| extra != 1.0) {
            yarn.insert("attention_factor".into(), json!(extra * (0.1 * factor.max(1.0).ln() + 1.0)));
        }
        Ok(Value::Object(yarn))
    }
}

/// The shortest decimal that is the same f32: metadata holds f32, and 1e-5 should stay 1e-5.
fn short(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
