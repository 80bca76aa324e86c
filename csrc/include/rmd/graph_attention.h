// Attention of each node of a graph to the sources of its in-edges, as plain pointers. Knows no torch.
// The formula is in docs/ops/graph_attention.md.
#pragma once
#include <rmd/half.h>

#include <cstdint>

namespace rmd::graph_attention {

// The log-sum-exp of a node without in-edges (robustmdiff/ops/registration.py).
constexpr float NOTHING = -1e30f;

// What forward and backward share. Rows of q, k and v are [heads, width], one a node.
struct Inputs {
  const void *q, *k, *v;      // [nodes, heads, width]
  const int64_t* rowptr;      // [nodes + 1]
  const int64_t* col;         // [edges] the source of each edge, sorted by target
  const int64_t* relation;    // [edges], null without relation_bias
  const int64_t* out_rowptr;  // [nodes + 1], the transpose
  const int64_t* out_target;  // [edges]
  const int64_t* out_edge;    // [edges] where each edge of the transpose stands in col
  const float* relation_bias;  // [heads, relations], or null
  int64_t nodes, edges, heads, width, relations;
  float scale;
  Type type;   // of q, k, v, out and their gradients
  bool large;  // no cache holds a result: the CPU writes it past them, into huge pages
};

struct Forward {
  Inputs in;
  void* out;   // [nodes, heads, width]
  float* lse;  // [nodes, heads]
};

struct Backward {
  Inputs in;
  const void *grad_out, *out;
  const float* lse;
  void *dq, *dk, *dv;
  float* dbias;  // [heads, relations], null without relation_bias
};

// On the CPU a pass walks compressed rows: the in-edges of each node, or the out-edges.
//
// Work is counted in places: row r has one place for itself and one for each edge, from r + rowptr[r]
// on. Threads share the places evenly, so that one huge row is shared too: a row of more than SPLIT
// edges is cut into pieces of nearly equal length, each piece leaves its sums in a slot, and the slots
// are added in order afterwards. The cut depends on the length of the row only, never on the threads.
constexpr int64_t SPLIT = 1024;

RMD_INLINE int64_t pieces(int64_t edges) { return edges > SPLIT ? (edges + SPLIT - 1) / SPLIT : 1; }

// Pieces are at least SPLIT / 2 long, so no two of them share this slot.
RMD_INLINE int64_t slot(int64_t first_edge) { return first_edge / (SPLIT / 2); }

constexpr int64_t BLOCK = 16;  // edges whose scores are held at a time

// Floats of a row, of what a piece leaves behind, of all slots, and of all that a thread works with. Each head is
// padded to whole vectors of any instruction set.
RMD_INLINE int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
RMD_INLINE int64_t row_floats(const Inputs& in) { return in.heads * padded(in.width); }
RMD_INLINE int64_t slot_floats(const Inputs& in) { return 2 * row_floats(in) + 2 * padded(in.heads); }
RMD_INLINE int64_t slots_floats(const Inputs& in) { return (slot(in.edges) + 1) * slot_floats(in); }
RMD_INLINE int64_t scratch_floats(const Inputs& in) {
  return slot_floats(in) + 2 * row_floats(in) + 2 * padded(BLOCK * in.heads) + padded(in.heads);
}

// The backward pass walks first the in-edges, for dq and for the two weights of every edge: of v_j in
// out_i, and the gradient of the score. The second walk, along the out-edges, only sums with them.
struct ByTarget {
  const Backward& at;
  float* weights;  // [edges, 2, heads]
};
struct BySource {
  const Backward& at;
  const float* weights;
};

#define RMD_GRAPH_ATTENTION_PASS(Pass)                                                              \
  /* The pieces that begin at the places begin .. end - 1; pieces of longer rows go to `slots`. */  \
  void run(const Pass&, int64_t begin, int64_t end, float* slots, float* scratch);                  \
  /* The row from its slots. */                                                                     \
  void combine(const Pass&, int64_t row, float* slots);
#define RMD_GRAPH_ATTENTION_KERNELS(isa) \
  namespace isa {                        \
  RMD_GRAPH_ATTENTION_PASS(Forward)      \
  RMD_GRAPH_ATTENTION_PASS(ByTarget)     \
  RMD_GRAPH_ATTENTION_PASS(BySource)     \
  }
RMD_GRAPH_ATTENTION_KERNELS(avx512)
RMD_GRAPH_ATTENTION_KERNELS(avx2)
RMD_GRAPH_ATTENTION_KERNELS(scalar)
#undef RMD_GRAPH_ATTENTION_KERNELS
#undef RMD_GRAPH_ATTENTION_PASS

}  // namespace rmd::graph_attention
