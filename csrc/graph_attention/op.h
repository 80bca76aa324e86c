// The arguments of graph_attention, from checked tensors; the same for CPU and CUDA.
#pragma once
#include <rmd/graph_attention.h>
#include <rmd/tensor.h>

#include <cmath>
#include <tuple>

namespace rmd::graph_attention {

using Maybe = const std::optional<Tensor>&;

inline Inputs inputs_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& rowptr, const Tensor& col,
                        Maybe relation, const Tensor& out_rowptr, const Tensor& out_target, const Tensor& out_edge,
                        Maybe relation_bias) {
  STD_TORCH_CHECK(q.dim() == 3 && q.size(2) >= 1, "q has shape ", shape_text(q), ", expected [nodes, heads, width >= 1]");
  STD_TORCH_CHECK(col.dim() == 1, "graph.col has shape ", shape_text(col), ", expected [edges]");
  STD_TORCH_CHECK(!relation_bias || relation, "relation_bias is given, but the graph has no relations");
  STD_TORCH_CHECK(!relation_bias || relation_bias->dim() == 2, "relation_bias has shape ", shape_text(*relation_bias),
                  ", expected [heads, relations]");
  const int64_t nodes = q.size(0), heads = q.size(1), edges = col.size(0);
  const int64_t relations = relation_bias ? relation_bias->size(1) : 0;
  const int64_t* relation_data = data<int64_t>(relation, "graph.relation", {edges}, q);
  return {.q = checked_like(q, "q", q),
          .k = checked_like(k, "k", q),
          .v = checked_like(v, "v", q),
          .rowptr = data<int64_t>(rowptr, "graph.rowptr", {nodes + 1}, q),
          .col = data<int64_t>(col, "graph.col", {edges}, q),
          .relation = relation_bias ? relation_data : nullptr,
          .out_rowptr = data<int64_t>(out_rowptr, "graph.out_rowptr", {nodes + 1}, q),
          .out_target = data<int64_t>(out_target, "graph.out_target", {edges}, q),
          .out_edge = data<int64_t>(out_edge, "graph.out_edge", {edges}, q),
          .relation_bias = data<float>(relation_bias, "relation_bias", {heads, relations}, q),
          .nodes = nodes,
          .edges = edges,
          .heads = heads,
          .width = q.size(2),
          .relations = relations,
          .scale = float(1 / std::sqrt(double(q.size(2)))),
          .type = type_of(q, "q"),
          .large = q.numel() * (q.scalar_type() == ScalarType::Float ? 4 : 2) >= int64_t(1) << 25};
}

// The operators around `run(work, q)`, which fills the results; q says on which device.
template <void (*run)(const Forward&, const Tensor& q)>
std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& rowptr,
                                   const Tensor& col, Maybe relation, const Tensor& out_rowptr,
                                   const Tensor& out_target, const Tensor& out_edge, Maybe relation_bias) {
  const Inputs in = inputs_of(q, k, v, rowptr, col, relation, out_rowptr, out_target, out_edge, relation_bias);
  Tensor out = empty({in.nodes, in.heads, in.width}, q.scalar_type(), q);
  Tensor lse = empty({in.nodes, in.heads}, ScalarType::Float, q);
  run({.in = in, .out = out.mutable_data_ptr(), .lse = static_cast<float*>(lse.mutable_data_ptr())}, q);
  return {out, lse};
}

template <void (*run)(const Backward&, const Tensor& q)>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_out, const Tensor& out, const Tensor& lse,
                                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                                    const Tensor& rowptr, const Tensor& col, Maybe relation,
                                                    const Tensor& out_rowptr, const Tensor& out_target,
                                                    const Tensor& out_edge, Maybe relation_bias) {
  const Inputs in = inputs_of(q, k, v, rowptr, col, relation, out_rowptr, out_target, out_edge, relation_bias);
  const auto like_q = [&] { return empty({in.nodes, in.heads, in.width}, q.scalar_type(), q); };
  Tensor dq = like_q(), dk = like_q(), dv = like_q();
  Tensor dbias = relation_bias ? empty({in.heads, in.relations}, ScalarType::Float, q) : empty({0}, q.scalar_type(), q);
  run({.in = in,
       .grad_out = checked_like(grad_out, "grad_out", q),
       .out = checked_like(out, "out", q),
       .lse = data<float>(lse, "lse", {in.nodes, in.heads}, q),
       .dq = dq.mutable_data_ptr(),
       .dk = dk.mutable_data_ptr(),
       .dv = dv.mutable_data_ptr(),
       .dbias = relation_bias ? static_cast<float*>(dbias.mutable_data_ptr()) : nullptr},
      q);
  return {dq, dk, dv, dbias};
}

}  // namespace rmd::graph_attention
