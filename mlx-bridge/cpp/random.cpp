// Random numbers from explicit keys, or from the thread's own key.
#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

void random_seed(std::uint64_t seed) {
  mx::random::seed(seed);
}

Ptr random_key(std::uint64_t seed) {
  return give(mx::random::key(seed));
}

Ptr random_split(const mx::array& key, std::int32_t parts) {
  return give(mx::random::split(key, parts));
}

Ptr random_uniform(float low, float high, Ints shape, std::uint8_t dtype, const mx::array* key) {
  return give(
      mx::random::uniform(mx::array(low), mx::array(high), shape_of(shape), dtype_of(dtype), optional_of(key)));
}

Ptr random_normal(Ints shape, std::uint8_t dtype, const mx::array* key) {
  return give(mx::random::normal(shape_of(shape), dtype_of(dtype), std::nullopt, std::nullopt, optional_of(key)));
}

Ptr random_categorical(const mx::array& logits, std::int32_t axis, const mx::array* key) {
  return give(mx::random::categorical(logits, axis, optional_of(key)));
}

} // namespace mlxcel
