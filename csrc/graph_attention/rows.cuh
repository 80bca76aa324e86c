// graph_attention on the GPU: rows of a graph and how their vectors lie over the lanes. Knows no torch.
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
