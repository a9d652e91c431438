#!/usr/bin/env bash
# On an NVIDIA host with the NVIDIA Python packages (cuBLAS, cuDNN, NCCL, NVRTC): puts the parts of pack.sh together.
# Sourced from part 2, it leaves MLX_PREFIX, PYTHONPATH and LD_LIBRARY_PATH set.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stash=/tmp/mlxcel-gpu-stash
if [ "${1:-}" = stash ]; then mkdir -p $stash && cp "$here/mlx.part" $stash/; exit; fi
export MLX_PREFIX=/opt/mlxcel-gpu
if [ ! -e $MLX_PREFIX/.done ]; then
  mkdir -p $MLX_PREFIX
  cat $stash/mlx.part "$here/mlx.part" | xz -dc -T0 | tar x -C $MLX_PREFIX
  python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/mlxcel-gpu-python "$here"/*.whl 2>/dev/null
  cp -r --update=none /tmp/mlxcel-gpu-python/. $MLX_PREFIX/
  mkdir -p $MLX_PREFIX/bin && xz -dc -T0 < "$here/programs.tar.xz" | tar x -C $MLX_PREFIX/bin
  touch $MLX_PREFIX/.done
fi
site=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])')
ln -sfn "$site" $MLX_PREFIX/nvidia
export PYTHONPATH=$MLX_PREFIX
LD_LIBRARY_PATH=$MLX_PREFIX/mlx/lib:$(ls -d "$site"/*/lib | tr '\n' ':')${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH PATH=$MLX_PREFIX/bin:$PATH
