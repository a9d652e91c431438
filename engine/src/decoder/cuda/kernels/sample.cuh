// Draws a token from each row of logits, bit for bit as the engine's sampler on the host does (`sampling/choose.rs`):
// weights are whole numbers made by the same roundings, so that sums agree in any order.
//
// A block a row. Filters keep a prefix of the tokens ordered by falling rank, then rising id; its last token is
// found two bits at a time, by how much weighs what is not below. Nothing is sorted.

namespace mlxcel {

constexpr int kSampleThreads = 1024, kSampleTiles = 64;
// Elements that a thread takes at a time, and a block.
constexpr int kSampleEach = 8, kSampleTile = kSampleThreads * kSampleEach;
// Candidates of a filter that fit into shared memory.
constexpr int kSampleList = 4096;

// How to draw, as the host writes it. Temperature 0: the largest logit.
struct Draw {
  float temperature;
  uint32_t top_k;  // 0: all
  float top_p;
  uint32_t least;  // the least weight that min-p keeps
  uint32_t random[2];
};

// Sums of weights from three bounds on.
struct Reached {
  unsigned long long sums[3];
};

struct SampleShared {
  union {
    uint2 list[kSampleList];
    unsigned long long tiles[kSampleTiles];
    uint32_t ranks[kSampleThreads];
  };
  union {
    unsigned long long wide[32];
    Reached reached[32];
  };
  int count;
};

// Orders by rank, then by falling id, as the host's keys do.
__device__ __forceinline__ unsigned long long sample_key(uint32_t rank, int id) {
  return static_cast<unsigned long long>(rank) << 32 | ~static_cast<uint32_t>(id);
}

// A number that orders as the float does.
__device__ __forceinline__ uint32_t ordered(float value) {
  // Both zeros are the same logit.
  const uint32_t bits = __float_as_uint(__fadd_rn(value, 0.f));
  return bits >> 31 ? ~bits : bits | 1u << 31;
}

// `sampling/weight.rs`, rounding by rounding: no two operations may become one.
__device__ __forceinline__ uint32_t sample_weight(float x) {
  constexpr float kRound = 12582912.f, kLog2e = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;
  float y = __fmul_rn(x, kLog2e);
  y = y > -40.f ? y : -40.f;
  const float shifted = __fadd_rn(y, kRound);
  const float f = __fmul_rn(__fsub_rn(y, __fsub_rn(shifted, kRound)), kLn2);
  auto step = [f](float term, float p) { return __fadd_rn(term, __fmul_rn(f, p)); };
  float p = step(1.f / 120.f, 1.f / 720.f);
  p = step(1.f / 24.f, p);
  p = step(1.f / 6.f, p);
  p = step(0.5f, p);
  p = step(1.f, step(1.f, p));
  const float scale = __uint_as_float((__float_as_uint(shifted) << 23) + __float_as_uint(1.f));
  const float high = __fmul_rn(__fmul_rn(p, scale), float(1 << 22));
  const float rounded = __fadd_rn(high, kRound);
  const float low = __fadd_rn(__fmul_rn(__fsub_rn(high, __fsub_rn(rounded, kRound)), 256.f), kRound);
  const uint32_t bits = __float_as_uint(kRound);
  return ((__float_as_uint(rounded) - bits) << 8) + (__float_as_uint(low) - bits);
}

// Calls `take(id, logit)` for the thread's share of a row.
template <typename T, typename Take>
__device__ __forceinline__ void each_logit(const T* logits, int vocab, Take take) {
  for (int at = threadIdx.x * kSampleEach; at < vocab; at += kSampleTile) {
    const uint4 v = *reinterpret_cast<const uint4*>(logits + at);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack<T>(words[i]);
      take(at + 2 * i, pair.x);
      take(at + 2 * i + 1, pair.y);
    }
  }
}

struct Eight {
  uint32_t values[kSampleEach];
};

__device__ __forceinline__ Eight eight_weights(const uint32_t* weights) {
  const uint4 a = reinterpret_cast<const uint4*>(weights)[0], b = reinterpret_cast<const uint4*>(weights)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// Calls `take(id, weight)` for the thread's share of a row.
template <typename Take>
__device__ __forceinline__ void each_weight(const uint32_t* weights, int vocab, Take take) {
  for (int at = threadIdx.x * kSampleEach; at < vocab; at += kSampleTile) {
    const Eight all = eight_weights(weights + at);
#pragma unroll
    for (int i = 0; i < kSampleEach; ++i) take(at + i, all.values[i]);
  }
}

// All threads' values put together, for all of them.
template <typename V, typename Join>
__device__ __forceinline__ V over_block(V value, Join join, SampleShared& shared) {
  static_assert(kSampleThreads == 32 * 32, "a warp reads what the warps leave");
  V* room = reinterpret_cast<V*>(shared.wide);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(~0u, value, step));
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
  __syncthreads();
  value = room[threadIdx.x % 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

__device__ __forceinline__ unsigned long long sum_over_block(unsigned long long value, SampleShared& shared) {
  return over_block(value, [](unsigned long long a, unsigned long long b) { return a + b; }, shared);
}

// The sum of the lanes before this one.
__device__ __forceinline__ unsigned long long sum_before(unsigned long long value) {
  const int lane = threadIdx.x % 32;
  unsigned long long sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  return sum - value;
}

__device__ __forceinline__ Reached over_block(Reached own, SampleShared& shared) {
  auto join = [&](Reached& sums) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
#pragma unroll
      for (int i = 0; i < 3; ++i) sums.sums[i] += __shfl_xor_sync(~0u, sums.sums[i], step);
    }
  };
  join(own);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.reached[threadIdx.x / 32] = own;
  __syncthreads();
  own = shared.reached[threadIdx.x % 32];
  join(own);
  return own;
}

// The highest rank from which on candidates weigh `target` or more together.
struct Selected {
  uint32_t rank;
  unsigned long long above;    // how much weighs what is above it
  unsigned long long reached;  // and what is on it besides
};

// Searches two bits of the rank at a time, from `shift` on; those above are `rank`'s. `visit` calls what it is given
// with the rank and id of every candidate; together they weigh `total`, at least `target`.
template <typename Visit, typename Mass>
__device__ __forceinline__ Selected select_rank(
    Visit visit, Mass mass, unsigned long long target, unsigned long long total, uint32_t rank, int shift,
    SampleShared& shared) {
  Selected found = {rank, 0, total};
  for (; shift >= 0; shift -= 2) {
    const uint32_t step = 1u << shift, bounds[3] = {found.rank + step, found.rank + 2 * step, found.rank + 3 * step};
    Reached seen = {};
    visit([&](uint32_t at, int) {
      const unsigned long long weighs = mass(at);
#pragma unroll
      for (int i = 0; i < 3; ++i) seen.sums[i] += at >= bounds[i] ? weighs : 0;
    });
    seen = over_block(seen, shared);
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (seen.sums[i] >= target) {
        found.rank = bounds[i];
        found.reached = seen.sums[i];
      } else {
        found.above = seen.sums[i];
        break;
      }
    }
  }
  return found;
}

// The smallest key of the fewest largest ones that weigh `target` together, 0 where all weigh less.
template <typename Visit, typename Mass>
__device__ __forceinline__ unsigned long long select_key(
    Visit visit, Mass mass, unsigned long long target, SampleShared& shared) {
  unsigned long long total = 0;
  visit([&](uint32_t rank, int) { total += mass(rank); });
  total = sum_over_block(total, shared);
  if (total < target) return 0;
  const Selected found = select_rank(visit, mass, target, total, 0, 30, shared);
  const unsigned long long each = mass(found.rank), equal = (found.reached - found.above) / each;
  const unsigned long long wanted = (target - found.above + each - 1) / each;
  if (wanted >= equal) return static_cast<unsigned long long>(found.rank) << 32;
  // Of equal ones the first ids, which inverted are the largest numbers; ids are below 2^24.
  auto equals = [&](auto take) {
    visit([&](uint32_t rank, int id) {
      if (rank == found.rank) take(~static_cast<uint32_t>(id), id);
    });
  };
  auto one = [](uint32_t) { return 1ull; };
  const Selected last = select_rank(equals, one, wanted, equal, 0xff000000u, 22, shared);
  return static_cast<unsigned long long>(found.rank) << 32 | last.rank;
}

// `select_key` over a list of the candidates, where it has room for them: there are few in text that means something.
template <typename Visit, typename Mass>
__device__ __forceinline__ unsigned long long select_listed(
    Visit visit, Mass mass, unsigned long long target, SampleShared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  visit([&](uint32_t rank, int id) {
    const int at = atomicAdd(&shared.count, 1);
    if (at < kSampleList) shared.list[at] = make_uint2(rank, id);
  });
  __syncthreads();
  const int count = shared.count;
  if (count > kSampleList) return select_key(visit, mass, target, shared);
  auto listed = [&](auto take) {
    for (int i = threadIdx.x; i < count; i += kSampleThreads) take(shared.list[i].x, int(shared.list[i].y));
  };
  return select_key(listed, mass, target, shared);
}

// A rank that at least `k` tokens reach: the k-th of the threads' largest, where there are so many threads.
template <typename T>
__device__ __forceinline__ uint32_t reached_by(const T* logits, int vocab, uint32_t k, SampleShared& shared) {
  if (k > min(kSampleThreads, vocab / kSampleEach)) return 1;
  uint32_t own = 0;
  each_logit(logits, vocab, [&](int, float logit) { own = max(own, ordered(logit)); });
  __syncthreads();
  shared.ranks[threadIdx.x] = own;
  __syncthreads();
  uint32_t above = 0;
  for (int i = 0; i < kSampleThreads; ++i) {
    const uint32_t other = shared.ranks[i];
    above += other > own || (other == own && i < int(threadIdx.x));
  }
  // One thread has exactly k - 1 above it.
  return over_block(above == k - 1 ? own : 0u, [](uint32_t a, uint32_t b) { return max(a, b); }, shared);
}

// The smallest key that top-k keeps.
template <typename T>
__device__ __forceinline__ unsigned long long top_k_cut(
    const T* logits, int vocab, uint32_t k, SampleShared& shared) {
  const uint32_t floor = reached_by(logits, vocab, k, shared);
  auto visit = [&](auto take) {
    each_logit(logits, vocab, [&](int id, float logit) {
      const uint32_t rank = ordered(logit);
      if (rank >= floor) take(rank, id);
    });
  };
  return select_listed(visit, [](uint32_t) { return 1ull; }, k, shared);
}

// The smallest key that top-p and min-p keep of weights that are `total` together.
__device__ __forceinline__ unsigned long long top_p_cut(
    const uint32_t* weights, int vocab, const Draw& draw, unsigned long long total, SampleShared& shared) {
  const unsigned long long least = static_cast<unsigned long long>(draw.least) << 32;
  if (draw.top_p >= 1.f) return least;
  // Tokens lighter than an even share of what is dropped weigh less than that together.
  const double dropped = (1.0 - double(draw.top_p)) * double(total);
  const uint32_t floor = max(draw.least, static_cast<uint32_t>(dropped / vocab));
  auto visit = [&](auto take) {
    each_weight(weights, vocab, [&](int id, uint32_t weight) {
      if (weight >= floor) take(weight, id);
    });
  };
  const auto target = static_cast<unsigned long long>(ceil(double(draw.top_p) * double(total)));
  const unsigned long long cut =
      select_listed(visit, [](uint32_t weight) { return static_cast<unsigned long long>(weight); }, target, shared);
  return max(cut, least);
}

// The token at `random` of the way through the weights with keys from `cut` on, in the order of their ids.
__device__ __forceinline__ void walk(
    const uint32_t* weights, int vocab, unsigned long long cut, unsigned long long random, uint32_t* id,
    SampleShared& shared) {
  auto kept = [&](int at, Eight& all) {
    unsigned long long sum = 0;
#pragma unroll
    for (int i = 0; i < kSampleEach; ++i) {
      if (sample_key(all.values[i], at + i) < cut) all.values[i] = 0;
      sum += all.values[i];
    }
    return sum;
  };
  __syncthreads();
  if (threadIdx.x < kSampleTiles) shared.tiles[threadIdx.x] = 0;
  __syncthreads();
  for (int begin = 0; begin < vocab; begin += kSampleTile) {
    const int at = begin + threadIdx.x * kSampleEach;
    unsigned long long sum = 0;
    if (at < vocab) {
      Eight all = eight_weights(weights + at);
      sum = kept(at, all);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0 && sum > 0) atomicAdd(&shared.tiles[begin / kSampleTile], sum);
  }
  __syncthreads();
  unsigned long long total = 0;
  for (int tile = 0; tile < kSampleTiles; ++tile) total += shared.tiles[tile];
  unsigned long long left = __umul64hi(random, total);
  int tile = 0;
  for (; left >= shared.tiles[tile]; ++tile) left -= shared.tiles[tile];

  const int at = tile * kSampleTile + threadIdx.x * kSampleEach;
  Eight all = {};
  unsigned long long own = 0;
  if (at < vocab) {
    all = eight_weights(weights + at);
    own = kept(at, all);
  }
  unsigned long long before = sum_before(own);
  if (threadIdx.x % 32 == 31) shared.wide[threadIdx.x / 32] = before + own;
  __syncthreads();
  for (int warp = 0; warp < threadIdx.x / 32; ++warp) before += shared.wide[warp];
  if (left < before || left >= before + own) return;
  left -= before;
  int i = 0;
  for (; left >= all.values[i]; ++i) left -= all.values[i];
  *id = at + i;
}

// logits [rows, vocab], draws [rows], told [2, rows]: ids, and whether the row failed; weights [rows, vocab] is room to work in. vocab is a
// multiple of 8, at most 2^19. A row fails, with id 0, where a logit is no number or none is above minus infinity.
template <typename T>
__device__ __forceinline__ void sample(
    const T* logits, const Draw* draws, uint32_t* told, uint32_t* weights, int vocab) {
  __shared__ SampleShared shared;
  const float infinity = __int_as_float(0x7f800000);
  logits += size_t(blockIdx.x) * vocab;
  weights += size_t(blockIdx.x) * vocab;
  const Draw draw = draws[blockIdx.x];
  uint32_t* id = told + blockIdx.x;

  float largest = -infinity;
  bool usable = true;
  each_logit(logits, vocab, [&](int, float logit) {
    usable &= logit < infinity;
    largest = fmaxf(largest, logit);
  });
  largest = over_block(largest, [](float a, float b) { return fmaxf(a, b); }, shared);
  const bool fails = __syncthreads_or(!usable) || largest == -infinity;
  if (threadIdx.x == 0) told[gridDim.x + blockIdx.x] = fails, *id = 0;
  if (fails) return;

  if (draw.temperature == 0.f) {
    int first = vocab;
    each_logit(logits, vocab, [&](int at, float logit) {
      if (logit == largest) first = min(first, at);
    });
    first = over_block(first, [](int a, int b) { return min(a, b); }, shared);
    if (threadIdx.x == 0) *id = first;
    return;
  }

  const bool filtered = draw.top_k > 0 && draw.top_k < vocab;
  const unsigned long long best = filtered ? top_k_cut(logits, vocab, draw.top_k, shared) : 0;
  unsigned long long total = 0;
  each_logit(logits, vocab, [&](int at, float logit) {
    const bool kept = !filtered || sample_key(ordered(logit), at) >= best;
    const float relative = __fdiv_rn(__fsub_rn(logit, largest), draw.temperature);
    const uint32_t weight = kept ? sample_weight(relative) : 0;
    weights[at] = weight;
    total += weight;
  });
  // Each thread reads back only what it wrote itself, but for the walk, which waits.
  total = sum_over_block(total, shared);
  const unsigned long long cut = top_p_cut(weights, vocab, draw, total, shared);
  const unsigned long long random = static_cast<unsigned long long>(draw.random[1]) << 32 | draw.random[0];
  __syncthreads();
  walk(weights, vocab, cut, random, id, shared);
}

} // namespace mlxcel
