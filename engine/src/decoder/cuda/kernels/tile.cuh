// Quantised matrices into tiles, once when a model is loaded, and out of tiles as plain matrices.
//
// From MLX's layout: packed [outputs, k * BITS / 32], scales and biases [outputs, k / GROUP]. What a tile
// is, qmm.cuh says.

namespace mlxcel {

__device__ __forceinline__ uint32_t interleave(uint32_t word) {
  uint32_t out = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) out |= (word >> (4 * i) & 15u) << (4 * (i / 2 + i % 2 * 4));
  return out;
}

// A warp a chunk of a tile.
template <int BITS>
__device__ __forceinline__ void tile_weights(const uint32_t* packed, uint4* out, int tiles, int k) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int chunks = k / 64, index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (index >= tiles * chunks) return;
  const size_t words = size_t(k) * BITS / 32;
  const uint32_t* top = packed + (size_t(index / chunks) * 16 + g) * words + index % chunks * (2 * BITS) + t;
  const uint32_t* bottom = top + 8 * words;
  if constexpr (BITS == 4) {
    out[size_t(index) * 32 + lane] =
        make_uint4(interleave(top[0]), interleave(top[4]), interleave(bottom[0]), interleave(bottom[4]));
  } else {
    out[size_t(index) * 64 + lane] = make_uint4(top[0], top[4], top[8], top[12]);
    out[size_t(index) * 64 + 32 + lane] = make_uint4(bottom[0], bottom[4], bottom[8], bottom[12]);
  }
}

// A thread a row pair of a group of a tile.
template <typename T>
__device__ __forceinline__ void tile_groups(const T* scales, const T* biases, T* out, int tiles, int groups) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= tiles * groups * 8) return;
  const int g = index % 8, group = index / 8 % groups, tile = index / 8 / groups;
  const size_t top = (size_t(tile) * 16 + g) * groups + group, bottom = top + size_t(8) * groups;
  T* to = out + size_t(index) * 4;
  to[0] = scales[top], to[1] = scales[bottom], to[2] = biases[top], to[3] = biases[bottom];
}

// One lane's share of a chunk as plain numbers: rows g and g + 8 into rows k apart at `out`, which is the
// chunk's place in row g.
template <typename T, int BITS, int GROUP>
__device__ __forceinline__ void dequantize_chunk(const Tiled<T>& matrix, int tile, int chunk, int k, T* out) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const uint4* weights = matrix.weights + (size_t(tile) * (k / 64) + chunk) * (Lane<T, BITS>::kVectors * 32) + lane;
  float2 s[2], o[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int group = (chunk * 64 + half * 32) / GROUP;
    const uint2 affine = __ldg(matrix.groups + (size_t(tile) * (k / GROUP) + group) * 8 + g);
    s[half] = unpack<T>(affine.x), o[half] = unpack<T>(affine.y);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    T* to = out + size_t(row) * 8 * k;
    auto scale = [&](int half) { return row == 0 ? s[half].x : s[half].y; };
    auto bias = [&](int half) { return row == 0 ? o[half].x : o[half].y; };
    if constexpr (BITS == 4) {
      const uint2 words = *(reinterpret_cast<const uint2*>(weights) + row);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t word = half == 0 ? words.x : words.y;
        uint32_t pairs[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          pairs[j] = pack<T>(float(word >> (4 * j) & 15u) * scale(half) + bias(half),
                             float(word >> (4 * j + 16) & 15u) * scale(half) + bias(half));
        }
        *reinterpret_cast<uint4*>(to + half * 32 + t * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    } else {
      const uint4 v = stream(weights + row * 32);
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        auto at = [&](int j) { return float(words[i] >> (8 * j) & 255u) * scale(i / 2) + bias(i / 2); };
        *reinterpret_cast<uint2*>(to + i * 16 + t * 4) = make_uint2(pack<T>(at(0), at(1)), pack<T>(at(2), at(3)));
      }
    }
  }
}

// COUNT matrices under each other, [16 * all tiles, k]; a warp a chunk of a tile.
template <typename T, int BITS, int GROUP, int COUNT>
__device__ __forceinline__ void dequantize(
    const Tiled<T> (&matrices)[COUNT], const int (&tiles)[COUNT], T* out, int k) {
  const int g = (threadIdx.x & 31) >> 2, chunks = k / 64, index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int chunk = index % chunks, global = index / chunks;
  Tiled<T> matrix = matrices[0];
  int tile = global, all = tiles[0];
#pragma unroll
  for (int i = 1; i < COUNT; ++i) {
    if (global >= all) matrix = matrices[i], tile = global - all;
    all += tiles[i];
  }
  if (global >= all) return;
  dequantize_chunk<T, BITS, GROUP>(matrix, tile, chunk, k, out + (size_t(global) * 16 + g) * k + chunk * 64);
}

// Rows of a matrix, [count, k]: a block a row, eight inputs a thread.
template <typename T, int BITS, int GROUP>
__device__ __forceinline__ void take_rows(const Tiled<T>& matrix, const uint32_t* ids, T* out, int k) {
  constexpr int kVectors = Lane<T, BITS>::kVectors;
  const int id = ids[blockIdx.x], tile = id / 16, row = id % 16 / 8, g = id % 8;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(matrix.weights);
  const T* affine = reinterpret_cast<const T*>(matrix.groups);
  for (int input = threadIdx.x * 8; input < k; input += blockDim.x * 8) {
    const int chunk = input / 64, group = input / GROUP;
    const size_t lanes = (size_t(tile) * (k / 64) + chunk) * kVectors * 32;
    const T* numbers = affine + ((size_t(tile) * (k / GROUP) + group) * 8 + g) * 4;
    const float scale = widen(numbers[row]), bias = widen(numbers[2 + row]);
    uint32_t pairs[4];
    if constexpr (BITS == 4) {
      const uint32_t word = words[(lanes + g * 4 + input % 32 / 8) * 4 + row * 2 + input % 64 / 32];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        pairs[j] = pack<T>(float(word >> (4 * j) & 15u) * scale + bias, float(word >> (4 * j + 16) & 15u) * scale + bias);
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t word = words[(lanes + row * 32 + g * 4 + input % 16 / 4 + half) * 4 + input % 64 / 16];
        auto at = [&](int j) { return float(word >> (8 * j) & 255u) * scale + bias; };
        pairs[2 * half] = pack<T>(at(0), at(1)), pairs[2 * half + 1] = pack<T>(at(2), at(3));
      }
    }
    *reinterpret_cast<uint4*>(out + size_t(blockIdx.x) * k + input) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

} // namespace mlxcel
