// chain against docs/ops/chain.md, row by row in double.
#include <rmd/chain.h>

#include "fuzz.h"

#include <vector>

namespace rmd::fuzz {
namespace {

using namespace rmd::chain;
using Row = std::vector<double>;

// A packed layer read back, one output after the other.
struct Reader {
  float* at;

  Row operator()(const Row& x, int64_t in, int64_t out) {
    const float *bias = at, *weights = at + padded(out, PANEL);
    at += packed_size(in, out);
    Row y(size_t(out), 0.0);
    for (int64_t j = 0; j < out; ++j) {
      y[j] = bias[j];
      for (int64_t k = 0; k < in; ++k) y[j] += double(weights[(j / PANEL * in + k) * PANEL + j % PANEL]) * x[k];
    }
    return y;
  }
};

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) { return x * std::erfc(-x / std::sqrt(2.0)) / 2; }

// F(input) of one row, what the first layer makes of what is told given.
Row network(Reader read, const Chain& a, const Row& input, const Row& first, const float* time) {
  Row c(first);
  for (int64_t j = 0; j < a.width; ++j) c[j] = silu(first[j] + time[j]);
  c = read(c, a.width, a.width);
  for (double& x : c) x = silu(x);
  Row h = read(input, a.latent, a.width);
  for (int64_t block = 0; block < a.blocks; ++block) {
    const Row modulation = read(c, a.width, 2 * a.width);
    double mean = 0, variance = 0;
    for (double x : h) mean += x / double(a.width);
    for (double x : h) variance += (x - mean) * (x - mean) / double(a.width);
    Row y(h);
    for (int64_t j = 0; j < a.width; ++j) {
      y[j] = (h[j] - mean) / std::sqrt(variance + 1e-5) * (1 + modulation[a.width + j]) + modulation[j];
    }
    Row u = read(y, a.width, a.hidden);
    for (double& x : u) x = gelu(x);
    const Row more = read(u, a.hidden, a.width);
    for (int64_t j = 0; j < a.width; ++j) h[j] += more[j];
  }
  return read(h, a.width, a.latent);
}

}  // namespace

void chain(Case& c) {
  Random& random = c.random;
  Chain a{};
  a.rows = c.say("rows", random.chance(0.8) ? random.between(1, 15) : random.between(16, ROWS));
  a.latent = c.say("latent", random.between(1, 70));
  a.told_size = c.say("told", random.between(0, 9));
  a.width = c.say("width", PANEL * random.between(1, 3));
  a.hidden = c.say("hidden", PANEL * random.between(1, 4));
  a.blocks = c.say("blocks", random.between(0, 2));
  a.evaluations = c.say("evaluations", random.between(1, 3));
  Array<float> x(random, a.rows * a.latent), told(random, a.rows * a.told_size), net(random, a.network_size());
  Array<float> times(random, a.evaluations * a.width), table(random, a.evaluations * COLUMNS);
  Array<float> out(random, a.rows * a.latent);
  const auto fill = [&](Array<float>& to, int64_t count, double size) {
    for (int64_t i = 0; i < count; ++i) to[i] = float(random.uniform(-size, size));
  };
  fill(x, a.rows * a.latent, 2), fill(told, a.rows * a.told_size, 2), fill(net, a.network_size(), 0.3);
  for (int64_t row = 1; row < a.rows; ++row) {  // some are told the same
    if (!random.chance(0.4)) continue;
    const int64_t like = random.between(0, row - 1);
    for (int64_t j = 0; j < a.told_size; ++j) told[row * a.told_size + j] = told[like * a.told_size + j];
  }
  fill(times, a.evaluations * a.width, 1), fill(table, a.evaluations * COLUMNS, 1);
  for (int64_t e = 0; e < a.evaluations; ++e) table[e * COLUMNS + SIGMA] = 0;  // noise: fuzz ddpm
  a.x = x.begin(), a.told = told.begin(), a.network = net.begin(), a.times = times.begin(), a.table = table.begin();
  a.out = out.begin();
  Array<float> scratch(random, a.scratch_size(a.rows));
  RMD_ON(c.isa, run(a, 0, a.rows, scratch.begin()));
  for (int64_t row = 0; row < a.rows; ++row) {
    Reader read{net.begin()};
    const float* known = told.begin() + row * a.told_size;
    const Row first = read(Row(known, known + a.told_size), a.told_size, a.width);
    Row at(x.begin() + row * a.latent, x.begin() + (row + 1) * a.latent), before(size_t(a.latent), 0.0), said(before);
    double largest = 1;
    for (int64_t e = 0; e < a.evaluations; ++e) {
      const float* t = table.begin() + e * COLUMNS;
      Row input(at);
      for (double& v : input) v *= t[INPUT];
      const Row output = network(read, a, input, first, times.begin() + e * a.width);
      Row next(at);
      for (int64_t j = 0; j < a.latent; ++j) {
        next[j] = t[X] * at[j] + t[OUTPUT] * output[j] + t[X_BEFORE] * before[j] + t[OUTPUT_BEFORE] * said[j];
        largest = std::max({largest, std::abs(next[j]), std::abs(output[j])});
      }
      before = at, at = next, said = output;
    }
    for (int64_t j = 0; j < a.latent; ++j) {
      const double found = out[row * a.latent + j];
      if (!(std::abs(found - at[j]) <= 1e-4 * largest)) {
        std::ostringstream text;
        text << "out[" << row << ", " << j << "] is " << found << ", expected " << at[j];
        throw std::runtime_error(text.str());
      }
    }
  }
}

}  // namespace rmd::fuzz
