// One DDPM step, as plain pointers. Knows no torch. The formula is in docs/ops/ddpm_step.md.
#pragma once
#include <rmd/half.h>

#include <cstdint>

namespace rmd::ddpm {

// Columns of the coefficient table (robustmdiff/ops/ddpm/table.py).
enum Column {
  SQRT_ALPHA_BAR,
  SQRT_BETA_BAR,  // sqrt(1 - alpha bar)
  WEIGHT_X0,
  WEIGHT_XT,
  SIGMA,  // 0: this step takes no noise
  LOG_VARIANCE_MIN,
  LOG_VARIANCE_MAX,
  SUCCESSOR,
  COLUMNS
};

enum Prediction : int64_t { EPSILON, SAMPLE, V_PREDICTION };

// Noising to step t draws at the counter step t + 2^31, so that it never shares a draw with the
// sampling step t of the same key.
constexpr int64_t NOISING = int64_t(1) << 31;

struct Key {
  const int64_t* seed_offset;  // [2], null when the noise is given
  const int64_t* row_ids;      // [B], or null for 0, 1, ...
};

struct Step {
  const void *model_output, *sample, *uncond, *variance_output, *noise;  // [B, row_size]; the last three may be null
  void* out;
  const int64_t* step;  // [B]
  const float* table;   // [S, COLUMNS]
  const float* guidances;  // [B], or null: then guidance
  float guidance;
  float clip;  // infinity: none
  int64_t prediction;
  bool exact;  // variance_output is the log variance itself, not a share of the table's range
  int64_t row_size;
  Key key;
};

// What -1 and 1 of variance_output stand for: the logs of the table's range (Nichol and Dhariwal 2021, eq. 15);
// themselves, where the log variance is given.
struct LogRange {
  float low, high;
};
#ifdef __CUDACC__
__host__ __device__
#endif
inline LogRange log_range(const Step& a, const float* row) {
  if (a.exact) return {-1.0f, 1.0f};
  return {row[LOG_VARIANCE_MIN], row[LOG_VARIANCE_MAX]};
}

// x_t = sqrt_alpha_bar x_0 + sqrt_beta_bar noise
struct Noise {
  const void *sample, *noise;
  void* out;
  const int64_t* step;
  const float* table;
  int64_t row_size;
  Key key;
};

// The noise itself.
struct Normal {
  void* out;
  const int64_t* step;
  int64_t row_size;
  Key key;
};

// Elements begin .. end - 1 of a row; begin is a multiple of CHUNK, so that no split changes a bit.
constexpr int64_t CHUNK = 4096;

#define RMD_DDPM_KERNELS(isa)                                                      \
  namespace isa {                                                                  \
  void run(const Step&, Type, int64_t row, int64_t begin, int64_t end);            \
  void run(const Noise&, Type, int64_t row, int64_t begin, int64_t end);           \
  void run(const Normal&, Type, int64_t row, int64_t begin, int64_t end);          \
  }
RMD_DDPM_KERNELS(avx512)
RMD_DDPM_KERNELS(avx2)
RMD_DDPM_KERNELS(scalar)
#undef RMD_DDPM_KERNELS

}  // namespace rmd::ddpm
