// Where a product's rows of x come from: as they are in memory, or normed on the way.
//
// `stage` returns a block's first row, and `stride` the distance of its rows. Norming costs a launch of its own
// more than it costs every block of a product of few rows to do it again.

namespace mlxcel {

// `rows` at a time for a row of blocks, as they are.
template <typename T>
struct PlainRows {
  static constexpr bool kStaged = false;
  const T* x;

  __device__ __forceinline__ const T* stage(int rows, int, int k, int& stride) const {
    stride = k;
    return x + size_t(blockIdx.y) * rows * k;
  }
};

// sum = x + delta (or x alone), rounded, and then sum / rms(sum) * weight, in shared memory; the first block
// leaves the sum in memory. All rows belong to one row of blocks.
template <typename T, int THREADS, bool ADD>
struct NormedRows {
  static constexpr bool kStaged = true;
  // Rows are moved against each other, or all would lie in the same banks.
  static constexpr int kPadding = 32;
  const T* x;
  const T* delta;
  const T* weight;
  T* sum;
  float epsilon;

  __device__ __forceinline__ const T* stage(int, int m, int k, int& stride) const {
    extern __shared__ uint4 staged[];
    __shared__ float shares[THREADS / 32];
    stride = k + kPadding;
    T* rows = reinterpret_cast<T*>(staged);
    for (int row = 0; row < m; ++row) {
      T* to = rows + row * stride;
      float squares = add(row, k, to);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
      if (row > 0) __syncthreads();
      if (threadIdx.x % 32 == 0) shares[threadIdx.x / 32] = squares;
      __syncthreads();
      squares = 0.f;
#pragma unroll
      for (int i = 0; i < THREADS / 32; ++i) squares += shares[i];
      scale(to, k, rsqrtf(squares / k + epsilon));
    }
    __syncthreads();
    return rows;
  }

  // The thread's part of the sum goes to `to`; the sum of its squares.
  __device__ __forceinline__ float add(int row, int k, T* to) const {
    float squares = 0.f;
    for (int at = threadIdx.x * 8; at < k; at += THREADS * 8) {
      const size_t from = size_t(row) * k + at;
      const uint4 a = *reinterpret_cast<const uint4*>(x + from);
      uint32_t values[4] = {a.x, a.y, a.z, a.w};
      if constexpr (ADD) {
        const uint4 b = *reinterpret_cast<const uint4*>(delta + from);
        const uint32_t right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 l = unpack<T>(values[i]), r = unpack<T>(right[i]);
          values[i] = pack<T>(l.x + r.x, l.y + r.y);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = unpack<T>(values[i]);
        squares += v.x * v.x + v.y * v.y;
      }
      const uint4 added = make_uint4(values[0], values[1], values[2], values[3]);
      *reinterpret_cast<uint4*>(to + at) = added;
      if constexpr (ADD) {
        if (blockIdx.x == 0) *reinterpret_cast<uint4*>(sum + from) = added;
      }
    }
    return squares;
  }

  // The thread's part of the row at `to`, times `factor` and the norm's weight.
  __device__ __forceinline__ void scale(T* to, int k, float factor) const {
    for (int at = threadIdx.x * 8; at < k; at += THREADS * 8) {
      const uint4 v = *reinterpret_cast<const uint4*>(to + at), w = *reinterpret_cast<const uint4*>(weight + at);
      const uint32_t values[4] = {v.x, v.y, v.z, v.w}, weights[4] = {w.x, w.y, w.z, w.w};
      uint32_t out[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = unpack<T>(values[i]), b = unpack<T>(weights[i]);
        out[i] = pack<T>(a.x * factor * b.x, a.y * factor * b.y);
      }
      *reinterpret_cast<uint4*>(to + at) = make_uint4(out[0], out[1], out[2], out[3]);
    }
  }
};

} // namespace mlxcel
