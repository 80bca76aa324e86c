// graph_attention on the GPU, backward: the work on a row, as sweep.cuh asks for it, and the gradient of the
// relations' bias.
#pragma once
#include "rows.cuh"

namespace rmd::graph_attention::gpu {

// The weight of an edge and the gradient of its score, from the log-sum-exp and `delta` of its target.
struct Weight {
  float p, gradient;

  __device__ Weight(float score, float lse, float along_v, float delta, bool valid)
      : p(valid ? expf(score - lse) : 0.0f), gradient(valid ? p * (along_v - delta) : 0.0f) {}
};

// Along the in-edges: dq_i = scale sum_j ds_ij k_j, and for later delta and, with a bias, ds.
template <class L_>
struct QueryGradient {
  using L = L_;
  static constexpr int PARTIAL = L::WIDTH;

  Rows rows;
  const void *q, *k, *v, *grad_out, *out;
  const float* lse;
  void* dq;
  float* delta;    // [n, H]: grad_out . out
  float* dscore;   // [H, E], or null
  float* partial;  // [2, cells, H, partial_size()]

  struct State {
    float q[L::VALUES], g[L::VALUES], sum[L::VALUES];
    float lse, delta;
  };

  __host__ __device__ int partial_size() const { return rows.width; }

  __device__ __forceinline__ void start(State& s, int64_t item) const {
    widen<L>(read<L>(q, item, rows.width), s.q);
    widen<L>(read<L>(grad_out, item, rows.width), s.g);
    s.delta = dot<L>(s.g, read<L>(out, item, rows.width));
    s.lse = lse[item];
    if (threadIdx.x % 32 == 0) delta[item] = s.delta;  // whoever comes last writes the same bits
#pragma unroll
    for (float& x : s.sum) x = 0.0f;
  }

  __device__ __forceinline__ void visit(State& s, int head, const int64_t (&e)[EDGES],
                                        const bool (&valid)[EDGES]) const {
    Vector<L> k_j[EDGES], v_j[EDGES];
#pragma unroll
    for (int u = 0; u < EDGES; ++u) {
      const int64_t item = valid[u] ? rows.node(e[u]) * rows.heads + head : 0;
      k_j[u] = read<L>(k, item, rows.width, valid[u]);
      v_j[u] = read<L>(v, item, rows.width, valid[u]);
    }
#pragma unroll
    for (int u = 0; u < EDGES; ++u) {
      const float product = dot<L>(s.q, k_j[u]), along_v = dot<L>(s.g, v_j[u]);
      const float score = valid[u] ? rows.score(product, head, e[u]) : 0.0f;
      const Weight weight(score, s.lse, along_v, s.delta, valid[u]);
      if (dscore && valid[u] && threadIdx.x % L::LANES == 0) dscore[head * rows.E + e[u]] = weight.gradient;
#pragma unroll
      for (int i = 0; i < L::VALUES; ++i) s.sum[i] = fmaf(weight.gradient, k_j[u][i], s.sum[i]);
    }
  }

  __device__ __forceinline__ void merge(State& s, int mask) const {
#pragma unroll
    for (float& x : s.sum) x += from_lane_xor(x, mask);
  }

  __device__ __forceinline__ void save(const State& s, float* to) const { gpu::save<L>(s.sum, to, rows.width); }

  template <class At>
  __device__ void combine(At at, int count, int64_t item, float* to, int thread, int threads) const {
    for (int d = thread; d < rows.width; d += threads) {
      float sum = 0.0f;
      for (int j = 0; j < count; ++j) sum += at(j)[d];
      if (to) {
        to[d] = sum;
      } else {
        static_cast<typename L::T*>(dq)[item * rows.width + d] = narrow<typename L::T>(rows.scale * sum);
      }
    }
  }
};

// Along the out-edges: dk_j = scale sum_i ds_ij q_i and dv_j = sum_i p_ij g_i.
template <class L_>
struct KeyValueGradient {
  using L = L_;
  static constexpr int PARTIAL = 2 * L::WIDTH;

  Rows rows;
  const void *q, *k, *v, *grad_out;
  const float *lse, *delta;
  void *dk, *dv;
  float* partial;  // [2, cells, H, partial_size()]

  struct State {
    float k[L::VALUES], v[L::VALUES], to_k[L::VALUES], to_v[L::VALUES];
  };

  __host__ __device__ int partial_size() const { return 2 * rows.width; }

  __device__ __forceinline__ void start(State& s, int64_t item) const {
    widen<L>(read<L>(k, item, rows.width), s.k);
    widen<L>(read<L>(v, item, rows.width), s.v);
#pragma unroll
    for (int i = 0; i < L::VALUES; ++i) s.to_k[i] = s.to_v[i] = 0.0f;
  }

  __device__ __forceinline__ void visit(State& s, int head, const int64_t (&e)[EDGES],
                                        const bool (&valid)[EDGES]) const {
    Vector<L> q_i[EDGES], g_i[EDGES];
    float lse_i[EDGES], delta_i[EDGES];
#pragma unroll
    for (int u = 0; u < EDGES; ++u) {
      const int64_t item = valid[u] ? rows.node(e[u]) * rows.heads + head : 0;
      q_i[u] = read<L>(q, item, rows.width, valid[u]);
      g_i[u] = read<L>(grad_out, item, rows.width, valid[u]);
      lse_i[u] = valid[u] ? lse[item] : 0.0f;
      delta_i[u] = valid[u] ? delta[item] : 0.0f;
    }
#pragma unroll
    for (int u = 0; u < EDGES; ++u) {
      const float product = dot<L>(s.k, q_i[u]), along_v = dot<L>(s.v, g_i[u]);
      const float score = valid[u] ? rows.score(product, head, e[u]) : 0.0f;
      const Weight weight(score, lse_i[u], along_v, delta_i[u], valid[u]);
#pragma unroll
      for (int i = 0; i < L::VALUES; ++i) {
        s.to_k[i] = fmaf(weight.gradient, q_i[u][i], s.to_k[i]);
        s.to_v[i] = fmaf(weight.p, g_i[u][i], s.to_v[i]);
      }
    }
  }

  __device__ __forceinline__ void merge(State& s, int mask) const {
#pragma unroll
    for (int i = 0; i < L::VALUES; ++i) {
      s.to_k[i] += from_lane_xor(s.to_k[i], mask);
      s.to_v[i] += from_lane_xor(s.to_v[i], mask);
    }
  }

  __device__ __forceinline__ void save(const State& s, float* to) const {
    gpu::save<L>(s.to_k, to, rows.width);
    gpu::save<L>(s.to_v, to + rows.width, rows.width);
  }

  template <class At>
  __device__ void combine(At at, int count, int64_t item, float* to, int thread, int threads) const {
    using T = typename L::T;
    const int width = rows.width;
    for (int d = thread; d < 2 * width; d += threads) {
      float sum = 0.0f;
      for (int j = 0; j < count; ++j) sum += at(j)[d];
      if (to) {
        to[d] = sum;
      } else if (d < width) {
        static_cast<T*>(dk)[item * width + d] = narrow<T>(rows.scale * sum);
      } else {
        static_cast<T*>(dv)[item * width + d - width] = narrow<T>(sum);
      }
    }
  }
};

// The gradient of relation_bias: sums over the edges of each relation. A warp takes CHUNK edges and BINS
// relations and adds the edges in their order; `add_chunks` adds the chunks.
constexpr int64_t CHUNK = 1024, BINS = 1024;

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += from_lane_xor(x, mask);
  return x;
}

// grid (chunks, heads, windows of BINS relations), 32 threads
static __global__ void add_edges(const float* dscore, const int64_t* relation, int64_t E, int64_t relations,
                                 float* chunks) {  // [chunks, H, relations]
  __shared__ float bins[BINS];
  const int lane = threadIdx.x;
  const int64_t head = blockIdx.y, window = blockIdx.z * BINS, begin = blockIdx.x * CHUNK;
  for (int i = lane; i < BINS; i += 32) bins[i] = 0.0f;
  __syncwarp();
  for (int64_t first = begin; first < min(begin + CHUNK, E); first += 32) {
    const int64_t e = first + lane;
    const int64_t r = e < E ? min(max(relation[e], int64_t(0)), relations - 1) - window : -1;
    const bool here = r >= 0 && r < BINS;
    const float x = here ? dscore[head * E + e] : 0.0f;
    uint32_t left = ballot(here);
    while (left) {
      const int bin = from_lane(int(r), __ffs(left) - 1);
      const bool same = here && r == bin;
      const float sum = warp_sum(same ? x : 0.0f);
      if (lane == 0) bins[bin] += sum;
      left &= ~ballot(same);
    }
  }
  __syncwarp();
  float* to = chunks + (blockIdx.x * int64_t(gridDim.y) + head) * relations + window;
  for (int64_t i = lane; i < min(BINS, relations - window); i += 32) to[i] = bins[i];
}

// A warp for each of the `count` numbers that every chunk holds.
static __global__ void __launch_bounds__(THREADS) add_chunks(const float* chunks, int64_t number, int64_t count,
                                                             float* sums) {
  const int64_t i = blockIdx.x * int64_t(WARPS) + threadIdx.x / 32;
  if (i >= count) return;
  float sum = 0.0f;
  for (int64_t c = threadIdx.x % 32; c < number; c += 32) sum += chunks[c * count + i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[i] = sum;
}

// --- on the host; launch(kernel, grid, threads, arguments...) starts a kernel

// sums [H, relations]: the gradient of the bias; chunks has chunks_of(E) times the room.
inline int64_t chunks_of(int64_t E) { return (E + CHUNK - 1) / CHUNK; }

template <class Launch>
void add_relations(const Rows& rows, const float* dscore, float* chunks, float* sums, Launch launch) {
  const int64_t count = rows.heads * rows.relations, number = chunks_of(rows.E);
  if (count == 0) return;
  const dim3 grid(unsigned(number), unsigned(rows.heads), unsigned((rows.relations + BINS - 1) / BINS));
  if (number > 0) launch(add_edges, grid, 32, dscore, rows.relation, rows.E, rows.relations, chunks);
  launch(add_chunks, dim3(unsigned((count + WARPS - 1) / WARPS)), THREADS, (const float*)chunks, number, count, sums);
}

}  // namespace rmd::graph_attention::gpu
