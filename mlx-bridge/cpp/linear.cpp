// Quantised and gathered matrix products, and convolution.
#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

namespace {

std::string mode_of(const QuantizedLayout& layout) {
  return std::string(layout.mode);
}

} // namespace

std::unique_ptr<ArrayList> quantize(const mx::array& w, const QuantizedLayout& layout) {
  return give(mx::quantize(w, layout.group_size, layout.bits, mode_of(layout)));
}

Ptr dequantize(const mx::array& w, const mx::array& scales, const mx::array* biases, const QuantizedLayout& layout) {
  return give(mx::dequantize(w, scales, optional_of(biases), layout.group_size, layout.bits, mode_of(layout)));
}

Ptr quantized_matmul(
    const mx::array& x,
    const mx::array& w,
    const mx::array& scales,
    const mx::array* biases,
    bool transpose,
    const QuantizedLayout& layout) {
  return give(mx::quantized_matmul(
      x, w, scales, optional_of(biases), transpose, layout.group_size, layout.bits, mode_of(layout)));
}

Ptr gather_qmm(
    const mx::array& x,
    const mx::array& w,
    const mx::array& scales,
    const mx::array* biases,
    const mx::array& experts,
    const QuantizedLayout& layout) {
  return give(mx::gather_qmm(
      x,
      w,
      scales,
      optional_of(biases),
      std::nullopt,
      experts,
      true,
      layout.group_size,
      layout.bits,
      mode_of(layout)));
}

Ptr gather_mm(const mx::array& x, const mx::array& w, const mx::array& experts) {
  return give(mx::gather_mm(x, w, std::nullopt, experts));
}

Ptr conv1d(const mx::array& x, const mx::array& w, std::int32_t stride, std::int32_t padding, std::int32_t groups) {
  return give(mx::conv1d(x, w, stride, padding, 1, groups));
}

} // namespace mlxcel
