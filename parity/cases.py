"""The tiny models whose logits are compared, as data.

Each case is one configuration, one dtype and perhaps one quantisation. `without` is a change to
the configuration that must move the logits far beyond the tolerance: it proves that the case
would notice a decoder that ignores the feature.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

VOCABULARY = 288
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 2e-2}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_TUNED = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 16,
    "beta_slow": 2,
    "mscale": 0.8,
    "mscale_all_dim": 0.4,
}
MXFP4 = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
WINDOWED = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Case:
    name: str
    config: dict[str, Any]
    dtype: str = "float32"
    # Defaults for `quantization` in config.json, affine unless `mode` says otherwise, and choices for modules whose path ends so
    # (False leaves the module in its float type).
    quantize: Optional[dict[str, Any]] = None
    overrides: dict[str, Any] = field(default_factory=dict)
    shards: int = 1
    without: Optional[dict[str, Any]] = None


def config(model_type: str, **changes: Any) -> dict[str, Any]:
    """A small configuration of a family, with some keys changed."""
    base = {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 258,
    }
    if model_type == "qwen3":
        base["head_dim"] = 32
    base.update(changes)
    return {key: value for key, value in base.items() if value is not None}


def lfm2(**changes: Any) -> dict[str, Any]:
    """A small LFM2: gated short convolutions with attention between them."""
    base = {
        "model_type": "lfm2",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 192,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "layer_types": ["conv", "full_attention", "conv", "conv"],
        "bos_token_id": 256,
        "eos_token_id": 258,
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not None}


WIDE_LFM2 = {"hidden_size": 128, "block_dim": 128, "block_ff_dim": 384}


def wide(model_type: str, **changes: Any) -> dict[str, Any]:
    """Widths that every group size divides."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    return config(model_type, **{**sizes, **changes})


CASES = [
    # Structure, in float32.
    Case("llama-tied", config("llama", tie_word_embeddings=True)),
    Case("llama-untied-sharded", config("llama", num_hidden_layers=3), shards=3),
    Case(
        "llama-biases",
        config("llama", attention_bias=True, mlp_bias=True),
        without={"mlp_bias": False},
    ),
    Case("llama-mqa", config("llama", num_key_value_heads=1)),
    Case("llama-mha", config("llama", num_key_value_heads=None)),
    Case("llama-head-dim", config("llama", head_dim=32)),
    Case("mistral-untied", config("mistral")),
    Case("qwen2-untied", config("qwen2")),
    Case("qwen2-tied", config("qwen2", tie_word_embeddings=True, num_key_value_heads=1)),
    Case("qwen3-untied", config("qwen3")),
    Case("qwen3-tied", config("qwen3", tie_word_embeddings=True)),
    # Rotary embeddings.
    Case("llama-theta", config("llama", rope_theta=500.0), without={"rope_theta": 10000.0}),
    Case(
        "llama-traditional",
        config("llama", rope_traditional=True),
        without={"rope_traditional": False},
    ),
    Case(
        "llama-linear",
        config("llama", rope_scaling={"type": "linear", "factor": 4.0}),
        without={"rope_scaling": None},
    ),
    Case(
        "llama-llama3",
        config("llama", head_dim=32, rope_scaling=LLAMA3),
        without={"rope_scaling": None},
    ),
    Case(
        "llama-llama3-traditional",
        config("llama", head_dim=32, rope_scaling=LLAMA3, rope_traditional=True),
        without={"rope_scaling": None},
    ),
    Case(
        "llama-yarn",
        config("llama", head_dim=32, rope_scaling=YARN),
        without={"rope_scaling": None},
    ),
    Case(
        "qwen2-yarn",
        config("qwen2", rope_scaling=YARN_TUNED),
        without={"rope_scaling": None},
    ),
    Case(
        "qwen3-rope-parameters",
        config(
            "qwen3",
            rope_theta=None,
            rope_parameters={"rope_theta": 1000.0, "rope_type": "linear", "factor": 2.0},
        ),
        without={"rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}},
    ),
    # Sliding windows.
    Case(
        "llama-window",
        config("llama", num_hidden_layers=3, sliding_window=8, layer_types=WINDOWED),
        without={"layer_types": ["full_attention"] * 3},
    ),
    Case(
        "mistral-window",
        config("mistral", num_hidden_layers=3, sliding_window=5, layer_types=WINDOWED),
        without={"sliding_window": 6},
    ),
    # Short convolutions.
    Case("lfm2", lfm2(), without={"rope_theta": 100.0}),
    Case(
        "lfm2-biases",
        lfm2(conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False),
        without={"conv_bias": False},
    ),
    Case("lfm2-indices", lfm2(layer_types=None, full_attn_idxs=[0, 3], block_ffn_dim_multiplier=1.3)),
    Case("lfm2-bf16", lfm2(), "bfloat16"),
    Case("lfm2-f16", lfm2(conv_bias=True), "float16"),
    Case("lfm2-4bit", lfm2(**WIDE_LFM2), quantize={"bits": 4, "group_size": 32}),
    # A product of three projections doubles the error of each layer: two will do in bfloat16.
    Case(
        "lfm2-4bit-bf16",
        lfm2(**WIDE_LFM2, num_hidden_layers=2, layer_types=["conv", "full_attention"]),
        "bfloat16",
        quantize={"bits": 4, "group_size": 64},
    ),
    Case("lfm2-4bit-f16", lfm2(**WIDE_LFM2), "float16", quantize={"bits": 4, "group_size": 64}),
    # Half precision.
    Case("llama-bf16", config("llama", num_hidden_layers=3, rope_scaling=LLAMA3), "bfloat16"),
    Case("llama-biases-bf16", config("llama", attention_bias=True, mlp_bias=True), "bfloat16"),
    Case("llama-yarn-bf16", config("llama", rope_scaling=YARN), "bfloat16"),
    Case("llama-f16", config("llama", tie_word_embeddings=True), "float16"),
    Case("mistral-bf16", config("mistral"), "bfloat16"),
    Case("mistral-f16", config("mistral", rope_theta=1e6), "float16"),
    Case("qwen2-bf16", config("qwen2", tie_word_embeddings=True), "bfloat16"),
    Case("qwen2-f16", config("qwen2"), "float16"),
    Case("qwen3-bf16", config("qwen3"), "bfloat16"),
    Case("qwen3-f16", config("qwen3", tie_word_embeddings=True), "float16"),
    # Quantisation.
    *(
        Case(f"llama-{bits}bit-g64", wide("llama"), quantize={"bits": bits, "group_size": 64})
        for bits in (2, 3, 4, 5, 6, 8)
    ),
    Case("llama-4bit-g32", wide("llama"), quantize={"bits": 4, "group_size": 32}),
    Case("llama-8bit-g32", wide("llama"), quantize={"bits": 8, "group_size": 32}),
    Case("llama-4bit-g128", wide("llama"), quantize={"bits": 4, "group_size": 128}),
    Case("llama-8bit-g128", wide("llama"), quantize={"bits": 8, "group_size": 128}),
    Case(
        "llama-mixed",
        wide("llama", num_hidden_layers=3),
        quantize={"bits": 4, "group_size": 64},
        overrides={
            "mlp.down_proj": {"bits": 8, "group_size": 32},
            "layers.1.self_attn.v_proj": {"bits": 6, "group_size": 64},
            "layers.2.mlp.up_proj": False,
            "lm_head": False,
        },
    ),
    Case(
        "llama-4bit-bf16",
        wide("llama", tie_word_embeddings=True),
        "bfloat16",
        quantize={"bits": 4, "group_size": 64},
    ),
    Case(
        "mistral-4bit-f16",
        wide("mistral"),
        "float16",
        quantize={"bits": 4, "group_size": 32},
        shards=2,
    ),
    Case("qwen2-8bit-bf16", wide("qwen2"), "bfloat16", quantize={"bits": 8, "group_size": 64}),
    Case(
        "qwen2-4bit",
        wide("qwen2", head_dim=None, tie_word_embeddings=True),
        quantize={"bits": 4, "group_size": 32},
    ),
    Case("qwen3-4bit-bf16", wide("qwen3"), "bfloat16", quantize={"bits": 4, "group_size": 64}),
    Case(
        "qwen3-mixed-f16",
        wide("qwen3", tie_word_embeddings=True),
        "float16",
        quantize={"bits": 8, "group_size": 64},
        overrides={"mlp.gate_proj": {"bits": 4, "group_size": 32}},
    ),
    # 4-bit floats with powers of two.
    Case("llama-mxfp4", wide("llama"), quantize=MXFP4),
    Case("llama-mxfp4-tied-bf16", wide("llama", tie_word_embeddings=True), "bfloat16", quantize=MXFP4),
    Case(
        "llama-mxfp4-biases",
        wide("llama", attention_bias=True, mlp_bias=True),
        quantize=MXFP4,
        shards=2,
    ),
    Case("qwen2-mxfp4", wide("qwen2", head_dim=None), quantize=MXFP4),
    Case("qwen3-mxfp4-f16", wide("qwen3"), "float16", quantize=MXFP4),
    Case(
        "qwen3-affine-with-mxfp4",
        wide("qwen3", tie_word_embeddings=True),
        quantize={"bits": 8, "group_size": 64},
        overrides={"mlp.gate_proj": MXFP4, "mlp.up_proj": MXFP4, "layers.0.self_attn.o_proj": MXFP4},
    ),
    Case(
        "mistral-mxfp4-with-affine",
        wide("mistral"),
        quantize=MXFP4,
        overrides={
            "lm_head": {"bits": 8, "group_size": 64, "mode": "affine"},
            "embed_tokens": {"bits": 6, "group_size": 32, "mode": "affine"},
            "mlp.down_proj": False,
        },
    ),
]
