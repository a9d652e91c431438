#!/usr/bin/env bash
# llama.cpp and mlxcel on this machine's CPU, taking turns in one run, over the same GGUF files.
# usage: bench/cpu_vs_llama_cpp.sh MODEL.gguf [ROUNDS]
# MODEL is SmolLM2-135M-Instruct in Q4_1 for the figures in bench/results; ROUNDS is 5.
# Builds llama.cpp from the source in llama-cpp-python 0.3.36's package, once, into the user's cache (10 minutes on two
# cores), and writes there a model of the shape of Llama-3.2-1B with random weights. MLXCEL_BIN names a directory with
# our programs where they are not to be built.
set -euo pipefail
model=$(realpath "$1") rounds=${2:-5}
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlxcel/bench/llama-cpp-0.3.36
source=$cache/llama_cpp_python-0.3.36/vendor/llama.cpp
mkdir -p "$cache"
if [ ! -x "$cache/build/bin/llama-bench" ] || [ ! -x "$cache/build/bin/llama-server" ]; then
  cd "$cache"
  python3 -m venv venv
  venv/bin/pip -q install cmake ninja scikit-build-core
  venv/bin/pip -q download --no-deps --no-binary :all: --no-build-isolation llama-cpp-python==0.3.36
  tar xzf llama_cpp_python-0.3.36.tar.gz
  PATH=$cache/venv/bin:$PATH cmake -G Ninja -S "$source" -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
  PATH=$cache/venv/bin:$PATH cmake --build build --target llama-bench llama-server
fi
shape=$cache/llama-3.2-1b-shape.Q4_1.gguf
if [ ! -f "$shape" ]; then
  "$cache/venv/bin/python" -c 'import numpy, yaml, tqdm, requests' 2>/dev/null ||
    "$cache/venv/bin/pip" -q install numpy pyyaml tqdm requests
  PYTHONPATH=$source/gguf-py "$cache/venv/bin/python" "$root/bench/random_llama_gguf.py" "$model" "$shape.part"
  mv "$shape.part" "$shape"
fi
if [ -z "${MLXCEL_BIN:-}" ]; then
  cd "$root"
  cargo build --release -p mlxcel-bench -p mlxcel
  MLXCEL_BIN=${CARGO_TARGET_DIR:-$root/target}/release
fi
exec python3 "$root/bench/cpu_vs_llama_cpp.py" --model "$model" --shape "$shape" --rounds "$rounds" \
  --llama "$cache/build/bin" --ours "$MLXCEL_BIN"
