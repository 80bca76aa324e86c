// The DDPM ops on the GPU: one launch, 16 bytes a load, noise in registers.
// A thread owns groups of 4 elements of a row: one Philox counter each. Compiled, not yet run.
#include "op.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <rmd/stream.h>

#include <algorithm>

namespace rmd::ddpm {
namespace {

constexpr int THREADS = 256;

template <class T>
struct alignas(4 * sizeof(T)) Pack {
  T x[4];
};

// Four elements from `begin`, of which the first `count` exist; one wide access where the address allows.
template <class T>
__device__ float4 load(const void* base, int64_t begin, int count, bool wide) {
  const T* p = static_cast<const T*>(base) + begin;
  Pack<T> v{};
  if (wide) {
    v = *reinterpret_cast<const Pack<T>*>(p);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) v.x[i] = p[i];
    }
  }
  return {float(v.x[0]), float(v.x[1]), float(v.x[2]), float(v.x[3])};
}

template <class T>
__device__ void store(void* base, int64_t begin, int count, bool wide, float4 x) {
  T* p = static_cast<T*>(base) + begin;
  const Pack<T> v{{T(x.x), T(x.y), T(x.z), T(x.w)}};
  if (wide) {
    *reinterpret_cast<Pack<T>*>(p) = v;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) p[i] = v.x[i];
    }
  }
}

template <class Op>
__device__ float4 each(float4 a, float4 b, Op op) {
  return {op(a.x, b.x), op(a.y, b.y), op(a.z, b.z), op(a.w, b.w)};
}

__device__ float2 box_muller(uint32_t w0, uint32_t w1) {
  const float radius = sqrtf(-2.0f * logf(float((w0 >> 8) + 1) * 0x1p-24f));
  float sine, cosine;
  sincospif(float(int32_t(w1)) * 0x1p-31f, &sine, &cosine);
  return {radius * cosine, radius * sine};
}

// Philox4x32-10 and its normals; the contract is in rmd/philox.h.
__device__ float4 normals(const Key& key, int64_t step, int64_t row, int64_t group) {
  const uint64_t seed = uint64_t(key.seed_offset[0]);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(group), c1 = uint32_t(key.row_ids ? key.row_ids[row] : row);
  uint32_t c2 = uint32_t(step), c3 = uint32_t(key.seed_offset[1]);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
    const uint32_t high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
    c0 = high1 ^ c1 ^ k0, c1 = low1;
    c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  const float2 a = box_muller(c0, c1), b = box_muller(c2, c3);
  return {a.x, a.y, b.x, b.y};
}

__device__ const float* row_of_table(const float* table, int64_t steps, int64_t step) {
  return table + min(max(step, int64_t(0)), steps - 1) * COLUMNS;  // values are not checked on the GPU
}

template <class T>
__device__ void four(const Step& a, int64_t steps, int64_t row, int64_t group, int count, bool wide) {
  const float* c = row_of_table(a.table, steps, a.step[row]);
  const int64_t begin = row * a.row_size + 4 * group;
  const auto at = [&](const void* base) { return load<T>(base, begin, count, wide); };
  float4 output = at(a.model_output);
  if (a.uncond) {
    const float g = a.guidances ? a.guidances[row] : a.guidance;
    output = each(output, at(a.uncond), [=](float m, float u) { return fmaf(g, m - u, u); });
  }
  const float4 xt = at(a.sample);
  const float signal = a.prediction == EPSILON ? 1.0f : a.prediction == SAMPLE ? 0.0f : c[SQRT_ALPHA_BAR];
  const float spread = a.prediction == SAMPLE ? -1.0f : c[SQRT_BETA_BAR];
  const float scale = a.prediction == EPSILON ? 1.0f / c[SQRT_ALPHA_BAR] : 1.0f;
  const float clip = a.clip, w0 = c[WEIGHT_X0], wt = c[WEIGHT_XT];
  float4 x = each(output, xt, [=](float m, float x) {
    const float x0 = scale * fmaf(-spread, m, signal * x);
    const float kept = x0 > clip ? clip : x0 < -clip ? -clip : x0;  // a NaN stays NaN
    return fmaf(w0, kept, wt * x);
  });
  const float sigma = c[SIGMA];
  if (sigma != 0.0f) {
    float4 z = a.key.seed_offset ? normals(a.key, a.step[row], row, group) : at(a.noise);
    if (a.variance_output) {
      const auto [low, high] = log_range(a, c);
      z = each(z, at(a.variance_output), [low = low, high = high](float z, float v) {
        const float share = fmaf(v, 0.5f, 0.5f);
        return z * expf(0.5f * fmaf(share, high, (1.0f - share) * low));
      });
    } else {
      z = each(z, z, [=](float z, float) { return sigma * z; });
    }
    x = each(x, z, [](float x, float z) { return x + z; });
  }
  store<T>(a.out, begin, count, wide, x);
}

template <class T>
__device__ void four(const Noise& a, int64_t steps, int64_t row, int64_t group, int count, bool wide) {
  const float* c = row_of_table(a.table, steps, a.step[row]);
  const int64_t begin = row * a.row_size + 4 * group;
  const float signal = c[SQRT_ALPHA_BAR], deviation = c[SQRT_BETA_BAR];
  const float4 z = a.key.seed_offset ? normals(a.key, a.step[row] + NOISING, row, group)
                                     : load<T>(a.noise, begin, count, wide);
  const float4 x = each(load<T>(a.sample, begin, count, wide), z,
                        [=](float x, float z) { return fmaf(deviation, z, signal * x); });
  store<T>(a.out, begin, count, wide, x);
}

template <class T>
__device__ void four(const Normal& a, int64_t, int64_t row, int64_t group, int count, bool wide) {
  store<T>(a.out, row * a.row_size + 4 * group, count, wide, normals(a.key, a.step[row], row, group));
}

// `wide`: rows are multiples of 4 and all pointers aligned, so every group is one access.
template <class T, class Work>
__global__ void __launch_bounds__(THREADS) sweep_kernel(Work work, int64_t rows, int64_t steps, bool wide) {
  const int64_t groups = (work.row_size + 3) / 4, stride = int64_t(gridDim.x) * THREADS;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < rows * groups; i += stride) {
    const int64_t row = i / groups, group = i - row * groups, left = work.row_size - 4 * group;
    four<T>(work, steps, row, group, left < 4 ? int(left) : 4, wide);
  }
}

bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  return bits % 16 == 0;
}

template <class Work>
void sweep(const Work& work, const Tensor& sample, int64_t steps, bool pointers_aligned) {
  const int64_t rows = sample.size(0), groups = rows * ((work.row_size + 3) / 4);
  if (groups == 0) return;
  const OnDevice device(sample);
  const auto blocks = unsigned(std::min<int64_t>((groups + THREADS - 1) / THREADS, 1 << 16));
  const bool wide = pointers_aligned && work.row_size % 4 == 0;
  const auto launch = [&]<class T>(T*) {
    device.launch(sweep_kernel<T, Work>, blocks, THREADS, 0, work, rows, steps, wide);
  };
  switch (type_of(sample, "sample")) {
    case Type::f32: launch(static_cast<float*>(nullptr)); break;
    case Type::bf16: launch(static_cast<__nv_bfloat16*>(nullptr)); break;
    case Type::f16: launch(static_cast<__half*>(nullptr)); break;
  }
}

void step_out(Tensor out, const Tensor& sample, const Tensor& model_output, const Tensor& step, const Tensor& table,
              Maybe uncond, Maybe guidances, Maybe variance_output, Maybe key, Maybe row_ids, Maybe noise,
              double guidance, double clip, int64_t prediction, bool exact) {
  const Step work = step_of(out, sample, model_output, step, table, uncond, guidances, variance_output, key, row_ids,
                            noise, guidance, clip, prediction, exact);
  sweep(work, sample, table.size(0),
        aligned({work.model_output, work.sample, work.uncond, work.variance_output, work.noise, work.out}));
}

void noise_out(Tensor out, const Tensor& sample, const Tensor& step, const Tensor& table, Maybe key, Maybe row_ids,
               Maybe noise) {
  const Noise work = noise_of(out, sample, step, table, key, row_ids, noise);
  sweep(work, sample, table.size(0), aligned({work.sample, work.noise, work.out}));
}

void normal_out(Tensor out, const Tensor& like, const Tensor& step, const Tensor& key, Maybe row_ids) {
  const Normal work = normal_of(out, like, step, key, row_ids);
  sweep(work, like, 0, aligned({work.out}));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CUDA, m) {
  m.impl("ddpm_step", TORCH_BOX(&OnPacked<&Allocated<&step_out>::call>::call));
  m.impl("ddpm_step_out", TORCH_BOX(&OnPacked<&step_out>::call));
  m.impl("ddpm_noise", TORCH_BOX(&OnPacked<&Allocated<&noise_out>::call>::call));
  m.impl("ddpm_noise_out", TORCH_BOX(&OnPacked<&noise_out>::call));
  m.impl("philox_normal", TORCH_BOX(&OnPacked<&Allocated<&normal_out>::call>::call));
}

}  // namespace rmd::ddpm
