"""Writes tiny random checkpoints and the logits mlx-lm computes from them.

    python parity/generate.py OUT_DIR

OUT_DIR/manifest.json lists the cases; OUT_DIR/<case>/ is an MLX model directory;
OUT_DIR/reference/<case>.safetensors holds for each prompt n

    ids.<n>      u32 [tokens]
    logits.<n>   f32 [tokens, vocabulary]  mlx-lm on the stored weights in float32 arithmetic
    native.<n>   f32 [tokens, vocabulary]  mlx-lm as it runs, in the checkpoint's own dtype

The tolerance of a case applies to `logits`. MLX's CPU kernels accumulate in half precision, so in
half precision `native` is the worse reference; the manifest's `native_error` says by how much.
Everything runs on the CPU without a KV cache, and every run writes the same values.
"""

import json
import math
import random
import shutil
import sys
import zlib
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import _get_classes, load_model, quantize_model

import tokenizer
from cases import CASES, TOLERANCE, VOCABULARY, Case

PROMPT_LENGTHS = (1, 5, 13, 48)


def build(config: dict):
    """The model class mlx-lm uses for a configuration, with mlx-lm's own initialisation."""
    model_class, arguments_class = _get_classes(config=config)
    return model_class(arguments_class.from_dict(config))


def randomise(model, dtype: mx.Dtype) -> None:
    """Weights that make every part matter, with logits of a size that suits the tolerance.

    Half precision resolves some hundredths of the largest logit, hence smaller logits and
    flatter attention there.
    """
    head, scores = (0.06, 1.4) if dtype == mx.float32 else (0.015, 1.0)

    def value(path: str, old: mx.array) -> mx.array:
        noise = mx.random.normal(old.shape)
        if "norm" in path:
            new = 1.0 + 0.2 * noise
        elif path.endswith(".bias"):
            new = 0.3 * noise
        elif "embed_tokens" in path or "lm_head" in path:
            new = head * noise
        elif path.endswith(("q_proj.weight", "k_proj.weight")):
            new = noise * (scores / math.sqrt(old.shape[-1]))
        else:
            new = noise * (0.6 / math.sqrt(old.shape[-1]))
        return new.astype(dtype)

    leaves = tree_flatten(model.parameters())
    model.update(tree_unflatten([(path, value(path, old)) for path, old in leaves]))


def choice(case: Case):
    """The quantisation of one module: MLX's predicate, by the end of the module's path."""

    def predicate(path: str, module) -> bool | dict:
        if not hasattr(module, "to_quantized"):
            return False
        for end, value in case.overrides.items():
            if path.endswith(end):
                return value
        return True

    return predicate


def save(weights: dict, config: dict, shards: int, directory: Path) -> None:
    """An MLX model directory, in one file or with an index."""
    names = list(weights)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer.write(directory)
    if shards == 1:
        mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        mx.save_safetensors(str(directory / file), part, {"format": "mlx"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(array.nbytes for array in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def in_float32(model):
    """The same weights, quantised ones included, computed in float32."""
    model.apply(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a)
    return model


def logits(model, ids: list[int]) -> mx.array:
    return model(mx.array(ids)[None])[0].astype(mx.float32)


def largest_difference(a: mx.array, b: mx.array) -> float:
    return mx.max(mx.abs(a - b)).item()


def check_sensitivity(case: Case, model, prompt: list[int]) -> None:
    """Refuses a case that would not notice its own feature missing."""
    changed = {**case.config, **case.without}
    other = build({key: value for key, value in changed.items() if value is not None})
    kept = {path for path, _ in tree_flatten(other.parameters())}
    weights = [(path, value) for path, value in tree_flatten(model.parameters()) if path in kept]
    other.load_weights(weights)
    moved = largest_difference(logits(model, prompt), logits(other, prompt))
    if moved < 10 * TOLERANCE[case.dtype]:
        raise SystemExit(f"{case.name}: leaving out {case.without} moves the logits by {moved:.4f} only")


def generate(case: Case, out: Path) -> dict:
    seed = zlib.crc32(case.name.encode())
    mx.random.seed(seed)
    model = build(case.config)
    randomise(model, getattr(mx, case.dtype))
    config = {**case.config, "torch_dtype": case.dtype}
    if case.quantize:
        model, config = quantize_model(
            model,
            config,
            case.quantize["group_size"],
            case.quantize["bits"],
            mode=case.quantize.get("mode", "affine"),
            quant_predicate=choice(case),
        )
    save(dict(tree_flatten(model.parameters())), config, case.shards, out / case.name)

    model, _ = load_model(out / case.name)
    draw = random.Random(seed)
    prompts = [[draw.randrange(VOCABULARY) for _ in range(n)] for n in PROMPT_LENGTHS]
    if case.without:
        check_sensitivity(case, model, prompts[-1])
    native = [logits(model, ids) for ids in prompts]
    mx.eval(native)
    exact = [logits(in_float32(model), ids) for ids in prompts]
    reference = {}
    for number, ids in enumerate(prompts):
        reference[f"ids.{number}"] = mx.array(ids, dtype=mx.uint32)
        reference[f"logits.{number}"] = exact[number]
        reference[f"native.{number}"] = native[number]
    mx.save_safetensors(str(out / "reference" / f"{case.name}.safetensors"), reference)
    return {
        "name": case.name,
        "family": case.config["model_type"],
        "model": case.name,
        "reference": f"reference/{case.name}.safetensors",
        "prompts": len(prompts),
        "dtype": case.dtype,
        "quantized": case.quantize is not None,
        "tolerance": TOLERANCE[case.dtype],
        "native_error": max(map(largest_difference, exact, native)),
    }


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python parity/generate.py OUT_DIR")
    mx.set_default_device(mx.cpu)
    out = Path(sys.argv[1])
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "reference").mkdir(parents=True)
    entries = [generate(case, partial) for case in CASES]
    manifest = {"mlx": mx.__version__, "cases": entries}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    print(f"{len(entries)} cases in {out}")


if __name__ == "__main__":
    main()
