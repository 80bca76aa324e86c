// graph_attention for torch on the GPU. Compiled, not run on one yet.
#include "op.h"

#include <rmd/stream.h>

#include <algorithm>
#include <cstdio>

#include "backward.cuh"
#include "forward.cuh"
#include "sweep.cuh"

namespace rmd::graph_attention {
namespace {

constexpr int64_t WIDEST = 256;

gpu::Rows in_rows(const Inputs& in) {
  STD_TORCH_CHECK(in.width <= WIDEST, "q has width ", in.width, ", expected at most ", WIDEST, " on CUDA");
  STD_TORCH_CHECK(in.heads <= 65535, "q has ", in.heads, " heads, expected at most 65535 on CUDA");
  return {in.rowptr, in.col,      nullptr,       in.relation,    in.relation_bias, in.nodes,
          in.edges,  in.relations, int(in.heads), int(in.width), in.scale};
}

gpu::Rows out_rows(const Inputs& in) {
  gpu::Rows rows = in_rows(in);
  rows.rowptr = in.out_rowptr, rows.other = in.out_target, rows.edge = in.out_edge;
  return rows;
}

bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  return bits % 16 == 0;
}

template <class Use>
void with_type(Type type, Use use) {
  switch (type) {
    case Type::f32: use(float()); break;
    case Type::bf16: use(device::bf16()); break;
    case Type::f16: use(device::f16()); break;
  }
}

auto launcher(const OnDevice& device) {
  return [&device](auto kernel, dim3 grid, int threads, auto... arguments) {
    device.launch(kernel, grid, threads, 0, arguments...);
  };
}

Tensor scratch(const Tensor& q, int64_t numbers) { return empty({numbers}, ScalarType::Float, q); }

float* floats(const Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); }

enum class Name { rowptr, col, relation, out_rowptr, out_target, out_edge };

__device__ const char* text(Name name) {
  switch (name) {
    case Name::rowptr: return "rowptr";
    case Name::col: return "col";
    case Name::relation: return "relation";
    case Name::out_rowptr: return "out_rowptr";
    case Name::out_target: return "out_target";
    default: return "out_edge";
  }
}

__global__ void check_indices(const int64_t* index, int64_t count, int64_t end, Name name) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    if (index[i] >= 0 && index[i] < end) continue;
    printf("graph_attention: graph.%s[%lld] is %lld, expected 0 to %lld\n", text(name), (long long)i,
           (long long)index[i], (long long)(end - 1));
    __trap();
  }
}

// Where RMD_CHECK=1: a device assertion on every index of the graph.
void check(const Inputs& in, const OnDevice& device) {
  const auto within = [&](const int64_t* index, int64_t count, int64_t end, Name name) {
    const auto blocks = unsigned(std::min<int64_t>((count + 255) / 256, 1024));
    if (index && count > 0) device.launch(check_indices, blocks, 256, 0, index, count, end, name);
  };
  within(in.rowptr, in.nodes + 1, in.edges + 1, Name::rowptr);
  within(in.col, in.edges, in.nodes, Name::col);
  within(in.relation, in.edges, in.relations, Name::relation);
  within(in.out_rowptr, in.nodes + 1, in.edges + 1, Name::out_rowptr);
  within(in.out_target, in.edges, in.nodes, Name::out_target);
  within(in.out_edge, in.edges, in.edges, Name::out_edge);
}

void run_forward(const Forward& work, const Tensor& q) {
  const Inputs& in = work.in;
  const gpu::Rows rows = in_rows(in);
  const OnDevice device(q);
  if (checking()) check(in, device);
  const Tensor partial = scratch(q, gpu::partials_of(in.edges, in.heads, in.width + 2));
  with_type(in.type, [&]<class T>(T) {
    gpu::with_layout<T>(int(in.width), aligned({in.q, in.k, in.v}), [&]<class L>(L) {
      gpu::run(gpu::Forward<L>{rows, in.q, in.k, in.v, work.out, work.lse, floats(partial)}, launcher(device));
    });
  });
}

void run_backward(const Backward& work, const Tensor& q) {
  const Inputs& in = work.in;
  const gpu::Rows along_in = in_rows(in), along_out = out_rows(in);
  const OnDevice device(q);
  if (checking()) check(in, device);
  const auto launch = launcher(device);
  const Tensor partial = scratch(q, gpu::partials_of(in.edges, in.heads, 2 * in.width));
  const Tensor delta = scratch(q, in.nodes * in.heads);
  const Tensor dscore = scratch(q, work.dbias ? in.heads * in.edges : 0);
  with_type(in.type, [&]<class T>(T) {
    gpu::with_layout<T>(int(in.width), aligned({in.q, in.k, in.v, work.grad_out, work.out}), [&]<class L>(L) {
      gpu::run(gpu::QueryGradient<L>{along_in, in.q, in.k, in.v, work.grad_out, work.out, work.lse, work.dq,
                                     floats(delta), work.dbias ? floats(dscore) : nullptr, floats(partial)},
               launch);
      gpu::run(gpu::KeyValueGradient<L>{along_out, in.q, in.k, in.v, work.grad_out, work.lse, floats(delta), work.dk,
                                        work.dv, floats(partial)},
               launch);
    });
  });
  if (work.dbias) {
    const Tensor chunks = scratch(q, gpu::chunks_of(in.edges) * in.heads * in.relations);
    gpu::add_relations(along_in, floats(dscore), floats(chunks), work.dbias, launch);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CUDA, m) {
  m.impl("graph_attention_fwd", TORCH_BOX(&OnPacked<&forward<&run_forward>>::call));
  m.impl("graph_attention_bwd", TORCH_BOX(&OnPacked<&backward<&run_backward>>::call));
}

}  // namespace rmd::graph_attention
