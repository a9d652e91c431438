// What happens between two products: gates, and a residual sum with its norm.

namespace mlxcel {

// out = silu(gate) * up, eight elements a thread; rows of gate and up lie `stride` apart.
template <typename T>
__device__ __forceinline__ void silu_multiply(
    const T* gate, const T* up, T* out, int rows, int width, size_t gate_stride, size_t up_stride) {
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int across = width / 8;
  if (i >= size_t(rows) * across) return;
  const size_t row = i / across, column = i % across * 8;
  const uint4 a = *reinterpret_cast<const uint4*>(gate + row * gate_stride + column);
  const uint4 b = *reinterpret_cast<const uint4*>(up + row * up_stride + column);
  auto one = [](uint32_t x, uint32_t y) {
    const float2 g = unpack<T>(x), u = unpack<T>(y);
    return pack<T>(g.x / (1.f + __expf(-g.x)) * u.x, g.y / (1.f + __expf(-g.y)) * u.y);
  };
  *reinterpret_cast<uint4*>(out + row * width + column) =
      make_uint4(one(a.x, b.x), one(a.y, b.y), one(a.z, b.z), one(a.w, b.w));
}

// sum = x + delta (or x alone), normed = sum / rms(sum) * weight; a block a row, eight elements a thread
// and pass. The sum is rounded before its norm is taken, as separate operations would.
template <typename T, int THREADS, int PASSES, bool ADD>
__device__ __forceinline__ void add_rms_norm(
    const T* x, const T* delta, const T* weight, T* sum, T* normed, int width, float epsilon) {
  __shared__ float shares[THREADS / 32];
  const size_t base = size_t(blockIdx.x) * width;
  float values[PASSES][8];
  float squares = 0.f;
#pragma unroll
  for (int p = 0; p < PASSES; ++p) {
    const int at = (p * THREADS + threadIdx.x) * 8;
    if (at >= width) continue;
    const uint4 a = *reinterpret_cast<const uint4*>(x + base + at);
    const uint32_t left[4] = {a.x, a.y, a.z, a.w};
    uint32_t right[4] = {0, 0, 0, 0};
    if constexpr (ADD) {
      const uint4 b = *reinterpret_cast<const uint4*>(delta + base + at);
      right[0] = b.x, right[1] = b.y, right[2] = b.z, right[3] = b.w;
    }
    uint32_t rounded[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      rounded[i] = left[i];
      if constexpr (ADD) {
        const float2 l = unpack<T>(left[i]), r = unpack<T>(right[i]);
        rounded[i] = pack<T>(l.x + r.x, l.y + r.y);
      }
      const float2 v = unpack<T>(rounded[i]);
      values[p][2 * i] = v.x, values[p][2 * i + 1] = v.y;
      squares += v.x * v.x + v.y * v.y;
    }
    if constexpr (ADD) {
      *reinterpret_cast<uint4*>(sum + base + at) = make_uint4(rounded[0], rounded[1], rounded[2], rounded[3]);
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  if (threadIdx.x % 32 == 0) shares[threadIdx.x / 32] = squares;
  __syncthreads();
  squares = 0.f;
#pragma unroll
  for (int i = 0; i < THREADS / 32; ++i) squares += shares[i];
  const float factor = rsqrtf(squares / width + epsilon);
#pragma unroll
  for (int p = 0; p < PASSES; ++p) {
    const int at = (p * THREADS + threadIdx.x) * 8;
    if (at >= width) continue;
    const uint4 w = *reinterpret_cast<const uint4*>(weight + at);
    const uint32_t scale[4] = {w.x, w.y, w.z, w.w};
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 s = unpack<T>(scale[i]);
      out[i] = pack<T>(values[p][2 * i] * factor * s.x, values[p][2 * i + 1] * factor * s.y);
    }
    *reinterpret_cast<uint4*>(normed + base + at) = make_uint4(out[0], out[1], out[2], out[3]);
  }
}

} // namespace mlxcel
