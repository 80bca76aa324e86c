// graph_attention on the GPU, forward and backward. Knows no torch.
//
// One task is a row of a graph (the in-edges of a node, or its out-edges) and a head. A warp reads the
// vectors at the other ends of several edges at once, a group of lanes each. Rows of up to WARP_ROW
// edges are one warp's, up to PIECE edges one block's; longer ones are cut into pieces of PIECE, a block
// each, which `combine` adds up. Who does what depends on the row alone and every sum has one order, so
// the bits do too; nothing is counted on the host.
#pragma once
#include <rmd/device.h>

namespace rmd::graph_attention::gpu {

using namespace rmd::device;

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int64_t WARP_ROW = 64, PIECE = 1024;
constexpr int EDGES = 2;  // that a group of lanes has under way
constexpr int BLOCKS_PER_SM = 2;  // at least; left to itself the compiler spills to fit one more

struct Rows {
  const int64_t* rowptr;    // [n + 1]
  const int64_t* other;     // [E] the node at the other end
  const int64_t* edge;      // [E] the place of each edge among the in-edges; null: this one
  const int64_t* relation;  // [E] by place among the in-edges
  const float* bias;        // [H, relations], or null
  int64_t n, E, relations;
  int heads, width;
  float scale;

  // Indices are checked when a graph is made; a graph that somebody changed reads other rows, no other memory.
  __device__ int64_t begin(int64_t row) const { return min(max(rowptr[row], int64_t(0)), E); }
  __device__ int64_t node(int64_t e) const { return min(max(other[e], int64_t(0)), n - 1); }
  __device__ float score(float product, int head, int64_t e) const {
    if (!bias) return product * scale;
    const int64_t place = edge ? min(max(edge[e], int64_t(0)), E - 1) : e;
    const int64_t r = min(max(relation[place], int64_t(0)), relations - 1);
    return product * scale + bias[head * relations + r];
  }
  __device__ int64_t cells() const { return (E + PIECE - 1) / PIECE; }
};

// How a vector of `width` numbers lies over the lanes: LANES of them, PACKS accesses of VEC numbers each.
template <class T_, int VEC_, int LANES_, int PACKS_>
struct Layout {
  using T = T_;
  static constexpr int VEC = VEC_, LANES = LANES_, PACKS = PACKS_, GROUPS = 32 / LANES, VALUES = VEC * PACKS;
  static constexpr int WIDTH = LANES * VALUES;  // the largest
};

template <class L>
struct Vector {
  struct alignas(sizeof(typename L::T) * L::VEC) Pack {
    typename L::T x[L::VEC];
  };
  Pack pack[L::PACKS];

  __device__ float operator[](int i) const { return float(pack[i / L::VEC].x[i % L::VEC]); }
};

// The column of a lane's i-th value.
template <class L>
__device__ __forceinline__ int column(int i) {
  const int lane = threadIdx.x % L::LANES;
  return (i / L::VEC * L::LANES + lane) * L::VEC + i % L::VEC;
}

// Of node and head `item`; zero, and nothing read, if not `valid`.
template <class L>
__device__ __forceinline__ Vector<L> read(const void* base, int64_t item, int width, bool valid = true) {
  using Pack = typename Vector<L>::Pack;
  const typename L::T* p = static_cast<const typename L::T*>(base) + item * width;
  Vector<L> x;
#pragma unroll
  for (int i = 0; i < L::PACKS; ++i) {
    const int d = column<L>(i * L::VEC);
    x.pack[i] = valid && d < width ? *reinterpret_cast<const Pack*>(p + d) : Pack{};
  }
  return x;
}

template <class L, class A, class B>
__device__ __forceinline__ float dot(const A& a, const B& b) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < L::VALUES; ++i) sum = fmaf(a[i], b[i], sum);
#pragma unroll
  for (int mask = L::LANES / 2; mask > 0; mask /= 2) sum += from_lane_xor(sum, mask);
  return sum;
}

template <class L>
__device__ __forceinline__ void widen(const Vector<L>& x, float (&to)[L::VALUES]) {
#pragma unroll
  for (int i = 0; i < L::VALUES; ++i) to[i] = x[i];
}

template <class L>
__device__ __forceinline__ void save(const float (&x)[L::VALUES], float* to, int width) {
#pragma unroll
  for (int i = 0; i < L::VALUES; ++i) {
    const int d = column<L>(i);
    if (d < width) to[d] = x[i];
  }
}

// Each kind of work has a State (what a lane holds of one task), and
//   start    reads the row and empties the sums
//   visit    takes EDGES edges for each group of lanes
//   merge    adds the sums of the lanes `mask` away
//   save     writes a group's sums as one partial result
//   combine  adds up `count` partial results at(0), at(1), ... in that order; writes a partial result to
//            `to`, or the result itself where `to` is null
// PARTIAL is the room for a partial result.

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

// Part `part` of `parts` of the edges begin .. end - 1 of a task, by one warp, as one partial result.
template <class Work>
__device__ __forceinline__ void walk(const Work& work, int64_t item, int64_t begin, int64_t end, int part, int parts,
                                     float* to) {
  using L = typename Work::L;
  constexpr int STEP = L::GROUPS * EDGES;
  const int lane = threadIdx.x % 32, group = lane / L::LANES, head = int(item % work.rows.heads);
  typename Work::State state;
  work.start(state, item);
  for (int64_t first = begin + part * STEP; first < end; first += parts * STEP) {
    int64_t e[EDGES];
    bool valid[EDGES];
#pragma unroll
    for (int u = 0; u < EDGES; ++u) e[u] = first + u * L::GROUPS + group, valid[u] = e[u] < end;
    work.visit(state, head, e, valid);
  }
#pragma unroll
  for (int mask = L::LANES; mask < 32; mask *= 2) work.merge(state, mask);
  if (group == 0) work.save(state, to);
}

// The row that holds edge x, by one warp.
__device__ inline int64_t row_of(const Rows& rows, int64_t x) {
  const int lane = threadIdx.x % 32;
  int64_t low = 0, high = rows.n;  // rowptr[low] <= x < rowptr[high]
  while (high - low > 1) {
    const int64_t step = (high - low + 31) / 32, probe = low + (lane + 1) * step;
    const int below = __popc(ballot(probe < high && rows.rowptr[probe] <= x));
    high = min(low + (below + 1) * step, high);
    low += below * step;
  }
  return low;
}

struct Piece {
  int64_t row, begin, end;  // empty: begin == end

  __device__ bool any() const { return begin < end; }
};

// A piece is kept by the cell of PIECE edges in which it begins. A cell holds the beginning of at most one
// row of more than PIECE edges, and of at most one later piece of such a row.
__device__ inline Piece first_piece(const Rows& rows, int64_t cell) {
  const int64_t x = cell * PIECE;
  if (x + PIECE >= rows.E) return {0, 0, 0};
  const int64_t row = row_of(rows, x + PIECE), begin = rows.begin(row), end = rows.begin(row + 1);
  if (begin < x || begin >= x + PIECE || end - begin <= PIECE) return {0, 0, 0};
  return {row, begin, begin + PIECE};
}
__device__ inline Piece later_piece(const Rows& rows, int64_t cell) {
  const int64_t x = cell * PIECE, row = row_of(rows, x), begin = rows.begin(row), end = rows.begin(row + 1);
  if (begin >= x || end - begin <= PIECE) return {0, 0, 0};
  const int64_t first = begin + (x - begin + PIECE - 1) / PIECE * PIECE;
  return {row, first, min(first + PIECE, max(first, end))};
}

template <class Work>
__device__ float* partial_of(const Work& work, int64_t which, int64_t cell, int head) {
  return work.partial + ((which * work.rows.cells() + cell) * work.rows.heads + head) * work.partial_size();
}

// The first `piece_blocks` blocks (cells x heads, or none) take pieces, the others short rows.
template <class Work>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) sweep(Work work, int64_t piece_blocks) {
  __shared__ float partial[WARPS][Work::PARTIAL];
  __shared__ Piece pieces[2];
  const Rows& rows = work.rows;
  const int warp = warp_of_block();
  const auto of_warp = [&](int j) { return &partial[j][0]; };

  if (blockIdx.x < piece_blocks) {
    const int64_t cell = blockIdx.x / rows.heads;
    const int head = int(blockIdx.x % rows.heads);
    if (warp < 2) {
      const Piece found = warp == 0 ? first_piece(rows, cell) : later_piece(rows, cell);
      if (threadIdx.x % 32 == 0) pieces[warp] = found;
    }
    __syncthreads();
    for (int which = 0; which < 2; ++which) {
      const Piece piece = pieces[which];
      if (!piece.any()) continue;
      const int64_t item = piece.row * rows.heads + head;
      walk(work, item, piece.begin, piece.end, warp, WARPS, partial[warp]);
      __syncthreads();
      work.combine(of_warp, WARPS, item, partial_of(work, which, cell, head), threadIdx.x, THREADS);
      __syncthreads();
    }
    return;
  }

  const int64_t items = rows.n * rows.heads, stride = (int64_t(gridDim.x) - piece_blocks) * WARPS;
  for (int64_t first = (blockIdx.x - piece_blocks) * WARPS; first < items; first += stride) {
    // Each warp its own row; then all of them together each row that was too long for one.
    for (int task = 0; task <= WARPS; ++task) {
      const bool alone = task == 0;
      const int64_t item = first + (alone ? warp : task - 1);
      if (item >= items) continue;
      const int64_t row = item / rows.heads, begin = rows.begin(row), end = rows.begin(row + 1);
      const int64_t degree = end - begin;
      if (alone ? degree > WARP_ROW : degree <= WARP_ROW || degree > PIECE) continue;
      const int parts = alone ? 1 : WARPS;
      if (degree > 0) walk(work, item, begin, end, alone ? 0 : warp, parts, partial[warp]);
      if (alone) {
        __syncwarp();
        work.combine([&](int) { return &partial[warp][0]; }, degree > 0 ? 1 : 0, item, nullptr, threadIdx.x % 32, 32);
        __syncwarp();
      } else {
        __syncthreads();
        work.combine(of_warp, WARPS, item, nullptr, threadIdx.x, THREADS);
        __syncthreads();
      }
    }
  }
}

// Adds up the pieces of the rows of more than PIECE edges; a block for each cell and head.
template <class Work>
__global__ void __launch_bounds__(THREADS) combine(Work work) {
  __shared__ Piece shared;
  const Rows& rows = work.rows;
  const int64_t cell = blockIdx.x / rows.heads;
  const int head = int(blockIdx.x % rows.heads);
  if (threadIdx.x < 32) {
    const Piece found = first_piece(rows, cell);
    if (threadIdx.x == 0) shared = found;
  }
  __syncthreads();
  const Piece first = shared;
  if (!first.any()) return;
  const int count = int((rows.begin(first.row + 1) - first.begin + PIECE - 1) / PIECE);
  const auto at = [&](int j) { return partial_of(work, j > 0, cell + j, head); };
  work.combine(at, count, first.row * rows.heads + head, nullptr, threadIdx.x, THREADS);
}

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

inline int64_t cells_of(int64_t E) { return E > PIECE ? (E + PIECE - 1) / PIECE : 0; }  // 0: no row is that long

// The room for the partial results of `size` numbers each.
inline int64_t partials_of(int64_t E, int64_t heads, int64_t size) { return 2 * cells_of(E) * heads * size; }

template <class Work, class Launch>
void run(const Work& work, Launch launch) {
  const int64_t items = work.rows.n * work.rows.heads, pieces = cells_of(work.rows.E) * work.rows.heads;
  if (items == 0) return;
  const int64_t blocks = pieces + min((items + WARPS - 1) / WARPS, int64_t(1) << 24);
  launch(sweep<Work>, dim3(unsigned(blocks)), THREADS, work, pieces);
  if (pieces > 0) launch(combine<Work>, dim3(unsigned(pieces)), THREADS, work);
}

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

// How heads of `width` lie over the lanes, given to `use`; `wide`: all data lie on 16 bytes.
template <class T, class Use>
void with_layout(int width, bool wide, Use use) {
  constexpr int VEC = 16 / sizeof(T), MOST = 32 * VEC;
  if (!wide || width % VEC != 0) {
    use(Layout<T, 1, 32, 8>());
  } else if (width <= 32) {
    use(Layout<T, VEC, 32 / VEC, 1>());
  } else if (width <= 64) {
    use(Layout<T, VEC, 64 / VEC, 1>());
  } else if (width <= 128) {
    use(Layout<T, VEC, 128 / VEC, 1>());
  } else {
    use(Layout<T, VEC, 32, 256 / MOST>());
  }
}

}  // namespace rmd::graph_attention::gpu
