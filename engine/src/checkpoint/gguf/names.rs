//! Tensor names: llama.cpp's and Hugging Face's.
//!
//! Rules as data. A name without a row is refused by the caller, because leaving a weight out
//! would change the model silently.

/// Modules outside the layers.
const GLOBAL: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of layer n: `blk.n.X` and `model.layers.n.X`.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", QUERY),
    ("attn_k", KEY),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const QUERY: &str = "self_attn.q_proj";
const KEY: &str = "self_attn.k_proj";

/// Hugging Face's name of a tensor.
pub(super) struct Renamed {
    /// Module path, such as `model.layers.0.mlp.up_proj`.
    pub(super) module: String,
    /// `weight` or `bias`.
    pub(super) kind: &'static str,
    /// A query or key projection, whose rows rotary embeddings pair up.
    pub(super) rotated: bool,
}

/// Translates a tensor's name; `None` when no decoder here reads such a tensor.
pub(super) fn rename(name: &str) -> Option<Renamed> {
    let (module, kind) = name.rsplit_once('.')?;
    let kind = match kind {
        "weight" => "weight",
        "bias" => "bias",
        _ => return None,
    };
    let find = |table: &[(&str, &'static str)], module: &str| {
        table.iter().find(|(ggml, _)| *ggml == module).map(|(_, theirs)| *theirs)
    };
    let Some(rest) = module.strip_prefix("blk.") else {
        let module = find(GLOBAL, module)?.to_owned();
        return Some(Renamed { module, kind, rotated: false });
    };
    let (layer, module) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let module = find(LAYER, module)?;
    Some(Renamed {
        module: format!("model.layers.{layer}.{module}"),
        kind,
        rotated: matches!(module, QUERY | KEY),
    })
}
