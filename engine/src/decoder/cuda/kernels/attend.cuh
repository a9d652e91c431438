// Attention of few queries a sequence over the paged pool, which it also writes.
//
// A block does one item of work for one key head: up to 16 rows, queries of one sequence that share the head, over a
// range of the sequence's keys. Its warps take sixteen keys in turn and are put together at the end; where a
// sequence has many keys it has several items, which `combine` puts together. Rows are the tensor cores' first
// operand, keys and values the second, straight from memory: a lane reads sixteen bytes of a key, and which
// dimension of the product they are called does not matter as long as the queries agree.
// Of the step's own tokens keys and values are read where the step left them, and written to the pool by the item
// that holds their position: nothing in a launch reads what it writes.

namespace mlxcel {

constexpr int kAttendWarps = 4, kAttendRows = 16, kPoolBlock = 32;
constexpr float kLog2e = 1.4426950408889634f;

// One item, as the host writes it.
struct AttendItem {
  int row;    // the span's first row in the step
  int start;  // the position of that row
  int count;  // tokens of the span
  int table;  // where in the plan the span's blocks are listed
  int begin;  // keys, from a multiple of 16 ...
  int end;    // ... up to this one, at most 2048 of them
  int first;  // the first of its rows among the span's `count * GROUP`
  int out;    // the output's row of the span's first token
};

// What attention is, apart from shapes.
struct AttendRule {
  float scale;
  float cap;   // 0: none
  int window;  // keys a query sees, itself among them
};

// Where a position's row of `D` elements of a head lies: in the pool, or in the step's own rows.
template <typename T, int D, int KV>
__device__ __forceinline__ const T* key_row(
    const AttendItem& item, const T* pool, const T* fresh, int position, int block) {
  position = min(position, item.end - 1);
  const bool held = position < item.start;
  const size_t row = held ? size_t(block) * kPoolBlock + position % kPoolBlock : size_t(item.row + position - item.start);
  return (held ? pool : fresh) + (row * KV + blockIdx.y) * D;
}

// Keys of one step of sixteen, in the layout of `mma`'s second operand.
template <typename T, int D, int KV>
__device__ __forceinline__ void load_keys(
    const AttendItem& item, const T* pool, const T* fresh, int base, int block, uint4 (&k)[2][D / 32]) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const T* from = key_row<T, D, KV>(item, pool, fresh, base + 8 * tile + g, block) + 8 * t;
#pragma unroll
    for (int j = 0; j < D / 32; ++j) k[tile][j] = *reinterpret_cast<const uint4*>(from + 32 * j);
  }
}

// Values of the same, of keys 2t, 2t + 1, 8 + 2t, 9 + 2t.
template <typename T, int D, int KV>
__device__ __forceinline__ void load_values(
    const AttendItem& item, const T* pool, const T* fresh, int base, int block, uint4 (&v)[4][D / 64]) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T* from = key_row<T, D, KV>(item, pool, fresh, base + i / 2 * 8 + 2 * t + i % 2, block) + 8 * g;
#pragma unroll
    for (int h = 0; h < D / 64; ++h) v[i][h] = *reinterpret_cast<const uint4*>(from + 64 * h);
  }
}

// The state of a warp: of rows g and g + 8 the highest score so far, this lane's share of the weights' sum, and
// weighted values, of which element [h][e][c] is dimension 64 h + 8 (2 t + c % 2) + e of row g + c / 2 * 8.
template <int D>
struct Attended {
  float peak[2] = {-1e30f, -1e30f};
  float total[2] = {0.f, 0.f};
  float sum[D / 64][8][4] = {};
};

// Scores of sixteen keys into weights, by powers of two; masked ones are none.
template <int D, int G>
__device__ __forceinline__ void weigh(
    const AttendItem& item, const AttendRule& rule, int base, const int (&limit)[2], float (&s)[2][4],
    Attended<D>& state) {
  const int t = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float peak = state.peak[half];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[i / 2][half * 2 + i % 2];
      const int position = base + i / 2 * 8 + 2 * t + i % 2;
      x *= rule.scale;
      if (rule.cap > 0.f) x = rule.cap * tanhf(x / rule.cap);
      const bool seen = position <= limit[half] && position > limit[half] - rule.window && position < item.end;
      x = seen ? x * kLog2e : -__int_as_float(0x7f800000);
      peak = fmaxf(peak, x);
    }
    peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
    peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
    if (__any_sync(~0u, peak > state.peak[half])) {
      const float factor = exp2f(state.peak[half] - peak);
      state.total[half] *= factor;
#pragma unroll
      for (int i = 0; i < D / 64 * 16; ++i) state.sum[i / 16][i / 2 % 8][half * 2 + i % 2] *= factor;
      state.peak[half] = peak;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[i / 2][half * 2 + i % 2];
      x = exp2f(x - peak);
      state.total[half] += x;
    }
  }
}

// Adds weighted values.
template <typename T, int D>
__device__ __forceinline__ void add_values(const float (&s)[2][4], const uint4 (&v)[4][D / 64], Attended<D>& state) {
  const uint32_t a[4] = {
      pack<T>(s[0][0], s[0][1]), pack<T>(s[0][2], s[0][3]), pack<T>(s[1][0], s[1][1]), pack<T>(s[1][2], s[1][3])};
#pragma unroll
  for (int h = 0; h < D / 64; ++h) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      auto word = [&](int i) {
        const uint4& x = v[i][h];
        return e / 2 == 0 ? x.x : e / 2 == 1 ? x.y : e / 2 == 2 ? x.z : x.w;
      };
      const uint32_t select = e % 2 == 0 ? 0x5410 : 0x7632;
      mma<T>(state.sum[h][e], a, __byte_perm(word(0), word(1), select), __byte_perm(word(2), word(3), select));
    }
  }
}

// What the warps of a block leave.
template <int D>
struct AttendShared {
  float peak[kAttendWarps][kAttendRows];
  float total[kAttendWarps][kAttendRows];
  float sum[kAttendWarps][kAttendRows][D + 4];
};

template <int D>
__device__ __forceinline__ void leave(const Attended<D>& state, int rows, AttendShared<D>& shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = state.total[half];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const int row = g + 8 * half;
    if (row >= rows) continue;
    if (t == 0) shared.peak[warp][row] = state.peak[half], shared.total[warp][row] = total;
#pragma unroll
    for (int h = 0; h < D / 64; ++h) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float* to = &shared.sum[warp][row][64 * h + 8 * (2 * t + c)];
#pragma unroll
        for (int e = 0; e < 8; e += 4) {
          const int i = 2 * half + c;
          *reinterpret_cast<float4*>(to + e) =
              make_float4(state.sum[h][e][i], state.sum[h][e + 1][i], state.sum[h][e + 2][i], state.sum[h][e + 3][i]);
        }
      }
    }
  }
}

// The item's own tokens, where it holds their positions, from the step's rows to the pool.
template <typename T, int D, int G, int KV>
__device__ __forceinline__ void write_rows(
    const AttendItem& item, int rows, const int* plan, const T* key, const T* value, T* keys, T* values) {
  constexpr int kVectors = D / 8;
  const int from = item.first / G, to = (item.first + rows - 1) / G + 1;
  for (int i = threadIdx.x; i < (to - from) * kVectors * 2; i += blockDim.x) {
    const int token = from + i / (2 * kVectors), position = item.start + token;
    if (position < item.begin || position >= item.end) continue;
    const size_t slot = size_t(plan[item.table + position / kPoolBlock]) * kPoolBlock + position % kPoolBlock;
    const bool second = i / kVectors % 2;
    const size_t at = i % kVectors * 8;
    const T* read = (second ? value : key) + (size_t(item.row + token) * KV + blockIdx.y) * D + at;
    T* write = (second ? values : keys) + (slot * KV + blockIdx.y) * D + at;
    *reinterpret_cast<uint4*>(write) = *reinterpret_cast<const uint4*>(read);
  }
}

// query [rows, KV * G, D], key and value [rows, KV, D], the pool's sides [rows, KV, D]; a grid of items and key heads.
// Without PARTS out is [rows, KV * G, D] and sinks may be null; with it parts [items, KV, 16, D] takes sums and peaks
// [items, KV, 16, 2] the highest score and the weights' sum.
template <typename T, int D, int G, int KV, bool PARTS>
__device__ __forceinline__ void attend(
    const T* query, const T* key, const T* value, T* keys, T* values, const int* plan, const float* sinks, T* out,
    float* parts, float2* peaks, const AttendRule& rule) {
  __shared__ AttendShared<D> shared;
  const AttendItem item = reinterpret_cast<const AttendItem*>(plan)[blockIdx.x];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int rows = min(item.count * G - item.first, kAttendRows), steps = (item.end - item.begin + 15) / 16;
  // The blocks of this warp's steps, a lane each.
  const int mine = warp + lane * kAttendWarps;
  const int blocks = mine < steps ? plan[item.table + (item.begin + 16 * mine) / kPoolBlock] : 0;

  uint4 k[2][D / 32];
  if (warp < steps) {
    load_keys<T, D, KV>(item, keys, key, item.begin + 16 * warp, __shfl_sync(~0u, blocks, 0), k);
  }
  uint32_t q[D / 16][4];
  int limit[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    // Rows past the last repeat it: no one reads what they become.
    const int row = item.first + min(g + 8 * half, rows - 1);
    limit[half] = item.start + row / G;
    const T* from = query + (size_t(item.row + row / G) * (KV * G) + blockIdx.y * G + row % G) * D + 8 * t;
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      const uint4 v = *reinterpret_cast<const uint4*>(from + 32 * j);
      q[2 * j][half] = v.x, q[2 * j][half + 2] = v.y, q[2 * j + 1][half] = v.z, q[2 * j + 1][half + 2] = v.w;
    }
  }
  Attended<D> state;
  for (int i = warp, n = 0; i < steps; i += kAttendWarps, ++n) {
    const int base = item.begin + 16 * i;
    uint4 v[4][D / 64];
    load_values<T, D, KV>(item, values, value, base, __shfl_sync(~0u, blocks, n), v);
    float s[2][4] = {};
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int j = 0; j < D / 32; ++j) {
        mma<T>(s[tile], q[2 * j], k[tile][j].x, k[tile][j].y);
        mma<T>(s[tile], q[2 * j + 1], k[tile][j].z, k[tile][j].w);
      }
    }
    if (i + kAttendWarps < steps) {
      const int next = __shfl_sync(~0u, blocks, n + 1);
      load_keys<T, D, KV>(item, keys, key, base + 16 * kAttendWarps, next, k);
    }
    weigh<D, G>(item, rule, base, limit, s, state);
    add_values<T, D>(s, v, state);
  }
  leave<D>(state, rows, shared);
  __syncthreads();
  write_rows<T, D, G, KV>(item, rows, plan, key, value, keys, values);

  for (int i = threadIdx.x; i < rows * (D / 4); i += blockDim.x) {
    const int row = i / (D / 4), at = i % (D / 4) * 4, token = (item.first + row) / G, member = (item.first + row) % G;
    float peak = shared.peak[0][row], total = 0.f;
#pragma unroll
    for (int w = 1; w < kAttendWarps; ++w) peak = fmaxf(peak, shared.peak[w][row]);
    const int head = blockIdx.y * G + member;
    if (!PARTS && sinks) peak = fmaxf(peak, sinks[head] * kLog2e);
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
    for (int w = 0; w < kAttendWarps; ++w) {
      const float factor = exp2f(shared.peak[w][row] - peak);
      const float4 part = *reinterpret_cast<const float4*>(&shared.sum[w][row][at]);
      total += factor * shared.total[w][row];
      sum.x += factor * part.x, sum.y += factor * part.y, sum.z += factor * part.z, sum.w += factor * part.w;
    }
    if constexpr (PARTS) {
      const size_t slot = (size_t(blockIdx.x) * KV + blockIdx.y) * kAttendRows + row;
      *reinterpret_cast<float4*>(parts + slot * D + at) = sum;
      if (at == 0) peaks[slot] = make_float2(peak, total);
    } else {
      if (sinks) total += exp2f(sinks[head] * kLog2e - peak);
      const float factor = 1.f / total;
      *reinterpret_cast<uint2*>(out + (size_t(item.out + token) * (KV * G) + head) * D + at) =
          make_uint2(pack<T>(sum.x * factor, sum.y * factor), pack<T>(sum.z * factor, sum.w * factor));
    }
  }
}

// Where the parts of an output row are, as the host writes it: its span's first item, how many items its keys are
// cut into, and which of the span's tokens it is.
struct AttendRow {
  int item, parts, token, unused;
};

// out [rows, KV * G, D]; a warp a head, in a grid of heads and rows.
template <typename T, int D, int G, int KV>
__device__ __forceinline__ void combine(
    const float* parts, const float2* peaks, const AttendRow* rows, const float* sinks, T* out) {
  constexpr int kEach = D / 32;
  const int lane = threadIdx.x & 31, head = (blockIdx.x * blockDim.x + threadIdx.x) / 32, kv = head / G;
  if (head >= KV * G) return;
  const AttendRow row = rows[blockIdx.y];
  const int within = row.token * G + head % G;
  const size_t first = (size_t(row.item + within / kAttendRows * row.parts) * KV + kv) * kAttendRows + within % kAttendRows;
  constexpr size_t kStride = size_t(KV) * kAttendRows;
  float peak = sinks ? sinks[head] * kLog2e : -1e30f;
  for (int i = lane; i < row.parts; i += 32) peak = fmaxf(peak, peaks[first + i * kStride].x);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, step));
  float total = sinks ? exp2f(sinks[head] * kLog2e - peak) : 0.f, sum[kEach] = {};
#pragma unroll 4
  for (int i = 0; i < row.parts; ++i) {
    const float2 part = peaks[first + i * kStride];
    const float factor = exp2f(part.x - peak);
    const float* from = parts + (first + i * kStride) * D + lane * kEach;
    total += factor * part.y;
#pragma unroll
    for (int e = 0; e < kEach; ++e) sum[e] += factor * from[e];
  }
#pragma unroll
  for (int e = 0; e < kEach; e += 2) {
    *reinterpret_cast<uint32_t*>(out + (size_t(blockIdx.y) * (KV * G) + head) * D + lane * kEach + e) =
        pack<T>(sum[e] / total, sum[e + 1] / total);
  }
}

// Rows key and value [tokens, width] to the pool's rows `slots`, a block a token.
template <typename T>
__device__ __forceinline__ void put_rows(
    const T* key, const T* value, const int* slots, T* keys, T* values, int width) {
  const size_t from = size_t(blockIdx.x) * width, to = size_t(slots[blockIdx.x]) * width;
  for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    *reinterpret_cast<uint4*>(keys + to + i) = *reinterpret_cast<const uint4*>(key + from + i);
    *reinterpret_cast<uint4*>(values + to + i) = *reinterpret_cast<const uint4*>(value + from + i);
  }
}

} // namespace mlxcel
