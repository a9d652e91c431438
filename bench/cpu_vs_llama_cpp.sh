#!/usr/bin/env bash
# llama.cpp and mlxcel on this machine's CPU, taking turns in one run, on the same GGUF file.
# usage: bench/cpu_vs_llama_cpp.sh MODEL.gguf [ROUNDS]
# Builds llama.cpp from the source in llama-cpp-python 0.3.36's package, once, into the user's cache.
set -euo pipefail
model=$(realpath "$1") rounds=${2:-5}
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlxcel/bench/llama-cpp-0.3.36
bench=${LLAMA_BENCH:-$cache/build/bin/llama-bench}
if [ ! -x "$bench" ]; then
  mkdir -p "$cache" && cd "$cache"
  python3 -m venv venv && venv/bin/pip -q install cmake ninja scikit-build-core
  venv/bin/pip -q download --no-deps --no-binary :all: --no-build-isolation llama-cpp-python==0.3.36
  tar xzf llama_cpp_python-0.3.36.tar.gz
  PATH=$cache/venv/bin:$PATH cmake -G Ninja -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DBUILD_SHARED_LIBS=OFF
  PATH=$cache/venv/bin:$PATH cmake --build build --target llama-bench
fi
cd "$root"
cargo build -q --release -p mlxcel-bench
ours=${CARGO_TARGET_DIR:-$root/target}/release/engine-speed
# Turns, so that a busy minute on a shared machine hits both.
for round in $(seq "$rounds"); do
  "$bench" -m "$model" -p 512 -n 128 -r 1 -t "$(nproc)" -o jsonl | sed 's/^/llama.cpp /'
  "$ours" --model "$model" --prefill 512 --context 1 --decode 128 --runs 1 | sed 's/^/mlxcel /'
done | python3 -c '
import json, statistics, sys
rates = {}
for line in sys.stdin:
    who, text = line.split(" ", 1)
    row = json.loads(text)
    if who == "llama.cpp":
        case = "prefill" if row["n_prompt"] else "decode"
        rates.setdefault((case, who), []).append(row["avg_ts"])
    else:
        rates.setdefault((row["case"], who), []).append(row["tokens_per_second"])
print("| case | llama.cpp tok/s | mlxcel tok/s | ratio of medians | ratios by round |")
print("|---|---|---|---|---|")
for case in ("decode", "prefill"):
    theirs, ours = rates[case, "llama.cpp"], rates[case, "mlxcel"]
    by_round = " ".join(f"{b / a:.2f}" for a, b in zip(theirs, ours))
    a, b = statistics.median(theirs), statistics.median(ours)
    print(f"| {case} | {a:.1f} | {b:.1f} | {b / a:.2f} | {by_round} |")
'
