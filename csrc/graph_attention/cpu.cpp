// graph_attention on CPU tensors: indices checked, instruction set chosen, edges spread over threads.
#include "op.h"

#include <rmd/csr.h>
#include <rmd/isa.h>
#include <rmd/scratch.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <memory>
#include <vector>

namespace rmd::graph_attention {
namespace {

// All of a graph, before anything is read through it; a sweep over it costs little beside the rows.
void check_graph(const Inputs& in, bool transpose) {
  check_pointers(in.rowptr, in.nodes, in.edges, "graph.rowptr");
  check_range(in.col, in.edges, in.nodes, "graph.col");
  if (in.relation) check_range(in.relation, in.edges, in.relations, "graph.relation", "the width of relation_bias");
  if (!transpose) return;
  check_pointers(in.out_rowptr, in.nodes, in.edges, "graph.out_rowptr");
  check_range(in.out_target, in.edges, in.nodes, "graph.out_target");
  check_range(in.out_edge, in.edges, in.edges, "graph.out_edge", "the number of edges");
}

// A large result is fresh memory, which the system clears as it is first written: in huge pages, where
// it allows them, that costs a quarter of the time of the whole op less.
void use_huge_pages(const Inputs& in, std::initializer_list<void*> results) {
#ifdef __linux__
  if (!in.large) return;  // malloc takes smaller ones from memory that it keeps
  const uintptr_t bytes = in.nodes * in.heads * in.width * (in.type == Type::f32 ? 4 : 2);
  for (void* result : results) {
    const uintptr_t page = 4096, begin = (uintptr_t(result) + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(begin), (uintptr_t(result) + bytes - begin) / page * page, MADV_HUGEPAGE);
  }
#endif
}

template <class Pass>
struct Kernel {
  void (*run)(const Pass&, int64_t begin, int64_t end, float* slots, float* scratch);
  void (*combine)(const Pass&, int64_t row, float* slots);
};

template <class Pass>
Kernel<Pass> kernel() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return {avx512::run, avx512::combine};
    case Isa::avx2: return {avx2::run, avx2::combine};
#endif
    default: return {scalar::run, scalar::combine};
  }
}

template <class Pass>
void sweep(const Pass& pass, const Inputs& in, const int64_t* rowptr) {
  const Kernel<Pass> kernel = graph_attention::kernel<Pass>();
  const std::vector<int64_t> cut = rows_longer_than(SPLIT, rowptr, in.nodes);
  const std::unique_ptr<float[]> slots(cut.empty() ? nullptr : new float[slots_floats(in)]);
  // 32768 elements, torch's own measure: on a busy machine waking a thread costs more than less work saves.
  const int64_t grain = std::max<int64_t>(1, 32768 / (in.heads * in.width));
  torch::stable::parallel_for(0, in.nodes + in.edges, grain, [&](int64_t begin, int64_t end) {
    Scratch<8192> scratch(scratch_floats(in));
    const WideRegisters wide;
    kernel.run(pass, begin, end, slots.get(), scratch.get());
  });
  torch::stable::parallel_for(0, int64_t(cut.size()), 1, [&](int64_t begin, int64_t end) {
    const WideRegisters wide;
    for (int64_t i = begin; i < end; ++i) kernel.combine(pass, cut[i], slots.get());
  });
}

// The score gradients of each relation, added up in double over a fixed number of parts.
void sum_by_relation(const Inputs& in, const float* weights, float* dbias) {
  constexpr int64_t PARTS = 16;
  const int64_t size = in.heads * in.relations;
  std::vector<double> sums(PARTS * size);
  torch::stable::parallel_for(0, PARTS, std::max<int64_t>(1, PARTS * 32768 / (in.edges * in.heads + 1)),
                              [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t e = in.edges * part / PARTS; e < in.edges * (part + 1) / PARTS; ++e) {
        double* sum = sums.data() + part * size + in.relation[e] * in.heads;
        for (int64_t h = 0; h < in.heads; ++h) sum[h] += weights[(2 * e + 1) * in.heads + h];
      }
    }
  });
  for (int64_t h = 0; h < in.heads; ++h) {
    for (int64_t r = 0; r < in.relations; ++r) {
      double sum = 0;
      for (int64_t part = 0; part < PARTS; ++part) sum += sums[part * size + r * in.heads + h];
      dbias[h * in.relations + r] = float(sum);
    }
  }
}

void run_forward(const Forward& work, const Tensor&) {
  check_graph(work.in, false);
  use_huge_pages(work.in, {work.out});
  if (work.in.heads > 0) sweep(work, work.in, work.in.rowptr);
}

void run_backward(const Backward& work, const Tensor&) {
  const Inputs& in = work.in;
  check_graph(in, true);
  if (in.heads == 0) return;
  use_huge_pages(in, {work.dq, work.dk, work.dv});
  const std::unique_ptr<float[]> weights(new float[2 * in.edges * in.heads]);
  sweep(ByTarget{work, weights.get()}, in, in.rowptr);
  sweep(BySource{work, weights.get()}, in, in.out_rowptr);
  if (work.dbias) sum_by_relation(in, weights.get(), work.dbias);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CPU, m) {
  m.impl("graph_attention_fwd", TORCH_BOX(&OnPacked<&forward<&run_forward>>::call));
  m.impl("graph_attention_bwd", TORCH_BOX(&OnPacked<&backward<&run_backward>>::call));
}

}  // namespace rmd::graph_attention
