// The CUDA kernels on the CPU, behind C functions for ctypes. Pointers are what cuda.cu would pass.
#include <rmd/device.h>

#include "../../../csrc/graph_attention/backward.cuh"
#include "../../../csrc/graph_attention/forward.cuh"
#include "../../../csrc/graph_attention/sweep.cuh"
#include "../../../csrc/masked_attention/attend.cuh"

namespace {

using namespace rmd::device;

template <class Use>
void with_type(int type, Use use) {  // 0 float32, 1 bfloat16, 2 float16
  if (type == 0) use(float());
  if (type == 1) use(bf16());
  if (type == 2) use(f16());
}

}  // namespace

extern "C" {

struct Graph {
  const int64_t *rowptr, *col, *relation, *out_rowptr, *out_target, *out_edge;
  int64_t n, E, relations;
};

void graph_forward(int type, int wide, int heads, int width, float scale, const Graph* g, const float* bias,
                   const void* q, const void* k, const void* v, void* out, float* lse) {
  namespace gpu = rmd::graph_attention::gpu;
  const auto launch = [](auto kernel, dim3 grid, int threads, auto... args) {
    rmd::device::launch(grid, threads, 0, [=] { kernel(args...); });
  };
  const gpu::Rows rows{g->rowptr, g->col, nullptr, g->relation, bias, g->n, g->E, g->relations, heads, width, scale};
  std::vector<float> partial(gpu::partials_of(g->E, heads, width + 2), NAN);
  with_type(type, [&]<class T>(T) {
    gpu::with_layout<T>(width, wide, [&]<class L>(L) {
      gpu::run(gpu::Forward<L>{rows, q, k, v, out, lse, partial.data()}, launch);
    });
  });
}

void graph_backward(int type, int wide, int heads, int width, float scale, const Graph* g, const float* bias,
                    const void* q, const void* k, const void* v, const void* grad_out, const void* out,
                    const float* lse, void* dq, void* dk, void* dv, float* dbias) {
  namespace gpu = rmd::graph_attention::gpu;
  const auto launch = [](auto kernel, dim3 grid, int threads, auto... args) {
    rmd::device::launch(grid, threads, 0, [=] { kernel(args...); });
  };
  const gpu::Rows in{g->rowptr, g->col, nullptr, g->relation, bias, g->n, g->E, g->relations, heads, width, scale};
  gpu::Rows along = in;
  along.rowptr = g->out_rowptr, along.other = g->out_target, along.edge = g->out_edge;
  std::vector<float> partial(gpu::partials_of(g->E, heads, 2 * width), NAN), delta(g->n * heads, NAN);
  std::vector<float> dscore(heads * g->E, NAN), chunks(gpu::chunks_of(g->E) * heads * g->relations, NAN);
  with_type(type, [&]<class T>(T) {
    gpu::with_layout<T>(width, wide, [&]<class L>(L) {
      gpu::run(gpu::QueryGradient<L>{in, q, k, v, grad_out, out, lse, dq, delta.data(), bias ? dscore.data() : nullptr,
                                     partial.data()},
               launch);
      gpu::run(gpu::KeyValueGradient<L>{along, q, k, v, grad_out, lse, delta.data(), dk, dv, partial.data()}, launch);
    });
  });
  if (bias) gpu::add_relations(in, dscore.data(), chunks.data(), dbias, launch);
}

void masked_forward(int type, int heads, int kv_heads, int width, float scale, int exclude_own, int64_t patients,
                    int64_t Tq, int64_t Tk, int Mq, int M, const int32_t* q_segments, const int32_t* k_segments,
                    const float* affinity, const void* q, const void* k, const void* v, void* out, float* lse) {
  namespace gpu = rmd::masked_attention::gpu;
  const auto launch = [](auto kernel, dim3 grid, int threads, uint32_t shared, auto... args) {
    rmd::device::launch(grid, threads, shared, [=] { kernel(args...); });
  };
  const auto run = [&]<class T>(T) {
    gpu::with_shape<T>(width, [&]<class S>(S) {
      const int64_t tiles = gpu::most_tiles(Tq, patients, Mq, exclude_own, S::ROWS);
      std::vector<int2> list(1 + tiles, int2{-1, -1});
      gpu::run<S>(gpu::Work{q, k, v, {q_segments, Tq, Mq}, {k_segments, Tk, M}, affinity, out, lse, list.data(), patients,
                            tiles, heads, kv_heads, width, scale, bool(exclude_own)},
                  launch);
    });
  };
  if (type == 1) run(bf16());
  if (type == 2) run(f16());
}

}  // extern "C"
