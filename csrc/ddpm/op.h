// The arguments of the DDPM ops, from checked tensors; the same for CPU and CUDA.
#pragma once
#include <rmd/ddpm.h>
#include <rmd/tensor.h>

#include <cmath>

namespace rmd::ddpm {

using Maybe = const std::optional<Tensor>&;

inline int64_t row_size_of(const Tensor& sample) {
  STD_TORCH_CHECK(sample.dim() >= 1, "sample has no dimension, expected [B, ...]");
  return sample.size(0) == 0 ? 0 : sample.numel() / sample.size(0);
}

inline const float* table_of(const Tensor& table, const Tensor& sample) {
  const int64_t steps = table.dim() == 2 ? table.size(0) : 0;
  return data<float>(table, "table", {steps, COLUMNS}, sample);
}

inline Key key_of(Maybe key, Maybe row_ids, Maybe noise, const Tensor& sample) {
  STD_TORCH_CHECK(bool(key) != bool(noise), "key and noise are ", key ? "both" : "neither",
                  " given, expected exactly one");
  STD_TORCH_CHECK(key || !row_ids, "row_ids is given with noise, expected with key only");
  return {data<int64_t>(key, "key", {2}, sample), data<int64_t>(row_ids, "row_ids", {sample.size(0)}, sample)};
}

inline Step step_of(Tensor& out, const Tensor& sample, const Tensor& model_output, const Tensor& step,
                    const Tensor& table, Maybe uncond, Maybe guidances, Maybe variance_output, Maybe key,
                    Maybe row_ids, Maybe noise, double guidance, double clip, int64_t prediction, bool exact) {
  STD_TORCH_CHECK(prediction >= EPSILON && prediction <= V_PREDICTION, "prediction is ", prediction, ", expected 0 to 2");
  STD_TORCH_CHECK(clip > 0, "clip is ", clip, ", expected a positive number");
  STD_TORCH_CHECK(std::isfinite(guidance), "guidance is ", guidance, ", expected a finite number");
  STD_TORCH_CHECK(uncond || (guidance == 1 && !guidances), "guidance is given without uncond, expected both or neither");
  STD_TORCH_CHECK(variance_output || !exact, "exact is given without a log variance");
  return {.model_output = checked_like(model_output, "model_output", sample),
          .sample = checked_like(sample, "sample", sample),
          .uncond = checked_like(uncond, "uncond", sample),
          .variance_output = checked_like(variance_output, "variance_output", sample),
          .noise = checked_like(noise, "noise", sample),
          .out = const_cast<void*>(checked_like(out, "out", sample)),
          .step = data<int64_t>(step, "step", {sample.size(0)}, sample),
          .table = table_of(table, sample),
          .guidances = data<float>(guidances, "guidance", {sample.size(0)}, sample),
          .guidance = float(guidance),
          .clip = float(clip),
          .prediction = prediction,
          .exact = exact,
          .row_size = row_size_of(sample),
          .key = key_of(key, row_ids, noise, sample)};
}

inline Noise noise_of(Tensor& out, const Tensor& sample, const Tensor& step, const Tensor& table, Maybe key,
                      Maybe row_ids, Maybe noise) {
  return {.sample = checked_like(sample, "sample", sample),
          .noise = checked_like(noise, "noise", sample),
          .out = const_cast<void*>(checked_like(out, "out", sample)),
          .step = data<int64_t>(step, "step", {sample.size(0)}, sample),
          .table = table_of(table, sample),
          .row_size = row_size_of(sample),
          .key = key_of(key, row_ids, noise, sample)};
}

// `like` gives shape and dtype only.
inline Normal normal_of(Tensor& out, const Tensor& like, const Tensor& step, const Tensor& key, Maybe row_ids) {
  return {.out = const_cast<void*>(checked_like(out, "out", like)),
          .step = data<int64_t>(step, "step", {like.size(0)}, like),
          .row_size = row_size_of(like),
          .key = {data<int64_t>(key, "key", {2}, like), data<int64_t>(row_ids, "row_ids", {like.size(0)}, like)}};
}

}  // namespace rmd::ddpm
