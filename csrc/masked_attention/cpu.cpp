// masked_attention on CPU tensors: segments checked, instruction set chosen, patients spread over threads.
#include <rmd/isa.h>
#include <rmd/masked_items.h>
#include <rmd/scratch.h>
#include <rmd/segments.h>
#include <rmd/tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <tuple>
#include <vector>

namespace rmd::masked_attention {
namespace {

using Maybe = const std::optional<Tensor>&;

// A patient is cut into parts of this many query rows: by its own size alone, as where dk and dv are
// summed decides their last bits. At most MOST_PARTS hold a dk and dv of their own at a time.
constexpr int64_t PART = 1024, MOST_PARTS = 8;

// Multiply-adds below which waking a second thread costs more than it saves.
constexpr double WORTH_A_THREAD = 1e6;

constexpr int64_t FEW = 12288;  // floats of scratch on the stack

struct Shape {
  int64_t tokens, heads, D;
};

// x, or a contiguous copy of it, which `held` keeps.
const Tensor& packed(const Tensor& x, std::vector<Tensor>& held) {
  return x.is_contiguous() ? x : held.emplace_back(torch::stable::contiguous(x));
}

// x [tokens, heads, D] like q in everything but its sizes; copied where D is strided.
Tokens tokens_of(const Tensor& x, const char* name, Shape shape, const Tensor& q, std::vector<Tensor>& held) {
  STD_TORCH_CHECK(x.scalar_type() == q.scalar_type() && !x.is_cuda(), name, " has dtype code ", int(x.scalar_type()),
                  ", expected ", int(q.scalar_type()), " like q, on the CPU");
  STD_TORCH_CHECK(x.dim() == 3 && x.size(0) == shape.tokens && x.size(1) == shape.heads && x.size(2) == shape.D, name,
                  " has shape ", shape_text(x), ", expected [", shape.tokens, ", ", shape.heads, ", ", shape.D, "]");
  const Tensor& given = x.stride(2) == 1 || shape.D == 1 ? x : packed(x, held);
  return {const_cast<void*>(given.const_data_ptr()), given.stride(0), given.stride(1)};
}

Tensor fresh_like(const Tensor& x) { return empty({x.size(0), x.size(1), x.size(2)}, x.scalar_type(), x); }

Tokens tokens_of(const Tensor& fresh) {
  return {fresh.mutable_data_ptr(), fresh.size(1) * fresh.size(2), fresh.size(2)};
}

const int32_t* segments_of(const Tensor& x, const char* name, int64_t B, std::vector<Tensor>& held) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Int && x.dim() == 3 && x.size(0) == B && x.size(2) == 2, name,
                  " has dtype code ", int(x.scalar_type()), " and shape ", shape_text(x), ", expected int32 [", B,
                  ", modalities, 2]");
  return static_cast<const int32_t*>(packed(x, held).const_data_ptr());
}

Listed listed(const Rows& rows) { return {rows.row.data(), rows.modality.data(), rows.first.data()}; }

// What forward and backward share: the checked arguments, and the work cut into items.
struct Batch {
  std::vector<Tensor> held;
  Rows q_rows;
  const Rows* k_rows;  // of self-attention: q_rows
  int64_t B;
  Items cut_up;

  void read(Call& call, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_segments,
            const Tensor& k_segments, Maybe affinity, Maybe key, std::optional<double> scale, bool exclude_own,
            int64_t most_parts) {
    STD_TORCH_CHECK(q.dim() == 3 && k.dim() == 3, "q and k have shapes ", shape_text(q), " and ", shape_text(k),
                    ", expected [tokens, heads, width]");
    STD_TORCH_CHECK(!key, "key is given, but the native backend has no dropout");
    call.type = type_of(q, "q");
    call.H = q.size(1), call.Hkv = k.size(1), call.D = q.size(2);
    STD_TORCH_CHECK(call.D > 0 && call.Hkv > 0 && call.H % call.Hkv == 0, "k has shape ", shape_text(k),
                    ", expected a width of at least 1 and heads that divide those of q, ", shape_text(q));
    B = q_segments.dim() == 3 ? q_segments.size(0) : 0;
    STD_TORCH_CHECK(B > 0, "q_segments has shape ", shape_text(q_segments), ", expected [patients >= 1, modalities, 2]");
    call.q = tokens_of(q, "q", {q.size(0), call.H, call.D}, q, held);
    call.k = tokens_of(k, "k", {k.size(0), call.Hkv, call.D}, q, held);
    call.v = tokens_of(v, "v", {k.size(0), call.Hkv, call.D}, q, held);
    const int32_t* of_q = segments_of(q_segments, "q_segments", B, held);
    const int32_t* of_k = segments_of(k_segments, "k_segments", B, held);
    call.Mq = q_segments.size(1), call.M = k_segments.size(1);
    STD_TORCH_CHECK(!exclude_own || call.Mq == call.M, "exclude_own needs as many query as key modalities, got ",
                    call.Mq, " and ", call.M);
    call.affinity = nullptr;
    if (affinity) {
      const ScalarType type = affinity->scalar_type();
      const bool wide = type == ScalarType::Float;
      if (!wide && type != ScalarType::Double) type_of(*affinity, "affinity");
      const Tensor& widened = wide ? *affinity : held.emplace_back(torch::stable::to(*affinity, ScalarType::Float));
      call.affinity = data<float>(packed(widened, held), "affinity", {call.H, call.Mq, call.M}, q);
    }
    call.scale = float(scale ? *scale : std::pow(double(call.D), -0.5)), call.exclude_own = exclude_own;
    q_rows = list_rows("q_segments", of_q, B, call.Mq, q.size(0));
    const bool same = of_q == of_k && call.Mq == call.M && q.size(0) == k.size(0);
    if (!same) k_rows_ = list_rows("k_segments", of_k, B, call.M, k.size(0));
    k_rows = same ? &q_rows : &k_rows_;
    call.q_rows = listed(q_rows), call.k_rows = listed(*k_rows);
    const auto parts_of = [&](int64_t queries) { return std::clamp((queries + PART - 1) / PART, int64_t(1), most_parts); };
    cut_up = cut(call, B, parts_of);
    call.most_keys = cut_up.most_keys;
  }

 private:
  Rows k_rows_;
};

template <class AnyCall>
struct Kernel {
  void (*run)(const AnyCall&, const Item&, const Item*, int64_t, float*);
  int64_t (*scratch)(const AnyCall&);
};

template <class AnyCall>
Kernel<AnyCall> kernel() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return {avx512::run, avx512::scratch};
    case Isa::avx2: return {avx2::run, avx2::scratch};
#endif
    default: return {scalar::run, scalar::scratch};
  }
}

// All items over the threads of torch, the largest first; no item depends on which thread takes it.
template <class AnyCall>
void run_all(const AnyCall& call, const Batch& batch) {
  const Kernel<AnyCall> kernel = masked_attention::kernel<AnyCall>();
  const int64_t floats = kernel.scratch(call), count = batch.cut_up.items.size();
  const auto cost = [&](const Item& item) {
    return double(queries_of(call, item.patient)) * group_of(call) * keys_of(call, item.patient) * call.D / item.parts;
  };
  double total = 0;
  for (const Item& item : batch.cut_up.items) total += cost(item);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  if (threads <= 1 || total < WORTH_A_THREAD) {
    Scratch<FEW> scratch(floats);
    const WideRegisters wide;
    for (int64_t i = 0; i < count; ++i) {
      kernel.run(call, batch.cut_up.items[i], i + 1 < count ? &batch.cut_up.items[i + 1] : nullptr, i, scratch.get());
    }
    return;
  }
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return cost(batch.cut_up.items[i]) > cost(batch.cut_up.items[j]); });
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const Floats scratch = rmd::floats(floats);
    const WideRegisters wide;
    const auto take = [&] {
      const int64_t i = next++;
      return i < count ? &batch.cut_up.items[order[i]] : nullptr;
    };
    int64_t done = 0;
    for (const Item *now = take(), *then; now; now = then) {
      then = take();
      kernel.run(call, *now, then, done++, scratch.get());
    }
  });
}

// dk and dv of the patients that were cut.
void add_all_parts(const Backward& call, const Batch& batch) {
  void (*add_parts)(const Backward&, const Item&) = scalar::add_parts;
#if defined(__x86_64__)
  if (isa() == Isa::avx512) add_parts = avx512::add_parts;
  if (isa() == Isa::avx2) add_parts = avx2::add_parts;
#endif
  if (batch.cut_up.partial == 0) return;
  torch::stable::parallel_for(0, batch.cut_up.items.size(), 1, [&](int64_t first, int64_t last) {
    const WideRegisters wide;
    for (int64_t i = first; i < last; ++i) {
      if (batch.cut_up.items[i].parts > 1 && batch.cut_up.items[i].part == 0) add_parts(call, batch.cut_up.items[i]);
    }
  });
}

// What each item found, added in order.
Tensor sum_affinities(const Backward& call, const Batch& batch, Maybe affinity, const Tensor& q) {
  if (!affinity) return empty({0}, q.scalar_type(), q);
  const int64_t size = group_of(call) * call.Mq * call.M;  // of the heads that share their keys
  std::vector<double> sum(call.Hkv * size);
  for (const Item& item : batch.cut_up.items) {
    for (int64_t i = 0; i < size; ++i) sum[item.kv_head * size + i] += call.daffinity[item.number * size + i];
  }
  Tensor found = empty({call.H, call.Mq, call.M}, ScalarType::Float, q);
  std::copy(sum.begin(), sum.end(), static_cast<float*>(found.mutable_data_ptr()));
  return affinity->scalar_type() == ScalarType::Float ? found : torch::stable::to(found, affinity->scalar_type());
}

void zero_gaps(const Rows& rows, const Tensor& x) {
  const int64_t bytes = x.size(1) * x.size(2) * (x.scalar_type() == ScalarType::Float ? 4 : 2);
  for (size_t i = 0; i < rows.gaps.size(); i += 2) {
    std::memset(static_cast<char*>(x.mutable_data_ptr()) + rows.gaps[i] * bytes, 0,
                (rows.gaps[i + 1] - rows.gaps[i]) * bytes);
  }
}

// To `out` and `lse`, of whose rows those in no segment are set here.
void attend(Forward& call, const Batch& batch, const Tensor& out, float* lse) {
  call.out = tokens_of(out), call.lse = lse;
  zero_gaps(batch.q_rows, out);
  for (size_t i = 0; i < batch.q_rows.gaps.size(); i += 2) {
    std::fill(lse + batch.q_rows.gaps[i] * call.H, lse + batch.q_rows.gaps[i + 1] * call.H, NOTHING);
  }
  run_all(call, batch);
}

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_segments,
                                   const Tensor& k_segments, Maybe affinity, Maybe key, double scale, bool exclude_own,
                                   double) {
  Forward call;
  Batch batch;
  batch.read(call, q, k, v, q_segments, k_segments, affinity, key, scale, exclude_own, 1 << 30);
  Tensor out = fresh_like(q);
  Tensor lse = empty({q.size(0), q.size(1)}, ScalarType::Float, q);
  attend(call, batch, out, static_cast<float*>(lse.mutable_data_ptr()));
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_out, const Tensor& out, const Tensor& lse,
                                                    const Tensor& q, const Tensor& k, const Tensor& v,
                                                    const Tensor& q_segments, const Tensor& k_segments, Maybe affinity,
                                                    Maybe key, double scale, bool exclude_own, double) {
  Backward call;
  Batch batch;
  batch.read(call, q, k, v, q_segments, k_segments, affinity, key, scale, exclude_own, MOST_PARTS);
  const Shape like_q{q.size(0), call.H, call.D};
  call.grad_out = tokens_of(grad_out, "grad_out", like_q, q, batch.held);
  call.out = tokens_of(out, "out", like_q, q, batch.held);
  call.lse = data<float>(packed(lse, batch.held), "lse", {q.size(0), call.H}, q);
  Tensor dq = fresh_like(q), dk = fresh_like(k), dv = fresh_like(v);
  call.dq = tokens_of(dq), call.dk = tokens_of(dk), call.dv = tokens_of(dv);
  zero_gaps(batch.q_rows, dq), zero_gaps(*batch.k_rows, dk), zero_gaps(*batch.k_rows, dv);
  const std::unique_ptr<float[]> partial(batch.cut_up.partial ? new float[batch.cut_up.partial] : nullptr);
  call.partial = partial.get();
  const int64_t affinities = affinity ? group_of(call) * call.Mq * call.M : 0;
  std::vector<float> daffinities(batch.cut_up.items.size() * affinities);
  call.daffinity = affinity ? daffinities.data() : nullptr;
  run_all(call, batch);
  add_all_parts(call, batch);
  return {dq, dk, dv, sum_affinities(call, batch, affinity, q)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CPU, m) {
  m.impl("masked_attention_fwd", TORCH_BOX(&forward));
  m.impl("masked_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace rmd::masked_attention
