// Products of few rows with matrices quantised in affine groups: out = x W^T, weights read once.
//
// Weights lie in tiles of 16 rows and chunks of 64 inputs, each lane's share together (`tile` below), so
// that a warp reads 512 bytes in a row. A tile is the tensor cores' first operand, up to 8 * NT rows of x
// the second. A weight q is fed as the exact number offset + q (its bits or-ed under an exponent); scale
// and bias enter once a group, in f32: sum x (s q + b) = s * sum x (offset + q) + (b - offset s) * sum x.
// A column's arithmetic does not depend on the other columns, so a row of x has the same product in every
// launch of the same block shape. WK warps of a block share k and are added up in a fixed order.

namespace mlxcel {

template <typename T>
struct Offset;
template <>
struct Offset<__nv_bfloat16> {
  static constexpr uint32_t bits = 0x43004300u;
  static constexpr uint32_t one = 0x3f803f80u;
  static constexpr float value = 128.f;
};
template <>
struct Offset<__half> {
  static constexpr uint32_t bits = 0x64006400u;
  static constexpr uint32_t one = 0x3c003c00u;
  static constexpr float value = 1024.f;
};

// One matrix in tiles: weights [tiles, chunks, vectors, 32 lanes], and of each group and row pair
// (g, g + 8) the two scales and the two biases: [tiles, groups, 8, 4].
template <typename T>
struct Tiled {
  const uint4* weights;
  const uint2* groups;
};

// What one lane holds of a tile's chunk: of rows g and g + 8 the weights of four k-steps.
template <typename T, int BITS>
struct Lane;

// Word j of lane t holds inputs 32 j + 8 t and the seven after it, its nibbles in the order
// 0 2 4 6 1 3 5 7, so that nibbles i and i + 4 are neighbours.
template <typename T>
struct Lane<T, 4> {
  static constexpr int kVectors = 1;
  static constexpr float offset = Offset<T>::value;
  uint4 words; // two of row g, two of row g + 8

  __device__ __forceinline__ void load(const uint4* at) { words = stream(at); }
  // Two nibbles as two numbers; spelled out, or the compiler takes two instructions for it.
  __device__ static __forceinline__ uint32_t under_exponent(uint32_t word) {
    uint32_t out;
    asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(out) : "r"(word), "r"(Offset<T>::bits));
    return out;
  }
  __device__ __forceinline__ void operand(int step, uint32_t (&a)[4]) const {
    const int shift = (step & 1) * 8;
    const uint32_t top = (step < 2 ? words.x : words.y) >> shift, bottom = (step < 2 ? words.z : words.w) >> shift;
    a[0] = under_exponent(top);
    a[1] = under_exponent(bottom);
    a[2] = under_exponent(top >> 4);
    a[3] = under_exponent(bottom >> 4);
  }
  // The second operand of all steps, from the 64 inputs at `x`.
  __device__ static __forceinline__ void inputs(const T* x, int t, uint32_t (&b)[8]) {
#pragma unroll
    for (int word = 0; word < 2; ++word) {
      const uint4 v = *reinterpret_cast<const uint4*>(x + word * 32 + t * 8);
      b[word * 4 + 0] = v.x, b[word * 4 + 1] = v.y, b[word * 4 + 2] = v.z, b[word * 4 + 3] = v.w;
    }
  }
};

// Word i of lane t holds inputs 16 i + 4 t and the three after it.
template <typename T>
struct Lane<T, 8> {
  static constexpr int kVectors = 2;
  static constexpr float offset = 0.f;
  uint4 rows[2];

  __device__ __forceinline__ void load(const uint4* at) {
    rows[0] = stream(at);
    rows[1] = stream(at + 32);
  }
  // Eight bits do not fit under a bfloat16's exponent: through f32, exactly.
  __device__ __forceinline__ void operand(int step, uint32_t (&a)[4]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const uint4& v = rows[row];
      const uint32_t word = step == 0 ? v.x : step == 1 ? v.y : step == 2 ? v.z : v.w;
      auto at = [&](uint32_t select) { return __uint_as_float(__byte_perm(word, 0x4b000000u, select)) - 8388608.f; };
      a[row] = pack<T>(at(0x7440), at(0x7441));
      a[row + 2] = pack<T>(at(0x7442), at(0x7443));
    }
  }
  __device__ static __forceinline__ void inputs(const T* x, int t, uint32_t (&b)[8]) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint2 v = *reinterpret_cast<const uint2*>(x + step * 16 + t * 4);
      b[step * 2] = v.x, b[step * 2 + 1] = v.y;
    }
  }
};

// Sums of 8 * NT columns of x over the groups of one chunk, in the layout of `mma`.
template <typename T, int GROUP, int NT>
__device__ __forceinline__ void sum_groups(const uint32_t (&b)[NT][8], float (&sums)[NT][GROUP == 32 ? 2 : 1][4]) {
  constexpr int kSums = GROUP == 32 ? 2 : 1, kSteps = 4 / kSums;
  const uint32_t ones[4] = {Offset<T>::one, Offset<T>::one, Offset<T>::one, Offset<T>::one};
#pragma unroll
  for (int n = 0; n < NT; ++n) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      sums[n][i][0] = sums[n][i][1] = sums[n][i][2] = sums[n][i][3] = 0.f;
#pragma unroll
      for (int step = i * kSteps; step < (i + 1) * kSteps; ++step) {
        mma<T>(sums[n][i], ones, b[n][2 * step], b[n][2 * step + 1]);
      }
    }
  }
}

// Adds one tile's chunk. ONE: there is one column, and it alone is kept.
template <typename T, int BITS, int GROUP, int NT, bool ONE>
__device__ __forceinline__ void accumulate(
    float (&acc)[NT][4], const Lane<T, BITS>& weights, const uint2 (&affine)[GROUP == 32 ? 2 : 1],
    const uint32_t (&b)[NT][8], const float (&sums)[NT][GROUP == 32 ? 2 : 1][4]) {
  constexpr int kSums = GROUP == 32 ? 2 : 1, kSteps = 4 / kSums;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    uint32_t a[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) weights.operand(i * kSteps + step, a[step]);
    const float2 s = unpack<T>(affine[i].x), o = unpack<T>(affine[i].y);
    const float o0 = fmaf(-Lane<T, BITS>::offset, s.x, o.x), o1 = fmaf(-Lane<T, BITS>::offset, s.y, o.y);
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      float c[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        mma<T>(c, a[step], b[n][2 * (i * kSteps + step)], b[n][2 * (i * kSteps + step) + 1]);
      }
      acc[n][0] = fmaf(s.x, c[0], fmaf(o0, sums[n][i][0], acc[n][0]));
      acc[n][2] = fmaf(s.y, c[2], fmaf(o1, sums[n][i][0], acc[n][2]));
      if constexpr (!ONE) {
        acc[n][1] = fmaf(s.x, c[1], fmaf(o0, sums[n][i][1], acc[n][1]));
        acc[n][3] = fmaf(s.y, c[3], fmaf(o1, sums[n][i][1], acc[n][3]));
      }
    }
  }
}

// What the tiles of a warp become: COUNT matrices side by side, or silu(first) * second.
enum class Epilogue { kPlain, kGated };

// out[m, outputs] of the rows of `source`, for matrices of `tiles` tiles each. A block is WN teams of WK warps; a team takes RT
// tiles, its warps every WK-th chunk, U at a time. A row of blocks for every 8 * NT rows of x.
template <typename T, int BITS, int GROUP, int RT, int NT, int WN, int WK, int U, bool ONE, Epilogue EPILOGUE,
          int COUNT, typename Rows>
__device__ __forceinline__ void qmm(
    const Rows& source, const Tiled<T> (&matrices)[COUNT], const int (&tiles)[COUNT], T* out, int m, int k) {
  constexpr bool kGated = EPILOGUE == Epilogue::kGated;
  constexpr int kSums = GROUP == 32 ? 2 : 1, kVectors = Lane<T, BITS>::kVectors;
  constexpr int kEach = (8 * NT * 16 + WK * 32 - 1) / (WK * 32); // elements of a tile for a thread
  static_assert(!kGated || (RT % 2 == 0 && COUNT == 2), "gate and up share a warp");
  __shared__ float shared[WN][WK][8 * NT][16];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int team = warp / WK, part = warp % WK, within = threadIdx.x % (WK * 32), chunks = k / 64;
  int all = 0;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) all += tiles[i];
  const int columns = (kGated ? tiles[0] : all) * 16, last = kGated ? tiles[0] : all;
  const int first = (blockIdx.x * WN + team) * (kGated ? RT / 2 : RT);
  out += size_t(blockIdx.y) * 8 * NT * columns;
  m = min(m - int(blockIdx.y) * 8 * NT, 8 * NT);

  const uint4* weights[RT];
  const uint2* groups[RT];
#pragma unroll
  for (int r = 0; r < RT; ++r) {
    Tiled<T> matrix = matrices[0];
    int tile = min(first + (kGated ? r / 2 : r), last - 1);
    if constexpr (kGated) {
      if (r % 2 == 1) matrix = matrices[1];
    } else {
      const int global = tile;
#pragma unroll
      for (int i = 1, before = tiles[0]; i < COUNT; ++i) {
        if (global >= before) matrix = matrices[i], tile = global - before;
        before += tiles[i];
      }
    }
    weights[r] = matrix.weights + (size_t(tile) * chunks + part) * (kVectors * 32) + lane;
    groups[r] = matrix.groups + size_t(tile) * (k / GROUP) * 8 + g;
  }
  if constexpr (Rows::kStaged) {
    // On their way while the rows are staged.
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
      for (int r = 0; r < RT; ++r) {
        if (part + u * WK < chunks) prefetch(weights[r] + u * (WK * kVectors * 32));
      }
    }
  }
  int stride;
  const T* x = source.stage(8 * NT, m, k, stride);
  // Columns past the last repeat it: no one reads what they become.
  const T* columns_of_x[NT];
#pragma unroll
  for (int n = 0; n < NT; ++n) columns_of_x[n] = x + size_t(min(n * 8 + g, m - 1)) * stride + part * 64;

  float acc[RT][NT][4] = {};
  for (int begin = part; begin < chunks; begin += WK * U) {
    Lane<T, BITS> q[U][RT];
    uint2 affine[U][RT][kSums];
    uint32_t b[NT == 1 ? U : 1][NT][8];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int chunk = begin + u * WK;
      if (u > 0 && chunk >= chunks) break;
      if constexpr (NT == 1) Lane<T, BITS>::inputs(columns_of_x[0] + u * (WK * 64), t, b[u][0]);
#pragma unroll
      for (int r = 0; r < RT; ++r) {
        q[u][r].load(weights[r] + u * (WK * kVectors * 32));
#pragma unroll
        for (int i = 0; i < kSums; ++i) affine[u][r][i] = __ldg(groups[r] + (chunk * 64 / GROUP + i) * 8);
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (u > 0 && begin + u * WK >= chunks) break;
      if constexpr (NT > 1) {
#pragma unroll
        for (int n = 0; n < NT; ++n) Lane<T, BITS>::inputs(columns_of_x[n] + u * (WK * 64), t, b[0][n]);
      }
      float sums[NT][kSums][4];
      sum_groups<T, GROUP, NT>(b[NT == 1 ? u : 0], sums);
#pragma unroll
      for (int r = 0; r < RT; ++r) {
        accumulate<T, BITS, GROUP, NT, ONE>(acc[r], q[u][r], affine[u][r], b[NT == 1 ? u : 0], sums);
      }
    }
#pragma unroll
    for (int r = 0; r < RT; ++r) weights[r] += U * WK * kVectors * 32;
#pragma unroll
    for (int n = 0; n < NT; ++n) columns_of_x[n] += U * WK * 64;
  }

  float gates[kEach];
#pragma unroll
  for (int r = 0; r < RT; ++r) {
    if (r > 0) __syncthreads();
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!ONE || (i & 1) == 0) shared[team][part][n * 8 + 2 * t + (i & 1)][g + i / 2 * 8] = acc[r][n][i];
      }
    }
    __syncthreads();
    const int tile = first + (kGated ? r / 2 : r);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = e * WK * 32 + within;
      if (i >= m * 16 || tile >= last) continue;
      float sum = 0.f;
#pragma unroll
      for (int p = 0; p < WK; ++p) sum += shared[team][p][i >> 4][i & 15];
      T* to = out + size_t(i >> 4) * columns + tile * 16 + (i & 15);
      if constexpr (!kGated) {
        *to = narrow<T>(sum);
      } else if (r % 2 == 0) {
        // Rounded as separate products would be.
        gates[e] = widen(narrow<T>(sum));
      } else {
        *to = narrow<T>(gates[e] / (1.f + __expf(-gates[e])) * widen(narrow<T>(sum)));
      }
    }
  }
}

} // namespace mlxcel
