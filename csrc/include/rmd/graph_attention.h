// Attention of each node of a graph to the sources of its in-edges, as plain pointers. Knows no torch.
// The formula is in docs/ops/graph_attention.md.
#pragma once
#include <rmd/half.h>

#include <algorithm>
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
  Type type;  // of q, k, v, out and their gradients
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

}  // namespace rmd::graph_attention
