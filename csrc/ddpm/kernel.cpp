// The DDPM step on the CPU, 4 W elements at a time. Compiled once per instruction set.
#include <rmd/ddpm.h>
#include <rmd/philox.h>

namespace rmd::ddpm::RMD_ISA {
namespace {

using namespace rmd::RMD_ISA;

constexpr int64_t BLOCK = 4 * W;
static_assert(CHUNK % BLOCK == 0);

Stream stream_of(const Key& key, int64_t step, int64_t row) {
  const uint64_t seed = uint64_t(key.seed_offset[0]);
  return {{uint32_t(seed), uint32_t(seed >> 32)},
          uint32_t(key.row_ids ? key.row_ids[row] : row),
          uint32_t(step),
          uint32_t(key.seed_offset[1])};
}

// Where a block reads and writes; a null input is absent.
template <class T>
struct Streams {
  const T *model_output, *sample, *uncond, *variance_output, *noise;
  T* out;
};

// What one row's elements share.
struct StepRow {
  F sample, output, scale;  // x_0 = scale (sample x_t - output prediction)
  F weight_x0, weight_xt, sigma, guidance, low, high, log_min, log_max;
  bool clips, draws;
  Stream stream;

  template <class T>
  __attribute__((always_inline)) void block(const Streams<T>& at, uint32_t group) const {
    F z[4];
    if (draws) normals(stream, group, z);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t j = i * W;
      F prediction = load(at.model_output + j);
      if (at.uncond) {
        const F uncond = load(at.uncond + j);
        prediction = fma(guidance, prediction - uncond, uncond);
      }
      const F xt = load(at.sample + j);
      F x0 = scale * fnma(output, prediction, sample * xt);
      if (clips) x0 = min(high, max(low, x0));
      F x = fma(weight_x0, x0, weight_xt * xt);
      if (draws || at.noise) {
        F deviation = sigma;
        if (at.variance_output) {
          const F share = fma(load(at.variance_output + j), set(0.5f), set(0.5f));
          deviation = exp(set(0.5f) * fma(share, log_max, (set(1.0f) - share) * log_min));
        }
        x = fma(deviation, draws ? z[i] : load(at.noise + j), x);
      }
      store(at.out + j, x);
    }
  }
};

struct NoiseRow {
  F signal, deviation;
  bool draws;
  Stream stream;

  template <class T>
  __attribute__((always_inline)) void block(const Streams<T>& at, uint32_t group) const {
    F z[4];
    if (draws) normals(stream, group, z);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const F noise = draws ? z[i] : load(at.noise + i * W);
      store(at.out + i * W, fma(deviation, noise, signal * load(at.sample + i * W)));
    }
  }
};

struct NormalRow {
  Stream stream;

  template <class T>
  __attribute__((always_inline)) void block(const Streams<T>& at, uint32_t group) const {
    F z[4];
    normals(stream, group, z);
    for (int i = 0; i < 4; ++i) store(at.out + i * W, z[i]);
  }
};

// Whole blocks, then the rest through a padded copy: an element's bits do not depend on where its
// row ends.
template <class Row, class T>
void sweep(const Row& row, Streams<T> at, int64_t begin, int64_t end) {
  const int64_t whole = begin + (end - begin) / BLOCK * BLOCK;
  for (int64_t i = begin; i < whole; i += BLOCK) {
    row.block(Streams<T>{at.model_output ? at.model_output + i : nullptr, at.sample ? at.sample + i : nullptr,
                         at.uncond ? at.uncond + i : nullptr, at.variance_output ? at.variance_output + i : nullptr,
                         at.noise ? at.noise + i : nullptr, at.out + i},
              uint32_t(i / 4));
  }
  if (whole == end) return;
  T pad[6][BLOCK] = {};
  const auto copied = [&](const T* from, int n) -> const T* {
    if (from) __builtin_memcpy(pad[n], from + whole, (end - whole) * sizeof(T));
    return from ? pad[n] : nullptr;
  };
  row.block(Streams<T>{copied(at.model_output, 0), copied(at.sample, 1), copied(at.uncond, 2),
                       copied(at.variance_output, 3), copied(at.noise, 4), pad[5]},
            uint32_t(whole / 4));
  __builtin_memcpy(at.out + whole, pad[5], (end - whole) * sizeof(T));
}

template <class T>
const T* offset(const void* base, int64_t first) {
  return base ? static_cast<const T*>(base) + first : nullptr;
}

template <class T>
void run_as(const Step& a, int64_t row, int64_t begin, int64_t end) {
  const float* c = a.table + a.step[row] * COLUMNS;
  const bool noisy = c[SIGMA] != 0.0f;
  StepRow r{};
  r.sample = set(a.prediction == EPSILON ? 1.0f : a.prediction == SAMPLE ? 0.0f : c[SQRT_ALPHA_BAR]);
  r.output = set(a.prediction == SAMPLE ? -1.0f : c[SQRT_BETA_BAR]);
  r.scale = set(a.prediction == EPSILON ? 1.0f / c[SQRT_ALPHA_BAR] : 1.0f);
  r.weight_x0 = set(c[WEIGHT_X0]), r.weight_xt = set(c[WEIGHT_XT]), r.sigma = set(c[SIGMA]);
  r.guidance = set(a.guidances ? a.guidances[row] : a.guidance);
  r.clips = a.clip <= 3.402823466e38f;
  r.low = set(-a.clip), r.high = set(a.clip);
  const auto [low, high] = log_range(a, c);
  r.log_min = set(low), r.log_max = set(high);
  r.draws = noisy && a.key.seed_offset;
  if (r.draws) r.stream = stream_of(a.key, a.step[row], row);
  const int64_t first = row * a.row_size;
  sweep(r,
        Streams<T>{offset<T>(a.model_output, first), offset<T>(a.sample, first), offset<T>(a.uncond, first),
                   noisy ? offset<T>(a.variance_output, first) : nullptr, noisy ? offset<T>(a.noise, first) : nullptr,
                   static_cast<T*>(a.out) + first},
        begin, end);
}

template <class T>
void run_as(const Noise& a, int64_t row, int64_t begin, int64_t end) {
  const float* c = a.table + a.step[row] * COLUMNS;
  NoiseRow r{set(c[SQRT_ALPHA_BAR]), set(c[SQRT_BETA_BAR]), a.key.seed_offset != nullptr, {}};
  if (r.draws) r.stream = stream_of(a.key, a.step[row] + NOISING, row);
  const int64_t first = row * a.row_size;
  sweep(r,
        Streams<T>{nullptr, offset<T>(a.sample, first), nullptr, nullptr, offset<T>(a.noise, first),
                   static_cast<T*>(a.out) + first},
        begin, end);
}

template <class T>
void run_as(const Normal& a, int64_t row, int64_t begin, int64_t end) {
  sweep(NormalRow{stream_of(a.key, a.step[row], row)},
        Streams<T>{nullptr, nullptr, nullptr, nullptr, nullptr, static_cast<T*>(a.out) + row * a.row_size}, begin, end);
}

template <class Work>
void run_type(const Work& work, Type type, int64_t row, int64_t begin, int64_t end) {
  if (type == Type::f32) return run_as<float>(work, row, begin, end);
  if (type == Type::bf16) return run_as<bf16>(work, row, begin, end);
  run_as<f16>(work, row, begin, end);
}

}  // namespace

void run(const Step& work, Type type, int64_t row, int64_t begin, int64_t end) { run_type(work, type, row, begin, end); }
void run(const Noise& work, Type type, int64_t row, int64_t begin, int64_t end) { run_type(work, type, row, begin, end); }
void run(const Normal& work, Type type, int64_t row, int64_t begin, int64_t end) { run_type(work, type, row, begin, end); }

}  // namespace rmd::ddpm::RMD_ISA
