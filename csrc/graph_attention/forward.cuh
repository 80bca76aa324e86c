// graph_attention on the GPU, forward: the work on a row, as sweep.cuh asks for it.
#pragma once
#include "rows.cuh"

namespace rmd::graph_attention::gpu {

template <class L_>
struct Forward {
  using L = L_;
  static constexpr int PARTIAL = L::WIDTH + 2;

  Rows rows;
  const void *q, *k, *v;
  void* out;
  float* lse;      // [n, H]
  float* partial;  // [2, cells, H, partial_size()]

  struct State {
    float q[L::VALUES], sum[L::VALUES];
    float largest, total;
  };

  __host__ __device__ int partial_size() const { return rows.width + 2; }

  __device__ __forceinline__ void start(State& s, int64_t item) const {
    widen<L>(read<L>(q, item, rows.width), s.q);
#pragma unroll
    for (float& x : s.sum) x = 0.0f;
    s.largest = NOTHING, s.total = 0.0f;
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
    float score[EDGES], largest = s.largest;
#pragma unroll
    for (int u = 0; u < EDGES; ++u) {
      const float product = dot<L>(s.q, k_j[u]);
      score[u] = valid[u] ? rows.score(product, head, e[u]) : -INFINITY;
      largest = fmaxf(largest, score[u]);
    }
    const float keep = expf(s.largest - largest);
    s.largest = largest;
    s.total *= keep;
#pragma unroll
    for (float& x : s.sum) x *= keep;
#pragma unroll
    for (int u = 0; u < EDGES; ++u) {
      const float p = expf(score[u] - largest);
      s.total += p;
#pragma unroll
      for (int i = 0; i < L::VALUES; ++i) s.sum[i] = fmaf(p, v_j[u][i], s.sum[i]);
    }
  }

  __device__ __forceinline__ void merge(State& s, int mask) const {
    const float other = from_lane_xor(s.largest, mask), largest = fmaxf(s.largest, other);
    const float mine = expf(s.largest - largest), theirs = expf(other - largest);
    s.largest = largest;
    s.total = mine * s.total + theirs * from_lane_xor(s.total, mask);
#pragma unroll
    for (float& x : s.sum) x = mine * x + theirs * from_lane_xor(x, mask);
  }

  __device__ __forceinline__ void save(const State& s, float* to) const {
    gpu::save<L>(s.sum, to, rows.width);
    if (threadIdx.x % L::LANES == 0) to[rows.width] = s.largest, to[rows.width + 1] = s.total;
  }

  template <class At>
  __device__ void combine(At at, int count, int64_t item, float* to, int thread, int threads) const {
    const int width = rows.width;
    float largest = NOTHING, total = 0.0f;
    for (int j = 0; j < count; ++j) largest = fmaxf(largest, at(j)[width]);
    for (int j = 0; j < count; ++j) total += expf(at(j)[width] - largest) * at(j)[width + 1];
    for (int d = thread; d < width; d += threads) {
      float sum = 0.0f;
      for (int j = 0; j < count; ++j) sum += expf(at(j)[width] - largest) * at(j)[d];
      if (to) {
        to[d] = sum;
      } else {
        static_cast<typename L::T*>(out)[item * width + d] = narrow<typename L::T>(total == 0.0f ? 0.0f : sum / total);
      }
    }
    if (thread != 0) return;
    if (to) {
      to[width] = largest, to[width + 1] = total;
    } else {
      lse[item] = total == 0.0f ? NOTHING : largest + logf(total);
    }
  }
};

}  // namespace rmd::graph_attention::gpu
