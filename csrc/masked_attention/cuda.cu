// masked_attention for torch on the GPU, forward only. Compiled, not run on one yet.
#include <rmd/stream.h>

#include <cstdio>
#include <tuple>

#include "attend.cuh"

namespace rmd::masked_attention {
namespace {

using Maybe = const std::optional<Tensor>&;

constexpr int64_t WIDEST = 256;

// Contiguous and on 16 bytes, as cp.async wants it; copied where it is not.
Tensor laid_out(const Tensor& x) {
  const Tensor packed = torch::stable::contiguous(x);
  return reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 16 == 0 ? packed : torch::stable::clone(packed);
}

const int32_t* segments_of(const Tensor& x, const char* name, int64_t patients, const Tensor& q) {
  STD_TORCH_CHECK(x.dim() == 3 && x.size(1) <= gpu::MODALITIES, name, " has shape ", shape_text(x),
                  ", expected [patients, at most ", gpu::MODALITIES, " modalities, 2]");
  const int64_t sizes[] = {patients, x.size(1), 2};
  return static_cast<const int32_t*>(checked(x, name, ScalarType::Int, sizes, 3, q));
}

// A device assertion: segments lie within the axis and share no row.
__global__ void check_segments(gpu::Segments segments, int64_t count, bool of_keys) {
  const char* name = of_keys ? "k_segments" : "q_segments";
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t start = segments.data[2 * i], length = segments.data[2 * i + 1];
    const auto patient = (long long)(i / segments.modalities), modality = (long long)(i % segments.modalities);
    if (length < 0 || (length > 0 && (start < 0 || start + length > segments.rows))) {
      printf("masked_attention: %s[%lld, %lld] is (start %lld, length %lld), expected length >= 0 and a segment within "
             "the %lld rows of the flat axis\n",
             name, patient, modality, (long long)start, (long long)length, (long long)segments.rows);
      __trap();
    }
    for (int64_t j = 0; j < i; ++j) {
      const int64_t other = segments.data[2 * j], others = segments.data[2 * j + 1];
      if (length > 0 && others > 0 && other < start + length && start < other + others) {
        printf("masked_attention: %s[%lld, %lld] overlaps segment [%lld, %lld], expected segments that share no row\n",
               name, patient, modality, (long long)(j / segments.modalities), (long long)(j % segments.modalities));
        __trap();
      }
    }
  }
}

void check(const gpu::Work& work, const OnDevice& device) {
  const auto segments = [&](const gpu::Segments& x, bool of_keys) {
    const int64_t count = work.patients * x.modalities;
    const auto blocks = unsigned(min((count + 127) / 128, int64_t(1024)));
    if (count > 0) device.launch(check_segments, blocks, 128, 0, x, count, of_keys);
  };
  segments(work.q_segments, false);
  segments(work.k_segments, true);
}

template <class S>
void run(gpu::Work work, const Tensor& q, const OnDevice& device) {
  work.max_tiles = gpu::most_tiles(work.q_segments.rows, work.patients, work.q_segments.modalities, work.exclude_own,
                                   S::ROWS);
  const Tensor tiles = empty({1 + work.max_tiles, 2}, ScalarType::Int, q);
  work.tiles = static_cast<int2*>(tiles.mutable_data_ptr());
  gpu::run<S>(work, [&](auto kernel, dim3 grid, int threads, uint32_t shared, auto... arguments) {
    device.launch(kernel, grid, threads, shared, arguments...);
  });
}

std::tuple<Tensor, Tensor> forward(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                                   const Tensor& q_segments, const Tensor& k_segments, Maybe affinity, Maybe key,
                                   double scale, bool exclude_own, double dropout_p) {
  STD_TORCH_CHECK(q_given.dim() == 3 && k_given.dim() == 3 && q_given.size(2) == k_given.size(2), "q and k have shapes ",
                  shape_text(q_given), " and ", shape_text(k_given), ", expected [tokens, heads, width] of one width");
  const int64_t Tq = q_given.size(0), H = q_given.size(1), D = q_given.size(2);
  const int64_t Tk = k_given.size(0), Hkv = k_given.size(1), B = q_segments.dim() == 3 ? q_segments.size(0) : 0;
  STD_TORCH_CHECK(D > 0 && D % 8 == 0 && D <= WIDEST, "q has width ", D, ", expected a multiple of 8, at most ", WIDEST,
                  ", on CUDA");
  STD_TORCH_CHECK(Hkv > 0 && H % Hkv == 0 && H <= 65535, "k has ", Hkv, " heads, expected a divisor of the ", H,
                  " heads of q, of which CUDA takes at most 65535");
  STD_TORCH_CHECK(!key && dropout_p == 0, "dropout_p is ", dropout_p, ", expected 0 on CUDA");
  const Type type = type_of(q_given, "q");
  STD_TORCH_CHECK(type != Type::f32, "q is float32, expected float16 or bfloat16 on CUDA");
  const Tensor q = laid_out(q_given), k = laid_out(k_given), v = laid_out(v_given);
  const Tensor of_q = torch::stable::contiguous(q_segments), of_k = torch::stable::contiguous(k_segments);
  Tensor out = empty({Tq, H, D}, q.scalar_type(), q), lse = empty({Tq, H}, ScalarType::Float, q);
  const int64_t kv_sizes[] = {Tk, Hkv, D};
  std::optional<Tensor> bias;
  if (affinity) bias = torch::stable::contiguous(torch::stable::to(*affinity, ScalarType::Float));

  gpu::Work work{};
  work.q = q.const_data_ptr();
  work.k = checked(k, "k", q.scalar_type(), kv_sizes, 3, q);
  work.v = checked(v, "v", q.scalar_type(), kv_sizes, 3, q);
  work.q_segments = {segments_of(of_q, "q_segments", B, q), Tq, int(q_segments.size(1))};
  work.k_segments = {segments_of(of_k, "k_segments", B, q), Tk, int(k_segments.size(1))};
  work.affinity = data<float>(bias, "affinity", {H, q_segments.size(1), k_segments.size(1)}, q);
  work.out = out.mutable_data_ptr();
  work.lse = static_cast<float*>(lse.mutable_data_ptr());
  work.patients = B;
  work.heads = int(H), work.kv_heads = int(Hkv), work.width = int(D);
  work.scale = float(scale), work.exclude_own = exclude_own;
  STD_TORCH_CHECK(!exclude_own || q_segments.size(1) == k_segments.size(1),
                  "exclude_own needs as many query as key modalities, got ", q_segments.size(1), " and ",
                  k_segments.size(1));

  const OnDevice device(q);
  if (checking()) check(work, device);
  const auto on = [&]<class T>(T) {
    gpu::with_shape<T>(int(D), [&]<class S>(S) { run<S>(work, q, device); });
  };
  if (type == Type::f16) on(device::f16());
  if (type == Type::bf16) on(device::bf16());
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CUDA, m) { m.impl("masked_attention_fwd", TORCH_BOX(&forward)); }

}  // namespace rmd::masked_attention
