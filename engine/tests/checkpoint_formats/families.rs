//! Configurations and the decoders they describe.

use mlxcel_engine::decoder::{Attention, Cut, Decoder, FeedForward, Mixer};
use mlxcel_engine::families;
use serde_json::{Value, json};

use crate::fixtures::llama;

fn with(changes: Value) -> Value {
    let mut config = llama();
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

fn describe(changes: Value) -> Decoder {
    families::describe(&with(changes)).expect("the configuration is accepted")
}

fn refusal(config: &Value) -> String {
    families::describe(config).expect_err("the configuration is refused").to_string()
}

fn attention(decoder: &Decoder, layer: usize) -> &Attention {
    let Mixer::Attention(attention) = &decoder.layers[layer].mixer else { panic!("it is attention") };
    attention
}

fn frequencies(changes: Value) -> Vec<f32> {
    attention(&describe(changes), 0).rope.inverse_frequencies.clone()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < 2e-6, "{found} is not {expected}");
    }
}

#[test]
fn llama_names_sizes_and_cuts_every_weight() {
    let decoder = describe(json!({"tie_word_embeddings": false}));
    assert_eq!((decoder.layers.len(), decoder.vocab_size, decoder.max_context), (2, 32, 128));
    let attention = attention(&decoder, 1);
    assert_eq!(attention.key.name, "model.layers.1.self_attn.k_proj");
    assert_eq!((attention.key.inputs, attention.key.outputs), (64, 32));
    assert_eq!((attention.key.cut, attention.output.cut), (Cut::Heads(16), Cut::RowHeads(16)));
    assert!((attention.scale - 0.25).abs() < 1e-7);
    let FeedForward::Gated { down, .. } = &decoder.layers[0].feed_forward;
    assert_eq!((down.inputs, down.outputs, down.cut), (96, 64, Cut::Row));
    let head = decoder.output.expect("a whole decoder").head;
    assert_eq!((head.name.as_str(), head.outputs, head.cut), ("lm_head", 32, Cut::Vocabulary));
}

#[test]
fn a_tied_head_is_the_embedding() {
    assert!(describe(json!({"tie_word_embeddings": true})).output.is_some_and(|output| output.tied));
}

#[test]
fn biases_follow_the_family() {
    let biases = |changes| {
        let decoder = describe(changes);
        let FeedForward::Gated { up, .. } = &decoder.layers[0].feed_forward;
        let attention = attention(&decoder, 0);
        (attention.query.bias, attention.output.bias, up.bias)
    };
    assert_eq!(biases(json!({})), (false, false, false));
    assert_eq!(biases(json!({"attention_bias": true})), (true, true, false));
    assert_eq!(biases(json!({"mlp_bias": true})), (false, false, true));
    assert_eq!(biases(json!({"model_type": "qwen2"})), (true, false, false));
    assert_eq!(biases(json!({"model_type": "qwen3", "head_dim": 16})), (false, false, false));
}

#[test]
fn qwen3_normalises_heads_and_needs_their_width() {
    let decoder = describe(json!({"model_type": "qwen3", "head_dim": 32}));
    let attention = attention(&decoder, 0);
    assert!(attention.query_norm.is_some() && attention.key_norm.is_some());
    assert_eq!(attention.query.outputs, 128);
    assert!(refusal(&with(json!({"model_type": "qwen3"}))).contains("has no head_dim"));
}

#[test]
fn key_value_heads_default_to_query_heads() {
    assert_eq!(attention(&describe(json!({"num_key_value_heads": null})), 0).kv_heads, 4);
}

#[test]
fn windows_follow_the_family() {
    let windows = |changes| {
        let decoder = describe(changes);
        (attention(&decoder, 0).window, attention(&decoder, 1).window)
    };
    assert_eq!(windows(json!({"sliding_window": 8})), (None, None));
    assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": 8})), (Some(8), Some(8)));
    assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": null})), (None, None));
    let qwen2 = json!({"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 1});
    assert_eq!(windows(qwen2.clone()), (None, None));
    let mut sliding = qwen2;
    sliding["use_sliding_window"] = json!(true);
    assert_eq!(windows(sliding), (None, Some(8)));
    let types = json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(json!({"sliding_window": 8, "layer_types": types})), (Some(8), None));
}

#[test]
fn plain_frequencies_are_powers_of_theta() {
    assert_close(&frequencies(json!({"rope_theta": 10000.0, "head_dim": 4})), &[1.0, 0.01]);
    let nested = json!({"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}, "head_dim": 4});
    assert_close(&frequencies(nested), &[1.0, 0.1]);
}

#[test]
fn linear_scaling_slows_every_frequency() {
    let scaling = json!({"type": "linear", "factor": 4.0});
    assert_close(&frequencies(json!({"rope_scaling": scaling, "head_dim": 4})), &[0.25, 0.0025]);
}

// The expected values of the next two tests are 1 / `_freqs` of mlx-lm 0.32.2's rope classes.

#[test]
fn llama3_scaling_matches_mlx_lm() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    assert_close(&frequencies(json!({"rope_scaling": scaling, "head_dim": 16})), LLAMA3);
}

#[test]
fn yarn_scaling_matches_mlx_lm() {
    let scaling = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512,
    });
    let decoder = describe(json!({"rope_scaling": scaling, "head_dim": 16}));
    let rope = &attention(&decoder, 0).rope;
    assert_close(&rope.inverse_frequencies, YARN);
    assert!((rope.magnitude - YARN_MAGNITUDE).abs() < 1e-6);
}

#[test]
fn scaling_that_depends_on_length_is_refused_by_name() {
    for kind in ["dynamic", "longrope", "mrope"] {
        let config = with(json!({"rope_scaling": {"rope_type": kind, "factor": 2.0}}));
        let text = refusal(&config);
        assert!(text.contains(kind) && text.contains("supported: default, linear, llama3, yarn"), "{text}");
    }
}

#[test]
fn every_required_key_is_named_when_it_is_missing() {
    let required = [
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "rms_norm_eps",
    ];
    for key in required {
        let mut config = llama();
        config.as_object_mut().expect("an object").remove(key);
        let text = refusal(&config);
        assert!(text.starts_with(&format!("config.json has no {key};")), "{text}");
    }
}

#[test]
fn nonsense_values_are_refused_with_the_key() {
    let cases = [
        json!({"hidden_size": 0}),
        json!({"hidden_size": -64}),
        json!({"hidden_size": "64"}),
        json!({"hidden_size": 1e300}),
        json!({"num_hidden_layers": 1_000_000}),
        json!({"num_key_value_heads": 3}),
        json!({"num_attention_heads": 5, "num_key_value_heads": 5}),
        json!({"head_dim": 15}),
        json!({"rms_norm_eps": -1.0}),
        json!({"tie_word_embeddings": 1}),
        json!({"layer_types": ["full_attention"]}),
        json!({"layer_types": ["full_attention", "linear_attention"]}),
        json!({"hidden_act": "gelu"}),
        json!({"rope_scaling": "linear"}),
        json!({"rope_scaling": {"type": "linear"}}),
        json!({"partial_rotary_factor": 0.5}),
    ];
    for changes in cases {
        let text = refusal(&with(changes.clone()));
        let keys = changes.as_object().expect("an object");
        assert!(keys.keys().any(|key| text.contains(key.as_str())), "{changes}: {text}");
    }
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let text = refusal(&with(json!({"model_type": "mamba"})));
    assert!(
        text.starts_with("unknown architecture \"mamba\"; supported: llama, mistral, qwen2, qwen3"),
        "{text}"
    );
}

#[test]
fn every_listed_model_type_is_described() {
    for family in families::list() {
        let named = json!({"model_type": family.model_type, "head_dim": 16});
        let config = if family.family == "lfm2" { lfm2(named) } else { with(named) };
        let decoder = families::describe(&config).expect("the configuration is accepted");
        assert_eq!(decoder.family, family.family);
    }
}

#[test]
fn stored_names_are_brought_to_one_form() {
    let name = families::weight_name;
    assert_eq!(name("layers.0.mlp.up_proj.weight").as_deref(), Some("model.layers.0.mlp.up_proj.weight"));
    assert_eq!(name("language_model.model.norm.weight").as_deref(), Some("model.norm.weight"));
    assert_eq!(name("language_model.lm_head.scales").as_deref(), Some("lm_head.scales"));
    assert_eq!(
        name("model.layers.0.mlp.up_proj.weight").as_deref(),
        Some("model.layers.0.mlp.up_proj.weight")
    );
    assert_eq!(name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
}

const LLAMA3: &[f32] =
    &[1.0, 0.09583998, 0.0125, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05];
const YARN: &[f32] = &[1.0, 0.2569351, 0.0625, 0.013834966, 0.0025, 0.00079056947, 0.00025, 7.905694e-05];
const YARN_MAGNITUDE: f32 = 1.138_629_4;

fn lfm2(changes: Value) -> Value {
    let mut config = json!({
        "model_type": "lfm2", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 32,
        "num_key_value_heads": 2, "norm_eps": 1e-5, "conv_L_cache": 3, "conv_bias": false, "block_ff_dim": 192,
        "block_multiple_of": 32, "layer_types": ["conv", "full_attention", "conv"],
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

#[test]
fn lfm2_alternates_convolutions_and_attention_under_names_of_its_own() {
    let decoder = families::describe(&lfm2(json!({}))).expect("the configuration is accepted");
    let convolutions = [0, 1, 2].map(|layer| decoder.layers[layer].mixer.short_conv().is_some());
    assert_eq!(convolutions, [true, false, true]);
    let conv = decoder.layers[0].mixer.short_conv().expect("it is a convolution");
    assert_eq!((conv.channels, conv.taps, conv.kernel.as_str()), (64, 3, "model.layers.0.conv.conv"));
    let attention = attention(&decoder, 1);
    assert_eq!(attention.output.name, "model.layers.1.self_attn.out_proj");
    assert!(attention.query_norm.is_some() && attention.key_norm.is_some());
    let FeedForward::Gated { gate, .. } = &decoder.layers[0].feed_forward;
    // Two thirds of 192.
    assert_eq!((gate.name.as_str(), gate.outputs), ("model.layers.0.feed_forward.w1", 128));
}

#[test]
fn what_an_lfm2_configuration_asks_for_and_is_not_there_is_refused_by_name() {
    for (changes, named) in [
        (json!({"conv_dim": 32}), "conv_dim \"32\""),
        (json!({"block_dim": 128}), "block_dim \"128\""),
        (json!({"tie_word_embeddings": false}), "tie_word_embeddings \"false\""),
        (json!({"conv_L_cache": 1}), "conv_L_cache 1"),
        (json!({"conv_L_cache": 1 << 29}), "conv_L_cache 536870912"),
        (json!({"block_ffn_dim_multiplier": 1e300}), "block_ffn_dim_multiplier"),
        (json!({"layer_types": ["conv", "mamba", "conv"]}), "layer_types \"mamba\""),
        (json!({"layer_types": ["conv"]}), "layer_types"),
        (json!({"full_attn_idxs": [3]}), "full_attn_idxs [3]"),
        (json!({"num_attention_heads": 5}), "num_attention_heads 5"),
    ] {
        let said = refusal(&lfm2(changes.clone()));
        assert!(said.contains(named), "{changes}: {said}");
    }
}
