// MLX's fused transformer functions.
#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

namespace {

std::optional<float> base_of(const Rope& options) {
  return options.has_base ? std::optional<float>(options.base) : std::nullopt;
}

} // namespace

Ptr rms_norm(const mx::array& x, const mx::array* weight, float eps) {
  return give(mx::fast::rms_norm(x, optional_of(weight), eps));
}

Ptr layer_norm(const mx::array& x, const mx::array* weight, const mx::array* bias, float eps) {
  return give(mx::fast::layer_norm(x, optional_of(weight), optional_of(bias), eps));
}

Ptr rope(const mx::array& x, const Rope& options, std::int32_t offset, const mx::array* freqs) {
  return give(mx::fast::rope(
      x, options.dims, options.traditional, base_of(options), options.scale, offset, optional_of(freqs)));
}

Ptr rope_at(const mx::array& x, const Rope& options, const mx::array& offsets, const mx::array* freqs) {
  return give(mx::fast::rope(
      x, options.dims, options.traditional, base_of(options), options.scale, offsets, optional_of(freqs)));
}

Ptr attention(
    const mx::array& queries,
    const mx::array& keys,
    const mx::array& values,
    float scale,
    rust::Str mask_mode,
    const mx::array* mask,
    const mx::array* sinks) {
  return give(mx::fast::scaled_dot_product_attention(
      queries, keys, values, scale, std::string(mask_mode), optional_of(mask), optional_of(sinks)));
}

} // namespace mlxcel
