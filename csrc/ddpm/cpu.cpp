// The DDPM ops on CPU tensors: values checked, instruction set chosen, rows spread over threads.
#include "op.h"

#include <rmd/isa.h>

#include <algorithm>
#include <cmath>

namespace rmd::ddpm {
namespace {

// Elements a thread takes at least. A drawn one costs 1 ns, so that this is some 9 us beside the 5 us of
// waking a thread.
constexpr int64_t WORTH_A_THREAD = 8192;

void check_values(const int64_t* step, const int64_t* row_ids, int64_t rows, int64_t steps) {
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(step[row] >= 0 && step[row] < steps, "step[", row, "] is ", step[row], ", expected 0 to ",
                    steps - 1);
    STD_TORCH_CHECK(!row_ids || (row_ids[row] >= 0 && row_ids[row] < (int64_t(1) << 32)), "row_ids[", row, "] is ",
                    row_ids[row], ", expected 0 to 2^32 - 1");
  }
}

template <class Work>
using Run = void (*)(const Work&, Type, int64_t row, int64_t begin, int64_t end);

template <class Work>
Run<Work> kernel() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::avx512: return avx512::run;
    case Isa::avx2: return avx2::run;
#endif
    default: return scalar::run;
  }
}

// All chunks of all rows over the threads of torch; no chunk depends on which thread takes it.
template <class Work>
void sweep(const Work& work, const Tensor& sample, int64_t steps) {
  const int64_t rows = sample.size(0), chunks = (work.row_size + CHUNK - 1) / CHUNK;
  check_values(work.step, work.key.row_ids, rows, steps);
  if (chunks == 0) return;
  const Run<Work> run = kernel<Work>();
  const Type type = type_of(sample, "sample");
  const int64_t grain = std::max<int64_t>(1, WORTH_A_THREAD / std::min(work.row_size, CHUNK));
  torch::stable::parallel_for(0, rows * chunks, grain, [&](int64_t first, int64_t last) {
    const WideRegisters wide;
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % chunks * CHUNK;
      run(work, type, i / chunks, begin, std::min(work.row_size, begin + CHUNK));
    }
  });
}

void step_out(Tensor out, const Tensor& sample, const Tensor& model_output, const Tensor& step, const Tensor& table,
              Maybe uncond, Maybe guidances, Maybe variance_output, Maybe key, Maybe row_ids, Maybe noise,
              double guidance, double clip, int64_t prediction, bool exact) {
  sweep(step_of(out, sample, model_output, step, table, uncond, guidances, variance_output, key, row_ids, noise,
                guidance, clip, prediction, exact),
        sample, table.size(0));
}

void noise_out(Tensor out, const Tensor& sample, const Tensor& step, const Tensor& table, Maybe key, Maybe row_ids,
               Maybe noise) {
  sweep(noise_of(out, sample, step, table, key, row_ids, noise), sample, table.size(0));
}

void normal_out(Tensor out, const Tensor& like, const Tensor& step, const Tensor& key, Maybe row_ids) {
  sweep(normal_of(out, like, step, key, row_ids), like, int64_t(1) << 32);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(robustmdiff, CPU, m) {
  m.impl("ddpm_step", TORCH_BOX(&OnPacked<&Allocated<&step_out>::call>::call));
  m.impl("ddpm_step_out", TORCH_BOX(&OnPacked<&step_out>::call));
  m.impl("ddpm_noise", TORCH_BOX(&OnPacked<&Allocated<&noise_out>::call>::call));
  m.impl("ddpm_noise_out", TORCH_BOX(&OnPacked<&noise_out>::call));
  m.impl("philox_normal", TORCH_BOX(&OnPacked<&Allocated<&normal_out>::call>::call));
}

}  // namespace rmd::ddpm
