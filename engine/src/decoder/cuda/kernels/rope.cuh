// Norms and rotates a step's queries and keys, and puts them, with the values, where attention wants them.
//
// A warp a head of a token. Queries, keys and values may lie in one row of x, as one product leaves them.

namespace mlxcel {

template <typename T, int D>
__device__ __forceinline__ float rms_factor(const T* in, float epsilon) {
  float squares = 0.f;
#pragma unroll
  for (int i = threadIdx.x & 31; i < D; i += 32) squares += widen(in[i]) * widen(in[i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  return rsqrtf(squares / D + epsilon);
}

// One head: its first DIMS elements rotated, after its norm where there is one.
template <typename T, int D, int DIMS, bool TRADITIONAL>
__device__ __forceinline__ void rotate(
    const T* in, T* out, const T* norm, float epsilon, const float* periods, float position, float magnitude) {
  const int lane = threadIdx.x & 31;
  const float factor = norm ? rms_factor<T, D>(in, epsilon) : 1.f;
  auto at = [&](int i) { return norm ? widen(narrow<T>(widen(in[i]) * factor * widen(norm[i]))) : widen(in[i]); };
#pragma unroll
  for (int pair = lane; pair < DIMS / 2; pair += 32) {
    const int low = TRADITIONAL ? 2 * pair : pair, high = TRADITIONAL ? low + 1 : pair + DIMS / 2;
    float sine, cosine;
    sincosf(position / periods[pair], &sine, &cosine);
    const float a = at(low) * magnitude, b = at(high) * magnitude;
    out[low] = narrow<T>(a * cosine - b * sine);
    out[high] = narrow<T>(a * sine + b * cosine);
  }
#pragma unroll
  for (int i = DIMS + lane; i < D; i += 32) out[i] = narrow<T>(at(i));
}

// x: [tokens, (heads + 2 * kv_heads) * D] to [tokens, heads, D] and twice [tokens, kv_heads, D].
template <typename T, int D, int DIMS, bool TRADITIONAL>
__device__ __forceinline__ void rope_split(
    const T* x, const T* q_norm, const T* k_norm, const float* periods, const int* positions, T* q, T* k, T* v,
    int tokens, int heads, int kv_heads, float epsilon, float magnitude) {
  const int all = heads + 2 * kv_heads, lane = threadIdx.x & 31;
  const int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (index >= tokens * all) return;
  const int token = index / all, head = index % all;
  const T* in = x + size_t(index) * D;
  const float position = float(positions[token]);
  if (head < heads) {
    T* out = q + (size_t(token) * heads + head) * D;
    rotate<T, D, DIMS, TRADITIONAL>(in, out, q_norm, epsilon, periods, position, magnitude);
  } else if (head < heads + kv_heads) {
    T* out = k + (size_t(token) * kv_heads + head - heads) * D;
    rotate<T, D, DIMS, TRADITIONAL>(in, out, k_norm, epsilon, periods, position, magnitude);
  } else {
    T* out = v + (size_t(token) * kv_heads + head - heads - kv_heads) * D;
#pragma unroll
    for (int i = lane; i < D; i += 32) out[i] = in[i];
  }
}

} // namespace mlxcel
