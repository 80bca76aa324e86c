// ddpm_step, ddpm_noise and the normals against docs/ops/ddpm_step.md, element by element.
#include <rmd/ddpm.h>

#include "fuzz.h"

#include <optional>

namespace rmd::fuzz {
namespace {

using namespace rmd::ddpm;

// Philox4x32-10 and Box-Muller as include/rmd/philox.h says them.
Sum normal(const int64_t* seed_offset, uint32_t row, uint32_t step, int64_t element) {
  uint32_t c[4] = {uint32_t(element / 4), row, step, uint32_t(seed_offset[1])};
  uint32_t key[2] = {uint32_t(seed_offset[0]), uint32_t(uint64_t(seed_offset[0]) >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * c[0], b = uint64_t(0xCD9E8D57u) * c[2];
    c[0] = uint32_t(b >> 32) ^ c[1] ^ key[0], c[2] = uint32_t(a >> 32) ^ c[3] ^ key[1];
    c[1] = uint32_t(b), c[3] = uint32_t(a);
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  const int64_t pair = element % 4 / 2 * 2;
  const double radius = std::sqrt(-2 * std::log(((c[pair] >> 8) + 1) * 0x1p-24));
  const double angle = std::acos(-1.0) * int32_t(c[pair + 1]) * 0x1p-31;
  return {radius * (element % 2 ? std::sin(angle) : std::cos(angle)), radius};
}

struct Problem {
  Type type;
  int64_t rows, row_size, steps;
  bool wild;
  Array<int64_t> step, row_ids, seed_offset;
  Array<float> table, guidances;
  Values model_output, sample, uncond, variance_output, noise;
  bool with_uncond, with_variance, exact, with_key, with_row_ids, with_guidances;
  float guidance, clip;
  int64_t prediction;

  Problem(Case& c, bool is_step)
      : type(c.random.type()),
        rows(c.say("rows", c.random.between(1, 4))),
        row_size(c.say("row_size", c.random.chance(0.8)   ? c.random.between(1, 300)
                                   : c.random.chance(0.8) ? CHUNK + c.random.between(-3, 70)
                                                          : 2 * CHUNK + c.random.between(0, 1))),
        steps(c.random.between(1, 6)),
        wild(c.say("wild", c.random.chance(0.3))),
        step(c.random, rows),
        row_ids(c.random, rows),
        seed_offset(c.random, 2),
        table(c.random, steps * COLUMNS),
        guidances(c.random, rows),
        model_output(c.random, rows * row_size, type),
        sample(c.random, rows * row_size, type),
        uncond(c.random, rows * row_size, type),
        variance_output(c.random, rows * row_size, type),
        noise(c.random, rows * row_size, type),
        with_uncond(c.say("uncond", c.random.chance(0.5))),
        with_variance(c.say("variance", c.random.chance(0.5))),
        exact(c.say("exact", with_variance && c.random.chance(0.5))),
        with_key(c.say("key", c.random.chance(0.5))),
        with_row_ids(c.random.chance(0.5)),
        with_guidances(c.random.chance(0.5)),
        guidance(float(c.random.uniform(0, 8))),
        clip(c.random.chance(0.5) ? float(c.random.uniform(0.1, 3)) : INFINITY),
        prediction(c.say("prediction", c.random.between(EPSILON, V_PREDICTION))) {
    Random& random = c.random;
    c.say("type", int(type));
    for (int64_t i = 0; i < 2; ++i) seed_offset[i] = int64_t(random.bits());
    for (int64_t s = 0; s < steps; ++s) {
      float* row = table.begin() + s * COLUMNS;
      for (int64_t i = 0; i < COLUMNS; ++i) row[i] = float(random.uniform(0.05, 1));
      if (random.chance(0.3)) row[SIGMA] = 0;
      row[LOG_VARIANCE_MIN] = float(random.uniform(-20, -3)), row[LOG_VARIANCE_MAX] = float(random.uniform(-3, 0));
    }
    for (int64_t row = 0; row < rows; ++row) {
      step[row] = random.between(0, steps - 1);
      row_ids[row] = random.between(0, (int64_t(1) << 32) - 1);
      guidances[row] = float(random.uniform(0, 8));
      const bool noisy = !is_step || at(row)[SIGMA] != 0;
      for (Values* x : {&model_output, &sample, &uncond}) x->draw(random, row * row_size, row_size, wild);
      for (Values* x : {&variance_output, &noise}) {  // the last step reads neither
        noisy ? x->draw(random, row * row_size, row_size, wild) : x->absent(random, row * row_size, row_size);
      }
    }
  }

  const float* at(int64_t row) { return table.begin() + step[row] * COLUMNS; }
  Key key() { return {with_key ? seed_offset.begin() : nullptr, with_row_ids ? row_ids.begin() : nullptr}; }
  Sum noise_of(int64_t row, int64_t j, int64_t counter) {
    if (with_key) return normal(seed_offset.begin(), uint32_t(with_row_ids ? row_ids[row] : row), uint32_t(counter), j);
    const double given = noise[row * row_size + j];
    return {given, std::abs(given)};
  }

  Sum stepped(int64_t row, int64_t j) {
    const float* t = at(row);
    const int64_t i = row * row_size + j;
    const double xt = sample[i], g = with_guidances ? guidances[row] : guidance;
    Sum prediction_of, x0, x;
    prediction_of.add(model_output[i]);
    if (with_uncond) {
      prediction_of = {};
      prediction_of.add(uncond[i]);
      prediction_of.add(g * (model_output[i] - uncond[i]), g * (std::abs(model_output[i]) + std::abs(uncond[i])));
    }
    const double alpha = t[SQRT_ALPHA_BAR], beta = t[SQRT_BETA_BAR];
    if (prediction == SAMPLE) {
      x0 = prediction_of;
    } else {
      const double signal = prediction == EPSILON ? 1 / alpha : alpha;
      const double output = prediction == EPSILON ? beta / alpha : beta;
      x0.add(signal * xt);
      x0.add(-output * prediction_of.value, output * prediction_of.terms);
    }
    if (x0.value > clip) x0.value = clip;
    if (x0.value < -clip) x0.value = -clip;
    x.add(t[WEIGHT_X0] * x0.value, t[WEIGHT_X0] * x0.terms);
    x.add(t[WEIGHT_XT] * xt);
    if (t[SIGMA] == 0) return x;
    double deviation = t[SIGMA];
    if (with_variance) {
      const double share = (variance_output[i] + 1) / 2;
      deviation = std::exp(exact ? variance_output[i] / 2
                                 : (share * t[LOG_VARIANCE_MAX] + (1 - share) * t[LOG_VARIANCE_MIN]) / 2);
    }
    const Sum z = noise_of(row, j, step[row]);
    x.add(deviation * z.value, 10 * deviation * z.terms);  // 10: half of the largest logarithm
    return x;
  }

  Sum noised(int64_t row, int64_t j) {
    const float* t = at(row);
    const Sum z = noise_of(row, j, step[row] + NOISING);
    Sum x;
    x.add(t[SQRT_ALPHA_BAR] * sample[row * row_size + j]);
    x.add(t[SQRT_BETA_BAR] * z.value, t[SQRT_BETA_BAR] * z.terms);
    return x;
  }
};

template <class Work, class Exact>
void check(Case& c, Problem& a, Work work, const Exact& exact) {
  const int64_t chunks = (a.row_size + CHUNK - 1) / CHUNK;
  std::optional<Values> first;
  for (int64_t parts : SPLITS) {
    Values again(c.random, a.rows * a.row_size, a.type);
    Values& out = first ? again : first.emplace(c.random, a.rows * a.row_size, a.type);
    work.out = out.data;
    split(c.random, a.rows * chunks, parts, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t from = i % chunks * CHUNK, to = std::min(a.row_size, from + CHUNK);
        RMD_ON(c.isa, run(work, a.type, i / chunks, from, to));
      }
    });
    expect_same_bits("out", out, *first, parts);
  }
  for (int64_t i = 0; i < a.rows * a.row_size; ++i) {
    expect_close("out", i, (*first)[i], exact(i / a.row_size, i % a.row_size), a.type);
  }
}

}  // namespace

void ddpm(Case& c) {
  const int64_t kind = c.say("kind", c.random.between(0, 3));  // 0: noise, 1: normal, 2 and 3: step
  Problem a(c, kind > 1);
  if (kind == 0) {
    Noise work{a.sample.data, a.with_key ? nullptr : a.noise.data, nullptr, a.step.begin(), a.table.begin(),
               a.row_size, a.key()};
    return check(c, a, work, [&](int64_t row, int64_t j) { return a.noised(row, j); });
  }
  if (kind == 1) {
    a.with_key = true;
    return check(c, a, Normal{nullptr, a.step.begin(), a.row_size, a.key()},
                 [&](int64_t row, int64_t j) { return a.noise_of(row, j, a.step[row]); });
  }
  Step work{};
  work.model_output = a.model_output.data, work.sample = a.sample.data;
  work.uncond = a.with_uncond ? a.uncond.data : nullptr;
  work.variance_output = a.with_variance ? a.variance_output.data : nullptr;
  work.exact = a.exact;
  work.noise = a.with_key ? nullptr : a.noise.data;
  work.step = a.step.begin(), work.table = a.table.begin();
  work.guidances = a.with_guidances ? a.guidances.begin() : nullptr;
  work.guidance = a.guidance, work.clip = a.clip, work.prediction = a.prediction;
  work.row_size = a.row_size, work.key = a.key();
  check(c, a, work, [&](int64_t row, int64_t j) { return a.stepped(row, j); });
}

}  // namespace rmd::fuzz
