"""mlx-lm's side of a comparison: random weights of a real shape, saved for others, and measured.

    python mlx_lm_side.py SHAPE BITS OUT_DIR      (BITS 16 for bfloat16, else affine groups of 64)

Writes an MLX checkpoint to OUT_DIR and prints one JSON line a case, in the terms of `engine-speed`.
"""

import importlib
import json
import random
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator, generate_step

SHAPES = {
    "smollm2-135m": dict(
        model_type="llama", hidden_size=576, num_hidden_layers=30, intermediate_size=1536, num_attention_heads=9,
        num_key_value_heads=3, rms_norm_eps=1e-5, vocab_size=49152, rope_theta=100000.0, tie_word_embeddings=True,
        max_position_embeddings=8192),
    "llama-3.1-8b": dict(
        model_type="llama", hidden_size=4096, num_hidden_layers=32, intermediate_size=14336, num_attention_heads=32,
        num_key_value_heads=8, rms_norm_eps=1e-5, vocab_size=128256, rope_theta=500000.0, tie_word_embeddings=False,
        max_position_embeddings=131072),
}


def build(config, bits):
    module = importlib.import_module("mlx_lm.models." + config["model_type"])
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if bits != 16:
        nn.quantize(model, group_size=64, bits=bits)
        config = dict(config, quantization={"group_size": 64, "bits": bits})
    mx.eval(model.parameters())
    return model, config


def save(model, config, out):
    out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(out / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (out / "config.json").write_text(json.dumps(config))
    words = {f"t{i}": i for i in range(1000)}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"}}
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))


def median(values):
    return sorted(values)[len(values) // 2]


def prefill_rate(model, tokens, runs=5):
    prompt = mx.random.randint(0, 30000, (tokens,))
    rates = []
    for run in range(runs + 1):
        begun = time.perf_counter()
        for _ in generate_step(prompt, model, max_tokens=1):
            pass
        if run:
            rates.append(tokens / (time.perf_counter() - begun))
    return median(rates)


def decode_rate(model, context, tokens, runs=5):
    rates = []
    for run in range(runs + 1):
        prompt = mx.random.randint(0, 30000, (context,))
        begun, seen = None, 0
        for _ in generate_step(prompt, model, max_tokens=tokens):
            seen += 1
            begun = begun or time.perf_counter()
        if run:
            rates.append((seen - 1) / (time.perf_counter() - begun))
    return median(rates)


def batch_decode_rate(model, sequences, context, tokens):
    """Of the steps in which every sequence decodes."""
    generator = BatchGenerator(model, max_tokens=tokens, completion_batch_size=sequences, prefill_batch_size=8)
    generator.insert([[random.randrange(30000) for _ in range(context)] for _ in range(sequences)])
    begun, seen = None, 0
    while True:
        made = generator.next()
        prompts, tokens_made = made if isinstance(made, tuple) else ([], made)
        if not prompts and not tokens_made:
            break
        if len(tokens_made) == sequences:
            seen += sequences if begun else 0
            begun = begun or time.perf_counter()
            ended = time.perf_counter()
    return seen / (ended - begun)


if __name__ == "__main__":
    shape, bits, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    model, config = build(SHAPES[shape], bits)
    save(model, config, out)
    for tokens in (32, 128, 512, 2048):
        print(json.dumps({"case": "prefill", "tokens": tokens, "tokens_per_second": prefill_rate(model, tokens)}), flush=True)
    rate = decode_rate(model, 32, 256)
    print(json.dumps({"case": "decode", "context": 32, "tokens": 256, "sequences": 1, "tokens_per_second": rate}), flush=True)
    sequences = 128
    # The first warms up.
    rate = median([batch_decode_rate(model, sequences, 256, 32) for _ in range(6)][1:])
    print(json.dumps({"case": "decode", "context": 256, "tokens": 32, "sequences": sequences, "tokens_per_second": rate}), flush=True)
