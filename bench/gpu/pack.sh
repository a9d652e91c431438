#!/usr/bin/env bash
# Packs a CUDA build for a bare NVIDIA host in two parts of at most 42 MB each, with mlx-lm to measure beside it.
# usage: pack.sh OUT_DIR FILE...      (FILEs, such as programs built with --features cuda, go to part 2, stripped)
# On the host: `bash OUT_DIR/1/unpack.sh stash`, then `. OUT_DIR/2/unpack.sh`; see unpack.sh.
set -euo pipefail
version=0.32.4
out=$1; shift
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlxcel/gpu-pack/$version
mkdir -p "$cache" "$out/1" "$out/2"
if [ ! -s "$cache/mlx.tar.xz" ]; then
  python3 -m pip download -q --no-deps --only-binary=:all: --platform manylinux_2_35_x86_64 -d "$cache/wheel" "mlx-cuda-13==$version"
  python3 -m zipfile -e "$cache"/wheel/*.whl "$cache/unpacked"
  # NVRTC compiles kernels against cccl and cutlass, which must lie at ../include beside the library.
  tar -C "$cache/unpacked" -cf - mlx/lib mlx_cuda_13.libs mlx/include/{cccl,cute,cutlass} | xz -T0 -6 > "$cache/mlx.tar.xz.part"
  mv "$cache/mlx.tar.xz.part" "$cache/mlx.tar.xz"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_35_x86_64 -d "$cache/python" "mlx==$version"
  python3 -m pip download -q --no-deps -d "$cache/python" mlx-lm==0.32.2
fi
split=42000000
head -c $split "$cache/mlx.tar.xz" > "$out/1/mlx.part"
tail -c +$((split + 1)) "$cache/mlx.tar.xz" > "$out/2/mlx.part"
cp "$here/unpack.sh" "$out/1/"
cp "$here"/*.py "$here"/*.sh "$cache"/python/*.whl "$out/2/"
programs=$(mktemp -d)
for file in "$@"; do strip -o "$programs/$(basename "$file")" "$file" 2>/dev/null || cp "$file" "$programs/"; done
tar -C "$programs" -cf - . | xz -T0 -6 > "$out/2/programs.tar.xz"
rm -r "$programs"
du -sh "$out/1" "$out/2"
