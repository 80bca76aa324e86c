// The op chain on CPU tensors: values checked, instruction set chosen, rows spread over threads that meet only at the
// end.
#include <rmd/chain.h>
#include <rmd/isa.h>
#include <rmd/scratch.h>
#include <rmd/tensor.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace rmd::chain {
namespace {

using Maybe = const std::optional<Tensor>&;

constexpr double WORTH_A_THREAD = 2e6;  // multiplications and additions: some 50 us

decltype(&scalar::run) kernel() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return avx512::run;
    case Isa::avx2: return avx2::run;
#endif
    default: return scalar::run;
  }
}

[[noreturn]] void refuse(const std::ostringstream& text) { throw std::invalid_argument(text.str()); }

void check_values(const Chain& a) {
  std::ostringstream text;
  for (int64_t e = 0; !a.seed_offset && e < a.evaluations; ++e) {
    const float sigma = a.table[e * COLUMNS + SIGMA];
    if (sigma == 0) continue;
    text << "chain: sigma of row " << e << " is " << sigma << " and key is None, expected int64 [2]";
    refuse(text);
  }
  for (int64_t row = 0; a.row_ids && row < a.rows; ++row) {
    if (a.row_ids[row] >= 0 && a.row_ids[row] < (int64_t(1) << 32)) continue;
    text << "chain: row_ids[" << row << "] is " << a.row_ids[row] << ", expected 0 to 2^32 - 1";
    refuse(text);
  }
}

Chain chain_of(const Tensor& x, const Tensor& told, const Tensor& network, const Tensor& times, const Tensor& table,
               Maybe key, Maybe row_ids, int64_t hidden, int64_t blocks) {
  STD_TORCH_CHECK(x.dim() == 2 && told.dim() == 2, "x and told have shapes ", shape_text(x), " and ", shape_text(told),
                  ", expected two dimensions each");
  STD_TORCH_CHECK(times.dim() == 2 && times.size(1) > 0 && times.size(1) % PANEL == 0 && hidden > 0 &&
                      hidden % PANEL == 0 && blocks >= 0,
                  "times has shape ", shape_text(times), " and hidden is ", hidden, ", expected multiples of ", PANEL);
  Chain a{.x = nullptr,
          .told = nullptr,
          .network = nullptr,
          .times = nullptr,
          .table = nullptr,
          .seed_offset = data<int64_t>(key, "key", {2}, x),
          .row_ids = data<int64_t>(row_ids, "row_ids", {x.size(0)}, x),
          .out = nullptr,
          .rows = x.size(0),
          .latent = x.size(1),
          .told_size = told.size(1),
          .width = times.size(1),
          .hidden = hidden,
          .blocks = blocks,
          .evaluations = times.size(0)};
  a.x = data<float>(x, "x", {a.rows, a.latent}, x);
  a.told = data<float>(told, "told", {a.rows, a.told_size}, x);
  a.network = data<float>(network, "network", {a.network_size()}, x);
  a.times = data<float>(times, "times", {a.evaluations, a.width}, x);
  a.table = data<float>(table, "table", {a.evaluations, COLUMNS}, x);
  check_values(a);
  return a;
}

Tensor chain(const Tensor& x, const Tensor& told, const Tensor& network, const Tensor& times, const Tensor& table,
             Maybe key, Maybe row_ids, int64_t hidden, int64_t blocks) {
  Chain a = chain_of(x, told, network, times, table, key, row_ids, hidden, blocks);
  Tensor out = empty({a.rows, a.latent}, ScalarType::Float, x);
  a.out = static_cast<float*>(out.mutable_data_ptr());
  const auto run = kernel();
  const int64_t grain = std::max<int64_t>(1, int64_t(WORTH_A_THREAD / std::max<int64_t>(1, a.flops_of_row())));
  torch::stable::parallel_for(0, a.rows, grain, [&](int64_t begin, int64_t end) {
    const WideRegisters wide;
    const int64_t parts = (end - begin + ROWS - 1) / ROWS;
    const Floats scratch = floats(a.scratch_size(parts ? (end - begin + parts - 1) / parts : 0));
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t first = begin + (end - begin) * i / parts, last = begin + (end - begin) * (i + 1) / parts;
      run(a, first, last - first, scratch.get());
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CPU, m) { m.impl("chain", TORCH_BOX(&OnPacked<&chain>::call)); }

}  // namespace rmd::chain
