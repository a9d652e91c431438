"""Writes a GGUF file of the shape of Llama-3.2-1B with random weights: Q4_1, and Q8_0 for the tied embedding.

    python random_llama_gguf.py TOKENIZER.gguf OUT.gguf

The tokenizer is that of TOKENIZER.gguf, with fillers up to the size of the vocabulary. Speed does not depend on what
the weights are, only on their bits; these are small enough for every value to stay finite.
"""

import sys

import gguf
import numpy as np

LAYERS, WIDTH, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY = 16, 2048, 8192, 32, 8, 64, 128256
Q4_1, Q8_0 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0


def blocks(draw: np.random.Generator, rows: int, columns: int, kind) -> np.ndarray:
    """Rows of blocks of 32 random values of some hundredths."""
    count = columns // 32
    if kind == Q4_1:
        scales = np.full((rows, count, 2), (0.004, -0.03), np.float16).view(np.uint8)
        values = draw.integers(0, 256, (rows, count, 16), np.uint8)
    else:
        scales = np.full((rows, count, 1), 0.0003, np.float16).view(np.uint8)
        values = draw.integers(0, 256, (rows, count, 32), np.uint8)
    return np.concatenate([scales, values], axis=2).reshape(rows, -1)


def tokenizer(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    """Copies the tokenizer's fields, and pads its vocabulary."""
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value, kind = field.contents(), field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        if name == "tokenizer.ggml.tokens":
            value = value + [f"<filler_{index}>" for index in range(VOCABULARY - len(value))]
        elif name == "tokenizer.ggml.token_type":
            value = value + [int(gguf.TokenType.UNUSED)] * (VOCABULARY - len(value))
        elif name == "tokenizer.ggml.scores":
            value = value + [0.0] * (VOCABULARY - len(value))
        writer.add_key_value(name, value, kind, inner)


def main(source: str, target: str) -> None:
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("Llama-3.2-1B shape, random weights")
    writer.add_block_count(LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    tokenizer(gguf.GGUFReader(source), writer)
    draw = np.random.default_rng(7)

    def matrix(name: str, rows: int, columns: int, kind=Q4_1) -> None:
        writer.add_tensor(f"{name}.weight", blocks(draw, rows, columns, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    matrix("token_embd", VOCABULARY, WIDTH, Q8_0)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm")
        matrix(f"blk.{layer}.attn_q", HEADS * HEAD, WIDTH)
        matrix(f"blk.{layer}.attn_k", KV_HEADS * HEAD, WIDTH)
        matrix(f"blk.{layer}.attn_v", KV_HEADS * HEAD, WIDTH)
        matrix(f"blk.{layer}.attn_output", WIDTH, HEADS * HEAD)
        norm(f"blk.{layer}.ffn_norm")
        matrix(f"blk.{layer}.ffn_gate", INNER, WIDTH)
        matrix(f"blk.{layer}.ffn_up", INNER, WIDTH)
        matrix(f"blk.{layer}.ffn_down", WIDTH, INNER)
    norm("output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
