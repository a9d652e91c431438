#!/usr/bin/env bash
# On an NVIDIA host, after unpack.sh: mlx-lm and mlxcel in one run, on the same random weights.
# usage: compare.sh [SHAPE:BITS ...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python3 "$here/ceilings.py"
for case in "${@:-llama-3.1-8b:4 llama-3.1-8b:16 smollm2-135m:4}"; do
  for one in $case; do
    shape=${one%:*} bits=${one#*:}
    model=/tmp/mlxcel-bench/$shape-$bits
    echo "## $shape, $bits bits: mlx-lm"
    python3 "$here/mlx_lm_side.py" "$shape" "$bits" "$model"
    echo "## $shape, $bits bits: mlxcel"
    engine-speed --model "$model" --prefill 32,128,512,2048 --context 32 --decode 256
    engine-speed --model "$model" --prefill 32 --context 256 --decode 64 --sequences 128 | tail -n 1
    rm -rf "$model"
  done
done
