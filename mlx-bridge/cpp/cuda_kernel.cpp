// Kernels given as CUDA source, compiled at run time and launched as nodes of the graph.
#include <mlx/fast.h>

#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

namespace {

std::vector<std::string> strings_of(rust::Slice<const rust::Str> names) {
  std::vector<std::string> out;
  for (auto name : names) {
    out.emplace_back(name);
  }
  return out;
}

} // namespace

std::unique_ptr<CudaKernel> cuda_kernel(
    const CudaSource& source, rust::Slice<const rust::Str> inputs, rust::Slice<const rust::Str> outputs) {
  return std::make_unique<CudaKernel>(mx::fast::cuda_kernel(
      std::string(source.name),
      strings_of(inputs),
      strings_of(outputs),
      std::string(source.body),
      std::string(source.header),
      true,
      source.shared_bytes));
}

std::unique_ptr<ArrayList> cuda_launch(
    const CudaKernel& kernel,
    Arrays inputs,
    Ints shapes,
    rust::Slice<const std::uint8_t> ranks,
    rust::Slice<const std::uint8_t> dtypes,
    const CudaLaunch& launch) {
  std::vector<mx::Shape> out_shapes;
  std::vector<mx::Dtype> out_dtypes;
  auto* at = shapes.data();
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    out_shapes.emplace_back(at, at + ranks[i]);
    out_dtypes.push_back(dtype_of(dtypes[i]));
    at += ranks[i];
  }
  const auto& grid = launch.threads;
  const auto& block = launch.block;
  return give(kernel.launch(
      vector_of(inputs),
      out_shapes,
      out_dtypes,
      std::make_tuple(grid[0], grid[1], grid[2]),
      std::make_tuple(block[0], block[1], block[2]),
      {},
      launch.has_fill ? std::optional<float>(launch.fill) : std::nullopt,
      false,
      {}));
}

} // namespace mlxcel
