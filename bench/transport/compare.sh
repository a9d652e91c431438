#!/usr/bin/env bash
# mlxcel's transports, NIXL, Mooncake, iperf3 and MLX's ring on this machine's loopback interface, taking turns in one run.
# usage: bench/transport/compare.sh [--rounds N] [--json FILE]
# Installs the peers from PyPI, once, into the user's cache; iperf3 is the distribution's. MLXCEL_BIN names a directory
# with our program where it is not to be built. Needs two free processors: NIXL at both ends, and we, spin.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlxcel/bench/transport
command -v iperf3 >/dev/null || { echo "iperf3 is not installed: apt install iperf3" >&2; exit 1; }
for library in libibverbs.so.1 librdmacm.so.1; do
  ldconfig -p | grep -q "$library" ||
    { echo "Mooncake needs $library: apt install libibverbs1 librdmacm1" >&2; exit 1; }
done
if [ ! -f "$cache/ready" ]; then
  mkdir -p "$cache"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" -q install numpy 'mlx[cpu]==0.32.4' 'mooncake-transfer-engine-non-cuda==0.3.13'
  "$cache/venv/bin/pip" -q install --no-deps 'nixl-cu12==1.5.1'
  touch "$cache/ready"
fi
if [ -z "${MLXCEL_BIN:-}" ]; then
  cd "$root"
  cargo build --release -p mlxcel-transport-bench
  MLXCEL_BIN=${CARGO_TARGET_DIR:-$root/target}/release
fi
exec "$cache/venv/bin/python" "$root/bench/transport/compare.py" --ours "$MLXCEL_BIN/transport-speed" "$@"
